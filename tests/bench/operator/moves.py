"""Moves in a row with a random fault in every third: how they end, what they cost, and that no guest is lost or doubled.

LQ_MOVES=N (default 300) moves, LQ_TEST_SEED=N repeats the draw, LQ_TEST_LAB=NAME keeps the lab. A fault is drawn from:
operator killed, libvirtd of either side killed, the target's power, a cancel, the API server away.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.bench.report import percentile, show
from tests.e2e.datacenter import Datacenter, NotYetError, lq, phase, reason, vm_manifest
from tests.e2e.witness import MoveWitness, own_datacenter, watched

from lq_operator.lab.errors import LabError

COUNT = int(os.environ.get("LQ_MOVES", "300"))
SEED = int(os.environ.get("LQ_TEST_SEED") or secrets.randbelow(10**6))
ENDED = ("Succeeded", "Failed", "Cancelled", "Refused")
VMS = {"walker": "shared", "carrier": "local"}
FAULTS = ("operator", "source-libvirtd", "target-libvirtd", "target-power", "cancel", "api-server")


@dataclass
class Tally:
    """What happened so far."""

    ended: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    totals_ms: list[float] = field(default_factory=list)
    downtimes_ms: list[float] = field(default_factory=list)


def main() -> int:
    """Print the figures; 1 when a guest was lost or doubled, or a move is stuck."""
    print(f"seed {SEED}: LQ_TEST_SEED={SEED} repeats it", flush=True)
    chance, tally = random.Random(SEED), Tally()
    with own_datacenter("moves") as dc, watched(dc.lab, MoveWitness) as witness:
        boots = _guests(dc)
        started_s = time.monotonic()
        for n in range(COUNT):
            vm = sorted(VMS)[n % len(VMS)]
            fault = chance.choice(FAULTS) if n % 3 == 2 else ""
            try:
                _one(dc, vm, f"m{n:04}", fault, tally, chance)
            except NotYetError as problem:
                tally.stuck.append(f"m{n:04} {fault}: {str(problem)[:1500]}")
                print(tally.stuck[-1], flush=True)
                break
            for one in VMS:
                boot = _boot_id(dc, one)
                # One that had arrived when its new host lost its power died with that host.
                if boot != boots[one] and fault != "target-power":
                    tally.lost.append(f"m{n:04} {fault}: {one} has booted since")
                boots[one] = boot
            if n % 10 == 9:
                print(f"{n + 1} moves in {time.monotonic() - started_s:.0f} s: {dict(tally.ended)}", flush=True)
        _tell(tally, witness.doubles)
        return 1 if tally.lost or tally.stuck or witness.doubles else 0


def _guests(dc: Datacenter) -> dict[str, str]:
    image = {"imageRef": {"name": "guest", "namespace": "default"}}
    for vm, pool in VMS.items():
        disk = {"name": "root", "template": {"size": "1Gi", "poolRef": pool, "source": image}}
        dc.apply(vm_manifest(vm, disks=[disk]))
    boots = {}
    for vm in VMS:
        dc.wait_guest(vm)
        dc.guest(
            vm, "(while :; do dd if=/dev/urandom of=/run/load bs=64k count=16 2>/dev/null; done) >/dev/null 2>&1 &"
        )
        boots[vm] = dc.boot_id(vm)
    return boots


def _one(dc: Datacenter, vm: str, name: str, fault: str, tally: Tally, chance: random.Random) -> None:
    source = dc.host_of(vm)
    target = chance.choice([host for host in dc.lab.hosts if host.name != source.name])
    slow = {"tuning": {"bandwidthMibPerSecond": 8}} if fault else {}
    spec = {"vmRef": {"name": vm}, "targetNode": target.name} | slow
    dc.apply(lq("VirtualMachineMigration", name, spec))
    if fault == "target-power" and any(dc.host_of(other).name == target.name for other in VMS):
        fault = "operator"  # the other guest is there
    if fault:
        tally.faults[fault] += 1
        dc.until(lambda: phase(dc.get("VirtualMachineMigration", name) or {}) in ("Running", *ENDED), every_s=0.05)
        time.sleep(chance.uniform(0.0, 3.0))
        _do(dc, fault, name, spec, source.name, target.name)
    found = dc.wait_for("VirtualMachineMigration", name, lambda o: phase(o) in ENDED)
    status = found["status"]
    tally.ended[f"{phase(found)} {reason(found)}" + (f" ({fault})" if fault else "")] += 1
    if phase(found) == "Succeeded" and not fault:
        tally.totals_ms.append(status["totalMilliseconds"])
        tally.downtimes_ms.append(status["downtimeMilliseconds"])
    where = target.name if phase(found) == "Succeeded" else source.name
    if fault != "target-power":
        dc.until(lambda: dc.seen(vm) == {where: "running"}, say=lambda: f"{vm} should be on {where}: {dc.seen(vm)}")
    dc.wait_for("VirtualMachine", vm, lambda o: o["status"]["placement"]["phase"] == "Committed")


def _boot_id(dc: Datacenter, vm: str) -> str:
    """The agent's answer: the guest is there, not only its QEMU."""

    def ask() -> str:
        try:
            return dc.boot_id(vm)
        except (LabError, AssertionError):
            return ""

    return str(dc.until(ask, every_s=0.5, say=lambda: f"{vm}: the agent does not answer"))


def _do(dc: Datacenter, fault: str, name: str, spec: dict[str, object], source: str, target: str) -> None:
    lab = dc.lab
    match fault:
        case "operator":
            lab.supervisor.kill("lq-operator-run")
        case "source-libvirtd" | "target-libvirtd":
            host = lab.host(source if fault.startswith("source") else target)
            host.daemon_kill()
            time.sleep(1)
            host.daemon_start()
        case "target-power":
            lab.host(target).kill()
            time.sleep(5)
            lab.host(target).start()
            lab.kubectl("wait", "--for=condition=Ready", f"hypervisornode/{target}", "--timeout=120s")
        case "cancel":
            dc.apply(lq("VirtualMachineMigration", name, spec | {"cancel": True}))
        case "api-server":
            lab.apiserver_stop()
            time.sleep(4)
            lab.apiserver_start()
        case _:
            raise AssertionError(fault)


def _tell(tally: Tally, doubles: list[str]) -> None:
    show("how moves ended", [{"end": end, "times": times} for end, times in sorted(tally.ended.items())])
    figures = {
        "moves": sum(tally.ended.values()),
        "faults": sum(tally.faults.values()),
        "doubles": len(doubles),
        "lost guests": len(tally.lost),
        "stuck": len(tally.stuck),
    }
    if tally.totals_ms:
        figures |= {
            "undisturbed": len(tally.totals_ms),
            "total_ms_p50": percentile(tally.totals_ms, 0.5),
            "total_ms_p95": percentile(tally.totals_ms, 0.95),
            "downtime_ms_p50": percentile(tally.downtimes_ms, 0.5),
            "downtime_ms_p95": percentile(tally.downtimes_ms, 0.95),
        }
    show("moves", [figures])
    for line in (*tally.lost, *tally.stuck, *doubles):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
