"""Which host runs it after a move: ask both in the one safe order, remove what is left on the other, end the move.

Order (protocol.md): tickets, source, target, patch; on each side that does not run it: note, undefine, list, gates. A
side that is silent without evidence leaves the move open, with the sentence which evidence is missing.
"""

from __future__ import annotations

from lq_operator.core.failover.evidence import absence_proof
from lq_operator.core.failover.facts import HostView, Proof
from lq_operator.core.failover.guards import Refusal
from lq_operator.core.failover.protocol import transition
from lq_operator.core.failover.requests import EndMove, MoveEnd
from lq_operator.core.model import DomainSeen, DomainState, Placement
from lq_operator.core.moving import steps as s
from lq_operator.core.moving.world import MoveWorld, Phase, Side

LOOK_S = 2.0


def settle(world: MoveWorld, placement: Placement) -> s.Step:
    """The next step towards EndMove."""
    source, target = world.source, world.target
    assert source is not None
    assert target is not None
    step = _tickets(world, target) or _ask(world, placement, source, target)
    if step is not None:
        return step
    return _conflict(source, target) or _conclude(world, placement, source, target)


def _stay(reason: str, message: str) -> s.Wait:
    return s.Wait(Phase.SETTLING, reason, message, LOOK_S)


def _missing(side: Side) -> s.Wait:
    return _stay(
        "EvidenceMissing",
        f"{side.node} is silent ({side.why}) and may run it: it stays as it is until that host answers, its BMC says off, "
        "or a HostAttestation is accepted",
    )


def _tickets(world: MoveWorld, target: Side) -> s.Step | None:
    """Until they are gone the move may still arrive."""
    if world.tickets_gone_at is not None or (target.view is None and target.off):
        return None
    return s.DeleteTickets() if target.view is not None else _missing(target)


def _ask(world: MoveWorld, placement: Placement, source: Side, target: Side) -> s.Step | None:
    """Both hosts listed, source first; what is shut off there is noted and undefined."""
    since = world.listed_since if world.tickets_gone_at is None else world.tickets_gone_at
    for side, after in ((source, since), (target, max(since, source.view.listed_at if source.view else 0))):
        if side.view is None:
            if not side.off:
                return _missing(side)
            continue
        if side.view.listed_at <= after:
            return s.List(side.node)
        if side is source and world.copied and not world.switched and _changed_over(side.domain):
            return s.SwitchDisks()
        if not side.runs and not _gone(side.view, side.domain, placement):
            assert placement.epoch is not None
            return s.Depart(side.node, placement.epoch)
    return None


def _changed_over(domain: DomainSeen | None) -> bool:
    """The source says itself that the guest left: its disk files are history from then on."""
    return domain is not None and domain.state is DomainState.SHUTOFF and domain.state_reason == "migrated"


def _gone(view: HostView, domain: DomainSeen | None, placement: Placement) -> bool:
    noted = view.departed is not None and placement.epoch is not None and view.departed >= placement.epoch
    return view.sighting is None and domain is None and noted


def _conflict(source: Side, target: Side) -> s.Step | None:
    """Both show a QEMU, or the one that does stands still in the middle of the changeover."""
    here, there = source.domain, target.domain
    if source.runs and target.runs:
        assert here is not None
        assert there is not None
        if there.state is DomainState.RUNNING and _left_behind(here) and here.epoch == there.epoch:
            return s.Discard(source.node, here.epoch)
        if here.state is DomainState.RUNNING and arrived_paused(there) and here.epoch == there.epoch:
            return s.DiscardArrived(source.node, target.node, there.epoch)
        return _stay("BothShowIt", "both hosts show the guest: the changeover is not over yet")
    if source.runs and here is not None and _left_behind(here):
        return s.Resume(source.node)
    if target.runs and there is not None and there.state is not DomainState.RUNNING and _left_behind(there):
        # The source does not run it (listed, or surely off): nothing will ever complete what came in.
        return s.Discard(target.node, there.epoch)
    return None


def _left_behind(domain: DomainSeen) -> bool:
    """libvirt paused it for the changeover, on either side."""
    return domain.state is DomainState.PAUSED and domain.state_reason == "migration"


def arrived_paused(domain: DomainSeen) -> bool:
    """The changeover is over for the target, and it waits to be resumed: libvirt's answer to `arrive_paused`."""
    return domain.state is DomainState.PAUSED and domain.state_reason == "user"


def _conclude(world: MoveWorld, placement: Placement, source: Side, target: Side) -> s.Step:
    end = MoveEnd.SOURCE if source.runs else MoveEnd.TARGET if target.runs else MoveEnd.NEITHER
    if end is MoveEnd.TARGET and world.copied and not world.switched:
        return s.SwitchDisks()
    proofs = tuple(proof for side in (source, target) for proof in _proofs(side, placement))
    answer = transition(
        placement,
        EndMove(
            actor=world.actor,
            stamp=world.stamp,
            knowledge=world.knowledge,
            end=end,
            source=source.view,
            target=target.view,
            proofs=proofs,
            ticket_deleted_at=world.tickets_gone_at,
            epoch=world.next_epoch,
        ),
    )
    if isinstance(answer, Refusal):
        return _stay(answer.reason.value, answer.sentence)
    return s.EndMove(placement, answer)


def _proofs(side: Side, placement: Placement) -> tuple[Proof, ...]:
    if side.view is None:
        return side.off
    return () if side.runs else (absence_proof(side.view, placement),)
