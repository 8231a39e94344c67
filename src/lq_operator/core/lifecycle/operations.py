"""What becomes of the operations on one VM: the newest that is not finished counts, older ones are superseded. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lq_operator.core.lifecycle.power import WANTED_BY, Power, Verb, contradiction
from lq_operator.core.model import Epoch


@dataclass(frozen=True, slots=True)
class Operation:
    """One VirtualMachineOperation. `age_s`: since it was created. `observed_start`: epoch that ran when it was accepted."""

    uid: str
    name: str
    verb: Verb
    phase: str  # Pending, Running, Succeeded, Failed, Refused
    age_s: float
    deadline_s: float
    force: bool = False
    observed_start: Epoch | None = None
    reset_done: bool = False  # this process has carried it out
    reset_begun_here: bool = False  # this process accepted it

    @property
    def finished(self) -> bool:
        """Nothing more happens to it."""
        return self.phase in ("Succeeded", "Failed", "Refused")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to write into one operation's status."""

    uid: str
    phase: str
    reason: str
    message: str = ""
    observed_start: Epoch | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """What the active operation asks of the VM. `wanted` None: nothing. `back`: what is wanted again, because the
    operation that decided otherwise failed or is gone."""

    wanted: Power | None = None
    back: Power | None = None
    operation_uid: str = ""
    force: bool = False
    restart_of: Epoch | None = None
    reset: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """The VM as it is: state word and, where a QEMU exists, the epoch under which it runs."""

    state: str
    running_epoch: Epoch | None


def judge_operations(
    operations: Sequence[Operation], declared: Power | None, shown: Shown
) -> tuple[Effect, tuple[Outcome, ...]]:
    """`operations` of one VM, the oldest first -> what to want, and the statuses that change."""
    open_ones = [operation for operation in operations if not operation.finished]
    if not open_ones:
        return Effect(), ()
    *older, active = open_ones
    outcomes = [Outcome(o.uid, "Failed", "Superseded", f"{active.name} came after it") for o in older]
    if why := contradiction(active.verb, declared):
        return Effect(), (*outcomes, Outcome(active.uid, "Refused", "ContradictsPowerState", why))
    if active.phase == "Pending" and (why := _nothing_to_do(active.verb, shown)):
        return Effect(), (*outcomes, Outcome(active.uid, "Refused", "NotRunning", why))
    if active.phase == "Pending" and active.verb is Verb.RESTART and shown.state == "Unknown":
        # Its host is not looked at yet (the operator has just started): whatever runs then would count as the new run.
        if active.age_s > active.deadline_s:
            message = f"not done within {active.deadline_s:.0f} s; the VM is Unknown"
            return Effect(), (*outcomes, Outcome(active.uid, "Failed", "DeadlineExceeded", message))
        return Effect(), tuple(outcomes)
    if active.phase == "Pending":
        # Accepting is written down before anything is done, so that a crash cannot do it twice.
        outcomes.append(Outcome(active.uid, "Running", "Accepted", "", shown.running_epoch))
        return Effect(), tuple(outcomes)
    if active.verb is Verb.RESET and not active.reset_begun_here:
        message = "the operator was restarted while it was carried out: it may or may not have happened"
        return Effect(), (*outcomes, Outcome(active.uid, "Failed", "OutcomeUnknown", message))
    if _done(active, shown):
        return Effect(), (*outcomes, Outcome(active.uid, "Succeeded", "Done"))
    if active.age_s > active.deadline_s:
        message = f"not done within {active.deadline_s:.0f} s; the VM is {shown.state}"
        return Effect(), (*outcomes, Outcome(active.uid, "Failed", "DeadlineExceeded", message))
    return _effect(active), tuple(outcomes)


def taken_back(
    operations: Sequence[Operation], outcomes: Sequence[Outcome], decided_by: str, before: Power | None
) -> Power | None:
    """What was wanted before the operation `decided_by`, once it failed or was deleted half-way; else None.

    `before` None: nothing is under way. Nothing is kept for it but what status says, so that a crash between the
    operation's last word and the VM's changes nothing: a guest is not cut off for an operation that has failed.
    """
    phases = {o.uid: o.phase for o in operations} | {o.uid: o.phase for o in outcomes}
    return None if phases.get(decided_by, "Failed") in ("Pending", "Running", "Succeeded") else before


def _nothing_to_do(verb: Verb, shown: Shown) -> str:
    """Why this verb cannot be done to a VM without a running guest ('' when it can): it would wait for its deadline."""
    if verb in (Verb.RESET, Verb.SUSPEND) and shown.running_epoch is None and shown.state in ("Stopped", "Crashed"):
        return f"the VM is {shown.state}: {verb.value} needs a running guest. Start it first"
    return ""


def _effect(active: Operation) -> Effect:
    return Effect(
        wanted=WANTED_BY[active.verb],
        operation_uid=active.uid,
        force=active.force,
        restart_of=active.observed_start if active.verb is Verb.RESTART else None,
        reset=active.uid if active.verb is Verb.RESET and not active.reset_done else "",
    )


def _done(active: Operation, shown: Shown) -> bool:
    match active.verb:
        case Verb.START | Verb.RESUME:
            return shown.state == "Running"
        case Verb.STOP:
            return shown.state == "Stopped"
        case Verb.PAUSE:
            return shown.state == "Paused"
        case Verb.SUSPEND:
            return shown.state == "Suspended"
        case Verb.RESTART:
            newer = active.observed_start is None or (
                shown.running_epoch is not None and shown.running_epoch > active.observed_start
            )
            return shown.state == "Running" and newer
        case Verb.RESET:
            return active.reset_done
