"""Live moves between two hosts as the protocol leans on them, on every implementation in pairs.PAIRS.

After every way to fail: the guest runs on exactly one host, and both hosts say which.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator

import pytest
from tests.contract.host.pairs import H1, H2, PAIRS, Pair, Trip

from lq_operator.core.lifecycle.shape import shape_of
from lq_operator.core.model import CdromPlan, DiskPlan, MoveResult, NetworkPlan, NicPlan, VolumePlan
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected, Transient, WorldError
from lq_operator.lab.datacenter import Lab

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.lab if name == "libvirt" else ()) for name in PAIRS])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with PAIRS[request.param](request) as made:
        yield made


@pytest.fixture
async def trip(pair: Pair) -> AsyncIterator[Trip]:
    made = Trip(pair, await pair.connected(H1), await pair.connected(H2))
    await made.prepare()
    yield made
    await made.clean()


# ---------------------------------------------------------------- arriving


async def test_a_guest_on_a_shared_disk_goes_over_and_the_source_remembers_it_shut_off(trip: Trip) -> None:
    disk = await trip.disk(trip.source, "shared")
    await trip.target.ensure_pool(trip.pool("shared"))
    await trip.begin(disks=(disk,))
    before = await trip.source.read_hardware(trip.name)
    result = await trip.pair.wait(trip.source.move(trip.plan()))
    assert isinstance(result, MoveResult)
    assert result.total_ms > 0
    assert result.downtime_ms > 0
    assert result.transferred_bytes > 0
    assert await trip.state(trip.source) == "Shutoff migrated"
    assert await trip.state(trip.target) == "Running migrated"
    here, there = await trip.seen(trip.source), await trip.seen(trip.target)
    assert (here.persistent, there.persistent) == (True, True)
    assert (there.identity, there.uid, there.epoch, there.spec_hash) == (here.identity, "uid-vm", here.epoch, "cafe")
    assert there.gate == "gate-1-aa"
    assert await trip.target.read_hardware(trip.name) == before


async def test_a_disk_that_is_not_shared_goes_along_to_its_path_there(trip: Trip) -> None:
    here = await trip.disk(trip.source, "here", b"what the guest wrote")
    there = await trip.disk(trip.target, "there")
    assert here.path != there.path
    await trip.begin(disks=(here,))
    arriving = dataclasses.replace(trip.guest, disks=(there,))
    await trip.pair.wait(trip.source.move(trip.plan(arriving, copied_disks=("root",))))
    assert (await trip.state(trip.source), await trip.state(trip.target)) == ("Shutoff migrated", "Running migrated")
    copied = await trip.target.download(trip.pool("there").name, "root", length=20)
    assert copied == b"what the guest wrote"


async def test_a_medium_goes_along_in_its_drive(trip: Trip) -> None:
    """Also of a guest that has no disk at all: nothing of libvirt's check of shared storage stands in the way."""
    medium = (await trip.disk(trip.source, "shared")).path
    await trip.target.ensure_pool(trip.pool("shared"))
    await trip.begin(cdroms=(CdromPlan("cd", medium, boot_order=1), CdromPlan("empty", bus="scsi")))
    before = await trip.source.read_hardware(trip.name)
    await trip.pair.wait(trip.source.move(trip.plan()))
    assert await trip.state(trip.target) == "Running migrated"
    assert (await trip.target.read_shape(trip.name)).cdroms == shape_of(trip.guest).cdroms
    assert await trip.target.read_hardware(trip.name) == before
    ejected = dataclasses.replace(trip.guest.cdroms[0], path="")
    await trip.target.set_medium(
        dataclasses.replace(trip.guest, cdroms=(ejected, trip.guest.cdroms[1])), "cd", force=False
    )
    assert [drive.path for drive in (await trip.target.read_shape(trip.name)).cdroms] == ["", ""]


