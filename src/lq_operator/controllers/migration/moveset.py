"""The migration controllers of one term, put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.controllers.migration.act import Actor
from lq_operator.controllers.migration.begin import Beginner
from lq_operator.controllers.migration.controller import MigrationController
from lq_operator.controllers.migration.disks import Disks
from lq_operator.controllers.migration.memory import Moves
from lq_operator.controllers.migration.observe import MoveObserver
from lq_operator.controllers.migration.report import Reporter
from lq_operator.controllers.runtime.attachments import Attachments
from lq_operator.controllers.runtime.placements import is_moving
from lq_operator.controllers.runtime.refs import Namespaces
from lq_operator.controllers.vm.memory import Memories
from lq_operator.controllers.vm.observe import Observer
from lq_operator.core.moving.world import Phase
from lq_operator.ports import Clock, Events, Resources, Store


@dataclass(frozen=True, slots=True)
class MoveSet:
    """`controller.reconcile(VM key)`; `close()` at the end of the term."""

    store: Store
    moves: Moves
    controller: MigrationController

    @classmethod
    def of(
        cls,
        store: Store,
        resources: Resources,
        events: Events,
        clock: Clock,
        namespaces: Namespaces,
        attachments: Attachments,
        observer: Observer,
        memories: Memories,
        wake: Callable[[str], None],
    ) -> MoveSet:
        """`wake(VM key)`: look at that VM's moves."""
        moves = Moves(clock, wake)
        disks = Disks(store, resources, observer.book)
        watcher = MoveObserver(store, observer, disks, moves)
        reporter = Reporter(store, resources, events, clock)
        beginner = Beginner(store, resources, namespaces, attachments, observer.book, watcher, disks, moves, reporter)

        def wake_waiting() -> None:
            for key in waiting(store):
                wake(key)

        actor = Actor(resources, observer.book, beginner, disks, moves, reporter, clock, wake_waiting)
        return cls(store, moves, MigrationController(store, resources, watcher, actor, memories, clock))

    async def close(self) -> None:
        """The term is over; what was sent goes on between the hosts."""
        await self.moves.close()

    def keys(self) -> list[str]:
        """VMs that have a move, and those in Moving that no object speaks of."""
        named = {move.vm_key for move in self.store.list(VirtualMachineMigration)}
        moving = {vm.key for vm in self.store.list(VirtualMachine) if is_moving(vm)}
        return sorted(named | moving)


def waiting(store: Store) -> list[str]:
    """Keys of VMs with a move that has not ended."""
    moves = store.list(VirtualMachineMigration)
    return sorted({move.vm_key for move in moves if not Phase(move.status.phase).ended})
