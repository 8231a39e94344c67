"""Reconciler and PeriodicLoop: every kind of failure leads to the right next attempt, and Fenced ends everything."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import pairwise

import pytest
from structlog.contextvars import get_contextvars
from tests.sim.fakes.clock import FakeClock
from tests.sim.fakes.resources import Crash

from lq_operator.controllers.runtime.errors import AT_ONCE_LIMIT, LONG_S, Requeue, requeue_for
from lq_operator.controllers.runtime.loop import PeriodicLoop
from lq_operator.controllers.runtime.reconciler import Reconciler
from lq_operator.core.result import Conflict, Fenced, NotFound, OutcomeUnknown, Rejected, Transient
from lq_operator.telemetry import metrics


class Passes:
    """A reconcile that does what the test says, and remembers when it was asked."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.at: dict[str, list[float]] = defaultdict(list)
        self.outcome: dict[str, Exception | Requeue | Crash | None] = {}
        self.context: dict[str, object] = {}

    async def __call__(self, key: str) -> Requeue | None:
        self.at[key].append(self.clock.mono_s())
        self.context = dict(get_contextvars())
        outcome = self.outcome.get(key)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(seed=2)


@pytest.fixture
def passes(clock: FakeClock) -> Passes:
    return Passes(clock)


def count(controller: str, result: str) -> float:
    return float(metrics.RECONCILES.labels(controller, result)._value.get())


async def run_for(reconciler: Reconciler, clock: FakeClock, seconds: float) -> None:
    running = asyncio.create_task(reconciler.run())
    await clock.advance(seconds)
    reconciler.stop()
    await clock.advance(1)
    await running


async def test_a_key_is_looked_at_with_its_context_and_counted(clock: FakeClock, passes: Passes) -> None:
    reconciler = Reconciler("r-one", passes, clock=clock, log_field="vm")
    reconciler.enqueue("n/a")
    await run_for(reconciler, clock, 1000)
    assert len(passes.at["n/a"]) == 1
    assert passes.context["controller"] == "r-one"
    assert passes.context["vm"] == "n/a"
    assert passes.context["reconcile_id"]
    assert "vm" not in get_contextvars()
    assert count("r-one", "done") == 1


async def test_a_requeue_comes_at_its_time(clock: FakeClock, passes: Passes) -> None:
    passes.outcome["a"] = Requeue.after(30)
    reconciler = Reconciler("r-after", passes, clock=clock)
    reconciler.enqueue("a")
    await run_for(reconciler, clock, 100)
    assert passes.at["a"] == [0, 30, 60, 90]
    assert count("r-after", "waiting") == 4


async def test_transient_backs_off_and_success_forgets(clock: FakeClock, passes: Passes) -> None:
    passes.outcome["a"] = Transient("away")
    reconciler = Reconciler("r-transient", passes, clock=clock)
    reconciler.enqueue("a")
    running = asyncio.create_task(reconciler.run())
    await clock.advance(600)
    gaps = [b - a for a, b in pairwise(passes.at["a"])]
    assert gaps[0] <= 0.5
    assert 45 <= gaps[-1] <= 60
    assert reconciler.queue.failures("a") == len(passes.at["a"])
    passes.outcome["a"] = None
    reconciler.enqueue("a")
    await clock.advance(1)
    assert reconciler.queue.failures("a") == 0
    reconciler.stop()
    await clock.advance(1)
    await running


async def test_conflicts_are_answered_at_once_but_not_for_ever(clock: FakeClock, passes: Passes) -> None:
    passes.outcome["a"] = Conflict("changed")
    reconciler = Reconciler("r-conflict", passes, clock=clock)
    reconciler.enqueue("a")
    await run_for(reconciler, clock, 0)
    assert len(passes.at["a"]) == AT_ONCE_LIMIT + 1


async def test_an_unknown_outcome_is_looked_at_soon(clock: FakeClock, passes: Passes) -> None:
    passes.outcome["a"] = OutcomeUnknown("timed out")
    reconciler = Reconciler("r-unknown", passes, clock=clock)
    reconciler.enqueue("a")
    await run_for(reconciler, clock, 1.5)
    assert passes.at["a"] == [0, 1]


async def test_a_refusal_waits_long_or_for_a_change(clock: FakeClock, passes: Passes) -> None:
    passes.outcome["a"] = Rejected("no such pool")
    reconciler = Reconciler("r-rejected", passes, clock=clock)
    reconciler.enqueue("a")
    running = asyncio.create_task(reconciler.run())
    await clock.advance(LONG_S - 1)
    assert len(passes.at["a"]) == 1
    reconciler.enqueue("a")
    await clock.advance(1)
    assert len(passes.at["a"]) == 2
    reconciler.stop()
    await clock.advance(1)
    await running


