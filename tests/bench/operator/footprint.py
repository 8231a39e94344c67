"""CPU and memory of each process, at rest with 20 VMs and while 20 are started."""

from __future__ import annotations

import time

from tests.bench.operator.site import Site, site
from tests.bench.report import show

from lq_operator.lab import manifests

VMS = 20
REST_S = 60.0


def main() -> None:
    """Print them."""
    with site() as lab:
        empty = _window(lab, REST_S / 2)
        started = time.monotonic()
        before = lab.process_stats()
        vms = []
        for n in range(VMS):
            body = dict(manifests.vm(f"rest-{n}"))
            body["spec"] = {**body["spec"], "disks": [], "interfaces": [], "guestAgent": False}
            del body["spec"]["cloudInit"]
            vms.append(body)
        lab.lab.kubectl("apply", "-f", "-", stdin=manifests.dump(vms))
        lab.until(lambda: lab.ready("virtualmachines") == VMS)
        seconds, after = time.monotonic() - started, lab.process_stats()
        load = {name: ((after[name][0] - before[name][0]) / seconds * 100, after[name][1]) for name in after}
        rest = _window(lab, REST_S)
        rows = [
            {"process": name, "when": when, "cpu_percent": figures[name][0], "rss_mib": figures[name][1]}
            for when, figures in (("no VM", empty), (f"starting {VMS} VMs", load), (f"{VMS} VMs at rest", rest))
            for name in figures
        ]
        show("footprint of the operator", rows)


def _window(lab: Site, seconds: float) -> dict[str, tuple[float, float]]:
    before = lab.process_stats()
    time.sleep(seconds)
    after = lab.process_stats()
    return {name: ((after[name][0] - before[name][0]) / seconds * 100, after[name][1]) for name in after}


if __name__ == "__main__":
    main()
