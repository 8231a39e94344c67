"""Live moves of booted guests between lab hosts, over TLS: judged by the hosts, and by what the guest keeps in memory.

A counter in the guest's memory and its boot id tell that it is the same run; the witness that it never ran twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.datacenter import Datacenter, Object, condition, lq, phase, ready, reason, vm_manifest
from tests.e2e.plugin import NOT_DONE, Plugin
from tests.e2e.witness import MoveWitness, Witness, own_datacenter, watched

from lq_operator.lab.errors import LabError
from lq_operator.lab.host import LabHost

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

SLOW = {"tuning": {"bandwidthMibPerSecond": 1}}
"""A booted guest has some forty MiB of memory in use: long enough to do something in the middle."""
COUNT = "(i=0; while :; do i=$((i+1)); echo $i >/run/c; mv /run/c /run/count; sleep 0.1; done) >/dev/null 2>&1 &"
ENDED = ("Succeeded", "Failed", "Cancelled", "Refused")
SHARED, LOCAL = "walker", "carrier"


@pytest.fixture(scope="module")
def dc() -> Iterator[Datacenter]:
    with own_datacenter("migration") as made:
        yield made


@pytest.fixture(autouse=True)
def witness(dc: Datacenter) -> Iterator[Witness]:
    with watched(dc.lab, MoveWitness) as found:
        yield found


@pytest.fixture(scope="module")
def guests(dc: Datacenter) -> Datacenter:
    """Two booted guests, each counting in its memory: one on the shared pool, one with a disk of its host."""
    image = {"imageRef": {"name": "guest", "namespace": "default"}}
    template = {"size": "1Gi", "poolRef": "local", "source": image}
    dc.apply(vm_manifest(SHARED), vm_manifest(LOCAL, disks=[{"name": "root", "template": template}]))
    for name in (SHARED, LOCAL):
        dc.wait_guest(name)
        dc.guest(name, COUNT)
    return dc


@pytest.fixture(autouse=True)
def counting(guests: Datacenter) -> None:
    """Each test begins with guests that count: one that another test has lost is started anew and spoils only that one."""
    for name in (SHARED, LOCAL):
        try:
            guests.guest(name, "cat /run/count")
        except (LabError, AssertionError):
            guests.do(name, "Restart", force=True)
            guests.wait_guest(name)
            guests.guest(name, COUNT)
            guests.until(lambda name=name: guests.guest(name, "ls /run").split().count("count"))


class Memory:
    """What the guest has in memory; `kept()` after the move."""

    def __init__(self, dc: Datacenter, vm: str) -> None:
        self.dc, self.vm = dc, vm
        self.boot_id, self.count, self.epoch = self._boot_id(), self._count(), dc.metadata(vm)["epoch"]

    def _boot_id(self) -> str:
        return self._ask("cat /proc/sys/kernel/random/boot_id")

    def _count(self) -> int:
        return int(self._ask("cat /run/count"))

    def _ask(self, script: str) -> str:
        """An agent that has just been moved on a busy machine may be slow to answer: it is asked again."""

        def ask() -> str:
            try:
                return self.dc.guest(self.vm, script).strip()
            except LabError:
                return ""

        return str(self.dc.until(ask, every_s=1.0, say=lambda: f"{self.vm}: the agent does not answer"))

    def kept(self) -> None:
        """The same run, and it still counts."""
        assert self._boot_id() == self.boot_id
        first = self._count()
        assert first >= self.count
        assert self.dc.until(lambda: self._count() > first)
        assert self.dc.metadata(self.vm)["epoch"] == self.epoch


def move(dc: Datacenter, name: str, vm: str, **spec: Any) -> None:
    dc.apply(lq("VirtualMachineMigration", name, {"vmRef": {"name": vm}} | spec))


def ended(dc: Datacenter, name: str) -> Object:
    """Its status, once it has ended."""
    found = dc.wait_for("VirtualMachineMigration", name, lambda o: phase(o) in ENDED)
    return dict(found["status"]) | {"reason": reason(found)}


def in_the_middle(dc: Datacenter, name: str) -> None:
    """Memory is on its way: the source says so."""
    dc.wait_for("VirtualMachineMigration", name, lambda o: phase(o) == "Running" and o["status"].get("progress"))


def others(dc: Datacenter, vm: str) -> list[LabHost]:
    """Hosts where it is not."""
    here = dc.host_of(vm).name
    return [host for host in dc.lab.hosts if host.name != here]


def only_on(dc: Datacenter, vm: str, host: LabHost) -> None:
    """By the hosts: one domain, it runs there, and its next start asks for a gate, not for the ticket of the move."""
    assert dc.until(lambda: dc.seen(vm) == {host.name: "running"}), dc.seen(vm)
    found = dc.wait_for("VirtualMachine", vm, lambda o: ready(o) and o["status"]["placement"]["phase"] == "Committed")
    assert found["status"]["placement"]["node"] == host.name
    gate = dc.xml(vm, inactive=True).find("sysinfo/entry")
    assert gate is not None
    assert str(gate.get("file")).startswith("/run/lq/gate-"), gate.get("file")


def tickets(dc: Datacenter) -> list[str]:
    return [name for host in dc.lab.hosts for name in host.exec(["ls", "/run/lq"]).stdout.split() if "ticket" in name]


def test_to_a_named_host(guests: Datacenter) -> None:
    dc, before, target = guests, Memory(guests, SHARED), others(guests, SHARED)[0]
    seen: list[str] = []
    move(dc, "named", SHARED, targetNode=target.name)

    def done() -> bool:
        row = dc.kubectl("get", "vmmig", "named", "--no-headers").split()
        if row[2] not in seen:
            seen.append(row[2])
        return row[2] in ENDED

    dc.until(done, every_s=0.05)
    status = ended(dc, "named")
    assert status["phase"] == "Succeeded", status
    assert set(seen) <= {"Pending", "Preparing", "Running", "Settling", "Succeeded"}
    assert len(seen) > 1, seen
    only_on(dc, SHARED, target)
    before.kept()
    assert status["totalMilliseconds"] > 0
    vm = dc.vm(SHARED)["status"]
    assert vm["migration"]["phase"] == "Succeeded"
    assert vm["migration"]["downtimeMilliseconds"] == status["downtimeMilliseconds"]
    assert tickets(dc) == []
    reasons = {e["reason"] for e in json.loads(dc.kubectl("get", "events.events.k8s.io", "-o", "json"))["items"]}
    assert {"MoveStarted", "MoveSucceeded"} <= reasons


def test_a_disk_of_its_host_goes_along(guests: Datacenter) -> None:
    dc = guests
    dc.guest(LOCAL, "dd if=/dev/urandom of=/disk/load bs=1M count=8 2>/dev/null; sync; sha256sum /disk/load >/run/sum")
    before, home, target = Memory(dc, LOCAL), dc.host_of(LOCAL), others(dc, LOCAL)[0]
    files = dc.files_of(LOCAL, "local")
    move(dc, "carried", LOCAL, targetNode=target.name)
    status = ended(dc, "carried")
    assert status["phase"] == "Succeeded", status
    only_on(dc, LOCAL, target)
    before.kept()
    dc.guest(LOCAL, "echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /run/sum")
    assert dc.get("Volume", f"{LOCAL}-root")["status"]["node"] == target.name
    left = home.exec(["ls", "/var/lib/libvirt/lq-pool-local"], check=True).stdout.split()
    assert not [name for name in left if LOCAL in name], left
    there = target.exec(["ls", "/var/lib/libvirt/lq-pool-local"], check=True).stdout.split()
    assert files <= set(there)


def test_the_scheduler_picks_a_host(guests: Datacenter) -> None:
    dc, before = guests, Memory(guests, SHARED)
    closed, free = others(dc, SHARED)
    dc.patch("HypervisorNode", closed.name, {"spec": {"unschedulable": True}})
    try:
        said = json.loads(Plugin(dc).lq("migrate", f"vm/{SHARED}", "-o", "json"))
        status = ended(dc, said["migration"])
    finally:
        dc.patch("HypervisorNode", closed.name, {"spec": {"unschedulable": False}})
    assert (status["phase"], status["targetNode"]) == ("Succeeded", free.name), status
    assert status["scheduling"]["node"] == free.name
    # kubectl lq followed it to its end.
    assert [said[name] for name in ("phase", "target", "total_ms")] == [
        "Succeeded",
        free.name,
        status["totalMilliseconds"],
    ]
    only_on(dc, SHARED, free)
    before.kept()


def test_every_obstacle_is_said_at_once_and_nothing_is_touched(guests: Datacenter) -> None:
    dc, before, target = guests, Memory(guests, SHARED), others(guests, SHARED)[0]
    name, home = dc.domain(SHARED), dc.host_of(SHARED)
    (dc.lab.shared_dir / "foreign.xml").write_text(
        f"<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os></domain>"
    )
    target.virsh("define", f"{dc.lab.shared_dir}/foreign.xml")
    dc.patch("HypervisorNode", target.name, {"spec": {"unschedulable": True}})
    try:
        move(dc, "refused", SHARED, targetNode=target.name)
        status = ended(dc, "refused")
        assert (status["phase"], status["reason"]) == ("Refused", "Obstacles"), status
        assert {one["what"] for one in status["obstacles"]} >= {"Host", "Name"}, status["obstacles"]
        assert tickets(dc) == []
        listed = Plugin(dc).lq("migrate", f"vm/{SHARED}", "--to", target.name, code=NOT_DONE)
        assert "move refused" in listed
        assert all(f"  - {one['what']} {one['name']}" in listed for one in status["obstacles"]), listed
    finally:
        target.virsh("undefine", name)
        dc.patch("HypervisorNode", target.name, {"spec": {"unschedulable": False}})
    only_on(dc, SHARED, home)
    before.kept()


@pytest.mark.parametrize("vm", [SHARED, LOCAL])
def test_called_off_in_the_middle(guests: Datacenter, vm: str) -> None:
    dc, before, home = guests, Memory(guests, vm), guests.host_of(vm)
    target, name = others(dc, vm)[0], f"off-{vm}"
    move(dc, name, vm, targetNode=target.name, **SLOW)
    in_the_middle(dc, name)
    if vm == SHARED:
        move(dc, name, vm, targetNode=target.name, cancel=True, **SLOW)
    else:
        assert f"vm/{vm}: move cancelled" in Plugin(dc).lq("migrate", f"vm/{vm}", "--cancel")
    status = ended(dc, name)
    assert (status["phase"], status["reason"]) == ("Cancelled", "Cancelled"), status
    assert "remainingBytes" in status["progress"]
    only_on(dc, vm, home)
    before.kept()
    left = target.exec(["ls", "/var/lib/libvirt/lq-pool-local"], check=True).stdout.split()
    assert not [file for file in left if vm in file], left
    assert tickets(dc) == []


def test_the_operator_is_killed_in_the_middle(guests: Datacenter) -> None:
    dc, before, target = guests, Memory(guests, SHARED), others(guests, SHARED)[0]
    move(dc, "widowed", SHARED, targetNode=target.name, tuning={"bandwidthMibPerSecond": 4})
    in_the_middle(dc, "widowed")
    dc.lab.supervisor.kill("lq-operator-run")
    status = ended(dc, "widowed")
    assert status["phase"] == "Succeeded", status
    only_on(dc, SHARED, target)
    before.kept()


def test_libvirtd_of_the_source_is_killed_in_the_middle(guests: Datacenter) -> None:
    dc, before, home = guests, Memory(guests, SHARED), guests.host_of(SHARED)
    target = others(dc, SHARED)[0]
    move(dc, "broken", SHARED, targetNode=target.name, **SLOW)
    in_the_middle(dc, "broken")
    home.daemon_kill()
    time.sleep(1)
    home.daemon_start()
    status = ended(dc, "broken")
    assert status["phase"] == "Failed", status
    only_on(dc, SHARED, home)
    before.kept()


def test_the_target_loses_its_power_in_the_middle(guests: Datacenter) -> None:
    dc, before, home = guests, Memory(guests, LOCAL), guests.host_of(LOCAL)
    target = next(host for host in others(dc, LOCAL) if host.name not in dc.seen(SHARED))
    move(dc, "alone", LOCAL, targetNode=target.name, **SLOW)
    in_the_middle(dc, "alone")
    target.kill()
    open_ = dc.wait_for(
        "VirtualMachineMigration", "alone", lambda o: reason(o) == "EvidenceMissing" and target.name in _message(o)
    )
    assert phase(open_) == "Settling"
    assert dc.seen(LOCAL) == {home.name: "running"}
    target.start()
    status = ended(dc, "alone")
    assert status["phase"] == "Failed", status
    only_on(dc, LOCAL, home)
    before.kept()


def _message(move_: Object) -> str:
    return str(condition(move_, "Ready").get("message", ""))
