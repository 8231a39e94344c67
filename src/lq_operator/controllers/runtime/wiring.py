"""Who is woken by what: the routes from watch events and host events to the queues of the host-facing controllers.

Routes only; a hint that is lost here is made up for by the resync of each queue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lq_operator.api.attestation import HostAttestation
from lq_operator.api.base import Resource
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.image import Image
from lq_operator.api.network import VirtualNetwork
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmclass import VirtualMachineClass
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.api.vmoperation import VirtualMachineOperation
from lq_operator.api.volume import Volume
from lq_operator.controllers.runtime.attachments import attached_volumes
from lq_operator.controllers.runtime.placements import is_moving, placed_on
from lq_operator.controllers.runtime.refs import MAINTENANCE_LABEL, cdrom_images, named_volumes
from lq_operator.core.model import DomainEvent, Identity, NodeName
from lq_operator.ports import Store

Enqueue = Callable[[str], None]


@dataclass(slots=True)
class Routes:
    """`queues`: name -> enqueue for vm, guest, volume, node, maintenance, pool, network, cluster, attestation, domain."""

    store: Store
    queues: Mapping[str, Enqueue]
    installation: str

    def object_changed(self, kind: type[Resource], key: str) -> None:
        """A watch has seen this object change, appear or vanish."""
        own = _OWN_QUEUE.get(kind)
        if own is not None:
            self.queues[own](key)
        if kind is VirtualMachine:
            self._vm(key)
        elif kind is VirtualMachineOperation:
            self._operation(key)
        elif kind is VirtualMachineMigration:
            self._migration(key)
            self._drain(key)
        elif kind is Volume:
            self._volume_users(key)
        elif kind is Image:
            self._all(Volume, "volume", lambda volume: volume.status.phase != "Ready")
            self._all(VirtualMachine, "vm", lambda vm: key in cdrom_images(vm))
        elif kind in (HypervisorNode, HostAttestation):
            self._node(kind, key)
        elif kind in (StoragePool, VirtualNetwork, VirtualMachineClass, HypervisorCluster):
            self._all(Volume, "volume", lambda volume: volume.status.phase != "Ready")
            self._all(VirtualMachine, "vm", _unsettled)
            if kind is HypervisorCluster:
                self._all(HypervisorNode, "node", lambda node: node.spec.cluster_ref.name == key)
                self._all(VirtualNetwork, "network", lambda _: True)

    def host_event(self, event: DomainEvent) -> None:
        """A host has said something by itself."""
        if not event.domain_name:
            self.queues["node"](event.node)
            return
        self.queues["domain"](f"{event.node} {event.domain_name}")
        if event.kind == "agent":
            _, _, rest = event.domain_name.partition("_")
            namespace, _, name = rest.partition("_")
            self.queues["guest"](f"{namespace}/{name}")

    def host_owned(self, node: NodeName) -> None:
        """A host was taken over or lost: pools and networks on it, the cluster, and whoever waits for it."""
        self._all(StoragePool, "pool", lambda _: True)
        self._all(VirtualNetwork, "network", lambda _: True)
        self._all(HypervisorCluster, "cluster", lambda _: True)
        self._all(Volume, "volume", lambda volume: volume.status.phase != "Ready" or volume.deleting)
        self._all(VirtualMachine, "vm", _unsettled)
        self._moves()
        self._all(HypervisorNode, "maintenance", _in_maintenance)
        for vm in placed_on(self.store, node):
            self.queues["vm"](vm.key)

    def domain_changed(self, identity: Identity) -> None:
        """A listing shows another state of this VM's domain."""
        self.queues["vm"](identity.key)
        self.queues["guest"](identity.key)
        vm = self.store.get(VirtualMachine, identity.namespace, identity.name)
        if vm is not None and is_moving(vm):
            self.queues["migration"](identity.key)

    def _vm(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        vm = self.store.get(VirtualMachine, namespace, name)
        if (vm is not None and is_moving(vm)) or self._has_moves(key):
            self.queues["migration"](key)
        if vm is None:
            # Its Volumes may go now, or grow, or be made for another; its domain, if any is left, is an orphan.
            def waits(volume: Volume) -> bool:
                return volume.metadata.namespace == namespace and (volume.deleting or _unsettled(volume))

            self._all(Volume, "volume", waits)
            return
        for volume in named_volumes(vm) | attached_volumes(vm):
            self.queues["volume"](f"{namespace}/{volume}")
        if vm.spec.heartbeat is not None and vm.status.observed_generation != vm.metadata.generation:
            self.queues["guest"](key)  # it may be new, or wait less
        placement = vm.status.placement
        for node in {placement.node, placement.target} - {""} if placement is not None else ():
            if (found := self.store.get(HypervisorNode, None, node)) is not None and found.spec.maintenance:
                self.queues["maintenance"](node)

    def _drain(self, key: str) -> None:
        """A move changed or is gone: the host that is emptied by it may send the next."""
        namespace, _, name = key.partition("/")
        move = self.store.get(VirtualMachineMigration, namespace, name)
        if move is None:
            self._all(HypervisorNode, "maintenance", _in_maintenance)
        elif node := move.metadata.labels.get(MAINTENANCE_LABEL):
            self.queues["maintenance"](node)

    def _migration(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        move = self.store.get(VirtualMachineMigration, namespace, name)
        if move is not None:
            self.queues["migration"](move.vm_key)
        else:
            self._moves()  # its place is free, and the VM that it named is not known any more

    def _has_moves(self, vm_key: str) -> bool:
        moves = self.store.list(VirtualMachineMigration)
        return any(move.vm_key == vm_key and not move.status.finished_at for move in moves)

    def _moves(self) -> None:
        """Every VM whose move has not ended."""
        for move in self.store.list(VirtualMachineMigration):
            if not move.status.finished_at:
                self.queues["migration"](move.vm_key)
        self._all(VirtualMachine, "migration", is_moving)

    def _operation(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        operation = self.store.get(VirtualMachineOperation, namespace, name)
        if operation is not None:
            self.queues["vm"](f"{namespace}/{operation.spec.vm_ref.name}")

    def _volume_users(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        for vm in self.store.list(VirtualMachine):
            if vm.metadata.namespace == namespace and name in named_volumes(vm):
                self.queues["vm"](vm.key)

    def _node(self, kind: type[Resource], key: str) -> None:
        node = key
        if kind is HypervisorNode:
            self.queues["maintenance"](key)
            self._all(HypervisorNode, "maintenance", _in_maintenance)  # another host's labels decide who may leave
        if kind is HostAttestation:
            found = self.store.get(HostAttestation, None, key)
            if found is None:
                return
            node = found.spec.node
            self.queues["node"](node)
        for vm in placed_on(self.store, NodeName(node)):
            self.queues["vm"](vm.key)
            if is_moving(vm):
                self.queues["migration"](vm.key)
        changed = self.store.get(HypervisorNode, None, node)
        if changed is not None:
            self.queues["cluster"](changed.spec.cluster_ref.name)
        self._all(HostAttestation, "attestation", lambda a: a.spec.node == node)

    def _all(self, kind: type[Resource], queue: str, wanted: Callable[..., bool]) -> None:
        for obj in self.store.list(kind):
            if wanted(obj):
                self.queues[queue](obj.key)


_OWN_QUEUE: dict[type[Resource], str] = {
    VirtualMachine: "vm",
    VirtualMachineOperation: "operation",
    Volume: "volume",
    HypervisorNode: "node",
    StoragePool: "pool",
    VirtualNetwork: "network",
    HypervisorCluster: "cluster",
    HostAttestation: "attestation",
}


def _in_maintenance(node: HypervisorNode) -> bool:
    return node.spec.maintenance


def _unsettled(obj: VirtualMachine | Volume) -> bool:
    ready = obj.status.condition("Ready")
    return ready is None or ready.status != "True"
