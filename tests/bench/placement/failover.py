"""Which hosts can fail, N+1-safe placement and batches, beside Ganeti's hcheck and hail on the same cluster."""

from __future__ import annotations

import gc
import json
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from lq_operator.core.failover.admission import Admission
from lq_operator.core.failover.guard import FailoverGuard
from lq_operator.core.placement import HostFacts, Placed, PlacementEngine, PlacementRequest, Shape, VmKey
from lq_operator.core.placement.batch import Bins, pack

GIB = 1024
FLAVOUR_VCPUS = ([1, 2, 4, 8, 16, 32], [12, 28, 28, 20, 10, 2])
FLAVOUR_RATIO = ([2, 4, 8], [30, 45, 25])


def flavour(rng: random.Random) -> Shape:
    vcpus = rng.choices(*FLAVOUR_VCPUS)[0]
    return Shape(vcpus, vcpus * rng.choices(*FLAVOUR_RATIO)[0] * GIB)


def cluster(hosts: int, *, seed: int = 1, fill: float = 0.68) -> tuple[PlacementEngine, list[Placed]]:
    """64 cores and 768 GiB per host, overcommit 4, about 20 VMs each, 68 % of the memory used."""
    rng, engine, vms = random.Random(seed), PlacementEngine("balanced", seed=seed), []
    for number in range(hosts):
        name = f"n{number:05d}"
        engine.set_host(HostFacts(name, pcpus=64, memory_mib=768 * GIB, overcommit_milli=4000))
        used = cpu = 0
        aim = rng.uniform(fill - 0.15, fill + 0.15) * 768 * GIB
        while True:
            shape = flavour(rng)
            if used + shape.memory_mib > aim or cpu + shape.vcpus > 256:
                break
            used, cpu = used + shape.memory_mib, cpu + shape.vcpus
            vm = Placed(VmKey("bench", f"v{len(vms):06d}"), name, shape)
            vms.append(vm)
            engine.set_vm(vm)
    return engine, vms


def ganeti_text(engine: PlacementEngine, vms: list[Placed], path: Path) -> None:
    """The same cluster in Ganeti's text format (as in the shared generator)."""
    used = Counter[str]()
    for vm in vms:
        used[vm.host] += vm.shape.memory_mib
    lines = ["g1|uuid-g1|preferred||", ""]
    for at, name in enumerate(sorted(engine.state.rows)):
        memory = 768 * GIB
        lines.append(
            f"{name}|{memory}|0|{memory - used[name]}|100000000|100000000|64|{'N' if at else 'M'}|uuid-g1|1000||N|1000|0|1.0"
        )
    lines.append("")
    for vm in vms:
        lines.append(f"{vm.identity.name}|{vm.shape.memory_mib}|0|{vm.shape.vcpus}|running|Y|{vm.host}||ext||1")
    policy = "128,1,0,1,1,1|1,1,0,0,0,0;4194304,512,1048576000,16,8,1000|ext,plain,diskless,sharedfile|4.0|1000.0\n"
    path.write_text("\n".join([*lines, "", "", f"|{policy}g1|{policy}"]))


