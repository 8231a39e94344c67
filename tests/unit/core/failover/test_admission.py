"""The verdict about failures equals an exhaustive search on hundreds of tight clusters; the witness is checked by hand."""

from __future__ import annotations

import random

import pytest

from lq_operator.core.failover.admission import Admission, FailureVerdict
from lq_operator.core.failover.guard import FailoverGuard
from lq_operator.core.placement import HostFacts, Placed, PlacementEngine, PlacementRequest, Shape, VmKey, VmTerm
from lq_operator.core.placement.selectors import Taint, match_labels

GIB = 1024


def tight_cluster(
    seed: int, *, apart: bool = False
) -> tuple[PlacementEngine, dict[VmKey, Placed], dict[str, HostFacts]]:
    """5..7 hosts of 64 GiB filled as far as random VMs of 4..40 GiB go; sometimes CPU is the scarce one."""
    rng = random.Random(seed)
    engine, vms, hosts = PlacementEngine("pack", seed=seed), {}, {}
    for number in range(rng.randint(5, 7)):
        facts = HostFacts(f"h{number}", pcpus=16, memory_mib=64 * GIB, overcommit_milli=rng.choice([1500, 2000]),
                          taints=(Taint("t"),) if rng.random() < 0.1 else (), devices={"gpu": rng.choice([0, 0, 2])})  # fmt: skip
        hosts[facts.name] = facts
        engine.set_host(facts)
    fill = rng.uniform(0.8, 0.97)
    number = 0
    for name, facts in hosts.items():
        memory, cpu, gpus = 0, 0, facts.devices["gpu"]
        while True:
            mib, vcpus = rng.choice([4, 8, 8, 12, 16, 24, 40]) * GIB, rng.choice([1, 2, 4, 8])
            if memory + mib > fill * 64 * GIB or (cpu + vcpus) * 1000 > facts.capacity_mvcpus:
                break
            memory, cpu = memory + mib, cpu + vcpus
            app = {"app": rng.choice("ab")} if apart and rng.random() < 0.4 else {}
            terms = (VmTerm(match_labels(app)),) if app and not any(
                v.host == name and v.shape.labels.get("app") == app["app"] for v in vms.values()) else ()  # fmt: skip
            shape = Shape(vcpus, mib, labels=app if terms else {}, anti_affinity=terms,
                          devices={"gpu": 1} if gpus and rng.random() < 0.2 else {})  # fmt: skip
            gpus -= shape.devices.get("gpu", 0)
            number += 1
            vm = Placed(VmKey("x", f"v{number:03d}"), name, shape)
            vms[vm.identity] = vm
            engine.set_vm(vm)
    return engine, vms, hosts


def exhaustive(failed: set[str], vms: dict[VmKey, Placed], hosts: dict[str, HostFacts]) -> bool:
    """Depth-first search over all assignments; equal states of the hosts that are left are visited once."""
    todo = sorted((v for v in vms.values() if v.host in failed), key=lambda v: (-v.shape.memory_mib, -v.shape.vcpus))
    names = [n for n, h in hosts.items() if n not in failed and not h.taints]
    room = {n: [hosts[n].capacity_mvcpus, hosts[n].memory_mib, hosts[n].devices["gpu"]] for n in names}
    apps = {n: set() for n in names}
    for vm in vms.values():
        if vm.host in room:
            take(room[vm.host], vm.shape)
            apps[vm.host].add(vm.shape.labels.get("app"))
    dead: set[object] = set()

    def go(at: int) -> bool:
        if at == len(todo):
            return True
        state = (at, tuple(sorted((tuple(room[n]), tuple(sorted(filter(None, apps[n])))) for n in names)))
        if state in dead:
            return False
        shape = todo[at].shape
        app = shape.labels.get("app")
        for name in names:
            need = (shape.vcpus * 1000, shape.memory_mib, shape.devices.get("gpu", 0))
            if any(n and n > r for n, r in zip(need, room[name], strict=True)) or (app and app in apps[name]):
                continue
            take(room[name], shape)
            if app:
                apps[name].add(app)
            if go(at + 1):
                return True
            take(room[name], shape, -1)
            apps[name].discard(app)
        dead.add(state)
        return False

    return go(0)


def take(room: list[int], shape: Shape, sign: int = 1) -> None:
    room[0] -= sign * shape.vcpus * 1000
    room[1] -= sign * shape.memory_mib
    room[2] -= sign * shape.devices.get("gpu", 0)


def check_witness(verdict: FailureVerdict, vms: dict[VmKey, Placed], hosts: dict[str, HostFacts]) -> None:
    failed = set(verdict.failed)
    witness = dict(verdict.witness)
    assert set(witness) == {k for k, v in vms.items() if v.host in failed}
    assert not failed & set(witness.values())
    for name, facts in hosts.items():
        there = [v.shape for k, v in vms.items() if name not in failed and witness.get(k, v.host) == name]
        assert sum(s.vcpus for s in there) * 1000 <= facts.capacity_mvcpus
        assert sum(s.memory_mib for s in there) <= facts.memory_mib
        assert sum(s.devices.get("gpu", 0) for s in there) <= facts.devices.get("gpu", 0)
        apps = [s.labels["app"] for s in there if s.anti_affinity]
        assert len(apps) == len(set(apps))


