"""top vms, top nodes: what the API knows of size, room and state. No load: nothing in the API measures it."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.cli_tools.lq.cluster import connect
from lq_operator.cli_tools.lq.operate import node_of
from lq_operator.cli_tools.text import mib, table, to_json

NO_LOAD = "(promised, not used: nothing in the API measures what guests use)"
RUNS = ("Running", "Paused", "Starting", "Stopping")


async def run(arguments: Namespace) -> int:
    """One table."""
    async with connect(arguments) as cluster:
        if arguments.what == "nodes":
            rows = node_rows(await cluster.listing(HypervisorNode))
        else:
            rows = vm_rows(await cluster.listing(VirtualMachine))
    if arguments.output == "json":
        print(to_json(rows))
        return 0
    if not rows:
        print(f"There are no {arguments.what}.")
        return 0
    print(say_nodes(rows) if arguments.what == "nodes" else say_vms(rows))
    return 0


def vm_rows(vms: list[VirtualMachine]) -> list[dict[str, Any]]:
    """The largest first."""
    rows = [
        {
            "vm": vm.metadata.name,
            "state": vm.status.power.state,
            "node": node_of(vm),
            "cpu": vm.status.effective.cpu,
            "memory_mib": vm.status.effective.memory_mib,
            "addresses": list(vm.status.addresses),
            "restarts": vm.status.power.restarts,
            "started_at": vm.status.power.started_at if vm.status.power.state in RUNS else "",
        }
        for vm in vms
    ]
    return sorted(rows, key=lambda row: (-row["memory_mib"], -row["cpu"], row["vm"]))


def node_rows(nodes: list[HypervisorNode]) -> list[dict[str, Any]]:
    """By name."""
    return [
        {
            "node": node.metadata.name,
            "ready": ready.status if (ready := node.status.condition("Ready")) else "Unknown",
            "reason": ready.reason if ready else "",
            "vms": node.status.vms,
            "cpu": node.status.capacity.cpu,
            "allocatable_cpu": node.status.allocatable.cpu,
            "memory_mib": node.status.capacity.memory_mib,
            "allocatable_memory_mib": node.status.allocatable.memory_mib,
            "cordoned": node.spec.unschedulable,
            "maintenance": node.status.maintenance.phase if node.status.maintenance else "",
            "last_contact": node.status.last_contact,
        }
        for node in sorted(nodes, key=lambda one: one.metadata.name)
    ]


def say_vms(rows: list[dict[str, Any]]) -> str:
    """For a terminal."""
    header = ("VM", "STATE", "NODE", "VCPUS", "MEMORY", "RESTARTS", "SINCE", "ADDRESS")
    lines = [
        (r["vm"], r["state"], r["node"] or "-", r["cpu"], mib(r["memory_mib"]), r["restarts"], r["started_at"] or "-",
         ",".join(r["addresses"][:2]) or "-")
        for r in rows
    ]  # fmt: skip
    running = [r for r in rows if r["state"] in RUNS]
    promised = f"{sum(r['cpu'] for r in running)} vCPUs and {mib(sum(r['memory_mib'] for r in running))}"
    return table(header, lines) + f"\n{len(running)} of {len(rows)} run, with {promised} {NO_LOAD}"


def say_nodes(rows: list[dict[str, Any]]) -> str:
    """For a terminal."""
    header = ("NODE", "READY", "VMS", "CPUS", "FOR VMS", "MEMORY", "FOR VMS", "NOTE")
    lines = [
        (r["node"], r["ready"], r["vms"], r["cpu"], r["allocatable_cpu"], mib(r["memory_mib"]),
         mib(r["allocatable_memory_mib"]), _note(r))
        for r in rows
    ]  # fmt: skip
    return table(header, lines) + f"\n{NO_LOAD}"


def _note(row: dict[str, Any]) -> str:
    notes = [row["maintenance"], "cordoned" if row["cordoned"] else "", row["reason"] if row["ready"] != "True" else ""]
    return ", ".join(note for note in notes if note)
