"""What a process may say when it asks for a transition: who it is, what hosts showed, what it remembers.

Values only. `protocol` decides over them, `evidence` and `inventory` make some of them. Nothing here is trusted
for being present: a guard reads every field.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from lq_operator.core.failover.inventory import Complete, Incomplete
from lq_operator.core.failover.record import parse_gate
from lq_operator.core.model import (
    BootNonce,
    Epoch,
    Evidence,
    EvidenceKind,
    HostUUID,
    Identity,
    NodeName,
    Phase,
    Placement,
)


class Role(StrEnum):
    """Who may change a placement."""

    VM_CONTROLLER = "VMController"
    SCHEDULER = "Scheduler"
    MIGRATION_CONTROLLER = "MigrationController"
    HA_CONTROLLER = "HAController"


@dataclass(frozen=True, slots=True)
class Actor:
    """The process that asks: its role and the term of the lease it holds."""

    role: Role
    term: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """Fresh for every change: a random write id that never comes back, and the time for people (RFC 3339)."""

    write_id: str
    since: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """A domain of the identity, as a host listed it. `runs`: a QEMU exists (also paused, also coming in)."""

    node: NodeName
    host_uuid: HostUUID
    boot: BootNonce
    runs: bool
    epoch: Epoch | None


@dataclass(frozen=True, slots=True)
class HostView:
    """What one connection to one host showed about one identity.

    `boot` is the name of my gate there, `term` the term under which I took the host over, `gate_held` whether a
    listing of the gates made AFTER the listing of the domains still showed mine. `departed` is the highest
    departure note for the identity in its record. `listed_at` orders listings within the process (any counter).
    """

    node: NodeName
    host_uuid: HostUUID
    boot: BootNonce
    term: int
    gate_held: bool
    sighting: Sighting | None = None
    departed: Epoch | None = None
    listed_at: int = 0

    @property
    def runs(self) -> bool:
        """A domain of the identity runs here."""
        return self.sighting is not None and self.sighting.runs


@dataclass(frozen=True, slots=True)
class Proof:
    """Evidence together with what makes it valid now.

    `against`: write id of the placement that had been read BEFORE the evidence was collected. `view`: what the
    host showed, for host-confirmed-absent. `void`: a sentence, when something has voided it since ('' = nothing).
    """

    evidence: Evidence
    against: str
    view: HostView | None = None
    void: str = ""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A VM deleted while `node` was away: counts as a placement until it is settled, or `released` by evidence that the
    node is off. A released one stays until the node returns and what is left on it is removed."""

    node: NodeName
    namespace: str
    name: str
    uid: str
    epoch: Epoch | None = None
    released: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What this process has itself seen or written of one VM's placement in its term. Keep one per object uid."""

    latest: str = ""
    superseded: frozenset[str] = frozenset()
    highest: Epoch | None = None

    def after(self, placement: Placement) -> Memory:
        """Memory once `placement` was read from the API server or written to it. Never call it with a cached copy
        that may be older than the last write."""
        if placement.write_id == self.latest:
            return self
        superseded = self.superseded | {self.latest} if self.latest else self.superseded
        return Memory(placement.write_id, superseded, highest((self.highest, known_epoch(placement))))

    def contradicts(self, placement: Placement | None) -> bool:
        """True when `placement` is older than what this process knows: a stale copy, or the API server went back."""
        if placement is None:
            return bool(self.latest)
        if placement.write_id in self.superseded:
            return True
        known = known_epoch(placement)
        return self.highest is not None and (known is None or known < self.highest)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Everything beside the placement that one process knows about one VM, all hosts together, in this term.

    `sightings`: its domains on every host this process owns, as listed just now. `last_seen`: its domains on hosts
    that were listed in this term and have fallen silent since, as last listed: "listed in this term" makes the
    inventory complete only together with what the listing showed. A host drops out of it when it is listed again or
    when there is evidence, younger than that listing, that it is off. `departures`: highest departure note per record.
    `orphans`: nodes whose status lists it as an orphan. `tombstones`: those for the same namespace and name.
    """

    inventory: Complete | Incomplete
    sightings: tuple[Sighting, ...] = ()
    departures: tuple[Epoch, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()
    orphans: tuple[NodeName, ...] = ()
    memory: Memory = Memory()
    last_seen: tuple[Sighting, ...] = ()


def highest(epochs: Iterable[Epoch | None]) -> Epoch | None:
    """The highest of those that are known."""
    return max((epoch for epoch in epochs if epoch is not None), default=None)


def known_epoch(placement: Placement | None) -> Epoch | None:
    """The highest epoch a placement speaks of."""
    return None if placement is None else highest((placement.epoch, placement.released_epoch))


def highest_known(placement: Placement | None, knowledge: Knowledge) -> Epoch | None:
    """The highest epoch that the placement, any domain, record, tombstone or this process's memory knows."""
    return highest(
        (
            known_epoch(placement),
            *(sighting.epoch for sighting in (*knowledge.sightings, *knowledge.last_seen)),
            *knowledge.departures,
            *(tombstone.epoch for tombstone in knowledge.tombstones),
            knowledge.memory.highest,
        )
    )


def boot_covers(over: BootNonce | None, committed: BootNonce | None) -> bool:
    """Does the end of the boot `over` end the boot `committed` of the same host too?

    A boot is named by a gate, and one boot may see several gates (one per takeover). Gates of one host are ordered
    by (term, take): a later gate is from the same boot or a later one. So evidence about a gate covers that gate
    and every earlier one; an unreadable name is covered by itself alone.
    """
    if over is None or committed is None:
        return False
    if over == committed:
        return True
    later, earlier = parse_gate(over), parse_gate(committed)
    return later is not None and earlier is not None and (later.term, later.take) > (earlier.term, earlier.take)


def tombstones_of(identity: Identity, uid: str, placement: Placement | None) -> tuple[Tombstone, ...]:
    """Tombstones to leave when a VM is deleted while its host is away; a VM in Moving names both hosts."""
    if placement is None or placement.phase not in (Phase.COMMITTED, Phase.MOVING):
        return ()
    nodes = [placement.node, placement.target if placement.phase is Phase.MOVING else None]
    return tuple(
        Tombstone(node, identity.namespace, identity.name, uid, known_epoch(placement)) for node in nodes if node
    )


OFF_KINDS = frozenset({EvidenceKind.BMC_CONFIRMED_OFF, EvidenceKind.STORAGE_LEASE_LOST, EvidenceKind.HUMAN_ATTESTED})
"""Evidence about a host that does not speak for itself: always about one boot of it."""
