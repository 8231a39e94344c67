"""Who saw what run where: a thread that looks into every host from outside, the start records that hosts keep, and those
that guests write.

A host that is frozen or cut off answers nobody, so it is not asked: its QEMU processes are seen in its cgroup, and
libvirt's log of each domain, which has one entry for every start that was tried, lies in the host's folder. A guest made
by `booting` says every second to the lab's web server who it is, under which epoch it was started, and which boot it is.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.e2e.datacenter import NAMESPACE, Datacenter, Object, vm_manifest
from tests.labfixtures import lab_name, require_lab

from lq_operator.lab import manifests
from lq_operator.lab.cgroups import Cgroup
from lq_operator.lab.datacenter import Lab, take_down
from lq_operator.lab.errors import LabError
from lq_operator.lab.host import LabHost
from lq_operator.lab.release import Release

EVERY_S = 0.4
TTL = {"coordination": {"ttlSeconds": 6}}
"""The shortest lease that the chart admits: takeovers are waited for."""
_GUEST = re.compile(r"guest=([^,\s]+)")
_SEED = re.compile(r"seed_[^/\"_]+_[^/\"_]+_(\d+-\d+)\.")
_GATE = re.compile(r"/run/lq/(gate-[-a-z0-9]+)")
_RECORD = r"""#!/bin/sh
epoch=$(sed -n "s/^limiquantix-epoch: *'*\([-0-9]*\).*/\1/p" /seed/meta-data)
boot=$(cat /proc/sys/kernel/random/boot_id)
while :; do
  printf "GET /record?vm=$(hostname)&epoch=$epoch&boot=$boot HTTP/1.0\r\n\r\n" | nc -w 2 10.78.0.1 8080 >/dev/null
  sleep 1
done &
"""
_REFUSED = "shutting down, reason=failed"
"""libvirt's word for a start that ended before its guest ran: by libvirt itself, or by a QEMU that found no gate."""


@dataclass(frozen=True, slots=True)
class Process:
    """A QEMU on a host. `start` is its start time in clock ticks, so that a pid used again is another process."""

    host: str
    pid: int
    start: int
    domain: str


@dataclass(frozen=True, slots=True)
class Start:
    """One start that a host's libvirt tried, as its log tells. `refused`: it failed before a guest ran."""

    host: str
    domain: str
    at: str
    epoch: str
    gate: str
    refused: bool


def processes_on(host: LabHost) -> list[Process]:
    """Its QEMU processes, also when it is frozen or cut off."""
    found = []
    for pid in Cgroup(f"{host.names.cgroup}/{host.name}").pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            # Field 22, counted after the name in parentheses, which may contain anything.
            start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        except (FileNotFoundError, ProcessLookupError):
            continue
        name = _GUEST.search(" ".join(words))
        if "qemu-system" in words[0] and name:
            found.append(Process(host.name, pid, int(start), name.group(1)))
    return found


def starts_of(lab: Lab, domain: str) -> list[Start]:
    """Every start of this domain that any host ever tried, oldest first."""
    found = []
    for host in lab.hosts:
        log = host.dir / "varlog" / "qemu" / f"{domain}.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        for part in re.split(r"(?m)^(?=[-0-9]+ [:.0-9+]+: starting up )", text):
            if ": starting up " not in part:
                continue
            epoch, gate = _SEED.search(part), _GATE.search(part)
            found.append(
                Start(
                    host.name,
                    domain,
                    part.partition("+")[0],
                    epoch.group(1) if epoch else "",
                    gate.group(1) if gate else "",
                    _REFUSED in part,
                )
            )
    return sorted(found, key=lambda start: start.at)


def booting(name: str, **spec: Any) -> Object:
    """A guest that boots from its disk and keeps a record: name and epoch by its seed, and its own boot id."""
    base = {"cloudInit": {"userData": _RECORD}, "guestAgent": False, "shutdown": {"gracePeriodSeconds": 0}}
    return vm_manifest(name, **base | spec)


@dataclass(frozen=True, slots=True)
class Run:
    """What one boot of a guest has said of itself: from its first word to its last, by the web server's clock."""

    epoch: str
    boot: str
    first_s: float
    last_s: float


def runs_of(lab: Lab, vm: str, *, since_s: float = 0.0) -> list[Run]:
    """The boots of this VM's guests that spoke since then, in the order of their first words."""
    spoken: dict[tuple[str, str], list[float]] = defaultdict(list)
    lines = lab.records_file.read_text().splitlines() if lab.records_file.exists() else []
    for said in map(json.loads, lines):
        if said.get("vm") == vm and said["time_s"] >= since_s:
            spoken[said["epoch"], said["boot"]].append(said["time_s"])
    found = [Run(epoch, boot, min(times), max(times)) for (epoch, boot), times in spoken.items()]
    return sorted(found, key=lambda run: run.first_s)


def recorded(lab: Lab) -> set[str]:
    """VMs whose guests keep a record."""
    lines = lab.records_file.read_text().splitlines() if lab.records_file.exists() else []
    return {said["vm"] for said in map(json.loads, lines) if "boot" in said}


