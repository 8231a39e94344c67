"""The ownership protocol as one pure function: which placement may follow which, who may say so, on what grounds.

Owns the transition table. Refuses everything that is not a row of it, with a reason and a sentence. Controllers,
the simulator and the model checker call the same `transition`; its result reaches the API server only through
`patch.placement_patch`, which tests uid and write id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from lq_operator.core.failover import guards as g
from lq_operator.core.failover.facts import (
    Actor,
    HostView,
    Knowledge,
    Memory,
    Proof,
    Sighting,
    Stamp,
    Tombstone,
    highest,
    highest_known,
    known_epoch,
)
from lq_operator.core.failover.guards import Guard, Reason, Refusal
from lq_operator.core.failover.requests import (
    Assign,
    BeginMove,
    Bind,
    Commit,
    Displace,
    EndMove,
    MoveEnd,
    Register,
    Release,
    Request,
    Unassign,
)
from lq_operator.core.model import Epoch, Evidence, EvidenceKind, Phase, Placement

__all__ = [
    "TABLE",
    "Actor",
    "Assign",
    "BeginMove",
    "Bind",
    "Commit",
    "Displace",
    "EndMove",
    "HostView",
    "Knowledge",
    "Memory",
    "MoveEnd",
    "Proof",
    "Reason",
    "Refusal",
    "Register",
    "Release",
    "Request",
    "Row",
    "Sighting",
    "Stamp",
    "Tombstone",
    "Unassign",
    "highest_known",
    "known_epoch",
    "may_act",
    "transition",
    "without",
]

Effect = Callable[[Placement | None, Any], Placement]
"""`Any`: an effect takes the request of its row, which is the key of the table."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: from these phases (None = absent), under these guards, with this effect."""

    phases: frozenset[Phase | None]
    guards: tuple[Guard, ...]
    effect: Effect


# ---------------------------------------------------------------- effects


def _committed(
    stamp: Stamp, view: HostView, epoch: Epoch | None, released: Epoch | None, evidence: tuple[Evidence, ...]
) -> Placement:
    return Placement(
        Phase.COMMITTED,
        stamp.write_id,
        stamp.since,
        node=view.node,
        host_uuid=view.host_uuid,
        boot=view.boot,
        epoch=epoch,
        released_epoch=released,
        evidence=evidence,
    )


def _register(current: Placement | None, request: Register) -> Placement:
    # Departure notes and, after a wipe, nothing else may know the identity: they are where its epochs go on from.
    return Placement(
        Phase.RELEASED,
        request.stamp.write_id,
        request.stamp.since,
        released_epoch=highest_known(current, request.knowledge),
        evidence=(Evidence(EvidenceKind.INVENTORY, detail=f"term {request.actor.term}"),),
    )


def _found(current: Placement | None, request: Bind | Displace) -> Placement:
    """Committed as found. Whatever was released before stays known, so that epochs never go back."""
    found = request.view.sighting
    assert found is not None
    proofs = request.proofs if isinstance(request, Displace) else ()
    evidence = tuple(proof.evidence for proof in proofs)
    return _committed(request.stamp, request.view, found.epoch, known_epoch(current), evidence)


def _assign(current: Placement | None, request: Assign) -> Placement:
    assert current is not None
    return replace(
        current,
        phase=Phase.ASSIGNED,
        write_id=request.stamp.write_id,
        since=request.stamp.since,
        node=request.node,
        host_uuid=request.host_uuid,
    )


def _unassign(current: Placement | None, request: Unassign) -> Placement:
    assert current is not None
    return replace(
        current,
        phase=Phase.RELEASED,
        write_id=request.stamp.write_id,
        since=request.stamp.since,
        node=None,
        host_uuid=None,
    )


def _commit(current: Placement | None, request: Commit) -> Placement:
    assert current is not None
    # The evidence is kept for people: by what it could leave the host where it ran under releasedEpoch. No guard reads it.
    return _committed(request.stamp, request.view, request.epoch, current.released_epoch, current.evidence)


def _begin_move(current: Placement | None, request: BeginMove) -> Placement:
    assert current is not None
    return replace(
        current,
        phase=Phase.MOVING,
        write_id=request.stamp.write_id,
        since=request.stamp.since,
        target=request.target.node,
        target_uuid=request.target.host_uuid,
        target_boot=request.target.boot,
    )


def _end_move(current: Placement | None, request: EndMove) -> Placement:
    assert current is not None
    stamp, proofs = request.stamp, tuple(p.evidence for p in request.proofs)
    if request.end is MoveEnd.NEITHER:
        return Placement(Phase.RELEASED, stamp.write_id, stamp.since, released_epoch=request.epoch, evidence=proofs)
    side = request.target if request.end is MoveEnd.TARGET else request.source
    assert side is not None
    ended = _committed(stamp, side, request.epoch, current.released_epoch, proofs)
    # The run goes on under the epoch it was started with: seed, suspend image and metadata carry that one.
    return replace(ended, run_epoch=current.started_epoch)


def _release(current: Placement | None, request: Release) -> Placement:
    assert current is not None
    return Placement(
        Phase.RELEASED,
        request.stamp.write_id,
        request.stamp.since,
        released_epoch=highest((current.epoch, current.released_epoch)),
        evidence=tuple(proof.evidence for proof in request.proofs),
    )


