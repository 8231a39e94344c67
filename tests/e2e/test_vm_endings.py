"""Guests that end by themselves: what restartPolicy makes of a QEMU that was killed and of a guest that switched itself off."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.e2e.datacenter import Datacenter, Object, condition, diskless, power, ready, reason, vm_manifest

RecordProperty = Callable[[str, object], None]


def _later_run(dc: Datacenter, vm: str, epoch: str) -> Object:
    return dc.wait_for(
        "VirtualMachine", vm, lambda o: ready(o) and power(o) == "Running" and o["status"]["power"]["epoch"] != epoch
    )


@pytest.mark.parametrize("policy", ["Always", "OnFailure"])
def test_killed_qemu_is_started_again(dc: Datacenter, policy: str, record_property: RecordProperty) -> None:
    name = f"killed-{policy.lower()}"
    dc.apply(diskless(name, restartPolicy=policy))
    epoch = dc.wait_state(name, "Running")["status"]["power"]["epoch"]
    began_s = time.monotonic()
    dc.kill_qemu(name)
    vm = _later_run(dc, name, epoch)
    record_property("kill_to_ready_again_s", round(time.monotonic() - began_s, 2))
    assert list(dc.seen(name).values()) == ["running"]
    assert dc.metadata(name)["epoch"] == vm["status"]["power"]["epoch"]
    assert vm["status"]["power"]["restarts"] == 1
    # The second end in a row is waited for, and said.
    dc.kill_qemu(name)
    waiting = dc.wait_for("VirtualMachine", name, lambda o: reason(o) == "RestartBackOff")
    assert power(waiting) == "Crashed"
    assert waiting["status"]["power"]["nextRestart"]
    again = _later_run(dc, name, vm["status"]["power"]["epoch"])
    assert again["status"]["power"]["restarts"] == 2
    dc.delete("VirtualMachine", name)
    dc.wait_gone("VirtualMachine", name)


def test_killed_qemu_with_policy_never_rests_until_somebody_starts_it(dc: Datacenter) -> None:
    dc.apply(diskless("killed-never", restartPolicy="Never"))
    dc.wait_state("killed-never", "Running")
    dc.kill_qemu("killed-never")
    vm = dc.wait_for("VirtualMachine", "killed-never", lambda o: o["status"]["placement"]["phase"] == "Released")
    assert dc.seen("killed-never") == {}
    assert vm["status"]["power"]["wanted"] == "Stopped"
    assert dc.do("killed-never", "Start")["phase"] == "Succeeded"
    vm = dc.wait_state("killed-never", "Running")
    assert vm["status"]["power"]["restarts"] == 0
    dc.delete("VirtualMachine", "killed-never")
    dc.wait_gone("VirtualMachine", "killed-never")


def test_declared_running_and_policy_never_is_stalled_not_ready(dc: Datacenter) -> None:
    dc.apply(diskless("declared-never", restartPolicy="Never", powerState="Running"))
    dc.wait_state("declared-never", "Running")
    dc.kill_qemu("declared-never")
    vm = dc.wait_for("VirtualMachine", "declared-never", lambda o: condition(o, "Stalled").get("status") == "True")
    assert (reason(vm), condition(vm, "Ready")["status"]) == ("GuestEnded", "False")
    assert dc.do("declared-never", "Start")["phase"] == "Succeeded"
    dc.wait_state("declared-never", "Running")
    dc.delete("VirtualMachine", "declared-never")
    dc.wait_gone("VirtualMachine", "declared-never")


def test_guest_that_switches_itself_off(dc: Datacenter) -> None:
    dc.apply(vm_manifest("off", restartPolicy="Always", shutdown={"gracePeriodSeconds": 0}))
    epoch = dc.wait_guest("off")["status"]["power"]["epoch"]
    _switch_off(dc, "off")
    vm = _later_run(dc, "off", epoch)
    assert vm["status"]["power"]["restarts"] == 1
    assert dc.metadata("off")["epoch"] == vm["status"]["power"]["epoch"]
    dc.patch("VirtualMachine", "off", {"spec": {"restartPolicy": "OnFailure"}})
    dc.wait_guest("off")
    _switch_off(dc, "off")
    vm = dc.wait_for("VirtualMachine", "off", lambda o: o["status"]["placement"]["phase"] == "Released")
    assert dc.seen("off") == {}
    assert vm["status"]["power"]["wanted"] == "Stopped"
    dc.delete("VirtualMachine", "off")
    dc.wait_gone("VirtualMachine", "off")


def _switch_off(dc: Datacenter, vm: str) -> None:
    """As a user in the guest does."""
    dc.guest(vm, "sync; (sleep 0.3; poweroff -f) >/dev/null 2>&1 &")
