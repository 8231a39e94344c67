"""Exact answer to "do these VMs fit on these hosts" by HiGHS: a placement, or the proof that there is none.

Deterministic: one thread, fixed seed, a limit in branch-and-bound nodes instead of seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import highspy
import numpy as np

from lq_operator.core.failover.cells import PCPUS, Part
from lq_operator.core.placement.solver import make_solver
from lq_operator.core.placement.state import FloatArray, IntArray


@dataclass(slots=True)
class ExactProblem:
    """rooms[host][resource]; needs[vm][host][resource]; allowed[vm][host]; apart: (vm, vm, hosts of each domain).

    parts[vm]: what a VM takes in NUMA cells, if it is bound to them; cells[host][kind]: room per cell (see cells.py).
    """

    rooms: list[list[int]]
    needs: list[list[tuple[int, ...]]]
    allowed: list[list[bool]]
    apart: list[tuple[int, int, list[list[int]]]] = field(default_factory=list)
    parts: list[Part | None] = field(default_factory=list)
    cells: list[dict[int, list[int]]] = field(default_factory=list)

    def part(self, vm: int) -> Part | None:
        """What this VM takes in NUMA cells."""
        return self.parts[vm] if self.parts else None

    def fitting_cells(self, vm: int, host: int) -> list[int]:
        """Cells that have room for one part of this VM alone."""
        part, rooms = self.parts[vm], self.cells[host]
        assert part is not None
        pairs = enumerate(zip(rooms[part.page_kib], rooms[PCPUS], strict=True))
        return [at for at, (mib, pcpus) in pairs if mib >= part.memory_mib and (not part.pcpus or pcpus >= part.pcpus)]


@dataclass(frozen=True, slots=True)
class ExactAnswer:
    """places: host per VM, or None. proven=False: the node limit came first. stuck: a VM left out by the best try.
    cells: cells per VM, for those that are bound to some."""

    places: tuple[int, ...] | None
    proven: bool
    stuck: int | None
    cells: tuple[tuple[int, ...], ...] = ()


def solve_exact(problem: ExactProblem, max_nodes: int) -> ExactAnswer:
    """Maximise the number of VMs that are placed; all of them = they fit."""
    kinds, members = _kinds(problem)
    pairs = [  # a variable per kind and host: equal VMs are interchangeable, which removes the symmetry
        (kind, host)
        for kind, first in enumerate(kinds)
        for host in range(len(problem.rooms))
        if problem.allowed[first][host] and _fits(problem, first, host)
    ]
    for kind, first in enumerate(kinds):
        if not any(pair[0] == kind for pair in pairs):
            return ExactAnswer(None, True, first)
    column = {pair: at for at, pair in enumerate(pairs)}
    upper = [float(min(len(members[k]), _times(problem.needs[kinds[k]][h], problem.rooms[h]))) for k, h in pairs]
    rows = _room_rows(problem, kinds, column) + _count_rows(members, pairs)
    rows += _apart_rows(problem, members, column)
    in_cells = _cell_columns(problem, kinds, pairs)
    rows += _cell_rows(problem, kinds, column, in_cells)
    every_upper = upper + [upper[column[kind, host]] for kind, host, _ in in_cells]
    optimal, bound, values = _run(rows, every_upper, len(pairs), max_nodes)
    total = len(problem.needs)
    every = np.rint(values).astype(int) if values is not None else np.zeros(len(every_upper), int)
    counts = every[: len(pairs)]
    if int(counts.sum()) == total and values is not None:
        per_cell = {key: int(every[at]) for key, at in in_cells.items()}
        places, cells = _places(counts, pairs, members, total, per_cell)
        return ExactAnswer(places, True, None, cells)
    placed = np.zeros(len(kinds), int)
    for (kind, _), count in zip(pairs, counts, strict=True):
        placed[kind] += count
    left = [members[k][0] for k in range(len(kinds)) if placed[k] < len(members[k])]
    return ExactAnswer(None, optimal or bound < total - 0.5, left[0] if left else None)


def holds(problem: ExactProblem, answer: ExactAnswer) -> bool:
    """Check the solver's floats in integers."""
    assert answer.places is not None
    places = answer.places
    rooms = [list(room) for room in problem.rooms]
    in_cells = [{kind: list(room) for kind, room in there.items()} for there in problem.cells]
    for vm, host in enumerate(places):
        for at, need in enumerate(problem.needs[vm][host]):
            rooms[host][at] -= need
            if need and rooms[host][at] < 0:
                return False
        part, cells = problem.part(vm), answer.cells[vm]
        if part is None:
            continue
        if len(set(cells)) != part.cells:
            return False
        for cell in cells:
            for kind, amount in ((part.page_kib, part.memory_mib), (PCPUS, part.pcpus)):
                in_cells[host][kind][cell] -= amount
                if amount and in_cells[host][kind][cell] < 0:
                    return False
    return all(
        not any(places[one] in hosts and places[other] in hosts for hosts in domains)
        for one, other, domains in problem.apart
    )


