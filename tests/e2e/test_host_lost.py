"""A host is frozen, cut off, powered off: nothing of it is started elsewhere without evidence, the others work on.

Judged by the hosts alone: their QEMU processes, their domains, libvirt's log of every start.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from lxml import etree
from tests.e2e.datacenter import NAMESPACE, Datacenter, Object, condition, diskless, lq, power, reason
from tests.e2e.plugin import Plugin
from tests.e2e.witness import (
    Start,
    Witness,
    booting,
    epoch_key,
    own_datacenter,
    processes_on,
    runs_of,
    starts_of,
    verify_records,
    watched,
)

from lq_operator.core.failover.evidence import off_proof
from lq_operator.core.failover.facts import Actor, Memory, Role, Stamp
from lq_operator.core.failover.patch import placement_from_dict, placement_patch
from lq_operator.core.failover.protocol import transition
from lq_operator.core.failover.requests import Release
from lq_operator.core.model import EvidenceKind, Placement
from lq_operator.lab.host import LabHost

VMS = tuple(f"v{i}" for i in range(6))
BOOTED = VMS[:3]
"""These have guests in them, which say under which epoch they were started."""
SILENCE_S = 8.0
"""How long a silent host is looked at for a start that must not come: longer than the lease and the wait until Unknown."""


@pytest.fixture(scope="module")
def dc() -> Iterator[Datacenter]:
    with own_datacenter("lost") as made:
        made.apply(*(booting(name) if name in BOOTED else tiny(name) for name in VMS))
        for name in VMS:
            made.wait_state(name, "Running")
        for name in BOOTED:
            wait_for_guest(made, name)
        yield made


@pytest.fixture(autouse=True)
def witness(dc: Datacenter) -> Iterator[Witness]:
    with watched(dc.lab) as found:
        yield found
    for host in dc.lab.hosts:
        if host.partitioned():
            host.heal()
        host.thaw()
        host.start()
    until_all_answer(dc)


def tiny(name: str, **spec: Any) -> Object:
    """A guest without disk, with a seed: its file name carries the epoch into the host's record of the start."""
    return diskless(name, **{"cloudInit": {"userData": "#cloud-config\n"}} | spec)


def until_all_answer(dc: Datacenter) -> None:
    for host in dc.lab.hosts:
        dc.wait_for("HypervisorNode", host.name, lambda o: condition(o, "Ready").get("status") == "True")


def wait_for_guest(dc: Datacenter, vm: str) -> None:
    """The guest has said that it was started under the epoch which the placement has now."""
    epoch = placement(dc, vm)["epoch"]
    dc.until(lambda: epoch in [run.epoch for run in runs_of(dc.lab, vm)], say=lambda: f"{vm}: {runs_of(dc.lab, vm)}")


def ran(dc: Datacenter, vm: str) -> list[Start]:
    """Starts of this VM that were not refused."""
    return [start for start in starts_of(dc.lab, dc.domain(vm)) if not start.refused]


def split(dc: Datacenter, host: LabHost) -> tuple[list[str], list[str]]:
    """The VMs on this host, and those on the others."""
    here = [vm for vm in VMS if list(dc.seen(vm)) == [host.name]]
    others = [vm for vm in VMS if vm not in here]
    assert here, f"nothing is on {host.name}: {dc.domains()}"
    assert others
    return here, others


def placement(dc: Datacenter, vm: str) -> Object:
    return dict(dc.vm(vm)["status"]["placement"])


def attest(dc: Datacenter, name: str, node: str, **fields: str) -> Object:
    """Says that this node is off, as its status names host and boot, unless `fields` say otherwise; what came of it."""
    status = dc.lab.kubectl("get", "hypervisornode", node, "-o", "jsonpath={.status.hostUUID} {.status.boot}").stdout
    uuid, boot = status.split()
    spec = {
        "node": node,
        "hostUUID": uuid,
        "boot": boot,
        "term": int(dc.lab.kubectl("get", "hvc", "lab", "-o", "jsonpath={.status.term}").stdout),
        "statement": "PoweredOff",
        "seen": "the power cable in my hand",
        "attestedBy": "tests",
    } | fields
    dc.delete("HostAttestation", name, wait=True)
    dc.apply(lq("HostAttestation", name, spec))
    return dc.wait_for("HostAttestation", name, lambda o: condition(o, "Ready"))


