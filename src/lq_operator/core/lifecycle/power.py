"""What a VM should be doing: the declared power state, what operations said, and what a guest's own end means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lq_operator.core.model import DomainSeen, DomainState


class Power(StrEnum):
    """What we work towards."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"


class Verb(StrEnum):
    """What an operation asks for."""

    START = "Start"
    STOP = "Stop"
    RESTART = "Restart"
    RESET = "Reset"
    PAUSE = "Pause"
    RESUME = "Resume"
    SUSPEND = "Suspend"


class RestartPolicy(StrEnum):
    """When a guest ends by itself."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class Ending(StrEnum):
    """How the last run under this epoch ended, as far as the host can tell."""

    NONE = "None"  # it never ran under this epoch, or still runs
    BY_GUEST = "ByGuest"  # the guest switched itself off
    FAILED = "Failed"  # crashed, QEMU lost, killed from outside
    UNKNOWN = "Unknown"  # libvirtd or the host was restarted since


WANTED_BY: dict[Verb, Power] = {
    Verb.START: Power.RUNNING,
    Verb.STOP: Power.STOPPED,
    Verb.RESTART: Power.RUNNING,
    Verb.RESET: Power.RUNNING,
    Verb.PAUSE: Power.PAUSED,
    Verb.RESUME: Power.RUNNING,
    Verb.SUSPEND: Power.SUSPENDED,
}
"""What a verb makes us want from then on."""


def contradiction(verb: Verb, declared: Power | None) -> str:
    """Why spec.powerState forbids this verb ('' when it does not). Declared wins: Git stays the truth."""
    if declared is None or WANTED_BY[verb] == declared:
        return ""
    return (
        f"spec.powerState is {declared.value}, which {verb.value} contradicts. "
        f"Change spec.powerState, or remove it to let operations decide"
    )


def ending_of(domain: DomainSeen) -> Ending:
    """How the run of a shut-off domain ended, by libvirt's reason word."""
    if domain.state is DomainState.CRASHED:
        return Ending.FAILED
    if domain.state is not DomainState.SHUTOFF:
        return Ending.NONE
    match domain.state_reason:
        case "shutdown":
            return Ending.BY_GUEST
        case "crashed" | "failed" | "destroyed" | "daemon":
            return Ending.FAILED
        case _:
            return Ending.UNKNOWN


@dataclass(frozen=True, slots=True)
class Restart:
    """Whether to start again, and how long to wait first (seconds)."""

    again: bool
    wait_s: float
    why: str


BACKOFF_S = (0.0, 2.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Waits before the 1st, 2nd ... automatic start in a row; CrashLoopBackOff of Kubernetes ends at 300 s too."""


def after_end(policy: RestartPolicy, ending: Ending, restarts: int) -> Restart:
    """What restartPolicy says about a guest that ended by itself after `restarts` automatic starts in a row."""
    wait_s = BACKOFF_S[min(restarts, len(BACKOFF_S) - 1)]
    match policy, ending:
        case RestartPolicy.ALWAYS, _:
            return Restart(True, wait_s, "restartPolicy is Always")
        case RestartPolicy.ON_FAILURE, Ending.FAILED | Ending.UNKNOWN:
            return Restart(True, wait_s, "restartPolicy is OnFailure and the guest did not end by itself")
        case RestartPolicy.ON_FAILURE, _:
            return Restart(False, 0, "the guest switched itself off and restartPolicy is OnFailure")
        case _:
            return Restart(False, 0, "the guest ended and restartPolicy is Never")
