"""How spec.heartbeat is said: status.heartbeat, the condition GuestHung (only where spec.heartbeat is), Events."""

from __future__ import annotations

from collections.abc import Sequence

from lq_operator.api.base import Condition
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmstatus import HeartbeatStatus
from lq_operator.controllers.runtime.conditions import condition_status, set_condition
from lq_operator.controllers.vm.memory import VmMemory
from lq_operator.core.lifecycle.operations import Effect
from lq_operator.core.lifecycle.world import Decision, VmWorld
from lq_operator.core.times import age_s

GUEST_HUNG = "GuestHung"
GOOD_S = 600.0
"""After this long of answering, tries are counted from zero again: as starts by restartPolicy are."""


def health_of(vm: VirtualMachine, world: VmWorld, effect: Effect, memory: VmMemory, now: str) -> HeartbeatStatus | None:
    """What is kept of the heartbeat over crashes; None where nobody listens."""
    if vm.spec.heartbeat is None:
        return None
    before = vm.status.heartbeat or HeartbeatStatus()
    domain = world.placed.domain if world.placed else None
    epoch = str(domain.epoch or "") if domain is not None and domain.state.runs else before.answered
    if memory.remedied:
        return HeartbeatStatus(
            tries=before.tries + 1,
            last_action=memory.remedied,
            last_action_at=now,
        )
    good = world.pulse.answers and age_s(before.last_action_at, now) > GOOD_S
    return HeartbeatStatus(
        answered=epoch if world.pulse.answered or before.answered == epoch else "",
        tries=0 if good or effect.wanted is not None else before.tries,
        last_action=before.last_action,
        last_action_at=before.last_action_at,
    )


def hung_condition(
    conditions: Sequence[Condition], vm: VirtualMachine, decision: Decision, *, running: bool, now: str
) -> list[Condition]:
    """Unknown while there is nothing to listen to, or nobody who could."""
    if vm.spec.heartbeat is None:
        return [condition for condition in conditions if condition.type != GUEST_HUNG]
    verdict = decision.hang
    hung = None if verdict is None else verdict.hung
    reason = verdict.reason if verdict is not None else ("NotJudged" if running else "NotRunning")
    message = verdict.message if verdict is not None else ""
    generation = vm.metadata.generation
    return set_condition(
        conditions, GUEST_HUNG, condition_status(hung), reason, message, generation=generation, now=now
    )


def hung_event(
    vm: VirtualMachine, conditions: Sequence[Condition], health: HeartbeatStatus | None
) -> tuple[str, str, bool] | None:
    """(reason, message, warning) when it hangs since now, was given up, got its remedy, or is back."""
    before = vm.status.heartbeat or HeartbeatStatus()
    if health is not None and health.last_action_at != before.last_action_at:
        message = f"its agent was silent too long: {health.last_action}, try {health.tries} (spec.heartbeat)"
        return f"GuestHung{health.last_action}", message, True
    old = next((c for c in vm.status.conditions if c.type == GUEST_HUNG), None)
    new = next((c for c in conditions if c.type == GUEST_HUNG), None)
    if new is None or (old is not None and (old.status, old.reason) == (new.status, new.reason)):
        return None
    if new.status == "True" and new.reason != "NotBack":
        return f"GuestHung{new.reason if new.reason == 'GivenUp' else ''}", new.message, True
    if new.reason == "Answers" and old is not None and old.status == "True":
        return "GuestBack", "its agent answers again", False
    return None
