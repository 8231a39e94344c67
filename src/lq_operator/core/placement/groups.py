"""How many VMs of a group stand on each host and in each failure domain, kept in O(1) per VM event.

A group is either the VMs that a selector matches (members) or the VMs that hold an anti-affinity term (holders:
Kubernetes' rule that anti-affinity also binds the newcomer).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lq_operator.core.placement.selectors import Operator, Requirements, all_match
from lq_operator.core.placement.types import HOSTNAME_KEY, Shape, VmTerm

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Namespaced = tuple[str, Shape]
GroupKey = tuple[Requirements, tuple[str, ...], str]


def namespaces_of(term: VmTerm, namespace: str) -> tuple[str, ...]:
    """Namespaces a term looks at: its own list, or the namespace of the VM that has it."""
    return tuple(sorted(set(term.namespaces))) or (namespace,)


class Topology:
    """Domains of one label key: id per row (-1 = the host lacks the label)."""

    def __init__(self, key: str, capacity: int) -> None:
        self.key = key
        self.ids: IntArray = np.full(capacity, -1, np.int64)
        self.names: list[str] = []
        self.number: dict[str, int] = {}
        self.version = 0

    def grow(self, capacity: int) -> None:
        """Make room for more rows."""
        ids = np.full(capacity, -1, np.int64)
        ids[: len(self.ids)] = self.ids
        self.ids = ids

    def set_row(self, row: int, value: str | None) -> None:
        """Note the label of a host; None = no label or no host."""
        domain = -1
        if value is not None:
            found = self.number.get(value)
            if found is None:
                found = self.number[value] = len(self.names)
                self.names.append(value)
                self.version += 1
            domain = found
        if self.ids[row] != domain:
            self.ids[row] = domain
            self.version += 1


@dataclass(eq=False, slots=True)
class Group:
    """Counts of one group. `holders` = the VMs that hold `term` as anti-affinity, else the VMs it selects."""

    key: GroupKey
    term: VmTerm
    namespaces: tuple[str, ...]
    holders: bool
    host_counts: IntArray
    present: BoolArray  # host_counts > 0
    total: int = 0
    users: int = 0
    domain_counts: dict[str, tuple[int, IntArray]] = field(default_factory=dict)

    def matches(self, namespace: str, shape: Shape) -> bool:
        """Whether a VM belongs to the group."""
        if self.holders:
            return any(
                held.selector == self.term.selector
                and held.topology_key == self.term.topology_key
                and namespaces_of(held, namespace) == self.namespaces
                for held in shape.anti_affinity
            )
        return namespace in self.namespaces and all_match(self.term.selector, shape.labels)

    def selects(self, namespace: str, shape: Shape) -> bool:
        """Whether the group's term speaks about this VM (for holders: the newcomer that they refuse)."""
        return namespace in self.namespaces and all_match(self.term.selector, shape.labels)


