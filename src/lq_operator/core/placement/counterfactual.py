"""What would make a VM fit: the cheapest single changes to the request, to one host, or to one VM that is in the way.

KINDS is the whole universe of changes with their prices; every change found is exact (applied, the VM fits on the
host it names) and no cheaper one exists in the universe. Tests hold this against brute force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from lq_operator.core.placement.case import Case, Pick, case_of
from lq_operator.core.placement.changes_host import make_ready, more_pool_space, move_vm, uncordon
from lq_operator.core.placement.changes_request import (
    drop_anti_affinity,
    drop_cpu_model,
    drop_dedicated,
    drop_hugepages,
    drop_network,
    drop_node_affinity,
    drop_node_selector,
    drop_numa,
    drop_pool,
    drop_vm_affinity,
    drop_volume,
    less_devices,
    less_memory,
    less_vcpus,
    max_skew,
    tolerate,
)
from lq_operator.core.placement.question import Question
from lq_operator.core.placement.selectors import Toleration
from lq_operator.core.placement.state import ClusterState
from lq_operator.core.placement.types import Change, HostFacts, Shape

MAX_CHANGES = 3


class Kind(NamedTuple):
    """A kind of change, its least price in points, and how its cheapest instances are found (case, price, limit)."""

    name: str
    cost: int
    find: Callable[[Case, int, int], Iterator[Pick]]


KINDS: tuple[Kind, ...] = (
    Kind("uncordon", 10, uncordon),
    Kind("tolerate", 20, tolerate),
    Kind("move-vm", 20, move_vm),  # + GiB of the VM
    Kind("max-skew", 25, max_skew),  # + 5 per step
    Kind("less-memory", 30, less_memory),  # + percent given up
    Kind("less-vcpus", 30, less_vcpus),  # + percent given up
    Kind("more-pool-space", 30, more_pool_space),  # + GiB
    Kind("drop-node-selector", 40, drop_node_selector),
    Kind("drop-node-affinity", 40, drop_node_affinity),
    Kind("drop-vm-affinity", 40, drop_vm_affinity),
    Kind("drop-anti-affinity", 40, drop_anti_affinity),
    Kind("drop-numa", 45, drop_numa),
    Kind("drop-hugepages", 50, drop_hugepages),
    Kind("drop-dedicated", 50, drop_dedicated),
    Kind("less-devices", 60, less_devices),  # + devices given up
    Kind("drop-cpu-model", 70, drop_cpu_model),
    Kind("drop-network", 80, drop_network),
    Kind("drop-pool", 80, drop_pool),
    Kind("make-ready", 90, make_ready),
    Kind("drop-volume", 100, drop_volume),
)
"""Prices order changes by what they cost people: a click, a small wish, a running VM's move, a smaller machine, a
wish that had a reason, hardware, and last what cannot be given up without losing function or data."""


def cheapest(state: ClusterState, question: Question) -> tuple[Change, ...]:
    """Up to MAX_CHANGES single changes of different kinds, cheapest first; the first is the cheapest there is."""
    case = case_of(state, question)
    found: list[Change] = []
    for kind in KINDS:
        limit = found[MAX_CHANGES - 1].cost if len(found) >= MAX_CHANGES else 2**62
        if kind.cost >= limit:
            break
        picks = sorted(kind.find(case, kind.cost, limit), key=lambda pick: (pick[0], pick[1], state.names[pick[3]]))
        if picks:
            cost, target, value, row, sentence = picks[0]
            found.append(Change(kind.name, target, value, state.names[row], cost, sentence))
            found.sort(key=lambda change: change.cost)
    return tuple(found[:MAX_CHANGES])


def changed_shape(shape: Shape, change: Change) -> Shape:
    """The request with a change of the request's side applied; unchanged for changes to hosts and VMs."""
    kind, target, value = change.kind, change.target, change.value
    if kind in ("less-memory", "less-vcpus"):
        return _with(shape, target, value)
    if kind == "tolerate":
        left, _, effect = target.rpartition(":")
        key, _, text = left.partition("=")
        return replace(shape, tolerations=(*shape.tolerations, Toleration(key, text, effect)))
    if kind == "max-skew":
        at = int(target)
        terms = list(shape.spread)
        terms[at] = replace(terms[at], max_skew=value)
        return replace(shape, spread=tuple(terms))
    if kind in _WITHOUT_ITEM:
        name = _WITHOUT_ITEM[kind]
        terms_left = [term for index, term in enumerate(getattr(shape, name)) if index != int(target)]
        return _with(shape, name, tuple(terms_left))
    if kind in _WITHOUT:
        return _with(shape, *_WITHOUT[kind])
    if kind == "less-devices":
        return replace(shape, devices={**shape.devices, target: value})
    if kind == "drop-network":
        return replace(shape, networks=shape.networks - {target})
    if kind in ("drop-pool", "drop-volume"):
        name = "pools" if kind == "drop-pool" else "bound_volumes"
        return _with(shape, name, {key: item for key, item in getattr(shape, name).items() if key != target})
    return shape


_WITHOUT_ITEM = {
    "drop-node-selector": "node_selector",
    "drop-vm-affinity": "affinity",
    "drop-anti-affinity": "anti_affinity",
}
_WITHOUT: dict[str, tuple[str, object]] = {
    "drop-node-affinity": ("node_affinity", ()),
    "drop-numa": ("numa_cells", 0),
    "drop-hugepages": ("hugepage_kib", 0),
    "drop-dedicated": ("dedicated_cpus", False),
    "drop-cpu-model": ("cpu_model", ""),
}


def _with(shape: Shape, name: str, value: Any) -> Shape:
    changes: dict[str, Any] = {name: value}
    return replace(shape, **changes)


def changed_host(facts: HostFacts, change: Change) -> HostFacts:
    """A host with a change of the host's side applied; unchanged where the change is about something else."""
    if change.host != facts.name:
        return facts
    if change.kind == "uncordon":
        return replace(facts, cordoned=False)
    if change.kind == "make-ready":
        return replace(facts, ready=True, not_ready_reason="")
    if change.kind == "more-pool-space":
        reach = facts.pools[change.target]
        more = replace(reach, free_bytes=reach.free_bytes + change.value * 2**30)
        return replace(facts, pools={**facts.pools, change.target: more})
    return facts
