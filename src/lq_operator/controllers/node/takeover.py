"""Taking a host over: carries out the steps that core/failover/takeover asks for, in its order."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lq_operator.controllers.runtime.hostbook import (
    GATE_PLAN,
    GATE_POOL,
    RECORD_PLAN,
    RECORD_POOL,
    HostBook,
    OwnedHost,
)
from lq_operator.core.failover import takeover as t
from lq_operator.core.failover.record import HostRecord, Member, gate_name
from lq_operator.core.model import DomainSeen, Epoch, HostInventory, HostUUID, NodeName, VolumePlan
from lq_operator.core.result import Conflict, Fenced, OutcomeUnknown, Transient
from lq_operator.ports import Host
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

MAX_STEPS = 40
"""A takeover needs about twelve; more means that two processes undo each other's steps."""


@dataclass(slots=True)
class Takeover:
    """One attempt on one connection."""

    book: HostBook
    token: str

    async def run(
        self, node: NodeName, host: Host, known: Mapping[NodeName, HostUUID | None], members: tuple[Member, ...]
    ) -> OwnedHost | t.RefuseHost:
        """The owned host, or why it is refused. Raises Transient when it is to be tried again, Fenced after stepping down."""
        if (refused := t.refuse_identity(node, host.uuid, known)) is not None:
            return refused
        tenure = self.book.tenure
        tenure.check()
        inventory = await host.inventory()
        await host.ensure_pool(RECORD_PLAN)
        await host.ensure_pool(GATE_PLAN)
        former = self.book.former_gates(node)
        seen = t.Seen(
            installation=self.book.installation,
            node=node,
            host_uuid=host.uuid,
            term=tenure.term,
            beat=tenure.beat,
            gate=gate_name(tenure.term, self.token, tenure.next_take()),
            known=known,
            former_gates=frozenset(former),
            members=members,
            joined=Epoch(tenure.term, 0),
        )
        self.book.remember_gate(node, seen.gate)
        domains: tuple[DomainSeen, ...] = ()
        for _ in range(MAX_STEPS):
            step = t.next_step(seen)
            match step:
                case t.RefuseHost():
                    return step
                case t.Owned():
                    return self._owned(node, host, inventory, seen, domains, step.found)
                case t.Lost():
                    raise Transient(step.sentence)
                case t.StepDown():
                    await self._step_down(host, step)
                case t.ListDomains():
                    domains = await host.list_domains()
                    seen = replace(seen, domains_listed=True)
                case _:
                    seen = await self._step(host, step, seen)
        raise Transient(f"{node}: the takeover did not end; another process keeps changing its gates or record")

    def _owned(
        self,
        node: NodeName,
        host: Host,
        inventory: HostInventory,
        seen: t.Seen,
        domains: tuple[DomainSeen, ...],
        found: HostRecord,
    ) -> OwnedHost:
        entry = OwnedHost(
            node=node,
            host=host,
            boot=seen.gate,
            term=seen.term,
            inventory=inventory,
            names=set(seen.record_after or ()),
            found=found,
            domains={domain.domain_name: domain for domain in domains},
            listed_at=self.book.next_listing(),
        )
        log.info("host taken over", node=node, term=seen.term, gate=seen.gate, domains=len(domains))
        return entry

    async def _step_down(self, host: Host, step: t.StepDown) -> None:
        for gate in step.delete:
            await host.delete_volume(GATE_POOL, gate)
        self.book.tenure.step_down(step.above_term)
        raise Fenced(f"{step.sentence}: stepping down")

    async def _step(self, host: Host, step: t.Step, seen: t.Seen) -> t.Seen:
        match step:
            case t.ReadRecord(again):
                names = await _names(host, RECORD_POOL)
                return replace(seen, record_after=names) if again else replace(seen, record=names)
            case t.CreateGate():
                await self._create_gate(host, step)
                return replace(seen, gate_created=True)
            case t.ListGates():
                return replace(seen, gates=await _names(host, GATE_POOL))
            case t.ListGatesAgain():
                return replace(seen, gates_after=await _names(host, GATE_POOL))
            case t.DeleteGates():
                for name in step.names:
                    await host.delete_volume(GATE_POOL, name)
                return replace(seen, gates=None)
            case t.NoteFacts():
                claimed = await self._note(host, step.names)
                return replace(seen, record_after=None, claimed_here=seen.claimed_here or claimed)
            case t.Withdraw():
                for name in step.names:
                    await host.delete_volume(RECORD_POOL, name)
                return replace(seen, record=None, record_after=None)
            case _:
                raise AssertionError(f"not a step of a takeover: {step}")

    async def _create_gate(self, host: Host, step: t.CreateGate) -> None:
        try:
            await host.create_volume(GATE_POOL, VolumePlan(step.name, 0, format="raw", mode=0o444))
        except (Conflict, OutcomeUnknown) as error:
            # Never made twice: the next attempt takes a fresh name.
            raise Transient(f"{host.node}: the gate could not be created cleanly: {error}") from error

    async def _note(self, host: Host, names: tuple[str, ...]) -> bool:
        claimed = False
        for name in names:
            with contextlib.suppress(Conflict):
                await host.create_volume(RECORD_POOL, VolumePlan(name, 0, format="raw"))
                claimed = claimed or name.startswith("installation_")
        return claimed


async def _names(host: Host, pool: str) -> tuple[str, ...]:
    return tuple(sorted(volume.name for volume in await host.list_volumes(pool, refresh=True)))
