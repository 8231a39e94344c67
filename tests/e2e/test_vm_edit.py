"""Editing a VM: what waits for the next start and says so, what is refused, and disks that grow. Hot changes: test_hot_change.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.datacenter import Datacenter, condition, diskless, lq, ready, reason

CPU = {"count": 1}
MEMORY = {"size": "256Mi"}


def _shape(dc: Datacenter, vm: str) -> tuple[str, str]:
    """vCPUs and KiB of memory of the running domain, by its host."""
    found = dc.xml(vm)
    return found.findtext("vcpu"), found.findtext("memory")


@pytest.fixture
def inline(dc: Datacenter) -> Iterator[str]:
    manifest = diskless("inline", cpu=CPU, memory=MEMORY)
    del manifest["spec"]["className"]
    dc.apply(manifest)
    dc.wait_state("inline", "Running")
    yield "inline"
    dc.delete("VirtualMachine", "inline")
    dc.wait_gone("VirtualMachine", "inline")


def test_size_changes_at_the_next_start_and_until_then_it_is_said(dc: Datacenter, inline: str) -> None:
    epoch = dc.metadata(inline)["epoch"]
    before = dc.vm(inline)["status"]["effective"]
    dc.patch("VirtualMachine", inline, {"spec": {"cpu": {"count": 2}, "memory": {"size": "384Mi"}}})
    vm = dc.wait_for("VirtualMachine", inline, lambda o: condition(o, "RestartRequired").get("status") == "True")
    assert ready(vm)
    assert vm["status"]["effective"] == before, "what the guest has is told, not what is wished"
    assert _shape(dc, inline) == ("1", str(256 * 1024))
    assert dc.metadata(inline)["epoch"] == epoch
    # Taken back, nothing is pending any more.
    dc.patch("VirtualMachine", inline, {"spec": {"cpu": CPU, "memory": MEMORY}})
    dc.wait_for("VirtualMachine", inline, lambda o: condition(o, "RestartRequired").get("status") == "False")
    dc.patch("VirtualMachine", inline, {"spec": {"cpu": {"count": 2}, "memory": {"size": "384Mi"}}})
    assert dc.do(inline, "Restart")["phase"] == "Succeeded"
    assert _shape(dc, inline) == ("2", str(384 * 1024))
    vm = dc.wait_for("VirtualMachine", inline, lambda o: condition(o, "RestartRequired").get("status") == "False")
    assert (vm["status"]["effective"]["cpu"], vm["status"]["effective"]["memoryMib"]) == (2, 384)


def test_immutable_fields_are_refused_by_name(dc: Datacenter, inline: str) -> None:
    manifest = dict(dc.applied[f"VirtualMachine/{inline}"])
    for field, value in {"firmware": "uefi", "clusterRef": {"name": "other"}}.items():
        changed = {**manifest, "spec": {**manifest["spec"], field: value}}
        assert f"spec.{field} is immutable" in dc.refused(changed)
    assert list(dc.seen(inline).values()) == ["running"]


def test_class_that_changes_resizes_nobody(dc: Datacenter) -> None:
    dc.apply(lq("VirtualMachineClass", "e2e-size", {"cpu": 1, "memory": "256Mi"}))
    dc.apply(diskless("classy", className="e2e-size"))
    dc.wait_state("classy", "Running")
    dc.apply(lq("VirtualMachineClass", "e2e-size", {"cpu": 2, "memory": "512Mi"}))
    dc.apply(diskless("classy-2", className="e2e-size"))
    dc.wait_state("classy-2", "Running")
    assert dc.do("classy", "Restart")["phase"] == "Succeeded"
    assert _shape(dc, "classy") == ("1", str(256 * 1024))
    assert _shape(dc, "classy-2") == ("2", str(512 * 1024))
    assert dc.vm("classy")["status"]["effective"]["cpu"] == 1
    dc.delete("VirtualMachine", "classy", "classy-2")
    dc.wait_gone("VirtualMachine", "classy")
    dc.wait_gone("VirtualMachine", "classy-2")
    dc.delete("VirtualMachineClass", "e2e-size")


def test_volume_grows_with_its_vm_running_or_stopped_and_never_shrinks(dc: Datacenter) -> None:
    dc.apply(lq("Volume", "growing", {"size": "1Gi", "poolRef": "shared"}))
    dc.apply(diskless("grower", disks=[{"name": "data", "volumeRef": {"name": "growing"}}]))
    dc.wait_state("grower", "Running")
    link = dc.wait_for("Volume", "growing", ready)["status"]["chain"][0]
    assert _capacity(dc, link["file"]) == 2**30
    for step, size_gib in enumerate((2, 3)):
        dc.apply(lq("Volume", "growing", {"size": f"{size_gib}Gi", "poolRef": "shared"}))
        size = size_gib * 2**30
        grown = dc.wait_for("Volume", "growing", lambda o, size=size: ready(o) and o["status"]["sizeBytes"] == size)
        assert grown["status"]["chain"][0]["file"] == link["file"]
        assert _capacity(dc, link["file"]) == size
        if step == 0:
            assert list(dc.seen("grower").values()) == ["running"]
            assert dc.do("grower", "Stop")["phase"] == "Succeeded"
    assert "size" in dc.refused(lq("Volume", "growing", {"size": "1Gi", "poolRef": "shared"}))
    dc.delete("VirtualMachine", "grower")
    dc.delete("Volume", "growing")
    dc.wait_gone("Volume", "growing")
    assert link["file"] not in dc.files("shared")


def test_volume_is_one_vms_until_its_guest_has_let_go_of_it(dc: Datacenter) -> None:
    disk = [{"name": "data", "volumeRef": {"name": "single"}}]
    dc.apply(lq("Volume", "single", {"size": "1Gi", "poolRef": "shared"}), diskless("first"), diskless("second"))
    for name in ("first", "second"):
        dc.wait_state(name, "Running")
    dc.apply(diskless("second", disks=disk))
    assert dc.do("second", "Restart")["phase"] == "Succeeded"
    file = dc.xml("second").find("devices/disk/source").get("file")
    # The older one names it too: it may not have it, whatever its age.
    dc.apply(diskless("first", disks=disk))
    dc.operate("first", "Restart", name="wants-it")
    waiting = dc.wait_for("VirtualMachine", "first", lambda o: reason(o) == "VolumeInUse")
    assert "VirtualMachine second" in condition(waiting, "Ready")["message"]
    # Out of the younger one's spec; its guest has it until it ends.
    dc.apply(diskless("second"))
    kept = dc.wait_for("VirtualMachine", "second", lambda o: condition(o, "RestartRequired").get("status") == "True")
    assert [d["volume"] for d in kept["status"]["disks"]] == ["single"]
    assert reason(dc.vm("first")) == "VolumeInUse"
    assert dc.do("second", "Restart")["phase"] == "Succeeded"
    dc.wait_state("first", "Running")
    assert dc.xml("first").find("devices/disk/source").get("file") == file
    assert dc.xml("second").find("devices/disk/source") is None
    dc.delete("VirtualMachine", "first", "second")
    dc.delete("Volume", "single")
    dc.wait_gone("Volume", "single")


def _capacity(dc: Datacenter, file: str) -> int:
    host = dc.lab.hosts[0]
    host.virsh("pool-refresh", "lq-shared")
    line = next(
        line for line in host.virsh("vol-info", "--bytes", file, "lq-shared").splitlines() if "Capacity" in line
    )
    return int(line.split()[1])
