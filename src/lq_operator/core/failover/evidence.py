"""How an absence becomes evidence, in the one order that is safe, and what a person's statement is worth.

Owns the order of an absence (destroy, departure note, undefine, list domains, list gates, patch) and the judgement
of a HostAttestation. Acts on nothing; a timeout, a failed listing or a lost lease never becomes evidence here.
"""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.core.failover.facts import HostView, Proof, boot_covers
from lq_operator.core.failover.record import departure_name
from lq_operator.core.model import BootNonce, Evidence, EvidenceKind, HostUUID, Identity, NodeName, Placement


@dataclass(frozen=True, slots=True)
class DeleteTickets:
    """Both sides of a move: the VM's tickets go first, before anything is listed."""


@dataclass(frozen=True, slots=True)
class Observe:
    """Look for the domain on the host (after the placement was read)."""


@dataclass(frozen=True, slots=True)
class Destroy:
    """Cut the guest off (not gated: see `plan_absence` for why it is harmless late)."""


@dataclass(frozen=True, slots=True)
class NoteDeparture:
    """Create this name in the host's lq-state pool (existing already is fine)."""

    name: str


@dataclass(frozen=True, slots=True)
class Undefine:
    """Remove the definition; state files stay."""


@dataclass(frozen=True, slots=True)
class ListDomains:
    """List the host's domains completely, after the last write to it."""


