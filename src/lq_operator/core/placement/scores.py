"""How good a host is for a VM that fits there. SCORES and STRATEGIES are the specification: two literal tables.

Each term is 0..1 on a host within its capacity, higher is better. Only +, -, *, /, max, abs and square root are used:
IEEE 754 rounds those exactly, so the same inputs give the same bits on every machine, for one host as for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lq_operator.core.placement.question import Question
from lq_operator.core.placement.rules_vms import counts_per_row
from lq_operator.core.placement.selectors import Requirements, all_match
from lq_operator.core.placement.state import ClusterState, FloatArray, Rows
from lq_operator.core.placement.types import HostFacts, Shape


@dataclass(slots=True)
class After:
    """Used shares of vCPU and memory if the VM were placed, and the host's CPU demand before: arrays over `rows`."""

    cpu: FloatArray
    memory: FloatArray
    over: FloatArray
    var: FloatArray
    rows: Rows


def after_placement(state: ClusterState, shape: Shape, rows: Rows) -> After:
    """Shares after placement. Hugepage memory is set apart anyway and leaves the memory share as it is."""
    overcommit = state.overcommit[rows] if shape.dedicated_cpus else 1000
    cpu = state.cpu_share[rows] + (shape.vcpus * overcommit) * state.cpu_unit[rows]
    memory = state.memory_share[rows]
    if not shape.hugepage_kib:
        memory = memory + shape.memory_mib * state.memory_unit[rows]
    return After(cpu, memory, state.over[rows], state.var[rows], rows)


def _spread(_: ClusterState, __: Question, after: After) -> FloatArray:
    return 1.0 - (after.cpu + after.memory) * 0.5


def _pack(_: ClusterState, __: Question, after: After) -> FloatArray:
    return (after.cpu + after.memory) * 0.5


def _balanced(_: ClusterState, __: Question, after: After) -> FloatArray:
    value: FloatArray = 1.0 - np.maximum(after.cpu, after.memory)
    return value


def _stranding(_: ClusterState, __: Question, after: After) -> FloatArray:
    value: FloatArray = 1.0 - abs(after.cpu - after.memory)
    return value


def _contention(_: ClusterState, question: Question, after: After) -> FloatArray:
    """1 / (1 + unmet cores). Unmet = E[(D-C)+] <= (sqrt(var + (mean-C)^2) + mean-C) / 2, the tight bound for any
    distribution with this mean and variance (Scarf 1958): no assumption about the shape of the demand."""
    mean, sd = question.shape.demand
    over = after.over + mean / 1000
    value: FloatArray = 2.0 / (2.0 + (np.sqrt((after.var + sd * sd / 1_000_000) + over * over) + over))
    return value


def _image(state: ClusterState, question: Question, after: After) -> FloatArray:
    images = question.shape.images
    return state.column(("images", images), lambda host: images <= host.images)[after.rows].astype(np.float64)


def _node_wish(state: ClusterState, question: Question, after: After) -> FloatArray:
    terms = question.shape.preferred_nodes
    total = sum(term.weight for term in terms)
    met: FloatArray = np.zeros(len(state.free_memory[after.rows]))
    for term in terms:
        wanted = term.requirements
        met += term.weight * state.column(("labels", wanted), _matcher(wanted))[after.rows]
    return met / total


def _matcher(wanted: Requirements) -> Callable[[HostFacts], bool]:
    return lambda host: all_match(wanted, host.labels)


def _vm_wish(state: ClusterState, question: Question, after: After) -> FloatArray:
    """Share of the wished weight that is met: a wish to be together by a VM there, a wish to be apart by none."""
    met: FloatArray = np.zeros(len(state.free_memory[after.rows]))
    total = 0
    for term, group, weight in question.preferred:
        total += abs(weight)
        there = counts_per_row(state, group, term.topology_key, after.rows) > 0
        met += weight * there if weight > 0 else -weight * ~there
    return met / max(1, total)


@dataclass(frozen=True, slots=True)
class Score:
    """One term. `cached` terms depend on the host alone; the others on where other VMs stand."""

    name: str
    cached: bool
    applies: Callable[[Question], bool]
    value: Callable[[ClusterState, Question, After], FloatArray]


SCORES: tuple[Score, ...] = (
    Score("spread", True, lambda q: True, _spread),
    Score("pack", True, lambda q: True, _pack),
    Score("balanced", True, lambda q: True, _balanced),
    Score("stranding", True, lambda q: True, _stranding),
    Score("contention", True, lambda q: True, _contention),
    Score("image", True, lambda q: bool(q.shape.images), _image),
    Score("node-wish", True, lambda q: bool(q.shape.preferred_nodes), _node_wish),
    Score("vm-wish", False, lambda q: bool(q.preferred), _vm_wish),
)

STRATEGIES: dict[str, dict[str, int]] = {
    "spread": {"spread": 4, "stranding": 1, "contention": 4, "image": 1, "node-wish": 3, "vm-wish": 3},
    "balanced": {"balanced": 3, "stranding": 3, "contention": 3, "image": 1, "node-wish": 3, "vm-wish": 3},
    "pack": {"pack": 6, "stranding": 2, "contention": 2, "image": 1, "node-wish": 3, "vm-wish": 3},
}
"""Weights per strategy. A term that has nothing to say about a request leaves the total."""


def weights_for(strategy: str) -> dict[str, int]:
    """Weights of a strategy; ValueError names it and the ones there are."""
    try:
        return STRATEGIES[strategy]
    except KeyError:
        raise ValueError(f"strategy: {strategy!r} is not one of {', '.join(STRATEGIES)}") from None
