"""A hypervisor in memory: disk, tmpfs, pools, networks, domains, power. What libvirtd would do, and when it refuses.

Semantics are those that lab/gate.md and the host contract measured on the real one. A reboot empties every tmpfs and
leaves definitions shut off; a gate is looked for at every start and restore, and at no other time.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tests.sim.fakes.hotplug import Hotplug

from lq_operator.adapters.libvirt.xml.build import file_name
from lq_operator.adapters.libvirt.xml.domain import domain_xml
from lq_operator.core.model import (
    AgentState,
    CommandOutcome,
    DomainEvent,
    DomainPlan,
    DomainSeen,
    DomainState,
    Epoch,
    GuestFacts,
    HardwareAbi,
    HostInventory,
    HostUUID,
    Identity,
    NetworkPlan,
    NetworkSeen,
    NodeName,
    NumaCell,
    PoolPlan,
    PoolSeen,
    VolumePlan,
    VolumeSeen,
)
from lq_operator.core.result import Conflict, NotFound, Rejected, Transient

TMPFS = "/run/"
POOL_BYTES = 1 << 40


@dataclass
class File:
    """One file. `image`: the plan of the guest whose memory it holds, for suspend images."""

    format: str = "raw"
    capacity: int = 0
    content: bytes = b""
    image: DomainPlan | None = None


@dataclass
class Pool:
    """A dir pool. `known`: what libvirt has in its list."""

    path: str
    autostart: bool
    active: bool = False
    known: set[str] = field(default_factory=set)


@dataclass
class Domain:
    """A domain. `plan` is the inactive definition (None: somebody's own), `live` what runs, `started` what it was then.

    `holds_guest` False: its QEMU waits for a guest that is moved here, or has given it away.
    """

    name: str
    plan: DomainPlan | None
    persistent: bool = True
    state: DomainState = DomainState.SHUTOFF
    reason: str = "unknown"
    live: DomainPlan | None = None
    holds_guest: bool = True
    started: DomainPlan | None = None


@dataclass
class Started:
    """One start that a QEMU really made, for the checker."""

    machine: str
    identity: Identity
    epoch: Epoch


def _quiet(event: DomainEvent) -> None:
    del event


class Machine:
    """One host. Every method is what libvirtd does when the call arrives; nothing here waits."""

    def __init__(self, name: str, shared: dict[str, dict[str, File]] | None = None) -> None:
        self.name = NodeName(name)
        self.uuid = HostUUID(str(uuid.uuid5(uuid.NAMESPACE_DNS, name)))
        self.boot = 1
        self.dirs: dict[str, dict[str, File]] = {}
        self.shared = shared if shared is not None else {}
        self.pools: dict[str, Pool] = {}
        self.networks: dict[str, tuple[NetworkPlan | None, NetworkSeen]] = {}
        self.bridges: set[str] = set()
        self.domains: dict[str, Domain] = {}
        self.memory_mib = 65536
        self.usable_cpu_models: tuple[str, ...] = ("qemu64", "kvm64")
        self.emulates_tpm = True
        self.agent = True
        self.hung: set[str] = set()
        self.users = {"root"}
        self.commands: dict[tuple[str, int], CommandOutcome | None] = {}
        self.passwords: dict[tuple[str, str], str] = {}
        self.ssh_keys: dict[tuple[str, str], tuple[str, ...]] = {}
        self.obedient = True
        self.asked: list[tuple[str, str]] = []
        self.resets: list[str] = []
        self.hotplug = Hotplug(self)
        self.emit: Callable[[DomainEvent], None] = _quiet
        self.on_start: Callable[[Started], None] = lambda started: None

    # ------------------------------------------------------------ copies, for crashes at every line

    def copy(self, shared: dict[str, dict[str, File]]) -> Machine:
        """The same machine as it is now, to be broken on its own."""
        twin = Machine(self.name, shared)
        twin.uuid, twin.boot = self.uuid, self.boot
        twin.dirs = {path: {name: replace(f) for name, f in files.items()} for path, files in self.dirs.items()}
        twin.pools = {name: replace(pool, known=set(pool.known)) for name, pool in self.pools.items()}
        twin.networks, twin.bridges = dict(self.networks), set(self.bridges)
        twin.domains = {name: replace(domain) for name, domain in self.domains.items()}
        twin.memory_mib, twin.agent, twin.obedient = self.memory_mib, self.agent, self.obedient
        twin.usable_cpu_models = self.usable_cpu_models
        twin.emulates_tpm = self.emulates_tpm
        twin.hung, twin.users = set(self.hung), set(self.users)
        twin.commands = dict(self.commands)
        twin.passwords, twin.ssh_keys = dict(self.passwords), dict(self.ssh_keys)
        twin.hotplug.holds = set(self.hotplug.holds)
        return twin

    # ------------------------------------------------------------ power

    def lose_power(self) -> None:
        """Everything that ran is gone, and every tmpfs; definitions come back shut off at the next boot."""
        self.boot += 1
        for path in [path for path in self.dirs if (path + "/").startswith(TMPFS)]:
            del self.dirs[path]
        for domain in list(self.domains.values()):
            if not domain.persistent:
                del self.domains[domain.name]
            else:
                domain.state, domain.reason, domain.live = DomainState.SHUTOFF, "unknown", None
                domain.holds_guest = True
        for pool in self.pools.values():
            pool.active = pool.autostart and self._files(pool.path) is not None
            pool.known = set(self._files(pool.path) or ()) if pool.active else set()
        self.networks = {name: (p, replace(seen, active=True)) for name, (p, seen) in self.networks.items()}

    # ------------------------------------------------------------ files

    def _files(self, path: str) -> dict[str, File] | None:
        if path in self.shared:
            return self.shared[path]
        return self.dirs.get(path)

    def file(self, path: str) -> File | None:
        """The file of that absolute path."""
        directory, _, name = path.rpartition("/")
        return (self._files(directory) or {}).get(name)

    def put_file(self, path: str, file: File | None = None) -> None:
        """Behind libvirt's back."""
        directory, _, name = path.rpartition("/")
        files = self._files(directory)
        if files is None:
            files = self.dirs.setdefault(directory, {})
        files[name] = file or File()

    def remove_file(self, path: str) -> None:
        """Behind libvirt's back."""
        directory, _, name = path.rpartition("/")
        (self._files(directory) or {}).pop(name, None)

    def remove_dir(self, path: str) -> None:
        """Behind libvirt's back."""
        self.dirs.pop(path, None)

    # ------------------------------------------------------------ pools and volumes

    def ensure_pool(self, plan: PoolPlan) -> PoolSeen:
        pool = self.pools.get(plan.name)
        if pool is None:
            pool = self.pools[plan.name] = Pool(plan.path, plan.autostart)
        if pool.path != plan.path:
            raise Rejected(f"pool {plan.name} exists at {pool.path}, wanted {plan.path}", field="path")
        if self._files(pool.path) is None:
            pool.active = False
            if plan.build:
                self.dirs[pool.path] = {}
        pool.active = True
        pool.known = set(self._files(pool.path) or ())
        return self._pool_seen(plan.name, pool)

    def remove_pool(self, name: str) -> None:
        self.pools.pop(name, None)

    def list_pools(self) -> tuple[PoolSeen, ...]:
        return tuple(self._pool_seen(name, pool) for name, pool in sorted(self.pools.items()))

    def _pool_seen(self, name: str, pool: Pool) -> PoolSeen:
        return PoolSeen(name, pool.active, pool.path, POOL_BYTES, POOL_BYTES // 2)

    def _pool(self, name: str) -> Pool:
        pool = self.pools.get(name)
        if pool is None:
            raise NotFound(f"there is no pool {name} on {self.name}")
        return pool

    def list_volumes(self, pool_name: str, *, refresh: bool) -> tuple[VolumeSeen, ...]:
        pool = self._pool(pool_name)
        files = self._files(pool.path)
        if pool.active and refresh:
            pool.known, pool.active = set(files or ()), files is not None
        if not pool.active:
            raise Conflict(f"pool {pool_name} on {self.name} is not active")
        files = files or {}
        return tuple(self._seen(pool, name, files.get(name, File())) for name in sorted(pool.known))

    def _seen(self, pool: Pool, name: str, file: File) -> VolumeSeen:
        return VolumeSeen(name, f"{pool.path}/{name}", file.format, file.capacity, len(file.content))

    def create_volume(self, pool_name: str, plan: VolumePlan) -> VolumeSeen:
        file_name(plan.name, "name")
        pool = self._pool(pool_name)
        if not pool.active:
            raise Transient(f"pool {pool_name} is not active")
        files = self._files(pool.path)
        if files is None:
            raise Transient(f"pool {pool_name}: its directory is gone")
        source = None
        if plan.clone_of is not None:
            if plan.clone_of not in pool.known or plan.clone_of not in files:
                raise NotFound(f"there is no volume {plan.clone_of} in {pool_name}")
            source = files[plan.clone_of]
        if plan.name in pool.known or plan.name in files:
            raise Conflict(f"volume {plan.name} exists in {pool_name}")
        if source is not None and source.capacity > plan.capacity_bytes > 0:
            raise Rejected(f"{plan.capacity_bytes} bytes are less than the source's", field="capacity")
        files[plan.name] = File(plan.format, plan.capacity_bytes, source.content if source else b"")
        pool.known.add(plan.name)
        return self._seen(pool, plan.name, files[plan.name])

    def _volume(self, pool_name: str, name: str) -> File:
        pool = self._pool(pool_name)
        file = (self._files(pool.path) or {}).get(name)
        if file is None or name not in pool.known:
            raise NotFound(f"there is no volume {name} in {pool_name}")
        return file

    def resize_volume(self, pool_name: str, name: str, capacity_bytes: int) -> None:
        file = self._volume(pool_name, name)
        if capacity_bytes < file.capacity:
            raise Rejected(f"volume {name} cannot shrink", field="capacity")
        file.capacity = capacity_bytes

    def delete_volume(self, pool_name: str, name: str) -> None:
        pool = self._pool(pool_name)
        if not pool.active:
            raise Transient(f"pool {pool_name} is not active: whether {name} is there is not known")
        (self._files(pool.path) or {}).pop(name, None)
        pool.known.discard(name)

    def write_volume(self, pool_name: str, name: str, offset: int, chunk: bytes) -> None:
        file = self._volume(pool_name, name)
        file.content = file.content[:offset].ljust(offset, b"\0") + chunk + file.content[offset + len(chunk) :]

    def download(self, pool_name: str, name: str, length: int) -> bytes:
        file = self._volume(pool_name, name)
        return file.content.ljust(file.capacity, b"\0")[:length]

    # ------------------------------------------------------------ networks

    def ensure_network(self, plan: NetworkPlan) -> NetworkSeen:
        found = self.networks.get(plan.name)
        if found is None:
            seen = NetworkSeen(plan.name, True, plan.bridge_name or f"virbr{len(self.networks)}")
            self.networks[plan.name] = (plan, seen)
            self.bridges.add(seen.bridge)
            return seen
        if found[0] != plan:
            raise Rejected(f"network {plan.name} exists on {self.name} and is not as wanted")
        return found[1]

    def remove_network(self, name: str) -> None:
        found = self.networks.get(name)
        if found is None:
            return
        if found[0] is None:
            raise Rejected(f"network {name} is not ours")
        del self.networks[name]

    def define_foreign_network(self, name: str) -> None:
        self.networks[name] = (None, NetworkSeen(name, False, "virbr99"))

    # ------------------------------------------------------------ domains

    def list_domains(self) -> tuple[DomainSeen, ...]:
        return tuple(_describe(domain) for _, domain in sorted(self.domains.items()))

    def find_domain(self, name: str) -> DomainSeen | None:
        domain = self.domains.get(name)
        return _describe(domain) if domain is not None else None

    def domain(self, name: str) -> Domain:
        """NotFound where there is none."""
        domain = self.domains.get(name)
        if domain is None:
            raise NotFound(f"there is no domain {name} on {self.name}")
        return domain

    def define_foreign(self, name: str) -> None:
        self.domains[name] = Domain(name, None)

    def define(self, plan: DomainPlan) -> None:
        domain_xml(plan)  # what cannot be written down is refused by the same rules as on the real one
        name = plan.identity.domain_name
        domain = self.domains.get(name)
        if domain is None:
            self.domains[name] = Domain(name, plan)
        elif domain.plan is None or domain.plan.identity != plan.identity:
            raise Rejected(f"domain {name} on {self.name} is somebody else's")
        else:
            domain.plan, domain.persistent = plan, True

    def start(self, name: str, *, paused: bool) -> None:
        domain = self.domain(name)
        if domain.state.runs:
            raise Conflict(f"domain {name} runs already")
        assert domain.plan is not None
        self._run(domain, domain.plan, paused=paused)

    def _run(self, domain: Domain, plan: DomainPlan, *, paused: bool) -> None:
        """QEMU comes up, or says why not."""
        self._look_for_files(domain.name, plan)
        domain.live = domain.started = plan
        domain.holds_guest = True
        self.hung.discard(domain.name)
        domain.state, domain.reason = (DomainState.PAUSED, "starting-up") if paused else (DomainState.RUNNING, "booted")
        self.on_start(Started(self.name, plan.identity, plan.epoch))
        self._tell(domain.name, "lifecycle", "started:booted")

    def _look_for_files(self, name: str, plan: DomainPlan) -> None:
        """Everything that QEMU opens: the gate first."""
        for path in (plan.gate_path, plan.seed_path, *(disk.path for disk in (*plan.disks, *plan.cdroms))):
            if path and self.file(path) is None:
                raise Rejected(f"{name}: cannot open {path}: No such file or directory")
        for nic in plan.nics:
            if nic.network and nic.network not in self.networks:
                raise Rejected(f"{name}: network {nic.network} does not exist")

    def accept(self, plan: DomainPlan) -> None:
        """A guest is on its way here: a QEMU waits for it. It is listed as paused, with the reason migration."""
        domain_xml(plan)
        name = plan.identity.domain_name
        domain = self.domains.get(name)
        if domain is not None and (domain.plan is None or domain.plan.identity != plan.identity or domain.state.runs):
            raise Rejected(f"{self.name} has a domain {name} already")
        self._look_for_files(name, plan)
        if domain is None:
            domain = self.domains[name] = Domain(name, plan, persistent=False)
        domain.live, domain.holds_guest = plan, False
        domain.state, domain.reason = DomainState.PAUSED, "migration"
        self._tell(name, "lifecycle", "started:migrated")

    def tell_resumed(self, name: str) -> None:
        """A guest that was moved here runs."""
        self._tell(name, "lifecycle", "resumed:migrated")

    def end(self, name: str, reason: str, *, state: DomainState = DomainState.SHUTOFF) -> None:
        """The guest's QEMU is gone: reason shutdown, destroyed, crashed, saved ..."""
        domain = self.domains.get(name)
        if domain is None or not domain.state.runs:
            return
        domain.state, domain.reason, domain.live, domain.holds_guest = state, reason, None, True
        if not domain.persistent:
            del self.domains[name]
        self._tell(name, "lifecycle", f"stopped:{reason}")

    def shutdown(self, name: str, mode: str) -> None:
        if not self.domain(name).state.runs:
            raise Conflict(f"domain {name} does not run")
        if mode == "agent" and not self.agent:
            raise Transient(f"the agent of {name} does not answer")
        self.asked.append((name, mode))

    def reset(self, name: str) -> None:
        if not self.domain(name).state.runs:
            raise Conflict(f"domain {name} does not run")
        self.resets.append(name)
        self.hung.discard(name)

    def destroy(self, name: str) -> None:
        self.domain(name)
        self.end(name, "destroyed")

    def undefine(self, name: str) -> None:
        domain = self.domains.get(name)
        if domain is None:
            return
        if domain.state.runs:
            domain.persistent = False
        else:
            del self.domains[name]

    def pause(self, name: str) -> None:
        domain = self.domain(name)
        if not domain.state.runs:
            raise Conflict(f"domain {name} does not run")
        domain.state, domain.reason = DomainState.PAUSED, "user"
        self._tell(name, "lifecycle", "suspended:paused")

    def resume(self, name: str) -> None:
        domain = self.domain(name)
        if not domain.state.runs:
            raise Conflict(f"domain {name} does not run")
        domain.state, domain.reason, domain.holds_guest = DomainState.RUNNING, "unpaused", True
        self._tell(name, "lifecycle", "resumed:unpaused")

    def save(self, name: str, path: str) -> None:
        domain = self.domain(name)
        if not domain.state.runs:
            raise Conflict(f"domain {name} does not run")
        if self._files(path.rpartition("/")[0]) is None:
            raise Rejected(f"{path}: No such file or directory")
        self.put_file(path, File("raw", 1 << 20, b"memory", domain.live))
        self.end(name, "saved")

    def restore(self, path: str, plan: DomainPlan) -> None:
        file = self.file(path)
        if file is None or file.image is None:
            raise Rejected(f"{path} is no suspend image")
        if file.image.identity.domain_uuid != plan.identity.domain_uuid:
            raise Rejected(f"{path} is the suspend image of {file.image.identity.domain_name}")
        self.define(plan)
        domain = self.domain(plan.identity.domain_name)
        if domain.state.runs:
            raise Conflict(f"domain {domain.name} runs already")
        self._run(domain, plan, paused=False)

    def guest_facts(self, name: str) -> GuestFacts:
        domain = self.domain(name)
        if domain.live is None or domain.state is not DomainState.RUNNING:
            raise Transient(f"the agent of {name} does not answer: it does not run")
        if not domain.live.guest_agent or self.agent_state(name) is not AgentState.ANSWERS:
            raise Transient(f"the agent of {name} does not answer")
        addresses = tuple((nic.mac, f"192.0.2.{n + 10}/24") for n, nic in enumerate(domain.live.nics))
        return GuestFacts(domain.live.identity.name, "Linux", "6", "6.1", "8.0", addresses)

    def agent_state(self, name: str) -> AgentState:
        domain = self.domain(name)
        if domain.live is None or domain.state is not DomainState.RUNNING:
            raise Conflict(f"{name} does not run, so its agent cannot answer")
        if not domain.live.guest_agent:
            raise Rejected(f"{name} has no channel for an agent")
        if not self.agent or not domain.live.disks:  # nothing to boot from
            return AgentState.CLOSED
        return AgentState.SILENT if name in self.hung else AgentState.ANSWERS

    def set_password(self, name: str, user: str, password: str) -> None:
        self._account(name, user)
        self.passwords[name, user] = password

    def change_ssh_keys(self, name: str, user: str, keys: Sequence[str], *, add: bool) -> None:
        self._account(name, user)
        kept = [key for key in self.ssh_keys.get((name, user), ()) if key not in keys]
        self.ssh_keys[name, user] = (*kept, *keys) if add else tuple(kept)

    def start_command(self, name: str, argv: Sequence[str], stdin: bytes) -> int:
        """Two programs there are: echo, and cat, which repeats what it is given; sleep never ends."""
        if self.agent_state(name) is not AgentState.ANSWERS:
            raise Transient(f"the agent of {name} does not answer")
        if argv[0] not in ("echo", "cat", "sleep"):
            raise Rejected(f"{name}: the guest refuses: there is no {argv[0]}")
        pid = 100 + len(self.commands)
        ended = (
            None
            if argv[0] == "sleep"
            else CommandOutcome(0, None, stdin if argv[0] == "cat" else " ".join(argv[1:]).encode() + b"\n")
        )
        self.commands[name, pid] = ended
        return pid

    def command_outcome(self, name: str, pid: int, most_bytes: int) -> CommandOutcome | None:
        if self.agent_state(name) is not AgentState.ANSWERS:
            raise Transient(f"the agent of {name} does not answer")
        if (name, pid) not in self.commands:
            raise Rejected(f"{name}: the guest refuses: there is no command {pid}")
        if (ended := self.commands[name, pid]) is None:
            return None
        del self.commands[name, pid]
        return replace(ended, stdout=ended.stdout[:most_bytes], truncated=len(ended.stdout) > most_bytes)

    def _account(self, name: str, user: str) -> None:
        if self.agent_state(name) is not AgentState.ANSWERS:
            raise Transient(f"the agent of {name} does not answer")
        if user not in self.users:
            raise Rejected(f"{name}: the guest refuses: there is no user {user}")

    def read_hardware(self, name: str) -> HardwareAbi:
        domain = self.domain(name)
        plan = domain.live or domain.plan
        assert plan is not None
        kept, targets = dict(plan.hardware.slots), dict(plan.hardware.targets)
        free = iter(slot for n in range(1, 99) if (slot := f"0000:{n:02x}:00.0") not in kept.values())
        names = iter(t for c in "abcdefghij" if (t := f"vd{c}") not in targets.values())
        for key in (*(f"disk/{disk.name}" for disk in plan.disks), *(f"nic/{nic.name}" for nic in plan.nics)):
            if key not in kept:
                kept[key] = next(free)
            if key.startswith("disk/") and key not in targets:
                targets[key] = next(names)
        drives = iter(t for c in "abcdefghij" if (t := f"sd{c}") not in targets.values())
        for drive in plan.cdroms:
            if f"cdrom/{drive.name}" not in targets:
                targets[f"cdrom/{drive.name}"] = next(drives)
        return HardwareAbi(
            plan.hardware.machine or f"pc-{plan.machine}-7.2",
            plan.hardware.cpu_model or plan.cpu_model or "qemu64",
            (),
            tuple(sorted(kept.items())),
            tuple(sorted(targets.items())),
        )

    # ------------------------------------------------------------ who it is

    def inventory(self) -> HostInventory:
        return HostInventory(
            host_uuid=self.uuid,
            hostname=self.name,
            libvirt_version="9.0.0",
            hypervisor="QEMU 7.2.22",
            arch="x86_64",
            cpu_model="qemu64",
            cpu_vendor="AMD",
            cpu_features=("sse2",),
            usable_cpu_models=self.usable_cpu_models,
            cpus=16,
            memory_mib=self.memory_mib,
            numa=(NumaCell(0, self.memory_mib, 16),),
            machine_types=("pc-q35-7.2",),
            accel="tcg",
            firmware=("bios", "uefi"),
            emulates_tpm=self.emulates_tpm,
        )

    def cpu_obstacle(self, plan: DomainPlan) -> str:
        model = plan.hardware.cpu_model or plan.cpu_model
        if model and model not in self.usable_cpu_models:
            return f"{self.name} cannot give the guest the CPU model {model}"
        return ""

    def running(self) -> list[tuple[Identity, Epoch]]:
        """Guests that run, with the epoch they were started under."""
        return [
            (domain.live.identity, domain.live.epoch)
            for domain in self.domains.values()
            if domain.state.runs and domain.live is not None and domain.holds_guest
        ]

    def open_disks(self) -> list[tuple[Identity, str]]:
        """Who has which disk file open; the file's name is the same on every machine that shares its folder."""
        return [
            (
                domain.live.identity,
                disk.path if disk.path.rpartition("/")[0] in self.shared else f"{self.name}:{disk.path}",
            )
            for domain in self.domains.values()
            if domain.state.runs and domain.live is not None and domain.holds_guest
            for disk in domain.live.disks
        ]

    def _tell(self, name: str, kind: str, detail: str) -> None:
        self.emit(DomainEvent(self.name, name, kind, detail))


def _describe(domain: Domain) -> DomainSeen:
    plan = domain.live or domain.plan  # who runs, else who would
    if plan is None:
        return DomainSeen(
            domain.name, str(uuid.uuid5(uuid.NAMESPACE_DNS, domain.name)), domain.state, domain.reason, True
        )
    return DomainSeen(
        domain_name=domain.name,
        domain_uuid=plan.identity.domain_uuid,
        state=domain.state,
        state_reason=domain.reason,
        persistent=domain.persistent,
        identity=plan.identity,
        uid=plan.uid,
        epoch=plan.epoch,
        spec_hash=plan.spec_hash,
        gate=((domain.plan if domain.persistent else None) or plan).gate_path.rpartition("/")[2],
        addresses=plan.addresses,
    )
