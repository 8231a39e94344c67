"""Connections to machines in memory: implements ports.Fleet and ports.Host, with silence, partitions and reboots.

A Datacenter holds the machines and what lies between them and every process; a FakeFleet is one process's view of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from tests.sim.fakes.calls import Tracer
from tests.sim.fakes.consoles import Consoles, FakeConsole
from tests.sim.fakes.machine import File, Machine, Started
from tests.sim.fakes.moving import Move, Moves

from lq_operator.core.lifecycle.shape import GuestShape
from lq_operator.core.model import (
    AgentState,
    CommandOutcome,
    DomainEvent,
    DomainPlan,
    DomainSeen,
    GuestFacts,
    HardwareAbi,
    HostInventory,
    HostUUID,
    MovePlan,
    MoveProgress,
    MoveResult,
    NetworkPlan,
    NetworkSeen,
    NodeName,
    PoolPlan,
    PoolSeen,
    VolumePlan,
    VolumeSeen,
)
from lq_operator.core.result import OutcomeUnknown, Transient, WorldError
from lq_operator.ports import Clock, Console, Picture

T = TypeVar("T")

KEEPALIVE_S = 8.0
"""How long a silent connection lives (adapters/libvirt/settings)."""
GUEST_STOPS_S = 1.0
"""How long an obedient guest takes to switch itself off."""


class Line(StrEnum):
    """What happens to a call on its way to a machine."""

    UP = "up"
    CUT = "cut"  # never arrives
    FROZEN = "frozen"  # arrives and is carried out when the machine thaws
    OFF = "off"  # nobody is there


@dataclass
class Datacenter:
    """Machines by name, their lines, and who is connected."""

    clock: Clock
    machines: dict[str, Machine] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    shared: dict[str, dict[str, File]] = field(default_factory=dict)
    on_start: Callable[[Started], None] = lambda started: None
    fleets: list[FakeFleet] = field(default_factory=list)
    _stuck: dict[str, list[Callable[[], None]]] = field(default_factory=dict)
    _stopping: set[tuple[str, str]] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _consoles: dict[str, Consoles] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.moves = Moves(self)

    def add(self, name: str, machine: Machine | None = None) -> Machine:
        """A machine with power and network."""
        made = machine or Machine(name, self.shared)
        made.emit = self._event
        made.on_start = lambda started: self.on_start(started)
        self.machines[name], self.lines[name] = made, Line.UP
        return made

    def copy(self, clock: Clock) -> Datacenter:
        """The same machines as they are now; nobody is connected. Calls that are stuck in a frozen one stay stuck."""
        shared = {
            path: {n: File(f.format, f.capacity, f.content, f.image) for n, f in files.items()}
            for path, files in self.shared.items()
        }
        twin = Datacenter(clock, shared=shared)
        for name, machine in self.machines.items():
            twin.add(name, machine.copy(shared))
            twin.lines[name] = self.lines[name]
        for name, domain in sorted(self._stopping):
            twin.asked_to_stop(name, domain)  # the guest goes on with what it was told
        twin.moves.adopt(self.moves)
        return twin

    # ------------------------------------------------------------ what happens to machines

    def cut(self, name: str) -> None:
        """The wire is out; guests run on."""
        self._silence(name, Line.CUT)

    def freeze(self, name: str) -> None:
        """libvirtd and the guests stand still; what was sent is carried out at thaw()."""
        self._silence(name, Line.FROZEN)

    def power_off(self, name: str) -> None:
        """Everything that ran is gone."""
        self.machines[name].lose_power()
        self.moves.power_lost(name)
        self._stuck.pop(name, None)
        self._silence(name, Line.OFF)

    def restore(self, name: str) -> None:
        """Wire in, thawed, or booted. What had been stuck in a frozen machine is carried out first."""
        self.lines[name] = Line.UP
        for act in self._stuck.pop(name, []):
            act()
        for fleet in self.fleets:
            fleet.reachable(name)

    def reboot(self, name: str) -> None:
        """Power off and on at once: connections break, tmpfs and guests are gone."""
        self.machines[name].lose_power()
        self._stuck.pop(name, None)
        self.restart_daemon(name)

    def restart_daemon(self, name: str) -> None:
        """libvirtd is restarted: guests run on, connections break."""
        self.lines[name] = Line.UP
        self.moves.daemon_ended(name)
        for fleet in list(self.fleets):
            fleet.broken(name, "the connection was closed by the host")
        for fleet in list(self.fleets):
            fleet.reachable(name)

    def _silence(self, name: str, line: Line) -> None:
        self.lines[name] = line
        for fleet in list(self.fleets):
            fleet.silent(name)

    def answered(self, name: str) -> None:
        """A call that took its time has its answer."""
        for fleet in list(self.fleets):
            fleet.poke(name)

    def later(self, delay_s: float, act: Callable[[], None]) -> None:
        """Something that a machine does by itself, in a while."""

        async def wait() -> None:
            await self.clock.sleep(delay_s)
            act()

        task = asyncio.ensure_future(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stick(self, name: str, act: Callable[[], T]) -> list[Callable[[], T]]:
        """A call that a frozen machine has in its socket. What is returned gets the answer, as a call, at thaw()."""
        answer: list[Callable[[], T]] = []

        def carry_out() -> None:
            try:
                value = act()
            except WorldError as problem:
                error = problem

                def fail() -> T:
                    raise error

                answer.append(fail)
            else:
                answer.append(lambda: value)

        self._stuck.setdefault(name, []).append(carry_out)
        return answer

    def asked_to_stop(self, name: str, domain: str) -> None:
        """The guest heard it; whether it obeys is the machine's setting."""
        machine, boot = self.machines[name], self.machines[name].boot
        found = machine.domains.get(domain)
        if not machine.obedient or found is None:
            return
        live = found.live

        self._stopping.add((name, domain))

        def stop() -> None:
            self._stopping.discard((name, domain))
            same_run = domain in machine.domains and machine.domains[domain].live is live
            if same_run and machine.boot == boot and self.lines[name] is not Line.FROZEN:
                machine.end(domain, "shutdown")

        self.later(GUEST_STOPS_S, stop)

    def consoles(self, name: str) -> Consoles:
        """Serial ports and screens of one machine's guests."""
        return self._consoles.setdefault(name, Consoles())

    def _event(self, event: DomainEvent) -> None:
        if event.kind == "lifecycle" and event.detail.startswith("stopped"):
            self.consoles(event.node).ended(event.domain_name)
        if self.lines[event.node] is Line.UP:
            for fleet in list(self.fleets):
                fleet.tell(event)

    def close(self) -> None:
        """Forget everybody."""
        for task in self._tasks:
            task.cancel()


