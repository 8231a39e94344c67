"""Moves whose sender is paused past its lease at every write: its late deeds spoil neither the guest nor its disks.

The move may end either way; the guest has run on all the while, and nothing of the other way is left. What a crash or a
lost answer does to a move: test_crash_everywhere, test_lost_answers.
"""

from __future__ import annotations

import pytest
from tests.sim.fakes.machine import Machine
from tests.sim.scenarios import MOVE, MOVE_LOCAL, Scenario, prepare
from tests.sim.test_pause_everywhere import pause_at_each
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

    def judge(world: SimWorld) -> None:
        assert data(world) == [DATA], "the disk that it runs from is another one"

    await pause_at_each(base, scenario, writes_only=True, judge=judge)
