"""The order of an absence, played against a host that changes at every step; and what a statement is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.core.failover.protocol_cases import (
    COMMITTED,
    G1,
    HA,
    MOVING,
    N1,
    N2,
    NOW,
    RELEASED,
    STAMP,
    TERM,
    U1,
    U2,
    VM,
)

from lq_operator.core.failover import evidence as ev
from lq_operator.core.failover.facts import Memory, boot_covers, tombstones_of
from lq_operator.core.failover.protocol import transition
from lq_operator.core.failover.record import departure_name, gate_name
from lq_operator.core.failover.requests import Release
from lq_operator.core.model import BootNonce, Identity, Placement

VM_ID = Identity("inst", "ns", "vm")
SEEN = ev.AbsenceSeen(N1, U1, G1, TERM)


def _play(seen: ev.AbsenceSeen, *, gate_stays: bool = True, comes_back: bool = False) -> list[ev.AbsenceStep]:
    done: list[ev.AbsenceStep] = []
    for _ in range(12):
        step = ev.plan_absence(VM_ID, COMMITTED, seen)
        done.append(step)
        match step:
            case ev.DeleteTickets():
                seen = replace(seen, tickets_deleted=True)
            case ev.Observe():
                seen = replace(seen, runs=True, defined=True)
            case ev.Destroy():
                seen = replace(seen, runs=False)
            case ev.NoteDeparture():
                seen = replace(seen, noted=True)
            case ev.Undefine():
                seen = replace(seen, defined=False)
            case ev.ListDomains():
                seen = replace(seen, listed_absent=not comes_back)
            case ev.ListGates():
                seen = replace(seen, gate_after=gate_stays)
            case _:
                return done
    raise AssertionError(done)


def test_the_order_of_an_absence() -> None:
    steps = _play(replace(SEEN, tickets_deleted=False))
    assert [type(s).__name__ for s in steps] == [
        "DeleteTickets", "Observe", "Destroy", "NoteDeparture", "Undefine", "ListDomains", "ListGates", "Confirmed",
    ]  # fmt: skip
    assert steps[3] == ev.NoteDeparture(departure_name("ns", "vm", NOW))
    end = steps[-1]
    assert isinstance(end, ev.Confirmed)
    assert isinstance(transition(COMMITTED, Release(VM, STAMP, Memory(), (end.proof,))), Placement)


def test_what_never_ran_is_noted_and_listed_all_the_same() -> None:
    steps = _play(replace(SEEN, runs=False, defined=False))
    assert [type(s).__name__ for s in steps] == ["NoteDeparture", "ListDomains", "ListGates", "Confirmed"]


def test_a_gate_lost_on_the_way_voids_the_absence() -> None:
    assert isinstance(_play(SEEN, gate_stays=False)[-1], ev.Void)


def test_a_domain_that_comes_back_voids_the_absence() -> None:
    assert isinstance(_play(SEEN, comes_back=True)[-1], ev.Void)


def test_what_is_on_no_host_needs_no_evidence() -> None:
    with pytest.raises(ValueError, match="ns/vm is Released"):
        ev.plan_absence(VM_ID, RELEASED, SEEN)


# ---------------------------------------------------------------- statements

STATEMENT = ev.Attestation("a1", N1, U1, G1, "jo")
CONTACT = ev.HostContact(N1, U1, G1, answers=False)


def test_a_true_statement_counts_for_the_boot_it_names() -> None:
    answer = ev.judge_attestation(STATEMENT, CONTACT, TERM)
    assert answer == ev.Accepted(U1, G1)
    proof = ev.off_proof(ev.EvidenceKind.HUMAN_ATTESTED, U1, G1, COMMITTED)
    assert isinstance(transition(COMMITTED, Release(HA, STAMP, Memory(), (proof,))), Placement)


@pytest.mark.parametrize(
    ("statement", "contact", "void", "word"),
    [
        (replace(STATEMENT, void=True), CONTACT, True, "voided"),
        (STATEMENT, None, False, "spec.node"),
        (STATEMENT, replace(CONTACT, registered_uuid=U2), False, "spec.hostUUID"),
        (STATEMENT, replace(CONTACT, registered_uuid=None), False, "spec.hostUUID"),
        (STATEMENT, replace(CONTACT, answers=True), True, "answers"),
        (STATEMENT, replace(CONTACT, api_went_back=True), True, "went back"),
        (STATEMENT, replace(CONTACT, last_boot=gate_name(TERM, "later", 8)), True, "spec.boot"),
        (STATEMENT, replace(CONTACT, last_boot=None), True, "spec.boot"),
        (replace(STATEMENT, boot=BootNonce("yesterday")), CONTACT, True, "spec.boot"),
        (replace(STATEMENT, accepted_term=TERM - 1), CONTACT, False, "term 4"),
        (replace(STATEMENT, quoted_term=TERM - 1), CONTACT, False, "spec.term"),
        (replace(STATEMENT, quoted_term=0), CONTACT, False, "quotes no term"),
    ],
)
def test_a_statement_that_does_not_count_says_why(
    statement: ev.Attestation, contact: ev.HostContact | None, void: bool, word: str
) -> None:
    answer = ev.judge_attestation(statement, contact, TERM)
    assert isinstance(answer, ev.Refused)
    assert answer.void is void
    assert word in answer.sentence


@pytest.mark.parametrize(("accepted", "quoted"), [(0, TERM), (TERM, TERM), (TERM, None)])
def test_a_statement_of_this_term_counts(accepted: int, quoted: int | None) -> None:
    statement = replace(STATEMENT, accepted_term=accepted, quoted_term=quoted)
    assert isinstance(ev.judge_attestation(statement, CONTACT, TERM), ev.Accepted)


# ---------------------------------------------------------------- boots and tombstones


@pytest.mark.parametrize(
    ("over", "committed", "covers"),
    [
        (gate_name(5, "a", 2), gate_name(5, "a", 2), True),
        (gate_name(5, "b", 3), gate_name(5, "a", 2), True),
        (gate_name(6, "b", 1), gate_name(5, "a", 2), True),
        (gate_name(5, "b", 2), gate_name(5, "a", 2), False),
        (gate_name(5, "a", 2), gate_name(5, "b", 3), False),
        (gate_name(4, "a", 9), gate_name(5, "b", 1), False),
        (BootNonce("x"), gate_name(5, "b", 1), False),
        (None, gate_name(5, "b", 1), False),
        (gate_name(5, "b", 1), None, False),
    ],
)
def test_the_end_of_a_boot_covers_earlier_gates_of_the_host(
    over: BootNonce | None, committed: BootNonce | None, covers: bool
) -> None:
    assert boot_covers(over, committed) is covers


def test_tombstones_name_every_host_that_may_run_it() -> None:
    assert [t.node for t in tombstones_of(VM_ID, "u", COMMITTED)] == [N1]
    assert [(t.node, t.epoch, t.uid) for t in tombstones_of(VM_ID, "u", MOVING)] == [(N1, NOW, "u"), (N2, NOW, "u")]
    assert tombstones_of(VM_ID, "u", RELEASED) == ()
    assert tombstones_of(VM_ID, "u", None) == ()
