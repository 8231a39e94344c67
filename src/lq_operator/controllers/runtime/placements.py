"""Reading placements of VMs out of the Store, for every controller that asks "who is on this host"; condition Scheduled."""

from __future__ import annotations

from typing import Any

from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.runtime.conditions import condition_status, set_condition
from lq_operator.core.failover.patch import placement_from_dict
from lq_operator.core.model import Epoch, NodeName, Placement
from lq_operator.ports import Store


def placement_of(vm: VirtualMachine) -> Placement | None:
    """status.placement as the core knows it."""
    status = vm.status.placement
    return placement_from_dict(status.model_dump(by_alias=True)) if status is not None else None


def is_moving(vm: VirtualMachine) -> bool:
    """It is on its way from one host to another, whoever sent it."""
    return vm.status.placement is not None and vm.status.placement.phase == "Moving"


def on_a_host(vm: VirtualMachine) -> bool:
    """A host may run it."""
    return vm.status.placement is not None and vm.status.placement.phase in ("Committed", "Moving")


def epoch_of(text: str) -> Epoch | None:
    """An epoch from status, None for ''."""
    return Epoch.parse(text) if text else None


def placed_on(store: Store, node: NodeName) -> list[VirtualMachine]:
    """VMs whose placement names this node, as placed or as target of a move."""
    return [
        vm
        for vm in store.list(VirtualMachine)
        if vm.status.placement is not None and node in (vm.status.placement.node, vm.status.placement.target)
    ]


def scheduled_operations(
    vm: VirtualMachine, scheduled: bool, reason: str, message: str, now: str
) -> list[dict[str, Any]]:
    """JSON patch that sets Scheduled in the list as it was read: its place is tested, nobody else's is overwritten.

    Two write it, never at once: the VM controller until a placement is registered, the scheduler from then on.
    """
    existing = list(vm.status.conditions)
    status, generation = condition_status(scheduled), vm.metadata.generation
    after = set_condition(existing, "Scheduled", status, reason, message, generation=generation, now=now)
    condition = next(c for c in after if c.type == "Scheduled").model_dump(by_alias=True, mode="json")
    index = next((i for i, c in enumerate(existing) if c.type == "Scheduled"), None)
    if index is not None:
        return [
            {"op": "test", "path": f"/status/conditions/{index}/type", "value": "Scheduled"},
            {"op": "replace", "path": f"/status/conditions/{index}", "value": condition},
        ]
    if existing:
        return [{"op": "add", "path": "/status/conditions/-", "value": condition}]
    return [{"op": "add", "path": "/status/conditions", "value": [condition]}]
