"""What a start of this VM needs, resolved: size, disks, NICs; and what is missing, as reasons a person can act on."""

from __future__ import annotations

from dataclasses import dataclass, field

from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.network import VirtualNetwork
from lq_operator.api.vm import Interface, VirtualMachine
from lq_operator.api.volume import Volume
from lq_operator.controllers.runtime.attachments import Attachments
from lq_operator.controllers.runtime.refs import UNPLACED, Refs, disk_volumes
from lq_operator.controllers.vm.addresses import subnet_of
from lq_operator.controllers.vm.cdroms import Drive, Resolver
from lq_operator.controllers.vm.children import Children
from lq_operator.convert.domain import ResolvedDisk, ResolvedNic, Size
from lq_operator.convert.seed import SeedNic
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.model import Identity, NodeName
from lq_operator.ports import Store

IN_USE_S = 10.0
"""How soon to look again whether the other VM has given the Volume up: nothing tells."""


@dataclass(slots=True)
class Prepared:
    """Everything resolved as far as it goes. `blockers`: nothing is committed; `pending`: committed, but not started."""

    cluster: HypervisorCluster | None = None
    size: Size | None = None
    disks: list[ResolvedDisk] = field(default_factory=list)
    drives: list[Drive] = field(default_factory=list)
    nics: list[ResolvedNic] = field(default_factory=list)
    seed_nics: list[SeedNic] = field(default_factory=list)
    dhcp_nics: list[tuple[str, str]] = field(default_factory=list)
    blockers: list[Lack] = field(default_factory=list)
    pending: list[Lack] = field(default_factory=list)


def prepare(
    vm: VirtualMachine,
    identity: Identity,
    node: NodeName | None,
    refs: Refs,
    store: Store,
    attachments: Attachments,
    children: Children,
) -> Prepared:
    """Resolve for a start on `node` (None: not placed, only the blockers are of interest)."""
    prepared = Prepared(blockers=list(children.lacks))
    _cluster_and_size(vm, refs, prepared)
    _disks(vm, node, refs, store, attachments, prepared)
    _cdroms(vm, node, refs, store, attachments, prepared)
    for interface in vm.spec.interfaces:
        _nic(vm, identity, interface, node, refs, children, prepared)
    _duplicate_macs(vm, store, prepared)
    return prepared


def _cluster_and_size(vm: VirtualMachine, refs: Refs, prepared: Prepared) -> None:
    cluster = refs.cluster(vm.spec.cluster_ref.name if vm.spec.cluster_ref else None)
    if isinstance(cluster, Lack):
        prepared.blockers.append(cluster)
    else:
        prepared.cluster = cluster
    size = refs.size(vm)
    if isinstance(size, Lack):
        prepared.blockers.append(size)
    else:
        prepared.size = size


def _disks(
    vm: VirtualMachine, node: NodeName | None, refs: Refs, store: Store, attachments: Attachments, prepared: Prepared
) -> None:
    for disk_name, volume_name in disk_volumes(vm).items():
        where = f"spec.disks[{disk_name}]"
        volume = store.get(Volume, vm.metadata.namespace, volume_name)
        if volume is None:
            templated = any(d.name == disk_name and d.template is not None for d in vm.spec.disks)
            message = f"{where}: there is no Volume {volume_name}"
            lack = Lack("VolumeNotFound", message, stalled=not templated, untold=templated)
            prepared.blockers.append(lack)
            continue
        user = attachments.user(vm.metadata.namespace or "", volume_name)
        if user is not None and user.metadata.name != vm.metadata.name:
            message = f"{where}: Volume {volume_name} belongs to VirtualMachine {user.metadata.name}; a disk has one VM"
            prepared.blockers.append(Lack("VolumeInUse", message, stalled=True, again_s=IN_USE_S))
            continue
        if not volume.status.pool and prepared.cluster is not None:
            pool = refs.pool(volume.spec.pool_ref, prepared.cluster.metadata.name, f"{where}: Volume {volume_name}")
            if isinstance(pool, Lack):
                prepared.blockers.append(pool)
                continue
        _one_disk(disk_name, volume, node, prepared)


