"""Nodes and VMs as the placement engine wants them, and its decision as status says it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lq_operator.api.base import LabelSelector
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.network import VirtualNetwork
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmstatus import SchedulingStatus, VerdictStatus
from lq_operator.api.volume import Volume
from lq_operator.convert.domain import Size
from lq_operator.core.placement import HostFacts, PoolReach, Shape, SpreadTerm, VmTerm, WeightedVmTerm
from lq_operator.core.placement.selectors import Operator, Requirement, Taint, Toleration, match_labels
from lq_operator.core.placement.types import HOSTNAME_KEY, Decision, Verdict
from lq_operator.core.units import parse_bytes, parse_mib

HOST_KEY = "limiquantix.io/host"
"""Our label for a single host; every node carries it with its own name."""
MAX_VERDICTS = 32


def node_labels(node: HypervisorNode) -> dict[str, str]:
    """Labels for selectors: metadata, spec.labels, and the host itself."""
    return {**node.metadata.labels, **node.spec.labels, HOST_KEY: node.metadata.name}


def pool_reach(pools: Iterable[StoragePool]) -> dict[str, dict[str, PoolReach]]:
    """Node -> pool -> reach, where the pool reports to be ready there."""
    found: dict[str, dict[str, PoolReach]] = {}
    for pool in pools:
        shared = pool.spec.access == "Shared"
        for here in pool.status.nodes:
            if here.ready:
                found.setdefault(here.node, {})[pool.metadata.name] = PoolReach(here.available_bytes, shared)
    return found


def network_reach(networks: Iterable[VirtualNetwork]) -> dict[str, frozenset[str]]:
    """Node -> networks (namespace/name) that report to be ready there."""
    found: dict[str, set[str]] = {}
    for network in networks:
        for here in network.status.nodes:
            if here.ready:
                found.setdefault(here.node, set()).add(network.key)
    return {node: frozenset(keys) for node, keys in found.items()}


def host_facts(
    node: HypervisorNode,
    cluster: HypervisorCluster,
    pools: Mapping[str, PoolReach],
    networks: frozenset[str],
) -> HostFacts:
    """A HypervisorNode with the pools and networks that are ready on it (`pool_reach`, `network_reach`)."""
    status, name = node.status, node.metadata.name
    overcommit = node.spec.overcommit or cluster.spec.overcommit
    memory_mib = max(status.capacity.memory_mib - parse_mib(node.spec.reserved.memory), 0)
    ready, why = _readiness(node)
    return HostFacts(
        name=name,
        pcpus=max(status.capacity.cpu - node.spec.reserved.cpu, 0),
        memory_mib=memory_mib * overcommit.memory_percent // 100,
        overcommit_milli=overcommit.cpu_percent * 10,
        labels=node_labels(node),
        taints=tuple(Taint(t.key, t.value, t.effect) for t in node.spec.taints),
        ready=ready,
        not_ready_reason=why,
        cordoned=node.spec.unschedulable,
        maintenance=node.spec.maintenance,
        pools=pools,
        networks=networks,
        cpu_models=frozenset(status.usable_cpu_models),
    )


def _readiness(node: HypervisorNode) -> tuple[bool, str]:
    if node.deleting:
        return False, "is being decommissioned"
    for kind in ("Ready", "Member"):
        condition = node.status.condition(kind)
        if condition is None or condition.status != "True":
            said = condition.message or condition.reason if condition is not None else "nothing is known of it yet"
            return False, said[:200]
    return True, ""


def shape_of(vm: VirtualMachine, size: Size, volumes: Mapping[str, Volume | None], pool_of: Mapping[str, str]) -> Shape:
    """What decides where it fits. `volumes`: disk -> Volume; `pool_of`: disk -> pool where it is not bound yet."""
    wishes = vm.spec.placement
    return Shape(
        vcpus=size.cpu,
        memory_mib=size.memory_mib,
        pools=_pools(volumes, pool_of),
        networks=frozenset(
            f"{i.network_ref.namespace or vm.metadata.namespace}/{i.network_ref.name}" for i in vm.spec.interfaces
        ),
        bound_volumes=_bound(vm, volumes),
        cpu_model=_cpu_model(vm),
        node_selector=match_labels(wishes.node_selector),
        node_affinity=(requirements(wishes.node_affinity),) if _says(wishes.node_affinity) else (),
        tolerations=tuple(
            Toleration(t.key, t.value, t.effect, exists=t.operator == "Exists") for t in wishes.tolerations
        ),
        labels=vm.metadata.labels,
        affinity=tuple(_term(t.selector, t.topology_key) for t in wishes.affinity if t.required),
        anti_affinity=tuple(_term(t.selector, t.topology_key) for t in wishes.anti_affinity if t.required),
        spread=tuple(SpreadTerm(requirements(s.selector), _key(s.topology_key), s.max_skew) for s in wishes.spread),
        preferred=(
            *(WeightedVmTerm(_term(t.selector, t.topology_key), t.weight) for t in wishes.affinity if not t.required),
            *(
                WeightedVmTerm(_term(t.selector, t.topology_key), -t.weight)
                for t in wishes.anti_affinity
                if not t.required
            ),
        ),
        strategy=(wishes.strategy or "").lower(),
    )


def _cpu_model(vm: VirtualMachine) -> str:
    model = vm.status.hardware.cpu_model or (vm.spec.cpu.model if vm.spec.cpu else None) or ""
    return "" if model in ("host-passthrough", "maximum", "host-model") else model


def _pools(volumes: Mapping[str, Volume | None], pool_of: Mapping[str, str]) -> dict[str, int]:
    """Pool -> bytes still to be allocated. Thin files take none beforehand; a bound shared volume needs reach only."""
    wanted: dict[str, int] = {}
    for disk, pool in pool_of.items():
        volume = volumes.get(disk)
        thick = volume is not None and volume.spec.format == "raw" and volume.status.phase != "Ready"
        wanted[pool] = wanted.get(pool, 0) + (parse_bytes(volume.spec.size) if thick and volume else 0)
    return wanted


def _bound(vm: VirtualMachine, volumes: Mapping[str, Volume | None]) -> dict[str, frozenset[str]]:
    bound = {
        volume.metadata.name: frozenset({volume.status.node})
        for volume in volumes.values()
        if volume is not None and volume.status.node
    }
    if vm.status.power.state_node:
        bound["suspend-image"] = frozenset({vm.status.power.state_node})
    return bound


def requirements(selector: LabelSelector) -> tuple[Requirement, ...]:
    """A metav1 selector as requirements."""
    return match_labels(selector.match_labels) + tuple(
        Requirement(e.key, Operator(e.operator), tuple(e.values)) for e in selector.match_expressions
    )


def _says(selector: LabelSelector) -> bool:
    return bool(selector.match_labels or selector.match_expressions)


def _key(topology_key: str) -> str:
    return HOSTNAME_KEY if topology_key == HOST_KEY else topology_key


def _term(selector: LabelSelector, topology_key: str) -> VmTerm:
    return VmTerm(requirements(selector), _key(topology_key))


def scheduling_status(decision: Decision, verdicts: Iterable[Verdict]) -> SchedulingStatus:
    """The decision for status.scheduling, at most 32 hosts. The best three say the terms of their score."""
    ranked = {one.host: one for one in decision.best}
    entries = []
    for verdict in verdicts:
        best, message = ranked.get(verdict.host), verdict.sentence
        if best is not None and not verdict.filter:
            message = "fits: " + ", ".join(f"{name} {value:.2f}x{weight}" for name, weight, value in best.terms)
        entries.append(
            VerdictStatus(
                node=verdict.host,
                fits=verdict.filter == "",
                reason=verdict.filter,
                message=message[:400],
                score=min(1000, max(0, round(best.score * 1000))) if best is not None else 0,
            )
        )
    entries.sort(key=lambda entry: (not entry.fits, -entry.score, entry.node))
    return SchedulingStatus(
        message=decision.sentence[:2000],
        verdicts=entries[:MAX_VERDICTS],
        rejected=dict(decision.rejected),
        remedies=[change.sentence[:400] for change in decision.changes][:8],
    )
