"""Maintenance of a host with the real controllers: who leaves, who stays and why, what is taken back."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sim.fakes.calls import Call
from tests.sim.scenarios import Scenario, prepare, reach, start_all
from tests.sim.test_crash_everywhere import crash_points
from tests.sim.test_traces import cordon, names, running_world, starts
from tests.sim.world import NS, SimWorld

from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.core.result import Rejected

LABEL = "limiquantix.io/maintenance"


def maintain(world: SimWorld, node: str, *, on: bool = True) -> None:
    """kubectl patch."""
    spec = dict(world.raw(HypervisorNode, None, node)["spec"]) | {"maintenance": on}
    world.apply(HypervisorNode, None, node, spec)


def said(world: SimWorld, node: str) -> dict[str, Any]:
    """status.maintenance."""
    return dict(world.raw(HypervisorNode, None, node)["status"].get("maintenance") or {})


def in_maintenance(world: SimWorld, node: str) -> bool:
    return world.condition(HypervisorNode, None, node, "InMaintenance").get("status") == "True"


def stays(world: SimWorld, node: str) -> dict[str, str]:
    """VM -> reason."""
    return {blocker["name"]: blocker["reason"] for blocker in said(world, node).get("blockers", ())}


def moves(world: SimWorld, *, unfinished: bool = False) -> list[str]:
    """Names of VMs with a move of ours."""
    found = [m for m in world.api.raw_list(VirtualMachineMigration) if LABEL in m["metadata"].get("labels", {})]
    ended = ("Succeeded", "Failed", "Cancelled", "Refused")
    if unfinished:
        found = [m for m in found if m.get("status", {}).get("phase") not in ended]
    return sorted(m["spec"]["vmRef"]["name"] for m in found)


def evacuated(world: SimWorld) -> bool:
    """Exactly one host is in maintenance, and the guest runs on another."""
    empty = [name for name in world.datacenter.machines if in_maintenance(world, name)]
    return len(empty) == 1 and world.running() and world.runs_on() != empty and moves(world, unfinished=True) == []


def settled(world: SimWorld) -> bool:
    nodes = [world.raw(HypervisorNode, None, name) for name in world.datacenter.machines]
    in_service = not any(node["spec"].get("maintenance") or node["status"].get("maintenance") for node in nodes)
    return in_service and world.running() and moves(world, unfinished=True) == []


def call_off(world: SimWorld) -> None:
    """A change of mind once it is on its way."""
    for name in world.datacenter.machines:
        if said(world, name).get("moving") or in_maintenance(world, name):
            maintain(world, name, on=False)


def begin(world: SimWorld) -> None:
    maintain(world, world.runs_on()[0])


BEFORE = (lambda world: world.vm(), lambda world: world.running())
DRAIN = Scenario("drain", begin, evacuated, BEFORE)
DRAIN_CALLED_OFF = Scenario("drain-called-off", begin, settled, BEFORE, call_off)


async def test_an_empty_host_gets_there_and_takes_nothing_new() -> None:
    world, _ = await running_world(2)
    empty = next(name for name in ("h1", "h2") if name not in world.runs_on())
    maintain(world, empty)
    await world.until(lambda: in_maintenance(world, empty), "in maintenance")
    for name in ("b", "c"):
        world.vm(name)
    await world.until(lambda: world.running("b") and world.running("c"), "placed elsewhere")
    assert empty not in world.runs_on("b") + world.runs_on("c")
    maintain(world, empty, on=False)
    await world.until(lambda: not in_maintenance(world, empty) and not said(world, empty), "back to service")
    world.vm("d")
    await world.until(lambda: world.running("d"), "d runs")
    assert world.runs_on("d") == [empty]
    await world.close()


async def test_a_guest_that_ends_there_starts_elsewhere() -> None:
    """Also when the host reboots under those that could not be moved."""
    world, _ = await running_world(2)
    home = world.runs_on()[0]
    maintain(world, home)
    await world.until(lambda: moves(world, unfinished=True) == ["vm"], "a move is asked for")
    world.datacenter.power_off(home)
    await world.until(lambda: stays(world, home) == {} or stays(world, home) == {"vm": "Unknown"}, "silent")
    world.datacenter.restore(home)
    await world.until(lambda: world.running() and world.runs_on() != [home], "runs elsewhere")
    await world.until(lambda: in_maintenance(world, home), "empty")
    assert moves(world, unfinished=True) == []
    assert len(starts(world)) == 2
    await world.close()


async def test_an_operation_that_stops_it_is_a_way_out() -> None:
    world, _ = await running_world(2)
    home = world.runs_on()[0]
    world.vm(placement={"nodeSelector": {"limiquantix.io/host": home}})
    maintain(world, home)
    await world.until(lambda: stays(world, home) == {"vm": "Rule"}, "pinned")
    assert said(world, home)["phase"] == "Blocked"
    assert moves(world) == []
    world.operation("Stop")
    await world.until(lambda: in_maintenance(world, home), "empty")
    await world.close()


def under_way(world: SimWorld) -> int:
    """Transfers between hosts."""
    return sum(not move.over for move in world.datacenter.moves.all)


async def crowded_world(vms: int = 6) -> SimWorld:
    """All on h1; h2 and h3 are empty."""
    world = SimWorld()
    world.found(3)
    start_all(world)
    await world.until(lambda: world.hosts_ready(3), "hosts ready")
    for node in ("h2", "h3"):
        cordon(world, node)
    for name in names(vms):
        world.vm(name)
    await world.until(lambda: all(world.running(name) for name in names(vms)), "VMs running")
    for node in ("h2", "h3"):
        cordon(world, node, on=False)
    await world.run(5)
    return world


async def calm_while_restarting(world: SimWorld, node: str) -> None:
    """What was said is not taken back by a process that knows nothing yet."""
    before = world.raw(HypervisorNode, None, node)["status"]["maintenance"]
    await restart(world)
    for _ in range(40):
        await world.run(1)
        assert world.raw(HypervisorNode, None, node)["status"]["maintenance"] == before
    heard = [reason for process in world.processes for reason in process.events.reasons()]
    assert "CannotBeMoved" not in heard
    assert "Blocked" not in heard


async def restart(world: SimWorld) -> None:
    """kill -9 of both processes; others take over."""
    for process in list(world.processes):
        await process.crash()
    start_all(world)


async def test_what_can_leave_does_whoever_dies_and_the_rest_is_named() -> None:
    """Never more at once than the host may send; no guest is started again; a reboot of the empty host changes nothing."""
    world = await crowded_world()
    world.vm("vm2", placement={"nodeSelector": {"limiquantix.io/host": "h1"}})
    world.operation("Pause", "vm3")
    await world.until(lambda: world.power("vm3") == "Paused", "paused")
    most = 0

    def left(count: int) -> bool:
        nonlocal most
        most = max(most, under_way(world))
        return sum(world.runs_on(name) == ["h1"] for name in names(6)) <= count

    maintain(world, "h1")
    for count in (5, 3):
        await world.until(lambda c=count: left(c), f"{count} left")  # type: ignore[misc]
        await restart(world)
    await world.until(lambda: left(2) and said(world, "h1").get("phase") == "Blocked", "the rest stays")
    assert stays(world, "h1") == {"vm2": "Rule", "vm3": "Power"}
    assert most == 2
    await calm_while_restarting(world, "h1")
    assert stays(world, "h1") == {"vm2": "Rule", "vm3": "Power"}
    world.vm("vm2")
    world.operation("Resume", "vm3")
    await world.until(lambda: in_maintenance(world, "h1"), "empty")
    assert all(world.running(name) for name in names(6))
    assert [len(starts(world, name)) for name in names(6)] == [1] * 6
    world.datacenter.power_off("h1")
    await world.run(60)
    world.datacenter.restore("h1")
    await world.until(lambda: world.hosts_ready(3), "booted")
    assert in_maintenance(world, "h1")
    maintain(world, "h1", on=False)
    await world.until(lambda: not said(world, "h1"), "back to service")
    await world.run(60)
    assert moves(world, unfinished=True) == []
    assert not world.datacenter.machines["h1"].domains
    await world.close()


@pytest.mark.parametrize("crash", [False, True], ids=["", "crash"])
async def test_called_off_halfway_everybody_stays_where_he_is(crash: bool) -> None:
    world = await crowded_world()
    maintain(world, "h1")
    await world.until(lambda: len(moves(world)) > 2 and under_way(world) > 0, "halfway")
    if crash:
        for process in list(world.processes):
            await process.crash()
    maintain(world, "h1", on=False)
    if crash:
        start_all(world)
    await world.until(lambda: moves(world, unfinished=True) == [] and not said(world, "h1"), "taken back")
    await world.until(lambda: all(world.running(name) for name in names(6)), "all run")
    where = {name: world.runs_on(name) for name in names(6)}
    await world.run(120)
    assert where == {name: world.runs_on(name) for name in names(6)}
    assert 0 < sum(on == ["h1"] for on in where.values()) < 6
    assert [len(starts(world, name)) for name in names(6)] == [1] * 6
    await world.close()


async def test_without_room_all_wait_and_are_named() -> None:
    world, _ = await running_world(1, vms=3)
    maintain(world, "h1")
    await world.until(lambda: list(stays(world, "h1").values()) == ["NoRoom"] * 3, "named")
    assert said(world, "h1")["phase"] == "Blocked"
    await world.run(3700)
    assert sorted(set(stays(world, "h1").values()) - {"Failed"}) == ["NoRoom"]
    maintain(world, "h1", on=False)
    await world.until(lambda: moves(world) == [], "taken back")
    assert all(world.running(name) and len(starts(world, name)) == 1 for name in names(3))
    await world.close()


async def test_a_move_that_fails_is_tried_again_later_and_said() -> None:
    world, operator = await running_world(2)
    home = world.runs_on()[0]
    operator.tracer.before = refuse_moves
    maintain(world, home)
    await world.until(lambda: stays(world, home) == {"vm": "Failed"}, "named after three attempts")
    assert len(moves(world)) == 3
    await world.run(200)
    assert len(moves(world)) == 3
    operator.tracer.before = nothing
    await world.until(lambda: in_maintenance(world, home), "the next attempt succeeds", limit_s=900)
    assert len(starts(world)) == 1
    await world.close()


def refuse_moves(call: Call) -> None:
    """The source's libvirtd says no."""
    if call.room == "host" and call.verb == "move":
        raise Rejected("operation failed: the network broke")


