"""Hard anti-affinity among VMs that have to be restarted, and between them and the VMs that stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lq_operator.core.failover.cells import Part
from lq_operator.core.placement.engine import PlacementEngine
from lq_operator.core.placement.groups import Group
from lq_operator.core.placement.state import IntArray
from lq_operator.core.placement.types import HOSTNAME_KEY, Shape, VmKey


@dataclass(frozen=True, slots=True, eq=False)
class About:
    """What is the same for all VMs of a kind. needs: amounts per resource with the vCPUs of a shared VM; rows: hosts they
    may use, None = every live one; part: what each takes in NUMA cells, if it is bound to them; plain: nothing but vCPUs
    and memory, on any host. size: orders the largest first, by memory, then vCPUs."""

    shape: Shape
    needs: tuple[int, ...]
    rows: frozenset[int] | None
    part: Part | None
    plain: bool = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "plain", len(self.needs) == 2 and self.rows is None and self.part is None)
        object.__setattr__(self, "size", -(self.shape.memory_mib << 21) - self.shape.vcpus)  # vCPUs are at most 2^20


class Refugee(NamedTuple):
    """A VM to be restarted. In the order of tuples the largest comes first, and no two are alike."""

    size: int
    identity: VmKey
    about: About

    @property
    def shape(self) -> Shape:
        """What decides where it fits."""
        return self.about.shape


class Conflicts:
    """Hard anti-affinity among the VMs to restart, and between them and the VMs that stay."""

    def __init__(self, engine: PlacementEngine, refugees: list[Refugee], down: frozenset[int]) -> None:
        self.state = engine.state
        self.down = down
        self.refugees = refugees
        self.enemies: dict[VmKey, list[tuple[VmKey, str]]] = {}  # who must be in another domain of which key
        self.closed: dict[VmKey, set[tuple[str, str]]] = {}  # (key, domain) taken by a VM that stays
        groups = self.state.groups
        holders = {id(g): g for g in groups.held_order if g.total}
        self.any = bool(holders) and self._collect(list(holders.values()))

    def _collect(self, holders: list[Group]) -> bool:
        """Both directions of each term that anybody holds: holder against selected, selected against holder."""
        for group in holders:
            key = group.term.topology_key
            chosen = [r for r in self.refugees if group.selects(r.identity.namespace, r.shape)]
            holding = [r for r in self.refugees if group.matches(r.identity.namespace, r.shape)]
            if not chosen and not holding:
                continue
            for one in holding:
                for other in chosen:
                    if one is not other:
                        self.enemies.setdefault(one.identity, []).append((other.identity, key))
                        self.enemies.setdefault(other.identity, []).append((one.identity, key))
            self._close(chosen, group.host_counts, key)
            if holding:
                self._close(holding, self._selected_counts(group), key)
        return bool(self.enemies or self.closed)

    def _selected_counts(self, group: Group) -> IntArray:
        counts = np.zeros(self.state.n, np.int64)
        for kind in self.state.groups.kinds.values():
            if kind.rows and group.selects(kind.namespace, kind.shape):
                for row, count in kind.rows.items():
                    counts[row] += count
        return counts

    def _close(self, refugees: list[Refugee], counts: IntArray, key: str) -> None:
        if not refugees:
            return
        rows = [row for row in np.flatnonzero(counts[: self.state.n]).tolist() if row not in self.down]
        domains = {(key, domain) for row in rows if (domain := self.domain(key, row)) is not None}
        for refugee in refugees:
            self.closed.setdefault(refugee.identity, set()).update(domains)

    def domain(self, key: str, row: int) -> str | None:
        entry = self.state.row[row]
        assert entry is not None
        return entry.facts.name if key == HOSTNAME_KEY else entry.facts.labels.get(key)

    def allow(self, refugee: Refugee, row: int, placed: dict[VmKey, int]) -> bool:
        """Whether the VM may go there beside those that stay and those that were placed already."""
        for key, domain in self.closed.get(refugee.identity, ()):
            if self.domain(key, row) == domain:
                return False
        for other, key in self.enemies.get(refugee.identity, ()):
            if other in placed:
                here = self.domain(key, row)
                if here is not None and here == self.domain(key, placed[other]):
                    return False
        return True

    def pairs(self, rows: list[int]) -> list[tuple[int, int, list[list[int]]]]:
        """Pairs of VMs (by position) that must not share a domain: (i, j, columns per domain)."""
        position = {r.identity: at for at, r in enumerate(self.refugees)}
        seen, found = set(), []
        for one, others in self.enemies.items():
            for other, key in others:
                pair = (min(position[one], position[other]), max(position[one], position[other]), key)
                if pair in seen:
                    continue
                seen.add(pair)
                domains: dict[str, list[int]] = {}
                for column, row in enumerate(rows):
                    domain = self.domain(key, row)
                    if domain is not None:
                        domains.setdefault(domain, []).append(column)
                found.append((pair[0], pair[1], list(domains.values())))
        return found
