"""What the host contract needs besides ports.Fleet and ports.Host: somebody who touches the host behind our back.

WORLDS is the list of implementations the suite runs on. A fake joins by adding an async context manager here:
`WORLDS["fake"] = fake_world`; it gets pytest's request and yields a HostWorld.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest
from tests.sim.fakes.clock import FakeClock
from tests.sim.fakes.hosts import Datacenter, FakeFleet

from lq_operator.adapters.libvirt.fleet import LibvirtFleet
from lq_operator.core.model import DomainEvent, NodeName
from lq_operator.lab.datacenter import Lab
from lq_operator.lab.host import LabHost
from lq_operator.ports import Fleet, Host


class HostWorld(Protocol):
    """One connected host. `scratch` is a directory of this test on it (made when a pool there is built)."""

    fleet: Fleet
    node: NodeName
    host: Host
    scratch: str
    events: list[DomainEvent]

    async def put_file(self, path: str) -> None:
        """An empty file appears behind libvirt's back."""
        ...

    async def remove_file(self, path: str) -> None: ...
    async def remove_dir(self, path: str) -> None:
        """The directory is gone, as a tmpfs is after a boot."""
        ...

    async def define_foreign(self, domain_name: str) -> None:
        """Somebody defines a domain of that name by hand, without our metadata."""
        ...

    async def define_foreign_network(self, name: str) -> None:
        """Somebody defines an isolated network by hand."""
        ...


WorldFactory = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[HostWorld]]


async def connected(fleet: Fleet, node: NodeName) -> Host:
    """Wait for the connection; fails with why_down."""
    try:
        async with asyncio.timeout(60):
            while (host := fleet.host(node)) is None:  # noqa: ASYNC110 - the port has no event to wait for
                await asyncio.sleep(0.02)
            return host
    except TimeoutError:
        pytest.fail(f"{node} did not connect: {fleet.why_down(node)}")


def credentials(lab: Lab) -> dict[str, bytes]:
    """The lab's client credentials as the Secret of a node holds them."""
    pki = lab.client_pki
    names = {"ca.crt": "cacert.pem", "tls.crt": "clientcert.pem", "tls.key": "clientkey.pem"}
    return {key: (pki / name).read_bytes() for key, name in names.items()}


def bare_uri(host: LabHost) -> str:
    """The URI as a HypervisorNode would say it: without parameters for files on this machine."""
    return str(host.uri).partition("?")[0]


class LabWorld:
    """A real libvirtd of the lab."""

    def __init__(self, fleet: LibvirtFleet, lab_host: LabHost) -> None:
        self.fleet: Fleet = fleet
        self.node = NodeName(lab_host.name)
        self.scratch = f"/var/lib/libvirt/lq-{uuid.uuid4().hex[:12]}"
        self.events: list[DomainEvent] = []
        fleet.on_event(self.events.append)
        self._lab_host = lab_host
        self.host: Host

    async def _exec(self, *argv: str, stdin: str | None = None) -> str:
        done = await asyncio.to_thread(self._lab_host.exec, list(argv), check=True, stdin=stdin)
        return str(done.stdout)

    async def _virsh(self, verb: str, xml: str) -> None:
        await self._exec("sh", "-c", f"cat > /run/by-hand.xml && virsh {verb} /run/by-hand.xml", stdin=xml)

    async def put_file(self, path: str) -> None:
        await self._exec("touch", path)

    async def remove_file(self, path: str) -> None:
        await self._exec("rm", "-f", path)

    async def remove_dir(self, path: str) -> None:
        await self._exec("rm", "-rf", path)

    async def define_foreign(self, domain_name: str) -> None:
        xml = (
            f"<domain type='qemu'><name>{domain_name}</name><memory unit='MiB'>32</memory>"
            "<os><type arch='x86_64' machine='pc'>hvm</type></os></domain>"
        )
        await self._virsh("define", xml)

    async def define_foreign_network(self, name: str) -> None:
        xml = f"<network><name>{name}</name></network>"
        await self._virsh("net-define", xml)


@contextlib.asynccontextmanager
async def lab_world(request: pytest.FixtureRequest) -> AsyncIterator[HostWorld]:
    """The first host of the session's lab."""
    lab: Lab = request.getfixturevalue("lab")
    with lab.entered():
        fleet = LibvirtFleet()
        lab_host = lab.host("h1")
        world = LabWorld(fleet, lab_host)
        fleet.configure(world.node, bare_uri(lab_host), credentials(lab))
        try:
            world.host = await connected(fleet, world.node)
            yield world
        finally:
            await fleet.close()
            await asyncio.to_thread(lab_host.exec, ["rm", "-rf", world.scratch])


class MemoryWorld:
    """The simulator's machine."""

    def __init__(self) -> None:
        clock = FakeClock()
        datacenter = Datacenter(clock)
        self._machine = datacenter.add("h1")
        self.fleet: Fleet = FakeFleet(datacenter, clock)
        self.node = NodeName("h1")
        self.scratch = f"/var/lib/libvirt/lq-{uuid.uuid4().hex[:12]}"
        self.events: list[DomainEvent] = []
        self.fleet.on_event(self.events.append)
        self.fleet.configure(self.node, "qemu+tls://h1/system", {})
        host = self.fleet.host(self.node)
        assert host is not None
        self.host: Host = host

    async def put_file(self, path: str) -> None:
        self._machine.put_file(path)

    async def remove_file(self, path: str) -> None:
        self._machine.remove_file(path)

    async def remove_dir(self, path: str) -> None:
        self._machine.remove_dir(path)

    def hold(self, device: str) -> None:
        """The guest does not let go of it."""
        self._machine.hotplug.holds.add(device)

    async def define_foreign(self, domain_name: str) -> None:
        self._machine.define_foreign(domain_name)

    async def define_foreign_network(self, name: str) -> None:
        self._machine.define_foreign_network(name)


@contextlib.asynccontextmanager
async def memory_world(request: pytest.FixtureRequest) -> AsyncIterator[HostWorld]:
    """A machine of the simulator (tests/sim/fakes)."""
    del request
    world = MemoryWorld()
    try:
        yield world
    finally:
        await world.fleet.close()


WORLDS: dict[str, WorldFactory] = {"libvirt": lab_world, "memory": memory_world}
