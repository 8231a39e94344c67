"""Taking a host over, as a pure step machine: what a process does next, given what it has seen on the host so far.

Owns the order of protocol.md "Taking a host over" and the refusals (another installation's host, a host that is
not the one that was registered). Acts on nothing: the caller does the step, observes again and asks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from lq_operator.core.failover.record import (
    HostRecord,
    Member,
    decode_record,
    installation_name,
    member_name,
    parse_gate,
    parse_ticket,
    term_name,
)
from lq_operator.core.model import BootNonce, Epoch, HostUUID, NodeName

FOUNDING = Epoch(0, 0)
"""Stamp of members that never left: their fact needs none."""


class ClaimReason(StrEnum):
    """Reasons of HypervisorNode condition Claimed=False."""

    FOREIGN_INSTALLATION = "ForeignInstallation"
    DUPLICATE_HOST = "DuplicateHost"
    OTHER_HOST = "OtherHost"


@dataclass(frozen=True, slots=True)
class RefuseHost:
    """Write nothing on this host; what it shows is no evidence for anything."""

    reason: ClaimReason
    sentence: str


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """List the names in the lq-state pool (listAllVolumes, after a refresh).

    `again`: into Seen.record_after, made after my gate was created and after the last NoteFacts. Read before the
    gate alone it proves nothing: a successor may have come, noted its term and lost its gate to a reboot since.
    """

    again: bool = False


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Delete these names, which I made in this takeover, then refuse (the machine says so next)."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CreateGate:
    """Create my gate, exclusively; the name was never used before. A conflict means: take a new name and ask again."""

    name: BootNonce


@dataclass(frozen=True, slots=True)
class ListGates:
    """List the gate pool, with mine created before."""


@dataclass(frozen=True, slots=True)
class StepDown:
    """Delete my gate, give up every lease and acquire a term above `above_term`."""

    above_term: int
    delete: tuple[BootNonce, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class DeleteGates:
    """Delete these gates and tickets of lower terms (absent already is fine), then list the pool again."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoteFacts:
    """Create these names in the lq-state pool (existing already is fine); record_after is None again after it."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListDomains:
    """List every domain, completely."""


@dataclass(frozen=True, slots=True)
class ListGatesAgain:
    """List the gate pool once more: is mine still there after the listing of the domains?"""


@dataclass(frozen=True, slots=True)
class Owned:
    """The host is mine under this gate; what was listed may be compared and acted on.

    `found`: the record as it was before this takeover noted anything (`inventory.record_ahead` reads it).
    """

    boot: BootNonce
    record: HostRecord
    found: HostRecord


@dataclass(frozen=True, slots=True)
class Lost:
    """My gate is gone: rebooted or deposed. Everything seen is void; start again with a fresh gate name."""

    sentence: str


Step = (
    RefuseHost
    | ReadRecord
    | Withdraw
    | CreateGate
    | ListGates
    | StepDown
    | DeleteGates
    | NoteFacts
    | ListDomains
    | ListGatesAgain
    | Owned
    | Lost
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What this process knows in one takeover of one host.

    `gate`: the fresh name chosen for this takeover. `record`: names in lq-state as read first, None before;
    `record_after`: as read after the gate was created and after the last NoteFacts. `gate_created`: CreateGate was
    done. `gates`: names in the gate pool as last listed AFTER the creation and after
    the last DeleteGates, None before. `domains_listed`: listed completely after that. `gates_after`: the listing
    after it. `former_gates`: gates that this process made on this host before (other takeovers of the same term).
    `known`: node -> UUID as registered; `claimed_here`: NoteFacts of this takeover created the installation fact.
    """

    installation: str
    node: NodeName
    host_uuid: HostUUID
    term: int
    beat: int
    gate: BootNonce
    known: Mapping[NodeName, HostUUID | None]
    record: tuple[str, ...] | None = None
    gate_created: bool = False
    record_after: tuple[str, ...] | None = None
    gates: tuple[str, ...] | None = None
    domains_listed: bool = False
    gates_after: tuple[str, ...] | None = None
    former_gates: frozenset[str] = frozenset()
    claimed_here: bool = False
    members: tuple[Member, ...] = ()
    joined: Epoch = FOUNDING


def next_step(seen: Seen) -> Step:
    """The next lawful step; Owned, Lost, StepDown and RefuseHost are ends."""
    refused = refuse_identity(seen.node, seen.host_uuid, seen.known)
    if refused is not None:
        return refused
    if seen.record is None:
        return ReadRecord()
    stopped = _stopped_by_record(seen, decode_record(seen.record))
    if stopped is not None:
        return stopped
    if not seen.gate_created:
        return CreateGate(seen.gate)
    if seen.gates is None:
        return ListGates()
    return _with_gates(seen, seen.gates)