class FakeFleet:
    """ports.Fleet of one process. A URI names its machine as its host part."""

    def __init__(self, datacenter: Datacenter, clock: Clock, tracer: Tracer | None = None) -> None:
        self.datacenter = datacenter
        self.tracer = tracer or Tracer()
        self._clock = clock
        self._machines: dict[NodeName, str] = {}
        self._hosts: dict[NodeName, FakeHost] = {}
        self._callbacks: list[Callable[[DomainEvent], None]] = []
        datacenter.fleets.append(self)

    # ------------------------------------------------------------ ports.Fleet

    def configure(self, node: NodeName, uri: str, credentials: Mapping[str, bytes]) -> None:
        del credentials
        self.forget(node)
        self._machines[node] = uri.partition("://")[2].partition("/")[0].partition(":")[0]
        self._connect(node)

    def forget(self, node: NodeName) -> None:
        self._machines.pop(node, None)
        self._break(node, "forgotten")

    def host(self, node: NodeName) -> FakeHost | None:
        return self._hosts.get(node)

    def why_down(self, node: NodeName) -> str:
        if node in self._hosts:
            return ""
        return f"{node} does not answer" if node in self._machines else f"{node} has no URI yet"

    def on_event(self, callback: Callable[[DomainEvent], None]) -> None:
        self._callbacks.append(callback)

    async def close(self) -> None:
        for node in list(self._machines):
            self.forget(node)
        if self in self.datacenter.fleets:
            self.datacenter.fleets.remove(self)

    # ------------------------------------------------------------ what the datacenter says

    def tell(self, event: DomainEvent) -> None:
        """A domain event, under the name that this process has for the machine."""
        for node, host in list(self._hosts.items()):
            if host.machine.name == event.node:
                self._emit(DomainEvent(node, event.domain_name, event.kind, event.detail))

    def poke(self, machine: str) -> None:
        """Whoever waits for that machine looks again."""
        for host in list(self._hosts.values()):
            if host.machine.name == machine:
                host.poke()

    def reachable(self, machine: str) -> None:
        """It answers again."""
        self.poke(machine)
        for node, name in list(self._machines.items()):
            if name == machine and node not in self._hosts:
                self._connect(node)

    def silent(self, machine: str) -> None:
        """It does not answer: connections break when the keepalive notices."""
        for node, host in list(self._hosts.items()):
            if host.machine.name == machine:
                self.datacenter.later(KEEPALIVE_S, lambda node=node, host=host: self._keepalive(node, host))  # type: ignore[misc]

    def broken(self, machine: str, why: str) -> None:
        """It has closed its connections."""
        for node, host in list(self._hosts.items()):
            if host.machine.name == machine:
                self._break(node, why)

    def _keepalive(self, node: NodeName, host: FakeHost) -> None:
        name = host.machine.name
        # A host that lost its power does not know the connection any more, also when it is back in time.
        lost = host.boot != host.machine.boot or self.datacenter.lines[name] is not Line.UP
        if self._hosts.get(node) is host and lost:
            self._break(node, "the host stopped answering")
            if self.datacenter.lines[name] is Line.UP:
                self._connect(node)

    def _connect(self, node: NodeName) -> None:
        machine = self.datacenter.machines.get(self._machines[node])
        if machine is None or self.datacenter.lines[machine.name] is not Line.UP:
            return
        self._hosts[node] = FakeHost(self, node, machine)
        self._emit(DomainEvent(node, "", "connected", machine.uuid))

    def _break(self, node: NodeName, why: str) -> None:
        host = self._hosts.pop(node, None)
        if host is not None:
            host.die(why)
            self._emit(DomainEvent(node, "", "closed", why))

    def _emit(self, event: DomainEvent) -> None:
        if self.tracer.dead or self.tracer.paused:
            return  # a process that is stopped hears nothing
        for callback in self._callbacks:
            callback(event)


