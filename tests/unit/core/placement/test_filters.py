"""The engine's verdict on every host is the oracle's, and no filter could be left out unnoticed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lq_operator.core.placement import (
    HostFacts,
    Placed,
    PlacementRequest,
    Shape,
    VmKey,
    VmTerm,
    classes,
    engine,
    filters,
)
from lq_operator.core.placement.filters import FILTERS, Depends
from lq_operator.core.placement.selectors import match_labels

from .oracle import FACTS, refusals
from .worlds import World, worlds

many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


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


@pytest.fixture(scope="module")
def corpus() -> list[tuple[World, dict[str, str]]]:
    """The same worlds for every filter, with the oracle's answers."""
    mates = match_labels({"app": "a"})
    proud = Placed(VmKey("x", "v"), "h0", Shape(1, 1, labels={"app": "b"}, anti_affinity=(VmTerm(mates),)))
    newcomer = PlacementRequest(VmKey("x", "new"), Shape(1, 1, labels={"app": "a"}))
    refused = World({"h0": HostFacts("h0", pcpus=4, memory_mib=64)}, {proud.identity: proud}, newcomer)
    found = [(refused, first_refusals(refused))]  # random worlds rarely get here

    @settings(
        max_examples=500, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(worlds(max_hosts=4, max_vms=5))
    def collect(world: World) -> None:
        found.append((world, first_refusals(world)))

    collect()
    return found


@pytest.mark.parametrize("left_out", [rule.name for rule in FILTERS])
def test_leaving_a_filter_out_is_noticed(
    left_out: str, corpus: list[tuple[World, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one filter made to say yes to everything, the comparison with the oracle fails on some world."""
    blind = tuple(
        filters.Filter(r.name, r.depends, (lambda _q: False) if r.name == left_out else r.applies, r.fails, r.says)
        for r in FILTERS
    )
    for module in (filters, classes, engine):
        monkeypatch.setattr(module, "FILTERS", blind)
    assert any(engine_says(world) != truth for world, truth in corpus)
