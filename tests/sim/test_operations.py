"""An operation that fails takes its wish back, whatever dies meanwhile; a Volume that two VMs name is one VM's."""

from __future__ import annotations

import pytest
from tests.sim.scenarios import start_all
from tests.sim.test_traces import running_world, starts
from tests.sim.world import NS, SimWorld

from lq_operator.api.base import Resource
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmoperation import VirtualMachineOperation
from lq_operator.api.volume import Volume
from lq_operator.core.model import DomainEvent, NodeName

GRACE_S = 300
DEADLINE_S = 30
STATE_DIR = "/srv/lq-vmstate"


def said(world: SimWorld, operation: str) -> tuple[str, str]:
    """(phase, reason) of an operation."""
    phase = world.raw(VirtualMachineOperation, NS, operation).get("status", {}).get("phase", "")
    stalled = world.condition(VirtualMachineOperation, NS, operation, "Stalled")
    return str(phase), str(stalled.get("reason", ""))


def wanted(world: SimWorld) -> tuple[str, str]:
    power = world.raw(VirtualMachine, NS, "vm")["status"]["power"]
    return power["wanted"], power.get("wantedBefore", "")


async def deaf_world() -> SimWorld:
    """One VM whose guest hears nothing, with a grace period far longer than the operations that follow."""
    world, _ = await running_world()
    world.vm(shutdown={"gracePeriodSeconds": GRACE_S})
    for machine in world.datacenter.machines.values():
        machine.obedient = False
    await world.run(5)
    return world


@pytest.mark.parametrize("crash", [False, True], ids=["", "crash"])
async def test_a_stop_that_failed_cuts_nobody_off_later(crash: bool) -> None:
    world = await deaf_world()
    stop = world.operation("Stop", deadlineSeconds=DEADLINE_S)
    await world.until(lambda: world.power() == "Stopping", "asked to stop")
    assert wanted(world) == ("Stopped", "Running")
    await world.until(lambda: said(world, stop)[0] == "Failed", "given up")
    if crash:
        # Everybody dies with the operation's last word written and the VM's perhaps not.
        world, dead = world.fork(), world
        await dead.close()
        start_all(world)
    assert said(world, stop) == ("Failed", "DeadlineExceeded")
    await world.until(world.running, "goes on running")
    await world.run(2 * GRACE_S)
    assert world.running()
    assert wanted(world) == ("Running", "")
    assert len(starts(world)) == 1
    await world.close()


async def test_a_stop_whose_operation_is_deleted_is_called_off() -> None:
    world = await deaf_world()
    stop = world.operation("Stop")
    await world.until(lambda: world.power() == "Stopping", "asked to stop")
    world.delete(VirtualMachineOperation, NS, stop)
    await world.until(world.running, "goes on running")
    await world.run(2 * GRACE_S)
    assert (world.running(), len(starts(world))) == (True, 1)
    await world.close()


async def test_a_start_that_failed_is_not_made_up_for_later() -> None:
    world, _ = await running_world()
    stop = world.operation("Stop")
    await world.until(lambda: said(world, stop)[0] == "Succeeded" and world.stopped(), "stopped")
    for name in world.datacenter.machines:
        world.datacenter.cut(name)
    start = world.operation("Start", deadlineSeconds=DEADLINE_S)
    await world.until(lambda: said(world, start)[0] == "Failed", "given up")
    for name in world.datacenter.machines:
        world.datacenter.restore(name)
    await world.until(lambda: world.hosts_ready(2), "hosts are back")
    await world.run(2 * GRACE_S)
    assert world.stopped()
    assert len(starts(world)) == 1
    await world.close()


async def test_what_a_failed_operation_superseded_counts_again() -> None:
    """Stop, then Suspend on a host that falls silent: neither was done, so it is wanted as before both."""
    world = await deaf_world()
    first = world.operation("Stop")
    await world.until(lambda: world.power() == "Stopping", "asked to stop")
    home = world.runs_on()[0]
    world.datacenter.cut(home)
    second = world.operation("Suspend", deadlineSeconds=DEADLINE_S)
    await world.until(lambda: said(world, second)[0] == "Failed", "given up")
    assert said(world, first) == ("Failed", "Superseded")
    world.datacenter.restore(home)
    await world.until(world.running, "goes on running")
    await world.run(2 * GRACE_S)
    assert (world.running(), wanted(world), len(starts(world))) == (True, ("Running", ""), 1)
    await world.close()


def attach(world: SimWorld, vm: str, *volumes: str) -> None:
    world.vm(vm, disks=[{"name": f"d{i}", "volumeRef": {"name": name}} for i, name in enumerate(volumes)])


async def world_with(*volumes: str) -> SimWorld:
    world = SimWorld()
    world.found(2)
    start_all(world)
    await world.until(lambda: world.hosts_ready(2), "hosts ready")
    for name in volumes:
        world.apply(Volume, NS, name, {"size": "1Gi"})
    return world


def waits_for_volume(world: SimWorld, vm: str) -> bool:
    return not world.runs_on(vm) and world.condition(VirtualMachine, NS, vm, "Stalled").get("reason") == "VolumeInUse"


def uses(world: SimWorld, kind: type[Resource], name: str) -> str:
    return str(world.condition(kind, NS, name).get("message", ""))


