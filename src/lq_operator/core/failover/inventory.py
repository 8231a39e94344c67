"""Do we know every host that could run one of our VMs, and has the API server gone back in time?

Owns the member set (nodes and every host that any record names), completeness per term, and the signs of a
restored API server. Refuses to guess: a member that is silent and without evidence is missing, by name and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lq_operator.core.failover.record import HostRecord, Member
from lq_operator.core.model import Epoch, Evidence, EvidenceKind, HostUUID, NodeName, Placement


@dataclass(frozen=True, slots=True)
class Missing:
    """A member that is neither listed nor surely off. `host_uuid` is None where it never answered."""

    node: NodeName
    host_uuid: HostUUID | None
    why: str


@dataclass(frozen=True, slots=True)
class Complete:
    """Every member was taken over and listed in this term, or was seen to be off in this term."""

    term: int


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Nothing starts. `missing` names the hosts and why."""

    term: int
    missing: tuple[Missing, ...]

    @property
    def sentence(self) -> str:
        """For condition Scheduled=False, reason InventoryIncomplete."""
        hosts = "; ".join(f"{m.node} ({m.why})" for m in self.missing)
        return (
            f"not every host is accounted for in term {self.term}: {hosts}. Bring it back, attest that it is off, or "
            "delete its HypervisorNode if it never was one of ours"
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """A host that was taken over and listed completely under `term`, with my gate still there afterwards."""

    host_uuid: HostUUID
    term: int
    record: HostRecord


@dataclass(frozen=True, slots=True)
class Off:
    """Evidence that a host is off, observed by this process in `term`; `void` says what has voided it since."""

    evidence: Evidence
    term: int
    void: str = ""


def members_of(
    nodes: Mapping[NodeName, HostUUID | None], records: Iterable[HostRecord]
) -> dict[NodeName, frozenset[HostUUID]]:
    """Every host that is or may be a member, by node name; an empty set where the node never answered.

    A host that some record calls gone with a stamp at least as high as every joining counts as gone for all, unless
    a node object still names it.
    """
    joined: dict[Member, Epoch] = {}
    gone: dict[Member, Epoch] = {}
    for record in records:
        for member, stamp in record.joined.items():
            joined[member] = max(stamp, joined.get(member, stamp))
        for member, stamp in record.gone.items():
            gone[member] = max(stamp, gone.get(member, stamp))
    found: dict[NodeName, set[HostUUID]] = {node: {uuid} if uuid else set() for node, uuid in nodes.items()}
    for member, stamp in joined.items():
        if member not in gone or gone[member] < stamp:
            found.setdefault(member.node, set()).add(member.host_uuid)
    return {node: frozenset(uuids) for node, uuids in sorted(found.items())}


def judge_inventory(
    term: int,
    nodes: Mapping[NodeName, HostUUID | None],
    listed: Iterable[Listed],
    off: Iterable[Off] = (),
    why_missing: Mapping[NodeName, str] | None = None,
    went_back: Iterable[WentBack] = (),
) -> Complete | Incomplete:
    """Complete when every member was listed in `term` or has valid evidence of being off that was observed in `term`.

    While the API server went back, evidence by people (HostAttestation) counts for nothing, and `went_back` must
    name only what has not been compared since: pass () once every host has been taken over and listed again.
    `why_missing`: node -> sentence (Fleet.why_down), for the message only.
    """
    listing = [entry for entry in listed if entry.term == term]
    distrust = tuple(went_back)
    accounted = {entry.host_uuid for entry in listing}
    accounted |= {
        entry.evidence.host_uuid
        for entry in off
        if entry.term == term
        and not entry.void
        and entry.evidence.host_uuid is not None
        and entry.evidence.kind is not EvidenceKind.INVENTORY
        and entry.evidence.kind is not EvidenceKind.HOST_CONFIRMED_ABSENT
        and not (distrust and entry.evidence.kind is EvidenceKind.HUMAN_ATTESTED)
    }
    missing: list[Missing] = []
    reasons = why_missing or {}
    for node, uuids in members_of(nodes, (entry.record for entry in listing)).items():
        why = reasons.get(node) or "has not been taken over and listed in this term, and nothing proves that it is off"
        if not uuids:
            missing.append(Missing(node, None, why))
        missing.extend(Missing(node, uuid, why) for uuid in sorted(uuids) if uuid not in accounted)
    return Incomplete(term, tuple(missing)) if missing else Complete(term)


# ---------------------------------------------------------------- the API server went back


@dataclass(frozen=True, slots=True)
class WentBack:
    """A sign that the API server was restored or wiped. `node`: the host that knows more than the API server."""

    node: NodeName
    sentence: str


def record_ahead(node: NodeName, record: HostRecord, found: tuple[int, int], term: int) -> WentBack | None:
    """Does this host remember a higher term or beat than the lease showed when this process acquired it?

    `record`: as it was BEFORE this process noted anything there; `term`: the one it holds, whose own mark would hide
    the loss. `found`: (term, beat) of the lease that owns this host, from the very write that acquired it
    (`Grant.found`). Not of all leases: one that somebody else holds under a higher term says nothing about the beat of
    this one. Not read earlier: while a standby waits, hosts rightly note more than it has read.
    """
    if record.highest_term >= term:
        return None
    if (record.term, record.beat) > found or record.highest_term > found[0]:
        return WentBack(
            node,
            f"host {node} remembers term {record.highest_term} beat {record.beat}, the API server only term "
            f"{found[0]} beat {found[1]}: the API server was restored or wiped",
        )
    return None


def note_ahead(node: NodeName, key: tuple[str, str], note: Epoch, placement: Placement | None) -> WentBack | None:
    """Does a departure note contradict the placement: an epoch above every one that the placement speaks of?

    The very epoch of the placement is no contradiction: the note is written before the patch that releases. A new
    object of an old name has no placement, its note only raises the next epoch.
    """
    if placement is None:
        return None
    known = max((e for e in (placement.epoch, placement.released_epoch) if e is not None), default=None)
    if known is None or note > known:
        return WentBack(
            node,
            f"host {node} let {'/'.join(key)} go under epoch {note}, its placement knows only "
            f"{known or 'none'}: the API server went back",
        )
    return None


def domain_ahead(node: NodeName, key: tuple[str, str], epoch: Epoch, placement: Placement | None) -> WentBack | None:
    """Does a host have a domain with a higher epoch than its placement? The host wins."""
    if placement is None:
        return None
    known = max((e for e in (placement.epoch, placement.released_epoch) if e is not None), default=None)
    if known is not None and epoch <= known:
        return None
    return WentBack(
        node,
        f"host {node} has a domain of {'/'.join(key)} with epoch {epoch}, its placement knows only "
        f"{known or 'none'}: the API server went back, the host wins",
    )


def unknown_to(member: Member, records: Mapping[Member, HostRecord | None]) -> tuple[NodeName, ...]:
    """Members whose record does not name `member` yet (None: it could not be read). Empty: it may be scheduled on.

    A host that runs a VM while another member's record does not know it would be forgotten by a wiped API server.
    """
    return tuple(
        sorted(
            other.node
            for other, record in records.items()
            if other != member and (record is None or member not in record.members)
        )
    )
