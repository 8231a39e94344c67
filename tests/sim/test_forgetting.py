"""The API server forgets: etcd lost and manifests applied again, an old snapshot restored, each with a host cut off."""

from __future__ import annotations

import pytest
from tests.sim.test_traces import PATIENCE_S, cordon, names, running_world, starts

from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.hostset import HostSet
from lq_operator.controllers.node.controller import NOTE_S

VMS = 6


@pytest.mark.parametrize("order", ["vms-first", "hosts-first"])
async def test_wiped_and_applied_again_no_guest_notices(order: str) -> None:
    world, old = await running_world(3, vms=VMS)
    homes = {name: world.runs_on(name) for name in names(VMS)}
    await old.crash()
    world.wipe()
    if order == "hosts-first":
        world.manifests(3)
        world.operator()
        await world.run(20)
    for name in names(VMS):
        world.vm(name)
    if order == "vms-first":
        world.operator()
        await world.run(20)
        world.manifests(3)
    await world.until(lambda: all(world.running(name) for name in names(VMS)), "all bound")
    await world.run(PATIENCE_S)
    assert {name: world.runs_on(name) for name in names(VMS)} == homes
    assert all(len(starts(world, name)) == 1 for name in names(VMS))
    await world.close()


async def test_wiped_with_a_host_cut_off_its_guests_wait_and_bind_when_it_returns() -> None:
    world, old = await running_world(3, vms=VMS)
    homes = {name: world.runs_on(name) for name in names(VMS)}
    away = homes["vm"][0]
    world.datacenter.cut(away)
    await old.crash()
    world.wipe()
    world.manifests(3)
    for name in names(VMS):
        world.vm(name)
    world.operator()
    there = [name for name in names(VMS) if homes[name] == [away]]
    await world.until(lambda: all(world.running(n) for n in names(VMS) if n not in there), "the others bound")
    await world.run(PATIENCE_S)
    for name in there:
        assert world.condition(VirtualMachine, "web", name)["reason"] == "InventoryIncomplete"
    world.datacenter.restore(away)
    await world.until(lambda: all(world.running(name) for name in names(VMS)), "all bound")
    assert {name: world.runs_on(name) for name in names(VMS)} == homes
    assert all(len(starts(world, name)) == 1 for name in names(VMS))
    await world.close()


@pytest.mark.parametrize("leases_in_api", [True, False], ids=["lease-restored-too", "lease-still-good"])
@pytest.mark.parametrize("cut", [False, True], ids=["all-hosts", "new-home-cut-off"])
async def test_restored_from_before_a_stop_and_a_start_elsewhere(cut: bool, leases_in_api: bool) -> None:
    world, operator = await running_world(2)
    world.leases_in_api = leases_in_api
    first = world.runs_on()[0]
    before = world.snapshot()
    cordon(world, first)
    world.vm(powerState="Stopped")
    await world.until(world.stopped, "stopped")
    world.vm(powerState="Running")
    await world.until(world.running, "runs elsewhere")
    second = world.runs_on()[0]
    assert second != first
    if cut:
        world.datacenter.cut(second)
        await world.run(30)
    await operator.crash()
    world.restore(before)
    world.operator()
    await world.run(PATIENCE_S)
    assert world.runs_on() == [second]
    if cut:
        assert not world.running()
        world.datacenter.restore(second)
    await world.until(world.running, "found where it runs")
    await world.run(PATIENCE_S)
    assert world.runs_on() == [second]
    assert len(starts(world)) == 2
    await world.close()


@pytest.fixture
def signs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every sentence by which an operator concludes that the API server went back."""
    heard: list[str] = []
    was = HostSet.api_went_back

    def hear(hosts: HostSet, sentence: str) -> None:
        heard.append(sentence)
        was(hosts, sentence)

    monkeypatch.setattr(HostSet, "api_went_back", hear)
    return heard


async def test_hosts_that_remember_a_later_beat_tell_that_the_leases_were_restored(signs: list[str]) -> None:
    world, old = await running_world(2)
    before = world.snapshot()
    await world.run(2 * NOTE_S + 5)
    await old.crash()
    world.restore(before)
    world.operator()
    await world.until(lambda: len(signs) >= 2, "both hosts say so")
    assert all("remembers term" in sentence for sentence in signs)
    await world.close()


async def test_a_successor_that_waited_long_does_not_take_a_renewed_lease_for_a_restored_one(signs: list[str]) -> None:
    world, old = await running_world(2)
    successor = world.operator()
    await world.run(4 * NOTE_S + 5)
    await old.crash()
    await world.until(lambda: successor.hosts is not None and len(successor.hosts.book.all()) == 2, "taken over")
    assert signs == []
    assert world.running()
    await world.close()
