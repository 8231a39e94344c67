"""Every host this process may talk to: one supervised connection per node, opened again when it breaks.

A node's hang stays its own: each attempt to open has its thread, each connection its lanes, and nothing
here waits for a host on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import threading
from collections.abc import Awaitable, Callable, Mapping

from lq_operator.adapters.libvirt.calls import CallHook, Calls
from lq_operator.adapters.libvirt.connection import Opened, Wire, is_alive, open_connection
from lq_operator.adapters.libvirt.endpoint import Access, parse_endpoint
from lq_operator.adapters.libvirt.host import LibvirtHost
from lq_operator.adapters.libvirt.movelane import MoveLane
from lq_operator.adapters.libvirt.settings import LibvirtSettings
from lq_operator.core.model import DomainEvent, NodeName
from lq_operator.core.result import Transient, WorldError
from lq_operator.ports import Clock, Host

EventCallback = Callable[[DomainEvent], None]


class LibvirtFleet:
    """ports.Fleet over libvirt. Make and use it on one running asyncio loop; `await close()` at the end.

    `clock` only paces the reconnections (asyncio's own time by default). `on_call` gets every finished call as
    (node, call, outcome, seconds), for metrics.
    """

    def __init__(
        self,
        settings: LibvirtSettings | None = None,
        *,
        clock: Clock | None = None,
        on_call: CallHook | None = None,
    ) -> None:
        self._settings = settings or LibvirtSettings()
        self._sleep = clock.sleep if clock is not None else asyncio.sleep
        self._on_call = on_call
        self._links: dict[NodeName, _Link] = {}
        self._callbacks: list[EventCallback] = []
        self._ending: set[asyncio.Task[None]] = set()

    def configure(self, node: NodeName, uri: str, credentials: Mapping[str, bytes]) -> None:
        """Keep a connection to uri. The same words again change nothing; other words replace the connection."""
        old = self._links.get(node)
        if old is not None:
            if old.wants(uri, credentials):
                return
            self.forget(node)
        self._links[node] = _Link(node, uri, dict(credentials), self._settings, self._sleep, self._on_call, self._emit)

    def forget(self, node: NodeName) -> None:
        link = self._links.pop(node, None)
        if link is not None:
            ending = asyncio.get_running_loop().create_task(link.close(), name=f"libvirt-forget-{node}")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def host(self, node: NodeName) -> Host | None:
        link = self._links.get(node)
        return link.live() if link is not None else None

    def why_down(self, node: NodeName) -> str:
        link = self._links.get(node)
        if link is None:
            return "no connection is configured for this node"
        return "" if link.live() is not None else link.why

    def on_event(self, callback: EventCallback) -> None:
        self._callbacks.append(callback)

    def _emit(self, event: DomainEvent) -> None:
        """In order, each from the loop itself: what a callback raises is reported there and breaks no connection."""
        for callback in self._callbacks:
            asyncio.get_running_loop().call_soon(callback, event)

    async def close(self) -> None:
        """End every connection; bounded by twice the close timeout, whatever the hosts do."""
        for node in list(self._links):
            self.forget(node)
        if self._ending:
            await asyncio.wait(set(self._ending))


class _Link:
    """One node: connect, wait for the end of the connection, back off, again."""

    def __init__(
        self,
        node: NodeName,
        uri: str,
        credentials: dict[str, bytes],
        settings: LibvirtSettings,
        sleep: Callable[[float], Awaitable[None]],
        on_call: CallHook | None,
        emit: EventCallback,
    ) -> None:
        self._node = node
        self._uri = uri
        self._credentials = credentials
        self._settings = settings
        self._sleep = sleep
        self._on_call = on_call
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._host: LibvirtHost | None = None
        self._stuck: threading.Thread | None = None
        self._jitter = random.Random()  # noqa: S311 - spreads reconnections, guards nothing
        self.why = "connecting for the first time"
        self._task = self._loop.create_task(self._keep(), name=f"libvirt-{node}")
        self._task.add_done_callback(self._ended)

    def wants(self, uri: str, credentials: Mapping[str, bytes]) -> bool:
        return self._uri == uri and self._credentials == dict(credentials)

    def live(self) -> LibvirtHost | None:
        return self._host if self._host is not None and self._host.alive else None

    async def close(self) -> None:
        """Stop trying, end the connection politely where it lives. Bounded."""
        self._task.cancel()
        await asyncio.wait({self._task})

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A bug must not look like a host that is away."""
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            self.why = f"internal error while connecting: {problem!r}; see the log"
            self._loop.call_exception_handler({"message": f"libvirt link of {self._node}", "exception": problem})

    async def _keep(self) -> None:
        try:
            endpoint = parse_endpoint(self._uri, self._settings.drivers)
            access = Access(endpoint, self._credentials, self._settings.probe_timeout_s)
        except WorldError as problem:  # only other words in the resource or the Secret can help: configure() anew
            self.why = str(problem)
            return
        failures = 0
        try:
            while True:
                try:
                    host = await self._connect(access)
                except WorldError as problem:
                    failures += 1
                    self.why = str(problem)
                else:
                    failures = 0
                    await self._stay(host)
                most_s = min(self._settings.backoff_most_s, self._settings.backoff_first_s * 2 ** min(failures, 16))
                await self._sleep(self._jitter.uniform(most_s / 4, most_s))
        finally:
            access.close()

    async def _stay(self, host: LibvirtHost) -> None:
        """Until the connection ends; then, or when cancelled, it is given back."""
        self._host = host
        self.why = ""
        self._emit(DomainEvent(self._node, "", "connected", host.uuid))
        polite = False
        try:
            await host.closed.wait()
        except asyncio.CancelledError:
            polite = True
            raise
        finally:
            host.die("the connection was closed by us")
            self.why = f"the connection broke: {host.why_dead}"
            self._host = None
            released = self._release(host, polite=polite)
            if polite:
                await released.wait()
            self._emit(DomainEvent(self._node, "", "closed", host.why_dead))

    def _release(self, host: LibvirtHost, *, polite: bool) -> asyncio.Event:
        """Give the connection back in a thread; the event is set within twice the close timeout."""
        released = asyncio.Event()

        def release() -> None:
            host.release(polite=polite, timeout_s=self._settings.close_timeout_s)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(released.set)

        threading.Thread(target=release, name=f"libvirt-{self._node}-close", daemon=True).start()
        return released

    async def _connect(self, access: Access) -> LibvirtHost:
        if self._stuck is not None and self._stuck.is_alive():
            raise Transient("the last attempt to connect still hangs although its socket was cut")
        wire = Wire(access)
        attempt = _Attempt(self, access, wire)
        self._stuck = attempt.thread
        try:
            opened = await attempt.result(self._settings.open_timeout_s)
        except BaseException:
            attempt.give_up()
            raise
        return attempt.adopt(opened)


class _Attempt:
    """One try to open, in its own thread. Whoever loses the race against the deadline closes what was opened."""

    def __init__(self, link: _Link, access: Access, wire: Wire) -> None:
        self._link = link
        self._access = access
        self._wire = wire
        self._loop = link._loop
        self._future: asyncio.Future[Opened] = self._loop.create_future()
        self._host: LibvirtHost | None = None
        self._broken: str | None = None
        self._lock = threading.Lock()
        self._given_up = False
        self.thread = threading.Thread(target=self._open, name=f"libvirt-{link._node}-open", daemon=True)
        self.thread.start()

    def _open(self) -> None:
        link = self._link
        try:
            opened = open_connection(
                link._node, self._access, self._wire, link._settings, self._on_close, self._on_event
            )
        except BaseException as problem:  # also a bug: the loop decides, a thread has nobody to tell
            self._tell(functools.partial(self._settle, None, problem))
            return
        with self._lock:
            late = self._given_up
            if not late:
                self._tell(functools.partial(self._settle, opened, None))
        if late:
            opened.close(polite=False, timeout_s=link._settings.close_timeout_s)

    def _settle(self, opened: Opened | None, problem: BaseException | None) -> None:
        if self._future.done():
            return
        if opened is not None:
            self._future.set_result(opened)
        elif problem is not None:
            self._future.set_exception(problem)

    def _tell(self, what: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what)

    def _on_close(self, why: str) -> None:
        self._tell(lambda: self._ended(why))

    def _on_event(self, event: DomainEvent) -> None:
        self._tell(lambda: self._link._emit(event))

    def _ended(self, why: str) -> None:
        self._broken = why
        if self._host is not None:
            self._host.die(why)

    async def result(self, timeout_s: float) -> Opened:
        done, _ = await asyncio.wait({self._future}, timeout=timeout_s)
        if done:
            return self._future.result()
        endpoint = self._access.endpoint
        raise Transient(
            f"{endpoint.host} port {endpoint.port} takes connections but does not answer as libvirtd within "
            f"{timeout_s:g} s: the host hangs, or something else listens there"
        )

    def give_up(self) -> None:
        """The deadline passed or nobody wants it: free a hung open, close one that came through after all."""
        with self._lock:
            self._given_up = True
        if self._future.done() and not self._future.cancelled() and self._future.exception() is None:
            opened = self._future.result()
            threading.Thread(
                target=lambda: opened.close(polite=False, timeout_s=self._link._settings.close_timeout_s), daemon=True
            ).start()
            return
        self._future.cancel()
        threading.Thread(target=self._wire.cut, daemon=True).start()  # a name look-up may block

    def adopt(self, opened: Opened) -> LibvirtHost:
        link = self._link
        calls = Calls(link._node, self._loop, opened.conns, link._on_call)
        calls.is_alive = is_alive
        moving = MoveLane(link._node, self._loop, self._access, opened.uuid, link._settings, link._on_call)
        host = LibvirtHost(link._node, opened, calls, moving)
        calls.on_broken = host.die
        self._host = host
        if self._broken is not None:
            host.die(self._broken)
        return host
