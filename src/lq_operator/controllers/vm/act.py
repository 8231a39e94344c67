"""The VM controller's writes, one method per action. Each acts only on the connection on which the host was observed.

Every write says what refuses it when it comes late (docs/adr/0002): the gate refuses starts, exclusive creation
refuses files, the tested patch refuses placements; destroy and undefine are harmless in the order of an absence.
"""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.network import AddressClaim
from lq_operator.api.node import HypervisorNode, TombstoneVolume
from lq_operator.api.node import Tombstone as NodeTombstone
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.volume import Volume
from lq_operator.controllers.runtime.finalizers import ensure_finalizer, remove_finalizer
from lq_operator.controllers.runtime.guestbook import GuestBook
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.refs import disk_volumes
from lq_operator.controllers.runtime.statefiles import STATE_POOL, files_of, suspend_file
from lq_operator.controllers.runtime.tombstones import leave_tombstone
from lq_operator.controllers.vm.children import claims_of
from lq_operator.controllers.vm.memory import VmMemory
from lq_operator.controllers.vm.prepare import Prepared
from lq_operator.controllers.vm.start import Starter
from lq_operator.core.actions import (
    Action,
    AddFinalizer,
    AskStop,
    CutOff,
    Depart,
    EndHang,
    LeaveTombstones,
    PauseGuest,
    RemoveFinalizer,
    ResetGuest,
    ResumeGuest,
    SaveGuest,
    StartGuest,
    SweepState,
    WritePlacement,
)
from lq_operator.core.failover.facts import Tombstone
from lq_operator.core.failover.patch import placement_patch
from lq_operator.core.failover.record import departure_name
from lq_operator.core.lifecycle.heartbeat import Remedy
from lq_operator.core.model import AgentState, Epoch, Identity
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected, Transient
from lq_operator.ports import Resources, Store
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

MANAGER = "lq-vm"


