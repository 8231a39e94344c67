"""A body that runs again and again: for controllers that look at the whole, not at one key (scheduler, DRS, HA)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lq_operator.controllers.runtime.errors import Severity, requeue_for
from lq_operator.ports import Clock
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import bound, get_logger

log = get_logger(__name__)

BACKOFF_CAP_S = 60.0


class PeriodicLoop:
    """Runs body() every `every_s` seconds (minus up to `jitter` of it), at once after wake(); never two at a time."""

    def __init__(
        self, name: str, body: Callable[[], Awaitable[None]], *, every_s: float, clock: Clock, jitter: float = 0.1
    ) -> None:
        self.name = name
        self._body = body
        self._every_s = every_s
        self._clock = clock
        self._jitter = jitter
        self._wake = asyncio.Event()
        self._failures = 0

    def wake(self) -> None:
        """Run as soon as the running body has ended."""
        self._wake.set()

    async def run(self) -> None:
        """For ever; Fenced (or a crash) is raised."""
        while True:
            self._wake.clear()
            delay_s = await self.pass_once()
            await self._wait(delay_s)

    async def pass_once(self) -> float:
        """Run the body once; returns the delay until the next time in seconds."""
        started_s = self._clock.mono_s()
        with bound(controller=self.name, reconcile_id=self._clock.token()[:8]):
            try:
                await self._body()
            except Exception as error:
                retry = requeue_for(error, self._failures)
                bug = retry.severity is Severity.BUG
                if bug:
                    log.exception("a bug ended the pass")
                else:
                    log.warning("the pass ended early", reason=retry.reason, error=str(error))
                metrics.RETRIES.labels(self.name, retry.reason).inc()
                self._count("error" if bug else "retry", started_s)
                self._failures += 1
                if retry.requeue.after_s is not None:
                    return min(retry.requeue.after_s, self._every_s)
                return min(self._every_s, BACKOFF_CAP_S, 0.5 * 2.0 ** min(self._failures, 16))
        self._failures = 0
        self._count("done", started_s)
        return self._every_s * (1 - self._jitter * int(self._clock.token()[:8], 16) / 0xFFFFFFFF)

    async def _wait(self, delay_s: float) -> None:
        sleeping = asyncio.ensure_future(self._clock.sleep(delay_s))
        woken = asyncio.ensure_future(self._wake.wait())
        waiting: set[asyncio.Future[object]] = {sleeping, woken}  # type: ignore[arg-type]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()

    def _count(self, result: str, started_s: float) -> None:
        metrics.RECONCILES.labels(self.name, result).inc()
        metrics.RECONCILE_SECONDS.labels(self.name, result).observe(self._clock.mono_s() - started_s)
