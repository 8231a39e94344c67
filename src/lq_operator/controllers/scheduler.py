"""The scheduler: the only process that assigns. A loop over what waits, woken by changes; the engine decides.

Writes nothing but placements (tested patches Released/Assigned -> Assigned/Released) and, in the same patch, why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.network import VirtualNetwork
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import SchedulingStatus, VirtualMachine
from lq_operator.api.volume import Volume
from lq_operator.controllers.runtime.placements import epoch_of, placement_of, scheduled_operations
from lq_operator.controllers.runtime.refs import Namespaces, Refs, disk_volumes
from lq_operator.controllers.runtime.tenure import Tenure
from lq_operator.convert.placement import host_facts, scheduling_status, shape_of
from lq_operator.convert.power import should_run
from lq_operator.core.failover.facts import Actor, Role, Tombstone
from lq_operator.core.failover.guards import Refusal
from lq_operator.core.failover.patch import placement_patch
from lq_operator.core.failover.protocol import transition
from lq_operator.core.failover.requests import Assign, Unassign
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.model import HostUUID, NodeName, Phase, Placement
from lq_operator.core.placement import HostFacts, Placed, PlacementEngine, PlacementRequest, Shape, VmKey
from lq_operator.core.placement.types import Decision, Verdict
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected
from lq_operator.ports import Clock, Events, Resources, Store
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

MANAGER = "lq-scheduler"


@dataclass(slots=True)
class _Fleet:
    """One cluster's engine and what it was last told."""

    engine: PlacementEngine
    strategy: str
    hosts: dict[str, HostFacts] = field(default_factory=dict)
    vms: dict[VmKey, tuple[str, Shape]] = field(default_factory=dict)


