"""The API server forgets: etcd wiped and manifests applied again, an old backup restored. No guest notices.

Judged by the hosts: their QEMU processes stay the same ones, and libvirt's logs show no second start.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.datacenter import Datacenter, Object, condition, diskless, lq, ready, reason
from tests.e2e.witness import (
    TTL,
    Start,
    Witness,
    apply_datacenter,
    booting,
    epoch_key,
    own_datacenter,
    processes_on,
    runs_of,
    starts_of,
    watched,
)

from lq_operator.lab.host import LabHost

VMS = tuple(f"f{i}" for i in range(10))
BOOTED = VMS[8:]
"""These have guests in them, which say which boot they are; in the others nothing boots."""
SILENCE_S = 10.0
CLAIM = [{"name": "eth0", "networkRef": {"name": "nat", "namespace": "default"}, "addressing": "Claim"}]


@pytest.fixture(scope="module")
def dc() -> Iterator[Datacenter]:
    with own_datacenter("forget") as made:
        # One after the other: addresses are claimed in the order of creation, and another order comes after the wipe.
        made.apply(*reversed(manifests_of_vms()))
        for name in VMS:
            made.wait_state(name, "Running")
        for name in BOOTED:
            made.until(lambda name=name: runs_of(made.lab, name), say=lambda name=name: f"{name} has not booted")
        yield made


@pytest.fixture(scope="module")
def installation(dc: Datacenter) -> str:
    return dc.lab.kubectl("get", "ns", "kube-system", "-o", "jsonpath={.metadata.uid}").stdout


@pytest.fixture(autouse=True)
def witness(dc: Datacenter) -> Iterator[Witness]:
    with watched(dc.lab) as found:
        yield found
    for host in dc.lab.hosts:
        if host.partitioned():
            host.heal()


def tiny(name: str, **spec: Any) -> Object:
    return diskless(name, **{"cloudInit": {"userData": "#cloud-config\n"}} | spec)


def manifests_of_vms() -> list[Object]:
    """Ten guests: four with a disk in a local or in the shared pool, six with a claimed address, two that boot."""
    made = []
    for i, name in enumerate(VMS[:8]):
        pool = {0: "local", 1: "local", 2: "shared", 3: "shared"}.get(i)
        disks = [{"name": "data", "template": {"size": "1Gi", "poolRef": pool}}] if pool else []
        made.append(tiny(name, disks=disks, interfaces=CLAIM if i < 6 else []))
    return [*made, *(booting(name) for name in BOOTED)]


def qemus(dc: Datacenter) -> set[Any]:
    return {process for host in dc.lab.hosts for process in processes_on(host)}


def starts(dc: Datacenter, vm: str) -> list[Start]:
    return starts_of(dc.lab, dc.domain(vm))


def on(dc: Datacenter, host: LabHost) -> list[str]:
    names = {process.domain for process in processes_on(host)}
    return [vm for vm in VMS if dc.domain(vm) in names]


def claims(dc: Datacenter) -> dict[str, str]:
    return {c["spec"]["vm"]["name"]: c["spec"]["address"] for c in dc.lab_claims() if c["spec"].get("vm")}


def placement(dc: Datacenter, vm: str) -> Object:
    return dict(dc.vm(vm)["status"].get("placement") or {})


def volume_files(dc: Datacenter) -> dict[str, str]:
    """Disk file of each VM that has one, from the definition on its host."""
    found = {}
    for vm in VMS[:4]:
        source = dc.xml(vm).find("devices/disk[@device='disk']/source")
        assert source is not None
        found[vm] = str(source.get("file"))
    return found


def nodes_answer(dc: Datacenter, *hosts: LabHost) -> None:
    for host in hosts or dc.lab.hosts:
        dc.wait_for("HypervisorNode", host.name, lambda o: condition(o, "Ready").get("status") == "True")


@pytest.fixture(scope="module")
def addresses(dc: Datacenter) -> dict[str, str]:
    """What each guest was told by its seed at its start."""
    return claims(dc)


@pytest.mark.usefixtures("addresses")
def test_wiped_and_applied_again(dc: Datacenter, installation: str) -> None:
    before, first = qemus(dc), {vm: starts(dc, vm) for vm in VMS}
    epochs = {vm: placement(dc, vm)["epoch"] for vm in VMS}
    files = volume_files(dc)
    cut = dc.host_of(VMS[0])
    cut_off, others = on(dc, cut), [host for host in dc.lab.hosts if host.name != cut.name]
    assert cut_off
    cut.partition()
    dc.lab.etcd_wipe()

    # Without the old id this is another installation: the hosts refuse it, with both ways out.
    dc.release.install(TTL)
    apply_datacenter(dc)
    dc.apply(*manifests_of_vms())
    for host in others:
        node = dc.wait_for("HypervisorNode", host.name, lambda o: condition(o, "Claimed").get("status") == "False")
        claimed = condition(node, "Claimed")
        assert claimed["reason"] == "ForeignInstallation"
        assert installation in claimed["message"]
        assert "installation.id" in claimed["message"]
        assert "release" in claimed["message"]
    time.sleep(SILENCE_S)
    assert qemus(dc) == before

    # With it they are taken back; the guests of the host that is cut off wait for it.
    dc.release.install(TTL | {"installation": {"id": installation}})
    nodes_answer(dc, *others)
    for vm in set(VMS) - set(cut_off):
        dc.wait_state(vm, "Running")
    for vm in cut_off:
        found = dc.wait_for(
            "VirtualMachine", vm, lambda o: condition(o, "Scheduled").get("reason") == "InventoryIncomplete"
        )
        assert condition(found, "Scheduled")["status"] == "False"
        assert cut.name in condition(found, "Scheduled")["message"]
    time.sleep(SILENCE_S)
    assert qemus(dc) == before

    cut.heal()
    nodes_answer(dc)
    for vm in VMS:
        dc.wait_state(vm, "Running")
    assert qemus(dc) == before
    assert {vm: starts(dc, vm) for vm in VMS} == first
    assert {vm: placement(dc, vm)["epoch"] for vm in VMS} == epochs
    assert volume_files(dc) == files
    for vm in BOOTED:
        (run,) = runs_of(dc.lab, vm)
        assert run.epoch == epochs[vm]
        dc.until(
            lambda vm=vm, run=run: runs_of(dc.lab, vm)[-1].last_s > run.last_s, say=lambda vm=vm: f"{vm} is silent"
        )
        assert [now.boot for now in runs_of(dc.lab, vm)] == [run.boot]


def test_claims_after_the_wipe_are_the_addresses_that_guests_have(dc: Datacenter, addresses: dict[str, str]) -> None:
    """Another order of creation would give them out anew, while the guests keep the old ones."""
    assert claims(dc) == addresses


def test_taken_back_guests_obey_again(dc: Datacenter) -> None:
    """What was bound as found is stopped, started, edited like any other."""
    vm, old = VMS[0], placement(dc, VMS[0])["epoch"]
    files = volume_files(dc)
    dc.patch("VirtualMachine", vm, {"spec": {"powerState": "Stopped"}})
    dc.wait_state(vm, "Stopped")
    assert dc.seen(vm) == {}
    dc.patch("VirtualMachine", vm, {"spec": {"powerState": "Running"}})
    dc.wait_state(vm, "Running")
    assert epoch_key(placement(dc, vm)["epoch"]) > epoch_key(old)
    assert volume_files(dc) == files


def moved_since_the_backup(dc: Datacenter, vm: str, backup: Path) -> tuple[LabHost, LabHost]:
    """A backup, then the VM is stopped and started on another host; (where it was, where it is)."""
    dc.apply(tiny(vm))
    dc.wait_state(vm, "Running")
    old = dc.host_of(vm)
    dc.lab.etcd_snapshot(backup)
    dc.patch("VirtualMachine", vm, {"spec": {"powerState": "Stopped"}})
    dc.wait_state(vm, "Stopped")
    dc.patch("HypervisorNode", old.name, {"spec": {"unschedulable": True}})
    dc.wait_for("HypervisorNode", old.name, lambda o: condition(o, "Ready").get("reason") == "Cordoned")
    dc.patch("VirtualMachine", vm, {"spec": {"powerState": "Running"}})
    dc.wait_state(vm, "Running")
    new = dc.host_of(vm)
    assert new.name != old.name
    return old, new


@pytest.mark.parametrize("cut_off", [False, True], ids=["all-answer", "new-host-cut-off"])
def test_backup_from_before_a_start_elsewhere(dc: Datacenter, tmp_path: Path, cut_off: bool) -> None:
    vm = f"moved-{'cut' if cut_off else 'seen'}"
    _, new = moved_since_the_backup(dc, vm, tmp_path / "backup")
    before, first = qemus(dc), starts(dc, vm)
    epoch = placement(dc, vm)["epoch"]
    if cut_off:
        new.partition()
    dc.lab.etcd_restore(tmp_path / "backup")
    if cut_off:
        time.sleep(SILENCE_S * 2)
        assert starts(dc, vm) == first
        assert qemus(dc) == before
        assert not ready(dc.vm(vm)), reason(dc.vm(vm))
        new.heal()
    nodes_answer(dc)
    found = dc.wait_for("VirtualMachine", vm, lambda o: ready(o) and o["status"]["placement"]["node"] == new.name)
    assert found["status"]["placement"]["epoch"] == epoch
    assert dc.seen(vm) == {new.name: "running"}
    for other in VMS:
        dc.wait_state(other, "Running")
    assert starts(dc, vm) == first
    assert qemus(dc) == before
    # The next start uses no epoch again that a host has seen.
    dc.patch("VirtualMachine", vm, {"spec": {"powerState": "Stopped"}})
    dc.wait_state(vm, "Stopped")
    dc.patch("VirtualMachine", vm, {"spec": {"powerState": "Running"}})
    dc.wait_state(vm, "Running")
    assert epoch_key(placement(dc, vm)["epoch"]) > epoch_key(epoch)
    dc.delete("VirtualMachine", vm)
    dc.wait_gone("VirtualMachine", vm)


def test_backup_with_a_statement_that_was_true(dc: Datacenter, tmp_path: Path) -> None:
    """Trace 6: the host came back since, and the guest was started on it again; the backup knows neither."""
    vm = "attested"
    dc.apply(tiny(vm, placement={"nodeSelector": {"limiquantix.io/host": "h2"}}))
    dc.wait_state(vm, "Running")
    home = dc.host_of(vm)
    home.kill()
    dc.wait_for("HypervisorNode", home.name, lambda o: condition(o, "Ready").get("status") == "Unknown")
    dc.patch("VirtualMachine", vm, {"spec": {"placement": {"nodeSelector": {"limiquantix.io/host": "h1"}}}})
    attest(dc, "was-true", home.name)
    dc.wait_for("VirtualMachine", vm, lambda o: o["status"]["placement"].get("node") == "h1")
    dc.wait_state(vm, "Running")
    dc.lab.etcd_snapshot(tmp_path / "backup")

    home.start()
    nodes_answer(dc)
    dc.wait_for("HostAttestation", "was-true", lambda o: o["status"].get("void"))
    dc.patch("VirtualMachine", vm, {"spec": {"placement": {"nodeSelector": {"limiquantix.io/host": "h2"}}}})
    assert dc.do(vm, "Stop")["phase"] == "Succeeded"
    assert dc.do(vm, "Start")["phase"] == "Succeeded"
    assert dc.host_of(vm).name == home.name
    first, qemu = starts(dc, vm), qemus_of(dc, vm)
    epoch = placement(dc, vm)["epoch"]
    home.partition()
    dc.lab.etcd_restore(tmp_path / "backup")
    time.sleep(SILENCE_S * 2)
    assert (starts(dc, vm), qemus_of(dc, vm)) == (first, qemu)
    dc.wait_for("HostAttestation", "was-true", lambda o: not o["status"]["accepted"])
    home.heal()
    nodes_answer(dc)
    found = dc.wait_for("VirtualMachine", vm, lambda o: ready(o) and o["status"]["placement"].get("node") == home.name)
    assert found["status"]["placement"]["epoch"] == epoch
    assert (starts(dc, vm), qemus_of(dc, vm)) == (first, qemu)
    dc.delete("VirtualMachine", vm)
    dc.wait_gone("VirtualMachine", vm)


def qemus_of(dc: Datacenter, vm: str) -> set[Any]:
    return {process for process in qemus(dc) if process.domain == dc.domain(vm)}


def attest(dc: Datacenter, name: str, node: str) -> None:
    """A person says that this node is off; the statement counts."""
    status = dc.get("HypervisorNode", node)["status"]  # type: ignore[index]
    spec = {
        "node": node,
        "hostUUID": status["hostUUID"],
        "boot": status["boot"],
        "term": dc.get("HypervisorCluster", "lab")["status"]["term"],  # type: ignore[index]
        "statement": "PoweredOff",
        "seen": "no light at its front",
        "attestedBy": "tests",
    }
    dc.apply(lq("HostAttestation", name, spec))
    dc.wait_for("HostAttestation", name, lambda o: o["status"].get("accepted"))


def test_recovery_by_hand_starts_nothing_before_every_host_was_compared(dc: Datacenter) -> None:
    cut = dc.lab.host("h3")
    term = dc.get("HypervisorCluster", "lab")["status"]["term"]  # type: ignore[index]
    before = qemus(dc)
    cut.partition()
    dc.patch("HypervisorCluster", "lab", {"spec": {"recovery": "after-restore-1"}})
    dc.wait_for("HypervisorCluster", "lab", lambda o: o["status"].get("recoveryDone") == "after-restore-1")
    dc.wait_for(
        "HypervisorCluster",
        "lab",
        lambda o: o["status"]["term"] > term and [m.partition(":")[0] for m in o["status"]["missing"]] == [cut.name],
    )
    dc.apply(tiny("late"))
    dc.wait_for("VirtualMachine", "late", lambda o: condition(o, "Scheduled").get("reason") == "InventoryIncomplete")
    time.sleep(SILENCE_S)
    assert qemus(dc) == before
    cut.heal()
    dc.wait_state("late", "Running")
    assert before < qemus(dc)
    dc.wait_for("HypervisorCluster", "lab", lambda o: o["status"]["inventoryComplete"])
    dc.delete("VirtualMachine", "late")
    dc.wait_gone("VirtualMachine", "late")