class FakeHost:
    """ports.Host: one connection to one boot of one machine."""

    def __init__(self, fleet: FakeFleet, node: NodeName, machine: Machine) -> None:
        self._fleet = fleet
        self._node = node
        self.machine = machine
        self.boot = machine.boot
        self._consoles: list[FakeConsole] = []
        self._dead = False
        self._why = ""
        self.news = asyncio.Event()

    @property
    def node(self) -> NodeName:
        return self._node

    @property
    def uuid(self) -> HostUUID:
        return self.machine.uuid

    @property
    def alive(self) -> bool:
        return not self._dead

    def die(self, why: str) -> None:
        """The connection is over for ever."""
        self._why, self._dead = why, True
        for console in self._consoles:
            console.end()
        self.poke()

    def poke(self) -> None:
        """Whoever waits for an answer looks again."""
        self.news.set()
        self.news = asyncio.Event()

    async def _read(self, verb: str, about: str, act: Callable[[], T]) -> T:
        return await self._call(verb, about, False, act)

    async def _write(self, verb: str, about: str, act: Callable[[], T]) -> T:
        return await self._call(verb, about, True, act)

    async def _call(self, verb: str, about: str, write: bool, act: Callable[[], T]) -> T:
        where = f"{self._node} {about}".strip()
        arrive = lambda: self._arrive(verb, about, write, act)  # noqa: E731
        return await self._fleet.tracer.run("host", verb, where, write, arrive)

    async def _arrive(self, verb: str, about: str, write: bool, act: Callable[[], T]) -> T:
        """The call reaches the machine, is carried out there, and its answer comes back."""
        await asyncio.sleep(0)  # others get their turn, as they do while a real call is on the wire
        datacenter, name = self._fleet.datacenter, self.machine.name
        waited, answer = False, None
        while self.alive:
            line = datacenter.lines[name]
            if answer is not None and answer:
                return answer[0]()
            if line is Line.UP and self.boot == self.machine.boot and answer is None:
                return act()
            if line is Line.FROZEN and write and answer is None:
                answer = datacenter.stick(name, act)
            waited = True
            await self.news.wait()
        lost = OutcomeUnknown if write and waited else Transient
        raise lost(f"{self._node}: {verb} {about}: {self._why}")

    async def inventory(self) -> HostInventory:
        return await self._read("inventory", "", self.machine.inventory)

    # ------------------------------------------------------------ domains

    async def list_domains(self) -> tuple[DomainSeen, ...]:
        return await self._read("list_domains", "", self.machine.list_domains)

    async def find_domain(self, domain_name: str) -> DomainSeen | None:
        return await self._read("find_domain", domain_name, lambda: self.machine.find_domain(domain_name))

    async def read_hardware(self, domain_name: str) -> HardwareAbi:
        return await self._read("read_hardware", domain_name, lambda: self.machine.read_hardware(domain_name))

    async def define(self, plan: DomainPlan) -> None:
        await self._write("define", plan.identity.domain_name, lambda: self.machine.define(plan))

    async def start(self, domain_name: str, *, paused: bool = False) -> None:
        await self._write("start", domain_name, lambda: self.machine.start(domain_name, paused=paused))

    async def shutdown(self, domain_name: str, *, mode: str) -> None:
        def ask() -> None:
            self.machine.shutdown(domain_name, mode)
            self._fleet.datacenter.asked_to_stop(self.machine.name, domain_name)

        await self._write("shutdown", domain_name, ask)

    async def reboot(self, domain_name: str, *, mode: str) -> None:
        del mode
        await self._write("reboot", domain_name, lambda: self.machine.reset(domain_name))

    async def reset(self, domain_name: str) -> None:
        await self._write("reset", domain_name, lambda: self.machine.reset(domain_name))

    async def destroy(self, domain_name: str) -> None:
        await self._write("destroy", domain_name, lambda: self.machine.destroy(domain_name))

    async def undefine(self, domain_name: str, *, keep_nvram: bool = True) -> None:
        del keep_nvram
        await self._write("undefine", domain_name, lambda: self.machine.undefine(domain_name))

    async def pause(self, domain_name: str) -> None:
        await self._write("pause", domain_name, lambda: self.machine.pause(domain_name))

    async def resume(self, domain_name: str) -> None:
        await self._write("resume", domain_name, lambda: self.machine.resume(domain_name))

    async def read_shape(self, domain_name: str) -> GuestShape:
        return await self._read("read_shape", domain_name, lambda: self.machine.hotplug.read_shape(domain_name))

    async def set_vcpus(self, domain_name: str, count: int) -> None:
        act = lambda: self.machine.hotplug.set_vcpus(domain_name, count)  # noqa: E731
        await self._write("set_vcpus", f"{domain_name} {count}", act)

    async def set_memory(self, domain_name: str, size_mib: int) -> None:
        act = lambda: self.machine.hotplug.set_memory(domain_name, size_mib)  # noqa: E731
        await self._write("set_memory", f"{domain_name} {size_mib}", act)

    async def set_cpu_tuning(self, domain_name: str, *, shares: int, quota_percent: int) -> None:
        act = lambda: self.machine.hotplug.set_cpu_tuning(domain_name, shares, quota_percent)  # noqa: E731
        await self._write("set_cpu_tuning", domain_name, act)

    async def attach_disk(self, plan: DomainPlan, disk: str) -> None:
        act = lambda: self.machine.hotplug.attach_disk(plan, disk)  # noqa: E731
        await self._write("attach_disk", f"{plan.identity.domain_name} {disk}", act)

    async def detach_disk(self, domain_name: str, disk: str) -> None:
        act = lambda: self.machine.hotplug.detach_disk(domain_name, disk)  # noqa: E731
        await self._write("detach_disk", f"{domain_name} {disk}", act)

    async def set_disk_limits(self, plan: DomainPlan, disk: str) -> None:
        act = lambda: self.machine.hotplug.set_disk_limits(plan, disk)  # noqa: E731
        await self._write("set_disk_limits", f"{plan.identity.domain_name} {disk}", act)

    async def grow_disk(self, domain_name: str, disk: str, capacity_bytes: int) -> None:
        act = lambda: self.machine.hotplug.grow_disk(domain_name, disk, capacity_bytes)  # noqa: E731
        await self._write("grow_disk", f"{domain_name} {disk}", act)

    async def set_medium(self, plan: DomainPlan, drive: str, *, force: bool) -> None:
        act = lambda: self.machine.hotplug.set_medium(plan, drive, force)  # noqa: E731
        await self._write("set_medium", f"{plan.identity.domain_name} {drive}", act)

    async def attach_nic(self, plan: DomainPlan, nic: str) -> None:
        act = lambda: self.machine.hotplug.attach_nic(plan, nic)  # noqa: E731
        await self._write("attach_nic", f"{plan.identity.domain_name} {nic}", act)

    async def detach_nic(self, domain_name: str, nic: str) -> None:
        act = lambda: self.machine.hotplug.detach_nic(domain_name, nic)  # noqa: E731
        await self._write("detach_nic", f"{domain_name} {nic}", act)

    async def update_nic(self, plan: DomainPlan, nic: str) -> None:
        act = lambda: self.machine.hotplug.update_nic(plan, nic)  # noqa: E731
        await self._write("update_nic", f"{plan.identity.domain_name} {nic}", act)

    async def set_marks(self, domain_name: str, *, spec_hash: str, record: tuple[tuple[str, str], ...]) -> None:
        act = lambda: self.machine.hotplug.set_marks(domain_name, spec_hash, record)  # noqa: E731
        await self._write("set_marks", domain_name, act)

    async def save(self, domain_name: str, path: str) -> None:
        await self._write("save", f"{domain_name} {path}", lambda: self.machine.save(domain_name, path))

    async def restore(self, path: str, plan: DomainPlan) -> None:
        about = f"{plan.identity.domain_name} {path}"
        await self._write("restore", about, lambda: self.machine.restore(path, plan))

    async def guest_facts(self, domain_name: str) -> GuestFacts:
        return await self._read("guest_facts", domain_name, lambda: self.machine.guest_facts(domain_name))

    async def agent_state(self, domain_name: str) -> AgentState:
        return await self._read("agent_state", domain_name, lambda: self.machine.agent_state(domain_name))

    async def set_password(self, domain_name: str, user: str, password: str) -> None:
        act = lambda: self.machine.set_password(domain_name, user, password)  # noqa: E731
        await self._write("set_password", domain_name, act)

    async def change_ssh_keys(self, domain_name: str, user: str, keys: Sequence[str], *, add: bool) -> None:
        act = lambda: self.machine.change_ssh_keys(domain_name, user, keys, add=add)  # noqa: E731
        await self._write("change_ssh_keys", domain_name, act)

    async def start_command(self, domain_name: str, argv: Sequence[str], *, stdin: bytes = b"") -> int:
        act = lambda: self.machine.start_command(domain_name, argv, stdin)  # noqa: E731
        return await self._write("start_command", domain_name, act)

    async def command_outcome(self, domain_name: str, pid: int, *, most_bytes: int) -> CommandOutcome | None:
        act = lambda: self.machine.command_outcome(domain_name, pid, most_bytes)  # noqa: E731
        return await self._read("command_outcome", domain_name, act)

    # ------------------------------------------------------------ moving

    async def cpu_obstacle(self, plan: DomainPlan) -> str:
        return await self._read("cpu_obstacle", plan.identity.domain_name, lambda: self.machine.cpu_obstacle(plan))

    async def move(self, plan: MovePlan) -> MoveResult:
        """The source hears it once; what it answers comes when it is over, if anybody still listens."""
        moves, about = self._fleet.datacenter.moves, f"{plan.domain_name} {plan.peer_uri}"

        async def go() -> MoveResult:
            begin = lambda: moves.begin(self.machine.name, plan)  # noqa: E731
            return await self._outcome(await self._arrive("move", about, True, begin), about)

        return await self._fleet.tracer.run("host", "move", f"{self._node} {about}", True, go)

    async def _outcome(self, move: Move, about: str) -> MoveResult:
        while self.alive:
            if move.over and self._fleet.datacenter.lines[self.machine.name] is Line.UP:
                return move.outcome()
            await self.news.wait()
        raise OutcomeUnknown(f"{self._node}: move {about}: {self._why}")

    async def move_progress(self, domain_name: str) -> MoveProgress | None:
        act = lambda: self._fleet.datacenter.moves.progress(self.machine.name, domain_name)  # noqa: E731
        return await self._read("move_progress", domain_name, act)

    async def cancel_move(self, domain_name: str) -> None:
        act = lambda: self._fleet.datacenter.moves.cancel(self.machine.name, domain_name)  # noqa: E731
        await self._write("cancel_move", domain_name, act)

    async def start_post_copy(self, domain_name: str) -> None:
        act = lambda: self._fleet.datacenter.moves.start_post_copy(self.machine.name, domain_name)  # noqa: E731
        await self._write("start_post_copy", domain_name, act)

    # ------------------------------------------------------------ consoles

    async def open_console(self, domain_name: str) -> Console:
        def open_() -> FakeConsole:
            made = self._fleet.datacenter.consoles(self.machine.name).open(self.machine, domain_name)
            self._consoles.append(made)
            return made

        return await self._read("open_console", domain_name, open_)

    async def screenshot(self, domain_name: str) -> Picture:
        consoles = self._fleet.datacenter.consoles(self.machine.name)
        return await self._read("screenshot", domain_name, lambda: consoles.screenshot(self.machine, domain_name))

    async def press_keys(self, domain_name: str, keycodes: Sequence[int]) -> None:
        consoles = self._fleet.datacenter.consoles(self.machine.name)
        await self._write("press_keys", domain_name, lambda: consoles.press(self.machine, domain_name, keycodes))

    async def point(self, domain_name: str, x: float, y: float, changed: Mapping[str, bool]) -> None:
        consoles = self._fleet.datacenter.consoles(self.machine.name)
        await self._write("point", domain_name, lambda: consoles.point(self.machine, domain_name, x, y, changed))

    # ------------------------------------------------------------ storage

    async def list_pools(self) -> tuple[PoolSeen, ...]:
        return await self._read("list_pools", "", self.machine.list_pools)

    async def ensure_pool(self, plan: PoolPlan) -> PoolSeen:
        return await self._write("ensure_pool", plan.name, lambda: self.machine.ensure_pool(plan))

    async def remove_pool(self, name: str) -> None:
        await self._write("remove_pool", name, lambda: self.machine.remove_pool(name))

    async def list_volumes(self, pool: str, *, refresh: bool = False) -> tuple[VolumeSeen, ...]:
        return await self._read("list_volumes", pool, lambda: self.machine.list_volumes(pool, refresh=refresh))

    async def create_volume(self, pool: str, plan: VolumePlan) -> VolumeSeen:
        return await self._write("create_volume", f"{pool}/{plan.name}", lambda: self.machine.create_volume(pool, plan))

    async def resize_volume(self, pool: str, name: str, capacity_bytes: int) -> None:
        act = lambda: self.machine.resize_volume(pool, name, capacity_bytes)  # noqa: E731
        await self._write("resize_volume", f"{pool}/{name}", act)

    async def delete_volume(self, pool: str, name: str) -> None:
        await self._write("delete_volume", f"{pool}/{name}", lambda: self.machine.delete_volume(pool, name))

    async def upload(self, pool: str, name: str, content: AsyncIterator[bytes]) -> None:
        """Each chunk is a call of its own: an upload may die half-way."""
        offset = 0
        await self._write("upload", f"{pool}/{name}", lambda: self.machine.write_volume(pool, name, 0, b""))
        async for chunk in content:
            at = offset
            await self._write(
                "upload",
                f"{pool}/{name}",
                lambda at=at, chunk=chunk: self.machine.write_volume(pool, name, at, chunk),  # type: ignore[misc]
            )
            offset += len(chunk)

    async def download(self, pool: str, name: str, *, length: int) -> bytes:
        return await self._read("download", f"{pool}/{name}", lambda: self.machine.download(pool, name, length))

    # ------------------------------------------------------------ networks

    async def list_networks(self) -> tuple[NetworkSeen, ...]:
        return await self._read(
            "list_networks", "", lambda: tuple(seen for _, (_, seen) in sorted(self.machine.networks.items()))
        )

    async def ensure_network(self, plan: NetworkPlan) -> NetworkSeen:
        return await self._write("ensure_network", plan.name, lambda: self.machine.ensure_network(plan))

    async def remove_network(self, name: str) -> None:
        await self._write("remove_network", name, lambda: self.machine.remove_network(name))

    async def list_bridges(self) -> tuple[str, ...]:
        return await self._read("list_bridges", "", lambda: tuple(sorted(self.machine.bridges)))
