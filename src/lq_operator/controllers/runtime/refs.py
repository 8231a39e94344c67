"""What the references of a VM mean: its cluster, its size, its networks and pools, each allowed or with a reason why not.

Reads the Store only (plus namespace labels, cached); shared by every controller that must agree on the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from lq_operator.api.base import AllowedNamespaces, Resource, SharedRef
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.network import VirtualNetwork
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmclass import VirtualMachineClass
from lq_operator.convert.domain import Size
from lq_operator.convert.placement import node_labels
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.units import parse_mib
from lq_operator.ports import Clock, Resources, Store

VM_LABEL = "limiquantix.io/vm"
"""On every object that a VM brought into being: the name of that VM."""
MAINTENANCE_LABEL = "limiquantix.io/maintenance"
"""On every move made for the maintenance of a host: the name of its HypervisorNode."""
UNPLACED = "WaitForFirstConsumer"
"""Reason of a Volume's Ready condition until its first VM is placed."""
NAMESPACE_TTL_S = 30.0
"""Labels of a namespace are read again after this long: opening a namespace may take that long to be seen."""

K = TypeVar("K", bound=Resource)


class Namespaces:
    """Labels of namespaces, read from the API server when first needed and kept for a while."""

    def __init__(self, resources: Resources, clock: Clock) -> None:
        self._resources = resources
        self._clock = clock
        self._labels: dict[str, tuple[float, Mapping[str, str]]] = {}

    async def labels(self, namespace: str) -> Mapping[str, str]:
        """Empty for a namespace that does not exist (any more)."""
        kept = self._labels.get(namespace)
        if kept is not None and self._clock.mono_s() - kept[0] < NAMESPACE_TTL_S:
            return kept[1]
        labels = await self._resources.namespace_labels(namespace) or {}
        self._labels[namespace] = (self._clock.mono_s(), labels)
        return labels


