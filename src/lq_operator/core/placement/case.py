"""A VM that fits nowhere, with the answer of every filter for every host: what the search for changes starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lq_operator.core.placement.filters import FILTERS, Depends
from lq_operator.core.placement.question import Question
from lq_operator.core.placement.state import BoolArray, ClusterState, IntArray
from lq_operator.core.placement.types import Shape

Pick = tuple[int, str, int, int, str]
"""One change found: (cost, target, value, row, sentence)."""


BITS = {rule.name: 1 << at for at, rule in enumerate(FILTERS)}
DEAD = 1 << len(FILTERS)


@dataclass(slots=True)
class Case:
    """A VM that fits nowhere, with every filter's answer for every row."""

    state: ClusterState
    question: Question
    fails: dict[str, BoolArray]
    failing: IntArray  # a bit per filter that refuses, per row (BITS); a dead row has one nobody can cure
    patterns: frozenset[int]  # the values that occur in `failing`

    @property
    def shape(self) -> Shape:
        return self.question.shape

    def only(self, *names: str) -> BoolArray:
        """Rows that are refused by these filters alone."""
        cured = sum(BITS[name] for name in names)
        found = [pattern for pattern in self.patterns if pattern and not pattern & ~cured]
        rows: BoolArray = np.zeros(len(self.failing), np.bool_)
        for pattern in found:
            rows |= self.failing == pattern
        return rows

    def any_only(self, *names: str) -> bool:
        """Whether there is such a row."""
        cured = sum(BITS[name] for name in names)
        return any(pattern and not pattern & ~cured for pattern in self.patterns)

    def first(self, rows: BoolArray) -> int | None:
        """The first of these rows in tie-breaker order."""
        order = self.state.tie_order()
        at = int(rows[order].argmax()) if len(order) else 0
        return int(order[at]) if len(order) and rows[order[at]] else None


def answers(state: ClusterState, question: Question) -> dict[str, BoolArray]:
    """Every applicable filter's answer for every row; fills in the domains that spreading may count."""
    every = slice(0, state.n)
    fails: dict[str, BoolArray] = {}
    eligible = state.alive.copy()
    for rule in FILTERS:
        if rule.depends is Depends.GROUPS:
            question.eligible = eligible
        if rule.applies(question):
            fails[rule.name] = rule.fails(state, question, every)
            if rule.depends is Depends.FACTS:
                eligible[every] &= ~fails[rule.name]
    return fails


def case_of(state: ClusterState, question: Question) -> Case:
    """Judge every filter by itself (a decision stops at the first that fails)."""
    own = replace(question, eligible=None, eligible_domains={})
    fails = answers(state, own)
    failing = _bits_of(state, fails)
    return Case(state, own, fails, failing, frozenset(failing.tolist()))


def _bits_of(state: ClusterState, fails: dict[str, BoolArray]) -> IntArray:
    failing = np.where(state.alive[: state.n], 0, DEAD)
    for name, mask in fails.items():
        failing += mask * BITS[name]
    return failing


def fits_with(case: Case, shape: Shape, **terms: object) -> BoolArray:
    """Rows that fit when the request is changed."""
    changed = replace(case.question, shape=shape, eligible=None, eligible_domains={}, **terms)  # type: ignore[arg-type]
    rows: BoolArray = _bits_of(case.state, answers(case.state, changed)) == 0
    return rows
