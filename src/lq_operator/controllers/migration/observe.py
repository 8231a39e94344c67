"""The migration controller's reads: the move, its VM, both hosts, who else moves. Builds worlds for core/moving."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.controllers.migration.disks import Disks
from lq_operator.controllers.migration.memory import MoveMemory, Moves
from lq_operator.controllers.migration.plan import DEFAULT_DOWNTIME_MS, tuning_of, writes_are_locked
from lq_operator.controllers.migration.report import TRANSFERRING
from lq_operator.controllers.runtime.placements import epoch_of, placement_of
from lq_operator.controllers.vm.memory import VmMemory
from lq_operator.controllers.vm.observe import Observer
from lq_operator.convert.power import should_run
from lq_operator.core.failover.facts import Actor, Role
from lq_operator.core.model import Identity, MoveProgress, NodeName, Placement
from lq_operator.core.model import Phase as Placed
from lq_operator.core.moving.turns import Way, turn_of
from lq_operator.core.moving.world import Job, MoveWorld, Phase, PostCopy, Side, Vm
from lq_operator.core.times import age_s
from lq_operator.ports import Store


@dataclass(slots=True)
class Pass:
    """What one pass has done itself: facts that order listings."""

    listed_since: int
    tickets_gone_at: int | None = None


@dataclass(slots=True)
class MoveObserver:
    """Builds worlds. Holds no state of its own."""

    store: Store
    observer: Observer
    disks: Disks
    moves: Moves

    # ------------------------------------------------------------ which moves there are

    def of_vm(self, namespace: str, name: str) -> list[VirtualMachineMigration]:
        """Every move of this VM, the oldest first."""
        found = [
            move
            for move in self.store.list(VirtualMachineMigration)
            if move.metadata.namespace == namespace and move.spec.vm_ref.name == name
        ]
        return sorted(found, key=lambda move: move.seniority)

    def begun_one(
        self, moves: list[VirtualMachineMigration], vm: VirtualMachine | None
    ) -> VirtualMachineMigration | None:
        """The move that the placement speaks of, or the one that was being prepared."""
        begun = [move for move in moves if Phase(move.status.phase).begun]
        placement = placement_of(vm) if vm is not None else None
        if placement is not None and placement.phase is Placed.MOVING:
            mine = [m for m in begun if _is_of(m, placement, vm.metadata.uid if vm else "")]
            return mine[0] if mine else None
        return begun[0] if begun else None

    # ------------------------------------------------------------ one world

    def world(
        self,
        move: VirtualMachineMigration | None,
        current: VirtualMachineMigration | None,
        vm: VirtualMachine | None,
        vm_memory: VmMemory,
        this: Pass,
        progress: MoveProgress | None,
        key: str,
    ) -> MoveWorld:
        """`move` None: a VM in Moving that no object speaks of; it is settled all the same."""
        namespace, _, name = key.partition("/")
        identity = self.observer.identity(namespace, name)
        placement = placement_of(vm) if vm is not None else None
        memory = self.moves.of(key)
        tenure, now = self.observer.book.tenure, self.observer.clock.now_rfc3339()
        copied, switched = self._copies(vm, placement)
        base = MoveWorld(
            actor=Actor(Role.MIGRATION_CONTROLLER, tenure.term),
            stamp=tenure.stamp(),
            next_epoch=tenure.next_epoch(),
            knowledge=self.observer.knowledge(identity, vm_memory),
            vm=_vm(vm, placement),
            source=self._side(identity, placement, placement.node if placement else None),
            target=self._side(identity, placement, placement.target if placement else None),
            job=_job(memory, progress),
            tickets_gone_at=this.tickets_gone_at,
            listed_since=this.listed_since,
            copied=copied,
            switched=switched,
        )
        if move is None:
            return _orphan(base, vm, placement)
        return self._about(base, move, current, vm, placement, now)

    def _about(
        self,
        base: MoveWorld,
        move: VirtualMachineMigration,
        current: VirtualMachineMigration | None,
        vm: VirtualMachine | None,
        placement: Placement | None,
        now: str,
    ) -> MoveWorld:
        spec, status, phase = move.spec, move.status, Phase(move.status.phase)
        transfer = status.condition(TRANSFERRING)
        ended = transfer is not None and transfer.status == "False"
        choice = status.scheduling
        mine = current is None or current.metadata.uid == move.metadata.uid
        target = spec.target_node or (choice.node if choice is not None else "")
        source = placement.node if placement is not None and placement.node else ""
        return replace(
            base,
            phase=phase,
            outcome=transfer.reason if transfer is not None and ended else "",
            message=transfer.message if transfer is not None and ended else status.message,
            deleting=move.deleting,
            cancel=spec.cancel,
            deadline_s=float(spec.deadline_seconds),
            age_s=age_s(move.metadata.creation_timestamp, now),
            begun_s=age_s(status.started_at, now) if status.started_at else None,
            vm_uid=status.vm_uid,
            epoch=epoch_of(status.epoch),
            source_node=status.source_node,
            target_node=status.target_node,
            wished=spec.target_node or "",
            chosen=None if choice is None else choice.node,
            chosen_why=choice.message if choice is not None else "",
            other="" if mine or current is None else current.metadata.name,
            turn="" if phase.begun or not target else self.turn(move, vm, Way(move.key, source, target)),
            post_copy=self._post_copy(move, vm),
        )

    def _side(self, identity: Identity, placement: Placement | None, node: NodeName | None) -> Side | None:
        seen = self.observer.placed(identity, placement, node)
        return None if seen is None else Side(seen.node, seen.view, seen.domain, seen.why, seen.off)

    def _copies(self, vm: VirtualMachine | None, placement: Placement | None) -> tuple[bool, bool]:
        """(disks go along that lie on hosts, their Volumes name the target's copies already)."""
        moving = placement is not None and placement.phase is Placed.MOVING
        local = self.disks.local(vm) if vm is not None and moving else []
        at_source = placement is not None and any(volume.status.node == placement.node for volume in local)
        return bool(local), bool(local) and not at_source

    def _post_copy(self, move: VirtualMachineMigration, vm: VirtualMachine | None) -> PostCopy:
        cluster = self.cluster(vm)
        if vm is None or cluster is None:
            return PostCopy()
        tuning = tuning_of(move, vm, cluster)
        # A guest that must arrive paused cannot run there before it has arrived: libvirt refuses the two together.
        allowed = bool(tuning.post_copy) and writes_are_locked(vm, self.store)
        return PostCopy(allowed, tuning.max_downtime_milliseconds or DEFAULT_DOWNTIME_MS)

    def cluster(self, vm: VirtualMachine | None) -> HypervisorCluster | None:
        """Where it runs."""
        name = vm.status.effective.cluster if vm is not None else ""
        return self.store.get(HypervisorCluster, None, name) if name else None

    # ------------------------------------------------------------ whose turn it is

    def turn(self, move: VirtualMachineMigration, vm: VirtualMachine | None, mine: Way) -> str:
        """'' when it may begin."""
        cluster = self.cluster(vm)
        if cluster is None:
            return ""
        nodes = {n.metadata.name for n in self.store.list(HypervisorNode) if n.spec.cluster_ref.name == _name(cluster)}
        under_way: dict[str, Way] = {way.name: way for way in self.moves.claims.values()}
        waiting: list[Way] = []
        for other in sorted(self.store.list(VirtualMachineMigration), key=lambda move: move.seniority):
            phase, status = Phase(other.status.phase), other.status
            if phase.begun:
                under_way[other.key] = Way(other.key, status.source_node, status.target_node)
            elif not phase.ended and other.key not in under_way and (way := self._way(other)) is not None:
                waiting.append(way)
        policy = cluster.spec.migration
        here = [way for way in under_way.values() if way.source in nodes and way.name != mine.name]
        waiting = [way for way in waiting if way.source in nodes]
        return turn_of(mine, here, waiting, policy.parallel_per_host, policy.parallel_per_cluster)

    def _way(self, move: VirtualMachineMigration) -> Way | None:
        """Where a waiting move would go, once that is known."""
        choice = move.status.scheduling
        target = choice.node if choice is not None else ""
        vm = self.store.get(VirtualMachine, move.metadata.namespace, move.spec.vm_ref.name)
        placement = placement_of(vm) if vm is not None else None
        if not target or move.spec.cancel or move.deleting or placement is None or not placement.node:
            return None
        return Way(move.key, placement.node, target)

    # ------------------------------------------------------------ the target's word

    def closed(self, move: VirtualMachineMigration, node: NodeName) -> tuple[str, ...]:
        """Why this node takes no guests, by its object and the scheduler."""
        found = self.store.get(HypervisorNode, None, node)
        if found is None:
            return (f"spec.targetNode: there is no HypervisorNode {node}",)
        said = []
        if found.deleting:
            said.append(f"{node} is being decommissioned")
        if found.spec.maintenance:
            said.append(f"{node} is in maintenance (spec.maintenance)")
        if found.spec.unschedulable:
            said.append(f"{node} is cordoned (spec.unschedulable)")
        for kind in ("Ready", "Member"):
            condition = found.status.condition(kind)
            if condition is None or condition.status != "True":
                why = f": {condition.message or condition.reason}" if condition is not None else ""
                said.append(f"{node} is not {kind}{why}")
        choice = move.status.scheduling
        if choice is not None and choice.node != node and not any(choice.message in one for one in said):
            said.append(choice.message)
        return tuple(said)


def _name(cluster: HypervisorCluster) -> str:
    return cluster.metadata.name


def _is_of(move: VirtualMachineMigration, placement: Placement, uid: str) -> bool:
    status = move.status
    return status.vm_uid == uid and epoch_of(status.epoch) == placement.epoch and status.target_node == placement.target


def _vm(vm: VirtualMachine | None, placement: Placement | None) -> Vm | None:
    return None if vm is None else Vm(vm.metadata.uid, placement, should_run(vm) or vm.deleting, vm.deleting)


def _job(memory: MoveMemory, progress: MoveProgress | None) -> Job:
    ours = memory.task is not None and not memory.task.done()
    return Job(ours=ours, end=memory.end, progress=progress, asked=memory.asked)


def _orphan(base: MoveWorld, vm: VirtualMachine | None, placement: Placement | None) -> MoveWorld:
    assert vm is not None
    assert placement is not None
    return replace(
        base,
        phase=Phase.SETTLING,
        outcome="BrokeOff",
        vm_uid=vm.metadata.uid,
        epoch=placement.epoch,
        source_node=placement.node or "",
        target_node=placement.target or "",
        # No object asks for this move (any more): what still transfers is called off.
        cancel=True,
    )