def child_cpu_s(command: list[str], timeout_s: int) -> tuple[float, str]:
    """CPU seconds of a child and the end of what it said; the limit is in CPU seconds."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (timeout_s, timeout_s + 1))

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, (done.stdout + done.stderr)[-300:] if done.returncode >= 0 else f"stopped at {timeout_s} CPU s"


def best_of(runs: int, work) -> tuple[float, object]:  # type: ignore[no-untyped-def]
    best, answer = float("inf"), None
    for _ in range(runs):
        gc.collect()
        start = time.process_time()
        answer = work()
        best = min(best, time.process_time() - start)
    return best, answer


def bench_can_fail(hosts: int, *, peers: bool, peer_limit_s: int = 150) -> list[dict[str, object]]:
    engine, vms = cluster(hosts)
    cpu, verdicts = best_of(5, lambda: Admission(engine).hosts_that_can_fail())
    yes = sum(v.ok for v in verdicts.values())  # type: ignore[attr-defined]
    rows: list[dict[str, object]] = [
        {
            "bench": "can-fail",
            "tool": "lq-operator",
            "hosts": hosts,
            "vms": len(vms),
            "cpu_s": round(cpu, 5),
            "can_fail": yes,
        }
    ]
    if peers and shutil.which("hcheck"):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder, "cluster.data")
            ganeti_text(engine, vms, data)
            cpu, said = child_cpu_s(["hcheck", "--no-simulation", "-t", str(data)], peer_limit_s)
            rows.append(
                {"bench": "can-fail", "tool": "hcheck", "hosts": hosts, "cpu_s": round(cpu, 2), "said": said[-80:]}
            )
    return rows


def bench_safe_placement(
    hosts: int, *, peers: bool, count: int = 200, peer_limit_s: int = 150
) -> list[dict[str, object]]:
    """A stream of arrivals and departures with the guard on: every host may fail after every placement."""
    engine, vms = cluster(hosts)
    engine.guard = FailoverGuard(engine)
    rng = random.Random(2)
    engine.decide(PlacementRequest(VmKey("bench", "warm"), flavour(rng)))
    latency = []
    for number in range(count):
        request = PlacementRequest(VmKey("bench", f"new{number}"), flavour(rng))
        start = time.process_time_ns()
        decision = engine.decide(request)
        if decision.host is not None:
            engine.set_vm(Placed(request.identity, decision.host, request.shape))
        latency.append(time.process_time_ns() - start)
        gone = vms.pop(rng.randrange(len(vms)))
        engine.remove_vm(gone.identity)
    latency.sort()
    rows: list[dict[str, object]] = [
        {"bench": "n+1-placement", "tool": "lq-operator", "hosts": hosts, "ms_mean": round(sum(latency) / count / 1e6, 3),
         "ms_p99": round(latency[count * 99 // 100] / 1e6, 3)}
    ]  # fmt: skip
    hail = "/usr/lib/ganeti/iallocators/hail"
    if peers and Path(hail).exists():
        engine, vms = cluster(hosts)
        with tempfile.TemporaryDirectory() as folder:
            data, ask = Path(folder, "cluster.data"), Path(folder, "request.json")
            ganeti_text(engine, vms, data)
            ask.write_text(json.dumps({
                "enabled_hypervisors": ["kvm"], "version": 2, "cluster_name": "c", "ipolicy": {}, "cluster_tags": [],
                "instances": {}, "nodegroups": {}, "nodes": {}, "request": {
                    "disk_space_total": 0, "disk_template": "ext", "disks": [{"size": 1024}], "hypervisor": "kvm",
                    "memory": 16384, "name": "new", "nics": [], "os": "x", "required_nodes": 1, "spindle_use": 1,
                    "tags": [], "type": "allocate", "vcpus": 4}}))  # fmt: skip
            cpu, said = child_cpu_s([hail, "-t", str(data), "--ignore-dynu", str(ask)], peer_limit_s)
            rows.append(
                {
                    "bench": "n+1-placement",
                    "tool": "hail",
                    "hosts": hosts,
                    "ms_mean": round(cpu * 1000),
                    "said": said[:60],
                }
            )
    return rows


def bench_batch(count: int, bins: list[Bins], *, seed: int = 1) -> dict[str, object]:
    rng = random.Random(seed)
    shapes = [flavour(rng) for _ in range(count)]
    demand = Counter((s.vcpus * 1000, s.memory_mib) for s in shapes)
    sizes = sorted(demand)
    cpu, packing = best_of(3, lambda: pack(sizes, [demand[size] for size in sizes], bins))
    row: dict[str, object] = {
        "bench": "batch", "vms": count, "bins": [f"{b.mvcpus // 1000}c/{b.memory_mib // GIB}G" for b in bins],
        "hosts": packing.hosts, "lower_bound": packing.lower_bound, "cpu_s": round(cpu, 3),  # type: ignore[attr-defined]
    }  # fmt: skip
    if len(bins) == 1:
        arrival = [(s.vcpus * 1000, s.memory_mib) for s in shapes]
        row["best_fit"] = _one_by_one(arrival, bins[0], best=True)
        total = sorted(arrival, key=lambda s: -(s[0] / bins[0].mvcpus + s[1] / bins[0].memory_mib))
        row["ffd"] = _one_by_one(total, bins[0], best=False)
    return row


def _one_by_one(sizes: list[tuple[int, int]], room: Bins, *, best: bool) -> int:
    import numpy as np

    free = np.zeros((len(sizes), 2), np.int64)
    free[:] = (room.mvcpus, room.memory_mib)
    used = 0
    for size in sizes:
        fits = ((free[: used + 1] >= size).all(axis=1)).nonzero()[0]
        at = fits[0]
        if best:
            left = (free[fits] / (room.mvcpus, room.memory_mib)).sum(axis=1)
            at = fits[int(left.argmin())]
        free[at] -= size
        used = max(used, int(at) + 1)
    return used