async def test_an_older_vm_does_not_take_the_volume_of_a_guest_that_runs() -> None:
    """The judge sees a disk that two QEMUs have open."""
    world = await world_with("x")
    attach(world, "old")
    await world.until(lambda: world.running("old"), "the older one runs, without it")
    attach(world, "young", "x")
    await world.until(lambda: world.running("young"), "the younger one runs with it")
    attach(world, "old", "x")
    restart = world.operation("Restart", "old")
    await world.until(lambda: waits_for_volume(world, "old"), "the older one waits for it")
    await world.run(60)
    assert waits_for_volume(world, "old")
    assert world.running("young")
    # Taken out of the younger one's spec, but its guest still has it.
    attach(world, "young")
    await world.run(60)
    assert waits_for_volume(world, "old")
    again = world.operation("Restart", "young")
    await world.until(lambda: said(world, again)[0] == "Succeeded", "the younger one runs without it")
    await world.until(lambda: world.running("old"), "the older one has it")
    assert said(world, restart)[0] in ("Succeeded", "Failed")
    assert world.judge.broken == []
    await world.close()


async def test_two_that_begin_at_once_with_one_volume() -> None:
    world = await world_with("x")
    attach(world, "b", "x")
    attach(world, "a", "x")
    await world.until(lambda: world.running("a") or world.running("b"), "one runs")
    await world.run(30)
    first, second = ("a", "b") if world.running("a") else ("b", "a")
    assert waits_for_volume(world, second)
    assert first in uses(world, VirtualMachine, second)
    world.delete(name=first)
    await world.until(lambda: world.running(second), "the other has it")
    assert world.judge.broken == []
    await world.close()


async def test_a_volume_in_use_is_deleted_once_its_disk_is_out_and_the_guest_is_new() -> None:
    world = await world_with("x")
    attach(world, "vm", "x")
    await world.until(world.running, "runs with it")
    world.delete(Volume, NS, "x")
    attach(world, "vm")
    await world.run(60)
    assert "in use by VirtualMachine vm" in uses(world, Volume, "x")
    restart = world.operation("Restart")
    await world.until(lambda: said(world, restart)[0] == "Succeeded", "restarted")
    await world.until(lambda: not world.raw(Volume, NS, "x"), "deleted")
    await world.close()


async def test_a_device_that_came_later_keeps_its_place_too() -> None:
    world = await world_with("x", "y", "z")
    attach(world, "vm", "x", "y")
    await world.until(world.running, "runs")
    first = places(world)
    assert {"disk/d0", "disk/d1", "nic/eth0"} == set(first)
    attach(world, "vm", "x", "y", "z")
    restart = world.operation("Restart")
    await world.until(lambda: said(world, restart)[0] == "Succeeded" and world.running(), "restarted with a third")
    second = places(world)
    assert set(second) == {*first, "disk/d2"}
    assert {device: second[device] for device in first} == first
    # One that is gone gives its place back; the others stay where they were.
    world.vm(disks=[{"name": "d0", "volumeRef": {"name": "x"}}, {"name": "d2", "volumeRef": {"name": "z"}}])
    restart = world.operation("Restart")
    await world.until(lambda: said(world, restart)[0] == "Succeeded" and world.running(), "restarted without one")
    third = places(world)
    assert third == {device: place for device, place in second.items() if device != "disk/d1"}
    await world.close()


def places(world: SimWorld) -> dict[str, str]:
    return {
        slot["device"]: slot["address"] for slot in world.raw(VirtualMachine, NS, "vm")["status"]["hardware"]["slots"]
    }


async def test_a_watchdog_that_fired_is_told() -> None:
    world, operator = await running_world()
    world.vm(watchdog="reset")
    home = world.runs_on()[0]
    machine = world.datacenter.machines[home]
    name = next(iter(machine.domains))
    machine.emit(DomainEvent(NodeName(home), name, "watchdog", "reset"))
    machine.emit(DomainEvent(NodeName(home), "somebody-elses", "watchdog", "reset"))
    await world.run(5)
    told = [event for event in operator.events.emitted if event.reason == "WatchdogFired"]
    assert [(event.key, event.warning) for event in told] == [(f"{NS}/vm", True)]
    assert f"{home}: reset" in told[0].message
    assert world.running()
    await world.close()


@pytest.mark.parametrize("half", [False, True], ids=["", "half-written"])
async def test_places_survive_the_loss_of_the_api_server(half: bool) -> None:
    """A VM that was stopped when etcd was lost: nothing but the file beside its state knows where its devices were."""
    world = await world_with("x", "y", "z")
    attach(world, "vm", "x", "y", "z")
    await world.until(world.running, "runs")
    attach(world, "vm", "x", "y")
    restart = world.operation("Restart")
    await world.until(lambda: said(world, restart)[0] == "Succeeded" and world.running(), "runs with two")
    await world.run(10)
    had = places(world)
    assert had["nic/eth0"] != "0000:03:00.0", "chosen anew it would be there"
    stop = world.operation("Stop")
    await world.until(lambda: said(world, stop)[0] == "Succeeded" and world.stopped(), "stopped")
    assert len(kept(world)) == 1, "the older one is deleted"
    if half:
        # A process died while it wrote a newer one.
        next(iter(world.datacenter.machines.values())).put_file(f"{STATE_DIR}/hardware_{NS}_vm_99999-1.json")
    await world.close()
    world = world.fork()
    world.wipe()
    world.manifests(2)
    start_all(world)
    await world.until(lambda: world.hosts_ready(2), "taken back")
    for name in ("x", "y"):
        world.apply(Volume, NS, name, {"size": "1Gi"})
    attach(world, "vm", "x", "y")
    await world.until(world.running, "runs again")
    assert places(world) == had
    world.delete()
    await world.until(world.gone, "deleted")
    assert not kept(world)
    await world.close()


def kept(world: SimWorld) -> set[str]:
    """Files that say what a guest sees."""
    files = [m._files(STATE_DIR) or {} for m in world.datacenter.machines.values()]
    return {name for folder in files for name in folder if name.startswith("hardware_")}
