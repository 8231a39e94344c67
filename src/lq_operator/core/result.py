"""What an observation or a call can end as: three-valued knowledge, and the errors of the world.

Unknown is not Absent and not Stopped (rule 1). "Does not fit" and "waiting" are values elsewhere; the
exceptions here are for the world and are mapped to a requeue in one place (controllers/runtime).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """Observed on a live connection, completely."""

    value: T


@dataclass(frozen=True, slots=True)
class Absent:
    """Looked for completely and not there."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Could not be observed; `why` is a sentence for a person. Never leads to a destructive action."""

    why: str


Seen = Known[T] | Absent | Unknown
"""A fact about the world: present with its value, surely absent, or unknown."""


class WorldError(Exception):
    """Base of what the world does to us. The message is a sentence naming the thing and the remedy."""


class Transient(WorldError):
    """May pass by itself (host unreachable, API server away, busy): retry with backoff."""


class Conflict(WorldError):
    """Somebody wrote first (409, failed test of a patch, name taken): read again at once."""


class OutcomeUnknown(WorldError):
    """A write timed out or its connection died: it may have happened. Observe before repeating."""


class Rejected(WorldError):
    """Refused for good by the host or the API server: needs a change by a person."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFound(Rejected):
    """The named thing is not there (a domain, a volume, an object). Absorbed inside `ensure_*` and deletes."""


class Fenced(WorldError):
    """We may no longer act (lease lost, gate gone, deposed): the process must stop."""
