"""Moves at length: six guests under load, moved at once, round after round, and in every round two random faults.

LQ_MOVES=N (default 300) moves, a third of them with a fault aimed at its middle; the others of its round go on meanwhile.
LQ_TEST_SEED=N repeats the draw, LQ_TEST_LAB=NAME keeps the lab, LQ_MOVES_MINUTES=N ends it early. Every LQ_MOVES_TWINS
(default 20) rounds three of the guests are moved undisturbed, by the operator and by a bare `virsh migrate`. Double runs
are judged by QEMU on all hosts and by a count that each guest keeps in its memory: two runs of one memory would say the
same number twice.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from tests.bench.operator.move_faults import FAULTS, Scene
from tests.bench.operator.move_twins import ENDED, Twins
from tests.bench.report import show
from tests.e2e.datacenter import Datacenter, NotYetError, Object, lq, phase, reason, vm_manifest
from tests.e2e.witness import MoveWitness, own_datacenter, watched

from lq_operator.lab import manifests
from lq_operator.lab.datacenter import Lab
from lq_operator.lab.errors import LabError

COUNT = int(os.environ.get("LQ_MOVES", "300"))
SEED = int(os.environ.get("LQ_TEST_SEED") or secrets.randbelow(10**6))
TWINS_EVERY = int(os.environ.get("LQ_MOVES_TWINS", "20"))
MINUTES = float(os.environ.get("LQ_MOVES_MINUTES", "inf"))
ONLY = os.environ.get("LQ_MOVES_FAULTS", "")
"""A comma list of faults to draw from, for looking closer; all of them otherwise."""
PATIENCE_S = 400.0
KINDS = {"walker": ("shared",), "carrier": ("local",), "both": ("shared", "local")}
VMS = {f"{name}{n}": pools for name, pools in KINDS.items() for n in (1, 2)}
AIMS = len(VMS) // 3
SLOW_MIB_S = 8
TTL_S = 15
"""The chart's default: with the shortest one a busy machine loses its operator to its own load."""
BESIDE = "(beside one)"
AIM_WITHIN_S = 7.0
"""A guest has some forty MiB in use: the fault comes before, in or after its transfer, or at its end."""
LIFE = r"""#!/bin/sh
epoch=$(sed -n "s/^limiquantix-epoch: *'*\([-0-9]*\).*/\1/p" /seed/meta-data)
boot=$(cat /proc/sys/kernel/random/boot_id)
n=0
while :; do
  n=$((n+1))
  printf "GET /record?vm=$(hostname)&epoch=$epoch&boot=$boot&n=$n HTTP/1.0\r\n\r\n" | nc -w 2 10.78.0.1 8080 >/dev/null
  sleep 1
done &
while :; do dd if=/dev/urandom of=/run/load bs=64k count=16 2>/dev/null; sleep 1; done &
"""
_DEAD_KERNEL = re.compile(r"Kernel panic|general protection|Oops|BUG:|segfault at|Unable to handle", re.I)


