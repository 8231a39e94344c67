"""One live connection as ports.Host: every verb with its lane, deadline and whether it writes."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from lq_operator.adapters.libvirt import (
    agent,
    console,
    domains,
    guestexec,
    hotplug,
    inventory,
    moves,
    networks,
    screen,
    storage,
)
from lq_operator.adapters.libvirt.calls import Call, Calls, Lane
from lq_operator.adapters.libvirt.connection import Opened
from lq_operator.adapters.libvirt.movelane import MoveLane
from lq_operator.core.lifecycle.shape import GuestShape
from lq_operator.core.model import (
    AgentState,
    CommandOutcome,
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
from lq_operator.core.result import Transient
from lq_operator.ports import Console, Picture

P = ParamSpec("P")
T = TypeVar("T")

# Deadlines: the keepalive ends a silent host's calls after 8 s; these end what a talking host does not finish.
READ_S = 20.0  # 300 domains are read in well under a second; a busy host may be twenty times slower
WRITE_S = 30.0
START_S = 120.0  # QEMU under TCG on a busy host: 0.66 s each for ten at once (measured), with swtpm more
AGENT_S = 20.0  # three questions of agent.AGENT_TIMEOUT_S each, and the queue
SAVE_S = 1800.0  # writes the guest's memory: 256 GiB at 150 MB/s
CLONE_S = 6 * 3600.0  # copies a disk
SCREENSHOT_S = 20.0  # moves a picture of a few megabytes
STALL_S = 60.0  # an upload that moves nothing for so long is over


def _read(name: str) -> Call:
    return Call(name, READ_S)


def _write(name: str) -> Call:
    return Call(name, WRITE_S, writes=True)


def _power(name: str) -> Call:
    return Call(name, START_S, writes=True, lane=Lane.START)


def _plug(name: str) -> Call:
    """The guest has a say, so it takes as long as the guest does: not in the lane of the short calls."""
    return Call(name, WRITE_S, writes=True, lane=Lane.START)


def _long(name: str, timeout_s: float) -> Call:
    return Call(name, timeout_s, writes=True, lane=Lane.LONG)


class LibvirtHost:
    """ports.Host over one libvirt connection; made by LibvirtFleet, dead for ever once the connection is."""

    def __init__(self, node: NodeName, opened: Opened, calls: Calls, moving: MoveLane) -> None:
        self._node = node
        self._opened = opened
        self._calls = calls
        self._moving = moving
        self.closed = asyncio.Event()
        self._one_console_opens = asyncio.Lock()

    @property
    def node(self) -> NodeName:
        return self._node

    @property
    def uuid(self) -> HostUUID:
        return self._opened.uuid

    @property
    def alive(self) -> bool:
        return self._calls.dead is None

    @property
    def why_dead(self) -> str:
        """'' while alive."""
        return self._calls.dead or ""

    def die(self, why: str) -> None:
        """Called on the loop when the connection broke or is given up; idempotent."""
        self._calls.die(why)
        self._moving.die(why)
        self.closed.set()

    def release(self, *, polite: bool, timeout_s: float) -> None:
        """Blocking: close the connection. After die()."""
        self._opened.close(polite=polite, timeout_s=timeout_s, wait_idle=self._calls.wait_idle)

    async def _run(
        self, call: Call, about: str, fn: Callable[Concatenate[object, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._calls.run(call, lambda conn: fn(conn, *args, **kwargs), about=about)

    # ------------------------------------------------------------ consoles

    async def open_console(self, domain_name: str) -> Console:
        if not self.alive:
            raise Transient(f"{self._node}: {self.why_dead}")
        async with self._one_console_opens:
            return await console.open_console(self._opened.wire.access, domain_name)

    async def screenshot(self, domain_name: str) -> Picture:
        call = Call("screenshot", SCREENSHOT_S, lane=Lane.LONG)
        return await self._run(call, domain_name, screen.screenshot, domain_name)

    async def press_keys(self, domain_name: str, keycodes: Sequence[int]) -> None:
        await self._run(_write("press_keys"), domain_name, screen.press_keys, domain_name, keycodes)

    async def point(self, domain_name: str, x: float, y: float, changed: Mapping[str, bool]) -> None:
        await self._run(_write("point"), domain_name, screen.point, domain_name, x, y, changed)

    # ------------------------------------------------------------ the host

    async def inventory(self) -> HostInventory:
        return await self._run(_read("inventory"), "", inventory.observe_inventory)

    # ------------------------------------------------------------ domains

    async def list_domains(self) -> tuple[DomainSeen, ...]:
        return await self._run(_read("list_domains"), "", domains.list_domains)

    async def find_domain(self, domain_name: str) -> DomainSeen | None:
        return await self._run(_read("find_domain"), domain_name, domains.find_domain, domain_name)

    async def read_hardware(self, domain_name: str) -> HardwareAbi:
        return await self._run(_read("read_hardware"), domain_name, domains.observe_hardware, domain_name)

    async def define(self, plan: DomainPlan) -> None:
        await self._run(_write("define"), plan.identity.key, domains.define, plan)

    async def start(self, domain_name: str, *, paused: bool = False) -> None:
        await self._run(_power("start"), domain_name, domains.start, domain_name, paused=paused)

    async def shutdown(self, domain_name: str, *, mode: str) -> None:
        call = Call("shutdown", AGENT_S, writes=True, lane=Lane.AGENT)
        await self._run(call, domain_name, domains.shutdown, domain_name, mode)

    async def reboot(self, domain_name: str, *, mode: str) -> None:
        call = Call("reboot", AGENT_S, writes=True, lane=Lane.AGENT)
        await self._run(call, domain_name, domains.reboot, domain_name, mode)

    async def reset(self, domain_name: str) -> None:
        await self._run(_write("reset"), domain_name, domains.reset, domain_name)

    async def destroy(self, domain_name: str) -> None:
        await self._run(_power("destroy"), domain_name, domains.destroy, domain_name)

    async def undefine(self, domain_name: str, *, keep_nvram: bool = True) -> None:
        await self._run(_write("undefine"), domain_name, domains.undefine, domain_name, keep_nvram=keep_nvram)

    async def pause(self, domain_name: str) -> None:
        await self._run(_write("pause"), domain_name, domains.pause, domain_name)

    async def resume(self, domain_name: str) -> None:
        await self._run(_write("resume"), domain_name, domains.resume, domain_name)

    async def save(self, domain_name: str, path: str) -> None:
        await self._run(_long("save", SAVE_S), domain_name, domains.save, domain_name, path)

    async def restore(self, path: str, plan: DomainPlan) -> None:
        await self._run(_long("restore", SAVE_S), plan.identity.key, domains.restore, path, plan)

    async def guest_facts(self, domain_name: str) -> GuestFacts:
        call = Call("guest_facts", AGENT_S, lane=Lane.AGENT)
        return await self._run(call, domain_name, agent.observe_guest, domain_name)

    async def agent_state(self, domain_name: str) -> AgentState:
        call = Call("agent_state", AGENT_S, lane=Lane.AGENT)
        return await self._run(call, domain_name, agent.observe_agent, domain_name)

    async def set_password(self, domain_name: str, user: str, password: str) -> None:
        call = Call("set_password", AGENT_S, writes=True, lane=Lane.AGENT)
        await self._run(call, domain_name, agent.set_password, domain_name, user, password)

    async def change_ssh_keys(self, domain_name: str, user: str, keys: Sequence[str], *, add: bool) -> None:
        call = Call("change_ssh_keys", AGENT_S, writes=True, lane=Lane.AGENT)
        await self._run(call, domain_name, agent.change_ssh_keys, domain_name, user, tuple(keys), add=add)

    async def start_command(self, domain_name: str, argv: Sequence[str], *, stdin: bytes = b"") -> int:
        call = Call("start_command", AGENT_S, writes=True, lane=Lane.AGENT)
        return await self._run(call, domain_name, guestexec.start_command, domain_name, tuple(argv), stdin)

    async def command_outcome(self, domain_name: str, pid: int, *, most_bytes: int) -> CommandOutcome | None:
        call = Call("command_outcome", AGENT_S, lane=Lane.AGENT)
        return await self._run(call, domain_name, guestexec.command_outcome, domain_name, pid, most_bytes)

    # ------------------------------------------------------------ moving

    async def cpu_obstacle(self, plan: DomainPlan) -> str:
        return await self._run(_read("cpu_obstacle"), plan.identity.domain_name, moves.cpu_obstacle, plan)

    async def move(self, plan: MovePlan) -> MoveResult:
        return await self._moving.run("move", lambda conn: moves.move(conn, plan), about=plan.domain_name)

    async def move_progress(self, domain_name: str) -> MoveProgress | None:
        return await self._run(_read("move_progress"), domain_name, moves.observe_progress, domain_name)

    async def cancel_move(self, domain_name: str) -> None:
        await self._run(_write("cancel_move"), domain_name, moves.cancel_move, domain_name)

    async def start_post_copy(self, domain_name: str) -> None:
        await self._run(_write("start_post_copy"), domain_name, moves.start_post_copy, domain_name)

    # ------------------------------------------------------------ changes of a running guest

    async def read_shape(self, domain_name: str) -> GuestShape:
        return await self._run(_read("read_shape"), domain_name, hotplug.observe_shape, domain_name)

    async def set_vcpus(self, domain_name: str, count: int) -> None:
        await self._run(_write("set_vcpus"), domain_name, hotplug.set_vcpus, domain_name, count)

    async def set_memory(self, domain_name: str, size_mib: int) -> None:
        await self._run(_write("set_memory"), domain_name, hotplug.set_memory, domain_name, size_mib)

    async def set_cpu_tuning(self, domain_name: str, *, shares: int, quota_percent: int) -> None:
        call = _write("set_cpu_tuning")
        await self._run(call, domain_name, hotplug.set_cpu_tuning, domain_name, shares, quota_percent)

    async def attach_disk(self, plan: DomainPlan, disk: str) -> None:
        await self._run(_plug("attach_disk"), plan.identity.key, hotplug.attach_disk, plan, disk)

    async def detach_disk(self, domain_name: str, disk: str) -> None:
        await self._run(_plug("detach_disk"), domain_name, hotplug.detach, domain_name, f"disk/{disk}")

    async def set_disk_limits(self, plan: DomainPlan, disk: str) -> None:
        await self._run(_write("set_disk_limits"), plan.identity.key, hotplug.set_disk_limits, plan, disk)

    async def grow_disk(self, domain_name: str, disk: str, capacity_bytes: int) -> None:
        await self._run(_plug("grow_disk"), domain_name, hotplug.grow_disk, domain_name, disk, capacity_bytes)

    async def set_medium(self, plan: DomainPlan, drive: str, *, force: bool) -> None:
        await self._run(_plug("set_medium"), plan.identity.key, hotplug.set_medium, plan, drive, force)

    async def attach_nic(self, plan: DomainPlan, nic: str) -> None:
        await self._run(_plug("attach_nic"), plan.identity.key, hotplug.attach_nic, plan, nic)

    async def detach_nic(self, domain_name: str, nic: str) -> None:
        await self._run(_plug("detach_nic"), domain_name, hotplug.detach, domain_name, f"nic/{nic}")

    async def update_nic(self, plan: DomainPlan, nic: str) -> None:
        await self._run(_write("update_nic"), plan.identity.key, hotplug.update_nic, plan, nic)

    async def set_marks(self, domain_name: str, *, spec_hash: str, record: tuple[tuple[str, str], ...]) -> None:
        await self._run(_write("set_marks"), domain_name, hotplug.set_marks, domain_name, spec_hash, record)

    # ------------------------------------------------------------ storage

    async def list_pools(self) -> tuple[PoolSeen, ...]:
        return await self._run(_read("list_pools"), "", storage.list_pools)

    async def ensure_pool(self, plan: PoolPlan) -> PoolSeen:
        return await self._run(_write("ensure_pool"), plan.name, storage.ensure_pool, plan)

    async def remove_pool(self, name: str) -> None:
        await self._run(_write("remove_pool"), name, storage.remove_pool, name)

    async def list_volumes(self, pool: str, *, refresh: bool = False) -> tuple[VolumeSeen, ...]:
        return await self._run(_read("list_volumes"), pool, storage.list_volumes, pool, refresh=refresh)

    async def create_volume(self, pool: str, plan: VolumePlan) -> VolumeSeen:
        call = _write("create_volume") if plan.clone_of is None else _long("clone_volume", CLONE_S)
        return await self._run(call, f"{pool}/{plan.name}", storage.create_volume, pool, plan)

    async def resize_volume(self, pool: str, name: str, capacity_bytes: int) -> None:
        about = f"{pool}/{name}"
        await self._run(_write("resize_volume"), about, storage.resize_volume, pool, name, capacity_bytes)

    async def delete_volume(self, pool: str, name: str) -> None:
        await self._run(_power("delete_volume"), f"{pool}/{name}", storage.delete_volume, pool, name)

    async def upload(self, pool: str, name: str, content: AsyncIterator[bytes]) -> None:
        """At most a few chunks are in memory. An error of `content` ends the upload and is raised as it is."""
        handover = _Handover()
        call = _long("upload", CLONE_S)
        writing = asyncio.ensure_future(
            self._run(call, f"{pool}/{name}", storage.upload, pool, name, handover.chunks(), handover.wanted)
        )
        try:
            async for chunk in _until_done(content, writing):
                await handover.put(chunk, writing)
            await handover.put(None, writing)
            await writing
        except BaseException:
            handover.give_up()
            if not writing.done():
                writing.cancel()
            await asyncio.wait({writing})
            if not writing.cancelled():
                writing.exception()  # seen; the first error is the one to raise
            raise

    async def download(self, pool: str, name: str, *, length: int) -> bytes:
        call = Call("download", WRITE_S, lane=Lane.LONG)
        return await self._run(call, f"{pool}/{name}", storage.download, pool, name, length)

    # ------------------------------------------------------------ networks

    async def list_networks(self) -> tuple[NetworkSeen, ...]:
        return await self._run(_read("list_networks"), "", networks.list_networks)

    async def ensure_network(self, plan: NetworkPlan) -> NetworkSeen:
        return await self._run(_power("ensure_network"), plan.name, networks.ensure_network, plan)

    async def remove_network(self, name: str) -> None:
        await self._run(_power("remove_network"), name, networks.remove_network, name)

    async def list_bridges(self) -> tuple[str, ...]:
        return await self._run(_read("list_bridges"), "", networks.list_bridges)


async def _until_done(content: AsyncIterator[bytes], writing: asyncio.Future[None]) -> AsyncIterator[bytes]:
    """The chunks, until the upload has ended: a slow source must not hide that the host is gone."""
    while not writing.done():
        coming = asyncio.ensure_future(_next_of(content))
        either: set[asyncio.Future[Any]] = {coming, writing}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            chunk = await coming if coming.done() else None
        finally:
            coming.cancel()
        if chunk is None:
            return
        yield chunk


async def _next_of(content: AsyncIterator[bytes]) -> bytes | None:
    return await anext(content, None)


class _Handover:
    """Chunks from the loop to the thread that uploads them, at most four waiting."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes | None] = queue.Queue(maxsize=4)
        self._given_up = False

    def wanted(self) -> bool:
        return not self._given_up

    def give_up(self) -> None:
        self._given_up = True

    async def put(self, chunk: bytes | None, writing: asyncio.Future[None]) -> None:
        """Waits while the host is slower than the source; returns at once when the upload has ended."""
        waited_s, pause_s = 0.0, 0.001
        while not writing.done():
            try:
                self._queue.put_nowait(chunk)
            except queue.Full:
                if waited_s > STALL_S:
                    raise Transient(f"the host took no data for {STALL_S:g} s: the upload was given up") from None
                await asyncio.sleep(pause_s)
                waited_s += pause_s
                pause_s = min(0.05, pause_s * 2)
            else:
                return

    def chunks(self) -> Iterator[bytes]:
        """For the thread. Ends at None; raises when nobody wants the upload any more."""
        while True:
            try:
                chunk = self._queue.get(timeout=0.5)
            except queue.Empty:
                if self._given_up:
                    raise Transient("the upload was given up") from None
                continue
            if chunk is None:
                return
            yield chunk
