"""Writes what was decided: one tested patch per bind carries placement, verdicts and condition. Decides nothing.

A patch tests uid and writeId, so that of two schedulers (or one that was paused) only one is believed.
"""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmstatus import SchedulingStatus
from lq_operator.controllers.runtime.placements import scheduled_operations
from lq_operator.controllers.runtime.tenure import Tenure
from lq_operator.convert.power import should_run
from lq_operator.core.failover.facts import Actor, Role, Tombstone
from lq_operator.core.failover.guards import Refusal
from lq_operator.core.failover.patch import placement_patch
from lq_operator.core.failover.protocol import transition
from lq_operator.core.failover.requests import Assign, Unassign
from lq_operator.core.model import HostUUID, NodeName, Placement
from lq_operator.ports import Clock, Resources, Store

MANAGER = "lq-scheduler"


@dataclass(slots=True)
class Binder:
    """The scheduler's hand. Every write checks the lease first; raises what ports.Resources.json_patch raises."""

    store: Store
    resources: Resources
    tenure: Tenure
    clock: Clock

    def assigned(
        self, vm: VirtualMachine, placement: Placement, host: str, tombstones: tuple[Tombstone, ...]
    ) -> Placement | Refusal:
        """The placement that puts it there, or what the protocol has against it."""
        node = self.store.get(HypervisorNode, None, host)
        uuid = node.status.host_uuid if node is not None else ""
        member = node.status.condition("Member") if node is not None else None
        answer = transition(
            placement,
            Assign(
                actor=self._actor,
                stamp=self.tenure.stamp(),
                node=NodeName(host),
                host_uuid=HostUUID(uuid),
                wanted=should_run(vm),
                fits=bool(uuid),
                unknown_to=() if member is not None and member.status == "True" else (NodeName("some member"),),
                tombstones=tombstones,
            ),
        )
        assert answer is not None
        return answer

    def unassigned(self, placement: Placement) -> Placement | None:
        """The placement taken back; None where the protocol does not let us."""
        answer = transition(placement, Unassign(self._actor, self.tenure.stamp()))
        return answer if isinstance(answer, Placement) else None

    @property
    def _actor(self) -> Actor:
        return Actor(Role.SCHEDULER, self.tenure.term)

    async def write(
        self,
        vm: VirtualMachine,
        current: Placement,
        new: Placement | None,
        scheduling: SchedulingStatus,
        condition: tuple[bool, str, str],
    ) -> None:
        """`new` None: the placement stays, and is tested all the same. condition: (Scheduled, reason, message)."""
        self.tenure.check()
        if new is not None:
            operations = placement_patch(vm.metadata.uid, current, new)
        else:
            operations = [
                {"op": "test", "path": "/metadata/uid", "value": vm.metadata.uid},
                {"op": "test", "path": "/status/placement/writeId", "value": current.write_id},
            ]
        value = scheduling.model_dump(by_alias=True, mode="json", exclude_none=True)
        operations.append({"op": "add", "path": "/status/scheduling", "value": value})
        operations += scheduled_operations(vm, *condition, self.clock.now_rfc3339())
        meta = vm.metadata
        await self.resources.json_patch(
            VirtualMachine, meta.namespace, meta.name, operations, subresource="status", manager=MANAGER
        )
