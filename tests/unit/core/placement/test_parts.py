"""Shared parts of classes: what they may share, and that what is kept is never older than what it was made from."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from lq_operator.core.placement import (
    HostFacts,
    Placed,
    PlacementEngine,
    PlacementRequest,
    PoolReach,
    Shape,
    SpreadTerm,
    VmKey,
    VmTerm,
    WeightedNodeTerm,
    WeightedVmTerm,
    counterfactual,
)
from lq_operator.core.placement.filters import FILTERS, Depends
from lq_operator.core.placement.parts import facts_key, room_key
from lq_operator.core.placement.question import Question
from lq_operator.core.placement.scores import SCORES, after_placement
from lq_operator.core.placement.selectors import Taint, Toleration, match_labels


class Watched:
    """A shape that notes which of its fields are read."""

    def __init__(self, shape: Shape) -> None:
        self._shape, self.read = shape, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self._shape, name)


def full_shape() -> Shape:
    """Every filter about facts and room, and every cached score, has something to say about it."""
    return Shape(
        2,
        8,
        numa_cells=1,
        dedicated_cpus=True,
        devices={"gpu": 1},
        pools={"p": 1},
        networks=frozenset({"n"}),
        bound_volumes={"v": frozenset({"h"})},
        cpu_model="v3",
        node_selector=match_labels({"a": "b"}),
        node_affinity=(match_labels({"a": "b"}),),
        tolerations=(Toleration("t", exists=True),),
        preferred_nodes=(WeightedNodeTerm(match_labels({"a": "b"}), 1),),
        images=frozenset({"i"}),
    )


def reads(kind: Depends) -> set[str]:
    engine = PlacementEngine()
    engine.set_host(HostFacts("h", pcpus=4, memory_mib=64))
    read: set[str] = set()
    for shape in (full_shape(), replace(full_shape(), hugepage_kib=2048)):
        watched = Watched(shape)
        question, every = Question("", watched), slice(0, engine.state.n)  # type: ignore[arg-type]
        asked = [rule for rule in FILTERS if rule.depends is kind and rule.applies(question)]
        assert len(asked) >= 5
        for rule in asked:
            rule.fails(engine.state, question, every)
        if kind is Depends.LOAD:
            after = after_placement(engine.state, watched, every)  # type: ignore[arg-type]
            for score in SCORES:
                if score.cached and score.applies(question):
                    score.value(engine.state, question, after)
        read |= watched.read
    return read


@pytest.mark.parametrize(("kind", "key"), [(Depends.FACTS, facts_key), (Depends.LOAD, room_key)])
def test_whatever_a_part_looks_at_is_in_its_key(kind: Depends, key: Any) -> None:
    """Else two classes that differ in it would be given one answer."""
    watched = Watched(full_shape())
    key(watched)
    made_of = {"bound_cells": {"numa_cells", "dedicated_cpus"}}  # derived when a shape is made
    for name in reads(kind):
        assert made_of.get(name, {name}) <= watched.read, name


def ask(name: str, **shape: Any) -> PlacementRequest:
    return PlacementRequest(VmKey("x", name), Shape(**{"vcpus": 1, "memory_mib": 256, **shape}))


def test_wishes_about_images_and_nodes_are_scored_and_told() -> None:
    engine = PlacementEngine()
    for name, tier in (("h0", "silver"), ("h1", "gold")):
        engine.set_host(HostFacts(name, 4, 1024, labels={"tier": tier}, images=frozenset({tier})))
    wish = (WeightedNodeTerm(match_labels({"tier": "gold"}), 5),)
    assert engine.decide(ask("a", preferred_nodes=wish)).host == "h1"
    decision = engine.decide(ask("b", images=frozenset({"silver"})))
    assert decision.host == "h0"
    assert ("image", 1, 1.0) in decision.best[0].terms
    assert "image 1.00x1" in decision.sentence


def test_a_host_with_a_score_below_zero_still_takes_what_fits() -> None:
    """Memory is overfull (its VMs were there before us), the hugepages are free."""
    engine = PlacementEngine()
    engine.set_host(HostFacts("h0", pcpus=4, memory_mib=1024, hugepages={2048: 256}))
    engine.set_vm(Placed(VmKey("x", "fat"), "h0", Shape(1, 4096)))
    decision = engine.decide(ask("huge", hugepage_kib=2048))
    assert decision.best[0].score < 0
    assert decision.host == "h0"


def test_equal_hosts_stay_in_one_order_when_one_of_them_leaves() -> None:
    """Tie breakers are renumbered then: a row judged before and a row judged after must not be mixed up."""
    names = [f"h{number}" for number in range(7)]
    for gone, touched in permutations(names, 2):
        engine, fresh = PlacementEngine(seed=1), PlacementEngine(seed=1)
        for name in names:
            engine.set_host(HostFacts(name, pcpus=4, memory_mib=1024))
        engine.decide(ask("first"))
        engine.remove_host(gone)
        for name in names:
            if name != gone:
                fresh.set_host(HostFacts(name, pcpus=4, memory_mib=1024))
        engine.set_vm(Placed(VmKey("x", "passing"), touched, Shape(1, 1)))
        engine.remove_vm(VmKey("x", "passing"))
        assert engine.decide(ask("v")) == fresh.decide(ask("v"))


def test_equal_vms_that_wait_share_one_search_until_something_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    real = counterfactual.cheapest
    monkeypatch.setattr(counterfactual, "cheapest", lambda *args: searches.append(args) or real(*args))
    engine = PlacementEngine()
    engine.set_host(HostFacts("h0", pcpus=4, memory_mib=1024))
    first = [engine.decide(ask(f"v{number}", memory_mib=2048)).changes for number in range(5)]
    assert len(searches) == 1
    assert {changes[0].value for changes in first} == {1024}
    engine.set_vm(Placed(VmKey("x", "there"), "h0", Shape(1, 512)))
    assert engine.decide(ask("v9", memory_mib=2048)).changes[0].value == 512
    assert len(searches) == 2


def test_the_solver_says_nothing_on_standard_output() -> None:
    """Programs that print JSON use it; only another process shows what the C library printed."""
    code = "from lq_operator.core.placement.solver import make_solver; print('{', flush=True); make_solver().run(); print('}')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["{", "}"]


def test_what_is_kept_of_a_class_is_never_older_than_the_cluster() -> None:
    """Few classes asked again and again while everything moves: each answer is that of an engine built just now."""
    rng = random.Random(11)
    app = match_labels({"app": "a"})
    classes = [
        Shape(2, 256, pools={"s": 2**30}, labels={"app": "a"}, anti_affinity=(VmTerm(app),)),
        Shape(1, 512, pools={"l": 2**30}, node_selector=match_labels({"tier": "gold"}), labels={"app": "a"}),
        Shape(4, 512, devices={"gpu": 1}, tolerations=(Toleration("t", exists=True),)),
        Shape(
            1, 64, labels={"app": "a"}, spread=(SpreadTerm(app, "zone"),), preferred=(WeightedVmTerm(VmTerm(app), 9),)
        ),
    ]
    engine = PlacementEngine(seed=2)
    there: dict[str, HostFacts] = {}
    vms: dict[VmKey, Placed] = {}
    answers = set()
    for step in range(400):
        name = f"h{rng.randrange(9)}"
        event = rng.random()
        if event < 0.45 or name not in there:
            there[name] = HostFacts(
                name, 8, 2048, labels={"tier": rng.choice(("gold", "tin")), "zone": rng.choice("ab")},
                taints=(Taint("t"),) if rng.random() < 0.2 else (), ready=rng.random() < 0.7,
                not_ready_reason=f"reason {step % 3}", cordoned=rng.random() < 0.1, devices={"gpu": rng.randrange(2)},
                pools={"s": PoolReach(2**32, shared=True), "l": PoolReach(2**31)},
            )  # fmt: skip
            engine.set_host(there[name])
        elif event < 0.5:
            engine.remove_host(name)
            del there[name]
        elif event < 0.65 and vms:
            engine.remove_vm(gone := rng.choice(sorted(vms)))
            del vms[gone]
        elif event < 0.75:
            for key in list(engine.state.reserved):
                engine.release(key)
        request = PlacementRequest(VmKey("x", f"v{step}"), rng.choice(classes))
        fresh = PlacementEngine(seed=2)
        for facts in there.values():
            fresh.set_host(facts)
        for vm in vms.values():
            fresh.set_vm(vm)
        for held in engine.state.reserved.values():
            fresh.hold(held)
        decision = engine.decide(request)
        assert decision == fresh.decide(request), step
        answers.add(decision.host)
        if decision.host is not None:
            engine.reserve(request.identity, decision.host)
            if rng.random() < 0.5:
                vms[request.identity] = Placed(request.identity, decision.host, request.shape)
                engine.set_vm(vms[request.identity])
    assert len(answers) == 10  # every host, and none


def test_the_words_for_a_host_follow_its_reason() -> None:
    """Words about facts are kept: a reason that changes alone must not be missed."""
    engine = PlacementEngine()
    for reason in ("no contact", "clock is off", ""):
        engine.set_host(HostFacts("h0", 4, 1024, ready=False, not_ready_reason=reason))
        assert f"h0 is not ready: {reason or 'no reason was given'})" in engine.decide(ask("v")).sentence