@pytest.mark.parametrize("apart", [False, True], ids=["room", "room and anti-affinity"])
def test_verdict_equals_exhaustive_search(apart: bool, capsys: pytest.CaptureFixture[str]) -> None:
    yes = no = 0
    methods: dict[str, int] = {}
    for seed in range(90):
        engine, vms, hosts = tight_cluster(seed, apart=apart)
        admission = Admission(engine)
        questions = [(name,) for name in hosts] + ([("h0", "h1")] if seed % 5 == 0 else [])
        for failed in questions:
            verdict = admission.can_fail(failed)
            assert verdict.method != "unproven"
            assert verdict.ok == exhaustive(set(failed), vms, hosts), (seed, failed, verdict)
            methods[verdict.method] = methods.get(verdict.method, 0) + 1
            if verdict.ok:
                yes += 1
                check_witness(verdict, vms, hosts)
            else:
                no += 1
                assert vms[verdict.blocker].host in failed
                assert str(verdict.blocker) in verdict.sentence
        assert admission.hosts_that_can_fail() == {name: admission.can_fail((name,)) for name in hosts}
    with capsys.disabled():
        print(f"\nadmission against exhaustive search (apart={apart}): {yes} yes, {no} no, by {methods}")
    assert min(yes, no) >= 0.3 * (yes + no)


def test_the_exact_solver_finds_what_the_heuristics_miss() -> None:
    """27 GiB in 9 + 10 + 8: every greedy order strands one VM, an exact search places all."""
    engine = PlacementEngine()
    for name, memory in (("down", 27), ("a", 9), ("b", 10), ("c", 8)):
        engine.set_host(HostFacts(name, pcpus=64, memory_mib=memory))
    vms = {}
    for at, memory in enumerate((6, 3, 4, 3, 3, 3, 4)):
        vm = Placed(VmKey("x", f"v{at}"), "down", Shape(1, memory))
        vms[vm.identity] = vm
        engine.set_vm(vm)
    verdict = Admission(engine).can_fail(("down",))
    assert verdict.ok
    assert verdict.method == "exact"
    room = {"a": 9, "b": 10, "c": 8}
    for identity, host in verdict.witness:
        room[host] -= vms[identity].shape.memory_mib
    assert set(vms) == {identity for identity, _ in verdict.witness}
    assert min(room.values()) >= 0


def test_out_of_nodes_counts_as_unsafe() -> None:
    """A verdict that was not proven is a no, and says so."""
    engine, _, hosts = tight_cluster(3)
    verdicts = [Admission(engine, max_nodes=0).can_fail((name,)) for name in hosts]
    assert all(verdict.ok == (verdict.blocker is None) for verdict in verdicts)
    assert all("not proven" in v.sentence for v in verdicts if v.method == "unproven")


def test_words_and_unknown_hosts() -> None:
    engine = PlacementEngine()
    engine.set_host(HostFacts("a", pcpus=4, memory_mib=8 * GIB))
    engine.set_host(HostFacts("b", pcpus=4, memory_mib=4 * GIB))
    engine.set_vm(Placed(VmKey("x", "big"), "a", Shape(2, 6 * GIB)))
    admission = Admission(engine)
    verdict = admission.can_fail(["a"])
    assert verdict.blocker == VmKey("x", "big")
    assert (
        "a cannot fail: of 1 VMs x/big (2 vCPU, 6 GiB) would find no room (most free memory on one other host 4 GiB)"
        in verdict.sentence
    )
    assert admission.can_fail(["b"]).method == "nothing-to-do"
    assert admission.largest_restart_mib(["b"]) == 2 * GIB
    with pytest.raises(ValueError, match="host 'c' is not known"):
        admission.can_fail(["c"])


def test_the_guard_keeps_every_single_failure_survivable() -> None:
    """Placing until nothing fits: with the guard each host can still fail at every step, and it equals asking anew."""
    for seed in range(12):
        rng = random.Random(seed)
        engine = PlacementEngine("spread", seed=seed)
        guard = FailoverGuard(engine)
        engine.guard = guard
        for number in range(5):
            engine.set_host(HostFacts(f"h{number}", pcpus=16, memory_mib=32 * GIB, overcommit_milli=2000))
        placed, refused = [], 0
        for number in range(60):
            key, shape = VmKey("x", f"v{number}"), Shape(rng.choice([1, 2, 4]), rng.choice([2, 4, 8, 12]) * GIB)
            decision = engine.decide(PlacementRequest(key, shape))
            if decision.host is None:
                refused += "failover" in dict(decision.rejected)
            else:
                engine.set_vm(Placed(key, decision.host, shape))
                placed.append(key)
            if placed and rng.random() < 0.2:
                engine.remove_vm(placed.pop(rng.randrange(len(placed))))
            anew = Admission(engine).hosts_that_can_fail()
            assert all(verdict.ok for verdict in anew.values())
        assert refused, "the cluster never became tight"