@dataclass
class Tally:
    """What happened so far. `lost`: guests that ended though the fault does not explain it; `corrupt`: those of them whose
    kernel failed, as an emulated guest's may after any move (`emulated-moves`)."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    def failed(self) -> bool:
        """Something that must not happen has."""
        return len(self.lost) > len(self.corrupt) or bool(self.stuck or self.leftovers)


class Course:
    """The run."""

    def __init__(self, dc: Datacenter) -> None:
        self.dc, self.chance, self.tally = dc, random.Random(SEED), Tally()
        self.faults = [name for name in FAULTS if not ONLY or name in ONLY.split(",")]
        self.twins = Twins(dc, [f"{name}1" for name in KINDS])
        self.began_s = time.monotonic()
        self.boots: dict[str, str] = {}
        self.told: dict[str, int] = {}

    def build(self) -> None:
        """Booted guests that count and write."""
        self.dc.patch("HypervisorCluster", manifests.CLUSTER, {"spec": {"migration": {"parallelPerHost": 4}}})
        image = {"imageRef": {"name": "guest", "namespace": "default"}}
        for vm, pools in VMS.items():
            root = {"name": "root", "template": {"size": "1Gi", "poolRef": pools[0], "source": image}}
            more = [{"name": "data", "template": {"size": "1Gi", "poolRef": pool}} for pool in pools[1:]]
            self.dc.apply(vm_manifest(vm, disks=[root, *more], cloudInit={"userData": LIFE}))
        for vm in VMS:
            self.dc.wait_guest(vm, timeout_s=PATIENCE_S)
            self.boots[vm] = self._boot_id(vm)

    def run(self) -> None:
        """All rounds; ends early when something is stuck."""
        rounds = max(1, COUNT // len(VMS))
        for n in range(rounds):
            if n % TWINS_EVERY == TWINS_EVERY // 2:
                self.twins.measure()
                self._say(f"twins: {len(self.twins.found)} moves measured")
                show("so far, medians", self.twins.rows())
            aims = dict(zip(self.chance.sample(sorted(VMS), AIMS), self._draw(), strict=True))
            try:
                self._round(f"r{n:03}", aims)
            except NotYetError as problem:
                self.tally.stuck.append(f"r{n:03} {aims}: {str(problem)[:4000]}")
                print(self.tally.stuck[-1], flush=True)
                return
            self._say(f"round {n + 1} of {rounds}: {aims}: {self._last}")
            if time.monotonic() - self.began_s > 60 * MINUTES:
                self._say("time is up")
                break
        self.twins.measure()

    def _draw(self) -> list[str]:
        """Faults of one round. Nobody can cancel while the API server is away."""
        while True:
            drawn = [self.chance.choice(self.faults) for _ in range(AIMS)]
            if not {"cancelled", "API server away"} <= set(drawn):
                return drawn

    def _say(self, what: str) -> None:
        bad = f" LOST {len(self.tally.lost)} CORRUPT {len(self.tally.corrupt)}" if self.tally.lost else ""
        print(f"{time.monotonic() - self.began_s:6.0f} s  {what}{bad}", flush=True)

    # ------------------------------------------------------------ one round

    def _round(self, name: str, aims: dict[str, str]) -> None:
        ways = {vm: self._way(vm) for vm in VMS}
        specs: dict[str, dict[str, object]] = {}
        for vm, (_, target) in ways.items():
            specs[vm] = {"vmRef": {"name": vm}, "targetNode": target}
            if vm in aims:
                specs[vm]["tuning"] = {"bandwidthMibPerSecond": SLOW_MIB_S}
        # Those that are aimed at have the first turns.
        first = sorted(specs, key=lambda vm: vm not in aims)
        self.dc.apply(*(lq("VirtualMachineMigration", f"{name}-{vm}", specs[vm]) for vm in first))
        self._until(lambda: all(self._is_on_its_way(f"{name}-{vm}") for vm in aims), every_s=0.1)
        may_die: set[str] = set()
        busy: dict[str, threading.Lock] = {host.name: threading.Lock() for host in self.dc.lab.hosts}
        with ThreadPoolExecutor(AIMS) as pool:
            for died in pool.map(lambda vm: self._strike(name, vm, aims[vm], specs[vm], ways, busy), aims):
                may_die |= died
        self._settled(name, aims, ways, may_die)

    def _is_on_its_way(self, move: str) -> bool:
        return phase(self.dc.get("VirtualMachineMigration", move) or {}) in ("Running", *ENDED)

    def _strike(
        self,
        name: str,
        aim: str,
        fault: str,
        spec: dict[str, object],
        ways: dict[str, tuple[str, str]],
        busy: dict[str, threading.Lock],
    ) -> set[str]:
        """One fault at some moment of its move; two that break the same hosts come one after the other."""
        source, target = (next(host for host in self.dc.lab.hosts if host.name == one) for one in ways[aim])
        touched = {vm: frozenset(way) for vm, way in ways.items()}
        chance = random.Random(f"{SEED} {name} {aim}")
        scene = Scene(self.dc, f"{name}-{aim}", aim, spec, source, target, touched, chance)
        time.sleep(chance.uniform(0.0, AIM_WITHIN_S))
        hosts = [source.name] if fault.startswith("source") else [target.name] if fault.startswith("target") else []
        with ExitStack() as held:
            for host in hosts:
                held.enter_context(busy[host])
            return FAULTS[fault](scene)

    def _way(self, vm: str) -> tuple[str, str]:
        source = self.dc.host_of(vm).name
        return source, self.chance.choice([host.name for host in self.dc.lab.hosts if host.name != source])

    def _settled(self, name: str, aims: dict[str, str], ways: dict[str, tuple[str, str]], may_die: set[str]) -> None:
        ends: dict[str, Object] = {}
        for vm in VMS:
            found = self.dc.wait_for(
                "VirtualMachineMigration", f"{name}-{vm}", lambda o: phase(o) in ENDED, timeout_s=PATIENCE_S
            )
            ends[vm] = found
            self.tally.ended[aims.get(vm, BESIDE), f"{phase(found)} {reason(found)}"] += 1
        self._last = ", ".join(f"{vm} {phase(end)}" for vm, end in ends.items())
        self.dc.lab.kubectl("wait", "--for=condition=Ready", "hypervisornodes", "--all", "--timeout=180s")
        for vm, (source, target) in ways.items():
            where = target if phase(ends[vm]) == "Succeeded" else source
            self._stands(vm, "" if vm in may_die else where)
        for vm in VMS:
            self._lives(vm, f"{name} {aims}: {vm} {ways[vm]} ({phase(ends[vm])})", vm in may_die)
        self._nothing_left(name)

    def _stands(self, vm: str, where: str) -> None:
        """One domain of it on all hosts, it runs, there, and the API says so."""

        def right() -> bool:
            seen = self.dc.seen(vm)
            placement = self.dc.vm(vm)["status"]["placement"]
            said = (placement["phase"], {placement.get("node", ""): "running"}) == ("Committed", seen)
            return said and where in ("", *seen)

        self._until(right, say=lambda: f"{vm} should run on {where or 'one host'}: {self.dc.seen(vm)}")

    def _lives(self, vm: str, what: str, may_die: bool) -> None:
        """Its agent answers, and it is the same run unless this fault may have ended it."""
        why = ""
        try:
            boot = self._boot_id(vm)
            if boot != self.boots[vm] and not may_die:
                why = "it has booted since"
        except NotYetError:
            why = "the guest does not answer"
        said = self._new_words(vm)
        if why:
            self.tally.lost.append(f"{what}: {why}")
            if trouble := _DEAD_KERNEL.search(said):
                self.tally.corrupt.append(f"{what}: {why}: {said[trouble.start() :][:200]!r}")
            print(self.tally.lost[-1], flush=True)
        if "answer" in why:
            self.dc.do(vm, "Restart", force=True)
            self.dc.wait_guest(vm, timeout_s=PATIENCE_S)
            boot = self._boot_id(vm)
        self.boots[vm] = boot

    def _nothing_left(self, name: str) -> None:
        """No ticket, no second copy of a disk, no domain without a guest."""

        def left() -> list[str]:
            tickets = [
                f"{host.name}: {file}"
                for host in self.dc.lab.hosts
                for file in host.exec(["ls", "/run/lq"]).stdout.split()
                if "ticket" in file
            ]
            copies = Counter(
                file
                for host in self.dc.lab.hosts
                for file in host.exec(["ls", "/var/lib/libvirt/lq-pool-local"]).stdout.split()
                if any(f"{vm}-" in file for vm in VMS)
            )
            return tickets + [file for file, count in copies.items() if count > 1 or "moving" in file]

        try:
            self._until(lambda: not left(), timeout_s=60.0)
        except NotYetError:
            self.tally.leftovers.append(f"{name}: {left()}")
            print(f"left over: {self.tally.leftovers[-1]}", flush=True)

    # ------------------------------------------------------------ asking

    def _until(self, look: object, **how: object) -> object:
        return self.dc.until(look, **({"timeout_s": PATIENCE_S} | how))  # type: ignore[arg-type]

    def _boot_id(self, vm: str) -> str:
        """The agent's answer: the guest is there, not only its QEMU."""

        def ask() -> str:
            try:
                return self.dc.boot_id(vm)
            except (LabError, AssertionError):
                return ""

        return str(self._until(ask, every_s=0.5, say=lambda: f"{vm}: the agent does not answer"))

    def _new_words(self, vm: str) -> str:
        """Of its console since the last call."""
        found = next((self.dc.lab.shared_dir / "lq-state-shared").glob(f"console_*_{vm}.log"), None)
        said = found.read_text(errors="replace") if found else ""
        before, self.told[vm] = self.told.get(vm, 0), len(said)
        return said[before:]


