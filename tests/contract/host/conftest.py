"""Fixtures of the host contract: the same suite over every entry of worlds.WORLDS."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from tests.contract.host.worlds import WORLDS, HostWorld

from lq_operator.core.model import DiskPlan, DomainPlan, Epoch, Identity, PoolPlan, VolumePlan
from lq_operator.core.result import WorldError
from lq_operator.lab.datacenter import Lab


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.lab if name == "libvirt" else ()) for name in WORLDS])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[HostWorld]:
    async with WORLDS[request.param](request) as made:
        yield made


@dataclass
class Site:
    """A test's own names on the host: two pools, and domains of one namespace."""

    world: HostWorld
    tag: str

    @property
    def pool(self) -> PoolPlan:
        return PoolPlan(f"lq-t-{self.tag}", self.world.scratch)

    @property
    def gates(self) -> PoolPlan:
        return PoolPlan(f"lq-g-{self.tag}", f"/run/lq-{self.tag}")

    async def gate(self, name: str = "gate-1-aa") -> str:
        """Make a gate; its path."""
        await self.world.host.ensure_pool(self.gates)
        await self.world.host.create_volume(self.gates.name, VolumePlan(name, 0, "raw", mode=0o444))
        return f"{self.gates.path}/{name}"

    def plan(self, gate_path: str, name: str = "vm", **changes: object) -> DomainPlan:
        """A tiny domain: it has nothing to boot from and is mostly started paused."""
        base = DomainPlan(
            identity=Identity("inst", f"t{self.tag}", name),
            uid=f"uid-{name}",
            epoch=Epoch(1, 1),
            spec_hash="cafe",
            gate_path=gate_path,
            vcpus=1,
            memory_mib=32,
            accel="tcg",
            hotplug_ports=1,
            guest_agent=False,
            rng=False,
        )
        return dataclasses.replace(base, **changes)  # type: ignore[arg-type]

    async def disk(self, name: str = "root") -> DiskPlan:
        await self.world.host.ensure_pool(self.pool)
        await self.world.host.create_volume(self.pool.name, VolumePlan(name, 1 << 20))
        return DiskPlan(name, f"{self.pool.path}/{name}", "qcow2")

    async def clean(self) -> None:
        host = self.world.host
        for domain in await host.list_domains():
            if self.tag in domain.domain_name:
                with contextlib.suppress(WorldError):
                    await host.destroy(domain.domain_name)
                await host.undefine(domain.domain_name, keep_nvram=False)
        for network in await host.list_networks():
            if self.tag in network.name:
                with contextlib.suppress(WorldError):
                    await host.remove_network(network.name)
        for pool in (self.pool, self.gates):
            await host.remove_pool(pool.name)
            await self.world.remove_dir(pool.path)


@pytest.fixture
async def site(world: HostWorld) -> AsyncIterator[Site]:
    made = Site(world, uuid.uuid4().hex[:8])
    yield made
    await made.clean()


@pytest.fixture(scope="module")
def own_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab that its module may break: two hosts over TLS, no control plane."""
    from tests.labfixtures import lab_name, require_lab

    require_lab()
    made = Lab.create(lab_name(f"-{request.module.__name__.rpartition('_')[2][:8]}"), hosts=2, controlplane=False)
    try:
        made.up(print)
        yield made
    finally:
        made.down()