def verdict(attestation: Object) -> tuple[bool, str, str]:
    """(accepted, reason, message)."""
    ready = condition(attestation, "Ready")
    return attestation["status"]["accepted"], ready["reason"], ready.get("message", "")


def unknown(dc: Datacenter, node: str, vms: list[str]) -> None:
    """The node is Ready=Unknown and these VMs say so."""
    dc.wait_for("HypervisorNode", node, lambda o: condition(o, "Ready").get("status") == "Unknown")
    for vm in vms:
        found = dc.wait_for("VirtualMachine", vm, lambda o: power(o) == "Unknown")
        assert condition(found, "Ready")["status"] == "Unknown"
        assert reason(found) == "HostUnreachable"


def others_work(dc: Datacenter, silent: str, vm: str, extra: str) -> None:
    """Create, stop, start on the hosts that answer."""
    before = len(ran(dc, vm))
    dc.apply(tiny(extra))
    dc.wait_state(extra, "Running")
    dc.patch("VirtualMachine", vm, {"spec": {"powerState": "Stopped"}})
    dc.wait_state(vm, "Stopped")
    assert not [p for host in dc.lab.hosts for p in processes_on(host) if p.domain == dc.domain(vm)]
    dc.patch("VirtualMachine", vm, {"spec": {"powerState": "Running"}})
    dc.wait_state(vm, "Running")
    assert len(ran(dc, vm)) == before + 1
    for name in (vm, extra):
        assert placement(dc, name)["node"] != silent
    dc.delete("VirtualMachine", extra)
    dc.wait_gone("VirtualMachine", extra)


def start_by_hand_is_refused(host: LabHost, domain: str) -> None:
    """By its gate, also for somebody who puts the seed back that the start elsewhere has removed."""
    assert domain in host.virsh("list", "--all", "--name").split()
    definition = etree.fromstring(host.virsh("dumpxml", "--inactive", domain).encode())
    (seed,) = [path for path in definition.xpath("devices/disk/source/@file") if "/seed_" in path]
    host.exec(["touch", str(seed)], check=True)
    tried = host.exec(["virsh", "-c", "qemu:///system", "start", domain])
    host.exec(["rm", str(seed)], check=True)
    assert tried.returncode != 0
    assert "gate" in tried.stderr


@pytest.mark.parametrize("fault", ["frozen", "partitioned"])
def test_silent_host_keeps_its_guests_and_stops_nobody_else(dc: Datacenter, fault: str) -> None:
    lost = dc.host_of("v0")
    here, others = split(dc, lost)
    qemus = set(processes_on(lost))
    starts = {vm: ran(dc, vm) for vm in VMS}
    epochs = {vm: placement(dc, vm)["epoch"] for vm in here}
    lost.freeze() if fault == "frozen" else lost.partition()

    unknown(dc, lost.name, here)
    others_work(dc, lost.name, others[0], f"while-{fault}")
    time.sleep(SILENCE_S)
    for vm in here:
        assert power(dc.vm(vm)) == "Unknown"
        assert ran(dc, vm) == starts[vm]
        assert placement(dc, vm)["node"] == lost.name

    lost.thaw() if fault == "frozen" else lost.heal()
    until_all_answer(dc)
    for vm in here:
        dc.wait_state(vm, "Running")
        assert placement(dc, vm)["epoch"] == epochs[vm]
        assert ran(dc, vm) == starts[vm]
    assert set(processes_on(lost)) == qemus


