"""Events as a list: implements ports.Events."""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.base import Resource


@dataclass(frozen=True)
class Emitted:
    """One Event as it was emitted."""

    kind: str
    key: str
    reason: str
    message: str
    warning: bool


class FakeEvents:
    """Keeps what was emitted, in order, repetitions included."""

    def __init__(self) -> None:
        self.emitted: list[Emitted] = []

    def emit(self, about: Resource, reason: str, message: str, *, warning: bool = False) -> None:
        self.emitted.append(Emitted(type(about).kind_name, about.key, reason, message, warning))

    def reasons(self, key: str | None = None) -> list[str]:
        """The reasons in order, of one object or of all."""
        return [event.reason for event in self.emitted if key is None or event.key == key]
