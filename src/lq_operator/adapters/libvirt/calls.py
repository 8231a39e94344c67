"""Runs the libvirt calls of one host in its own few threads, each with a deadline.

A hung host fills its own lanes and nothing else. Threads are daemons of our own, because the interpreter
joins those of concurrent.futures at exit and would wait for a host that is frozen. Each thread has a libvirt
connection to itself, for two reasons. Client libraries before 10.3 crash when threads share one and it breaks
(CVE-2024-4418, seen here as a segmentation fault with 9.0.0). And a daemon reads nothing more from a connection
with five calls in progress (max_client_requests), not even keepalives: five slow starts would end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
    """Where a call waits for a thread."""

    SHORT = "short"  # everything that libvirtd answers by itself
    START = "start"  # QEMU comes up or goes: 0.2 s alone, seconds on a busy host
    LONG = "long"  # moves bytes: upload, clone, save, restore
    AGENT = "agent"  # waits for a guest, which may be malicious


class _Job:
    """One call. Exactly one of claim() (the thread starts it) and abandon() (nobody waits any more) wins."""

    __slots__ = ("_lock", "_taken", "deliver", "fn", "started")

    def __init__(self, fn: Callable[[Any], Any], deliver: Callable[[Any, BaseException | None], None]) -> None:
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


class _Busy:
    """How many threads are inside libvirt with a connection to this host."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, timeout_s)


class _Refused(Exception):  # not an error of ours: libvirt's, with what its thread knew of the wire
    def __init__(self, problem: libvirt.libvirtError, *, alive: bool) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.alive = alive


IDLE_S = 60.0  # a thread without work ends: five hundred hosts must not hold thousands of them for ever


class _Workers:
    """The threads of one lane: started when work waits, ended by idleness or close()."""

    def __init__(self, name: str, conns: Sequence[Any], busy: _Busy, idle_s: float = IDLE_S) -> None:
        self._name = name
        self._busy = busy
        self._limit = len(conns)
        self._free = list(conns)
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
            if not grow:
                return
            self._threads += 1
            conn = self._free.pop()
        threading.Thread(target=self._work, args=(conn,), name=self._name, daemon=True).start()

    def close(self) -> None:
        with self._lock:
            self._limit = 0
            for _ in range(self._threads):
                self._queue.put(None)

    def _work(self, conn: Any) -> None:
        while (job := self._next(conn)) is not None:
            result, problem = None, None
            with self._busy:  # before claim(): whoever sees nobody busy after die() knows that nobody will be
                claimed = job.claim()
                if claimed:
                    try:
                        result = job.fn(conn)
                    except BaseException as caught:  # handed to whoever waits; a thread has nobody else to tell
                        problem = caught
            with self._lock:
                self._pending -= 1
            if claimed:
                job.deliver(result, problem)
            del job, result, problem  # libvirt objects must not live on in an idle thread

    def _next(self, conn: Any) -> _Job | None:
        while True:
            try:
                return self._queue.get(timeout=self._idle_s)
            except queue.Empty:
                with self._lock:
                    if self._queue.empty():  # submit() holds the same lock: nothing can slip in between
                        self._threads -= 1
                        self._free.append(conn)
                        return None


@dataclass(frozen=True, slots=True)
class Call:
    """How one verb is run. `writes`: after its deadline it may have happened."""

    name: str
    timeout_s: float
    writes: bool = False
    lane: Lane = Lane.SHORT


class Calls:
    """The lanes of one host: one thread per connection. Used from one asyncio loop.

    die() ends everything in flight at once. `is_alive(conn)` is asked in the connection's own thread.
    """

    def __init__(
        self,
        node: str,
        loop: asyncio.AbstractEventLoop,
        conns: Mapping[Lane, Sequence[Any]],
        hook: CallHook | None = None,
    ) -> None:
        self._node = node
        self._loop = loop
        self._hook = hook
        self._busy = _Busy()
        self._workers = {lane: _Workers(f"libvirt-{node}-{lane.value}", conns[lane], self._busy) for lane in Lane}
        self._in_flight: dict[asyncio.Future[Any], tuple[_Job, Call]] = {}
        self.dead: str | None = None
        self.is_alive: Callable[[Any], bool] = lambda _conn: True
        self.on_broken: Callable[[str], None] = self.die

    async def run(self, call: Call, fn: Callable[[Any], T], *, about: str = "") -> T:
        """Run fn(conn) in a thread of the call's lane, with the connection of that thread. Raises our errors only (and what fn raises that is a bug)."""
        what = f"{self._node}: {call.name}{' ' + about if about else ''}"
        if self.dead is not None:
            raise Transient(f"{what}: {self.dead}")
        future: asyncio.Future[T] = self._loop.create_future()
        job = _Job(functools.partial(self._ask, fn), lambda result, problem: self._deliver(future, result, problem))
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

    def _ask(self, fn: Callable[[Any], T], conn: Any) -> T:
        """In the thread, which still may touch the connection: once it is idle, the connection may be freed."""
        try:
            return fn(conn)
        except libvirt.libvirtError as problem:
            raise _Refused(problem, alive=self.is_alive(conn)) from problem

    def wait_idle(self, timeout_s: float) -> bool:
        """Blocking. After die(): True once no thread is inside libvirt any more, and none will be again.

        Only then may connections be closed: libvirt frees one under whoever is still in a call.
        """
        return self._busy.wait_idle(timeout_s)

    async def _wait(self, what: str, call: Call, job: _Job, future: asyncio.Future[T]) -> T:
        done, _ = await asyncio.wait({future}, timeout=call.timeout_s)
        if not done:
            raise self._unanswered(what, call, job, f"no answer within {call.timeout_s:g} s")
        try:
            return future.result()
        except _Refused as refused:
            if not refused.alive:  # tell the others now instead of when the close callback comes
                self.on_broken(text_of(refused.problem))
            raise translate(refused.problem, what, wrote=call.writes, alive=refused.alive) from refused.problem

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
