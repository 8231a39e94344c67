"""A lab with the operator and a datacenter in it, and questions to its hosts and guests. Fixture `dc`, one per session.

What a test believes it asks of hosts (virsh, files) and guests (agent); the API is read to see whether status says the same.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from lxml import etree

from lq_operator.lab import manifests
from lq_operator.lab.datacenter import Lab
from lq_operator.lab.host import LabHost
from lq_operator.lab.release import Release

Object = dict[str, Any]
NAMESPACE = "e2e"
PATIENCE_S = float(os.environ.get("LQ_TEST_PATIENCE_S", "180"))
"""Bounds a wait that failed; emulated guests boot in four seconds on an idle machine and ten times slower on a busy one."""
_LQ = "{https://limiquantix.io/domain/1}"
_LOG_LINES = 12
_LOG_WIDTH = 400


class NotYetError(AssertionError):
    """A wait that ended without what it waited for; says what was last seen."""


@dataclass
class Datacenter:
    """`namespace`: where the tests' VMs live. Images and networks are the ones of `default`, which admit all."""

    lab: Lab
    release: Release
    namespace: str = NAMESPACE
    applied: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    # ------------------------------------------------------------ the API

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """In the tests' namespace; its output."""
        return self.lab.kubectl("-n", self.namespace, *arguments, stdin=stdin, check=check).stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """`kubectl apply`, as a user does; remembered for `diff`."""
        for one in objects:
            self.applied[f"{one['kind']}/{one['metadata']['name']}"] = one
        self.kubectl("apply", "-f", "-", stdin=manifests.dump(objects))

    def refused(self, *objects: Mapping[str, Any]) -> str:
        """The API server's words about objects that it must refuse."""
        result = self.lab.kubectl("-n", self.namespace, "apply", "-f", "-", stdin=manifests.dump(objects), check=False)
        assert result.returncode != 0, f"this was accepted: {result.stdout}"
        return result.stderr

    def diff(self, *vms: str) -> str:
        """`kubectl diff` of these VMs against what was applied for them."""
        applied = [self.applied[f"VirtualMachine/{name}"] for name in vms]
        result = self.lab.kubectl("-n", self.namespace, "diff", "-f", "-", stdin=manifests.dump(applied), check=False)
        assert result.returncode in (0, 1), result.stderr
        return result.stdout

    def get(self, kind: str, name: str) -> Object | None:
        """None when there is none."""
        out = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        return dict(json.loads(out)) if out.strip() else None

    def delete(self, kind: str, *names: str, wait: bool = False) -> None:
        """Ask for deletion."""
        for name in names:
            self.applied.pop(f"{kind}/{name}", None)
        self.kubectl("delete", kind, *names, f"--wait={str(wait).lower()}", "--ignore-not-found")

    def patch(self, kind: str, name: str, patch: Mapping[str, Any]) -> None:
        """A merge patch by the user."""
        said = self.lab.kubectl("-n", self.namespace, "patch", kind, name, "--type=merge", "-p", json.dumps(patch))
        assert "unknown field" not in said.stderr, said.stderr

    def vm(self, name: str) -> Object:
        """The VirtualMachine; AssertionError when it is gone."""
        found = self.get("VirtualMachine", name)
        assert found is not None, f"VirtualMachine {name} is gone"
        return found

    def wait_for(
        self, kind: str, name: str, predicate: Callable[[Object], Any], *, timeout_s: float = PATIENCE_S
    ) -> Object:
        """The object, once the predicate holds."""

        def look() -> Object | None:
            found = self.get(kind, name)
            return found if found is not None and predicate(found) else None

        return self.until(look, timeout_s=timeout_s, say=lambda: _brief(self.get(kind, name)))

    def wait_gone(self, kind: str, name: str, *, timeout_s: float = PATIENCE_S) -> None:
        """Until the object does not exist."""
        self.until(lambda: self.get(kind, name) is None, timeout_s=timeout_s, say=lambda: _brief(self.get(kind, name)))

    def wait_state(self, name: str, state: str, *, timeout_s: float = PATIENCE_S) -> Object:
        """status.power.state is this, and Ready is True for this generation."""
        return self.wait_for("VirtualMachine", name, lambda o: ready(o) and power(o) == state, timeout_s=timeout_s)

    def wait_guest(self, name: str, *, timeout_s: float = PATIENCE_S) -> Object:
        """Running, and its agent has told its name."""
        return self.wait_for(
            "VirtualMachine",
            name,
            lambda o: ready(o) and power(o) == "Running" and o["status"]["guest"]["agent"] == "Connected",
            timeout_s=timeout_s,
        )

    def operate(self, vm: str, verb: str, *, name: str = "", **spec: Any) -> str:
        """Create a VirtualMachineOperation; its name."""
        name = name or f"{vm}-{verb.lower()}-{time.monotonic_ns() % 10**9}"
        spec = {"vmRef": {"name": vm}, "verb": verb, **spec}
        self.kubectl("create", "-f", "-", stdin=manifests.dump([_lq("VirtualMachineOperation", name, spec)]))
        return name

    def outcome(self, operation: str, *, timeout_s: float = PATIENCE_S) -> Object:
        """Its status, once it has ended."""
        ended = ("Succeeded", "Failed", "Refused")
        found = self.wait_for("VirtualMachineOperation", operation, lambda o: phase(o) in ended, timeout_s=timeout_s)
        return dict(found["status"])

    def do(self, vm: str, verb: str, **spec: Any) -> Object:
        """An operation, waited for; its status."""
        return self.outcome(self.operate(vm, verb, **spec))

    def lab_claims(self) -> list[Object]:
        """Every AddressClaim: they live beside their network."""
        return list(json.loads(self.lab.kubectl("get", "addressclaims", "-A", "-o", "json").stdout)["items"])

    # ------------------------------------------------------------ the hosts

    def domain(self, vm: str) -> str:
        """Name of its domain."""
        return f"lq_{self.namespace}_{vm}"

    def domains(self) -> dict[str, dict[str, str]]:
        """Host -> domain -> state word, of every host that is up, asked of the hosts."""
        return {host.name: _domains_of(host) for host in self.lab.hosts if host.alive()}

    def seen(self, vm: str) -> dict[str, str]:
        """Host -> state word of this VM's domain, where there is one."""
        name = self.domain(vm)
        return {host: states[name] for host, states in self.domains().items() if name in states}

    def host_of(self, vm: str) -> LabHost:
        """The one host that has its domain."""
        seen = self.seen(vm)
        assert len(seen) == 1, f"{vm}: {seen}"
        return self.lab.host(next(iter(seen)))

    def xml(self, vm: str, *, inactive: bool = False) -> etree._Element:
        """Its definition, from its host."""
        flags = ["--inactive"] if inactive else []
        return etree.fromstring(self.host_of(vm).virsh("dumpxml", *flags, self.domain(vm)).encode())

    def metadata(self, vm: str) -> dict[str, str]:
        """What we wrote into the domain about it."""
        found = self.xml(vm).find(f"metadata/{_LQ}vm")
        assert found is not None
        return {str(key): str(value) for key, value in found.attrib.items()}

    def qemu_pid(self, vm: str) -> int:
        """Pid of its QEMU, in its host."""
        return int(self.host_of(vm).exec(["cat", f"/run/libvirt/qemu/{self.domain(vm)}.pid"], check=True).stdout)

    def kill_qemu(self, vm: str) -> None:
        """kill -9, as the kernel does when memory is short."""
        host = self.host_of(vm)
        host.exec(["kill", "-9", str(self.qemu_pid(vm))], check=True)

    def files(self, pool: str) -> set[str]:
        """File names in a pool, over all hosts, by listing its directory there."""
        found: set[str] = set()
        for host in self.lab.hosts:
            if not host.alive():
                continue
            path = etree.fromstring(host.virsh("pool-dumpxml", f"lq-{pool}").encode()).findtext("target/path")
            found |= set(host.exec(["ls", str(path)], check=True).stdout.split())
        return found

    def files_of(self, vm: str, pool: str = "vmstate") -> set[str]:
        """Files of a pool that carry its name."""
        return {name for name in self.files(pool) if f"_{self.namespace}_{vm}" in name}

    # ------------------------------------------------------------ the guests

    def agent(self, vm: str, command: str, **arguments: Any) -> Any:
        """One command to its agent, through its host; LabError when the agent does not answer."""
        request = json.dumps({"execute": command, "arguments": arguments})
        answer = self.host_of(vm).virsh("qemu-agent-command", "--timeout", "10", self.domain(vm), request)
        return json.loads(answer)["return"]

    def guest(self, vm: str, script: str, *, timeout_s: float = 60) -> str:
        """Output of a shell script in the guest. AssertionError when it fails there."""
        run = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}
        pid = self.agent(vm, "guest-exec", **run)["pid"]

        def ended() -> Object | None:
            status = dict(self.agent(vm, "guest-exec-status", pid=pid))
            return status if status["exited"] else None

        status = self.until(ended, timeout_s=timeout_s, every_s=0.1, say=lambda: f"{vm}: {script} runs still")
        out = base64.b64decode(status.get("out-data", "")).decode()
        error = base64.b64decode(status.get("err-data", "")).decode()
        assert status.get("exitcode") == 0, f"{vm}: {script!r} ended with {status}: {out}{error}"
        return out

    def uptime_s(self, vm: str) -> float:
        """Seconds since the guest's kernel started, by the guest."""
        return float(self.guest(vm, "cat /proc/uptime").split()[0])

    def boot_id(self, vm: str) -> str:
        """Another one after every boot of the guest's kernel."""
        return self.guest(vm, "cat /proc/sys/kernel/random/boot_id").strip()

    # ------------------------------------------------------------ waiting and explaining

    def until(
        self,
        look: Callable[[], Any],
        *,
        timeout_s: float = PATIENCE_S,
        every_s: float = 0.2,
        say: Callable[[], str] = lambda: "",
    ) -> Any:
        """What `look` returns, once it is true. NotYetError with `say` and the operator's last words otherwise."""
        deadline = time.monotonic() + timeout_s
        while True:
            if found := look():
                return found
            if time.monotonic() > deadline:
                raise NotYetError(f"not within {timeout_s:.0f} s: {say()}\nhosts: {self.domains()}\n{self.words()}")
            time.sleep(every_s)

    def words(self, lines: int = _LOG_LINES) -> str:
        """The last log lines of every process of the operator, those of the watch machinery left out."""
        parts = []
        for process in self.lab.supervisor.names():
            text = self.lab.supervisor.log(process).read_text(errors="replace").splitlines()
            kept = [line[:_LOG_WIDTH] for line in text if '"logger": "kopf.' not in line][-lines:]
            parts.append(f"--- {process}\n" + "\n".join(kept))
        return "\n".join(parts)


