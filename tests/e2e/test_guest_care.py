"""Care for guests through their agents, judged from inside the guest: hangs, watchdogs, passwords, ssh keys, commands."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from tests.e2e.datacenter import Datacenter, Object, condition, lq, vm_manifest
from tests.e2e.test_plugin import Plugin

from lq_operator.lab import manifests
from lq_operator.lab.errors import LabError

AFTER_S = 15
"""An emulated guest on a busy machine takes seconds to answer, not this long."""
CRASH = "echo 0 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger"
"""The kernel panics and stays there: nothing is cut off, nothing boots by itself."""
FREEZE = "kill -STOP $(pidof qemu-ga)"
"""The agent holds its channel open, as in a guest that gets no CPU."""
ARM = """
for d in /sys/bus/pci/devices/*; do [ "$(cat $d/device)" = 0x25ab ] && W=$d; done
printf '\\004\\000' | dd of=$W/config bs=2 seek=48 count=1 conv=notrunc 2>/dev/null
printf '\\002' | dd of=$W/config bs=1 seek=104 count=1 conv=notrunc 2>/dev/null
"""
"""Arms the i6300esb without a driver (Debian's cloud kernel has none): 1 MHz clock, then enabled; nobody feeds it, so it
fires within two seconds."""


@pytest.fixture(scope="module")
def guest(dc: Datacenter) -> Iterator[str]:
    heartbeat = {"action": "Reset", "afterSeconds": AFTER_S, "tries": 2}
    dc.apply(vm_manifest("care", heartbeat=heartbeat, shutdown={"gracePeriodSeconds": 0}))
    dc.wait_guest("care")
    yield "care"
    dc.delete("VirtualMachine", "care")
    dc.wait_gone("VirtualMachine", "care")


def begin(dc: Datacenter, vm: str, script: str) -> None:
    """Start a script in the guest that the agent does not survive: nobody asks how it ended."""
    dc.agent(vm, "guest-exec", path="/bin/sh", arg=["-c", script])


def boots(dc: Datacenter, vm: str) -> int:
    """How often it has booted, by the guest's own disk."""
    return int(dc.guest(vm, "cat /disk/boots"))


def hung(vm: Object) -> tuple[str, str]:
    found = condition(vm, "GuestHung")
    return found.get("status", ""), found.get("reason", "")


def is_back(vm: Object, tries: int) -> bool:
    return hung(vm) == ("False", "Answers") and vm["status"]["heartbeat"].get("tries", 0) == tries


def reasons(dc: Datacenter, vm: str) -> set[str]:
    """Of the Events about it."""
    selector = f"involvedObject.name={vm},involvedObject.kind=VirtualMachine"
    out = dc.kubectl("get", "events", "--field-selector", selector, "-o", "jsonpath={.items[*].reason}")
    return set(out.split())


def test_panicked_guest_is_reset_and_counts_one_boot_more(dc: Datacenter, guest: str) -> None:
    dc.wait_for("VirtualMachine", guest, lambda o: is_back(o, 0))
    before, pid, epoch = boots(dc, guest), dc.qemu_pid(guest), dc.metadata(guest)["epoch"]
    begin(dc, guest, CRASH)
    vm = dc.wait_for("VirtualMachine", guest, lambda o: is_back(o, 1))
    assert vm["status"]["heartbeat"]["lastAction"] == "Reset"
    assert boots(dc, guest) == before + 1
    assert (dc.qemu_pid(guest), dc.metadata(guest)["epoch"]) == (pid, epoch)
    dc.until(lambda: {"GuestHungReset", "GuestBack"} <= reasons(dc, guest), say=lambda: f"{reasons(dc, guest)}")


def test_agent_that_was_stopped_and_a_pause_are_no_hang(dc: Datacenter, guest: str) -> None:
    before = boots(dc, guest)
    begin(dc, guest, "kill $(pidof qemu-ga); sleep 20; qemu-ga -m virtio-serial -p /dev/vport*p1 -t /run -d")
    dc.wait_for("VirtualMachine", guest, lambda o: hung(o) == ("False", "NotListening"))
    dc.wait_for("VirtualMachine", guest, lambda o: hung(o) == ("False", "Answers"))
    assert dc.do(guest, "Pause")["phase"] == "Succeeded"
    dc.wait_for("VirtualMachine", guest, lambda o: hung(o)[0] == "Unknown")
    assert dc.do(guest, "Resume")["phase"] == "Succeeded"
    dc.wait_for("VirtualMachine", guest, lambda o: hung(o) == ("False", "Answers"))
    assert boots(dc, guest) == before


def test_frozen_agent_is_restarted_by_a_new_operator_and_given_up_the_next_time(dc: Datacenter, guest: str) -> None:
    """The policy is changed live. The operations of the test before have counted the tries from zero."""
    before, epoch = boots(dc, guest), dc.metadata(guest)["epoch"]
    begin(dc, guest, FREEZE)
    dc.lab.supervisor.kill("lq-operator-run")
    dc.patch("VirtualMachine", guest, {"spec": {"heartbeat": {"action": "Restart", "tries": 1}}})
    vm = dc.wait_for("VirtualMachine", guest, lambda o: is_back(o, 1))
    assert dc.metadata(guest)["epoch"] not in (epoch, "")
    assert vm["status"]["power"]["restarts"] == 1
    assert boots(dc, guest) == before + 1
    begin(dc, guest, FREEZE)
    dc.wait_for("VirtualMachine", guest, lambda o: hung(o) == ("True", "GivenUp"))
    with pytest.raises(LabError):
        dc.agent(guest, "guest-ping")


@pytest.mark.parametrize("action", ["reset", "poweroff"])
def test_watchdog_that_nobody_feeds(dc: Datacenter, action: str) -> None:
    """By its host, without us; after poweroff restartPolicy OnFailure starts it anew: its QEMU did not end in order."""
    name = f"watchdog-{action}"
    dc.apply(vm_manifest(name, watchdog=action, restartPolicy="OnFailure", shutdown={"gracePeriodSeconds": 0}))
    dc.wait_guest(name)
    before, epoch = boots(dc, name), dc.metadata(name)["epoch"]
    begin(dc, name, ARM)
    dc.until(lambda: "WatchdogFired" in reasons(dc, name), say=lambda: f"{reasons(dc, name)}")
    if action == "poweroff":
        dc.wait_for("VirtualMachine", name, lambda o: o["status"]["power"]["restarts"] == 1)
    dc.until(lambda: rebooted(dc, name, before), say=lambda: "it has not booted again")
    assert (dc.metadata(name)["epoch"] == epoch) == (action == "reset")
    dc.delete("VirtualMachine", name)
    dc.wait_gone("VirtualMachine", name)


def rebooted(dc: Datacenter, vm: str, before: int) -> bool:
    """It answers, and has counted one boot more."""
    try:
        return boots(dc, vm) == before + 1
    except (LabError, AssertionError):
        return False


KEYS = [f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA{c * 43} {c}@example" for c in "AB"]
PASSWORD = "s3cret: with $igns and spaces"


@pytest.fixture(scope="module")
def account(dc: Datacenter) -> Iterator[str]:
    data = {"password": PASSWORD + "\n", "keys": "# two of them\n" + "\n".join(KEYS) + "\n", "one": KEYS[0]}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "account"}, "stringData": data}
    dc.apply(vm_manifest("account", shutdown={"gracePeriodSeconds": 0}), secret)
    dc.wait_guest("account")
    yield "account"
    dc.delete("VirtualMachine", "account")
    dc.delete("Secret", "account")
    dc.wait_gone("VirtualMachine", "account")


def change(dc: Datacenter, vm: str, verb: str, key: str, user: str = "root", **spec: object) -> Object:
    return dc.do(vm, verb, user=user, secretRef={"name": "account", "key": key}, **spec)


def hash_of(dc: Datacenter, vm: str) -> str:
    return dc.guest(vm, "sed -n 's/^root:\\([^:]*\\):.*/\\1/p' /etc/shadow").strip()


