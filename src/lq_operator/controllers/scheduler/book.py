"""What the engines know: one engine per cluster, told only what changed between two looks at the Store.

The Store hands out the same object until it changes, so a look costs one identity comparison per object; shapes and
host facts are made again only for what is new. Refuses to decide anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lq_operator.api.base import Resource
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.network import VirtualNetwork
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmclass import VirtualMachineClass
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.api.volume import Volume
from lq_operator.controllers.runtime.placements import epoch_of, placement_of
from lq_operator.controllers.runtime.refs import Namespaces, Refs, cdrom_volumes, disk_volumes, named_volumes
from lq_operator.controllers.scheduler.fleet import Fleet
from lq_operator.convert.placement import host_facts, network_reach, pool_reach, shape_of
from lq_operator.core.failover.facts import Tombstone
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.model import NodeName, Placement
from lq_operator.core.moving.world import Phase as MovePhase
from lq_operator.core.placement import PoolReach, Shape, VmKey
from lq_operator.ports import Store

K = TypeVar("K", bound=Resource)


@dataclass(slots=True)
class Seen(Generic[K]):
    """The objects of one kind as they were at the last look."""

    kind: type[K]
    objects: dict[str, K] = field(default_factory=dict)

    def look(self, store: Store) -> tuple[list[tuple[K | None, K]], list[str]]:
        """(before, after) of what is new or changed, and the keys of what is gone."""
        now = store.list(self.kind)
        changed = [(self.objects.get(obj.key), obj) for obj in now if self.objects.get(obj.key) is not obj]
        gone: list[str] = []
        if len(now) < len(self.objects) + sum(before is None for before, _ in changed):
            present = {obj.key for obj in now}
            gone = [key for key in self.objects if key not in present]
        for _, obj in changed:
            self.objects[obj.key] = obj
        for key in gone:
            del self.objects[key]
        return changed, gone


@dataclass(slots=True)
class Known:
    """A VM with the cluster and shape it resolves to; None while a reference leads nowhere (its controller says so)."""

    vm: VirtualMachine
    key: VmKey
    found: tuple[str, Shape] | None
    volumes: tuple[str, ...]
    problem: str = ""  # what the engine does not understand
    placement: Placement | None = None  # while Released or Assigned


def key_of(vm: VirtualMachine) -> VmKey:
    """Who it is for the engine."""
    return VmKey(vm.metadata.namespace or "", vm.metadata.name)


@dataclass(slots=True)
class Book:
    """`refresh()`, then read `fleets` and `vms`. `seed` breaks ties, see PlacementEngine."""

    store: Store
    namespaces: Namespaces
    seed: int = 0
    fleets: dict[str, Fleet] = field(default_factory=dict)
    vms: dict[str, Known] = field(default_factory=dict)
    open: dict[str, Known] = field(default_factory=dict)  # Released or Assigned, and not being deleted
    _seen_vms: Seen[VirtualMachine] = field(default_factory=lambda: Seen(VirtualMachine))
    _seen_nodes: Seen[HypervisorNode] = field(default_factory=lambda: Seen(HypervisorNode))
    _seen_clusters: Seen[HypervisorCluster] = field(default_factory=lambda: Seen(HypervisorCluster))
    _seen_pools: Seen[StoragePool] = field(default_factory=lambda: Seen(StoragePool))
    _seen_networks: Seen[VirtualNetwork] = field(default_factory=lambda: Seen(VirtualNetwork))
    _seen_classes: Seen[VirtualMachineClass] = field(default_factory=lambda: Seen(VirtualMachineClass))
    _seen_volumes: Seen[Volume] = field(default_factory=lambda: Seen(Volume))
    _seen_moves: Seen[VirtualMachineMigration] = field(default_factory=lambda: Seen(VirtualMachineMigration))
    targets: dict[str, str] = field(default_factory=dict)  # VM key -> node that is kept room for its move
    _users: dict[str, set[str]] = field(default_factory=dict)  # Volume key -> VM keys
    _labels: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _shapes: dict[tuple[str, Shape], Shape] = field(default_factory=dict)
    _pools: dict[str, dict[str, PoolReach]] = field(default_factory=dict)  # node -> pool -> reach
    _networks: dict[str, frozenset[str]] = field(default_factory=dict)  # node -> networks
    tombstones: dict[tuple[str, str], dict[str, tuple[Tombstone, ...]]] = field(
        default_factory=dict
    )  # VM -> node -> ...
    _buried: dict[str, tuple[Tombstone, ...]] = field(default_factory=dict)  # node -> tombstones of VMs
    _node_cluster: dict[str, str] = field(default_factory=dict)
    _vm_cluster: dict[VmKey, str] = field(default_factory=dict)

    async def refresh(self) -> None:
        """Tell the engines what the Store shows now. Asks the API server for labels of namespaces (cached) only."""
        relabelled = await self._relabelled()  # first: what is seen below is told to the engines without a break
        everything = self._tell_clusters()
        stale = self._stale_vms(everything or relabelled)
        moved = self._moved()
        for key in sorted(stale):
            self._resolve(key)
            self._tell_vm(key)
        for key in sorted(moved - stale):
            if key in self.vms:
                self._tell_vm(key)

    # ------------------------------------------------------------ hosts

    def _tell_clusters(self) -> bool:
        """Clusters, pools, networks and nodes; True when every VM must be resolved again."""
        clusters, clusters_gone = self._seen_clusters.look(self.store)
        pools, pools_gone = self._seen_pools.look(self.store)
        classes, classes_gone = self._seen_classes.look(self.store)
        nodes, nodes_gone = self._seen_nodes.look(self.store)
        anew = [self._tell_cluster(cluster) for _, cluster in clusters]
        for name in clusters_gone:
            self.fleets.pop(name, None)
        stale = self._reached_anew(bool(pools or pools_gone)) | {node.metadata.name for _, node in nodes}
        if clusters_gone or _respecified(clusters):
            stale = set(self._seen_nodes.objects)
        for name in sorted(stale & self._seen_nodes.objects.keys()):
            self._tell_node(self._seen_nodes.objects[name])
        for _, node in nodes:
            self._bury(node.metadata.name, tombstones_of(node))
        for name in nodes_gone:
            self._bury(name, ())
            fleet = self.fleets.get(self._node_cluster.pop(name, ""))
            if fleet is not None:
                fleet.remove_host(name)
        gone = clusters_gone or pools_gone or classes_gone
        return bool(gone) or any(anew) or _respecified(clusters) or _respecified(pools) or _respecified(classes)

    def _reached_anew(self, pools_changed: bool) -> set[str]:
        """Nodes whose pools or networks are others now, or have another free space."""
        networks, gone = self._seen_networks.look(self.store)
        stale: set[str] = set()
        if pools_changed:
            pools = pool_reach(self._seen_pools.objects.values())
            stale |= {n for n in pools.keys() | self._pools.keys() if pools.get(n) != self._pools.get(n)}
            self._pools = pools
        if networks or gone:
            reach = network_reach(self._seen_networks.objects.values())
            stale |= {n for n in reach.keys() | self._networks.keys() if reach.get(n) != self._networks.get(n)}
            self._networks = reach
        return stale

    def _bury(self, node: str, now: tuple[Tombstone, ...]) -> None:
        """Index a node's tombstones by VM: every bind asks, and there are many nodes."""
        before = self._buried.get(node, ())
        if before == now:
            return
        for stone in before:
            nodes = self.tombstones.get((stone.namespace, stone.name), {})
            nodes.pop(node, None)
            if not nodes:
                self.tombstones.pop((stone.namespace, stone.name), None)
        self._buried[node] = now
        for key in {(stone.namespace, stone.name) for stone in now}:
            mine = tuple(stone for stone in now if (stone.namespace, stone.name) == key)
            self.tombstones.setdefault(key, {})[node] = mine

    def _tell_cluster(self, cluster: HypervisorCluster) -> bool:
        """True when its engine is new: it must be told of every VM."""
        name, strategy = cluster.metadata.name, cluster.spec.scheduling.strategy.lower()
        fleet = self.fleets.get(name)
        if fleet is not None and fleet.engine.strategy == strategy:
            fleet.set_admission(cluster.spec.scheduling)
            return False
        fleet = self.fleets[name] = Fleet.of(name, strategy, self.seed)
        fleet.set_admission(cluster.spec.scheduling)
        for key in [key for key, where in self._vm_cluster.items() if where == name]:
            del self._vm_cluster[key]
        return True

    def _tell_node(self, node: HypervisorNode) -> None:
        name, cluster = node.metadata.name, self._seen_clusters.objects.get(node.spec.cluster_ref.name)
        before = self._node_cluster.get(name)
        if before is not None and (cluster is None or before != cluster.metadata.name):
            if before in self.fleets:
                self.fleets[before].remove_host(name)
            del self._node_cluster[name]
        if cluster is None:
            return
        self._node_cluster[name] = cluster.metadata.name
        pools, networks = self._pools.get(name, {}), self._networks.get(name, frozenset())
        self.fleets[cluster.metadata.name].set_host(host_facts(node, cluster, pools, networks))

    # ------------------------------------------------------------ VMs

    def _stale_vms(self, everything: bool) -> set[str]:
        """Keys of VMs to look at again; those whose shape cannot have changed are only told where they are."""
        changed, gone = self._seen_vms.look(self.store)
        for key in gone:
            self._forget(key)
        volumes, volumes_gone = self._seen_volumes.look(self.store)
        touched = [volume.key for _, volume in volumes] + volumes_gone
        stale = {vm for volume in touched for vm in self._users.get(volume, ())}
        if everything:
            stale = set(self._seen_vms.objects)
        for before, vm in changed:
            known = self.vms.get(vm.key)
            if known is None or vm.key in stale or before is None or _changes_shape(before, vm):
                stale.add(vm.key)
            else:
                known.vm = vm
                self._tell_vm(vm.key)
        return stale & self._seen_vms.objects.keys()

    def _moved(self) -> set[str]:
        """VMs whose moves have changed: where room is kept for them is known anew."""
        changed, gone = self._seen_moves.look(self.store)
        if not changed and not gone:
            return set()
        before = self.targets
        self.targets = {
            move.vm_key: move.status.scheduling.node
            for move in self._seen_moves.objects.values()
            if move.status.scheduling is not None
            and move.status.scheduling.node
            and not MovePhase(move.status.phase).ended
        }
        return {key for key in before.keys() | self.targets.keys() if before.get(key) != self.targets.get(key)}

    async def _relabelled(self) -> bool:
        """Labels decide which clusters and pools admit a namespace; nobody watches them, so they may be old by a while."""
        wanted = {vm.metadata.namespace or "" for vm in self.store.list(VirtualMachine)}
        now = {namespace: await self.namespaces.labels(namespace) for namespace in sorted(wanted)}
        changed = any(self._labels.get(name, labels) != labels for name, labels in now.items())
        self._labels = now
        return changed

    def _resolve(self, key: str) -> None:
        vm = self._seen_vms.objects[key]
        namespace = vm.metadata.namespace or ""
        volumes = tuple(f"{namespace}/{name}" for name in sorted(named_volumes(vm)))
        before = self.vms.get(key)
        if before is None or before.volumes != volumes:
            self._unlink(before, key)
            for volume in volumes:
                self._users.setdefault(volume, set()).add(key)
        refs = Refs(self.store, namespace, self._labels.get(namespace, {}))
        found, problem = None, ""
        try:
            found = resolve(self.store, refs, vm)
        except ValueError as error:  # a wish that the engine does not understand stops nobody else
            problem = str(error)
        if found is not None:  # equal shapes become one object, whose hash and caches are shared
            found = found[0], self._shapes.setdefault((namespace, found[1]), found[1])
        self.vms[key] = Known(vm, key_of(vm), found, volumes, problem)
        if len(self._shapes) > 4 * len(self.vms) + 1000:
            self._shapes.clear()

    def _tell_vm(self, key: str) -> None:
        """Its room on the host that its placement names, and on the target of a move."""
        known = self.vms[key]
        self._open_or_close(key, known)
        cluster, placement = known.found[0] if known.found else None, known.vm.status.placement
        before = self._vm_cluster.get(known.key)
        if before is not None and before != cluster:
            if before in self.fleets:
                self.fleets[before].remove_vm(known.key)
            del self._vm_cluster[known.key]
        if known.found is None or cluster not in self.fleets:
            return
        fleet, node = self.fleets[cluster], placement.node if placement else ""
        fleet.set_protected(known.key, known.vm.spec.availability.restart_on_host_failure)
        if node:
            self._vm_cluster[known.key] = cluster
            fleet.set_vm(known.key, node, known.found[1], known.vm.spec.availability.priority)
        else:
            fleet.remove_vm(known.key)
        target = (placement.target if placement else "") or self.targets.get(key, "")
        fleet.set_target(known.key, "" if target == node else target, known.found[1])

    def _open_or_close(self, key: str, known: Known) -> None:
        status = known.vm.status.placement
        if status is not None and status.phase in ("Released", "Assigned") and not known.vm.deleting:
            known.placement = placement_of(known.vm)
            self.open[key] = known
        else:
            known.placement = None
            self.open.pop(key, None)

    def placed(self, key: VmKey, cluster: str) -> None:
        """A bind was written; its engine knows already."""
        self._vm_cluster[key] = cluster

    def _forget(self, key: str) -> None:
        known = self.vms.pop(key, None)
        self.open.pop(key, None)
        if known is None:
            return
        self._unlink(known, key)
        fleet = self.fleets.get(self._vm_cluster.pop(known.key, ""))
        if fleet is not None:
            fleet.remove_vm(known.key)
            fleet.set_target(known.key, "", None)
            fleet.set_protected(known.key, True)

    def _unlink(self, known: Known | None, key: str) -> None:
        for volume in known.volumes if known is not None else ():
            users = self._users.get(volume, set())
            users.discard(key)
            if not users:
                self._users.pop(volume, None)


