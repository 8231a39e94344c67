"""The demo: a datacenter on this machine, two VMs in it, three outages above QEMU that no guest notices, and a move.

    python -m lq_operator.lab.demo up|down [--name demo]

Everything is shown with kubectl and asked of the guests themselves; `down` compares the machine with what it was before.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lq_operator.lab import leftovers, manifests
from lq_operator.lab.datacenter import Lab, take_down
from lq_operator.lab.errors import LabError
from lq_operator.lab.host import LabHost
from lq_operator.lab.names import LabNames, lab_parent
from lq_operator.lab.release import Release

VMS = ("web-1", "web-2")
PATIENCE_S = 180.0
"""Emulated guests boot in four seconds on an idle machine and ten times slower on a busy one."""
_ENDED = ("Succeeded", "Failed", "Refused", "Cancelled")
_LOOKS = 4
"""At what is left, a second apart."""
SEPARATION = {"antiAffinity": [{"selector": {"matchLabels": {"app": "web"}}, "required": False}]}


class Demo:
    """One run of the demo in one lab."""

    def __init__(self, lab: Lab, say: Callable[[str], None]) -> None:
        self.lab = lab
        self.release = Release(lab)
        self.say = say
        self._wanted = ""

    def build(self) -> None:
        """Lab, operator, datacenter, VMs; returns when both guests have told their names."""
        self.lab.up(self.say)
        self.say("installing the operator: helm upgrade --install lq-operator charts/lq-operator")
        self.release.install()
        self._apply(manifests.dump(manifests.datacenter(self.lab)))
        self._until("three nodes are Ready", lambda: self._ready("hypervisornodes") == len(self.lab.hosts))
        vms = [self._vm(name) for name in VMS]
        self._wanted = manifests.dump([*manifests.datacenter(self.lab), *vms])
        self._apply(manifests.dump(vms))
        self._until("both VMs are running and their guests answer", self._guests_answer)
        self.show("hypervisornodes", "virtualmachines", "volumes")

    def break_things(self) -> None:
        """Operator, libvirtd, API server: each killed in turn, while the guests run on."""
        before = self.uptimes()
        self._outage("the operator is killed (kill -9 of every process)", self._kill_operator)
        self._outage("libvirtd is killed on one host and started again", self._kill_libvirtd)
        self._outage("the API server is stopped for ten seconds", self._stop_apiserver)
        self._until("three nodes are Ready again", lambda: self._ready("hypervisornodes") == len(self.lab.hosts))
        self._until("both VMs are Ready again", lambda: self._ready("virtualmachines") == len(VMS))
        after = self.uptimes()
        for name in VMS:
            kept = after[name] > before[name]
            self.say(
                f"{name}: up {before[name]:.0f} s before, {after[name]:.0f} s after: {'unbroken' if kept else 'RESTARTED'}"
            )
            if not kept:
                raise LabError(f"the guest of {name} was restarted")
        self._diff()

    def move(self) -> None:
        """One VM to a host that the scheduler picks, while its guest counts on."""
        vm, before = VMS[0], self.uptimes()[VMS[0]]
        home = self._host_of(vm).name
        self.say(f"\n--- {vm} moves away from {home} while it runs")
        self._apply(manifests.dump([manifests.migration("demo-move", vm)]))
        self._until("it has moved", lambda: self._phase("virtualmachinemigration", "demo-move") in _ENDED)
        self.show("virtualmachinemigrations")
        after, there = self.uptimes()[vm], self._host_of(vm).name
        if after < before or there == home:
            raise LabError(f"{vm} did not move: it is on {there}, up {after:.0f} s; kubectl describe vmmig demo-move")
        self.say(f"{vm}: up {before:.0f} s on {home}, {after:.0f} s on {there}")
        self.show("virtualmachines")

    def _phase(self, kind: str, name: str) -> str:
        return self.lab.kubectl("get", kind, name, "-o", "jsonpath={.status.phase}").stdout.strip()

    def uptimes(self) -> dict[str, float]:
        """Seconds each guest has been up, by its own clock."""
        return {name: float(self._inside(name, "cat /proc/uptime").split()[0]) for name in VMS}

    def show(self, *kinds: str) -> None:
        """What a person would type."""
        for kind in kinds:
            self.say(f"\n$ kubectl get {kind} -A")
            self.say(self.lab.kubectl("get", kind, "-A").stdout.rstrip())

    def farewell(self) -> None:
        """What to try next."""
        kubeconfig, name = self.lab.kubeconfig, self.lab.name
        self.say(f"""
