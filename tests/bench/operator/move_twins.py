"""The same guests moved by the operator and by a bare `virsh migrate`, one after the other in one run.

For the bare moves the operator is stopped; each guest goes away and comes back, so that the operator finds it where it
left it. `still_ms` is what nobody else counts: from "suspended" at the source to the last "resumed" at the target, by the
events of both libvirtds.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lxml import etree
from tests.bench.operator.move_faults import RUN
from tests.bench.operator.site import GROUP, Api
from tests.bench.report import percentile
from tests.e2e.datacenter import NAMESPACE, Datacenter, lq

from lq_operator.lab.host import LabHost

ENDED = ("Succeeded", "Failed", "Cancelled", "Refused")
_EVENT = re.compile(r"^(\S+ \S+?)\+0000: event 'lifecycle' for domain '(\S+)': (\w+)", re.M)


@dataclass(frozen=True, slots=True)
class Figures:
    """One move. `wall_ms`: around the request; `total_ms`, `down_ms`: libvirt's own; `still_ms`: by the events."""

    vm: str
    way: str
    wall_ms: float
    total_ms: float
    down_ms: float
    still_ms: float


class Twins:
    """Measures both ways."""

    def __init__(self, dc: Datacenter, vms: list[str]) -> None:
        self.dc, self.vms, self.turn = dc, vms, 0
        self.found: list[Figures] = []

    def measure(self) -> None:
        """Every guest there and back by both ways; which way comes first alternates."""
        ways = [self._ours, self._bare]
        for way in ways if self.turn % 2 == 0 else reversed(ways):
            way()
        self.turn += 1

    def rows(self) -> list[dict[str, object]]:
        """Per guest and way, and the operator's share of the bare one."""
        rows: list[dict[str, object]] = []
        for vm in self.vms:
            bare: dict[str, float] = {}
            for way in ("virsh migrate", "operator"):
                mine = [one for one in self.found if (one.vm, one.way) == (vm, way)]
                if not mine:
                    continue
                names = ("wall_ms", "total_ms", "down_ms", "still_ms")
                medians = {name: percentile([getattr(one, name) for one in mine], 0.5) for name in names}
                bare = bare or medians
                ratios = {f"{name[:-3]}_ratio": medians[name] / max(bare[name], 1e-9) for name in names}
                rows.append({"guest": vm, "way": way, "n": len(mine), **medians, **ratios})
        return rows

    def _others(self, vm: str) -> tuple[LabHost, LabHost]:
        source = self.dc.host_of(vm)
        return source, next(host for host in self.dc.lab.hosts if host.name != source.name)

    # ------------------------------------------------------------ the operator's

    def _ours(self) -> None:
        api = Api(self.dc.lab.kubeconfig)
        for vm in self.vms:
            home, away = self._others(vm)
            for source, target in ((home, away), (away, home)):
                name = f"twin-{self.turn}-{vm}-{target.name}"
                with _events(self.dc.domain(vm), source, target) as still:
                    began_s = time.monotonic()
                    self.dc.apply(
                        lq("VirtualMachineMigration", name, {"vmRef": {"name": vm}, "targetNode": target.name})
                    )
                    status = _ended(api, name)
                    wall_ms = 1000 * (time.monotonic() - began_s)
                assert status["phase"] == "Succeeded", f"{name}: {status}"
                total, down = status["totalMilliseconds"], status["downtimeMilliseconds"]
                self.found.append(Figures(vm, "operator", wall_ms, total, down, still()))
                self.dc.wait_for("VirtualMachine", vm, lambda o: o["status"]["placement"]["phase"] == "Committed")

    # ------------------------------------------------------------ the bare ones

    def _bare(self) -> None:
        lab = self.dc.lab
        lab.supervisor.stop(RUN)
        try:
            for vm in self.vms:
                home, away = self._others(vm)
                for source, target in ((home, away), (away, home)):
                    self._migrate(vm, source, target)
                self._forget(vm, away)
        finally:
            lab.supervisor.restart(RUN)
            lab.kubectl("wait", "--for=condition=Ready", "hypervisornodes", "--all", "--timeout=180s")

    def _migrate(self, vm: str, source: LabHost, target: LabHost) -> None:
        name = self.dc.domain(vm)
        live = etree.fromstring(source.virsh("dumpxml", name).encode())
        # QEMU opens the file of the run that comes in: the gate, or the ticket of an earlier move.
        gate = str(live.find("sysinfo/entry").get("file"))  # type: ignore[union-attr]
        target.exec(["sh", "-c", f"mkdir -p {Path(gate).parent} && touch {gate}"], check=True)
        words = f"--live --p2p --persistent --unsafe --auto-converge --tls --tls-destination {target.ip}"
        if copied := _copied(live):
            words += f" --copy-storage-all --migrate-disks {','.join(copied)}"
        command = f"virsh migrate {words} --migrateuri tcp://{target.ip} {name} '{source.peer_uri(target)}'"
        script = f"s=$(date +%s%N); {command} >&2 || exit 1; e=$(date +%s%N); echo $((e - s))"
        with _events(name, source, target) as still:
            done = source.exec(["sh", "-c", script], check=True, timeout_s=600)
        said = source.virsh("domjobinfo", name, "--completed", "--rawstats")
        stats = dict(line.partition(": ")[::2] for line in said.splitlines() if ": " in line)
        total, down = float(stats["time_elapsed"]), float(stats["downtime"])
        self.found.append(Figures(vm, "virsh migrate", int(done.stdout.split()[-1]) / 1e6, total, down, still()))
        target.exec(["rm", "-f", gate], check=True)

    def _forget(self, vm: str, away: LabHost) -> None:
        """What the way back left at the other host: the definition, and its copies of local disks."""
        name = self.dc.domain(vm)
        copies = _copied(etree.fromstring(away.virsh("dumpxml", name).encode()), files=True)
        away.virsh("undefine", name, "--keep-nvram")
        for file in copies:
            away.exec(["rm", "-f", file], check=True)


