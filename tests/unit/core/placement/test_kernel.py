"""The compiled loops say what numpy says, to the bit, through any history of events."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lq_operator.core.placement import (
    Decision,
    HostFacts,
    HostLoad,
    Placed,
    PlacementEngine,
    PlacementRequest,
    PoolReach,
    Shape,
    VmKey,
    VmTerm,
    WeightedVmTerm,
    kernel,
)
from lq_operator.core.placement.selectors import match_labels

from .worlds import World, worlds


@contextlib.contextmanager
def with_numpy_alone() -> Iterator[None]:
    compiled, kernel.library = kernel.library, None
    try:
        yield
    finally:
        kernel.library = compiled


def test_it_was_compiled() -> None:
    assert kernel.library is not None, "install a C compiler, remove .venv/ready and make it again"


@given(worlds())
def test_one_decision(world: World) -> None:
    compiled = world.engine().decide(world.request)
    with with_numpy_alone():
        assert world.engine().decide(world.request) == compiled


class Twin:
    """Two engines that see the same; one has no compiled loops."""

    def __init__(self, strategy: str) -> None:
        self.compiled, self.plain = PlacementEngine(strategy, seed=3), PlacementEngine(strategy, seed=3)

    def both(self, name: str, *arguments: object) -> None:
        getattr(self.compiled, name)(*arguments)
        getattr(self.plain, name)(*arguments)

    def decide(self, request: PlacementRequest) -> Decision:
        ours = self.compiled.decide(request)
        with with_numpy_alone():
            assert self.plain.decide(request) == ours
        return ours


def some_host(number: int, rng: random.Random) -> HostFacts:
    return HostFacts(
        f"h{number}",
        pcpus=rng.choice([8, 16]),
        memory_mib=rng.choice([32, 64]) * 1024,
        hugepages={2048: rng.choice([0, 2048])},
        devices={"gpu": rng.choice([0, 1, 2])},
        labels={"zone": f"z{number % 3}"},
        cordoned=rng.random() < 0.1,
        ready=rng.random() > 0.1,
        pools={"local": PoolReach(rng.randrange(2**36)), "shared": PoolReach(2**38, shared=True)},
        load=HostLoad(rng.randrange(8000), rng.randrange(3000)) if rng.random() < 0.5 else None,
    )


def some_shape(rng: random.Random) -> Shape:
    app = {"app": rng.choice("abc")}
    return Shape(
        rng.choice([1, 2, 4]),
        rng.choice([1, 2, 4]) * 1024,
        hugepage_kib=rng.choice([0, 0, 2048]),
        devices=rng.choice([{}, {}, {"gpu": 1}]),
        pools=rng.choice([{}, {"local": 2**32}, {"local": 0, "shared": 2**34}]),
        labels=app,
        anti_affinity=rng.choice([(), (VmTerm(match_labels(app)),), (VmTerm(match_labels(app), "zone"),)]),
        preferred=rng.choice([(), (WeightedVmTerm(VmTerm(match_labels({"app": "a"}), "zone"), 50),)]),
        images=rng.choice([frozenset(), frozenset(), frozenset({"i"})]),
        dedicated_cpus=rng.random() < 0.1,
    )


@pytest.mark.parametrize("strategy", ["balanced", "spread", "pack"])
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32))
def test_a_history(strategy: str, seed: int) -> None:
    """Hosts come (beyond the first arrays), change and go; VMs come and go; room is held and given back."""
    rng, twin = random.Random(seed), Twin(strategy)
    hosts = [some_host(number, rng) for number in range(rng.choice([1, 20, 60]))]
    shapes = [some_shape(rng) for _ in range(6)]
    placed: list[VmKey] = []
    for host in hosts:
        twin.both("set_host", host)
    for step in range(60):
        request = PlacementRequest(VmKey("n", f"vm{step}"), rng.choice(shapes))
        decision = twin.decide(request)
        if decision.host is not None:
            twin.both("reserve", request.identity, decision.host)
            if rng.random() < 0.7:
                twin.both("set_vm", Placed(request.identity, decision.host, request.shape))
                placed.append(request.identity)
            elif rng.random() < 0.5:
                twin.both("release", request.identity)
        if placed and rng.random() < 0.4:
            twin.both("remove_vm", placed.pop(rng.randrange(len(placed))))
        if rng.random() < 0.2:
            at = rng.randrange(len(hosts))
            hosts[at] = replace(some_host(at, rng), name=hosts[at].name)
            twin.both("set_host", hosts[at])
        if rng.random() < 0.05:
            twin.both("remove_host", rng.choice(hosts).name)
        if rng.random() < 0.2:
            hosts.append(some_host(len(hosts), rng))
            twin.both("set_host", hosts[-1])


def test_without_any_host() -> None:
    assert Twin("spread").decide(PlacementRequest(VmKey("n", "vm"), Shape(1, 1024))).host is None
