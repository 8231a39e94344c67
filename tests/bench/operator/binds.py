"""1 000 VMs bound onto 200 hosts through the real API server by the scheduler, and as many pods onto as many nodes by
kube-scheduler through the same API server in the same run.

Hosts and VMs have hand-written status: no host is talked to, the scheduler process runs alone. Both begin with everything
waiting; both are judged by the API server's audit log, from the first bind to the last. kube-scheduler's own client limits
(50 requests/s) are raised out of the way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from tests.bench.operator.site import _cpu_s, _rss_mib, _tree
from tests.bench.report import show

from lq_operator.adapters.kube.endpoint import from_kubeconfig
from lq_operator.adapters.kube.transport import KubeTransport
from lq_operator.lab import binaries
from lq_operator.lab.controlplane import PARTS
from lq_operator.lab.datacenter import Lab, take_down
from lq_operator.lab.release import Release, chart_dir
from lq_operator.lab.supervisor import ProcessSpec

NAME = os.environ.get("LQ_BENCH_LAB", "bench-binds")
SIZES = ((1, 1024), (1, 2048), (2, 2048), (2, 4096), (4, 4096), (4, 8192), (8, 8192), (2, 8192))
HOST_CPUS, HOST_MIB, RACKS = 32, 131072, 20
GROUP = "/apis/limiquantix.io/v1alpha1"
NOW = "2030-01-01T00:00:00Z"
STEPS_AT_ONCE = 16

Body = dict[str, Any]


def main() -> None:
    """Print one row per scheduler."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=1000)
    parser.add_argument("--hosts", type=int, default=200)
    arguments = parser.parse_args()
    take_down(NAME)
    lab = Lab.create(NAME, hosts=1)
    try:
        lab.up(lambda text: print(text, flush=True))
        rows = asyncio.run(_both(lab, arguments.vms, arguments.hosts))
        rows[0]["ratio_to_kube_scheduler"] = rows[0]["binds_per_s"] / rows[1]["binds_per_s"]
        show(f"binds: {arguments.vms} onto {arguments.hosts}", rows)
    finally:
        take_down(NAME)


async def _both(lab: Lab, vms: int, hosts: int) -> list[dict[str, Any]]:
    endpoint = await from_kubeconfig(lab.kubeconfig)
    async with KubeTransport(endpoint) as api:
        ours = await _ours(lab, api, vms, hosts)
        theirs = await _theirs(lab, api, vms, hosts)
    return [ours, theirs]


async def _many(bodies: Iterable[Body], act: Callable[[Body], Awaitable[None]]) -> None:
    gate = asyncio.Semaphore(STEPS_AT_ONCE)

    async def one(body: Body) -> None:
        async with gate:
            await act(body)

    async with asyncio.TaskGroup() as group:
        for body in bodies:
            group.create_task(one(body))


async def _put(api: KubeTransport, path: str, body: Body, status: Body | None) -> None:
    """Create it, then its status."""
    name = body["metadata"]["name"]
    await api.request("POST", path, what=name, body=body)
    if status is not None:
        patch = [{"op": "add", "path": "/status", "value": status}]
        kind = "application/json-patch+json"
        await api.request("PATCH", f"{path}/{name}/status", what=name, body=patch, content_type=kind)


# ---------------------------------------------------------------- ours


