"""What every failure means for the next attempt. One function; nobody else decides about retries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lq_operator.core.result import Conflict, Fenced, NotFound, OutcomeUnknown, Rejected, Transient, WorldError

AT_ONCE_LIMIT = 5
"""Conflicts in a row that are answered at once; after them somebody is fighting us and backoff is politer."""
SOON_S = 1.0
"""After a write of unknown outcome: long enough for the API server or libvirt to finish it, short for a person."""
LONG_S = 300.0
"""After a refusal: only a change by a person helps, and that change wakes the key by itself."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """When to look again. `after_s` None: with the key's exponential backoff."""

    after_s: float | None = None

    @classmethod
    def now(cls) -> Requeue:
        """Directly, behind the keys that wait already."""
        return cls(0.0)

    @classmethod
    def after(cls, seconds: float) -> Requeue:
        """After so many seconds, unless a change comes first."""
        return cls(seconds)

    @classmethod
    def backoff(cls) -> Requeue:
        """With exponential backoff: this attempt counts as failed."""
        return cls(None)


class Severity(StrEnum):
    """How a failure is logged."""

    QUIET = "debug"
    WARN = "warning"
    BUG = "error"


@dataclass(frozen=True, slots=True)
class Retry:
    """What requeue_for decided: when, under which word it is counted, and how loudly it is logged."""

    requeue: Requeue
    reason: str
    severity: Severity


def requeue_for(error: Exception, failures: int) -> Retry:
    """Map an error to the next attempt. `failures`: attempts of this key that failed in a row, this one not counted.

    Fenced is raised again: the process has to stop, there is no next attempt.
    """
    match error:
        case Fenced():
            raise error
        case Conflict():
            again = Requeue.now() if failures < AT_ONCE_LIMIT else Requeue.backoff()
            return Retry(again, "conflict", Severity.QUIET)
        case OutcomeUnknown():
            again = Requeue.after(SOON_S) if failures == 0 else Requeue.backoff()
            return Retry(again, "outcome-unknown", Severity.WARN)
        case NotFound():
            # Something vanished between looking and acting; the next look shows it.
            return Retry(Requeue.backoff(), "not-found", Severity.WARN)
        case Rejected():
            return Retry(Requeue.after(LONG_S), "rejected", Severity.WARN)
        case Transient() | WorldError():
            return Retry(Requeue.backoff(), "transient", Severity.WARN)
        case _:
            return Retry(Requeue.backoff(), "bug", Severity.BUG)
