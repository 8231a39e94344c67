"""Changes of a running guest through ports.Host. What needs a guest that answers (letting a device go) is in tests/e2e."""

from __future__ import annotations

import dataclasses

import pytest
from tests.contract.host.conftest import Site
from tests.contract.host.worlds import HostWorld

from lq_operator.core.lifecycle.changes import changes_of
from lq_operator.core.lifecycle.shape import shape_of
from lq_operator.core.model import CdromPlan, DomainPlan, Epoch, NetworkPlan, NicPlan
from lq_operator.core.result import Conflict, NotFound, Rejected

RECORD = (("spec.cpu.model", ""), ("spec.interfaces[eth0].addressing", "Claim"))


async def started(world: HostWorld, site: Site, **changes: object) -> DomainPlan:
    """A guest with room to grow, a disk and a NIC; paused, for there is nothing to boot."""
    for name in ("a", "b"):
        await world.host.ensure_network(NetworkPlan(f"lq-{name}-{site.tag}", "isolated"))
    fields: dict[str, object] = {
        "vcpus_max": 4,
        "memory_mib": 64,
        "memory_max_mib": 256,
        "disks": (await site.disk("root"),),
        "nics": (NicPlan("eth0", "02:00:00:00:00:01", network=f"lq-a-{site.tag}"),),
        "hotplug_ports": 6,
        "record": RECORD,
    }
    plan = site.plan(await site.gate(), **(fields | changes))
    await world.host.define(plan)
    await world.host.start(plan.identity.domain_name, paused=True)
    return plan


async def test_a_started_guest_is_what_its_plan_says(world: HostWorld, site: Site) -> None:
    plan = await started(world, site)
    shape = await world.host.read_shape(plan.identity.domain_name)
    assert shape == shape_of(plan)
    assert changes_of(shape, shape_of(plan)) == ()


async def test_a_guest_that_does_not_run_has_no_shape(world: HostWorld, site: Site) -> None:
    plan = site.plan(await site.gate())
    with pytest.raises(NotFound):
        await world.host.read_shape(plan.identity.domain_name)
    await world.host.define(plan)
    for verb in (
        world.host.read_shape(plan.identity.domain_name),
        world.host.set_vcpus(plan.identity.domain_name, 2),
        world.host.detach_disk(plan.identity.domain_name, "root"),
        world.host.set_marks(plan.identity.domain_name, spec_hash="x", record=()),
    ):
        with pytest.raises(Conflict):
            await verb


async def test_vcpus_are_added_up_to_the_room_and_never_taken_away(world: HostWorld, site: Site) -> None:
    plan = await started(world, site)
    name = plan.identity.domain_name
    await world.host.set_vcpus(name, 3)
    await world.host.set_vcpus(name, 3)  # as wished already
    assert (await world.host.read_shape(name)).vcpus == 3
    with pytest.raises(Rejected):
        await world.host.set_vcpus(name, 5)
    with pytest.raises(Rejected):
        await world.host.set_vcpus(name, 2)
    assert (await world.host.read_shape(name)).vcpus == 3


async def test_memory_is_asked_of_the_guest_up_to_the_room(world: HostWorld, site: Site) -> None:
    plan = await started(world, site)
    name = plan.identity.domain_name
    await world.host.set_memory(name, 128)
    await world.host.set_memory(name, 128)
    shape = await world.host.read_shape(name)
    assert (shape.added_memory_mib, shape.boot_memory_mib, shape.memory_max_mib) == (64, 64, 256)
    with pytest.raises(Rejected):
        await world.host.set_memory(name, 512)
    await world.host.set_memory(name, 64)
    assert (await world.host.read_shape(name)).added_memory_mib == 0


