"""KeyedQueue: one worker per key, nothing lost, delays by the clock it is given."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.sim.fakes.clock import FakeClock

from lq_operator.controllers.runtime.queue import KeyedQueue


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(seed=1)


async def test_a_key_waits_once_and_keeps_its_place(clock: FakeClock) -> None:
    queue: KeyedQueue[str] = KeyedQueue(clock)
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_in_hand_is_given_to_nobody_else_and_comes_again(clock: FakeClock) -> None:
    queue: KeyedQueue[str] = KeyedQueue(clock)
    queue.add("a")
    key = await queue.get()
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    assert queue.busy == 1
    queue.done(key)
    assert await queue.get() == "a"
    queue.done("a")
    assert queue.idle


async def test_of_several_delays_the_earliest_counts(clock: FakeClock) -> None:
    queue: KeyedQueue[str] = KeyedQueue(clock)
    queue.add_after("a", 60)
    queue.add_after("a", 10)
    queue.add_after("a", 300)
    await clock.advance(9.9)
    assert len(queue) == 0
    await clock.advance(0.2)
    assert await queue.get() == "a"
    queue.done("a")
    await clock.advance(1000)
    assert len(queue) == 0  # the overtaken delays are void


async def test_a_change_overtakes_a_delay(clock: FakeClock) -> None:
    queue: KeyedQueue[str] = KeyedQueue(clock)
    queue.add_after("a", 60)
    queue.add("a")
    assert await queue.get() == "a"
    queue.done("a")
    await clock.advance(100)
    assert len(queue) == 0


async def test_a_delay_asked_for_while_in_hand_is_kept(clock: FakeClock) -> None:
    queue: KeyedQueue[str] = KeyedQueue(clock)
    queue.add("a")
    await queue.get()
    queue.add_after("a", 5)
    queue.done("a")
    assert len(queue) == 0
    await clock.advance(6)
    assert len(queue) == 1


async def test_a_delay_that_ends_while_in_hand_makes_it_dirty(clock: FakeClock) -> None:
    queue: KeyedQueue[str] = KeyedQueue(clock)
    queue.add_after("a", 5)
    queue.add("b")
    queue.add_after("b", 5)
    assert await queue.get() == "b"
    await clock.advance(6)
    assert len(queue) == 1  # a; b is in hand
    queue.done("b")
    assert len(queue) == 1  # b was overtaken by its own add


async def test_backoff_doubles_up_to_its_cap_with_jitter_and_starts_over(clock: FakeClock) -> None:
    queue: KeyedQueue[str] = KeyedQueue(clock, first_s=0.5, cap_s=60)
    delays = [queue.add_backoff("a") for _ in range(12)]
    for n, delay_s in enumerate(delays):
        whole_s = min(60.0, 0.5 * 2**n)
        assert 0.75 * whole_s <= delay_s <= whole_s
    assert len(set(delays[-4:])) == 4  # not all at one moment
    assert queue.failures("a") == 12
    queue.succeeded("a")
    assert queue.add_backoff("a") <= 0.5


async def test_thousands_of_failures_do_not_overflow(clock: FakeClock) -> None:
    queue: KeyedQueue[str] = KeyedQueue(clock)
    for _ in range(5000):
        assert queue.add_backoff("a") <= 60.0


async def test_many_keys_with_many_delays_each_come_at_their_time(clock: FakeClock) -> None:
    queue: KeyedQueue[int] = KeyedQueue(clock)
    rng = random.Random(3)
    due = {key: rng.uniform(0.1, 100) for key in range(500)}
    for key, delay_s in due.items():
        queue.add_after(key, delay_s)
        queue.add_after(key, delay_s + rng.uniform(0, 5))
    came: dict[int, float] = {}

    async def work() -> None:
        while True:
            key = await queue.get()
            assert key not in came
            came[key] = clock.mono_s()
            queue.done(key)

    worker = asyncio.create_task(work())
    await clock.advance(200)
    worker.cancel()
    assert came.keys() == due.keys()
    assert all(came[key] == pytest.approx(due[key]) for key in due)
    assert clock.sleepers == 0


@pytest.mark.parametrize("seed", range(30))
async def test_no_key_overlaps_and_no_change_is_missed(seed: int) -> None:
    clock = FakeClock(seed)
    queue: KeyedQueue[int] = KeyedQueue(clock)
    rng = random.Random(seed)
    changed, seen, active = dict.fromkeys(range(8), 0), dict.fromkeys(range(8), 0), set[int]()

    async def work() -> None:
        while True:
            key = await queue.get()
            assert key not in active
            active.add(key)
            looked = changed[key]
            await clock.sleep(rng.uniform(0, 2))
            seen[key] = looked
            active.discard(key)
            queue.done(key)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    for _ in range(200):
        key = rng.randrange(8)
        changed[key] += 1
        queue.add(key)
        await clock.advance(rng.uniform(0, 0.5))
    await clock.advance(100)
    assert all(not worker.done() for worker in workers)
    assert seen == changed
    assert queue.idle
    for worker in workers:
        worker.cancel()
