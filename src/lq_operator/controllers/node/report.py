"""What is said about a host: inventory, capacity, members, orphans, and whether it can be seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lq_operator.api.cluster import HypervisorCluster, Overcommit
from lq_operator.api.node import HypervisorNode
from lq_operator.controllers.node.residents import MANAGER, Residents
from lq_operator.controllers.runtime.conditions import (
    Progress,
    condition_status,
    dump_conditions,
    only,
    set_condition,
    set_progress,
)
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.status import report_status
from lq_operator.core.failover.inventory import unknown_to
from lq_operator.core.failover.record import HostRecord, Member
from lq_operator.core.failover.takeover import RefuseHost
from lq_operator.core.model import HostInventory, HostUUID, NodeName
from lq_operator.core.units import parse_mib
from lq_operator.ports import Clock, Events, Resources, Store
from lq_operator.telemetry import metrics

MY_CONDITIONS = ("Ready", "Reconciling", "Stalled", "Claimed", "Member")
"""InMaintenance is the maintenance controller's."""


@dataclass(slots=True)
class NodeReporter:
    """Writes HypervisorNode.status (all but tombstones and maintenance)."""

    store: Store
    resources: Resources
    events: Events
    book: HostBook
    clock: Clock

    async def ready(self, node: HypervisorNode, entry: OwnedHost, residents: Residents) -> None:
        """Taken over, listed, described."""
        status = self._kept(node) | _inventory(node, entry.inventory, self._overcommit(node))
        status |= {
            "hostUUID": entry.uuid,
            "boot": entry.boot,
            "term": entry.term,
            "lastContact": "",
            "vms": residents.running,
            "foreignDomains": residents.foreign,
            "orphans": [o.model_dump(by_alias=True) for o in residents.orphans],
            "splitBrains": residents.split_brains,
        }
        metrics.HOST_CONNECTED.labels(node.metadata.name).set(1)
        metrics.ORPHANS.labels(node.metadata.name).set(len(residents.orphans))
        metrics.SPLIT_BRAIN.labels(node.metadata.name).set(len(residents.split_brains))
        for sentence in set(residents.split_brains) - set(node.status.split_brains):
            self.events.emit(node, "SplitBrain", sentence, warning=True)
        for orphan in residents.orphans:
            if not any((o.namespace, o.name) == (orphan.namespace, orphan.name) for o in node.status.orphans):
                message = f"domain of {orphan.namespace}/{orphan.name} has no VirtualMachine; it is kept"
                self.events.emit(node, "OrphanDomain", message, warning=True)
        reason, message = "Connected", ""
        if node.spec.maintenance:
            reason, message = "Maintenance", "spec.maintenance: no new VMs, those here are moved away"
        elif node.spec.unschedulable:
            reason, message = "Cordoned", "spec.unschedulable: no new VMs"
        await self._write(node, status, Progress.READY, reason, message, claimed=True, member=self._member(node, entry))

    async def silent(self, node: HypervisorNode, why: str) -> None:
        """Ready=Unknown. The inventory stays as it was last seen."""
        metrics.HOST_CONNECTED.labels(node.metadata.name).set(0)
        ready = node.status.condition("Ready")
        was = ready is not None and ready.status == "Unknown"
        status = self._kept(node)
        status["lastContact"] = node.status.last_contact if was else self.clock.now_rfc3339()
        message = f"{why or 'the host does not answer'}. {self._how_to_attest(node)}"
        if not was:
            self.events.emit(node, "HostUnreachable", message, warning=True)
        await self._write(node, status, Progress.UNKNOWN, "HostUnreachable", message, claimed=None, member=None)

    def _how_to_attest(self, node: HypervisorNode) -> str:
        status = node.status
        if not status.host_uuid or not status.boot:
            return "Check spec.uri, the network and libvirtd"
        return (
            f"If you have seen that it is off, create a HostAttestation with hostUUID {status.host_uuid}, boot "
            f"{status.boot}, term {self.book.tenure.term}"
        )

    async def refused(self, node: HypervisorNode, refusal: RefuseHost) -> None:
        """A host that is not ours to touch."""
        self.events.emit(node, refusal.reason.value, refusal.sentence, warning=True)
        await self._write(
            node, self._kept(node), Progress.STALLED, refusal.reason.value, refusal.sentence, claimed=False, member=None
        )

    async def stalled(self, node: HypervisorNode, reason: str, message: str) -> None:
        """Something in its spec needs a change."""
        await self._write(node, self._kept(node), Progress.STALLED, reason, message, claimed=None, member=None)

    def _kept(self, node: HypervisorNode) -> dict[str, Any]:
        """Every field we own, as it was: what is not known anew is not forgotten."""
        kept = node.status.model_dump(by_alias=True, mode="json", exclude={"tombstones", "maintenance", "conditions"})
        return {**kept, "observedGeneration": node.metadata.generation}

    def _overcommit(self, node: HypervisorNode) -> Overcommit:
        cluster = self.store.get(HypervisorCluster, None, node.spec.cluster_ref.name)
        return node.spec.overcommit or (cluster.spec.overcommit if cluster else Overcommit())

    def _member(self, node: HypervisorNode, entry: OwnedHost) -> tuple[bool, str]:
        """Once every other member's record names it, it is one for good (a wipe of the API server is then noticed)."""
        known = node.status.condition("Member")
        if known is not None and known.status == "True" and node.status.host_uuid == entry.uuid:
            return True, ""
        records: dict[Member, HostRecord | None] = {}
        for other in self.store.list(HypervisorNode):
            if other.status.host_uuid:
                member = Member(NodeName(other.metadata.name), HostUUID(other.status.host_uuid))
                owned = self.book.owned(member.node)
                records[member] = owned.record if owned is not None else None
        for owned in self.book.all():
            records[Member(owned.node, owned.uuid)] = owned.record
        missing = unknown_to(Member(entry.node, entry.uuid), records)
        return not missing, f"not yet in the record of {', '.join(missing)}" if missing else ""

    async def _write(
        self,
        node: HypervisorNode,
        status: dict[str, Any],
        progress: Progress,
        reason: str,
        message: str,
        *,
        claimed: bool | None,
        member: tuple[bool, str] | None,
    ) -> None:
        now, generation = self.clock.now_rfc3339(), node.metadata.generation
        conditions = set_progress(node.status.conditions, progress, reason, message, generation=generation, now=now)
        said = reason if claimed is not True else "Ours"
        conditions = set_condition(
            conditions,
            "Claimed",
            condition_status(claimed),
            said,
            message if claimed is False else "",
            generation=generation,
            now=now,
        )
        if member is not None:
            is_member, why = member
            conditions = set_condition(
                conditions,
                "Member",
                condition_status(is_member),
                "KnownToAll" if is_member else "NotYetKnown",
                why,
                generation=generation,
                now=now,
            )
        status["conditions"] = dump_conditions(only(conditions, MY_CONDITIONS))
        await report_status(self.resources, node, status, MANAGER)


