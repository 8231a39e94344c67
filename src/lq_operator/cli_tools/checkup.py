"""What a survey of hosts means: which can fail, who blocks, what the CPU baseline costs, what is badly placed. Pure.

Uses the scheduler's own engine and admission. Where a host does not say enough (is this directory a shared mount?) the
answer is the careful one, and the finding says what to add.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from lq_operator.adapters.libvirt.survey import CommonCpu, HostSurvey, SurveyedDomain
from lq_operator.core.failover.admission import Admission, FailureVerdict
from lq_operator.core.lifecycle.baseline import best_common_model
from lq_operator.core.placement import (
    Decision,
    HostFacts,
    NumaCellFacts,
    Placed,
    PlacementEngine,
    PlacementRequest,
    Shape,
    VmKey,
)
from lq_operator.core.placement.whatif import copy_of
from lq_operator.core.result import Rejected

BETTER_BY = 0.15
"""A VM is badly placed when another host's score is better by this much (of 1): less is noise, and a move costs."""
MOST_FINDINGS = 20
PINNED_MODES = ("host-passthrough", "maximum", "host-model")
"""CPU modes that take whatever the host has: such a guest starts anywhere, but cannot be moved while it runs."""


@dataclass(frozen=True, slots=True)
class Options:
    """What libvirt does not know. shared: directories that are the same on every host."""

    cpu_overcommit: float = 4.0
    reserve_mib: int = 1024
    shared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostLine:
    """One host of the report. largest_mib: the largest VM that could still start after it failed."""

    name: str
    uri: str
    pcpus: int
    capacity_vcpus: int
    memory_mib: int
    vms: int
    off: int
    used_vcpus: int
    used_mib: int
    verdict: FailureVerdict
    blocker_why: str
    largest_mib: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is badly placed, with what would help."""

    vm: str
    host: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """model: best named model of all hosts ('' none). lost_models, lost_features: host -> what its guests give up."""

    model: str
    lost_models: dict[str, tuple[str, ...]]
    lost_features: dict[str, tuple[str, ...]] | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything `check` says."""

    hosts: tuple[HostLine, ...]
    baseline: Baseline
    findings: tuple[Finding, ...]

    @property
    def all_can_fail(self) -> bool:
        """Whether any single host may fail today."""
        return all(host.verdict.ok for host in self.hosts)


def host_names(hosts: Sequence[HostSurvey]) -> dict[str, str]:
    """URI -> short name, unique. Rejected where two URIs lead to one host: it would count twice."""
    seen: dict[str, str] = {}
    for host in hosts:
        other = seen.setdefault(host.inventory.host_uuid, host.uri)
        if other != host.uri:
            raise Rejected(f"{other} and {host.uri} are the same host ({host.inventory.host_uuid}); name it once")
    wanted = {host.uri: urlsplit(host.uri).hostname or host.inventory.hostname for host in hosts}
    counts = list(wanted.values())
    return {uri: name if counts.count(name) == 1 else (urlsplit(uri).netloc or uri) for uri, name in wanted.items()}


def build(hosts: Sequence[HostSurvey], options: Options) -> PlacementEngine:
    """The engine as the scheduler would have it, were these hosts managed."""
    engine = PlacementEngine(strategy="balanced")
    names = host_names(hosts)
    bridges_known = all(any(net.startswith("bridge ") for net in host.networks) for host in hosts)
    for host in hosts:
        engine.set_host(_facts(host, names[host.uri], options))
    for host in hosts:
        for domain in host.domains:
            shape = _shape(host, domain, hosts, names, options, bridges_known)
            engine.set_vm(Placed(VmKey(names[host.uri], domain.name), names[host.uri], shape))
    return engine


def _facts(host: HostSurvey, name: str, options: Options) -> HostFacts:
    inventory = host.inventory
    devices: dict[str, int] = {}
    for domain in host.domains:
        for device in domain.passthrough:
            devices[f"{name} {device}"] = 1
    memory = max(0, inventory.memory_mib - options.reserve_mib)
    return HostFacts(
        name=name,
        pcpus=inventory.cpus,
        memory_mib=memory,
        overcommit_milli=max(1, round(options.cpu_overcommit * 1000)),
        numa=tuple(NumaCellFacts(c.cell, c.cpus, c.memory_mib) for c in inventory.numa),
        devices=devices,
        networks=host.networks,
        cpu_models=frozenset(inventory.usable_cpu_models) | ({inventory.cpu_model} if inventory.cpu_model else set()),
    )


