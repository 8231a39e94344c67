"""`lq-operator check` on hosts with thirty domains it has never seen; its answers against a search of every placement."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from lq_operator.lab.datacenter import Lab
from lq_operator.lab.host import LabHost

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ROOM_MIB = 6144
"""What each host is left with for VMs by --reserve-mib."""
DISKS = "/var/lib/lq-check"
# h1: one VM that fits into no hole of the others, although all its VMs together are smaller than the free memory.
# h2 and h3: small ones that fill the holes exactly.
SIZES = {
    "h1": [3072, *[128] * 7],
    "h2": [512] * 8 + [128, 64],
    "h3": [1024, 512, 512, 256, 256, 512, 512, 128, 128, 64, 64, 64],
}


def domain_xml(lab: Lab, name: str, mib: int, vcpus: int = 1, disk: str = "") -> str:
    disks = ""
    if disk:
        disks = f"<disk type='file'><driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
    return f"""<domain type='{"kvm" if lab.accel == "kvm" else "qemu"}'><name>{name}</name>
      <memory unit='MiB'>{mib}</memory><vcpu>{vcpus}</vcpu><os><type machine='pc'>hvm</type></os>
      <devices><controller type='usb' model='none'/><memballoon model='none'/>{disks}</devices></domain>"""


def define(host: LabHost, document: str) -> None:
    script = f"cat > {DISKS}/new.xml && virsh define {DISKS}/new.xml"
    host.exec(["sh", "-c", script], stdin=document, check=True)


@pytest.fixture(scope="module")
def strangers(lab: Lab) -> Iterator[Lab]:
    """Thirty running (paused) domains that nobody of ours made, one with a disk of its host, and one that is off."""
    for host in lab.hosts:
        host.exec(["mkdir", "-p", DISKS], check=True)
        for n, mib in enumerate(SIZES[host.name]):
            name, disk = f"s-{host.name}-{n}", ""
            if (host.name, n) == ("h2", 8):
                disk = f"{DISKS}/{name}.raw"
                host.exec(["truncate", "-s", "1M", disk], check=True)
            define(host, domain_xml(lab, name, mib, 1 + n % 2, disk))
            host.virsh("start", "--paused", name)
    define(lab.host("h1"), domain_xml(lab, "s-off", 4096))
    yield lab
    for host in lab.hosts:
        for name in host.virsh("list", "--all", "--name").split():
            if name.startswith("s-"):
                host.virsh("destroy", name, check=False)
                host.virsh("undefine", name, check=False)
        host.exec(["rm", "-rf", DISKS])


def check(lab: Lab, *arguments: str, uris: list[str] | None = None) -> tuple[int, str]:
    program = str(Path(sys.executable).with_name("lq-operator"))
    named = uris if uris is not None else [host.uri for host in lab.hosts]
    result = subprocess.run(
        [*lab.enter_argv, program, "check", *named, *arguments],
        capture_output=True, text=True, timeout=180, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    )  # fmt: skip
    assert result.returncode in (0, 1, 2), result.stdout + result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, result.stdout


def tight(lab: Lab) -> list[str]:
    total = int(lab.hosts[0].virsh("nodeinfo").split("Memory size:")[1].split()[0]) // 1024
    return ["--reserve-mib", str(total - ROOM_MIB), "--cpu-overcommit", "16"]


def ask(lab: Lab, *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out = check(lab, *tight(lab), "-o", "json", *arguments)
    return code, json.loads(out)["report"]


def truth(lab: Lab) -> dict[str, dict[str, tuple[int, int]]]:
    """Host -> running domain -> (memory MiB, vCPUs), by virsh and nothing of ours."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for host in lab.hosts:
        found[host.name] = {}
        for name in host.virsh("list", "--name").split():
            root = etree.fromstring(host.virsh("dumpxml", name).encode())
            found[host.name][name] = int(root.findtext("memory")) // 1024, int(root.findtext("vcpu"))
    return found


def placements(refugees: list[tuple[int, int]], rooms: dict[str, list[int]]) -> int:
    """How many ways there are to put these VMs into these rooms: all are tried (2 hosts, at most 12 VMs)."""
    if not refugees:
        return 1
    (mib, vcpus), *others = refugees
    found = 0
    for room in rooms.values():
        if room[0] >= mib and room[1] >= vcpus:
            room[0], room[1] = room[0] - mib, room[1] - vcpus
            found += placements(others, rooms)
            room[0], room[1] = room[0] + mib, room[1] + vcpus
    return found


def rooms_without(lab: Lab, failed: str, running: dict[str, dict[str, tuple[int, int]]]) -> dict[str, list[int]]:
    cpus = int(lab.hosts[0].virsh("nodeinfo").split("CPU(s):")[1].split()[0])
    return {
        name: [ROOM_MIB - sum(m for m, _ in vms.values()), cpus * 16 - sum(v for _, v in vms.values())]
        for name, vms in running.items()
        if name != failed
    }


