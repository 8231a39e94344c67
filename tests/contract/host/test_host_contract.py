"""ports.Host as the ownership protocol leans on it, on every implementation in worlds.WORLDS."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest
from tests.contract.host.conftest import Site
from tests.contract.host.worlds import HostWorld

from lq_operator.core.model import AgentState, DomainState, Epoch, Identity, NetworkPlan, NicPlan, PoolPlan, VolumePlan
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected, Transient, WorldError

# ---------------------------------------------------------------- who the host is


async def test_the_host_says_who_and_what_it_is(world: HostWorld) -> None:
    inventory = await world.host.inventory()
    assert inventory.host_uuid == world.host.uuid
    assert inventory.cpus > 0
    assert inventory.memory_mib > 0
    assert inventory.arch
    assert inventory.usable_cpu_models
    assert inventory.accel in ("kvm", "tcg")
    assert "bios" in inventory.firmware
    assert world.host.alive
    assert world.host.node == world.node


async def test_connecting_is_an_event_with_the_uuid(world: HostWorld) -> None:
    assert [(e.domain_name, e.kind, e.detail) for e in world.events[:1]] == [("", "connected", world.host.uuid)]
    assert world.fleet.why_down(world.node) == ""


# ---------------------------------------------------------------- domains


async def test_a_defined_domain_is_listed_with_its_identity(world: HostWorld, site: Site) -> None:
    plan = site.plan(await site.gate(), epoch=Epoch(7, 3))
    await world.host.define(plan)
    listed = {domain.domain_name: domain for domain in await world.host.list_domains()}
    seen = listed[plan.identity.domain_name]
    assert seen == await world.host.find_domain(plan.identity.domain_name)
    assert (seen.identity, seen.uid, seen.epoch, seen.spec_hash) == (plan.identity, plan.uid, Epoch(7, 3), "cafe")
    assert seen.domain_uuid == plan.identity.domain_uuid
    assert seen.state is DomainState.SHUTOFF
    assert seen.persistent
    assert seen.gate == "gate-1-aa"


async def test_a_definition_speaks_for_the_next_start_not_for_the_run(world: HostWorld, site: Site) -> None:
    plan = site.plan(await site.gate())
    await world.host.define(plan)
    await world.host.start(plan.identity.domain_name, paused=True)
    newer = await site.gate("gate-2-bb")
    await world.host.define(dataclasses.replace(plan, epoch=Epoch(2, 1), gate_path=newer))
    seen = await world.host.find_domain(plan.identity.domain_name)
    assert seen is not None
    assert (seen.epoch, seen.gate, seen.state) == (Epoch(1, 1), "gate-2-bb", DomainState.PAUSED)
    await world.host.destroy(plan.identity.domain_name)
    seen = await world.host.find_domain(plan.identity.domain_name)
    assert seen is not None
    assert (seen.epoch, seen.gate, seen.state) == (Epoch(2, 1), "gate-2-bb", DomainState.SHUTOFF)


async def test_what_is_not_there_is_none_or_not_found(world: HostWorld, site: Site) -> None:
    name = site.plan("").identity.domain_name
    assert await world.host.find_domain(name) is None
    await world.host.undefine(name)
    for verb in (world.host.start, world.host.destroy, world.host.pause, world.host.resume, world.host.reset):
        with pytest.raises(NotFound):
            await verb(name)
    with pytest.raises(NotFound):
        await world.host.read_hardware(name)
    with pytest.raises(NotFound):
        await world.host.shutdown(name, mode="acpi")


async def test_the_power_verbs_lead_through_the_states(world: HostWorld, site: Site) -> None:
    plan = site.plan(await site.gate())
    name = plan.identity.domain_name
    await world.host.define(plan)

    async def state() -> DomainState:
        seen = await world.host.find_domain(name)
        assert seen is not None
        return seen.state

    await world.host.start(name, paused=True)
    assert await state() is DomainState.PAUSED
    await world.host.resume(name)
    assert await state() is DomainState.RUNNING
    await world.host.resume(name)  # as wished already
    await world.host.reset(name)
    assert await state() is DomainState.RUNNING
    await world.host.pause(name)
    await world.host.pause(name)
    assert await state() is DomainState.PAUSED
    await world.host.destroy(name)
    seen = await world.host.find_domain(name)
    assert seen is not None
    assert (seen.state, seen.state_reason) == (DomainState.SHUTOFF, "destroyed")
    await world.host.destroy(name)  # off already
    await world.host.undefine(name)
    assert await world.host.find_domain(name) is None


async def test_verbs_in_the_wrong_state_are_conflicts(world: HostWorld, site: Site) -> None:
    plan = site.plan(await site.gate())
    name = plan.identity.domain_name
    await world.host.define(plan)
    for verb in (world.host.pause, world.host.resume, world.host.reset):
        with pytest.raises(Conflict):
            await verb(name)
    with pytest.raises(Conflict):
        await world.host.save(name, f"{site.gates.path}/image")
    await world.host.start(name, paused=True)
    with pytest.raises(Conflict):
        await world.host.start(name)


async def test_undefining_a_running_domain_leaves_it_running(world: HostWorld, site: Site) -> None:
    plan = site.plan(await site.gate())
    name = plan.identity.domain_name
    await world.host.define(plan)
    await world.host.start(name, paused=True)
    await world.host.undefine(name)
    seen = await world.host.find_domain(name)
    assert seen is not None
    assert (seen.persistent, seen.state.runs, seen.identity) == (False, True, plan.identity)
    await world.host.undefine(name)  # forgotten already
    await world.host.destroy(name)
    assert await world.host.find_domain(name) is None


async def test_a_start_without_its_gate_is_refused_and_nothing_runs(world: HostWorld, site: Site) -> None:
    plan = site.plan(await site.gate())
    name = plan.identity.domain_name
    await world.host.define(plan)
    await world.host.delete_volume(site.gates.name, "gate-1-aa")
    for paused in (False, True):
        with pytest.raises(WorldError) as caught:
            await world.host.start(name, paused=paused)
        assert not isinstance(caught.value, (OutcomeUnknown, NotFound))
        seen = await world.host.find_domain(name)
        assert seen is not None
        assert not seen.state.runs


async def test_a_running_guest_outlives_its_gate(world: HostWorld, site: Site) -> None:
    plan = site.plan(await site.gate())
    name = plan.identity.domain_name
    await world.host.define(plan)
    await world.host.start(name, paused=True)
    await world.host.delete_volume(site.gates.name, "gate-1-aa")
    await world.host.resume(name)
    await world.host.reset(name)
    seen = await world.host.find_domain(name)
    assert seen is not None
    assert seen.state is DomainState.RUNNING


async def test_domains_of_others_are_seen_without_identity(world: HostWorld, site: Site) -> None:
    plain, disguised = f"web-{site.tag}", f"lq_{site.tag}_vm"
    await world.define_foreign(plain)
    await world.define_foreign(disguised)
    listed = {domain.domain_name: domain for domain in await world.host.list_domains()}
    assert listed[plain].identity is None
    assert listed[disguised].identity is None  # the name proves nothing, the metadata does


async def test_a_foreign_domain_is_never_replaced(world: HostWorld, site: Site) -> None:
    plan = site.plan("")
    await world.define_foreign(plan.identity.domain_name)
    before = await world.host.find_domain(plan.identity.domain_name)
    with pytest.raises((Rejected, Conflict)):
        await world.host.define(plan)
    assert await world.host.find_domain(plan.identity.domain_name) == before


async def test_hostile_texts_come_back_as_they_went(world: HostWorld, site: Site) -> None:
    hostile = """<>&"' ]]> <!-- ü \u2028 %s {}"""
    plan = dataclasses.replace(
        site.plan(""), identity=Identity(hostile, f"t{site.tag}", "vm"), uid=hostile, spec_hash=hostile
    )
    await world.host.define(plan)
    seen = await world.host.find_domain(plan.identity.domain_name)
    assert seen is not None
    assert (seen.identity, seen.uid, seen.spec_hash) == (plan.identity, hostile, hostile)


