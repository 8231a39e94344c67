"""`why vm/NAME`: where a VM is or why it is nowhere, from what the scheduler wrote into its status."""

from __future__ import annotations

import argparse
import os
from typing import Any

from lq_operator.api.vm import VirtualMachine
from lq_operator.cli_tools.context import namespace_of_context
from lq_operator.cli_tools.live import read_one
from lq_operator.cli_tools.text import table, to_json
from lq_operator.core.result import Rejected

KIND_WORDS = ("vm", "vms", "virtualmachine", "virtualmachines")


def run(arguments: argparse.Namespace) -> int:
    """1 when the VM is placed nowhere."""
    kind, slash, name = arguments.vm.rpartition("/")
    if slash and kind.lower() not in KIND_WORDS:
        raise Rejected(f"{arguments.vm}: only VMs are placed; write vm/{name}")
    namespace = arguments.namespace or namespace_of_context(arguments.kubeconfig, arguments.context, os.environ)
    vm = read_one(arguments.kubeconfig, arguments.context, VirtualMachine, namespace, name)
    if vm is None:
        raise Rejected(f"there is no VirtualMachine {namespace}/{name}")
    print(to_json(facts(vm)) if arguments.output == "json" else say(vm))
    return 0 if vm.status.placement is not None and vm.status.placement.node else 1


def facts(vm: VirtualMachine) -> dict[str, Any]:
    """What there is to say, for programs."""
    placement, condition = vm.status.placement, vm.status.condition("Scheduled")
    scheduling = vm.status.scheduling
    return {
        "vm": vm.key,
        "phase": placement.phase if placement else None,
        "node": placement.node if placement else "",
        "scheduled": condition.model_dump(by_alias=True, mode="json") if condition else None,
        "scheduling": scheduling.model_dump(by_alias=True, mode="json") if scheduling else None,
    }


def say(vm: VirtualMachine) -> str:
    """For a terminal."""
    placement, condition, scheduling = vm.status.placement, vm.status.condition("Scheduled"), vm.status.scheduling
    where = f"{placement.phase} {placement.node}".rstrip() if placement else "not registered yet"
    lines = [f"{vm.key}: {where}"]
    if condition is not None:
        lines.append(f"Scheduled={condition.status} ({condition.reason}): {condition.message}")
    if scheduling is None:
        return "\n".join([*lines, "The scheduler has not said anything about it yet."])
    if scheduling.verdicts:
        rows = [
            (
                verdict.node,
                "fits" if verdict.fits else f"no: {verdict.reason}",
                f"{verdict.score / 1000:.3f}" if verdict.score else "",
                verdict.message.removeprefix("fits: ") if verdict.message != "fits" else "",
            )
            for verdict in scheduling.verdicts
        ]
        lines += ["", table(("HOST", "VERDICT", "SCORE", "WHY"), rows)]
    counted = sum(scheduling.rejected.values()) + sum(verdict.fits for verdict in scheduling.verdicts)
    if counted > len(scheduling.verdicts):
        refused = ", ".join(f"{reason} {hosts}" for reason, hosts in scheduling.rejected.items())
        lines.append(f"(shown: {len(scheduling.verdicts)} hosts; refused in all: {refused})")
    if scheduling.remedies:
        lines += ["", "It would fit if"] + [f"  - {remedy}" for remedy in scheduling.remedies]
    return "\n".join(lines)
