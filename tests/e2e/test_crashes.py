"""kill -9 at random moments, and a process that sleeps past its lease: everything converges, nothing runs twice.

The sample is drawn from a seed, which is printed; LQ_TEST_SEED=N repeats one.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from tests.e2e.datacenter import NAMESPACE, Datacenter, Object, condition, diskless, power, ready
from tests.e2e.witness import (
    Witness,
    booting,
    epoch_key,
    own_datacenter,
    processes_on,
    runs_of,
    starts_of,
    verify_records,
    watched,
)

from lq_operator.lab.release import Release
from lq_operator.lab.supervisor import ProcessSpec

COUNT = 20
VMS = tuple(f"c{i:02}" for i in range(COUNT))
BOOTED = VMS[:3]
"""These have guests in them, which say under which epoch they were started; in the others nothing boots."""
SEED = int(os.environ.get("LQ_TEST_SEED") or secrets.randbelow(10**6))
CLAIM = [{"name": "eth0", "networkRef": {"name": "nat", "namespace": "default"}, "addressing": "Claim"}]
ROUNDS = 3
PAUSE_S = 16.0
"""Most between two kills: a start of the process and its lease take some six seconds, then there is something to break."""
STANDBY = "standby-run"
STANDBY_PORT = 18081
"""Both share the lab's network, unlike two pods."""


@pytest.fixture(scope="module")
def dc() -> Iterator[Datacenter]:
    print(f"seed {SEED}: LQ_TEST_SEED={SEED} repeats it")
    with own_datacenter("crash") as made:
        yield made


@pytest.fixture(autouse=True)
def witness(dc: Datacenter) -> Iterator[Witness]:
    with watched(dc.lab) as found:
        yield found


@pytest.fixture
def chance() -> random.Random:
    print(f"seed {SEED}")
    return random.Random(SEED)


def tiny(name: str, **spec: Any) -> Object:
    return diskless(name, **{"cloudInit": {"userData": "#cloud-config\n"}} | spec)


def with_everything(i: int, name: str) -> Object:
    """Seed, a disk in one pool or the other, a claimed address."""
    disk = {"name": "data", "template": {"size": "1Gi", "poolRef": ("local", "shared")[i % 2]}}
    if name in BOOTED:
        made = booting(name, interfaces=CLAIM)
        made["spec"]["disks"] = [*made["spec"]["disks"], disk]
        return made
    return tiny(name, disks=[disk], interfaces=CLAIM)


class Killer(threading.Thread):
    """kill -9 of the operator's processes at random moments, until it is stopped."""

    def __init__(self, dc: Datacenter, chance: random.Random, *names: str) -> None:
        super().__init__(daemon=True)
        self._dc, self._chance, self._names = dc, chance, names
        self._end = threading.Event()
        self.kills = 0

    def run(self) -> None:
        while not self._end.wait(self._chance.uniform(0.5, PAUSE_S)):
            self._dc.lab.supervisor.kill(self._chance.choice(self._names))
            self.kills += 1

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def qemus(dc: Datacenter) -> dict[str, list[str]]:
    """Domain -> hosts, from the hosts' processes."""
    found: dict[str, list[str]] = {}
    for host in dc.lab.hosts:
        for process in processes_on(host):
            found.setdefault(process.domain, []).append(host.name)
    return found


def objects(dc: Datacenter) -> dict[str, Object]:
    items = json.loads(dc.kubectl("get", "virtualmachines", "-o", "json"))["items"]
    return {item["metadata"]["name"]: item for item in items}


def settled(dc: Datacenter, wanted: dict[str, str]) -> bool:
    """Every VM that is wanted is Ready in its state, and no other is left."""
    found = objects(dc)
    return set(found) == set(wanted) and all(ready(o) and power(o) == wanted[n] for n, o in found.items())


def missing(dc: Datacenter, wanted: dict[str, str]) -> str:
    lines = []
    for name, found in sorted(objects(dc).items()):
        if name not in wanted or not ready(found) or power(found) != wanted[name]:
            said = condition(found, "Ready")
            lines.append(f"{name}: wanted {wanted.get(name, 'gone')}, is {power(found)}: {said}")
    return "\n".join(lines)


