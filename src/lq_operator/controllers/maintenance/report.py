"""What is said about a host in maintenance: status.maintenance, condition InMaintenance, Events, metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.runtime.conditions import condition_status, dump_conditions, only, set_condition
from lq_operator.controllers.runtime.status import report_status
from lq_operator.core.maintenance.world import Blocker, Drain, DrainPhase
from lq_operator.ports import Clock, Events, Resources, Store
from lq_operator.telemetry import metrics

MANAGER = "lq-maintenance"
CONDITION = "InMaintenance"
MAX_BLOCKERS = 200
"""Of the schema. The counts are of all."""


@dataclass(slots=True)
class MaintenanceReporter:
    """Writes HypervisorNode.status.maintenance and its condition InMaintenance, and nothing else."""

    store: Store
    resources: Resources
    events: Events
    clock: Clock

    async def report(self, node: HypervisorNode, drain: Drain) -> None:
        """Once, when it is news. NotFound when the node is gone."""
        now, generation = self.clock.now_rfc3339(), node.metadata.generation
        reason, message = _words(drain)
        conditions = set_condition(
            node.status.conditions,
            CONDITION,
            condition_status(drain.phase is DrainPhase.IN_MAINTENANCE),
            reason,
            message,
            generation=generation,
            now=now,
        )
        status = {
            "conditions": dump_conditions(only(conditions, (CONDITION,))),
            "maintenance": _status(node, drain, now),
        }
        self._measure(node.metadata.name, drain)
        if await report_status(self.resources, node, status, MANAGER):
            self._tell(node, drain, reason, message)

    def _measure(self, name: str, drain: Drain) -> None:
        if drain.phase is DrainPhase.OFF:
            metrics.forget_maintenance(name)
            return
        for fate, count in (
            ("remaining", drain.remaining),
            ("moving", drain.moving),
            ("blocked", len(drain.blockers)),
        ):
            metrics.MAINTENANCE_VMS.labels(name, fate).set(count)

    def _tell(self, node: HypervisorNode, drain: Drain, reason: str, message: str) -> None:
        """An Event per phase, and one per VM that was not named before."""
        before = node.status.maintenance
        if drain.phase is DrainPhase.OFF:
            if before is not None:
                self.events.emit(node, "BackToService", "spec.maintenance is false: it takes VMs again")
            return
        if before is None or before.phase != drain.phase.value:
            self.events.emit(node, reason, message, warning=drain.phase is DrainPhase.BLOCKED)
        known = {(b.namespace, b.name, b.reason) for b in before.blockers} if before is not None else set()
        for blocker in drain.blockers:
            if (blocker.namespace, blocker.name, blocker.why.value) not in known:
                self._tell_vm(node, blocker)

    def _tell_vm(self, node: HypervisorNode, blocker: Blocker) -> None:
        vm = self.store.get(VirtualMachine, blocker.namespace, blocker.name)
        if vm is not None:
            text = f"{node.metadata.name} is in maintenance: {blocker.message}"
            self.events.emit(vm, "CannotBeMoved", text[:1000], warning=True)


def _words(drain: Drain) -> tuple[str, str]:
    """(reason, message) of the condition."""
    match drain.phase:
        case DrainPhase.OFF:
            return "InService", ""
        case DrainPhase.IN_MAINTENANCE:
            return "InMaintenance", "nothing of this installation runs or is placed here: the host may be switched off"
    names = ", ".join(f"{b.namespace}/{b.name} ({b.why.value})" for b in drain.blockers[:5])
    more = f" and {len(drain.blockers) - 5} more" if len(drain.blockers) > 5 else ""
    stay = f"; cannot be moved: {names}{more}, see status.maintenance.blockers" if names else ""
    return drain.phase.value, f"{drain.remaining} VMs here, {drain.moving} on their way{stay}"


def _status(node: HypervisorNode, drain: Drain, now: str) -> dict[str, Any] | None:
    if drain.phase is DrainPhase.OFF:
        return None
    before = node.status.maintenance
    return {
        "phase": drain.phase.value,
        "since": before.since if before is not None and before.since else now,
        "moving": drain.moving,
        "remaining": drain.remaining,
        "blockers": [
            {"namespace": b.namespace, "name": b.name, "reason": b.why.value, "message": b.message[:1000]}
            for b in drain.blockers[:MAX_BLOCKERS]
        ],
    }
