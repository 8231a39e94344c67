"""Moves whose sender is paused past its lease at every write: its late deeds spoil neither the guest nor its disks.

The move may end either way; the guest has run on all the while, and nothing of the other way is left. What a crash or a
lost answer does to a move: test_crash_everywhere, test_lost_answers.
"""

from __future__ import annotations

import pytest
from tests.sim.fakes.machine import Machine
from tests.sim.scenarios import CALM_S, MOVE, MOVE_LOCAL, Scenario, prepare
from tests.sim.test_pause_everywhere import SWEPT_S, paused_at, undisturbed
from tests.sim.world import SimWorld

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
            if world.leftovers() != end:
                await successor.crash()
                world.operator()
                await world.run(SWEPT_S)
            assert world.leftovers() == end
        except AssertionError as problem:
            failures.append(f"paused at {call}:\n{problem}")
        if world is not None:
            await world.close()
    assert not failures, f"{len(failures)} of {len(calls)}:\n" + "\n\n".join(failures[:3])