@pytest.mark.parametrize("bad", ["a\x00b", "a\x1bb", "a\nb", "\ud800", "\ufffe"])
async def test_texts_that_cannot_be_carried_are_rejected(world: HostWorld, site: Site, bad: str) -> None:
    with pytest.raises(Rejected):
        await world.host.define(site.plan("", uid=bad))
    assert await world.host.find_domain(site.plan("").identity.domain_name) is None


async def test_hardware_stays_when_disks_and_nics_join(world: HostWorld, site: Site) -> None:
    gate = await site.gate()
    first, second = await site.disk("first"), await site.disk("second")
    network = NetworkPlan(f"n{site.tag}", "isolated")
    await world.host.ensure_network(network)
    nics = tuple(NicPlan(n, f"02:00:00:00:00:0{i}", network=network.name) for i, n in enumerate(("a", "b")))
    plan = site.plan(gate, disks=(second,), nics=(nics[1],))
    name = plan.identity.domain_name
    await world.host.define(plan)
    await world.host.start(name, paused=True)
    hardware = await world.host.read_hardware(name)
    assert hardware.machine != "q35"  # expanded to a version
    slots = dict(hardware.slots)
    assert {"disk/second", "nic/b"} <= set(slots)
    await world.host.destroy(name)
    # The newcomers stand first in the lists and must not push the others away.
    await world.host.define(dataclasses.replace(plan, disks=(first, second), nics=nics, hardware=hardware))
    await world.host.start(name, paused=True)
    grown = await world.host.read_hardware(name)
    assert {key: dict(grown.slots).get(key) for key in slots} == slots
    assert dict(grown.targets)["disk/second"] == dict(hardware.targets)["disk/second"]
    assert {"disk/first", "nic/a"} <= set(dict(grown.slots))
    assert (grown.machine, grown.cpu_model) == (hardware.machine, hardware.cpu_model)


