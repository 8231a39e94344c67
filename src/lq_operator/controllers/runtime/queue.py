"""A queue of keys, each at most once: one worker per key, a dirty mark while it is worked on, backoff per key.

Owns order and delays only. Time and jitter come from the Clock, so the simulator can own them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from lq_operator.ports import Clock

Q = TypeVar("Q", bound=Hashable)

BACKOFF_FIRST_S = 0.5
BACKOFF_CAP_S = 60.0


class KeyedQueue(Generic[Q]):
    """Use: `key = await queue.get()` ... `queue.done(key)`; between them the key is given to nobody else."""

    def __init__(self, clock: Clock, *, first_s: float = BACKOFF_FIRST_S, cap_s: float = BACKOFF_CAP_S) -> None:
        self._clock = clock
        self._first_s = first_s
        self._cap_s = cap_s
        self._ready: OrderedDict[Q, float] = OrderedDict()  # key -> ready since
        self._active: set[Q] = set()
        self._dirty: set[Q] = set()
        self._failures: dict[Q, int] = {}
        self._due: dict[Q, float] = {}  # the time that counts; heap entries that differ from it are void
        self._heap: list[tuple[float, int, Q]] = []
        self._order = itertools.count()
        self._something = asyncio.Event()
        self._timer: asyncio.Task[None] | None = None
        self._timer_due_s = 0.0

    def __len__(self) -> int:
        """Keys that wait for a worker (not those that wait for their time)."""
        return len(self._ready)

    @property
    def oldest_wait_s(self) -> float:
        """How long the first key has waited for a worker."""
        return self._clock.mono_s() - next(iter(self._ready.values())) if self._ready else 0.0

    @property
    def idle(self) -> bool:
        """Nothing waits for a worker and no worker is busy."""
        return not self._ready and not self._active

    @property
    def busy(self) -> int:
        """Keys that a worker has in hand."""
        return len(self._active)

    def failures(self, key: Q) -> int:
        """Failed attempts in a row."""
        return self._failures.get(key, 0)

    def add(self, key: Q) -> None:
        """Something about the key has changed: work on it now. While it is worked on: once more afterwards."""
        self._due.pop(key, None)
        if key in self._active:
            self._dirty.add(key)
        elif key not in self._ready:
            self._ready[key] = self._clock.mono_s()
            self._something.set()

    def add_after(self, key: Q, delay_s: float) -> None:
        """Work on it after delay_s; of several the earliest counts, and add() overtakes them all."""
        if delay_s <= 0:
            self.add(key)
            return
        due_s = self._clock.mono_s() + delay_s
        if key in self._ready or self._due.get(key, due_s + 1) <= due_s:
            return
        self._due[key] = due_s
        heapq.heappush(self._heap, (due_s, next(self._order), key))
        self._arm()

    def add_backoff(self, key: Q) -> float:
        """Count a failure and come back: doubling from first_s up to cap_s, minus up to a quarter. Returns the delay."""
        failures = self.count_failure(key)
        delay_s = min(self._cap_s, self._first_s * 2.0 ** min(failures - 1, 32))
        delay_s *= 1 - 0.25 * int(self._clock.token()[:8], 16) / 0xFFFFFFFF
        self.add_after(key, delay_s)
        return delay_s

    def count_failure(self, key: Q) -> int:
        """One more failed attempt; returns how many in a row."""
        self._failures[key] = self._failures.get(key, 0) + 1
        return self._failures[key]

    def succeeded(self, key: Q) -> None:
        """Forget its failures."""
        self._failures.pop(key, None)

    async def get(self) -> Q:
        """The next key, which stays with the caller until done(key)."""
        while not self._ready:
            self._something.clear()
            await self._something.wait()
        key, _ = self._ready.popitem(last=False)
        self._active.add(key)
        return key

    def done(self, key: Q) -> None:
        """Give the key back; it comes again at once when it was added meanwhile."""
        self._active.discard(key)
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)

    def close(self) -> None:
        """Stop the timer. Waiting keys are dropped: whoever starts next lists everything anyway."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if not self._heap:
            return
        due_s = self._heap[0][0]
        if self._timer is not None and not self._timer.done():
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = asyncio.get_running_loop().create_task(self._wait_until(due_s), name="queue-timer")

    async def _wait_until(self, due_s: float) -> None:
        while (left_s := due_s - self._clock.mono_s()) > 0:
            await self._clock.sleep(left_s)
        now_s = self._clock.mono_s()
        while self._heap and self._heap[0][0] <= now_s:
            when_s, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == when_s:
                self.add(key)
        self._timer = None
        self._arm()
