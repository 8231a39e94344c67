"""The two shareable parts of a class's answer: what the facts of hosts say, and what the room on them allows.

Classes that differ only in labels or in rules about other VMs ask for the same part, so it is kept once and brought up
to date once, for the rows that changed. `facts_key` and `room_key` say what a part depends on; a test holds the filters
and scores against them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from lq_operator.core.placement.explain import template_of
from lq_operator.core.placement.filters import FILTERS, Depends, Filter
from lq_operator.core.placement.question import Question
from lq_operator.core.placement.scores import SCORES, After, Numbers, after_on_row, after_placement
from lq_operator.core.placement.state import BoolArray, ClusterState, FloatArray, Rows
from lq_operator.core.placement.types import Ranked, Shape

Codes = npt.NDArray[np.uint8]

FITS = 0
CODES = {rule.name: len(FILTERS) - at for at, rule in enumerate(FILTERS)}
"""Verdict of a row: FITS or the code of the first filter that refuses. Earlier filters have higher codes, so verdicts of
many filters are put together by their maximum, in any order."""

ABSENT = len(FILTERS) + 1
"""Verdict of a row without a host."""

SCORE_STEPS = 2**20
"""Scores are compared in steps of 2^-20; hosts that are equal so far are told apart by their seeded tie (0..1), which
float64 adds without loss."""


def facts_key(shape: Shape) -> Hashable:
    """Everything about a shape that FACTS filters look at."""
    return (
        shape.tolerations,
        shape.node_selector,
        shape.node_affinity,
        shape.cpu_model,
        shape.networks,
        tuple(shape.pools),
        tuple(shape.bound_volumes.items()),
    )


def room_key(shape: Shape) -> Hashable:
    """Everything about a shape that LOAD filters and cached scores look at; the strategy comes on top."""
    return (
        shape.vcpus,
        shape.memory_mib,
        shape.hugepage_kib,
        shape.dedicated_cpus,
        shape.numa_cells,
        tuple(shape.devices.items()),
        tuple(shape.pools.items()),
        shape.demand,
        shape.images,
        shape.preferred_nodes,
    )


def keys_of(total: FloatArray, tie: FloatArray) -> FloatArray:
    """Total order of hosts: score in steps, then the tie breaker. Overwrites `total`."""
    total *= SCORE_STEPS
    np.floor(total, out=total)
    total += tie
    return total


def note_refusals(verdict: Codes, rules: Sequence[Filter], state: ClusterState, question: Question, rows: Rows) -> None:
    """Write the code of the first of these filters that refuses each row."""
    for rule in reversed(rules):
        np.putmask(verdict, rule.fails(state, question, rows), CODES[rule.name])


class FactsPart:
    """Verdicts of the FACTS filters, and the hosts and domains that pass them all."""

    def __init__(self, shape: Shape) -> None:
        self.question = Question("", shape)
        self.rules = [rule for rule in FILTERS if rule.depends is Depends.FACTS and rule.applies(self.question)]
        self.verdict: Codes = np.zeros(0, np.uint8)
        self.eligible: BoolArray = np.zeros(0, np.bool_)
        self.eligible_domains: dict[str, tuple[int, list[int]]] = {}
        self._position = (-1, 0)

    def refresh(self, state: ClusterState) -> None:
        """Judge the rows whose facts changed."""
        if self._position == state.facts_log.position:
            return
        rows: Rows | None = state.facts_log.since(self._position)
        self._position = state.facts_log.position
        if rows is None or len(self.verdict) != len(state.alive):
            self.verdict, rows = np.full(len(state.alive), ABSENT, np.uint8), slice(0, state.n)
        alive = state.alive[rows]
        verdict: Codes = np.zeros(len(alive), np.uint8)
        note_refusals(verdict, self.rules, state, self.question, rows)
        np.putmask(verdict, ~alive, ABSENT)
        self.verdict[rows] = verdict
        self.eligible = self.verdict == FITS
        self.eligible_domains = {}


class RoomPart:
    """Verdicts of the LOAD filters and the order of hosts by the cached scores, for one size of VM and one strategy."""

    def __init__(self, shape: Shape, weights: dict[str, int]) -> None:
        question = self.question = Question("", shape)
        self.rules = [rule for rule in FILTERS if rule.depends is Depends.LOAD and rule.applies(question)]
        self.scores = [s for s in SCORES if s.cached and weights.get(s.name) and s.applies(question)]
        self.weights = [weights[score.name] for score in self.scores]
        self.weight = sum(self.weights)
        self.shares = [weight / max(1, self.weight) for weight in self.weights]
        self._terms = [
            (s.name, weight, share, s.value)
            for s, weight, share in zip(self.scores, self.weights, self.shares, strict=True)
        ]
        self.template = template_of(self.shown_weights)
        self.verdict: Codes = np.zeros(0, np.uint8)
        self.key: FloatArray = np.zeros(0)
        self._position = (-1, 0)
        self._pool_versions: list[int] = []

    @property
    def shown_weights(self) -> tuple[tuple[str, int], ...]:
        """Names and weights of the cached terms, in order."""
        return tuple((score.name, weight) for score, weight in zip(self.scores, self.weights, strict=True))

    def refresh(self, state: ClusterState) -> None:
        """Judge and score the rows whose room changed."""
        position, pools = state.load_log.position, self.question.shape.pools
        versions = [state.pool_version.get(pool, 0) for pool in pools] if pools else []
        if self._position == position and versions == self._pool_versions:
            return
        changed = state.load_log.since(self._position)
        if len(self.verdict) != len(state.alive):
            self.verdict, self.key, changed = np.zeros(len(state.alive), np.uint8), np.zeros(len(state.alive)), None
        every = changed is None or versions != self._pool_versions or 2 * len(changed) > state.n
        rows: Rows = slice(0, state.n) if changed is None or every else changed
        self._position, self._pool_versions = position, versions
        tie = state.tie[rows]
        verdict = np.zeros(len(tie), np.uint8)
        note_refusals(verdict, self.rules, state, self.question, rows)
        self.verdict[rows] = verdict
        self.key[rows] = keys_of(self.total_of(state, after_placement(state, self.question.shape, rows)), tie)

    def total_of(self, state: ClusterState, after: After) -> Numbers:
        """Weighted mean of the cached terms, for all rows or for one."""
        total: Numbers = None
        for _, _, share, value_of in self._terms:
            value = share * value_of(state, self.question, after)
            total = value if total is None else total + value
        return after.cpu * 0.0 if total is None else total

    def shown(self, state: ClusterState, row: int) -> tuple[Ranked, str]:
        """Score and terms of one host, and their words."""
        after = after_on_row(state, self.question.shape, row)
        terms, values, total = [], [], 0.0
        for name, weight, share, value_of in self._terms:
            value = value_of(state, self.question, after)
            if isinstance(value, np.ndarray):  # a term that reads a column
                value = float(value[0])
            terms.append((name, weight, value))
            values.append(value)
            total += share * value
        host = state.names[row]
        return Ranked(host, total, tuple(terms)), self.template % (host, total, *values)
