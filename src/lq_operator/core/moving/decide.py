"""One move: everything observed -> the next step. Pure; the ownership protocol has the last word over placements.

Reads from the top: has it ended, may it begin, is it under way. What became of a move that was begun is never
remembered, it is read from the placement and from both hosts (`settle`), so a crash at any line is one more pass.
"""

from __future__ import annotations

from lq_operator.core.model import NodeName, Placement
from lq_operator.core.model import Phase as Placed
from lq_operator.core.moving import steps as s
from lq_operator.core.moving.settle import settle
from lq_operator.core.moving.world import MoveWorld, Phase, PostCopy, Vm

GRACE_S = 10.0
"""A VM that is applied together with its move may come a moment later."""
WATCH_S = 2.0
"""How often a transfer is looked at, and at most written about."""
POST_COPY_AFTER = 2
"""Passes over the memory after which a transfer that does not converge may change over: the first pass carries
everything, the second shows whether what was written meanwhile gets less."""


def decide(world: MoveWorld) -> s.Step:
    """The next step of this move."""
    if world.phase.ended:
        return s.RemoveFinalizer() if world.deleting else s.Rest()
    if world.phase.begun and (step := _begun(world)) is not None:
        return step
    if world.deleting:
        return s.RemoveFinalizer()
    return _refused(world) or _pending(world)


def called_off(world: MoveWorld) -> tuple[str, str] | None:
    """(reason, sentence) when the guest is to stay where it is."""
    vm = world.vm
    if world.deleting:
        return "Deleted", "the VirtualMachineMigration was deleted"
    if world.cancel:
        return "Cancelled", "spec.cancel was set"
    if vm is not None and (vm.deleting or not vm.wanted):
        return "NotWanted", "the VM should not run any more"
    since_s = world.age_s if world.begun_s is None else world.begun_s
    if since_s > world.deadline_s:
        return "DeadlineExceeded", f"it had not changed over within {world.deadline_s:.0f} s (spec.deadlineSeconds)"
    return None


# ---------------------------------------------------------------- begun


def _begun(world: MoveWorld) -> s.Step | None:
    """None: nothing has happened to the placement yet, and it may begin (again)."""
    vm = world.vm
    if vm is None or vm.uid != world.vm_uid:
        return s.Finish(Phase.FAILED, "VMReplaced", "the VM that was being moved was deleted")
    placement = vm.placement
    if placement is not None and placement.phase is Placed.MOVING:
        if placement.epoch != world.epoch or placement.target != world.target_node:
            return s.Finish(Phase.FAILED, "Overtaken", "another move of this VM is under way")
        return _under_way(world, placement)
    if placement is None:
        return s.Wait(Phase.SETTLING, "LookingForIt", "the placement was forgotten; the guest is being looked for")
    if placement.epoch == world.epoch and placement.node == world.source_node:
        return None if world.phase is Phase.PREPARING else _ended(world, "it was never begun")
    if placement.phase is Placed.COMMITTED and placement.node == world.target_node:
        return s.Finish(Phase.SUCCEEDED, "Moved", world.message if world.outcome == "Moved" else "")
    where = f"its placement is {placement.phase.value} {placement.node or ''}".strip()
    return _ended(world, f"neither host runs it: {where}" if placement.node != world.source_node else "")


def _ended(world: MoveWorld, message: str) -> s.Finish:
    """It did not arrive, for the reason that was written when it began to settle."""
    reason = world.outcome if world.outcome not in ("", "Moved") else "BrokeOff"
    phase = Phase.CANCELLED if reason in ("Cancelled", "Deleted") else Phase.FAILED
    said = "; ".join(part for part in (world.message, message) if part)
    return s.Finish(phase, reason, said or "the transfer broke off, the guest runs on where it was")


def _under_way(world: MoveWorld, placement: Placement) -> s.Step:
    job = world.job
    if job.ours or job.progress is not None:
        return _transfer(world)
    if not world.outcome:
        end = job.end
        if end is None:
            return s.Settle("BrokeOff", "no transfer is under way: both hosts are asked which of them runs it")
        if end.result is not None:
            return s.Settle("Moved", "")
        return s.Settle("HostRefused" if end.refused else "BrokeOff", end.message)
    return settle(world, placement)


