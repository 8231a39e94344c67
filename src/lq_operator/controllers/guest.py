"""Asks guest agents who they are, apart from the VM controller: a silent agent may cost seconds, a VM's pass must not.

Also says when a guest's watchdog fired: QEMU has acted already, so there is nothing to do but to tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.guestbook import GuestBook, GuestSaid
from lq_operator.controllers.runtime.hostbook import HostBook
from lq_operator.controllers.runtime.placements import is_moving
from lq_operator.core.model import AgentState, DomainEvent, DomainState, Epoch, GuestFacts, Identity, domain_name_of
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected, Transient
from lq_operator.ports import Clock, Events, Host, Store
from lq_operator.telemetry import metrics

WATCHDOG_ACTIONS = ("pause", "reset", "poweroff")
"""Values of spec.watchdog; any other is of a domain that was changed by hand."""
FIRST_S = 1.0
"""How often a booting guest is asked; its agent also announces itself by an event where the host sends one."""
PATIENCE_S = 180.0
"""After this long without an answer it is asked as seldom as a running one."""
STEADY_S = 60.0
"""How often a guest that answers is asked again: addresses may change. With spec.heartbeat: thrice in afterSeconds."""
SILENT_S = 5.0
"""How often one is asked that answers no more."""
_UNANSWERED = (Transient, Rejected, Conflict, NotFound, OutcomeUnknown)


@dataclass(slots=True)
class GuestController:
    """reconcile(namespace/name); `told(key)` wakes the VM controller when something is new."""

    store: Store
    book: HostBook
    guests: GuestBook
    events: Events
    clock: Clock
    told: Callable[[str], None]
    _since: dict[tuple[Identity, Epoch | None], float] = field(default_factory=dict)

    def watchdog(self, event: DomainEvent) -> None:
        """A host says that a guest has stopped feeding its watchdog. The action is what spec.watchdog asked for."""
        metrics.WATCHDOGS.labels(event.detail if event.detail in WATCHDOG_ACTIONS else "other").inc()
        for vm in self.store.list(VirtualMachine):
            if domain_name_of(vm.metadata.namespace or "", vm.metadata.name) == event.domain_name:
                message = f"the guest stopped feeding its watchdog on {event.node}: {event.detail} (spec.watchdog)"
                self.events.emit(vm, "WatchdogFired", message, warning=True)

    async def reconcile(self, key: str) -> Requeue | None:
        """Ask the agent of one running guest."""
        namespace, _, name = key.partition("/")
        identity = Identity(self.book.installation, namespace, name)
        vm = self.store.get(VirtualMachine, namespace, name)
        found = next((at for at in self.book.domains_of(identity) if at[1].state is DomainState.RUNNING), None)
        if vm is None or found is None or not vm.spec.guest_agent:
            self.guests.forget(identity)
            self._since = {k: v for k, v in self._since.items() if k[0] != identity}
            return None
        entry, domain = found
        said = GuestSaid(domain.epoch, await _facts(entry.host, identity))
        if await self._listen(vm, identity, entry.host, said):
            self.told(key)
        if said.facts is None and self.guests.get(identity, domain.epoch) is None:
            # Still booting: silence is not news yet.
            return self._again(identity, domain.epoch, key)
        if self.guests.put(identity, said):
            self.told(key)
        steady_s = STEADY_S if vm.spec.heartbeat is None else min(STEADY_S, vm.spec.heartbeat.after_seconds / 3)
        if said.facts is None:
            return Requeue.after(min(SILENT_S, steady_s))
        if not said.facts.addresses and vm.spec.interfaces and self._is_young(identity, domain.epoch):
            # Agents often come up before DHCP has answered.
            return Requeue.after(FIRST_S)
        return Requeue.after(steady_s)

    async def _listen(self, vm: VirtualMachine, identity: Identity, host: Host, said: GuestSaid) -> bool:
        """For spec.heartbeat: True when the VM is to be judged again. A guest on its way to another host is throttled
        and may fall silent by that: nothing is concluded then."""
        if vm.spec.heartbeat is None or is_moving(vm):
            self.guests.deaf(identity)
            return False
        state: AgentState | None = AgentState.ANSWERS
        if said.facts is None:
            try:
                state = await host.agent_state(identity.domain_name)
            except _UNANSWERED:
                state = None
        news = self.guests.listen(identity, said.epoch, host, state, self.clock.mono_s())
        return news or state is AgentState.SILENT

    def _is_young(self, identity: Identity, epoch: Epoch | None) -> bool:
        """It was first asked in this run less than PATIENCE_S ago."""
        now_s = self.clock.mono_s()
        return now_s - self._since.setdefault((identity, epoch), now_s) < PATIENCE_S

    def _again(self, identity: Identity, epoch: Epoch | None, key: str) -> Requeue:
        now_s = self.clock.mono_s()
        since_s = self._since.setdefault((identity, epoch), now_s)
        if now_s - since_s < PATIENCE_S:
            return Requeue.after(FIRST_S)
        if self.guests.put(identity, GuestSaid(epoch, None)):
            self.told(key)
        return Requeue.after(STEADY_S)


async def _facts(host: Host, identity: Identity) -> GuestFacts | None:
    """None where the agent does not answer, for whatever reason."""
    try:
        return await host.guest_facts(identity.domain_name)
    except _UNANSWERED:
        return None
