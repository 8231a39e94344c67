"""What the VM controller says: one status per pass, written only when it says something new; Events for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmoperation import VirtualMachineOperation
from lq_operator.api.vmstatus import (
    DiskStatus,
    EffectiveStatus,
    GuestStatus,
    HardwareStatus,
    InterfaceStatus,
    PowerStatus,
)
from lq_operator.controllers.runtime.conditions import Progress, dump_conditions, only, set_progress
from lq_operator.controllers.runtime.guestbook import GuestBook, GuestSaid
from lq_operator.controllers.runtime.placements import epoch_of, scheduled_operations
from lq_operator.controllers.runtime.refs import disk_volumes
from lq_operator.controllers.runtime.status import report_status
from lq_operator.controllers.vm.cdroms import told_cdroms
from lq_operator.controllers.vm.changes import (
    PENDING_CHANGES,
    RESTART_REQUIRED,
    change_conditions,
    change_events,
    told_changes,
)
from lq_operator.controllers.vm.health import GUEST_HUNG, health_of, hung_condition, hung_event
from lq_operator.controllers.vm.hotchange import UNSEEN, Hot
from lq_operator.controllers.vm.memory import VmMemory
from lq_operator.controllers.vm.prepare import Prepared
from lq_operator.convert.domain import hardware_status, spec_hash
from lq_operator.convert.power import declared_of
from lq_operator.core.failover.guards import Reason
from lq_operator.core.lifecycle.operations import Effect, Outcome
from lq_operator.core.lifecycle.world import Decision, Standing, VmWorld
from lq_operator.core.model import Epoch, HardwareAbi, Identity
from lq_operator.core.result import Conflict, NotFound
from lq_operator.core.times import after_seconds, age_s
from lq_operator.ports import Clock, Events, Resources, Store

MANAGER = "lq-vm"
OPERATION_MANAGER = "lq-vmop"
STABLE_S = 600.0
"""After this long a guest's restarts are counted from zero again, as Kubernetes does with its back-off."""
MY_CONDITIONS = ("Ready", "Reconciling", "Stalled", RESTART_REQUIRED, PENDING_CHANGES, GUEST_HUNG)

SCHEDULED_MANAGER = "lq-scheduler"
"""Scheduled has one manager, whoever writes it: no apply of the other's conditions takes it away."""
_KEEP_FROM_SCHEDULER = frozenset(reason.value for reason in Reason)

_PROGRESS = {
    Standing.READY: Progress.READY,
    Standing.WORKING: Progress.WORKING,
    Standing.UNKNOWN: Progress.UNKNOWN,
    Standing.STALLED: Progress.STALLED,
}