async def test_a_guest_with_everything_finds_it_at_other_paths(trip: Trip) -> None:
    network = NetworkPlan(f"n{trip.tag}", "isolated")
    disks, seeds, places = [], [], []
    for host, place in ((trip.source, "here"), (trip.target, "there")):
        await host.ensure_network(network)
        disks.append(await trip.disk(host, place))
        seed = await host.create_volume(trip.pool(place).name, VolumePlan("seed", 1 << 20, "raw"))
        seeds.append(seed.path)
        places.append(trip.pool(place).path)
    await trip.begin(
        firmware="uefi",
        nvram_path=f"{places[0]}/nvram",
        disks=(disks[0], DiskPlan("cd", "", "raw", bus="sata", device="cdrom")),
        nics=(NicPlan("eth0", "02:11:22:33:44:55", network=network.name),),
        seed_path=seeds[0],
        console_log_path=f"{places[0]}/console",
        vnc=True,
        guest_agent=True,
        rng=True,
        watchdog="reset",
        addresses=(("eth0", "10.0.0.5"),),
    )
    before = await trip.source.read_hardware(trip.name)
    arriving = dataclasses.replace(
        trip.guest,
        nvram_path=f"{places[1]}/nvram",
        disks=(disks[1], *trip.guest.disks[1:]),
        seed_path=seeds[1],
        console_log_path=f"{places[1]}/console",
    )
    await trip.pair.wait(trip.source.move(trip.plan(arriving, copied_disks=("root",))))
    assert await trip.state(trip.target) == "Running migrated"
    assert await trip.target.read_hardware(trip.name) == before
    assert (await trip.seen(trip.target)).addresses == (("eth0", "10.0.0.5"),)
    await trip.target.destroy(trip.name)
    await trip.target.start(trip.name)  # its definition is whole
    assert (await trip.state(trip.target)).startswith("Running")
    await trip.target.destroy(trip.name)
    for host in (trip.source, trip.target):
        await host.undefine(trip.name, keep_nvram=False)
        await host.remove_network(network.name)


async def test_a_paused_guest_arrives_paused(trip: Trip) -> None:
    await trip.begin()
    await trip.source.pause(trip.name)
    await trip.pair.wait(trip.source.move(trip.plan()))
    assert (await trip.state(trip.target)).startswith("Paused")
    await trip.target.resume(trip.name)
    assert (await trip.state(trip.target)).startswith("Running")


async def test_a_guest_may_wait_there_until_it_is_resumed(trip: Trip) -> None:
    await trip.begin()
    await trip.pair.wait(trip.source.move(trip.plan(arrive_paused=True)))
    assert (await trip.state(trip.source), await trip.state(trip.target)) == ("Shutoff migrated", "Paused user")
    await trip.target.resume(trip.name)
    assert await trip.state(trip.target) == "Running unpaused"


async def test_waiting_there_and_post_copy_exclude_each_other(trip: Trip) -> None:
    await trip.begin()
    with pytest.raises(Rejected):
        await trip.pair.wait(trip.source.move(trip.plan(arrive_paused=True, post_copy=True)))
    assert ((await trip.state(trip.source))[:7], await trip.state(trip.target)) == ("Running", "absent")


async def test_the_next_start_there_needs_the_gate_of_that_host(trip: Trip) -> None:
    await trip.begin()
    await trip.pair.wait(trip.source.move(trip.plan()))
    await trip.target.delete_volume(trip.gates.name, "ticket-1")
    await trip.target.destroy(trip.name)
    await trip.target.start(trip.name)
    await trip.target.destroy(trip.name)
    await trip.target.delete_volume(trip.gates.name, "gate-1-aa")
    with pytest.raises(WorldError):
        await trip.target.start(trip.name)
    assert (await trip.state(trip.target)).startswith("Shutoff")


async def test_there_and_back(trip: Trip) -> None:
    await trip.begin()
    await trip.pair.wait(trip.source.move(trip.plan()))
    await trip.source.create_volume(trip.gates.name, VolumePlan("ticket-1", 0, "raw", mode=0o444))
    back = dataclasses.replace(trip.plan(), peer_uri=trip.pair.peer_uri(H2, H1))
    await trip.pair.wait(trip.target.move(back))
    assert (await trip.state(trip.source), await trip.state(trip.target)) == ("Running migrated", "Shutoff migrated")


