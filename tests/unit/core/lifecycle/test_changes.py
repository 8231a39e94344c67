"""Every field of the schema has a row, and every row that says something is seen in a preview."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from lq_operator.api.vm import VirtualMachine
from lq_operator.cli_tools import explain
from lq_operator.convert.domain import HostSide, ResolvedCdrom, ResolvedDisk, ResolvedNic, Size, domain_plan
from lq_operator.core.lifecycle.changes import Change, changes_of, sentence_of, steps_of
from lq_operator.core.lifecycle.fields import FIELDS, Effect, field_of
from lq_operator.core.lifecycle.shape import GuestShape, shape_of
from lq_operator.core.model import Epoch, Identity
from lq_operator.core.units import parse_mib

LIVE, CYCLE, IMPOSSIBLE = Effect.LIVE, Effect.POWER_CYCLE, Effect.IMPOSSIBLE

SPEC: dict[str, Any] = {
    "cpu": {"count": 4, "maxCount": 8, "sockets": 2, "cores": 2, "threads": 1, "model": "Haswell", "shares": 100},
    "memory": {"size": "2Gi", "maxSize": "4Gi"},
    "machine": "q35",
    "disks": [
        {"name": "root", "volumeRef": {"name": "r"}, "bootOrder": 1},
        {"name": "data", "volumeRef": {"name": "d"}, "limits": {"iops": 100, "bandwidth": "1Mi"}},
        {"name": "old", "volumeRef": {"name": "o"}, "bus": "sata"},
    ],
    "cdroms": [{"name": "cd", "medium": {"imageRef": {"name": "iso"}}}, {"name": "empty", "bus": "scsi"}],
    "interfaces": [{"name": "eth0", "networkRef": {"name": "n"}, "addressing": "Claim", "address": "10.0.0.5"}],
    "cloudInit": {"userData": "#cloud-config\n", "hostname": "a"},
    "guestAgent": True,
    "vnc": True,
    "consoleLog": True,
    "watchdog": "reset",
    "tpm": False,
}


def shape(spec: dict[str, Any], missing: tuple[str, ...] = ()) -> GuestShape:
    """As the VM controller makes it of a spec. Disks of `missing` have no Volume yet."""
    vm = VirtualMachine.model_validate({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}, "spec": spec})
    assert vm.spec.cpu is not None
    assert vm.spec.memory is not None
    plan = domain_plan(
        vm,
        identity=Identity("i", "ns", "a"),
        epoch=Epoch(1, 2),
        size=Size(vm.spec.cpu.count, parse_mib(vm.spec.memory.size)),
        host=HostSide("/run/lq/g", "kvm", "x86_64", "Haswell", "q35", console_log_path="/s/c.log"),
        disks=tuple(
            ResolvedDisk(d.name, "" if d.name in missing else f"/p/{d.volume_ref.name}", "qcow2")
            for d in vm.spec.disks
            if d.volume_ref
        ),
        cdroms=tuple(
            ResolvedCdrom(
                c.name,
                f"/{c.medium.pool_ref or 'p'}/{c.medium.image_ref.name}" if c.medium and c.medium.image_ref else "",
                waits="it is being imported" if c.name in missing else "",
            )
            for c in vm.spec.cdroms
        ),
        nics=tuple(
            ResolvedNic(i.name, i.mac or "02:00:00:00:00:01", network=f"lq_{i.network_ref.name}", mtu=int(i.network_ref.name == "jumbo") * 9000)
            for i in vm.spec.interfaces
        ),
    )  # fmt: skip
    return shape_of(plan)


def changed(**edits: Any) -> dict[str, Any]:
    """SPEC with paths like cpu__count or disks__1__bus set; None takes the field away."""
    spec = copy.deepcopy(SPEC)
    for path, value in edits.items():
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("__"))
        where: Any = spec
        for part in parents:
            where = where.setdefault(part, {}) if isinstance(where, dict) else where[part]
        if value is None:
            del where[last]
        else:
            where[last] = value
    return spec


@dataclass(frozen=True)
class Case:
    """An edit of SPEC, and the changes that it makes."""

    edit: dict[str, Any]
    expected: dict[str, Effect]
    missing: tuple[str, ...] = ()
    step: str = ""
    drop: list[str] = field(default_factory=list)


_ISO2 = {"imageRef": {"name": "other"}}
_DATA2 = {"name": "more", "volumeRef": {"name": "m"}}
_NIC2 = {"name": "eth1", "networkRef": {"name": "n"}, "mac": "02:00:00:00:00:09"}

CASES: dict[str, Case] = {
    "nothing": Case({}, {}),
    "vCPUs within the room": Case({"cpu__count": 6, "cpu__sockets": 3}, {"spec.cpu.count": LIVE}, step="set_vcpus"),
    "vCPUs beyond it": Case(
        {"cpu__count": 10, "cpu__sockets": 5, "cpu__maxCount": 10}, {"spec.cpu.count": CYCLE, "spec.cpu.maxCount": CYCLE}
    ),
    "fewer vCPUs": Case({"cpu__count": 2, "cpu__sockets": 1}, {"spec.cpu.count": CYCLE}),
    "other cores": Case(
        {"cpu__sockets": 1, "cpu__cores": 4}, {"spec.cpu.cores": CYCLE}
    ),
    "other threads": Case(
        {"cpu__sockets": 1, "cpu__threads": 2}, {"spec.cpu.threads": CYCLE}
    ),
    "room for vCPUs": Case({"cpu__maxCount": 12}, {"spec.cpu.maxCount": CYCLE}),
    "no room for vCPUs any more": Case({"cpu__maxCount": None}, {"spec.cpu.maxCount": CYCLE}),
    "CPU model": Case({"cpu__model": "Broadwell"}, {"spec.cpu.model": CYCLE}),
    "CPU model left out": Case({"cpu__model": None}, {}),
    "shares": Case({"cpu__shares": 200}, {"spec.cpu.shares": LIVE}, step="set_cpu_tuning"),
    "shares taken away": Case({"cpu__shares": None}, {"spec.cpu.shares": CYCLE}),
    "quota": Case({"cpu__limitPercent": 50}, {"spec.cpu.limitPercent": LIVE}, step="set_cpu_tuning"),
    "memory within the room": Case({"memory__size": "3Gi"}, {"spec.memory.size": LIVE}, step="set_memory"),
    "less memory": Case({"memory__size": "1Gi"}, {"spec.memory.size": LIVE}, step="set_memory"),
    "memory beyond it": Case(
        {"memory__size": "5Gi", "memory__maxSize": "5Gi"}, {"spec.memory.size": CYCLE, "spec.memory.maxSize": CYCLE}
    ),
    "all the memory that there is room for": Case({"memory__size": "4Gi"}, {"spec.memory.size": LIVE}, step="set_memory"),
    "all the vCPUs that there is room for": Case(
        {"cpu__count": 8, "cpu__sockets": 4}, {"spec.cpu.count": LIVE}, step="set_vcpus"
    ),
    "room for memory": Case({"memory__maxSize": "8Gi"}, {"spec.memory.maxSize": CYCLE}),
    "machine": Case({"machine": "pc"}, {"spec.machine": IMPOSSIBLE}),
    "machine left out": Case({"machine": None}, {}),
    "tpm": Case({"tpm": True}, {"spec.tpm": CYCLE}),
    "vnc": Case({"vnc": False}, {"spec.vnc": CYCLE}),
    "agent": Case({"guestAgent": False}, {"spec.guestAgent": CYCLE}),
    "console log": Case({"consoleLog": False}, {"spec.consoleLog": CYCLE}),
    "watchdog": Case({"watchdog": "pause"}, {"spec.watchdog": CYCLE}),
    "user data": Case({"cloudInit__userData": "#cloud-config\nx: y\n"}, {"spec.cloudInit.userData": CYCLE}),
    "user data taken away": Case({"cloudInit__userData": None}, {"spec.cloudInit.userData": CYCLE}),
    "a seed taken away": Case(
        {"cloudInit": None}, {"spec.cloudInit.userData": CYCLE, "spec.cloudInit.hostname": CYCLE}
    ),
    "a disk": Case({"disks": [*SPEC["disks"], _DATA2]}, {"spec.disks[more].name": LIVE}, step="attach_disk"),
    "a disk without its Volume": Case(
        {"disks": [*SPEC["disks"], _DATA2]}, {"spec.disks[more].name": LIVE}, missing=("more",)
    ),
    "a disk on sata": Case({"disks": [*SPEC["disks"], _DATA2 | {"bus": "sata"}]}, {"spec.disks[more].name": CYCLE}),
    "a disk to boot from": Case({"disks": [*SPEC["disks"], _DATA2 | {"bootOrder": 2}]}, {"spec.disks[more].name": CYCLE}),
    "a disk less": Case({"disks__1": None}, {"spec.disks[data].name": LIVE}, step="detach_disk"),
    "the boot disk less": Case({"disks__0": None}, {"spec.disks[root].name": CYCLE, "spec.disks[data].bootOrder": CYCLE}),
    "a sata disk less": Case({"disks__2": None}, {"spec.disks[old].name": CYCLE}),
    "another volume": Case({"disks__1__volumeRef": {"name": "x"}}, {"spec.disks[data].volumeRef": CYCLE}),
    "bus": Case({"disks__1__bus": "scsi"}, {"spec.disks[data].bus": CYCLE}),
    "cache": Case({"disks__1__cache": "writeback"}, {"spec.disks[data].cache": CYCLE}),
    "read only": Case({"disks__1__readOnly": True}, {"spec.disks[data].readOnly": CYCLE}),
    "boot order": Case({"disks__1__bootOrder": 2}, {"spec.disks[data].bootOrder": CYCLE}),
    "iops": Case({"disks__1__limits__iops": 200}, {"spec.disks[data].limits.iops": LIVE}, step="set_disk_limits"),
    "no limits": Case(
        {"disks__1__limits": None},
        {"spec.disks[data].limits.iops": LIVE, "spec.disks[data].limits.bandwidth": LIVE},
        step="set_disk_limits",
    ),
    "a drive": Case({"cdroms": [*SPEC["cdroms"], {"name": "cd3"}]}, {"spec.cdroms[cd3].name": CYCLE}),
    "a drive less": Case({"cdroms__0": None}, {"spec.cdroms[cd].name": CYCLE}),
    "no drive any more": Case({"cdroms": []}, {"spec.cdroms[cd].name": CYCLE, "spec.cdroms[empty].name": CYCLE}),
    "a medium": Case({"cdroms__1__medium": _ISO2}, {"spec.cdroms[empty].medium": LIVE}, step="set_medium"),
    "another medium": Case({"cdroms__0__medium": _ISO2}, {"spec.cdroms[cd].medium": LIVE}, step="set_medium"),
    "the medium in another pool": Case(
        {"cdroms__0__medium__poolRef": "q"}, {"spec.cdroms[cd].medium": LIVE}, step="set_medium"
    ),
    "ejected": Case({"cdroms__0__medium": None}, {"spec.cdroms[cd].medium": LIVE}, step="set_medium"),
    "a medium that is not there yet": Case(
        {"cdroms__0__medium": _ISO2}, {"spec.cdroms[cd].medium": LIVE}, missing=("cd",)
    ),
    "a drive's bus": Case({"cdroms__0__bus": "scsi"}, {"spec.cdroms[cd].bus": CYCLE}),
    "a drive to boot from": Case({"cdroms__0__bootOrder": 2}, {"spec.cdroms[cd].bootOrder": CYCLE}),
    "by force": Case({"cdroms__0__forceEject": True}, {}),
    "an interface": Case({"interfaces": [*SPEC["interfaces"], _NIC2]}, {"spec.interfaces[eth1].name": LIVE}, step="attach_nic"),
    "an interface less": Case({"interfaces__0": None}, {"spec.interfaces[eth0].name": LIVE}, step="detach_nic"),
    "another network": Case(
        {"interfaces__0__networkRef": {"name": "m"}}, {"spec.interfaces[eth0].networkRef": LIVE}, step="update_nic"
    ),
    "a network with another MTU": Case(
        {"interfaces__0__networkRef": {"name": "jumbo"}}, {"spec.interfaces[eth0].networkRef": CYCLE}
    ),
    "link": Case({"interfaces__0__linkState": "Down"}, {"spec.interfaces[eth0].linkState": LIVE}, step="update_nic"),
    "mac": Case({"interfaces__0__mac": "02:00:00:00:00:07"}, {"spec.interfaces[eth0].mac": CYCLE}),
    "model": Case({"interfaces__0__model": "e1000e"}, {"spec.interfaces[eth0].model": CYCLE}),
    "NIC boot order": Case({"interfaces__0__bootOrder": 3}, {"spec.interfaces[eth0].bootOrder": CYCLE}),
    "addressing": Case(
        {"interfaces__0__addressing": "Dhcp", "interfaces__0__address": None},
        {"spec.interfaces[eth0].addressing": CYCLE, "spec.interfaces[eth0].address": CYCLE},
    ),
    "decisions only": Case(
        {"description": "x", "restartPolicy": "Never", "availability": {"priority": 1}, "placement": {"strategy": "Pack"}}, {}
    ),
}  # fmt: skip


def preview(case: Case) -> tuple[Change, ...]:
    return changes_of(shape(SPEC), shape(changed(**case.edit), case.missing))


@pytest.mark.parametrize("name", CASES)
def test_what_an_edit_does_to_a_running_guest(name: str) -> None:
    case = CASES[name]
    found = preview(case)
    assert {change.path: change.effect for change in found} == case.expected
    assert [c.step.verb for c in steps_of(found) if c.step][:1] == ([case.step] if case.step else [])
    for change in found:
        assert change.before != change.after
        assert change.path in sentence_of(found) or len(found) > 6


@pytest.mark.parametrize("name", CASES)
def test_a_change_taken_back_is_none(name: str) -> None:
    """What ran before and after is the same guest, whatever was wished meanwhile."""
    preview(CASES[name])
    assert changes_of(shape(SPEC), shape(copy.deepcopy(SPEC))) == ()


def test_every_field_of_the_schema_has_a_row_and_every_row_a_field() -> None:
    explain.require_rows()
    for path in explain.leaves():
        field_of(path)


def test_a_new_field_without_a_row_is_told_by_its_name() -> None:
    with pytest.raises(KeyError, match=r"spec.brandNew has no row"):
        field_of("spec.brandNew")


ELSEWHERE = {
    "spec.clusterRef",  # refused by the API server, as firmware
    "spec.firmware",
    "spec.className",
    "spec.cpu.sockets",  # told as cpu.count
    "spec.disks[].template.size",  # the Volume's size, not the guest's shape
    "spec.placement.nodeSelector",  # labels of the host decide
    "spec.placement.nodeAffinity",
}


def test_every_row_that_says_something_is_in_a_case() -> None:
    told = {field_of(path) for case in CASES.values() for path in case.expected}
    says = {path for path, row in FIELDS.items() if row.effect is not Effect.NOTHING}
    assert says - told - ELSEWHERE == set()
    assert not told & ELSEWHERE


def test_a_class_is_one_field_and_needs_a_power_cycle() -> None:
    running = replace(shape(SPEC), cores=0, threads=0)
    wished = replace(running, vcpus=6, memory_mib=3072, boot_memory_mib=3072)
    found = changes_of(running, wished, class_name="big")
    assert [(c.path, c.effect) for c in found if c.path == "spec.className"] == [("spec.className", CYCLE)]
    assert steps_of(found) == ()


def test_steps_free_places_before_they_fill_them() -> None:
    edit = {"disks": [SPEC["disks"][0], SPEC["disks"][2], _DATA2], "memory__size": "3Gi"}
    found = changes_of(shape(SPEC), shape(changed(**edit)))
    assert [c.step.verb for c in steps_of(found) if c.step] == ["detach_disk", "set_memory", "attach_disk"]


def test_a_guest_started_before_the_record_was_kept_has_no_changes_there() -> None:
    """Not known is not different."""
    assert changes_of(replace(shape(SPEC), record=()), shape(changed(cpu__model="Broadwell", cloudInit=None))) == ()
