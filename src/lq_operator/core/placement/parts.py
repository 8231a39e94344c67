"""The two shareable parts of a class's answer: what the facts of hosts say, and what the room on them allows.

Classes that differ only in labels or in rules about other VMs ask for the same part, so it is kept once and brought up
to date once, for the rows that changed. `facts_key` and `room_key` say what a part depends on; a test holds the filters
and scores against them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from lq_operator.core.placement import kernel
from lq_operator.core.placement.explain import template_of
from lq_operator.core.placement.filters import BITS, FILTERS, Depends, Filter
from lq_operator.core.placement.kernel import Codes
from lq_operator.core.placement.question import Question
from lq_operator.core.placement.scores import SCORES, after_placement
from lq_operator.core.placement.state import BoolArray, ClusterState, FloatArray, IntArray, Rows
from lq_operator.core.placement.types import Ranked, Shape, Verdict

FITS = 0
CODES = {rule.name: len(FILTERS) - at for at, rule in enumerate(FILTERS)}
"""Verdict of a row: FITS or the code of the first filter that refuses. Earlier filters have higher codes, so verdicts of
many filters are put together by their maximum, in any order."""

CODE_BYTES = tuple(np.array(code, np.uint8) for code in range(len(FILTERS) + 2))
"""Codes as numpy has them: half the cost of a call on few rows is making one of a Python integer."""

ABSENT = len(FILTERS) + 1
"""Verdict of a row without a host."""

MAX_SHOWN = 256
"""Hosts per part whose words are kept: the best ones come up again and again."""

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
        np.putmask(verdict, rule.fails(state, question, rows), CODE_BYTES[CODES[rule.name]])


class FactsPart:
    """Verdicts of the FACTS filters, and the hosts and domains that pass them all."""

    def __init__(self, shape: Shape) -> None:
        self.question = Question("", shape)
        self.rules = [rule for rule in FILTERS if rule.depends is Depends.FACTS and rule.applies(self.question)]
        self.verdict: Codes = np.zeros(0, np.uint8)
        self.verdict_at = 0
        """Address of the verdicts, for the compiled loop; so in RoomPart."""
        self.eligible: BoolArray = np.zeros(0, np.bool_)
        self.failing: IntArray = np.zeros(0, np.int64)  # every filter that refuses, see BITS
        self.eligible_domains: dict[str, tuple[int, list[int]]] = {}
        self.examples: dict[int, Verdict] = {}  # per code the first host that it refuses, with its sentence
        self._position = -1

    def refresh(self, state: ClusterState) -> None:
        """Judge the rows whose facts changed."""
        if self._position == state.facts_log.position:
            return
        rows: Rows | None = state.facts_log.since(self._position)
        self._position = state.facts_log.position
        if rows is None or len(self.verdict) != len(state.alive):
            self.verdict, rows = np.full(len(state.alive), ABSENT, np.uint8), slice(0, state.n)
            self.verdict_at = kernel.address(self.verdict)
            self.failing = np.zeros(len(state.alive), np.int64)
        alive = state.alive[rows]
        verdict: Codes = np.zeros(len(alive), np.uint8)
        bits: IntArray = np.zeros(len(alive), np.int64)
        for rule in reversed(self.rules):  # the first filter that refuses is written last
            fails = rule.fails(state, self.question, rows)
            np.putmask(verdict, fails, CODE_BYTES[CODES[rule.name]])
            bits += fails * BITS[rule.name]
        np.putmask(verdict, ~alive, ABSENT)
        self.verdict[rows] = verdict
        self.failing[rows] = bits
        self.eligible = self.verdict == FITS
        self.eligible_domains = {}
        self.examples = {}


class RoomPart:
    """Verdicts of the LOAD filters and the order of hosts by the cached scores, for one size of VM and one strategy."""

    def __init__(self, shape: Shape, weights: dict[str, int]) -> None:
        question = self.question = Question("", shape)
        self.rules = [rule for rule in FILTERS if rule.depends is Depends.LOAD and rule.applies(question)]
        self.scores = [s for s in SCORES if s.cached and weights.get(s.name) and s.applies(question)]
        self.weight = sum(weights[score.name] for score in self.scores)
        self.shown_weights = tuple([(score.name, weights[score.name]) for score in self.scores])
        """Names and weights of the cached terms, in order."""
        self._names = [name for name, _ in self.shown_weights]
        self._weights = [weight for _, weight in self.shown_weights]
        self._shares = [weight / max(1, self.weight) for _, weight in self.shown_weights]
        self._sized = [pool for pool, size in shape.pools.items() if size]
        self.template = template_of(self.shown_weights)
        self.verdict: Codes = np.zeros(0, np.uint8)
        self.key: FloatArray = np.zeros(0)
        self.verdict_at = self.key_at = 0
        self.total: FloatArray = np.zeros(0)  # weighted mean of the cached terms
        self.terms: list[FloatArray] = []  # one array per term
        self._loop: kernel.RoomLoop | None = None
        self._shown: dict[int, tuple[int, Ranked, str]] = {}  # per row: its version, and what is shown of it
        self._position = -1
        self._pool_events = -1
        self._pool_versions: list[int] = []

    def refresh(self, state: ClusterState) -> None:
        """Judge and score the rows whose room changed."""
        position = state.load_log.position
        every = self._sized and self._pool_events != state.pool_events and self._pools_changed(state)
        if self._position == position and not every:
            return
        changed = state.load_log.since(self._position)
        self._position = position
        if len(self.verdict) != len(state.alive):
            self._resize(state)
            changed = None
        some = None if changed is None or every or 2 * len(changed) > state.n else changed
        if self._loop is not None:
            self._loop.run(some, state.n if some is None else len(some))
        else:
            self._judge(state, slice(0, state.n) if some is None else some)

    def _judge(self, state: ClusterState, rows: Rows) -> None:
        question, tie = self.question, state.tie[rows]
        verdict = np.zeros(len(tie), np.uint8)
        note_refusals(verdict, self.rules, state, question, rows)
        self.verdict[rows] = verdict
        after = after_placement(state, question.shape, rows)
        total: FloatArray | None = None
        for at, (score, share) in enumerate(zip(self.scores, self._shares, strict=True)):
            value: FloatArray = score.value(state, question, after)
            self.terms[at][rows] = value
            value = value * share
            total = value if total is None else np.add(total, value, out=total)
        if total is None:
            total = np.zeros(len(tie))
        self.total[rows] = total
        self.key[rows] = keys_of(total, tie)

    def _pools_changed(self, state: ClusterState) -> bool:
        versions = [state.pool_version.get(pool, 0) for pool in self._sized]
        changed = versions != self._pool_versions
        self._pool_events, self._pool_versions = state.pool_events, versions
        return changed

    def _resize(self, state: ClusterState) -> None:
        capacity = len(state.alive)
        self.verdict, self.key, self.total = np.zeros(capacity, np.uint8), np.zeros(capacity), np.zeros(capacity)
        self.terms = [np.zeros(capacity) for _ in self.scores]
        self.verdict_at, self.key_at = kernel.address(self.verdict), kernel.address(self.key)
        self._shown.clear()
        self._loop = self._compiled(state)

    def _compiled(self, state: ClusterState) -> kernel.RoomLoop | None:
        shape = self.question.shape
        if kernel.library is None or any(name not in kernel.TERMS for name in self._names):
            return None
        needs = kernel.needs_of(state, shape, {rule.name for rule in self.rules})
        if needs is None:
            return None
        terms = list(zip(self._names, self._shares, self.terms, strict=True))
        return kernel.RoomLoop(kernel.library, state, shape, needs, CODES, terms, (self.verdict, self.total, self.key))

    def shown(self, state: ClusterState, row: int) -> tuple[Ranked, str]:
        """Score and terms of one host, and their words; kept while the host's row stays as it is."""
        version = state.version.item(row)
        known = self._shown.get(row)
        if known is not None and known[0] == version:
            return known[1], known[2]
        total, values = self.total.item(row), [term.item(row) for term in self.terms]
        terms = tuple(zip(self._names, self._weights, values, strict=True))
        host = state.names[row]
        ranked, words = Ranked(host, total, terms), self.template % (host, total, *values)
        if len(self._shown) >= MAX_SHOWN:
            self._shown.clear()
        self._shown[row] = (version, ranked, words)
        return ranked, words
