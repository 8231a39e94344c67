"""Cached answers per request class: equal shapes in one namespace (the idea of Protean's rule caches).

A class's answer is put together from two parts that it shares with other classes (see `parts`) and from the rules about
other VMs (affinity, spreading), which are never cached, because one VM changes whole domains.
"""

from __future__ import annotations

import numpy as np

from lq_operator.core.placement.explain import template_of
from lq_operator.core.placement.filters import FILTERS, Depends, Filter
from lq_operator.core.placement.kernel import Codes, JudgeLoop, address
from lq_operator.core.placement.parts import ABSENT, CODE_BYTES, CODES, FactsPart, RoomPart, keys_of
from lq_operator.core.placement.question import Question
from lq_operator.core.placement.scores import SCORES, Score, after_placement
from lq_operator.core.placement.state import BoolArray, ClusterState, FloatArray, Rows
from lq_operator.core.placement.types import Change, Ranked

REFUSED = -np.inf
"""Key of a row that does not fit."""


def wish_score() -> Score:
    """The one score that is not cached."""
    return next(score for score in SCORES if not score.cached)


class ClassView:
    """Verdicts and keys of one class."""

    def __init__(self, question: Question, facts: FactsPart, room: RoomPart, weights: dict[str, int]) -> None:
        self.question, self.facts, self.room = question, facts, room
        self.held_seen = 0
        self.used = 0  # number of the last question, for forgetting the least recently used
        self.wish = wish_score()
        self.wish_weight = weights.get(self.wish.name, 0)
        self.wishes = bool(question.preferred and self.wish_weight)
        self.template = template_of((*room.shown_weights, (self.wish.name, self.wish_weight)))
        self.group_rules = self.group_filters()
        self.changes: tuple[int, tuple[Change, ...]] = (-1, ())  # (event number, what would make it fit)

    def group_filters(self) -> list[Filter]:
        """Filters about other VMs that have something to say now."""
        return [rule for rule in FILTERS if rule.depends is Depends.GROUPS and rule.applies(self.question)]

    def refresh(self, state: ClusterState) -> None:
        """Bring both parts up to date."""
        self.facts.refresh(state)
        self.room.refresh(state)
        self.question.eligible = self.facts.eligible
        self.question.eligible_domains = self.facts.eligible_domains
        self.question.facts_failing = self.facts.failing

    def judge(self, state: ClusterState) -> tuple[Codes, FloatArray]:
        """Verdict and key of every row (REFUSED where it does not fit), in arrays of the caller's own."""
        n, rows = state.n, slice(0, state.n)
        verdict = np.maximum(self.facts.verdict[:n], self.room.verdict[:n])
        for code, fails in self._refused(state, rows):
            np.maximum(verdict, fails.view(np.uint8) * CODE_BYTES[code], out=verdict)
        key = keys_of(self.total_with_wish(state, rows), state.tie[:n]) if self.wishes else self.room.key[:n]
        return verdict, np.where(verdict, REFUSED, key)

    def judge_with(self, loop: JudgeLoop, state: ClusterState) -> None:
        """The same by the compiled loop, with the best rows and the first ones that are refused; the answer is in it."""
        n, rows = state.n, slice(0, state.n)
        groups = self._refused(state, rows)
        key_at = self.room.key_at
        state.tie_order()  # numbers the tie breakers where hosts came or went
        if self.wishes:
            key = keys_of(self.total_with_wish(state, rows), state.tie[:n])
            key_at = address(key)
        loop.run(n, self.facts.verdict_at, self.room.verdict_at, key_at, groups, ABSENT + 1)

    def _refused(self, state: ClusterState, rows: Rows) -> list[tuple[int, BoolArray]]:
        """Code of each rule about other VMs that is not idle, and which rows it refuses."""
        question = self.question
        return [
            (CODES[rule.name], rule.fails(state, question, rows))
            for rule in self.group_rules
            if not rule.idle(state, question)
        ]

    def judge_row(self, state: ClusterState, row: int) -> int:
        """Verdict of one row."""
        code = max(int(self.facts.verdict[row]), int(self.room.verdict[row]))
        one = slice(row, row + 1)
        for rule in () if code else self.group_rules:
            if rule.fails(state, self.question, one)[0]:
                return CODES[rule.name]
        return code

    def total_with_wish(self, state: ClusterState, rows: Rows) -> FloatArray:
        """The weighted mean with the wishes about other VMs."""
        wish = self._wish_of(state, rows)
        weight = self.room.weight + self.wish_weight
        return (self.room.total[rows] * self.room.weight + wish * self.wish_weight) * (1.0 / weight)

    def _wish_of(self, state: ClusterState, rows: Rows) -> FloatArray:
        return self.wish.value(state, self.question, after_placement(state, self.question.shape, rows))

    def shown(self, state: ClusterState, row: int) -> tuple[Ranked, str]:
        """Score and terms of one host that fits, and their words."""
        ranked, words = self.room.shown(state, row)
        if not self.wishes:
            return ranked, words
        one = slice(row, row + 1)
        wish = float(self._wish_of(state, one)[0])
        total = float(self.total_with_wish(state, one)[0])
        ranked = Ranked(ranked.host, total, (*ranked.terms, (self.wish.name, self.wish_weight, wish)))
        return ranked, self.template % (ranked.host, total, *[value for _, _, value in ranked.terms])
