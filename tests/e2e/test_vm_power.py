"""Power: spec.powerState and every operation, judged by the state the host tells and by what the guest remembers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.e2e.datacenter import Datacenter, condition, diskless, phase, power, ready, reason, vm_manifest

REMEMBER = "echo kept > /run/only-in-memory"
RECALL = "cat /run/only-in-memory"


def _suspend_images(dc: Datacenter, vm: str) -> set[str]:
    return {name for name in dc.files_of(vm) if name.startswith(("suspend_", "resumed_"))}


@pytest.fixture(scope="class")
def guest(dc: Datacenter) -> Iterator[None]:
    dc.apply(vm_manifest("power", shutdown={"gracePeriodSeconds": 3000}))
    dc.wait_guest("power")
    yield
    dc.patch("VirtualMachine", "power", {"spec": {"shutdown": {"gracePeriodSeconds": 0}}})
    dc.delete("VirtualMachine", "power")
    dc.wait_gone("VirtualMachine", "power")


@pytest.fixture(scope="class")
def machine(dc: Datacenter) -> Iterator[None]:
    dc.apply(diskless("declared", powerState="Running"))
    dc.wait_state("declared", "Running")
    yield
    dc.delete("VirtualMachine", "declared")
    dc.wait_gone("VirtualMachine", "declared")


@pytest.mark.usefixtures("guest")
class TestGuestWithAgent:
    """One guest through every verb, in order; each test leaves it running."""

    def test_pause_and_resume(self, dc: Datacenter) -> None:
        boot = dc.boot_id("power")
        assert dc.do("power", "Pause")["phase"] == "Succeeded"
        assert list(dc.seen("power").values()) == ["paused"]
        assert power(dc.wait_for("VirtualMachine", "power", ready)) == "Paused"
        assert dc.do("power", "Resume")["phase"] == "Succeeded"
        assert list(dc.seen("power").values()) == ["running"]
        assert dc.boot_id("power") == boot

    def test_suspend_keeps_memory_and_uses_the_image_once(self, dc: Datacenter) -> None:
        boot, epoch = dc.boot_id("power"), dc.metadata("power")["epoch"]
        dc.guest("power", REMEMBER)
        assert dc.do("power", "Suspend")["phase"] == "Succeeded"
        assert dc.seen("power") == {}
        assert _suspend_images(dc, "power") == {f"suspend_{dc.namespace}_power_{epoch}.img"}
        dc.wait_state("power", "Suspended")
        assert dc.do("power", "Start")["phase"] == "Succeeded"
        assert dc.guest("power", RECALL).strip() == "kept"
        assert dc.boot_id("power") == boot
        assert dc.metadata("power")["epoch"] != epoch
        dc.until(lambda: not _suspend_images(dc, "power"), say=lambda: f"{_suspend_images(dc, 'power')}")

    def test_reset_boots_the_same_qemu_again(self, dc: Datacenter) -> None:
        boot, pid, epoch = dc.boot_id("power"), dc.qemu_pid("power"), dc.metadata("power")["epoch"]
        assert dc.do("power", "Reset")["phase"] == "Succeeded"
        dc.until(lambda: _answers(dc, "power") not in ("", boot), say=lambda: "the guest did not boot again")
        assert (dc.qemu_pid("power"), dc.metadata("power")["epoch"]) == (pid, epoch)

    def test_restart_asks_the_guest_and_starts_a_new_epoch(self, dc: Datacenter) -> None:
        boots, epoch = int(dc.guest("power", "cat /disk/boots")), dc.metadata("power")["epoch"]
        # The grace period is 50 minutes: a guest that was not asked, or did not listen, would not be gone in time.
        assert dc.do("power", "Restart")["phase"] == "Succeeded"
        dc.wait_guest("power")
        assert int(dc.guest("power", "cat /disk/boots")) == boots + 1
        assert dc.metadata("power")["epoch"] != epoch

    def test_stop_leaves_no_domain_and_start_brings_it_back(self, dc: Datacenter) -> None:
        assert dc.do("power", "Stop")["phase"] == "Succeeded"
        assert dc.seen("power") == {}
        vm = dc.wait_state("power", "Stopped")
        assert vm["status"]["placement"]["phase"] == "Released"
        assert vm["status"]["placement"]["evidence"][0]["kind"] == "host-confirmed-absent"
        assert vm["status"]["addresses"] == []
        assert dc.do("power", "Start")["phase"] == "Succeeded"
        assert list(dc.seen("power").values()) == ["running"]


def _answers(dc: Datacenter, vm: str) -> str:
    """boot_id, '' while the guest does not answer."""
    request = '{"execute": "guest-ping"}'
    asked = dc.host_of(vm).virsh("qemu-agent-command", "--timeout", "2", dc.domain(vm), request, check=False)
    return dc.boot_id(vm) if "return" in asked else ""


def test_guest_without_agent_is_stopped_by_its_power_button(dc: Datacenter) -> None:
    dc.apply(vm_manifest("button", guestAgent=False, shutdown={"gracePeriodSeconds": 3000}))
    dc.wait_state("button", "Running")
    log = dc.xml("button").find("devices/serial/log").get("file")
    host = dc.host_of("button")
    assert dc.xml("button").find("devices/channel/target[@name='org.qemu.guest_agent.0']") is None
    dc.until(
        lambda: host.exec(["grep", "-q", "GUEST-BOOTED", log]).returncode == 0,
        say=lambda: host.exec(["tail", log]).stdout,
    )
    dc.patch("VirtualMachine", "button", {"spec": {"powerState": "Stopped"}})
    dc.wait_state("button", "Stopped")
    assert dc.seen("button") == {}
    dc.delete("VirtualMachine", "button")
    dc.wait_gone("VirtualMachine", "button")


@pytest.mark.usefixtures("machine")
class TestDeclared:
    """spec.powerState, on a machine in which nothing boots: it hears neither agent nor power button."""

    def test_every_transition(self, dc: Datacenter) -> None:
        shown = {"Running": ["running"], "Paused": ["paused"], "Suspended": [], "Stopped": []}
        walk = "Paused Running Suspended Running Stopped Paused Suspended Stopped Running"
        for declared in walk.split():
            dc.patch("VirtualMachine", "declared", {"spec": {"powerState": declared}})
            dc.wait_state("declared", declared)
            assert list(dc.seen("declared").values()) == shown[declared], declared

    def test_operation_that_contradicts_is_refused_and_nothing_happens(self, dc: Datacenter) -> None:
        before = dc.metadata("declared")
        for verb in ("Stop", "Pause", "Suspend"):
            outcome = dc.do("declared", verb)
            assert outcome["phase"] == "Refused", verb
            assert "spec.powerState is Running" in outcome["message"]
        assert list(dc.seen("declared").values()) == ["running"]
        assert dc.metadata("declared") == before


class TestDeafMachine:
    """Neither agent nor ACPI is heard: deadlines and force decide."""

    def test_it_is_cut_off_at_the_deadline_of_its_grace_period(self, dc: Datacenter) -> None:
        dc.apply(diskless("deaf", shutdown={"gracePeriodSeconds": 4}))
        dc.wait_state("deaf", "Running")
        operation = dc.operate("deaf", "Stop")
        vm = dc.wait_for("VirtualMachine", "deaf", lambda o: o["status"]["power"].get("stopDeadline"))
        assert power(vm) == "Stopping"
        assert list(dc.seen("deaf").values()) == ["running"]
        ended = dc.outcome(operation)
        assert ended["phase"] == "Succeeded"
        assert ended["finishedAt"] > vm["status"]["power"]["stopDeadline"]
        assert dc.seen("deaf") == {}

    def test_force_does_not_wait(self, dc: Datacenter) -> None:
        dc.apply(diskless("deaf", shutdown={"gracePeriodSeconds": 3000}))
        assert dc.do("deaf", "Start")["phase"] == "Succeeded"
        first = dc.metadata("deaf")["epoch"]
        assert dc.do("deaf", "Restart", force=True)["phase"] == "Succeeded"
        assert dc.metadata("deaf")["epoch"] != first
        assert dc.do("deaf", "Stop", force=True)["phase"] == "Succeeded"
        assert dc.seen("deaf") == {}

    def test_operation_fails_at_its_own_deadline_and_a_later_one_decides(self, dc: Datacenter) -> None:
        assert dc.do("deaf", "Start")["phase"] == "Succeeded"
        outcome = dc.do("deaf", "Stop", deadlineSeconds=2)
        assert (outcome["phase"], "2 s" in outcome["message"]) == ("Failed", True)
        assert list(dc.seen("deaf").values()) == ["running"]
        assert dc.do("deaf", "Start")["phase"] == "Succeeded"
        dc.wait_state("deaf", "Running")

    def test_newer_operation_supersedes_and_ttl_removes(self, dc: Datacenter) -> None:
        first = dc.operate("deaf", "Stop")
        dc.wait_for("VirtualMachineOperation", first, lambda o: phase(o) == "Running")
        second = dc.operate("deaf", "Stop", force=True, ttlSecondsAfterFinished=1)
        superseded = dc.wait_for("VirtualMachineOperation", first, lambda o: phase(o) == "Failed")
        assert reason(superseded) == "Superseded"
        dc.wait_state("deaf", "Stopped")
        dc.wait_gone("VirtualMachineOperation", second)
        assert dc.get("VirtualMachineOperation", first) is not None

    def test_operation_on_no_vm_says_so(self, dc: Datacenter) -> None:
        outcome = dc.do("nobody", "Start")
        assert outcome["phase"] == "Failed"
        assert f"{dc.namespace}/nobody" in outcome["message"]
        dc.delete("VirtualMachine", "deaf")
        dc.wait_gone("VirtualMachine", "deaf")


def test_verbs_that_have_nothing_to_do_say_how_it_is(dc: Datacenter) -> None:
    dc.apply(diskless("idle"))
    vm = dc.wait_state("idle", "Running")
    assert dc.do("idle", "Start")["phase"] == "Succeeded"
    assert dc.metadata("idle")["epoch"] == vm["status"]["placement"]["epoch"]
    assert dc.do("idle", "Stop")["phase"] == "Succeeded"
    assert dc.do("idle", "Stop")["phase"] == "Succeeded"
    for verb in ("Reset", "Suspend"):
        refused = dc.do("idle", verb)
        assert (refused["phase"], "needs a running guest" in refused["message"]) == ("Refused", True)
    assert dc.seen("idle") == {}
    assert condition(dc.wait_for("VirtualMachine", "idle", ready), "Stalled").get("status") != "True"
    dc.delete("VirtualMachine", "idle")
    dc.wait_gone("VirtualMachine", "idle")


def test_stop_that_failed_or_was_called_off_cuts_nobody_off(dc: Datacenter) -> None:
    """A machine that hears nothing, with a grace period that ends after the operations: it is past it that counts."""
    grace_s = 12
    dc.apply(diskless("deaf", shutdown={"gracePeriodSeconds": grace_s}))
    dc.wait_state("deaf", "Running")
    pid, epoch = dc.qemu_pid("deaf"), dc.metadata("deaf")["epoch"]
    late = dc.operate("deaf", "Stop", deadlineSeconds=3)
    dc.wait_for("VirtualMachine", "deaf", lambda o: o["status"]["power"].get("wantedBefore") == "Running")
    assert dc.outcome(late)["phase"] == "Failed"
    called_off = dc.operate("deaf", "Stop")
    dc.wait_for("VirtualMachine", "deaf", lambda o: o["status"]["power"].get("stopDeadline"))
    dc.delete("VirtualMachineOperation", called_off)
    vm = dc.wait_state("deaf", "Running")
    assert (vm["status"]["power"]["wanted"], vm["status"]["power"].get("wantedBefore", "")) == ("Running", "")
    time.sleep(grace_s + 2)
    assert (dc.qemu_pid("deaf"), dc.metadata("deaf")["epoch"]) == (pid, epoch)
    assert power(dc.vm("deaf")) == "Running"
    # One that is given the time does cut it off.
    assert dc.do("deaf", "Stop")["phase"] == "Succeeded"
    assert dc.seen("deaf") == {}
    dc.delete("VirtualMachine", "deaf")
    dc.wait_gone("VirtualMachine", "deaf")
