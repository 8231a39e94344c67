"""What the migration controller says: status of the move, the summary in its VM, Events, metrics. Written when new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import MigrationObstacle, MigrationProgress, VirtualMachineMigration
from lq_operator.api.vmstatus import LastMigration
from lq_operator.controllers.runtime.conditions import (
    Progress,
    condition_status,
    dump_conditions,
    only,
    set_condition,
    set_progress,
)
from lq_operator.controllers.runtime.status import report_status
from lq_operator.core.model import MoveProgress, MoveResult
from lq_operator.core.moving.obstacles import Obstacle
from lq_operator.core.moving.world import Phase
from lq_operator.core.result import Conflict, NotFound
from lq_operator.ports import Clock, Events, Resources, Store
from lq_operator.telemetry import metrics

MANAGER = "lq-migration"
TRANSFERRING = "Transferring"
"""True while memory is on its way; False with the reason why it ended, from before the hosts are asked who runs it."""
MY_CONDITIONS = ("Ready", "Reconciling", "Stalled", TRANSFERRING)

_PROGRESS = {
    Phase.SUCCEEDED: Progress.READY,
    Phase.FAILED: Progress.STALLED,
    Phase.CANCELLED: Progress.STALLED,
    Phase.REFUSED: Progress.STALLED,
}


@dataclass(slots=True)
class Say:
    """What changes in a status; None leaves a field as it is."""

    phase: Phase
    reason: str
    message: str = ""
    source: str | None = None
    target: str | None = None
    vm_uid: str | None = None
    epoch: str | None = None
    obstacles: Sequence[Obstacle] | None = None
    progress: MoveProgress | None = None
    transfer: tuple[bool, str, str] | None = None
    result: MoveResult | None = None


@dataclass(slots=True)
class Reporter:
    """Writes VirtualMachineMigration.status (all but scheduling) and VirtualMachine.status.migration."""

    store: Store
    resources: Resources
    events: Events
    clock: Clock

    async def say(self, move: VirtualMachineMigration, say: Say) -> VirtualMachineMigration:
        """The object as it is afterwards. NotFound when it is gone."""
        before, now = move.status, self.clock.now_rfc3339()
        conditions = set_progress(
            before.conditions,
            _PROGRESS.get(say.phase, Progress.WORKING),
            say.reason,
            say.message,
            generation=move.metadata.generation,
            now=now,
        )
        if say.transfer is not None:
            on, reason, message = say.transfer
            conditions = set_condition(
                conditions,
                TRANSFERRING,
                condition_status(on),
                reason,
                message,
                generation=move.metadata.generation,
                now=now,
            )
        begun = say.phase.begun or bool(before.started_at)
        status: dict[str, Any] = {
            "observedGeneration": move.metadata.generation,
            "conditions": dump_conditions(only(conditions, MY_CONDITIONS)),
            "phase": say.phase.value,
            "sourceNode": before.source_node if say.source is None else say.source,
            "targetNode": before.target_node if say.target is None else say.target,
            "obstacles": _obstacles(before.obstacles, say.obstacles),
            "progress": _progress(say.progress, before.progress),
            "vmUid": before.vm_uid if say.vm_uid is None else say.vm_uid,
            "epoch": before.epoch if say.epoch is None else say.epoch,
            "startedAt": (before.started_at or now) if begun else "",
            "finishedAt": (before.finished_at or now) if say.phase.ended else "",
            "totalMilliseconds": say.result.total_ms if say.result else before.total_milliseconds,
            "downtimeMilliseconds": say.result.downtime_ms if say.result else before.downtime_milliseconds,
            "message": say.message[:2000],
        }
        await report_status(self.resources, move, status, MANAGER)
        meta = move.metadata
        return self.store.get(VirtualMachineMigration, meta.namespace, meta.name) or move

    async def begun(self, move: VirtualMachineMigration, vm: VirtualMachine) -> None:
        """It is on its way."""
        await self._summary(move, vm)
        where = f"from {move.status.source_node} to {move.status.target_node}"
        self.events.emit(vm, "MoveStarted", f"{move.metadata.name}: {where}")

    async def ended(self, move: VirtualMachineMigration, vm: VirtualMachine | None) -> None:
        """Said once, with the numbers."""
        phase, status = Phase(move.status.phase), move.status
        metrics.MIGRATIONS.labels(phase.value.lower()).inc()
        if phase is Phase.SUCCEEDED and status.total_milliseconds:
            metrics.MIGRATION_SECONDS.observe(status.total_milliseconds / 1000)
            metrics.MIGRATION_DOWNTIME_SECONDS.observe(status.downtime_milliseconds / 1000)
        ready = status.condition("Ready")
        reason = ready.reason if ready is not None else phase.value
        text = status.message
        if phase is Phase.SUCCEEDED:
            text = f"from {status.source_node} to {status.target_node} in {status.total_milliseconds} ms, "
            text += f"{status.downtime_milliseconds} ms of them the guest stood still"
        warning = phase is not Phase.SUCCEEDED
        self.events.emit(move, reason, text or phase.value, warning=warning)
        if vm is not None:
            if status.epoch:
                await self._summary(move, vm)
            self.events.emit(
                vm, f"Move{phase.value}", f"{move.metadata.name}: {text or reason}"[:1000], warning=warning
            )

    async def _summary(self, move: VirtualMachineMigration, vm: VirtualMachine) -> None:
        status = move.status
        last = LastMigration(
            name=move.metadata.name,
            phase=status.phase,
            source=status.source_node,
            target=status.target_node,
            finished_at=status.finished_at,
            total_milliseconds=status.total_milliseconds,
            downtime_milliseconds=status.downtime_milliseconds,
        )
        value = last.model_dump(by_alias=True, mode="json")
        try:
            await report_status(self.resources, vm, {"migration": value}, MANAGER)
        except (NotFound, Conflict):
            return

    def post_copy(self, move: VirtualMachineMigration, vm: VirtualMachine) -> None:
        """Never silently."""
        text = (
            "changed over before all memory was there (tuning.postCopy): until the rest has followed, a host or network "
            "that fails costs the guest its run"
        )
        for about in (move, vm):
            self.events.emit(about, "PostCopy", text, warning=True)


def _obstacles(before: Sequence[MigrationObstacle], found: Sequence[Obstacle] | None) -> list[dict[str, Any]]:
    if found is None:
        return [one.model_dump(by_alias=True, mode="json") for one in before]
    return [{"what": one.what, "name": one.name[:253], "message": one.message[:1000]} for one in found][:64]


def _progress(now: MoveProgress | None, before: MigrationProgress | None) -> dict[str, Any] | None:
    if now is None:
        return before.model_dump(by_alias=True, mode="json") if before is not None else None
    said = MigrationProgress(
        total_bytes=now.total_bytes,
        remaining_bytes=now.remaining_bytes,
        transferred_bytes=now.transferred_bytes,
        dirty_bytes_per_second=now.dirty_bytes_s,
        expected_downtime_milliseconds=now.expected_downtime_ms,
        iteration=now.iteration,
        post_copy=now.post_copy,
    )
    return said.model_dump(by_alias=True, mode="json")
