"""The objects a VM brings into being: Volumes from disk templates, AddressClaims. At most one of each per disk and NIC.

Creation is idempotent by name; a name that somebody else's object has is said, never taken over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lq_operator.api.base import FINALIZER, ObjectMeta, OwnerReference
from lq_operator.api.network import AddressClaim, VirtualNetwork
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.volume import Volume, VolumeSpec
from lq_operator.controllers.runtime.refs import VM_LABEL, Refs, volume_name
from lq_operator.controllers.vm.addresses import Addresses
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.model import Identity
from lq_operator.core.result import Conflict
from lq_operator.core.units import parse_bytes
from lq_operator.ports import Resources, Store


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
    addresses: Addresses,
    in_use: Mapping[str, tuple[Identity, str]],
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
            claim = await addresses.ensure(vm, identity, interface, network, in_use)
            if isinstance(claim, Lack):
                children.lacks.append(claim)
            else:
                children.claims[interface.name] = claim
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


def claims_of(vm: VirtualMachine, store: Store) -> list[AddressClaim]:
    """Every claim that names this VM, for giving back."""
    return [
        claim
        for claim in store.list(AddressClaim)
        if claim.spec.vm is not None
        and claim.spec.vm.name == vm.metadata.name
        and (claim.spec.vm.namespace or claim.metadata.namespace) == vm.metadata.namespace
    ]
