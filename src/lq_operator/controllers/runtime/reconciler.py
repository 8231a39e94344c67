"""Runs `reconcile(key)` for the keys of a queue with N workers: log context, metrics, errors to requeues.

The one place (with loop.py) that catches every Exception. Fenced ends the run, and with it the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lq_operator.controllers.runtime.errors import Requeue, Retry, Severity, requeue_for
from lq_operator.controllers.runtime.queue import KeyedQueue
from lq_operator.ports import Clock
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import bound, get_logger

log = get_logger(__name__)

DRAIN_S = 20.0
"""How long stop() lets running passes finish; a third of a Pod's usual grace is left for the rest."""


class Reconciler:
    """One controller's worker pool.

    enqueue(key) may be called at any time, before run() too. run() returns after stop(), or raises Fenced.
    `resync_s`: every key that `keys()` returns is added again that often, so that a lost hint delays, never loses.
    """

    def __init__(
        self,
        name: str,
        reconcile: Callable[[str], Awaitable[Requeue | None]],
        *,
        clock: Clock,
        workers: int = 8,
        resync_s: float = 300.0,
        keys: Callable[[], list[str]] | None = None,
        log_field: str = "key",
    ) -> None:
        self.name = name
        self.queue: KeyedQueue[str] = KeyedQueue(clock)
        self._reconcile = reconcile
        self._clock = clock
        self._workers = workers
        self._resync_s = resync_s
        self._keys = keys
        self._log_field = log_field
        self._stopped = asyncio.Event()

    def enqueue(self, key: str) -> None:
        """Look at this key soon."""
        self.queue.add(key)
        self._report_depth()

    async def run(self) -> None:
        """Work until stop(). The first Fenced (or crash) of any worker stops them all and is raised."""
        tasks = [asyncio.create_task(self._work(), name=f"{self.name}-{n}") for n in range(self._workers)]
        if self._keys is not None:
            tasks.append(asyncio.create_task(self._resync(), name=f"{self.name}-resync"))
        stopped = asyncio.create_task(self._stopped.wait(), name=f"{self.name}-stopped")
        everything: set[asyncio.Future[object]] = {*tasks, stopped}  # type: ignore[arg-type]
        try:
            finished, _ = await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()
            await self._drain()
        finally:
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)
            self.queue.close()

    def stop(self) -> None:
        """Begin no more passes; run() returns when those that run have ended, or after DRAIN_S."""
        self._stopped.set()

    async def pass_once(self, key: str) -> Requeue | None:
        """One pass with everything around it; returns when to come back. What workers do, and the simulator calls."""
        started_s = self._clock.mono_s()
        with bound(controller=self.name, reconcile_id=self._clock.token()[:8], **{self._log_field: key}):
            try:
                requeue = await self._reconcile(key)
            except Exception as error:
                retry = requeue_for(error, self.queue.failures(key))
                _log_retry(error, retry)
                metrics.RETRIES.labels(self.name, retry.reason).inc()
                self._count("error" if retry.severity is Severity.BUG else "retry", started_s)
                if retry.requeue.after_s is not None and retry.reason != "rejected":
                    self.queue.count_failure(key)
                return retry.requeue
        if requeue is None or requeue.after_s is not None:
            self.queue.succeeded(key)
        self._count("done" if requeue is None else "waiting", started_s)
        return requeue

    def schedule(self, key: str, requeue: Requeue | None) -> None:
        """Put the key back as a pass asked for."""
        if requeue is None:
            return
        if requeue.after_s is None:
            self.queue.add_backoff(key)
        else:
            self.queue.add_after(key, requeue.after_s)

    async def _work(self) -> None:
        while not self._stopped.is_set():
            key = await self.queue.get()
            if self._stopped.is_set():
                self.queue.done(key)
                return
            self._report_depth()
            try:
                self.schedule(key, await self.pass_once(key))
            finally:
                self.queue.done(key)
            # A pass that never had to wait would keep the loop from everything else, lease renewal included.
            await asyncio.sleep(0)

    async def _resync(self) -> None:
        assert self._keys is not None
        while True:
            jitter = 1 - 0.2 * int(self._clock.token()[:8], 16) / 0xFFFFFFFF
            await self._clock.sleep(self._resync_s * jitter)
            for key in self._keys():
                self.queue.add(key)

    async def _drain(self) -> None:
        waited_s = 0.0
        while self.queue.busy and waited_s < DRAIN_S:
            await self._clock.sleep(0.05)
            waited_s += 0.05

    def _report_depth(self) -> None:
        metrics.QUEUE_DEPTH.labels(self.name).set(len(self.queue))
        metrics.QUEUE_AGE_SECONDS.labels(self.name).set(self.queue.oldest_wait_s)

    def _count(self, result: str, started_s: float) -> None:
        metrics.RECONCILES.labels(self.name, result).inc()
        metrics.RECONCILE_SECONDS.labels(self.name, result).observe(self._clock.mono_s() - started_s)


def _log_retry(error: Exception, retry: Retry) -> None:
    match retry.severity:
        case Severity.BUG:
            log.error("a bug ended the pass", exc_info=error)
        case Severity.WARN:
            log.warning("the pass ended early", reason=retry.reason, error=str(error), retry_s=retry.requeue.after_s)
        case Severity.QUIET:
            log.debug("the pass ended early", reason=retry.reason, error=str(error))
