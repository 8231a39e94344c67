"""spec.powerState and status.power -> what is wanted. The scheduler and the VM controller must agree on it."""

from __future__ import annotations

from lq_operator.api.vm import VirtualMachine
from lq_operator.core.lifecycle.power import Power


def declared_of(vm: VirtualMachine) -> Power | None:
    """spec.powerState."""
    return Power(vm.spec.power_state) if vm.spec.power_state else None


def wanted_of(vm: VirtualMachine) -> Power:
    """What is wanted now: the declared state when it is new, else what was last decided (at first Running)."""
    declared = declared_of(vm)
    if declared is not None and vm.status.power.declared != declared.value:
        return declared
    return Power(vm.status.power.wanted)


def should_run(vm: VirtualMachine) -> bool:
    """Does it need a host?"""
    return not vm.deleting and wanted_of(vm) in (Power.RUNNING, Power.PAUSED)
