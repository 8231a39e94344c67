"""Deleting a VM at every moment of its life: nothing of it stays on a host but what it was told to keep."""

from __future__ import annotations

from tests.e2e.datacenter import Datacenter, Object, condition, diskless, lq, power, ready

CLAIMED = [{"name": "eth0", "networkRef": {"name": "nat", "namespace": "default"}, "addressing": "Claim"}]


def _claims(dc: Datacenter, vm: str) -> list[Object]:
    return [claim for claim in dc.lab_claims() if claim["spec"]["vm"]["name"] == vm]


def _disk(name: str, policy: str) -> Object:
    return {"name": name, "template": {"size": "1Gi", "poolRef": "shared", "reclaimPolicy": policy}}


def _assert_nothing_left(dc: Datacenter, vm: str) -> None:
    dc.wait_gone("VirtualMachine", vm)
    assert dc.seen(vm) == {}
    assert dc.files_of(vm) == set()
    assert _claims(dc, vm) == []


def test_deaf_guest_is_cut_off_and_volumes_go_by_their_policy(dc: Datacenter) -> None:
    dc.apply(lq("Volume", "own", {"size": "1Gi", "poolRef": "shared"}))
    disks = [_disk("gone", "Delete"), _disk("kept", "Retain"), {"name": "own", "volumeRef": {"name": "own"}}]
    dc.apply(diskless("doomed", disks=disks, interfaces=CLAIMED, shutdown={"gracePeriodSeconds": 3}))
    dc.wait_state("doomed", "Running")
    before = {
        name: dc.get("Volume", name)["status"]["chain"][0]["file"] for name in ("doomed-gone", "doomed-kept", "own")
    }
    assert set(before.values()) <= dc.files("shared")
    assert len(_claims(dc, "doomed")) == 1
    dc.delete("VirtualMachine", "doomed")
    deleting = dc.wait_for("VirtualMachine", "doomed", lambda o: o["status"]["power"].get("stopDeadline"))
    assert power(deleting) == "Stopping"
    _assert_nothing_left(dc, "doomed")
    dc.wait_gone("Volume", "doomed-gone")
    dc.until(lambda: before["doomed-gone"] not in dc.files("shared"))
    assert {before["doomed-kept"], before["own"]} <= dc.files("shared")
    for name in ("doomed-kept", "own"):
        assert ready(dc.get("Volume", name) or {})
    # The volume that stayed is a disk of another VM now, with the same file.
    dc.apply(diskless("heir", disks=[{"name": "data", "volumeRef": {"name": "doomed-kept"}}]))
    dc.wait_state("heir", "Running")
    assert dc.xml("heir").find("devices/disk/source").get("file").endswith(before["doomed-kept"])
    dc.delete("Volume", "doomed-kept")
    stuck = dc.wait_for("Volume", "doomed-kept", lambda o: condition(o, "Ready").get("reason") == "InUse")
    assert "heir" in condition(stuck, "Ready")["message"]
    dc.delete("VirtualMachine", "heir")
    _assert_nothing_left(dc, "heir")
    dc.wait_gone("Volume", "doomed-kept")
    # reclaimPolicy Retain keeps the bytes of a deleted Volume, Delete does not.
    assert before["doomed-kept"] in dc.files("shared")
    dc.delete("Volume", "own")
    dc.wait_gone("Volume", "own")
    assert before["own"] not in dc.files("shared")


def test_stopped_and_suspended_vms_are_deleted_with_their_files(dc: Datacenter) -> None:
    dc.apply(diskless("resting"), diskless("sleeping"))
    for name in ("resting", "sleeping"):
        dc.wait_state(name, "Running")
    stop, suspend = dc.operate("resting", "Stop"), dc.operate("sleeping", "Suspend")
    assert [dc.outcome(stop)["phase"], dc.outcome(suspend)["phase"]] == ["Succeeded", "Succeeded"]
    assert any(name.startswith("suspend_") for name in dc.files_of("sleeping"))
    dc.delete("VirtualMachine", "resting", "sleeping")
    _assert_nothing_left(dc, "resting")
    _assert_nothing_left(dc, "sleeping")


def test_delete_right_after_apply_and_while_something_is_missing(dc: Datacenter) -> None:
    names = [f"hasty-{n}" for n in range(4)]
    dc.apply(*(diskless(name, disks=[_disk("data", "Delete")], interfaces=CLAIMED) for name in names))
    dc.apply(diskless("waiting", disks=[{"name": "data", "volumeRef": {"name": "never-made"}}]))
    for name in names:
        dc.delete("VirtualMachine", name)
    dc.wait_for("VirtualMachine", "waiting", lambda o: "never-made" in condition(o, "Ready").get("message", ""))
    dc.delete("VirtualMachine", "waiting")
    for name in [*names, "waiting"]:
        _assert_nothing_left(dc, name)
    for name in names:
        dc.wait_gone("Volume", f"{name}-data")
    dc.until(lambda: not any("hasty" in file for file in dc.files("shared")), say=lambda: f"{dc.files('shared')}")


def test_same_name_again_is_a_new_machine(dc: Datacenter) -> None:
    dc.apply(diskless("twice"))
    first = dc.wait_state("twice", "Running")
    dc.delete("VirtualMachine", "twice")
    dc.wait_gone("VirtualMachine", "twice")
    dc.apply(diskless("twice"))
    second = dc.wait_state("twice", "Running")
    assert dc.metadata("twice")["uid"] == second["metadata"]["uid"] != first["metadata"]["uid"]
    assert second["status"]["power"]["epoch"] != first["status"]["power"]["epoch"]
    dc.delete("VirtualMachine", "twice")
    _assert_nothing_left(dc, "twice")
