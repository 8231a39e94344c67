"""An RFB (VNC) server for one viewer, over pictures that hosts make and keys that they press: RFC 6143, versions 3.3 to 3.8.

It has no password: whoever is here was let in by the gateway. It sends what changed, when the viewer asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from lq_operator.controllers.gateway.guests import Guest
from lq_operator.controllers.gateway.keys import Keyboard
from lq_operator.controllers.gateway.pixels import (
    DESKTOP_SIZE,
    RAW,
    SERVER_FORMAT,
    ZLIB,
    ZRLE,
    Encoder,
    Pixels,
    changed_tiles,
    joined,
    parse_format,
)
from lq_operator.controllers.gateway.screens import Screen
from lq_operator.controllers.gateway.tasks import until_one_ends
from lq_operator.core.result import Rejected, WorldError

MOST_TEXT_BYTES = 1 << 16
MOST_ENCODINGS = 256
BUTTONS = ("left", "middle", "right", "wheel-up", "wheel-down")
MOST_WAITING_STROKES = 256
POINTER_EVERY_S = 0.05
"""Twenty places of the pointer per second: each is one command to QEMU's monitor."""

Send = Callable[[bytes], Awaitable[None]]


class Stream:
    """Exact reads over the frames of a WebSocket."""

    def __init__(self, frames: AsyncIterator[bytes]) -> None:
        self._frames = frames
        self._buffer = bytearray()

    async def take(self, size: int) -> bytes:
        """EOFError when the viewer has gone."""
        while len(self._buffer) < size:
            frame = await anext(self._frames, None)
            if frame is None:
                raise EOFError
            self._buffer += frame
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data