def test_password_is_the_one_of_the_secret_and_is_said_nowhere(dc: Datacenter, account: str) -> None:
    assert change(dc, account, "SetPassword", "password")["phase"] == "Succeeded"
    stored = hash_of(dc, account)
    salt = stored.split("$")[2]
    made = dc.guest(account, f"printf '%s\\n' '{PASSWORD}' | mkpasswd -m sha512 -S '{salt}' -P 0").strip()
    assert made == stored
    told = dc.kubectl("get", "vm,vmop,events", "-o", "yaml") + dc.words(lines=2000)
    assert PASSWORD not in told


def test_ssh_keys_are_added_once_and_taken_out(dc: Datacenter, account: str) -> None:
    keys = lambda: dc.guest(account, "cat /root/.ssh/authorized_keys").splitlines()  # noqa: E731
    kept = keys()  # those of the seed
    for _ in range(2):
        assert change(dc, account, "AddSshKeys", "keys")["phase"] == "Succeeded"
        assert sorted(keys()) == sorted([*kept, *KEYS])
    assert change(dc, account, "RemoveSshKeys", "one")["phase"] == "Succeeded"
    assert sorted(keys()) == sorted([*kept, KEYS[1]])


def test_what_cannot_be_done_says_why_and_changes_nothing(dc: Datacenter, account: str) -> None:
    before = hash_of(dc, account)
    for verb, key, user, words in (
        ("SetPassword", "password", "nobody-here", "nobody-here: the guest refuses"),
        ("AddSshKeys", "keys", "nobody-here", "nobody-here: the guest refuses"),
        ("AddSshKeys", "password", "root", "is no public key"),
        ("SetPassword", "keys", "root", "one line"),
        ("SetPassword", "absent", "root", "has no key absent"),
    ):
        outcome = change(dc, account, verb, key, user)
        assert (outcome["phase"], words in outcome["message"]) == ("Failed", True), outcome
    begin(dc, account, FREEZE)
    outcome = change(dc, account, "SetPassword", "password", deadlineSeconds=1)
    assert (outcome["phase"], "the agent does not answer" in outcome["message"]) == ("Failed", True), outcome
    dc.do(account, "Reset")
    dc.until(lambda: rebooted_or_same(dc, account), say=lambda: "not back")
    assert hash_of(dc, account) == "*"  # its root is in memory: before is gone, and nothing was set since
    assert before != "*"


