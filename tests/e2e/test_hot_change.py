"""Changes of a running VM: what docs/reference/fields.md calls live is seen in the guest, the rest after a power cycle only.

One guest goes through the whole matrix, because a boot is the slow part. Where the guest cannot see a thing (limits of
a disk) QEMU is asked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.datacenter import NAMESPACE, Datacenter, condition, diskless, lq, reason, vm_manifest

from lq_operator.lab.errors import LabError

NAME = "hot"
EFFECTS = ("Live", "PowerCycle", "Migrate", "Impossible")
NET = {"name": "nat", "namespace": "default"}
ROOT = {
    "name": "root",
    "template": {"size": "1Gi", "poolRef": "shared", "source": {"imageRef": {"name": "guest", "namespace": "default"}}},
}


def _cd(medium: dict[str, Any] | None, **more: Any) -> list[dict[str, Any]]:
    """One drive. The lab's guest has no driver for sata."""
    return [{"name": "cd", "bus": "scsi", **({"medium": medium} if medium else {}), **more}]


def spec(**changes: Any) -> dict[str, Any]:
    base = {
        "cpu": {"count": 1, "maxCount": 2},
        "memory": {"size": "256Mi", "maxSize": "512Mi"},
        "disks": [ROOT],
        "cdroms": _cd(None),
        "interfaces": [{"name": "eth0", "networkRef": NET, "addressing": "Claim"}],
    }
    return base | changes


def manifest(**changes: Any) -> dict[str, Any]:
    made = vm_manifest(NAME, **spec(**changes))
    del made["spec"]["className"]
    return made


def pending(vm: dict[str, Any]) -> dict[str, str]:
    """Path -> effect of status.changes."""
    return {change["path"]: change["effect"] for change in vm["status"].get("changes", [])}


def settled(vm: dict[str, Any]) -> bool:
    said = condition(vm, "PendingChanges")
    return said.get("status") == "False" and said.get("observedGeneration") == vm["metadata"]["generation"]


def apply(dc: Datacenter, **changes: Any) -> str:
    """kubectl apply of the VM with these parts of spec; what kubectl says besides 'configured'."""
    made = manifest(**changes)
    dc.applied[f"VirtualMachine/{NAME}"] = made
    result = dc.lab.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(made))
    return str(result.stderr)


def sees(dc: Datacenter, script: str, wanted: str) -> str:
    """Until the guest answers so."""

    def look() -> str | None:
        try:
            answer = dc.guest(NAME, script).strip()
        except (LabError, AssertionError):
            return None
        return answer if answer == wanted else None

    return str(
        dc.until(look, every_s=0.5, say=lambda: f"{script}: wanted {wanted}, {dc.vm(NAME)['status'].get('changes')}")
    )


ONLINE = "cat /sys/devices/system/cpu/online"
MEGABYTES = 'awk \'/MemTotal/{print ($2 > %d) ? "more" : "less"}\' /proc/meminfo'
NICS = "ls /sys/class/net | grep -v lo | sort | tr '\\n' ' '"
MORE = 'for d in /sys/block/vd*; do if [ "$(cat $d/serial)" = more ]; then cat $d/size; fi; done'
"""Sectors of the disk named more. By its serial: the seed may be vdb."""
DISKS = "ls /sys/block | grep -E '^(vd|sd)' | tr '\\n' ' '"


@pytest.fixture(scope="module")
def hot(dc: Datacenter) -> Iterator[str]:
    """A guest that answers, with room for a second vCPU and for as much memory again."""
    apply(dc)
    dc.wait_guest(NAME)
    yield NAME
    dc.delete("VirtualMachine", NAME)
    dc.wait_gone("VirtualMachine", NAME)
    dc.delete("Volume", "hot-other", "hot-third")


