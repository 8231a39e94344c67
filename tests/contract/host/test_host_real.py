"""What only a real host can show: guests that boot, the agent, firmware, TPM, hand-made settings, three hundred domains."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.contract.host.conftest import Site
from tests.contract.host.worlds import HostWorld, bare_uri, connected, credentials, lab_world

from lq_operator.adapters.libvirt.fleet import LibvirtFleet
from lq_operator.core.model import (
    AgentState,
    DiskPlan,
    DomainPlan,
    DomainState,
    NetworkPlan,
    NicPlan,
    NodeName,
    VolumePlan,
)
from lq_operator.core.result import Rejected, Transient
from lq_operator.lab.datacenter import Lab

pytestmark = pytest.mark.lab


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[HostWorld]:
    async with lab_world(request) as made:
        yield made


async def _until(what: str, ask: Callable[[], Coroutine[Any, Any, bool]], timeout_s: float = 180) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not await ask():  # noqa: ASYNC110 - a host is asked again, nothing tells us
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"not within {timeout_s} s: {what}")


async def _file(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as source:
        while chunk := source.read(1 << 20):
            yield chunk


async def _boot(world: HostWorld, site: Site, lab: Lab) -> DomainPlan:
    """The lab's guest from its image, with agent, on an isolated network; returns once the agent answers."""
    image = lab.www_dir / lab.image_url.rpartition("/")[2]
    await world.host.ensure_pool(site.pool)
    await world.host.create_volume(site.pool.name, VolumePlan("image", image.stat().st_size, "raw"))
    await world.host.upload(site.pool.name, "image", _file(image))
    seen = {v.name: v for v in await world.host.list_volumes(site.pool.name, refresh=True)}
    assert seen["image"].format == "qcow2"  # found out by the refresh after the upload
    size = seen["image"].capacity_bytes * 2
    root = await world.host.create_volume(site.pool.name, VolumePlan("root", size, clone_of="image"))
    assert root.capacity_bytes == size
    network = NetworkPlan(
        f"n{site.tag}", "isolated", gateway="10.99.3.1", prefix=24, dhcp_start="10.99.3.10", dhcp_end="10.99.3.99"
    )
    await world.host.ensure_network(network)
    plan = site.plan(
        await site.gate(),
        name="guest",
        memory_mib=160,
        guest_agent=True,
        rng=True,
        disks=(DiskPlan("root", root.path, "qcow2", boot_order=1),),
        nics=(NicPlan("eth0", "02:00:00:00:00:07", network=network.name),),
        console_log_path=f"{site.pool.path}/console.log",
    )
    await world.host.define(plan)
    await world.host.start(plan.identity.domain_name)
    await _agent_answers(world, plan.identity.domain_name)
    return plan


async def _agent_answers(world: HostWorld, name: str) -> None:
    async def ask() -> bool:
        try:
            return bool((await world.host.guest_facts(name)).addresses)
        except Transient:
            return False

    await _until(f"{name}: the agent answers with an address", ask)


async def _is_off(world: HostWorld, name: str) -> bool:
    seen = await world.host.find_domain(name)
    return seen is not None and seen.state is DomainState.SHUTOFF


async def test_a_guest_boots_answers_and_stops_when_asked(world: HostWorld, site: Site, lab: Lab) -> None:
    plan = await _boot(world, site, lab)
    name = plan.identity.domain_name
    facts = await world.host.guest_facts(name)
    assert facts.hostname
    assert "LQ Lab Guest" in facts.os_name
    assert facts.kernel
    assert facts.agent_version
    assert [mac for mac, _ in facts.addresses] == ["02:00:00:00:00:07"]
    assert facts.addresses[0][1].startswith("10.99.3.")
    assert await world.host.agent_state(name) is AgentState.ANSWERS
    await world.host.set_password(name, "root", "hunter2")
    with pytest.raises(Rejected, match="nobody") as refused:
        await world.host.set_password(name, "nobody", "hunter2")
    assert "hunter2" not in str(refused.value)
    with pytest.raises(Rejected, match="nobody"):
        await world.host.change_ssh_keys(name, "nobody", ["ssh-ed25519 AAAA a"], add=True)
    for add in (True, True, False, False):
        await world.host.change_ssh_keys(name, "root", ["ssh-ed25519 AAAA a"], add=add)

    log = await world.host.list_volumes(site.pool.name, refresh=True)
    assert "console.log" in {v.name for v in log}
    console = await world.host.download(site.pool.name, "console.log", length=1 << 20)
    assert b"Linux" in console or b"GUEST" in console

    await world.host.shutdown(name, mode="agent")
    await _until("off by the agent", lambda: _is_off(world, name))
    assert (await world.host.find_domain(name)).state_reason == "shutdown"  # type: ignore[union-attr]

    await world.host.start(name)
    await _agent_answers(world, name)
    await world.host.reboot(name, mode="acpi")
    await world.host.shutdown(name, mode="acpi")
    await _until("off by ACPI", lambda: _is_off(world, name))
    told = {(e.kind, e.detail) for e in world.events if e.domain_name == name}
    assert {("agent", "connected"), ("lifecycle", "stopped:shutdown")} <= told