async def test_a_bug_in_one_pass_stops_no_other_and_is_counted(clock: FakeClock, passes: Passes) -> None:
    passes.outcome["bad"] = KeyError("oops")
    reconciler = Reconciler("r-bug", passes, clock=clock, workers=1)
    reconciler.enqueue("bad")
    reconciler.enqueue("good")
    await run_for(reconciler, clock, 10)
    assert len(passes.at["good"]) == 1
    assert len(passes.at["bad"]) > 2
    assert count("r-bug", "error") == len(passes.at["bad"])


@pytest.mark.parametrize("end", [Fenced("lost the lease"), Crash()])
async def test_fenced_and_crashes_end_the_run_and_every_worker(
    clock: FakeClock, passes: Passes, end: Exception | Crash
) -> None:
    passes.outcome["a"] = end
    reconciler = Reconciler("r-fenced", passes, clock=clock, workers=4, keys=list)
    running = asyncio.create_task(reconciler.run())
    reconciler.enqueue("a")
    await clock.settle()
    assert running.done()
    with pytest.raises(type(end)):
        running.result()
    reconciler.enqueue("b")
    await clock.advance(1000)
    assert not passes.at["b"]


async def test_stop_lets_a_running_pass_finish(clock: FakeClock) -> None:
    finished: list[str] = []

    async def slow(key: str) -> None:
        await clock.sleep(10)
        finished.append(key)

    reconciler = Reconciler("r-stop", slow, clock=clock, workers=1)
    reconciler.enqueue("a")
    reconciler.enqueue("b")
    running = asyncio.create_task(reconciler.run())
    await clock.advance(1)
    reconciler.stop()
    await clock.advance(15)
    await running
    assert finished == ["a"]


async def test_resync_looks_at_every_key_again(clock: FakeClock, passes: Passes) -> None:
    reconciler = Reconciler("r-resync", passes, clock=clock, resync_s=100, keys=lambda: ["a", "b"])
    await run_for(reconciler, clock, 1000)
    assert 10 <= len(passes.at["a"]) <= 13
    assert len(passes.at["a"]) == len(passes.at["b"])


async def test_one_slow_key_keeps_no_other_waiting(clock: FakeClock) -> None:
    done: list[str] = []

    async def reconcile(key: str) -> None:
        if key == "slow":
            await clock.sleep(1000)
        done.append(key)

    reconciler = Reconciler("r-slow", reconcile, clock=clock, workers=2)
    for key in ("slow", *(f"k{n}" for n in range(50))):
        reconciler.enqueue(key)
    running = asyncio.create_task(reconciler.run())
    await clock.advance(1)
    assert len(done) == 50
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_not_found_is_looked_at_again_and_not_for_five_minutes() -> None:
    assert requeue_for(NotFound("gone"), 0).requeue == Requeue.backoff()
    assert requeue_for(Rejected("no"), 7).requeue == Requeue.after(LONG_S)
    with pytest.raises(Fenced):
        requeue_for(Fenced("gone"), 0)


# ---------------------------------------------------------------- PeriodicLoop


async def test_a_loop_runs_again_and_again_and_at_once_when_woken(clock: FakeClock) -> None:
    at: list[float] = []

    async def body() -> None:
        at.append(clock.mono_s())

    loop = PeriodicLoop("l-one", body, every_s=10, clock=clock)
    running = asyncio.create_task(loop.run())
    await clock.advance(100)
    assert 11 <= len(at) <= 13
    before = len(at)
    loop.wake()
    loop.wake()
    await clock.settle()
    assert len(at) == before + 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_failing_loop_backs_off_within_its_period_and_fenced_ends_it(clock: FakeClock) -> None:
    at: list[float] = []
    error: Exception = Transient("away")

    async def body() -> None:
        at.append(clock.mono_s())
        raise error

    loop = PeriodicLoop("l-fail", body, every_s=300, clock=clock)
    running = asyncio.create_task(loop.run())
    await clock.advance(300)
    gaps = [b - a for a, b in pairwise(at)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    error = ValueError("a bug")
    await clock.advance(61)
    assert not running.done()
    error = Fenced("lost")
    await clock.advance(61)
    with pytest.raises(Fenced):
        running.result()
