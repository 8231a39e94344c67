"""Every move of one VM, one pass: the queue's key is the VM, so that two moves of it never run at once.

A VM whose placement is Moving is settled here also when no object speaks of that move any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.controllers.migration.act import Actor
from lq_operator.controllers.migration.observe import MoveObserver, Pass
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.placements import placement_of
from lq_operator.controllers.vm.memory import Memories, VmMemory
from lq_operator.core.model import Identity, MoveProgress, Phase
from lq_operator.core.moving import steps as s
from lq_operator.core.moving.decide import WATCH_S, decide
from lq_operator.core.moving.world import Phase as MovePhase
from lq_operator.core.result import NotFound, Transient
from lq_operator.core.times import age_s
from lq_operator.ports import Clock, Resources, Store

MAX_STEPS = 24
"""The longest chain: tickets, two listings, two departures with theirs, disks, the patch, the end."""


@dataclass(slots=True)
class MigrationController:
    """reconcile(namespace/name of a VM)."""

    store: Store
    resources: Resources
    observer: MoveObserver
    actor: Actor
    memories: Memories
    clock: Clock

    async def reconcile(self, key: str) -> Requeue | None:
        """Bring every move of this VM a step nearer to its end."""
        namespace, _, name = key.partition("/")
        moves = self.observer.of_vm(namespace, name)
        vm = await self._vm(namespace, name)
        current = self.observer.begun_one(moves, vm)
        placement = placement_of(vm) if vm is not None else None
        if not moves and (placement is None or placement.phase is not Phase.MOVING):
            self.observer.moves.forget(key)
            return None
        after_s: list[float] = []
        if current is None and placement is not None and placement.phase is Phase.MOVING:
            after_s.append(await self._run(None, None, key))
        if current is None:
            current = next((move for move in moves if _waits(move)), None)
        for move in moves:
            again_s = await self._run(move, current, key)
            after_s.append(again_s)
        wait_s = min((seconds for seconds in after_s if seconds >= 0), default=-1.0)
        return Requeue.after(wait_s) if wait_s >= 0 else None

    async def _vm(self, namespace: str, name: str) -> VirtualMachine | None:
        """The watch may be behind our own writes: then the API server itself is asked."""
        vm = self.store.get(VirtualMachine, namespace, name)
        if vm is None:
            return None
        memory = self.memories.of(vm.metadata.uid)
        if memory.protocol.contradicts(placement_of(vm)):
            read = await self.resources.get(VirtualMachine, namespace, name)
            if read is None or read.metadata.uid != vm.metadata.uid:
                raise NotFound(f"VirtualMachine {vm.key} is gone")
            vm = read
        placement = placement_of(vm)
        if placement is not None and not memory.protocol.contradicts(placement):
            memory.protocol = memory.protocol.after(placement)
        return vm

    async def _run(
        self, move: VirtualMachineMigration | None, current: VirtualMachineMigration | None, key: str
    ) -> float:
        """Steps of one move until it waits; seconds until it wants to be looked at again, -1 for never."""
        namespace, _, name = key.partition("/")
        identity = self.observer.observer.identity(namespace, name)
        this = Pass(self.observer.observer.book.next_listing())
        for _ in range(MAX_STEPS):
            vm = await self._vm(namespace, name)
            if move is not None:
                fresh = self.store.get(VirtualMachineMigration, namespace, move.metadata.name)
                if fresh is None or fresh.metadata.uid != move.metadata.uid:
                    return -1.0
                move = fresh
            placement = placement_of(vm) if vm is not None else None
            moving = placement is not None and placement.phase is Phase.MOVING
            if move is None and not moving:
                return -1.0
            progress = await self._progress(vm, identity) if moving else None
            memory = self.memories.of(vm.metadata.uid) if vm is not None else VmMemory()
            world = self.observer.world(move, current, vm, memory, this, progress, key)
            step = decide(world)
            match step:
                case s.Rest():
                    return await self._rest(move)
                case s.Wait():
                    await self.actor.wait(step, move, world, key)
                    return step.again_s
            await self.actor.act(step, move, vm, identity, memory, this, world, key)
            if isinstance(step, s.RemoveFinalizer):
                return -1.0
            if isinstance(step, s.Begin):
                return WATCH_S
        raise Transient(f"{key}: its move is not settled after {MAX_STEPS} steps")

    async def _progress(self, vm: VirtualMachine | None, identity: Identity) -> MoveProgress | None:
        """Asked of the source; None where it is silent too, which settles nothing."""
        placement = placement_of(vm) if vm is not None else None
        entry = self.observer.observer.host(placement)
        if entry is None:
            return None
        try:
            return await entry.host.move_progress(identity.domain_name)
        except NotFound:
            return None

    async def _rest(self, move: VirtualMachineMigration | None) -> float:
        """Delete it when its time is over."""
        if move is None:
            return -1.0
        left_s = move.spec.ttl_seconds_after_finished - age_s(move.status.finished_at, self.clock.now_rfc3339())
        if left_s > 0:
            return left_s
        meta = move.metadata
        await self.resources.delete(VirtualMachineMigration, meta.namespace, meta.name, uid=meta.uid)
        return 0.0


def _waits(move: VirtualMachineMigration) -> bool:
    return not MovePhase(move.status.phase).ended