@dataclass(slots=True)
class Actor:
    """Carries out the actions of one decision."""

    store: Store
    resources: Resources
    book: HostBook
    guests: GuestBook
    starter: Starter

    async def act(
        self, action: Action, vm: VirtualMachine, identity: Identity, memory: VmMemory, prepared: Prepared
    ) -> VirtualMachine:
        """Do it; returns the VM as it is afterwards."""
        match action:
            case AddFinalizer():
                return await ensure_finalizer(self.resources, vm, manager=MANAGER)
            case RemoveFinalizer():
                await remove_finalizer(self.resources, vm, manager=MANAGER)
            case WritePlacement():
                return await self._write_placement(action, vm, memory)
            case StartGuest():
                entry = self.book.still_owned(action.placement.node)
                await self.starter.start(vm, identity, action.placement, entry, prepared, memory)
            case LeaveTombstones():
                for tombstone in action.tombstones:
                    await self._leave_tombstone(tombstone, vm)
            case SweepState():
                await self._sweep(vm, identity)
            case _:
                await self._on_host(action, identity, memory)
        return vm

    async def _write_placement(self, action: WritePlacement, vm: VirtualMachine, memory: VmMemory) -> VirtualMachine:
        operations = placement_patch(
            vm.metadata.uid, action.current, action.new, resource_version=vm.metadata.resource_version
        )
        meta = vm.metadata
        written = await self.resources.json_patch(
            VirtualMachine, meta.namespace, meta.name, operations, subresource="status", manager=MANAGER
        )
        memory.protocol = memory.protocol.after(action.new)
        if action.new.epoch is not None and (action.current is None or action.new.epoch != action.current.epoch):
            memory.unused = action.new.epoch if action.new.epoch.term == self.book.tenure.term else None
        return written

    async def _on_host(self, action: Action, identity: Identity, memory: VmMemory) -> None:
        name = identity.domain_name
        match action:
            case AskStop(node, mode, _):
                entry = self.book.still_owned(node)
                epoch = entry.domains[name].epoch if name in entry.domains else None
                memory.ask(epoch, mode, self.starter.clock.mono_s())
                await self._ask(entry, name, mode)
            case CutOff(node, epoch):
                entry = self.book.still_owned(node)
                await self._same_run(entry, name, epoch)
                await entry.host.destroy(name)
            case PauseGuest(node):
                entry = self.book.still_owned(node)
                await entry.host.pause(name)
            case ResumeGuest(node):
                entry = self.book.still_owned(node)
                await entry.host.resume(name)
            case SaveGuest(node, epoch):
                entry = self.book.still_owned(node)
                await self._same_run(entry, name, epoch)
                assert epoch is not None
                await entry.host.save(name, f"{await self.starter.state_dir(entry)}/{suspend_file(identity, epoch)}")
                memory.saved_on = node
            case ResetGuest(node, operation_uid):
                entry = self.book.still_owned(node)
                await entry.host.reset(name)
                memory.resets_done.add(operation_uid)
            case EndHang(node, epoch, remedy):
                entry = self.book.still_owned(node)
                await self._end_hang(entry, identity, epoch, remedy)
                memory.remedied = remedy.value
            case Depart(node, epoch):
                entry = self.book.still_owned(node)
                await self._depart(entry, identity, epoch)
                return
            case _:
                raise AssertionError(f"not an action on a host: {action}")
        await self.book.refresh(entry, name)

    async def _ask(self, entry: OwnedHost, name: str, mode: str) -> None:
        """A guest that cannot be asked is cut off at its deadline: no reason to end the pass here."""
        try:
            await entry.host.shutdown(name, mode=mode)
        except (Transient, Rejected, Conflict, OutcomeUnknown) as error:
            log.info("the guest could not be asked to stop", node=entry.node, mode=mode, reason=str(error)[:300])

    async def _same_run(self, entry: OwnedHost, name: str, epoch: Epoch | None) -> None:
        """What is to be cut off is still the run that was decided about."""
        domain = await entry.host.find_domain(name)
        if domain is None or domain.epoch != epoch:
            raise Conflict(f"{entry.node}: {name} is not the run of epoch {epoch} any more")

    async def _end_hang(self, entry: OwnedHost, identity: Identity, epoch: Epoch | None, remedy: Remedy) -> None:
        """Late it meets a dead connection (a process that slept longer than its keepalive), or the same run a moment
        after the check: then a guest that has just come back boots once more. It starts no QEMU, so nothing runs twice."""
        name = identity.domain_name
        state = await entry.host.agent_state(name)
        self.guests.listen(identity, epoch, entry.host, state, self.starter.clock.mono_s())
        if state is not AgentState.SILENT:
            raise Transient(f"{entry.node}: the agent of {name} is not silent any more: {state.value}")
        await self._same_run(entry, name, epoch)
        if remedy is Remedy.RESET:
            await entry.host.reset(name)
        else:
            await entry.host.destroy(name)
        self.guests.deaf(identity)
        metrics.GUEST_HANGS.labels(remedy.value).inc()

    async def _depart(self, entry: OwnedHost, identity: Identity, epoch: Epoch) -> None:
        await self.book.note(entry, departure_name(identity.namespace, identity.name, epoch))
        domain = await entry.host.find_domain(identity.domain_name)
        if domain is not None and domain.state.runs:
            raise Conflict(f"{entry.node}: {identity.domain_name} runs again")
        if domain is not None:
            await entry.host.undefine(identity.domain_name, keep_nvram=True)
        await self.book.relist(entry)

    async def _leave_tombstone(self, tombstone: Tombstone, vm: VirtualMachine) -> None:
        entry = NodeTombstone(
            kind="VirtualMachine",
            namespace=tombstone.namespace,
            name=tombstone.name,
            uid=tombstone.uid,
            epoch=str(tombstone.epoch) if tombstone.epoch else "",
            volumes=self._doomed_volumes(vm),
            claims=[claim.key for claim in claims_of(vm, self.store) if not claim.spec.retain],
        )
        await leave_tombstone(self.resources, tombstone.node, entry, manager=MANAGER)

    def _doomed_volumes(self, vm: VirtualMachine) -> list[TombstoneVolume]:
        """Files to delete when the VM is surely gone: those of templates with reclaimPolicy Delete."""
        templated = {disk.name for disk in vm.spec.disks if disk.template and disk.template.reclaim_policy == "Delete"}
        doomed: list[TombstoneVolume] = []
        for disk, name in disk_volumes(vm).items():
            volume = self.store.get(Volume, vm.metadata.namespace, name) if disk in templated else None
            if volume is not None and volume.status.pool:
                doomed += [TombstoneVolume(pool=volume.status.pool, file=link.file) for link in volume.status.chain]
        return doomed

    async def _sweep(self, vm: VirtualMachine, identity: Identity) -> None:
        for entry in self.book.all():
            names = [volume.name for volume in await entry.host.list_volumes(STATE_POOL, refresh=True)]
            for name in files_of(identity, names):
                await entry.host.delete_volume(STATE_POOL, name)
        buried = {
            claim
            for node in self.store.list(HypervisorNode)
            for tombstone in node.status.tombstones
            if tombstone.uid == vm.metadata.uid
            for claim in tombstone.claims
        }
        for claim in claims_of(vm, self.store):
            if claim.spec.retain or claim.key in buried:
                continue
            meta = claim.metadata
            try:
                await self.resources.delete(AddressClaim, meta.namespace, meta.name, uid=meta.uid)
            except NotFound:
                continue
