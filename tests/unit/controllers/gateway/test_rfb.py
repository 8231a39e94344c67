"""The RFB server against a small client of the test's own that decodes what RFC 6143 says, and keysyms to key codes."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from lq_operator.controllers.gateway.guests import Guest
from lq_operator.controllers.gateway.keys import Keyboard
from lq_operator.controllers.gateway.pixels import (
    RAW,
    SERVER_FORMAT,
    ZLIB,
    ZRLE,
    Encoder,
    PixelFormat,
    Pixels,
    changed_tiles,
    joined,
    parse_format,
)
from lq_operator.controllers.gateway.rfb import Stream, Viewer
from lq_operator.controllers.gateway.screens import Screen, as_png, read_picture
from lq_operator.core.result import Rejected, Transient
from lq_operator.ports import Picture

WIDTH, HEIGHT = 150, 70
GREY_16 = PixelFormat(16, 16, True, (31, 63, 31), (11, 5, 0))


def noise(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def ppm(pixels: Pixels) -> Picture:
    height, width = pixels.shape[:2]
    return Picture(f"P6\n{width} {height}\n255\n".encode() + pixels.tobytes(), "image/x-portable-pixmap")


@dataclass
class Host:
    """A screen, and what was pressed."""

    pixels: Pixels
    pressed: list[tuple[int, ...]] = field(default_factory=list)
    pointed: list[tuple[float, float, dict[str, bool]]] = field(default_factory=list)
    shots: int = 0

    async def screenshot(self, domain_name: str) -> Picture:
        self.shots += 1
        return ppm(self.pixels)

    async def press_keys(self, domain_name: str, keycodes: tuple[int, ...]) -> None:
        self.pressed.append(tuple(keycodes))

    async def point(self, domain_name: str, x: float, y: float, changed: dict[str, bool]) -> None:
        self.pointed.append((x, y, dict(changed)))


class Client:
    """What a viewer does."""

    def __init__(self, host: Host, *, writes: bool = True) -> None:
        self.to_server: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.received = bytearray()
        self._news = asyncio.Event()
        guest = Guest(cast("Any", host), "h1", "d")
        self.screen = Screen(guest, RealClock(), 200)
        stream = Stream(self._frames())
        viewer = Viewer(guest, self.screen, "web", stream, self._send, writes=writes, pointer=True)
        self.serving = asyncio.ensure_future(viewer.run())
        self.shown = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        self.unzip = zlib.decompressobj()

    async def _frames(self) -> AsyncIterator[bytes]:
        while (frame := await self.to_server.get()) is not None:
            yield frame

    async def _send(self, data: bytes) -> None:
        self.received += data
        self._news.set()

    def say(self, data: bytes) -> None:
        self.to_server.put_nowait(data)

    async def take(self, size: int) -> bytes:
        async with asyncio.timeout(20):
            while len(self.received) < size:
                if self.serving.done():
                    self.serving.result()
                self._news.clear()
                await self._news.wait()
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    async def greet(self, version: bytes = b"RFB 003.008\n") -> tuple[int, int]:
        assert await self.take(12) == b"RFB 003.008\n"
        self.say(version[:5])
        self.say(version[5:])
        if version.endswith(b"3\n"):
            assert await self.take(4) == b"\0\0\0\1"
        else:
            assert await self.take(2) == b"\1\1"
            self.say(b"\1")
            if version.endswith(b"8\n"):
                assert await self.take(4) == b"\0\0\0\0"
        self.say(b"\1")
        width, height = struct.unpack(">HH", await self.take(4))
        assert parse_format(await self.take(16)) == SERVER_FORMAT
        (length,) = struct.unpack(">I", await self.take(4))
        assert await self.take(length) == b"web"
        return width, height

    def ask(self, *, incremental: bool) -> None:
        self.say(struct.pack(">BBHHHH", 3, incremental, 0, 0, WIDTH, HEIGHT))

    async def update(self) -> int:
        """Draw one update; how many rectangles it had."""
        kind, count = struct.unpack(">BxH", await self.take(4))
        assert kind == 0
        for _ in range(count):
            x, y, w, h, encoding = struct.unpack(">HHHHi", await self.take(12))
            area = self.shown[y : y + h, x : x + w]
            if encoding == RAW:
                area[:] = rgb(np.frombuffer(await self.take(w * h * 4), np.uint8).reshape(h, w, 4))
                continue
            (length,) = struct.unpack(">I", await self.take(4))
            content = self.unzip.decompress(await self.take(length))
            if encoding == ZLIB:
                area[:] = rgb(np.frombuffer(content, np.uint8).reshape(h, w, 4))
                continue
            assert encoding == ZRLE
            for at in range(0, w, 64):
                tile = area[:, at : at + 64]
                mode, content = content[0], content[1:]
                size = 3 if mode == 1 else 3 * tile.shape[0] * tile.shape[1]
                assert mode in (0, 1)
                colours = np.frombuffer(content[:size], np.uint8).reshape(-1, 3)[:, ::-1]
                tile[:] = colours[0] if mode == 1 else colours.reshape(tile.shape)
                content = content[size:]
            assert content == b""
        return int(count)


def rgb(pixels: Any) -> Any:
    """Little-endian 0x00RRGGBB."""
    return pixels[:, :, 2::-1]


class RealClock:
    """Times of a test that must not wait long."""

    def mono_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))


@pytest.mark.parametrize("version", [b"RFB 003.008\n", b"RFB 003.007\n", b"RFB 003.003\n"])
@pytest.mark.parametrize("encoding", [RAW, ZLIB, ZRLE])
async def test_a_viewer_sees_the_screen_and_what_changes(version: bytes, encoding: int) -> None:
    host = Host(noise(1))
    host.pixels[:64, :64] = (7, 8, 9)  # one tile of one colour
    client = Client(host)
    assert await client.greet(version) == (WIDTH, HEIGHT)
    client.say(struct.pack(">BxH2i", 2, 2, 7, encoding))  # 7 is Tight, which we have not
    client.ask(incremental=False)
    await client.update()
    assert np.array_equal(client.shown, host.pixels)
    client.ask(incremental=True)
    await asyncio.sleep(0.1)
    assert not client.received, "nothing changed, nothing is sent"
    changed = host.pixels.copy()
    changed[66:68, 140:142] = 255
    host.pixels = changed
    assert await client.update() == 1
    assert np.array_equal(client.shown, host.pixels)
    client.ask(incremental=True)
    await asyncio.sleep(0.02)
    client.ask(incremental=False)
    await client.update()
    client.to_server.put_nowait(None)
    await client.serving


async def test_keys_and_pointer_reach_the_guest_of_those_who_may() -> None:
    for writes in (True, False):
        host = Host(noise(2))
        client = Client(host, writes=writes)
        await client.greet()
        for down in (1, 0):
            client.say(struct.pack(">BBxxI", 4, down, ord("a")))
        client.say(struct.pack(">BBHH", 5, 1, WIDTH - 1, 0))
        client.say(struct.pack(">BBHH", 5, 0, WIDTH - 1, HEIGHT - 1))
        client.say(struct.pack(">BxxxI", 6, 3) + b"abc")
        client.ask(incremental=False)
        await client.update()
        await asyncio.sleep(0.2)
        assert host.pressed == ([(30,)] if writes else [])
        assert [one[:2] for one in host.pointed][-1:] == ([(1.0, 1.0)] if writes else [])
        client.to_server.put_nowait(None)
        await client.serving


@pytest.mark.parametrize(
    "nonsense",
    [
        struct.pack(">B", 99),
        struct.pack(">BxH", 2, 60000),
        struct.pack(">BxxxI", 6, 1 << 31),
        struct.pack(">Bxxx", 0) + struct.pack(">BBBBHHHBBB3x", 24, 24, 0, 1, 255, 255, 255, 0, 8, 16),
        struct.pack(">Bxxx", 0) + struct.pack(">BBBBHHHBBB3x", 8, 8, 0, 0, 0, 0, 0, 0, 0, 0),
        struct.pack(">Bxxx", 0) + struct.pack(">BBBBHHHBBB3x", 16, 16, 0, 1, 31, 63, 31, 200, 5, 0),
    ],
)
async def test_nonsense_ends_the_session_with_a_reason(nonsense: bytes) -> None:
    client = Client(Host(noise(3)))
    await client.greet()
    client.say(nonsense)
    with pytest.raises(Rejected):
        await asyncio.wait_for(client.serving, 20)


async def test_a_viewer_that_hangs_up_anywhere_ends_quietly() -> None:
    for length in (0, 5, 12, 13):
        client = Client(Host(noise(4)))
        client.say((b"RFB 003.008\n" + b"\1\1")[:length])
        client.to_server.put_nowait(None)
        await asyncio.wait_for(client.serving, 20)


async def test_a_new_size_needs_a_viewer_that_can() -> None:
    host = Host(noise(5))
    client = Client(host)
    await client.greet()
    client.say(struct.pack(">BxH2i", 2, 2, RAW, -223))
    host.pixels = np.zeros((80, 160, 3), np.uint8)
    cast("Any", client.screen)._last = None
    client.ask(incremental=False)
    _, count = struct.unpack(">BxH", await client.take(4))
    if count and struct.unpack(">HHHHi", await client.take(12))[4] != -223:
        pytest.fail("the size must come first")
    client.serving.cancel()
    stubborn = Client(Host(noise(5)))
    await stubborn.greet()
    cast("Any", stubborn.screen)._guest.host.pixels = np.zeros((80, 160, 3), np.uint8)
    cast("Any", stubborn.screen)._last = None
    stubborn.ask(incremental=False)
    with pytest.raises(Rejected, match="another size"):
        await asyncio.wait_for(stubborn.serving, 20)


async def test_viewers_share_pictures() -> None:
    host = Host(noise(6))
    screen = Screen(Guest(cast("Any", host), "h1", "d"), RealClock(), 5)
    first, second = await asyncio.gather(screen.look(None), screen.look(None))
    assert host.shots == 1
    assert first is second
    assert await screen.look(first) is first
    host.pixels = noise(7)
    newer = await screen.look(first)
    assert newer is not first
    assert await screen.look(first) is newer
    assert host.shots == 3


def test_tiles() -> None:
    before, now = noise(7), noise(7)
    assert changed_tiles(before, now) == []
    now[0, 0] ^= 1
    now[0, 64] ^= 1
    now[69, 149] ^= 1
    assert list(joined(changed_tiles(before, now))) == [(0, 0, 128, 64), (128, 64, 22, 6)]
    assert len(changed_tiles(None, now)) == 6


def test_formats() -> None:
    white = np.full((1, 1, 3), 255, np.uint8)
    assert GREY_16.convert(white).tobytes() == b"\xff\xff"
    red = np.zeros((1, 1, 3), np.uint8)
    red[0, 0, 0] = 255
    assert GREY_16.convert(red).tobytes() == b"\xf8\x00"
    encoder = Encoder()
    encoder.format = GREY_16
    assert len(encoder.rectangle(noise(8), 0, 0, 10, 4)) == 12 + 10 * 4 * 2
    high = PixelFormat(32, 24, False, (255, 255, 255), (24, 16, 8))
    assert (SERVER_FORMAT.compact_bytes(), high.compact_bytes(), GREY_16.compact_bytes()) == (
        slice(0, 3),
        slice(1, 4),
        None,
    )
    assert parse_format(GREY_16.pack()) == GREY_16


def test_keyboard() -> None:
    keyboard = Keyboard()
    shift, control, alt, delete, super_l = 0xFFE1, 0xFFE3, 0xFFE9, 0xFFFF, 0xFFEB
    assert keyboard.event(ord("a"), True) == (30,)
    assert keyboard.event(ord("a"), False) == ()
    assert keyboard.event(ord("A"), True) == (42, 30)  # a viewer that sends no Shift
    assert keyboard.event(shift, True) == ()
    assert keyboard.event(ord("A"), True) == (42, 30)
    assert keyboard.event(shift, False) == ()
    for modifier in (control, alt):
        keyboard.event(modifier, True)
    assert keyboard.event(delete, True) == (29, 56, 111)
    assert [keyboard.event(modifier, False) for modifier in (control, alt)] == [(), ()]
    keyboard.event(super_l, True)
    assert keyboard.event(super_l, False) == (125,)
    assert keyboard.event(0x20AC, True) == ()  # no such key on a US keyboard
    assert keyboard.event(0xFFC9, True) == (88,)
    assert [keyboard.event(ord(c), True)[-1] for c in "zm?\\`|"] == [44, 50, 53, 43, 41, 43]


def test_pictures() -> None:
    pixels = noise(9)
    png = as_png(ppm(pixels))
    assert np.array_equal(np.asarray(read_picture(Picture(png, "image/png"))), pixels)
    for bad in (Picture(b"", "image/png"), Picture(b"P6\n", "image/x-portable-pixmap"), Picture(png, "text/html"),
                Picture(b"P6\n99999 99999\n255\n", "image/x-portable-pixmap")):  # fmt: skip
        with pytest.raises(Transient):
            read_picture(bad)
