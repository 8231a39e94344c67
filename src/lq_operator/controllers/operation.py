"""VirtualMachineOperation apart from its VM: gone when its time is over, failed when its VM does not exist.

Everything between is the VM controller's, because only it knows when a verb is done; verbs about a guest's accounts are
guestaccess'.
"""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmoperation import VirtualMachineOperation
from lq_operator.controllers.guestaccess import GuestAccess, is_guest_verb
from lq_operator.controllers.runtime.conditions import Progress, dump_conditions, set_progress
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.status import report_status
from lq_operator.core.result import NotFound
from lq_operator.core.times import age_s
from lq_operator.ports import Clock, Resources, Store

MANAGER = "lq-vmop"
GRACE_S = 10.0
"""A VM that is applied together with its operation may come a moment later."""


@dataclass(slots=True)
class OperationController:
    """reconcile(namespace/name)."""

    store: Store
    resources: Resources
    access: GuestAccess
    clock: Clock

    async def reconcile(self, key: str) -> Requeue | None:
        """Delete what has ended for long enough; refuse what names no VM."""
        namespace, _, name = key.partition("/")
        op = self.store.get(VirtualMachineOperation, namespace, name)
        if op is None or op.deleting:
            return None
        if op.status.phase in ("Succeeded", "Failed", "Refused"):
            left_s = op.spec.ttl_seconds_after_finished - age_s(op.status.finished_at, self.clock.now_rfc3339())
            if left_s > 0:
                return Requeue.after(left_s)
            await self.resources.delete(VirtualMachineOperation, namespace, name, uid=op.metadata.uid)
            return None
        vm = self.store.get(VirtualMachine, namespace, op.spec.vm_ref.name)
        if vm is not None:
            return await self.access.carry_out(op, vm) if is_guest_verb(op) else None
        left_s = GRACE_S - age_s(op.metadata.creation_timestamp, self.clock.now_rfc3339())
        if left_s > 0:
            return Requeue.after(left_s)
        await self._no_vm(op)
        return Requeue.after(op.spec.ttl_seconds_after_finished)

    async def _no_vm(self, op: VirtualMachineOperation) -> None:
        now, generation = self.clock.now_rfc3339(), op.metadata.generation
        message = f"spec.vmRef: there is no VirtualMachine {op.metadata.namespace}/{op.spec.vm_ref.name}"
        conditions = set_progress(
            op.status.conditions, Progress.STALLED, "VMNotFound", message, generation=generation, now=now
        )
        status = {
            "observedGeneration": generation,
            "conditions": dump_conditions(conditions),
            "phase": "Failed",
            "message": message,
            "startedAt": op.status.started_at or now,
            "finishedAt": now,
            "observedStart": op.status.observed_start,
        }
        try:
            await report_status(self.resources, op, status, MANAGER)
        except NotFound:
            return
