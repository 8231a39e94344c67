"""One VM: everything observed -> what to do and what to say. Pure; the ownership protocol has the last word.

Reads from the top: deletion, then the phase of the placement. Each branch returns at most one step towards the
declaration; the controller acts, observes again and asks again.
"""

from __future__ import annotations

from dataclasses import replace

from lq_operator.core.actions import (
    AddFinalizer,
    AskStop,
    CutOff,
    Depart,
    EndHang,
    LeaveTombstones,
    PauseGuest,
    RemoveFinalizer,
    ResetGuest,
    ResumeGuest,
    SaveGuest,
    StartGuest,
    SweepState,
    WritePlacement,
)
from lq_operator.core.failover.evidence import absence_proof
from lq_operator.core.failover.facts import Proof, highest, tombstones_of
from lq_operator.core.failover.guards import Reason, Refusal
from lq_operator.core.failover.protocol import transition
from lq_operator.core.failover.requests import Bind, Commit, Displace, Register, Release, Request
from lq_operator.core.lifecycle.heartbeat import Remedy, judge
from lq_operator.core.lifecycle.power import Ending, Power, after_end, ending_of
from lq_operator.core.lifecycle.world import Decision, Lack, PlacedHost, Standing, VmWorld
from lq_operator.core.model import DomainSeen, DomainState, HostUUID, Phase

_SHOWN = {
    DomainState.RUNNING: "Running",
    DomainState.PAUSED: "Paused",
    DomainState.STARTING: "Starting",
    DomainState.SHUTTING_DOWN: "Stopping",
    DomainState.PM_SUSPENDED: "Paused",
}
"""Domain states with a QEMU -> word of status.power.state."""

_STALLED_REASONS = frozenset({Reason.SPLIT_BRAIN, Reason.EPOCH_UNKNOWN})
"""Refusals that only a person can resolve."""

WATCH_S = 2.0
"""How soon to look again while a guest is asked to stop or comes up; events usually come first."""


def decide(world: VmWorld) -> Decision:
    """The next step for this VM."""
    running = [sighting for sighting in world.knowledge.sightings if sighting.runs]
    if len(running) > 1 and not {sighting.host_uuid for sighting in running} <= _sides(world):
        nodes = ", ".join(sorted(sighting.node for sighting in running))
        return Decision(
            "Unknown",
            Standing.STALLED,
            Reason.SPLIT_BRAIN.value,
            f"domains of this VM run on {nodes}: stop the wrong one with virsh, nothing is killed automatically",
        )
    if world.deleting:
        return _delete(world)
    if not world.finalizer:
        return Decision("Stopped", Standing.WORKING, "Accepted", actions=(AddFinalizer(),))
    return _by_phase(world)


def _by_phase(world: VmWorld) -> Decision:
    match world.placement:
        case None:
            return _unconsidered(world)
        case placement if placement.phase is Phase.RELEASED:
            return _displacement(world) or _released(world)
        case placement if placement.phase is Phase.ASSIGNED:
            return _displacement(world) or _assigned(world)
        case placement if placement.phase is Phase.COMMITTED:
            return _displacement(world) or _committed(world)
        case _:
            return _moving(world)


def _sides(world: VmWorld) -> set[HostUUID | None]:
    """Hosts that may both show it while it is on its way from one to the other."""
    placement = world.placement
    moving = placement is not None and placement.phase is Phase.MOVING
    return {placement.host_uuid, placement.target_uuid} if placement is not None and moving else set()


def _moving(world: VmWorld) -> Decision:
    """The migration controller has it: nothing is done here until it says where the guest is."""
    placement = world.placement
    assert placement is not None
    way = f"from {placement.node} to {placement.target}"
    domains = [side.domain for side in (world.target, world.placed) if side is not None and side.domain is not None]
    states = [domain.state for domain in domains if domain.state.runs]
    if DomainState.RUNNING in states:
        return Decision("Running", Standing.READY, "Moving", f"it is being moved {way}")
    if states:
        return Decision(_SHOWN[states[0]], Standing.WORKING, "Moving", f"it is being moved {way}", requeue_s=WATCH_S)
    why = "; ".join(side.why for side in (world.placed, world.target) if side is not None and side.why)
    message = f"it was being moved {way}, and neither shows it running{': ' if why else ''}{why}"
    return Decision("Unknown", Standing.UNKNOWN if why else Standing.WORKING, "Moving", message, requeue_s=WATCH_S)