@dataclass(frozen=True, slots=True)
class ListGates:
    """List the host's gates, after the domains: is mine still there?"""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The absence is proved; patch with this."""

    proof: Proof


@dataclass(frozen=True, slots=True)
class Void:
    """What was seen proves nothing (deposed or rebooted): take the host over again and start from the beginning."""

    sentence: str


AbsenceStep = DeleteTickets | Observe | Destroy | NoteDeparture | Undefine | ListDomains | ListGates | Confirmed | Void


@dataclass(frozen=True, slots=True)
class AbsenceSeen:
    """How far one absence on one host has come; None = not looked yet, in this attempt.

    `runs`/`defined`: the domain as last observed or after our own successful call. `noted`: the host keeps the note.
    `listed_absent`, `gate_after`: results of the two listings at the end, each made after everything before it.
    `tickets_deleted`: True where the VM is not Moving.
    """

    node: NodeName
    host_uuid: HostUUID
    gate: BootNonce
    term: int
    tickets_deleted: bool = True
    runs: bool | None = None
    defined: bool | None = None
    noted: bool = False
    listed_absent: bool | None = None
    gate_after: bool | None = None
    listed_at: int = 0


def plan_absence(identity: Identity, placement: Placement, seen: AbsenceSeen) -> AbsenceStep:
    """The next step of making and proving the absence of `identity` on one host, under the epoch of `placement`.

    Neither destroy nor undefine is gated on the host, so a deposed owner may still do them late. Only this order
    makes its "absent" harmless: note before undefine (whoever finds no domain finds the note), the listing after
    the last write, the gates after the listing (mine still there: nobody can have started it in between), and the
    patch last, which tests the write id of the placement that was read first.
    """
    if placement.epoch is None:
        raise ValueError(f"the placement of {identity.key} is {placement.phase.value}: it needs no evidence")
    if not seen.tickets_deleted:
        return DeleteTickets()
    if seen.runs is None or seen.defined is None:
        return Observe()
    if seen.runs:
        return Destroy()
    if not seen.noted:
        return NoteDeparture(departure_name(identity.namespace, identity.name, placement.epoch))
    if seen.defined:
        return Undefine()
    if seen.listed_absent is None:
        return ListDomains()
    if not seen.listed_absent:
        return Void(f"{seen.node} shows the domain again after it was removed: look again")
    if seen.gate_after is None:
        return ListGates()
    if not seen.gate_after:
        return Void(f"my gate on {seen.node} was gone after the listing: the host has rebooted or was taken over")
    view = HostView(
        seen.node, seen.host_uuid, seen.gate, seen.term, True, None, departed=placement.epoch, listed_at=seen.listed_at
    )
    return Confirmed(absence_proof(view, placement))


def absence_proof(view: HostView, placement: Placement) -> Proof:
    """host-confirmed-absent from a listing made after `placement` was read; the guards judge whether it holds."""
    evidence = Evidence(
        EvidenceKind.HOST_CONFIRMED_ABSENT, view.host_uuid, placement.epoch, view.boot, f"listed in term {view.term}"
    )
    return Proof(evidence, placement.write_id, view)


def off_proof(
    kind: EvidenceKind, host_uuid: HostUUID, boot: BootNonce, placement: Placement, detail: str = "", void: str = ""
) -> Proof:
    """bmc-confirmed-off, storage-lease-lost or human-attested, observed after `placement` was read."""
    return Proof(Evidence(kind, host_uuid, placement.epoch, boot, detail), placement.write_id, None, void)


# ---------------------------------------------------------------- a person's statement


@dataclass(frozen=True, slots=True)
class Attestation:
    """A HostAttestation: who says that which boot of which host is over. `void`: it was voided once, for ever.

    `accepted_term`: term of the process that accepted it, 0 when nobody has yet. `quoted_term`: the lease term that
    the person copied from where the statement was asked for; 0 when left out, None where the API cannot carry one
    (then only acceptance ties it to a term, which a snapshot from before the acceptance undoes).
    """

    name: str
    node: NodeName
    host_uuid: HostUUID
    boot: BootNonce
    attested_by: str
    accepted_term: int = 0
    void: bool = False
    quoted_term: int | None = None


@dataclass(frozen=True, slots=True)
class HostContact:
    """What is known of the host that a statement is about.

    `registered_uuid`, `last_boot`: from the node's status. `answers`: a connection is up now, or was at any time
    after the statement was first seen. `api_went_back`: a sign of a restored API server that is not settled yet.
    """

    node: NodeName
    registered_uuid: HostUUID | None
    last_boot: BootNonce | None
    answers: bool
    api_went_back: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """It counts, for the boot it names and every earlier one of that host, until something voids it."""

    host_uuid: HostUUID
    boot: BootNonce


@dataclass(frozen=True, slots=True)
class Refused:
    """It does not count. `void`: never again, write that down; otherwise it may be corrected by a new object."""

    sentence: str
    void: bool


def judge_attestation(attestation: Attestation, contact: HostContact | None, term: int) -> Accepted | Refused:
    """Does the statement count, now, for the process that holds `term`?

    It must quote that very term, and no other may have accepted it: since then the host may have come back and run guests, and
    a restored API server would have forgotten the contact but not the statement [6]; a snapshot that holds a
    statement also holds a lease of at least the term it quotes, so nobody takes that term again. The price is a new
    statement after the operator restarted, while that host stays silent.
    """
    if attestation.void:
        return Refused("it was voided: write a new HostAttestation if the host is off again", True)
    if contact is None:
        return Refused(f"spec.node: there is no HypervisorNode {attestation.node}", False)
    if contact.registered_uuid != attestation.host_uuid:
        return Refused(
            f"spec.hostUUID: {attestation.node} is host {contact.registered_uuid}, not {attestation.host_uuid}: look "
            "at the right machine",
            False,
        )
    if contact.answers:
        return Refused(f"{attestation.node} answers: it is not off, and this statement is void from now on", True)
    if contact.api_went_back:
        return Refused("the API server went back in time: what was attested before counts no more; attest again", True)
    if not boot_covers(attestation.boot, contact.last_boot):
        return Refused(
            f"spec.boot: the last boot seen of {attestation.node} is {contact.last_boot}, the statement is about "
            f"{attestation.boot}: copy status.boot of the node",
            True,
        )
    if attestation.quoted_term not in (None, term):
        quoted = f"term {attestation.quoted_term}" if attestation.quoted_term else "no term"
        return Refused(
            f"spec.term: it quotes {quoted}, this is term {term}: look again whether {attestation.node} is still off, "
            f"and write a new HostAttestation with term: {term}",
            False,
        )
    if attestation.accepted_term not in (0, term):
        return Refused(
            f"it was accepted in term {attestation.accepted_term}, this is term {term}: the operator restarted since, "
            "look again and write a new HostAttestation",
            False,
        )
    return Accepted(attestation.host_uuid, attestation.boot)
