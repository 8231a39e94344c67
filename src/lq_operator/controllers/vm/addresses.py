"""Which address an interface gets, and the AddressClaim that makes it its own.

Creating the claim is the lock: its name is network + address. Owns the choice, so that VMs that this process starts at
once do not ask for the same address: a refused create costs the API server as much as a good one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field

from lq_operator.api.base import LocalRef, ObjectMeta, SharedRef
from lq_operator.api.network import AddressClaim, AddressClaimSpec, VirtualNetwork, claim_name
from lq_operator.api.vm import Interface, VirtualMachine
from lq_operator.controllers.runtime.refs import VM_LABEL
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.model import Identity
from lq_operator.core.network.ipam import Subnet
from lq_operator.core.result import Conflict
from lq_operator.ports import Clock, Resources, Store

CLAIM_ATTEMPTS = 16
"""Addresses to try when another process takes them at the same moment."""
AGAIN_S = 15.0
"""How soon to look again for a free address: a claim that goes away wakes nobody."""
RIVALS_S = 30.0
"""So long after a refused create another process counts as claiming from that network too."""


@dataclass(slots=True)
class Addresses:
    """One per process and term. Losing it costs refused creates, never an address given twice."""

    store: Store
    resources: Resources
    clock: Clock
    _in_flight: dict[str, set[str]] = field(default_factory=dict)
    """Network key -> addresses whose create has not been answered yet; answered ones the Store has at once."""
    _rivals_until_s: dict[str, float] = field(default_factory=dict)

    async def ensure(
        self,
        vm: VirtualMachine,
        identity: Identity,
        interface: Interface,
        network: VirtualNetwork,
        in_use: Mapping[str, tuple[Identity, str]],
    ) -> AddressClaim | Lack:
        """The claim of this interface, made if there is none; or why there can be none now. Safe to repeat.

        `in_use`: address -> (who, interface) as domains tell it: a guest keeps its address whatever the API forgot.
        """
        mine = self._mine(vm, interface, network)
        if mine is not None:
            return mine
        where = f"spec.interfaces[{interface.name}]"
        if network.spec.subnet is None:
            message = f"{where}: VirtualNetwork {network.key} has no subnet to claim from"
            return Lack("NoSubnet", message, stalled=True)
        refused: set[str] = set()
        for _ in range(CLAIM_ATTEMPTS):
            address = interface.address or self._choose(vm, identity, interface, network, in_use, refused)
            problem = (
                subnet_of(network).why_not(address) if address else f"VirtualNetwork {network.key} has no free address"
            )
            if problem or address is None:
                fixed = bool(interface.address)
                return Lack("NoAddress", f"{where}: {problem}", stalled=fixed, again_s=None if fixed else AGAIN_S)
            claim = await self._claim(_claim(vm, identity, interface, network, address), network)
            if claim is not None and _is_mine(claim, vm, interface):
                return claim
            if interface.address:
                taken = f"{address} is claimed already (AddressClaim {claim_name(network.metadata.name, address)})"
                return Lack("AddressTaken", f"{where}.address: {taken}", stalled=True)
            refused.add(address)
        message = f"{where}: {CLAIM_ATTEMPTS} addresses in a row were taken meanwhile"
        return Lack("NoAddress", message, again_s=AGAIN_S)

    def _mine(self, vm: VirtualMachine, interface: Interface, network: VirtualNetwork) -> AddressClaim | None:
        """First where status says: with thousands of claims the search through all of them is for the first pass."""
        told = next((said.claim for said in vm.status.interfaces if said.name == interface.name and said.claim), "")
        if told:
            name = claim_name(network.metadata.name, told.partition("/")[0])
            claim = self.store.get(AddressClaim, network.metadata.namespace, name)
            if claim is not None and _is_of(claim, network) and _is_mine(claim, vm, interface):
                return claim
        claims = (claim for claim in self.store.list(AddressClaim) if _is_of(claim, network))
        return next((claim for claim in claims if _is_mine(claim, vm, interface)), None)

    def _choose(
        self,
        vm: VirtualMachine,
        identity: Identity,
        interface: Interface,
        network: VirtualNetwork,
        in_use: Mapping[str, tuple[Identity, str]],
        refused: Set[str],
    ) -> str | None:
        """The one its guest has already; else the lowest free one that no VM's spec asks for; while another process
        claims from this network too, one from a place of its own."""
        subnet = subnet_of(network)
        claimed = {claim.spec.address for claim in self.store.list(AddressClaim) if _is_of(claim, network)} | refused
        for address, user in in_use.items():
            if user == (identity, interface.name) and address not in claimed and not subnet.why_not(address):
                return address
        taken = claimed | set(in_use) | self._in_flight.get(network.key, set())
        begin = 0
        if self._rivals_until_s.get(network.key, 0.0) > self.clock.mono_s():
            begin = _place_of(identity, interface, len(refused))
        return subnet.first_free(taken | self._asked_for(network), begin=begin) or subnet.first_free(taken, begin=begin)

    def _asked_for(self, network: VirtualNetwork) -> set[str]:
        """What VMs name in their specs: applied together with others, they come to it in any order."""
        return {
            interface.address
            for vm in self.store.list(VirtualMachine)
            for interface in vm.spec.interfaces
            if interface.address
            and interface.network_ref.name == network.metadata.name
            and (interface.network_ref.namespace or vm.metadata.namespace) == network.metadata.namespace
        }

    async def _claim(self, claim: AddressClaim, network: VirtualNetwork) -> AddressClaim | None:
        """Create it; where it exists already, what exists."""
        meta = claim.metadata
        with self._flying(network.key, claim.spec.address):
            try:
                return await self.resources.create(claim)
            except Conflict:
                if self.store.get(AddressClaim, meta.namespace, meta.name) is None:
                    self._rivals_until_s[network.key] = self.clock.mono_s() + RIVALS_S
                # It may be our own (a lost answer, a predecessor that has just died), and the Store learns of it.
                return await self.resources.get(AddressClaim, meta.namespace, meta.name)

    @contextmanager
    def _flying(self, network: str, address: str) -> Iterator[None]:
        flying = self._in_flight.setdefault(network, set())
        first = address not in flying
        flying.add(address)
        try:
            yield
        finally:
            if first:
                flying.discard(address)


def _place_of(identity: Identity, interface: Interface, attempt: int) -> int:
    """Where in the network to begin: far from others', the same after a restart, elsewhere after each refusal."""
    name = f"{identity.namespace}/{identity.name}/{interface.name}/{attempt}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def subnet_of(network: VirtualNetwork) -> Subnet:
    """The network's addresses as the core knows them."""
    dhcp = network.spec.dhcp_range
    assert network.spec.subnet is not None
    return Subnet(network.spec.subnet, network.spec.gateway or "", (dhcp.start, dhcp.end) if dhcp else None)