def rebooted_or_same(dc: Datacenter, vm: str) -> bool:
    try:
        return bool(dc.guest(vm, "cat /proc/uptime"))
    except (LabError, AssertionError):
        return False


def test_who_may_start_and_stop_may_not_set_passwords(dc: Datacenter, account: str) -> None:
    dc.kubectl("create", "serviceaccount", "starter", check=False)
    subject = f"--serviceaccount={dc.namespace}:starter"
    dc.kubectl("create", "rolebinding", "starter", "--clusterrole=limiquantix-operator", subject, check=False)
    spec = {"vmRef": {"name": account}, "verb": "SetPassword", "user": "root"}
    made = lq("VirtualMachineOperation", "sneaky", spec | {"secretRef": {"name": "account", "key": "password"}})
    who = f"--as=system:serviceaccount:{dc.namespace}:starter"
    refused = dc.lab.kubectl("-n", dc.namespace, who, "create", "-f", "-", stdin=manifests.dump([made]), check=False)
    assert refused.returncode != 0
    assert "virtualmachines/access" in refused.stderr
    pause = lq("VirtualMachineOperation", "allowed", {"vmRef": {"name": account}, "verb": "Resume"})
    dc.lab.kubectl("-n", dc.namespace, who, "create", "-f", "-", stdin=manifests.dump([pause]))
    dc.kubectl("create", "rolebinding", "starter-admin", "--clusterrole=limiquantix-admin", subject, check=False)
    dc.lab.kubectl("-n", dc.namespace, who, "create", "-f", "-", stdin=manifests.dump([made]))
    dc.outcome("sneaky")
    dc.delete("rolebinding", "starter", "starter-admin")
    dc.delete("serviceaccount", "starter")