def _stopped_by_record(seen: Seen, record: HostRecord) -> Step | None:
    foreign = record.installations - {seen.installation}
    if foreign:
        if seen.claimed_here and seen.installation in record.installations:
            return Withdraw((installation_name(seen.installation),))
        return _foreign(seen.node, sorted(foreign))
    if record.highest_term > seen.term:
        return _step_down(seen, record.highest_term, f"{seen.node} remembers term {record.highest_term}")
    return None


def _with_gates(seen: Seen, gates: tuple[str, ...]) -> Step:
    if seen.gate not in gates:
        return Lost(f"my gate on {seen.node} is gone: the host has rebooted or another process took it over")
    lower: list[str] = []
    for name in gates:
        gate, ticket = parse_gate(name), parse_ticket(name)
        if name == seen.gate:
            continue
        if gate is not None and gate.term >= seen.term and name not in seen.former_gates:
            return _step_down(seen, gate.term, f"{seen.node} has a gate of term {gate.term} that is not mine")
        if gate is not None or (ticket is not None and ticket.term < seen.term):
            lower.append(name)
    if lower:
        return DeleteGates(tuple(sorted(lower)))
    if seen.record_after is None:
        return ReadRecord(again=True)
    record = decode_record(seen.record_after)
    stopped = _stopped_by_record(seen, record)
    if stopped is not None:
        return stopped
    missing = _facts_to_note(seen, record)
    if missing:
        return NoteFacts(missing)
    if not seen.domains_listed:
        return ListDomains()
    if seen.gates_after is None:
        return ListGatesAgain()
    return check_after_listing(seen.node, seen.gate, seen.gates_after) or Owned(
        seen.gate, record, decode_record(seen.record or ())
    )


def check_after_listing(node: NodeName, gate: BootNonce, gates: tuple[str, ...]) -> Lost | None:
    """After ANY listing that something is concluded from: None while my gate is still there."""
    if gate in gates:
        return None
    return Lost(f"my gate on {node} was gone after the listing: the host has rebooted or was taken over")


def refuse_identity(
    node: NodeName, host_uuid: HostUUID, known: Mapping[NodeName, HostUUID | None]
) -> RefuseHost | None:
    """The same UUID behind two nodes, or another UUID behind a known node. Asked before anything is written."""
    registered = known.get(node)
    if registered and registered != host_uuid:
        return RefuseHost(
            ClaimReason.OTHER_HOST,
            f"{node} was registered as host {registered}, the URI now answers as {host_uuid}: correct the URI, or "
            "delete this HypervisorNode and create it anew if the machine was replaced",
        )
    twins = sorted(other for other, uuid in known.items() if uuid == host_uuid and other != node)
    if twins:
        return RefuseHost(
            ClaimReason.DUPLICATE_HOST,
            f"host {host_uuid} is already registered as {', '.join(twins)}: one host, one HypervisorNode (a cloned "
            "machine needs its own host_uuid in libvirtd.conf)",
        )
    return None


def _foreign(node: NodeName, others: list[str]) -> RefuseHost:
    return RefuseHost(
        ClaimReason.FOREIGN_INSTALLATION,
        f"{node} belongs to installation {', '.join(others)}. Either take over: set installation.id to that id, if "
        "this control plane replaces the old one; or release the host: delete its HypervisorNode there, or remove "
        "the installation_* files of its lq-state pool if the old control plane is gone for good",
    )


def _step_down(seen: Seen, above_term: int, sentence: str) -> StepDown:
    mine = (seen.gate,) if seen.gate_created else ()
    return StepDown(above_term, mine, f"{sentence}, I hold {seen.term}: a newer process owns it")


def _facts_to_note(seen: Seen, record: HostRecord) -> tuple[str, ...]:
    """Installation, term and beat, the host itself and every member known to the caller, where the record lacks them."""
    names: list[str] = []
    if seen.installation not in record.installations:
        names.append(installation_name(seen.installation))
    if (record.term, record.beat) < (seen.term, seen.beat):
        names.append(term_name(seen.term, seen.beat))
    mine = Member(seen.node, seen.host_uuid)
    names += [
        member_name(member.node, member.host_uuid, seen.joined)
        for member in (mine, *seen.members)
        if member not in record.members and (seen.joined > record.gone.get(member, Epoch(-1, 0)))
    ]
    return tuple(dict.fromkeys(names))