def _transfer(world: MoveWorld) -> s.Step:
    """It is on the wire: watched, called off, or changed over early where the policy says so."""
    off = called_off(world)
    if off is not None and not world.job.asked:
        return s.CallOff(*off)
    progress = world.job.progress
    message = "called off: waiting for the source host to stop it" if off else ""
    if off is None and post_copy_is_due(world):
        return s.StartPostCopy()
    phase = Phase.SETTLING if off else Phase.RUNNING
    reason = "PostCopy" if progress is not None and progress.post_copy else "Transferring"
    return s.Wait(phase, off[0] if off else reason, message, WATCH_S)


def post_copy_is_due(world: MoveWorld) -> bool:
    """It is allowed, everything went over once, and what is written meanwhile does not fit into the downtime."""
    progress, policy = world.job.progress, world.post_copy
    if progress is None or progress.post_copy or not policy.allowed:
        return False
    slow = progress.expected_downtime_ms > policy.max_downtime_ms or progress.iteration > 2 * POST_COPY_AFTER
    return progress.iteration >= POST_COPY_AFTER and slow


# ---------------------------------------------------------------- not begun


def _refused(world: MoveWorld) -> s.Step | None:
    """What no waiting mends."""
    vm = world.vm
    if world.cancel:
        return s.Finish(Phase.CANCELLED, "Cancelled", "called off before it began")
    if vm is None:
        if world.age_s < GRACE_S:
            return s.Wait(Phase.PENDING, "VMNotFound", "there is no such VirtualMachine yet", GRACE_S - world.age_s)
        return s.Finish(Phase.REFUSED, "VMNotFound", "spec.vmRef: there is no such VirtualMachine")
    if world.vm_uid and vm.uid != world.vm_uid:
        return s.Finish(Phase.FAILED, "VMReplaced", "the VM that was to be moved was deleted")
    off = called_off(world)
    if off is not None and off[0] == "DeadlineExceeded":
        why = world.message or "it waited"
        return s.Finish(Phase.FAILED, *_with(off, why))
    if off is not None:
        return s.Finish(Phase.REFUSED, *off)
    return _not_running(world, vm)


def _with(off: tuple[str, str], why: str) -> tuple[str, str]:
    return off[0], f"{off[1]}: {why}"


def _not_running(world: MoveWorld, vm: Vm) -> s.Step | None:
    placement, source = vm.placement, world.source
    if placement is not None and placement.phase is Placed.MOVING:
        return s.Wait(Phase.PENDING, "AnotherMove", "another move of this VM is under way")
    if placement is None or placement.phase is not Placed.COMMITTED:
        return s.Finish(Phase.REFUSED, "NotRunning", "the VM is on no host: only a running guest is moved")
    if source is None or source.view is None:
        why = source.why if source is not None else "its host is unknown"
        return s.Wait(Phase.PENDING, "SourceSilent", f"the host of the VM cannot be asked: {why}")
    if not source.runs:
        if world.listed_since >= source.view.listed_at:
            return s.List(source.node)
        return s.Finish(Phase.REFUSED, "NotRunning", f"it does not run on {source.node}: only a running guest is moved")
    return None


def _pending(world: MoveWorld) -> s.Step:
    assert world.vm is not None
    assert world.source is not None
    if world.wished and world.wished == world.source.node:
        return s.Finish(Phase.REFUSED, "AlreadyThere", f"spec.targetNode: it runs on {world.wished} already")
    if world.other:
        return s.Wait(Phase.PENDING, "AnotherMove", f"after {world.other}: one move of a VM at a time")
    if world.chosen is None:
        return s.Wait(Phase.PENDING, "WaitingForTarget", "waiting for the scheduler to choose a target")
    target = world.wished or world.chosen
    if not target:
        return s.Wait(Phase.PENDING, "NoHostFits", world.chosen_why or "no other host fits now")
    if target == world.source.node:
        return s.Wait(Phase.PENDING, "WaitingForTarget", "the chosen target is its own host: a new one is being chosen")
    if world.turn:
        return s.Wait(Phase.PENDING, "WaitingForTurn", world.turn)
    return s.Begin(NodeName(target))


__all__ = ["PostCopy", "called_off", "decide", "post_copy_is_due"]
