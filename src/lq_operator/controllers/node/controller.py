"""One HypervisorNode, one pass: connect, take over or look again, keep house, remember, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lq_operator.api.base import FINALIZER
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.node import HypervisorNode
from lq_operator.controllers.node.decommission import Decommission
from lq_operator.controllers.node.report import NodeReporter
from lq_operator.controllers.node.residents import MANAGER, Housekeeper
from lq_operator.controllers.node.takeover import Takeover
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.finalizers import ensure_finalizer
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.inventory import Inventory
from lq_operator.controllers.runtime.statefiles import STATE_POOL
from lq_operator.core.failover.inventory import record_ahead
from lq_operator.core.failover.record import Member, compaction, member_name, term_name
from lq_operator.core.failover.takeover import RefuseHost
from lq_operator.core.model import Epoch, HostUUID, NodeName, PoolPlan
from lq_operator.core.result import Transient
from lq_operator.ports import Clock, Fleet, Host, Resources, Store
from lq_operator.telemetry import metrics

CONTACT_S = 3.0
"""How often a host is asked whether my gate is still there: with the keepalive this makes 8 s until Unknown."""
RELIST_S = 30.0
"""How often everything is listed again although no event said so."""
NOTE_S = 60.0
"""How often term and beat are noted on each host (protocol.md: at least once a minute)."""
RECORD_LIMIT = 200
"""Files in a record before superseded ones are deleted."""


@dataclass(slots=True)
class _Contact:
    """What this process knows of one connection between passes."""

    uri: str = ""
    credentials: tuple[tuple[str, bytes], ...] = ()
    last_s: float | None = None
    listed_s: float = -1e9
    noted_s: float = -1e9
    dirty: bool = False


@dataclass(slots=True)
class NodeController:
    """reconcile(node name). `api_went_back(sentence)` is called for every sign that the API server was restored."""

    store: Store
    resources: Resources
    fleet: Fleet
    book: HostBook
    inventory: Inventory
    housekeeper: Housekeeper
    decommission: Decommission
    reporter: NodeReporter
    clock: Clock
    operator_namespace: str
    api_went_back: Callable[[str], None]
    _contacts: dict[str, _Contact] = field(default_factory=dict)

    def touched(self, node: str) -> None:
        """The host said that something happened: list it at the next pass."""
        self._contact(node).dirty = True

    async def reconcile(self, name: str) -> Requeue | None:
        """Connect to, own and describe one host."""
        node = self.store.get(HypervisorNode, None, name)
        key = NodeName(name)
        if node is None:
            self.fleet.forget(key)
            self.book.drop(key)
            self._contacts.pop(name, None)
            metrics.forget_node(name)
            return None
        if not node.deleting:
            node = await ensure_finalizer(self.resources, node, manager=MANAGER)
        elif FINALIZER not in node.metadata.finalizers:
            return None
        contact = self._contact(name)
        never_ours = not node.status.host_uuid and self.book.owned(key) is None
        if never_ours and node.deleting and await self.decommission.silent(node):
            return None
        if not await self._configured(node, contact):
            gone = node.deleting and await self.decommission.silent(node)
            return None if gone else Requeue.after(RELIST_S)
        host = self.fleet.host(key)
        if host is None:
            return await self._silent(node, contact)
        entry = await self._own(node, host, contact)
        if isinstance(entry, RefuseHost):
            # What answers is not this node's host: for its decommission the host is away, or never was.
            if node.deleting and await self.decommission.silent(node):
                return None
            await self.reporter.refused(node, entry)
            return Requeue.after(RELIST_S)
        contact.last_s = self.clock.mono_s()
        if node.deleting and await self.decommission.owned(node, entry):
            return None
        await self._remember(entry, contact)
        residents = await self.housekeeper.tend(node, entry)
        for sentence in residents.went_back:
            self.api_went_back(sentence)
        await self.reporter.ready(node, entry, residents)
        return Requeue.after(CONTACT_S)

    def _contact(self, name: str) -> _Contact:
        return self._contacts.setdefault(name, _Contact())

    async def _configured(self, node: HypervisorNode, contact: _Contact) -> bool:
        """The fleet has the present URI and credentials. False where the spec leads nowhere: said in its condition."""
        cluster = node.spec.cluster_ref.name
        if self.store.get(HypervisorCluster, None, cluster) is None:
            await self.reporter.stalled(
                node, "ClusterNotFound", f"spec.clusterRef: there is no HypervisorCluster {cluster}"
            )
            return False
        credentials: dict[str, bytes] = {}
        ref = node.spec.credentials_secret_ref
        if ref is not None:
            found = await self.resources.read_secret(self.operator_namespace, ref.name)
            if found is None:
                message = f"spec.credentialsSecretRef: there is no Secret {self.operator_namespace}/{ref.name}"
                await self.reporter.stalled(node, "SecretNotFound", message)
                return False
            credentials = dict(found)
        wanted = (node.spec.uri, tuple(sorted(credentials.items())))
        if wanted != (contact.uri, contact.credentials):
            contact.uri, contact.credentials = wanted
            contact.last_s = self.clock.mono_s() if contact.last_s is None else contact.last_s
            self.fleet.configure(NodeName(node.metadata.name), node.spec.uri, credentials)
        return True

    async def _silent(self, node: HypervisorNode, contact: _Contact) -> Requeue | None:
        """No connection: Unknown once it has been silent for long enough. Costs no other host anything."""
        name = NodeName(node.metadata.name)
        self.book.lost(name)
        if node.deleting and await self.decommission.silent(node):
            return None
        since_s = contact.last_s if contact.last_s is not None else self.clock.mono_s()
        contact.last_s = since_s
        left_s = since_s + node.spec.unreachable_after_seconds - self.clock.mono_s()
        if left_s > 0:
            return Requeue.after(min(left_s, 1.0))
        await self.reporter.silent(node, self.fleet.why_down(name))
        if evidence := self.inventory.off_by_word(node.status.host_uuid):
            await self.housekeeper.release(node, evidence)
        return Requeue.after(RELIST_S)

    async def _own(self, node: HypervisorNode, host: Host, contact: _Contact) -> OwnedHost | RefuseHost:
        name = NodeName(node.metadata.name)
        entry = self.book.owned(name)
        if entry is None:
            return await self._take_over(node, name, host, contact)
        due = self.clock.mono_s() - contact.listed_s > RELIST_S
        if contact.dirty or due:
            contact.dirty = False
            await self.book.relist(entry)
            contact.listed_s = self.clock.mono_s()
        else:
            await self.book.check_gate(entry)
        return entry

    async def _take_over(
        self, node: HypervisorNode, name: NodeName, host: Host, contact: _Contact
    ) -> OwnedHost | RefuseHost:
        known = {
            NodeName(n.metadata.name): HostUUID(n.status.host_uuid) or None for n in self.store.list(HypervisorNode)
        }
        for other in self.book.all():
            known[other.node] = known.get(other.node) or other.uuid
        if node.status.host_uuid == "" and known.get(name):
            known[name] = None
        outcome = await Takeover(self.book, self.clock.token()).run(name, host, known, self._members(name, host.uuid))
        if isinstance(outcome, RefuseHost):
            return outcome
        tenure = self.book.tenure
        ahead = record_ahead(name, outcome.found, tenure.found, tenure.term)
        if ahead is not None:
            self.api_went_back(ahead.sentence)
        await self._ensure_state_pool(node, outcome)
        contact.listed_s, contact.noted_s, contact.dirty = self.clock.mono_s(), self.clock.mono_s(), False
        self.book.put(outcome)
        return outcome

    def _members(self, name: NodeName, host_uuid: HostUUID) -> tuple[Member, ...]:
        """Every host of the installation that has answered once: each record names them all."""
        nodes = self.store.list(HypervisorNode)
        found = {
            Member(NodeName(n.metadata.name), HostUUID(n.status.host_uuid))
            for n in nodes
            if n.status.host_uuid and not n.deleting
        }
        found |= {Member(entry.node, entry.uuid) for entry in self.book.all()}
        return tuple(sorted(found | {Member(name, host_uuid)}))

    async def _ensure_state_pool(self, node: HypervisorNode, entry: OwnedHost) -> None:
        cluster = self.store.get(HypervisorCluster, None, node.spec.cluster_ref.name)
        if cluster is None:
            raise Transient(f"spec.clusterRef: there is no HypervisorCluster {node.spec.cluster_ref.name}")
        seen = await entry.host.ensure_pool(PoolPlan(STATE_POOL, cluster.spec.state_pool.path))
        entry.state_dir = seen.path

    async def _remember(self, entry: OwnedHost, contact: _Contact) -> None:
        """Members that joined since, and term and beat once a minute; superseded facts go when there are many."""
        tenure = self.book.tenure
        for member in self._members(entry.node, entry.uuid):
            record = entry.record
            joined = Epoch(tenure.term, 0)
            if member not in record.members and joined > record.gone.get(member, Epoch(-1, 0)):
                await self.book.note(entry, member_name(member.node, member.host_uuid, joined))
        if self.clock.mono_s() - contact.noted_s > NOTE_S:
            await self.book.note(entry, term_name(tenure.term, tenure.beat))
            contact.noted_s = self.clock.mono_s()
            if len(entry.names) > RECORD_LIMIT:
                await self.book.forget_facts(entry, compaction(entry.names))
            elif old := [name for name in compaction(entry.names) if name.startswith("term_")]:
                await self.book.forget_facts(entry, old)