class CountWitness(MoveWitness):
    """Guests are judged by the counts in their memory (`said_twice`): one whose kernel fails boots under the same epoch."""

    def _verify_guests(self) -> None:
        return


def said_twice(lab: Lab) -> list[str]:
    """Counts that a guest's memory said more than once in one boot: it ran twice."""
    lines = lab.records_file.read_text().splitlines() if lab.records_file.exists() else []
    said = Counter((one["vm"], one["boot"], one["n"]) for one in map(json.loads, lines) if "n" in one)
    return [f"{key} was said {count} times" for key, count in said.items() if count > 1]


def main() -> int:
    """Print the figures; 1 when a guest was lost or doubled, or something is stuck or left over."""
    print(f"seed {SEED}: LQ_TEST_SEED={SEED} repeats it", flush=True)
    with (
        own_datacenter("moves", {"coordination": {"ttlSeconds": TTL_S}}) as dc,
        watched(dc.lab, CountWitness) as witness,
    ):
        course = Course(dc)
        try:
            course.build()
            course.run()
        finally:
            doubles = witness.doubles + said_twice(dc.lab)
            _tell(course, doubles, witness.looks)
        return 1 if course.tally.failed() or doubles else 0


def _tell(course: Course, doubles: list[str], looks: int) -> None:
    tally = course.tally
    ends = sorted(tally.ended.items())
    show("how moves ended", [{"fault": who, "end": end, "times": times} for (who, end), times in ends])
    aimed = sum(times for (who, _), times in ends if who != BESIDE)
    show("the operator beside a bare virsh migrate, medians", course.twins.rows())
    figures = {
        "moves": sum(tally.ended.values()),
        "faults": aimed,
        "undisturbed": len(course.twins.found),
        "double runs": len(doubles),
        "lost guests": len(tally.lost),
        "of them corrupt": len(tally.corrupt),
        "stuck": len(tally.stuck),
        "left over": len(tally.leftovers),
        "looks at all hosts": looks,
        "minutes": (time.monotonic() - course.began_s) / 60,
    }
    show("moves", [figures])
    for line in (*tally.lost, *tally.corrupt, *tally.stuck, *tally.leftovers, *doubles):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
