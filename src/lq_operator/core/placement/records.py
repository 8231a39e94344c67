"""The records a cluster's state is made of: the account of one host, the log of changes, and cached facts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lq_operator.core.placement.types import HostFacts, Shape

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

PLACEMENT_FACTS = ("ready", "cordoned", "labels", "taints", "networks", "cpu_models", "images")
"""Fields of HostFacts (and the names of its pools) that columns are made of."""

_T = TypeVar("_T", bound=np.generic)


@dataclass(slots=True)
class Occupant:
    """Room that one VM holds on one host."""

    shape: Shape
    cells: tuple[int, ...]
    reserved: bool


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


class ChangeLog:
    """Rows that changed, in order; a reader that fell too far behind is told to look at everything."""

    def __init__(self) -> None:
        self._rows: IntArray = np.zeros(4096, np.int64)
        self._end = 0
        self._read = 0
        self._last = -1
        self.epoch = 0

    @property
    def position(self) -> tuple[int, int]:
        """Where a reader that is up to date stands."""
        self._read = self._end
        return (self.epoch, self._end)

    def note(self, row: int) -> None:
        """A row changed. Said once, if nobody has read the log since."""
        if row == self._last and self._read < self._end:
            return
        self._last = row
        if self._end == len(self._rows):
            self._end = self._read = 0
            self.epoch += 1
        self._rows[self._end] = row
        self._end += 1

    def since(self, position: tuple[int, int]) -> IntArray | None:
        """Rows changed after a position (with repeats); None = too long ago, look at all."""
        return self._rows[position[1] : self._end] if position[0] == self.epoch else None

    def reset(self, capacity: int) -> None:
        """Everything changed (rows were added): larger log, new epoch."""
        if len(self._rows) < capacity:
            self._rows = np.zeros(capacity, np.int64)
        self._end = self._read = 0
        self.epoch += 1


class Column:
    """A yes/no fact about every host, shared by all classes that ask the same question; catches up when read."""

    def __init__(self, test: Callable[[HostFacts], bool], capacity: int) -> None:
        self.test = test
        self.values: BoolArray = np.zeros(capacity, np.bool_)
        self.position = (-1, 0)


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