def _cdroms(
    vm: VirtualMachine, node: NodeName | None, refs: Refs, store: Store, attachments: Attachments, prepared: Prepared
) -> None:
    if not vm.spec.cdroms or prepared.cluster is None:
        return
    cluster = prepared.cluster.metadata.name
    prepared.drives = Resolver(vm, node, refs, store, attachments, cluster).drives()
    for drive in prepared.drives:
        if drive.lack is not None:
            (prepared.blockers if drive.blocks else prepared.pending).append(drive.lack)


def _one_disk(disk_name: str, volume: Volume, node: NodeName | None, prepared: Prepared) -> None:
    where, status = f"spec.disks[{disk_name}]", volume.status
    ready = status.condition("Ready")
    if volume.deleting:
        prepared.blockers.append(
            Lack("VolumeDeleting", f"{where}: Volume {volume.metadata.name} is being deleted", stalled=True)
        )
    elif status.phase == "Failed":
        why = ready.message if ready else ""
        prepared.pending.append(Lack("VolumeFailed", f"{where}: {why}", stalled=True))
    elif status.phase != "Ready" or not status.chain:
        why = ready.message if ready and ready.message else "is not ready yet"
        untold = ready is None or ready.reason == UNPLACED
        prepared.pending.append(Lack("VolumeNotReady", f"{where}: Volume {volume.metadata.name}: {why}", untold=untold))
    elif status.node and node is not None and status.node != node:
        prepared.pending.append(
            Lack(
                "VolumeElsewhere",
                f"{where}: Volume {volume.metadata.name} lies on {status.node}, not on {node}",
                stalled=True,
            )
        )
    else:
        link = status.chain[0]
        prepared.disks.append(ResolvedDisk(disk_name, link.path, link.format))


def _nic(
    vm: VirtualMachine,
    identity: Identity,
    interface: Interface,
    node: NodeName | None,
    refs: Refs,
    children: Children,
    prepared: Prepared,
) -> None:
    where = f"spec.interfaces[{interface.name}].networkRef"
    network = refs.network(interface.network_ref, where)
    if isinstance(network, Lack):
        prepared.blockers.append(network)
        return
    if node is not None:
        here = next((entry for entry in network.status.nodes if entry.node == node), None)
        if here is None or not here.ready:
            why = here.message if here else "not set up there yet"
            prepared.pending.append(Lack("NetworkNotReady", f"{where}: {network.key} on {node}: {why}"))
    mac = interface.mac or identity.mac(interface.name)
    status = network.status
    prepared.nics.append(
        ResolvedNic(
            interface.name,
            mac,
            network="" if network.spec.type == "bridge" else status.libvirt_name,
            bridge=status.bridge if network.spec.type == "bridge" else "",
            mtu=network.spec.mtu or 0,
        )
    )
    _addressing(interface, network, mac, children, prepared)


def _addressing(
    interface: Interface, network: VirtualNetwork, mac: str, children: Children, prepared: Prepared
) -> None:
    claim = children.claims.get(interface.name)
    if interface.addressing == "Dhcp":
        prepared.dhcp_nics.append((interface.name, mac))
    elif claim is not None:
        subnet = subnet_of(network)
        gateway = subnet.effective_gateway() if network.spec.type == "nat" else network.spec.gateway or ""
        dns = tuple(network.spec.dns) or ((gateway,) if network.spec.type == "nat" else ())
        cidr = f"{claim.spec.address}/{subnet.prefix}"
        prepared.seed_nics.append(SeedNic(interface.name, mac, cidr, gateway, dns, network.spec.mtu or 0))


def _duplicate_macs(vm: VirtualMachine, store: Store, prepared: Prepared) -> None:
    """A MAC that a user wrote may be another's on the same network; derived ones cannot be."""
    written = {i.mac: i.name for i in vm.spec.interfaces if i.mac}
    if len(written) < len([i for i in vm.spec.interfaces if i.mac]):
        prepared.blockers.append(
            Lack("DuplicateMAC", "spec.interfaces: two interfaces have the same mac", stalled=True)
        )
    if not written:
        return
    for other in store.list(VirtualMachine):
        if other.metadata.uid == vm.metadata.uid or other.seniority > vm.seniority:
            continue
        for interface in other.spec.interfaces:
            if interface.mac in written:
                where = f"spec.interfaces[{written[interface.mac]}].mac"
                prepared.blockers.append(
                    Lack(
                        "DuplicateMAC",
                        f"{where}: {interface.mac} is used by VirtualMachine {other.key}; choose another or leave it out",
                        stalled=True,
                    )
                )
