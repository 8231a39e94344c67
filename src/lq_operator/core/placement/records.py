"""The records a cluster's state is made of: the account of one host, the log of changes, and cached facts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lq_operator.core.placement.groups import Kind
from lq_operator.core.placement.types import HostFacts, Shape

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

PLACEMENT_FACTS = (
    "ready",
    "not_ready_reason",
    "cordoned",
    "maintenance",
    "labels",
    "taints",
    "networks",
    "cpu_models",
    "images",
)
"""Fields of HostFacts (and the names of its pools) that columns, and the words of FACTS filters, are made of."""

_T = TypeVar("_T", bound=np.generic)


@dataclass(slots=True)
class Occupant:
    """Room that one VM holds on one host."""

    shape: Shape
    cells: tuple[int, ...]
    reserved: bool
    kind: Kind | None = None  # while it is counted on a known host


@dataclass(slots=True)
class Row:
    """Integer accounting of one host; what the arrays show is derived from it."""

    facts: HostFacts
    capacity_mvcpus: int = 0
    capacity_mib: int = -1
    shared_mvcpus: int = 0
    dedicated: int = 0
    memory_mib: int = 0
    hugepages_mib: dict[int, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    pools: dict[str, int] = field(default_factory=dict)
    cell_pcpus: dict[int, int] = field(default_factory=dict)
    cell_memory: dict[tuple[int, int], int] = field(default_factory=dict)  # (cell, hugepage KiB or 0) -> MiB
    mean_mcores: int = 0
    sum_sd: int = 0
    sum_var: int = 0
    reserved_mean: int = 0
    reserved_var: int = 0

    def take(self, shape: Shape, sign: int, *, reserved: bool) -> None:
        """A VM's vCPUs, memory and load come (+1) or go (-1); what it holds by name is accounted elsewhere."""
        if shape.dedicated_cpus:
            self.dedicated += sign * shape.vcpus
        else:
            self.shared_mvcpus += sign * shape.vcpus * 1000
        if not shape.hugepage_kib:
            self.memory_mib += sign * shape.memory_mib
        mean, sd = shape.demand
        self.mean_mcores += sign * mean
        self.sum_sd += sign * sd
        self.sum_var += sign * sd * sd
        if reserved:
            self.reserved_mean += sign * mean
            self.reserved_var += sign * sd * sd

    def settle(self, shape: Shape) -> None:
        """A reservation became a placement: its load is measured from now on."""
        mean, sd = shape.demand
        self.reserved_mean -= mean
        self.reserved_var -= sd * sd

    def load(self) -> tuple[int, int]:
        """Mean (thousandths of a core) and variance (its square) of the CPU demand of all VMs.

        Measured where the host reports it; decisions in flight are not in the measurement yet. Else from the shapes:
        (1 - rho) sum(sd^2) + rho (sum sd)^2 with a pairwise correlation rho of 0.1, as in the independent evaluator
        of the benchmarks.
        """
        measured = self.facts.load
        if measured is not None:
            return measured.mean_mcores + self.reserved_mean, measured.sd_mcores**2 + self.reserved_var
        return self.mean_mcores, (9 * self.sum_var + self.sum_sd**2) // 10


class ChangeLog:
    """Rows that changed, in order; a reader that fell too far behind is told to look at everything.

    `position` counts all changes ever: a reader that stands there is up to date.
    """

    __slots__ = ("_base", "_last", "_read", "_rows", "position")

    def __init__(self) -> None:
        self._rows: IntArray = np.zeros(4096, np.int64)
        self._base = 0  # position of the first row that is kept
        self._read = 0
        self._last = -1
        self.position = 0

    def note(self, row: int) -> None:
        """A row changed. Said once, if nobody has read the log since."""
        position = self.position
        if row == self._last and self._read < position:
            return
        self._last = row
        if position - self._base == len(self._rows):
            self._base = position + 1  # whoever stands at `position` has not seen this change
            self.position = position + 1
            return
        self._rows[position - self._base] = row
        self.position = position + 1

    def since(self, position: int) -> IntArray | None:
        """Rows changed after a position (with repeats); None = too long ago, look at all."""
        self._read = self.position
        return self._rows[position - self._base : self.position - self._base] if position >= self._base else None

    def reset(self, capacity: int) -> None:
        """Everything changed (rows were added): a larger log that nobody has read."""
        if len(self._rows) < capacity:
            self._rows = np.zeros(capacity, np.int64)
        self.position += 1
        self._base = self._read = self.position
        self._last = -1


class Column:
    """A yes/no fact about every host, shared by all classes that ask the same question; catches up when read."""

    def __init__(self, test: Callable[[HostFacts], bool], capacity: int) -> None:
        self.test = test
        self.values: BoolArray = np.zeros(capacity, np.bool_)
        self.position = -1


def facts_differ(old: HostFacts, new: HostFacts) -> bool:
    """Whether anything changed that a column could depend on."""
    if old.pools.keys() != new.pools.keys():
        return True
    return any(getattr(old, name) != getattr(new, name) for name in PLACEMENT_FACTS)


def tie_of(seed: int, name: str) -> bytes:
    """Seeded hash of a host's name, by which equal hosts are ordered."""
    return hashlib.blake2b(name.encode(), digest_size=8, key=seed.to_bytes(8, "big")).digest()


def resized(array: npt.NDArray[_T], capacity: int) -> npt.NDArray[_T]:
    """The same values in an array of another length."""
    new = np.zeros(capacity, array.dtype)
    new[: len(array)] = array
    return new