# ---------------------------------------------------------------- refused


async def test_without_its_ticket_nothing_arrives(trip: Trip) -> None:
    await trip.begin()
    await trip.target.delete_volume(trip.gates.name, "ticket-1")
    with pytest.raises(Rejected):
        await trip.pair.wait(trip.source.move(trip.plan()))
    assert (await trip.state(trip.source))[:7] == "Running"
    assert await trip.state(trip.target) == "absent"


async def test_a_name_that_is_taken_there_is_refused(trip: Trip) -> None:
    await trip.begin()
    await trip.pair.define_foreign(H2, trip.name)
    with pytest.raises(Rejected):
        await trip.pair.wait(trip.source.move(trip.plan()))
    assert (await trip.state(trip.source))[:7] == "Running"
    assert (await trip.seen(trip.target)).identity is None


async def test_a_missing_disk_there_is_refused(trip: Trip) -> None:
    here = await trip.disk(trip.source, "here")
    await trip.begin(disks=(here,))
    with pytest.raises(WorldError) as refused:
        await trip.pair.wait(trip.source.move(trip.plan()))
    assert not isinstance(refused.value, OutcomeUnknown)
    assert ((await trip.state(trip.source))[:7], await trip.state(trip.target)) == ("Running", "absent")


async def test_what_does_not_run_cannot_move(trip: Trip) -> None:
    with pytest.raises(NotFound):
        await trip.pair.wait(trip.source.move(trip.plan()))
    await trip.source.define(trip.guest)
    with pytest.raises(Conflict):
        await trip.pair.wait(trip.source.move(trip.plan()))
    assert await trip.state(trip.target) == "absent"


async def test_a_target_that_nobody_reaches_leaves_the_guest_here(trip: Trip) -> None:
    await trip.begin()
    nowhere = trip.pair.peer_uri(H1, H2).replace("10.78.0.12", "10.78.0.99").replace("//h2", "//h99")
    with pytest.raises(Transient):
        await trip.pair.wait(trip.source.move(trip.plan(peer_uri=nowhere)))
    assert (await trip.state(trip.source))[:7] == "Running"


async def test_the_target_says_whether_it_has_the_cpu(trip: Trip) -> None:
    assert await trip.target.cpu_obstacle(trip.guest) == ""
    lacks = dataclasses.replace(trip.guest, cpu_model="EPYC-Rome")
    assert await trip.target.cpu_obstacle(lacks) != ""
    unheard = dataclasses.replace(trip.guest, cpu_model="No-Such-Model")
    assert await trip.target.cpu_obstacle(unheard) != ""


# ---------------------------------------------------------------- on the way


async def test_midway_there_is_progress_and_the_target_shows_a_guest_that_waits(trip: Trip) -> None:
    await trip.begin(memory_mib=trip.pair.slow_mib)
    assert await trip.source.move_progress(trip.name) is None
    moving = await trip.slow()
    progress = await trip.source.move_progress(trip.name)
    assert progress is not None
    assert progress.total_bytes >= trip.pair.slow_mib << 20
    assert 0 < progress.remaining_bytes <= progress.total_bytes
    assert not progress.post_copy
    assert await trip.state(trip.target) == "Paused migration"
    assert not (await trip.seen(trip.target)).persistent
    assert await trip.target.move_progress(trip.name) is None  # it goes out from the source
    with pytest.raises(Conflict):
        await trip.source.move(trip.plan())  # a second one
    await trip.pair.wait(moving)
    assert await trip.source.move_progress(trip.name) is None
    assert (await trip.state(trip.source), await trip.state(trip.target)) == ("Shutoff migrated", "Running migrated")


async def test_called_off_midway_it_runs_on_here(trip: Trip) -> None:
    await trip.begin(memory_mib=trip.pair.slow_mib)
    moving = await trip.slow()
    await trip.source.cancel_move(trip.name)
    with pytest.raises(Transient):
        await trip.pair.wait(moving)
    assert (await trip.state(trip.source))[:7] == "Running"
    assert await trip.state(trip.target) == "absent"
    await trip.source.cancel_move(trip.name)  # late
    assert (await trip.state(trip.source))[:7] == "Running"
    await trip.pair.wait(trip.source.move(trip.plan()))  # the same ticket; nothing is left of the first attempt
    assert await trip.state(trip.target) == "Running migrated"


