"""The guards of the ownership protocol: each refuses one thing, with a reason and a sentence that names the remedy.

A guard is a pure function (current placement, request) -> Refusal or None. Every one of them, taken away, lets the
search in tests/model or a table test start a VM twice (docs/reference/protocol-counterexamples.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lq_operator.core.failover.facts import (
    OFF_KINDS,
    HostView,
    Knowledge,
    Memory,
    Proof,
    Role,
    Tombstone,
    boot_covers,
    highest_known,
    known_epoch,
)
from lq_operator.core.failover.inventory import Complete, Incomplete
from lq_operator.core.failover.requests import MoveEnd
from lq_operator.core.model import BootNonce, Epoch, EvidenceKind, HostUUID, Phase, Placement


class Reason(StrEnum):
    """Why a transition is refused; used as condition reason where a person should know."""

    NOT_LAWFUL = "NotLawful"
    WRONG_ROLE = "WrongRole"
    API_WENT_BACK = "APIWentBack"
    PREVIOUS_INCARNATION = "PreviousIncarnation"
    ORPHAN_KNOWN = "OrphanKnown"
    FOUND_ON_HOST = "FoundOnHost"
    FOUND_ELSEWHERE = "FoundElsewhere"
    SPLIT_BRAIN = "SplitBrain"
    NOT_FOUND = "NotFound"
    INVENTORY_INCOMPLETE = "InventoryIncomplete"
    HOST_NOT_OWNED = "HostNotOwned"
    WRONG_HOST = "WrongHost"
    RUNNING = "Running"
    NOT_RUNNING = "NotRunning"
    EPOCH_NOT_NEW = "EpochNotNew"
    EPOCH_UNKNOWN = "EpochUnknown"
    STALE_DOMAIN = "StaleDomain"
    NOT_WANTED = "NotWanted"
    DOES_NOT_FIT = "DoesNotFit"
    MEMBER_NOT_KNOWN = "MemberNotKnown"
    NOT_RESERVED = "NotReserved"
    TICKET = "Ticket"
    EVIDENCE_MISSING = "EvidenceMissing"
    LEASE_NOT_RENEWED = "LeaseNotRenewed"
    READ_BACK_DIFFERS = "ReadBackDiffers"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not now, not so: a reason for machines and a sentence for people."""

    reason: Reason
    sentence: str


Guard = Callable[[Placement | None, Any], Refusal | None]
"""`Any`: a guard reads the fields that its rows' requests have in common."""


# ---------------------------------------------------------------- who


def _role(request: Any, *roles: Role) -> Refusal | None:
    if request.actor.role in roles:
        return None
    allowed = " or ".join(role.value for role in roles)
    return Refusal(Reason.WRONG_ROLE, f"{type(request).__name__} is for {allowed}, not for {request.actor.role.value}")


def by_vm_controller(_current: Placement | None, request: Any) -> Refusal | None:
    """Only the process that faces the hosts knows what runs there."""
    return _role(request, Role.VM_CONTROLLER)


def by_scheduler(_current: Placement | None, request: Any) -> Refusal | None:
    """One process decides over capacity."""
    return _role(request, Role.SCHEDULER)


def by_migration_controller(_current: Placement | None, request: Any) -> Refusal | None:
    """One process holds the ticket."""
    return _role(request, Role.MIGRATION_CONTROLLER)


def by_releaser(_current: Placement | None, request: Any) -> Refusal | None:
    """The owner of the host, or HA."""
    return _role(request, Role.VM_CONTROLLER, Role.HA_CONTROLLER)


def moving_released_by_ha(current: Placement | None, request: Any) -> Refusal | None:
    """A move that is under way is resolved by its own controller, or by HA when both hosts are surely off."""
    if current is not None and current.phase is Phase.MOVING:
        return _role(request, Role.HA_CONTROLLER)
    return None


# ---------------------------------------------------------------- what is known


def _memory(request: Any) -> Memory:
    memory: Memory = request.memory if hasattr(request, "memory") else request.knowledge.memory
    return memory


def memory_agrees(current: Placement | None, request: Any) -> Refusal | None:
    """Never act on a placement older than one seen in this term: the API server went back (trace 3)."""
    if _memory(request).contradicts(current):
        return Refusal(
            Reason.API_WENT_BACK,
            "this placement is older than one already seen in this term: read it again; if it stays, the API server "
            "was restored and everything must be compared with the hosts first",
        )
    return None


