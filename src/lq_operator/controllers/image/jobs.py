"""The imports that run or wait, by image and target: at most so many at once, their progress, how they ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from lq_operator.api.image import ImageArtefact
from lq_operator.core.result import Fenced
from lq_operator.core.storage.importing import PROGRESS_STEP_S, Target, backoff_s
from lq_operator.ports import Clock

Run = Callable[[Callable[[int], None]], Coroutine[Any, Any, ImageArtefact]]


@dataclass(slots=True)
class Slot:
    """One target of one image. `task` is None between two tries."""

    task: asyncio.Task[ImageArtefact] | None = None
    percent: int = 0
    queued: bool = False
    failures: int = 0
    next_s: float = 0.0
    message: str = ""

    def failed(self, message: str, now_s: float) -> float:
        """The try ended early but may pass; returns the seconds until the next."""
        self.task, self.message, self.percent = None, message, 0
        self.failures += 1
        delay_s = backoff_s(self.failures)
        self.next_s = now_s + delay_s
        return delay_s


class Jobs:
    """`wake(image key)` is called when there is something new to tell about an image."""

    def __init__(self, clock: Clock, max_parallel: int, wake: Callable[[str], None]) -> None:
        self._clock = clock
        self._places = asyncio.Semaphore(max_parallel)
        self._wake = wake
        self._slots: dict[tuple[str, Target], Slot] = {}

    def slot(self, key: str, target: Target) -> Slot:
        """Made when it is asked for first."""
        return self._slots.setdefault((key, target), Slot())

    def restless(self) -> set[str]:
        """Images with an import that runs or waits for its next try."""
        return {key for key, _ in self._slots}

    def start(self, key: str, target: Target, run: Run) -> Slot:
        """Begin one import in the background."""
        slot = self.slot(key, target)
        slot.percent, slot.message, slot.queued = 0, "", True
        slot.task = asyncio.create_task(self._in_turn(key, slot, run), name=f"import {key} {target.pool} {target.node}")
        slot.task.add_done_callback(lambda _: self._wake(key))
        return slot

    async def _in_turn(self, key: str, slot: Slot, run: Run) -> ImageArtefact:
        async with self._places:
            slot.queued = False
            told_s = self._clock.mono_s()

            def on_percent(value: int) -> None:
                nonlocal told_s
                now_s = self._clock.mono_s()
                if value != slot.percent and now_s - told_s >= PROGRESS_STEP_S:
                    slot.percent, told_s = value, now_s
                    self._wake(key)

            return await run(on_percent)

    async def drop(self, key: str, target: Target) -> None:
        """End an import, wait until it has cleaned up, and forget it."""
        slot = self._slots.pop((key, target), None)
        if slot is not None:
            await _end(slot)

    async def drop_image(self, key: str) -> None:
        """All imports of an image."""
        for found, target in [both for both in self._slots if both[0] == key]:
            await self.drop(found, target)

    async def close(self) -> None:
        """End everything."""
        slots = list(self._slots.values())
        self._slots.clear()
        await asyncio.gather(*(_end(slot) for slot in slots))


async def _end(slot: Slot) -> None:
    task = slot.task
    if task is None:
        return
    task.cancel()
    await asyncio.wait({task})
    problem = None if task.cancelled() else task.exception()
    if isinstance(problem, Fenced):
        raise problem