# ---------------------------------------------------------------- commands, by the real kubectl


@pytest.fixture(scope="module")
def plugin(dc: Datacenter, account: str) -> Iterator[Plugin]:
    rule = {"apiGroups": ["limiquantix.io"], "resources": ["virtualmachines/exec"], "verbs": ["create"]}
    api = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": {"name": "runner"}, "rules": [rule]}
    dc.apply(role)
    for who, grant in (("runner", "--role=runner"), ("typist", "--clusterrole=limiquantix-operator")):
        dc.kubectl("create", "serviceaccount", who)
        dc.kubectl("create", "rolebinding", who, grant, f"--serviceaccount={dc.namespace}:{who}")
    yield Plugin(dc)
    dc.delete("rolebinding", "runner", "typist")
    dc.delete("serviceaccount", "runner", "typist")
    dc.delete("role", "runner")


def run_in(
    plugin: Plugin, vm: str, who: str, *words: str, flags: tuple[str, ...] = (), stdin: str = ""
) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)."""
    argv = ["exec", f"vm/{vm}", "-n", plugin.dc.namespace, "--service-account", who, *flags, "--", *words]
    done = subprocess.run(
        [plugin.kubectl, "lq", *argv],
        env=plugin.environ,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_command_runs_in_the_guest_with_output_exit_code_and_input(plugin: Plugin, account: str) -> None:
    dc = plugin.dc
    script = "cat; hostname; echo oops >&2; exit 7"
    assert run_in(plugin, account, "runner", "sh", "-c", script, flags=("-i",), stdin="in\n") == (
        7,
        f"in\n{account}\n",
        "oops\n",
    )
    code, out, _ = run_in(plugin, account, "runner", "cat", "/proc/sys/kernel/random/boot_id", flags=("-o", "json"))
    told = json.loads(out)
    assert (code, told["exitCode"], told["stdout"].strip(), told["truncated"]) == (0, 0, dc.boot_id(account), False)
    code, out, error = run_in(plugin, account, "runner", "sh", "-c", "yes | head -c 1500000")
    assert (code, len(out), "the output is cut" in error) == (0, 1 << 20, True)


def test_what_cannot_be_run_says_why(plugin: Plugin, account: str) -> None:
    code, _, error = run_in(plugin, account, "runner", "/no/such/program")
    assert (code, "the guest refuses" in error) == (1, True), error
    code, _, error = run_in(plugin, account, "runner", "sleep", "60", flags=("--timeout", "1"))
    assert (code, "it runs still after 1 s, in the guest as pid" in error) == (1, True), error


def test_the_right_is_its_own_and_what_is_refused_is_audited_without_arguments(plugin: Plugin, account: str) -> None:
    dc = plugin.dc
    code, _, error = run_in(plugin, account, "typist", "touch", "/run/hunter2")
    assert (code, "may not create exec of vm/account" in error) == (1, True), error
    assert dc.guest(account, "ls /run").split().count("hunter2") == 0
    dc.until(lambda: {"Exec", "ExecRefused"} <= reasons(dc, account), say=lambda: f"{reasons(dc, account)}")
    said = dc.kubectl("get", "events", "-o", "yaml") + dc.lab.supervisor.log("lq-operator-gateway").read_text()
    assert "system:serviceaccount:e2e:typist" in said
    assert "touch" in said
    assert "hunter2" not in said