Try next:
  export KUBECONFIG={kubeconfig}
  kubectl get vm,hvn,pool,vol -A
  kubectl get vm web-1 -o jsonpath='{{.status.scheduling.message}}'        # why it is where it is
  kubectl patch vm web-1 --type merge -p '{{"spec":{{"powerState":"Stopped"}}}}' && kubectl get vm -w
  lq-operator lab host --name {name} h1 freeze                             # its VMs turn Unknown, nothing is started twice
  lq-operator lab exec --name {name} h2 -- virsh list --all
  make demo-down""")

    # ------------------------------------------------------------ outages

    def _outage(self, what: str, happen: Callable[[], None]) -> None:
        self.say(f"\n--- {what}")
        happen()
        for name, seconds in self.uptimes().items():
            self.say(f"    {name}: up {seconds:.0f} s")

    def _kill_operator(self) -> None:
        for process in self.release.processes():
            self.lab.supervisor.kill(process.spec.name)

    def _kill_libvirtd(self) -> None:
        host = self._host_of(VMS[0])
        host.daemon_kill()
        time.sleep(2)
        host.daemon_start()
        host.wait_up()

    def _stop_apiserver(self) -> None:
        self.lab.apiserver_stop()
        time.sleep(10)
        self.lab.apiserver_start()

    # ------------------------------------------------------------ asking

    def _vm(self, name: str) -> manifests.Manifest:
        vm = dict(manifests.vm(name, spec={"placement": SEPARATION}))
        return {**vm, "metadata": {**vm["metadata"], "labels": {"app": "web"}}}

    def _apply(self, text: str) -> None:
        self.lab.kubectl("apply", "-f", "-", stdin=text)

    def _diff(self) -> None:
        found = self.lab.kubectl("diff", "-f", "-", stdin=self._wanted, check=False)
        if found.returncode != 0:
            raise LabError(f"the operator changed what was declared:\n{found.stdout}{found.stderr}")
        self.say("\nkubectl diff of everything that was applied: empty")

    def _objects(self, kind: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.lab.kubectl("get", kind, "-A", "-o", "json").stdout)["items"]
        return items

    def _ready(self, kind: str) -> int:
        return sum(
            any(c["type"] == "Ready" and c["status"] == "True" for c in item.get("status", {}).get("conditions", []))
            for item in self._objects(kind)
        )

    def _guests_answer(self) -> bool:
        states = [item.get("status", {}) for item in self._objects("virtualmachines")]
        return len(states) == len(VMS) and all(
            s.get("addresses") and s.get("guest", {}).get("hostname") for s in states
        )

    def _until(self, what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        self.say(f"waiting until {what}")
        while not done():
            if time.monotonic() > deadline:
                self.show("hypervisornodes", "virtualmachines", "volumes", "images")
                raise LabError(
                    f"gave up waiting until {what}; logs: lq-operator lab process --name {self.lab.name} lq-operator-run log"
                )
            time.sleep(0.5)

    def _host_of(self, vm: str) -> LabHost:
        node = self.lab.kubectl("get", "vm", vm, "-o", "jsonpath={.status.placement.node}").stdout.strip()
        return self.lab.host(node)

    def _inside(self, vm: str, command: str) -> str:
        """Run a command in the guest through its agent, asked on the host itself and not through our operator."""
        for host in self.lab.hosts:
            if f"lq_default_{vm}" in host.virsh("list", "--name").split():
                return guest_exec(host, f"lq_default_{vm}", command)
        raise LabError(f"no host runs {vm}")


def guest_exec(host: LabHost, domain: str, command: str, timeout_s: float = 60.0) -> str:
    """Output of a shell command inside a guest, by qemu-guest-agent. LabError when it does not end."""

    def ask(execute: str, **arguments: object) -> dict[str, object]:
        request = json.dumps({"execute": execute, "arguments": arguments})
        answer: dict[str, object] = json.loads(host.virsh("qemu-agent-command", domain, request))["return"]
        return answer

    pid = ask("guest-exec", path="/bin/sh", arg=["-c", command], **{"capture-output": True})["pid"]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = ask("guest-exec-status", pid=pid)
        if status["exited"]:
            return base64.b64decode(str(status.get("out-data", ""))).decode(errors="replace")
        time.sleep(0.1)
    raise LabError(f"{command!r} did not end inside {domain} within {timeout_s:.0f} s")


def up(name: str) -> int:
    """Build, break, tell."""
    _before_file(name).write_text(leftovers.of_machine().to_json())
    try:
        lab = Lab.load(name)
    except LabError:
        lab = Lab.create(name, hosts=3)
    demo = Demo(lab, lambda text: print(text, flush=True))
    demo.build()
    demo.break_things()
    demo.move()
    demo.farewell()
    return 0


def down(name: str) -> int:
    """Everything away; what is still there that was not before is told and is a failure."""
    take_down(name)
    left = [str(line) for line in leftovers.of_lab(LabNames.of(name))]
    before = _before_file(name)
    if before.exists():
        left += _added_since(leftovers.Leftovers.from_json(before.read_text()))
        before.unlink()
    for line in left:
        print(f"left behind: {line}")
    print("nothing is left" if not left else f"{len(left)} things are left")
    return 1 if left else 0


def _added_since(before: leftovers.Leftovers) -> list[str]:
    """What this machine holds more than before and no other lab accounts for: seen in every look.

    Other labs' processes come and go meanwhile; one that lives for a moment between two looks is nobody's leftover.
    """
    left: set[str] | None = None
    for _ in range(_LOOKS):
        others = _of_other_labs()
        added = leftovers.of_machine().added_since(before)
        others |= _of_other_labs()
        found = {line for line in added if line not in others}
        left = found if left is None else left & found
        if not left:
            return []
        time.sleep(1)
    return sorted(left or ())


def _of_other_labs() -> set[str]:
    """What other labs on this machine hold, by their names, and the folder that holds them: they came meanwhile and are nobody's leftovers."""
    folders = [path for path in lab_parent().glob("*") if path.is_dir()]
    around = {f"files: {lab_parent()}"} if folders else set()
    return around | {
        line for folder in folders for line in (*leftovers.of_lab(LabNames.of(folder.name)), f"files: {folder}")
    }


def _before_file(name: str) -> Path:
    """Outside the lab's folder, which goes; per user, so that two people do not meet."""
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"lq-demo-{name}-{os.getuid()}.json"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m lq_operator.lab.demo", description="the demo")
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--name", default="demo")
    arguments = parser.parse_args()
    try:
        return up(arguments.name) if arguments.action == "up" else down(arguments.name)
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
