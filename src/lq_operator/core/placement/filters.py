"""What must hold for a VM to run on a host. FILTERS is the specification: a literal list, read from top to bottom.

A filter says for many hosts at once which of them fail, and for one host in a sentence by how much. The first filter
that fails is the one that is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from lq_operator.core.placement import rules_facts as facts
from lq_operator.core.placement import rules_room as room
from lq_operator.core.placement import rules_vms as vms
from lq_operator.core.placement.question import Question
from lq_operator.core.placement.state import BoolArray, ClusterState, Rows


class Depends(Enum):
    """What can change a filter's answer, so what its cached answer must be dropped for."""

    FACTS = "facts of the host"  # state.PLACEMENT_FACTS
    LOAD = "room on the host"
    GROUPS = "where other VMs stand"


Fails = Callable[[ClusterState, Question, Rows], BoolArray]
Says = Callable[[ClusterState, Question, int], str]


@dataclass(frozen=True, slots=True)
class Filter:
    """One rule. `applies` skips it for shapes it has nothing to say about; `idle` while it would refuse no host at all
    (a shortcut: where it says no, `fails` decides)."""

    name: str
    depends: Depends
    applies: Callable[[Question], bool]
    fails: Fails
    says: Says
    idle: Callable[[ClusterState, Question], bool] = lambda _state, _question: False


def _always(_: Question) -> bool:
    return True


FILTERS: tuple[Filter, ...] = (
    Filter("ready", Depends.FACTS, _always, facts.fails_ready, facts.says_ready),
    Filter("cordon", Depends.FACTS, _always, facts.fails_cordon, facts.says_cordon),
    Filter("maintenance", Depends.FACTS, _always, facts.fails_maintenance, facts.says_maintenance),
    Filter("taints", Depends.FACTS, _always, facts.fails_taints, facts.says_taints),
    Filter("node-selector", Depends.FACTS, lambda q: bool(q.shape.node_selector), facts.fails_node_selector, facts.says_node_selector),
    Filter("node-affinity", Depends.FACTS, lambda q: bool(q.shape.node_affinity), facts.fails_node_affinity, facts.says_node_affinity),
    Filter("cpu-model", Depends.FACTS, lambda q: bool(q.shape.cpu_model), facts.fails_cpu_model, facts.says_cpu_model),
    Filter("networks", Depends.FACTS, lambda q: bool(q.shape.networks), facts.fails_networks, facts.says_networks),
    Filter("storage-reach", Depends.FACTS, lambda q: bool(q.shape.pools), facts.fails_pool_reach, facts.says_pool_reach),
    Filter("bound-volumes", Depends.FACTS, lambda q: bool(q.shape.bound_volumes), facts.fails_volumes, facts.says_volumes),
    Filter("vcpus", Depends.LOAD, _always, room.fails_vcpus, room.says_vcpus),
    Filter("memory", Depends.LOAD, lambda q: not q.shape.hugepage_kib, room.fails_memory, room.says_memory),
    Filter("hugepages", Depends.LOAD, lambda q: bool(q.shape.hugepage_kib), room.fails_hugepages, room.says_hugepages),
    Filter("numa", Depends.LOAD, lambda q: bool(q.shape.bound_cells), room.fails_numa, room.says_numa),
    Filter("devices", Depends.LOAD, lambda q: bool(q.shape.devices), room.fails_devices, room.says_devices),
    Filter("storage-space", Depends.LOAD, lambda q: any(q.shape.pools.values()), room.fails_pool_space, room.says_pool_space),
    Filter("vm-affinity", Depends.GROUPS, lambda q: bool(q.affinity), vms.fails_affinity, vms.says_affinity),
    Filter("vm-anti-affinity", Depends.GROUPS, lambda q: bool(q.anti_affinity), vms.fails_anti_affinity, vms.says_anti_affinity, vms.nobody_to_avoid),
    Filter("refused-by-others", Depends.GROUPS, lambda q: bool(q.refused_by), vms.fails_refused, vms.says_refused, vms.nobody_refuses),
    Filter("spread", Depends.GROUPS, lambda q: bool(q.spread), vms.fails_spread, vms.says_spread),
)  # fmt: skip

BITS = {rule.name: 1 << at for at, rule in enumerate(FILTERS)}
"""A bit per filter, for everything that refuses a row."""