async def test_restore_goes_through_the_new_gate(world: HostWorld, site: Site) -> None:
    plan = site.plan(await site.gate())
    name, image = plan.identity.domain_name, f"{site.gates.path}/image"
    await world.host.define(plan)
    await world.host.start(name)
    await world.host.save(name, image)
    seen = await world.host.find_domain(name)
    assert seen is not None
    assert (seen.state, seen.state_reason) == (DomainState.SHUTOFF, "saved")
    await world.host.delete_volume(site.gates.name, "gate-1-aa")
    await world.host.undefine(name)
    with pytest.raises(WorldError):
        await world.host.restore(image, plan)  # its gate is gone
    newer = dataclasses.replace(plan, gate_path=await site.gate("gate-2-bb"), epoch=Epoch(2, 1))
    await world.host.restore(image, newer)
    seen = await world.host.find_domain(name)
    assert seen is not None
    assert (seen.state, seen.persistent, seen.epoch, seen.gate) == (
        DomainState.RUNNING,
        True,
        Epoch(2, 1),
        "gate-2-bb",
    )


async def test_an_image_of_another_vm_is_not_restored(world: HostWorld, site: Site) -> None:
    gate = await site.gate()
    plan = site.plan(gate)
    image = f"{site.gates.path}/image"
    await world.host.define(plan)
    await world.host.start(plan.identity.domain_name)
    await world.host.save(plan.identity.domain_name, image)
    other = site.plan(gate, name="other")
    with pytest.raises(Rejected):
        await world.host.restore(image, other)
    assert await world.host.find_domain(other.identity.domain_name) is None


async def test_a_guest_without_agent_is_transient(world: HostWorld, site: Site) -> None:
    gate = await site.gate()
    for name, agent in (("with", True), ("without", False)):
        plan = site.plan(gate, name=name, guest_agent=agent)
        await world.host.define(plan)
        await world.host.start(plan.identity.domain_name, paused=True)
        with pytest.raises(Transient):
            await world.host.guest_facts(plan.identity.domain_name)


async def test_an_agent_that_nobody_runs_is_closed_not_silent(world: HostWorld, site: Site) -> None:
    gate = await site.gate()
    plan = site.plan(gate, guest_agent=True)  # nothing boots in it
    name = plan.identity.domain_name
    with pytest.raises(NotFound):
        await world.host.agent_state(name)
    await world.host.define(plan)
    with pytest.raises(Conflict):
        await world.host.agent_state(name)
    await world.host.start(name, paused=True)
    with pytest.raises(Conflict):
        await world.host.agent_state(name)
    with pytest.raises(Conflict):
        await world.host.set_password(name, "root", "hunter2")
    await world.host.resume(name)
    assert await world.host.agent_state(name) is AgentState.CLOSED
    for ask in (
        world.host.set_password(name, "root", "hunter2"),
        world.host.change_ssh_keys(name, "root", ["ssh-ed25519 AAAA"], add=True),
    ):
        with pytest.raises(Transient, match="agent") as refused:
            await ask
        assert "hunter2" not in str(refused.value)
    without = site.plan(gate, name="without")
    await world.host.define(without)
    await world.host.start(without.identity.domain_name)
    with pytest.raises(Rejected):
        await world.host.agent_state(without.identity.domain_name)


