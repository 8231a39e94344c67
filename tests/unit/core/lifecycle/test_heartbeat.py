"""When a guest hangs and what it gets, as a table; and that the decision acts on a guest that should run and does only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from tests.unit.core.lifecycle.test_decide import E1, H1, PAUSE, PAUSED, RUNNING, SHUTOFF, STOP, committed, domain

from lq_operator.core.actions import EndHang, ResetGuest
from lq_operator.core.lifecycle.decide import decide
from lq_operator.core.lifecycle.heartbeat import Heartbeat, Pulse, Remedy, judge, patience_s
from lq_operator.core.lifecycle.world import Standing, Wish
from lq_operator.core.model import DomainState, Epoch

RESET = Heartbeat(Remedy.RESET, 60, 3)
TOLD = replace(RESET, remedy=Remedy.NONE)
SILENT = Pulse(answered=True, silent_s=61)


@dataclass(frozen=True)
class Row:
    """Policy and pulse, and what follows: reason, hung, remedy, when to look again."""

    policy: Heartbeat
    pulse: Pulse
    reason: str
    hung: bool = False
    remedy: Remedy = Remedy.NONE
    again_s: float | None = None


TABLE = {
    "it answers": Row(RESET, Pulse(True, True), "Answers"),
    "it has never answered: it boots, or has no agent": Row(RESET, Pulse(), "NotHeard"),
    "it has never answered, however long it is silent": Row(RESET, Pulse(silent_s=9999), "NotHeard"),
    "its agent was stopped, or it boots again": Row(RESET, Pulse(answered=True), "NotListening"),
    "silent, not long enough": Row(RESET, Pulse(answered=True, silent_s=20), "Silent", again_s=40),
    "silent too long": Row(RESET, SILENT, "Hung", True, Remedy.RESET),
    "silent for exactly as long": Row(RESET, replace(SILENT, silent_s=60), "Hung", True, Remedy.RESET),
    "restart is the other remedy": Row(replace(RESET, remedy=Remedy.RESTART), SILENT, "Hung", True, Remedy.RESTART),
    "it is only told": Row(TOLD, SILENT, "Hung", True),
    "it is only told, however often": Row(TOLD, replace(SILENT, tried=99), "Hung", True),
    "the second try waits twice as long": Row(RESET, replace(SILENT, tried=1), "Hung", True, again_s=59),
    "the second try": Row(RESET, Pulse(answered=True, silent_s=120, tried=1), "Hung", True, Remedy.RESET),
    "given up after the last try": Row(RESET, Pulse(answered=True, silent_s=9999, tried=3), "GivenUp", True),
    "not back after a try: its boot may take as long as it takes": Row(
        RESET, Pulse(silent_s=9999, tried=1), "NotBack", True
    ),
    "back after the last try": Row(RESET, Pulse(True, True, tried=3), "Answers"),
}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_judge(row: Row) -> None:
    verdict = judge(row.policy, row.pulse)
    assert (verdict.reason, verdict.hung, verdict.remedy, verdict.again_s) == (
        row.reason,
        row.hung,
        row.remedy,
        row.again_s,
    )
    assert verdict.message or row.reason == "Answers"


def test_patience_grows_up_to_an_hour_and_never_shrinks() -> None:
    waits = [patience_s(replace(RESET, tries=10), tried) for tried in range(10)]
    assert waits[:3] == [60, 120, 240]
    assert waits == sorted(waits)
    assert waits[-1] == 3600
    assert patience_s(Heartbeat(Remedy.RESET, 3600, 10), 9) == 3600


def test_a_guest_that_should_run_and_hangs_gets_its_remedy() -> None:
    decision = decide(committed(RUNNING, heartbeat=RESET, pulse=SILENT))
    assert decision.actions == (EndHang(H1, E1, Remedy.RESET),)
    assert (decision.reason, decision.standing, decision.state) == ("GuestHung", Standing.WORKING, "Running")


def test_otherwise_nothing_is_done_to_it() -> None:
    moved = {"heartbeat": RESET, "pulse": SILENT}
    for found, wish in (
        (PAUSED, Wish()),  # by the user: it is resumed
        (domain(DomainState.PAUSED, reason="io-error"), Wish()),
        (domain(DomainState.PM_SUSPENDED), Wish()),
        (domain(DomainState.SHUTTING_DOWN), Wish()),
        (SHUTOFF, Wish()),
        (None, Wish()),
        (RUNNING, STOP),
        (RUNNING, PAUSE),
        (domain(epoch=Epoch(1, 1)), Wish()),  # a run that nothing accounts for
    ):
        decision = decide(committed(found, wish=wish, **moved))
        assert not any(isinstance(action, EndHang) for action in decision.actions), (found, wish)
    assert decide(committed(RUNNING, pulse=SILENT)).actions == ()  # no spec.heartbeat


def test_a_reset_by_wish_comes_first() -> None:
    decision = decide(committed(RUNNING, wish=Wish(reset="op"), heartbeat=RESET, pulse=SILENT))
    assert decision.actions == (ResetGuest(H1, "op"),)


def test_ready_and_looked_at_again_while_it_is_only_silent() -> None:
    decision = decide(committed(RUNNING, heartbeat=RESET, pulse=Pulse(answered=True, silent_s=20)))
    assert (decision.standing, decision.requeue_s) == (Standing.READY, 40)
