"""Leadership around a whole process: acquire, run, renew, and leave at once when the lease is lost.

Owns the rule that nothing of this process runs on past its grant: a keeper renews, and a thread of its own watches
the deadline, because an event loop that hangs can neither renew nor notice. Decides nothing about hosts.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from lq_operator.adapters.coordination.lease import Timing
from lq_operator.core.result import Conflict, Fenced, OutcomeUnknown, Rejected, Transient
from lq_operator.ports import Coordination, Grant
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import flush, get_logger

EXIT_LEASE_LOST = 75
"""EX_TEMPFAIL of sysexits.h: start me again. Tells a lost lease from a crash in a Pod's last state."""

_log = get_logger("lq.leadership")


class Leadership:
    """What the main coroutine is given: the grant as it is now, and the ways to prove or to leave it."""

    def __init__(
        self, coordination: Coordination, grant: Grant, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._coordination = coordination
        self._mono_s = monotonic
        self._grant = grant
        self._above_term = 0
        self.stepping_down = asyncio.Event()

    @property
    def grant(self) -> Grant:
        """The latest grant, possibly over; `check` before acting on it."""
        return self._grant

    @property
    def remaining_s(self) -> float:
        """Seconds left to act in; negative when they are over."""
        return self._grant.expires_mono_s - self._mono_s()

    @property
    def above_term(self) -> int:
        """The highest foreign term met; the next term must be above it."""
        return self._above_term

    def check(self) -> Grant:
        """The grant if it may be acted on now, without asking the store. Raises Fenced otherwise."""
        if self.stepping_down.is_set():
            raise Fenced(f"lease {self._grant.name!r}: stepping down from term {self._grant.term}")
        if self.remaining_s <= 0:
            raise Fenced(f"lease {self._grant.name!r}, term {self._grant.term}: its time is over; stop acting")
        return self._grant

    async def renew(self) -> Grant:
        """Prove to the store that the lease is ours: before the first write to a host (protocol.md).

        Raises Fenced when it is lost, Transient when the store gives no answer now.
        """
        self.check()
        return await self.extend()

    async def extend(self) -> Grant:
        """The keeper's renewal: goes on while stepping down, so that winding down happens under the lease."""
        renewed = await self._coordination.renew(self._grant)
        if renewed.beat >= self._grant.beat:  # answers may arrive out of order
            self._grant = renewed
        return renewed

    def step_down(self, above_term: int) -> None:
        """A host knows a term of at least ours: main is cancelled, and started again under a term above that one."""
        self._above_term = max(self._above_term, above_term)
        self.stepping_down.set()


async def hold(
    coordination: Coordination,
    name: str,
    main: Callable[[Leadership], Awaitable[None]],
    *,
    timing: Timing | None = None,
    above_term: int = 0,
    exit_process: Callable[[int], None] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Wait for the lease, run `main` under it, renew meanwhile; return when main returns.

    On loss, `exit_process(EXIT_LEASE_LOST)` is called at once, without waiting for main; the default writes logs out
    and ends the process without clean-up. When it is cancelled (SIGTERM), main is cancelled, waited for under the
    lease, and the lease released. What main raises is raised here, after the release.
    """
    timing = timing if timing is not None else Timing()
    leave = exit_process if exit_process is not None else exit_now
    floor = above_term
    while True:
        _log.info("waiting for leadership", lease=name, above_term=floor)
        grant = await coordination.acquire(name, floor)
        leadership = Leadership(coordination, grant, monotonic)
        _log.info("leadership acquired", lease=name, term=grant.term, holder=grant.holder)
        metrics.LEADER.labels(name).set(1)
        metrics.LEASE_TERM.labels(name).set(grant.term)
        try:
            await _lead(leadership, main, timing, leave)
        finally:
            metrics.LEADER.labels(name).set(0)
            await _release(coordination, leadership)
        if not leadership.stepping_down.is_set():
            return
        floor = max(floor, leadership.above_term)


async def _lead(
    leadership: Leadership,
    main: Callable[[Leadership], Awaitable[None]],
    timing: Timing,
    leave: Callable[[int], None],
) -> None:
    watchdog = _Watchdog(leadership, leave)
    keeper = asyncio.create_task(_keep(leadership, timing), name="lq-lease-keeper")
    work = asyncio.create_task(_run(main, leadership), name="lq-main")
    stepping = asyncio.create_task(leadership.stepping_down.wait(), name="lq-stepping-down")
    watchdog.start()
    try:
        await asyncio.wait({keeper, work, stepping}, return_when=asyncio.FIRST_COMPLETED)
        if stepping.done() and not work.done() and not keeper.done():
            _log.warning("stepping down", lease=leadership.grant.name, above_term=leadership.above_term)
            work.cancel()
            await asyncio.wait({keeper, work}, return_when=asyncio.FIRST_COMPLETED)
        if keeper.done():
            _leave_lost(leadership, keeper, leave)
        if not (work.cancelled() and stepping.done()):
            work.result()
    finally:
        # Reached with main still running when we are cancelled, or when the injected exit returned.
        await _wind_down(leadership, work, keeper, leave)
        watchdog.stop()
        for task in (keeper, stepping):
            task.cancel()
        await asyncio.gather(keeper, stepping, return_exceptions=True)


async def _run(main: Callable[[Leadership], Awaitable[None]], leadership: Leadership) -> None:
    await main(leadership)


async def _wind_down(
    leadership: Leadership, work: asyncio.Task[None], keeper: asyncio.Task[NoReturn], leave: Callable[[int], None]
) -> None:
    """Main must have ended before the lease is given up; while it ends, the keeper keeps it."""
    if work.done():
        return
    lost = keeper.done()
    work.cancel()
    await asyncio.wait({work} if lost else {work, keeper}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        leave(EXIT_LEASE_LOST)
        await asyncio.wait({work})


async def _keep(leadership: Leadership, timing: Timing) -> NoReturn:
    """Renew for ever; ends only by raising: Fenced, or whatever is wrong with us."""
    name = leadership.grant.name
    while True:
        await asyncio.sleep(timing.renew_every_s)
        while True:
            started = time.perf_counter()
            try:
                await leadership.extend()
            except (Transient, OutcomeUnknown, Conflict, Rejected) as error:
                metrics.LEASE_RENEWALS.labels(name, "retry").inc()
                _log.warning("renewal failed", lease=name, remaining_s=round(leadership.remaining_s, 1), why=str(error))
                await asyncio.sleep(timing.renew_every_s / 10)
                continue
            metrics.LEASE_RENEWALS.labels(name, "ok").inc()
            metrics.LEASE_RENEW_SECONDS.labels(name).observe(time.perf_counter() - started)
            break


def _leave_lost(leadership: Leadership, keeper: asyncio.Task[NoReturn], leave: Callable[[int], None]) -> NoReturn:
    grant = leadership.grant
    error = keeper.exception()
    metrics.LEASE_RENEWALS.labels(grant.name, "lost").inc()
    _log.error("leadership lost, the process exits", lease=grant.name, term=grant.term, why=str(error), exc_info=error)
    leave(EXIT_LEASE_LOST)
    # Only an exit that was replaced gets here.
    raise Fenced(f"lease {grant.name!r}, term {grant.term} is lost: {error}") from error


async def _release(coordination: Coordination, leadership: Leadership) -> None:
    try:
        await coordination.release(leadership.grant)
    except (Transient, OutcomeUnknown, Conflict, Rejected, Fenced) as error:
        _log.warning("lease not released, it runs out by itself", lease=leadership.grant.name, why=str(error))


def exit_now(code: int) -> None:
    """End the process without clean-up: clean-up would still act on hosts that another process may own now."""
    _within(1.0, flush)
    os._exit(code)


def _within(seconds: float, what: Callable[[], None]) -> None:
    """A thread that hangs may hold the log's lock, or stderr may be a full pipe: neither may keep us alive."""
    helper = threading.Thread(target=what, daemon=True)
    helper.start()
    helper.join(seconds)


class _Watchdog:
    """A thread that leaves the process when the grant's time is over, whatever the event loop is doing."""

    def __init__(self, leadership: Leadership, leave: Callable[[int], None]) -> None:
        self._leadership = leadership
        self._leave = leave
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lq-lease-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(max(self._leadership.remaining_s, 0.01)):
            if self._leadership.remaining_s <= 0:
                _within(0.5, self._say)
                self._leave(EXIT_LEASE_LOST)
                return

    def _say(self) -> None:
        grant = self._leadership.grant
        _log.error(
            "grant is over, the event loop has not renewed it: the process exits", lease=grant.name, term=grant.term
        )
