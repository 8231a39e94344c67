"""What the engine promises whatever happens: capacity, order, history, reservations, words."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lq_operator.core.placement import (
    HostFacts,
    Placed,
    PlacementEngine,
    PlacementRequest,
    PoolReach,
    Reservation,
    Shape,
    Verdict,
    VmKey,
    VmTerm,
)
from lq_operator.core.placement.selectors import match_labels

from .oracle import refusals, used
from .worlds import World, hosts, shapes, worlds

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(worlds())
def test_order_of_hosts_and_vms_does_not_matter(world: World) -> None:
    forward, backward = world.engine(seed=7), world.engine(reverse=True, seed=7)
    assert forward.decide(world.request) == backward.decide(world.request)
    assert forward.explain(world.request) == backward.explain(world.request)


@quick
@given(worlds(), st.permutations(range(4)))
def test_order_of_equal_requests_does_not_matter(world: World, order: list[int]) -> None:
    """Whoever comes first, the k-th of equal VMs gets the same host."""

    def place(names: list[int]) -> list[str | None]:
        engine, found = world.engine(), []
        for name in names:
            request = replace(world.request, identity=VmKey(world.request.identity.namespace, f"new{name}"))
            decision = engine.decide(request)
            if decision.host is not None:
                engine.set_vm(Placed(request.identity, decision.host, request.shape, decision.numa_cells))
            found.append(decision.host)
        return found

    assert place([0, 1, 2, 3]) == place(order)


@quick
@given(st.lists(shapes(), min_size=1, max_size=25), st.data())
def test_never_over_capacity(wanted: list[Shape], data: st.DataObject) -> None:
    """From an empty cluster, whatever is asked for, no host is ever promised more than it has."""
    there = {f"h{n}": data.draw(hosts(f"h{n}")) for n in range(3)}
    engine = World(there, {}, PlacementRequest(VmKey("x", "-"), wanted[0])).engine()
    vms: dict[VmKey, Placed] = {}
    for number, shape in enumerate(wanted):
        key = VmKey("x", f"vm{number}")
        decision = engine.decide(PlacementRequest(key, shape))
        if decision.host is None:
            continue
        reserved = engine.reserve(key, decision.host)
        assert isinstance(reserved, Reservation)
        assert reserved.numa_cells == decision.numa_cells
        assert not refusals(PlacementRequest(key, shape), there[decision.host], there.values(), vms)
        vms[key] = Placed(key, decision.host, shape, decision.numa_cells)
        if number % 2:
            engine.set_vm(vms[key])
        for host in there.values():
            took = used(host, vms)
            assert took["mvcpus"] <= host.pcpus * host.overcommit_milli
            assert took["memory"] <= host.vm_memory_mib
            for size, count in host.hugepages.items():
                assert took.get(f"huge{size}", 0) <= size * count // 1024
            for device, count in host.devices.items():
                assert took.get(f"dev{device}", 0) <= count
            for cell in host.cells:
                pinned = [v.shape for v in vms.values() if v.host == host.name and cell.cell in v.numa_cells]
                assert sum(s.vcpus // s.bound_cells for s in pinned if s.dedicated_cpus) <= cell.pcpus


class AnyHistory(RuleBasedStateMachine):
    """After any events the engine answers as one that is built from what is there now."""

    @initialize()
    def start(self) -> None:
        self.engine = PlacementEngine("balanced", seed=3)
        self.hosts: dict[str, HostFacts] = {}
        self.vms: dict[VmKey, Placed] = {}
        self.reserved: dict[VmKey, Reservation] = {}

    @rule(data=st.data(), number=st.integers(0, 3))
    def set_host(self, data: st.DataObject, number: int) -> None:
        self.hosts[f"h{number}"] = data.draw(hosts(f"h{number}"))
        self.engine.set_host(self.hosts[f"h{number}"])

    @rule(number=st.integers(0, 3))
    def remove_host(self, number: int) -> None:
        self.hosts.pop(f"h{number}", None)
        self.engine.remove_host(f"h{number}")

    @rule(shape=shapes(), number=st.integers(0, 4), host=st.integers(0, 3), cells=st.booleans())
    def set_vm(self, shape: Shape, number: int, host: int, cells: bool) -> None:
        key = VmKey("xy"[number % 2], f"vm{number}")
        bound = tuple(range(shape.bound_cells)) if cells else ()
        self.vms[key] = Placed(key, f"h{host}", shape, bound)
        if key in self.reserved and self.reserved[key].host == f"h{host}":
            del self.reserved[key]
        self.engine.set_vm(self.vms[key])

    @rule(number=st.integers(0, 4))
    def remove_vm(self, number: int) -> None:
        key = VmKey("xy"[number % 2], f"vm{number}")
        self.vms.pop(key, None)
        self.engine.remove_vm(key)

    @rule(shape=shapes(), number=st.integers(0, 4))
    def decide_and_reserve(self, shape: Shape, number: int) -> None:
        key = VmKey("xy"[number % 2], f"vm{number}")
        decision = self.engine.decide(PlacementRequest(key, shape))
        if decision.host is not None:
            answer = self.engine.reserve(key, decision.host)
            assert isinstance(answer, Reservation)
            if key not in self.vms or self.vms[key].host != decision.host:
                self.reserved[key] = answer
            else:
                self.reserved.pop(key, None)

    @rule(number=st.integers(0, 4))
    def release(self, number: int) -> None:
        key = VmKey("xy"[number % 2], f"vm{number}")
        self.reserved.pop(key, None)
        self.engine.release(key)

    @rule(shape=shapes(), namespace=st.sampled_from("xy"))
    def ask(self, shape: Shape, namespace: str) -> None:
        fresh = PlacementEngine("balanced", seed=3)
        for key in sorted(self.vms):
            fresh.set_vm(self.vms[key])
        for name in sorted(self.hosts):
            fresh.set_host(self.hosts[name])
        for key in sorted(self.reserved):
            held = self.reserved[key]
            fresh.hold(held)
        request = PlacementRequest(VmKey(namespace, "new"), shape)
        assert self.engine.explain(request) == fresh.explain(request)
        assert self.engine.decide(request) == fresh.decide(request)

    @invariant()
    def books_agree(self) -> None:
        assert (
            set(getattr(self, "reserved", {})) == set(self.engine.state.reserved) if hasattr(self, "engine") else True
        )


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


def small(count: int = 3, **changes: object) -> PlacementEngine:
    engine = PlacementEngine("spread")
    for number in range(count):
        engine.set_host(replace(HostFacts(f"h{number}", pcpus=4, memory_mib=1024), **changes))
    return engine


def ask(name: str, **shape: object) -> PlacementRequest:
    return PlacementRequest(VmKey("x", name), Shape(**{"vcpus": 1, "memory_mib": 256, **shape}))


def test_a_reservation_holds_room_until_released_and_says_why_not() -> None:
    engine = small(1)
    for number in range(4):
        assert isinstance(engine.reserve(VmKey("x", f"v{number}"), "h0", Shape(1, 256)), Reservation)
    refused = engine.reserve(VmKey("x", "late"), "h0", Shape(1, 256))
    assert refused == Verdict("h0", "vcpus", "needs 1 vCPU, free 0 of 4")
    engine.release(VmKey("x", "v0"))
    engine.release(VmKey("x", "v0"))
    assert isinstance(engine.reserve(VmKey("x", "late"), "h0", Shape(1, 256)), Reservation)
    assert engine.reserve(VmKey("x", "z"), "nowhere", Shape(1, 1)) == Verdict("nowhere", "ready", "is not known")


def test_a_stale_decision_is_checked_again() -> None:
    """Between decide and reserve another VM took the room: the reservation is refused, not overbooked."""
    engine = small(1)
    decision = engine.decide(ask("slow", vcpus=4))
    assert decision.host == "h0"
    engine.set_vm(Placed(VmKey("x", "fast"), "h0", Shape(1, 256)))
    answer = engine.reserve(VmKey("x", "slow"), "h0")
    assert isinstance(answer, Verdict)
    assert answer.sentence == "needs 4 vCPU, free 3 of 4"


def test_both_sides_of_a_move_hold_room() -> None:
    engine = small(2)
    key = VmKey("x", "mover")
    engine.set_vm(Placed(key, "h0", Shape(4, 256)))
    assert isinstance(engine.reserve(key, "h1", Shape(4, 256)), Reservation)
    assert engine.decide(ask("new")).host is None
    engine.set_vm(Placed(key, "h1", Shape(4, 256)))  # the move is done
    assert engine.decide(ask("new")).host == "h0"


def test_shared_pool_is_reserved_for_every_host() -> None:
    engine = small(2, pools={"p": PoolReach(100, shared=True), "l": PoolReach(100)})
    first = engine.decide(ask("a", pools={"p": 60}))
    assert first.host is not None
    engine.reserve(VmKey("x", "a"), first.host)
    assert engine.decide(ask("b", pools={"p": 60})).rejected == (("storage-space", 2),)
    assert engine.decide(ask("b", pools={"l": 60})).host is not None
    engine.set_vm(Placed(VmKey("x", "a"), first.host, ask("a", pools={"p": 60}).shape))
    assert engine.decide(ask("b", pools={"p": 60})).host is not None  # the volume shows in what hosts report


def test_vms_of_a_host_that_left_count_when_it_returns() -> None:
    engine = small(1)
    engine.set_vm(Placed(VmKey("x", "v"), "h0", Shape(4, 256)))
    engine.remove_host("h0")
    assert engine.decide(ask("new")).sentence.startswith("0 of 0 hosts fit")
    engine.set_host(HostFacts("h0", pcpus=4, memory_mib=1024))
    assert engine.decide(ask("new")).host is None


def test_the_sentence_names_numbers_and_stays_bounded() -> None:
    engine = small(2)
    text = engine.decide(ask("big", memory_mib=4096)).sentence
    assert text.startswith("0 of 2 hosts fit; it would fit if it asked for 1 GiB memory instead of 4 GiB")
    assert "needs 4 GiB memory, free 1 GiB of 1 GiB" in text
    networks = frozenset(f"network-with-a-long-name-{n}" for n in range(200))
    assert len(engine.decide(ask("many", networks=networks)).sentence) <= 1024


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Shape(0, 1), "vm.vcpus"),
        (lambda: Shape(1, -5), "vm.memory_mib"),
        (lambda: Shape(1, 1.5), "vm.memory_mib"),  # type: ignore[arg-type]
        (lambda: Shape(True, 1), "vm.vcpus"),
        (lambda: Shape(1, 2**60), "vm.memory_mib"),
        (lambda: Shape(1, 3, hugepage_kib=2048), "vm.memory_mib"),
        (lambda: Shape(3, 4, dedicated_cpus=True, numa_cells=2), "vm.vcpus"),
        (lambda: Shape(1, 1, devices={"gpu": -1}), "vm.devices[gpu]"),
        (lambda: Shape(1, 1, pools={"p": float("nan")}), "vm.pools[p]"),  # type: ignore[dict-item]
        (lambda: HostFacts("", 1, 1), "host.name"),
        (lambda: HostFacts("h", -1, 1), "host h.pcpus"),
        (lambda: HostFacts("h", 1, 1, overcommit_milli=0), "host h.overcommit_milli"),
        (lambda: HostFacts("h", 1, 1, pools={"p": PoolReach(-1)}), "host h.pools[p].free_bytes"),
        (lambda: PlacementEngine("best"), "strategy"),
    ],
)
def test_bad_numbers_are_refused_with_the_field(make: object, field: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        make()  # type: ignore[operator]
    assert str(caught.value).startswith(field)


def test_an_unknown_strategy_in_a_request_is_refused() -> None:
    with pytest.raises(ValueError, match="strategy: 'fast' is not one of"):
        small().decide(ask("v", strategy="fast"))


def test_strategies_differ_as_they_say() -> None:
    for strategy, expected in (("pack", "h0"), ("spread", "h1")):
        engine = small(2)
        engine.set_vm(Placed(VmKey("x", "there"), "h0", Shape(1, 256)))
        assert engine.decide(ask("new", strategy=strategy)).host == expected


def test_many_hosts_grow_the_arrays_and_free_rows_are_reused() -> None:
    rng = random.Random(5)
    engine = PlacementEngine()
    for number in range(300):
        engine.set_host(HostFacts(f"h{number}", pcpus=4, memory_mib=1024))
        if number % 3 == 0:
            engine.remove_host(f"h{rng.randrange(number + 1)}")
        assert engine.decide(ask("v")).feasible == len(engine.state.rows)
    assert engine.state.n < 300


def test_classes_are_forgotten_with_their_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of one-off classes must not keep memory: the least recently used go, with their groups."""
    monkeypatch.setattr("lq_operator.core.placement.engine.CACHE_BYTES", 0)
    engine = small(2)
    for number in range(100):
        chosen = match_labels({"app": f"a{number}"})
        engine.decide(ask("v", labels={"app": f"a{number}"}, anti_affinity=(VmTerm(chosen),)))
    assert len(engine._views) <= 16
    assert len(engine.state.groups.members) <= 16
