"""What must hold for a VM to run on a host. FILTERS is the specification: a literal list, read from top to bottom.

A filter says for many hosts at once which of them fail, and for one host in a sentence by how much. The first filter
that fails is the one that is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from lq_operator.core.placement.groups import Group
from lq_operator.core.placement.selectors import all_match, any_term_matches, untolerated
from lq_operator.core.placement.state import BoolArray, ClusterState, IntArray, Rows
from lq_operator.core.placement.types import HOSTNAME_KEY, HostFacts, Shape, SpreadTerm, VmTerm

NO_DOMAIN = 2**40


class Depends(Enum):
    """What can change a filter's answer, so what its cached answer must be dropped for."""

    FACTS = "facts of the host"  # state.PLACEMENT_FACTS
    LOAD = "room on the host"
    GROUPS = "where other VMs stand"


@dataclass(slots=True)
class Question:
    """A shape with everything about it that is looked up once: its groups and the hosts it may choose from."""

    namespace: str
    shape: Shape
    affinity: tuple[tuple[VmTerm, Group], ...] = ()
    anti_affinity: tuple[tuple[VmTerm, Group], ...] = ()
    spread: tuple[tuple[SpreadTerm, Group], ...] = ()
    preferred: tuple[tuple[VmTerm, Group, int], ...] = ()
    refused_by: tuple[Group, ...] = ()
    belongs: frozenset[Group] = frozenset()  # the groups above that count the VM itself
    eligible: BoolArray | None = None  # per row: passes every FACTS filter; what spreading counts as a domain
    eligible_domains: dict[str, tuple[int, list[int]]] = field(default_factory=dict)  # key -> (version, domain ids)

    def groups(self) -> tuple[Group, ...]:
        """Member groups this question keeps alive."""
        pairs = (*self.affinity, *self.anti_affinity, *self.spread)
        return (*(group for _, group in pairs), *(group for _, group, _ in self.preferred))


Fails = Callable[[ClusterState, Question, Rows], BoolArray]
Says = Callable[[ClusterState, Question, int], str]


@dataclass(frozen=True, slots=True)
class Filter:
    """One rule. `applies` skips it for shapes it has nothing to say about."""

    name: str
    depends: Depends
    applies: Callable[[Question], bool]
    fails: Fails
    says: Says


def _facts(state: ClusterState, row: int) -> HostFacts:
    entry = state.row[row]
    assert entry is not None
    return entry.facts


def _names(values: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(values))


def gib(mib: int) -> str:
    """MiB for people: whole GiB where it is one, else MiB."""
    return f"{mib // 1024} GiB" if mib % 1024 == 0 else f"{mib} MiB"


def cores(milli: int) -> str:
    """Thousandths of a CPU for people."""
    return f"{milli // 1000}" if milli % 1000 == 0 else f"{milli / 1000:.3f}".rstrip("0")


# ---------------------------------------------------------------- facts of the host


def _fails_ready(state: ClusterState, _: Question, rows: Rows) -> BoolArray:
    return state.column("unready", lambda host: not host.ready)[rows]


def _says_ready(state: ClusterState, _: Question, row: int) -> str:
    return f"is not ready: {_facts(state, row).not_ready_reason or 'no reason was given'}"


def _fails_cordon(state: ClusterState, _: Question, rows: Rows) -> BoolArray:
    return state.column("cordoned", lambda host: host.cordoned)[rows]


def _says_cordon(_: ClusterState, __: Question, ___: int) -> str:
    return "is cordoned"


