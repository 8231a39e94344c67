"""Where a VM runs, and a connection to that host for as long as somebody looks at a guest of it.

Believes the API about where to look and the host about what runs there: the domain must be of this very VM.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.core.model import NodeName, domain_name_of
from lq_operator.core.result import Conflict, NotFound, Transient, WorldError
from lq_operator.ports import Clock, Fleet, Host, Resources, Store

CONNECT_S = 15.0
"""How long a person waits for a host that is not connected yet."""
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Guest:
    """A running domain on a live connection."""

    host: Host
    node: str
    domain_name: str


@dataclass
class _Use:
    """Who needs the connection to a host."""

    count: int = 0
    idle_since_s: float = 0.0


@dataclass
class Guests:
    """`idle_s`: a host is forgotten this long after its last guest was looked at."""

    store: Store
    resources: Resources
    fleet: Fleet
    clock: Clock
    operator_namespace: str
    idle_s: float
    _uses: dict[NodeName, _Use] = field(default_factory=dict)

    def vm(self, namespace: str, name: str) -> VirtualMachine:
        """NotFound when the API has none."""
        found = self.store.get(VirtualMachine, namespace, name)
        if found is None or found.deleting:
            raise NotFound(f"there is no VirtualMachine {namespace}/{name}")
        return found

    @asynccontextmanager
    async def running(self, namespace: str, name: str) -> AsyncIterator[Guest]:
        """The guest, found at its host; the connection is kept until the block ends. Conflict: it does not run.
        Transient: its host cannot be asked."""
        vm = self.vm(namespace, name)
        placement = vm.status.placement
        if placement is None or not placement.node:
            raise Conflict(f"vm/{name} runs nowhere: it is {vm.status.power.state}")
        nodes = [placement.node] + ([placement.target] if placement.target else [])
        problem: WorldError = Conflict(f"vm/{name} does not run: it is {vm.status.power.state}")
        for node in dict.fromkeys(nodes):
            with self._used(NodeName(node)):
                try:
                    guest = await self._on(vm, node)
                except WorldError as error:
                    problem = error
                    continue
                yield guest
                return
        raise problem

    def _used(self, node: NodeName) -> _InUse:
        return _InUse(self, self._uses.setdefault(node, _Use()))

    async def _on(self, vm: VirtualMachine, node: str) -> Guest:
        host = await self._host(node)
        meta = vm.metadata
        domain_name = domain_name_of(meta.namespace or "", meta.name)
        seen = await host.find_domain(domain_name)
        if seen is None or not seen.state.runs:
            raise Conflict(f"vm/{meta.name} does not run on {node}: it is {vm.status.power.state}")
        if seen.uid != meta.uid:
            raise Conflict(f"what runs on {node} under the name of vm/{meta.name} is not this VM")
        return Guest(host, node, domain_name)

    async def _host(self, name: str) -> Host:
        """Connected, within CONNECT_S."""
        node = self.store.get(HypervisorNode, None, name)
        if node is None:
            raise Transient(f"there is no HypervisorNode {name}")
        credentials: dict[str, bytes] = {}
        ref = node.spec.credentials_secret_ref
        if ref is not None and self.fleet.host(NodeName(name)) is None:
            found = await self.resources.read_secret(self.operator_namespace, ref.name)
            if found is None:
                raise Transient(f"the credentials of host {name} are not there (Secret {ref.name})")
            credentials = dict(found)
        host = self.fleet.host(NodeName(name))
        if host is None:
            self.fleet.configure(NodeName(name), node.spec.uri, credentials)
        deadline_s = self.clock.mono_s() + CONNECT_S
        while (host := self.fleet.host(NodeName(name))) is None:
            if self.clock.mono_s() > deadline_s:
                raise Transient(f"host {name} does not answer: {self.fleet.why_down(NodeName(name))}")
            await self.clock.sleep(_LOOK_S)
        if node.status.host_uuid and host.uuid != node.status.host_uuid:
            raise Transient(f"behind the URI of {name} is another host ({host.uuid})")
        return host

    async def forget_idle(self) -> None:
        """For ever: give up connections that nobody needs."""
        while True:
            await self.clock.sleep(min(self.idle_s, 5.0))
            now_s = self.clock.mono_s()
            for node, use in list(self._uses.items()):
                if use.count == 0 and now_s - use.idle_since_s > self.idle_s:
                    del self._uses[node]
                    self.fleet.forget(node)

    def hosts_in_use(self) -> int:
        """Connections that are kept."""
        return len(self._uses)


class _InUse:
    """Counts while inside."""

    def __init__(self, guests: Guests, use: _Use) -> None:
        self._guests = guests
        self._use = use

    def __enter__(self) -> None:
        self._use.count += 1

    def __exit__(self, *_: object) -> None:
        self._use.count -= 1
        self._use.idle_since_s = self._guests.clock.mono_s()
