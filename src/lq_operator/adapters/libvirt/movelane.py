"""Calls that may take hours, each in a thread with a libvirt connection of its own, opened when it begins.

They hold none of the few connections that calls.py shares among everything else, cost nothing while no move is under
way, and have no deadline: the caller ends a move by cancelling it at the source, which goes over another connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import libvirt

from lq_operator.adapters.libvirt.calls import CallHook
from lq_operator.adapters.libvirt.connection import Wire, explain, is_alive
from lq_operator.adapters.libvirt.endpoint import Access, probe
from lq_operator.adapters.libvirt.errors import translate
from lq_operator.adapters.libvirt.inventory import observe_uuid
from lq_operator.adapters.libvirt.settings import LibvirtSettings
from lq_operator.core.model import HostUUID
from lq_operator.core.result import OutcomeUnknown, Transient

T = TypeVar("T")


class MoveLane:
    """The long calls of one host. Dead for ever once its LibvirtHost is."""

    def __init__(
        self,
        node: str,
        loop: asyncio.AbstractEventLoop,
        access: Access,
        uuid: HostUUID,
        settings: LibvirtSettings,
        hook: CallHook | None = None,
    ) -> None:
        self._node = node
        self._loop = loop
        self._access = access
        self._uuid = uuid
        self._settings = settings
        self._hook = hook
        self._opening = threading.Lock()  # a Wire knows its socket by what is new while it opens
        self._jobs: set[_Job[Any]] = set()
        self.dead: str | None = None

    async def run(self, name: str, fn: Callable[[Any], T], *, about: str) -> T:
        """fn(conn) with a connection of its own. OutcomeUnknown when the connection is lost once fn has begun.

        Whoever is cancelled while waiting leaves the call going on; it counts against the limit until it ends.
        """
        what = f"{self._node}: {name} {about}"
        if self.dead is not None:
            raise Transient(f"{what}: {self.dead}")
        if len(self._jobs) >= self._settings.move_connections:
            raise Transient(f"{what}: {len(self._jobs)} moves are under way from this host already")
        began_s, outcome = time.monotonic(), "ok"
        job = _Job(self, what, fn)
        self._jobs.add(job)
        try:
            return await asyncio.shield(job.start())
        except BaseException as problem:
            outcome = type(problem).__name__
            raise
        finally:
            if self._hook is not None:
                self._hook(self._node, name, outcome, time.monotonic() - began_s)

    def die(self, why: str) -> None:
        """The host is given up: what is in flight ends now, as unknown. Call it on the loop; idempotent."""
        if self.dead is None:
            self.dead = why
            for job in list(self._jobs):
                job.lose(why)

    def open(self, wire: Wire) -> Any:
        """Blocking. A connection to the same host as the others; Transient when another one answers there now."""
        endpoint = self._access.endpoint
        with self._opening:
            probe(endpoint, self._settings.probe_timeout_s)
            wire.opening()
            try:
                conn = libvirt.open(self._access.uri)
                conn.setKeepAlive(self._settings.spare_keepalive_interval_s, self._settings.keepalive_count)
                uuid = observe_uuid(conn)
            except libvirt.libvirtError as problem:
                raise explain(endpoint, problem) from problem
            wire.opened()
        if uuid != self._uuid:
            raise Transient(f"{endpoint.host} is host {uuid} now, not {self._uuid}")
        return conn

    def new_wire(self) -> Wire:
        return Wire(self._access)

    def forget(self, job: _Job[Any]) -> None:
        self._jobs.discard(job)

    def tell(self, what: Callable[[], None]) -> None:
        """From a thread to the loop."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, so nobody waits
            self._loop.call_soon_threadsafe(what)


class _Job(Generic[T]):
    """One call: its thread, its wire, and who waits for it."""

    def __init__(self, lane: MoveLane, what: str, fn: Callable[[Any], T]) -> None:
        self._lane = lane
        self._what = what
        self._fn = fn
        self._wire = lane.new_wire()
        self._sent = False
        self._lost = False
        self._lock = threading.Lock()  # exactly one of "it was sent" and "it was lost before" is true
        self._future: asyncio.Future[T] = lane._loop.create_future()

    def start(self) -> asyncio.Future[T]:
        threading.Thread(target=self._work, name=f"libvirt-{self._lane._node}-move", daemon=True).start()
        return self._future

    def lose(self, why: str) -> None:
        """On the loop. The thread is freed by cutting its wire; a name look-up in that may block."""
        with self._lock:
            self._lost = True
        lost = OutcomeUnknown if self._sent else Transient
        self._settle(None, lost(f"{self._what}: {why}" + ("; ask both hosts" if self._sent else "")))
        threading.Thread(target=self._wire.cut, daemon=True).start()

    def _work(self) -> None:
        result, problem = None, None
        try:
            result = self._ask()
        except BaseException as caught:  # handed to whoever waits; a thread has nobody else to tell
            problem = caught
        self._lane.tell(lambda: self._end(result, problem))

    def _ask(self) -> T:
        conn = self._lane.open(self._wire)
        try:
            with self._lock:
                if self._lost:
                    raise Transient(f"{self._what}: the connection to the host was lost before it was asked")
                self._sent = True
            try:
                return self._fn(conn)
            except libvirt.libvirtError as problem:
                raise translate(problem, self._what, wrote=True, alive=is_alive(conn)) from problem
        finally:
            with contextlib.suppress(libvirt.libvirtError):
                conn.close()

    def _end(self, result: T | None, problem: BaseException | None) -> None:
        self._lane.forget(self)
        self._settle(result, problem)

    def _settle(self, result: T | None, problem: BaseException | None) -> None:
        if self._future.done():
            return
        if problem is None:
            self._future.set_result(result)  # type: ignore[arg-type]
        else:
            self._future.set_exception(problem)
            self._future.exception()  # seen: nobody may be waiting any more
