"""cordon, uncordon, drain, undrain: one field of HypervisorNode each, and what its status says afterwards."""

from __future__ import annotations

from argparse import Namespace

from lq_operator.api.node import HypervisorNode, MaintenanceStatus
from lq_operator.cli_tools.lq.cluster import connect
from lq_operator.cli_tools.lq.names import node_name
from lq_operator.cli_tools.lq.progress import Progress, until
from lq_operator.cli_tools.text import table, to_json
from lq_operator.core.result import Rejected

DRAIN_TIMEOUT_S = 3600
"""Moving a host's VMs takes minutes; after an hour somebody should look. The drain itself goes on."""


async def cordon(arguments: Namespace) -> int:
    """spec.unschedulable true; the VMs there stay."""
    return await _set_unschedulable(arguments, True)


async def uncordon(arguments: Namespace) -> int:
    """spec.unschedulable false."""
    return await _set_unschedulable(arguments, False)


async def _set_unschedulable(arguments: Namespace, value: bool) -> int:
    async with connect(arguments) as cluster:
        results = []
        for name in dict.fromkeys(node_name(one) for one in arguments.node):
            node = await cluster.find(HypervisorNode, name)
            changed = node.spec.unschedulable != value
            if changed:
                await cluster.set_spec(HypervisorNode, name, {"unschedulable": value})
            results.append({"node": name, "unschedulable": value, "changed": changed})
    if arguments.output == "json":
        print(to_json(results[0] if len(results) == 1 else results))
        return 0
    word = "cordoned" if value else "uncordoned"
    for result in results:
        print(f"hvn/{result['node']}: {word}" + ("" if result["changed"] else " already"))
    return 0


async def drain(arguments: Namespace) -> int:
    """spec.maintenance true, until nothing of ours runs there. 0: in maintenance. 1: something stays, with the way out."""
    async with connect(arguments) as cluster:
        name = node_name(arguments.node)
        node = await cluster.find(HypervisorNode, name)
        if not node.spec.maintenance:
            node = await cluster.set_spec(HypervisorNode, name, {"maintenance": True})
        progress = Progress(quiet=arguments.output == "json")

        async def look() -> HypervisorNode | None:
            now = await cluster.find(HypervisorNode, name)
            if not now.spec.maintenance:
                raise Rejected(f"hvn/{name}: somebody else has ended the maintenance")
            status = now.status.maintenance
            if status is not None and now.status.observed_generation >= node.metadata.generation:
                progress.say(f"hvn/{name}: {emptying(status)}")
                if status.phase in ("InMaintenance", "Blocked"):
                    return now
            return None

        found: HypervisorNode | None = node
        if arguments.wait:
            found = await until(look, timeout_s=arguments.timeout or DRAIN_TIMEOUT_S)
            progress.end()
    if found is None:
        raise Rejected(
            f"hvn/{name} is still being drained (see kubectl describe hvn {name}); it goes on: kubectl lq undrain {name} ends it"
        )
    status = found.status.maintenance
    if arguments.output == "json":
        print(to_json({"node": name, "maintenance": status.model_dump(by_alias=True) if status else None}))
    else:
        print(say_drain(name, status, waited=arguments.wait))
    return 0 if not arguments.wait or (status is not None and status.phase == "InMaintenance") else 1


async def undrain(arguments: Namespace) -> int:
    """spec.maintenance false: back to service."""
    async with connect(arguments) as cluster:
        name = node_name(arguments.node)
        node = await cluster.find(HypervisorNode, name)
        changed = node.spec.maintenance
        if changed:
            await cluster.set_spec(HypervisorNode, name, {"maintenance": False})
    if arguments.output == "json":
        print(to_json({"node": name, "maintenance": False, "changed": changed}))
        return 0
    cordoned = f"; it is cordoned as well: kubectl lq uncordon {name}" if node.spec.unschedulable else ""
    print(f"hvn/{name}: back to service" + ("" if changed else " already") + cordoned)
    return 0


def emptying(status: MaintenanceStatus) -> str:
    """One line while it lasts."""
    stuck = f", {len(status.blockers)} cannot be moved" if status.blockers else ""
    return f"{status.phase}: {status.remaining} VMs here, {status.moving} on their way{stuck}"


def say_drain(name: str, status: MaintenanceStatus | None, *, waited: bool) -> str:
    """For a terminal."""
    if not waited or status is None:
        return f"hvn/{name}: drain asked for (kubectl get hvn {name} -w)"
    if status.phase == "InMaintenance":
        return f"hvn/{name}: in maintenance, nothing of this installation runs there"
    lines = [f"hvn/{name}: {len(status.blockers)} VMs stay; what could be moved was. The drain goes on when they can:"]
    rows = [(f"{one.namespace}/{one.name}", one.reason, one.message) for one in status.blockers]
    return "\n".join([*lines, table(("VM", "WHY", "WHAT TO DO"), rows, indent="  ")])