async def test_listing_misses_nobody_while_others_come_and_go(world: HostWorld, site: Site) -> None:
    stable = [site.plan("", name=f"stable{n}") for n in range(5)]
    for plan in stable:
        await world.host.define(plan)

    async def churn(number: int) -> None:
        plan = site.plan("", name=f"churn{number}")
        for _ in range(8):
            await world.host.define(plan)
            await world.host.undefine(plan.identity.domain_name)

    churning = asyncio.gather(*(churn(number) for number in range(3)))
    names = {plan.identity.domain_name for plan in stable}
    while not churning.done():
        listed = {domain.domain_name for domain in await world.host.list_domains()}
        assert names <= listed
        await asyncio.sleep(0)  # a fake may answer without ever waiting
    await churning


async def test_starts_and_stops_are_told(world: HostWorld, site: Site) -> None:
    plan = site.plan(await site.gate())
    name = plan.identity.domain_name
    await world.host.define(plan)
    await world.host.start(name)
    await world.host.destroy(name)
    async with asyncio.timeout(60):
        while not any(e.domain_name == name and e.detail.startswith("stopped") for e in world.events):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    told = [e.detail for e in world.events if e.domain_name == name and e.kind == "lifecycle"]
    assert "started:booted" in told
    assert told.index("started:booted") < told.index("stopped:destroyed")
    assert all(e.node == world.node for e in world.events)


# ---------------------------------------------------------------- pools and volumes


async def test_ensuring_a_pool_twice_is_one_pool(world: HostWorld, site: Site) -> None:
    first = await world.host.ensure_pool(site.pool)
    again = await world.host.ensure_pool(site.pool)
    assert (
        (first.name, first.active, first.path)
        == (site.pool.name, True, site.pool.path)
        == (
            again.name,
            again.active,
            again.path,
        )
    )
    assert [p.name for p in await world.host.list_pools()].count(site.pool.name) == 1
    assert first.capacity_bytes >= first.available_bytes > 0


async def test_a_pool_elsewhere_is_rejected(world: HostWorld, site: Site) -> None:
    await world.host.ensure_pool(site.pool)
    with pytest.raises(Rejected):
        await world.host.ensure_pool(PoolPlan(site.pool.name, site.pool.path + "-other"))
    assert await world.host.list_volumes(site.pool.name) == ()


async def test_a_pool_whose_directory_went_away_is_built_again(world: HostWorld, site: Site) -> None:
    await site.gate()
    await world.remove_dir(site.gates.path)
    seen = await world.host.ensure_pool(site.gates)
    assert seen.active
    assert await world.host.list_volumes(site.gates.name) == ()
    await site.gate("gate-3-cc")
    assert [v.name for v in await world.host.list_volumes(site.gates.name)] == ["gate-3-cc"]


async def test_removing_a_pool_keeps_its_files(world: HostWorld, site: Site) -> None:
    await site.disk("kept")
    await world.host.remove_pool(site.pool.name)
    await world.host.remove_pool(site.pool.name)
    with pytest.raises(NotFound):
        await world.host.list_volumes(site.pool.name)
    await world.host.ensure_pool(site.pool)
    assert [v.name for v in await world.host.list_volumes(site.pool.name)] == ["kept"]


async def test_a_missing_pool_is_an_error_never_an_empty_list(world: HostWorld, site: Site) -> None:
    with pytest.raises(NotFound):
        await world.host.list_volumes(site.pool.name)
    with pytest.raises(NotFound):
        await world.host.create_volume(site.pool.name, VolumePlan("v", 1))


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
async def test_a_volume_name_is_given_once(world: HostWorld, site: Site, fmt: str) -> None:
    await world.host.ensure_pool(site.pool)
    made = await world.host.create_volume(site.pool.name, VolumePlan("v", 1 << 20, fmt))
    assert (made.name, made.path, made.format, made.capacity_bytes) == ("v", f"{site.pool.path}/v", fmt, 1 << 20)
    for other in ("qcow2", "raw"):
        with pytest.raises(Conflict):
            await world.host.create_volume(site.pool.name, VolumePlan("v", 2 << 20, other))
    await world.put_file(f"{site.pool.path}/hidden")
    with pytest.raises(Conflict):
        await world.host.create_volume(site.pool.name, VolumePlan("hidden", 1 << 20, fmt))
    assert await world.host.list_volumes(site.pool.name) == (made,)