@dataclass(slots=True)
class Reporter:
    """Writes VirtualMachine.status (our fields) and VirtualMachineOperation.status."""

    store: Store
    resources: Resources
    events: Events
    guests: GuestBook
    clock: Clock

    async def report(
        self,
        vm: VirtualMachine,
        world: VmWorld,
        decision: Decision,
        effect: Effect,
        prepared: Prepared,
        memory: VmMemory,
        hardware: HardwareAbi | None,
        hot: Hot = UNSEEN,
    ) -> None:
        """Say where the VM stands. Silent for an object that is gone."""
        now = self.clock.now_rfc3339()
        power = _power(vm, world, decision, effect, now, memory, prepared)
        said = self.guests.get(world.identity, epoch_of(power.epoch))
        running = power.state in ("Running", "Paused")
        guest, addresses = _guest(vm, said, running)
        interfaces = _interfaces(vm, world.identity, prepared, said, running)
        claimed = [nic.cidr.partition("/")[0] for nic in prepared.seed_nics]
        conditions = set_progress(
            vm.status.conditions,
            _PROGRESS[decision.standing],
            decision.reason,
            decision.message,
            generation=vm.metadata.generation,
            now=now,
        )
        hardware = hardware or hot.hardware
        guest_abi = hardware_status(hardware) if hardware else vm.status.hardware
        started_hash = _started_hash(world, prepared, memory, hot, vm) if running else ""
        effective = _effective(vm, prepared, started_hash, guest_abi, hot)
        changes = told_changes(vm, hot, running=running or decision.state == "Unknown")
        conditions = change_conditions(conditions, changes, hot, generation=vm.metadata.generation, now=now)
        health = health_of(vm, world, effect, memory, now)
        conditions = hung_condition(conditions, vm, decision, running=running, now=now)
        status: dict[str, Any] = {
            "observedGeneration": vm.metadata.generation,
            "conditions": dump_conditions(only(conditions, MY_CONDITIONS)),
            "power": _dump(power),
            "effective": _dump(effective),
            "hardware": _dump(guest_abi),
            "guest": _dump(guest),
            "heartbeat": None if health is None else _dump(health),
            "addresses": list(dict.fromkeys([*claimed, *addresses])) if running else [],
            "interfaces": [_dump(interface) for interface in interfaces],
            "disks": [_dump(disk) for disk in _disks(vm, prepared, _kept_disks(vm, hot, running=running))],
            "changes": [_dump(change) for change in changes],
        }
        if vm.spec.cdroms or vm.status.cdroms:
            keeps = running or power.state in ("Suspended", "Unknown")
            told = told_cdroms(vm, prepared.drives, hot.shape, known=hot.known and running, keeps=keeps)
            status["cdroms"] = [_dump(drive) for drive in (told if prepared.cluster is not None else vm.status.cdroms)]
        try:
            wrote = await report_status(self.resources, vm, status, MANAGER)
            await self._unscheduled(vm, world, decision, now)
        except (NotFound, Conflict):
            return
        memory.remedied = ""
        if wrote:
            self._tell(vm, decision)
            if event := hung_event(vm, conditions, health):
                self.events.emit(vm, *event[:2], warning=event[2])
        for reason, message, warning in change_events(vm, changes, hot):
            self.events.emit(vm, reason, message, warning=warning)

    async def _unscheduled(self, vm: VirtualMachine, world: VmWorld, decision: Decision, now: str) -> None:
        """Why the scheduler is not asked yet: it never sees a VM without a placement."""
        known = vm.status.condition("Scheduled")
        if world.placement is not None or world.deleting or decision.reason not in _KEEP_FROM_SCHEDULER:
            return
        if known is not None and (known.reason, known.message) == (decision.reason, decision.message):
            return
        meta = vm.metadata
        fresh = await self.resources.get(VirtualMachine, meta.namespace, meta.name)
        if fresh is None or fresh.metadata.uid != meta.uid or fresh.status.placement is not None:
            return
        operations = [
            {"op": "test", "path": "/metadata/uid", "value": meta.uid},
            *scheduled_operations(fresh, False, decision.reason, decision.message, now),
        ]
        await self.resources.json_patch(
            VirtualMachine, meta.namespace, meta.name, operations, subresource="status", manager=SCHEDULED_MANAGER
        )

    def _tell(self, vm: VirtualMachine, decision: Decision) -> None:
        ready = vm.status.condition("Ready")
        if ready is not None and ready.reason == decision.reason and ready.message == decision.message:
            return
        if decision.standing is Standing.WORKING and decision.reason not in ("GuestEnded", "RestartBackOff", "HostOff"):
            return
        warning = decision.standing in (Standing.STALLED, Standing.UNKNOWN) or decision.reason in (
            "GuestEnded",
            "RestartBackOff",
        )
        self.events.emit(vm, decision.reason, decision.message or decision.reason, warning=warning)

    async def operations(self, vm: VirtualMachine, outcomes: tuple[Outcome, ...], memory: VmMemory) -> bool:
        """Write the outcomes; True when an operation was accepted (look again at once)."""
        accepted = False
        by_uid = {op.metadata.uid: op for op in self.store.list(VirtualMachineOperation)}
        for outcome in outcomes:
            op = by_uid.get(outcome.uid)
            if op is None:
                continue
            await self._operation(op, outcome)
            if outcome.phase == "Running":
                accepted = True
                memory.asked, memory.asked_epoch = (), None
                if op.spec.verb == "Reset":
                    memory.resets_begun.add(outcome.uid)
            else:
                self.events.emit(
                    vm,
                    f"Operation{outcome.phase}",
                    f"{op.spec.verb}: {outcome.message or outcome.reason}",
                    warning=outcome.phase != "Succeeded",
                )
        return accepted

    async def _operation(self, op: VirtualMachineOperation, outcome: Outcome) -> None:
        now = self.clock.now_rfc3339()
        finished = outcome.phase in ("Succeeded", "Failed", "Refused")
        progress = Progress.WORKING
        if finished:
            progress = Progress.READY if outcome.phase == "Succeeded" else Progress.STALLED
        conditions = set_progress(
            op.status.conditions, progress, outcome.reason, outcome.message, generation=op.metadata.generation, now=now
        )
        observed = str(outcome.observed_start) if outcome.observed_start else op.status.observed_start
        status = {
            "observedGeneration": op.metadata.generation,
            "conditions": dump_conditions(conditions),
            "phase": outcome.phase,
            "message": outcome.message,
            "startedAt": op.status.started_at or now,
            "finishedAt": now if finished else "",
            "observedStart": observed,
        }
        try:
            await self.resources.apply_status(op, status, manager=OPERATION_MANAGER)
        except (NotFound, Conflict):
            return


