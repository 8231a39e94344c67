"""Every row of the table, every guard of every row: lawful requests pass, one broken fact is refused, and the same
request passes once exactly the guard that is meant is taken away (so no guard hides behind another)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.failover.protocol_cases import (
    ASSIGNED,
    COMMITTED,
    FOUND,
    G1,
    G2,
    HA,
    LAWFUL,
    MIG,
    MOVING,
    N1,
    N2,
    N3,
    NEW,
    NOW,
    OLD,
    RELEASED,
    SCHED,
    STAMP,
    TERM,
    U1,
    U2,
    U3,
    VM,
    absent,
    know,
    off,
    view,
)

from lq_operator.core.failover.evidence import off_proof
from lq_operator.core.failover.facts import Memory, Proof, Sighting, Tombstone
from lq_operator.core.failover.guards import Reason, Refusal
from lq_operator.core.failover.inventory import Incomplete, Missing
from lq_operator.core.failover.protocol import TABLE, may_act, transition, without
from lq_operator.core.failover.record import gate_name
from lq_operator.core.failover.requests import MoveEnd
from lq_operator.core.model import Epoch, Evidence, EvidenceKind, Phase, Placement

TOMB = (Tombstone(N3, "ns", "vm", "old-uid", OLD),)
SILENT = Incomplete(TERM, (Missing(N3, U3, "no answer for 9 s"),))
FORGOTTEN = Memory("later", frozenset({"w"}), NOW)
DEPOSED = replace(view(N1), gate_held=False)


def _left_by(request: Any) -> tuple[Tombstone, ...]:
    """Evidence has released it, and its host shows the domain again."""
    found = request.view.sighting
    return (Tombstone(request.view.node, "ns", "vm", "old-uid", found.epoch, released=True),)


def _know(request: Any, **changes: Any) -> Any:
    return replace(request, knowledge=replace(request.knowledge, **changes))


def _proofs(*proofs: Proof) -> Any:
    return lambda _p, r: replace(r, proofs=proofs)


CASES: list[tuple[str, str, Any, Reason, str]] = [
    # row, what is broken, how, reason, the guard that is meant
    *[(row, "role", lambda _p, r: replace(r, actor=SCHED), Reason.WRONG_ROLE, "by_vm_controller")
      for row in ("register", "bind running", "displace released", "commit assigned")],
    *[(row, "role", lambda _p, r: replace(r, actor=VM), Reason.WRONG_ROLE, "by_scheduler")
      for row in ("assign", "reassign", "unassign")],
    *[(row, "role", lambda _p, r: replace(r, actor=VM), Reason.WRONG_ROLE, "by_migration_controller")
      for row in ("begin move", "end at target")],
    ("release off", "role", lambda _p, r: replace(r, actor=SCHED), Reason.WRONG_ROLE, "by_releaser"),
    ("release moving", "role", lambda _p, r: replace(r, actor=VM), Reason.WRONG_ROLE, "moving_released_by_ha"),
    *[(row, "older than what was seen", lambda _p, r: _know(r, memory=FORGOTTEN), Reason.API_WENT_BACK,
       "memory_agrees")
      for row in ("register", "bind running", "displace committed", "commit assigned", "commit again",
                  "end at source")],
    *[(row, "older than what was seen", lambda _p, r: replace(r, memory=FORGOTTEN), Reason.API_WENT_BACK,
       "memory_agrees")
      for row in ("begin move", "release off", "release absent")],
    *[(row, "tombstone", lambda _p, r: _know(r, tombstones=TOMB), Reason.PREVIOUS_INCARNATION, "no_tombstone")
      for row in ("register", "bind running", "displace committed", "commit assigned", "commit again")],
    ("assign", "tombstone", lambda _p, r: replace(r, tombstones=TOMB), Reason.PREVIOUS_INCARNATION, "no_tombstone"),
    *[(row, "left by a deleted VM", lambda _p, r: _know(r, tombstones=_left_by(r)), Reason.PREVIOUS_INCARNATION,
       "found_no_predecessor")
      for row in ("bind running", "displace committed")],
    ("register", "orphan", lambda _p, r: _know(r, orphans=(N3,)), Reason.ORPHAN_KNOWN, "no_orphan"),
    ("register", "found", lambda _p, r: _know(r, sightings=(FOUND.sighting,)), Reason.FOUND_ON_HOST, "no_sighting"),
    ("register", "last seen", lambda _p, r: _know(r, last_seen=(FOUND.sighting,)), Reason.FOUND_ON_HOST,
     "no_sighting"),
    *[(row, "a silent host", lambda _p, r: _know(r, inventory=SILENT), Reason.INVENTORY_INCOMPLETE,
       "inventory_complete")
      for row in ("register", "commit assigned", "commit again")],
    ("commit assigned", "inventory of another term",
     lambda _p, r: _know(r, inventory=replace(r.knowledge.inventory, term=4)), Reason.INVENTORY_INCOMPLETE,
     "inventory_complete"),
    ("bind shut off", "a silent host", lambda _p, r: _know(r, inventory=SILENT), Reason.INVENTORY_INCOMPLETE,
     "shut_off_only_if_latest"),
    ("bind shut off", "a higher epoch left somewhere", lambda _p, r: _know(r, departures=(NEW,)),
     Reason.STALE_DOMAIN, "shut_off_only_if_latest"),
    *[(row, "deposed", lambda _p, r: replace(r, view=replace(r.view, gate_held=False)), Reason.HOST_NOT_OWNED,
       "view_of_this_term")
      for row in ("bind running", "displace committed", "commit assigned")],
    *[(row, "taken over in an earlier term", lambda _p, r: replace(r, view=replace(r.view, term=4)),
       Reason.HOST_NOT_OWNED, "view_of_this_term")
      for row in ("bind running", "displace committed", "commit assigned")],
    ("bind running", "two hosts have it", lambda _p, r: _know(r, sightings=(r.view.sighting, FOUND.sighting)),
     Reason.SPLIT_BRAIN, "exactly_one_sighting"),
    ("displace committed", "two hosts have it",
     lambda _p, r: _know(r, sightings=(r.view.sighting, view(N1, runs=False).sighting)), Reason.SPLIT_BRAIN,
     "exactly_one_sighting"),
    ("displace committed", "runs under an older epoch",
     lambda _p, r: _found(r, Sighting(N3, U3, r.view.boot, True, OLD)), Reason.SPLIT_BRAIN, "found_displaces"),
    ("displace committed", "shut off", lambda _p, r: _found(r, replace(r.view.sighting, runs=False)),
     Reason.NOT_RUNNING, "found_displaces"),
    ("displace released", "already released",
     lambda _p, r: _found(r, replace(r.view.sighting, epoch=OLD, runs=False)), Reason.STALE_DOMAIN,
     "found_displaces"),
    ("displace assigned", "runs although released", lambda _p, r: _found(r, replace(r.view.sighting, epoch=OLD)),
     Reason.SPLIT_BRAIN, "found_displaces"),
    ("displace released", "shut off, higher epoch known",
     lambda _p, r: _know(_found(r, replace(r.view.sighting, runs=False)), departures=(NEW,)), Reason.STALE_DOMAIN,
     "found_displaces"),
    ("displace committed", "no evidence", _proofs(), Reason.EVIDENCE_MISSING, "evidence_of_placement"),
    ("displace moving", "evidence for one side", _proofs(off(N1, MOVING)), Reason.EVIDENCE_MISSING,
     "evidence_of_placement"),
    ("displace committed", "it is where the placement says",
     lambda _p, r: replace(r, view=view(N1, runs=True), knowledge=know(view(N1, runs=True))), Reason.NOT_LAWFUL,
     "found_elsewhere"),
    ("assign", "not wanted", lambda _p, r: replace(r, wanted=False), Reason.NOT_WANTED, "wanted"),
    ("assign", "does not fit", lambda _p, r: replace(r, fits=False), Reason.DOES_NOT_FIT, "fits"),
    *[(row, "member unknown to another", lambda _p, r: replace(r, unknown_to=(N3,)), Reason.MEMBER_NOT_KNOWN,
       "member_known_everywhere")
      for row in ("assign", "reassign", "begin move")],
    ("commit again", "another machine behind the URI", lambda _p, r: replace(r, view=replace(view(N1), host_uuid=U3), knowledge=know()),
     Reason.WRONG_HOST, "on_the_placed_host"),
    ("commit assigned", "another node", lambda _p, r: replace(r, view=view(N2)), Reason.WRONG_HOST,
     "on_the_placed_host"),
    ("commit again", "it runs", lambda _p, r: replace(r, view=view(N1, runs=True), knowledge=know()),
     Reason.RUNNING, "not_running_here"),
    ("commit again", "found elsewhere", lambda _p, r: _know(r, sightings=(FOUND.sighting,)), Reason.FOUND_ELSEWHERE,
     "seen_nowhere_else"),
    ("commit assigned", "last seen elsewhere with an epoch never released",
     lambda _p, r: _know(r, last_seen=(replace(FOUND.sighting, epoch=NOW),)), Reason.FOUND_ELSEWHERE,
     "not_last_seen_elsewhere"),
    ("commit again", "last seen elsewhere under the committed epoch",
     lambda _p, r: _know(r, last_seen=(replace(FOUND.sighting, epoch=NOW),)), Reason.FOUND_ELSEWHERE,
     "not_last_seen_elsewhere"),
    *[(row, "epoch of another term", lambda _p, r: replace(r, epoch=Epoch(TERM + 1, 1)), Reason.EPOCH_NOT_NEW,
       "epoch_of_my_term")
      for row in ("commit assigned", "commit again", "end at target", "end at neither")],
    *[(row, "a note knows a higher epoch", lambda _p, r: _know(r, departures=(Epoch(TERM, 1),)),
       Reason.EPOCH_NOT_NEW, "epoch_is_new")
      for row in ("commit assigned", "commit again", "end at source")],
    ("commit again", "the committed epoch again", lambda p, r: (replace(p, epoch=NEW), r), Reason.EPOCH_NOT_NEW,
     "epoch_is_new"),
    ("begin move", "no reservation", lambda _p, r: replace(r, reserved=False), Reason.NOT_RESERVED, "reserved"),
    ("begin move", "source does not run it", lambda _p, r: replace(r, source=view(N1, runs=False)),
     Reason.NOT_RUNNING, "source_runs_it"),
    ("begin move", "another source", lambda _p, r: replace(r, source=view(N3, runs=True)), Reason.WRONG_HOST,
     "source_runs_it"),
    ("begin move", "source lost", lambda _p, r: replace(r, source=replace(r.source, gate_held=False)),
     Reason.HOST_NOT_OWNED, "source_runs_it"),
    ("begin move", "same machine", lambda _p, r: replace(r, target=replace(r.target, host_uuid=U1)),
     Reason.WRONG_HOST, "target_is_another_host"),
    ("begin move", "target not owned", lambda _p, r: replace(r, target=replace(r.target, gate_held=False)),
     Reason.HOST_NOT_OWNED, "target_is_ready"),
    ("begin move", "target has one", lambda _p, r: replace(r, target=view(N2, runs=False)), Reason.FOUND_ELSEWHERE,
     "target_is_ready"),
    ("begin move", "no ticket", lambda _p, r: replace(r, ticket=""), Reason.TICKET, "fresh_ticket"),
    *[(row, "ticket not deleted", lambda _p, r: replace(r, ticket_deleted_at=None), Reason.TICKET,
       "ticket_deleted_first")
      for row in ("end at target", "end at source", "end at neither", "end at target, source off")],
    ("end at source", "listed before the ticket went", lambda _p, r: replace(r, ticket_deleted_at=2), Reason.TICKET,
     "ticket_deleted_first"),
    ("end at source", "another target", lambda _p, r: replace(r, target=replace(r.target, host_uuid=U3)),
     Reason.WRONG_HOST, "sides_of_this_move"),
    ("end at source", "source lost", lambda _p, r: replace(r, source=replace(r.source, gate_held=False)),
     Reason.HOST_NOT_OWNED, "sides_of_this_move"),
    ("end at target", "target listed first", lambda _p, r: replace(r, source=replace(r.source, listed_at=4)),
     Reason.EVIDENCE_MISSING, "source_listed_before_target"),
    ("end at source", "no word about the target", _proofs(), Reason.EVIDENCE_MISSING, "other_side_proved"),
    ("end at neither", "one side proved", _proofs(absent(N1, MOVING, 2)), Reason.EVIDENCE_MISSING,
     "other_side_proved"),
    *[(row, "no evidence", _proofs(), Reason.EVIDENCE_MISSING, "evidence_of_placement")
      for row in ("release absent", "release off", "release moving")],
    ("release moving", "one side only", _proofs(off(N2, MOVING)), Reason.EVIDENCE_MISSING, "evidence_of_placement"),
    ("release absent", "HA has no listing", lambda _p, r: replace(r, actor=HA), Reason.EVIDENCE_MISSING,
     "evidence_of_placement"),
]  # fmt: skip


def _found(request: Any, sighting: Sighting) -> Any:
    return _know(replace(request, view=replace(request.view, sighting=sighting)), sightings=(sighting,))


def _broken(row: str, change: Any) -> tuple[Placement | None, Any]:
    placement, request = LAWFUL[row]
    changed = change(placement, request)
    return changed if isinstance(changed, tuple) else (placement, changed)


@pytest.mark.parametrize("row", LAWFUL)
def test_lawful_requests_pass(row: str) -> None:
    placement, request = LAWFUL[row]
    after = transition(placement, request)
    assert isinstance(after, Placement), after
    assert after.write_id == STAMP.write_id
    assert placement is None or after.write_id != placement.write_id


@pytest.mark.parametrize(("row", "what", "change", "reason", "guard"), CASES, ids=[f"{c[0]}: {c[1]}" for c in CASES])
def test_one_broken_fact_is_refused_by_its_guard_alone(
    row: str, what: str, change: Any, reason: Reason, guard: str
) -> None:
    placement, request = _broken(row, change)
    refusal = transition(placement, request)
    assert isinstance(refusal, Refusal), f"{what} passed"
    assert refusal.reason is reason
    assert len(refusal.sentence) > 20
    after = transition(placement, request, without(guard))
    assert isinstance(after, Placement), f"{guard} is not the only one that refuses: {after}"


def test_every_guard_of_every_row_has_a_case_that_only_it_refuses() -> None:
    """A guard that nothing needs would go unnoticed when it breaks."""
    tested = {(type(LAWFUL[row][1]).__name__, guard) for row, _, _, _, guard in CASES}
    in_table = {(kind.__name__, guard.__name__) for kind, row in TABLE.items() for guard in row.guards}
    # These speak before a crash of the effect: taken away, there is nothing to bind or to keep (tests below).
    structural = {("Bind", "found_epoch_known"), ("Displace", "found_epoch_known"), ("EndMove", "running_side_shown")}
    assert in_table - tested == structural


LAWFUL_PHASES = {
    "Register": {None},
    "Bind": {None},
    "Displace": {Phase.RELEASED, Phase.ASSIGNED, Phase.COMMITTED, Phase.MOVING},
    "Assign": {Phase.RELEASED, Phase.ASSIGNED},
    "Unassign": {Phase.ASSIGNED},
    "Commit": {Phase.ASSIGNED, Phase.COMMITTED},
    "BeginMove": {Phase.COMMITTED},
    "EndMove": {Phase.MOVING},
    "Release": {Phase.COMMITTED, Phase.MOVING},
}


@pytest.mark.parametrize("row", LAWFUL)
@pytest.mark.parametrize("placement", [None, RELEASED, ASSIGNED, COMMITTED, MOVING], ids=lambda p: p and p.phase.value)
def test_requests_follow_the_phases_of_the_table_only(row: str, placement: Placement | None) -> None:
    request = LAWFUL[row][1]
    phase = None if placement is None else placement.phase
    answer = transition(placement, request)
    if phase not in LAWFUL_PHASES[type(request).__name__]:
        assert isinstance(answer, Refusal)
        assert answer.reason is Reason.NOT_LAWFUL


# ---------------------------------------------------------------- effects


def _after(row: str) -> Placement:
    after = transition(*LAWFUL[row])
    assert isinstance(after, Placement)
    return after


def test_register_continues_the_epochs_that_records_know() -> None:
    """After a wipe a stopped VM is known by departure notes alone: it may start, above them."""
    placement, request = LAWFUL["register"]
    after = transition(placement, _know(request, departures=(NOW, OLD)))
    assert isinstance(after, Placement)
    assert (after.phase, after.released_epoch, after.node) == (Phase.RELEASED, NOW, None)
    assert after.evidence[0].kind is EvidenceKind.INVENTORY


def test_bind_takes_the_domain_as_found() -> None:
    after = _after("bind running")
    assert (after.phase, after.node, after.host_uuid, after.boot, after.epoch) == (Phase.COMMITTED, N1, U1, G1, NOW)


def test_displacing_keeps_what_is_known_to_be_released() -> None:
    assert _after("displace released").released_epoch == OLD
    after = _after("displace committed")
    assert (after.node, after.epoch, after.released_epoch) == (N3, Epoch(4, 7), NOW)
    assert [e.kind for e in after.evidence] == [EvidenceKind.BMC_CONFIRMED_OFF]


def test_assigning_keeps_history_and_unassigning_forgets_the_host() -> None:
    assert (_after("assign").node, _after("assign").released_epoch) == (N2, OLD)
    after = _after("unassign")
    assert (after.phase, after.node, after.host_uuid, after.released_epoch) == (Phase.RELEASED, None, None, OLD)


def test_commit_names_host_boot_and_the_new_epoch() -> None:
    after = _after("commit again")
    assert (after.phase, after.node, after.host_uuid, after.boot) == (Phase.COMMITTED, N1, U1, G1)
    assert (after.epoch, after.released_epoch, after.evidence) == (NEW, OLD, ())


def test_a_move_names_both_hosts_and_uses_up_an_epoch_however_it_ends() -> None:
    moving = _after("begin move")
    assert (moving.phase, moving.node, moving.epoch) == (Phase.MOVING, N1, NOW)
    assert (moving.target, moving.target_uuid, moving.target_boot) == (N2, U2, G2)
    at_target, at_source, neither = _after("end at target"), _after("end at source"), _after("end at neither")
    assert (at_target.phase, at_target.node, at_target.boot, at_target.epoch) == (Phase.COMMITTED, N2, G2, NEW)
    assert (at_source.phase, at_source.node, at_source.boot, at_source.epoch) == (Phase.COMMITTED, N1, G1, NEW)
    assert (neither.phase, neither.node, neither.epoch, neither.released_epoch) == (Phase.RELEASED, None, None, NEW)
    assert at_target.target is at_source.target is neither.target is None


def test_release_remembers_the_epoch_and_the_evidence() -> None:
    after = _after("release moving")
    assert (after.phase, after.node, after.target, after.released_epoch) == (Phase.RELEASED, None, None, NOW)
    assert [e.host_uuid for e in after.evidence] == [U1, U2]


# ---------------------------------------------------------------- guards that the effect itself needs


@pytest.mark.parametrize("row", ["bind running", "displace released"])
def test_a_domain_without_an_epoch_is_not_bound(row: str) -> None:
    placement, request = LAWFUL[row]
    refusal = transition(placement, _found(request, replace(request.view.sighting, epoch=None)))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.EPOCH_UNKNOWN


def test_nothing_to_bind_where_nothing_is_shown() -> None:
    placement, request = LAWFUL["bind running"]
    refusal = transition(placement, replace(request, view=view(N1)))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.NOT_FOUND


@pytest.mark.parametrize(
    ("source", "target", "end"),
    [
        (view(N1, runs=True, at=2), view(N2, runs=True, at=3), MoveEnd.SOURCE),
        (view(N1, runs=True, at=2), view(N2, runs=True, at=3), MoveEnd.NEITHER),
        (view(N1, departed=NOW, at=2), view(N2, departed=NOW, at=3), MoveEnd.TARGET),
        (view(N1, runs=True, at=2), view(N2, departed=NOW, at=3), MoveEnd.NEITHER),
        (view(N1, runs=True, at=2), view(N2, departed=NOW, at=3), MoveEnd.TARGET),
        (None, view(N2, departed=NOW, at=3), MoveEnd.SOURCE),
        (view(N1, departed=NOW, at=2), None, MoveEnd.TARGET),
    ],
)
def test_a_move_ends_where_the_hosts_show_it(source: Any, target: Any, end: MoveEnd) -> None:
    request = replace(
        LAWFUL["end at neither"][1], source=source, target=target, end=end,
        proofs=(absent(N1, MOVING, 2), absent(N2, MOVING, 3), off(N1, MOVING), off(N2, MOVING)),
    )  # fmt: skip
    assert isinstance(transition(MOVING, request), Refusal)


# ---------------------------------------------------------------- what makes evidence valid

BROKEN_PROOFS: list[tuple[str, Placement, Any, Proof]] = [
    ("another host", COMMITTED, HA, off(N3, COMMITTED)),
    ("another epoch", COMMITTED, HA, off(N1, replace(COMMITTED, epoch=NEW))),
    ("an earlier placement", COMMITTED, HA, off(N1, replace(COMMITTED, write_id="w-before"))),
    ("another boot", replace(COMMITTED, boot=gate_name(TERM, "zz", 9)), HA, off(N1, COMMITTED)),
    ("no boot", COMMITTED, HA, off_proof(EvidenceKind.HUMAN_ATTESTED, U1, None, COMMITTED)),  # type: ignore[arg-type]
    ("void", COMMITTED, HA, replace(off(N1, COMMITTED), void="the host has answered since")),
    ("inventory", COMMITTED, HA, Proof(Evidence(EvidenceKind.INVENTORY, U1, NOW, G1), "w")),
    ("absent without a listing", COMMITTED, VM, replace(absent(N1, COMMITTED), view=None)),
    ("absent, listing of another host", COMMITTED, VM, replace(absent(N1, COMMITTED), view=view(N2, departed=NOW))),
    ("absent, gate gone after the listing", COMMITTED, VM,
     replace(absent(N1, COMMITTED), view=replace(view(N1, departed=NOW), gate_held=False))),
    ("absent, listed in another term", COMMITTED, VM,
     replace(absent(N1, COMMITTED), view=replace(view(N1, departed=NOW), term=4))),
    ("absent, still defined", COMMITTED, VM, replace(absent(N1, COMMITTED), view=view(N1, runs=False, departed=NOW))),
    ("absent, no note", COMMITTED, VM, replace(absent(N1, COMMITTED), view=view(N1))),
    ("absent, note of an older epoch", COMMITTED, VM, replace(absent(N1, COMMITTED), view=view(N1, departed=OLD))),
]  # fmt: skip


@pytest.mark.parametrize(("what", "placement", "actor", "proof"), BROKEN_PROOFS, ids=[b[0] for b in BROKEN_PROOFS])
def test_evidence_that_does_not_hold(what: str, placement: Placement, actor: Any, proof: Proof) -> None:
    request = replace(LAWFUL["release off"][1], actor=actor, proofs=(proof,))
    refusal = transition(placement, request)
    assert isinstance(refusal, Refusal), what
    assert refusal.reason is Reason.EVIDENCE_MISSING


@pytest.mark.parametrize("kind", [EvidenceKind.BMC_CONFIRMED_OFF, EvidenceKind.STORAGE_LEASE_LOST,
                                  EvidenceKind.HUMAN_ATTESTED])  # fmt: skip
def test_every_kind_of_off_releases(kind: EvidenceKind) -> None:
    request = replace(LAWFUL["release off"][1], proofs=(off(N1, COMMITTED, kind),))
    assert isinstance(transition(COMMITTED, request), Placement)


def test_evidence_about_a_later_takeover_covers_what_was_committed_before() -> None:
    """The operator restarted while the guest ran: its placement still names the first gate of that boot."""
    request = replace(LAWFUL["release off"][1], proofs=(off(N1, COMMITTED),))
    before = replace(COMMITTED, boot=gate_name(TERM - 1, "ff", 7))
    assert isinstance(transition(before, request), Placement)


def test_one_valid_proof_among_invalid_ones_is_enough() -> None:
    request = replace(LAWFUL["release off"][1], proofs=(replace(off(N1, COMMITTED), void="old"), off(N1, COMMITTED)))
    assert isinstance(transition(COMMITTED, request), Placement)


# ---------------------------------------------------------------- between commit and first write


def test_first_write_needs_renewal_and_the_placement_that_was_written() -> None:
    written = _after("commit assigned")
    assert may_act(written, written, lease_renewed=True) is None
    for read_back, renewed, reason in [
        (written, False, Reason.LEASE_NOT_RENEWED),
        (None, True, Reason.READ_BACK_DIFFERS),
        (ASSIGNED, True, Reason.READ_BACK_DIFFERS),
    ]:
        refusal = may_act(written, read_back, lease_renewed=renewed)
        assert refusal is not None
        assert refusal.reason is reason


def test_unknown_guards_are_named() -> None:
    with pytest.raises(KeyError, match="no_such_guard"):
        without("no_such_guard")


def test_deposed_view_is_what_it_says() -> None:
    refusal = transition(ASSIGNED, replace(LAWFUL["commit assigned"][1], view=DEPOSED))
    assert isinstance(refusal, Refusal)
    assert "gate" in refusal.sentence
    assert (MIG.term, N1) == (TERM, DEPOSED.node)


@pytest.mark.parametrize("row", ["register", "commit assigned", "commit again", "bind running", "displace committed"])
def test_a_tombstone_that_evidence_released_keeps_nobody_waiting(row: str) -> None:
    """On another host than the one that is looked at, or under a lower epoch than the domain found there."""
    current, request = LAWFUL[row]
    released = replace(TOMB[0], released=True)
    assert isinstance(transition(current, _know(request, tombstones=(released,))), Placement)
    if row.startswith(("bind", "displace")):
        older = replace(released, node=request.view.node, epoch=Epoch(0, 1))
        assert isinstance(transition(current, _know(request, tombstones=(older,))), Placement)