def no_tombstone(_current: Placement | None, request: Any) -> Refusal | None:
    """A deleted VM whose host is away may still run there [2]."""
    tombstones = [tombstone for tombstone in _tombstones(request) if not tombstone.released]
    if tombstones:
        nodes = ", ".join(sorted({tombstone.node for tombstone in tombstones}))
        return Refusal(
            Reason.PREVIOUS_INCARNATION,
            f"a deleted VM of this name may still run on {nodes}: it waits until that host returns and the domain is "
            "removed, or until a HostAttestation or the BMC says that the host is off",
        )
    return None


def found_no_predecessor(_current: Placement | None, request: Any) -> Refusal | None:
    """A host that returns holds a deleted VM's definition for a moment, also when evidence has released its tombstone."""
    found = request.view.sighting
    epoch = found.epoch if found is not None else None
    for tombstone in _tombstones(request):
        if tombstone.node == request.view.node and (
            epoch is None or tombstone.epoch is None or epoch <= tombstone.epoch
        ):
            return Refusal(
                Reason.PREVIOUS_INCARNATION,
                f"{tombstone.node} has the domain of a deleted VM of this name: it is removed there first",
            )
    return None


def _tombstones(request: Any) -> tuple[Tombstone, ...]:
    found: tuple[Tombstone, ...] = (
        request.tombstones if hasattr(request, "tombstones") else request.knowledge.tombstones
    )
    return found


def no_orphan(_current: Placement | None, request: Any) -> Refusal | None:
    """A host once showed a domain of this identity without an object: find it first."""
    knowledge: Knowledge = request.knowledge
    if knowledge.orphans:
        return Refusal(
            Reason.ORPHAN_KNOWN,
            f"{', '.join(sorted(knowledge.orphans))} had a domain of this VM when last listed: it is bound when "
            "that host is listed again",
        )
    return None


def no_sighting(_current: Placement | None, request: Any) -> Refusal | None:
    """What was found is bound, never started beside."""
    knowledge: Knowledge = request.knowledge
    if knowledge.sightings:
        nodes = ", ".join(sorted(s.node for s in knowledge.sightings))
        return Refusal(Reason.FOUND_ON_HOST, f"a domain of this VM exists on {nodes}: bind it")
    if knowledge.last_seen:
        nodes = ", ".join(sorted(s.node for s in knowledge.last_seen))
        return Refusal(Reason.FOUND_ON_HOST, f"{nodes} had a domain of this VM and is silent since: wait for it")
    return None


def inventory_complete(_current: Placement | None, request: Any) -> Refusal | None:
    """Every member listed in this term, or seen to be off in this term (startPolicy: Complete)."""
    inventory: Complete | Incomplete = request.knowledge.inventory
    if isinstance(inventory, Incomplete):
        return Refusal(Reason.INVENTORY_INCOMPLETE, inventory.sentence)
    if inventory.term != request.actor.term:
        return Refusal(
            Reason.INVENTORY_INCOMPLETE,
            f"the hosts were listed in term {inventory.term}, this is term {request.actor.term}: list them again",
        )
    return None


# ---------------------------------------------------------------- what hosts show


def _owned(view: HostView, term: int) -> Refusal | None:
    if view.term != term:
        return Refusal(Reason.HOST_NOT_OWNED, f"{view.node} was taken over in term {view.term}, not in {term}")
    if not view.gate_held:
        return Refusal(
            Reason.HOST_NOT_OWNED,
            f"my gate on {view.node} was not there after the listing: the host has rebooted or was taken over",
        )
    return None


def view_of_this_term(_current: Placement | None, request: Any) -> Refusal | None:
    """The host is mine: taken over in this term, my gate still there after the listing."""
    return _owned(request.view, request.actor.term)


def on_the_placed_host(current: Placement | None, request: Any) -> Refusal | None:
    """The host that answers is the one that was placed on, by UUID and not by address."""
    view: HostView = request.view
    assert current is not None
    if view.node != current.node or view.host_uuid != current.host_uuid:
        return Refusal(
            Reason.WRONG_HOST,
            f"the placement names {current.node} ({current.host_uuid}), the connection is to {view.node} "
            f"({view.host_uuid})",
        )
    return None


def not_running_here(_current: Placement | None, request: Any) -> Refusal | None:
    """A new epoch is for a start, and a start is for what does not run."""
    if request.view.runs:
        return Refusal(Reason.RUNNING, f"it runs on {request.view.node} already")
    return None


def seen_nowhere_else(_current: Placement | None, request: Any) -> Refusal | None:
    """Observing a VM means looking on every host this process owns; found elsewhere, nothing starts [3]."""
    knowledge: Knowledge = request.knowledge
    elsewhere = sorted(s.node for s in knowledge.sightings if s.host_uuid != request.view.host_uuid)
    if elsewhere:
        return Refusal(
            Reason.FOUND_ELSEWHERE,
            f"a domain of this VM exists on {', '.join(elsewhere)}: it is bound or removed first",
        )
    return None