def _dump(model: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dumped


def _power(
    vm: VirtualMachine,
    world: VmWorld,
    decision: Decision,
    effect: Effect,
    now: str,
    memory: VmMemory,
    prepared: Prepared,
) -> PowerStatus:
    before = vm.status.power
    declared = declared_of(vm)
    wanted = "Stopped" if decision.give_up else world.wish.power.value
    epoch = _running_epoch(world) or epoch_of(before.epoch)
    new_run = str(epoch or "") != before.epoch
    stopping = decision.reason in ("Stopping", "Restarting", "Deleting") and decision.state == "Stopping"
    deadline = before.stop_deadline if stopping else ""
    if stopping and not deadline:
        deadline = after_seconds(now, vm.spec.shutdown.grace_period_seconds)
    # In one write with the state that was asked for: an operation that has come so far does not fail any more.
    under_way = effect.wanted is not None and declared is None and decision.standing is not Standing.READY
    by_wish = decision.state == "Running" and effect.wanted is not None
    return PowerStatus(
        state=decision.state,
        reason=decision.reason,
        since=now if decision.state != before.state else before.since,
        wanted=wanted,
        declared=declared.value if declared else "",
        stop_deadline=deadline,
        started_at=now if new_run and decision.state in ("Running", "Paused") else before.started_at,
        restarts=_restarts(before, decision, by_wish=by_wish, stable=_stable(before, decision, now)),
        next_restart=_next_restart(before, decision, now),
        epoch=str(epoch) if epoch else "",
        wanted_before=(before.wanted_before or before.wanted) if under_way else "",
        last_operation=effect.operation_uid or before.last_operation,
        state_node=_state_node(before, decision, memory, prepared),
    )


def _next_restart(before: PowerStatus, decision: Decision, now: str) -> str:
    if decision.restart_in_s is None:
        return ""
    return before.next_restart or after_seconds(now, decision.restart_in_s)


def _restarts(before: PowerStatus, decision: Decision, *, by_wish: bool, stable: bool) -> int:
    if by_wish or decision.state == "Suspended" or decision.reason == "Stopped" or stable:
        return 0
    return before.restarts + 1 if decision.counts_restart else before.restarts


def _stable(before: PowerStatus, decision: Decision, now: str) -> bool:
    """It has run long enough for its next end to be a new story."""
    ran_s = age_s(before.started_at, now)
    return decision.state == "Running" and before.state == "Running" and ran_s > STABLE_S


def _running_epoch(world: VmWorld) -> Epoch | None:
    domain = world.placed.domain if world.placed else None
    return domain.epoch if domain is not None and domain.state.runs else None


def _state_node(before: PowerStatus, decision: Decision, memory: VmMemory, prepared: Prepared) -> str:
    """The host that keeps the suspend image, where other hosts cannot read it."""
    if decision.state == "Running" or prepared.cluster is None or prepared.cluster.spec.state_pool.access == "Shared":
        return ""
    return memory.saved_on or before.state_node


def _started_hash(world: VmWorld, prepared: Prepared, memory: VmMemory, hot: Hot, vm: VirtualMachine) -> str:
    """Of the spec that the running guest is made by: its domain says it."""
    if hot.known and not hot.changes and hot.shape is not None and prepared.size is not None:
        return spec_hash(vm, prepared.size)  # has just been brought there
    domain = world.placed.domain if world.placed else None
    return (domain.spec_hash if domain is not None else "") or memory.started_hash


def _effective(
    vm: VirtualMachine, prepared: Prepared, started_hash: str, guest_abi: HardwareStatus, hot: Hot
) -> EffectiveStatus:
    """What holds now: a running guest keeps what it is made of, whatever the spec says meanwhile."""
    before = vm.status.effective
    if prepared.size is None or prepared.cluster is None:
        return before
    wished_hash = spec_hash(vm, prepared.size)
    if started_hash and started_hash != wished_hash and before.cpu:
        now: dict[str, object] = {"spec_hash": started_hash}
        if hot.shape is not None and not before.class_name:
            now |= {"cpu": hot.shape.vcpus, "memory_mib": hot.shape.memory_mib}
        return before.model_copy(update=now)
    return EffectiveStatus(
        cluster=prepared.cluster.metadata.name,
        class_name=prepared.size.class_name,
        cpu=prepared.size.cpu,
        memory_mib=prepared.size.memory_mib,
        cpu_model=guest_abi.cpu_model or before.cpu_model,
        machine=guest_abi.machine or before.machine,
        spec_hash=started_hash or wished_hash,
    )


def _guest(vm: VirtualMachine, said: GuestSaid | None, running: bool) -> tuple[GuestStatus, list[str]]:
    if not running or not vm.spec.guest_agent:
        return GuestStatus(), []
    if said is None:
        return vm.status.guest, list(vm.status.addresses)
    facts = said.facts
    if facts is None:
        return vm.status.guest.model_copy(update={"agent": "Silent"}), list(vm.status.addresses)
    guest = GuestStatus(
        agent="Connected",
        hostname=facts.hostname[:253],
        os=f"{facts.os_name} {facts.os_version}".strip()[:200],
        kernel=facts.kernel[:100],
        agent_version=facts.agent_version[:100],
    )
    return guest, [address.partition("/")[0] for _, address in facts.addresses][:64]


def _interfaces(
    vm: VirtualMachine, identity: Identity, prepared: Prepared, said: GuestSaid | None, running: bool
) -> list[InterfaceStatus]:
    by_mac: dict[str, list[str]] = {}
    if running and said is not None and said.facts is not None:
        for mac, address in said.facts.addresses:
            by_mac.setdefault(mac.lower(), []).append(address)
    known = {entry.name: entry.addresses for entry in vm.status.interfaces} if running and said is None else {}
    claims = {nic.name: nic.cidr for nic in prepared.seed_nics}
    found = []
    for interface in vm.spec.interfaces:
        mac = interface.mac or identity.mac(interface.name)
        addresses = by_mac.get(mac) or known.get(interface.name) or []
        found.append(
            InterfaceStatus(
                name=interface.name,
                mac=mac,
                network=interface.network_ref.name,
                claim=claims.get(interface.name, ""),
                addresses=addresses[:16],
            )
        )
    return found


def _kept_disks(vm: VirtualMachine, hot: Hot, *, running: bool) -> set[str]:
    """Disks that spec does not name any more and that the guest has still, or may have."""
    if not running or (hot.known and hot.shape is None):
        return set()
    return {disk.name for disk in (vm.status.disks if hot.shape is None else hot.shape.disks)}


def _disks(vm: VirtualMachine, prepared: Prepared, kept: set[str]) -> list[DiskStatus]:
    ready = {disk.name for disk in prepared.disks}
    missing = {lack.message for lack in (*prepared.pending, *prepared.blockers)}
    wanted = [
        DiskStatus(
            name=name,
            volume=volume,
            ready=name in ready,
            message=next((text for text in sorted(missing) if f"spec.disks[{name}]" in text), ""),
        )
        for name, volume in disk_volumes(vm).items()
    ]
    message = "taken out of spec.disks: the guest has it still"
    named = {disk.name for disk in wanted}
    had = [disk for disk in vm.status.disks if disk.ready and disk.name in kept and disk.name not in named]
    return [*wanted, *(disk.model_copy(update={"message": message}) for disk in had)]
