"""How pending changes are said: status.changes, the conditions PendingChanges and RestartRequired, Events."""

from __future__ import annotations

from collections.abc import Sequence

from lq_operator.api.base import Condition
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmstatus import FieldChange
from lq_operator.controllers.runtime.conditions import set_condition
from lq_operator.controllers.vm.hotchange import Hot
from lq_operator.core.lifecycle.changes import Change, sentence_of
from lq_operator.core.lifecycle.fields import Effect

PENDING_CHANGES = "PendingChanges"
RESTART_REQUIRED = "RestartRequired"
MAX_CHANGES = 128
"""Limit of status.changes; a condition tells of the rest."""


def told_changes(vm: VirtualMachine, hot: Hot, *, running: bool) -> list[FieldChange]:
    """What is pending; what was said before while it cannot be told; nothing of a VM that does not run."""
    if not running:
        return []
    if not hot.known:
        return list(vm.status.changes)
    return [_told(change) for change in hot.changes if change.effect is not Effect.NOTHING][:MAX_CHANGES]


def _told(change: Change) -> FieldChange:
    assert change.effect is not Effect.NOTHING
    return FieldChange(
        path=change.path,
        effect=change.effect.value,
        before=change.before[:200],
        after=change.after[:200],
        message=change.message[:400],
    )


def change_conditions(
    conditions: Sequence[Condition], changes: Sequence[FieldChange], hot: Hot, *, generation: int, now: str
) -> list[Condition]:
    """PendingChanges: anything at all. RestartRequired: something that only a start brings."""
    cycle = [change for change in changes if change.effect == "PowerCycle"]
    message = sentence_of([_change(change) for change in cycle])
    if message:
        message += "; create a Restart operation when it suits"
    found = set_condition(
        conditions,
        RESTART_REQUIRED,
        "True" if cycle else "False",
        "SpecChanged" if cycle else "UpToDate",
        message,
        generation=generation,
        now=now,
    )
    return set_condition(
        found,
        PENDING_CHANGES,
        "True" if changes else "False",
        _reason(changes, hot),
        _sentence(changes),
        generation=generation,
        now=now,
    )


def _change(told: FieldChange) -> Change:
    return Change(told.path, Effect(told.effect), told.before, told.after, told.message)


def _reason(changes: Sequence[FieldChange], hot: Hot) -> str:
    if not changes:
        return "UpToDate"
    if hot.failed:
        return "HotChangeFailed"
    effects = {change.effect for change in changes}
    words = {"Live": "Applying", "PowerCycle": "WaitsForStart", "Migrate": "WaitsForMove", "Impossible": "Impossible"}
    return next(word for effect, word in words.items() if effect in effects)


def _sentence(changes: Sequence[FieldChange]) -> str:
    """All of them, and the reasons of those that have one."""
    why = [f"{change.path}: {change.message}" for change in changes if change.message]
    return ". ".join(part for part in (sentence_of([_change(change) for change in changes]), *why[:4]) if part)


def change_events(vm: VirtualMachine, changes: Sequence[FieldChange], hot: Hot) -> list[tuple[str, str, bool]]:
    """(reason, message, warning): what was applied, what is pending since now, what the guest or its host refused."""
    found = []
    if hot.applied:
        done = ", ".join(f"{c.path} {c.before or 'none'} -> {c.after or 'none'}" for c in hot.applied)
        found.append(("ChangedLive", done[:1000], False))
    known = {(change.path, change.after): change.message for change in vm.status.changes}
    new = [change for change in changes if (change.path, change.after) not in known]
    waiting = [_change(change) for change in new if change.effect != "Live"]
    if waiting:
        found.append((PENDING_CHANGES, sentence_of(waiting)[:1000], False))
    refused = [c for c in changes if c.effect == "Live" and c.message and known.get((c.path, c.after)) != c.message]
    if hot.failed and refused:
        found.append(("HotChangeFailed", "; ".join(f"{c.path}: {c.message}" for c in refused)[:1000], True))
    return found