async def test_one_of_many_at_once_gets_the_name(world: HostWorld, site: Site) -> None:
    await world.host.ensure_pool(site.gates)
    plan = VolumePlan("gate-9-zz", 0, "raw", mode=0o444)
    results = await asyncio.gather(
        *(world.host.create_volume(site.gates.name, plan) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(r, Conflict) for r in results) == 7, results


async def test_no_gate_is_missed_under_concurrent_writers(world: HostWorld, site: Site) -> None:
    await world.host.ensure_pool(site.gates)

    async def writer(number: int) -> None:
        for turn in range(10):
            name = f"gate-{number}-{turn}"
            await world.host.create_volume(site.gates.name, VolumePlan(name, 0, "raw", mode=0o444))
            listed = {v.name for v in await world.host.list_volumes(site.gates.name)}
            assert name in listed
            if turn % 2:
                await world.host.delete_volume(site.gates.name, name)

    await asyncio.gather(*(writer(number) for number in range(4)))
    left = {v.name for v in await world.host.list_volumes(site.gates.name, refresh=True)}
    assert left == {f"gate-{n}-{t}" for n in range(4) for t in range(0, 10, 2)}


async def test_refresh_shows_what_came_behind_our_back(world: HostWorld, site: Site) -> None:
    await world.host.ensure_pool(site.pool)
    await world.put_file(f"{site.pool.path}/late")
    assert [v.name for v in await world.host.list_volumes(site.pool.name, refresh=True)] == ["late"]
    await world.remove_file(f"{site.pool.path}/late")
    assert await world.host.list_volumes(site.pool.name, refresh=True) == ()


async def test_deleting_is_final_and_repeatable(world: HostWorld, site: Site) -> None:
    await site.disk("v")
    await world.put_file(f"{site.pool.path}/hidden")
    for name in ("v", "v", "hidden", "never-there"):
        await world.host.delete_volume(site.pool.name, name)
    assert await world.host.list_volumes(site.pool.name, refresh=True) == ()


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
async def test_volumes_grow_and_never_shrink(world: HostWorld, site: Site, fmt: str) -> None:
    await world.host.ensure_pool(site.pool)
    await world.host.create_volume(site.pool.name, VolumePlan("v", 1 << 20, fmt))
    await world.host.resize_volume(site.pool.name, "v", 2 << 20)
    await world.host.resize_volume(site.pool.name, "v", 2 << 20)
    with pytest.raises(Rejected):
        await world.host.resize_volume(site.pool.name, "v", 1 << 20)
    assert [v.capacity_bytes for v in await world.host.list_volumes(site.pool.name, refresh=True)] == [2 << 20]
    with pytest.raises(NotFound):
        await world.host.resize_volume(site.pool.name, "other", 1 << 20)


async def _chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_what_was_uploaded_is_downloaded(world: HostWorld, site: Site) -> None:
    await world.host.ensure_pool(site.pool)
    await world.host.create_volume(site.pool.name, VolumePlan("v", 3_000_000, "raw"))
    await world.host.upload(site.pool.name, "v", _chunks(b"a" * 1_000_000, b"", b"b" * 999_999, b"c"))
    whole = await world.host.download(site.pool.name, "v", length=2_000_001)
    assert whole == b"a" * 1_000_000 + b"b" * 999_999 + b"c\0"
    assert await world.host.download(site.pool.name, "v", length=3) == b"aaa"
    assert await world.host.download(site.pool.name, "v", length=0) == b""


async def test_a_file_shorter_than_asked_for_comes_whole(world: HostWorld, site: Site) -> None:
    await site.gate()
    assert await world.host.download(site.gates.name, "gate-1-aa", length=4096) == b""
    with pytest.raises(NotFound):
        await world.host.download(site.gates.name, "other", length=1)


async def test_an_upload_whose_source_fails_fails_so(world: HostWorld, site: Site) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 100
        raise ConnectionResetError("the source went away")

    await world.host.ensure_pool(site.pool)
    await world.host.create_volume(site.pool.name, VolumePlan("v", 1 << 20, "raw"))
    with pytest.raises(ConnectionResetError):
        await world.host.upload(site.pool.name, "v", broken())
    with pytest.raises(NotFound):
        await world.host.upload(site.pool.name, "other", _chunks(b"x"))
    await world.host.upload(site.pool.name, "v", _chunks(b"again"))
    assert await world.host.download(site.pool.name, "v", length=5) == b"again"


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
async def test_a_clone_is_a_full_copy_of_its_own_size(world: HostWorld, site: Site, fmt: str) -> None:
    await world.host.ensure_pool(site.pool)
    await world.host.create_volume(site.pool.name, VolumePlan("source", 1 << 20, "raw"))
    await world.host.upload(site.pool.name, "source", _chunks(b"payload"))
    made = await world.host.create_volume(site.pool.name, VolumePlan("copy", 4 << 20, fmt, clone_of="source"))
    assert (made.capacity_bytes, made.format, made.backing_path) == (4 << 20, fmt, "")
    back = await world.host.create_volume(site.pool.name, VolumePlan("back", 4 << 20, "raw", clone_of="copy"))
    assert back.capacity_bytes == 4 << 20
    await world.host.delete_volume(site.pool.name, "source")
    assert await world.host.download(site.pool.name, "back", length=8) == b"payload\0"
    with pytest.raises(Conflict):
        await world.host.create_volume(site.pool.name, VolumePlan("copy", 4 << 20, fmt, clone_of="back"))
    with pytest.raises(NotFound):
        await world.host.create_volume(site.pool.name, VolumePlan("x", 4 << 20, fmt, clone_of="source"))
    await world.put_file(f"{site.pool.path}/hidden")
    with pytest.raises(Conflict):
        await world.host.create_volume(site.pool.name, VolumePlan("hidden", 4 << 20, fmt, clone_of="back"))


async def test_a_clone_smaller_than_its_source_is_rejected(world: HostWorld, site: Site) -> None:
    await site.disk("source")
    with pytest.raises(Rejected):
        await world.host.create_volume(site.pool.name, VolumePlan("copy", 1000, clone_of="source"))
    assert [v.name for v in await world.host.list_volumes(site.pool.name)] == ["source"]


@pytest.mark.parametrize("name", ["", ".", "..", "../escape", "a/b", "a\nb", "a\0b", "x" * 256])
async def test_names_that_leave_the_pool_are_rejected(world: HostWorld, site: Site, name: str) -> None:
    await world.host.ensure_pool(site.pool)
    with pytest.raises(Rejected):
        await world.host.create_volume(site.pool.name, VolumePlan(name, 1 << 20))
    assert await world.host.list_volumes(site.pool.name, refresh=True) == ()


async def test_odd_but_lawful_names_work(world: HostWorld, site: Site) -> None:
    name = """a<b>&'"c ü;$(x)"""
    await world.host.ensure_pool(site.pool)
    await world.host.create_volume(site.pool.name, VolumePlan(name, 1 << 20))
    assert [v.name for v in await world.host.list_volumes(site.pool.name, refresh=True)] == [name]
    await world.host.delete_volume(site.pool.name, name)
    assert await world.host.list_volumes(site.pool.name, refresh=True) == ()


# ---------------------------------------------------------------- networks


async def test_a_network_is_made_once_and_removed(world: HostWorld, site: Site) -> None:
    plan = NetworkPlan(
        f"n{site.tag}", "isolated", gateway="10.99.7.1", prefix=24, dhcp_start="10.99.7.10", dhcp_end="10.99.7.20"
    )
    first = await world.host.ensure_network(plan)
    assert first.active
    assert first.bridge
    assert await world.host.ensure_network(plan) == first
    assert first in await world.host.list_networks()
    assert first.bridge in await world.host.list_bridges()
    await world.host.remove_network(plan.name)
    await world.host.remove_network(plan.name)
    assert plan.name not in {n.name for n in await world.host.list_networks()}


async def test_an_active_network_is_not_changed_under_its_guests(world: HostWorld, site: Site) -> None:
    plan = NetworkPlan(f"n{site.tag}", "isolated")
    await world.host.ensure_network(plan)
    with pytest.raises(Rejected):
        await world.host.ensure_network(dataclasses.replace(plan, gateway="10.99.8.1", prefix=24))


async def test_networks_of_others_stay(world: HostWorld, site: Site) -> None:
    name = f"n{site.tag}"
    await world.define_foreign_network(name)
    with pytest.raises(Rejected):
        await world.host.remove_network(name)
    with pytest.raises(Rejected):
        await world.host.ensure_network(NetworkPlan(name, "nat", gateway="10.99.9.1", prefix=24))
    assert name in {n.name for n in await world.host.list_networks()}


async def test_a_bridge_network_names_its_bridge(world: HostWorld, site: Site) -> None:
    seen = await world.host.ensure_network(NetworkPlan(f"n{site.tag}", "bridge", bridge_name="br-none"))
    assert (seen.active, seen.bridge) == (True, "br-none")
