"""Beginning a move: checked by both hosts, copies and state in place, a fresh ticket, BeginMove, read back, sent.

Every line may be the last one of this process: until the patch nothing has happened but files that no guest has opened;
after it the placement is Moving, and whoever comes next settles it (core/moving/settle).
"""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.controllers.migration.disks import Disks
from lq_operator.controllers.migration.memory import Moves
from lq_operator.controllers.migration.observe import MoveObserver
from lq_operator.controllers.migration.plan import Guest, move_plan, running_guest, tuning_of, writes_are_locked
from lq_operator.controllers.migration.preflight import Checked, check
from lq_operator.controllers.migration.report import MANAGER, Reporter, Say
from lq_operator.controllers.runtime.attachments import Attachments
from lq_operator.controllers.runtime.finalizers import ensure_finalizer
from lq_operator.controllers.runtime.hostbook import GATE_POOL, HostBook, OwnedHost
from lq_operator.controllers.runtime.placements import placement_of
from lq_operator.controllers.runtime.refs import Namespaces, Refs
from lq_operator.controllers.vm.memory import VmMemory
from lq_operator.core.failover.facts import Actor, Role
from lq_operator.core.failover.guards import Refusal
from lq_operator.core.failover.patch import placement_patch
from lq_operator.core.failover.protocol import may_act, transition
from lq_operator.core.failover.record import parse_ticket, ticket_name
from lq_operator.core.failover.requests import BeginMove
from lq_operator.core.model import DomainState, Identity, NodeName, Placement, VolumePlan
from lq_operator.core.moving.obstacles import Obstacle
from lq_operator.core.moving.turns import Way
from lq_operator.core.moving.world import Phase
from lq_operator.core.result import Conflict, Rejected, Transient
from lq_operator.ports import Resources, Store
from lq_operator.telemetry.logging import bound, get_logger

log = get_logger(__name__)


