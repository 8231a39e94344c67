"""Conditions as values: set one, or say the standard trio Ready / Reconciling / Stalled. Pure.

The trio makes kstatus (Flux), `kubectl wait --for=condition=Ready` and Argo CD's health right at once: exactly one
of Ready=True, Reconciling=True, Stalled=True holds, and all three are always present.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Literal

from lq_operator.api.base import Condition, ConditionStatus

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"

MESSAGE_LENGTH = 4096
"""Limit of Condition.message in the schema; longer ones would be refused by the API server."""


class Progress(StrEnum):
    """Where an object stands. The value is the trio (Ready, Reconciling, Stalled)."""

    READY = "as declared"  # True, False, False
    WORKING = "on the way"  # False, True, False: passes by itself
    UNKNOWN = "cannot be seen"  # Unknown, True, False: the host is silent; we keep looking
    STALLED = "needs a change"  # False, False, True: only a person can help


_TRIO: dict[Progress, tuple[ConditionStatus, ConditionStatus, ConditionStatus]] = {
    Progress.READY: ("True", "False", "False"),
    Progress.WORKING: ("False", "True", "False"),
    Progress.UNKNOWN: ("Unknown", "True", "False"),
    Progress.STALLED: ("False", "False", "True"),
}


def condition_status(value: bool | None) -> ConditionStatus:
    """True/False, and None as Unknown."""
    mapping: dict[bool | None, Literal["True", "False", "Unknown"]] = {True: "True", False: "False", None: "Unknown"}
    return mapping[value]


def set_condition(
    existing: Sequence[Condition],
    type: str,
    status: ConditionStatus,
    reason: str,
    message: str,
    *,
    generation: int,
    now: str,
) -> list[Condition]:
    """`existing` with that condition set; lastTransitionTime moves only when status flips. Order is kept."""
    before = next((condition for condition in existing if condition.type == type), None)
    flipped = before is None or before.status != status or not before.last_transition_time
    after = Condition(
        type=type,
        status=status,
        reason=reason,
        message=message[:MESSAGE_LENGTH],
        last_transition_time=now if before is None or flipped else before.last_transition_time,
        observed_generation=generation,
    )
    if before is None:
        return [*existing, after]
    return [after if condition.type == type else condition for condition in existing]


def set_progress(
    existing: Sequence[Condition], progress: Progress, reason: str, message: str, *, generation: int, now: str
) -> list[Condition]:
    """`existing` with Ready, Reconciling and Stalled set. The abnormal pair repeats the reason only when it holds."""
    result = list(existing)
    for kind, status in zip((READY, RECONCILING, STALLED), _TRIO[progress], strict=True):
        speaks = kind == READY or status == "True"
        result = set_condition(
            result,
            kind,
            status,
            reason if speaks else f"Not{kind}",
            message if speaks else "",
            generation=generation,
            now=now,
        )
    return result


def only(conditions: Iterable[Condition], types: Iterable[str]) -> list[Condition]:
    """Those of the given types: what one manager owns of a list that several share."""
    owned = set(types)
    return [condition for condition in conditions if condition.type in owned]


def dump_conditions(conditions: Iterable[Condition]) -> list[dict[str, Any]]:
    """As status.conditions goes over the wire."""
    return [condition.model_dump(by_alias=True, mode="json") for condition in conditions]
