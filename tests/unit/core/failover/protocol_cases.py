"""Builders for the table tests: a lawful request for every row, and the names they share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lq_operator.core.failover.evidence import absence_proof, off_proof
from lq_operator.core.failover.facts import Actor, HostView, Knowledge, Memory, Proof, Role, Sighting, Stamp
from lq_operator.core.failover.inventory import Complete
from lq_operator.core.failover.record import gate_name
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
    Unassign,
)
from lq_operator.core.model import Epoch, EvidenceKind, HostUUID, NodeName, Phase, Placement

TERM = 5
N1, N2, N3 = NodeName("h1"), NodeName("h2"), NodeName("h3")
U1 = HostUUID("11111111-1111-1111-1111-111111111111")
U2 = HostUUID("22222222-2222-2222-2222-222222222222")
U3 = HostUUID("33333333-3333-3333-3333-333333333333")
UUIDS = {N1: U1, N2: U2, N3: U3}
G1, G2, G3 = gate_name(TERM, "aa", 1), gate_name(TERM, "bb", 2), gate_name(TERM, "cc", 3)
GATES = {N1: G1, N2: G2, N3: G3}
OLD, NOW, NEW = Epoch(3, 1), Epoch(4, 2), Epoch(TERM, 1)
STAMP = Stamp("w-new", "2026-01-01T00:00:00Z")
VM, SCHED = Actor(Role.VM_CONTROLLER, TERM), Actor(Role.SCHEDULER, TERM)
MIG, HA = Actor(Role.MIGRATION_CONTROLLER, TERM), Actor(Role.HA_CONTROLLER, TERM)

RELEASED = Placement(Phase.RELEASED, "w", "t", released_epoch=OLD)
ASSIGNED = Placement(Phase.ASSIGNED, "w", "t", N1, U1, released_epoch=OLD)
COMMITTED = Placement(Phase.COMMITTED, "w", "t", N1, U1, G1, NOW, OLD)
MOVING = replace(COMMITTED, phase=Phase.MOVING, target=N2, target_uuid=U2, target_boot=G2)


def view(
    node: NodeName, *, runs: bool | None = None, epoch: Epoch = NOW, departed: Epoch | None = None, at: int = 1
) -> HostView:
    """What `node` shows: runs True/False = a domain that runs/is shut off, None = no domain."""
    sighting = None if runs is None else Sighting(node, UUIDS[node], GATES[node], runs, epoch)
    return HostView(node, UUIDS[node], GATES[node], TERM, True, sighting, departed, at)


def know(*views: HostView, **changes: Any) -> Knowledge:
    """Knowledge of a complete inventory in which `views` are all that is seen."""
    seen = tuple(v.sighting for v in views if v.sighting is not None)
    return replace(Knowledge(Complete(TERM), seen), **changes)


def absent(node: NodeName, placement: Placement, at: int = 1) -> Proof:
    """host-confirmed-absent for `placement` on `node`."""
    return absence_proof(view(node, departed=placement.epoch, at=at), placement)


def off(node: NodeName, placement: Placement, kind: EvidenceKind = EvidenceKind.BMC_CONFIRMED_OFF) -> Proof:
    """Evidence that `node` is off, about the boot that it was taken over in."""
    return off_proof(kind, UUIDS[node], GATES[node], placement)


FOUND = view(N3, runs=True, epoch=Epoch(4, 7))

LAWFUL: dict[str, tuple[Placement | None, Any]] = {
    "register": (None, Register(VM, STAMP, know())),
    "bind running": (None, Bind(VM, STAMP, know(view(N1, runs=True)), view(N1, runs=True))),
    "bind shut off": (None, Bind(VM, STAMP, know(view(N1, runs=False)), view(N1, runs=False))),
    "displace released": (RELEASED, Displace(VM, STAMP, know(FOUND), FOUND)),
    "displace assigned": (ASSIGNED, Displace(VM, STAMP, know(FOUND), FOUND)),
    "displace committed": (COMMITTED, Displace(VM, STAMP, know(FOUND), FOUND, (off(N1, COMMITTED),))),
    "displace moving": (MOVING, Displace(VM, STAMP, know(FOUND), FOUND, (off(N1, MOVING), off(N2, MOVING)))),
    "assign": (RELEASED, Assign(SCHED, STAMP, N2, U2, True, True)),
    "reassign": (ASSIGNED, Assign(SCHED, STAMP, N2, U2, True, True)),
    "unassign": (ASSIGNED, Unassign(SCHED, STAMP)),
    "commit assigned": (ASSIGNED, Commit(VM, STAMP, know(), view(N1), NEW)),
    "commit again": (COMMITTED, Commit(VM, STAMP, know(view(N1, runs=False)), view(N1, runs=False), NEW)),
    "begin move": (
        COMMITTED,
        BeginMove(MIG, STAMP, Memory(), view(N1, runs=True), view(N2), "ticket_5_ns_vm_aa", True),
    ),
    "end at target": (
        MOVING,
        EndMove(
            MIG, STAMP, know(), MoveEnd.TARGET, view(N1, departed=NOW, at=2), view(N2, runs=True, at=3),
            (absent(N1, MOVING, 2),), 1, NEW,
        ),
    ),
    "end at source": (
        MOVING,
        EndMove(
            MIG, STAMP, know(), MoveEnd.SOURCE, view(N1, runs=True, at=2), view(N2, departed=NOW, at=3),
            (absent(N2, MOVING, 3),), 1, NEW,
        ),
    ),
    "end at neither": (
        MOVING,
        EndMove(
            MIG, STAMP, know(), MoveEnd.NEITHER, view(N1, departed=NOW, at=2), view(N2, departed=NOW, at=3),
            (absent(N1, MOVING, 2), absent(N2, MOVING, 3)), 1, NEW,
        ),
    ),
    "end at source, target off": (
        MOVING,
        EndMove(MIG, STAMP, know(), MoveEnd.SOURCE, view(N1, runs=True, at=2), None, (off(N2, MOVING),), None, NEW),
    ),
    "end at target, source off": (
        MOVING,
        EndMove(MIG, STAMP, know(), MoveEnd.TARGET, None, view(N2, runs=True, at=3), (off(N1, MOVING),), 1, NEW),
    ),
    "release absent": (COMMITTED, Release(VM, STAMP, Memory(), (absent(N1, COMMITTED),))),
    "release off": (COMMITTED, Release(HA, STAMP, Memory(), (off(N1, COMMITTED),))),
    "release moving": (MOVING, Release(HA, STAMP, Memory(), (off(N1, MOVING), off(N2, MOVING)))),
}  # fmt: skip
"""Every row with facts that make it lawful; the tests break one fact at a time."""
