"""tree vm/NAME: the VM and everything that belongs to it or that it stands on, each with its state."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from typing import TypeVar

from lq_operator.api.base import Resource
from lq_operator.api.image import Image
from lq_operator.api.network import AddressClaim, VirtualNetwork, claim_name
from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.api.vmoperation import VirtualMachineOperation
from lq_operator.api.volume import Volume
from lq_operator.cli_tools.lq.cluster import Cluster, connect
from lq_operator.cli_tools.lq.migrate import under_way
from lq_operator.cli_tools.lq.names import vm_name
from lq_operator.cli_tools.lq.operate import node_of, whereabouts
from lq_operator.cli_tools.text import to_json
from lq_operator.core.result import WorldError

K = TypeVar("K", bound=Resource)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One object, how it is, and what hangs below it."""

    what: str
    state: str
    below: list[Leaf] = field(default_factory=list)


async def run(arguments: Namespace) -> int:
    """Read and print."""
    async with connect(arguments) as cluster:
        vm = await cluster.find(VirtualMachine, vm_name(arguments.vm))
        root = Leaf(f"vm/{vm.metadata.name}", whereabouts(vm))
        for part in (_disks, _interfaces, _node, _operations):
            root.below.extend(await part(cluster, vm))
    print(to_json(root) if arguments.output == "json" else say(root))
    return 0


async def _disks(cluster: Cluster, vm: VirtualMachine) -> list[Leaf]:
    found = []
    for disk in vm.status.disks:
        leaf = Leaf(f"disk {disk.name}", "" if disk.ready else disk.message or "not ready")
        volume = await _read(cluster, Volume, vm.metadata.namespace, disk.volume, leaf, f"vol/{disk.volume}")
        if volume is not None:
            source = volume.spec.source
            if source.image_ref is not None:
                where = source.image_ref.namespace or vm.metadata.namespace
                name = source.image_ref.name
                await _read(cluster, Image, where, name, leaf.below[-1], f"img/{name}" + _elsewhere(vm, where))
        found.append(leaf)
    return found


async def _interfaces(cluster: Cluster, vm: VirtualMachine) -> list[Leaf]:
    found = []
    shown = {one.name: one for one in vm.status.interfaces}
    for nic in vm.spec.interfaces:
        status = shown.get(nic.name)
        leaf = Leaf(f"nic {nic.name}", " ".join([status.mac, *status.addresses]) if status else "")
        where = nic.network_ref.namespace or vm.metadata.namespace
        name = nic.network_ref.name
        await _read(cluster, VirtualNetwork, where, name, leaf, f"vnet/{name}" + _elsewhere(vm, where))
        if status and status.claim:
            claim = claim_name(name, status.claim.partition("/")[0])
            await _read(cluster, AddressClaim, where, claim, leaf, f"claim/{claim}" + _elsewhere(vm, where))
        found.append(leaf)
    return found


async def _node(cluster: Cluster, vm: VirtualMachine) -> list[Leaf]:
    if not node_of(vm):
        return [Leaf("host", "placed nowhere: kubectl lq why vm/" + vm.metadata.name)]
    placement = vm.status.placement
    leaf = Leaf("host", f"{placement.phase}, epoch {placement.epoch or '-'}" if placement else "")
    await _read(cluster, HypervisorNode, None, node_of(vm), leaf, f"hvn/{node_of(vm)}")
    return [leaf]


async def _operations(cluster: Cluster, vm: VirtualMachine) -> list[Leaf]:
    mine = [op for op in await cluster.listing(VirtualMachineOperation) if op.spec.vm_ref.name == vm.metadata.name]
    moves = [one for one in await cluster.listing(VirtualMachineMigration) if one.spec.vm_ref.name == vm.metadata.name]
    mine.sort(key=lambda op: op.metadata.creation_timestamp or "")
    return [
        Leaf(
            f"vmop/{op.metadata.name}",
            f"{op.spec.verb} {op.status.phase}" + (f": {op.status.message}" if op.status.message else ""),
        )
        for op in mine
    ] + [Leaf(f"vmmig/{move.metadata.name}", under_way(move)) for move in moves]


async def _read(cluster: Cluster, kind: type[K], namespace: str | None, name: str, under: Leaf, what: str) -> K | None:
    """Hang it below `under`. What we may not read, or what is not there, is said and no reason to stop."""
    if not name:
        return None
    try:
        found = await cluster.resources.get(kind, namespace, name)
    except WorldError as error:
        under.below.append(Leaf(what, f"not readable: {error}"))
        return None
    under.below.append(Leaf(what, "does not exist" if found is None else _ready(found)))
    return found


def _ready(obj: Resource) -> str:
    status = getattr(obj, "status", None)
    condition = status.condition("Ready") if status is not None else None
    if condition is None:
        return "nothing said yet"
    if condition.status == "True":
        return "Ready"
    return f"{condition.reason}: {condition.message}".rstrip(": ")


def _elsewhere(vm: VirtualMachine, namespace: str | None) -> str:
    return f" (in {namespace})" if namespace != vm.metadata.namespace else ""


def say(root: Leaf) -> str:
    """Drawn with lines."""
    lines = [f"{root.what}  {root.state}".rstrip()]

    def draw(leaf: Leaf, prefix: str) -> None:
        for at, child in enumerate(leaf.below):
            last = at == len(leaf.below) - 1
            lines.append(f"{prefix}{'└─ ' if last else '├─ '}{child.what}  {child.state}".rstrip())
            draw(child, prefix + ("   " if last else "│  "))

    draw(root, "")
    return "\n".join(lines)