# ---------------------------------------------------------------- who owns it


def _write(world: VmWorld, request: Request, say: Decision) -> Decision:
    """The transition as an action, or the refusal as what the VM waits for."""
    outcome = transition(world.placement, request)
    if isinstance(outcome, Refusal):
        standing = Standing.STALLED if outcome.reason in _STALLED_REASONS else Standing.WORKING
        return replace(
            say,
            standing=standing,
            reason=outcome.reason.value,
            message=outcome.sentence,
            actions=(),
            requeue_s=WATCH_S,
            counts_restart=False,  # nothing is started: a VM that waits for a silent host does not earn a back-off
        )
    return replace(say, actions=(WritePlacement(world.placement, outcome),))


def _unconsidered(world: VmWorld) -> Decision:
    say = Decision("Unknown", Standing.WORKING, "Accepted", "looking for a domain of this name on every host")
    if len(world.views) == 1:
        return _write(world, Bind(world.actor, world.stamp, world.knowledge, world.views[0]), say)
    return _write(world, Register(world.actor, world.stamp, world.knowledge), say)


def _displacement(world: VmWorld) -> Decision | None:
    """A domain of this identity elsewhere than the placement says: the host wins where the protocol allows it."""
    placement = world.placement
    assert placement is not None
    placed = {placement.host_uuid} if placement.phase is Phase.COMMITTED else set()
    elsewhere = [view for view in world.views if view.host_uuid not in placed]
    if not elsewhere:
        return None
    here = world.placed.domain if world.placed is not None and placed else None
    if here is not None and here.state.runs and not any(v.sighting and v.sighting.runs for v in elsewhere):
        return None  # a host that came back with what is left of an earlier run: the node controller removes it
    say = Decision("Unknown", Standing.WORKING, "FoundElsewhere")
    if placed and world.placed is not None and world.placed.view is not None and not world.fresh:
        return replace(say, look=True)  # only a listing made now is evidence that the placed host has none
    proofs = _absence(world) + (world.placed.off if world.placed else ())
    request = Displace(world.actor, world.stamp, world.knowledge, elsewhere[0], proofs)
    decision = _write(world, request, say)
    if decision.actions or decision.standing is Standing.STALLED:
        return decision
    if decision.reason == Reason.STALE_DOMAIN.value and world.wish.power in (Power.STOPPED, Power.SUSPENDED):
        return None  # nothing is to be started, and the node controller removes it
    return decision


# ---------------------------------------------------------------- not on a host


def _released(world: VmWorld) -> Decision:
    if world.wish.power in (Power.STOPPED, Power.SUSPENDED):
        return _rests(world)
    if world.blockers:
        return _lacking("Stopped", world.blockers)
    return Decision(
        "Stopped", Standing.WORKING, "WaitingForHost", world.scheduling or "waiting for the scheduler to choose a host"
    )


def _rests(world: VmWorld) -> Decision:
    """Stopped or suspended, as declared; or stopped because the restart policy gave up."""
    if world.wish.declared in (Power.RUNNING, Power.PAUSED):
        message = "the guest ended and restartPolicy lets it rest: create a Start operation, or change spec.powerState"
        return Decision("Stopped", Standing.STALLED, "GuestEnded", message)
    if world.run.suspended:
        if world.wish.power is Power.SUSPENDED:
            return Decision("Suspended", Standing.READY, "Suspended", "its memory lies in the state pool")
        return Decision("Stopped", Standing.READY, "Stopped", "a suspend image is kept and is used by the next start")
    if world.wish.power is Power.SUSPENDED:
        return Decision("Stopped", Standing.READY, "Stopped", "it was not running, so there was nothing to suspend")
    return Decision("Stopped", Standing.READY, "Stopped")


