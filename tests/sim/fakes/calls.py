"""One process's calls through its ports, in order: where a test crashes it, pauses it (SIGSTOP) or falsifies an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class Crashed(BaseException):
    """The process is dead: whatever still runs of it touches nothing any more."""


@dataclass(frozen=True)
class Call:
    """One call. `room`: api, host or lease. `about`: the object, or `node thing` for hosts."""

    n: int
    room: str
    verb: str
    about: str
    write: bool

    def __str__(self) -> str:
        return f"{self.n} {self.room}.{self.verb}({self.about})"


def _nothing(call: Call) -> None:
    del call


class Tracer:
    """Every port call of one process goes through run(). `before` and `after` may raise any error of core/result.

    Raised before: nothing was done. Raised after: it is done and the answer was lost.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.before: Callable[[Call], None] = _nothing
        self.after: Callable[[Call], None] = _nothing
        self.dead = False
        self.pause_at: int | None = None
        self.pause_when: Callable[[Call], bool] = lambda call: False
        self.paused = False
        self._woken = asyncio.Event()

    async def run(self, room: str, verb: str, about: str, write: bool, act: Callable[[], Awaitable[T]]) -> T:
        """The call itself, with everything a test does to it."""
        await self.stand_still()
        call = Call(len(self.calls) + 1, room, verb, about, write)
        self.calls.append(call)
        if call.n == self.pause_at or self.pause_when(call):
            self.pause_when = lambda call: False
            self.paused = True
            await self.stand_still()
        self.before(call)
        result = await act()
        if self.dead:
            raise Crashed
        self.after(call)
        return result

    async def stand_still(self) -> None:
        """Wait while the process is paused; a dead one never goes on."""
        while self.paused and not self.dead:
            await self._woken.wait()
        if self.dead:
            raise Crashed

    def resume(self) -> None:
        """SIGCONT."""
        self.paused = False
        self._woken.set()
        self._woken = asyncio.Event()

    def kill(self) -> None:
        """SIGKILL."""
        self.dead = True
        self.resume()