async def test_called_off_too_late_changes_nothing(trip: Trip) -> None:
    await trip.begin()
    await trip.source.cancel_move(trip.name)  # too early
    await trip.pair.wait(trip.source.move(trip.plan()))
    await trip.source.cancel_move(trip.name)
    await trip.target.cancel_move(trip.name)
    assert (await trip.state(trip.source), await trip.state(trip.target)) == ("Shutoff migrated", "Running migrated")


async def test_post_copy_only_where_it_was_allowed(trip: Trip) -> None:
    await trip.begin(memory_mib=trip.pair.slow_mib)
    with pytest.raises(Conflict):
        await trip.source.start_post_copy(trip.name)
    moving = await trip.slow()
    with pytest.raises(Conflict):
        await trip.source.start_post_copy(trip.name)
    await trip.source.cancel_move(trip.name)
    with pytest.raises(Transient):
        await trip.pair.wait(moving)


async def test_post_copy_changes_over_first_and_cannot_be_called_off(trip: Trip) -> None:
    await trip.begin(memory_mib=trip.pair.slow_mib)
    moving = await trip.slow(post_copy=True)
    await trip.source.start_post_copy(trip.name)

    async def changed_over() -> bool:
        return await trip.state(trip.target) in ("Running postcopy", "Running migrated")

    await trip.pair.until(changed_over, "the guest runs there")
    if not moving.done():
        assert await trip.state(trip.source) in ("Paused postcopy", "Shutoff migrated")
        if await trip.state(trip.source) == "Paused postcopy":
            with pytest.raises(Conflict):
                await trip.source.cancel_move(trip.name)
    await trip.pair.wait(moving)
    assert (await trip.state(trip.source), await trip.state(trip.target)) == ("Shutoff migrated", "Running migrated")


# ---------------------------------------------------------------- broken off


async def test_the_sources_daemon_dies_midway(trip: Trip) -> None:
    await trip.begin(memory_mib=trip.pair.slow_mib)
    moving = await trip.slow()
    await trip.pair.kill_daemon(H1)
    with pytest.raises(OutcomeUnknown):
        await trip.pair.wait(moving)
    await trip.pair.revive_daemon(H1)
    source = await trip.pair.connected(H1)

    async def settled() -> bool:
        return (await trip.state(source))[:7] == "Running" and await trip.state(trip.target) == "absent"

    await trip.pair.until(settled, "it runs on at the source, and nothing waits at the target")
    assert await source.move_progress(trip.name) is None


async def test_the_targets_daemon_dies_midway(trip: Trip) -> None:
    await trip.begin(memory_mib=trip.pair.slow_mib)
    moving = await trip.slow()
    await trip.pair.kill_daemon(H2)
    with pytest.raises(Transient):
        await trip.pair.wait(moving)
    assert (await trip.state(trip.source))[:7] == "Running"
    await trip.pair.revive_daemon(H2)
    target = await trip.pair.connected(H2)

    async def settled() -> bool:
        return await trip.state(target) == "absent"

    await trip.pair.until(settled, "nothing waits at the target")
    assert (await trip.state(trip.source))[:7] == "Running"


async def test_whoever_asked_may_go_the_move_goes_on(trip: Trip) -> None:
    await trip.begin(memory_mib=trip.pair.slow_mib)
    other = trip.pair.another_fleet()
    moving = await trip.slow(await trip.pair.connected(H1, other))
    await other.close()
    with pytest.raises(OutcomeUnknown):
        await trip.pair.wait(moving)

    async def arrived() -> bool:
        return await trip.state(trip.target) == "Running migrated"

    await trip.pair.until(arrived, "it has arrived all the same")
    assert await trip.state(trip.source) == "Shutoff migrated"


