"""Where running guests may be moved to: a target for every VirtualMachineMigration, and room kept there until it ends.

Writes status.scheduling of the move and nothing else; the migration controller begins only where room is held.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lq_operator.api.vmmigration import MigrationChoice, VirtualMachineMigration
from lq_operator.controllers.runtime.status import report_status
from lq_operator.controllers.runtime.tenure import Tenure
from lq_operator.controllers.scheduler.book import Book, Known
from lq_operator.controllers.scheduler.fleet import Fleet
from lq_operator.convert.placement import HOST_KEY
from lq_operator.core.moving.world import Phase
from lq_operator.core.placement import PlacementRequest, Shape
from lq_operator.core.placement.selectors import Operator, Requirement
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected
from lq_operator.ports import Clock, Resources, Store
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

MANAGER = "lq-scheduler"
REPEAT_AFTER_S = 60.0
"""Why no host fits is written again after this long at the earliest: numbers move all the time."""


@dataclass(slots=True)
class MoveChooser:
    """`run()` after the book was refreshed."""

    store: Store
    resources: Resources
    tenure: Tenure
    clock: Clock
    book: Book
    _said_s: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Every move that has not begun: keep its target while that holds, else choose one."""
        moves = [m for m in self.store.list(VirtualMachineMigration) if not Phase(m.status.phase).ended]
        first: dict[str, VirtualMachineMigration] = {}  # one move of a VM at a time: its oldest
        for move in sorted(moves, key=lambda m: m.seniority):
            first.setdefault(move.vm_key, move)
        for move in first.values():
            if not Phase(move.status.phase).begun and not move.deleting and not move.spec.cancel:
                await self._consider(move)
        known = {move.metadata.uid for move in moves}
        self._said_s = {uid: at for uid, at in self._said_s.items() if uid in known}

    async def _consider(self, move: VirtualMachineMigration) -> None:
        known = self.book.vms.get(move.vm_key)
        fleet = self.book.fleets.get(known.found[0]) if known is not None and known.found else None
        placement = known.vm.status.placement if known is not None else None
        if known is None or fleet is None or placement is None or placement.phase != "Committed":
            return
        choice = self._choose(move, known, fleet, placement.node)
        before = move.status.scheduling
        if before is not None and before.node == choice.node and (choice.node or self._said_lately(move)):
            return
        if choice.node:
            self.book.targets[known.vm.key] = choice.node
            assert known.found is not None
            fleet.set_target(known.key, choice.node, known.found[1])
        await self._say(move, choice)

    def _choose(self, move: VirtualMachineMigration, known: Known, fleet: Fleet, source: str) -> MigrationChoice:
        assert known.found is not None
        request = PlacementRequest(known.key, _shape(known, source), known.vm.spec.availability.priority)
        wished = move.spec.target_node
        present = move.status.scheduling.node if move.status.scheduling is not None else ""
        for host in dict.fromkeys(name for name in (wished, None if wished else present) if name):
            verdict = fleet.engine.verdict(request, host)
            if verdict.filter == "":
                return MigrationChoice(node=host, message="it fits")
            if wished:
                return MigrationChoice(message=f"{host} {verdict.sentence}"[:2000])
        decision = fleet.engine.decide(request)
        if decision.host is None:
            metrics.DECISIONS.labels("scheduler", "move-waiting").inc()
            return MigrationChoice(message=decision.sentence[:2000])
        metrics.DECISIONS.labels("scheduler", "move").inc()
        return MigrationChoice(node=decision.host, message=decision.sentence[:2000])

    def _said_lately(self, move: VirtualMachineMigration) -> bool:
        return self.clock.mono_s() - self._said_s.get(move.metadata.uid, -1e9) < REPEAT_AFTER_S

    async def _say(self, move: VirtualMachineMigration, choice: MigrationChoice) -> None:
        self.tenure.check()
        self._said_s[move.metadata.uid] = self.clock.mono_s()
        value = choice.model_dump(by_alias=True, mode="json")
        log.info("target of a move", move=move.key, node=choice.node, why=choice.message[:300])
        try:
            await report_status(self.resources, move, {"scheduling": value}, MANAGER)
        except (Conflict, NotFound, OutcomeUnknown, Rejected) as error:
            log.info("target not written", move=move.key, reason=str(error)[:300])


def _shape(known: Known, source: str) -> Shape:
    """The VM anywhere but where it is: its local disks go along, so they bind it to no host."""
    assert known.found is not None
    shape = known.found[1]
    away = Requirement(HOST_KEY, Operator.NOT_IN, (source,))
    alternatives = tuple((*each, away) for each in shape.node_affinity) or ((away,),)
    return replace(shape, bound_volumes={}, node_affinity=alternatives)