class Viewer:
    """One session: run() until the viewer goes."""

    def __init__(
        self, guest: Guest, screen: Screen, name: str, stream: Stream, send: Send, *, writes: bool, pointer: bool
    ) -> None:
        self._guest = guest
        self._screen = screen
        self._name = name
        self._stream = stream
        self._send = send
        self._writes = writes
        self._pointer = writes and pointer
        self._encoder = Encoder()
        self._resizes = False
        self._size = (0, 0)  # (height, width), as the viewer knows it
        self._shown: Pixels | None = None
        self._everything = True  # asked for, whatever is shown
        self._wanted = asyncio.Event()
        self._keyboard = Keyboard()
        self._strokes: asyncio.Queue[tuple[int, ...]] = asyncio.Queue(MOST_WAITING_STROKES)
        self._mask = 0
        self._place: tuple[float, float, dict[str, bool]] | None = None
        self._moved = asyncio.Event()

    async def run(self) -> None:
        """Returns when the viewer has gone; raises WorldError when the guest has."""
        with contextlib.suppress(EOFError):
            await self._greet()
            await until_one_ends(self._listen(), self._show(), self._press(), self._point())

    async def _greet(self) -> None:
        await self._send(b"RFB 003.008\n")
        version = await self._stream.take(12)
        minor = {b"RFB 003.008\n": 8, b"RFB 003.007\n": 7}.get(version, 3)
        if minor == 3:
            await self._send(struct.pack(">I", 1))
        else:
            await self._send(b"\x01\x01")  # one way to log in: none, because that is done already
            if await self._stream.take(1) != b"\x01":
                raise EOFError
            if minor == 8:
                await self._send(struct.pack(">I", 0))
        await self._stream.take(1)  # shared or not: it always is
        first = await self._screen.look(None)
        self._size = (first.shape[0], first.shape[1])
        name = self._name.encode()
        head = struct.pack(">HH", self._size[1], self._size[0])
        await self._send(head + SERVER_FORMAT.pack() + struct.pack(">I", len(name)) + name)

    # ------------------------------------------------------------ from the viewer

    async def _listen(self) -> None:
        take = self._stream.take
        while True:
            kind = (await take(1))[0]
            if kind == 0:
                self._encoder.format = parse_format((await take(19))[3:])
                self._everything = True
            elif kind == 2:
                (count,) = struct.unpack(">xH", await take(3))
                if count > MOST_ENCODINGS:
                    raise Rejected("the viewer knows more encodings than there are")
                self._choose(struct.unpack(f">{count}i", await take(4 * count)))
            elif kind == 3:
                (incremental,) = struct.unpack(">B8x", await take(9))
                if not incremental:
                    self._everything = True
                self._wanted.set()
            elif kind == 4:
                down, keysym = struct.unpack(">BxxI", await take(7))
                self._key(keysym, bool(down))
            elif kind == 5:
                self._pointer_event(*struct.unpack(">BHH", await take(5)))
            elif kind == 6:
                (length,) = struct.unpack(">xxxI", await take(7))
                if length > MOST_TEXT_BYTES:
                    raise Rejected("the viewer sends a clipboard that is too large")
                await take(length)  # there is nowhere to paste it to
            else:
                raise Rejected(f"the viewer sent message {kind}, which is not known")

    def _choose(self, encodings: tuple[int, ...]) -> None:
        self._encoder.encoding = next((one for one in encodings if one in (RAW, ZLIB, ZRLE)), RAW)
        self._resizes = DESKTOP_SIZE in encodings

    def _key(self, keysym: int, down: bool) -> None:
        stroke = self._keyboard.event(keysym, down)
        if stroke and self._writes and not self._strokes.full():
            self._strokes.put_nowait(stroke)

    def _pointer_event(self, mask: int, x: int, y: int) -> None:
        changed = {
            button: bool(mask >> bit & 1) for bit, button in enumerate(BUTTONS) if (mask ^ self._mask) >> bit & 1
        }
        self._mask = mask
        height, width = self._size
        if not self._pointer:
            return
        before = self._place[2] if self._place else {}
        self._place = (x / max(1, width - 1), y / max(1, height - 1), {**before, **changed})
        self._moved.set()

    # ------------------------------------------------------------ to the guest

    async def _press(self) -> None:
        while True:
            stroke = await self._strokes.get()
            self._screen.poke()
            await self._guest.host.press_keys(self._guest.domain_name, stroke)

    async def _point(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            place, self._place = self._place, None
            if place is None:
                continue
            self._screen.poke()
            try:
                await self._guest.host.point(self._guest.domain_name, *place)
            except Rejected:
                self._pointer = False  # this host or guest has none; keys and the screen go on
            await asyncio.sleep(POINTER_EVERY_S)

    # ------------------------------------------------------------ to the viewer

    async def _show(self) -> None:
        seen: Pixels | None = None
        while True:
            await self._wanted.wait()
            now = await self._screen.look(None if self._everything else seen)
            if now is seen and not self._everything:
                continue
            seen = now
            if self._everything:
                self._everything, self._shown = False, None
            self._wanted.clear()  # before the encoding: what is asked for meanwhile is another request
            update = await asyncio.to_thread(self._update, now)
            if update:
                await self._send(update)
            else:
                self._wanted.set()

    def _update(self, now: Pixels) -> bytes:
        """b'' when nothing changed for this viewer."""
        resized = b""
        if now.shape[:2] != self._size:
            if not self._resizes:
                raise Rejected("the screen has another size now, and this viewer cannot change its own: connect again")
            self._size = (now.shape[0], now.shape[1])
            resized = struct.pack(">HHHHi", 0, 0, self._size[1], self._size[0], DESKTOP_SIZE)
        rectangles = [self._encoder.rectangle(now, *where) for where in joined(changed_tiles(self._shown, now))]
        self._shown = now
        if resized:
            rectangles.insert(0, resized)
        if not rectangles:
            return b""
        return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)


def goodbye(error: WorldError) -> bytes:
    """For the close frame of the WebSocket: at most 123 bytes."""
    return str(error).encode()[:120]