def _shape(
    host: HostSurvey,
    domain: SurveyedDomain,
    hosts: Sequence[HostSurvey],
    names: dict[str, str],
    options: Options,
    bridges_known: bool,
) -> Shape:
    bound = {}
    for path in domain.disks:
        reach = _reach(path, host, hosts, options)
        if reach is not None:
            bound[path] = frozenset(names[uri] for uri in reach)
    networks = {
        net
        for net in domain.networks
        if net in host.networks and (net.startswith("network ") or (net.startswith("bridge ") and bridges_known))
    }
    model = domain.cpu_model if domain.cpu_mode == "custom" else ""
    usable = model in host.inventory.usable_cpu_models or model == host.inventory.cpu_model
    return Shape(
        vcpus=max(1, domain.vcpus),
        # Hugepages are counted as memory: how many pages of a size are free is not part of a survey.
        memory_mib=domain.memory_mib,
        bound_volumes=bound,
        networks=frozenset(networks),
        devices={f"{names[host.uri]} {device}": 1 for device in domain.passthrough},
        cpu_model=model if usable else "",
    )


def _reach(path: str, host: HostSurvey, hosts: Sequence[HostSurvey], options: Options) -> set[str] | None:
    """URIs of the hosts that see this disk; None = every host."""
    if any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in options.shared):
        return None
    named = path.removeprefix("pool ").partition("/")[0] if path.startswith("pool ") else ""
    for pool in sorted(host.pools, key=lambda p: -len(p.path)):
        inside = pool.name == named if named else bool(pool.path) and path.startswith(pool.path.rstrip("/") + "/")
        if inside:
            if not pool.source:
                break
            return {other.uri for other in hosts if any(p.source == pool.source for p in other.pools)}
    return {host.uri}


# ---------------------------------------------------------------- answers


def examine(hosts: Sequence[HostSurvey], common: CommonCpu | None, options: Options) -> Report:
    """Everything at once. Rejected where the same host was named twice."""
    engine, names = build(hosts, options), host_names(hosts)
    admission = Admission(engine)
    lines = tuple(_line(host, names[host.uri], engine, admission) for host in hosts)
    return Report(lines, _baseline(hosts, names, common), tuple(_findings(engine, hosts, names))[:MOST_FINDINGS])


def _line(host: HostSurvey, name: str, engine: PlacementEngine, admission: Admission) -> HostLine:
    facts = _facts_of(engine, name)
    verdict = admission.can_fail([name])
    why = ""
    if verdict.blocker is not None:
        shape = engine.state.placed[verdict.blocker].shape
        decision = without(engine, name, PlacementRequest(verdict.blocker, shape))
        why = (
            decision.sentence
            if decision.host is None
            else f"it alone would fit on {decision.host}, but not together with the others"
        )
    shapes = [vm.shape for vm in engine.state.placed.values() if vm.host == name]
    return HostLine(
        name=name,
        uri=host.uri,
        pcpus=facts.pcpus,
        capacity_vcpus=facts.capacity_mvcpus // 1000,
        memory_mib=facts.memory_mib,
        vms=len(shapes),
        off=host.off,
        used_vcpus=sum(shape.vcpus for shape in shapes),
        used_mib=sum(shape.memory_mib for shape in shapes),
        verdict=verdict,
        blocker_why=why,
        largest_mib=admission.largest_restart_mib([name]) if verdict.ok else 0,
    )


def without(engine: PlacementEngine, host: str, request: PlacementRequest) -> Decision:
    """Where this VM would go if its host were gone and it were the only one to go."""
    copy = copy_of(engine)
    copy.set_host(replace(_facts_of(copy, host), ready=False, not_ready_reason="has failed"))
    copy.remove_vm(request.identity)
    return copy.decide(request)


def _facts_of(engine: PlacementEngine, host: str) -> HostFacts:
    entry = engine.state.row[engine.state.rows[host]]
    assert entry is not None
    return entry.facts


