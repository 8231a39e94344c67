"""apply -> Running for 1, 10 and 30 VMs, beside a bare libvirt-python loop that makes the same volumes, seeds and domains.

Both are judged by the hosts: the time until a domain is active. Interleaved in one run, so that the ratio means something.
The loop has as many threads as VMs; it neither schedules, nor records, nor checks anything.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import libvirt
from tests.bench.operator.site import Api, Site, site
from tests.bench.report import percentile, show

from lq_operator.convert.seed import SeedContent, iso_bytes, meta_data, network_config
from lq_operator.lab import manifests

SIZES = (1, 10, 30)
ROUNDS = 2


def main() -> None:
    """Print one row per size and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    with site() as lab:
        _operator(lab, 1, "warm")  # the image is imported once, for both
        template = _template(lab, "lq_default_warm-0")
        lab.delete_vms()
        rows = []
        for size in arguments.sizes:
            times: dict[str, list[float]] = {"operator": [], "bare": []}
            for turn in range(arguments.rounds):
                times["operator"] += _operator(lab, size, f"b{turn}")
                writes = _writes(lab)
                lab.delete_vms()
                times["bare"] += _bare(lab, size, template)
            whole = {way: max(values) for way, values in times.items()}
            for way, values in times.items():
                row = {
                    "vms": size,
                    "way": way,
                    "p50_s": percentile(values, 0.5),
                    "p95_s": percentile(values, 0.95),
                    "last_s": whole[way],
                }
                if way == "operator":
                    row |= {
                        "ratio_p50": percentile(values, 0.5) / percentile(times["bare"], 0.5),
                        "ratio_last": whole["operator"] / whole["bare"],
                        "api_writes_per_vm": writes.total() / size,
                        "writes": ", ".join(f"{count / size:g} {what}" for what, count in writes.most_common()),
                    }
                rows.append(row)
        show("apply to running", rows)


def _operator(lab: Site, size: int, prefix: str) -> list[float]:
    names = [f"{prefix}-{n}" for n in range(size)]
    bodies = [manifests.vm(name) for name in names]
    wanted = {f"lq_default_{name}": name for name in names}
    seen: dict[str, float] = {}
    lab.audit_mark = lab.lab.control_plane.audit_log.stat().st_size
    started = time.monotonic()
    applying = Api(lab.lab.kubeconfig)  # a connection of its own: another thread asks over the other
    threading.Thread(target=lambda: [lab.create(dict(body), applying) for body in bodies]).start()

    def look() -> bool:
        for name in lab.running() & wanted.keys():
            seen.setdefault(name, time.monotonic() - started)
        return len(seen) == size

    lab.until(look, every_s=0.02)
    lab.until(lambda: lab.ready("virtualmachines") == size)
    return list(seen.values())


def _writes(lab: Site) -> Counter[str]:
    """Writes of the operator's ServiceAccounts since the apply began, by kind and verb; Leases and Events left out."""
    found: Counter[str] = Counter()
    with lab.lab.control_plane.audit_log.open() as log:
        log.seek(lab.audit_mark)
        for line in log:
            event = json.loads(line)
            about = event.get("objectRef", {})
            ours = event["user"].get("username", "").startswith("system:serviceaccount:lq-system:")
            done = event["stage"] == "ResponseComplete" and event["verb"] in ("create", "update", "patch", "delete")
            if ours and done and about.get("resource") in ("virtualmachines", "volumes", "addressclaims"):
                part = "/status" if about.get("subresource") == "status" else ""
                refused = "" if event["responseStatus"]["code"] < 300 else " refused"
                found[f"{event['verb']} {about['resource']}{part}{refused}"] += 1
    return found


def _template(lab: Site, name: str) -> dict[str, str]:
    """What the operator made for one VM, as text to make others of."""
    for host, connection in lab.hosts.items():
        for domain in connection.listAllDomains():
            if domain.name() == name:
                return {
                    "host": host,
                    "xml": domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE),
                }
    raise LookupError(name)


def _bare(lab: Site, size: int, template: dict[str, str]) -> list[float]:
    hosts = list(lab.hosts.values())
    for connection in hosts:  # beforehand: libvirt refuses it while volumes are being cloned
        connection.storagePoolLookupByName("lq-shared").refresh()
    started = time.monotonic()

    def one(n: int) -> float:
        connection = hosts[n % len(hosts)]
        _make(connection, n, template["xml"])
        return time.monotonic() - started

    with ThreadPoolExecutor(size) as pool:
        times = list(pool.map(one, range(size)))
    for connection in hosts:
        for domain in connection.listAllDomains():
            domain.destroy()
            domain.undefine()
        for pool_name in ("lq-shared", "lq-vmstate"):
            for volume in connection.storagePoolLookupByName(pool_name).listAllVolumes():
                if volume.name().startswith("bare"):
                    volume.delete()
    return times


def _make(connection: libvirt.virConnect, n: int, xml: str) -> None:
    pool = connection.storagePoolLookupByName("lq-shared")
    image = next(v for v in pool.listAllVolumes() if v.name().startswith("img_") and v.name().endswith("qcow2"))
    disk = pool.createXMLFrom(
        f"<volume><name>bare{n}.qcow2</name><capacity>{2**30}</capacity><target><format type='qcow2'/></target></volume>",
        image,
    )
    if disk.info()[1] < 2**30:
        disk.resize(2**30)
    seed = iso_bytes(
        SeedContent(
            meta_data(instance_id=str(n), hostname=f"bare{n}", epoch="0-0", public_keys=[]),
            b"#cloud-config\n",
            network_config([], []),
        )
    )
    state = connection.storagePoolLookupByName("lq-vmstate")
    iso = state.createXML(f"<volume><name>bare{n}.iso</name><capacity>{len(seed)}</capacity></volume>")
    stream = connection.newStream()
    iso.upload(stream, 0, len(seed))
    stream.sendAll(lambda _s, _n, chunks: chunks.pop(0) if chunks else b"", [seed])
    stream.finish()
    xml = re.sub(r"<uuid>.*?</uuid>", "", xml)
    xml = re.sub(r"<name>.*?</name>", f"<name>bare{n}</name>", xml, count=1)
    xml = re.sub(r"<mac address='.*?'/>", f"<mac address='02:00:00:00:01:{n:02x}'/>", xml)
    xml = re.sub(r"<sysinfo.*?</sysinfo>", "", xml, flags=re.S)
    xml = re.sub(r"'[^']*/vol_[^']*'", f"'{disk.path()}'", xml)
    xml = re.sub(r"'[^']*/seed_[^']*'", f"'{iso.path()}'", xml)
    xml = re.sub(r"'[^']*/console_[^']*'", f"'{iso.path()}.log'", xml)
    connection.defineXML(xml).create()


if __name__ == "__main__":
    main()
