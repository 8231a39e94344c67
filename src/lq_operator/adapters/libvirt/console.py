"""A guest's serial console: one stream on a libvirt connection of its own, so that no other call waits for it.

Bytes from the guest come on libvirt's event thread, which never waits; what is typed is sent by a thread of the console.
A host that hangs costs that thread and nothing else: close() cuts the wire under it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

import libvirt

from lq_operator.adapters.libvirt.connection import Wire, is_alive
from lq_operator.adapters.libvirt.endpoint import Access
from lq_operator.adapters.libvirt.errors import code_of, text_of, translate
from lq_operator.core.result import Conflict, Transient, WorldError

OPEN_S = 20.0
"""Connect, TLS or SSH, find the domain, open the stream."""
CLOSE_S = 2.0
KEEPALIVE_S, KEEPALIVE_COUNT = 2, 3
UNREAD_BYTES = 1 << 20
UNSENT_BYTES = 64 << 10
"""What a person types or pastes; more than that waits only where the host takes nothing."""
CHUNK_BYTES = 16 << 10
WOULD_BLOCK = -2
_RETRY_S = 0.01
_EVENTS = libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP


class LibvirtConsole:
    """ports.Console. Make it with open_console()."""

    def __init__(self, loop: asyncio.AbstractEventLoop, access: Access, domain_name: str) -> None:
        self._loop = loop
        self._access = access
        self._domain_name = domain_name
        self._wire = Wire(access)
        self._wire.opening()
        self._unread = bytearray()
        self._news = asyncio.Event()
        self._over = False
        self._unsent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._unsent_bytes = 0
        self._stream: Any = None
        self._listening = False
        self._finished = threading.Event()
        self.opened: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._work, name=f"console-{domain_name}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ on the loop

    async def read(self) -> bytes:
        while not self._unread:
            if self._over:
                return b""
            self._news.clear()
            await self._news.wait()
        data = bytes(self._unread)
        self._unread.clear()
        return data

    async def write(self, data: bytes) -> None:
        if self._over:
            raise Transient(f"the console of {self._domain_name} is over")
        if self._unsent_bytes + len(data) > UNSENT_BYTES:
            raise Transient(f"the host takes no input for the console of {self._domain_name}")
        for at in range(0, len(data), CHUNK_BYTES):
            chunk = data[at : at + CHUNK_BYTES]
            self._unsent_bytes += len(chunk)
            self._unsent.put(chunk)

    async def close(self) -> None:
        self._end()
        self._unsent.put(None)
        if not await asyncio.to_thread(self._finished.wait, CLOSE_S):
            await asyncio.to_thread(self._wire.cut)

    def give_up(self) -> None:
        """The opening took too long: free whatever it waits for."""
        self._unsent.put(None)
        threading.Thread(target=self._wire.cut, daemon=True).start()

    def _end(self) -> None:
        self._over = True
        self._news.set()

    def _received(self, data: bytes) -> None:
        self._unread += data
        if len(self._unread) > UNREAD_BYTES:
            del self._unread[: len(self._unread) - UNREAD_BYTES]
        self._news.set()

    def _sent(self, amount: int) -> None:
        self._unsent_bytes -= amount

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, *arguments)

    def _settle(self, problem: WorldError | None) -> None:
        if self.opened.done():
            return
        if problem is None:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(problem)

    # ------------------------------------------------------------ libvirt's event thread

    def _on_stream(self, stream: Any, happened: int, _opaque: Any) -> None:
        try:
            over = bool(happened & (libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP))
            while happened & libvirt.VIR_STREAM_EVENT_READABLE:
                data = stream.recv(CHUNK_BYTES)
                if data == WOULD_BLOCK:
                    break
                if not data:
                    over = True
                    break
                self._tell(self._received, bytes(data))
        except libvirt.libvirtError:
            over = True
        if over:
            self._unlisten()  # else libvirt calls again at once, for ever
            self._tell(self._end)

    def _unlisten(self) -> None:
        if self._listening:
            self._listening = False
            with contextlib.suppress(libvirt.libvirtError):
                self._stream.eventRemoveCallback()

    # ------------------------------------------------------------ the console's own thread

    def _work(self) -> None:
        conn: Any = None
        try:
            conn = self._open()
            self._tell(self._settle, None)
            while (chunk := self._unsent.get()) is not None:
                self._send(chunk)
        except libvirt.libvirtError as problem:
            self._tell(self._settle, self._explain(problem, conn))
        finally:
            self._tell(self._end)
            self._unlisten()
            if self._stream is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    self._stream.abort()
            if conn is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    conn.unregisterCloseCallback()
                with contextlib.suppress(libvirt.libvirtError):
                    conn.close()
            self._finished.set()

    def _open(self) -> Any:
        conn = libvirt.open(self._access.uri)
        conn.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        # A stream does not hear that its connection broke (measured: libvirtd killed, 9.0): the connection tells.
        conn.registerCloseCallback(lambda *_: self._tell(self._end), None)
        self._wire.opened()
        domain = conn.lookupByName(self._domain_name)
        self._stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
        # Without FORCE: whoever has it open at the host (an administrator's virsh) is not thrown out.
        domain.openConsole(None, self._stream, 0)
        self._listening = True
        self._stream.eventAddCallback(_EVENTS, self._on_stream, None)
        return conn

    def _send(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            sent = self._stream.send(bytes(view))
            if sent == WOULD_BLOCK:
                self._finished.wait(_RETRY_S)
                continue
            view = view[sent:]
        self._tell(self._sent, len(chunk))

    def _explain(self, problem: libvirt.libvirtError, conn: Any) -> WorldError:
        what = f"console of {self._domain_name}"
        if code_of(problem) == libvirt.VIR_ERR_OPERATION_FAILED and "active console" in text_of(problem).lower():
            return Conflict(f"{what}: somebody has it open at the host (virsh console?): end that session there")
        return translate(problem, what, wrote=False, alive=conn is None or is_alive(conn))


async def open_console(access: Access, domain_name: str) -> LibvirtConsole:
    """Bounded by OPEN_S. One at a time per host: the wire is found by what is new."""
    console = LibvirtConsole(asyncio.get_running_loop(), access, domain_name)
    done, _ = await asyncio.wait({console.opened}, timeout=OPEN_S)
    if not done:
        console.give_up()
        raise Transient(f"console of {domain_name}: no answer within {OPEN_S:g} s")
    try:
        console.opened.result()
    except WorldError:
        await console.close()
        raise
    return console
