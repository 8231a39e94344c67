"""The scheduler end to end: what it says about a VM and about failures, its records, questions that write nothing, and
two of its processes that both believe they lead."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.datacenter import Datacenter, condition, diskless
from tests.labfixtures import lab_name, require_lab

from lq_operator.lab.datacenter import Lab
from lq_operator.lab.manifests import vm_class
from lq_operator.lab.release import Release, chart_dir
from lq_operator.lab.supervisor import ProcessSpec

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture
def ready(dc: Datacenter) -> Iterator[Datacenter]:
    yield dc
    names = [name for name in dc.kubectl("get", "vm", "-o", "name").split() if "/sched-" in name]
    if names:
        dc.kubectl("delete", *names, "--wait=true", "--timeout=120s")


def ask(lab: Lab, program: str, *arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
    """One of our programs as a person calls it."""
    argv = [str(Path(sys.executable).with_name(program)), *arguments]
    environ = {**os.environ, "KUBECONFIG": str(kubeconfig or lab.kubeconfig)}
    environ.pop("KUBERNETES_SERVICE_HOST", None)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, env=environ)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def is_placed(vm: dict[str, Any]) -> bool:
    return bool(vm.get("status", {}).get("placement", {}).get("node"))


def test_kubectl_lq_why_for_one_that_runs_and_one_that_waits(ready: Datacenter) -> None:
    ready.apply(
        diskless("sched-small"), diskless("sched-huge", className=None, cpu={"count": 1}, memory={"size": "900Gi"})
    )
    placed = ready.wait_for("VirtualMachine", "sched-small", is_placed)
    ready.wait_for("VirtualMachine", "sched-huge", lambda vm: condition(vm, "Scheduled").get("reason") == "NoHostFits")
    kubectl = ready.lab.kubectl("version", "--client", check=False)  # the binary is in the cache by now
    assert kubectl.returncode == 0
    said = ask(ready.lab, "kubectl-lq", "why", "vm/sched-small", "-n", ready.namespace)
    assert said.returncode == 0, said.stderr
    assert placed["status"]["placement"]["node"] in said.stdout
    for host in ready.lab.hosts:
        assert f"\n{host.name} " in said.stdout
    assert "contention" in said.stdout, "the terms of the score"
    waiting = ask(ready.lab, "kubectl-lq", "why", "vm/sched-huge", "-n", ready.namespace)
    assert waiting.returncode == 1
    assert "no: memory" in waiting.stdout
    assert "It would fit if" in waiting.stdout
    facts = json.loads(ask(ready.lab, "lq-operator", "why", "sched-huge", "-n", ready.namespace, "-o", "json").stdout)
    assert facts["scheduling"]["rejected"] == {"memory": 3}
    assert facts["scheduled"]["status"] == "False"
    missing = ask(ready.lab, "kubectl-lq", "why", "vm/nobody", "-n", ready.namespace)
    assert missing.returncode == 1
    assert "there is no VirtualMachine" in missing.stderr


def test_a_waiting_vm_is_placed_when_room_comes(ready: Datacenter) -> None:
    huge = diskless("sched-wait", placement={"nodeSelector": {"rack": "new"}})
    ready.apply(huge)
    ready.wait_for("VirtualMachine", "sched-wait", lambda vm: condition(vm, "Scheduled").get("reason") == "NoHostFits")
    started = time.monotonic()
    ready.patch("HypervisorNode", "h2", {"spec": {"labels": {"rack": "new"}}})
    ready.wait_for("VirtualMachine", "sched-wait", lambda vm: vm["status"]["placement"].get("node") == "h2")
    print(f"placed {time.monotonic() - started:.1f} s after the label came")
    ready.patch("HypervisorNode", "h2", {"spec": {"labels": {"rack": None}}})


def test_the_cluster_says_which_hosts_can_fail(ready: Datacenter) -> None:
    found = ready.wait_for(
        "HypervisorCluster", "lab", lambda o: condition(o, "FailoverCapacity").get("status") == "True"
    )
    assert found["status"]["whichCanFail"] == ["h1", "h2", "h3"]
    assert "could still be started then" in condition(found, "FailoverCapacity")["message"]
    assert condition(found, "Ready"), "the other controller's conditions are there too"
    managers = {
        entry["manager"]
        for entry in json.loads(
            ready.lab.kubectl("get", "hypervisorcluster", "lab", "-o", "json", "--show-managed-fields").stdout
        )["metadata"]["managedFields"]
        if "f:whichCanFail" in json.dumps(entry)
    }
    assert managers == {"lq-scheduler"}


def test_simulate_asks_the_live_inventory_and_writes_nothing(ready: Datacenter) -> None:
    lab = ready.lab
    for n in range(3):
        ready.apply(diskless(f"sched-sim-{n}"))
    nodes = [
        ready.wait_for("VirtualMachine", f"sched-sim-{n}", is_placed)["status"]["placement"]["node"] for n in range(3)
    ]
    lab.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(vm_class("sched-wide", 2, "2Gi")))
    config = lab.state_dir / "viewer.kubeconfig"
    address = yaml.safe_load(Path(lab.kubeconfig).read_text())["clusters"][0]["cluster"]["server"]
    lab.control_plane.write_kubeconfig(config, "viewer", None, address.split("//")[1].split(":")[0])
    roles = [r for r in lab.kubectl("get", "clusterroles", "-o", "name").stdout.split() if r.endswith("-viewer")]
    for number, role in enumerate(["view", *(r.partition("/")[2] for r in roles)]):
        lab.kubectl(
            "create",
            "clusterrolebinding",
            f"sched-viewer-{number}",
            f"--clusterrole={role}",
            "--user=viewer",
            check=False,
        )
    mark = lab.control_plane.audit_log.stat().st_size
    down = ask(lab, "lq-operator", "simulate", "host-down", nodes[0], "-o", "json", kubeconfig=config)
    assert down.returncode == 0, down.stderr
    moves = json.loads(down.stdout)["outcome"]["moves"]
    here = [n for n in range(3) if nodes[n] == nodes[0]]
    assert {f"{ready.namespace}/sched-sim-{n}" for n in here} <= {move["identity"] for move in moves}
    assert all(move["host"] not in (None, nodes[0]) for move in moves)
    more = ask(lab, "kubectl-lq", "simulate", "more-vms", "--class", "sched-wide", "--count", "200", kubeconfig=config)
    assert more.returncode == 1, "200 VMs of 2 GiB do not fit on three hosts of 16 GiB"
    assert "of 200 new VMs fit" in more.stdout
    added = ask(lab, "lq-operator", "simulate", "add-host", "--like", "h1", "--count", "2", kubeconfig=config)
    assert added.returncode == 0, added.stderr
    drained = ask(lab, "lq-operator", "simulate", "maintenance", "h1", kubeconfig=config)
    assert drained.returncode == 0, drained.stdout
    wrong = ask(lab, "lq-operator", "simulate", "host-down", "h9", kubeconfig=config)
    assert wrong.returncode == 1
    assert "h9" in wrong.stderr
    with lab.control_plane.audit_log.open() as log:
        log.seek(mark)
        verbs = Counter(e["verb"] for e in map(json.loads, log) if e["user"].get("username") == "viewer")
    assert set(verbs) <= {"get", "list"}, verbs
    assert verbs["list"] > 0


def debug(dc: Datacenter, path: str, source: str = "127.0.0.1") -> tuple[int, str]:
    process = next(p for p in dc.release.processes() if p.spec.name.endswith("scheduler"))
    assert process.liveness is not None
    url = f"http://{source}:{process.liveness[0]}/debug/{path}"
    out = dc.lab.exec(["curl", "-s", "--noproxy", "*", "-w", "\n%{http_code}", url]).stdout
    body, _, code = out.rpartition("\n")
    return int(code), body


def test_a_decision_is_replayed_in_another_process_byte_for_byte(ready: Datacenter, tmp_path: Path) -> None:
    ready.apply(diskless("sched-record"))
    ready.wait_for("VirtualMachine", "sched-record", is_placed)
    code, body = debug(ready, "decisions")
    assert code == 200
    mine = [line for line in json.loads(body) if line["vm"] == f"{ready.namespace}/sched-record"]
    records = [debug(ready, f"decisions/{line['number']}")[1] for line in json.loads(body)[:20]]
    file = tmp_path / "records"
    file.write_text("\n".join(records))
    assert mine
    assert mine[0]["host"] == ready.vm("sched-record")["status"]["placement"]["node"]
    again = ask(ready.lab, "lq-operator", "replay", str(file))
    assert again.returncode == 0, again.stderr
    assert f"{len(records)} of {len(records)} decisions repeated byte for byte" in again.stderr
    forged = json.loads(records[0])
    forged["hosts"] = forged["hosts"][:1]
    file.write_text(json.dumps(forged))
    assert ask(ready.lab, "lq-operator", "replay", str(file)).returncode == 1, "what it saw decides the outcome"
    assert debug(ready, "decisions/9-999999")[0] == 404
    assert debug(ready, "decisions", "10.78.0.1")[0] == 403, "from this machine only"
    assert f'"decision": "{mine[0]["number"]}"' in ready.lab.supervisor.log("lq-operator-scheduler").read_text()


# ---------------------------------------------------------------- two at once

HOSTS, VMS, WAVE, GROUP = 6, 60, 15, "limiquantix.io/v1alpha1"


@pytest.fixture(scope="module")
def arena() -> Iterator[Lab]:
    """A control plane without the processes that face hosts: status of hosts is written by hand."""
    require_lab()
    made = Lab.create(lab_name("-race"), hosts=1)
    try:
        made.up(print)
        yield made
    finally:
        made.down()


def _true(kind: str) -> dict[str, Any]:
    stamp = "2030-01-01T00:00:00Z"
    return {"type": kind, "status": "True", "reason": "Test", "message": "", "lastTransitionTime": stamp}


def _object(kind: str, name: str, spec: dict[str, Any], status: dict[str, Any] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"apiVersion": GROUP, "kind": kind, "metadata": {"name": name}, "spec": spec}
    return made if status is None else {**made, "status": status}


def _race_objects() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    room = {"cpu": 64, "memoryMib": 10 * 1024}
    status = {"observedGeneration": 1, "capacity": room, "conditions": [_true("Ready"), _true("Member")]}
    nodes = [
        _object(
            "HypervisorNode", f"n{n}",
            {"clusterRef": {"name": "race"}, "uri": f"qemu+tls://n{n}/system", "reserved": {"memory": "0"}},
            {**status, "hostUUID": f"uuid-{n}"},
        )
        for n in range(HOSTS)
    ]  # fmt: skip
    vms = [
        _object(
            "VirtualMachine", f"vm-{n:02}",
            {"cpu": {"count": 1}, "memory": {"size": "1Gi"}, "guestAgent": False},
            {"observedGeneration": 1, "placement": {"phase": "Released", "writeId": f"w{n}", "evidence": [{"kind": "inventory"}]}},
        )
        for n in range(VMS)
    ]  # fmt: skip
    return nodes, vms


def _schedulers(lab: Lab, release: Release) -> list[ProcessSpec]:
    """Two, each with a lease of its own, which is the mistake that must do no harm."""
    process = next(p for p in release.processes() if p.spec.name.endswith("scheduler"))
    spec = release._launchable(process)
    rules = ["--verb=get,list,watch,create,update,patch,delete", "--resource=leases.coordination.k8s.io"]
    lab.kubectl("-n", release.namespace, "create", "role", "race", *rules, check=False)
    account = f"--serviceaccount={release.namespace}:{process.service_account}"
    lab.kubectl("-n", release.namespace, "create", "rolebinding", "race", "--role=race", account, check=False)
    made = []
    for name in ("race-a", "race-b"):
        mounts = {folder: dict(files) for folder, files in spec.mounts.items()}
        for files in mounts.values():
            for file, text in files.items():
                if file.endswith(".yaml"):
                    settings = yaml.safe_load(text)
                    settings["coordination"] = {**settings.get("coordination", {}), "leaseName": name}
                    settings["telemetry"] = {**settings.get("telemetry", {}), "listen": f":{18000 + len(made)}"}
                    files[file] = yaml.safe_dump(settings)
        made.append(replace(spec, name=name, mounts=mounts))
    return made


def test_two_processes_that_both_lead_and_are_killed_never_place_a_vm_twice(arena: Lab) -> None:
    release = Release(arena)
    release.helm("upgrade", "--install", release.name, str(chart_dir()), "--create-namespace")
    arena.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(_object("HypervisorCluster", "race", {})))
    nodes, vms = _race_objects()
    arena.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(nodes + vms))
    arena.kubectl("replace", "--subresource=status", "-f", "-", stdin=yaml.safe_dump_all(nodes))
    specs = _schedulers(arena, release)
    for spec in specs:
        arena.supervisor.start(spec)
    for spec in specs:
        _until(lambda spec=spec: _leads(arena, release, spec), lambda: _last_words(arena, specs))
    rng = random.Random(4)
    for wave in range(0, VMS, WAVE):
        names = {vm["metadata"]["name"] for vm in vms[wave : wave + WAVE]}
        body = yaml.safe_dump_all(vms[wave : wave + WAVE])
        arena.kubectl("replace", "--subresource=status", "-f", "-", stdin=body)
        _until(lambda names=names: names & _placements(arena).keys(), lambda: _last_words(arena, specs))
        arena.supervisor.kill(rng.choice(specs).name)  # in the middle of it, the other goes on
        _until(lambda names=names: names <= _placements(arena).keys(), lambda: _last_words(arena, specs))
    for spec in specs:
        _until(lambda spec=spec: _leads(arena, release, spec), lambda: _last_words(arena, specs))
    time.sleep(3)
    used = Counter(_placements(arena).values())
    assert sum(used.values()) == VMS
    assert max(used.values()) <= 10, used
    binds, refused = _patches(arena)
    print(f"{sum(binds.values())} assignments of {VMS} VMs, {refused} late writes refused")
    assert all(binds[f"vm-{n:02}"] >= 1 for n in range(VMS))


def _until(look: Callable[[], Any], say: Callable[[], str], timeout_s: float = 150) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline, say()
        time.sleep(0.2)


def _leads(lab: Lab, release: Release, spec: ProcessSpec) -> bool:
    """It runs and holds its own lease."""
    process, lease = lab.supervisor.status(spec.name), f"lq-{spec.name}"
    found = lab.kubectl("-n", release.namespace, "get", "lease", lease, "-o", "json", "--ignore-not-found").stdout
    return process.state == "running" and bool(found.strip() and json.loads(found)["spec"].get("holderIdentity"))


def _placements(lab: Lab) -> dict[str, str]:
    items = json.loads(lab.kubectl("get", "vm", "-o", "json").stdout)["items"]
    found = {vm["metadata"]["name"]: vm.get("status", {}).get("placement", {}) for vm in items}
    return {name: placement["node"] for name, placement in found.items() if placement.get("phase") == "Assigned"}


def _patches(lab: Lab) -> tuple[Counter[str], int]:
    binds: Counter[str] = Counter()
    refused = 0
    for line in lab.control_plane.audit_log.read_text().splitlines():
        event = json.loads(line)
        about = event.get("objectRef", {})
        if (
            event["verb"] == "patch"
            and about.get("resource") == "virtualmachines"
            and "scheduler" in event["user"]["username"]
        ):
            if event["responseStatus"]["code"] < 300:
                binds[about["name"]] += 1
            else:
                refused += 1
    return binds, refused


def _last_words(lab: Lab, specs: list[ProcessSpec]) -> str:
    return "\n".join(lab.supervisor.log(spec.name).read_text(errors="replace")[-1500:] for spec in specs)
