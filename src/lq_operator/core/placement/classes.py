"""Cached answers per request class: verdict and score of every host, brought up to date row by row.

Equal shapes in one namespace are one class (the idea of Protean's rule caches). Only rows in the change logs are
looked at again; what depends on other VMs (affinity, spreading) is never cached, because one VM changes whole domains.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lq_operator.core.placement.explain import template_of
from lq_operator.core.placement.filters import FILTERS, Depends, Filter, Question
from lq_operator.core.placement.scores import SCORES, After, Numbers, Score, after_placement
from lq_operator.core.placement.state import ClusterState, FloatArray, Rows

ABSENT = len(FILTERS) + 2
"""Verdict of a row without a host. 0 = fits, i = FILTERS[i - 1] refuses, GUARD = the failover guard refuses."""

GUARD = len(FILTERS) + 1

SCORE_STEPS = 2**20
"""Scores are compared in steps of 2^-20; hosts that are equal so far are told apart by their seeded tie (0..1), which
float64 adds without loss."""

REFUSED = -np.inf

CODES = {rule.name: code for code, rule in enumerate(FILTERS, 1)}


def keys_of(total: FloatArray, tie: FloatArray) -> FloatArray:
    """Total order of hosts: score in steps, then the tie breaker. Overwrites `total`."""
    total *= SCORE_STEPS
    np.floor(total, out=total)
    total += tie
    return total


class ClassView:
    """Verdicts and keys of one class."""

    def __init__(self, state: ClusterState, question: Question, weights: dict[str, int]) -> None:
        self.question = question
        self.held_seen = 0
        applicable = [rule for rule in FILTERS if rule.applies(question) or rule.depends is Depends.GROUPS]
        self.facts_filters = [rule for rule in applicable if rule.depends is Depends.FACTS]
        self.load_filters = [rule for rule in applicable if rule.depends is Depends.LOAD]
        self.scores = [s for s in SCORES if s.cached and weights.get(s.name) and s.applies(question)]
        self.weights = [weights[score.name] for score in self.scores]
        self.weight = sum(self.weights)
        self.parts = [weight / max(1, self.weight) for weight in self.weights]
        self.wish_weight = weights.get("vm-wish", 0)
        self.wishes = bool(question.preferred and self.wish_weight)
        shown = [(score.name, weight) for score, weight in zip(self.scores, self.weights, strict=True)]
        self.template = template_of((*shown, ("vm-wish", self.wish_weight)) if self.wishes else tuple(shown))
        self._facts_position = (-1, 0)
        self._load_position = (-1, 0)
        self._pool_versions: tuple[int, ...] = ()
        self.group_rules = self.group_filters()
        self._allocate(state)

    def _allocate(self, state: ClusterState) -> None:
        size = len(state.alive)
        self.static: npt.NDArray[np.int8] = np.zeros(size, np.int8)
        self.verdict: npt.NDArray[np.int8] = np.full(size, ABSENT, np.int8)
        self.key: FloatArray = np.full(size, REFUSED)

    def group_filters(self) -> list[Filter]:
        """Filters about other VMs that have something to say now."""
        return [rule for rule in FILTERS if rule.depends is Depends.GROUPS and rule.applies(self.question)]

    def refresh(self, state: ClusterState) -> None:
        """Bring every row up to date."""
        if len(self.verdict) != len(state.alive):
            self._allocate(state)
            self._facts_position = self._load_position = (-1, 0)
        n = state.n
        if self._facts_position != state.facts_log.position:
            rows = state.facts_log.since(self._facts_position)
            self._facts_position = state.facts_log.position
            self._judge_facts(state, slice(0, n) if rows is None else rows)
            self.question.eligible = self.static == 0
            self.question.eligible_domains.clear()
        versions = tuple(state.pool_version.get(pool, 0) for pool in self.question.shape.pools)
        if self._load_position != state.load_log.position or versions != self._pool_versions:
            rows = state.load_log.since(self._load_position) if versions == self._pool_versions else None
            self._load_position, self._pool_versions = state.load_log.position, versions
            self._judge_load(state, slice(0, n) if rows is None or 2 * len(rows) > n else rows)

    def _judge_facts(self, state: ClusterState, rows: Rows) -> None:
        verdict = np.zeros(len(state.alive[rows]), np.int8)
        for rule in reversed(self.facts_filters):  # the first filter that fails is written last
            np.copyto(verdict, CODES[rule.name], where=rule.fails(state, self.question, rows))
        np.copyto(verdict, ABSENT, where=~state.alive[rows])
        self.static[rows] = verdict

    def _judge_load(self, state: ClusterState, rows: Rows) -> None:
        static = self.static[rows]
        verdict = np.zeros(len(static), np.int8)
        for rule in reversed(self.load_filters):
            np.copyto(verdict, CODES[rule.name], where=rule.fails(state, self.question, rows))
        np.copyto(verdict, static, where=static != 0)
        self.verdict[rows] = verdict
        key = keys_of(self.total_of(state, after_placement(state, self.question.shape, rows)), state.tie[rows])
        np.copyto(key, REFUSED, where=verdict != 0)
        self.key[rows] = key

    def total_of(self, state: ClusterState, after: After) -> Numbers:
        """Weighted mean of the cached terms, for all rows or for one."""
        total: Numbers = None
        for score, part in zip(self.scores, self.parts, strict=True):
            value = part * score.value(state, self.question, after)
            total = value if total is None else total + value
        return after.cpu * 0.0 if total is None else total

    def total_with_wish(self, state: ClusterState, after: After) -> Numbers:
        """The same with the wishes about other VMs, which are never cached."""
        wish = wish_score().value(state, self.question, after)
        weight = self.weight + self.wish_weight
        return (self.total_of(state, after) * self.weight + wish * self.wish_weight) * (1.0 / weight)


def wish_score() -> Score:
    """The one score that is not cached."""
    return next(score for score in SCORES if not score.cached)