def _assigned(world: VmWorld) -> Decision:
    if world.wish.power in (Power.STOPPED, Power.SUSPENDED):
        return _rests(world)
    if world.blockers:
        return _lacking("Stopped", world.blockers)
    placed = world.placed
    if placed is None or placed.view is None:
        why = placed.why if placed else "its node object is gone"
        return Decision("Stopped", Standing.WORKING, "HostNotReady", f"{why}; the scheduler may choose another host")
    if placed.maintenance:
        message = f"{placed.node} is in maintenance; the scheduler chooses another host"
        return Decision("Stopped", Standing.WORKING, "HostInMaintenance", message)
    return _commit(world, placed, Decision("Starting", Standing.WORKING, "Starting"))


def _commit(world: VmWorld, placed: PlacedHost, say: Decision) -> Decision:
    assert placed.view is not None
    request = Commit(world.actor, world.stamp, world.knowledge, placed.view, world.next_epoch)
    return _write(world, request, say)


def _lacking(state: str, lacks: tuple[Lack, ...]) -> Decision:
    stalled = next((lack for lack in lacks if lack.stalled), None)
    first = stalled or lacks[0]
    standing = Standing.STALLED if stalled else Standing.WORKING
    again_s = min((lack.again_s for lack in lacks if lack.again_s is not None), default=None)
    return Decision(state, standing, first.reason, "; ".join(lack.message for lack in lacks), requeue_s=again_s)


# ---------------------------------------------------------------- on a host


def _committed(world: VmWorld) -> Decision:
    placed = world.placed
    if placed is None or placed.view is None:
        return _silent(world, placed)
    domain = placed.domain
    if domain is None or not domain.state.runs:
        return _not_running(world, placed, domain)
    return _running(world, placed, domain)


def _silent(world: VmWorld, placed: PlacedHost | None) -> Decision:
    """Unknown is not Stopped: without evidence nothing is done, with evidence it is released."""
    assert world.placement is not None
    why = placed.why if placed else f"{world.placement.node} has no HypervisorNode any more"
    if placed is not None and placed.off:
        say = Decision("Unknown", Standing.WORKING, "HostOff", f"{placed.node} is off by evidence")
        decision = _write(world, Release(world.actor, world.stamp, world.knowledge.memory, placed.off), say)
        return replace(decision, give_up=not world.wish.restart_on_host_failure and bool(decision.actions))
    return Decision(
        "Unknown",
        Standing.UNKNOWN,
        "HostUnreachable",
        f"{why}. The VM is started nowhere else until that host answers or a HostAttestation says that it is off",
    )


def _not_running(world: VmWorld, placed: PlacedHost, domain: DomainSeen | None) -> Decision:
    if world.wish.power in (Power.STOPPED, Power.SUSPENDED):
        return _depart(world, placed, domain, "Suspended" if world.run.suspended else "Stopped")
    ending = _ending(world, domain)
    if ending is Ending.NONE or world.wish.restart_of is not None:
        return _leave(world, placed, domain) or _start(world, placed, automatic=False)
    verdict = after_end(world.wish.policy, ending, world.run.restarts)
    state = "Crashed" if ending is Ending.FAILED else "Stopped"
    if not verdict.again:
        return Decision(state, Standing.WORKING, "GuestEnded", verdict.why, give_up=True)
    left_s = verdict.wait_s if world.run.restart_left_s is None else world.run.restart_left_s
    if left_s > 0:
        message = f"{verdict.why}: started again in {left_s:.0f} s (attempt {world.run.restarts + 1})"
        return Decision(state, Standing.WORKING, "RestartBackOff", message, requeue_s=left_s, restart_in_s=left_s)
    return _leave(world, placed, domain) or _start(world, placed, automatic=True)


def _leave(world: VmWorld, placed: PlacedHost, domain: DomainSeen | None) -> Decision | None:
    """What would be started on a host in maintenance is released instead: the scheduler chooses another host."""
    if not placed.maintenance:
        return None
    say = _depart(world, placed, domain, "Stopped")
    return replace(say, reason="HostInMaintenance") if say.actions else say


def _ending(world: VmWorld, domain: DomainSeen | None) -> Ending:
    """Did it run under the placement's epoch and end, or was it never started under it?"""
    assert world.placement is not None
    started = world.placement.started_epoch
    ran = world.run.epoch == started and world.run.state not in ("Stopped", "Starting")
    if domain is None:
        return Ending.UNKNOWN if ran else Ending.NONE
    if domain.epoch != started and not ran:
        return Ending.NONE  # what ended is an earlier run (a run that was reported ends, whatever was defined since)
    ending = ending_of(domain)
    return ending if ending is not Ending.UNKNOWN or ran else Ending.NONE


