"""One VM, one pass: observe, decide, act, and again until nothing is to be done; then report once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.runtime.attachments import Attachments
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.guestabi import keep_hardware
from lq_operator.controllers.runtime.placements import on_a_host, placement_of
from lq_operator.controllers.runtime.refs import Namespaces, Refs
from lq_operator.controllers.runtime.statefiles import STATE_POOL, suspended_epochs
from lq_operator.controllers.vm.act import Actor
from lq_operator.controllers.vm.addresses import Addresses
from lq_operator.controllers.vm.children import Children, ensure_children
from lq_operator.controllers.vm.hotchange import HotChanger
from lq_operator.controllers.vm.memory import Memories, VmMemory
from lq_operator.controllers.vm.observe import Observer
from lq_operator.controllers.vm.prepare import Prepared, prepare
from lq_operator.controllers.vm.report import Reporter
from lq_operator.convert.domain import hardware_abi, hardware_status, merged_abi, spec_hash
from lq_operator.convert.power import should_run
from lq_operator.core.actions import AskStop, RemoveFinalizer, StartGuest, WritePlacement
from lq_operator.core.lifecycle.decide import decide
from lq_operator.core.lifecycle.operations import Effect
from lq_operator.core.lifecycle.power import Power
from lq_operator.core.lifecycle.world import Decision, Standing, VmWorld
from lq_operator.core.model import HardwareAbi, Identity, Phase
from lq_operator.core.result import NotFound, Transient
from lq_operator.ports import Resources, Store

FIRST_WORD_S = 2.0
"""A new VM that is not running by then says what it waits for."""
QUIET_S = 30.0
"""The same for one that waits for nothing but our own next steps: where many start at once a word to each costs all."""

MAX_ROUNDS = 12
"""Steps of one pass; the longest lawful chain (bind, stop, depart, release, sweep) needs seven."""


@dataclass(slots=True)
class VmController:
    """reconcile(namespace/name). Keeps nothing that a crash may not lose."""

    store: Store
    resources: Resources
    namespaces: Namespaces
    attachments: Attachments
    addresses: Addresses
    observer: Observer
    actor: Actor
    hotchanger: HotChanger
    reporter: Reporter
    memories: Memories

    async def reconcile(self, key: str) -> Requeue | None:
        """Bring one VM a step nearer to its declaration, as far as one pass can."""
        namespace, _, name = key.partition("/")
        vm = self.store.get(VirtualMachine, namespace, name)
        identity = self.observer.identity(namespace, name)
        if vm is None:
            self.observer.guests.forget(identity)
            self.attachments.drop(namespace, name)
            return None
        memory = self.memories.of(vm.metadata.uid)
        vm = await self._not_older(vm, memory)
        effect, outcomes = self.observer.operations(vm, memory)
        if await self.reporter.operations(vm, outcomes, memory):
            return Requeue.now()
        if not on_a_host(vm):
            self.attachments.drop(namespace, name)
        refs = Refs(self.store, namespace, await self.namespaces.labels(namespace))
        return await self._rounds(vm, identity, memory, effect, refs)

    async def _not_older(self, vm: VirtualMachine, memory: VmMemory) -> VirtualMachine:
        """The watch may be behind our own writes: then ask the API server itself."""
        if memory.protocol.contradicts(placement_of(vm)):
            read = await self.resources.get(VirtualMachine, vm.metadata.namespace, vm.metadata.name)
            if read is None or read.metadata.uid != vm.metadata.uid:
                raise NotFound(f"VirtualMachine {vm.key} is gone")
            vm = read
        placement = placement_of(vm)
        if placement is not None and not memory.protocol.contradicts(placement):
            memory.protocol = memory.protocol.after(placement)
        return vm

    async def _rounds(
        self, vm: VirtualMachine, identity: Identity, memory: VmMemory, effect: Effect, refs: Refs
    ) -> Requeue | None:
        fresh, hardware, automatic = False, None, False
        for _ in range(MAX_ROUNDS):
            prepared = await self._prepare(vm, identity, refs)
            world = self.observer.world(vm, memory, prepared, effect, fresh=fresh)
            decision = decide(world)
            automatic = automatic or decision.counts_restart
            if (decision.actions or decision.look) and not fresh and await self._list_placed(world, memory):
                fresh = True
                continue
            if not decision.actions:
                break
            if decision.give_up or _image_untold(vm, decision, memory):
                # Written before the release, or the scheduler would start it again, or without its suspend image.
                await self.reporter.report(vm, world, decision, effect, prepared, memory, hardware)
                vm = self.store.get(VirtualMachine, vm.metadata.namespace, vm.metadata.name) or vm
            for action in decision.actions:
                if isinstance(action, WritePlacement) and action.new.epoch == world.next_epoch:
                    self.attachments.take(vm)  # no await lies between this and the question in prepare
                vm = await self.actor.act(action, vm, identity, memory, prepared)
                if isinstance(action, RemoveFinalizer):
                    self.memories.forget(vm.metadata.uid)
                    return None
                if isinstance(action, StartGuest):
                    hardware = await self._hardware(vm, identity, world)
                    memory.started_hash = spec_hash(vm, prepared.size) if prepared.size else ""
                    memory.saved_on = ""
            if _must_be_told(decision):
                await self.reporter.report(vm, world, decision, effect, prepared, memory, hardware)
                return Requeue.after(decision.requeue_s or 0.0)
        else:
            raise Transient(f"{identity.key}: still not settled after {MAX_ROUNDS} steps")
        if (hold_s := self._hold_s(vm, decision, prepared, memory)) > 0:
            return Requeue.after(hold_s if decision.requeue_s is None else min(hold_s, decision.requeue_s))
        if hardware is None and decision.state in ("Running", "Paused") and not vm.status.hardware.machine:
            # Whoever started it died before saying what it sees.
            hardware = await self._hardware(vm, identity, world)
        if hardware is not None and not (memory.hardware_kept and hardware == hardware_abi(vm.status.hardware)):
            memory.hardware_due = hardware
        decision = replace(decision, counts_restart=automatic)
        hot = await self.hotchanger.settle(vm, identity, world, prepared, memory)
        await self.reporter.report(vm, world, decision, effect, prepared, memory, hardware, hot)
        await self._keep_hardware(identity, world, memory)
        if decision.give_up:
            return Requeue.now()
        waits = [wait_s for wait_s in (decision.requeue_s, hot.again_s) if wait_s is not None]
        return Requeue.after(min(waits)) if waits else None

    def _hold_s(self, vm: VirtualMachine, decision: Decision, prepared: Prepared, memory: VmMemory) -> float:
        """Seconds to hold back a first status that would only say "on the way": a quick start is then one write."""
        told = vm.status.condition("Ready") is not None  # the scheduler's own condition may be there already
        if decision.standing is not Standing.WORKING or told or decision.give_up or vm.deleting:
            return 0.0
        now_s = self.observer.clock.mono_s()
        if memory.first_seen_s is None:
            memory.first_seen_s = now_s
        return memory.first_seen_s + (QUIET_S if _on_its_way(vm, decision, prepared) else FIRST_WORD_S) - now_s

    async def _prepare(self, vm: VirtualMachine, identity: Identity, refs: Refs) -> Prepared:
        placement = placement_of(vm)
        children = Children()
        if should_run(vm) and placement is not None:
            in_use = self.observer.book.addresses()
            children = await ensure_children(vm, identity, refs, self.store, self.resources, self.addresses, in_use)
        node = placement.node if placement is not None and placement.phase is not Phase.RELEASED else None
        return prepare(vm, identity, node, refs, self.store, self.attachments, children)

    async def _list_placed(self, world: VmWorld, memory: VmMemory) -> bool:
        """Before acting, look at the placed host itself and not at what was heard of it."""
        entry = self.observer.host(world.placement)
        if entry is None:
            return False
        await self.observer.book.relist(entry)
        domain = entry.domains.get(world.identity.domain_name)
        rests = world.wish.power in (Power.STOPPED, Power.SUSPENDED) and not world.deleting
        if rests and not memory.saved_on and not (domain is not None and domain.state.runs):
            # Who saved it may have died before saying so.
            names = [volume.name for volume in await entry.host.list_volumes(STATE_POOL, refresh=True)]
            memory.saved_on = entry.node if suspended_epochs(world.identity, names) else ""
        return True

    async def _hardware(self, vm: VirtualMachine, identity: Identity, world: VmWorld) -> HardwareAbi | None:
        """What the guest sees from now on: places of devices that it has seen before, and of those that are new."""
        entry = self.observer.host(world.placement)
        if entry is None:
            return None
        try:
            seen = await entry.host.read_hardware(identity.domain_name)
        except NotFound:
            return None
        return merged_abi(hardware_abi(vm.status.hardware), seen, vm)

    async def _keep_hardware(self, identity: Identity, world: VmWorld, memory: VmMemory) -> None:
        """Beside the VM's state, once it is in status: nobody waits for this copy."""
        entry, placement = self.observer.host(world.placement), world.placement
        if memory.hardware_due is None or entry is None or placement is None or placement.epoch is None:
            return
        due = hardware_status(memory.hardware_due)
        await keep_hardware(entry, identity, placement.epoch, due, memory.hardware_kept)
        memory.hardware_due = None


def _on_its_way(vm: VirtualMachine, decision: Decision, prepared: Prepared) -> bool:
    """It waits for us alone: the scheduler, the copy of its disk, the start."""
    if decision.reason == "WaitingForHost":
        return vm.status.scheduling is None or not vm.status.scheduling.message
    lacks = [*prepared.blockers, *prepared.pending]
    if decision.reason in [lack.reason for lack in lacks]:
        return all(lack.untold for lack in lacks)
    return decision.reason in ("Accepted", "Starting")


def _image_untold(vm: VirtualMachine, decision: Decision, memory: VmMemory) -> bool:
    """It is about to be released, and status does not say yet that (and where) its memory lies."""
    released = any(isinstance(a, WritePlacement) and a.new.phase is Phase.RELEASED for a in decision.actions)
    return released and bool(memory.saved_on) and vm.status.power.state != "Suspended"


def _must_be_told(decision: Decision) -> bool:
    """Steps after which the world moves by itself: say so and come back, do not ask again in this pass."""
    return any(isinstance(action, AskStop) for action in decision.actions)
