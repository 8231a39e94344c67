"""One round: who waits, in which order, and what the engine says. Nothing that cannot have changed is asked again.

Order: priority, then age. A VM that fits nowhere does not hold up those behind it; so that they do not eat every hole
that it waits for, the first of them is kept a host for (see EARMARK_AFTER_S).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmstatus import SchedulingStatus
from lq_operator.controllers.runtime.refs import Namespaces
from lq_operator.controllers.runtime.tenure import Tenure
from lq_operator.controllers.scheduler.bind import MANAGER, Binder
from lq_operator.controllers.scheduler.book import Book, Known
from lq_operator.controllers.scheduler.fleet import Fleet, Mark
from lq_operator.controllers.scheduler.moves import MoveChooser
from lq_operator.convert.placement import MAX_VERDICTS, scheduling_status
from lq_operator.convert.power import should_run
from lq_operator.core.failover.facts import Tombstone
from lq_operator.core.failover.guards import Refusal
from lq_operator.core.model import Phase, Placement
from lq_operator.core.placement import Decision, PlacementRequest, Reservation, Shape, Verdict
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected
from lq_operator.ports import Clock, Events, Resources, Store
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

__all__ = ["MANAGER", "Scheduler"]

log = get_logger(__name__)

EARMARK_AFTER_S = 60.0
"""A VM that has waited this long for room is kept the host that lacks least for it. Long enough that a host which
reboots, or a VM that is just being replaced, is not answered with a host that stays half empty."""

REPEAT_AFTER_S = 60.0
"""The same reasons with other numbers are written to status again after this long at the earliest: with hosts whose
free space moves all the time, every waiting VM would else be written at every change."""

ROOM = ("vcpus", "memory")
"""Filters that pass when others leave the host."""

PARALLEL = 32
"""Binds in flight at once: enough to hide the API server's answer time, far below its own limit of 600."""


MAY_CHANGE = ("spread", "vm-affinity")
"""What others may change about a host after it was chosen. An assignment is not taken back for it, or VMs that are
placed one after another would push each other around before any of them starts."""

Write = Coroutine[Any, Any, None]
Refused = dict[tuple[str, str, Shape, Mark], Decision]
"""Within a round: what fits nowhere. Another VM of the same shape does not fit either until the mark changes."""


@dataclass(slots=True)
class Waiting:
    """What was last found, said and done about a VM that is not committed."""

    since_s: float
    shape: Shape | None = None
    mark: Mark | None = None
    reason: str = ""  # first filter that refused
    said: tuple[object, ...] | None = None
    said_s: float = 0.0
    stale: bool = False  # other numbers than it last said