def _fails_taints(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    tolerations = question.shape.tolerations
    return state.column(("taints", tolerations), lambda host: bool(untolerated(host.taints, tolerations)))[rows]


def _says_taints(state: ClusterState, question: Question, row: int) -> str:
    left = untolerated(_facts(state, row).taints, question.shape.tolerations)
    return f"has {len(left)} taint{'s' * (len(left) != 1)} the VM does not tolerate: {', '.join(map(str, left))}"


def _fails_node_selector(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    wanted = question.shape.node_selector
    return state.column(("not labels", wanted), lambda host: not all_match(wanted, host.labels))[rows]


def _says_node_selector(state: ClusterState, question: Question, row: int) -> str:
    labels = _facts(state, row).labels
    wrong = [str(r) for r in question.shape.node_selector if not r.matches(labels)]
    return f"lacks {len(wrong)} of {len(question.shape.node_selector)} selected labels: {', '.join(wrong)}"


def _fails_node_affinity(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    terms = question.shape.node_affinity
    return state.column(("affinity", terms), lambda host: not any_term_matches(terms, host.labels))[rows]


def _says_node_affinity(_: ClusterState, question: Question, __: int) -> str:
    return f"matches 0 of {len(question.shape.node_affinity)} node affinity terms"


def _fails_cpu_model(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    model = question.shape.cpu_model
    return state.column(("cpu", model), lambda host: model not in host.cpu_models)[rows]


def _says_cpu_model(state: ClusterState, question: Question, row: int) -> str:
    known = len(_facts(state, row).cpu_models)
    return f"cannot run CPU model {question.shape.cpu_model} (it can run {known} others)"


def _fails_networks(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    wanted = question.shape.networks
    return state.column(("networks", wanted), lambda host: not wanted <= host.networks)[rows]


def _says_networks(state: ClusterState, question: Question, row: int) -> str:
    missing = question.shape.networks - _facts(state, row).networks
    return f"does not reach {len(missing)} of {len(question.shape.networks)} networks: {_names(missing)}"


def _fails_pool_reach(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    wanted = frozenset(question.shape.pools)
    return state.column(("reach", wanted), lambda host: not wanted <= host.pools.keys())[rows]


def _says_pool_reach(state: ClusterState, question: Question, row: int) -> str:
    missing = question.shape.pools.keys() - _facts(state, row).pools.keys()
    return f"does not reach {len(missing)} of {len(question.shape.pools)} storage pools: {_names(missing)}"


def _fails_volumes(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    hosts = frozenset.intersection(*question.shape.bound_volumes.values())
    return state.column(("volumes", hosts), lambda host: host.name not in hosts)[rows]


def _says_volumes(state: ClusterState, question: Question, row: int) -> str:
    name = state.names[row]
    away = {volume for volume, hosts in question.shape.bound_volumes.items() if name not in hosts}
    where = sorted(set().union(*(question.shape.bound_volumes[volume] for volume in away)))
    on = f"bound to {', '.join(where[:3])}" if where else "bound to no host that is left"
    return f"does not reach {len(away)} bound volume{'s' * (len(away) != 1)}: {_names(away)} ({on})"


# ---------------------------------------------------------------- room on the host


def _needed_mvcpus(state: ClusterState, shape: Shape, row: int) -> int:
    return shape.vcpus * (int(state.overcommit[row]) if shape.dedicated_cpus else 1000)


def _fails_vcpus(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    shape = question.shape
    if shape.dedicated_cpus:
        return state.free_mvcpus[rows] < shape.vcpus * state.overcommit[rows]
    return state.free_mvcpus[rows] < shape.vcpus * 1000


def _says_vcpus(state: ClusterState, question: Question, row: int) -> str:
    free, needed = int(state.free_mvcpus[row]), _needed_mvcpus(state, question.shape, row)
    capacity = cores(_facts(state, row).capacity_mvcpus)
    return f"needs {cores(needed)} vCPU, free {cores(free)} of {capacity}"


def _fails_memory(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    return state.free_memory[rows] < question.shape.memory_mib


def _says_memory(state: ClusterState, question: Question, row: int) -> str:
    free, total = int(state.free_memory[row]), _facts(state, row).vm_memory_mib
    return f"needs {gib(question.shape.memory_mib)} memory, free {gib(free)} of {gib(total)}"


def _fails_hugepages(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    shape = question.shape
    return state.amount("hugepages", str(shape.hugepage_kib))[rows] < shape.memory_mib


def _says_hugepages(state: ClusterState, question: Question, row: int) -> str:
    size = question.shape.hugepage_kib
    free = int(state.amount("hugepages", str(size))[row])
    return f"needs {gib(question.shape.memory_mib)} in hugepages of {size} KiB, free {gib(free)}"


def cell_fits(state: ClusterState, shape: Shape, rows: Rows) -> BoolArray:
    """Which NUMA cells [row, cell] have room for one part of the VM."""
    count = shape.bound_cells
    fits = state.cells(shape.hugepage_kib)[rows] >= -(-shape.memory_mib // count)
    if shape.dedicated_cpus:
        fits &= state.cells(-1)[rows] >= shape.vcpus // count
    return fits


def _fails_numa(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    fitting: IntArray = np.count_nonzero(cell_fits(state, question.shape, rows), axis=1)
    return fitting < question.shape.bound_cells


def _says_numa(state: ClusterState, question: Question, row: int) -> str:
    shape, one = question.shape, slice(row, row + 1)
    count = shape.bound_cells
    found = int(np.count_nonzero(cell_fits(state, shape, one)))
    part = gib(-(-shape.memory_mib // count))
    if shape.dedicated_cpus:
        part = f"{shape.vcpus // count} dedicated CPUs and {part}"
    room = max(int(state.cells(shape.hugepage_kib)[row].max()), 0)
    cpus = f", most free CPUs in one {max(int(state.cells(-1)[row].max()), 0)}" if shape.dedicated_cpus else ""
    return f"needs {count} NUMA cell(s) with {part} each, has {found} (most free in one {gib(room)}{cpus})"


def _fails_devices(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing: BoolArray | None = None
    for device, count in question.shape.devices.items():
        short = state.amount("devices", device)[rows] < count
        failing = short if failing is None else failing | short
    assert failing is not None
    return failing


def _says_devices(state: ClusterState, question: Question, row: int) -> str:
    short = [
        f"{count} {device}, free {int(state.amount('devices', device)[row])}"
        for device, count in question.shape.devices.items()
        if int(state.amount("devices", device)[row]) < count
    ]
    return f"needs {'; '.join(short)}"


def pool_free(state: ClusterState, pool: str, rows: Rows) -> IntArray:
    """Bytes left in a pool as seen from each host, decisions in flight taken off."""
    free = state.amount("pools", pool)[rows]
    reserved = state.pool_reserved.get(pool, 0)
    return free - reserved * state.amount("shared", pool)[rows] if reserved else free


def _fails_pool_space(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing: BoolArray | None = None
    for pool, size in question.shape.pools.items():
        if size:
            short = pool_free(state, pool, rows) < size
            failing = short if failing is None else failing | short
    assert failing is not None
    return failing


def _says_pool_space(state: ClusterState, question: Question, row: int) -> str:
    one = slice(row, row + 1)
    short = []
    for pool, size in question.shape.pools.items():
        free = int(pool_free(state, pool, one)[0])
        if size and free < size:
            short.append(f"{-(-size // 2**20)} MiB in pool {pool}, free {free // 2**20} MiB")
    return f"needs {'; '.join(short)}"


# ---------------------------------------------------------------- where other VMs stand


def counts_per_row(state: ClusterState, group: Group, key: str, rows: Rows) -> IntArray:
    """VMs of the group in each host's domain of `key`; 0 for hosts without the label."""
    if key == HOSTNAME_KEY:
        return group.host_counts[rows]
    topology = state.topology(key)
    return state.groups.domain_counts(group, key)[topology.ids[rows]]


def domain_of(state: ClusterState, key: str, row: int) -> str:
    """Name of the host's domain, for sentences."""
    if key == HOSTNAME_KEY:
        return state.names[row]
    topology = state.topology(key)
    domain = int(topology.ids[row])
    return topology.names[domain] if domain >= 0 else f"(no label {key})"


def _lacks_label(state: ClusterState, key: str, rows: Rows) -> BoolArray:
    return state.topology(key).ids[rows] < 0


def _is_first_of_its_kind(question: Question, group: Group) -> bool:
    # Kubernetes' exception: the first VM of a group that wants to be together may go anywhere.
    return group.total == 0 and group in question.belongs


def _fails_affinity(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing = np.zeros(len(state.free_memory[rows]), np.bool_)
    for term, group in question.affinity:
        if term.topology_key != HOSTNAME_KEY:
            failing |= _lacks_label(state, term.topology_key, rows)
        if not _is_first_of_its_kind(question, group):
            failing |= counts_per_row(state, group, term.topology_key, rows) == 0
    return failing


def _says_affinity(state: ClusterState, question: Question, row: int) -> str:
    one = slice(row, row + 1)
    missing = [
        f"{term} in {domain_of(state, term.topology_key, row)} (0 of {group.total} matching VMs)"
        for term, group in question.affinity
        if (not counts_per_row(state, group, term.topology_key, one)[0] and not _is_first_of_its_kind(question, group))
        or (term.topology_key != HOSTNAME_KEY and _lacks_label(state, term.topology_key, one)[0])
    ]
    return f"has no VM that it must run with: {'; '.join(missing)}"


def _fails_anti_affinity(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing: BoolArray | None = None
    for term, group in question.anti_affinity:
        hit = counts_per_row(state, group, term.topology_key, rows) > 0
        failing = hit if failing is None else failing | hit
    assert failing is not None
    return failing


def _says_anti_affinity(state: ClusterState, question: Question, row: int) -> str:
    one = slice(row, row + 1)
    hits = []
    for term, group in question.anti_affinity:
        count = int(counts_per_row(state, group, term.topology_key, one)[0])
        if count:
            hits.append(f"{count} VM(s) {term} in {domain_of(state, term.topology_key, row)}")
    return f"it must not run with {'; '.join(hits)}"


def _fails_refused(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing: BoolArray | None = None
    for group in question.refused_by:
        hit = counts_per_row(state, group, group.term.topology_key, rows) > 0
        failing = hit if failing is None else failing | hit
    assert failing is not None
    return failing


def _says_refused(state: ClusterState, question: Question, row: int) -> str:
    one = slice(row, row + 1)
    hits = []
    for group in question.refused_by:
        count = int(counts_per_row(state, group, group.term.topology_key, one)[0])
        if count:
            where = domain_of(state, group.term.topology_key, row)
            hits.append(f"{count} VM(s) in {where} refuse {group.term}")
    return f"VMs that are there refuse it: {'; '.join(hits)}"


def fewest(state: ClusterState, question: Question, group: Group, key: str) -> int:
    """The smallest count in any domain that has a host passing every FACTS filter.

    Without any such host nothing is uneven: the FACTS filters say already why the VM fits nowhere.
    """
    assert question.eligible is not None
    eligible = question.eligible[: state.n]
    if key == HOSTNAME_KEY:
        counts = group.host_counts[: state.n][eligible]
    else:
        topology = state.topology(key)
        known = question.eligible_domains.get(key)
        if known is None or known[0] != topology.version:
            domains = np.unique(topology.ids[: state.n][eligible])
            known = question.eligible_domains[key] = (topology.version, domains[domains >= 0].tolist())
        per_domain = state.groups.domain_counts(group, key).tolist()
        return min([per_domain[domain] for domain in known[1]], default=NO_DOMAIN)
    return int(counts.min()) if len(counts) else NO_DOMAIN


def _fails_spread(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing: BoolArray | None = None
    for spread, group in question.spread:
        key = spread.topology_key
        own = 1 if group in question.belongs else 0
        limit = fewest(state, question, group, key) + spread.max_skew - own
        if key == HOSTNAME_KEY:
            uneven = group.host_counts[rows] > limit
        else:
            topology = state.topology(key)
            full = state.groups.domain_counts(group, key) > limit
            full[-1] = True  # a host without the label belongs to no domain
            uneven = full[topology.ids[rows]]
        failing = uneven if failing is None else failing | uneven
    assert failing is not None
    return failing


def _says_spread(state: ClusterState, question: Question, row: int) -> str:
    one, broken = slice(row, row + 1), []
    for spread, group in question.spread:
        key = spread.topology_key
        own = 1 if group in question.belongs else 0
        there = int(counts_per_row(state, group, key, one)[0])
        low = fewest(state, question, group, key)
        lacks = key != HOSTNAME_KEY and bool(_lacks_label(state, key, one)[0])
        if lacks or there + own - low > spread.max_skew:
            skew = f"{there + own} there against {low} at the least, skew {there + own - low} > {spread.max_skew}"
            broken.append(f"{domain_of(state, key, row)}: {skew}")
    return f"would be spread unevenly: {'; '.join(broken)}"


# ---------------------------------------------------------------- the specification


def _always(_: Question) -> bool:
    return True


FILTERS: tuple[Filter, ...] = (
    Filter("ready", Depends.FACTS, _always, _fails_ready, _says_ready),
    Filter("cordon", Depends.FACTS, _always, _fails_cordon, _says_cordon),
    Filter("taints", Depends.FACTS, _always, _fails_taints, _says_taints),
    Filter("node-selector", Depends.FACTS, lambda q: bool(q.shape.node_selector), _fails_node_selector, _says_node_selector),
    Filter("node-affinity", Depends.FACTS, lambda q: bool(q.shape.node_affinity), _fails_node_affinity, _says_node_affinity),
    Filter("cpu-model", Depends.FACTS, lambda q: bool(q.shape.cpu_model), _fails_cpu_model, _says_cpu_model),
    Filter("networks", Depends.FACTS, lambda q: bool(q.shape.networks), _fails_networks, _says_networks),
    Filter("storage-reach", Depends.FACTS, lambda q: bool(q.shape.pools), _fails_pool_reach, _says_pool_reach),
    Filter("bound-volumes", Depends.FACTS, lambda q: bool(q.shape.bound_volumes), _fails_volumes, _says_volumes),
    Filter("vcpus", Depends.LOAD, _always, _fails_vcpus, _says_vcpus),
    Filter("memory", Depends.LOAD, lambda q: not q.shape.hugepage_kib, _fails_memory, _says_memory),
    Filter("hugepages", Depends.LOAD, lambda q: bool(q.shape.hugepage_kib), _fails_hugepages, _says_hugepages),
    Filter("numa", Depends.LOAD, lambda q: bool(q.shape.bound_cells), _fails_numa, _says_numa),
    Filter("devices", Depends.LOAD, lambda q: bool(q.shape.devices), _fails_devices, _says_devices),
    Filter("storage-space", Depends.LOAD, lambda q: any(q.shape.pools.values()), _fails_pool_space, _says_pool_space),
    Filter("vm-affinity", Depends.GROUPS, lambda q: bool(q.affinity), _fails_affinity, _says_affinity),
    Filter("vm-anti-affinity", Depends.GROUPS, lambda q: bool(q.anti_affinity), _fails_anti_affinity, _says_anti_affinity),
    Filter("refused-by-others", Depends.GROUPS, lambda q: bool(q.refused_by), _fails_refused, _says_refused),
    Filter("spread", Depends.GROUPS, lambda q: bool(q.spread), _fails_spread, _says_spread),
)  # fmt: skip