def not_last_seen_elsewhere(current: Placement | None, request: Any) -> Refusal | None:
    """A silent host that showed a domain which no release speaks of may still run it.

    Found by the search: etcd restored to an older assignment; the new owner lists the host that runs the guest, loses
    it, and starts on the assigned one. Epochs up to the released one, and below the committed one, are history.
    """
    assert current is not None
    knowledge: Knowledge = request.knowledge
    for seen in knowledge.last_seen:
        if seen.host_uuid == request.view.host_uuid:
            continue
        released = known_epoch(current)
        settled = seen.epoch is not None and released is not None and seen.epoch <= released
        if not settled or seen.epoch == current.epoch:
            return Refusal(
                Reason.FOUND_ELSEWHERE,
                f"{seen.node} had a domain of this VM with epoch {seen.epoch} and is silent since: wait for it, or for "
                "evidence that it is off",
            )
    return None


def exactly_one_sighting(_current: Placement | None, request: Any) -> Refusal | None:
    """Two hosts with a domain of one identity: nothing is bound, nothing starts."""
    knowledge: Knowledge = request.knowledge
    view: HostView = request.view
    if view.sighting is None or view.sighting not in knowledge.sightings:
        return Refusal(Reason.NOT_FOUND, f"{view.node} shows no domain of this VM")
    if len(knowledge.sightings) > 1:
        nodes = ", ".join(sorted(s.node for s in knowledge.sightings))
        runs = [s for s in knowledge.sightings if s.runs]
        what = "stale ones that are shut off are removed first"
        if runs:
            what = (
                f"it runs on {runs[0].node} under epoch {runs[0].epoch}, which the placement does not name. "
                "Stop it there with virsh; nothing is killed automatically"
            )
        return Refusal(Reason.SPLIT_BRAIN, f"domains of this VM exist on {nodes}: {what}")
    return None


def found_epoch_known(_current: Placement | None, request: Any) -> Refusal | None:
    """A domain of ours says under which epoch it was started."""
    if request.view.sighting.epoch is None:
        return Refusal(
            Reason.EPOCH_UNKNOWN,
            f"the domain on {request.view.node} carries no epoch: it was not defined by this operator; adopt it",
        )
    return None


def shut_off_only_if_latest(current: Placement | None, request: Any) -> Refusal | None:
    """A shut-off domain is bound only if no record anywhere knows a higher epoch [2]; 'anywhere' needs all hosts."""
    if request.view.runs:
        return None
    refusal = inventory_complete(current, request)
    if refusal is not None:
        return refusal
    found: Epoch = request.view.sighting.epoch
    known = highest_known(current, request.knowledge)
    if known is not None and found < known:
        return Refusal(
            Reason.STALE_DOMAIN,
            f"the shut-off domain on {request.view.node} has epoch {found}, {known} is known: it is stale and goes",
        )
    return None


def found_elsewhere(current: Placement | None, request: Any) -> Refusal | None:
    """What is found where the placement says is no displacement."""
    assert current is not None
    placed = {current.host_uuid, current.target_uuid} - {None}
    if current.phase in (Phase.COMMITTED, Phase.MOVING) and request.view.host_uuid in placed:
        return Refusal(Reason.NOT_LAWFUL, f"{request.view.node} is where the placement says it is")
    return None


def found_displaces(current: Placement | None, request: Any) -> Refusal | None:
    """Displaces Committed and Moving only if it runs, Assigned and Released only above what was released."""
    assert current is not None
    found: Epoch = request.view.sighting.epoch
    known = known_epoch(current)
    if current.phase in (Phase.COMMITTED, Phase.MOVING):
        if not request.view.runs:
            return Refusal(Reason.NOT_RUNNING, f"the domain on {request.view.node} is shut off: it displaces nothing")
        if known is not None and found < known:
            return Refusal(
                Reason.SPLIT_BRAIN,
                f"a domain of epoch {found} runs on {request.view.node}, the placement is at {known}: a person decides",
            )
        return None
    if known is not None and found <= known:
        what = Reason.SPLIT_BRAIN if request.view.runs else Reason.STALE_DOMAIN
        return Refusal(what, f"epoch {found} on {request.view.node} was already released (up to {known})")
    return shut_off_only_if_latest(current, request)


# ---------------------------------------------------------------- epochs