def _object(kind: str, name: str, spec: Body, **metadata: Any) -> Body:
    return {
        "apiVersion": "limiquantix.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }


def _true(kind: str) -> Body:
    return {"type": kind, "status": "True", "reason": "Bench", "message": "", "lastTransitionTime": NOW}


async def _ours(lab: Lab, api: KubeTransport, vms: int, hosts: int) -> dict[str, Any]:
    release = Release(lab)
    release.helm("upgrade", "--install", release.name, str(chart_dir()), "--create-namespace")
    await _put(api, f"{GROUP}/hypervisorclusters", _object("HypervisorCluster", "bench", {}), None)
    nodes = [_hypervisor(n) for n in range(hosts)]
    await _many(nodes, lambda pair: _put(api, f"{GROUP}/hypervisornodes", pair["body"], pair["status"]))
    waiting = [_vm(n) for n in range(vms)]
    path = f"{GROUP}/namespaces/default/virtualmachines"
    await _many(waiting, lambda pair: _put(api, path, pair["body"], pair["status"]))
    process = next(p for p in release.processes() if p.spec.name.endswith("scheduler"))
    user = f"system:serviceaccount:{release.namespace}:{process.service_account}"
    spec = release._launchable(process)  # the chart's Deployment and rights, without the processes that face hosts
    return await _measure(lab, "lq-operator scheduler", spec, user, vms, _is_vm_bind)


def _hypervisor(n: int) -> Body:
    name = f"host-{n:04}"
    spec = {
        "clusterRef": {"name": "bench"},
        "uri": f"qemu+tls://{name}/system",
        "labels": {"rack": f"r{n % RACKS}"},
        "reserved": {"memory": "0"},
    }
    status = {
        "observedGeneration": 1,
        "hostUUID": f"00000000-0000-0000-0000-{n:012}",
        "capacity": {"cpu": HOST_CPUS, "memoryMib": HOST_MIB},
        "usableCpuModels": ["qemu64", "Skylake-Server", "Haswell"],
        "conditions": [_true("Ready"), _true("Member")],
    }
    return {"body": _object("HypervisorNode", name, spec), "status": status}


def _vm(n: int) -> Body:
    cpus, mib = SIZES[n % len(SIZES)]
    spec = {"cpu": {"count": cpus}, "memory": {"size": f"{mib}Mi"}, "guestAgent": False}
    placement = {
        "phase": "Released",
        "writeId": f"{n:032x}",
        "since": NOW,
        "evidence": [{"kind": "inventory"}],
    }
    body = _object("VirtualMachine", f"vm-{n:05}", spec, namespace="default", labels={"app": f"a{n % 20}"})
    return {"body": body, "status": {"observedGeneration": 1, "placement": placement}}


def _is_vm_bind(event: Body) -> bool:
    about = event.get("objectRef", {})
    return event["verb"] == "patch" and about.get("resource") == "virtualmachines"


# ---------------------------------------------------------------- kube-scheduler


async def _theirs(lab: Lab, api: KubeTransport, vms: int, hosts: int) -> dict[str, Any]:
    program = binaries.ensure("kube-scheduler")["kube-scheduler"]
    await _many([{"n": n} for n in range(hosts)], lambda item: _kube_node(api, item["n"]))
    path = "/api/v1/namespaces/default/pods"
    await _many([_pod(n) for n in range(vms)], lambda body: _put(api, path, body, None))
    folder = Path(lab.control_plane.dir)
    lab.control_plane.write_kubeconfig(folder / "bench-scheduler.kubeconfig", "bench-kube-scheduler", "system:masters", "10.78.0.1")  # fmt: skip
    config = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {
            "kubeconfig": str(folder / "bench-scheduler.kubeconfig"),
            "qps": 5000,
            "burst": 10000,
        },
    }
    (folder / "bench-scheduler.yaml").write_text(yaml.safe_dump(config))
    argv = [str(program), f"--config={folder / 'bench-scheduler.yaml'}", "--bind-address=127.0.0.1"]
    argv.append(f"--cert-dir={folder / 'bench-scheduler-certs'}")
    spec = ProcessSpec("kube-scheduler", argv)
    return await _measure(lab, "kube-scheduler", spec, "bench-kube-scheduler", vms, _is_pod_bind)


async def _kube_node(api: KubeTransport, n: int) -> None:
    name = f"node-{n:04}"
    labels = {"kubernetes.io/hostname": name, "rack": f"r{n % RACKS}"}
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    await api.request("POST", "/api/v1/nodes", what=name, body=body)
    amounts = {"cpu": str(HOST_CPUS * 4), "memory": f"{HOST_MIB}Mi", "pods": "250"}  # our default: 4 vCPUs per CPU
    status = {"capacity": amounts, "allocatable": amounts, "conditions": [_true("Ready")]}
    kind = "application/merge-patch+json"
    path = f"/api/v1/nodes/{name}"
    await api.request("PATCH", f"{path}/status", what=name, body={"status": status}, content_type=kind)
    # Admission taints new nodes not-ready; the controller that would take it away is not part of the lab.
    await api.request("PATCH", path, what=name, body={"spec": {"taints": None}}, content_type=kind)


