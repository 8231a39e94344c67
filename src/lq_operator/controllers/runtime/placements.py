"""Reading placements of VMs out of the Store, for every controller that asks "who is on this host"."""

from __future__ import annotations

from lq_operator.api.vm import VirtualMachine
from lq_operator.core.failover.patch import placement_from_dict
from lq_operator.core.model import Epoch, NodeName, Placement
from lq_operator.ports import Store


def placement_of(vm: VirtualMachine) -> Placement | None:
    """status.placement as the core knows it."""
    status = vm.status.placement
    return placement_from_dict(status.model_dump(by_alias=True)) if status is not None else None


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
