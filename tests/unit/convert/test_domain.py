"""VirtualMachine -> DomainPlan."""

from __future__ import annotations

from typing import Any

from lq_operator.api.vm import VirtualMachine
from lq_operator.convert.domain import (
    HostSide,
    ResolvedCdrom,
    ResolvedDisk,
    ResolvedNic,
    Size,
    domain_plan,
    hardware_abi,
    hardware_status,
    merged_abi,
    spec_hash,
)
from lq_operator.core.model import DomainPlan, Epoch, HardwareAbi, Identity

ABI = HardwareAbi(
    "pc-q35-7.2",
    "Haswell",
    ("aes",),
    (("disk/root", "0000:03:00.0"), ("nic/eth0", "0000:01:00.0")),
    (("disk/root", "vda"),),
)


def vm(**spec: Any) -> VirtualMachine:
    base = {
        "cpu": {"count": 2},
        "memory": {"size": "1Gi"},
        "disks": [{"name": "root", "volumeRef": {"name": "r"}}, {"name": "data", "volumeRef": {"name": "d"}}],
        "interfaces": [{"name": "eth0", "networkRef": {"name": "n"}}],
    }
    return VirtualMachine.model_validate(
        {"metadata": {"name": "a", "namespace": "ns", "uid": "u"}, "spec": base | spec}
    )


def plan(machine: VirtualMachine) -> DomainPlan:
    return domain_plan(
        machine,
        identity=Identity("i", "ns", "a"),
        epoch=Epoch(1, 2),
        size=Size(2, 1024),
        host=HostSide("/run/lq/gate-1-1-a", "kvm", "x86_64", "Broadwell", "q35", console_log_path="/s/c.log"),
        disks=(ResolvedDisk("root", "/p/r", "qcow2"), ResolvedDisk("data", "/p/d", "raw")),
        nics=(ResolvedNic("eth0", "02:00:00:00:00:01", network="lq_ns_n"),),
        cdroms=tuple(ResolvedCdrom(drive.name) for drive in machine.spec.cdroms),
    )


def test_the_first_disk_boots_unless_something_else_is_said() -> None:
    assert [d.boot_order for d in plan(vm()).disks] == [1, 0]
    disks = [{"name": "root", "volumeRef": {"name": "r"}}, {"name": "data", "volumeRef": {"name": "d"}, "bootOrder": 1}]
    assert [d.boot_order for d in plan(vm(disks=disks)).disks] == [0, 1]


def test_a_cd_that_boots_first_leaves_the_first_disk_the_next_number() -> None:
    made = plan(vm(cdroms=[{"name": "install", "bootOrder": 1}, {"name": "tools"}]))
    assert ([d.boot_order for d in made.cdroms], [d.boot_order for d in made.disks]) == ([1, 0], [2, 0])


def test_a_guest_without_drives_keeps_the_hash_it_was_started_with() -> None:
    """Of a version that knew no drives: what runs since then is not asked again."""
    assert spec_hash(vm(), Size(2, 1024)) == "1b0e282f1f15"
    assert spec_hash(vm(cdroms=[{"name": "cd"}]), Size(2, 1024)) != "1b0e282f1f15"


def test_the_recorded_hardware_wins_over_what_cluster_and_host_would_choose() -> None:
    machine = vm()
    status = machine.status.model_copy(update={"hardware": hardware_status(ABI)})
    made = plan(machine.model_copy(update={"status": status}))
    assert (made.machine, made.cpu_model, made.cpu_features) == ("pc-q35-7.2", "Haswell", ("aes",))
    assert (made.disks[0].slot, made.disks[0].target, made.nics[0].slot) == ("0000:03:00.0", "vda", "0000:01:00.0")
    assert made.disks[1].slot == ""


def test_hardware_survives_the_way_through_status() -> None:
    assert hardware_abi(hardware_status(ABI)) == ABI


def test_new_devices_are_recorded_beside_the_old_and_gone_ones_forgotten() -> None:
    seen = HardwareAbi(
        "pc-q35-8.0",
        "EPYC",
        ("sse",),
        (("disk/root", "0000:09:00.0"), ("disk/data", "0000:04:00.0"), ("controller/1", "0000:00:01.0")),
        (("disk/data", "vdb"),),
    )
    merged = merged_abi(ABI, seen, vm(interfaces=[]))
    assert (merged.machine, merged.cpu_model, merged.cpu_features) == ("pc-q35-7.2", "Haswell", ("aes",))
    assert dict(merged.slots) == {
        "disk/root": "0000:03:00.0",
        "disk/data": "0000:04:00.0",
        "controller/1": "0000:00:01.0",
    }
    assert dict(merged.targets) == {"disk/root": "vda", "disk/data": "vdb"}
    assert merged_abi(HardwareAbi(), seen, vm()) == seen


def test_hash_changes_with_what_the_guest_sees_and_with_nothing_else() -> None:
    size, base = Size(2, 1024), vm()
    for same in (
        {"powerState": "Stopped"},
        {"description": "x"},
        {"restartPolicy": "Never"},
        {"heartbeat": {"action": "Reset"}},
        {"placement": {"nodeSelector": {"a": "b"}}},
    ):
        assert spec_hash(vm(**same), size) == spec_hash(base, size), same
    for other in ({"vnc": False}, {"watchdog": "reset"}, {"guestAgent": False}):
        assert spec_hash(vm(**other), size) != spec_hash(base, size), other
    assert spec_hash(base, Size(4, 1024)) != spec_hash(base, size)


def test_host_passthrough_is_a_mode_and_not_a_model() -> None:
    made = plan(vm(cpu={"count": 2, "model": "host-passthrough"}))
    assert (made.cpu_mode, made.cpu_model) == ("custom", "Broadwell")  # the caller resolves the wish; see HostSide
    side = HostSide("/g", "kvm", "x86_64", "host-passthrough", "q35")
    disks = (ResolvedDisk("root", "/p/r", "qcow2"), ResolvedDisk("data", "/p/d", "raw"))
    nics = (ResolvedNic("eth0", "02:00:00:00:00:01", network="n"),)
    made = domain_plan(
        vm(), identity=Identity("i", "ns", "a"), epoch=Epoch(1, 1), size=Size(1, 256), host=side, disks=disks, nics=nics
    )
    assert (made.cpu_mode, made.cpu_model) == ("host-passthrough", "")
