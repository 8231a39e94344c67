"""start, stop, restart, reset, pause, resume, suspend: one VirtualMachineOperation per VM, followed to its end.

The operation is an object of its own, so that closing the terminal changes nothing: what was asked is carried out.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from lq_operator.api.base import LocalRef, ObjectMeta
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmoperation import VirtualMachineOperation, VirtualMachineOperationSpec
from lq_operator.cli_tools.lq.cluster import Cluster, connect, new_name
from lq_operator.cli_tools.lq.names import vm_name
from lq_operator.cli_tools.lq.progress import Progress, until
from lq_operator.cli_tools.lq.verbs import VERBS, VerbName
from lq_operator.cli_tools.text import to_json
from lq_operator.core.result import Rejected

ENDED = ("Succeeded", "Failed", "Refused")
GRACE_S = 15.0
"""Beyond the operation's own deadline, after which its controller must have said so."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one operation ended; phase is '' where nobody waited."""

    vm: str
    operation: str
    phase: str
    message: str
    state: str
    node: str
    took_s: float | None


async def run(arguments: Namespace) -> int:
    """0 when all succeeded (or, with --no-wait, were accepted by the API server)."""
    verb, done, _ = VERBS[arguments.command]
    async with connect(arguments) as cluster:
        vms = await chosen(cluster, arguments.vm, arguments.selector)
        progress = Progress(quiet=arguments.output == "json")
        asked = [await ask(cluster, vm, verb, arguments) for vm in vms]
        if arguments.wait:
            results = list(await asyncio.gather(*(follow(cluster, op, arguments, progress) for op in asked)))
            progress.end()
        else:
            results = [Ended(op.spec.vm_ref.name, op.metadata.name, "", "", "", "", None) for op in asked]
    if arguments.output == "json":
        print(to_json(results[0] if len(results) == 1 else results))
    else:
        for result in results:
            print(say(result, verb, done))
    return 0 if all(result.phase in ("", "Succeeded") for result in results) else 1


async def chosen(cluster: Cluster, typed: list[str], selector: str | None) -> list[VirtualMachine]:
    """The VMs of the command line. All are looked up before anything is done to one of them."""
    if selector is not None:
        if typed:
            raise Rejected("give names or --selector, not both")
        found = await cluster.listing(VirtualMachine, labels=selector)
        if not found:
            raise Rejected(f"--selector {selector} selects no VM of namespace {cluster.namespace}")
        return found
    if not typed:
        raise Rejected("name a VM (vm/NAME), or choose by --selector")
    names = list(dict.fromkeys(vm_name(one) for one in typed))
    return [await cluster.find(VirtualMachine, name) for name in names]


async def ask(cluster: Cluster, vm: VirtualMachine, verb: VerbName, arguments: Namespace) -> VirtualMachineOperation:
    """Create the operation."""
    extra: dict[str, Any] = {}
    if getattr(arguments, "force", False):
        extra["force"] = True
    if arguments.timeout is not None:
        extra["deadline_seconds"] = arguments.timeout
    name = new_name(vm.metadata.name, verb.lower())
    return await cluster.create(
        VirtualMachineOperation(
            metadata=ObjectMeta(name=name, namespace=vm.metadata.namespace),
            spec=VirtualMachineOperationSpec(vm_ref=LocalRef(name=vm.metadata.name), verb=verb, **extra),
        )
    )


async def follow(cluster: Cluster, op: VirtualMachineOperation, arguments: Namespace, progress: Progress) -> Ended:
    """Until it has ended, telling what the VM shows meanwhile."""
    name, vm_named = op.metadata.name, op.spec.vm_ref.name

    async def look() -> VirtualMachineOperation | None:
        now = await cluster.get(VirtualMachineOperation, name)
        if now is None:
            raise Rejected(f"the operation {name} was deleted before it ended; what it had begun stays done")
        if now.status.phase in ENDED:
            return now
        vm = await cluster.get(VirtualMachine, vm_named)
        progress.say(f"vm/{vm_named}: {whereabouts(vm)}")
        return None

    ended = await until(look, timeout_s=op.spec.deadline_seconds + GRACE_S)
    vm = await cluster.get(VirtualMachine, vm_named)
    state, node = (vm.status.power.state, node_of(vm)) if vm else ("", "")
    if ended is None:
        why = f"the operator did not say how it ended; is `lq-operator run` alive? See kubectl get vmop {name}"
        return Ended(vm_named, name, "Unknown", why, state, node, progress.took_s)
    return Ended(vm_named, name, ended.status.phase, ended.status.message, state, node, progress.took_s)


def node_of(vm: VirtualMachine) -> str:
    """The host it is placed on, ''."""
    return vm.status.placement.node if vm.status.placement else ""


def whereabouts(vm: VirtualMachine | None) -> str:
    """State and what is being done, in one line."""
    if vm is None:
        return "gone"
    ready = vm.status.condition("Ready")
    power = vm.status.power
    doing = f": {ready.message or ready.reason}" if ready is not None and ready.status != "True" else ""
    until_when = f" (cut off at {power.stop_deadline})" if power.stop_deadline else ""
    where = f" on {node_of(vm)}" if node_of(vm) else ""
    return f"{power.state}{where}{doing}{until_when}"


def say(result: Ended, verb: str, done: str) -> str:
    """One line."""
    about = f"vm/{result.vm}"
    if not result.phase:
        return f"{about}: {verb.lower()} asked for (kubectl get vmop {result.operation})"
    if result.phase != "Succeeded":
        return f"{about}: {verb.lower()} {result.phase.lower()}: {result.message}"
    where = f" on {result.node}" if result.node and result.state not in ("Stopped", "Suspended") else ""
    return f"{about}: {done}{where} ({result.took_s:.1f} s)"