async def test_cpu_time_is_weighed_and_limited_where_the_host_can(world: HostWorld, site: Site) -> None:
    """The lab's hosts have no cgroup controllers: there the refusal names what is missing, and nothing has changed."""
    plan = await started(world, site)
    name = plan.identity.domain_name
    if not hasattr(world, "hold"):  # real hosts
        with pytest.raises(Rejected, match="cgroup controller cpu"):
            await world.host.set_cpu_tuning(name, shares=2048, quota_percent=50)
        assert await world.host.read_shape(name) == shape_of(plan)
        return
    await world.host.set_cpu_tuning(name, shares=2048, quota_percent=50)
    shape = await world.host.read_shape(name)
    assert (shape.cpu_shares, shape.cpu_quota_percent) == (2048, 50)
    await world.host.set_cpu_tuning(name, shares=0, quota_percent=0)
    shape = await world.host.read_shape(name)
    assert (shape.cpu_shares, shape.cpu_quota_percent) == (2048, 0)


async def test_a_disk_is_attached_once_and_follows_into_the_definition(world: HostWorld, site: Site) -> None:
    plan = await started(world, site)
    name, more = plan.identity.domain_name, await site.disk("more")
    wished = dataclasses.replace(plan, disks=(*plan.disks, more))
    await world.host.attach_disk(wished, "more")
    await world.host.attach_disk(wished, "more")
    assert {disk.name for disk in (await world.host.read_shape(name)).disks} == {"root", "more"}
    assert "disk/more" in dict((await world.host.read_hardware(name)).targets)
    other = dataclasses.replace(more, path=(await site.disk("other")).path)
    with pytest.raises(Conflict):
        await world.host.attach_disk(dataclasses.replace(plan, disks=(*plan.disks, other)), "more")
    await world.host.destroy(name)
    await world.host.start(name, paused=True)  # as it is defined now
    assert {disk.name for disk in (await world.host.read_shape(name)).disks} == {"root", "more"}


async def test_a_disk_without_its_file_is_refused_and_the_guest_stays_as_it_was(world: HostWorld, site: Site) -> None:
    plan = await started(world, site)
    missing = dataclasses.replace(await site.disk("more"), path=f"{site.pool.path}/nothing")
    with pytest.raises(Rejected):
        await world.host.attach_disk(dataclasses.replace(plan, disks=(*plan.disks, missing)), "more")
    assert await world.host.read_shape(plan.identity.domain_name) == shape_of(plan)


async def test_the_first_disk_on_scsi_brings_its_controller(world: HostWorld, site: Site) -> None:
    plan = await started(world, site)
    more = dataclasses.replace(await site.disk("more"), bus="scsi")
    await world.host.attach_disk(dataclasses.replace(plan, disks=(*plan.disks, more)), "more")
    assert [d.bus for d in (await world.host.read_shape(plan.identity.domain_name)).disks] == ["scsi", "virtio"]


async def test_a_disk_is_limited_and_grows(world: HostWorld, site: Site) -> None:
    plan = await started(world, site)
    name = plan.identity.domain_name
    limited = dataclasses.replace(plan.disks[0], iops=200, bytes_per_second=1 << 20)
    await world.host.set_disk_limits(dataclasses.replace(plan, disks=(limited,)), "root")
    (disk,) = (await world.host.read_shape(name)).disks
    assert (disk.iops, disk.bytes_per_second) == (200, 1 << 20)
    await world.host.set_disk_limits(plan, "root")
    assert (await world.host.read_shape(name)).disks == shape_of(plan).disks
    await world.host.grow_disk(name, "root", 3 << 20)
    await world.host.grow_disk(name, "root", 2 << 20)  # never smaller
    seen = {volume.name: volume for volume in await world.host.list_volumes(site.pool.name, refresh=True)}
    assert seen["root"].capacity_bytes == 3 << 20
    with pytest.raises(NotFound):
        await world.host.grow_disk(name, "nothing", 1 << 20)


