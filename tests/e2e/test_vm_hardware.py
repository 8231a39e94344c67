"""Stable guest ABI: after a stop and a start on another host the guest finds its devices and its data where they were."""

from __future__ import annotations

from lxml import etree
from tests.e2e.datacenter import Datacenter, vm_manifest

WHERE = "for device in /sys/class/net/eth0 /sys/block/vd*; do readlink -f $device/device; done"


def _devices(definition: etree._Element) -> dict[str, str]:
    """What the guest can see: alias or MAC -> kind and PCI address."""
    found = {}
    for device in definition.find("devices"):
        address = device.find("address[@type='pci']")
        if device.tag == "controller" or address is None:
            continue
        alias = device.find("alias").get("name")
        place = "-".join(address.get(part) for part in ("domain", "bus", "slot", "function"))
        target = device.find("target")
        found[alias] = f"{device.tag} {place} {target.get('dev') if device.tag == 'disk' else ''}"
    return found


def test_devices_and_data_are_the_same_on_another_host(dc: Datacenter) -> None:
    extra = {"name": "data", "template": {"size": "1Gi", "poolRef": "shared"}}
    manifest = vm_manifest("abi", shutdown={"gracePeriodSeconds": 3000})
    manifest["spec"]["disks"] = [*manifest["spec"]["disks"], extra]
    dc.apply(manifest)
    dc.wait_guest("abi")
    first, before = dc.host_of("abi").name, dc.xml("abi")
    hardware = dc.vm("abi")["status"]["hardware"]
    dc.until(lambda: [f for f in dc.files_of("abi") if f.startswith("hardware_")], say=lambda: f"{dc.files_of('abi')}")
    assert hardware["machine"] == before.find("os/type").get("machine")
    assert {slot["device"] for slot in hardware["slots"]} >= {"disk/root", "disk/data", "nic/eth0"}
    assert dc.guest("abi", "cat /disk/boots").strip() == "1"
    seen = dc.guest("abi", WHERE)
    dc.guest("abi", "echo mine > /disk/mine; sync")
    dc.patch("HypervisorNode", first, {"spec": {"unschedulable": True}})
    try:
        assert dc.do("abi", "Restart")["phase"] == "Succeeded"
        assert dc.host_of("abi").name == first, "a restart stays where it is"
        assert dc.do("abi", "Stop")["phase"] == "Succeeded"
        assert dc.do("abi", "Start")["phase"] == "Succeeded"
        assert dc.host_of("abi").name != first
        dc.wait_guest("abi")
        after = dc.xml("abi")
        assert _devices(after) == _devices(before)
        assert after.find("os/type").get("machine") == before.find("os/type").get("machine")
        assert after.findtext("uuid") == before.findtext("uuid")
        assert dc.vm("abi")["status"]["hardware"] == hardware
        assert dc.guest("abi", "cat /disk/mine").strip() == "mine"
        assert int(dc.guest("abi", "cat /disk/boots")) > 1
        assert dc.guest("abi", WHERE) == seen
    finally:
        dc.patch("HypervisorNode", first, {"spec": {"unschedulable": False}})
    # A disk that comes later has its place recorded, too, and takes nobody's.
    manifest["spec"]["disks"].append({"name": "late", "template": {"size": "1Gi", "poolRef": "shared"}})
    dc.apply(manifest)
    assert dc.do("abi", "Restart")["phase"] == "Succeeded"
    with_late = dc.wait_state("abi", "Running")["status"]["hardware"]
    added = [slot["device"] for slot in with_late["slots"] if slot not in hardware["slots"]]
    assert [device for device in added if not device.startswith("controller/")] == ["disk/late"]
    assert all(slot in with_late["slots"] for slot in hardware["slots"])
    definition = _devices(dc.xml("abi"))
    assert {alias: place for alias, place in definition.items() if "late" not in alias} == _devices(before)
    dc.delete("VirtualMachine", "abi")
    dc.wait_gone("VirtualMachine", "abi")
