"""The placement engine: cluster state in, decisions with reasons out.

Deterministic: the same facts, VMs, request and seed give the same bytes, whatever the order of events was. One
thread at a time. Holds no clock: the caller expires reservations.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from weakref import WeakValueDictionary

import numpy as np

from lq_operator.core.placement import counterfactual, explain, kernel
from lq_operator.core.placement.classes import REFUSED, ClassView
from lq_operator.core.placement.filters import FILTERS, Depends
from lq_operator.core.placement.kernel import Codes, JudgeLoop
from lq_operator.core.placement.parts import ABSENT, CODES, FITS, FactsPart, RoomPart, facts_key, room_key
from lq_operator.core.placement.question import Question
from lq_operator.core.placement.records import Occupant
from lq_operator.core.placement.rules_room import cell_fits
from lq_operator.core.placement.scores import weights_for
from lq_operator.core.placement.state import BoolArray, ClusterState, FloatArray
from lq_operator.core.placement.types import (
    Change,
    Decision,
    HostFacts,
    Placed,
    PlacementRequest,
    Reservation,
    Shape,
    Verdict,
    VmKey,
)

REFUSAL_CODES = tuple(range(ABSENT - 1, FITS, -1))
NAMES = {CODES[rule.name]: rule.name for rule in FILTERS}
FACTS_CODES = min(CODES[rule.name] for rule in FILTERS if rule.depends is Depends.FACTS)
GUARD_NAME = "failover"
GUARD_TRIES = 64
CACHE_BYTES = 128 * 2**20
"""Memory for cached classes; the least recently used class goes first."""

Guard = Callable[[VmKey, Shape, str], str]
"""Asked before a host is chosen: '' = yes, else the sentence that refuses (failover admission)."""


class PlacementEngine:
    """Places one VM at a time on the best host that passes every filter.

    strategy: default of requests that name none ('spread', 'balanced', 'pack'). seed: breaks ties between equal hosts,
    give every replica its own. guard: failover admission, or None for off.
    """

    def __init__(self, strategy: str = "balanced", *, seed: int = 0, guard: Guard | None = None) -> None:
        weights_for(strategy)
        self.strategy = strategy
        self.seed = seed
        self.guard = guard
        self.state = ClusterState(seed)
        self._views: dict[tuple[str, Shape], ClassView] = {}
        self._facts_parts: WeakValueDictionary[Hashable, FactsPart] = WeakValueDictionary()
        self._room_parts: WeakValueDictionary[Hashable, RoomPart] = WeakValueDictionary()
        self._loop: JudgeLoop | None = None
        self._questions = 0
        self._asked: dict[VmKey, Shape] = {}
        self._fresh: tuple[int, VmKey, str] | None = None  # (event number, VM, host) of the last decision

    # ------------------------------------------------------------ events

    def set_host(self, facts: HostFacts) -> None:
        """A host appeared or changed. O(labels + resources of the host)."""
        self.state.set_host(facts)

    def remove_host(self, name: str) -> None:
        """A host left. Its VMs stay known: they count again when it comes back."""
        self.state.remove_host(name)

    def set_vm(self, placed: Placed) -> None:
        """A VM holds room on a host (known or not). Ends a reservation of the same VM on the same host; one on
        another host stays, as both sides of a move hold room."""
        old = self.state.placed.get(placed.identity)
        if old == placed:
            return
        if old is not None:
            self.state.vacate(old.host, placed.identity)
        reservation = self.state.reserved.get(placed.identity)
        self.state.placed[placed.identity] = placed
        if reservation is not None and reservation.host == placed.host:
            if reservation.shape == placed.shape and reservation.numa_cells == placed.numa_cells:
                del self.state.reserved[placed.identity]
                self.state.settle(placed.host, placed.identity)
                return
            self.release(placed.identity)
        self.state.occupy(placed.host, placed.identity, Occupant(placed.shape, placed.numa_cells, reserved=False))

    def remove_vm(self, identity: VmKey) -> None:
        """A VM holds no room any more. A reservation it has elsewhere stays until `release`."""
        old = self.state.placed.pop(identity, None)
        if old is not None:
            self.state.vacate(old.host, identity)

    def reserve(self, identity: VmKey, host: str, shape: Shape | None = None) -> Reservation | Verdict:
        """Hold room for a decision in flight; a Verdict says why the host does not fit (any more).

        `shape` may be left out for a VM that `decide` was asked about. A second reservation replaces the first.
        """
        shape = shape or self._asked.get(identity)
        if shape is None:
            raise ValueError(f"reserve {identity}: no shape is known; decide first or pass the shape")
        if identity in self.state.reserved:
            self.release(identity)
        placed = self.state.placed.get(identity)
        if placed is not None and placed.host == host:  # it holds that room already
            return Reservation(identity, host, shape, placed.numa_cells, self.version(host))
        if self._fresh != (self.state.events, identity, host):  # else nothing happened since this was decided
            verdict = self.verdict(PlacementRequest(identity, shape), host)
            if verdict.filter:
                return verdict
        cells = self._choose_cells(shape, self.state.rows[host])
        self._asked.pop(identity, None)
        return self._hold(identity, host, shape, cells)

    def hold(self, reservation: Reservation) -> Reservation:
        """Take a reservation as it is, unchecked: for replay, and for a host that is not known yet."""
        return self._hold(reservation.identity, reservation.host, reservation.shape, reservation.numa_cells)

    def _hold(self, identity: VmKey, host: str, shape: Shape, cells: tuple[int, ...]) -> Reservation:
        self.release(identity)
        self.state.occupy(host, identity, Occupant(shape, cells, reserved=True))
        held = self.state.reserved[identity] = Reservation(identity, host, shape, cells, self.version(host))
        return held

    def release(self, identity: VmKey) -> None:
        """Give a reservation back; nothing happens where there is none."""
        reservation = self.state.reserved.pop(identity, None)
        if reservation is not None:
            self.state.vacate(reservation.host, identity)

    def version(self, host: str) -> int:
        """Version of a host's row: changes with every event that touches it. -1 = unknown host."""
        row = self.state.rows.get(host)
        return -1 if row is None else int(self.state.version[row])

    # ------------------------------------------------------------ questions

    def decide(self, request: PlacementRequest) -> Decision:
        """The best host, or None with the cheapest single changes that would make the VM fit.

        A VM that already holds room is judged as if it held none.
        """
        identity, state = request.identity, self.state
        if identity in state.placed or identity in state.reserved:
            held = self._lift(identity)
            try:
                decision = self._decide(request)
            finally:
                self._put_back(identity, held)
        else:
            decision = self._decide(request)
        if len(self._asked) > 10_000:
            self._asked.clear()
        self._asked[identity] = request.shape
        self._fresh = None if decision.host is None else (state.events, identity, decision.host)
        return decision

    def explain(self, request: PlacementRequest) -> tuple[Verdict, ...]:
        """The verdict of every host, by name; filter '' = it fits."""
        held = self._lift(request.identity)
        try:
            view = self._view(request.identity.namespace, request.shape)
            verdict, _ = view.judge(self.state)
            rows = sorted(self.state.rows.items())
            return tuple(self._verdict(view, row, int(verdict[row])) for _, row in rows)
        finally:
            self._put_back(request.identity, held)

    def verdict(self, request: PlacementRequest, host: str) -> Verdict:
        """The verdict of one host."""
        row = self.state.rows.get(host)
        if row is None:
            return Verdict(host, "ready", "is not known")
        held = self._lift(request.identity)
        try:
            view = self._view(request.identity.namespace, request.shape)
            return self._verdict(view, row, view.judge_row(self.state, row))
        finally:
            self._put_back(request.identity, held)

    def fitting_by_facts(self, namespace: str, shape: Shape) -> BoolArray:
        """Per row: whether the facts of the host (not its room, not other VMs) allow the shape."""
        fitting: BoolArray = self._view(namespace, shape).facts.verdict[: self.state.n] == FITS
        return fitting

    # ------------------------------------------------------------ inside

    def _lift(self, identity: VmKey) -> list[tuple[str, Occupant]]:
        hosts = [
            entry.host
            for entry in (self.state.placed.get(identity), self.state.reserved.get(identity))
            if entry is not None
        ]
        held = [(host, self.state.occupants[host][identity]) for host in hosts]
        for host, _ in held:
            self.state.vacate(host, identity)
        return held

    def _put_back(self, identity: VmKey, held: list[tuple[str, Occupant]]) -> None:
        for host, occupant in held:
            self.state.occupy(host, identity, occupant)

    def _view(self, namespace: str, shape: Shape) -> ClassView:
        view = self._views.get((namespace, shape))
        if view is None:
            view = self._views[namespace, shape] = self._new_view(namespace, shape)
        self._questions += 1
        view.used = self._questions
        held = self.state.groups.held_order
        if view.held_seen != len(held):
            found = [group for group in held[view.held_seen :] if group.selects(namespace, shape)]
            view.question.refused_by = (*view.question.refused_by, *found)
            view.held_seen = len(held)
            view.group_rules = view.group_filters()
        view.refresh(self.state)
        return view

    def _new_view(self, namespace: str, shape: Shape) -> ClassView:
        limit = max(16, CACHE_BYTES // (16 * len(self.state.alive)))
        if len(self._views) >= limit:  # an eighth at a time, so that looking for the oldest costs little per class
            for key in sorted(self._views, key=lambda key: self._views[key].used)[: 1 + limit // 8]:
                self._forget(key)
        groups = self.state.groups
        terms = (
            *shape.affinity,
            *shape.anti_affinity,
            *(w.term for w in shape.preferred),
            *(s.term for s in shape.spread),
        )
        for topology_key in {term.topology_key for term in terms}:
            self.state.topology(topology_key)
        question = Question(
            namespace,
            shape,
            affinity=tuple((term, groups.member_group(term, namespace)) for term in shape.affinity),
            anti_affinity=tuple((term, groups.member_group(term, namespace)) for term in shape.anti_affinity),
            spread=tuple((spread, groups.member_group(spread.term, namespace)) for spread in shape.spread),
            preferred=tuple((w.term, groups.member_group(w.term, namespace), w.weight) for w in shape.preferred),
        )
        question.belongs = frozenset(group for group in question.groups() if group.matches(namespace, shape))
        for group in question.groups():
            group.users += 1
        strategy = shape.strategy or self.strategy
        weights = weights_for(strategy)
        wanted = facts_key(shape)
        facts = self._facts_parts.get(wanted)
        if facts is None:
            facts = self._facts_parts[wanted] = FactsPart(shape)
        size = (strategy, room_key(shape))
        room = self._room_parts.get(size)
        if room is None:
            room = self._room_parts[size] = RoomPart(shape, weights)
        return ClassView(question, facts, room, weights)

    def _forget(self, key: tuple[str, Shape]) -> None:
        view = self._views.pop(key)
        for group in view.question.groups():
            group.users -= 1
            if not group.users:
                self.state.groups.drop_member_group(group)

    def _decide(self, request: PlacementRequest) -> Decision:
        view, state = self._view(request.identity.namespace, request.shape), self.state
        refusals: list[Verdict] = []
        first: Callable[[int], int]
        if kernel.library is not None and self.guard is None and state.n:
            loop = self._loop
            if loop is None or len(loop.verdict) != len(state.alive):
                loop = self._loop = JudgeLoop(kernel.library, state)
            view.judge_with(loop, state)
            counts, first = loop.counts[: ABSENT + 1].tolist(), loop.first.item
            rows = [row for row in loop.best.tolist() if row >= 0]
        else:
            verdict, key = view.judge(state)
            counts, first = np.bincount(verdict, minlength=ABSENT + 1).tolist(), self._first_by_tie(verdict)
            rows = self._best_rows(request, key, refusals)
        total = len(state.rows)
        codes = [code for code in REFUSAL_CODES if counts[code]]  # in the order of FILTERS
        rejected = tuple([(NAMES[code], counts[code]) for code in codes])
        examples = self._examples(view, first, counts, codes)
        if refusals:
            rejected += ((GUARD_NAME, len(refusals)),)
            examples += (refusals[0],)
        if rows:
            shown = [view.shown(state, row) for row in rows]
            best = tuple([ranked for ranked, _ in shown])
            cells = self._choose_cells(request.shape, rows[0]) if request.shape.bound_cells else ()
            feasible = counts[FITS] - len(refusals)
            text = explain.say_placed([words for _, words in shown], feasible, total, rejected, examples)
            return Decision(request.identity, best[0].host, cells, best, feasible, total, rejected, examples, (), text)
        changes = () if refusals else self._changes(view)
        text = explain.say_unplaced(total, rejected, examples, changes)
        return Decision(request.identity, None, (), (), 0, total, rejected, examples, changes, text)

    def _changes(self, view: ClassView) -> tuple[Change, ...]:
        """What would make the class fit; looked for once while nothing happens, however many equal VMs wait."""
        if view.changes[0] != self.state.events:
            found = counterfactual.cheapest(self.state, view.question)
            view.changes = (self.state.events, found)  # the search lifts VMs and puts them back: events are counted
        return view.changes[1]

    def _best_rows(self, request: PlacementRequest, key: FloatArray, refusals: list[Verdict]) -> list[int]:
        """The best three rows; with a guard the first of them is one that it accepts."""
        best: list[int] = []
        for _ in range(min(len(key), GUARD_TRIES + 3)):
            row = int(key.argmax())
            if key.item(row) == REFUSED:
                break
            if not best and self.guard is not None:
                refusal = self.guard(request.identity, request.shape, self.state.names[row])
                if refusal:
                    refusals.append(Verdict(self.state.names[row], GUARD_NAME, refusal))
                    key[row] = REFUSED
                    continue
            best.append(row)
            if len(best) == 3:
                break
            key[row] = REFUSED
        return best

    def _first_by_tie(self, verdict: Codes) -> Callable[[int], int]:
        """Says of a code that some row has which of these rows comes first by tie breaker."""
        order = self.state.tie_order()
        ordered = b""

        def first(code: int) -> int:
            nonlocal ordered
            ordered = ordered or verdict.take(order).tobytes()  # bytes.find is the fastest search there is here
            return int(order[ordered.index(code)])

        return first

    def _examples(
        self, view: ClassView, first: Callable[[int], int], counts: list[int], codes: list[int]
    ) -> tuple[Verdict, ...]:
        """One host per filter that refused (of the two strictest filters where the VM fits elsewhere): the first in
        tie-breaker order, so that no order of events shows in it."""
        if counts[FITS] and len(codes) > 2:
            codes = sorted(sorted(codes, key=counts.__getitem__, reverse=True)[:2], reverse=True)
        known, found = view.facts.examples, []
        for code in codes:
            example = known.get(code)
            if example is None:
                example = self._verdict(view, first(code), code)
                if code >= FACTS_CODES:  # no other filter comes before it: it stays so until facts change
                    known[code] = example
            found.append(example)
        return tuple(found)

    def _verdict(self, view: ClassView, row: int, code: int) -> Verdict:
        if code == FITS:
            return Verdict(self.state.names[row], "", "fits")
        rule = FILTERS[len(FILTERS) - code]
        return Verdict(self.state.names[row], rule.name, rule.says(self.state, view.question, row))

    def _choose_cells(self, shape: Shape, row: int) -> tuple[int, ...]:
        """Cells for a bound VM: the fullest that fit (best fit), so that large holes stay large."""
        if not shape.bound_cells:
            return ()
        entry = self.state.row[row]
        assert entry is not None
        one = slice(row, row + 1)
        fits = np.flatnonzero(cell_fits(self.state, shape, one)[0]).tolist()
        memory = self.state.cells(shape.hugepage_kib)[row].tolist()
        pcpus = self.state.cells(-1)[row].tolist()
        order = sorted(fits, key=lambda index: (memory[index], pcpus[index], entry.facts.cells[index].cell))
        return tuple(sorted(entry.facts.cells[index].cell for index in order[: shape.bound_cells]))
