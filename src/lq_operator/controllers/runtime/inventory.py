"""What this process may conclude about all hosts together: is the inventory complete, and which boots are surely over.

Reads the Store and the HostBook; judges with core/failover. Kept until something it rests on changes.
"""

from __future__ import annotations

from lq_operator.api.attestation import HostAttestation
from lq_operator.api.node import HypervisorNode
from lq_operator.controllers.runtime.hostbook import HostBook
from lq_operator.core.failover.evidence import off_proof
from lq_operator.core.failover.facts import Proof
from lq_operator.core.failover.inventory import Complete, Incomplete, Off, judge_inventory
from lq_operator.core.model import BootNonce, Evidence, EvidenceKind, HostUUID, NodeName, Placement
from lq_operator.ports import Store


class Inventory:
    """One per process. `judge()` is cheap while nothing changed."""

    def __init__(self, store: Store, book: HostBook) -> None:
        self._store = store
        self._book = book
        self._key: tuple[object, ...] = ()
        self._judged: Complete | Incomplete | None = None

    def judge(self) -> Complete | Incomplete:
        """Every member listed in this term, or surely off?"""
        attested = self._attestations()
        self._book.surely_off({BootNonce(a.spec.boot) for a in attested})
        nodes = self._store.list(HypervisorNode)
        key = (
            self._book.version,
            self._book.tenure.term,
            tuple(node.metadata.resource_version for node in nodes),
            tuple(a.metadata.resource_version for a in attested),
        )
        if self._judged is None or key != self._key:
            self._key, self._judged = key, self._judge(list(nodes), attested)
        return self._judged

    def off_proofs(self, placement: Placement) -> tuple[Proof, ...]:
        """Evidence that the host(s) of this placement are off, valid now."""
        hosts = {placement.host_uuid, placement.target_uuid} - {None}
        return tuple(
            off_proof(
                EvidenceKind.HUMAN_ATTESTED,
                HostUUID(a.spec.host_uuid),
                BootNonce(a.spec.boot),
                placement,
                f"{a.metadata.name}: {a.spec.attested_by} saw: {a.spec.seen}"[:500],
            )
            for a in self._attestations()
            if a.spec.host_uuid in hosts
        )

    def off_by_word(self, host_uuid: str) -> str:
        """What a person says about this host being off, '' where nobody does or it does not count now."""
        said = (a for a in self._attestations() if a.spec.host_uuid == host_uuid)
        return next((f"{a.metadata.name}: {a.spec.attested_by} saw: {a.spec.seen}"[:500] for a in said), "")

    def _attestations(self) -> list[HostAttestation]:
        """Those that count now: accepted in this term, not void, and the host does not answer at this moment."""
        return [
            a
            for a in self._store.list(HostAttestation)
            if a.status.accepted
            and not a.status.void
            and a.status.accepted_term == self._book.tenure.term
            and self._book.fleet.host(NodeName(a.spec.node)) is None
        ]

    def _judge(self, nodes: list[HypervisorNode], attested: list[HostAttestation]) -> Complete | Incomplete:
        term = self._book.tenure.term
        known = {
            NodeName(node.metadata.name): HostUUID(node.status.host_uuid) if node.status.host_uuid else None
            for node in nodes
        }
        off = [
            Off(Evidence(EvidenceKind.HUMAN_ATTESTED, HostUUID(a.spec.host_uuid), boot=BootNonce(a.spec.boot)), term)
            for a in attested
        ]
        listed = self._book.listed()
        done = {entry.host_uuid for entry in listed}
        # A node whose host was listed moments ago may not have its UUID in the Store yet.
        for entry in self._book.all():
            known[entry.node] = known.get(entry.node) or entry.uuid
        why = {node: self._book.fleet.why_down(node) for node, uuid in known.items() if uuid not in done}
        return judge_inventory(term, known, listed, off, {node: text for node, text in why.items() if text})
