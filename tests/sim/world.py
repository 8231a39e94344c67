"""The whole installation in memory: API server, leases, machines, processes, and a judge that sees every start.

Time is virtual; with one seed everything happens in one order. fork() gives the same world with nobody in it, which is
what a crash of every process leaves behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.sim.fakes.clock import FakeClock
from tests.sim.fakes.hosts import Datacenter, Line
from tests.sim.fakes.leases import LeaseStore
from tests.sim.fakes.machine import Started
from tests.sim.fakes.resources import FakeApi
from tests.sim.process import Operator, Planner, Process

from lq_operator.api.attestation import HostAttestation
from lq_operator.api.base import Resource
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.kinds import KINDS
from lq_operator.api.network import AddressClaim, VirtualNetwork
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.api.vmoperation import VirtualMachineOperation
from lq_operator.api.volume import Volume
from lq_operator.core.model import Epoch, Identity

NS = "web"
NO_PROCESS = "nobody"


class TwiceRunning(AssertionError):
    """An invariant of the ownership protocol is broken."""


@dataclass
class Judge:
    """Sees every start and every placement that is written; raises as soon as the promise is broken."""

    datacenter: Datacenter
    started: dict[Identity, Epoch] = field(default_factory=dict)
    released: dict[Identity, Epoch] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def start(self, event: Started) -> None:
        """A QEMU came up."""
        self.history.append(f"start {event.identity.key} on {event.machine} under {event.epoch}")
        before = self.started.get(event.identity)
        if before is not None and event.epoch <= before:
            self._break(f"{event.identity.key}: started under {event.epoch} after {before} on {event.machine}")
        self.started[event.identity] = max(event.epoch, before or event.epoch)
        self.look()

    def starts_of(self, name: str) -> int:
        """How often its QEMU was started."""
        return len([line for line in self.history if line.startswith(f"start {NS}/{name} ")])

    def placement(self, identity: Identity, placement: Mapping[str, Any]) -> None:
        """A placement was written."""
        self.history.append(
            f"placement {identity.key}: {placement.get('phase')} {placement.get('node', '')} "
            f"{placement.get('epoch', '')} released {placement.get('releasedEpoch', '')}"
        )
        text = placement.get("releasedEpoch", "")
        if text:
            epoch = Epoch.parse(text)
            self.released[identity] = max(epoch, self.released.get(identity, epoch))
        self.look()

    def look(self) -> None:
        """What runs where, now."""
        where: dict[Identity, list[str]] = {}
        for name, machine in self.datacenter.machines.items():
            for identity, epoch in machine.running():
                where.setdefault(identity, []).append(name)
                released = self.released.get(identity)
                if released is not None and epoch <= released:
                    self._break(f"{identity.key} runs on {name} under {epoch}, released up to {released}")
        self._disks()
        for identity, names in where.items():
            if len(names) > 1:
                self._break(f"{identity.key} runs on {' and '.join(names)}")

    def _disks(self) -> None:
        users: dict[str, set[str]] = {}
        for machine in self.datacenter.machines.values():
            for identity, path in machine.open_disks():
                users.setdefault(path, set()).add(identity.key)
        for path, keys in users.items():
            if len(keys) > 1:
                self._break(f"{path} is open in {' and '.join(sorted(keys))}")

    def _break(self, sentence: str) -> None:
        self.history.append(f"BROKEN {sentence}")
        self.broken.append(sentence)


class SimWorld:
    """Everything. Use: `world = SimWorld(); world.found(2); operator = world.operator(); await world.until(...)`."""

    def __init__(self, seed: int = 0, *, access: str = "Shared") -> None:
        self.clock = FakeClock(seed)
        self.api = FakeApi(self.clock)
        self.installation = "installation-1"
        self.access = access
        self.leases = LeaseStore()
        self.leases_in_api = True
        self.api_up = True
        self.datacenter = Datacenter(self.clock)
        self.judge = Judge(self.datacenter)
        self.processes: list[Process] = []
        self._born = 0
        self._wire()

    def _wire(self) -> None:
        self.datacenter.on_start = self.judge.start
        self.api.watch(self._written, lambda: None)

    def _written(self, event: str, kind: str, raw: Mapping[str, Any]) -> None:
        placement = raw.get("status", {}).get("placement")
        if kind == "VirtualMachine" and placement and event != "DELETED":
            meta = raw["metadata"]
            self.judge.placement(Identity(self.installation, meta["namespace"], meta["name"]), placement)

    def fork(self, seed: int = 1) -> SimWorld:
        """The same world at this moment, without any process."""
        twin = SimWorld(seed, access=self.access)
        twin.clock.skip(self.clock.mono_s())
        twin.api._kinds, twin.api._list_keys = self.api._kinds, self.api._list_keys
        twin.api._uids = self.api._uids
        twin.api.restore(self.api.snapshot())
        twin.leases.become(self.leases)
        twin.installation, twin.leases_in_api = self.installation, self.leases_in_api
        twin.datacenter = self.datacenter.copy(twin.clock)
        twin.judge = Judge(
            twin.datacenter, dict(self.judge.started), dict(self.judge.released), list(self.judge.history)
        )
        twin.datacenter.on_start = twin.judge.start
        twin._born = self._born + 100
        return twin

    # ------------------------------------------------------------ processes

    def operator(self) -> Operator:
        """Start `run`."""
        self._born += 1
        process = Operator(self, f"run-{self._born}")
        self.processes.append(process)
        return process

    def planner(self) -> Planner:
        """Start `scheduler`."""
        self._born += 1
        process = Planner(self, f"scheduler-{self._born}")
        self.processes.append(process)
        return process

    def forget(self, process: Process) -> None:
        """It is dead; its leases run out (at once: the wait teaches nothing)."""
        if process in self.processes:
            self.processes.remove(process)
        for held in self.leases.held.values():
            if held.holder == process.name:
                held.expires_s = 0.0

    async def close(self) -> None:
        """Nothing is left running."""
        for process in list(self.processes):
            await process.crash()
        self.datacenter.close()
        await self.clock.settle()

    # ------------------------------------------------------------ time

    async def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        await self.clock.advance(seconds)
        self.check()

    async def until(self, condition: Callable[[], bool], what: str = "", *, limit_s: float = 240.0) -> None:
        """Let time pass until it is so; AssertionError with the story otherwise."""
        good = await self.clock.run_until(condition, limit_s=limit_s)
        self.check()
        assert good, f"not within {limit_s} s: {what}\n{self.story()}"

    def check(self) -> None:
        """The invariants, and that no process died of a bug."""
        if self.judge.broken:
            raise TwiceRunning("\n".join(self.judge.broken) + "\n" + self.story())
        for process in self.processes:
            if process.bugs:
                raise AssertionError(f"{process.name} died of a bug") from process.bugs[0]

    def story(self) -> str:
        """What happened, for a person who debugs."""
        lines = self.judge.history[-40:]
        for move in self.api.raw_list(VirtualMachineMigration):
            lines.append(f"{move['metadata']['name']}: {_without_noise(move['status'])}")
        for vm in self.api.raw_list(VirtualMachine):
            status = vm["status"]
            lines.append(f"{vm['metadata']['name']}: {status.get('placement')} {status.get('power')}")
            lines += [
                f"   {c['type']}={c['status']} {c['reason']}: {c['message']}" for c in status.get("conditions", ())
            ]
        for name, machine in self.datacenter.machines.items():
            lines.append(
                f"{name} {self.datacenter.lines[name]}: "
                + ", ".join(f"{d.name} {d.state} {d.plan.epoch if d.plan else ''}" for d in machine.domains.values())
            )
        return "\n".join(lines)

    # ------------------------------------------------------------ what people do

    def found(self, hosts: int) -> None:
        """A cluster of that many hosts with one pool, one network and a namespace."""
        self.api.put_namespace(NS)
        self.manifests(hosts)
        for n in range(1, hosts + 1):
            if f"h{n}" not in self.datacenter.machines:
                self.datacenter.add(f"h{n}")
        if self.access == "Shared":
            for path in ("/srv/lq-disks", "/srv/lq-vmstate"):
                self.datacenter.shared.setdefault(path, {})

    def manifests(self, hosts: int) -> None:
        """What lies in Git for the hosts."""
        state = {"path": "/srv/lq-vmstate", "access": self.access}
        self.apply(HypervisorCluster, None, "c1", {"cpuModel": "qemu64", "statePool": state})
        pool = {"clusterRef": {"name": "c1"}, "type": "dir", "dir": {"path": "/srv/lq-disks"}, "access": self.access}
        self.apply(StoragePool, None, "p1", pool)
        self.apply(VirtualNetwork, NS, "n1", {"type": "nat", "subnet": "10.1.0.0/24"})
        for n in range(1, hosts + 1):
            self.apply(HypervisorNode, None, f"h{n}", {"clusterRef": {"name": "c1"}, "uri": f"qemu+tls://h{n}/system"})

    def apply(self, kind: type[Resource], namespace: str | None, name: str, spec: Mapping[str, Any]) -> None:
        """kubectl apply."""
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        self.api.user_apply(kind.model_validate({"metadata": metadata, "spec": dict(spec)}))

    def vm(self, name: str = "vm", **spec: Any) -> None:
        """kubectl apply of a VM with a disk and an address; spec in camelCase."""
        base: dict[str, Any] = {
            "cpu": {"count": 1},
            "memory": {"size": "512Mi"},
            "disks": [{"name": "root", "template": {"size": "1Gi"}}],
            "interfaces": [{"name": "eth0", "networkRef": {"name": "n1"}, "addressing": "Claim"}],
            "cloudInit": {"hostname": name},
            "shutdown": {"gracePeriodSeconds": 10},
        }
        self.apply(VirtualMachine, NS, name, {key: value for key, value in (base | spec).items() if value is not None})

    def delete(self, kind: type[Resource] = VirtualMachine, namespace: str | None = NS, name: str = "vm") -> None:
        """kubectl delete, then the garbage collector whenever it likes."""
        self.api.user_delete(kind, namespace, name)

    def operation(self, verb: str, vm: str = "vm", **spec: Any) -> str:
        """A VirtualMachineOperation; its name."""
        name = f"op-{verb.lower()}-{self.api._uids}"
        self.apply(VirtualMachineOperation, NS, name, {"vmRef": {"name": vm}, "verb": verb} | spec)
        return name

    def move(self, name: str = "move", vm: str = "vm", **spec: Any) -> None:
        """A VirtualMachineMigration; spec in camelCase. Again with cancel=True: called off."""
        self.apply(VirtualMachineMigration, NS, name, {"vmRef": {"name": vm}} | spec)

    def move_phase(self, name: str = "move") -> str:
        """status.phase of the move."""
        return str(self.raw(VirtualMachineMigration, NS, name).get("status", {}).get("phase", ""))

    def settled(self, name: str = "move", vm: str = "vm") -> bool:
        """The move has ended and its VM is on no way any more."""
        ended = self.move_phase(name) in ("Succeeded", "Failed", "Cancelled", "Refused")
        return ended and self.placement(vm).get("phase") != "Moving"

    def attest(self, node: str, name: str = "") -> None:
        """A person says that the machine has no power, copying from the node's status."""
        status = self.raw(HypervisorNode, None, node)["status"]
        spec = {
            "node": node,
            "hostUUID": status["hostUUID"],
            "boot": status["boot"],
            "term": self.raw(HypervisorCluster, None, "c1")["status"]["term"],
            "statement": "PoweredOff",
            "seen": "the plug lies on the floor",
            "attestedBy": "operator on duty",
        }
        self.apply(HostAttestation, None, name or f"off-{node}-{self.api._uids}", spec)

    def snapshot(self) -> tuple[object, LeaseStore]:
        """etcdctl snapshot save."""
        return self.api.snapshot(), self.leases.copy()

    def restore(self, snapshot: tuple[object, LeaseStore]) -> None:
        """etcdctl snapshot restore."""
        if self.leases_in_api:
            self.leases.become(snapshot[1])
        self.api.restore(snapshot[0])

    def wipe(self) -> None:
        """etcd is lost; the new cluster is told the old installation.id."""
        if self.leases_in_api:
            self.leases.become(LeaseStore())
        self.api.wipe()
        self.api.put_namespace(NS)

    # ------------------------------------------------------------ what is there

    def raw(self, kind: type[Resource], namespace: str | None, name: str) -> dict[str, Any]:
        """The document, {} when it is gone."""
        return self.api.raw(kind, namespace, name) or {}

    def placement(self, name: str = "vm") -> dict[str, Any]:
        """status.placement."""
        return dict(self.raw(VirtualMachine, NS, name).get("status", {}).get("placement") or {})

    def power(self, name: str = "vm") -> str:
        """status.power.state."""
        return str(self.raw(VirtualMachine, NS, name).get("status", {}).get("power", {}).get("state", ""))

    def condition(self, kind: type[Resource], namespace: str | None, name: str, type_: str = "Ready") -> dict[str, Any]:
        """One condition, {} when it is not there."""
        found = self.raw(kind, namespace, name).get("status", {}).get("conditions") or []
        return next((dict(c) for c in found if c["type"] == type_), {})

    def ready(self, name: str = "vm") -> str:
        """'True' with the reason word of Ready."""
        return str(self.condition(VirtualMachine, NS, name).get("status", ""))

    def runs_on(self, name: str = "vm") -> list[str]:
        """Machines where it runs, by asking them."""
        identity = Identity(self.installation, NS, name)
        return [m.name for m in self.datacenter.machines.values() if any(i == identity for i, _ in m.running())]

    def epoch(self, name: str = "vm") -> Epoch | None:
        """Epoch under which it runs."""
        identity = Identity(self.installation, NS, name)
        found = [e for m in self.datacenter.machines.values() for i, e in m.running() if i == identity]
        return found[0] if found else None

    def running(self, name: str = "vm") -> bool:
        """It runs on one host, and says so."""
        return self.power(name) == "Running" and len(self.runs_on(name)) == 1 and self.ready(name) == "True"

    def stopped(self, name: str = "vm") -> bool:
        """It runs nowhere, and says so."""
        return self.power(name) == "Stopped" and not self.runs_on(name) and self.ready(name) == "True"

    def hosts_ready(self, count: int) -> bool:
        """Every host is owned, member, and has pool and network."""
        nodes = self.api.raw_list(HypervisorNode)
        pool = self.condition(StoragePool, None, "p1").get("status")
        network = self.condition(VirtualNetwork, NS, "n1").get("status")
        ready = [
            n
            for n in nodes
            if all(
                any(c["type"] == t and c["status"] == "True" for c in n["status"].get("conditions", ()))
                for t in ("Ready", "Member")
            )
        ]
        return len(ready) == count and pool == network == "True"

    def gone(self, name: str = "vm") -> bool:
        """No object of it is left."""
        self.api.gc()
        prefix = f"{name}-"
        volumes = [v for v in self.api.raw_list(Volume) if v["metadata"]["name"].startswith(prefix)]
        return not self.raw(VirtualMachine, NS, name) and not volumes

    def leftovers(self) -> dict[str, Any]:
        """Everything that VMs brought into being, names without uids, epochs and hosts: two ends can be compared."""
        files: list[str] = []
        for path, names in self.datacenter.shared.items():
            files += [f"{path}/{_plain(n)}" for n in names if not n.startswith("nonce")]
        domains = []
        for machine in self.datacenter.machines.values():
            for path, names in machine.dirs.items():
                if not path.startswith(("/run/", "/var/lib/libvirt/lq-state")):
                    files += [f"{path}/{_plain(n)}" for n in names]
            domains += [f"{d.name} {d.state.value} {d.persistent}" for d in machine.domains.values()]
        nodes = self.api.raw_list(HypervisorNode)
        return {
            "files": sorted(files),
            "domains": sorted(domains),
            "claims": sorted(c["spec"]["address"] for c in self.api.raw_list(AddressClaim)),
            "volumes": sorted(f"{v['metadata']['name']} {v['status'].get('phase')}" for v in self.api.raw_list(Volume)),
            "tombstones": [t for n in nodes for t in n["status"].get("tombstones") or ()],
            "orphans": [o for n in nodes for o in n["status"].get("orphans") or ()],
            "vms": sorted(
                f"{v['metadata']['name']} {v['status'].get('power', {}).get('state')} "
                f"{(v['status'].get('placement') or {}).get('phase')} "
                f"{self.condition(VirtualMachine, NS, v['metadata']['name']).get('status')}"
                for v in self.api.raw_list(VirtualMachine)
            ),
            "operations": sorted(
                f"{o['spec']['verb']} {o['status'].get('phase')}" for o in self.api.raw_list(VirtualMachineOperation)
            ),
        }

    def mark(self) -> str:
        """Everything that outlives the processes, as one text: equal marks are equal worlds."""
        machines = [
            (name, self.datacenter.lines[name], m.boot, m.dirs, m.pools, m.domains, m.networks)
            for name, m in self.datacenter.machines.items()
        ]
        return repr((self.api._state.version, self.leases.term, self.datacenter.shared, machines))

    def silence(self, name: str, line: Line) -> None:
        """A machine falls silent in one of three ways."""
        {Line.CUT: self.datacenter.cut, Line.FROZEN: self.datacenter.freeze, Line.OFF: self.datacenter.power_off}[line](
            name
        )


def _without_noise(status: Mapping[str, Any]) -> dict[str, Any]:
    said = [f"{c['type']}={c['status']} {c['reason']}: {c['message']}" for c in status.get("conditions", ())]
    return {key: value for key, value in status.items() if key != "conditions" and value} | {"conditions": said}


def _plain(name: str) -> str:
    """A file name without the parts that differ from run to run."""
    return re.sub(r"uid-[0-9]*", "UID", re.sub(r"_\d+-\d+", "_EPOCH", name))


assert VirtualMachine in KINDS
