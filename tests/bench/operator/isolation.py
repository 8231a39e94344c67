"""What a frozen host costs the others: reconciles on healthy hosts before and while one is frozen, and event to status.

One reconcile here is what a user waits for: a pause or resume operation from creation to Succeeded, on VMs of the two
healthy hosts, without disks so that nothing else is measured.
"""

from __future__ import annotations

import argparse
import time

from tests.bench.operator.site import Site, site
from tests.bench.report import percentile, show

from lq_operator.lab import manifests

VMS = 6
OPERATIONS = 40


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=VMS)
    parser.add_argument("--operations", type=int, default=OPERATIONS)
    arguments = parser.parse_args()
    with site() as lab:
        spec = {"disks": [], "interfaces": [], "guestAgent": False, "cloudInit": None}
        names = [f"iso-{n}" for n in range(arguments.vms)]
        vms = []
        for n, name in enumerate(names):
            body = dict(manifests.vm(name))
            body["spec"] = {k: v for k, v in {**body["spec"], **spec}.items() if v is not None}
            body["spec"]["placement"] = {"nodeSelector": {"limiquantix.io/host": f"h{2 + n % 2}"}}
            vms.append(body)
        lab.lab.kubectl("apply", "-f", "-", stdin=manifests.dump(vms))
        lab.until(lambda: lab.ready("virtualmachines") == arguments.vms)
        before = _operations(lab, names, "before", arguments.operations)
        lab.lab.host("h1").freeze()
        during = _operations(lab, names, "during", arguments.operations)
        lab.lab.host("h1").thaw()
        rows = [
            {"when": when, "operations": len(v), "p50_s": percentile(v, 0.5), "p95_s": percentile(v, 0.95)}
            for when, v in (("before", before), ("one host frozen", during))
        ]
        rows[1]["ratio_p95"] = percentile(during, 0.95) / percentile(before, 0.95)
        show("reconciles on healthy hosts", rows)
        events = _event_to_status(lab, names)
        show(
            "event to status",
            [{"event": "QEMU killed", "times": len(events), "p50_s": percentile(events, 0.5), "max_s": max(events)}],
        )


def _operations(lab: Site, names: list[str], tag: str, count: int) -> list[float]:
    times = []
    for n in range(count):
        vm = names[n % len(names)]
        verb = "Pause" if (n // len(names)) % 2 == 0 else "Resume"
        name = f"{tag}-{n}"
        op = {
            "apiVersion": "limiquantix.io/v1alpha1",
            "kind": "VirtualMachineOperation",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"vmRef": {"name": vm}, "verb": verb, "ttlSecondsAfterFinished": 0},
        }
        started = time.monotonic()
        lab.create(op)
        wanted = "Paused" if verb == "Pause" else "Running"
        lab.until(lambda vm=vm, wanted=wanted: _state(lab, vm) == wanted, every_s=0.02)
        times.append(time.monotonic() - started)
    return times


def _state(lab: Site, vm: str) -> str:
    return str(lab.vm(vm).get("status", {}).get("power", {}).get("state", ""))


def _epoch(lab: Site, vm: str) -> str:
    return str(lab.vm(vm)["status"]["placement"].get("epoch", ""))


def _event_to_status(lab: Site, names: list[str]) -> list[float]:
    """kill -9 of a QEMU until the status says that a new run is there, or that it waits to be."""
    times = []
    for vm in names:
        lab.until(lambda vm=vm: _state(lab, vm) in ("Running", "Paused"))
        epoch = _epoch(lab, vm)
        for host in lab.lab.hosts:
            # By the pid that libvirt keeps: a pattern would match the shell that looks for it.
            host.exec(["sh", "-c", f"kill -9 $(cat /run/libvirt/qemu/lq_default_{vm}.pid) || true"])
        started = time.monotonic()
        lab.until(lambda vm=vm, epoch=epoch: _epoch(lab, vm) != epoch, every_s=0.02)
        times.append(time.monotonic() - started)
    return times


if __name__ == "__main__":
    main()
