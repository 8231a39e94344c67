"""Deleting a HypervisorNode: it leaves only when nothing of ours is on it, and the other hosts remember that it left."""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.attestation import HostAttestation
from lq_operator.api.node import HypervisorNode
from lq_operator.controllers.node.report import NodeReporter
from lq_operator.controllers.node.residents import MANAGER
from lq_operator.controllers.runtime.finalizers import remove_finalizer
from lq_operator.controllers.runtime.hostbook import GATE_POOL, RECORD_POOL, HostBook, OwnedHost
from lq_operator.controllers.runtime.placements import placed_on
from lq_operator.core.failover.record import RECORD_PREFIXES, Member, gone_name
from lq_operator.core.model import HostUUID, NodeName
from lq_operator.ports import Resources, Store


@dataclass(slots=True)
class Decommission:
    """Each method returns True when the node object may go (and has gone)."""

    store: Store
    resources: Resources
    book: HostBook
    reporter: NodeReporter

    async def owned(self, node: HypervisorNode, entry: OwnedHost) -> bool:
        """The host answers: it must be empty; then it forgets us and the others forget it."""
        if await self._in_use(node):
            return False
        ours = [d for d in entry.domains.values() if d.identity and d.identity.installation == self.book.installation]
        if ours:
            names = ", ".join(sorted(d.domain_name for d in ours)[:5])
            await self.reporter.stalled(node, "DomainsRemain", f"domains without an object are still here: {names}")
            return False
        await self._tell_others(node, entry.uuid)
        # Gates go last: until then nobody else may start anything here.
        for name in sorted(entry.names):
            if name.startswith(RECORD_PREFIXES):
                await entry.host.delete_volume(RECORD_POOL, name)
        await entry.host.delete_volume(GATE_POOL, entry.boot)
        await self._let_go(node)
        return True

    async def silent(self, node: HypervisorNode) -> bool:
        """The host is away: a person must say that it is gone, unless it never was ours."""
        if await self._in_use(node):
            return False
        if node.status.host_uuid and not self._attested(node):
            message = (
                f"{node.metadata.name} does not answer. Bring it back, or create a HostAttestation for host "
                f"{node.status.host_uuid}, boot {node.status.boot}, if it is off for good"
            )
            await self.reporter.stalled(node, "AttestationNeeded", message)
            return False
        if node.status.host_uuid:
            await self._tell_others(node, HostUUID(node.status.host_uuid))
        await self._let_go(node)
        return True

    async def _in_use(self, node: HypervisorNode) -> bool:
        vms = placed_on(self.store, NodeName(node.metadata.name))
        if not vms:
            return False
        names = ", ".join(sorted(vm.key for vm in vms)[:5])
        message = f"{len(vms)} VMs are placed here ({names}): move, stop or delete them first"
        await self.reporter.stalled(node, "InUse", message)
        return True

    def _attested(self, node: HypervisorNode) -> bool:
        return any(
            a.spec.host_uuid == node.status.host_uuid and a.status.accepted and not a.status.void
            for a in self.store.list(HostAttestation)
        )

    async def _tell_others(self, node: HypervisorNode, host_uuid: HostUUID) -> None:
        gone = gone_name(NodeName(node.metadata.name), host_uuid, self.book.tenure.next_epoch())
        for other in self.book.all():
            if other.uuid != host_uuid and Member(NodeName(node.metadata.name), host_uuid) in other.record.members:
                await self.book.note(other, gone)

    async def _let_go(self, node: HypervisorNode) -> None:
        self.book.drop(NodeName(node.metadata.name))
        self.book.fleet.forget(NodeName(node.metadata.name))
        await remove_finalizer(self.resources, node, manager=MANAGER)