def _kinds(problem: ExactProblem) -> tuple[list[int], list[list[int]]]:
    single = {vm for one, other, _ in problem.apart for vm in (one, other)}
    found: dict[object, int] = {}
    members: list[list[int]] = []
    kinds: list[int] = []
    for vm, (needs, allowed) in enumerate(zip(problem.needs, problem.allowed, strict=True)):
        key: object = vm if vm in single else (tuple(needs), tuple(allowed), problem.part(vm))
        if key not in found:
            found[key] = len(kinds)
            kinds.append(vm)
            members.append([])
        members[found[key]].append(vm)
    return kinds, members


def _fits(problem: ExactProblem, vm: int, host: int) -> bool:
    needs, room, part = problem.needs[vm][host], problem.rooms[host], problem.part(vm)
    if any(need > have for need, have in zip(needs, room, strict=False) if need):
        return False
    return part is None or len(problem.fitting_cells(vm, host)) >= part.cells


def _times(needs: tuple[int, ...], room: list[int]) -> int:
    return min((have // need for need, have in zip(needs, room, strict=False) if need), default=2**30)


Row = tuple[list[int], list[float], float]


def _room_rows(problem: ExactProblem, kinds: list[int], column: dict[tuple[int, int], int]) -> list[Row]:
    rows: list[Row] = []
    by_host: dict[int, list[tuple[int, int]]] = {}
    for (kind, host), at in column.items():
        by_host.setdefault(host, []).append((kind, at))
    for host, there in by_host.items():
        for resource in range(len(problem.rooms[host])):
            entries = [
                (at, problem.needs[kinds[kind]][host][resource])
                for kind, at in there
                if resource < len(problem.needs[kinds[kind]][host])
            ]
            entries = [(at, need) for at, need in entries if need]
            if entries:
                limit = float(problem.rooms[host][resource])
                rows.append(([at for at, _ in entries], [float(need) for _, need in entries], limit))
    return rows


CellColumns = dict[tuple[int, int, int], int]
"""Column of (kind, host, cell): how many VMs of the kind use that cell."""


def _cell_columns(problem: ExactProblem, kinds: list[int], pairs: list[tuple[int, int]]) -> CellColumns:
    keys = [
        (kind, host, cell)
        for kind, host in pairs
        if problem.part(kinds[kind]) is not None
        for cell in problem.fitting_cells(kinds[kind], host)
    ]
    return {key: len(pairs) + at for at, key in enumerate(keys)}


def _cell_rows(
    problem: ExactProblem, kinds: list[int], column: dict[tuple[int, int], int], in_cells: CellColumns
) -> list[Row]:
    """A VM uses `part.cells` cells, each once; a cell is not overfull. Enough: x VMs that use each cell at most x times, and
    that many times x uses in all, can always share them out (`_places` does it)."""
    rows: list[Row] = []
    of_pair: dict[tuple[int, int], list[int]] = {}
    load: dict[tuple[int, int, int], list[tuple[int, int]]] = {}  # (host, cell, sort of room) -> (column, amount)
    for (kind, host, cell), at in in_cells.items():
        part = problem.part(kinds[kind])
        assert part is not None
        of_pair.setdefault((kind, host), []).append(at)
        rows.append(([at, column[kind, host]], [1.0, -1.0], 0.0))
        for sort, amount in ((part.page_kib, part.memory_mib), (PCPUS, part.pcpus)):
            if amount:
                load.setdefault((host, cell, sort), []).append((at, amount))
    for (kind, host), ats in of_pair.items():
        part = problem.part(kinds[kind])
        assert part is not None
        entries = ([*ats, column[kind, host]], [*([1.0] * len(ats)), -float(part.cells)])
        rows.append((*entries, 0.0))
        rows.append((entries[0], [-value for value in entries[1]], 0.0))
    for (host, cell, sort), there in load.items():
        limit = float(problem.cells[host][sort][cell])
        rows.append(([at for at, _ in there], [float(amount) for _, amount in there], limit))
    return rows


def _count_rows(members: list[list[int]], pairs: list[tuple[int, int]]) -> list[Row]:
    by_kind: dict[int, list[int]] = {}
    for at, (kind, _) in enumerate(pairs):
        by_kind.setdefault(kind, []).append(at)
    return [(ats, [1.0] * len(ats), float(len(members[kind]))) for kind, ats in by_kind.items()]


def _apart_rows(problem: ExactProblem, members: list[list[int]], column: dict[tuple[int, int], int]) -> list[Row]:
    kind_of = {vm: kind for kind, vms in enumerate(members) for vm in vms}
    rows: list[Row] = []
    for one, other, domains in problem.apart:
        for hosts in domains:
            ats = [
                column[pair]
                for host in hosts
                for pair in ((kind_of[one], host), (kind_of[other], host))
                if pair in column
            ]
            if len(ats) > 1:
                rows.append((ats, [1.0] * len(ats), 1.0))
    return rows


def _run(rows: list[Row], upper: list[float], counted: int, max_nodes: int) -> tuple[bool, float, FloatArray | None]:
    """(optimal, upper bound on the number placed, values). The first `counted` columns are the VMs placed."""
    solver = make_solver(mip_max_nodes=max_nodes)
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(upper), len(rows)
    model.sense_ = highspy.ObjSense.kMaximize
    model.col_cost_ = np.array([1.0] * counted + [0.0] * (len(upper) - counted))
    model.col_lower_, model.col_upper_ = np.zeros(len(upper)), np.array(upper)
    model.row_lower_ = np.full(len(rows), -highspy.kHighsInf)
    model.row_upper_ = np.array([limit for _, _, limit in rows])
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.cumsum([0, *(len(ats) for ats, _, _ in rows)])
    model.a_matrix_.index_ = np.array([at for ats, _, _ in rows for at in ats], np.int32)
    model.a_matrix_.value_ = np.array([value for _, values, _ in rows for value in values])
    model.integrality_ = [highspy.HighsVarType.kInteger] * len(upper)
    solver.passModel(model)
    solver.run()
    optimal = solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    info = solver.getInfo()
    values = np.array(solver.getSolution().col_value) if info.primal_solution_status else None
    return optimal, float(info.mip_dual_bound), values


def _places(
    counts: IntArray,
    pairs: list[tuple[int, int]],
    members: list[list[int]],
    total: int,
    per_cell: CellColumns,
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Host per VM, and its cells: the uses of all cells in a row, dealt out like cards, so that nobody gets one twice."""
    places = [-1] * total
    cells: list[tuple[int, ...]] = [()] * total
    left = [list(vms) for vms in members]
    dealt: dict[tuple[int, int], list[int]] = {}
    for (kind, host, cell), uses in per_cell.items():
        dealt.setdefault((kind, host), []).extend([cell] * uses)
    for (kind, host), count in zip(pairs, counts.tolist(), strict=True):
        for at in range(count):
            vm = left[kind].pop()
            places[vm] = host
            cells[vm] = tuple(dealt.get((kind, host), ())[at::count])
    return tuple(places), tuple(cells)
