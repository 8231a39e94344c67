"""The engine's verdict on every host is the oracle's, and no filter could be left out unnoticed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lq_operator.core.placement import (
    HostFacts,
    Placed,
    PlacementRequest,
    PoolReach,
    Shape,
    SpreadTerm,
    VmKey,
    VmTerm,
    classes,
    engine,
    filters,
    parts,
)
from lq_operator.core.placement.filters import FILTERS, Depends
from lq_operator.core.placement.selectors import Taint, match_labels

from .oracle import FACTS, refusals
from .worlds import World, worlds

many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def first_refusals(world: World) -> dict[str, str]:
    there = list(world.hosts.values())
    return {h.name: next(iter(refusals(world.request, h, there, world.vms)), "") for h in there}


def engine_says(world: World) -> dict[str, str]:
    return {verdict.host: verdict.filter for verdict in world.engine().explain(world.request)}


@many
@given(worlds())
def test_verdicts_are_the_oracles(world: World) -> None:
    assert engine_says(world) == first_refusals(world)


@many
@given(worlds(), st.integers(0, 3))
def test_decision_is_a_host_that_fits_and_one_is_found_if_there_is_one(world: World, seed: int) -> None:
    truth = first_refusals(world)
    decision = world.engine(seed=seed).decide(world.request)
    fitting = {host for host, name in truth.items() if not name}
    assert decision.feasible == len(fitting)
    assert (decision.host in fitting) if fitting else decision.host is None
    assert {ranked.host for ranked in decision.best} <= fitting
    assert sum(count for _, count in decision.rejected) == len(truth) - len(fitting)
    assert len(decision.sentence) <= 1024


def test_facts_filters_come_first_and_are_the_oracles() -> None:
    names = [rule.name for rule in FILTERS]
    assert tuple(names[: len(FACTS)]) == FACTS
    assert all((rule.depends is Depends.FACTS) == (rule.name in FACTS) for rule in FILTERS)


def one_refusal(name: str) -> World:
    """A host that would fit but for one filter."""
    mates = match_labels({"app": "a"})
    app = {"app": "a"}
    host = HostFacts("h0", pcpus=4, memory_mib=64, labels={"zone": "z"}, hugepages={2048: 8})
    other = replace(host, name="h1", labels={"zone": "y"}, pcpus=1)
    shape, vms = Shape(2, 8), {}
    if name in ("vm-anti-affinity", "refused-by-others", "spread"):
        holder = (VmTerm(mates),) if name == "refused-by-others" else ()
        there = Placed(VmKey("x", "v"), "h0", Shape(1, 1, labels={} if holder else app, anti_affinity=holder))
        vms = {there.identity: there}
    host = {
        "ready": lambda: replace(host, ready=False),
        "cordon": lambda: replace(host, cordoned=True),
        "maintenance": lambda: replace(host, maintenance=True),
        "taints": lambda: replace(host, taints=(Taint("t"),)),
    }.get(name, lambda: host)()
    shape = {
        "node-selector": lambda: replace(shape, node_selector=match_labels({"zone": "w"})),
        "node-affinity": lambda: replace(shape, node_affinity=(match_labels({"zone": "w"}),)),
        "cpu-model": lambda: replace(shape, cpu_model="v3"),
        "networks": lambda: replace(shape, networks=frozenset({"n"})),
        "storage-reach": lambda: replace(shape, pools={"p": 0}),
        "bound-volumes": lambda: replace(shape, bound_volumes={"v": frozenset({"h9"})}),
        "vcpus": lambda: replace(shape, vcpus=5),
        "memory": lambda: replace(shape, memory_mib=65),
        "hugepages": lambda: replace(shape, memory_mib=18, hugepage_kib=2048),
        "numa": lambda: replace(shape, numa_cells=2),
        "devices": lambda: replace(shape, devices={"gpu": 1}),
        "storage-space": lambda: replace(shape, pools={"q": 2}),
        "vm-affinity": lambda: replace(shape, affinity=(VmTerm(mates),)),
        "vm-anti-affinity": lambda: replace(shape, anti_affinity=(VmTerm(mates),)),
        "refused-by-others": lambda: replace(shape, labels=app),
        "spread": lambda: replace(shape, labels=app, spread=(SpreadTerm(mates, "zone"),)),
    }.get(name, lambda: shape)()
    if name == "storage-space":
        host = replace(host, pools={"q": PoolReach(1)})
    hosts = {"h0": host, "h1": other} if name == "spread" else {"h0": host}
    return World(hosts, vms, PlacementRequest(VmKey("x", "new"), shape))


@pytest.mark.parametrize("left_out", [rule.name for rule in FILTERS])
def test_leaving_a_filter_out_is_noticed(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One filter alone refuses; made to say yes to everything, it is missed."""
    world = one_refusal(left_out)
    assert refusals(world.request, world.hosts["h0"], world.hosts.values(), world.vms) == [left_out]
    assert engine_says(world)["h0"] == left_out
    blind = tuple(
        filters.Filter(r.name, r.depends, (lambda _q: False) if r.name == left_out else r.applies, r.fails, r.says)
        for r in FILTERS
    )
    for module in (filters, classes, engine, parts):
        monkeypatch.setattr(module, "FILTERS", blind)
    assert engine_says(world)["h0"] == ""