# ---------------------------------------------------------------- words about objects


def power(vm: Object) -> str:
    """status.power.state."""
    return str(vm.get("status", {}).get("power", {}).get("state", ""))


def phase(obj: Object) -> str:
    """status.phase."""
    return str(obj.get("status", {}).get("phase", ""))


def condition(obj: Object, kind: str) -> Object:
    """The condition, {} where there is none."""
    found = [c for c in obj.get("status", {}).get("conditions", []) if c["type"] == kind]
    return dict(found[0]) if found else {}


def ready(obj: Object) -> bool:
    """Ready is True, said about the spec as it is now."""
    found = condition(obj, "Ready")
    generation = obj["metadata"]["generation"]
    return found.get("status") == "True" and obj["status"].get("observedGeneration") == generation


def reason(obj: Object) -> str:
    """Reason of Ready."""
    return str(condition(obj, "Ready").get("reason", ""))


def _lq(kind: str, name: str, spec: Mapping[str, Any]) -> Object:
    return {"apiVersion": "limiquantix.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


lq = _lq
"""An object of ours; kubectl puts it into the tests' namespace."""


def vm_manifest(name: str, **spec: Any) -> Object:
    """A booting VM in the tests' namespace: shared pool, claimed address; `spec` is merged over it."""
    return dict(manifests.vm(name, NAMESPACE, spec={"shutdown": {"gracePeriodSeconds": 60}} | spec))


def diskless(name: str, **spec: Any) -> Object:
    """A VM without disks, NICs and agent: its QEMU runs, nothing boots in it."""
    base = {"disks": [], "interfaces": [], "guestAgent": False, "shutdown": {"gracePeriodSeconds": 0}}
    manifest = dict(manifests.vm(name, NAMESPACE, spec=base | spec))
    if "cloudInit" not in spec:
        manifest["spec"] = {key: value for key, value in manifest["spec"].items() if key != "cloudInit"}
    return manifest


def _brief(obj: Object | None) -> str:
    if obj is None:
        return "it does not exist"
    status = {k: v for k, v in obj.get("status", {}).items() if k not in ("hardware", "scheduling")}
    return f"{obj['kind']} {obj['metadata']['name']}: {json.dumps(status)}"


def _domains_of(host: LabHost) -> dict[str, str]:
    lines = host.virsh("list", "--all").splitlines()
    found = (line.split(None, 2) for line in lines if line.strip())
    return {name: state for _, name, state in found}


@pytest.fixture(scope="session")
def dc(lab: Lab) -> Iterator[Datacenter]:
    """The lab with the released operator and its datacenter, all Ready."""
    found = Datacenter(lab, Release(lab))
    found.release.install({"coordination": {"ttlSeconds": 10}, "gateway": {"enabled": True, "recheckSeconds": 5}})
    lab.kubectl("create", "namespace", NAMESPACE, check=False)
    lab.kubectl("apply", "-f", "-", stdin=manifests.dump(manifests.datacenter(lab)))
    lab.kubectl(
        "wait", "--for=condition=Ready", "hypervisornodes,storagepools,virtualnetworks", "--all", "-A", "--timeout=90s"
    )
    yield found
    lab.kubectl("delete", "namespace", NAMESPACE, "--wait=true", "--timeout=120s", check=False)
    if not os.environ.get("LQ_TEST_LAB"):
        found.release.stop()