def nothing_left_over(dc: Datacenter, wanted: dict[str, str]) -> None:
    """What hosts and API hold belongs to a VM that exists: domains, disks, claims, state files."""
    running = {dc.domain(name) for name, state in wanted.items() if state == "Running"}
    assert set(qemus(dc)) == running
    defined = {name for states in dc.domains().values() for name in states}
    assert defined == running, "a definition without a wish to run"
    kept = {name for name in VMS if name in wanted}
    for pool in ("local", "shared"):
        volumes = {file.split("_")[2] for file in dc.files(pool) if file.startswith(f"vol_{NAMESPACE}_")}
        assert volumes <= {f"{name}-{disk}" for name in kept for disk in ("data", "root")}, pool
    claimed = [c["spec"]["vm"]["name"] for c in dc.lab_claims()]
    assert len(set(claimed)) == len(claimed), "two claims of one VM"
    # One that was stopped before its first start has none yet.
    assert {name for name, state in wanted.items() if state == "Running"} <= set(claimed) <= kept
    state = [file for file in dc.files("vmstate") if f"_{NAMESPACE}_c" in file]
    assert {file.split("_")[2].split(".")[0] for file in state} <= kept
    seeds = [file for file in state if file.startswith("seed_")]
    assert len({file.split("_")[2] for file in seeds}) == len(seeds), f"more than one seed of a VM: {sorted(seeds)}"


def test_twenty_vms_through_random_crashes(dc: Datacenter, chance: random.Random) -> None:
    processes = (f"{dc.release.name}-run", f"{dc.release.name}-scheduler")
    dc.lab.kubectl("label", "namespace", NAMESPACE, "tests=crashes", "--overwrite")
    wanted = dict.fromkeys(VMS, "Running")
    with Killer(dc, chance, *processes) as killer:
        dc.apply(*(with_everything(i, name) for i, name in enumerate(VMS)))
        for _ in range(4):
            time.sleep(chance.uniform(4, 12))
            for name in chance.sample(sorted(wanted), 5):
                step = chance.choice(("stop", "start", "stop", "start", "delete"))
                if step == "delete":
                    del wanted[name]
                    dc.delete("VirtualMachine", name)
                    continue
                wanted[name] = "Stopped" if step == "stop" else "Running"
                dc.patch("VirtualMachine", name, {"spec": {"powerState": wanted[name]}})
    assert killer.kills > 0
    print(f"{killer.kills} kills")
    dc.until(lambda: settled(dc, wanted), timeout_s=150, every_s=1.0, say=lambda: missing(dc, wanted))
    dc.until(lambda: not [v for v in (dc.get("Volume", f"{n}-data") for n in set(VMS) - set(wanted)) if v])
    nothing_left_over(dc, wanted)
    for name in VMS:
        started = [epoch_key(s.epoch) for s in starts_of(dc.lab, dc.domain(name)) if not s.refused]
        assert started == sorted(set(started)), f"{name}: an epoch was used twice"
    for name in BOOTED:
        told = {run.epoch for run in runs_of(dc.lab, name)}
        assert told <= {s.epoch for s in starts_of(dc.lab, dc.domain(name)) if not s.refused}
        if wanted.get(name) == "Running":
            epoch = dc.vm(name)["status"]["placement"]["epoch"]
            dc.until(lambda name=name, epoch=epoch: epoch in {run.epoch for run in runs_of(dc.lab, name)})
    verify_records(dc.lab)

    dc.delete("VirtualMachine", *wanted)
    dc.until(lambda: settled(dc, {}), timeout_s=120, every_s=1.0, say=lambda: missing(dc, {}))
    dc.until(lambda: not dc.kubectl("get", "volumes", "-o", "name").split())
    nothing_left_over(dc, {})


def standby(dc: Datacenter, release: Release) -> ProcessSpec:
    """A second `run` from the same Deployment, as a second replica: another pod name, token and address."""
    (process,) = [p for p in release.processes() if p.spec.name == f"{release.name}-run"]
    spec = release._launchable(process)
    pod = {"POD_NAME": f"{STANDBY}-{secrets.token_hex(4)}"}
    config = yaml.safe_load(spec.mounts["/etc/lq-operator"]["config.yaml"])
    config["telemetry"]["listen"] = f":{STANDBY_PORT}"
    mounts = {**spec.mounts, "/etc/lq-operator": {"config.yaml": yaml.safe_dump(config)}}
    return replace(spec, name=STANDBY, env={**spec.env, **pod}, mounts=mounts)