async def test_a_guest_that_is_switched_off_midway_is_off(trip: Trip) -> None:
    await trip.begin(memory_mib=trip.pair.slow_mib)
    moving = await trip.slow()
    await trip.source.destroy(trip.name)
    with pytest.raises((Conflict, OutcomeUnknown)):
        await trip.pair.wait(moving)

    async def settled() -> bool:
        return await trip.state(trip.target) == "absent"

    await trip.pair.until(settled, "nothing waits at the target")
    assert await trip.state(trip.source) == "Shutoff destroyed"


# ---------------------------------------------------------------- libvirt's own


@pytest.mark.lab
@pytest.mark.parametrize("pair", ["libvirt"], indirect=True)
async def test_what_arrives_is_never_started_by_its_host(trip: Trip, own_lab: Lab) -> None:
    await trip.begin()
    await asyncio.to_thread(own_lab.host(H1).virsh, "autostart", trip.name)
    await trip.pair.wait(trip.source.move(trip.plan()))
    said = await asyncio.to_thread(own_lab.host(H2).virsh, "dominfo", trip.name)
    assert "disable" in next(line for line in said.splitlines() if line.startswith("Autostart"))


@pytest.mark.lab
@pytest.mark.parametrize("pair", ["libvirt"], indirect=True)
async def test_a_guest_without_a_gate_is_not_moved(trip: Trip) -> None:
    await trip.begin(gate_path="")
    arriving = dataclasses.replace(trip.guest, gate_path=f"{trip.gates.path}/gate-1-aa")
    with pytest.raises(Rejected, match="without a gate"):
        await trip.pair.wait(trip.source.move(trip.plan(arriving)))
    assert (await trip.state(trip.source))[:7] == "Running"


@pytest.mark.lab
@pytest.mark.parametrize("pair", ["libvirt"], indirect=True)
async def test_a_disk_that_the_plan_lacks_is_named(trip: Trip) -> None:
    here = await trip.disk(trip.source, "here")
    await trip.begin(disks=(here,))
    with pytest.raises(Rejected, match="disk root"):
        await trip.pair.wait(trip.source.move(trip.plan(dataclasses.replace(trip.guest, disks=()))))


@pytest.mark.lab
@pytest.mark.parametrize("pair", ["libvirt"], indirect=True)
async def test_memory_goes_in_the_clear_only_where_the_peer_is_not_asked_over_tls(trip: Trip, own_lab: Lab) -> None:
    """A host whose QEMU has no certificates refuses a peer over TLS, and the guest stays."""
    moved_away = "mv {0} {0}.away".format(own_lab.host(H2).dir / "tls" / "server-cert.pem")
    await trip.begin()
    await asyncio.to_thread(own_lab.host(H2).exec, ["sh", "-c", moved_away], check=True)
    try:
        with pytest.raises(Rejected, match="need certificates"):
            await trip.pair.wait(trip.source.move(trip.plan()))
        assert (await trip.state(trip.source))[:7] == "Running"
    finally:
        back = "mv {0}.away {0}".format(own_lab.host(H2).dir / "tls" / "server-cert.pem")
        await asyncio.to_thread(own_lab.host(H2).exec, ["sh", "-c", back], check=True)
    await trip.pair.wait(trip.source.move(trip.plan()))


@pytest.mark.lab
@pytest.mark.parametrize("pair", ["libvirt"], indirect=True)
async def test_memory_and_disks_go_over_the_network_that_was_said(trip: Trip, own_lab: Lab) -> None:
    size = 8 << 20

    async def received() -> int:
        counter = "/sys/class/net/eth1/statistics/rx_bytes"
        return int((await asyncio.to_thread(own_lab.host(H2).exec, ["cat", counter], check=True)).stdout)

    here = await trip.disk(trip.source, "here", os.urandom(size), size_bytes=size)
    there = await trip.disk(trip.target, "there", size_bytes=size)
    await trip.begin(disks=(here,))
    before = await received()
    arriving = dataclasses.replace(trip.guest, disks=(there,))
    plan = trip.plan(arriving, copied_disks=("root",), data_address=own_lab.host(H2).data_ip)
    await trip.pair.wait(trip.source.move(plan))
    assert await received() - before > size
    assert await trip.state(trip.target) == "Running migrated"
