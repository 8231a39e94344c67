"""Every proposed change, applied, makes the VM fit where it says; brute force over the universe finds none cheaper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hypothesis import HealthCheck, assume, event, given, settings

from lq_operator.core.placement import Change, HostFacts, Placed, PlacementRequest, VmKey
from lq_operator.core.placement.counterfactual import KINDS, changed_host, changed_shape
from lq_operator.core.placement.selectors import untolerated

from .oracle import refusals
from .worlds import World, worlds

GIB = 1024


def applied(world: World, change: Change) -> World:
    """The world after the change, from scratch."""
    hosts = {name: changed_host(facts, change) for name, facts in world.hosts.items()}
    vms = {key: vm for key, vm in world.vms.items() if not (change.kind == "move-vm" and str(key) == change.target)}
    return World(hosts, vms, PlacementRequest(world.request.identity, changed_shape(world.request.shape, change)))


def fits_on(world: World, host: str) -> bool:
    there = list(world.hosts.values())
    return not refusals(world.request, world.hosts[host], there, world.vms)


def universe(world: World) -> Iterator[Change]:
    """Every change there is, with its price by the table in KINDS; the host is filled in by trying all."""
    price = {kind.name: kind.cost for kind in KINDS}
    shape = world.request.shape

    def change(kind: str, target: str = "", value: int = 0, host: str = "", extra: int = 0) -> Change:
        return Change(kind, target, value, host, price[kind] + extra, "")

    for host in world.hosts.values():
        yield change("uncordon", host.name, host=host.name)
        yield change("make-ready", host.name, host=host.name)
        for taint in untolerated(host.taints, ()):
            yield change("tolerate", str(taint))
        for pool in host.pools:
            for gibs in range(1, 4):
                yield change("more-pool-space", pool, gibs, host.name, gibs)
    for key, vm in world.vms.items():
        if vm.movable and vm.host in world.hosts:
            yield change("move-vm", str(key), host=vm.host, extra=-(-vm.shape.memory_mib // GIB))
    for at, spread in enumerate(shape.spread):
        for skew in range(spread.max_skew + 1, 12):
            yield change("max-skew", str(at), skew, extra=5 * (skew - spread.max_skew))
    for memory in range(1, shape.memory_mib):
        if not shape.hugepage_kib or memory * 1024 % shape.hugepage_kib == 0:
            yield change(
                "less-memory", "memory_mib", memory, extra=-(-100 * (shape.memory_mib - memory) // shape.memory_mib)
            )
    for vcpus in range(1, shape.vcpus):
        if not shape.dedicated_cpus or vcpus % shape.bound_cells == 0:
            yield change("less-vcpus", "vcpus", vcpus, extra=-(-100 * (shape.vcpus - vcpus) // shape.vcpus))
    for device, count in shape.devices.items():
        for left in range(count):
            yield change("less-devices", device, left, extra=count - left)
    for kind, terms in (("drop-node-selector", shape.node_selector), ("drop-vm-affinity", shape.affinity),
                        ("drop-anti-affinity", shape.anti_affinity), ("drop-network", shape.networks),
                        ("drop-pool", shape.pools), ("drop-volume", shape.bound_volumes)):  # fmt: skip
        indexed = kind in ("drop-node-selector", "drop-vm-affinity", "drop-anti-affinity")
        for at, term in enumerate(terms):
            yield change(kind, str(at) if indexed else str(term))
    for kind, there in (("drop-node-affinity", shape.node_affinity), ("drop-cpu-model", shape.cpu_model),
                        ("drop-numa", shape.numa_cells and not shape.dedicated_cpus),
                        ("drop-hugepages", shape.hugepage_kib), ("drop-dedicated", shape.dedicated_cpus)):  # fmt: skip
        if there:
            yield change(kind)


def cheapest_by_brute_force(world: World) -> dict[str, int]:
    """Least price per kind of a change that works on some host (the one it names, if it names one)."""
    least: dict[str, int] = {}
    for change in universe(world):
        if change.cost >= least.get(change.kind, 2**62):
            continue
        after = applied(world, change)
        if any(fits_on(after, host) for host in ([change.host] if change.host else after.hosts)):
            least[change.kind] = change.cost
    return least


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds(max_hosts=4, max_vms=6))
def test_changes_are_exact_and_the_cheapest(world: World) -> None:
    decision = world.engine().decide(world.request)
    assume(decision.host is None)
    for change in decision.changes:
        assert fits_on(applied(world, change), change.host), change
        assert change.sentence in decision.sentence or decision.sentence.endswith("…")
    least = cheapest_by_brute_force(world)
    event(f"cheapest: {decision.changes[0].kind if decision.changes else 'none'}")
    cheapest = sorted(least.values())[: len(decision.changes)]
    assert bool(least) == bool(decision.changes), least
    assert [change.cost for change in decision.changes] == cheapest
    assert len(decision.changes) == min(3, len(least))
    for change in decision.changes:
        assert change.cost == least[change.kind], (change, least)


def test_the_engine_agrees_that_the_change_helps() -> None:
    """The same through the engine: a cordoned host, then the change applied to a fresh one."""
    host = HostFacts("h0", pcpus=4, memory_mib=64, cordoned=True)
    from lq_operator.core.placement import Shape

    world = World({"h0": host}, {}, PlacementRequest(VmKey("x", "new"), Shape(2, 32)))
    decision = world.engine().decide(world.request)
    assert [c.kind for c in decision.changes] == ["uncordon"]
    assert decision.sentence.startswith("0 of 1 hosts fit; it would fit if h0 were uncordoned")
    assert applied(world, decision.changes[0]).engine().decide(world.request).host == "h0"


def test_looking_for_changes_leaves_no_trace() -> None:
    """VMs are lifted and put back while looking: afterwards versions and answers are as before."""
    from lq_operator.core.placement import Shape

    shape = Shape(1, 40)
    hosts = {f"h{n}": HostFacts(f"h{n}", pcpus=4, memory_mib=64) for n in range(3)}
    vms = {VmKey("x", f"v{n}"): Placed(VmKey("x", f"v{n}"), f"h{n}", shape) for n in range(3)}
    engine = World(hosts, vms, PlacementRequest(VmKey("x", "new"), shape)).engine()
    before = [engine.version(name) for name in hosts]
    first = engine.decide(PlacementRequest(VmKey("x", "new"), shape))
    assert first.changes[0].kind == "move-vm"
    assert [engine.version(name) for name in hosts] == before
    assert engine.decide(PlacementRequest(VmKey("x", "new"), shape)) == first
    assert replace(first) == first
