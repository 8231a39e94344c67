"""Whether a guest hangs by what its agent says, and what spec.heartbeat makes of it. Pure; no clock of its own.

A guest hangs when its agent has answered in this run, still holds its channel open, and does not answer. An agent that
was stopped, and a guest that boots, have closed the channel: that is no silence (the observer never counts it).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MOST_PATIENCE_S = 3600.0
"""The wait before the next action grows up to here (or to afterSeconds, where that is more)."""


class Remedy(StrEnum):
    """What is done to a guest that hangs."""

    NONE = "None"
    RESET = "Reset"
    RESTART = "Restart"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """spec.heartbeat. `after_s`: silence that counts as hanging. `tries`: remedies in a row, then it is given up."""

    remedy: Remedy
    after_s: float
    tries: int


@dataclass(frozen=True, slots=True)
class Pulse:
    """What was heard of the run on the placed host.

    `answered`: since its start, and since the last remedy. `silent_s`: unbroken silence on one connection while host
    and guest ran, None where the last question was answered or proves nothing. `tried`: remedies in a row so far.
    """

    answers: bool = False
    answered: bool = False
    silent_s: float | None = None
    tried: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`hung` with a reason and a sentence for people; `remedy` is what to do now; `again_s`: when to judge again."""

    hung: bool
    reason: str
    message: str = ""
    remedy: Remedy = Remedy.NONE
    again_s: float | None = None


def judge(policy: Heartbeat, pulse: Pulse) -> Verdict:
    """One look at one guest that should run and does."""
    if not pulse.answered:
        return _not_heard(policy, pulse)
    if pulse.silent_s is None:
        if pulse.answers:
            return Verdict(False, "Answers")
        return Verdict(False, "NotListening", "its agent is not there: the guest boots, or the agent was stopped")
    if pulse.silent_s < policy.after_s:
        return Verdict(False, "Silent", "its agent does not answer", again_s=policy.after_s - pulse.silent_s)
    message = f"its agent has answered in this run and is silent for more than {policy.after_s:.0f} s"
    if policy.remedy is Remedy.NONE:
        return Verdict(True, "Hung", f"{message}; spec.heartbeat.action is None: look at its console")
    if pulse.tried >= policy.tries:
        return Verdict(
            True,
            "GivenUp",
            f"{message}; {_done(policy, pulse.tried)} did not help, nothing more is done: look at its console, "
            "then create a Restart operation",
        )
    left_s = patience_s(policy, pulse.tried) - pulse.silent_s
    if left_s > 0:
        return Verdict(True, "Hung", f"{message}; {policy.remedy.value} follows", again_s=left_s)
    return Verdict(True, "Hung", f"{message}; {policy.remedy.value} by spec.heartbeat", policy.remedy)


def patience_s(policy: Heartbeat, tried: int) -> float:
    """Silence before the next remedy: twice as long after each that did not last."""
    return float(min(policy.after_s * 2**tried, max(policy.after_s, MOST_PATIENCE_S)))


def _not_heard(policy: Heartbeat, pulse: Pulse) -> Verdict:
    if pulse.tried:
        return Verdict(
            True,
            "NotBack",
            f"its agent has not answered since the last of {_done(policy, pulse.tried)}; before it does nothing more is "
            "done (a file system check may take long): look at its console",
        )
    return Verdict(False, "NotHeard", "its agent has not answered in this run yet, so its silence means nothing")


def _done(policy: Heartbeat, tried: int) -> str:
    return f"{tried} of {policy.tries} tries"