def test_which_hosts_can_fail_against_every_placement(strangers: Lab) -> None:
    code, report = ask(strangers, "--shared", DISKS)
    running = truth(strangers)
    assert sum(len(vms) for vms in running.values()) == 30
    counts = {
        name: placements(sorted(vms.values(), reverse=True), rooms_without(strangers, name, running))
        for name, vms in running.items()
    }
    assert counts["h1"] == 0, "the scenario must have a no"
    assert counts["h2"] > 0, "and a yes"
    by_host = {host["uri"]: host for host in report["hosts"]}
    for host in strangers.hosts:
        line = by_host[host.uri]
        assert line["verdict"]["ok"] is (counts[host.name] > 0), (host.name, line, counts)
        assert line["vms"] == len(running[host.name])
        assert line["used_mib"] == sum(m for m, _ in running[host.name].values())
        assert line["used_vcpus"] == sum(v for _, v in running[host.name].values())
    assert code == 1
    assert by_host[strangers.host("h1").uri]["off"] == 1
    verdict = by_host[strangers.host("h1").uri]["verdict"]
    assert verdict["blocker"].endswith("/s-h1-0"), "the 3 GiB one"


def test_the_witness_and_the_largest_vm_are_true(strangers: Lab) -> None:
    _, report = ask(strangers, "--shared", DISKS)
    running = truth(strangers)
    names = {host["name"]: next(h.name for h in strangers.hosts if h.uri == host["uri"]) for host in report["hosts"]}
    for host in report["hosts"]:
        if not host["verdict"]["ok"]:
            continue
        failed = names[host["name"]]
        rooms = rooms_without(strangers, failed, running)
        for vm, target in host["verdict"]["witness"]:
            mib, vcpus = running[failed][vm.partition("/")[2]]
            rooms[names[target]][0] -= mib
            rooms[names[target]][1] -= vcpus
        assert len(host["verdict"]["witness"]) == len(running[failed])
        assert all(room[0] >= 0 and room[1] >= 0 for room in rooms.values())
        assert host["largest_mib"] == max(room[0] for room in rooms.values() if room[1] >= 1)


def test_a_disk_of_its_host_holds_the_host_back_unless_it_is_shared(strangers: Lab) -> None:
    _, report = ask(strangers)
    line = next(host for host in report["hosts"] if host["uri"] == strangers.host("h2").uri)
    assert not line["verdict"]["ok"]
    assert line["verdict"]["blocker"].endswith("/s-h2-8")
    assert DISKS in line["blocker_why"]
    finding = next(f for f in report["findings"] if f["vm"] == "s-h2-8")
    assert "no other host can take it" in finding["why"]
    assert "--shared" in finding["remedy"]


def test_text_for_people_names_hosts_blocker_and_baseline(strangers: Lab) -> None:
    code, text = check(strangers, *tight(strangers), "--shared", DISKS)
    assert code == 1
    assert "3 hosts, 30 running VMs (1 more are defined and off)" in text
    assert "s-h1-0" in text
    assert "CPU baseline:" in text
    assert "yes; a VM of up to" in text


def test_with_room_every_host_can_fail(strangers: Lab) -> None:
    code, text = check(strangers, "--shared", DISKS, "--cpu-overcommit", "16")
    assert code == 0, text
    assert " NO" not in text
    assert "no other host can take it" not in text


def test_promises_that_cannot_be_kept_are_badly_placed(strangers: Lab) -> None:
    total = int(strangers.hosts[0].virsh("nodeinfo").split("Memory size:")[1].split()[0]) // 1024
    code, out = check(strangers, "--shared", DISKS, "--reserve-mib", str(total - 2048), "-o", "json")
    assert code == 1
    findings = json.loads(out)["report"]["findings"]
    assert any(not f["vm"] and "may use" in f["why"] for f in findings)


def test_nothing_on_the_hosts_changes(strangers: Lab) -> None:
    before = [state_of(host) for host in strangers.hosts]
    check(strangers)
    assert [state_of(host) for host in strangers.hosts] == before


def state_of(host: Any) -> list[str]:
    asked = [host.virsh("list", "--all"), host.virsh("pool-list", "--all"), host.virsh("net-list", "--all")]
    return asked + [host.virsh("dumpxml", name) for name in sorted(host.virsh("list", "--all", "--name").split())]


def test_the_hosts_themselves_refuse_writes_on_such_a_connection(strangers: Lab) -> None:
    with strangers.entered():
        conn = libvirt.openReadOnly(strangers.host("h1").uri)
        with pytest.raises(libvirt.libvirtError) as refused:
            conn.defineXML(domain_xml(strangers, "never", 64))
        assert refused.value.get_error_code() == libvirt.VIR_ERR_OPERATION_DENIED
        conn.close()


def test_a_host_that_does_not_answer_is_told_and_counts_for_nothing(strangers: Lab) -> None:
    uris = [host.uri for host in strangers.hosts]
    silent = uris[2].replace("10.78.0.13", "10.78.0.99")
    code, text = check(strangers, uris=[*uris[:2], silent])
    assert code == 2
    assert "NOT ANSWERED" in text
    assert "Nothing is known of it" in text
    assert "2 hosts, 18 running VMs" in text


def test_the_same_host_twice_is_refused(strangers: Lab) -> None:
    uri = strangers.host("h1").uri
    again = uri + ("&" if "?" in uri else "?") + "no_tty=1"
    program = str(Path(sys.executable).with_name("lq-operator"))
    argv = [*strangers.enter_argv, program, "check", uri, again]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert "are the same host" in result.stderr