@dataclass(slots=True)
class Scheduler:
    """`run_once()` places what waits. Needs nodes, pools, networks, volumes, VMs, classes, clusters in the Store."""

    store: Store
    resources: Resources
    namespaces: Namespaces
    tenure: Tenure
    events: Events
    clock: Clock
    kinds_synced: Callable[[], bool]
    max_batch: int = 1000
    book: Book = field(init=False)
    _binder: Binder = field(init=False)
    _moves: MoveChooser = field(init=False)
    _waiting: dict[str, Waiting] = field(default_factory=dict)
    _decisions: int = 0

    def __post_init__(self) -> None:
        # A seed per term: two schedulers that overlap prefer different hosts among equals, and replay knows it.
        self.book = Book(self.store, self.namespaces, seed=self.tenure.term)
        self._binder = Binder(self.store, self.resources, self.tenure, self.clock)
        self._moves = MoveChooser(self.store, self.resources, self.tenure, self.clock, self.book)

    async def run_once(self) -> None:
        """Look at what changed, then decide for every waiting VM for which the answer may be another now."""
        if not self.kinds_synced():
            return
        more = True
        while more:
            self.tenure.check()
            await self.book.refresh()
            more = await self._round()
        await self._moves.run()

    async def _round(self) -> bool:
        """True when max_batch VMs were decided and others are left."""
        queue = self._queue()
        binds: set[asyncio.Task[None]] = set()
        failed: list[BaseException] = []
        for fleet in self.book.fleets.values():
            fleet.drop_earmark()
        refused: Refused = {}
        decided = 0
        try:
            for known, placement in queue:
                if decided >= self.max_batch:
                    return True
                work = self._consider(known, placement, refused)
                if work is None:
                    continue
                decided += 1
                binds.add(asyncio.ensure_future(work))
                while len(binds) >= PARALLEL:
                    binds = await _some(binds, failed)
                await asyncio.sleep(0)  # let it send before the next is decided
                if failed:
                    break
        finally:
            while binds:
                binds = await _some(binds, failed)
            self._count_waiting()
        if failed:
            raise failed[0]
        return False

    def _queue(self) -> list[tuple[Known, Placement]]:
        """Everybody who is not committed, in order; forgets those who are not waiting any more."""
        now_s, before, found = self.clock.mono_s(), self._waiting, []
        self._waiting = {}
        for key, known in self.book.open.items():
            assert known.placement is not None
            if should_run(known.vm):
                self._waiting[key] = before.get(key) or Waiting(now_s)
            elif known.placement.phase is Phase.RELEASED:
                continue
            found.append((known, known.placement))
        found.sort(key=lambda entry: _order(entry[0].vm))
        return found

    # ------------------------------------------------------------ one VM

    def _consider(self, known: Known, placement: Placement, refused: Refused) -> Write | None:
        """What there is to write for it, None when nothing."""
        vm = known.vm
        if not should_run(vm):
            return self._unassign(vm, placement) if placement.phase is Phase.ASSIGNED else None
        if known.problem:
            return self._say(known, placement, "NotUnderstood", known.problem)
        fleet = self.book.fleets.get(known.found[0]) if known.found else None
        if known.found is None or fleet is None or known.key in fleet.binding:
            return None
        shape, state = known.found[1], self._waiting[vm.key]
        request = PlacementRequest(known.key, shape, vm.spec.availability.priority)
        if placement.phase is Phase.ASSIGNED:
            found = fleet.engine.verdict(request, placement.node or "").filter
            if found == "" or found in MAY_CHANGE:
                return None
        mark = fleet.mark(shape)
        repeat = state.stale and self.clock.mono_s() - state.said_s >= REPEAT_AFTER_S
        if state.shape is shape and state.mark == mark and not repeat:
            self._earmark(fleet, request, state)
            return None
        group = (fleet.cluster, known.key.namespace, shape, mark)
        if placement.phase is Phase.RELEASED and group in refused:
            decision = replace(refused[group], identity=known.key)
        else:
            decision = self._decide(fleet, request)
        if decision.host is not None:
            return self._place(fleet, known, placement, request, decision)
        if placement.phase is Phase.RELEASED:
            refused[group] = decision
        state.shape, state.mark = shape, mark
        state.reason = decision.rejected[0][0] if decision.rejected else "no-hosts"
        self._earmark(fleet, request, state)
        return self._wait(fleet, known, placement, request, decision)

    def _decide(self, fleet: Fleet, request: PlacementRequest) -> Decision:
        guard, strict = fleet.guard, fleet.engine.guard is not None
        if guard is not None:
            guard.refusals.clear()
        started_s = self.clock.mono_s()
        decision = fleet.engine.decide(request)
        metrics.PLACEMENT_SECONDS.observe(self.clock.mono_s() - started_s)
        self._decisions += 1
        state = fleet.engine.state
        versions = dict(zip(state.rows, state.version[list(state.rows.values())].tolist(), strict=True))
        refusals = dict(guard.refusals) if guard is not None and strict else None
        number = f"{self.tenure.term}-{self._decisions}"
        fleet.journal.decided(number, self.clock.now_rfc3339(), versions, request, decision, refusals)
        log.info(
            "decided",
            vm=str(request.identity),
            decision=number,
            cluster=fleet.cluster,
            seed=fleet.engine.seed,
            strategy=request.shape.strategy or fleet.engine.strategy,
            node=decision.host,
            version=versions.get(decision.host or ""),
            feasible=decision.feasible,
            hosts=decision.total,
            why=decision.sentence,
        )
        return decision

    def _place(
        self, fleet: Fleet, known: Known, placement: Placement, request: PlacementRequest, decision: Decision
    ) -> Write:
        """Reserve the best host that takes it; the next best where it does not (any more)."""
        objection = "NoHostFits", decision.sentence
        for host in dict.fromkeys(ranked.host for ranked in decision.best):
            # Warn: asked, and told about, only for the host that is chosen anyway.
            warned = fleet.guard is not None and fleet.engine.guard is None
            risk = fleet.guard(known.key, request.shape, host) if warned and fleet.guard is not None else ""
            verdict = fleet.reserve(known.key, host, request.shape)
            if verdict is not None:
                objection = "NoHostFits", f"{host} {verdict.sentence}"
                continue
            new = self._binder.assigned(known.vm, placement, host, self._tombstones(known))
            if isinstance(new, Refusal):
                fleet.release(known.key)
                objection = new.reason.value, new.sentence
                continue
            fleet.binding.add(known.key)
            if risk:
                decision = replace(decision, sentence=f"{decision.sentence[:600]}; {risk}"[:1000])
                self.events.emit(known.vm, "FailoverRisk", f"on {host} it {risk}"[:1000], warning=True)
            scheduling = scheduling_status(decision, self._verdicts(fleet, request, decision))
            return self._assign(fleet, known, placement, new, request, scheduling)
        return self._say(known, placement, *objection)

    def _tombstones(self, known: Known) -> tuple[Tombstone, ...]:
        return tuple(stone for stones in self.book.tombstones.get(known.key, {}).values() for stone in stones)

    def _verdicts(self, fleet: Fleet, request: PlacementRequest, decision: Decision) -> list[Verdict]:
        """At most 32 hosts: the best three, one example per reason, then by name; of a placed VM in a large cluster
        only those that say something."""
        named = dict.fromkeys([*(r.host for r in decision.best), *(v.host for v in decision.examples)])
        hosts = fleet.engine.state.rows
        if decision.host is None or len(hosts) <= MAX_VERDICTS:
            named |= dict.fromkeys(sorted(hosts) if len(hosts) <= MAX_VERDICTS else list(hosts)[:MAX_VERDICTS])
        # What the decision has said already is not asked again: between it and now nothing but its own room was taken.
        said = {v.host: v for v in decision.examples if decision.host is not None or v.filter == "failover"}
        if decision.host is not None:
            said |= {r.host: Verdict(r.host, "", "fits") for r in decision.best}
        chosen = list(named)[:MAX_VERDICTS]
        return [said.get(host) or fleet.engine.verdict(request, host) for host in chosen]

    # ------------------------------------------------------------ writing

    async def _assign(
        self,
        fleet: Fleet,
        known: Known,
        placement: Placement,
        new: Placement,
        request: PlacementRequest,
        scheduling: SchedulingStatus,
    ) -> None:
        vm, host = known.vm, str(new.node)
        try:
            if not await self._try(vm, placement, new, scheduling, (True, "Assigned", scheduling.message[:1000])):
                return
            fleet.set_vm(known.key, host, request.shape, request.priority)
            self.book.placed(known.key, fleet.cluster)
        finally:
            fleet.binding.discard(known.key)
            if known.key in fleet.engine.state.reserved:
                fleet.release(known.key)
                fleet.grown += 1
        metrics.DECISIONS.labels("scheduler", "assigned").inc()
        self.events.emit(vm, "Assigned", f"to {host}: {scheduling.message}"[:1000])

    async def _unassign(self, vm: VirtualMachine, placement: Placement) -> None:
        new = self._binder.unassigned(placement)
        if new is not None:
            said = SchedulingStatus(message="it should not run")
            await self._try(vm, placement, new, said, (False, "NotWanted", ""))

    async def _wait(
        self, fleet: Fleet, known: Known, placement: Placement, request: PlacementRequest, decision: Decision
    ) -> None:
        """It fits nowhere: said once per reason. An assignment that no longer holds is taken back."""
        vm, state = known.vm, self._waiting[known.vm.key]
        metrics.DECISIONS.labels("scheduler", "waiting").inc()
        condition = (False, "NoHostFits", decision.sentence[:1000])
        if placement.phase is Phase.ASSIGNED:
            new = self._binder.unassigned(placement)
            if new is not None:
                scheduling = scheduling_status(decision, self._verdicts(fleet, request, decision))
                await self._try(vm, placement, new, scheduling, condition)
            return
        now_s = self.clock.mono_s()
        remedies = tuple((change.kind, change.target) for change in decision.changes)
        reasons = (tuple(reason for reason, _ in decision.rejected), remedies)
        before = vm.status.scheduling
        known_already = before is not None and before.message == decision.sentence[:2000]
        if known_already and vm.status.condition("Scheduled") is not None:
            state.said, state.said_s, state.stale = reasons, now_s, False
            return
        if state.said == reasons and now_s - state.said_s < REPEAT_AFTER_S:
            state.stale = True
            return
        for reason, hosts in decision.rejected:
            metrics.REJECTIONS.labels(reason).inc(hosts)
        scheduling = scheduling_status(decision, self._verdicts(fleet, request, decision))
        if await self._try(vm, placement, None, scheduling, condition):
            state.said, state.said_s, state.stale = reasons, now_s, False
            self.events.emit(vm, "NoHostFits", decision.sentence[:1000], warning=True)

    async def _say(self, known: Known, placement: Placement, reason: str, message: str) -> None:
        said = known.vm.status.condition("Scheduled")
        if said is not None and (said.reason, said.message) == (reason, message):
            return
        scheduling = SchedulingStatus(message=message[:2000])
        await self._try(known.vm, placement, None, scheduling, (False, reason, message[:1000]))

    async def _try(
        self,
        vm: VirtualMachine,
        placement: Placement,
        new: Placement | None,
        scheduling: SchedulingStatus,
        condition: tuple[bool, str, str],
    ) -> bool:
        """False when somebody wrote first (the watch brings it back) or the API server does not want it."""
        try:
            await self._binder.write(vm, placement, new, scheduling, condition)
        except (Conflict, NotFound, OutcomeUnknown, Rejected) as error:
            self._count_failed(vm, error)
            return False
        return True

    def _count_failed(self, vm: VirtualMachine, error: Exception) -> None:
        state = self._waiting.get(vm.key)
        if state is not None:
            state.mark = None  # ask again at the next look
        if isinstance(error, (Conflict, NotFound)):
            metrics.DECISIONS.labels("scheduler", "conflict").inc()
        else:
            log.warning("placement not written", vm=vm.key, reason=str(error)[:500])

    def _count_waiting(self) -> None:
        reasons = Counter(state.reason for state in self._waiting.values() if state.reason and state.mark is not None)
        metrics.PLACEMENT_WAITING.clear()
        for reason, count in reasons.items():
            metrics.PLACEMENT_WAITING.labels(reason).set(count)

    # ------------------------------------------------------------ nobody starves

    def _earmark(self, fleet: Fleet, request: PlacementRequest, state: Waiting) -> None:
        """Keep the host that lacks least for the first VM that has waited long; those behind it go elsewhere."""
        if fleet.earmark is not None or self.clock.mono_s() - state.since_s < EARMARK_AFTER_S:
            return
        host = _host_to_keep(fleet, request)
        if host is not None:
            fleet.hold(Reservation(request.identity, host, request.shape, (), 0))
            fleet.earmark = request.identity