def test_host_without_power_is_replaced_only_on_a_right_statement(dc: Datacenter) -> None:
    lost = dc.host_of("v0")
    here, others = split(dc, lost)
    epochs = {vm: placement(dc, vm)["epoch"] for vm in here}
    last_boot = dc.get("HypervisorNode", lost.name)["status"]["boot"]  # type: ignore[index]
    lost.kill()

    unknown(dc, lost.name, here)
    others_work(dc, lost.name, others[0], "while-off")
    other = next(host for host in dc.lab.hosts if host.name != lost.name)
    accepted, said, message = verdict(attest(dc, "wrong-uuid", lost.name, hostUUID=other.uuid))
    assert (accepted, said) == (False, "Refused")
    assert "spec.hostUUID" in message
    assert lost.uuid in message
    accepted, _, message = verdict(attest(dc, "wrong-boot", lost.name, boot="gate-1-1-0123456789abcdef"))
    assert not accepted
    assert "spec.boot" in message
    assert last_boot in message
    accepted, _, message = verdict(attest(dc, "answers", other.name))
    assert not accepted
    assert "answers" in message
    for vm in here:
        assert power(dc.vm(vm)) == "Unknown"

    assert verdict(attest(dc, "right", lost.name))[0]
    for vm in here:
        found = dc.wait_state(vm, "Running")
        now = found["status"]["placement"]
        assert now["node"] != lost.name
        assert epoch_key(now["epoch"]) > epoch_key(epochs[vm])
        assert [start.host for start in ran(dc, vm)][-1] == now["node"]
        assert ran(dc, vm)[-1].epoch == now["epoch"]
        (evidence,) = [e for e in now["evidence"] if e["kind"] == "human-attested"]
        assert (evidence["hostUUID"], evidence["epoch"]) == (lost.uuid, epochs[vm])
        assert "right" in evidence["detail"]
    for vm in set(here) & set(BOOTED):
        wait_for_guest(dc, vm)
        *_, old, new = runs_of(dc.lab, vm)
        assert (old.epoch, new.epoch) == (epochs[vm], placement(dc, vm)["epoch"])
        assert old.boot != new.boot

    # The operator is stopped, so that a person has the time to try what it would remove.
    run = f"{dc.release.name}-run"
    dc.lab.supervisor.stop(run)
    try:
        lost.start()
        for vm in here:
            start_by_hand_is_refused(lost, dc.domain(vm))
    finally:
        dc.lab.supervisor.restart(run)
    until_all_answer(dc)
    dc.until(lambda: not set(lost.virsh("list", "--all", "--name").split()) & {dc.domain(vm) for vm in here})
    void = dc.wait_for("HostAttestation", "right", lambda o: o["status"].get("void"))
    assert not void["status"]["accepted"]
    for vm in here:
        dc.wait_state(vm, "Running")
        assert len(dc.seen(vm)) == 1


def test_void_statement_covers_no_later_loss(dc: Datacenter) -> None:
    """It was true, and the host came back since: what it said counts for no later boot."""
    lost = dc.host_of("v0")
    here, _ = split(dc, lost)
    lost.kill()
    unknown(dc, lost.name, here)
    said = json.loads(Plugin(dc).lq("attest", lost.name, "--seen", "the cable in my hand", "--yes", "-o", "json"))
    assert said["accepted"], said
    for vm in here:
        dc.wait_for("VirtualMachine", vm, lambda o: o["status"]["placement"]["node"] != lost.name)
        dc.wait_state(vm, "Running")
    lost.start()
    until_all_answer(dc)
    dc.until(lambda: not set(lost.virsh("list", "--all", "--name").split()) & {dc.domain(vm) for vm in here})
    dc.wait_for("HostAttestation", said["attestation"], lambda o: o["status"].get("void"))

    second = dc.host_of("v0")
    dc.apply(tiny("late", placement={"nodeSelector": {"limiquantix.io/host": lost.name}}))
    dc.wait_state("late", "Running")
    assert dc.host_of("late").name == lost.name
    assert second.name != lost.name
    lost.kill()
    unknown(dc, lost.name, ["late"])
    time.sleep(SILENCE_S)
    assert power(dc.vm("late")) == "Unknown"
    assert len(ran(dc, "late")) == 1
    dc.delete("VirtualMachine", "late")