@pytest.mark.parametrize("firmware", ["uefi", "uefi-secure"])
async def test_uefi_keeps_its_variables_where_it_is_told(world: HostWorld, site: Site, firmware: str) -> None:
    await world.host.ensure_pool(site.pool)
    plan = site.plan(
        await site.gate(), memory_mib=256, firmware=firmware, nvram_path=f"{site.pool.path}/nvram.fd", vnc=True
    )
    name = plan.identity.domain_name
    await world.host.define(plan)
    await world.host.start(name, paused=True)
    await world.host.destroy(name)
    await world.host.undefine(name)
    assert "nvram.fd" in {v.name for v in await world.host.list_volumes(site.pool.name, refresh=True)}
    await world.host.define(plan)
    await world.host.undefine(name, keep_nvram=False)
    assert "nvram.fd" not in {v.name for v in await world.host.list_volumes(site.pool.name, refresh=True)}


async def test_every_device_at_once_starts_again_at_the_same_addresses(world: HostWorld, site: Site) -> None:
    disks = [await site.disk(f"d{n}") for n in range(4)]
    disks[1] = dataclasses.replace(disks[1], bus="scsi", serial="S-1")
    disks[2] = dataclasses.replace(disks[2], bus="sata", boot_order=2)
    cdrom = DiskPlan("cd", "", "raw", bus="sata", device="cdrom", boot_order=1)
    network = NetworkPlan(f"n{site.tag}", "isolated")
    await world.host.ensure_network(network)
    plan = site.plan(
        await site.gate(),
        vcpus=4,
        sockets=1,
        cores=2,
        threads=2,
        memory_mib=64,
        disks=(*disks, cdrom),
        nics=(NicPlan("eth0", "02:00:00:00:00:09", network=network.name, model="e1000e", link_up=False),),
        seed_path=disks[0].path,
        guest_agent=True,
        vnc=True,
        tpm=True,
        rng=True,
        watchdog="pause",
    )
    plan = dataclasses.replace(plan, disks=plan.disks[1:])  # the first one serves as the seed
    name = plan.identity.domain_name
    await world.host.define(plan)
    await world.host.start(name, paused=True)
    hardware = await world.host.read_hardware(name)
    await world.host.destroy(name)
    await world.host.undefine(name)
    await world.host.define(dataclasses.replace(plan, hardware=hardware))
    await world.host.start(name, paused=True)
    assert await world.host.read_hardware(name) == hardware


@pytest.mark.parametrize("mode", ["host-model", "host-passthrough", "maximum", "custom"])
async def test_every_cpu_mode_starts_on_this_host(world: HostWorld, site: Site, mode: str) -> None:
    plan = site.plan(await site.gate(), cpu_mode=mode)
    await world.host.define(plan)
    await world.host.start(plan.identity.domain_name, paused=True)


async def test_defining_switches_autostart_off(world: HostWorld, site: Site, lab: Lab) -> None:
    plan = site.plan("")
    name = plan.identity.domain_name
    await world.host.define(plan)
    lab.host("h1").virsh("autostart", name)
    assert "enable" in lab.host("h1").virsh("dominfo", name).split("Autostart:")[1].split("\n")[0]
    await world.host.define(plan)
    assert "disable" in lab.host("h1").virsh("dominfo", name).split("Autostart:")[1].split("\n")[0]


async def test_three_hundred_domains_are_one_listing(world: HostWorld, site: Site) -> None:
    plans = [site.plan("", name=f"vm{n}") for n in range(300)]
    await asyncio.gather(*(world.host.define(plan) for plan in plans))
    began_s = asyncio.get_running_loop().time()
    seen = await world.host.list_domains()
    took_s = asyncio.get_running_loop().time() - began_s
    print(f"300 domains listed in {took_s * 1000:.0f} ms")
    assert {plan.identity for plan in plans} <= {domain.identity for domain in seen}


async def test_uploads_do_not_hold_the_image_in_memory(world: HostWorld, site: Site) -> None:
    """The source is asked for more only while the host takes it: at most a few chunks are under way."""
    await world.host.ensure_pool(site.pool)
    await world.host.create_volume(site.pool.name, VolumePlan("v", 64 << 20, "raw"))
    given = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(64):
            given += 1
            yield b"z" * (1 << 20)

    uploading = asyncio.create_task(world.host.upload(site.pool.name, "v", source()))
    while given < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    uploading.cancel()
    await asyncio.wait({uploading})
    assert uploading.cancelled()
    assert given < 64
    assert await world.host.list_domains() is not None  # the connection lives on


async def test_two_fleets_on_one_host_do_not_disturb_each_other(world: HostWorld, lab: Lab) -> None:
    other = LibvirtFleet()
    other.configure(NodeName("again"), bare_uri(lab.host("h1")), credentials(lab))
    host = await connected(other, NodeName("again"))
    assert host.uuid == world.host.uuid
    await other.close()
    assert not host.alive
    with pytest.raises(Transient):
        await host.list_domains()
    assert world.host.alive
    await world.host.list_domains()
