"""Conditions: what kstatus, kubectl wait and Argo CD read from them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from lq_operator.api.base import Condition
from lq_operator.controllers.runtime.conditions import (
    MESSAGE_LENGTH,
    Progress,
    condition_status,
    dump_conditions,
    only,
    set_condition,
    set_progress,
)
from lq_operator.controllers.runtime.status import without_none

T1, T2 = "2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z"


def kstatus(conditions: list[Condition], observed: int, generation: int) -> str:
    """Flux's rules, in their order (cli-utils kstatus, generic.go)."""
    if observed != generation:
        return "InProgress"
    status = {condition.type: condition.status for condition in conditions}
    if status.get("Reconciling") == "True":
        return "InProgress"
    if status.get("Stalled") == "True":
        return "Failed"
    return "Current" if status.get("Ready") == "True" else "InProgress"


@pytest.mark.parametrize(
    ("progress", "verdict"),
    [
        (Progress.READY, "Current"),
        (Progress.WORKING, "InProgress"),
        (Progress.UNKNOWN, "InProgress"),
        (Progress.STALLED, "Failed"),
    ],
)
def test_each_progress_is_read_rightly(progress: Progress, verdict: str) -> None:
    conditions = set_progress([], progress, "Why", "Because.", generation=3, now=T1)
    assert [condition.type for condition in conditions] == ["Ready", "Reconciling", "Stalled"]
    assert kstatus(conditions, 3, 3) == verdict
    assert sum(condition.status == "True" for condition in conditions) == 1


def test_every_change_of_progress_moves_only_what_flips() -> None:
    order = [Progress.WORKING, Progress.UNKNOWN, Progress.WORKING, Progress.READY, Progress.STALLED, Progress.READY]
    conditions = set_progress([], order[0], "A", "a", generation=1, now="0")
    for n, (before, after) in enumerate(pairwise(order), start=1):
        fresh = set_progress(conditions, after, "A", "a", generation=1, now=str(n))
        for old, new in zip(conditions, fresh, strict=True):
            assert (new.last_transition_time == str(n)) == (old.status != new.status), (before, after, new)
        conditions = fresh


def test_a_new_reason_is_no_transition() -> None:
    first = set_condition([], "Ready", "False", "Pulling", "1 %", generation=1, now=T1)
    second = set_condition(first, "Ready", "False", "Starting", "now", generation=2, now=T2)
    assert (second[0].reason, second[0].last_transition_time, second[0].observed_generation) == ("Starting", T1, 2)
    assert first[0].reason == "Pulling"  # nothing was changed in place


def test_other_conditions_and_their_order_stay() -> None:
    others = [
        Condition(type="Scheduled", status="True"),
        Condition(type="Ready", status="False"),
        Condition(type="X", status="Unknown"),
    ]
    after = set_condition(others, "Ready", "True", "Done", "", generation=1, now=T1)
    assert [condition.type for condition in after] == ["Scheduled", "Ready", "X"]
    assert [condition.type for condition in only(after, ("Ready", "X"))] == ["Ready", "X"]


def test_a_message_is_cut_to_what_the_schema_allows() -> None:
    [condition] = set_condition([], "Ready", "True", "R", "x" * 10_000, generation=1, now=T1)
    assert len(condition.message) == MESSAGE_LENGTH


def test_unknown_is_a_status_of_its_own() -> None:
    assert [condition_status(value) for value in (True, False, None)] == ["True", "False", "Unknown"]


def test_the_wire_form_has_every_field_that_metav1_requires() -> None:
    [wire] = dump_conditions(set_condition([], "Ready", "True", "R", "m", generation=1, now=T1))
    assert wire == {
        "type": "Ready",
        "status": "True",
        "reason": "R",
        "message": "m",
        "lastTransitionTime": T1,
        "observedGeneration": 1,
    }


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"a": None, "b": {"c": None, "d": [1, {"e": None}]}}, {"b": {"d": [1, {}]}}),
        ({"zero": 0, "no": False}, {"zero": 0, "no": False}),
    ],
)
def test_none_is_left_out_at_any_depth(given: Any, sent: Any) -> None:
    assert without_none(given) == sent
