"""Room in NUMA cells while VMs are restarted one by one: a VM that is bound to cells needs enough of them on one host.

Follows placement's rule (filter `numa`): memory of VMs that are not bound floats over cells and is counted nowhere here.
"""

from __future__ import annotations

from typing import NamedTuple

from lq_operator.core.placement.question import gib
from lq_operator.core.placement.state import ClusterState
from lq_operator.core.placement.types import Shape

PCPUS = -1
"""Kind of room as `ClusterState.cells` has it; 0 is ordinary memory, a page size in KiB hugepages, both in MiB."""


class Part(NamedTuple):
    """What a bound VM takes: `cells` different cells of one host, in each of them this much."""

    cells: int
    page_kib: int
    memory_mib: int
    pcpus: int

    def __str__(self) -> str:
        cpus = f"{self.pcpus} dedicated CPUs and " if self.pcpus else ""
        return f"{self.cells} NUMA cell(s) with {cpus}{gib(self.memory_mib)} each"


def part_of(shape: Shape) -> Part | None:
    """None for a VM that is not bound to cells."""
    count = shape.bound_cells
    if not count:
        return None
    pcpus = shape.vcpus // count if shape.dedicated_cpus else 0
    return Part(count, shape.hugepage_kib, -(-shape.memory_mib // count), pcpus)


class CellRooms:
    """Free room per host and cell: what the state says, less what was taken here."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._rooms: dict[tuple[int, int], list[int]] = {}

    def free(self, row: int, kind: int) -> list[int]:
        """Per cell index; below 0 where the host has no such cell or is overfull."""
        room = self._rooms.get((row, kind))
        if room is None:
            room = self._rooms[row, kind] = self._state.cells(kind)[row].tolist()
        return room

    def find(self, row: int, part: Part) -> tuple[int, ...] | None:
        """Cells (by index) for a bound VM: the fullest that fit, so that large holes stay large; None = too few."""
        memory, pcpus = self.free(row, part.page_kib), self.free(row, PCPUS)
        fitting = [at for at, free in enumerate(memory) if free >= part.memory_mib]
        if part.pcpus:
            fitting = [at for at in fitting if pcpus[at] >= part.pcpus]
        if len(fitting) < part.cells:
            return None
        entry = self._state.row[row]
        assert entry is not None
        numbers = entry.facts.cells
        return tuple(sorted(fitting, key=lambda at: (memory[at], pcpus[at], numbers[at].cell))[: part.cells])

    def take(self, row: int, part: Part, cells: tuple[int, ...]) -> None:
        """The VM is there now."""
        memory, pcpus = self.free(row, part.page_kib), self.free(row, PCPUS)
        for at in cells:
            memory[at] -= part.memory_mib
            pcpus[at] -= part.pcpus

    def take_as_placed(self, row: int, part: Part) -> None:
        """A VM that will be put there: on the cells that placement chooses; against every cell where none fit."""
        self.take(row, part, self.find(row, part) or tuple(range(len(self.free(row, PCPUS)))))