def _start(world: VmWorld, placed: PlacedHost, *, automatic: bool) -> Decision:
    say = Decision("Starting", Standing.WORKING, "Starting", counts_restart=automatic)
    lacks = world.blockers + world.pending
    if lacks:
        return replace(_lacking("Stopped", lacks), counts_restart=False)
    if world.unused_epoch:
        assert world.placement is not None
        return replace(say, actions=(StartGuest(world.placement),))
    return _commit(world, placed, say)


def _running(world: VmWorld, placed: PlacedHost, domain: DomainSeen) -> Decision:
    assert world.placement is not None
    started = world.placement.started_epoch
    if domain.epoch is not None and started is not None and domain.epoch < started:
        return Decision(
            "Unknown",
            Standing.STALLED,
            Reason.SPLIT_BRAIN.value,
            f"{placed.node} runs it under epoch {domain.epoch}, the placement is at {started}: a start "
            "by hand, or an older one that nothing accounts for. Stop it with virsh if it is the wrong one",
        )
    if world.wish.restart_of is not None and domain.epoch == world.wish.restart_of:
        return _stop(world, placed, domain, "Restarting")
    match world.wish.power:
        case Power.STOPPED:
            return _stop(world, placed, domain, "Stopping")
        case Power.SUSPENDED:
            return Decision(
                _SHOWN[domain.state], Standing.WORKING, "Suspending", actions=(SaveGuest(placed.node, domain.epoch),)
            )
        case Power.PAUSED if domain.state is DomainState.RUNNING:
            return Decision("Running", Standing.WORKING, "Pausing", actions=(PauseGuest(placed.node),))
        case Power.PAUSED:
            return _settled(world, domain, DomainState.PAUSED)
        case _:
            return _run(world, placed, domain)


def _run(world: VmWorld, placed: PlacedHost, domain: DomainSeen) -> Decision:
    if world.wish.reset:
        say = Decision(_SHOWN[domain.state], Standing.WORKING, "Resetting")
        return replace(say, actions=(ResetGuest(placed.node, world.wish.reset),))
    if domain.state is DomainState.PAUSED and domain.state_reason in (
        "user",
        "starting-up",
        "unknown",
        "from-snapshot",
    ):
        return Decision("Paused", Standing.WORKING, "Resuming", actions=(ResumeGuest(placed.node),))
    settled = _settled(world, domain, DomainState.RUNNING)
    if world.heartbeat is None or domain.state is not DomainState.RUNNING:
        return settled
    verdict = judge(world.heartbeat, world.pulse)
    if verdict.remedy is Remedy.NONE:
        return replace(settled, hang=verdict, requeue_s=verdict.again_s)
    end = EndHang(placed.node, domain.epoch, verdict.remedy)
    return Decision("Running", Standing.WORKING, "GuestHung", verdict.message, actions=(end,), hang=verdict)


def _settled(world: VmWorld, domain: DomainSeen, wanted: DomainState) -> Decision:
    shown = _SHOWN[domain.state]
    if domain.state is wanted:
        return Decision(shown, Standing.READY, shown)
    if domain.state is DomainState.PAUSED:
        return Decision(
            shown,
            Standing.STALLED,
            "PausedByHost",
            f"the host paused it ({domain.state_reason}): free space or mend the disk, then resume",
        )
    return Decision(shown, Standing.WORKING, shown, requeue_s=WATCH_S)