def test_a_release_that_comes_after_the_host_has_booted_is_refused(dc: Datacenter) -> None:
    """Trace 1: HA has true evidence, the host boots and runs the VM again, and only then HA's patch arrives."""
    lost = dc.host_of("v0")
    here, _ = split(dc, lost)
    uid, before = dc.vm("v0")["metadata"]["uid"], placement_from_dict(placement(dc, "v0"))
    assert before is not None
    assert before.host_uuid is not None
    lost.kill()
    unknown(dc, lost.name, here)
    proof = off_proof(EvidenceKind.BMC_CONFIRMED_OFF, before.host_uuid, before.boot, before)
    ha = Actor(Role.HA_CONTROLLER, 0)
    released = transition(
        before, Release(ha, Stamp("of-an-ha-that-paused", "2026-01-01T00:00:00Z"), Memory(), (proof,))
    )
    assert isinstance(released, Placement), released
    patch = json.dumps(placement_patch(uid, before, released))

    lost.start()
    until_all_answer(dc)
    for vm in here:
        dc.wait_state(vm, "Running")
    again = placement(dc, "v0")
    assert again["node"] == lost.name
    assert epoch_key(again["epoch"]) > epoch_key(str(before.epoch))
    starts = ran(dc, "v0")
    late = dc.lab.kubectl(
        "-n", dc.namespace, "patch", "vm", "v0", "--subresource=status", "--type=json", "-p", patch, check=False
    )
    assert late.returncode != 0, late.stdout
    assert placement(dc, "v0") == again
    time.sleep(SILENCE_S)
    assert ran(dc, "v0") == starts
    assert list(dc.seen("v0")) == [again["node"]]


def test_deleted_while_its_host_is_away(dc: Datacenter) -> None:
    """Tombstone; the name is free for a new object, which waits until the old guest and its things are gone."""
    lost = dc.lab.host("h2")
    spec: Object = {
        "disks": [{"name": "data", "template": {"size": "1Gi", "poolRef": "local"}}],
        "interfaces": [{"name": "eth0", "networkRef": {"name": "nat", "namespace": "default"}, "addressing": "Claim"}],
    }
    dc.apply(tiny("gone", placement={"nodeSelector": {"limiquantix.io/host": lost.name}}, **spec))
    dc.wait_state("gone", "Running")
    first = dc.vm("gone")["metadata"]["uid"]
    files = {f for f in dc.files("local") if "_gone-" in f}
    claim = next(c for c in dc.lab_claims() if c["spec"]["vm"]["name"] == "gone")
    assert files
    lost.partition()
    unknown(dc, lost.name, ["gone"])

    dc.delete("VirtualMachine", "gone")
    dc.wait_gone("VirtualMachine", "gone")
    tombstones = dc.get("HypervisorNode", lost.name)["status"]["tombstones"]  # type: ignore[index]
    assert [(t["name"], t["uid"]) for t in tombstones] == [("gone", first)]
    dc.apply(tiny("gone", **spec))
    waiting = dc.wait_for(
        "VirtualMachine", "gone", lambda o: condition(o, "Scheduled").get("reason") == "PreviousIncarnation"
    )
    assert lost.name in condition(waiting, "Scheduled")["message"]
    time.sleep(SILENCE_S)
    assert [p.host for host in dc.lab.hosts for p in processes_on(host) if p.domain == dc.domain("gone")] == [lost.name]
    assert len(ran(dc, "gone")) == 1

    lost.heal()
    dc.wait_for("HypervisorNode", lost.name, lambda o: not o["status"].get("tombstones"))
    dc.wait_state("gone", "Running")
    assert len(ran(dc, "gone")) == 2
    assert dc.metadata("gone")["uid"] == dc.vm("gone")["metadata"]["uid"] != first
    assert not files & dc.files("local")
    claims = [c for c in dc.lab_claims() if c["spec"]["vm"]["name"] == "gone"]
    assert [c["metadata"]["uid"] == claim["metadata"]["uid"] for c in claims] == [False]
    dc.delete("VirtualMachine", "gone")
    dc.wait_gone("VirtualMachine", "gone")
    assert not [f for f in dc.files("local") if "_gone-" in f]
    assert not [c for c in dc.lab_claims() if c["spec"]["vm"]["name"] == "gone"]