def _is_of(claim: AddressClaim, network: VirtualNetwork) -> bool:
    return (
        claim.metadata.namespace == network.metadata.namespace and claim.spec.network_ref.name == network.metadata.name
    )


def _is_mine(claim: AddressClaim, vm: VirtualMachine, interface: Interface) -> bool:
    of = claim.spec.vm
    return (
        of is not None
        and of.name == vm.metadata.name
        and (of.namespace or claim.metadata.namespace) == vm.metadata.namespace
        and claim.spec.interface in ("", interface.name)
        and (interface.address is None or claim.spec.address == interface.address)
        and not claim.deleting
    )


def _claim(
    vm: VirtualMachine, identity: Identity, interface: Interface, network: VirtualNetwork, address: str
) -> AddressClaim:
    return AddressClaim(
        metadata=ObjectMeta(
            name=claim_name(network.metadata.name, address),
            namespace=network.metadata.namespace,
            labels={VM_LABEL: vm.metadata.name},
        ),
        spec=AddressClaimSpec(
            network_ref=LocalRef(name=network.metadata.name),
            address=address,
            vm=SharedRef(name=vm.metadata.name, namespace=vm.metadata.namespace),
            interface=interface.name,
            mac=interface.mac or identity.mac(interface.name),
        ),
    )
