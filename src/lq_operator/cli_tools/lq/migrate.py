"""migrate vm/NAME: one VirtualMachineMigration, followed with its bytes; --cancel calls the one under way off."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass

from lq_operator.api.base import LocalRef, ObjectMeta
from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import MigrationProgress, VirtualMachineMigration, VirtualMachineMigrationSpec
from lq_operator.cli_tools.lq.cluster import Cluster, connect, new_name
from lq_operator.cli_tools.lq.names import node_name, vm_name
from lq_operator.cli_tools.lq.progress import Progress, until
from lq_operator.cli_tools.text import mib, to_json
from lq_operator.core.moving.world import Phase
from lq_operator.core.result import Rejected

GRACE_S = 60.0
"""Beyond the move's own deadline: changing over and asking both hosts."""
_BYTES_PER_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Moved:
    """How it ended; phase is '' where nobody waited."""

    vm: str
    migration: str
    phase: str
    source: str
    target: str
    total_ms: int
    downtime_ms: int
    message: str
    obstacles: tuple[str, ...]


async def run(arguments: Namespace) -> int:
    """0 when the VM was moved (--cancel: when it was called off, or there was nothing to call off)."""
    async with connect(arguments) as cluster:
        vm = await cluster.find(VirtualMachine, vm_name(arguments.vm))
        if arguments.cancel:
            return await _cancel(cluster, vm, arguments)
        target = node_name(arguments.to) if arguments.to else None
        if target is not None:
            await cluster.find(HypervisorNode, target)
        spec = VirtualMachineMigrationSpec(vm_ref=LocalRef(name=vm.metadata.name))
        if target is not None:
            spec = VirtualMachineMigrationSpec(vm_ref=spec.vm_ref, target_node=target)
        meta = ObjectMeta(name=new_name(vm.metadata.name, "move"), namespace=vm.metadata.namespace)
        made = await cluster.create(VirtualMachineMigration(metadata=meta, spec=spec))
        result = facts(made, waited=False)
        if arguments.wait:
            result = await _follow(cluster, made, Progress(quiet=arguments.output == "json"))
    print(to_json(result) if arguments.output == "json" else say(result))
    return 0 if result.phase in ("", "Succeeded") else 1


async def _follow(cluster: Cluster, made: VirtualMachineMigration, progress: Progress) -> Moved:
    name = made.metadata.name

    async def look() -> VirtualMachineMigration | None:
        now = await cluster.get(VirtualMachineMigration, name)
        if now is None:
            raise Rejected(
                f"the move {name} was deleted before it ended; look at kubectl lq tree vm/{made.spec.vm_ref.name}"
            )
        if Phase(now.status.phase).ended:
            return now
        progress.say(f"vm/{made.spec.vm_ref.name}: {under_way(now)}")
        return None

    ended = await until(look, timeout_s=made.spec.deadline_seconds + GRACE_S)
    progress.end()
    if ended is None:
        raise Rejected(f"the operator did not say how the move ended; see kubectl describe vmmig {name}")
    return facts(ended, waited=True)


async def _cancel(cluster: Cluster, vm: VirtualMachine, arguments: Namespace) -> int:
    mine = [
        one
        for one in await cluster.listing(VirtualMachineMigration)
        if one.spec.vm_ref.name == vm.metadata.name and not Phase(one.status.phase).ended
    ]
    for one in mine:
        await cluster.set_spec(VirtualMachineMigration, one.metadata.name, {"cancel": True})
    if not mine:
        print(to_json([]) if arguments.output == "json" else f"vm/{vm.metadata.name}: no move is under way")
        return 0
    if not arguments.wait:
        print(f"vm/{vm.metadata.name}: asked to call off {', '.join(one.metadata.name for one in mine)}")
        return 0
    progress = Progress(quiet=arguments.output == "json")
    results = [await _follow(cluster, one, progress) for one in mine]
    print(to_json(results) if arguments.output == "json" else "\n".join(say(one) for one in results))
    return 0 if all(one.phase != "Succeeded" for one in results) else 1


def under_way(move: VirtualMachineMigration) -> str:
    """One line while it lasts."""
    status = move.status
    way = f"{status.source_node or '?'} -> {status.target_node or '?'}"
    if status.phase == "Running" and status.progress is not None and status.progress.total_bytes:
        return f"{way} {amounts(status.progress)}"
    waits = status.scheduling.message if status.scheduling and not status.target_node else ""
    return f"{way} {status.phase}" + (f": {waits or status.message}" if waits or status.message else "")


def amounts(progress: MigrationProgress) -> str:
    """How far it is, and whether the guest writes faster than the network carries."""
    done = max(0, progress.total_bytes - progress.remaining_bytes)
    percent = 100 * done // progress.total_bytes
    parts = [f"{percent} % of {_mib(progress.total_bytes)}", f"{_mib(progress.remaining_bytes)} left"]
    if progress.iteration > 1:
        parts.append(f"pass {progress.iteration}")
    if progress.dirty_bytes_per_second:
        parts.append(f"the guest rewrites {_mib(progress.dirty_bytes_per_second)}/s")
    if progress.post_copy:
        parts.append("it runs on the target already (post-copy)")
    return ", ".join(parts)


def _mib(amount_bytes: int) -> str:
    return mib(amount_bytes // _BYTES_PER_MIB)


def facts(move: VirtualMachineMigration, *, waited: bool) -> Moved:
    """What is printed at the end."""
    status = move.status
    return Moved(
        vm=move.spec.vm_ref.name,
        migration=move.metadata.name,
        phase=status.phase if waited else "",
        source=status.source_node,
        target=status.target_node or move.spec.target_node or "",
        total_ms=status.total_milliseconds,
        downtime_ms=status.downtime_milliseconds,
        message=status.message,
        obstacles=tuple(f"{one.what} {one.name}: {one.message}" for one in status.obstacles),
    )


def say(moved: Moved) -> str:
    """For a terminal."""
    about = f"vm/{moved.vm}"
    if not moved.phase:
        return f"{about}: move asked for (kubectl get vmmig {moved.migration})"
    if moved.phase == "Succeeded":
        return f"{about}: moved from {moved.source} to {moved.target} in {moved.total_ms} ms; it stood still for {moved.downtime_ms} ms"
    lines = [f"{about}: move {moved.phase.lower()}" + (f": {moved.message}" if moved.message else "")]
    return "\n".join(lines + [f"  - {one}" for one in moved.obstacles])
