"""Runs libvirt calls of one connection in its own few threads, each with a deadline.

A hung host fills its own lanes and nothing else. Threads are daemons of our own, because the interpreter
joins those of concurrent.futures at exit and would wait for a host that is frozen.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import libvirt

from lq_operator.adapters.libvirt.errors import text_of, translate
from lq_operator.core.result import OutcomeUnknown, Transient, WorldError

T = TypeVar("T")

CallHook = Callable[[str, str, str, float], None]
"""(node, call, outcome, seconds) for every finished call; outcome is 'ok' or the name of the error."""


class Lane(Enum):
    """Where a call waits for a thread; the value is how many threads a connection has for it."""

    SHORT = ("short", 4)  # everything that libvirtd answers by itself
    START = ("start", 4)  # QEMU comes up or goes: 0.2 s alone, seconds on a busy host
    LONG = ("long", 4)  # moves bytes: upload, clone, save, restore
    AGENT = ("agent", 2)  # waits for a guest, which may be malicious


class _Job:
    """One call. Exactly one of claim() (the thread starts it) and abandon() (nobody waits any more) wins."""

    __slots__ = ("_lock", "_taken", "deliver", "fn", "started")

    def __init__(self, fn: Callable[[], Any], deliver: Callable[[Any, BaseException | None], None]) -> None:
        self.fn = fn
        self.deliver = deliver
        self.started = False
        self._taken = False
        self._lock = threading.Lock()

    def claim(self) -> bool:
        with self._lock:
            if self._taken:
                return False
            self._taken = self.started = True
            return True

    def abandon(self) -> bool:
        """True when the call had not started and now never will."""
        with self._lock:
            if self._taken:
                return not self.started
            self._taken = True
            return True


IDLE_S = 60.0  # a thread without work ends: five hundred hosts must not hold thousands of them for ever


class _Workers:
    """The threads of one lane: started when work waits, ended by idleness or close()."""

    def __init__(self, name: str, limit: int, idle_s: float = IDLE_S) -> None:
        self._name = name
        self._limit = limit
        self._idle_s = idle_s
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._pending = 0  # submitted and not finished: a hung call counts, so that the next one gets its own thread
        self._lock = threading.Lock()

    def submit(self, job: _Job) -> None:
        with self._lock:
            self._pending += 1
            self._queue.put(job)
            grow = self._threads < min(self._limit, self._pending)
            self._threads += grow
        if grow:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def close(self) -> None:
        with self._lock:
            self._limit = 0
            for _ in range(self._threads):
                self._queue.put(None)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if job.claim():
                try:
                    result, problem = job.fn(), None
                except BaseException as caught:  # handed to whoever waits, whatever it is; a thread has nobody else
                    result, problem = None, caught
                job.deliver(result, problem)
                del result, problem  # libvirt objects must not live on in an idle thread
            del job
            with self._lock:
                self._pending -= 1
        # Whoever gets None has been taken off self._threads, or the lane is closed.

    def _next(self) -> _Job | None:
        while True:
            try:
                return self._queue.get(timeout=self._idle_s)
            except queue.Empty:
                with self._lock:
                    if self._queue.empty():  # submit() holds the same lock: nothing can slip in between
                        self._threads -= 1
                        return None


@dataclass(frozen=True, slots=True)
class Call:
    """How one verb is run. `writes`: after its deadline it may have happened."""

    name: str
    timeout_s: float
    writes: bool = False
    lane: Lane = Lane.SHORT


class Calls:
    """The lanes of one connection. Used from one asyncio loop; die() ends everything in flight at once."""

    def __init__(self, node: str, loop: asyncio.AbstractEventLoop, hook: CallHook | None = None) -> None:
        self._node = node
        self._loop = loop
        self._hook = hook
        self._workers = {lane: _Workers(f"libvirt-{node}-{lane.value[0]}", lane.value[1]) for lane in Lane}
        self._in_flight: dict[asyncio.Future[Any], tuple[_Job, Call]] = {}
        self.dead: str | None = None
        self.is_alive: Callable[[], bool] = lambda: True
        self.on_broken: Callable[[str], None] = self.die

    async def run(self, call: Call, fn: Callable[[], T], *, about: str = "") -> T:
        """Run fn in a thread of the call's lane. Raises our errors only (and what fn raises that is a bug)."""
        what = f"{self._node}: {call.name}{' ' + about if about else ''}"
        if self.dead is not None:
            raise Transient(f"{what}: {self.dead}")
        future: asyncio.Future[T] = self._loop.create_future()
        job = _Job(fn, lambda result, problem: self._deliver(future, result, problem))
        self._in_flight[future] = (job, call)
        began_s = time.monotonic()
        outcome = "ok"
        self._workers[call.lane].submit(job)
        try:
            return await self._wait(what, call, job, future)
        except BaseException as problem:
            outcome = type(problem).__name__
            raise
        finally:
            self._in_flight.pop(future, None)
            job.abandon()
            if self._hook is not None:
                self._hook(self._node, call.name, outcome, time.monotonic() - began_s)

    async def _wait(self, what: str, call: Call, job: _Job, future: asyncio.Future[T]) -> T:
        done, _ = await asyncio.wait({future}, timeout=call.timeout_s)
        if not done:
            raise self._unanswered(what, call, job, f"no answer within {call.timeout_s:g} s")
        try:
            return future.result()
        except libvirt.libvirtError as problem:
            alive = self.is_alive()
            if not alive:  # tell the others now instead of when the close callback comes
                self.on_broken(text_of(problem))
            raise translate(problem, what, wrote=call.writes, alive=alive) from problem

    @staticmethod
    def _unanswered(what: str, call: Call, job: _Job, why: str) -> WorldError:
        if job.abandon():  # it never reached the host
            return Transient(f"{what}: {why}, the call was not sent")
        if call.writes:
            return OutcomeUnknown(f"{what}: {why}; it may have happened: look before repeating it")
        return Transient(f"{what}: {why}")

    def _deliver(self, future: asyncio.Future[Any], result: Any, problem: BaseException | None) -> None:
        def settle() -> None:
            if future.done():
                return
            if problem is None:
                future.set_result(result)
            else:
                future.set_exception(problem)

        with contextlib.suppress(RuntimeError):  # the loop has ended, so nobody waits
            self._loop.call_soon_threadsafe(settle)

    def die(self, why: str) -> None:
        """Nothing more is sent; what is in flight ends now. Call it on the loop."""
        if self.dead is not None:
            return
        self.dead = why
        for future, (job, call) in list(self._in_flight.items()):
            if not future.done():
                future.set_exception(self._unanswered(f"{self._node}: {call.name}", call, job, why))
        for workers in self._workers.values():
            workers.close()