# ---------------------------------------------------------------- the table

_ABSENT = frozenset({None})
_RELEASED = frozenset({Phase.RELEASED})
_ASSIGNED = frozenset({Phase.ASSIGNED})
_MOVING = frozenset({Phase.MOVING})

TABLE: Mapping[type, Row] = MappingProxyType(
    {
        Register: Row(
            _ABSENT,
            (g.by_vm_controller, g.memory_agrees, g.no_tombstone, g.no_orphan, g.no_sighting, g.inventory_complete),
            _register,
        ),
        Bind: Row(
            _ABSENT,
            (
                g.by_vm_controller,
                g.memory_agrees,
                g.no_tombstone,
                g.view_of_this_term,
                g.exactly_one_sighting,
                g.found_no_predecessor,
                g.found_epoch_known,
                g.shut_off_only_if_latest,
            ),
            _found,
        ),
        Displace: Row(
            frozenset({Phase.RELEASED, Phase.ASSIGNED, Phase.COMMITTED, Phase.MOVING}),
            (
                g.by_vm_controller,
                g.memory_agrees,
                g.no_tombstone,
                g.view_of_this_term,
                g.exactly_one_sighting,
                g.found_no_predecessor,
                g.found_epoch_known,
                g.found_elsewhere,
                g.found_displaces,
                g.evidence_of_placement,
            ),
            _found,
        ),
        Assign: Row(
            frozenset({Phase.RELEASED, Phase.ASSIGNED}),
            (g.by_scheduler, g.wanted, g.fits, g.no_tombstone, g.member_known_everywhere),
            _assign,
        ),
        Unassign: Row(_ASSIGNED, (g.by_scheduler,), _unassign),
        Commit: Row(
            frozenset({Phase.ASSIGNED, Phase.COMMITTED}),
            (
                g.by_vm_controller,
                g.memory_agrees,
                g.no_tombstone,
                g.view_of_this_term,
                g.on_the_placed_host,
                g.not_running_here,
                g.seen_nowhere_else,
                g.not_last_seen_elsewhere,
                g.inventory_complete,
                g.epoch_of_my_term,
                g.epoch_is_new,
            ),
            _commit,
        ),
        BeginMove: Row(
            frozenset({Phase.COMMITTED}),
            (
                g.by_migration_controller,
                g.memory_agrees,
                g.reserved,
                g.source_runs_it,
                g.target_is_another_host,
                g.target_is_ready,
                g.member_known_everywhere,
                g.fresh_ticket,
            ),
            _begin_move,
        ),
        EndMove: Row(
            _MOVING,
            (
                g.by_migration_controller,
                g.memory_agrees,
                g.ticket_deleted_first,
                g.sides_of_this_move,
                g.source_listed_before_target,
                g.running_side_shown,
                g.other_side_proved,
                g.epoch_of_my_term,
                g.epoch_is_new,
            ),
            _end_move,
        ),
        Release: Row(
            frozenset({Phase.COMMITTED, Phase.MOVING}),
            (
                g.by_releaser,
                g.memory_agrees,
                g.moving_released_by_ha,
                g.evidence_of_placement,
            ),
            _release,
        ),
    }
)
"""The whole protocol: one row per request. A guard sees (current, request) and refuses or says nothing."""


def transition(current: Placement | None, request: Request, table: Mapping[type, Row] = TABLE) -> Placement | Refusal:
    """The placement that follows, or why not. Pure: write ids, epochs and times come in with the request.

    `table` is for searches that take a guard away (`without`); everything else uses TABLE.
    """
    row = table[type(request)]
    phase = None if current is None else current.phase
    if phase not in row.phases:
        have = "absent" if phase is None else phase.value
        return Refusal(Reason.NOT_LAWFUL, f"{type(request).__name__} does not follow {have}: read the placement again")
    for guard in row.guards:
        refusal = guard(current, request)
        if refusal is not None:
            return refusal
    return row.effect(current, request)


def without(*names: str) -> Mapping[type, Row]:
    """TABLE with the guards of these names removed everywhere. For tests and searches; KeyError for unknown names."""
    known = {guard.__name__ for row in TABLE.values() for guard in row.guards}
    missing = set(names) - known
    if missing:
        raise KeyError(f"no such guard: {', '.join(sorted(missing))}")
    return MappingProxyType(
        {
            kind: replace(row, guards=tuple(guard for guard in row.guards if guard.__name__ not in names))
            for kind, row in TABLE.items()
        }
    )


def may_act(written: Placement, read_back: Placement | None, *, lease_renewed: bool) -> Refusal | None:
    """Between a commit and the first write to the host: the lease renewed after the patch, then the placement read
    back from the API server (not from a watch). Anything but exactly what was written means that it went back or
    that somebody else owns the VM."""
    if not lease_renewed:
        return Refusal(Reason.LEASE_NOT_RENEWED, "the lease was not renewed after the commit: write nothing, step down")
    if read_back is None or read_back.write_id != written.write_id:
        return Refusal(
            Reason.READ_BACK_DIFFERS,
            f"the placement read back is not the one written ({written.write_id}): the API server went back or "
            "another process owns this VM; nothing was written to the host",
        )
    return None


def next_epoch(term: int, counter: int) -> Epoch:
    """Epoch number `counter` of the process that holds `term`; the process counts up and never reuses one."""
    return Epoch(term, counter)
