"""Label selectors, taints and tolerations with the meaning Kubernetes gives them.

Owns matching only; who is matched against whom is said in filters.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Operator(StrEnum):
    """Operators of a label requirement (core/v1 NodeSelectorRequirement)."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement on a label. Gt and Lt compare integers; a label that is none does not match."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("requirement.key: is empty; name the label")
        needs = self.operator in (Operator.IN, Operator.NOT_IN)
        if needs and not self.values:
            raise ValueError(f"requirement {self.key!r}.values: {self.operator.value} needs at least one value")
        if self.operator in (Operator.GT, Operator.LT) and (len(self.values) != 1 or _integer(self.values[0]) is None):
            raise ValueError(f"requirement {self.key!r}.values: {self.operator.value} needs exactly one integer")

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels satisfy the requirement."""
        value = labels.get(self.key)
        if self.operator is Operator.IN:
            return value in self.values
        if self.operator is Operator.NOT_IN:
            return value not in self.values  # an absent label matches, as in Kubernetes
        if self.operator is Operator.EXISTS:
            return value is not None
        if self.operator is Operator.DOES_NOT_EXIST:
            return value is None
        number = None if value is None else _integer(value)
        if number is None:
            return False
        bound = int(self.values[0])
        return number > bound if self.operator is Operator.GT else number < bound

    def __str__(self) -> str:
        if self.operator is Operator.IN and len(self.values) == 1:
            return f"{self.key}={self.values[0]}"
        if self.operator is Operator.EXISTS:
            return self.key
        if self.operator is Operator.DOES_NOT_EXIST:
            return f"!{self.key}"
        return f"{self.key} {self.operator.value} {','.join(self.values)}"


Requirements = tuple[Requirement, ...]
"""All must hold. The empty tuple matches everything, as an empty label selector does."""


def match_labels(labels: Mapping[str, str]) -> Requirements:
    """Requirements of a `matchLabels` or `nodeSelector` map, in key order."""
    return tuple(Requirement(key, Operator.IN, (labels[key],)) for key in sorted(labels))


def all_match(requirements: Requirements, labels: Mapping[str, str]) -> bool:
    """Whether every requirement holds."""
    return all(requirement.matches(labels) for requirement in requirements)


def any_term_matches(terms: tuple[Requirements, ...], labels: Mapping[str, str]) -> bool:
    """Node affinity: the terms are alternatives; no term at all means no wish."""
    return not terms or any(all_match(term, labels) for term in terms)


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint on a host. NoSchedule and NoExecute refuse; PreferNoSchedule is only a wish and is not a filter."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"

    def __post_init__(self) -> None:
        if self.effect not in ("NoSchedule", "NoExecute", "PreferNoSchedule"):
            raise ValueError(
                f"taint {self.key!r}.effect: {self.effect!r} is not NoSchedule, NoExecute or PreferNoSchedule"
            )

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration: empty key tolerates every key, empty effect every effect; `exists` ignores the value."""

    key: str = ""
    value: str = ""
    effect: str = ""
    exists: bool = False

    def tolerates(self, taint: Taint) -> bool:
        """Whether this toleration covers the taint (core/v1 ToleratesTaint)."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        if not self.key and not self.exists:
            return False
        return self.exists or self.value == taint.value


def untolerated(taints: tuple[Taint, ...], tolerations: tuple[Toleration, ...]) -> tuple[Taint, ...]:
    """Taints that keep a VM with these tolerations away."""
    return tuple(
        taint
        for taint in taints
        if taint.effect != "PreferNoSchedule" and not any(t.tolerates(taint) for t in tolerations)
    )
