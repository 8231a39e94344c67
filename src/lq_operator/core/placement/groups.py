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


@dataclass(eq=False, slots=True)
class Kind:
    """All VMs of one namespace and shape: VMs per row, and the groups they count in (while `groups_seen` is current)."""

    namespace: str
    shape: Shape
    rows: dict[int, int] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    groups_seen: int = -1


MAX_IDLE_KINDS = 20_000


class GroupIndex:
    """All groups in use, found by the labels of a VM without looking at every group."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.topologies: dict[str, Topology] = {}
        self.members: dict[GroupKey, Group] = {}
        self.held: dict[GroupKey, Group] = {}
        self.held_order: list[Group] = []
        self.kinds: dict[Namespaced, Kind] = {}  # with some whose VMs left: they are likely to come again
        self.device_kinds: dict[str, list[Kind]] = {}  # the kinds that hold a device, by its name
        self._tidy_at = MAX_IDLE_KINDS
        self._changes = 0  # counts groups that came or left
        self._smallest: tuple[int, dict[int, int]] = (-1, {})
        self._arrivals = 0  # counts kinds whose first VM came or last VM left
        self._by_label: dict[tuple[str, str, str], list[Group]] = {}
        self._unindexed: list[Group] = []

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
            for kind in self.kinds.values():
                if kind.rows and group.matches(kind.namespace, kind.shape):
                    for row, count in kind.rows.items():
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
            self._changes += 1
            for bucket in (self._unindexed, *(self._by_label.get(label, []) for label in self._labels(group))):
                if group in bucket:
                    bucket.remove(group)

    def _labels(self, group: Group) -> list[tuple[str, str, str]]:
        for requirement in group.term.selector:
            if requirement.operator is Operator.IN and len(requirement.values) == 1:
                return [(ns, requirement.key, requirement.values[0]) for ns in group.namespaces]
        return []

    def _index(self, group: Group) -> None:
        self._changes += 1
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

    def kind(self, namespace: str, shape: Shape) -> Kind:
        """The kind of such VMs, with its groups up to date."""
        key = (namespace, shape)
        kind = self.kinds.get(key)
        if kind is None:
            if len(self.kinds) > self._tidy_at:
                self._tidy()
            kind = self.kinds[key] = Kind(namespace, shape)
            for device in shape.devices:
                self.device_kinds.setdefault(device, []).append(kind)
        if kind.groups_seen != self._changes:
            kind.groups = self._groups_of(namespace, shape)
            kind.groups_seen = self._changes
        return kind

    def _tidy(self) -> None:
        self.kinds = {key: kind for key, kind in self.kinds.items() if kind.rows}
        self._tidy_at = 2 * len(self.kinds) + MAX_IDLE_KINDS
        for device, kinds in self.device_kinds.items():
            self.device_kinds[device] = [kind for kind in kinds if kind.rows]

    def groups_of(self, namespace: str, shape: Shape) -> tuple[Group, ...]:
        """Every group this VM counts in."""
        return self.kind(namespace, shape).groups

    def _groups_of(self, namespace: str, shape: Shape) -> tuple[Group, ...]:
        candidates = list(self._unindexed)
        for label, value in shape.labels.items():
            candidates += self._by_label.get((namespace, label, value), ())
        found = [group for group in candidates if group.matches(namespace, shape)]
        for term in shape.anti_affinity:
            held = self._held_group(term, namespace)
            if held not in found:
                found.append(held)
        return tuple(found)

    # ------------------------------------------------------------ events

    def arrive(self, row: int, namespace: str, shape: Shape) -> Kind:
        """A VM is on a host now; its kind is handed back for `leave`."""
        kind = self.kind(namespace, shape)
        rows = kind.rows
        if not rows:
            self._arrivals += 1
        rows[row] = rows.get(row, 0) + 1
        self._count(row, kind.groups, 1)
        return kind

    def leave(self, row: int, kind: Kind) -> None:
        """A VM of this kind left a host."""
        if kind.groups_seen != self._changes:
            kind = self.kind(kind.namespace, kind.shape)
        left = kind.rows[row] - 1
        if left:
            kind.rows[row] = left
        else:
            del kind.rows[row]
            if not kind.rows:
                self._arrivals += 1
        self._count(row, kind.groups, -1)

    def _count(self, row: int, groups: tuple[Group, ...], sign: int) -> None:
        for group in groups:
            count = group.host_counts.item(row) + sign
            group.host_counts[row] = count
            group.present[row] = count > 0
            group.total += sign
            for key, (version, counts) in group.domain_counts.items():
                topology = self.topologies[key]
                if version == topology.version:
                    domain = topology.ids.item(row)
                    if domain >= 0:
                        counts[domain] += sign

    def smallest_mib(self, group: Group) -> int:
        """Memory of the smallest VM of a group; 0 without any."""
        known, smallest = self._smallest
        if known != self._arrivals + self._changes:  # both only grow, so equal sums mean that neither did
            smallest = {}
            for kind in self.kinds.values():
                if kind.rows:
                    mib = kind.shape.memory_mib
                    for one in self.kind(kind.namespace, kind.shape).groups:
                        if mib < smallest.get(id(one), mib + 1):
                            smallest[id(one)] = mib
            self._smallest = (self._arrivals + self._changes, smallest)
        return smallest.get(id(group), 0)

    def topology(self, key: str) -> Topology:
        """The domains of a label key; the caller fills rows of a new one."""
        topology = self.topologies.get(key)
        if topology is None:
            topology = self.topologies[key] = Topology(key, self.capacity)
        return topology


def is_host_level(term: VmTerm) -> bool:
    """Whether the term counts per host."""
    return term.topology_key == HOSTNAME_KEY