def _inventory(node: HypervisorNode, seen: HostInventory, overcommit: Overcommit) -> dict[str, Any]:
    override, reserved = node.spec.capacity, node.spec.reserved
    cpu = override.cpu or seen.cpus
    memory_mib = parse_mib(override.memory) if override.memory else seen.memory_mib
    free_mib = max(memory_mib - parse_mib(reserved.memory), 0)
    return {
        "hostname": seen.hostname,
        "libvirtVersion": seen.libvirt_version,
        "hypervisor": seen.hypervisor,
        "arch": seen.arch,
        "accel": seen.accel,
        "cpuModel": seen.cpu_model,
        "cpuVendor": seen.cpu_vendor,
        "cpuFeatures": sorted(seen.cpu_features)[:512],
        "usableCpuModels": sorted(seen.usable_cpu_models)[:256],
        "machineTypes": sorted(seen.machine_types)[:256],
        "firmware": list(seen.firmware),
        "capacity": {"cpu": cpu, "memoryMib": memory_mib},
        "allocatable": {
            "cpu": max(cpu - reserved.cpu, 0) * overcommit.cpu_percent // 100,
            "memoryMib": free_mib * overcommit.memory_percent // 100,
        },
        "numa": [{"cell": n.cell, "cpus": n.cpus, "memoryMib": n.memory_mib} for n in seen.numa],
    }