@dataclass(slots=True)
class Scheduler:
    """`run_once()` places what waits. Needs nodes, pools, networks, volumes, VMs, classes, clusters in the Store."""

    store: Store
    resources: Resources
    namespaces: Namespaces
    tenure: Tenure
    events: Events
    clock: Clock
    kinds_synced: Callable[[], bool]
    _fleets: dict[str, _Fleet] = field(default_factory=dict)

    async def run_once(self) -> None:
        """One round: tell the engines what changed, then decide for every waiting VM, by priority, then age."""
        if not self.kinds_synced():
            return
        waiting = []
        vms = self.store.list(VirtualMachine)
        shapes = {vm.key: shape for vm in vms if (shape := await self._shape(vm)) is not None}
        self._tell_hosts()
        self._tell_vms(vms, shapes)
        for vm in vms:
            placement = placement_of(vm)
            if placement is not None and placement.phase in (Phase.RELEASED, Phase.ASSIGNED) and not vm.deleting:
                waiting.append((vm, placement))
        waiting.sort(
            key=lambda entry: (
                -entry[0].spec.availability.priority,
                entry[0].metadata.creation_timestamp or "",
                entry[0].key,
            )
        )
        for vm, placement in waiting:
            try:
                await self._consider(vm, placement, shapes.get(vm.key))
            except (Conflict, NotFound):
                continue  # somebody wrote first: the watch brings it back
            except (OutcomeUnknown, Rejected) as error:
                log.warning("placement not written", vm=vm.key, reason=str(error)[:500])

    # ------------------------------------------------------------ what the engine knows

    def _tell_hosts(self) -> None:
        clusters = {c.metadata.name: c for c in self.store.list(HypervisorCluster)}
        pools, networks = self.store.list(StoragePool), self.store.list(VirtualNetwork)
        seen: dict[str, set[str]] = {name: set() for name in clusters}
        for node in self.store.list(HypervisorNode):
            cluster = clusters.get(node.spec.cluster_ref.name)
            if cluster is None:
                continue
            fleet = self._fleet(cluster)
            facts = host_facts(node, cluster, pools, networks)
            seen[cluster.metadata.name].add(facts.name)
            if fleet.hosts.get(facts.name) != facts:
                fleet.engine.set_host(facts)
                fleet.hosts[facts.name] = facts
        for name, fleet in self._fleets.items():
            for gone in set(fleet.hosts) - seen.get(name, set()):
                fleet.engine.remove_host(gone)
                del fleet.hosts[gone]

    def _fleet(self, cluster: HypervisorCluster) -> _Fleet:
        strategy = cluster.spec.scheduling.strategy.lower()
        fleet = self._fleets.get(cluster.metadata.name)
        if fleet is None or fleet.strategy != strategy:
            fleet = self._fleets[cluster.metadata.name] = _Fleet(PlacementEngine(strategy=strategy), strategy)
        return fleet

    def _tell_vms(self, vms: Any, shapes: Mapping[str, tuple[str, Shape]]) -> None:
        placed: dict[str, dict[VmKey, tuple[str, Shape]]] = {name: {} for name in self._fleets}
        for vm in vms:
            node = vm.status.placement.node if vm.status.placement else ""
            found = shapes.get(vm.key)
            if node and found is not None and found[0] in placed:
                placed[found[0]][VmKey(vm.metadata.namespace, vm.metadata.name)] = (node, found[1])
        for name, fleet in self._fleets.items():
            for key in set(fleet.vms) - set(placed[name]):
                fleet.engine.remove_vm(key)
            for key, (node, shape) in placed[name].items():
                if fleet.vms.get(key) != (node, shape):
                    fleet.engine.set_vm(Placed(key, node, shape))
            fleet.vms = placed[name]

    async def _shape(self, vm: VirtualMachine) -> tuple[str, Shape] | None:
        """(cluster, shape); None while a reference leads nowhere (the VM controller says so)."""
        namespace = vm.metadata.namespace or ""
        refs = Refs(self.store, namespace, await self.namespaces.labels(namespace))
        cluster = refs.cluster(vm.spec.cluster_ref.name if vm.spec.cluster_ref else None)
        size = refs.size(vm)
        if isinstance(cluster, Lack) or isinstance(size, Lack):
            return None
        volumes: dict[str, Volume | None] = {}
        pools: dict[str, str] = {}
        templates = {disk.name: disk.template for disk in vm.spec.disks}
        for disk, name in disk_volumes(vm).items():
            volume = volumes[disk] = self.store.get(Volume, namespace, name)
            template = templates[disk]
            named = volume.status.pool or volume.spec.pool_ref if volume else template.pool_ref if template else None
            pool = refs.pool(named or None, cluster.metadata.name, f"spec.disks[{disk}]")
            if isinstance(pool, Lack):
                return None
            pools[disk] = pool.metadata.name
        return cluster.metadata.name, shape_of(vm, size, volumes, pools)

    # ------------------------------------------------------------ one VM

    async def _consider(self, vm: VirtualMachine, placement: Placement, found: tuple[str, Shape] | None) -> None:
        if not should_run(vm):
            if placement.phase is Phase.ASSIGNED:
                await self._unassign(vm, placement)
            return
        if found is None or found[0] not in self._fleets:
            return
        cluster, shape = found
        fleet = self._fleets[cluster]
        key = VmKey(vm.metadata.namespace or "", vm.metadata.name)
        request = PlacementRequest(key, shape, vm.spec.availability.priority)
        if placement.phase is Phase.ASSIGNED and fleet.engine.verdict(request, placement.node or "").filter == "":
            return
        started_s = self.clock.mono_s()
        decision = fleet.engine.decide(request)
        metrics.PLACEMENT_SECONDS.observe(self.clock.mono_s() - started_s)
        verdicts = fleet.engine.explain(request)
        if decision.host is None:
            for reason, hosts in decision.rejected:
                metrics.REJECTIONS.labels(reason).inc(hosts)
            await self._wait(vm, placement, decision, verdicts)
            return
        await self._assign(vm, placement, fleet, key, shape, decision, verdicts)

    async def _assign(
        self,
        vm: VirtualMachine,
        placement: Placement,
        fleet: _Fleet,
        key: VmKey,
        shape: Shape,
        decision: Decision,
        verdicts: tuple[Verdict, ...],
    ) -> None:
        host = decision.host
        assert host is not None
        node = self.store.get(HypervisorNode, None, host)
        if node is None or not node.status.host_uuid:
            return
        reserved = fleet.engine.reserve(key, host, shape)
        if isinstance(reserved, Verdict):
            return
        new = transition(placement, self._request(vm, node, host))
        if isinstance(new, Refusal):
            fleet.engine.release(key)
            await self._say(vm, placement, new.reason.value, new.sentence)
            return
        scheduling = scheduling_status(decision, verdicts)
        try:
            await self._write(vm, placement, new, scheduling, "True", "Assigned", decision.sentence[:1000])
        except (Conflict, NotFound, OutcomeUnknown, Rejected):
            fleet.engine.release(key)
            raise
        metrics.DECISIONS.labels("scheduler", "assigned").inc()
        log.info("assigned", vm=vm.key, node=host, why=decision.sentence[:300])
        self.events.emit(vm, "Assigned", f"to {host}: {decision.sentence}"[:1000])
        fleet.engine.set_vm(Placed(key, host, shape))
        fleet.vms[key] = (host, shape)

    def _request(self, vm: VirtualMachine, node: HypervisorNode, host: str) -> Assign:
        key = (vm.metadata.namespace, vm.metadata.name)
        member = node.status.condition("Member")
        return Assign(
            actor=Actor(Role.SCHEDULER, self.tenure.term),
            stamp=self.tenure.stamp(),
            node=NodeName(host),
            host_uuid=HostUUID(node.status.host_uuid),
            wanted=should_run(vm),
            fits=True,
            unknown_to=() if member is not None and member.status == "True" else (NodeName("some member"),),
            tombstones=tuple(
                Tombstone(NodeName(n.metadata.name), t.namespace, t.name, t.uid, epoch_of(t.epoch))
                for n in self.store.list(HypervisorNode)
                for t in n.status.tombstones
                if t.kind == "VirtualMachine" and (t.namespace, t.name) == key
            ),
        )

    async def _unassign(self, vm: VirtualMachine, placement: Placement) -> None:
        new = transition(placement, Unassign(Actor(Role.SCHEDULER, self.tenure.term), self.tenure.stamp()))
        if isinstance(new, Placement):
            await self._write(
                vm, placement, new, SchedulingStatus(message="it should not run"), "False", "NotWanted", ""
            )

    async def _wait(
        self, vm: VirtualMachine, placement: Placement, decision: Decision, verdicts: tuple[Verdict, ...]
    ) -> None:
        """It fits nowhere: said once per reason. An assignment that no longer holds is taken back."""
        metrics.DECISIONS.labels("scheduler", "waiting").inc()
        scheduling = scheduling_status(decision, verdicts)
        if placement.phase is Phase.ASSIGNED:
            new = transition(placement, Unassign(Actor(Role.SCHEDULER, self.tenure.term), self.tenure.stamp()))
            if isinstance(new, Placement):
                await self._write(vm, placement, new, scheduling, "False", "NoHostFits", decision.sentence[:1000])
            return
        before = vm.status.scheduling
        if before is not None and before.message == scheduling.message and vm.status.condition("Scheduled") is not None:
            return
        await self._write(vm, placement, None, scheduling, "False", "NoHostFits", decision.sentence[:1000])
        self.events.emit(vm, "NoHostFits", decision.sentence[:1000], warning=True)

    async def _say(self, vm: VirtualMachine, placement: Placement, reason: str, message: str) -> None:
        known = vm.status.condition("Scheduled")
        if known is not None and (known.reason, known.message) == (reason, message):
            return
        await self._write(vm, placement, None, SchedulingStatus(message=message[:2000]), "False", reason, message)

    async def _write(
        self,
        vm: VirtualMachine,
        current: Placement,
        new: Placement | None,
        scheduling: SchedulingStatus,
        scheduled: str,
        reason: str,
        message: str,
    ) -> None:
        """Placement, verdicts and condition in one tested patch: one write per bind."""
        if new is not None:
            operations = placement_patch(vm.metadata.uid, current, new)
        else:
            operations = [
                {"op": "test", "path": "/metadata/uid", "value": vm.metadata.uid},
                {"op": "test", "path": "/status/placement/writeId", "value": current.write_id},
            ]
        value = scheduling.model_dump(by_alias=True, mode="json", exclude_none=True)
        operations.append({"op": "add", "path": "/status/scheduling", "value": value})
        operations += scheduled_operations(vm, scheduled == "True", reason, message, self.clock.now_rfc3339())
        meta = vm.metadata
        await self.resources.json_patch(
            VirtualMachine, meta.namespace, meta.name, operations, subresource="status", manager=MANAGER
        )