def _order(vm: VirtualMachine) -> tuple[int, str, str]:
    return (-vm.spec.availability.priority, vm.metadata.creation_timestamp or "", vm.key)


def _host_to_keep(fleet: Fleet, request: PlacementRequest) -> str | None:
    """The host that refuses it for room only, is large enough when empty, and has most free memory (then vCPUs)."""
    state, shape = fleet.engine.state, request.shape
    allowed = fleet.engine.fitting_by_facts(request.identity.namespace, shape)
    candidates = sorted(
        (-int(state.free_memory[row]), -int(state.free_mvcpus[row]), state.names[row])
        for row in np.flatnonzero(allowed).tolist()
        if (facts := fleet.facts(state.names[row])) is not None
        and shape.vcpus * 1000 <= facts.capacity_mvcpus
        and shape.memory_mib <= facts.vm_memory_mib
    )
    for _, _, host in candidates[:MAX_VERDICTS]:
        if fleet.engine.verdict(request, host).filter in ROOM:
            return host
    return None


async def _some(tasks: set[asyncio.Task[None]], failed: list[BaseException]) -> set[asyncio.Task[None]]:
    """Wait until one has ended; what went wrong in it is collected. Cancelled: so are they."""
    try:
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    failed.extend(error for task in done if (error := task.exception()) is not None)
    return left
