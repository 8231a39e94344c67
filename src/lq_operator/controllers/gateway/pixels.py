"""Pictures as an RFB client wants them: its pixel format, the tiles that changed, Raw, ZRLE (RFC 6143) and Zlib. Pure but for zlib.

Arrays are (height, width, 3), uint8, RGB.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lq_operator.core.result import Rejected

Pixels = NDArray[np.uint8]

TILE = 64  # ZRLE's
RAW, ZLIB, ZRLE, DESKTOP_SIZE = 0, 6, 16, -223
_RAW_TILE, _SOLID_TILE = 0, 1


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """RFC 6143, 7.4. True colour only."""

    bits: int
    depth: int
    big_endian: bool
    maxima: tuple[int, int, int]
    shifts: tuple[int, int, int]

    def pack(self) -> bytes:
        """16 bytes."""
        return struct.pack(">BBBBHHHBBB3x", self.bits, self.depth, self.big_endian, True, *self.maxima, *self.shifts)

    def convert(self, pixels: Pixels) -> NDArray[Any]:
        """One number per pixel, in the client's byte order."""
        kind: np.dtype[Any] = np.dtype(f"{'>' if self.big_endian else '<'}u{self.bits // 8}")
        result = np.zeros(pixels.shape[:2], np.uint32)
        for channel, (most, shift) in enumerate(zip(self.maxima, self.shifts, strict=True)):
            value = pixels[:, :, channel].astype(np.uint32)
            result |= (value if most == 255 else (value * most + 127) // 255) << np.uint32(shift)
        return result.astype(kind)

    def compact_bytes(self) -> slice | None:
        """ZRLE's CPIXEL: which three of four bytes carry the colour; None: all are sent."""
        if self.bits != 32 or self.depth > 24:
            return None
        if all((most << shift) < 1 << 24 for most, shift in zip(self.maxima, self.shifts, strict=True)):
            return slice(1, 4) if self.big_endian else slice(0, 3)
        if all(shift >= 8 for shift in self.shifts):
            return slice(0, 3) if self.big_endian else slice(1, 4)
        return None


SERVER_FORMAT = PixelFormat(32, 24, False, (255, 255, 255), (16, 8, 0))


def parse_format(data: bytes) -> PixelFormat:
    """What SetPixelFormat carries. Rejected for colour maps and sizes that no client needs."""
    bits, depth, big, true_colour, *rest = struct.unpack(">BBBBHHHBBB3x", data)
    maxima, shifts = (rest[0], rest[1], rest[2]), (rest[3], rest[4], rest[5])
    fits = all(0 < most <= 255 and (most << shift) < 1 << bits for most, shift in zip(maxima, shifts, strict=True))
    if bits not in (8, 16, 32) or not true_colour or not fits:
        raise Rejected("the viewer asks for a pixel format that is not true colour of 8, 16 or 32 bits")
    return PixelFormat(bits, depth, bool(big), maxima, shifts)


def changed_tiles(before: Pixels | None, now: Pixels) -> list[tuple[int, int, int, int]]:
    """(x, y, width, height) of tiles that differ; all of them where there was nothing or another size."""
    height, width = now.shape[:2]
    tiles = [
        (x, y, min(TILE, width - x), min(TILE, height - y))
        for y in range(0, height, TILE)
        for x in range(0, width, TILE)
    ]
    if before is None or before.shape != now.shape:
        return tiles
    return [
        (x, y, w, h)
        for x, y, w, h in tiles
        if not np.array_equal(before[y : y + h, x : x + w], now[y : y + h, x : x + w])
    ]


def joined(tiles: list[tuple[int, int, int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """Neighbours in a row become one rectangle: fewer headers."""
    current: tuple[int, int, int, int] | None = None
    for x, y, w, h in tiles:
        if current is not None and current[1] == y and current[0] + current[2] == x:
            current = (current[0], y, current[2] + w, h)
            continue
        if current is not None:
            yield current
        current = (x, y, w, h)
    if current is not None:
        yield current


class Encoder:
    """Rectangles for one client. Its zlib streams last as long as the connection, one per encoding."""

    def __init__(self) -> None:
        self.format = SERVER_FORMAT
        self.encoding = RAW
        self._streams = {encoding: zlib.compressobj(level=5) for encoding in (ZLIB, ZRLE)}

    def rectangle(self, pixels: Pixels, x: int, y: int, w: int, h: int) -> bytes:
        """Header and content."""
        part = pixels[y : y + h, x : x + w]
        head = struct.pack(">HHHHi", x, y, w, h, self.encoding)
        if self.encoding == RAW:
            return head + self.format.convert(part).tobytes()
        if self.encoding == ZLIB:
            content = self.format.convert(part).tobytes()
        else:
            content = b"".join(self._tile(part[:, at : at + TILE]) for at in range(0, w, TILE))
        stream = self._streams[self.encoding]
        packed = stream.compress(content) + stream.flush(zlib.Z_SYNC_FLUSH)
        return head + struct.pack(">I", len(packed)) + packed

    def _tile(self, part: Pixels) -> bytes:
        """Of at most 64 x 64: the rows of `joined` rectangles are one tile high."""
        if np.all(part == part[0, 0]):
            return bytes([_SOLID_TILE]) + self._compact(part[:1, :1])
        return bytes([_RAW_TILE]) + self._compact(part)

    def _compact(self, part: Pixels) -> bytes:
        numbers = np.ascontiguousarray(self.format.convert(part))
        which = self.format.compact_bytes()
        if which is None:
            return numbers.tobytes()
        return numbers.view(np.uint8).reshape(-1, 4)[:, which].tobytes()