class Refs:
    """Answers for the objects of one namespace, with its labels in hand."""

    def __init__(self, store: Store, namespace: str, labels: Mapping[str, str]) -> None:
        self._store = store
        self._namespace = namespace
        self._labels = dict(labels)

    def admitted(self, allowed: AllowedNamespaces, own_namespace: str | None) -> bool:
        """May our namespace refer to an object with these allowedNamespaces?"""
        return allowed.admits(own_namespace=own_namespace, namespace=self._namespace, labels=self._labels)

    def cluster(self, named: str | None) -> HypervisorCluster | Lack:
        """The named cluster, or the only one that admits the namespace."""
        if named is not None:
            found = self._store.get(HypervisorCluster, None, named)
            if found is None:
                return Lack("ClusterNotFound", f"spec.clusterRef: there is no HypervisorCluster {named}", stalled=True)
            if not self.admitted(found.spec.allowed_namespaces, None):
                return Lack(
                    "NotAdmitted", f"HypervisorCluster {named} does not admit namespace {self._namespace}", stalled=True
                )
            return found
        candidates = [c for c in self._store.list(HypervisorCluster) if self.admitted(c.spec.allowed_namespaces, None)]
        if len(candidates) == 1:
            return candidates[0]
        if not candidates:
            return Lack("ClusterNotFound", f"no HypervisorCluster admits namespace {self._namespace}", stalled=True)
        names = ", ".join(sorted(c.metadata.name for c in candidates))
        return Lack(
            "ClusterAmbiguous", f"several clusters admit this namespace ({names}): set spec.clusterRef", stalled=True
        )

    def size(self, vm: VirtualMachine) -> Size | Lack:
        """Inline, or as copied from the class when the VM was first seen: editing a class resizes nobody."""
        spec, effective = vm.spec, vm.status.effective
        if spec.cpu is not None and spec.memory is not None:
            return Size(spec.cpu.count, parse_mib(spec.memory.size))
        name = spec.class_name or ""
        if effective.class_name == name and effective.cpu:
            return Size(effective.cpu, effective.memory_mib, name)
        found = self._store.get(VirtualMachineClass, None, name)
        if found is None:
            return Lack("ClassNotFound", f"spec.className: there is no VirtualMachineClass {name}", stalled=True)
        if not self.admitted(found.spec.allowed_namespaces, None):
            return Lack(
                "NotAdmitted", f"VirtualMachineClass {name} does not admit namespace {self._namespace}", stalled=True
            )
        return Size(found.spec.cpu, parse_mib(found.spec.memory), name)

    def network(self, ref: SharedRef, where: str) -> VirtualNetwork | Lack:
        """The network an interface plugs into."""
        namespace = ref.namespace or self._namespace
        found = self._store.get(VirtualNetwork, namespace, ref.name)
        if found is None:
            return Lack("NetworkNotFound", f"{where}: there is no VirtualNetwork {namespace}/{ref.name}", stalled=True)
        if not self.admitted(found.spec.allowed_namespaces, namespace):
            return Lack(
                "NotAdmitted",
                f"{where}: VirtualNetwork {namespace}/{ref.name} does not admit namespace {self._namespace}",
                stalled=True,
            )
        return found

    def pool(self, named: str | None, cluster: str, where: str) -> StoragePool | Lack:
        """The named pool, or the only one of the cluster that admits the namespace."""
        if named is not None:
            found = self._store.get(StoragePool, None, named)
            if found is None:
                return Lack("PoolNotFound", f"{where}: there is no StoragePool {named}", stalled=True)
            if found.spec.cluster_ref.name != cluster:
                return Lack(
                    "PoolNotFound",
                    f"{where}: StoragePool {named} belongs to cluster {found.spec.cluster_ref.name}",
                    stalled=True,
                )
            if not self.admitted(found.spec.allowed_namespaces, None):
                return Lack(
                    "NotAdmitted",
                    f"{where}: StoragePool {named} does not admit namespace {self._namespace}",
                    stalled=True,
                )
            return found
        candidates = [
            pool
            for pool in self._store.list(StoragePool)
            if pool.spec.cluster_ref.name == cluster and self.admitted(pool.spec.allowed_namespaces, None)
        ]
        if len(candidates) == 1:
            return candidates[0]
        names = ", ".join(sorted(pool.metadata.name for pool in candidates)) or "none"
        return Lack("PoolAmbiguous", f"{where}: name a StoragePool (this cluster has {names})", stalled=True)


def pool_nodes(store: Store, pool: StoragePool) -> list[HypervisorNode]:
    """The nodes of the pool's cluster that its selector picks."""
    return [
        node
        for node in store.list(HypervisorNode)
        if node.spec.cluster_ref.name == pool.spec.cluster_ref.name
        and pool.spec.node_selector.matches(node_labels(node))
    ]


def volume_name(vm: str, disk: str) -> str:
    """Name of the Volume made from a disk's template."""
    return f"{vm}-{disk}"


def disk_volumes(vm: VirtualMachine) -> dict[str, str]:
    """Disk name -> Volume name."""
    return {
        disk.name: disk.volume_ref.name if disk.volume_ref else volume_name(vm.metadata.name, disk.name)
        for disk in vm.spec.disks
    }


def cdrom_volumes(vm: VirtualMachine) -> dict[str, str]:
    """CD-ROM drive -> Volume that lies in it, by spec."""
    return {
        drive.name: drive.medium.volume_ref.name
        for drive in vm.spec.cdroms
        if drive.medium is not None and drive.medium.volume_ref is not None
    }


def cdrom_images(vm: VirtualMachine) -> set[str]:
    """Keys of the Images that are to lie in its CD-ROM drives, by spec."""
    refs = (drive.medium.image_ref for drive in vm.spec.cdroms if drive.medium is not None)
    return {f"{ref.namespace or vm.metadata.namespace}/{ref.name}" for ref in refs if ref is not None}


def named_volumes(vm: VirtualMachine) -> set[str]:
    """Every Volume that spec names, as a disk or as a medium."""
    return {*disk_volumes(vm).values(), *cdrom_volumes(vm).values()}
