"""The screens of guests as PNG: what a host sends is read as a picture with limits, and written anew."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from lq_operator.controllers.gateway.guests import Guest
from lq_operator.controllers.gateway.pixels import Pixels
from lq_operator.core.result import Transient
from lq_operator.ports import Clock, Picture

MOST_PIXELS = 7680 * 4320
"""8K. A guest chooses its screen's size; the gateway chooses how much memory that may cost."""
IDLE_AFTER_S, IDLE_EVERY_S = 3.0, 1.0
"""A screen on which nothing happens is looked at once a second: a screen dump costs the host milliseconds."""
FORMATS = {"image/png": "PNG", "image/x-portable-pixmap": "PPM"}


class Screens:
    """Pictures of running guests: one Screen per VM, shared by all who watch it."""

    def __init__(self, clock: Clock, *, frames_per_second: float, pointer: bool) -> None:
        self._clock = clock
        self._frames_per_second = frames_per_second
        self.pointer = pointer
        self._open: dict[tuple[str, int], tuple[Screen, int]] = {}

    @contextlib.contextmanager
    def watched(self, guest: Guest) -> Iterator[Screen]:
        """While inside, pictures are taken for whoever waits."""
        key = (guest.domain_name, id(guest.host))
        screen, count = self._open.get(key) or (Screen(guest, self._clock, self._frames_per_second), 0)
        self._open[key] = (screen, count + 1)
        try:
            yield screen
        finally:
            screen, count = self._open.pop(key)
            if count > 1:
                self._open[key] = (screen, count - 1)

    async def png(self, guest: Guest) -> bytes:
        """What the screen shows now."""
        picture = await guest.host.screenshot(guest.domain_name)
        return await asyncio.to_thread(as_png, picture)


def read_picture(picture: Picture) -> Image.Image:
    """RGB. Transient when it is no picture of the kind it says, or too large."""
    kind = FORMATS.get(picture.mime)
    if kind is None:
        raise Transient(f"the host sent a screenshot as {picture.mime!r}, which is not known")
    try:
        image = Image.open(io.BytesIO(picture.content), formats=(kind,))
        if image.width * image.height > MOST_PIXELS:
            raise Transient(f"the screen is {image.width} x {image.height}: too large")
        return image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise Transient(f"the host sent a screenshot that cannot be read: {error}") from error


def as_png(picture: Picture) -> bytes:
    """The same picture as PNG."""
    out = io.BytesIO()
    read_picture(picture).save(out, "PNG")
    return out.getvalue()


class Screen:
    """The newest picture of one guest, taken as often as somebody waits for one, and at most `frames_per_second`.

    While nothing changes and nobody types, once a second.
    """

    def __init__(self, guest: Guest, clock: Clock, frames_per_second: float) -> None:
        self._guest = guest
        self._clock = clock
        self._every_s = 1.0 / frames_per_second
        self._last: Pixels | None = None
        self._taken_s = float("-inf")
        self._changed_s = float("-inf")
        self._lock = asyncio.Lock()
        self._poked = asyncio.Event()

    def poke(self) -> None:
        """Somebody typed: something will change soon."""
        self._changed_s = self._clock.mono_s()
        self._poked.set()

    async def look(self, seen: Pixels | None) -> Pixels:
        """The newest picture: at once when it is not `seen` (the same object), else after taking one, which may show
        the same and is `seen` then. Raises what the host raises."""
        async with self._lock:  # whoever is first takes it, the others get the same
            if self._last is None or self._last is seen:
                await self._take()
            assert self._last is not None
            return self._last

    async def _take(self) -> None:
        await self._pause()
        picture = await self._guest.host.screenshot(self._guest.domain_name)
        self._taken_s = self._clock.mono_s()
        now = await asyncio.to_thread(lambda: np.asarray(read_picture(picture)))
        if self._last is None or not np.array_equal(self._last, now):
            self._last = now
            self._changed_s = self._taken_s

    async def _pause(self) -> None:
        """Until the next picture is due; typing ends the slow pace at once, never the quick one."""
        now_s = self._clock.mono_s()
        idle = now_s - self._changed_s > IDLE_AFTER_S
        await self._clock.sleep(max(0.0, self._taken_s + self._every_s - now_s) if self._taken_s > 0 else 0.0)
        if idle and self._last is not None:
            self._poked.clear()
            waiting = asyncio.ensure_future(self._poked.wait())
            pausing = asyncio.ensure_future(self._clock.sleep(IDLE_EVERY_S - min(IDLE_EVERY_S, self._every_s)))
            try:
                await asyncio.wait({waiting, pausing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                pausing.cancel()