def test_size_grows_in_the_running_guest(dc: Datacenter, hot: str) -> None:
    boot = dc.boot_id(hot)
    assert dc.guest(hot, ONLINE).strip() == "0"
    assert sees(dc, MEGABYTES % 262144, "less")
    # Two changes at once.
    assert "power cycle" not in apply(dc, cpu={"count": 2, "maxCount": 2}, memory={"size": "512Mi", "maxSize": "512Mi"})
    sees(dc, ONLINE, "0-1")
    sees(dc, MEGABYTES % 360000, "more")
    vm = dc.wait_for("VirtualMachine", hot, settled)
    assert pending(vm) == {}
    assert (vm["status"]["effective"]["cpu"], vm["status"]["effective"]["memoryMib"]) == (2, 512)
    # And back: memory is given back, a vCPU needs a power cycle, and says so, until it is taken back.
    said = apply(dc, memory={"size": "256Mi", "maxSize": "512Mi"})
    assert "spec.cpu.count takes effect after a power cycle" in said
    sees(dc, MEGABYTES % 262144, "less")
    vm = dc.wait_for("VirtualMachine", hot, lambda o: pending(o) == {"spec.cpu.count": "PowerCycle"})
    assert condition(vm, "RestartRequired")["status"] == "True"
    assert "spec.cpu.count 2 -> 1" in condition(vm, "PendingChanges")["message"]
    apply(dc, cpu={"count": 2, "maxCount": 2})
    assert pending(dc.wait_for("VirtualMachine", hot, settled)) == {}
    assert dc.boot_id(hot) == boot


