"""The VM controller's reads: API objects from the Store, domains from the HostBook, a fresh listing where one is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lq_operator.api.base import FINALIZER
from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmoperation import GUEST_VERBS, VirtualMachineOperation
from lq_operator.api.vmstatus import HeartbeatStatus
from lq_operator.controllers.runtime.awaited import awaited_hosts
from lq_operator.controllers.runtime.guestbook import GuestBook
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.inventory import Inventory
from lq_operator.controllers.runtime.placements import epoch_of, placement_of
from lq_operator.controllers.vm.memory import VmMemory
from lq_operator.controllers.vm.prepare import Prepared
from lq_operator.convert.power import declared_of, wanted_of
from lq_operator.core.failover.facts import Actor, Knowledge, Role, Tombstone
from lq_operator.core.lifecycle.heartbeat import Heartbeat, Pulse, Remedy
from lq_operator.core.lifecycle.operations import Effect, Operation, Outcome, Shown, judge_operations, taken_back
from lq_operator.core.lifecycle.power import Power, RestartPolicy, Verb
from lq_operator.core.lifecycle.world import Lack, PlacedHost, Run, VmWorld, Wish
from lq_operator.core.model import Identity, NodeName, Placement
from lq_operator.core.times import age_s, seconds_until
from lq_operator.ports import Clock, Store


@dataclass(slots=True)
class Observer:
    """Builds worlds. Holds no state of its own."""

    store: Store
    book: HostBook
    inventory: Inventory
    guests: GuestBook
    clock: Clock

    def identity(self, namespace: str, name: str) -> Identity:
        """Who the VM of this name is."""
        return Identity(self.book.installation, namespace, name)

    def operations(self, vm: VirtualMachine, memory: VmMemory) -> tuple[Effect, tuple[Outcome, ...]]:
        """What the operations on this VM ask for."""
        now = self.clock.now_rfc3339()
        found = [
            op
            for op in self.store.list(VirtualMachineOperation)
            if op.metadata.namespace == vm.metadata.namespace
            and op.spec.vm_ref.name == vm.metadata.name
            and op.spec.verb not in GUEST_VERBS
            and not op.deleting
        ]
        # The API server counts creation in whole seconds: within one, what was accepted already is the older.
        found.sort(key=lambda o: (o.metadata.creation_timestamp or "", o.status.phase == "Pending", o.metadata.name))
        operations = [_operation(op, now, memory) for op in found]
        identity = self.identity(vm.metadata.namespace or "", vm.metadata.name)
        running = [s.epoch for s in self.book.sightings(identity) if s.runs]
        power = vm.status.power
        state = power.state
        if not running and state in ("Running", "Paused", "Stopping"):
            state = "Unknown"
        shown = Shown(state, running[0] if running else None)
        effect, outcomes = judge_operations(operations, declared_of(vm), shown)
        if effect.wanted is None and declared_of(vm) is None:
            before = Power(power.wanted_before) if power.wanted_before else None
            effect = replace(effect, back=taken_back(operations, outcomes, power.last_operation, before))
        return effect, outcomes

    def world(
        self, vm: VirtualMachine, memory: VmMemory, prepared: Prepared, effect: Effect, *, fresh: bool
    ) -> VmWorld:
        """Everything the decision needs, from what is in memory."""
        identity = self.identity(vm.metadata.namespace or "", vm.metadata.name)
        placement = placement_of(vm)
        tenure = self.book.tenure
        return VmWorld(
            identity=identity,
            uid=vm.metadata.uid,
            actor=Actor(Role.VM_CONTROLLER, tenure.term),
            stamp=tenure.stamp(),
            next_epoch=tenure.next_epoch(),
            knowledge=self.knowledge(identity, memory),
            wish=_wish(vm, effect, memory),
            deleting=vm.deleting,
            finalizer=FINALIZER in vm.metadata.finalizers,
            placement=placement,
            placed=self.placed(identity, placement, placement.node if placement else None),
            target=self.placed(identity, placement, placement.target if placement else None),
            views=self.book.views(identity),
            blockers=tuple(prepared.blockers),
            pending=tuple(prepared.pending) + self._failed_start(memory),
            run=self._run(vm, identity, memory),
            unused_epoch=placement is not None and placement.epoch is not None and memory.unused == placement.epoch,
            scheduling=vm.status.scheduling.message if vm.status.scheduling else "",
            fresh=fresh,
            awaited=awaited_hosts(self.store, self.book) if vm.deleting else (),
            heartbeat=_heartbeat(vm),
            pulse=self._pulse(vm, identity, placement, memory),
        )

    def _pulse(self, vm: VirtualMachine, identity: Identity, placement: Placement | None, memory: VmMemory) -> Pulse:
        """What was heard of the run on the placed host, over the connection that is open to it now."""
        entry, before = self.host(placement), vm.status.heartbeat or HeartbeatStatus()
        domain = entry.domains.get(identity.domain_name) if entry is not None else None
        if vm.spec.heartbeat is None or entry is None or domain is None:
            return Pulse()
        tried = before.tries + bool(memory.remedied)
        heard = self.guests.heard(identity, domain.epoch, entry.host)
        known = bool(before.answered) and before.answered == str(domain.epoch or "") and not memory.remedied
        if heard is None:
            return Pulse(answered=known, tried=tried)
        silent_s = None if heard.silent_since_s is None else self.clock.mono_s() - heard.silent_since_s
        return Pulse(heard.answers, known or heard.answers, silent_s, tried)

    def host(self, placement: Placement | None) -> OwnedHost | None:
        """The placed host where it can be acted on: the node AND the UUID are those of the placement."""
        if placement is None or placement.node is None:
            return None
        entry = self.book.owned(placement.node)
        return entry if entry is not None and entry.uuid == placement.host_uuid else None

    def knowledge(self, identity: Identity, memory: VmMemory) -> Knowledge:
        nodes = self.store.list(HypervisorNode)
        key = (identity.namespace, identity.name)
        inventory = self.inventory.judge()
        return Knowledge(
            inventory=inventory,
            sightings=self.book.sightings(identity),
            departures=self.book.departures(identity),
            tombstones=tuple(
                Tombstone(NodeName(n.metadata.name), t.namespace, t.name, t.uid, epoch_of(t.epoch), bool(t.evidence))
                for n in nodes
                for t in n.status.tombstones
                if t.kind == "VirtualMachine" and (t.namespace, t.name) == key
            ),
            # A host that was listed in this term speaks for itself; what its status says is from before.
            orphans=tuple(
                NodeName(n.metadata.name)
                for n in nodes
                if self.book.owned(NodeName(n.metadata.name)) is None
                and any((o.namespace, o.name) == key for o in n.status.orphans)
            ),
            memory=memory.protocol,
        )

    def placed(self, identity: Identity, placement: Placement | None, node: NodeName | None) -> PlacedHost | None:
        if placement is None or node is None:
            return None
        uuid = placement.host_uuid if node == placement.node else placement.target_uuid
        entry = self.book.owned(node)
        found = self.store.get(HypervisorNode, None, node)
        if entry is not None and entry.uuid == uuid:
            domain = entry.domains.get(identity.domain_name)
            return PlacedHost(
                node,
                self.book.view(entry, identity),
                domain if domain and domain.identity else None,
                maintenance=found is not None and found.spec.maintenance,
            )
        why = self.book.fleet.why_down(node) or f"{node} has not been taken over yet"
        if entry is not None:
            why = f"behind {node} is another host now ({entry.uuid}, not {uuid})"
        ready = found.status.condition("Ready") if found else None
        return PlacedHost(
            node,
            away=found is None or (ready is not None and ready.status == "Unknown") or entry is not None,
            why=why,
            off=self.inventory.off_proofs(placement),
        )

    def _run(self, vm: VirtualMachine, identity: Identity, memory: VmMemory) -> Run:
        power, now = vm.status.power, self.clock.now_rfc3339()
        epoch = epoch_of(power.epoch)
        said = self.guests.get(identity, epoch)
        return Run(
            state=power.state,
            epoch=epoch,
            restarts=power.restarts,
            stop_left_s=seconds_until(power.stop_deadline, now),
            asked=memory.asked_of(epoch, self.clock.mono_s()),
            restart_left_s=seconds_until(power.next_restart, now),
            agent=said is not None and said.facts is not None,
            suspended=power.state == "Suspended" or bool(memory.saved_on),
        )

    def _failed_start(self, memory: VmMemory) -> tuple[Lack, ...]:
        left_s = memory.retry_at_s - self.clock.mono_s()
        if not memory.start_error or left_s <= 0:
            return ()
        message = f"{memory.start_error}; tried again in {left_s:.0f} s"
        return (Lack(memory.start_reason, message, again_s=left_s),)


def _heartbeat(vm: VirtualMachine) -> Heartbeat | None:
    asked = vm.spec.heartbeat
    return None if asked is None else Heartbeat(Remedy(asked.action), float(asked.after_seconds), asked.tries)


def _wish(vm: VirtualMachine, effect: Effect, memory: VmMemory) -> Wish:
    return Wish(
        power=effect.wanted or effect.back or wanted_of(vm),
        declared=declared_of(vm),
        policy=RestartPolicy(vm.spec.restart_policy),
        force=effect.force or vm.spec.shutdown.grace_period_seconds == 0,
        restart_of=effect.restart_of,
        # The effect is judged once a pass, but the pass goes round: one reset is one.
        reset="" if effect.reset in memory.resets_done else effect.reset,
        restart_on_host_failure=vm.spec.availability.restart_on_host_failure,
    )


def _operation(op: VirtualMachineOperation, now: str, memory: VmMemory) -> Operation:
    return Operation(
        uid=op.metadata.uid,
        name=op.metadata.name,
        verb=Verb(op.spec.verb),
        phase=op.status.phase,
        age_s=age_s(op.metadata.creation_timestamp, now),
        deadline_s=op.spec.deadline_seconds,
        force=op.spec.force,
        observed_start=epoch_of(op.status.observed_start),
        reset_done=op.metadata.uid in memory.resets_done,
        reset_begun_here=op.metadata.uid in memory.resets_begun,
    )
