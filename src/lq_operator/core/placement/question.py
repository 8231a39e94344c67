"""A shape with everything about it that filters and scores need looked up once, and words for amounts."""

from __future__ import annotations

from dataclasses import dataclass, field

from lq_operator.core.placement.groups import Group
from lq_operator.core.placement.state import BoolArray, ClusterState, IntArray
from lq_operator.core.placement.types import HostFacts, Shape, SpreadTerm, VmTerm


@dataclass(slots=True)
class Question:
    """A shape with everything about it that is looked up once: its groups and the hosts it may choose from."""

    namespace: str
    shape: Shape
    affinity: tuple[tuple[VmTerm, Group], ...] = ()
    anti_affinity: tuple[tuple[VmTerm, Group], ...] = ()
    spread: tuple[tuple[SpreadTerm, Group], ...] = ()
    preferred: tuple[tuple[VmTerm, Group, int], ...] = ()
    refused_by: tuple[Group, ...] = ()
    belongs: frozenset[Group] = frozenset()  # the groups above that count the VM itself
    eligible: BoolArray | None = None  # per row: passes every FACTS filter; what spreading counts as a domain
    eligible_domains: dict[str, tuple[int, list[int]]] = field(default_factory=dict)  # key -> (version, domain ids)
    facts_failing: IntArray | None = None  # per row: a bit per FACTS filter that refuses (filters.BITS), where known

    def groups(self) -> tuple[Group, ...]:
        """Member groups this question keeps alive."""
        pairs = (*self.affinity, *self.anti_affinity, *self.spread)
        return (*(group for _, group in pairs), *(group for _, group, _ in self.preferred))


def facts_of(state: ClusterState, row: int) -> HostFacts:
    """Facts of the host in a row that is in use."""
    entry = state.row[row]
    assert entry is not None
    return entry.facts


def names_of(values: set[str] | frozenset[str]) -> str:
    """A sorted list for people."""
    return ", ".join(sorted(values))


def gib(mib: int) -> str:
    """MiB for people: whole GiB where it is one, else MiB."""
    return f"{mib // 1024} GiB" if mib % 1024 == 0 else f"{mib} MiB"


def cores(milli: int) -> str:
    """Thousandths of a CPU for people."""
    return f"{milli // 1000}" if milli % 1000 == 0 else f"{milli / 1000:.3f}".rstrip("0")
