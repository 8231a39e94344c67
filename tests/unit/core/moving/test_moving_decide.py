"""The decision about one move as a table: what is observed -> the next step. Each row is a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lq_operator.core.failover.evidence import off_proof
from lq_operator.core.failover.facts import Actor, HostView, Knowledge, Memory, Role, Sighting, Stamp
from lq_operator.core.failover.inventory import Complete
from lq_operator.core.model import (
    BootNonce,
    DomainSeen,
    DomainState,
    Epoch,
    EvidenceKind,
    HostUUID,
    Identity,
    MoveProgress,
    MoveResult,
    NodeName,
    Placement,
)
from lq_operator.core.model import Phase as Placed
from lq_operator.core.moving import steps as s
from lq_operator.core.moving.decide import decide
from lq_operator.core.moving.world import Job, JobEnd, MoveWorld, Phase, PostCopy, Side, Vm

VM = Identity("inst", "ns", "a")
H1, H2 = NodeName("h1"), NodeName("h2")
U1, U2 = HostUUID("u1"), HostUUID("u2")
G1, G2 = BootNonce("gate-3-1-aa"), BootNonce("gate-3-2-bb")
E0, E1, E2 = Epoch(2, 1), Epoch(2, 5), Epoch(3, 9)
COMMITTED = Placement(Placed.COMMITTED, "w1", "t", node=H1, host_uuid=U1, boot=G1, epoch=E1)
MOVING = replace(COMMITTED, phase=Placed.MOVING, write_id="w2", target=H2, target_uuid=U2, target_boot=G2)
MOVED = replace(COMMITTED, write_id="w3", node=H2, host_uuid=U2, boot=G2, epoch=E2, run_epoch=E1)
PROGRESS = MoveProgress(100, 50, 50, iteration=1)


def domain(state: DomainState = DomainState.RUNNING, reason: str = "booted", epoch: Epoch = E1) -> DomainSeen:
    return DomainSeen(VM.domain_name, VM.domain_uuid, state, reason, True, VM, "uid", epoch)


SHUT = domain(DomainState.SHUTOFF, "migrated")
SHELL = domain(DomainState.PAUSED, "migration")


def side(node: NodeName, found: DomainSeen | None, at: int, departed: Epoch | None = None) -> Side:
    uuid, gate = (U1, G1) if node == H1 else (U2, G2)
    sighting = Sighting(node, uuid, gate, found.state.runs, found.epoch) if found else None
    return Side(node, HostView(node, uuid, gate, 3, True, sighting, departed, at), found)


def silent(node: NodeName, *, off: bool = False) -> Side:
    uuid, gate = (U1, G1) if node == H1 else (U2, G2)
    proofs = (off_proof(EvidenceKind.HUMAN_ATTESTED, uuid, gate, MOVING),) if off else ()
    return Side(node, why="no route", off=proofs)


def world(**changes: object) -> MoveWorld:
    base = MoveWorld(
        Actor(Role.MIGRATION_CONTROLLER, 3),
        Stamp("w9", "t"),
        E2,
        Knowledge(Complete(3), memory=Memory()),
        vm=Vm("uid", COMMITTED),
        chosen="h2",
        source=side(H1, domain(), 1),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def moving(source: Side, target: Side, **changes: object) -> MoveWorld:
    """Settling; the tickets went at 10."""
    base = world(
        phase=Phase.SETTLING,
        outcome="BrokeOff",
        message="the wire was cut",
        vm=Vm("uid", MOVING),
        vm_uid="uid",
        epoch=E1,
        source_node="h1",
        target_node="h2",
        begun_s=5.0,
        source=source,
        target=target,
        tickets_gone_at=10,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


# ---------------------------------------------------------------- before it begins


@pytest.mark.parametrize(
    ("changes", "phase", "reason"),
    [
        ({"cancel": True}, Phase.CANCELLED, "Cancelled"),
        ({"vm": None, "age_s": 60.0}, Phase.REFUSED, "VMNotFound"),
        ({"vm": None}, Phase.PENDING, "VMNotFound"),
        ({"vm": Vm("uid", COMMITTED, wanted=False)}, Phase.REFUSED, "NotWanted"),
        ({"vm": Vm("uid", COMMITTED, deleting=True)}, Phase.REFUSED, "NotWanted"),
        ({"vm": Vm("uid", None)}, Phase.REFUSED, "NotRunning"),
        ({"vm": Vm("uid", replace(COMMITTED, phase=Placed.RELEASED))}, Phase.REFUSED, "NotRunning"),
        ({"vm": Vm("uid", MOVING)}, Phase.PENDING, "AnotherMove"),
        ({"source": side(H1, None, 5)}, Phase.REFUSED, "NotRunning"),
        ({"source": silent(H1)}, Phase.PENDING, "SourceSilent"),
        ({"age_s": 4000.0, "message": "no host fits"}, Phase.FAILED, "DeadlineExceeded"),
        ({"wished": "h1", "chosen": "h1"}, Phase.REFUSED, "AlreadyThere"),
        ({"chosen": None}, Phase.PENDING, "WaitingForTarget"),
        ({"chosen": "", "chosen_why": "h2 is full"}, Phase.PENDING, "NoHostFits"),
        ({"chosen": "h1"}, Phase.PENDING, "WaitingForTarget"),
        ({"turn": "h2 is busy; 1 waits before it"}, Phase.PENDING, "WaitingForTurn"),
        ({"other": "first"}, Phase.PENDING, "AnotherMove"),
    ],
)
def test_what_keeps_it_from_beginning(changes: dict[str, object], phase: Phase, reason: str) -> None:
    step = decide(world(**changes))
    assert isinstance(step, s.Finish | s.Wait)
    assert (step.phase, step.reason) == (phase, reason)


def test_a_guest_that_seems_gone_is_looked_for_before_the_move_is_refused() -> None:
    assert decide(world(source=side(H1, None, 5), listed_since=6)) == s.List(H1)


def test_it_begins_where_the_scheduler_holds_room() -> None:
    assert decide(world()) == s.Begin(H2)


def test_a_named_target_is_asked_even_if_the_scheduler_found_it_unfit_so_that_every_obstacle_is_said() -> None:
    assert decide(world(wished="h2", chosen="", chosen_why="h2 is full")) == s.Begin(H2)


def test_one_that_was_prepared_when_its_process_died_begins_again() -> None:
    prepared = {"phase": Phase.PREPARING, "vm_uid": "uid", "epoch": E1, "source_node": "h1", "target_node": "h2"}
    assert decide(world(**prepared)) == s.Begin(H2)
    assert decide(world(**prepared, deleting=True)) == s.RemoveFinalizer()
    cancelled = decide(world(**prepared, cancel=True))
    assert isinstance(cancelled, s.Finish)
    assert cancelled.phase is Phase.CANCELLED


def test_what_has_ended_rests_until_it_is_deleted() -> None:
    assert decide(world(phase=Phase.FAILED)) == s.Rest()
    assert decide(world(phase=Phase.FAILED, deleting=True)) == s.RemoveFinalizer()


# ---------------------------------------------------------------- on the wire


def transfer(**changes: object) -> MoveWorld:
    base = moving(side(H1, domain(), 1), side(H2, SHELL, 1), tickets_gone_at=None)
    return replace(base, phase=Phase.RUNNING, outcome="", **({"job": Job(ours=True, progress=PROGRESS)} | changes))  # type: ignore[arg-type]


def test_a_transfer_is_watched() -> None:
    step = decide(transfer())
    assert isinstance(step, s.Wait)
    assert (step.phase, step.reason) == (Phase.RUNNING, "Transferring")


def test_one_that_another_process_sent_is_watched_too() -> None:
    assert isinstance(decide(transfer(job=Job(progress=PROGRESS))), s.Wait)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cancel": True}, "Cancelled"),
        ({"deleting": True}, "Deleted"),
        ({"begun_s": 4000.0}, "DeadlineExceeded"),
        ({"vm": Vm("uid", MOVING, wanted=False)}, "NotWanted"),
        ({"vm": Vm("uid", MOVING, deleting=True)}, "NotWanted"),
    ],
)
def test_what_calls_it_off(changes: dict[str, object], reason: str) -> None:
    step = decide(transfer(**changes))
    assert isinstance(step, s.CallOff)
    assert step.reason == reason
    asked = replace(transfer(**changes), job=Job(ours=True, progress=PROGRESS, asked=True))
    assert isinstance(decide(asked), s.Wait), "once is enough"


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (JobEnd(MoveResult(1, 1, 1)), "Moved"),
        (JobEnd(None, "no", refused=True), "HostRefused"),
        (JobEnd(None, "broke"), "BrokeOff"),
        (None, "BrokeOff"),
    ],
)
def test_why_it_ended_is_written_before_anybody_is_asked(end: JobEnd | None, reason: str) -> None:
    step = decide(transfer(job=Job(end=end)))
    assert isinstance(step, s.Settle)
    assert step.reason == reason


def test_post_copy_only_where_allowed_and_when_it_does_not_converge() -> None:
    slow = MoveProgress(100, 50, 150, iteration=3, expected_downtime_ms=900)
    allowed = PostCopy(allowed=True, max_downtime_ms=300)
    assert decide(transfer(job=Job(ours=True, progress=slow), post_copy=allowed)) == s.StartPostCopy()
    for changes in (
        {"job": Job(ours=True, progress=slow)},
        {"job": Job(ours=True, progress=replace(slow, iteration=1)), "post_copy": allowed},
        {"job": Job(ours=True, progress=replace(slow, expected_downtime_ms=20)), "post_copy": allowed},
        {"job": Job(ours=True, progress=replace(slow, post_copy=True)), "post_copy": allowed},
    ):
        assert isinstance(decide(transfer(**changes)), s.Wait)


# ---------------------------------------------------------------- who runs it


def test_first_the_tickets_then_source_then_target() -> None:
    runs, empty = side(H1, domain(), 5), side(H2, None, 6, E1)
    assert decide(moving(runs, empty, tickets_gone_at=None)) == s.DeleteTickets()
    assert decide(moving(runs, empty)) == s.List(H1)
    assert decide(moving(side(H1, domain(), 11), empty)) == s.List(H2)
    assert decide(moving(side(H1, domain(), 13), side(H2, None, 12, E1))) == s.List(H2), "source before target"


def test_what_does_not_run_is_noted_and_undefined_source_first() -> None:
    assert decide(moving(side(H1, SHUT, 11), side(H2, domain(), 12))) == s.Depart(H1, E1)
    assert decide(moving(side(H1, None, 11), side(H2, domain(), 12))) == s.Depart(H1, E1), "gone, but not noted"
    assert decide(moving(side(H1, domain(), 11), side(H2, None, 12))) == s.Depart(H2, E1)
    assert decide(moving(side(H1, domain(), 11), side(H2, None, 12, E0))) == s.Depart(H2, E1), "an older note"


def test_it_ends_where_it_runs_and_uses_up_an_epoch() -> None:
    step = decide(moving(side(H1, None, 11, E1), side(H2, domain(), 12)))
    assert isinstance(step, s.EndMove)
    assert (step.new.node, step.new.epoch, step.new.run_epoch) == (H2, E2, E1)
    step = decide(moving(side(H1, domain(), 11), side(H2, None, 12, E1)))
    assert isinstance(step, s.EndMove)
    assert (step.new.node, step.new.epoch, step.new.run_epoch) == (H1, E2, E1)
    step = decide(moving(side(H1, None, 11, E1), side(H2, None, 12, E1)))
    assert isinstance(step, s.EndMove)
    assert (step.new.phase, step.new.released_epoch) == (Placed.RELEASED, E2)


def test_a_second_move_keeps_the_epoch_of_the_run() -> None:
    again = replace(MOVING, epoch=E1, run_epoch=E0)
    found = domain(epoch=E0)
    step = decide(moving(side(H1, None, 11, E1), side(H2, found, 12), vm=Vm("uid", again)))
    assert isinstance(step, s.EndMove)
    assert step.new.run_epoch == E0


@pytest.mark.parametrize("who", [H1, H2])
def test_a_silent_side_leaves_it_moving_and_says_what_is_missing(who: NodeName) -> None:
    sides = [side(H1, domain(), 11), side(H2, domain(), 12)]
    sides[0 if who == H1 else 1] = silent(who)
    step = decide(moving(*sides))
    assert isinstance(step, s.Wait)
    assert (step.phase, step.reason) == (Phase.SETTLING, "EvidenceMissing")
    assert who in step.message


def test_evidence_stands_in_for_a_silent_side() -> None:
    step = decide(moving(silent(H1, off=True), side(H2, domain(), 12)))
    assert isinstance(step, s.EndMove)
    assert step.new.node == H2
    step = decide(moving(side(H1, domain(), 11), silent(H2, off=True), tickets_gone_at=None))
    assert isinstance(step, s.EndMove)
    assert step.new.node == H1
    step = decide(moving(silent(H1, off=True), silent(H2, off=True), tickets_gone_at=None))
    assert isinstance(step, s.EndMove)
    assert step.new.phase is Placed.RELEASED


def test_both_show_it_in_the_middle_of_the_changeover() -> None:
    step = decide(moving(side(H1, domain(), 11), side(H2, SHELL, 12)))
    assert isinstance(step, s.Wait)
    assert step.reason == "BothShowIt"
    two = decide(moving(side(H1, domain(), 11), side(H2, domain(), 12)))
    assert isinstance(two, s.Wait), "two that run are never decided between"


def test_shells_that_a_broken_changeover_left_behind() -> None:
    assert decide(moving(side(H1, SHELL, 11), side(H2, domain(), 12))) == s.Discard(H1, E1)
    assert decide(moving(side(H1, SHELL, 11), side(H2, None, 12, E1))) == s.Resume(H1)
    assert decide(moving(side(H1, None, 11, E1), side(H2, SHELL, 12))) == s.Discard(H2, E1)


def test_disks_are_switched_before_anything_forgets_that_the_guest_left() -> None:
    copied = {"copied": True}
    assert decide(moving(side(H1, SHUT, 11), silent(H2), **copied, tickets_gone_at=None)) != s.SwitchDisks()
    assert decide(moving(side(H1, SHUT, 11), side(H2, None, 12), **copied)) == s.SwitchDisks()
    assert decide(moving(side(H1, SHUT, 11), side(H2, None, 12), **copied, switched=True)) == s.Depart(H1, E1)
    assert decide(moving(side(H1, None, 11, E1), side(H2, domain(), 12), **copied)) == s.SwitchDisks()
    assert isinstance(decide(moving(side(H1, domain(), 11), side(H2, None, 12, E1), **copied)), s.EndMove)


# ---------------------------------------------------------------- what became of it


@pytest.mark.parametrize(
    ("outcome", "placement", "phase", "reason"),
    [
        ("Moved", MOVED, Phase.SUCCEEDED, "Moved"),
        ("Cancelled", MOVED, Phase.SUCCEEDED, "Moved"),
        ("Cancelled", replace(COMMITTED, epoch=E2), Phase.CANCELLED, "Cancelled"),
        ("Deleted", replace(COMMITTED, epoch=E2), Phase.CANCELLED, "Deleted"),
        ("DeadlineExceeded", replace(COMMITTED, epoch=E2), Phase.FAILED, "DeadlineExceeded"),
        ("Moved", replace(COMMITTED, epoch=E2), Phase.FAILED, "BrokeOff"),
        ("BrokeOff", Placement(Placed.RELEASED, "w", "t", released_epoch=E2), Phase.FAILED, "BrokeOff"),
    ],
)
def test_the_placement_says_how_it_ended(outcome: str, placement: Placement, phase: Phase, reason: str) -> None:
    ended = moving(side(H1, None, 1), side(H2, None, 1), vm=Vm("uid", placement), outcome=outcome)
    step = decide(ended)
    assert isinstance(step, s.Finish)
    assert (step.phase, step.reason) == (phase, reason)


def test_another_incarnation_is_not_touched() -> None:
    step = decide(moving(side(H1, domain(), 11), side(H2, domain(), 12), vm=Vm("other", COMMITTED)))
    assert isinstance(step, s.Finish)
    assert step.reason == "VMReplaced"
