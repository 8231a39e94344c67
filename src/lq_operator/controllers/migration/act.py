"""The migration controller's writes, one method per step. What refuses each when it comes late: docs/adr/0002.

The order is core/moving's; here each step acts on the connection on which the hosts were observed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.controllers.migration.begin import Beginner, delete_tickets
from lq_operator.controllers.migration.disks import Disks
from lq_operator.controllers.migration.memory import Moves
from lq_operator.controllers.migration.observe import Pass
from lq_operator.controllers.migration.report import MANAGER, Reporter, Say
from lq_operator.controllers.runtime.finalizers import remove_finalizer
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.placements import placement_of
from lq_operator.controllers.vm.memory import VmMemory
from lq_operator.core.failover.patch import placement_patch
from lq_operator.core.failover.record import departure_name
from lq_operator.core.model import DomainState, Epoch, Identity, NodeName
from lq_operator.core.model import Phase as Placed
from lq_operator.core.moving import steps as s
from lq_operator.core.moving.settle import arrived_paused
from lq_operator.core.moving.world import MoveWorld, Phase
from lq_operator.core.result import Conflict, NotFound, Rejected, Transient
from lq_operator.ports import Clock, Resources
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

TELL_S = 2.0
"""Progress is written at most that often."""


@dataclass(slots=True)
class Actor:
    """Carries out steps. `wake_waiting()`: a move has ended, another may have its turn."""

    resources: Resources
    book: HostBook
    beginner: Beginner
    disks: Disks
    moves: Moves
    reporter: Reporter
    clock: Clock
    wake_waiting: Callable[[], None]

    async def act(
        self,
        step: s.Step,
        move: VirtualMachineMigration | None,
        vm: VirtualMachine | None,
        identity: Identity,
        memory: VmMemory,
        this: Pass,
        world: MoveWorld,
        key: str,
    ) -> None:
        """Do it; what it changed is observed afterwards."""
        match step:
            case s.RemoveFinalizer() if move is not None:
                await self._clean(world, vm, identity)
                await remove_finalizer(self.resources, move, manager=MANAGER)
            case s.Finish() if move is not None:
                await self._finish(step, move, vm, identity, world, key)
            case s.Begin(node) if move is not None and vm is not None:
                await self._begin(move, vm, identity, memory, node, key)
            case s.Settle(reason, message) if move is not None:
                await self._settle(move, reason, message, key)
            case s.CallOff(reason, message):
                await self._call_off(move, world, identity, reason, message, key)
            case s.EndMove() if vm is not None:
                await self._end(step, vm, identity, memory, world)
            case s.SwitchDisks() if vm is not None:
                assert world.source is not None
                assert world.target is not None
                await self.disks.switch(vm, world.source.node, world.target.node)
            case s.StartPostCopy() if move is not None and vm is not None:
                await self._post_copy(move, vm, world, identity)
            case _:
                await self._on_host(step, identity, world, this)

    # ------------------------------------------------------------ saying so

    async def wait(self, step: s.Wait, move: VirtualMachineMigration | None, world: MoveWorld, key: str) -> None:
        """Where it stands; numbers at most every two seconds."""
        if move is None:
            log.info("a move that no object speaks of", vm=key, reason=step.reason, message=step.message[:300])
            return
        memory, now_s = self.moves.of(key), self.clock.mono_s()
        progress = world.job.progress
        if progress is not None and now_s - memory.told_s < TELL_S:
            progress = None
        elif progress is not None:
            memory.told_s = now_s
        say = Say(step.phase, step.reason, step.message, progress=progress)
        if progress is None and _said(move, step):
            return
        await self.reporter.say(move, say)

    async def _finish(
        self,
        step: s.Finish,
        move: VirtualMachineMigration,
        vm: VirtualMachine | None,
        identity: Identity,
        world: MoveWorld,
        key: str,
    ) -> None:
        await self._clean(world, vm, identity)
        end = self.moves.of(key).end
        result = end.result if end is not None and step.phase is Phase.SUCCEEDED else None
        said = await self.reporter.say(move, Say(step.phase, step.reason, step.message, result=result))
        await self.reporter.ended(said, vm)
        self.moves.forget(key)
        self.wake_waiting()

    async def _settle(self, move: VirtualMachineMigration, reason: str, message: str, key: str) -> None:
        end = self.moves.of(key).end
        result = end.result if end is not None else None
        transfer = (False, reason, message[:2000])
        await self.reporter.say(move, Say(Phase.SETTLING, "AskingBothHosts", message, transfer=transfer, result=result))

    # ------------------------------------------------------------ beginning and calling off

    async def _begin(
        self,
        move: VirtualMachineMigration,
        vm: VirtualMachine,
        identity: Identity,
        memory: VmMemory,
        node: NodeName,
        key: str,
    ) -> None:
        self.moves.of(key).end = None
        after = await self.beginner.begin(move, vm, identity, memory, node)
        if after.status.phase == Phase.REFUSED.value:
            await self.reporter.ended(after, vm)
            self.moves.forget(key)
            self.wake_waiting()

    async def _call_off(
        self,
        move: VirtualMachineMigration | None,
        world: MoveWorld,
        identity: Identity,
        reason: str,
        message: str,
        key: str,
    ) -> None:
        """The reason first: whoever comes after a crash of this process knows why it ended."""
        if move is not None:
            transfer = (False, reason, message)
            await self.reporter.say(move, Say(Phase.SETTLING, reason, message, transfer=transfer))
        assert world.source is not None
        try:
            await self.book.still_owned(world.source.node).host.cancel_move(identity.domain_name)
        except (Conflict, Rejected, NotFound) as error:
            log.info("the move cannot be called off any more", vm=key, reason=str(error)[:300])
        self.moves.of(key).asked = True

    async def _post_copy(
        self, move: VirtualMachineMigration, vm: VirtualMachine, world: MoveWorld, identity: Identity
    ) -> None:
        assert world.source is not None
        self.reporter.post_copy(move, vm)
        try:
            await self.book.still_owned(world.source.node).host.start_post_copy(identity.domain_name)
        except Conflict as error:
            raise Transient(str(error)) from error

    # ------------------------------------------------------------ on hosts

    async def _on_host(self, step: s.Step, identity: Identity, world: MoveWorld, this: Pass) -> None:
        name = identity.domain_name
        match step:
            case s.DeleteTickets():
                assert world.target is not None
                await delete_tickets(self.book.still_owned(world.target.node), identity)
                this.tickets_gone_at = self.book.next_listing()
            case s.List(node):
                await self.book.relist(self.book.still_owned(node))
            case s.Depart(node, epoch):
                await self._depart(self.book.still_owned(node), identity, epoch)
            case s.Discard(node, epoch):
                await self._discard(self.book.still_owned(node), name, epoch)
            case s.DiscardArrived(source, target, epoch):
                await self._discard_arrived(self.book.still_owned(source), self.book.still_owned(target), name, epoch)
            case s.Resume(node):
                entry = self.book.still_owned(node)
                # Refused late: during a later move libvirt lets nobody resume, and QEMU's image lock is the target's.
                await entry.host.resume(name)
                await self.book.refresh(entry, name)
            case _:
                raise AssertionError(f"not a step on a host: {step}")

    async def _depart(self, entry: OwnedHost, identity: Identity, epoch: Epoch) -> None:
        await self.book.note(entry, departure_name(identity.namespace, identity.name, epoch))
        domain = await entry.host.find_domain(identity.domain_name)
        if domain is not None and domain.state.runs:
            raise Conflict(f"{entry.node}: {identity.domain_name} runs again")
        if domain is not None:
            await entry.host.undefine(identity.domain_name, keep_nvram=True)
        await self.book.relist(entry)

    async def _discard(self, entry: OwnedHost, name: str, epoch: Epoch | None) -> None:
        """Only a shell that stands still for the changeover, and only of this run."""
        domain = await entry.host.find_domain(name)
        if domain is None or domain.epoch != epoch or domain.state_reason != "migration":
            raise Conflict(f"{entry.node}: {name} is not what it was, looking again")
        log.warning("removing what a move left behind", node=entry.node, domain=name, epoch=str(epoch))
        await entry.host.destroy(name)
        await self.book.refresh(entry, name)

    async def _discard_arrived(self, source: OwnedHost, target: OwnedHost, name: str, epoch: Epoch | None) -> None:
        """The order proves it: the target has finished the changeover, and the source runs the guest after that, so
        libvirt has called this move off there and it never changes over any more."""
        there = await target.host.find_domain(name)
        if there is None or there.epoch != epoch or not arrived_paused(there):
            raise Conflict(f"{target.node}: {name} is not what it was, looking again")
        here = await source.host.find_domain(name)
        if here is None or here.epoch != epoch or here.state is not DomainState.RUNNING:
            raise Conflict(f"{source.node}: {name} does not run there, looking again")
        log.warning("removing a guest that arrived after its move was called off", node=target.node, domain=name)
        await target.host.destroy(name)
        await self.book.refresh(target, name)

    async def _end(
        self, step: s.EndMove, vm: VirtualMachine, identity: Identity, memory: VmMemory, world: MoveWorld
    ) -> None:
        """What was listed still counts when my gates are there now; then the patch."""
        sides = [side for side in (world.source, world.target) if side is not None and side.view is not None]
        for side in sides:
            await self.book.check_gate(self.book.still_owned(side.node))
        assert step.current.target is not None
        assert step.current.node is not None
        arrived = step.new.phase is Placed.COMMITTED and step.new.node == step.current.target
        if arrived and world.copied:
            await self.disks.switch(vm, step.current.node, step.current.target)
        operations = placement_patch(vm.metadata.uid, step.current, step.new)
        meta = vm.metadata
        await self.resources.json_patch(
            VirtualMachine, meta.namespace, meta.name, operations, subresource="status", manager=MANAGER
        )
        memory.protocol = memory.protocol.after(step.new)
        log.info("move settled", vm=identity.key, phase=step.new.phase.value, node=step.new.node or "")

    # ------------------------------------------------------------ cleaning up

    async def _clean(self, world: MoveWorld, vm: VirtualMachine | None, identity: Identity) -> None:
        """Files of the side that does not have the guest. What a host refuses for good stops nothing from being told; what
        cannot be reached is named by a tombstone, or overwritten by the next move."""
        placement = placement_of(vm) if vm is not None else None
        if vm is None or placement is None or not world.target_node or vm.metadata.uid != world.vm_uid:
            return
        source, target = NodeName(world.source_node), NodeName(world.target_node)
        # Where neither runs it, its disks say where it will start again.
        bound = placement.node if placement.phase is Placed.COMMITTED else self.disks.where(vm)
        try:
            if bound == target:
                await self.disks.forget_source(vm, identity, placement.started_epoch, source, target)
            elif bound == source:
                entry = self.book.owned(target)
                if entry is not None:
                    await delete_tickets(entry, identity)
                await self.disks.forget_target(vm, identity, target)
        except (NotFound, Rejected) as error:
            log.warning("files of a move are left", vm=identity.key, reason=str(error)[:300])


def _said(move: VirtualMachineMigration, step: s.Wait) -> bool:
    """Nothing new but how long it takes."""
    ready = move.status.condition("Ready")
    return (
        ready is not None
        and (ready.reason, move.status.phase) == (step.reason, step.phase.value)
        and ready.message == step.message
    )