def epoch_of_my_term(_current: Placement | None, request: Any) -> Refusal | None:
    """Epochs are given out by the process that holds their term."""
    if request.epoch.term != request.actor.term:
        return Refusal(Reason.EPOCH_NOT_NEW, f"epoch {request.epoch} is not of term {request.actor.term}")
    return None


def epoch_is_new(current: Placement | None, request: Any) -> Refusal | None:
    """One epoch per start attempt, above every epoch known anywhere [1]."""
    known = highest_known(current, request.knowledge)
    if known is not None and request.epoch <= known:
        return Refusal(
            Reason.EPOCH_NOT_NEW,
            f"epoch {request.epoch} is not above {known}: acquire a term above {known.term}",
        )
    return None


# ---------------------------------------------------------------- scheduling


def wanted(_current: Placement | None, request: Any) -> Refusal | None:
    """Only what should run gets a host."""
    return None if request.wanted else Refusal(Reason.NOT_WANTED, "the VM should not run: it needs no host")


def fits(_current: Placement | None, request: Any) -> Refusal | None:
    """The engine decides; the verdicts say why not."""
    return (
        None if request.fits else Refusal(Reason.DOES_NOT_FIT, f"it does not fit on {request.node}: see the verdicts")
    )


def member_known_everywhere(_current: Placement | None, request: Any) -> Refusal | None:
    """A host that another member's record does not name would be forgotten by a wipe while it is away."""
    if request.unknown_to:
        return Refusal(
            Reason.MEMBER_NOT_KNOWN,
            f"the record of {', '.join(request.unknown_to)} does not name this host yet: it is schedulable once every "
            "other member has noted it",
        )
    return None


# ---------------------------------------------------------------- moves


def reserved(_current: Placement | None, request: Any) -> Refusal | None:
    """A move is an object, and its room on the target is taken."""
    if not request.reserved:
        return Refusal(Reason.NOT_RESERVED, "no VirtualMachineMigration holds room on the target")
    return None


def source_runs_it(current: Placement | None, request: Any) -> Refusal | None:
    """Only a running guest on the placed host moves live."""
    assert current is not None
    source: HostView = request.source
    if source.host_uuid != current.host_uuid:
        return Refusal(Reason.WRONG_HOST, f"the placement names {current.host_uuid}, not {source.host_uuid}")
    refusal = _owned(source, request.actor.term)
    if refusal is None and not source.runs:
        return Refusal(Reason.NOT_RUNNING, f"it does not run on {source.node}")
    return refusal


def target_is_another_host(current: Placement | None, request: Any) -> Refusal | None:
    """The same UUID behind two names is one host."""
    assert current is not None
    if request.target.host_uuid == current.host_uuid or request.target.node == current.node:
        return Refusal(Reason.WRONG_HOST, f"{request.target.node} is the host that it runs on already")
    return None


def target_is_ready(_current: Placement | None, request: Any) -> Refusal | None:
    """Taken over in this term, and without a domain of this identity."""
    target: HostView = request.target
    refusal = _owned(target, request.actor.term)
    if refusal is None and target.sighting is not None:
        return Refusal(Reason.FOUND_ELSEWHERE, f"{target.node} has a domain of this VM already: remove it first")
    return refusal


def fresh_ticket(_current: Placement | None, request: Any) -> Refusal | None:
    """Without its ticket the target refuses the guest when the move comes late (trace 5)."""
    if not request.ticket:
        return Refusal(Reason.TICKET, f"no fresh ticket was created on {request.target.node}")
    return None


def _side_is_off(proofs: tuple[Proof, ...], host_uuid: HostUUID | None) -> bool:
    return any(p.evidence.host_uuid == host_uuid and p.evidence.kind in OFF_KINDS for p in proofs)


def ticket_deleted_first(current: Placement | None, request: Any) -> Refusal | None:
    """First the ticket goes [5], then the sides are listed. A target that is off has lost it with its tmpfs."""
    assert current is not None
    views = [view for view in (request.source, request.target) if view is not None]
    if request.target is None and _side_is_off(request.proofs, current.target_uuid):
        return None
    deleted: int | None = request.ticket_deleted_at
    if deleted is None or any(view.listed_at <= deleted for view in views):
        return Refusal(Reason.TICKET, "the ticket on the target is deleted first, and only then both hosts are listed")
    return None


def sides_of_this_move(current: Placement | None, request: Any) -> Refusal | None:
    """Both views are of the hosts that the placement names, and mine."""
    assert current is not None
    for view, uuid in ((request.source, current.host_uuid), (request.target, current.target_uuid)):
        if view is None:
            continue
        if view.host_uuid != uuid:
            return Refusal(Reason.WRONG_HOST, f"the move names host {uuid}, the connection is to {view.host_uuid}")
        refusal = _owned(view, request.actor.term)
        if refusal is not None:
            return refusal
    return None


