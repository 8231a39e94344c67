"""CD-ROM drives with the real controllers: media come and go under the guest, a locked tray waits, a move takes them along."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sim.test_moves import other, status
from tests.sim.test_traces import running_world
from tests.sim.world import NS, SimWorld

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.volume import Volume

DISC = {"name": "cd", "medium": {"volumeRef": {"name": "disc"}}}
EMPTY: dict[str, Any] = {"name": "cd"}


def inside(world: SimWorld) -> list[str]:
    """What lies in the guest's drives, by its host."""
    live = [d.live for m in world.datacenter.machines.values() for d in m.domains.values() if d.live is not None]
    return [drive.path.rpartition("/")[2] for drive in live[0].cdroms]


def drives(world: SimWorld) -> list[dict[str, Any]]:
    return list(world.raw(VirtualMachine, NS, "vm")["status"].get("cdroms", []))


def changes(world: SimWorld) -> dict[str, str]:
    found = world.raw(VirtualMachine, NS, "vm")["status"].get("changes", [])
    return {change["path"]: change.get("message", "") for change in found}


async def with_disc(access: str = "Shared", **drive: Any) -> SimWorld:
    """A guest that runs with an empty drive, into which a disc is put then."""
    world, _ = await running_world(access=access)
    world.vm(cdroms=[EMPTY])
    await world.until(lambda: set(changes(world)) == {"spec.cdroms[cd].name"}, "a drive waits for a power cycle")
    assert inside(world) == []
    world.operation("Restart")
    await world.until(lambda: bool(drives(world)) and world.running() and not changes(world), "restarted with a drive")
    assert inside(world) == [""]
    world.apply(Volume, NS, "disc", {"size": "1Gi"})
    world.vm(cdroms=[DISC | drive])
    await world.until(lambda: "disc" in "".join(inside(world)), "put in")
    await world.until(lambda: world.running() and not changes(world), "nothing is pending")
    assert drives(world)[0]["inserted"] == "disc"
    return world


async def test_a_locked_tray_waits_and_is_opened_when_that_is_asked_for() -> None:
    world = await with_disc()
    machine = world.datacenter.machines[world.runs_on()[0]]
    machine.hotplug.holds.add("cdrom/cd")
    world.vm(cdroms=[EMPTY])
    await world.until(lambda: "forceEject" in "".join(changes(world).values()), "says how to get on")
    await world.run(60)
    assert "disc" in inside(world)[0]
    # What a guest may have open is not deleted, though no spec names it any more.
    assert drives(world)[0]["inserted"] == "disc"
    world.delete(Volume, NS, "disc")
    await world.run(30)
    assert world.condition(Volume, NS, "disc", "Ready").get("reason") == "InUse"
    world.vm(cdroms=[EMPTY | {"forceEject": True}])
    await world.until(lambda: inside(world) == [""], "ejected")
    await world.until(lambda: not world.api.raw_list(Volume) or len(world.api.raw_list(Volume)) == 1, "disc is deleted")
    assert world.judge.starts_of("vm") == 2
    await world.close()


async def test_a_tray_that_is_let_go_opens_by_itself_soon() -> None:
    world = await with_disc()
    machine = world.datacenter.machines[world.runs_on()[0]]
    machine.hotplug.holds.add("cdrom/cd")
    world.vm(cdroms=[EMPTY])
    await world.run(120)  # many refusals
    assert "disc" in inside(world)[0]
    machine.hotplug.holds.clear()
    await world.until(lambda: inside(world) == [""], "ejected", limit_s=15)
    await world.close()


@pytest.mark.parametrize("access", ["Shared", "Local"])
async def test_a_move_takes_a_medium_along_where_the_target_has_it(access: str) -> None:
    world = await with_disc(access)
    away = other(world)
    world.move(targetNode=away)
    await world.until(world.settled, "the move has ended")
    if access == "Shared":
        assert (world.runs_on(), world.move_phase()) == ([away], "Succeeded")
    else:
        assert world.move_phase() == "Refused"
        assert [(o["what"], o["name"]) for o in status(world)["obstacles"]] == [("Cdrom", "cd")]
        world.vm(cdroms=[EMPTY])
        await world.until(lambda: inside(world) == [""], "ejected")
        world.move("again", targetNode=away)
        await world.until(lambda: world.settled("again"), "the move has ended")
        assert (world.runs_on(), world.move_phase("again")) == ([away], "Succeeded")
    await world.run(30)
    assert len(inside(world)) == 1
    await world.close()
