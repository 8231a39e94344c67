"""A packing becomes hosts by name that the engine accepts: every VM once, no host overfull, as few hosts as the packing."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lq_operator.core.failover.admission import Admission
from lq_operator.core.failover.guard import FailoverGuard
from lq_operator.core.placement import HostFacts, Placed, PlacementEngine, PlacementRequest, Shape, VmKey, VmTerm
from lq_operator.core.placement.batch import Bins, pack
from lq_operator.core.placement.many import Batch, assign, place_many
from lq_operator.core.placement.selectors import Taint, match_labels

GIB = 1024


def flavour(rng: random.Random) -> Shape:
    vcpus = rng.choices([1, 2, 4, 8, 16, 32], [12, 28, 28, 20, 10, 2])[0]
    return Shape(vcpus, vcpus * rng.choices([2, 4, 8], [30, 45, 25])[0] * GIB)


def requests(count: int, seed: int) -> list[PlacementRequest]:
    rng = random.Random(seed)
    return [PlacementRequest(VmKey("x", f"v{number}"), flavour(rng)) for number in range(count)]


def check_books(engine: PlacementEngine, asked: list[PlacementRequest], batch: Batch) -> None:
    """Every VM is held once or waits, and every host is within its capacity, counted by hand."""
    assert [held.identity for held in batch.held] == [r.identity for r in asked if r.identity in engine.state.reserved]
    assert {held.identity for held in batch.held} == set(engine.state.reserved)
    assert len(batch.held) + len(batch.waiting) == len(asked)
    cpus, memory = Counter[str](), Counter[str]()
    for vm in (*batch.held, *engine.state.placed.values()):
        cpus[vm.host] += vm.shape.vcpus * 1000
        memory[vm.host] += vm.shape.memory_mib
    for name, row in engine.state.rows.items():
        entry = engine.state.row[row]
        assert entry is not None
        assert cpus[name] <= entry.facts.capacity_mvcpus
        assert memory[name] <= entry.facts.vm_memory_mib


@pytest.mark.parametrize("seed", [1, 2])
def test_an_empty_cluster_is_packed_as_tightly_as_the_packing(seed: int) -> None:
    asked = requests(800, seed)
    engine = PlacementEngine("spread")
    for number in range(80):
        small = number < 20
        engine.set_host(
            HostFacts(f"h{number:03d}", pcpus=64 if small else 128, memory_mib=(256 if small else 768) * GIB)
        )
    batch = place_many(engine, asked)
    check_books(engine, asked, batch)
    assert not batch.waiting
    demand = Counter((r.shape.vcpus * 1000, r.shape.memory_mib) for r in asked)
    sizes = sorted(demand)
    packing = pack(sizes, [demand[s] for s in sizes], [Bins(64_000, 256 * GIB, 20), Bins(128_000, 768 * GIB, 60)])
    assert len({held.host for held in batch.held}) == packing.hosts <= packing.lower_bound + 2


def test_hosts_that_are_partly_full_are_filled_and_never_overfilled() -> None:
    """Every host has another room left, so kinds of hosts are rounded down; what that leaves out goes one by one."""
    rng = random.Random(4)
    engine = PlacementEngine("pack")
    for number in range(60):
        engine.set_host(HostFacts(f"h{number}", pcpus=64, memory_mib=256 * GIB))
        engine.set_vm(
            Placed(VmKey("y", f"there{number}"), f"h{number}", Shape(rng.randint(1, 40), rng.randint(1, 200 * GIB)))
        )
    asked = requests(900, 5)
    batch = place_many(engine, asked)
    check_books(engine, asked, batch)
    assert batch.waiting, "more was asked for than there is"
    for request in batch.waiting:
        assert engine.decide(request).host is None, "whoever waits fits nowhere"


def test_wishes_facts_and_priorities_are_kept() -> None:
    apart = Shape(1, GIB, labels={"app": "db"}, anti_affinity=(VmTerm(match_labels({"app": "db"})),))
    gold = Shape(2, 4 * GIB, node_selector=match_labels({"tier": "gold"}))
    engine = PlacementEngine("balanced")
    for number in range(6):
        engine.set_host(HostFacts(f"h{number}", pcpus=8, memory_mib=16 * GIB, labels={"tier": "gold" if number < 2 else "tin"},
                                  taints=(Taint("t"),) if number == 5 else ()))  # fmt: skip
    asked = [PlacementRequest(VmKey("x", f"plain{n}"), Shape(4, 8 * GIB)) for n in range(12)]
    asked += [PlacementRequest(VmKey("x", f"apart{n}"), apart) for n in range(5)]
    asked += [PlacementRequest(VmKey("x", f"gold{n}"), gold, priority=5) for n in range(3)]
    batch = place_many(engine, asked)
    check_books(engine, asked, batch)
    where = {held.identity.name: held.host for held in batch.held}
    assert {where[f"gold{n}"] for n in range(3)} <= {"h0", "h1"}
    assert len({where[f"apart{n}"] for n in range(5)}) == 5
    assert "h5" not in where.values()
    assert {request.identity.name[:5] for request in batch.waiting} == {"plain"}


def test_the_guard_is_asked_for_every_vm() -> None:
    engine = PlacementEngine("pack")
    engine.guard = FailoverGuard(engine)
    for number in range(4):
        engine.set_host(HostFacts(f"h{number}", pcpus=16, memory_mib=32 * GIB))
    asked = [PlacementRequest(VmKey("x", f"v{n}"), Shape(1, 4 * GIB)) for n in range(40)]
    batch = place_many(engine, asked)
    check_books(engine, asked, batch)
    assert len(batch.held) == 24, "a quarter of 32 is kept free"
    assert all(verdict.ok for verdict in Admission(engine).hosts_that_can_fail().values())


def test_a_packing_for_other_hosts_or_vms_is_refused() -> None:
    packing = pack([(1000, GIB)], [4], [Bins(2000, 4 * GIB, 2)])
    keys = [VmKey("x", f"v{n}") for n in range(4)]
    assert assign(packing, [keys], [["a", "b"]]) == {keys[0]: "a", keys[1]: "a", keys[2]: "b", keys[3]: "b"}
    with pytest.raises(ValueError, match="more hosts of class 0 than the 1 there are"):
        assign(packing, [keys], [["a"]])
    with pytest.raises(ValueError, match="more VMs of size 0 than the 3 there are"):
        assign(packing, [keys[:3]], [["a", "b"]])
