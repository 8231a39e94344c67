"""The two loops over all hosts of one decision, compiled (kernel.c) where the package was built with a C compiler.

They stand in for what `parts.RoomPart` and `classes.ClassView` do with numpy, which stays the specification and does the
work where there is no compiled library, or where a class asks for what the loops do not know. Same bits either way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lq_operator.core.placement.state import BoolArray, ClusterState, FloatArray, IntArray
from lq_operator.core.placement.types import Shape

Codes = npt.NDArray[np.uint8]

LIBRARY = Path(__file__).with_suffix(".compiled")
N_CODES = 256
TERMS = ("spread", "pack", "balanced", "stranding", "contention")
"""Scores that the loop knows, in the order of its enum."""


class _Need(ctypes.Structure):
    _fields_ = (
        ("available", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("taken", ctypes.c_int64),
        ("needed", ctypes.c_int64),
        ("code", ctypes.c_int64),
    )


class _Term(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int64), ("share", ctypes.c_double), ("values", ctypes.c_void_p))


class _Room(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("cpu_share", "memory_share", "cpu_unit", "memory_unit", "over", "var", "tie")),
        *((name, ctypes.c_double) for name in ("mvcpus", "memory_mib", "mean", "var_more")),
        *((name, ctypes.c_void_p) for name in ("needs", "terms")),
        *((name, ctypes.c_int64) for name in ("n_needs", "n_terms")),
        *((name, ctypes.c_void_p) for name in ("verdict", "total", "key")),
    )  # fmt: skip


class _Library:
    """The loops by name. Addresses go in and out; whoever passes one keeps its array."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self.room = library.lq_room
        self.room.argtypes, self.room.restype = (pointer, pointer, number), None
        self.judge = library.lq_judge
        self.judge.argtypes = (number, *[pointer] * 4, number, *[pointer] * 2, number, *[pointer] * 4)
        self.judge.restype = None


def _load() -> _Library | None:
    try:
        return _Library(LIBRARY)
    except OSError:
        return None


library = _load()
"""None = not built: numpy does everything."""


def address(array: npt.NDArray[Any]) -> int:
    """Where the values of a contiguous, writable array lie; it must not be empty. A quarter of the cost of asking numpy."""
    buffer: Any = array
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


@dataclass(frozen=True, slots=True)
class Need:
    """One filter about room as the loop has it: available - taken where shared must be at least `needed`."""

    filter: str
    available: IntArray
    needed: int
    shared: IntArray | None = None
    pool: str = ""


def needs_of(state: ClusterState, shape: Shape, filters: Set[str]) -> list[Need] | None:
    """What these filters ask of each host; None where one looks at more than one number (NUMA cells, own CPUs)."""
    if shape.dedicated_cpus or shape.bound_cells:
        return None
    needs = [Need("vcpus", state.free_mvcpus, shape.vcpus * 1000), Need("memory", state.free_memory, shape.memory_mib)]
    if shape.hugepage_kib:
        needs.append(Need("hugepages", state.amount("hugepages", str(shape.hugepage_kib)), shape.memory_mib))
    for device, count in shape.devices.items():
        needs.append(Need("devices", state.amount("devices", device), count))
    for pool, size in shape.pools.items():
        if size:
            free, shared = state.amount("pools", pool), state.amount("shared", pool)
            needs.append(Need("storage-space", free, size, shared, pool))
    return [need for need in needs if need.filter in filters]


class RoomLoop:
    """Judges and scores rows for one size of VM, into arrays of its owner. Good until the state's arrays grow."""

    def __init__(
        self,
        compiled: _Library,
        state: ClusterState,
        shape: Shape,
        needs: Sequence[Need],
        codes: dict[str, int],
        terms: Sequence[tuple[str, float, FloatArray]],
        out: tuple[Codes, FloatArray, FloatArray],
    ) -> None:
        """`out`: verdict, total and key."""
        hosts = (
            state.cpu_share,
            state.memory_share,
            state.cpu_unit,
            state.memory_unit,
            state.over,
            state.var,
            state.tie,
        )
        self._run = compiled.room
        self._state = state
        self._kept = (hosts, needs, terms, out)
        self._needs = (_Need * len(needs))(
            *(
                _Need(
                    address(n.available), None if n.shared is None else address(n.shared), 0, n.needed, codes[n.filter]
                )
                for n in needs
            )
        )
        self._taken = [(self._needs[at], need.pool) for at, need in enumerate(needs) if need.pool]
        self._terms = (_Term * len(terms))(
            *(_Term(TERMS.index(name), share, address(values)) for name, share, values in terms)
        )
        mean, sd = shape.demand
        memory_mib = 0 if shape.hugepage_kib else shape.memory_mib
        self._room = _Room(
            *(address(array) for array in hosts),
            *(shape.vcpus * 1000, memory_mib, mean / 1000, sd * sd / 1_000_000),
            *(ctypes.addressof(self._needs), ctypes.addressof(self._terms), len(needs), len(terms)),
            *(address(array) for array in out),
        )
        self._at = ctypes.addressof(self._room)

    def run(self, rows: IntArray | None, count: int) -> None:
        """These rows, or the first `count` where none are listed."""
        self._state.tie_order()  # numbers the tie breakers where hosts came or went
        for need, pool in self._taken:
            need.taken = self._state.pool_reserved.get(pool, 0)
        self._run(self._at, None if rows is None else address(rows), count)


class JudgeLoop:
    """Puts the parts of classes together. Its arrays hold the answer until the next question.

    Good until the state's arrays grow.
    """

    def __init__(self, compiled: _Library, state: ClusterState) -> None:
        self._run = compiled.judge
        self._tie = state.tie
        self._tie_at = address(self._tie)
        self.verdict: Codes = np.zeros(len(state.alive), np.uint8)
        self.counts: IntArray = np.zeros(N_CODES, np.int64)
        """Rows per code."""
        self.first: IntArray = np.zeros(N_CODES, np.int64)
        """Per code the row that comes first by tie breaker; -1 = none."""
        self.best: IntArray = np.zeros(3, np.int64)
        """Rows that fit with the highest keys; -1 = no more."""
        self._out = [address(array) for array in (self.verdict, self.counts, self.first, self.best)]

    def run(
        self, n: int, facts_at: int, room_at: int, key_at: int, groups: Sequence[tuple[int, BoolArray]], n_codes: int
    ) -> None:
        """The first `n` rows, at least one; the parts by their addresses. `groups`: code of a filter about other VMs,
        and which rows it refuses."""
        failing = (ctypes.c_void_p * len(groups))(*[address(fails) for _, fails in groups]) if groups else None
        codes = bytes([code for code, _ in groups])
        self._run(n, facts_at, room_at, key_at, self._tie_at, len(groups), failing, codes, n_codes, *self._out)
