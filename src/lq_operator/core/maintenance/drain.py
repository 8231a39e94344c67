"""Emptying a host: which VMs are sent away now, in which order, and which stay, each with the way out. Pure.

Nothing is remembered but the VirtualMachineMigration objects themselves: how often a VM was tried is how many of them
did not succeed. So the operator may die at any line, and a drain that is called off leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.core.maintenance.world import (
    Blocker,
    Drain,
    DrainPhase,
    DrainWorld,
    DropMove,
    Move,
    NewMove,
    Resident,
    Why,
)

BACKOFF_S = (15.0, 60.0, 300.0, 600.0)
"""Waits after the 1st, 2nd ... attempt in a row that did not succeed; the last one from then on, for ever: what keeps a
VM here may pass (room, a network), and it is named as a blocker meanwhile."""
NAMED_AFTER = 3
"""Attempts that did not succeed until a VM counts as one that cannot be moved; a refusal by pre-flight is named at once."""
LOOK_S = 15.0
"""How often to look again while the host is being emptied: what matters is watched, this is for what is not."""

_DEVICES = ("Device", "Tpm")
_DISKS = ("Disk", "Pool")
_LEAVING_BY_ITSELF = ("Starting", "Stopping", "Stopped", "Crashed")
"""A guest that ends on a host in maintenance is started elsewhere; one that starts is moved once it runs."""


def plan_drain(world: DrainWorld) -> Drain:
    """What to do about this host now."""
    if not world.wanted:
        return Drain(DrainPhase.OFF, drop=_everything(world))
    fates = [(resident, _fate(world, resident)) for resident in sorted(world.residents, key=_order)]
    free = world.per_host - sum(fate.under_way for _, fate in fates)
    create = tuple(_new(world.node, resident) for resident, fate in fates if fate.may_go)[: max(free, 0)]
    remaining = len(world.residents) + len(world.orphans) + len(world.misplaced)
    blockers = [fate.blocker for _, fate in fates if fate.blocker is not None]
    blockers += [_orphan(namespace, name) for namespace, name in world.orphans]
    blockers += [_misplaced(namespace, name) for namespace, name in world.misplaced]
    if not remaining:
        phase = DrainPhase.IN_MAINTENANCE
    elif any(fate.pending for _, fate in fates):
        phase = DrainPhase.DRAINING
    else:
        phase = DrainPhase.BLOCKED
    return Drain(
        phase,
        drop=tuple(drop for _, fate in fates for drop in fate.drop) + _strays(world),
        create=create,
        moving=sum(fate.under_way for _, fate in fates) + len(create),
        remaining=remaining,
        blockers=tuple(sorted(blockers, key=lambda b: (b.namespace, b.name))),
        again_s=min((fate.again_s for _, fate in fates if fate.again_s is not None), default=LOOK_S),
    )


def _order(resident: Resident) -> tuple[int, int, str, str]:
    """Priority first: it gets the room while there is any. Then the largest: what needs a large hole must find it before
    small ones have filled it (first fit, decreasing), and whoever is last to leave is quick."""
    return (-resident.priority, -resident.memory_mib, resident.namespace, resident.name)


@dataclass(frozen=True, slots=True)
class _Fate:
    """`pending`: it passes by itself. `under_way`: it takes one of the places for moves. `may_go`: a move is to be made."""

    pending: bool = False
    under_way: bool = False
    may_go: bool = False
    blocker: Blocker | None = None
    drop: tuple[DropMove, ...] = ()
    again_s: float | None = None


def _fate(world: DrainWorld, resident: Resident) -> _Fate:
    mine = [move for move in resident.moves if move.mine]
    running = [move for move in resident.moves if move.ended_s is None]
    if running:
        return _under_way(resident, running)
    if resident.deleting or not resident.here or not resident.committed or resident.state in _LEAVING_BY_ITSELF:
        return _Fate(pending=True)
    if world.unseen:
        return _as_before(resident)
    if world.silent:
        message = f"{world.node} does not answer: {world.silent}. It is moved when it answers; {_OTHERWISE}"
        return _stays(resident, Why.UNKNOWN, message)
    if resident.state in ("Paused", "Suspended"):
        return _stays(resident, Why.POWER, "it is paused: Resume it, then it is moved; or Stop it")
    if resident.state != "Running" and not resident.stalled:
        return _as_before(resident)
    if resident.state != "Running":
        return _stays(resident, Why.UNKNOWN, resident.said or f"it is {resident.state}")
    if resident.pinned:
        return _stays(resident, Why.RULE, f"{resident.pinned}. Label another host, change the rule, or Stop it")
    return _next_attempt(resident, mine)


def _as_before(resident: Resident) -> _Fate:
    """Nothing is known yet that could change what was said: an operator that restarts takes no name back."""
    blocker = _blocker(resident, *resident.named) if resident.named is not None else None
    return _Fate(pending=blocker is None, blocker=blocker)


_OTHERWISE = "if you have seen that it is off, a HostAttestation says so"


def _under_way(resident: Resident, running: list[Move]) -> _Fate:
    """One move of a VM at a time; of several of mine (two processes made one each) the oldest stays."""
    mine = [move for move in running if move.mine and not move.deleting]
    drop = tuple(DropMove(resident.namespace, move.name, move.uid) for move in mine[1:])
    first = mine[0] if mine else running[0]
    if first.begun or not first.no_room:
        return _Fate(pending=True, under_way=True, drop=drop)
    blocker = Blocker(resident.namespace, resident.name, Why.NO_ROOM, f"{first.no_room}. It waits for room; or Stop it")
    return _Fate(blocker=blocker, drop=drop)


def _next_attempt(resident: Resident, mine: list[Move]) -> _Fate:
    failed = _failed_in_a_row(mine)
    if not failed:
        return _Fate(pending=True, may_go=True)
    last = failed[-1]
    wait_s = BACKOFF_S[min(len(failed), len(BACKOFF_S)) - 1]
    left_s = wait_s - (last.ended_s or 0.0)
    named = last.refused or len(failed) >= NAMED_AFTER
    blocker = _unmoved(resident, last, len(failed), wait_s) if named else None
    return _Fate(pending=not named, may_go=left_s <= 0, blocker=blocker, again_s=max(left_s, 0.0))


def _failed_in_a_row(mine: list[Move]) -> list[Move]:
    """Since the last one that succeeded."""
    last_good = max((n for n, move in enumerate(mine) if move.succeeded), default=-1)
    return mine[last_good + 1 :]


def _unmoved(resident: Resident, last: Move, attempts: int, wait_s: float) -> Blocker:
    said = "; ".join(sentence for _, sentence in last.obstacles) or last.message or "no reason was given"
    kinds = {what for what, _ in last.obstacles}
    tried = f"tried {attempts} time{'s' * (attempts != 1)}, at least every {wait_s:.0f} s"
    if last.refused and kinds & {*_DEVICES}:
        return _blocker(resident, Why.DEVICE, f"{said}. Take the device out, or Stop it")
    if last.refused and kinds and kinds <= {*_DISKS}:
        return _blocker(
            resident, Why.LOCAL_DISK, f"{said}. Make room for its disks on another host, or Stop it ({tried})"
        )
    if last.refused:
        return _blocker(resident, Why.REFUSED, f"{said}. Mend that, or Stop it ({tried})")
    return _blocker(resident, Why.FAILED, f"{last.name}: {said} ({tried})")


def _blocker(resident: Resident, why: Why, message: str) -> Blocker:
    return Blocker(resident.namespace, resident.name, why, message)


def _stays(resident: Resident, why: Why, message: str) -> _Fate:
    return _Fate(blocker=_blocker(resident, why, message))


def _orphan(namespace: str, name: str) -> Blocker:
    message = "its domain runs here and there is no VirtualMachine: apply its manifest again, or stop it with virsh"
    return Blocker(namespace, name, Why.UNKNOWN, message)


def _misplaced(namespace: str, name: str) -> Blocker:
    message = "its domain runs here while its placement names another host or none: see status.splitBrains"
    return Blocker(namespace, name, Why.UNKNOWN, message)


# ---------------------------------------------------------------- objects


def _new(node: str, resident: Resident) -> NewMove:
    """A name that was never used by a move that still exists: whoever creates it second has a conflict."""
    number = 1
    while (name := f"{node}-{resident.name}-{number}") in resident.taken:
        number += 1
    return NewMove(resident.namespace, resident.name, name)


def _strays(world: DrainWorld) -> tuple[DropMove, ...]:
    """Not begun, and the VM has left in another way: it would be moved once more from where it is now."""
    return tuple(
        DropMove(stray.namespace, stray.move.name, stray.move.uid)
        for stray in world.strays
        if stray.move.ended_s is None and not stray.move.begun and not stray.move.deleting
    )


def _everything(world: DrainWorld) -> tuple[DropMove, ...]:
    """Back to service: unfinished ones are called off, failed ones are not counted again; those done stay, with their
    VMs where they are."""
    moves = [(r.namespace, m) for r in world.residents for m in r.moves if m.mine]
    moves += [(stray.namespace, stray.move) for stray in world.strays]
    return tuple(DropMove(ns, m.name, m.uid) for ns, m in moves if not m.succeeded and not m.deleting)
