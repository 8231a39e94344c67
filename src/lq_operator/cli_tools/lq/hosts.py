"""cordon, uncordon, drain, undrain: one field of HypervisorNode each, and what its status says afterwards."""

from __future__ import annotations

from argparse import Namespace

from lq_operator.api.node import HypervisorNode
from lq_operator.cli_tools.lq.cluster import connect
from lq_operator.cli_tools.lq.names import node_name
from lq_operator.cli_tools.text import to_json


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