def test_process_that_sleeps_past_its_lease(dc: Datacenter, chance: random.Random) -> None:
    """Paused in the midst of starts, it wakes when another holds the lease: what it still sends is refused, it exits."""
    names = tuple(f"p{i}" for i in range(6))
    first = f"{dc.release.name}-run"
    dc.lab.supervisor.start(standby(dc, dc.release))
    dc.apply(*(tiny(name) for name in names))
    for name in names:
        dc.wait_state(name, "Running")
    holders = [first, STANDBY]
    try:
        for number in range(ROUNDS):
            paused = holder(dc, holders)
            exits = dc.lab.supervisor.status(paused).restarts
            term = lease(dc)[1]
            for name in names:
                dc.operate(name, "Restart", name=f"{name}-again-{number}", force=True)
            time.sleep(chance.uniform(0.0, 1.5))
            dc.lab.supervisor.pause(paused)
            try:
                dc.until(lambda paused=paused, term=term: lease(dc)[1] > term and holder(dc, holders) != paused)
                time.sleep(chance.uniform(0.0, 3.0))
            finally:
                dc.lab.supervisor.resume(paused)
            dc.until(lambda paused=paused, exits=exits: dc.lab.supervisor.status(paused).restarts > exits)
            for name in names:
                dc.outcome(f"{name}-again-{number}")
                dc.wait_state(name, "Running")
        running = qemus(dc)
        assert {name: len(running[dc.domain(name)]) for name in names} == dict.fromkeys(names, 1)
        for name in names:
            epochs = [epoch_key(s.epoch) for s in starts_of(dc.lab, dc.domain(name)) if not s.refused]
            assert epochs == sorted(set(epochs))
            assert len(epochs) == 1 + ROUNDS, f"{name}: one start, and one for each Restart"
            assert dc.metadata(name)["epoch"] == dc.vm(name)["status"]["placement"]["epoch"]
    finally:
        dc.lab.supervisor.remove(STANDBY)
        dc.delete("VirtualMachine", *names)
    for name in names:
        dc.wait_gone("VirtualMachine", name)


def test_outages_above_qemu_are_noticed_by_no_guest(dc: Datacenter) -> None:
    """libvirtd restarted, API server away for 30 s, etcd killed: the same QEMUs run on, and status is right afterwards."""
    names = ("quiet", "quiet-too", "dies")
    dc.apply(*(tiny(name) for name in names))
    for name in names:
        dc.wait_state(name, "Running")
    before = {process for host in dc.lab.hosts for process in processes_on(host)}
    epochs = {name: dc.vm(name)["status"]["placement"]["epoch"] for name in names}

    for host in dc.lab.hosts:
        host.daemon_kill()
    time.sleep(2)
    for host in dc.lab.hosts:
        host.daemon_start()
    dc.lab.apiserver_stop()
    time.sleep(30)
    dc.lab.apiserver_start()
    dc.lab.etcd_kill()
    time.sleep(3)
    dc.lab.etcd_start()
    dc.lab.kubectl("wait", "--for=condition=Ready", "hypervisornodes", "--all", "--timeout=120s")
    for name in names:
        dc.wait_state(name, "Running")
    assert {process for host in dc.lab.hosts for process in processes_on(host)} == before
    assert {name: dc.vm(name)["status"]["placement"]["epoch"] for name in names} == epochs

    # What happens while nobody can be told is seen afterwards.
    dc.lab.apiserver_stop()
    dc.kill_qemu("dies")
    time.sleep(5)
    dc.lab.apiserver_start()
    found = dc.wait_for("VirtualMachine", "dies", lambda o: ready(o) and o["status"]["power"]["restarts"] == 1)
    assert epoch_key(found["status"]["placement"]["epoch"]) > epoch_key(epochs["dies"])
    assert len([s for s in starts_of(dc.lab, dc.domain("dies")) if not s.refused]) == 2
    for name in names[:2]:
        dc.wait_state(name, "Running")
        assert dc.vm(name)["status"]["placement"]["epoch"] == epochs[name]
    dc.delete("VirtualMachine", *names)
    for name in names:
        dc.wait_gone("VirtualMachine", name)


def lease(dc: Datacenter) -> tuple[str, int]:
    """(holder, term) of the hosts' lease, as the API server has it."""
    items = json.loads(dc.lab.kubectl("-n", dc.release.namespace, "get", "leases", "-o", "json").stdout)["items"]
    found = next(item for item in items if item["metadata"]["name"] == "lq-hosts-0")
    return found["spec"].get("holderIdentity") or "", int(found["metadata"]["annotations"]["limiquantix.io/term"])


def holder(dc: Datacenter, names: list[str]) -> str:
    """Which of the supervised processes holds it."""
    who = dc.until(lambda: lease(dc)[0])
    return STANDBY if STANDBY in who else names[0]
