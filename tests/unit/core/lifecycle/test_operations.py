"""Operations on one VM: which counts, when it is done, what it asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lq_operator.core.lifecycle.operations import Effect, Operation, Outcome, Shown, judge_operations, taken_back
from lq_operator.core.lifecycle.power import Power, Verb
from lq_operator.core.model import Epoch

E1, E2 = Epoch(1, 1), Epoch(1, 2)
UP, DOWN = Shown("Running", E1), Shown("Stopped", None)


def op(verb: Verb, phase: str = "Running", **fields: object) -> Operation:
    return Operation("u1", "one", verb, phase, 1.0, 60.0, **fields)  # type: ignore[arg-type]


def test_without_operations_nothing_is_asked() -> None:
    assert judge_operations([], None, UP) == (Effect(), ())


def test_accepting_is_written_before_anything_is_done() -> None:
    effect, outcomes = judge_operations([op(Verb.STOP, "Pending")], None, UP)
    assert effect == Effect()
    assert [(o.phase, o.observed_start) for o in outcomes] == [("Running", E1)]


@pytest.mark.parametrize(
    ("verb", "wanted"),
    [
        (Verb.START, Power.RUNNING),
        (Verb.STOP, Power.STOPPED),
        (Verb.PAUSE, Power.PAUSED),
        (Verb.RESUME, Power.RUNNING),
        (Verb.SUSPEND, Power.SUSPENDED),
    ],
)
def test_an_accepted_verb_is_wanted_until_it_is_true(verb: Verb, wanted: Power) -> None:
    effect, outcomes = judge_operations([op(verb)], None, Shown("Starting", None))
    assert (effect.wanted, outcomes) == (wanted, ())
    effect, outcomes = judge_operations([op(verb)], None, Shown(wanted.value, E1))
    assert effect == Effect()
    assert outcomes[0].phase == "Succeeded"


def test_restart_is_done_when_a_later_run_is_there() -> None:
    restart = op(Verb.RESTART, observed_start=E1)
    assert judge_operations([restart], None, UP)[0].restart_of == E1
    assert judge_operations([restart], None, Shown("Running", E2))[1][0].phase == "Succeeded"


def test_reset_happens_once_or_is_told_to_be_unknown() -> None:
    begun = op(Verb.RESET, reset_begun_here=True)
    assert judge_operations([begun], None, UP)[0].reset == "u1"
    assert judge_operations([replace(begun, reset_done=True)], None, UP)[1][0].phase == "Succeeded"
    lost = judge_operations([op(Verb.RESET)], None, UP)
    assert (lost[0], lost[1][0].phase, lost[1][0].reason) == (Effect(), "Failed", "OutcomeUnknown")


def test_declared_power_state_refuses_what_contradicts_it() -> None:
    effect, outcomes = judge_operations([op(Verb.STOP, "Pending")], Power.RUNNING, UP)
    assert effect == Effect()
    assert outcomes[0].phase == "Refused"
    assert "spec.powerState is Running" in outcomes[0].message
    assert judge_operations([op(Verb.RESTART, "Pending")], Power.RUNNING, UP)[1][0].phase == "Running"


def test_the_newest_supersedes_the_older() -> None:
    newer = replace(op(Verb.START), uid="u2", name="two")
    effect, outcomes = judge_operations([op(Verb.STOP), newer], None, DOWN)
    assert effect.operation_uid == "u2"
    assert [(o.uid, o.phase, o.reason) for o in outcomes] == [("u1", "Failed", "Superseded")]


def test_given_up_after_its_deadline() -> None:
    late = replace(op(Verb.STOP), age_s=61.0)
    effect, outcomes = judge_operations([late], None, UP)
    assert (effect, outcomes[0].reason) == (Effect(), "DeadlineExceeded")


@pytest.mark.parametrize(
    ("phase", "back"),
    [("Failed", True), ("Refused", True), ("Running", False), ("Pending", False), ("Succeeded", False)],
)
def test_the_wish_of_an_operation_that_failed_is_taken_back(phase: str, back: bool) -> None:
    assert (taken_back([op(Verb.STOP, phase)], (), "u1", Power.RUNNING) is Power.RUNNING) is back
    judged = (Outcome("u1", phase, "x"),)
    assert (taken_back([op(Verb.STOP)], judged, "u1", Power.RUNNING) is Power.RUNNING) is back
    assert taken_back([], (), "u1", Power.PAUSED) is Power.PAUSED, "deleted half-way"
    assert taken_back([op(Verb.STOP, phase)], (), "u1", None) is None, "nothing was under way"


def test_finished_ones_count_no_more() -> None:
    assert judge_operations([op(Verb.STOP, "Succeeded"), op(Verb.STOP, "Refused")], None, UP) == (Effect(), ())
