"""A controller stopped (SIGSTOP) at a port call, past its lease; its successor finishes; then it goes on.

Whatever it still does must be refused or harmless: no invariant breaks, and the end is that of an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.sim.fakes.calls import Call
from tests.sim.process import Operator
from tests.sim.scenarios import (
    CALM_S,
    CREATE,
    DELETE,
    DELETE_AT_ONCE,
    HOST_LOST,
    RESTART,
    RESUME,
    STOP,
    SUSPEND,
    Scenario,
    awake,
    prepare,
    reach,
)
from tests.sim.world import SimWorld

PAST_THE_LEASE_S = 20.0
SWEPT_S = 660.0
"""Two rounds of the slowest controller."""

EVERY_CALL = (CREATE,)
"""Between renewal, read-back, seed, define and start lie the worst moments: paused at reads, too."""
EVERY_WRITE = (RESTART, RESUME, HOST_LOST, STOP, SUSPEND, DELETE, DELETE_AT_ONCE)


async def undisturbed(base: SimWorld, scenario: Scenario, *, writes_only: bool) -> tuple[list[Call], dict[str, object]]:
    """The calls of one run from the act to the goal, and its end."""
    world, operator, _ = await awake(base, scenario)
    first = len(operator.tracer.calls)
    scenario.act(world)
    await reach(world, scenario, calm=False)
    calls = [c for c in operator.tracer.calls[first:] if c.write or not writes_only]
    await reach(world, scenario)
    end = world.leftovers()
    await world.close()
    return [c for c in calls if not (c.room == "lease" and c.verb == "acquire")], end


async def paused_at(base: SimWorld, scenario: Scenario, n: int) -> tuple[SimWorld, Operator]:
    """The world after the late deeds of a process that was paused before its call n."""
    world, operator, _ = await awake(base, scenario)
    operator.tracer.pause_at = n
    scenario.act(world)
    for _ in range(int(scenario.limit_s)):
        if operator.tracer.paused:
            break
        scenario.human(world)
        await world.run(1)
    assert operator.tracer.paused, f"call {n} was never made"
    operator.pause()
    await world.run(PAST_THE_LEASE_S)
    successor = world.operator()
    await reach(world, scenario, calm=False)
    await operator.late_deeds()
    world.check()
    world.api.gc()
    return world, successor


async def pause_at_each(
    base: SimWorld, scenario: Scenario, *, writes_only: bool, judge: Callable[[SimWorld], None] = lambda _: None
) -> None:
    """Pause at each call in turn. The goal lasts, `judge` finds nothing, and what is left is what is left undisturbed."""
    calls, end = await undisturbed(base, scenario, writes_only=writes_only)
    failures = []
    for call in calls:
        world = None
        try:
            world, successor = await paused_at(base, scenario, call.n)
            await world.run(CALM_S)
            assert scenario.goal(world), f"the goal did not last\n{world.story()}"
            judge(world)
            if world.leftovers() != end:  # a file or a claim that came late is nobody's: the next owner sweeps it
                await successor.crash()
                world.operator()
                await world.run(SWEPT_S)
            assert world.leftovers() == end
        except AssertionError as problem:
            failures.append(f"paused at {call}:\n{problem}")
        if world is not None:
            await world.close()
    assert not failures, f"{len(failures)} of {len(calls)}:\n" + "\n\n".join(failures[:4])


@pytest.mark.parametrize("scenario", [*EVERY_CALL, *EVERY_WRITE], ids=lambda s: s.name)
async def test_late_deeds_are_refused_or_harmless(scenario: Scenario) -> None:
    await pause_at_each(await prepare(scenario), scenario, writes_only=scenario in EVERY_WRITE)