class GroupIndex:
    """All groups in use, found by the labels of a VM without looking at every group."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.topologies: dict[str, Topology] = {}
        self.members: dict[GroupKey, Group] = {}
        self.held: dict[GroupKey, Group] = {}
        self.held_order: list[Group] = []
        self.population: dict[Namespaced, dict[int, int]] = {}
        self._by_label: dict[tuple[str, str, str], list[Group]] = {}
        self._unindexed: list[Group] = []
        self._memo: dict[Namespaced, tuple[Group, ...]] = {}

    # ------------------------------------------------------------ topologies

    def grow(self, capacity: int) -> None:
        """Make room for more rows."""
        self.capacity = capacity
        for topology in self.topologies.values():
            topology.grow(capacity)
        for group in (*self.members.values(), *self.held.values()):
            counts = np.zeros(capacity, np.int64)
            counts[: len(group.host_counts)] = group.host_counts
            group.host_counts, group.present = counts, counts > 0

    def domain_counts(self, group: Group, key: str) -> IntArray:
        """VMs of the group per domain id of `key`; the last slot stays 0 and answers for id -1 (no label)."""
        topology = self.topologies[key]
        known = group.domain_counts.get(key)
        if known is not None and known[0] == topology.version:
            return known[1]
        ids = topology.ids
        counts = np.zeros(len(topology.names) + 1, np.int64)
        there = np.flatnonzero((group.host_counts > 0) & (ids >= 0))
        np.add.at(counts, ids[there], group.host_counts[there])
        group.domain_counts[key] = (topology.version, counts)
        return counts

    # ------------------------------------------------------------ groups

    def member_group(self, term: VmTerm, namespace: str) -> Group:
        """The group of VMs a term selects; counted from the population when it is new."""
        namespaces = namespaces_of(term, namespace)
        key: GroupKey = (term.selector, namespaces, "")
        group = self.members.get(key)
        if group is None:
            group = self._new_group(key, term, namespaces, holders=False)
            self.members[key] = group
            self._index(group)
            for (vm_namespace, shape), rows in self.population.items():
                if group.matches(vm_namespace, shape):
                    for row, count in rows.items():
                        group.host_counts[row] += count
                        group.present[row] = True
                        group.total += count
        return group

    def _new_group(self, key: GroupKey, term: VmTerm, namespaces: tuple[str, ...], *, holders: bool) -> Group:
        counts = np.zeros(self.capacity, np.int64)
        return Group(key, term, namespaces, holders, counts, counts > 0)

    def drop_member_group(self, group: Group) -> None:
        """Forget a group that no class uses any more."""
        if self.members.pop(group.key, None) is not None:
            self._memo.clear()
            for bucket in (self._unindexed, *(self._by_label.get(label, []) for label in self._labels(group))):
                if group in bucket:
                    bucket.remove(group)

    def _labels(self, group: Group) -> list[tuple[str, str, str]]:
        for requirement in group.term.selector:
            if requirement.operator is Operator.IN and len(requirement.values) == 1:
                return [(ns, requirement.key, requirement.values[0]) for ns in group.namespaces]
        return []

    def _index(self, group: Group) -> None:
        self._memo.clear()
        labels = self._labels(group)
        if not labels:
            self._unindexed.append(group)
        for label in labels:
            self._by_label.setdefault(label, []).append(group)

    def _held_group(self, term: VmTerm, namespace: str) -> Group:
        namespaces = namespaces_of(term, namespace)
        key: GroupKey = (term.selector, namespaces, term.topology_key)
        group = self.held.get(key)
        if group is None:
            group = self._new_group(key, term, namespaces, holders=True)
            self.held[key] = group
            self.held_order.append(group)
        return group

    def groups_of(self, namespace: str, shape: Shape) -> tuple[Group, ...]:
        """Every group this VM counts in."""
        memo_key = (namespace, shape)
        groups = self._memo.get(memo_key)
        if groups is None:
            candidates = list(self._unindexed)
            for label, value in shape.labels.items():
                candidates += self._by_label.get((namespace, label, value), ())
            found = [group for group in candidates if group.matches(namespace, shape)]
            for term in shape.anti_affinity:
                held = self._held_group(term, namespace)
                if held not in found:
                    found.append(held)
            groups = tuple(found)
            if len(self._memo) > 20_000:
                self._memo.clear()
            self._memo[memo_key] = groups
        return groups

    # ------------------------------------------------------------ events

    def count(self, row: int, namespace: str, shape: Shape, sign: int) -> None:
        """A VM arrived on (+1) or left (-1) a host."""
        where = (namespace, shape)
        groups = self._memo.get(where)
        if groups is None:
            groups = self.groups_of(namespace, shape)
        rows = self.population.get(where)
        if rows is None:
            rows = self.population[where] = {}
        left = rows.get(row, 0) + sign
        if left:
            rows[row] = left
        else:
            del rows[row]
            if not rows:
                del self.population[where]
        for group in groups:
            count = int(group.host_counts[row]) + sign
            group.host_counts[row] = count
            group.present[row] = count > 0
            group.total += sign
            for key, (version, counts) in group.domain_counts.items():
                topology = self.topologies[key]
                if version == topology.version:
                    domain = topology.ids[row]
                    if domain >= 0:
                        counts[domain] += sign

    def topology(self, key: str) -> Topology:
        """The domains of a label key; the caller fills rows of a new one."""
        topology = self.topologies.get(key)
        if topology is None:
            topology = self.topologies[key] = Topology(key, self.capacity)
        return topology


def is_host_level(term: VmTerm) -> bool:
    """Whether the term counts per host."""
    return term.topology_key == HOSTNAME_KEY