@pytest.mark.parametrize("bus", ["sata", "scsi"])
async def test_a_medium_is_put_in_exchanged_and_taken_out(world: HostWorld, site: Site, bus: str) -> None:
    one, other = (await site.disk("one")).path, (await site.disk("other")).path
    plan = await started(world, site, cdroms=(CdromPlan("cd", bus=bus, boot_order=3), CdromPlan("two", one, bus=bus)))
    name = plan.identity.domain_name
    assert (await world.host.read_shape(name)).cdroms == shape_of(plan).cdroms
    targets = dict((await world.host.read_hardware(name)).targets)
    assert {"cdrom/cd", "cdrom/two"} <= set(targets)
    for path in (one, one, other, ""):  # the first one lies in the second drive, too: who reads may share
        wished = dataclasses.replace(plan, cdroms=(dataclasses.replace(plan.cdroms[0], path=path), plan.cdroms[1]))
        await world.host.set_medium(wished, "cd", force=False)
        assert (await world.host.read_shape(name)).cdroms == shape_of(wished).cdroms
    missing = dataclasses.replace(plan, cdroms=(dataclasses.replace(plan.cdroms[0], path=f"{site.pool.path}/nothing"),))
    with pytest.raises(Rejected):
        await world.host.set_medium(missing, "cd", force=False)
    with pytest.raises(NotFound):
        await world.host.set_medium(dataclasses.replace(plan, cdroms=(CdromPlan("three"),)), "three", force=False)
    kept = dataclasses.replace(plan, cdroms=(plan.cdroms[0], dataclasses.replace(plan.cdroms[1], path=other)))
    await world.host.set_medium(kept, "two", force=True)
    await world.host.destroy(name)
    await world.host.start(name, paused=True)  # as it is defined now
    assert (await world.host.read_shape(name)).cdroms == shape_of(kept).cdroms
    assert dict((await world.host.read_hardware(name)).targets) == targets


async def test_a_nic_is_attached_and_plugged_elsewhere(world: HostWorld, site: Site) -> None:
    plan = await started(world, site)
    name, other = plan.identity.domain_name, f"lq-b-{site.tag}"
    eth1 = NicPlan("eth1", "02:00:00:00:00:02", network=other)
    wished = dataclasses.replace(plan, nics=(dataclasses.replace(plan.nics[0], network=other, link_up=False), eth1))
    await world.host.attach_nic(wished, "eth1")
    await world.host.attach_nic(wished, "eth1")
    await world.host.update_nic(wished, "eth0")
    await world.host.update_nic(wished, "eth0")
    assert (await world.host.read_shape(name)).nics == shape_of(wished).nics
    await world.host.update_nic(plan, "eth0")
    assert (await world.host.read_shape(name)).nics[0] == shape_of(plan).nics[0]
    with pytest.raises(NotFound):
        await world.host.update_nic(dataclasses.replace(plan, nics=(dataclasses.replace(eth1, name="eth9"),)), "eth9")


async def test_a_guest_that_holds_a_device_has_it_still(world: HostWorld, site: Site) -> None:
    """It is paused, so nobody answers: no error, and nothing is taken for done."""
    plan = await started(world, site)
    if hasattr(world, "hold"):
        world.hold("disk/root")
    await world.host.detach_disk(plan.identity.domain_name, "root")
    assert [disk.name for disk in (await world.host.read_shape(plan.identity.domain_name)).disks] == ["root"]
    await world.host.detach_nic(plan.identity.domain_name, "nothing")  # gone already


async def test_marks_change_and_identity_and_epoch_stay(world: HostWorld, site: Site) -> None:
    plan = await started(world, site)
    name = plan.identity.domain_name
    newer = await site.gate("gate-2-bb")
    await world.host.define(dataclasses.replace(plan, epoch=Epoch(2, 1), gate_path=newer))
    await world.host.set_marks(name, spec_hash="beef", record=(("spec.cpu.model", "Haswell"),))
    seen = await world.host.find_domain(name)
    assert seen is not None
    assert (seen.spec_hash, seen.epoch, seen.uid, seen.identity) == ("beef", Epoch(1, 1), plan.uid, plan.identity)
    assert (await world.host.read_shape(name)).record == (("spec.cpu.model", "Haswell"),)
    await world.host.destroy(name)
    seen = await world.host.find_domain(name)
    assert seen is not None
    assert (seen.epoch, seen.gate) == (Epoch(2, 1), "gate-2-bb")
