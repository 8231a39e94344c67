"""The objects a VM brings into being: Volumes from disk templates, AddressClaims. At most one of each per disk and NIC.

Creation is idempotent by name; a name that somebody else's object has is said, never taken over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from lq_operator.api.base import FINALIZER, LocalRef, ObjectMeta, OwnerReference, SharedRef
from lq_operator.api.network import AddressClaim, AddressClaimSpec, VirtualNetwork, claim_name
from lq_operator.api.vm import Interface, VirtualMachine
from lq_operator.api.volume import Volume, VolumeSpec
from lq_operator.controllers.runtime.refs import VM_LABEL, Refs, volume_name
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.model import Identity
from lq_operator.core.network.ipam import Subnet
from lq_operator.core.result import Conflict
from lq_operator.core.units import parse_bytes
from lq_operator.ports import Resources, Store

CLAIM_ATTEMPTS = 16
"""Addresses to try when others take the first free one at the same moment."""


@dataclass(slots=True)
class Children:
    """Per interface the claimed address (network key, address), and what stands in the way."""

    claims: dict[str, AddressClaim] = field(default_factory=dict)
    lacks: list[Lack] = field(default_factory=list)


async def ensure_children(
    vm: VirtualMachine,
    identity: Identity,
    refs: Refs,
    store: Store,
    resources: Resources,
    in_use: Mapping[str, tuple[Identity, str]] = MappingProxyType({}),
) -> Children:
    """Create what is missing. Safe to repeat at any point.

    `in_use`: address -> (who, interface) as domains tell it. A guest keeps its address whatever the API server forgot:
    a lost claim is made again as its domain says, and no other VM gets that address meanwhile.
    """
    children = Children()
    for disk in vm.spec.disks:
        if disk.template is not None:
            await _ensure_volume(vm, disk.name, store, resources, children)
    for interface in vm.spec.interfaces:
        if interface.addressing != "Claim":
            continue
        network = refs.network(interface.network_ref, f"spec.interfaces[{interface.name}].networkRef")
        if isinstance(network, VirtualNetwork):
            await _ensure_claim(vm, identity, interface, network, store, resources, children, in_use)
    return children


async def _ensure_volume(
    vm: VirtualMachine, disk_name: str, store: Store, resources: Resources, children: Children
) -> None:
    name = volume_name(vm.metadata.name, disk_name)
    found = store.get(Volume, vm.metadata.namespace, name)
    if found is None:
        try:
            await resources.create(_volume(vm, disk_name))
        except Conflict:
            found = await resources.get(Volume, vm.metadata.namespace, name)
    if found is not None and found.metadata.labels.get(VM_LABEL) == vm.metadata.name:
        await _grow_volume(vm, disk_name, found, resources)
    if found is not None and found.metadata.labels.get(VM_LABEL) != vm.metadata.name:
        where = f"spec.disks[{disk_name}].template"
        children.lacks.append(
            Lack(
                "VolumeNameTaken",
                f"{where}: a Volume {name} that is not this VM's exists; rename the disk, or use volumeRef",
                stalled=True,
            )
        )


async def _grow_volume(vm: VirtualMachine, disk_name: str, volume: Volume, resources: Resources) -> None:
    """The template asks for more than the Volume does. Never for less: that is a preview's matter."""
    template = next(disk.template for disk in vm.spec.disks if disk.name == disk_name)
    if template is None or volume.deleting or parse_bytes(template.size) <= parse_bytes(volume.spec.size):
        return
    meta = volume.metadata
    operations = [
        {"op": "test", "path": "/metadata/uid", "value": meta.uid},
        {"op": "test", "path": "/spec/size", "value": volume.spec.size},
        {"op": "replace", "path": "/spec/size", "value": template.size},
    ]
    await resources.json_patch(Volume, meta.namespace, meta.name, operations, manager="lq-vm")


def _volume(vm: VirtualMachine, disk_name: str) -> Volume:
    template = next(disk.template for disk in vm.spec.disks if disk.name == disk_name)
    assert template is not None
    # A Retain volume must outlive the VM object, so garbage collection may not know it.
    owners = [] if template.reclaim_policy == "Retain" else [owner_of(vm)]
    return Volume(
        metadata=ObjectMeta(
            name=volume_name(vm.metadata.name, disk_name),
            namespace=vm.metadata.namespace,
            labels={VM_LABEL: vm.metadata.name},
            finalizers=[FINALIZER],
            owner_references=owners,
        ),
        spec=VolumeSpec(
            size=template.size,
            pool_ref=template.pool_ref,
            source=template.source,
            format=template.format,
            reclaim_policy=template.reclaim_policy,
        ),
    )


