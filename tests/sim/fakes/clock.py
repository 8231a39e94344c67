"""Virtual time: implements ports.Clock. Nothing moves until advance(); randomness comes from one seed."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

START = datetime(2030, 1, 1, tzinfo=UTC)


class FakeClock:
    """A clock that only advance() and run_until() move."""

    def __init__(self, seed: int = 0) -> None:
        self._now_s = 0.0
        self._random = random.Random(seed)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def mono_s(self) -> float:
        return self._now_s

    def now_rfc3339(self) -> str:
        return (START + timedelta(seconds=self._now_s)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def token(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + seconds, next(self._order), woken))
        await woken

    def skip(self, seconds: float) -> None:
        """Move time without running anybody: for passes that are driven by hand."""
        self._now_s += seconds

    @property
    def sleepers(self) -> int:
        """How many sleeps have not ended."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def settle(self, turns: int = 10_000) -> None:
        """Let everything that is ready run, without moving time. AssertionError when it never comes to rest."""
        ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        for _ in range(turns):
            await asyncio.sleep(0)
            if not ready:
                return
        raise AssertionError(f"something is still busy after {turns} turns of the loop at t={self._now_s}")

    async def advance(self, seconds: float) -> None:
        """Move time, waking sleepers in order and letting them run at their own moment."""
        end_s = self._now_s + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end_s:
            due_s, _, woken = heapq.heappop(self._sleepers)
            if woken.done():
                continue
            self._now_s = max(self._now_s, due_s)
            woken.set_result(None)
            await self.settle()
        self._now_s = end_s
        await self.settle()

    async def run_until(self, condition: Callable[[], bool], *, limit_s: float, step_s: float = 1.0) -> bool:
        """Advance in steps until the condition holds; False when limit_s virtual seconds were not enough."""
        end_s = self._now_s + limit_s
        await self.settle()
        while not condition():
            if self._now_s >= end_s:
                return False
            await self.advance(min(step_s, end_s - self._now_s))
        return True