def verify_records(lab: Lab) -> None:
    """No epoch was booted twice, and every boot came under a higher epoch than the one before."""
    for vm in recorded(lab):
        epochs = [epoch_key(run.epoch) for run in runs_of(lab, vm)]
        assert epochs == sorted(set(epochs)), f"{vm}: {runs_of(lab, vm)}"


def epoch_key(epoch: str) -> tuple[int, int]:
    """(term, n), for comparing."""
    term, _, n = epoch.partition("-")
    return int(term), int(n)


@dataclass
class Witness(threading.Thread):
    """Looks at every host all the time. `doubles`: what was seen running on two hosts at once.

    A QEMU whose gate is missing lives for a moment before it finds out, with its guest not started: a process counts
    from the second look on.
    """

    lab: Lab
    doubles: list[str] = field(default_factory=list)
    looks: int = 0
    lied_about: set[str] = field(default_factory=set)
    """Domains of which a false statement was made on purpose."""
    since_s: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        super().__init__(daemon=True, name="witness")
        self._end = threading.Event()
        self._before: set[Process] = set()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        """Until `stop`."""
        while not self._end.wait(EVERY_S):
            self.look()

    def look(self) -> None:
        """Once at every host."""
        now = {process for host in self.lab.hosts for process in processes_on(host)}
        where: dict[str, set[Process]] = defaultdict(set)
        for process in now & self._before:
            where[process.domain].add(process)
        for domain, seen in where.items():
            hosts = sorted({process.host for process in seen})
            if len(hosts) > 1 and domain not in self.lied_about and self.runs_on_all(domain, hosts):
                self.doubles.append(f"{domain}: {sorted((p.host, p.pid) for p in seen)}")
        self._before = now
        self.looks += 1

    def runs_on_all(self, domain: str, hosts: list[str]) -> bool:
        """Every process counts as a guest that runs."""
        return bool(domain and hosts)

    def stop(self) -> None:
        """End it and wait for it."""
        self._end.set()
        self.join()

    def verify(self) -> None:
        """Nothing ran twice so far, and it did look: at least twice, also in the shortest test."""
        assert self.is_alive()
        seen = self.looks
        while self.looks < seen + 2:
            time.sleep(EVERY_S / 4)
        assert self.doubles == []
        self._verify_guests()

    def _verify_guests(self) -> None:
        """As guests tell it: the next one spoke first when the one before had spoken its last word."""
        verify_records(self.lab)
        for vm in recorded(self.lab):
            if f"lq_{NAMESPACE}_{vm}" in self.lied_about:
                continue
            runs = runs_of(self.lab, vm, since_s=self.since_s)
            for before, after in pairwise(runs):
                assert before.last_s < after.first_s, f"{vm} ran twice: {before}, {after}"


class MoveWitness(Witness):
    """A guest that is moved has two QEMUs, of which one stands still: both are asked, and the first once more, so that a
    changeover between two questions is not taken for two that run."""

    def runs_on_all(self, domain: str, hosts: list[str]) -> bool:
        return all(_state(self.lab.host(name), domain) == "running" for name in (*hosts, hosts[0]))


def _state(host: LabHost, domain: str) -> str:
    """'' where the host does not answer."""
    try:
        return host.virsh("domstate", domain).strip()
    except LabError:
        return ""


@contextmanager
def watched(lab: Lab, kind: type[Witness] = Witness) -> Iterator[Witness]:
    """A witness for as long as the block lasts; nothing may have run twice in it."""
    witness = kind(lab)
    witness.start()
    try:
        yield witness
        witness.verify()
    finally:
        witness.stop()


@contextmanager
def own_datacenter(suffix: str, values: dict[str, object] | None = None) -> Iterator[Datacenter]:
    """A datacenter in a lab of its own, for tests that cut its power or wipe its API server.

    LQ_TEST_LAB=NAME names the lab, in place of one that has the name now, and keeps it afterwards. `values`: of the chart.
    """
    require_lab()
    kept = os.environ.get("LQ_TEST_LAB")
    name = kept or lab_name(f"-{suffix}")
    take_down(name)
    lab = Lab.create(name, hosts=3)
    try:
        lab.up()
        dc = Datacenter(lab, Release(lab))
        build(dc, values)
        yield dc
    finally:
        if not kept:
            lab.down()


def build(dc: Datacenter, values: dict[str, object] | None = None) -> None:
    """The operator and the manifests of the lab's datacenter, in a cluster that knows nothing yet; all Ready."""
    dc.release.install(TTL | (values or {}))
    apply_datacenter(dc)
    dc.lab.kubectl("wait", "--for=condition=Ready", "hypervisornodes", "--all", "--timeout=120s")
    # Before that a host is given no VM, and the others would get all of them.
    dc.lab.kubectl("wait", "--for=condition=Member", "hypervisornodes", "--all", "--timeout=120s")
    kinds = "storagepools,virtualnetworks"
    dc.lab.kubectl("wait", "--for=condition=Ready", kinds, "--all", "-A", "--timeout=120s")


def apply_datacenter(dc: Datacenter) -> None:
    """Namespace, cluster, hosts, pools, network, image."""
    dc.lab.kubectl("create", "namespace", NAMESPACE, check=False)
    dc.lab.kubectl("apply", "-f", "-", stdin=manifests.dump(manifests.datacenter(dc.lab)))
