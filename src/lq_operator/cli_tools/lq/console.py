"""console vm/NAME: the terminal becomes the guest's serial console until ^] is typed; it reconnects and says so.

Standard input that is no terminal is typed as it comes, and the command ends with it (after what the guest answers within
--linger seconds): that is how scripts use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from argparse import Namespace
from collections.abc import Iterator

import aiohttp

from lq_operator.api.vm import VirtualMachine
from lq_operator.cli_tools.lq.cluster import connect
from lq_operator.cli_tools.lq.gateway import Door, find_door, tell, web_socket
from lq_operator.cli_tools.lq.names import vm_name
from lq_operator.controllers.gateway.tasks import until_one_ends
from lq_operator.controllers.gateway.wire import CONSOLE_PROTOCOL, POLICY_VIOLATION
from lq_operator.core.result import Rejected, Transient

ESCAPE = b"\x1d"  # ^]
RETRY_S = 1.0
CHUNK_BYTES = 4096


class Left(Exception):
    """The person, or the end of standard input, ended it."""


async def run(arguments: Namespace) -> int:
    """0 when the person left it."""
    mode = "read" if arguments.read_only else "take" if arguments.take else "share" if arguments.share else "write"
    async with connect(arguments) as cluster:
        vm = await cluster.find(VirtualMachine, vm_name(arguments.vm))
        door = await find_door(cluster, arguments)
        url = door.of(cluster.namespace, vm.metadata.name, "console")
    terminal = sys.stdin.isatty()
    tell(f"vm/{vm.metadata.name}: connecting" + ("; leave with ^]" if terminal else ""))
    with _raw() if terminal else contextlib.nullcontext():
        session = _Session(door, url, mode, linger_s=arguments.linger)
        with contextlib.suppress(Left):
            await session.run()
    tell("left")
    return 0


class _Session:
    """Keyboard, screen, and one connection after the other."""

    def __init__(self, door: Door, url: str, mode: str, *, linger_s: float) -> None:
        self._mode = mode
        self._door = door
        self._url = url
        self._linger_s = linger_s
        self._typed: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
        self._resized = asyncio.Event()
        self._open = asyncio.Event()
        self._was_open = False

    async def run(self) -> None:
        """Raises Left at the end, Rejected when the gateway refuses."""
        loop = asyncio.get_running_loop()
        if sys.stdin.isatty():
            loop.add_signal_handler(signal.SIGWINCH, self._resized.set)
        try:
            await until_one_ends(self._keyboard(), self._reconnecting())
        finally:
            if sys.stdin.isatty():
                loop.remove_signal_handler(signal.SIGWINCH)

    async def _keyboard(self) -> None:
        terminal = sys.stdin.isatty()
        keys = _keys()
        while data := await keys.get():
            before, escape, _ = data.partition(ESCAPE) if terminal else (data, b"", b"")
            if before:
                await self._typed.put(before)
            if escape:
                raise Left
        await self._typed.join()
        await asyncio.sleep(self._linger_s)
        raise Left

    async def _reconnecting(self) -> None:
        while True:
            try:
                async with web_socket(self._door, self._url, CONSOLE_PROTOCOL, self._mode) as socket:
                    if self._was_open:
                        tell("connected again")
                    self._was_open = True
                    await self._talk(socket)
                tell("the gateway went away; connecting again")
            except Transient as error:
                if not self._was_open:
                    raise
                tell(f"{error}; trying again")
            await asyncio.sleep(RETRY_S)

    async def _talk(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        with contextlib.suppress(ConnectionError):
            await until_one_ends(self._show(socket), self._send_typed(socket), self._send_sizes(socket))
        if socket.close_code == POLICY_VIOLATION:
            raise Rejected("the session was ended: the right to it was taken away, or the token is over")

    async def _show(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                sys.stdout.buffer.write(message.data)
                sys.stdout.buffer.flush()
            elif message.type is aiohttp.WSMsgType.TEXT:
                self._hear(message.data)

    def _hear(self, text: str) -> None:
        try:
            said = json.loads(text)
            state, line = str(said.get("state", "")), str(said.get("message", ""))
        except (ValueError, AttributeError):
            return
        tell(line)
        if said.get("type") == "state":
            if state == "open":
                self._open.set()
            else:
                self._open.clear()

    async def _send_typed(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """A person sees whether anybody listens; a script's lines wait until somebody does."""
        while True:
            if not sys.stdin.isatty():
                await self._open.wait()
            data = await self._typed.get()
            try:
                await socket.send_bytes(data)
            finally:
                self._typed.task_done()

    async def _send_sizes(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Only when the window changes: a serial line does not care, and the gateway says what to type instead."""
        while True:
            await self._resized.wait()
            self._resized.clear()
            columns, rows = shutil.get_terminal_size()
            await socket.send_str(json.dumps({"type": "resize", "columns": columns, "rows": rows}))


def _keys() -> asyncio.Queue[bytes]:
    """What is typed, b'' at its end. Read by a thread: asyncio reads no plain files, and would make the terminal, which
    other programs share, non-blocking."""
    keys: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        data = b"-"
        while data:
            try:
                data = os.read(descriptor, CHUNK_BYTES)
            except OSError:
                data = b""
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(keys.put_nowait, data)

    threading.Thread(target=read, name="keyboard", daemon=True).start()
    return keys


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Every key goes to the guest, ^C as well. Put back whatever happens."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