def owner_of(vm: VirtualMachine) -> OwnerReference:
    """The VM as owner, so that its objects are collected after it."""
    return OwnerReference(
        api_version=vm.api_version, kind=vm.kind_name, name=vm.metadata.name, uid=vm.metadata.uid, controller=True
    )


async def _ensure_claim(
    vm: VirtualMachine,
    identity: Identity,
    interface: Interface,
    network: VirtualNetwork,
    store: Store,
    resources: Resources,
    children: Children,
    in_use: Mapping[str, tuple[Identity, str]],
) -> None:
    claims = [c for c in store.list(AddressClaim) if _is_of(c, network)]
    mine = next((c for c in claims if _is_mine(c, vm, interface.name, interface.address)), None)
    if mine is not None:
        children.claims[interface.name] = mine
        return
    where = f"spec.interfaces[{interface.name}]"
    if network.spec.subnet is None:
        children.lacks.append(
            Lack("NoSubnet", f"{where}: VirtualNetwork {network.key} has no subnet to claim from", stalled=True)
        )
        return
    subnet = subnet_of(network)
    claimed = {claim.spec.address for claim in claims}
    taken = claimed | set(in_use)
    had = [a for a, user in in_use.items() if user == (identity, interface.name) and a not in claimed]
    kept = next((address for address in had if not subnet.why_not(address)), None)
    for attempt in range(CLAIM_ATTEMPTS):
        address = interface.address or (kept if attempt == 0 else None) or subnet.first_free(taken, skip=attempt)
        problem = subnet.why_not(address) if address else f"VirtualNetwork {network.key} has no free address"
        if problem or address is None:
            children.lacks.append(Lack("NoAddress", f"{where}: {problem}", stalled=bool(interface.address)))
            return
        try:
            children.claims[interface.name] = await resources.create(_claim(vm, identity, interface, network, address))
        except Conflict:
            # The watch may not have shown our own yet (a lost answer, a predecessor that has just died).
            name = claim_name(network.metadata.name, address)
            there = await resources.get(AddressClaim, network.metadata.namespace, name)
            if there is not None and _is_mine(there, vm, interface.name, interface.address):
                children.claims[interface.name] = there
                return
            if interface.address:
                children.lacks.append(
                    Lack(
                        "AddressTaken",
                        f"{where}.address: {address} is claimed already (AddressClaim {claim_name(network.metadata.name, address)})",
                        stalled=True,
                    )
                )
                return
            continue
        return
    children.lacks.append(Lack("NoAddress", f"{where}: {CLAIM_ATTEMPTS} addresses in a row were taken meanwhile"))


def subnet_of(network: VirtualNetwork) -> Subnet:
    """The network's addresses as the core knows them."""
    dhcp = network.spec.dhcp_range
    assert network.spec.subnet is not None
    return Subnet(network.spec.subnet, network.spec.gateway or "", (dhcp.start, dhcp.end) if dhcp else None)


def _is_of(claim: AddressClaim, network: VirtualNetwork) -> bool:
    return (
        claim.metadata.namespace == network.metadata.namespace and claim.spec.network_ref.name == network.metadata.name
    )


def _is_mine(claim: AddressClaim, vm: VirtualMachine, interface: str, address: str | None) -> bool:
    of = claim.spec.vm
    return (
        of is not None
        and of.name == vm.metadata.name
        and (of.namespace or claim.metadata.namespace) == vm.metadata.namespace
        and claim.spec.interface in ("", interface)
        and (address is None or claim.spec.address == address)
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


def claims_of(vm: VirtualMachine, store: Store) -> list[AddressClaim]:
    """Every claim that names this VM, for giving back."""
    return [
        claim
        for claim in store.list(AddressClaim)
        if claim.spec.vm is not None
        and claim.spec.vm.name == vm.metadata.name
        and (claim.spec.vm.namespace or claim.metadata.namespace) == vm.metadata.namespace
    ]