def test_disks_come_grow_and_go(dc: Datacenter, hot: str) -> None:
    boot = dc.boot_id(hot)
    cpu = {"count": 2, "maxCount": 2}
    more = {"name": "more", "template": {"size": "1Gi", "poolRef": "shared"}}
    before = dc.guest(hot, DISKS)
    assert "power cycle" not in apply(dc, cpu=cpu, disks=[ROOT, more])
    sees(dc, MORE, str(2**30 // 512))
    vm = dc.wait_for("VirtualMachine", hot, settled)
    assert "disk/more" in {slot["device"] for slot in vm["status"]["hardware"]["slots"]}
    assert dc.xml(hot, inactive=True).find("devices/disk/alias[@name='ua-disk-more']") is not None
    # It grows under the guest.
    more["template"]["size"] = "2Gi"  # type: ignore[index]
    assert "power cycle" not in apply(dc, cpu=cpu, disks=[ROOT, more])
    sees(dc, MORE, str(2**31 // 512))
    dc.wait_for("Volume", "hot-more", lambda o: o["status"]["sizeBytes"] == 2**31)
    dc.wait_for("VirtualMachine", hot, settled)
    # Its limits: the guest cannot see them, QEMU can.
    more["limits"] = {"iops": 200, "bandwidth": "1Mi"}
    assert "power cycle" not in apply(dc, cpu=cpu, disks=[ROOT, more])
    dc.wait_for("VirtualMachine", hot, settled)
    limits = {block["inserted"]["iops"]: block["inserted"]["bps"] for block in _blocks(dc, hot) if "inserted" in block}
    assert limits[200] == 2**20
    # What cannot be: shrinking. What needs a power cycle: another cache, sata. Taken back, nothing is pending.
    more["template"]["size"] = "1Gi"  # type: ignore[index]
    sata = {"name": "slow", "volumeRef": {"name": "hot-other"}, "bus": "sata"}
    dc.apply(lq("Volume", "hot-other", {"size": "1Gi", "poolRef": "shared"}))
    said = apply(dc, cpu=cpu, disks=[ROOT, {**more, "cache": "writeback"}, sata])
    assert "spec.disks.cache takes effect after a power cycle" in said
    assert "spec.disks.name takes effect after a power cycle" in said
    expected = {
        "spec.disks[more].cache": "PowerCycle",
        "spec.disks[more].template.size": "Impossible",
        "spec.disks[slow].name": "PowerCycle",
    }
    dc.wait_for("VirtualMachine", hot, lambda o: pending(o) == expected)
    assert _cache(dc, hot) == "none"
    # Out again, and the volume is free once the guest has let go.
    assert "power cycle" not in apply(dc, cpu=cpu)
    sees(dc, DISKS, before.strip())
    vm = dc.wait_for("VirtualMachine", hot, settled)
    assert [disk["name"] for disk in vm["status"]["disks"]] == ["root"]
    dc.delete("Volume", "hot-more")
    dc.wait_gone("Volume", "hot-more")
    assert dc.boot_id(hot) == boot


def test_interfaces_come_are_plugged_elsewhere_and_go(dc: Datacenter, hot: str) -> None:
    boot, cpu = dc.boot_id(hot), {"count": 2, "maxCount": 2}
    dc.apply({**lq("VirtualNetwork", "island", {"type": "isolated"}), "metadata": {"name": "island"}})
    dc.wait_for("VirtualNetwork", "island", lambda o: condition(o, "Ready").get("status") == "True")
    eth0 = {"name": "eth0", "networkRef": NET, "addressing": "Claim"}
    eth1 = {"name": "eth1", "networkRef": NET, "addressing": "None"}
    before = dc.guest(hot, NICS)
    assert "power cycle" not in apply(dc, cpu=cpu, interfaces=[eth0, eth1])
    sees(dc, "ls -d /sys/class/net/* | grep -vc /lo", "2")
    vm = dc.wait_for("VirtualMachine", hot, settled)
    mac = next(nic["mac"] for nic in vm["status"]["interfaces"] if nic["name"] == "eth1")
    where = f"d=$(grep -l {mac} /sys/class/net/*/address); d=${{d%/address}}; ip link set ${{d##*/}} up; cat $d/carrier"
    sees(dc, where, "1")
    assert "power cycle" not in apply(dc, cpu=cpu, interfaces=[eth0, {**eth1, "linkState": "Down"}])
    sees(dc, where, "0")
    island = {**eth1, "networkRef": {"name": "island"}}
    assert "power cycle" not in apply(dc, cpu=cpu, interfaces=[eth0, island])
    sees(dc, where, "1")
    dc.wait_for("VirtualMachine", hot, settled)
    assert _bridges(dc, hot)[mac] != _bridges(dc, hot)[dc.vm(hot)["status"]["interfaces"][0]["mac"]]
    said = apply(dc, cpu=cpu, interfaces=[eth0, {**island, "model": "e1000e"}])
    assert "spec.interfaces.model takes effect after a power cycle" in said
    dc.wait_for("VirtualMachine", hot, lambda o: pending(o) == {"spec.interfaces[eth1].model": "PowerCycle"})
    assert "power cycle" not in apply(dc, cpu=cpu)
    sees(dc, NICS, before.strip())
    dc.wait_for("VirtualMachine", hot, settled)
    dc.delete("VirtualNetwork", "island")
    assert dc.boot_id(hot) == boot


def _iso(dc: Datacenter, name: str) -> dict[str, Any]:
    """An Image that begins with its name; the medium of it."""
    content = f"disc {name}".encode().ljust(2**20, b"\0")
    (Path(dc.lab.www_dir) / f"{name}.iso").write_bytes(content)
    source = {
        "url": f"{dc.lab.www_url}/{name}.iso",
        "sha256": hashlib.sha256(content).hexdigest(),
        "format": "raw",
    }
    dc.apply(lq("Image", name, {"source": source}))
    return {"imageRef": {"name": name}, "poolRef": "shared"}


DISC = "head -c 10 /dev/sr0 2>/dev/null || echo none"
HOLD = "(exec 3</dev/sr0; echo $$ >/run/holder; sleep 1000) >/dev/null 2>&1 & sleep 1"
"""Linux locks the tray while somebody has the drive open."""
LET_GO = "pkill -f 'sleep 1000' || kill $(pidof sleep)"


def test_a_medium_comes_is_exchanged_and_goes(dc: Datacenter, hot: str) -> None:
    boot, cpu = dc.boot_id(hot), {"count": 2, "maxCount": 2}
    red, blue = _iso(dc, "red-1"), _iso(dc, "blue2")
    assert dc.guest(hot, DISC).strip() == "none"
    assert "power cycle" not in apply(dc, cpu=cpu, cdroms=_cd(red))
    sees(dc, DISC, "disc red-1")
    vm = dc.wait_for("VirtualMachine", hot, settled)
    assert vm["status"]["cdroms"][0]["inserted"] == f"{NAMESPACE}/red-1"
    # Another VM reads the very same file.
    dc.apply(diskless("reader", cdroms=_cd(red)))
    dc.wait_state("reader", "Running")
    assert _medium(dc, "reader") == _medium(dc, hot) != ""
    # While the guest holds the tray, the new one waits, and says how to get on.
    dc.guest(hot, HOLD)
    apply(dc, cpu=cpu, cdroms=_cd(blue))
    vm = dc.wait_for("VirtualMachine", hot, lambda o: condition(o, "PendingChanges").get("reason") == "HotChangeFailed")
    (change,) = vm["status"]["changes"]
    assert (change["path"], change["effect"]) == ("spec.cdroms[cd].medium", "Live")
    assert "locked the tray" in change["message"]
    assert "spec.cdroms[cd].forceEject" in change["message"]
    assert "red-1" in _medium(dc, hot)
    assert vm["status"]["cdroms"][0]["inserted"] == f"{NAMESPACE}/red-1"
    dc.guest(hot, LET_GO)
    sees(dc, DISC, "disc blue2")
    dc.wait_for("VirtualMachine", hot, settled)
    # An Image in a drive is not deleted under it.
    dc.delete("Image", "red-1")
    image = dc.wait_for("Image", "red-1", lambda o: reason(o) == "InUse")
    assert f"VirtualMachine {NAMESPACE}/reader" in condition(image, "Ready")["message"]
    dc.apply(diskless("reader", cdroms=_cd(None)))
    dc.wait_gone("Image", "red-1")
    assert _medium(dc, "reader") == ""
    # By force, since it is asked for.
    dc.guest(hot, HOLD)
    assert "power cycle" not in apply(dc, cpu=cpu, cdroms=_cd(None, forceEject=True))
    dc.wait_for("VirtualMachine", hot, settled)
    assert _medium(dc, hot) == ""
    dc.guest(hot, LET_GO)
    assert dc.guest(hot, DISC).strip() == "none"
    dc.delete("VirtualMachine", "reader")
    dc.delete("Image", "blue2")
    dc.wait_gone("Image", "blue2")
    assert dc.boot_id(hot) == boot


def _medium(dc: Datacenter, vm: str) -> str:
    """The file in the drive named cd, by QEMU's host."""
    source = dc.xml(vm).find("devices/disk/alias[@name='ua-cdrom-cd']/../source")
    return "" if source is None else str(source.get("file") or "")


def test_what_the_host_refuses_is_said_by_the_fields_name(dc: Datacenter, hot: str) -> None:
    """The lab's hosts have no cgroup controller, so no CPU time can be limited."""
    apply(dc, cpu={"count": 2, "maxCount": 2, "limitPercent": 50})
    vm = dc.wait_for("VirtualMachine", hot, lambda o: condition(o, "PendingChanges").get("reason") == "HotChangeFailed")
    (change,) = vm["status"]["changes"]
    assert (change["path"], change["effect"]) == ("spec.cpu.limitPercent", "Live")
    assert "cgroup" in change["message"]
    apply(dc, cpu={"count": 2, "maxCount": 2})
    dc.wait_for("VirtualMachine", hot, settled)
    nonsense = manifest(cpu={"count": 2, "maxCount": 1})
    assert "cpu.maxCount must be at least cpu.count" in dc.refused(nonsense)
    assert "memory.maxSize" in dc.refused(manifest(memory={"size": "512Mi", "maxSize": "256Mi"}))


def test_a_change_survives_libvirtd_being_killed(dc: Datacenter, hot: str) -> None:
    cpu, host = {"count": 2, "maxCount": 2}, dc.host_of(hot)
    more = {"name": "more", "template": {"size": "1Gi", "poolRef": "shared"}}
    had = int(dc.guest(hot, "awk '/MemTotal/{print $2}' /proc/meminfo"))
    host.daemon_kill()
    apply(dc, cpu=cpu, disks=[ROOT, more], memory={"size": "384Mi", "maxSize": "512Mi"})
    host.daemon_start()
    sees(dc, MORE, str(2**30 // 512))
    sees(dc, MEGABYTES % (had + 100_000), "more")
    dc.wait_for("VirtualMachine", hot, settled)
    assert len([b for b in _blocks(dc, hot) if "vol_" in b.get("inserted", {}).get("file", "")]) == 2
    apply(dc, cpu=cpu)
    dc.wait_for("VirtualMachine", hot, settled)


def test_what_only_a_move_or_nothing_brings_is_said(dc: Datacenter, hot: str) -> None:
    boot, cpu, here = dc.boot_id(hot), {"count": 2, "maxCount": 2}, dc.host_of(hot).name
    away = {
        "nodeSelector": {"limiquantix.io/host": next(host.name for host in dc.lab.hosts if host.name != here)},
        "nodeAffinity": {"matchExpressions": [{"key": "limiquantix.io/host", "operator": "NotIn", "values": [here]}]},
    }
    assert "spec.machine cannot be changed" in apply(dc, cpu=cpu, placement=away, machine="pc")
    expected = {
        "spec.machine": "Impossible",
        "spec.placement.nodeAffinity": "Migrate",
        "spec.placement.nodeSelector": "Migrate",
    }
    dc.wait_for("VirtualMachine", hot, lambda o: pending(o) == expected)
    apply(dc, cpu=cpu)
    assert pending(dc.wait_for("VirtualMachine", hot, settled)) == {}
    assert (dc.host_of(hot).name, dc.boot_id(hot)) == (here, boot)


ETH0 = {"name": "eth0", "networkRef": NET, "addressing": "Claim"}
ETH1 = {"name": "eth1", "networkRef": NET, "addressing": "None"}
BEFORE: dict[str, Any] = {
    "cpu": {"count": 2, "maxCount": 2},
    "disks": [ROOT, {"name": "data", "volumeRef": {"name": "hot-other"}}],
    "interfaces": [ETH0, ETH1],
}
"""What a power cycle changes has to be there before it."""
WHOLE: dict[str, Any] = {
    "cpu": {"count": 2, "maxCount": 4, "sockets": 1, "cores": 1, "threads": 2, "model": "Nehalem"},
    "memory": {"size": "320Mi", "maxSize": "768Mi"},
    "cloudInit": {"userData": "#cloud-config\nruncmd:\n  - touch /run/cycled\n"},
    "vnc": False,
    "consoleLog": False,
    "tpm": True,
    "watchdog": "pause",
}
DEVICES: dict[str, Any] = {
    "disks": [
        {**ROOT, "bus": "scsi", "cache": "writeback", "bootOrder": 2},
        {"name": "data", "volumeRef": {"name": "hot-third"}, "readOnly": True},
    ],
    "cdroms": [{"name": "cd", "bus": "sata", "bootOrder": 5}, {"name": "two", "bus": "scsi"}],
    "interfaces": [
        {**ETH0, "address": "10.99.0.77", "model": "e1000e", "mac": "02:00:00:00:77:01", "bootOrder": 6},
        {**ETH1, "addressing": "Dhcp"},
    ],
}
WAIT = {
    "whole": (
        "cpu.maxCount", "cpu.cores", "cpu.threads", "cpu.model", "memory.maxSize", "cloudInit", "vnc", "consoleLog", "tpm",
        "watchdog",
    ),
    "devices": (
        "disks.bus", "disks.cache", "disks.bootOrder", "disks.volumeRef", "disks.readOnly", "cdroms.name", "cdroms.bus",
        "cdroms.bootOrder", "interfaces.model", "interfaces.mac", "interfaces.address", "interfaces.addressing",
        "interfaces.bootOrder",
    ),
}  # fmt: skip
SEEN = (
    "video",
    "watchdog",
    "serial",
    "tpm",
    "disk/target",
    "disk/source",
    "disk/boot",
    "interface/mac",
    "interface/model",
)
READ_ONLY = 'for d in /sys/block/vd*; do if [ "$(cat $d/serial)" = data ]; then cat $d/ro; fi; done'


def test_the_rest_waits_for_a_power_cycle_and_is_there_after_one(dc: Datacenter, hot: str) -> None:
    for name in ("hot-other", "hot-third"):
        dc.apply(lq("Volume", name, {"size": "1Gi", "poolRef": "shared"}))
    apply(dc, **BEFORE)
    dc.wait_for("VirtualMachine", hot, settled)
    boot, before = dc.boot_id(hot), dc.xml(hot)
    assert dc.guest(hot, READ_ONLY).strip() == "0"
    for part, wish in (("whole", {**BEFORE, **WHOLE}), ("devices", {**WHOLE, **DEVICES})):
        said = apply(dc, **wish)
        for field in WAIT[part]:
            assert f"spec.{field} takes effect after a power cycle" in said
        assert "spec.description" not in said
    fields = {f"spec.{field}" for part in WAIT.values() for field in part}
    vm = dc.wait_for(
        "VirtualMachine", hot, lambda o: fields <= _plain(o) and set(pending(o).values()) == {"PowerCycle"}
    )
    assert dc.boot_id(hot) == boot
    for where in SEEN:
        path = f"devices/{where}"
        assert [_shown(e) for e in dc.xml(hot).findall(path)] == [_shown(e) for e in before.findall(path)], where
    assert dc.do(hot, "Restart")["phase"] == "Succeeded"
    dc.wait_guest(hot)
    assert dc.boot_id(hot) != boot
    vm = dc.wait_for("VirtualMachine", hot, settled)
    assert pending(vm) == {}
    _as_wished(dc, hot)
    assert vm["status"]["hardware"]["cpuModel"] == "Nehalem"
    # Whole sockets are added to what runs.
    more = {**WHOLE["cpu"], "count": 4, "sockets": 2}
    assert "power cycle" not in apply(dc, **{**WHOLE, **DEVICES, "cpu": more})
    sees(dc, ONLINE, "0-3")
    dc.wait_for("VirtualMachine", hot, settled)


def _plain(vm: dict[str, Any]) -> set[str]:
    """Paths of what is pending, without the names of devices and the parts of cloudInit."""
    paths = {re.sub(r"\[[^]]*\]", "", path) for path in pending(vm)}
    return {path.removesuffix(".userData") for path in paths}


def _shown(element: Any) -> dict[str, str]:
    return {key: value for key, value in element.attrib.items() if key not in ("index", "portid", "tray")}


def _as_wished(dc: Datacenter, hot: str) -> None:
    """Everything of WHOLE and DEVICES is so, by the guest, or by its host where the guest cannot see it."""
    now = dc.xml(hot)
    assert now.find("devices/graphics[@type='vnc']") is None
    assert now.find("devices/watchdog").get("action") == "pause"
    assert now.find("devices/serial/log") is None
    assert now.find("devices/tpm") is not None
    assert (now.findtext("vcpu"), now.find("vcpu").get("current")) == ("4", "2")
    assert (now.findtext("maxMemory"), now.find("maxMemory").get("unit")) == (str(768 * 1024), "KiB")
    assert (now.find("cpu/topology").get("cores"), now.find("cpu/topology").get("threads")) == ("1", "2")
    assert _cache(dc, hot, "root") == "writeback"
    assert "_hot-third_" in str(_device(now, "disk-data").find("source").get("file"))
    orders = {key: _device(now, key).find("boot").get("order") for key in ("disk-root", "cdrom-cd", "nic-eth0")}
    assert orders == {"disk-root": "2", "cdrom-cd": "5", "nic-eth0": "6"}
    assert [_device(now, f"cdrom-{name}").find("target").get("bus") for name in ("cd", "two")] == ["sata", "scsi"]
    nic = _device(now, "nic-eth0")  # the lab's guest has no driver for an e1000e
    assert (nic.find("mac").get("address"), nic.find("model").get("type")) == ("02:00:00:00:77:01", "e1000e")
    marks = dc.metadata(hot)
    assert marks["addresses"] == "eth0=10.99.0.77"
    assert json.loads(marks["record"])["spec.interfaces[eth1].addressing"] == "Dhcp"
    assert dc.guest(hot, "ls -d /sys/block/sda /sys/block/sr0").split() == ["/sys/block/sda", "/sys/block/sr0"]
    sees(dc, READ_ONLY, "1")
    sees(dc, "ls /run/cycled", "/run/cycled")
    assert "Nehalem" in dc.guest(hot, "grep -m1 'model name' /proc/cpuinfo")


def _device(domain: Any, key: str) -> Any:
    found = domain.find(f"devices/*/alias[@name='ua-{key}']/..")
    assert found is not None, key
    return found


CHANNEL = "devices/channel/target[@name='org.qemu.guest_agent.0']"


def test_a_class_and_a_guest_without_agent_come_with_a_power_cycle(dc: Datacenter, hot: str) -> None:
    """The last one: nobody answers in this guest any more."""
    before = dc.metadata(hot)["epoch"]
    made = manifest(**{**WHOLE, **DEVICES}, guestAgent=False, shutdown={"gracePeriodSeconds": 5})
    del made["spec"]["cpu"], made["spec"]["memory"]
    made["spec"]["className"] = "small"
    said = dc.lab.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(made)).stderr
    for field in ("className", "guestAgent"):
        assert f"spec.{field} takes effect after a power cycle" in said
    dc.wait_for("VirtualMachine", hot, lambda o: {"spec.className", "spec.guestAgent"} <= set(pending(o)))
    assert dc.xml(hot).find(CHANNEL) is not None
    assert dc.metadata(hot)["epoch"] == before
    assert dc.do(hot, "Restart", force=True)["phase"] == "Succeeded"
    vm = dc.wait_for("VirtualMachine", hot, settled)
    assert pending(vm) == {}
    assert vm["status"]["effective"]["className"] == "small"
    assert dc.metadata(hot)["epoch"] != before
    now = dc.xml(hot)
    assert now.find(CHANNEL) is None
    assert now.findtext("vcpu") == str(vm["status"]["effective"]["cpu"])


def _blocks(dc: Datacenter, vm: str) -> list[dict[str, Any]]:
    answer = dc.host_of(vm).virsh("qemu-monitor-command", dc.domain(vm), '{"execute":"query-block"}')
    return list(json.loads(answer)["return"])


def _cache(dc: Datacenter, vm: str, disk: str = "more") -> str:
    found = dc.xml(vm).find(f"devices/disk/alias[@name='ua-disk-{disk}']/../driver")
    return "" if found is None else str(found.get("cache"))


def _bridges(dc: Datacenter, vm: str) -> dict[str, str]:
    """MAC -> bridge that its tap is plugged into, by the host's kernel."""
    host, found = dc.host_of(vm), {}
    for nic in dc.xml(vm).findall("devices/interface"):
        link = host.exec(["ip", "-o", "link", "show", str(nic.find("target").get("dev"))], check=True).stdout
        found[str(nic.find("mac").get("address"))] = link.partition("master ")[2].split()[0]
    return found