def test_deleted_while_its_host_is_off_and_a_person_says_so(dc: Datacenter) -> None:
    """The name is free as soon as there is evidence; what is left of the old one goes when the host returns."""
    lost = dc.lab.host("h2")
    spec: Object = {
        "disks": [
            {"name": "near", "template": {"size": "1Gi", "poolRef": "local"}},
            {"name": "far", "template": {"size": "1Gi", "poolRef": "shared"}},
        ],
        "interfaces": [{"name": "eth0", "networkRef": {"name": "nat", "namespace": "default"}, "addressing": "Claim"}],
    }
    dc.apply(tiny("buried", placement={"nodeSelector": {"limiquantix.io/host": lost.name}}, **spec))
    first = dc.wait_state("buried", "Running")
    near = {f for f in dc.files("local") if "_buried-" in f}
    far = {f for f in dc.files("shared") if "_buried-" in f}
    (claim,) = [c["metadata"]["uid"] for c in dc.lab_claims() if c["spec"]["vm"]["name"] == "buried"]
    assert near
    assert far
    lost.kill()
    unknown(dc, lost.name, ["buried"])
    dc.delete("VirtualMachine", "buried")
    dc.wait_gone("VirtualMachine", "buried")
    dc.apply(tiny("buried", placement={"nodeSelector": {"limiquantix.io/host": "h1"}}, **spec))
    dc.wait_for("VirtualMachine", "buried", lambda o: condition(o, "Scheduled").get("reason") == "PreviousIncarnation")
    assert len(ran(dc, "buried")) == 1

    assert verdict(attest(dc, "grave", lost.name))[0]
    successor = dc.wait_state("buried", "Running")
    (tombstone,) = dc.get("HypervisorNode", lost.name)["status"]["tombstones"]  # type: ignore[index]
    assert "grave" in tombstone["evidence"]
    assert tombstone["uid"] == first["metadata"]["uid"] != successor["metadata"]["uid"]
    assert dc.host_of("buried").name == "h1"
    assert not far & dc.files("shared")
    assert claim not in [c["metadata"]["uid"] for c in dc.lab_claims()]

    lost.start()
    dc.wait_for("HypervisorNode", lost.name, lambda o: not o["status"].get("tombstones"))
    assert not near & dc.files("local")
    assert dc.seen("buried") == {"h1": "running"}
    assert dc.metadata("buried")["uid"] == successor["metadata"]["uid"]
    assert len([c for c in dc.lab_claims() if c["spec"]["vm"]["name"] == "buried"]) == 1
    assert [start.host for start in ran(dc, "buried")] == [lost.name, "h1"]
    assert dc.do("buried", "Restart", force=True)["phase"] == "Succeeded", "nothing that it needs went with the old one"
    dc.delete("VirtualMachine", "buried")
    dc.wait_gone("VirtualMachine", "buried")
    dc.until(lambda: not [f for pool in ("local", "shared") for f in dc.files(pool) if "_buried-" in f])