def resolve(store: Store, refs: Refs, vm: VirtualMachine) -> tuple[str, Shape] | None:
    """(cluster, shape); None while a reference leads nowhere."""
    namespace = vm.metadata.namespace or ""
    cluster = refs.cluster(vm.spec.cluster_ref.name if vm.spec.cluster_ref else None)
    size = refs.size(vm)
    if isinstance(cluster, Lack) or isinstance(size, Lack):
        return None
    volumes: dict[str, Volume | None] = {}
    pools: dict[str, str] = {}
    templates = {disk.name: disk.template for disk in vm.spec.disks}
    for disk, name in disk_volumes(vm).items():
        volume = volumes[disk] = store.get(Volume, namespace, name)
        template = templates[disk]
        named = volume.status.pool or volume.spec.pool_ref if volume else template.pool_ref if template else None
        pool = refs.pool(named or None, cluster.metadata.name, f"spec.disks[{disk}]")
        if isinstance(pool, Lack):
            return None
        pools[disk] = pool.metadata.name
    media = cdrom_volumes(vm)
    for drive in vm.spec.cdroms:
        if drive.medium is None:
            continue
        key, named = f"cdrom/{drive.name}", drive.medium.pool_ref
        if drive.name in media:
            volume = volumes[key] = store.get(Volume, namespace, media[drive.name])
            named = (volume.status.pool or volume.spec.pool_ref) if volume is not None else None
        pool = refs.pool(named or None, cluster.metadata.name, f"spec.cdroms[{drive.name}].medium")
        if isinstance(pool, Lack):
            return None
        pools[key] = pool.metadata.name
    return cluster.metadata.name, shape_of(vm, size, volumes, pools)


def tombstones_of(node: HypervisorNode) -> tuple[Tombstone, ...]:
    """Of VMs that were deleted while this node was away."""
    return tuple(
        Tombstone(NodeName(node.metadata.name), t.namespace, t.name, t.uid, epoch_of(t.epoch), bool(t.evidence))
        for t in node.status.tombstones
        if t.kind == "VirtualMachine"
    )


def _changes_shape(before: VirtualMachine, after: VirtualMachine) -> bool:
    """Could `resolve` answer differently? It reads nothing else of a VM."""
    old, new = before.status, after.status
    return (
        before.metadata.generation != after.metadata.generation
        or before.metadata.uid != after.metadata.uid
        or before.metadata.labels != after.metadata.labels
        or old.effective != new.effective
        or old.hardware.cpu_model != new.hardware.cpu_model
        or old.power.state_node != new.power.state_node
    )


def _respecified(changes: Iterable[tuple[K | None, K]]) -> bool:
    """Did any spec change, or is any new? Status of clusters and pools moves all the time and decides nothing here."""
    return any(before is None or before.metadata.generation != after.metadata.generation for before, after in changes)
