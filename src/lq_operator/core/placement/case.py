"""A VM that fits nowhere, with the answer of every filter for every host: what the search for changes starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lq_operator.core.placement.filters import BITS, FILTERS, Depends
from lq_operator.core.placement.question import Question
from lq_operator.core.placement.state import BoolArray, ClusterState, IntArray
from lq_operator.core.placement.types import Shape

Pick = tuple[int, str, int, int, str]
"""One change found: (cost, target, value, row, sentence)."""


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
        if len(names) == 1:
            return BITS[names[0]] in self.patterns
        cured = sum(BITS[name] for name in names)
        return bool([pattern for pattern in self.patterns if pattern and not pattern & ~cured])

    def first(self, rows: BoolArray) -> int | None:
        """The first of these rows in tie-breaker order."""
        order = self.state.tie_order()
        at = int(rows[order].argmax()) if len(order) else 0
        return int(order[at]) if len(order) and rows[order[at]] else None


def answers(
    state: ClusterState, question: Question, depends: tuple[Depends, ...] = tuple(Depends)
) -> dict[str, BoolArray]:
    """Every applicable filter's answer for every row, of these sorts of filters. Of all sorts: fills in the hosts that
    spreading may count."""
    every = slice(0, state.n)
    fails: dict[str, BoolArray] = {}
    eligible = state.alive.copy()
    for rule in FILTERS:
        if rule.depends is Depends.GROUPS and Depends.FACTS in depends:
            question.eligible = eligible
        if rule.depends in depends and rule.applies(question):
            fails[rule.name] = rule.fails(state, question, every)
            if rule.depends is Depends.FACTS:
                eligible[every] &= ~fails[rule.name]
    return fails


def case_of(state: ClusterState, question: Question) -> Case:
    """Judge every filter by itself (a decision stops at the first that fails). The question's FACTS are known already."""
    assert question.facts_failing is not None
    fails = answers(state, question, (Depends.LOAD, Depends.GROUPS))
    failing = question.facts_failing[: state.n] + _bits_of(state, fails)
    return Case(state, question, fails, failing, frozenset(failing.tolist()))


def _bits_of(state: ClusterState, fails: dict[str, BoolArray]) -> IntArray:
    failing = np.where(state.alive[: state.n], 0, DEAD)
    for name, mask in fails.items():
        if mask.any():
            failing += mask * BITS[name]
    return failing


def fits_with(case: Case, shape: Shape, **terms: Any) -> BoolArray:
    """Rows that fit when the request is changed."""
    fresh: dict[str, Any] = {"eligible": None, "eligible_domains": {}, "facts_failing": None}
    changed = replace(case.question, shape=shape, **fresh, **terms)
    rows: BoolArray = _bits_of(case.state, answers(case.state, changed)) == 0
    return rows
