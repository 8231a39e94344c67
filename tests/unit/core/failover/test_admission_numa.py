"""NUMA cells, dedicated CPUs and hugepages in the verdict about failures: equal to an exhaustive search over cells."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations

import pytest

from lq_operator.core.failover.admission import Admission, FailureVerdict
from lq_operator.core.failover.guard import FailoverGuard
from lq_operator.core.placement import (
    HostFacts,
    NumaCellFacts,
    Placed,
    PlacementEngine,
    PlacementRequest,
    Shape,
    VmKey,
)

PAGE = 2048
Room = dict[tuple[str, int, int], int]  # (host, cell or -1 for the host as a whole, sort of room) -> free
CPUS, MEMORY = -1, 0


def rooms_of(hosts: dict[str, HostFacts]) -> Room:
    room: Room = {}
    for name, facts in hosts.items():
        room[name, -1, CPUS] = facts.capacity_mvcpus
        room[name, -1, MEMORY] = facts.vm_memory_mib
        room[name, -1, PAGE] = facts.hugepages_mib
        for cell in facts.cells:
            room[name, cell.cell, CPUS] = cell.pcpus
            room[name, cell.cell, MEMORY] = cell.memory_mib
            room[name, cell.cell, PAGE] = cell.hugepages.get(PAGE, 0) * PAGE // 1024
    return room


def amounts(shape: Shape, facts: HostFacts, cells: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(cell, sort, amount), by hand from the rule in placement's documentation."""
    per_vcpu = facts.overcommit_milli if shape.dedicated_cpus else 1000
    wanted = [(-1, CPUS, shape.vcpus * per_vcpu), (-1, shape.hugepage_kib, shape.memory_mib)]
    parts = shape.bound_cells
    for cell in cells:
        wanted.append((cell, shape.hugepage_kib, -(-shape.memory_mib // parts)))
        if shape.dedicated_cpus:
            wanted.append((cell, CPUS, shape.vcpus // parts))
    return wanted


def choices(shape: Shape, facts: HostFacts) -> list[tuple[int, ...]]:
    return list(combinations([cell.cell for cell in facts.cells], shape.bound_cells))


def put(room: Room, shape: Shape, facts: HostFacts, cells: tuple[int, ...], sign: int) -> None:
    for cell, sort, amount in amounts(shape, facts, cells):
        room[facts.name, cell, sort] -= sign * amount


def fits(room: Room, shape: Shape, facts: HostFacts, cells: tuple[int, ...]) -> bool:
    return all(room[facts.name, cell, sort] >= amount for cell, sort, amount in amounts(shape, facts, cells))


def left_over(vms: dict[VmKey, Placed], hosts: dict[str, HostFacts], failed: str) -> Room:
    room = rooms_of(hosts)
    for vm in vms.values():
        if vm.host != failed:
            cells = vm.numa_cells or (tuple(c.cell for c in hosts[vm.host].cells) if vm.shape.bound_cells else ())
            put(room, vm.shape, hosts[vm.host], cells, 1)
    return room


def search(room: Room, todo: list[Shape], hosts: list[HostFacts]) -> bool:
    """Depth first over hosts and sets of cells; a state that failed once is not entered again."""
    dead: set[object] = set()

    def go(at: int) -> bool:
        if at == len(todo):
            return True
        state = (at, tuple(sorted(room.items())))
        if state in dead:
            return False
        for facts in hosts:
            for cells in choices(todo[at], facts):
                if fits(room, todo[at], facts, cells):
                    put(room, todo[at], facts, cells, 1)
                    found = go(at + 1)
                    put(room, todo[at], facts, cells, -1)
                    if found:
                        return True
        dead.add(state)
        return False

    return go(0)


def exhaustive(vms: dict[VmKey, Placed], hosts: dict[str, HostFacts], failed: str) -> bool:
    todo = sorted((vm.shape for vm in vms.values() if vm.host == failed), key=lambda s: (-s.memory_mib, -s.vcpus))
    return search(left_over(vms, hosts, failed), todo, [facts for name, facts in hosts.items() if name != failed])


def check_witness(verdict: FailureVerdict, vms: dict[VmKey, Placed], hosts: dict[str, HostFacts]) -> None:
    """Host by host: its VMs can share its cells."""
    (failed,) = verdict.failed
    room, target = left_over(vms, hosts, failed), dict(verdict.witness)
    assert set(target) == {key for key, vm in vms.items() if vm.host == failed}
    for name, facts in hosts.items():
        there = [vms[key].shape for key, host in target.items() if host == name]
        assert name != failed or not there
        assert search(room, there, [facts])


def some_shape(rng: random.Random) -> Shape:
    kind = rng.random()
    if kind < 0.35:
        return Shape(rng.choice([1, 2, 4]), rng.choice([2, 4, 6, 10]))
    if kind < 0.65:
        return Shape(rng.choice([2, 3, 4]), rng.choice([2, 4, 6]), dedicated_cpus=True)
    if kind < 0.8:
        return Shape(rng.choice([2, 4]), rng.choice([4, 6, 9]), dedicated_cpus=rng.random() < 0.5, numa_cells=2)
    return Shape(2, rng.choice([2, 4]), hugepage_kib=PAGE, numa_cells=rng.choice([0, 1, 2]))


def tight_cluster(seed: int) -> tuple[PlacementEngine, dict[VmKey, Placed], dict[str, HostFacts]]:
    """3 or 4 hosts of two or three cells, filled by placement itself; some VMs' cells were never reported."""
    rng = random.Random(seed)
    engine, hosts, vms = PlacementEngine("spread", seed=seed), {}, {}
    for number in range(rng.randint(3, 4)):
        cells = tuple(NumaCellFacts(c, 4, 10, {PAGE: 3}) for c in range(rng.choice([2, 2, 3])))
        facts = HostFacts(f"h{number}", pcpus=4 * len(cells), memory_mib=16 * len(cells), overcommit_milli=2000,
                          hugepages={PAGE: 3 * len(cells)}, numa=cells)  # fmt: skip
        hosts[facts.name] = facts
        engine.set_host(facts)
    fill = rng.uniform(0.4, 0.75) * sum(facts.vm_memory_mib for facts in hosts.values())
    while sum(vm.shape.memory_mib for vm in vms.values()) < fill:
        key, shape = VmKey("x", f"v{len(vms):02d}"), some_shape(rng)
        decision = engine.decide(PlacementRequest(key, shape))
        if decision.host is None:
            break
        known = () if rng.random() < 0.1 else decision.numa_cells
        vms[key] = Placed(key, decision.host, shape, known)
        engine.set_vm(vms[key])
    return engine, vms, hosts


def test_verdict_equals_exhaustive_search_over_cells(capsys: pytest.CaptureFixture[str]) -> None:
    said: Counter[bool] = Counter()
    methods: Counter[str] = Counter()
    by_totals = 0
    for seed in range(80):
        engine, vms, hosts = tight_cluster(seed)
        admission = Admission(engine)
        for failed in hosts:
            verdict = admission.can_fail([failed])
            assert verdict.method != "unproven"
            assert verdict.ok == exhaustive(vms, hosts, failed), (seed, failed, verdict)
            said[verdict.ok] += 1
            methods[verdict.method] += 1
            if verdict.ok:
                check_witness(verdict, vms, hosts)
            else:
                by_totals += totals_would_say_yes(vms, hosts, failed)
        assert admission.hosts_that_can_fail() == {name: admission.can_fail([name]) for name in hosts}
    with capsys.disabled():
        print(f"\nadmission with cells against exhaustive search: {dict(said)}, by {dict(methods)};"
              f" totals alone would wrongly say yes {by_totals} times")  # fmt: skip
    assert min(said.values()) >= 0.25 * said.total()
    assert by_totals >= 10
    assert methods["exact"] >= 10


def totals_would_say_yes(vms: dict[VmKey, Placed], hosts: dict[str, HostFacts], failed: str) -> bool:
    room = left_over(vms, hosts, failed)
    plenty = {key: amount if key[1] == -1 else 2**30 for key, amount in room.items()}
    todo = sorted((vm.shape for vm in vms.values() if vm.host == failed), key=lambda s: (-s.memory_mib, -s.vcpus))
    return search(plenty, todo, [facts for name, facts in hosts.items() if name != failed])


def two_cells(name: str) -> HostFacts:
    return HostFacts(name, pcpus=8, memory_mib=64, numa=(NumaCellFacts(0, 4, 32), NumaCellFacts(1, 4, 32)))


def test_room_in_pieces_is_no_room_for_a_bound_vm() -> None:
    """4 of 8 CPUs are free on the other host, 2 in each cell: a VM of 4 dedicated CPUs finds no room."""
    engine = PlacementEngine()
    for name in ("a", "b"):
        engine.set_host(two_cells(name))
    engine.set_vm(Placed(VmKey("x", "big"), "a", Shape(4, 8, dedicated_cpus=True), (0,)))
    for number in range(2):
        engine.set_vm(Placed(VmKey("x", f"small{number}"), "b", Shape(2, 8, dedicated_cpus=True), (number,)))
    verdict = Admission(engine).can_fail(["a"])
    assert not verdict.ok
    assert verdict.blocker == VmKey("x", "big")
    assert "x/big (4 vCPU, 8 MiB, 1 NUMA cell(s) with 4 dedicated CPUs and 8 MiB each) would find no room" in (
        verdict.sentence
    )
    engine.set_vm(Placed(VmKey("x", "small1"), "b", Shape(2, 8, dedicated_cpus=True), (0,)))
    assert Admission(engine).can_fail(["a"]).ok


def test_the_guard_keeps_cells_free_for_a_failure() -> None:
    """Placing bound and plain VMs until nothing fits: every host can fail at every step, by the exhaustive search."""
    refused = 0
    for seed in range(10):
        rng = random.Random(seed)
        engine = PlacementEngine("spread", seed=seed)
        engine.guard = FailoverGuard(engine)
        hosts = {name: two_cells(name) for name in ("h0", "h1", "h2")}
        vms: dict[VmKey, Placed] = {}
        for facts in hosts.values():
            engine.set_host(facts)
        for number in range(14):
            key = VmKey("x", f"v{number}")
            shape = Shape(2, rng.choice([4, 8, 16]), dedicated_cpus=rng.random() < 0.5)
            decision = engine.decide(PlacementRequest(key, shape))
            if decision.host is None:
                refused += "failover" in dict(decision.rejected)
                continue
            vms[key] = Placed(key, decision.host, shape, decision.numa_cells)
            engine.set_vm(vms[key])
            assert all(exhaustive(vms, hosts, name) for name in hosts), (seed, number)
    assert refused