def _copied(domain: etree._Element, *, files: bool = False) -> list[str]:
    """Targets (or files) of its disks on pools that each host has for itself."""
    found = []
    for disk in domain.findall("devices/disk"):
        source = disk.find("source")
        if source is None or disk.find("readonly") is not None or "lq-pool-local" not in str(source.get("file")):
            continue
        found.append(str(source.get("file") if files else disk.find("target").get("dev")))  # type: ignore[union-attr]
    return found


def _ended(api: Api, name: str) -> dict[str, object]:
    """Its status, once it has ended."""
    path = f"{GROUP}/namespaces/{NAMESPACE}/virtualmachinemigrations/{name}"
    deadline_s = time.monotonic() + 600
    while True:
        status = api.ask("GET", path).get("status", {})
        if status.get("phase") in ENDED or time.monotonic() > deadline_s:
            return dict(status)
        time.sleep(0.02)


class _Still:
    """Called after the block: how long nobody ran it, in milliseconds; 0.0 where an event was missed."""

    def __init__(self, domain: str) -> None:
        self.domain, self.source, self.target = domain, "", ""

    def __call__(self) -> float:
        stopped = self._times(self.source, "Suspended")
        ran = [at for at in self._times(self.target, "Resumed") if stopped and at > stopped[0]]
        return 1000 * (ran[-1] - stopped[0]) if ran else 0.0

    def _times(self, said: str, what: str) -> list[float]:
        found = _EVENT.findall(said)
        return [
            datetime.fromisoformat(at).timestamp() for at, name, word in found if (name, word) == (self.domain, what)
        ]


@contextmanager
def _events(domain: str, source: LabHost, target: LabHost) -> Iterator[_Still]:
    """Listens at both hosts meanwhile, to all domains: the target does not have this one yet."""
    still = _Still(domain)
    pid = "/run/lq-bench-events.pid"
    virsh = "stdbuf -oL virsh -c qemu:///system event --event lifecycle --loop --timestamp"
    argv = ["sh", "-c", f"echo $$ >{pid}; exec {virsh}"]
    listeners = [
        subprocess.Popen(host.enter_argv(argv), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for host in (source, target)
    ]
    time.sleep(1.0)  # until both have registered
    try:
        yield still
        time.sleep(0.5)
    finally:
        for host in (source, target):
            host.exec(["sh", "-c", f"kill $(cat {pid})"])
        still.source, still.target = (listener.communicate(timeout=30)[0] for listener in listeners)