def _baseline(hosts: Sequence[HostSurvey], names: dict[str, str], common: CommonCpu | None) -> Baseline:
    model = best_common_model([(host.inventory.accel, host.inventory.usable_cpu_models) for host in hosts])
    shared = set.intersection(*(set(host.inventory.usable_cpu_models) for host in hosts)) if hosts else set()
    lost_models = {names[host.uri]: tuple(sorted(set(host.inventory.usable_cpu_models) - shared)) for host in hosts}
    lost = {names[uri]: features for uri, features in common.lost.items()} if common is not None else None
    return Baseline(model, lost_models, lost)


def _findings(engine: PlacementEngine, hosts: Sequence[HostSurvey], names: dict[str, str]) -> Iterable[Finding]:
    """Most serious first: broken promises, VMs that no other host can take, VMs that would be better elsewhere."""
    for host in hosts:
        yield from _broken_promises(engine, names[host.uri])
    better: list[tuple[float, Finding]] = []
    for key, placed in sorted(engine.state.placed.items()):
        request = PlacementRequest(key, placed.shape)
        if len(hosts) > 1 and _is_tied(engine, placed):
            alone = without(engine, placed.host, request)
            yield Finding(key.name, placed.host, f"no other host can take it: {alone.sentence}", _untie(placed.shape))
        decision = engine.decide(request)
        scores = {ranked.host: ranked.score for ranked in decision.best}
        if decision.host is None or placed.host == decision.host:
            continue
        here = scores.get(placed.host, _score_here(engine, request, placed.host))
        gain = scores[decision.host] - here
        if gain >= BETTER_BY:
            why = f"{decision.host} would be better for it: {scores[decision.host]:.2f} against {here:.2f} of 1"
            better.append((-gain, Finding(key.name, placed.host, why, f"move it to {decision.host}")))
    yield from (finding for _, finding in sorted(better, key=lambda entry: (entry[0], entry[1].vm)))


def _broken_promises(engine: PlacementEngine, name: str) -> Iterable[Finding]:
    facts = _facts_of(engine, name)
    vms = [vm for vm in engine.state.placed.values() if vm.host == name]
    memory, vcpus = sum(vm.shape.memory_mib for vm in vms), sum(vm.shape.vcpus for vm in vms)
    if memory > facts.memory_mib:
        why = f"its VMs may use {memory} MiB, it has {facts.memory_mib} MiB for them"
        yield Finding("", name, why, f"move {memory - facts.memory_mib} MiB of VMs away, or guests will be killed")
    if vcpus * 1000 > facts.capacity_mvcpus:
        why = f"its VMs have {vcpus} vCPUs, {facts.pcpus} CPUs carry {facts.capacity_mvcpus // 1000}"
        yield Finding("", name, why, "move VMs away, or accept more with --cpu-overcommit")
    for vm in sorted(vms, key=lambda placed: placed.identity):
        if vm.shape.vcpus > facts.pcpus:
            why = f"it has {vm.shape.vcpus} vCPUs, its host {facts.pcpus} CPUs: they wait for each other"
            yield Finding(vm.identity.name, name, why, "give it fewer vCPUs, or a larger host")


def _score_here(engine: PlacementEngine, request: PlacementRequest, host: str) -> float:
    """Its score where it is: every other host is taken away for the question."""
    copy = copy_of(engine)
    for name in list(copy.state.rows):
        if name != host:
            copy.set_host(replace(_facts_of(copy, name), cordoned=True))
    decision = copy.decide(request)
    return decision.best[0].score if decision.best else 0.0


def _is_tied(engine: PlacementEngine, placed: Placed) -> bool:
    """No other host could take it even if it were empty."""
    allowed = engine.fitting_by_facts(placed.identity.namespace, placed.shape)
    others = [row for name, row in engine.state.rows.items() if name != placed.host]
    return bool(placed.shape.devices) or not any(allowed[row] for row in others)


def _untie(shape: Shape) -> str:
    parts = []
    if shape.bound_volumes:
        paths = ", ".join(list(shape.bound_volumes)[:2])
        parts.append(f"put {paths} on storage that others reach (or say --shared DIR where it is)")
    if shape.devices:
        parts.append("it holds a device of its host")
    if shape.cpu_model:
        parts.append(f"its CPU model {shape.cpu_model} is more than other hosts have")
    if shape.networks:
        parts.append(f"it needs {', '.join(sorted(shape.networks))}")
    return "; ".join(parts)
