"""Rules about the room on a host: vCPUs, memory, hugepages, NUMA cells, devices, storage. Used by FILTERS.

`fails_*` says for many hosts which of them fail, `says_*` for one host in a sentence by how much.
"""

from __future__ import annotations

import numpy as np

from lq_operator.core.placement.question import Question, cores, facts_of, gib
from lq_operator.core.placement.state import BoolArray, ClusterState, IntArray, Rows
from lq_operator.core.placement.types import Shape


def _needed_mvcpus(state: ClusterState, shape: Shape, row: int) -> int:
    return shape.vcpus * (int(state.overcommit[row]) if shape.dedicated_cpus else 1000)


def fails_vcpus(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    shape = question.shape
    if shape.dedicated_cpus:
        return state.free_mvcpus[rows] < shape.vcpus * state.overcommit[rows]
    return state.free_mvcpus[rows] < shape.vcpus * 1000


def says_vcpus(state: ClusterState, question: Question, row: int) -> str:
    free, needed = int(state.free_mvcpus[row]), _needed_mvcpus(state, question.shape, row)
    capacity = cores(facts_of(state, row).capacity_mvcpus)
    return f"needs {cores(needed)} vCPU, free {cores(free)} of {capacity}"


def fails_memory(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    return state.free_memory[rows] < question.shape.memory_mib


def says_memory(state: ClusterState, question: Question, row: int) -> str:
    free, total = int(state.free_memory[row]), facts_of(state, row).vm_memory_mib
    return f"needs {gib(question.shape.memory_mib)} memory, free {gib(free)} of {gib(total)}"


def fails_hugepages(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    shape = question.shape
    return state.amount("hugepages", str(shape.hugepage_kib))[rows] < shape.memory_mib


def says_hugepages(state: ClusterState, question: Question, row: int) -> str:
    size = question.shape.hugepage_kib
    free = int(state.amount("hugepages", str(size))[row])
    return f"needs {gib(question.shape.memory_mib)} in hugepages of {size} KiB, free {gib(free)}"


def cell_fits(state: ClusterState, shape: Shape, rows: Rows) -> BoolArray:
    """Which NUMA cells [row, cell] have room for one part of the VM."""
    count = shape.bound_cells
    fits = state.cells(shape.hugepage_kib)[rows] >= -(-shape.memory_mib // count)
    if shape.dedicated_cpus:
        fits &= state.cells(-1)[rows] >= shape.vcpus // count
    return fits


def fails_numa(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    fitting: IntArray = np.count_nonzero(cell_fits(state, question.shape, rows), axis=1)
    return fitting < question.shape.bound_cells


def says_numa(state: ClusterState, question: Question, row: int) -> str:
    shape, one = question.shape, slice(row, row + 1)
    count = shape.bound_cells
    found = int(np.count_nonzero(cell_fits(state, shape, one)))
    part = gib(-(-shape.memory_mib // count))
    if shape.dedicated_cpus:
        part = f"{shape.vcpus // count} dedicated CPUs and {part}"
    room = max(int(state.cells(shape.hugepage_kib)[row].max()), 0)
    cpus = f", most free CPUs in one {max(int(state.cells(-1)[row].max()), 0)}" if shape.dedicated_cpus else ""
    return f"needs {count} NUMA cell(s) with {part} each, has {found} (most free in one {gib(room)}{cpus})"


def fails_devices(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing: BoolArray | None = None
    for device, count in question.shape.devices.items():
        short = state.amount("devices", device)[rows] < count
        failing = short if failing is None else failing | short
    assert failing is not None
    return failing


def says_devices(state: ClusterState, question: Question, row: int) -> str:
    short = [
        f"{count} {device}, free {int(state.amount('devices', device)[row])}"
        for device, count in question.shape.devices.items()
        if int(state.amount("devices", device)[row]) < count
    ]
    return f"needs {'; '.join(short)}"


def pool_free(state: ClusterState, pool: str, rows: Rows) -> IntArray:
    """Bytes left in a pool as seen from each host, decisions in flight taken off."""
    free = state.amount("pools", pool)[rows]
    reserved = state.pool_reserved.get(pool, 0)
    return free - reserved * state.amount("shared", pool)[rows] if reserved else free


def fails_pool_space(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing: BoolArray | None = None
    for pool, size in question.shape.pools.items():
        if size:
            short = pool_free(state, pool, rows) < size
            failing = short if failing is None else failing | short
    assert failing is not None
    return failing


def says_pool_space(state: ClusterState, question: Question, row: int) -> str:
    one = slice(row, row + 1)
    short = []
    for pool, size in question.shape.pools.items():
        free = int(pool_free(state, pool, one)[0])
        if size and free < size:
            short.append(f"{-(-size // 2**20)} MiB in pool {pool}, free {free // 2**20} MiB")
    return f"needs {'; '.join(short)}"
