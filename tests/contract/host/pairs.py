"""Two connected hosts for the contract of moves, real and in memory, and how a test makes a move take its time.

PAIRS is the list of implementations; what a move needs (gates, a ticket, a guest) is in Trip, the same for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import pytest
from tests.contract.host.worlds import bare_uri, connected, credentials
from tests.sim.fakes.clock import FakeClock
from tests.sim.fakes.hosts import Datacenter, FakeFleet

from lq_operator.adapters.libvirt.fleet import LibvirtFleet
from lq_operator.adapters.libvirt.settings import LibvirtSettings
from lq_operator.core.model import (
    DiskPlan,
    DomainPlan,
    DomainSeen,
    Epoch,
    Identity,
    MovePlan,
    NodeName,
    PoolPlan,
    VolumePlan,
)
from lq_operator.core.result import WorldError
from lq_operator.lab.datacenter import Lab
from lq_operator.ports import Fleet, Host

T = TypeVar("T")
H1, H2 = NodeName("h1"), NodeName("h2")
PATIENCE_S = 120.0


class Pair(Protocol):
    """h1 and h2. `slow_mib`: memory of a guest whose move, at 1 MiB/s, has a middle that can be looked at."""

    fleet: Fleet
    slow_mib: int

    def shared_path(self, tag: str) -> str:
        """A directory that both hosts have."""
        ...

    def peer_uri(self, source: NodeName, target: NodeName) -> str: ...
    def another_fleet(self) -> Fleet:
        """A second process that is connected to the same hosts."""
        ...

    async def connected(self, node: NodeName, fleet: Fleet | None = None) -> Host:
        """Wait for it."""
        ...

    async def wait(self, call: Awaitable[T]) -> T:
        """The result of a call that takes time."""
        ...

    async def until(self, condition: Callable[[], Coroutine[Any, Any, bool]], what: str) -> None:
        """Let time pass until it holds."""
        ...

    async def kill_daemon(self, node: NodeName) -> None:
        """libvirtd dies (kill -9); guests go on. Not started again before revive_daemon()."""
        ...

    async def revive_daemon(self, node: NodeName) -> None: ...
    async def define_foreign(self, node: NodeName, domain_name: str) -> None: ...
    async def close(self) -> None: ...


class LabPair:
    """Two libvirtds of a lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._fleets: list[LibvirtFleet] = []
        self.slow_mib = 8192  # untouched memory costs nothing, but every page of it is told
        self.fleet = self.another_fleet()

    def shared_path(self, tag: str) -> str:
        return f"{self._lab.shared_dir}/{tag}"

    def peer_uri(self, source: NodeName, target: NodeName) -> str:
        return self._lab.host(source).peer_uri(self._lab.host(target))

    def another_fleet(self) -> Fleet:
        fleet = LibvirtFleet(LibvirtSettings(backoff_most_s=1))
        self._fleets.append(fleet)
        for node in (H1, H2):
            fleet.configure(node, bare_uri(self._lab.host(node)), credentials(self._lab))
        return fleet

    async def connected(self, node: NodeName, fleet: Fleet | None = None) -> Host:
        return await connected(fleet or self.fleet, node)

    async def wait(self, call: Awaitable[T]) -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await call

    async def until(self, condition: Callable[[], Coroutine[Any, Any, bool]], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await condition():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pytest.fail(f"not within {PATIENCE_S:g} s: {what}")

    async def kill_daemon(self, node: NodeName) -> None:
        await asyncio.to_thread(self._lab.host(node).daemon_kill)

    async def revive_daemon(self, node: NodeName) -> None:
        await asyncio.to_thread(self._lab.host(node).daemon_start)

    async def define_foreign(self, node: NodeName, domain_name: str) -> None:
        xml = (
            f"<domain type='qemu'><name>{domain_name}</name><memory unit='MiB'>32</memory>"
            "<os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"
        )
        script = "cat > /run/by-hand.xml && virsh define /run/by-hand.xml"
        await asyncio.to_thread(self._lab.host(node).exec, ["sh", "-c", script], check=True, stdin=xml)

    async def close(self) -> None:
        for fleet in self._fleets:
            await fleet.close()


@contextlib.asynccontextmanager
async def lab_pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """The two hosts of the module's own lab, because some tests kill their daemons."""
    lab: Lab = request.getfixturevalue("own_lab")
    with lab.entered():
        pair = LabPair(lab)
        try:
            yield pair
        finally:
            await pair.close()


class MemoryPair:
    """Two machines of the simulator; time passes only while somebody waits for it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.datacenter = Datacenter(self.clock)
        self.slow_mib = 1024
        for node in (H1, H2):
            self.datacenter.add(node)
        self._fleets: list[FakeFleet] = []
        self.fleet = self.another_fleet()

    def shared_path(self, tag: str) -> str:
        self.datacenter.shared.setdefault(f"/srv/shared-{tag}", {})
        return f"/srv/shared-{tag}"

    def peer_uri(self, source: NodeName, target: NodeName) -> str:
        del source
        return f"qemu+tls://{target}/system"

    def another_fleet(self) -> Fleet:
        fleet = FakeFleet(self.datacenter, self.clock)
        self._fleets.append(fleet)
        for node in (H1, H2):
            fleet.configure(node, f"qemu+tls://{node}/system", {})
        return fleet

    async def connected(self, node: NodeName, fleet: Fleet | None = None) -> Host:
        host = (fleet or self.fleet).host(node)
        assert host is not None
        return host

    async def wait(self, call: Awaitable[T]) -> T:
        future = asyncio.ensure_future(call)
        assert await self.clock.run_until(future.done, limit_s=PATIENCE_S)
        return await future

    async def until(self, condition: Callable[[], Coroutine[Any, Any, bool]], what: str) -> None:
        for _ in range(int(PATIENCE_S)):
            if await condition():
                return
            await self.clock.advance(1.0)
        pytest.fail(f"not within {PATIENCE_S:g} s: {what}")

    async def kill_daemon(self, node: NodeName) -> None:
        self.datacenter.restart_daemon(node)
        await self.clock.settle()

    async def revive_daemon(self, node: NodeName) -> None:
        del node

    async def define_foreign(self, node: NodeName, domain_name: str) -> None:
        self.datacenter.machines[node].define_foreign(domain_name)

    async def close(self) -> None:
        for fleet in self._fleets:
            await fleet.close()
        self.datacenter.close()


@contextlib.asynccontextmanager
async def memory_pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """Two machines of the simulator (tests/sim/fakes)."""
    del request
    pair = MemoryPair()
    try:
        yield pair
    finally:
        await pair.close()


PAIRS: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Pair]]] = {
    "libvirt": lab_pair,
    "memory": memory_pair,
}


class Trip:
    """One guest on h1, gates on both hosts, a ticket on h2."""

    def __init__(self, pair: Pair, source: Host, target: Host) -> None:
        self.pair, self.source, self.target = pair, source, target
        self.tag = uuid.uuid4().hex[:8]
        self.gates = PoolPlan(f"lq-g-{self.tag}", f"/run/lq-{self.tag}")
        self.guest = DomainPlan(
            identity=Identity("inst", f"t{self.tag}", "vm"),
            uid="uid-vm",
            epoch=Epoch(1, 1),
            spec_hash="cafe",
            gate_path=f"{self.gates.path}/gate-1-aa",
            vcpus=1,
            memory_mib=32,
            accel="tcg",
            hotplug_ports=1,
            guest_agent=False,
            rng=False,
        )

    @property
    def name(self) -> str:
        return self.guest.identity.domain_name

    def pool(self, place: str) -> PoolPlan:
        """A dir pool: 'shared' is the same on both hosts, 'here' and 'there' differ in their path."""
        path = self.pair.shared_path(self.tag) if place == "shared" else f"/var/lib/libvirt/lq-{self.tag}-{place}"
        return PoolPlan(f"lq-t-{self.tag}-{place}", path)

    async def prepare(self) -> None:
        """Gates and the ticket."""
        for host in (self.source, self.target):
            await host.ensure_pool(self.gates)
            await host.create_volume(self.gates.name, VolumePlan("gate-1-aa", 0, "raw", mode=0o444))
        await self.target.create_volume(self.gates.name, VolumePlan("ticket-1", 0, "raw", mode=0o444))

    async def disk(self, host: Host, place: str, content: bytes = b"", *, size_bytes: int = 1 << 20) -> DiskPlan:
        """A raw volume named root in that pool of that host."""
        pool = self.pool(place)
        await host.ensure_pool(pool)
        await host.create_volume(pool.name, VolumePlan("root", size_bytes, "raw"))
        if content:
            await host.upload(pool.name, "root", _once(content))
        return DiskPlan("root", f"{pool.path}/root", "raw")

    async def begin(self, *, paused: bool = False, **changes: object) -> None:
        """The guest runs on the source."""
        self.guest = dataclasses.replace(self.guest, **changes)  # type: ignore[arg-type]
        await self.source.define(self.guest)
        await self.source.start(self.name, paused=paused)

    def plan(self, arriving: DomainPlan | None = None, **changes: object) -> MovePlan:
        """To h2, with the ticket; `arriving`: the guest as it is there, where that differs."""
        kept = arriving or self.guest
        running = dataclasses.replace(kept, gate_path=f"{self.gates.path}/ticket-1")
        plan = MovePlan(self.name, self.pair.peer_uri(H1, H2), "", running, kept)
        return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]

    async def slow(self, host: Host | None = None, **changes: object) -> asyncio.Task[object]:
        """A move that is in its middle: the target's QEMU waits, some of the memory has gone."""
        sending = host or self.source
        moving: asyncio.Task[object] = asyncio.ensure_future(sending.move(self.plan(bandwidth_mib_s=1, **changes)))

        async def midway() -> bool:
            progress = await self.source.move_progress(self.name)
            return moving.done() or (progress is not None and progress.transferred_bytes > 0)

        await self.pair.until(midway, "the move is under way")
        assert not moving.done(), moving
        return moving

    async def seen(self, host: Host) -> DomainSeen:
        found = await host.find_domain(self.name)
        assert found is not None
        return found

    async def state(self, host: Host) -> str:
        """'Running migrated' and the like; 'absent'."""
        found = await host.find_domain(self.name)
        return "absent" if found is None else f"{found.state} {found.state_reason}"

    async def clean(self) -> None:
        for node in (H1, H2):
            host = await self.pair.connected(node)
            for domain in await host.list_domains():
                if self.tag in domain.domain_name:
                    with contextlib.suppress(WorldError):
                        await host.destroy(domain.domain_name)
                    await host.undefine(domain.domain_name, keep_nvram=False)
            for pool in await host.list_pools():
                if self.tag in pool.name:
                    for volume in await host.list_volumes(pool.name, refresh=True):
                        await host.delete_volume(pool.name, volume.name)
                    await host.remove_pool(pool.name)


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