def nothing(call: Call) -> None:
    del call


@pytest.mark.parametrize("scenario", [DRAIN, DRAIN_CALLED_OFF], ids=lambda s: s.name)
async def test_a_crash_anywhere(scenario: Scenario) -> None:
    base = await prepare(scenario)
    points, end = await crash_points(base, scenario)
    assert len(points) > 10
    failures = []
    for label, world in points.items():
        start_all(world)
        try:
            await reach(world, scenario)
            assert world.leftovers() == end
            assert len(starts(world)) == 1
        except AssertionError as problem:
            failures.append(f"crash {label}:\n{problem}")
        await world.close()
    assert not failures, f"{len(failures)} of {len(points)}:\n" + "\n\n".join(failures[:3])


async def test_two_owners_make_no_second_move() -> None:
    """The first is stopped right before it creates; its successor creates; what the first then does is refused."""
    world, late = await running_world(1)
    late.tracer.pause_when = lambda call: call.verb == "create" and "Migration" in call.about
    maintain(world, "h1")
    await world.until(lambda: late.tracer.paused, "about to create")
    late.pause()
    world.operator()
    await world.until(lambda: moves(world) == ["vm"], "its successor did")
    await late.late_deeds()
    await world.run(30)
    assert moves(world) == ["vm"]
    await world.close()


async def test_the_node_says_so_and_the_vm_too() -> None:
    world, operator = await running_world(1)
    world.operation("Pause")
    await world.until(lambda: world.power() == "Paused", "paused")
    maintain(world, "h1")
    await world.until(lambda: stays(world, "h1") == {"vm": "Power"}, "named")
    assert "CannotBeMoved" in operator.events.reasons(f"{NS}/vm")
    assert operator.events.reasons("h1")[-1] == "Blocked"
    assert world.condition(HypervisorNode, None, "h1")["reason"] == "Maintenance"
    assert world.raw(VirtualMachine, NS, "vm")["status"]["placement"]["node"] == "h1"
    await world.close()
