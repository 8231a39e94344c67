"""Moves with a crash before and after every call, a pause past the lease at every write, and every answer lost once.

A move that is disturbed may end either way; the guest has run on all the while, and nothing of the other way is left.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.sim.fakes.calls import Call
from tests.sim.fakes.machine import Machine
from tests.sim.scenarios import (
    CALM_S,
    MOVE,
    MOVE_CANCELLED,
    MOVE_LOCAL,
    MOVES,
    Scenario,
    awake,
    prepare,
    reach,
    start_all,
)
from tests.sim.test_crash_everywhere import crash_points
from tests.sim.test_pause_everywhere import SWEPT_S, paused_at, undisturbed
from tests.sim.world import SimWorld

from lq_operator.core.result import OutcomeUnknown


def left(world: SimWorld) -> dict[str, Any]:
    """What must be the same whichever way it ended: the files of the side that was left may wait for the next move."""
    return world.leftovers()


@pytest.mark.parametrize("scenario", MOVES, ids=lambda s: s.name)
async def test_a_crash_anywhere(scenario: Scenario, record_property: Any) -> None:
    base = await prepare(scenario)
    points, end = await crash_points(base, scenario)
    record_property("crash points", len(points))
    assert len(points) > 10
    failures = []
    for label, world in points.items():
        start_all(world)
        try:
            await reach(world, scenario)
            assert left(world) == end
        except AssertionError as problem:
            failures.append(f"crash {label}:\n{problem}")
        await world.close()
    assert not failures, f"{len(failures)} of {len(points)}:\n" + "\n\n".join(failures[:3])


DATA = b"what the guest has written"


def disks(world: SimWorld) -> list[tuple[Machine, str, str]]:
    """Machine, pool and file of every disk that a guest runs from."""
    found = []
    for machine in world.datacenter.machines.values():
        for domain in machine.domains.values():
            if domain.state.runs:
                pools = {pool.path: name for name, pool in machine.pools.items()}
                paths = [disk.path.rpartition("/") for disk in domain.plan.disks]
                found += [(machine, pools[folder], file) for folder, _, file in paths]
    return found


def keep_data(world: SimWorld) -> None:
    for machine, pool, file in disks(world):
        machine.write_volume(pool, file, 0, DATA)


def data(world: SimWorld) -> list[bytes]:
    return [machine.download(pool, file, len(DATA)) for machine, pool, file in disks(world)]


@pytest.mark.parametrize("scenario", [MOVE, MOVE_LOCAL], ids=lambda s: s.name)
async def test_paused_past_the_lease_at_every_write(scenario: Scenario) -> None:
    base = await prepare(scenario)
    keep_data(base)
    calls, end = await undisturbed(base, scenario, writes_only=True)
    failures = []
    for call in calls:
        world = None
        try:
            world, successor = await paused_at(base, scenario, call.n)
            await world.run(CALM_S)
            assert scenario.goal(world), f"the goal did not last\n{world.story()}"
            assert data(world) == [DATA], "the disk that it runs from is another one"
            if left(world) != end:
                await successor.crash()
                world.operator()
                await world.run(SWEPT_S)
            assert left(world) == end
        except AssertionError as problem:
            failures.append(f"paused at {call}:\n{problem}")
        if world is not None:
            await world.close()
    assert not failures, f"{len(failures)} of {len(calls)}:\n" + "\n\n".join(failures[:3])


@pytest.mark.parametrize("happened", [True, False], ids=["happened", "did-not"])
@pytest.mark.parametrize("scenario", [MOVE, MOVE_LOCAL, MOVE_CANCELLED], ids=lambda s: s.name)
async def test_every_answer_lost_once(scenario: Scenario, happened: bool) -> None:
    base = await prepare(scenario)
    world, operator, _ = await awake(base, scenario)
    first = len(operator.tracer.calls)
    scenario.act(world)
    await reach(world, scenario, calm=False)
    writes = [c.n for c in operator.tracer.calls[first:] if c.write and c.room != "lease"]
    await reach(world, scenario)
    end = left(world)
    await world.close()
    failures = []
    for n in writes:
        world, operator, _ = await awake(base, scenario)

        def lose(call: Call, n: int = n) -> None:
            if call.n == n:
                raise OutcomeUnknown(f"no answer to {call}")

        if happened:
            operator.tracer.after = lose
        else:
            operator.tracer.before = lose
        scenario.act(world)
        try:
            await reach(world, scenario)
            assert left(world) == end
        except AssertionError as problem:
            failures.append(f"{operator.tracer.calls[n - 1]}:\n{problem}")
        await world.close()
    assert not failures, f"{len(failures)} of {len(writes)}:\n" + "\n\n".join(failures[:3])