def _stop(world: VmWorld, placed: PlacedHost, domain: DomainSeen, reason: str) -> Decision:
    """Ask by the agent, then by ACPI, and cut off at the deadline."""
    run = world.run
    say = Decision("Stopping", Standing.WORKING, reason, requeue_s=WATCH_S)
    if world.wish.force or (run.stop_left_s is not None and run.stop_left_s <= 0):
        return replace(say, actions=(CutOff(placed.node, domain.epoch),))
    if domain.state is DomainState.PAUSED:
        return replace(say, message="a paused guest cannot hear us", actions=(ResumeGuest(placed.node),))
    modes = ("agent", "acpi") if run.agent else ("acpi", "agent")
    untried = [mode for mode in modes if mode not in run.asked]
    if run.stop_left_s is None or untried:
        mode = untried[0] if untried else "acpi"
        return replace(say, actions=(AskStop(placed.node, mode, again=run.stop_left_s is not None),))
    left_s = max(run.stop_left_s, 0.0)
    message = f"the guest was asked to stop and is cut off in {left_s:.0f} s"
    return replace(say, message=message, requeue_s=min(WATCH_S, left_s))


# ---------------------------------------------------------------- leaving a host


def _absence(world: VmWorld) -> tuple[Proof, ...]:
    """host-confirmed-absent of the placed host, where this pass has listed it and shown it empty."""
    if world.placement is None or world.placed is None or world.placed.view is None or not world.fresh:
        return ()
    if world.placement.epoch is None:
        return ()
    return (absence_proof(world.placed.view, world.placement),)


def _depart(world: VmWorld, placed: PlacedHost, domain: DomainSeen | None, state: str) -> Decision:
    """Departure note and undefine first, then the release with what the host shows after that."""
    assert world.placement is not None
    assert placed.view is not None
    epoch = highest((world.placement.epoch, domain.epoch if domain else None))
    assert epoch is not None
    noted = placed.view.departed is not None and placed.view.departed >= epoch
    say = Decision(state, Standing.WORKING, "Stopping")
    if domain is not None or not noted or not world.fresh:
        return replace(say, actions=(Depart(placed.node, epoch),))
    return _write(world, Release(world.actor, world.stamp, world.knowledge.memory, _absence(world)), say)


def _delete(world: VmWorld) -> Decision:
    if not world.finalizer:
        return Decision("Unknown", Standing.WORKING, "Deleting")
    placement = world.placement
    say = Decision("Stopped", Standing.WORKING, "Deleting")
    if placement is None and len(world.views) == 1:
        return _write(world, Bind(world.actor, world.stamp, world.knowledge, world.views[0]), say)
    if placement is None or placement.phase in (Phase.RELEASED, Phase.ASSIGNED):
        if placement is not None and (moved := _displacement(world)) is not None and moved.actions:
            return moved
        if world.awaited:
            message = f"{', '.join(world.awaited)}: about to be taken over, files of this VM may lie there"
            return replace(say, message=message, requeue_s=WATCH_S)
        return replace(say, actions=(SweepState(), RemoveFinalizer()))
    return _delete_placed(world, say)


def _delete_moving(world: VmWorld, say: Decision) -> Decision:
    """The migration controller calls the move off and settles it; a side that stays away gets a tombstone, both do."""
    assert world.placement is not None
    sides = [side for side in (world.placed, world.target) if side is not None]
    away = [side for side in sides if side.view is None and side.away and not side.off]
    if not away:
        message = "its move is called off first"
        return replace(say, state="Unknown", reason="Moving", message=message, requeue_s=WATCH_S)
    tombstones = tombstones_of(world.identity, world.uid, world.placement)
    return replace(say, state="Unknown", actions=(LeaveTombstones(tombstones), SweepState(), RemoveFinalizer()))


def _delete_placed(world: VmWorld, say: Decision) -> Decision:
    placed = world.placed
    assert world.placement is not None
    if world.placement.phase is Phase.MOVING:
        return _delete_moving(world, say)
    if placed is not None and placed.view is not None:
        domain = placed.domain
        if domain is not None and domain.state.runs:
            return _stop(world, placed, domain, "Deleting")
        return _depart(world, placed, domain, "Stopped")
    if placed is not None and placed.off:
        return _write(world, Release(world.actor, world.stamp, world.knowledge.memory, placed.off), say)
    if placed is not None and not placed.away:
        return replace(say, state="Unknown", reason="HostUnreachable", message=placed.why, requeue_s=WATCH_S)
    tombstones = tombstones_of(world.identity, world.uid, world.placement)
    return replace(say, state="Unknown", actions=(LeaveTombstones(tombstones), SweepState(), RemoveFinalizer()))