@dataclass(slots=True)
class Beginner:
    """Begins moves."""

    store: Store
    resources: Resources
    namespaces: Namespaces
    attachments: Attachments
    book: HostBook
    observer: MoveObserver
    disks: Disks
    moves: Moves
    reporter: Reporter

    async def begin(
        self, move: VirtualMachineMigration, vm: VirtualMachine, identity: Identity, memory: VmMemory, node: NodeName
    ) -> VirtualMachineMigration:
        """One attempt. Afterwards it is Refused, or Running with the call in flight; raises what the world raises."""
        placement = placement_of(vm)
        assert placement is not None
        assert placement.node is not None
        # Claimed without a pause since it was judged to be its turn: others are judged at the next pause already.
        self.moves.claims[vm.key] = Way(move.key, placement.node, node)
        try:
            move = await ensure_finalizer(self.resources, move, manager=MANAGER)
            with bound(vm=identity.key, node=node, epoch=str(placement.epoch)):
                return await self._begin(move, vm, identity, memory, placement, node)
        finally:
            if placement_of(self.store.get(VirtualMachine, identity.namespace, identity.name) or vm) == placement:
                self.moves.claims.pop(vm.key, None)

    async def _begin(
        self,
        move: VirtualMachineMigration,
        vm: VirtualMachine,
        identity: Identity,
        memory: VmMemory,
        placement: Placement,
        node: NodeName,
    ) -> VirtualMachineMigration:
        source = self.book.still_owned(placement.node)
        closed = self.observer.closed(move, node)
        target = self.book.owned(node)
        if target is None:
            if not closed:
                raise Transient(f"{node} has not been taken over yet")
            return await self._refuse(move, placement, node, tuple(Obstacle("Host", node, said) for said in closed))
        refs = Refs(self.store, identity.namespace, await self.namespaces.labels(identity.namespace))
        guest = running_guest(vm, identity, target, refs, self.store, self.attachments)
        domain = source.domains[identity.domain_name]
        checked = await check(self.store, guest, identity, placement, domain, source, target, closed)
        if checked.found:
            return await self._refuse(move, placement, node, checked.found)
        move = await self.reporter.say(
            move,
            Say(
                Phase.PREPARING,
                "Preparing",
                source=placement.node,
                target=node,
                vm_uid=vm.metadata.uid,
                epoch=str(placement.epoch),
                obstacles=(),
            ),
        )
        await self.disks.prepare(guest, checked, source, target)
        ticket = await self._ticket(identity, target)
        if isinstance(ticket, Obstacle):
            return await self._refuse(move, placement, node, (ticket,))
        new = await self._patch(move, vm, identity, memory, placement, (source, target), ticket)
        return await self._send(move, vm, memory, guest, checked, new, (source, target), ticket)

    async def _refuse(
        self, move: VirtualMachineMigration, placement: Placement, node: NodeName, found: tuple[Obstacle, ...]
    ) -> VirtualMachineMigration:
        """Nothing was touched: every obstacle at once."""
        message = "; ".join(f"{one.what} {one.name}: {one.message}" for one in found)[:2000]
        say = Say(Phase.REFUSED, "Obstacles", message, source=placement.node, target=node, obstacles=found)
        return await self.reporter.say(move, say)

    async def _ticket(self, identity: Identity, target: OwnedHost) -> str | Obstacle:
        """A fresh one; those of earlier attempts go, so that nothing of them arrives."""
        await delete_tickets(target, identity)
        name = ticket_name(
            self.book.tenure.term, identity.namespace, identity.name, self.observer.observer.clock.token()
        )
        try:
            await target.host.create_volume(GATE_POOL, VolumePlan(name, 0, format="raw", mode=0o444))
        except Rejected as error:
            return Obstacle("Ticket", name, f"{target.node} refuses the ticket of this move: {error}"[:900])
        return name

    async def _patch(
        self,
        move: VirtualMachineMigration,
        vm: VirtualMachine,
        identity: Identity,
        memory: VmMemory,
        placement: Placement,
        hosts: tuple[OwnedHost, OwnedHost],
        ticket: str,
    ) -> Placement:
        """Both listed now, then the tested patch Committed -> Moving."""
        source, target = hosts
        await self.book.relist(source)
        await self.book.relist(target)
        node = self.store.get(HypervisorNode, None, target.node)
        member = node.status.condition("Member") if node is not None else None
        choice = move.status.scheduling
        answer = transition(
            placement,
            BeginMove(
                actor=Actor(Role.MIGRATION_CONTROLLER, self.book.tenure.term),
                stamp=self.book.tenure.stamp(),
                memory=memory.protocol,
                source=self.book.view(source, identity),
                target=self.book.view(target, identity),
                ticket=ticket,
                reserved=choice is not None and choice.node == target.node,
                unknown_to=() if member is not None and member.status == "True" else (NodeName("some member"),),
            ),
        )
        if isinstance(answer, Refusal):
            raise Transient(answer.sentence)
        assert answer is not None
        operations = placement_patch(vm.metadata.uid, placement, answer)
        meta = vm.metadata
        await self.resources.json_patch(
            VirtualMachine, meta.namespace, meta.name, operations, subresource="status", manager=MANAGER
        )
        memory.protocol = memory.protocol.after(answer)
        return answer

    async def _send(
        self,
        move: VirtualMachineMigration,
        vm: VirtualMachine,
        memory: VmMemory,
        guest: Guest,
        checked: Checked,
        moving: Placement,
        hosts: tuple[OwnedHost, OwnedHost],
        ticket: str,
    ) -> VirtualMachineMigration:
        """Lease renewed, placement read back, then the one call that moves it. Late, the ticket refuses it."""
        source, target = hosts
        await self.book.tenure.renew()
        read = await self.resources.get(VirtualMachine, vm.metadata.namespace, vm.metadata.name)
        back = placement_of(read) if read is not None and read.metadata.uid == vm.metadata.uid else None
        refusal = may_act(moving, back, lease_renewed=True)
        if isinstance(refusal, Refusal):
            raise Conflict(refusal.sentence)
        nodes = (self.store.get(HypervisorNode, None, source.node), self.store.get(HypervisorNode, None, target.node))
        assert nodes[0] is not None
        assert nodes[1] is not None
        tuning = tuning_of(move, vm, guest.cluster)
        domain = await source.host.find_domain(checked.plan.identity.domain_name)
        running = domain is not None and domain.state is DomainState.RUNNING
        arrive_paused = running and not writes_are_locked(guest.vm, self.store)
        plan = move_plan(guest, checked.plan, ticket, (nodes[0], nodes[1]), tuning, arrive_paused=arrive_paused)
        log.info("moving", source=source.node, copied=list(plan.copied_disks), ticket=ticket)
        self.moves.send(vm.key, source.host, target.host, plan)
        say = Say(Phase.RUNNING, "Transferring", transfer=(True, "Sent", ""))
        move = await self.reporter.say(move, say)
        await self.reporter.begun(move, vm)
        return move


async def delete_tickets(target: OwnedHost, identity: Identity) -> None:
    """Every ticket of this VM on this host. Nothing refuses it late: without a ticket a move is only refused."""
    for seen in await target.host.list_volumes(GATE_POOL, refresh=True):
        ticket = parse_ticket(seen.name)
        if ticket is not None and (ticket.namespace, ticket.name) == (identity.namespace, identity.name):
            await target.host.delete_volume(GATE_POOL, seen.name)
