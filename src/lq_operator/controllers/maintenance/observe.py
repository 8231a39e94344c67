"""The maintenance controller's reads: who is on a host, which moves there are, what the host's own listing shows.

Reads the Store and the HostBook only. Builds worlds for core/maintenance.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from lq_operator.api.cluster import HypervisorCluster, MigrationPolicy
from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.controllers.runtime.hostbook import HostBook
from lq_operator.controllers.runtime.refs import MAINTENANCE_LABEL
from lq_operator.convert.placement import node_labels, requirements
from lq_operator.core.maintenance.world import DrainWorld, Move, Resident, Stray, Why
from lq_operator.core.model import DomainSeen, NodeName
from lq_operator.core.moving.world import Phase
from lq_operator.core.placement.selectors import all_match, match_labels
from lq_operator.core.result import Transient
from lq_operator.core.times import age_s
from lq_operator.ports import Clock, Store


@dataclass(slots=True)
class DrainObserver:
    """`world(node)`; Transient while not everything that could be here can be read."""

    store: Store
    book: HostBook
    clock: Clock

    def world(self, name: str, node: HypervisorNode | None) -> DrainWorld:
        """`node` None: its object is gone."""
        if not self.store.synced(VirtualMachine, VirtualMachineMigration, HypervisorNode):
            raise Transient("not every VM, move and node has been seen yet")
        moves = self._moves()
        on_it = [vm for vm in self.store.list(VirtualMachine) if _names(vm, name)]
        taken = _names_taken(moves)
        named = _named(node)
        residents = tuple(self._resident(vm, name, moves, taken, named) for vm in on_it)
        keys = {vm.key for vm in on_it}
        strays = tuple(
            Stray(key.partition("/")[0], self._move(move, name))
            for key, found in moves.items()
            if key not in keys
            for move in found
            if move.metadata.labels.get(MAINTENANCE_LABEL) == name
        )
        wanted = node is not None and node.spec.maintenance
        if node is None or not wanted:
            return DrainWorld(name, wanted, residents, strays)
        running = self._running_here(name)
        orphans = tuple(
            (orphan.namespace, orphan.name)
            for orphan in node.status.orphans
            if running is None or f"{orphan.namespace}/{orphan.name}" in running
        )
        elsewhere = sorted((running or set()) - keys - {f"{namespace}/{orphan}" for namespace, orphan in orphans})
        return DrainWorld(
            name,
            wanted,
            residents,
            strays,
            orphans,
            tuple((key.partition("/")[0], key.partition("/")[2]) for key in elsewhere),
            self._silence(node),
            self._unseen(node),
            self._policy(node).parallel_per_host,
        )

    # ------------------------------------------------------------ the host

    def _running_here(self, name: str) -> set[str] | None:
        """Keys of our domains with a QEMU, as last listed; None while the host cannot be seen."""
        entry = self.book.owned(NodeName(name))
        return None if entry is None else {key for d in entry.domains.values() if (key := _running(d))}

    def _unseen(self, node: HypervisorNode) -> bool:
        """Not taken over, and the node controller, which waits spec.unreachableAfterSeconds, does not call it silent."""
        ready = node.status.condition("Ready")
        owned = self.book.owned(NodeName(node.metadata.name)) is not None
        return not owned and ready is not None and ready.status == "True"

    def _silence(self, node: HypervisorNode) -> str:
        name = NodeName(node.metadata.name)
        if self.book.owned(name) is not None:
            return ""
        return self.book.fleet.why_down(name) or "it has not been taken over yet"

    def _policy(self, node: HypervisorNode) -> MigrationPolicy:
        cluster = self.store.get(HypervisorCluster, None, node.spec.cluster_ref.name)
        return cluster.spec.migration if cluster is not None else MigrationPolicy()

    # ------------------------------------------------------------ VMs and their moves

    def _moves(self) -> dict[str, list[VirtualMachineMigration]]:
        """VM key -> its moves, the oldest first."""
        if self.store.broken(VirtualMachine) or self.store.broken(VirtualMachineMigration):
            raise Transient("a VirtualMachineMigration or VirtualMachine cannot be read: it is not absent")
        found: dict[str, list[VirtualMachineMigration]] = defaultdict(list)
        for move in self.store.list(VirtualMachineMigration):
            found[move.vm_key].append(move)
        for moves in found.values():
            moves.sort(key=lambda move: move.seniority)
        return found

    def _resident(
        self,
        vm: VirtualMachine,
        node: str,
        moves: dict[str, list[VirtualMachineMigration]],
        taken: dict[str, frozenset[str]],
        named: dict[str, tuple[Why, str]],
    ) -> Resident:
        placement, ready = vm.status.placement, vm.status.condition("Ready")
        assert placement is not None
        namespace = vm.metadata.namespace or ""
        return Resident(
            namespace=namespace,
            name=vm.metadata.name,
            state=vm.status.power.state,
            said=f"{ready.reason}: {ready.message}"[:900] if ready is not None else "",
            committed=placement.phase == "Committed",
            here=placement.node == node,
            deleting=vm.deleting,
            priority=vm.spec.availability.priority,
            memory_mib=vm.status.effective.memory_mib,
            pinned=self._pinned(vm, node),
            moves=tuple(self._move(move, node) for move in moves.get(vm.key, ())),
            taken=taken.get(namespace, frozenset()),
            stalled=(said := vm.status.condition("Stalled")) is not None and said.status == "True",
            named=named.get(vm.key),
        )

    def _pinned(self, vm: VirtualMachine, name: str) -> str:
        """Its selector or affinity matches no other host of the cluster, whatever state that is in."""
        here = self.store.get(HypervisorNode, None, name)
        wishes = vm.spec.placement
        wanted = match_labels(wishes.node_selector) + requirements(wishes.node_affinity)
        if here is None or not wanted:
            return ""
        others = [
            node
            for node in self.store.list(HypervisorNode)
            if node.metadata.name != name and node.spec.cluster_ref.name == here.spec.cluster_ref.name
        ]
        if not others or any(all_match(wanted, node_labels(node)) for node in others):
            return ""
        rule = ", ".join(str(one) for one in wanted)
        return f"spec.placement.nodeSelector and nodeAffinity ({rule}) match no other host of the cluster"

    def _move(self, move: VirtualMachineMigration, node: str) -> Move:
        status, phase = move.status, Phase(move.status.phase)
        choice = status.scheduling
        return Move(
            name=move.metadata.name,
            uid=move.metadata.uid,
            mine=move.metadata.labels.get(MAINTENANCE_LABEL) == node,
            begun=phase.begun,
            ended_s=age_s(status.finished_at, self.clock.now_rfc3339()) if phase.ended else None,
            succeeded=phase is Phase.SUCCEEDED,
            refused=phase is Phase.REFUSED,
            no_room=choice.message if choice is not None and not choice.node and not phase.ended else "",
            message=status.message,
            obstacles=tuple((o.what, o.message or f"{o.what} {o.name}") for o in status.obstacles),
            deleting=move.deleting,
        )


def _named(node: HypervisorNode | None) -> dict[str, tuple[Why, str]]:
    """VM key -> what it was last named for."""
    said = node.status.maintenance if node is not None else None
    found = said.blockers if said is not None else ()
    return {f"{b.namespace}/{b.name}": (Why(b.reason), b.message) for b in found}


def _names_taken(moves: dict[str, list[VirtualMachineMigration]]) -> dict[str, frozenset[str]]:
    """Namespace -> names of every move there."""
    found: dict[str, set[str]] = defaultdict(set)
    for key, of_vm in moves.items():
        found[key.partition("/")[0]].update(move.metadata.name for move in of_vm)
    return {namespace: frozenset(names) for namespace, names in found.items()}


def _names(vm: VirtualMachine, node: str) -> bool:
    placement = vm.status.placement
    return placement is not None and node in (placement.node, placement.target)


def _running(domain: DomainSeen) -> str:
    return domain.identity.key if domain.identity is not None and domain.state.runs else ""