def test_lie_about_a_host_that_is_only_cut_off_is_seen_when_it_answers(dc: Datacenter, witness: Witness) -> None:
    """Nobody can tell a lie from the truth while the host is silent; afterwards it is said, and nothing is killed."""
    lost = dc.lab.host("h3")
    liars = ("liar", "liar-too")
    for vm in liars:
        dc.apply(tiny(vm, placement={"nodeSelector": {"limiquantix.io/host": lost.name}}))
    for vm in liars:
        dc.wait_state(vm, "Running")
        dc.patch("VirtualMachine", vm, {"spec": {"placement": {"nodeSelector": {"limiquantix.io/host": "h1"}}}})
    here = [vm for vm in (*VMS, *liars) if list(dc.seen(vm)) == [lost.name]]
    witness.lied_about |= {dc.domain(vm) for vm in here}
    lost.partition()
    unknown(dc, lost.name, here)
    assert verdict(attest(dc, "lie", lost.name))[0]
    for vm in liars:
        dc.wait_for("VirtualMachine", vm, lambda o: o["status"]["placement"]["node"] == "h1")
        dc.wait_state(vm, "Running")
    lost.heal()
    dc.wait_for("HostAttestation", "lie", lambda o: o["status"].get("void"))
    found = dc.wait_for("VirtualMachine", "liar", lambda o: reason(o) == "SplitBrain")
    assert "h1" in condition(found, "Ready")["message"]
    assert lost.name in condition(found, "Ready")["message"]
    node = dc.wait_for("HypervisorNode", lost.name, lambda o: o["status"].get("splitBrains"))
    assert any("liar" in sentence for sentence in node["status"]["splitBrains"])
    assert dc.seen("liar") == {"h1": "running", lost.name: "running"}

    # One is decided by a person, the others by the policy: what is stale goes, and only that.
    right = {vm: {p for h in dc.lab.hosts for p in processes_on(h) if p.domain == dc.domain(vm)} for vm in here}
    right = {vm: {process for process in found if process.host != lost.name} for vm, found in right.items()}
    lost.virsh("destroy", dc.domain("liar"))
    dc.wait_state("liar", "Running")
    assert dc.domain("liar-too") in [p.domain for p in processes_on(lost)], "the policy says Report"
    # A guest with a disk in the shared pool was kept from running twice by the lock of its image.
    locked = {vm for vm in here if vm in BOOTED}
    assert {vm for vm in here if not right[vm]} == locked
    dc.patch("HypervisorCluster", "lab", {"spec": {"splitBrainPolicy": "KillStale"}})
    try:
        for vm in set(here) - locked:
            dc.wait_state(vm, "Running")
            dc.until(lambda vm=vm: len(dc.seen(vm)) == 1)
            now = {p for h in dc.lab.hosts for p in processes_on(h) if p.domain == dc.domain(vm)}
            assert now == right[vm]
        told = dc.wait_for(
            "HypervisorNode", lost.name, lambda o: len(o["status"].get("splitBrains", [])) == len(locked)
        )
        assert all(any(vm in sentence for sentence in told["status"]["splitBrains"]) for vm in locked)
    finally:
        dc.patch("HypervisorCluster", "lab", {"spec": {"splitBrainPolicy": "Report"}})
    for vm in locked:
        assert dc.seen(vm)[lost.name] == "running", "the only one that runs is killed by no policy"
        said = condition(dc.wait_for("VirtualMachine", vm, lambda o: reason(o) == "SplitBrain"), "Ready")["message"]
        assert f"runs on {lost.name}" in said
        lost.virsh("destroy", dc.domain(vm))
        dc.wait_state(vm, "Running")
        dc.until(lambda vm=vm: len(dc.seen(vm)) == 1)
    dc.delete("VirtualMachine", *liars)
    for vm in liars:
        dc.wait_gone("VirtualMachine", vm)


def test_every_start_had_an_epoch_above_the_one_before(dc: Datacenter) -> None:
    """The record of a start that hosts keep, over everything that happened above."""
    for vm in VMS:
        epochs = [epoch_key(start.epoch) for start in ran(dc, vm)]
        assert len(epochs) > 0
        assert epochs == sorted(set(epochs)), (NAMESPACE, vm, ran(dc, vm))
    for vm in BOOTED:
        told = [run.epoch for run in runs_of(dc.lab, vm)]
        assert set(told) <= {start.epoch for start in ran(dc, vm)}
    assert any(len(runs_of(dc.lab, vm)) > 1 for vm in BOOTED), "no guest was started a second time"
    verify_records(dc.lab)
