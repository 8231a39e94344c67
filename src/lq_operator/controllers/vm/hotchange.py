"""What of a spec is not yet true of the running guest; and the live part of it, applied one step at a time.

What runs is asked of its host each time, so that nothing is remembered that a crash could lose and a change taken back
is no change. While the mark in the domain's metadata says that the guest is as the spec wants it, nothing is asked.

Late writes (docs/adr/0002): each step is refused by the epoch of the run, which is looked at first on the same
connection; one that slips through is undone by the next look, and a file that another guest has open by then is refused
by QEMU's image lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmstatus import HardwareStatus
from lq_operator.api.volume import Volume
from lq_operator.controllers.runtime.attachments import Attachments
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.refs import disk_volumes
from lq_operator.controllers.vm.cdroms import is_told
from lq_operator.controllers.vm.memory import VmMemory
from lq_operator.controllers.vm.prepare import Prepared
from lq_operator.controllers.vm.start import Starter
from lq_operator.convert.domain import ResolvedDisk, hardware_abi, hardware_status, merged_abi, spec_hash
from lq_operator.convert.placement import node_labels
from lq_operator.core.lifecycle.changes import Change, changes_of, steps_of
from lq_operator.core.lifecycle.fields import Effect
from lq_operator.core.lifecycle.shape import GuestShape, shape_of
from lq_operator.core.lifecycle.world import VmWorld
from lq_operator.core.model import DomainPlan, DomainSeen, DomainState, HardwareAbi, Identity, Phase
from lq_operator.core.result import Conflict, Rejected, Transient
from lq_operator.core.units import MIB, format_mib, parse_bytes
from lq_operator.ports import Store
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

MAX_STEPS = 16
"""Of one pass; the rest is for the next one, so that a long list keeps no worker."""
AGAIN_S = 2.0
"""How soon to look again at what the guest was asked for and has not done yet."""
ASK_AGAIN_S = 15.0
"""A guest that was still booting has not heard it."""
BACKOFF_S = (5.0, 15.0, 60.0, 300.0)
TRAY_S = (5.0, 10.0)
"""A person who unmounts a medium in the guest waits for the tray."""
IN_BETWEEN = "changing"
"""The mark of a guest that is as no spec says: what it is made of has to be asked."""


@dataclass(frozen=True, slots=True)
class Hot:
    """`changes`: what is pending. `shape`: what runs, None where it was not asked (nothing pending, or not to be seen).
    `known`: False where it cannot be told. `applied`: in this pass. `again_s`: look again after that long."""

    changes: tuple[Change, ...] = ()
    shape: GuestShape | None = None
    known: bool = True
    hardware: HardwareAbi | None = None
    applied: tuple[Change, ...] = ()
    again_s: float | None = None
    failed: bool = False


UNSEEN = Hot(known=False)
"""Nobody has looked."""


@dataclass(slots=True)
class HotChanger:
    """Looks and acts on running guests. Keeps nothing but the waits of what failed (VmMemory)."""

    store: Store
    book: HostBook
    starter: Starter
    attachments: Attachments

    async def settle(
        self, vm: VirtualMachine, identity: Identity, world: VmWorld, prepared: Prepared, memory: VmMemory
    ) -> Hot:
        """Apply what can be applied now; then what is left, and why."""
        domain = world.placed.domain if world.placed else None
        if domain is None or not domain.state.runs:
            silent = world.placed is not None and world.placed.view is None
            return Hot(known=not silent)
        entry = self._entry(world, domain)
        if entry is None or prepared.size is None or prepared.cluster is None:
            return Hot(known=False)
        wanders, growing = self._wanders(vm, entry), self._growing(vm)
        if domain.spec_hash == spec_hash(vm, prepared.size):
            return Hot(_sorted(growing, wanders))
        hot = await self._steps(vm, identity, entry, domain, prepared, memory)
        return replace(hot, changes=_sorted(hot.changes, growing, wanders))

    def _entry(self, world: VmWorld, domain: DomainSeen) -> OwnedHost | None:
        """Where it runs, while it is committed there and not on its way."""
        placement = world.placement
        if placement is None or placement.phase is not Phase.COMMITTED or domain.epoch != placement.started_epoch:
            return None
        entry = self.book.owned(placement.node)
        return entry if entry is not None and entry.uuid == placement.host_uuid else None

    async def _steps(
        self,
        vm: VirtualMachine,
        identity: Identity,
        entry: OwnedHost,
        domain: DomainSeen,
        prepared: Prepared,
        memory: VmMemory,
    ) -> Hot:
        applied: list[Change] = []
        again_s = None
        for _ in range(MAX_STEPS):
            hot, plan = await self._look(vm, identity, entry, domain, prepared)
            applied = [change for change in applied if change.path not in {left.path for left in hot.changes}]
            if not hot.changes:
                await self._settled(vm, entry, plan, memory)
                return replace(hot, applied=tuple(applied))
            due = next((change for change in steps_of(hot.changes) if not self._waits(change, memory)), None)
            if due is None or domain.state is not DomainState.RUNNING:
                break
            if not _is_told(vm, due, prepared):
                again_s = 0.0  # status has to name what a guest can have open
                break
            await self._step(vm, entry, hot, plan, due, memory)
            applied.append(due)
        left = self._said(hot.changes, memory, domain)
        failed = any(tried.error for tried in memory.hot.values())
        again_s = self._again_s(left, memory) if again_s is None else again_s
        return replace(hot, changes=left, applied=tuple(applied), again_s=again_s, failed=failed)

    async def _settled(self, vm: VirtualMachine, entry: OwnedHost, plan: DomainPlan, memory: VmMemory) -> None:
        """The guest is as the spec wants it: from now on nothing has to be asked."""
        name = plan.identity.domain_name
        await entry.host.set_marks(name, spec_hash=plan.spec_hash, record=plan.record)
        await self.book.refresh(entry, name)
        memory.hot.clear()

    # ------------------------------------------------------------ looking

    async def _look(
        self, vm: VirtualMachine, identity: Identity, entry: OwnedHost, domain: DomainSeen, prepared: Prepared
    ) -> tuple[Hot, DomainPlan]:
        shape = await entry.host.read_shape(identity.domain_name)
        abi = merged_abi(hardware_abi(vm.status.hardware), await entry.host.read_hardware(identity.domain_name), vm)
        plan = await self._plan(_with_hardware(vm, hardware_status(abi)), identity, entry, domain, prepared)
        class_name = prepared.size.class_name if prepared.size else ""
        changes = changes_of(shape, shape_of(plan), class_name=class_name)
        changes = tuple(self._crowded(vm, entry, shape, change, plan) for change in changes)
        return Hot(changes, shape, hardware=abi), plan

    async def _plan(
        self, vm: VirtualMachine, identity: Identity, entry: OwnedHost, domain: DomainSeen, prepared: Prepared
    ) -> DomainPlan:
        """What a start would define now. Disks whose Volume is not ready have no path yet."""
        ready = {disk.name for disk in prepared.disks}
        missing = [ResolvedDisk(disk.name, "", "raw") for disk in vm.spec.disks if disk.name not in ready]
        whole = replace(prepared, disks=[*prepared.disks, *missing])
        if len(whole.nics) < len(vm.spec.interfaces):
            raise Transient(f"{identity.key}: a network of spec.interfaces is not to be found")
        assert domain.epoch is not None
        return await self.starter.plan(vm, identity, domain.epoch, entry, whole)

    def _crowded(
        self, vm: VirtualMachine, entry: OwnedHost, shape: GuestShape, change: Change, plan: DomainPlan
    ) -> Change:
        """More memory than the host has promised to nobody is not given: DRS or a person moves somebody first."""
        if change.step is None or change.step.verb != "set_memory" or plan.memory_mib <= shape.memory_mib:
            return change
        node = self.store.get(HypervisorNode, None, entry.node)
        promised = sum(
            other.status.effective.memory_mib
            for other in self.store.list(VirtualMachine)
            if other.metadata.uid != vm.metadata.uid
            and other.status.placement is not None
            and entry.node in (other.status.placement.node, other.status.placement.target)
        )
        left = (node.status.allocatable.memory_mib if node else 0) - promised
        if plan.memory_mib <= left:
            return change
        message = (
            f"{entry.node} has promised its memory to others ({max(0, left)} MiB left for this VM): move one of them"
        )
        return replace(change, step=None, message=message)

    def _growing(self, vm: VirtualMachine) -> tuple[Change, ...]:
        """Disks whose template asks for more, or less, than their Volume is."""
        found = []
        for disk in vm.spec.disks:
            volume = self.store.get(Volume, vm.metadata.namespace, disk_volumes(vm)[disk.name])
            if disk.template is None or volume is None or not volume.status.size_bytes:
                continue
            size, wanted = volume.status.size_bytes, parse_bytes(disk.template.size)
            if wanted < parse_bytes(volume.spec.size):
                path, message = f"spec.disks[{disk.name}].template.size", "a disk never shrinks: its end would be lost"
                found.append(Change(path, Effect.IMPOSSIBLE, volume.spec.size, disk.template.size, message))
            elif wanted > size:
                ready = volume.status.condition("Ready")
                message = ready.message if ready is not None and ready.status != "True" else ""
                path = f"spec.disks[{disk.name}].template.size"
                before = format_mib(size // MIB)
                found.append(Change(path, Effect.LIVE, before, disk.template.size, message[:300]))
        return tuple(found)

    def _wanders(self, vm: VirtualMachine, entry: OwnedHost) -> tuple[Change, ...]:
        """Its host is not one that spec.placement wants any more."""
        node, wishes = self.store.get(HypervisorNode, None, entry.node), vm.spec.placement
        if node is None:
            return ()
        labels, found = node_labels(node), []
        if any(labels.get(key) != value for key, value in wishes.node_selector.items()):
            found.append("spec.placement.nodeSelector")
        if not wishes.node_affinity.matches(labels):
            found.append("spec.placement.nodeAffinity")
        message = "its host does not fit any more: create a VirtualMachineMigration when it suits"
        return tuple(Change(path, Effect.MIGRATE, entry.node, "another host", message) for path in found)

    # ------------------------------------------------------------ acting

    async def _step(
        self, vm: VirtualMachine, entry: OwnedHost, hot: Hot, plan: DomainPlan, change: Change, memory: VmMemory
    ) -> None:
        """Do it, or remember why not. Raises when nothing is known afterwards."""
        name, now_s = plan.identity.domain_name, self.starter.clock.mono_s()
        seen = await entry.host.find_domain(name)
        if seen is None or seen.epoch != plan.epoch or not seen.state.runs:
            raise Conflict(f"{entry.node}: {name} is not the run of epoch {plan.epoch} any more")
        await self.book.check_gate(entry)
        if seen.spec_hash != IN_BETWEEN and hot.shape is not None:
            await entry.host.set_marks(name, spec_hash=IN_BETWEEN, record=hot.shape.record)
        log.info("changing the running guest", field=change.path, before=change.before, after=change.after)
        # A disk without a file is none that could be written down.
        plan = replace(plan, disks=tuple(disk for disk in plan.disks if disk.path))
        try:
            await self._call(vm, entry, plan, change)
        except (Rejected, Conflict, Transient) as error:
            if not entry.host.alive:
                raise
            tray = change.step is not None and change.step.verb == "set_medium"
            memory.hot_failed(change.path, str(error), now_s, TRAY_S if tray else BACKOFF_S, _wish(change))
            log.warning("the running guest did not take a change", field=change.path, reason=str(error)[:500])
        else:
            memory.hot_asked(change.path, now_s + ASK_AGAIN_S, _wish(change))
        await self.book.refresh(entry, name)

    async def _call(self, vm: VirtualMachine, entry: OwnedHost, plan: DomainPlan, change: Change) -> None:
        step, name, host = change.step, plan.identity.domain_name, entry.host
        assert step is not None
        match step.verb:
            case "set_vcpus":
                await host.set_vcpus(name, plan.vcpus)
            case "set_memory":
                await host.set_memory(name, plan.memory_mib)
            case "set_cpu_tuning":
                await host.set_cpu_tuning(name, shares=plan.cpu_shares, quota_percent=plan.cpu_quota_percent)
            case "attach_disk":
                self.attachments.take(vm)
                await host.attach_disk(plan, step.name)
            case "detach_disk":
                await host.detach_disk(name, step.name)
            case "set_disk_limits":
                await host.set_disk_limits(plan, step.name)
            case "set_medium":
                self.attachments.take(vm)
                await host.set_medium(plan, step.name, force=step.force)
            case "attach_nic":
                await host.attach_nic(plan, step.name)
            case "detach_nic":
                await host.detach_nic(name, step.name)
            case _:
                await host.update_nic(plan, step.name)

    # ------------------------------------------------------------ waiting and saying so

    def _waits(self, change: Change, memory: VmMemory) -> bool:
        tried = memory.hot.get(change.path)
        if tried is None or tried.wish != _wish(change):
            return False
        return tried.until_s > self.starter.clock.mono_s()

    def _said(self, changes: Sequence[Change], memory: VmMemory, domain: DomainSeen) -> tuple[Change, ...]:
        """With the reason of each that is still pending though it is live."""
        for path in memory.hot.keys() - {change.path for change in changes}:
            del memory.hot[path]
        said = []
        for change in changes:
            tried, message = memory.hot.get(change.path), change.message
            if change.effect is Effect.LIVE and change.step is not None:
                if domain.state is not DomainState.RUNNING:
                    message = "waits: the guest does not run now"
                elif tried is not None:
                    message = tried.error or "the guest was asked and has not done it yet"
            said.append(replace(change, message=message[:400]))
        return tuple(said)

    def _again_s(self, changes: Sequence[Change], memory: VmMemory) -> float | None:
        """Nothing tells when a guest does what it was asked for, when a host has room, or a Volume is there."""
        live = [change for change in changes if change.effect is Effect.LIVE]
        if not live:
            return None
        tried = [memory.hot[change.path] for change in live if change.path in memory.hot]
        if len(tried) < len(live) or not all(one.error for one in tried):
            return AGAIN_S
        now_s = self.starter.clock.mono_s()
        return max(AGAIN_S, min(one.until_s - now_s for one in tried))


def _wish(change: Change) -> str:
    """What a step of this change tries, for whoever asks whether it was tried already."""
    return f"{change.after} {change.step.force if change.step is not None else ''}"


def _sorted(*groups: Sequence[Change]) -> tuple[Change, ...]:
    return tuple(sorted((change for group in groups for change in group), key=lambda change: change.path))


def _is_told(vm: VirtualMachine, change: Change, prepared: Prepared) -> bool:
    """The file that this step gives to the guest is named by status, so that nobody deletes it meanwhile."""
    step = change.step
    if step is not None and step.verb == "set_medium":
        return all(is_told(vm, drive) for drive in prepared.drives if drive.name == step.name)
    if step is None or step.verb != "attach_disk":
        return True
    volume = disk_volumes(vm).get(step.name)
    return any(entry.name == step.name and entry.volume == volume and entry.ready for entry in vm.status.disks)


def _with_hardware(vm: VirtualMachine, hardware: HardwareStatus) -> VirtualMachine:
    return vm.model_copy(update={"status": vm.status.model_copy(update={"hardware": hardware})})