def _pod(n: int) -> Body:
    cpus, mib = SIZES[n % len(SIZES)]
    container = {
        "name": "c",
        "image": "none",
        "resources": {"requests": {"cpu": str(cpus), "memory": f"{mib}Mi"}},
    }
    spec = {"containers": [container], "automountServiceAccountToken": False}
    metadata = {"name": f"pod-{n:05}", "labels": {"app": f"a{n % 20}"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _is_pod_bind(event: Body) -> bool:
    about = event.get("objectRef", {})
    return event["verb"] == "create" and (about.get("resource"), about.get("subresource")) == ("pods", "binding")


# ---------------------------------------------------------------- the judge


@dataclass(slots=True)
class _Spent:
    """CPU seconds of the scheduler and of each part of the control plane, read at one moment."""

    scheduler: float
    parts: dict[str, float]

    @classmethod
    def now(cls, lab: Lab, process: str) -> _Spent:
        own = sum(_cpu_s(pid) for pid in _tree(lab.supervisor.status(process).pid))
        return cls(own, {part: sum(map(_cpu_s, lab.control_plane.pids(part))) for part in PARTS})


async def _measure(
    lab: Lab, name: str, spec: ProcessSpec, user: str, wanted: int, is_bind: Callable[[Body], bool]
) -> dict[str, Any]:
    log = lab.control_plane.audit_log
    with log.open() as stream:
        stream.seek(0, os.SEEK_END)
        lab.supervisor.start(spec)
        events: list[Body] = []
        bound, deadline, peak_mib, first = 0, time.monotonic() + 400, 0.0, None
        while bound < wanted and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            peak_mib = max([peak_mib, *(_rss_mib(pid) for pid in _tree(lab.supervisor.status(spec.name).pid))])
            fresh = _of(_lines(stream), user)
            events += fresh
            bound += sum(is_bind(e) and e["responseStatus"]["code"] < 300 for e in fresh)
            if first is None and bound:
                first, bound_before = _Spent.now(lab, spec.name), bound
        last, load = _Spent.now(lab, spec.name), os.getloadavg()[0]
        await _until_told(lambda: _told(events), lambda: events.extend(_of(_lines(stream), user)))
    lab.supervisor.stop(spec.name)
    if bound < wanted or first is None:
        said = lab.supervisor.log(spec.name).read_text(errors="replace")[-2000:]
        sys.exit(f"{name}: only {bound} of {wanted} bound: {said}")
    each_ms = 1000 / max(1, bound - bound_before)
    row = _row(name, events, is_bind)
    row |= {
        "cpu_ms_per_bind": (last.scheduler - first.scheduler) * each_ms,
        **{f"{part}_cpu_ms_per_bind": (last.parts[part] - first.parts[part]) * each_ms for part in PARTS},
        "cpu_s_with_start": last.scheduler,
        "rss_mib": peak_mib,
        "load_average": load,
    }
    return row


async def _until_told(told: Callable[[], int], read: Callable[[], None]) -> None:
    """Events come after the binds: wait until none has come for a while."""
    quiet_since, before = time.monotonic(), -1
    while time.monotonic() - quiet_since < 3:
        read()
        if told() != before:
            quiet_since, before = time.monotonic(), told()
        await asyncio.sleep(0.25)


def _of(events: list[Body], user: str) -> list[Body]:
    return [e for e in events if e["user"].get("username") == user]


def _told(events: list[Body]) -> int:
    return sum(e.get("objectRef", {}).get("resource") == "events" for e in events)


def _lines(stream: Any) -> list[Body]:
    found = []
    while line := stream.readline():
        while not line.endswith("\n"):  # the API server is in the middle of it
            time.sleep(0.01)
            line += stream.readline()
        found.append(json.loads(line))
    return found


def _row(name: str, events: list[Body], is_bind: Callable[[Body], bool]) -> dict[str, Any]:
    binds = [e for e in events if is_bind(e) and e["responseStatus"]["code"] < 300]
    writes = [e for e in events if e["verb"] in ("create", "update", "patch", "delete")]
    ours = [e for e in writes if e.get("objectRef", {}).get("resource") != "leases"]
    refused = [e for e in writes if e["responseStatus"]["code"] >= 300]
    begun, ended = min(map(_when, binds)), max(map(_when, binds))
    lists = [e for e in events if e["verb"] == "list" and begun < _when(e) < ended]
    return {
        "scheduler": name,
        "binds": len(binds),
        "binds_per_s": len(binds) / (ended - begun),
        "writes_per_bind": (len(ours) - _told(ours)) / len(binds),
        "events_per_bind": _told(ours) / len(binds),
        "writes_refused": len(refused),
        "lists": len(lists),
    }


def _when(event: Body) -> float:
    return datetime.fromisoformat(event["stageTimestamp"].replace("Z", "+00:00")).timestamp()


if __name__ == "__main__":
    main()
