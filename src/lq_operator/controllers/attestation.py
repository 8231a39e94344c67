"""HostAttestation: judges a person's statement against what the hosts say, and voids it for ever when it stops being true."""

from __future__ import annotations

from dataclasses import dataclass, field

from lq_operator.api.attestation import HostAttestation
from lq_operator.api.node import HypervisorNode
from lq_operator.controllers.runtime.conditions import Progress, dump_conditions, set_progress
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.hostbook import HostBook
from lq_operator.controllers.runtime.status import report_status
from lq_operator.core.failover.evidence import Accepted, Attestation, HostContact, Refused, judge_attestation
from lq_operator.core.model import BootNonce, HostUUID, NodeName
from lq_operator.ports import Clock, Events, Resources, Store

MANAGER = "lq-attestation"
RECHECK_S = 10.0


@dataclass(slots=True)
class AttestationController:
    """reconcile(attestation name). `contact(node)` must be called for every connection that comes up."""

    store: Store
    resources: Resources
    book: HostBook
    events: Events
    clock: Clock
    _first_seen: dict[str, int] = field(default_factory=dict)
    _contacts: dict[str, int] = field(default_factory=dict)
    _went_back: bool = False

    def contact(self, node: str) -> None:
        """The host answered: what was attested about it before is void."""
        self._contacts[node] = self._contacts.get(node, 0) + 1

    def api_went_back(self) -> None:
        """Statements from before a restored API server count for nothing."""
        self._went_back = True

    async def reconcile(self, name: str) -> Requeue | None:
        """Accept, refuse or void one statement."""
        found = self.store.get(HostAttestation, None, name)
        if found is None or found.deleting:
            return None
        if found.status.void and not found.status.accepted:
            return None  # for ever; the reason that was given then stays to be read
        # Only what was written after the sign that the API went back may count again.
        suspect = self._went_back and found.metadata.uid not in self._first_seen
        since = self._first_seen.setdefault(found.metadata.uid, self._contacts.get(found.spec.node, 0))
        verdict = judge_attestation(
            Attestation(
                found.metadata.name,
                NodeName(found.spec.node),
                HostUUID(found.spec.host_uuid),
                BootNonce(found.spec.boot),
                found.spec.attested_by,
                found.status.accepted_term,
                found.status.void,
                found.spec.term,
            ),
            self._host(found.spec.node, since, went_back=suspect and found.status.accepted),
            self.book.tenure.term,
        )
        await self._report(found, verdict)
        return Requeue.after(RECHECK_S) if isinstance(verdict, Accepted) else None

    def _host(self, name: str, since: int, *, went_back: bool) -> HostContact | None:
        node = self.store.get(HypervisorNode, None, name)
        if node is None:
            return None
        answers = self.book.fleet.host(NodeName(name)) is not None or self._contacts.get(name, 0) != since
        return HostContact(
            NodeName(name),
            HostUUID(node.status.host_uuid) if node.status.host_uuid else None,
            BootNonce(node.status.boot) if node.status.boot else None,
            answers,
            went_back,
        )

    async def _report(self, found: HostAttestation, verdict: Accepted | Refused) -> None:
        accepted = isinstance(verdict, Accepted)
        message = verdict.sentence if isinstance(verdict, Refused) else ""
        void = isinstance(verdict, Refused) and (found.status.void or verdict.void)
        reason = "Accepted" if accepted else "Void" if void else "Refused"
        now, generation = self.clock.now_rfc3339(), found.metadata.generation
        conditions = set_progress(
            found.status.conditions,
            Progress.READY if accepted else Progress.STALLED,
            reason,
            message,
            generation=generation,
            now=now,
        )
        status = {
            "observedGeneration": generation,
            "conditions": dump_conditions(conditions),
            "accepted": accepted,
            "acceptedTerm": self.book.tenure.term if accepted else found.status.accepted_term,
            "void": void,
        }
        if await report_status(self.resources, found, status, MANAGER):
            self.events.emit(
                found, reason, message or f"{found.spec.attested_by}: {found.spec.seen}", warning=not accepted
            )