def source_listed_before_target(_current: Placement | None, request: Any) -> Refusal | None:
    """The guest can only go from source to target: listed the other way round it can be missed on both."""
    source, target = request.source, request.target
    if source is not None and target is not None and source.listed_at >= target.listed_at:
        return Refusal(Reason.EVIDENCE_MISSING, "list the source first, then the target")
    return None


def running_side_shown(_current: Placement | None, request: Any) -> Refusal | None:
    """The side that keeps it shows that it runs, and the other view does not show that too."""
    source: HostView | None = request.source
    target: HostView | None = request.target
    running = [view for view in (source, target) if view is not None and view.runs]
    if len(running) > 1:
        return Refusal(Reason.RUNNING, "both sides show it: the move is still under way, or it is a split brain")
    claimed = {MoveEnd.SOURCE: source, MoveEnd.TARGET: target, MoveEnd.NEITHER: None}[request.end]
    if (running[0] if running else None) is not claimed or (request.end is not MoveEnd.NEITHER and claimed is None):
        where = running[0].node if running else "neither side"
        return Refusal(Reason.EVIDENCE_MISSING, f"the hosts show it on {where}, not as claimed ({request.end.value})")
    return None


def other_side_proved(current: Placement | None, request: Any) -> Refusal | None:
    """Every side that does not keep it is confirmed absent or surely off."""
    assert current is not None
    sides = {
        MoveEnd.SOURCE: (current.host_uuid, current.boot),
        MoveEnd.TARGET: (current.target_uuid, current.target_boot),
    }
    for side, (uuid, boot) in sides.items():
        if side is request.end:
            continue
        refusal = proved_off(current, request, uuid, boot)
        if refusal is not None:
            return refusal
    return None


# ---------------------------------------------------------------- evidence


def evidence_of_placement(current: Placement | None, request: Any) -> Refusal | None:
    """Evidence for the host of a Committed placement, for both hosts of a Moving one, for none otherwise."""
    if current is None or current.phase not in (Phase.COMMITTED, Phase.MOVING):
        return None
    refusal = proved_off(current, request, current.host_uuid, current.boot)
    if refusal is None and current.phase is Phase.MOVING:
        refusal = proved_off(current, request, current.target_uuid, current.target_boot)
    return refusal


def proved_off(current: Placement, request: Any, host_uuid: HostUUID | None, boot: BootNonce | None) -> Refusal | None:
    """One valid proof that `host_uuid` does not run the epoch of `current`, committed there under `boot`."""
    why = f"no evidence about host {host_uuid}"
    for proof in request.proofs:
        if proof.evidence.host_uuid != host_uuid:
            continue
        why = _invalid(current, request, proof, boot)
        if not why:
            return None
    return Refusal(
        Reason.EVIDENCE_MISSING,
        f"{why}: it stays where it is until the host answers, its BMC says off, or a HostAttestation is accepted",
    )


def _invalid(current: Placement, request: Any, proof: Proof, boot: BootNonce | None) -> str:
    """Why a proof about the right host does not count, '' when it does."""
    evidence = proof.evidence
    if proof.void:
        return proof.void
    if evidence.epoch != current.epoch:
        return f"the evidence names epoch {evidence.epoch}, the placement {current.epoch}"
    if proof.against != current.write_id:
        return "the evidence was collected before this placement was read"
    if evidence.kind in OFF_KINDS:
        if not boot_covers(evidence.boot, boot):
            return f"the evidence is about boot {evidence.boot}, it was committed under {boot}"
        return ""
    if evidence.kind is not EvidenceKind.HOST_CONFIRMED_ABSENT:
        return f"{evidence.kind.value} says nothing about one host"
    return _not_absent(request, proof)


def _not_absent(request: Any, proof: Proof) -> str:
    """Why host-confirmed-absent does not count, '' when it does."""
    view, epoch = proof.view, proof.evidence.epoch
    if request.actor.role is Role.HA_CONTROLLER:
        return "only the owner of a host confirms an absence"
    if view is None or view.host_uuid != proof.evidence.host_uuid:
        return "no listing of that host comes with it"
    refusal = _owned(view, request.actor.term)
    if refusal is not None:
        return refusal.sentence
    if view.sighting is not None:
        return f"{view.node} still has the domain"
    if epoch is None or view.departed is None or view.departed < epoch:
        return f"{view.node} keeps no departure note for epoch {epoch}"
    return ""
