"""Exact answer to "do these VMs fit on these hosts" by HiGHS: a placement, or the proof that there is none.

Deterministic: one thread, fixed seed, a limit in branch-and-bound nodes instead of seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import highspy
import numpy as np

from lq_operator.core.placement.solver import make_solver
from lq_operator.core.placement.state import FloatArray, IntArray


@dataclass(slots=True)
class ExactProblem:
    """rooms[host][resource]; needs[vm][host][resource]; allowed[vm][host]; apart: (vm, vm, hosts of each domain)."""

    rooms: list[list[int]]
    needs: list[list[tuple[int, ...]]]
    allowed: list[list[bool]]
    apart: list[tuple[int, int, list[list[int]]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ExactAnswer:
    """places: host per VM, or None. proven=False: the node limit came first. stuck: a VM left out by the best try."""

    places: tuple[int, ...] | None
    proven: bool
    stuck: int | None


def solve_exact(problem: ExactProblem, max_nodes: int) -> ExactAnswer:
    """Maximise the number of VMs that are placed; all of them = they fit."""
    kinds, members = _kinds(problem)
    pairs = [  # a variable per kind and host: equal VMs are interchangeable, which removes the symmetry
        (kind, host)
        for kind, first in enumerate(kinds)
        for host in range(len(problem.rooms))
        if problem.allowed[first][host] and _fits(problem.needs[first][host], problem.rooms[host])
    ]
    for kind, first in enumerate(kinds):
        if not any(pair[0] == kind for pair in pairs):
            return ExactAnswer(None, True, first)
    column = {pair: at for at, pair in enumerate(pairs)}
    rows = _room_rows(problem, kinds, column) + _count_rows(members, pairs)
    rows += _apart_rows(problem, members, column)
    upper = [float(min(len(members[k]), _times(problem.needs[kinds[k]][h], problem.rooms[h]))) for k, h in pairs]
    status, bound, values = _run(rows, upper, max_nodes)
    total = len(problem.needs)
    counts = np.rint(values).astype(int) if values is not None else np.zeros(len(pairs), int)
    if int(counts.sum()) == total and values is not None:
        return ExactAnswer(_places(counts, pairs, members, total), True, None)
    placed = np.zeros(len(kinds), int)
    for (kind, _), count in zip(pairs, counts, strict=True):
        placed[kind] += count
    left = [members[k][0] for k in range(len(kinds)) if placed[k] < len(members[k])]
    return ExactAnswer(None, status or bound < total - 0.5, left[0] if left else None)


def _kinds(problem: ExactProblem) -> tuple[list[int], list[list[int]]]:
    single = {vm for one, other, _ in problem.apart for vm in (one, other)}
    found: dict[object, int] = {}
    members: list[list[int]] = []
    kinds: list[int] = []
    for vm, (needs, allowed) in enumerate(zip(problem.needs, problem.allowed, strict=True)):
        key: object = vm if vm in single else (tuple(needs), tuple(allowed))
        if key not in found:
            found[key] = len(kinds)
            kinds.append(vm)
            members.append([])
        members[found[key]].append(vm)
    return kinds, members


def _fits(needs: tuple[int, ...], room: list[int]) -> bool:
    return all(need <= have for need, have in zip(needs, room, strict=False) if need)


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


def _run(rows: list[Row], upper: list[float], max_nodes: int) -> tuple[bool, float, FloatArray | None]:
    """(optimal, upper bound on the number placed, values)."""
    solver = make_solver(mip_max_nodes=max_nodes)
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(upper), len(rows)
    model.sense_ = highspy.ObjSense.kMaximize
    model.col_cost_ = np.ones(len(upper))
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
) -> tuple[int, ...]:
    places = [-1] * total
    left = [list(vms) for vms in members]
    for (kind, host), count in zip(pairs, counts.tolist(), strict=True):
        for _ in range(count):
            places[left[kind].pop()] = host
    return tuple(places)
