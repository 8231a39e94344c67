"""Live moves between machines in memory: what two libvirtds and two QEMUs do from the call to the changeover.

Nobody who asked is needed for a move to go on: whoever loses the connection to the source finds it done, or not, later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.sim.fakes.machine import Domain, Machine

from lq_operator.core.model import DomainPlan, DomainState, MovePlan, MoveProgress, MoveResult
from lq_operator.core.result import Conflict, NotFound, Rejected, Transient, WorldError

if TYPE_CHECKING:
    from tests.sim.fakes.hosts import Datacenter

TICK_S = 0.5
PEER_KEEPALIVE_S = 30.0
"""How long one libvirtd waits for the other (qemu.conf: 5 s, five times)."""
DOWNTIME_MS = 40


class Phase(StrEnum):
    """How far a move is."""

    SENT = "sent"  # the source knows, the target does not
    GOING = "going"  # the target has a QEMU that waits
    POST_COPY = "post-copy"  # the guest runs on the target, its memory follows
    DONE = "done"
    BROKEN = "broken"


@dataclass
class Move:
    """One move. `seconds`: how long memory and disks take; `gone_s`: how much of that has passed."""

    plan: MovePlan
    source: str
    target: str
    boots: tuple[int, int]
    live: DomainPlan
    seconds: float
    gone_s: float = 0.0
    silent_s: float = 0.0
    phase: Phase = Phase.SENT
    problem: WorldError | None = None

    @property
    def over(self) -> bool:
        return self.phase in (Phase.DONE, Phase.BROKEN)

    @property
    def total_bytes(self) -> int:
        return self.live.memory_mib << 20

    def outcome(self) -> MoveResult:
        """What the source answers."""
        if self.problem is not None:
            raise self.problem
        return MoveResult(int(self.gone_s * 1000), DOWNTIME_MS, self.total_bytes)


class Moves:
    """All moves of a datacenter. A test sets `seconds`, or makes a source's libvirtd sit on what it was asked (`stalled`),
    or takes the way between two machines (`apart`), or loses a target's answer at the changeover (`last_word_lost`)."""

    def __init__(self, datacenter: Datacenter) -> None:
        self._datacenter = datacenter
        self.seconds = 4.0
        self.stalled: set[str] = set()
        self.apart: set[frozenset[str]] = set()
        self.last_word_lost: set[str] = set()
        self.all: list[Move] = []

    def adopt(self, other: Moves) -> None:
        """What is under way there goes on here, in the copies of its machines."""
        self.seconds, self.stalled, self.apart = other.seconds, set(other.stalled), set(other.apart)
        self.last_word_lost = set(other.last_word_lost)
        for move in other.all:
            if not move.over:
                self.all.append(replace(move))
                self._arm(self.all[-1])

    # ------------------------------------------------------------ what the source is asked

    def begin(self, source: str, plan: MovePlan) -> Move:
        """The call has reached the source."""
        machine = self._datacenter.machines[source]
        domain = machine.domains.get(plan.domain_name)
        if domain is None:
            raise NotFound(f"there is no domain {plan.domain_name} on {source}")
        if not domain.state.runs or domain.live is None:
            raise Conflict(f"domain {plan.domain_name} does not run")
        if self.of(source, plan.domain_name) is not None:
            raise Conflict(f"domain {plan.domain_name} is on its way already")
        target = plan.peer_uri.partition("://")[2].partition("/")[0].partition(":")[0]
        if target not in self._datacenter.machines:
            raise Transient(f"{target}: name does not resolve")
        if plan.arrive_paused and plan.post_copy:
            raise Rejected("a guest cannot arrive paused where post-copy is allowed", field="post_copy")
        if target == source:
            raise Rejected("a guest cannot be moved to the host it runs on")
        boots = (machine.boot, self._datacenter.machines[target].boot)
        move = Move(plan, source, target, boots, domain.live, self.seconds)
        self.all.append(move)
        self._step(move)
        return move

    def of(self, source: str, domain_name: str) -> Move | None:
        """The move of that domain that is under way from there."""
        for move in self.all:
            if move.source == source and move.plan.domain_name == domain_name and not move.over:
                return move
        return None

    def progress(self, source: str, domain_name: str) -> MoveProgress | None:
        if domain_name not in self._datacenter.machines[source].domains:
            raise NotFound(f"there is no domain {domain_name} on {source}")
        move = self.of(source, domain_name)
        if move is None:
            return None
        sent = int(move.total_bytes * min(1.0, move.gone_s / move.seconds)) if move.seconds else 0
        return MoveProgress(
            move.total_bytes,
            move.total_bytes - sent,
            sent,
            elapsed_ms=int(move.gone_s * 1000),
            iteration=1,
            post_copy=move.phase is Phase.POST_COPY,
        )

    def cancel(self, source: str, domain_name: str) -> None:
        move = self.of(source, domain_name)
        if move is None:
            return
        if move.phase is Phase.POST_COPY:
            raise Conflict(f"domain {domain_name} runs on {move.target} already: post-copy cannot be called off")
        self._break(move, Transient(f"the move of {domain_name} was called off"))

    def start_post_copy(self, source: str, domain_name: str) -> None:
        move = self.of(source, domain_name)
        if move is None or move.phase is not Phase.GOING or not move.plan.post_copy:
            raise Conflict(f"domain {domain_name}: no move that allows post-copy is under way")
        here, there = self._domain(move, move.source), self._domain(move, move.target)
        assert here is not None
        assert there is not None
        move.phase = Phase.POST_COPY
        here.holds_guest, there.holds_guest = False, True
        here.state, here.reason = DomainState.PAUSED, "postcopy"
        there.state, there.reason = DomainState.RUNNING, "postcopy"

    # ------------------------------------------------------------ what happens to machines meanwhile

    def daemon_ended(self, name: str) -> None:
        """One of the two libvirtds went away and came back: what had not changed over is given up by both.

        Post-copy goes on between the two QEMUs.
        """
        for move in self._touching(name):
            if move.phase is not Phase.POST_COPY:
                self._break(move, Transient(f"{move.plan.domain_name}: the connection between the hosts broke"))

    def power_lost(self, name: str) -> None:
        """The source takes the move with it; that of the target is noticed by the source's keepalive."""
        for move in self._touching(name):
            if move.source == name:
                self._break(move, Transient(f"{name} lost its power"))

    def _touching(self, name: str) -> list[Move]:
        return [move for move in self.all if not move.over and name in (move.source, move.target)]

    # ------------------------------------------------------------ time

    def _arm(self, move: Move) -> None:
        self._datacenter.later(TICK_S, lambda: self._tick(move))

    def _tick(self, move: Move) -> None:
        if move.over:
            return
        if move.phase in (Phase.GOING, Phase.POST_COPY) and self._reach(move):
            move.gone_s += TICK_S
        self._step(move)

    def _step(self, move: Move) -> None:
        """One look at where it stands; again in a tick, until it is over."""
        if not self._reach(move):
            move.silent_s += TICK_S
            if move.silent_s > PEER_KEEPALIVE_S:
                self._break(move, Transient(f"{move.plan.domain_name}: {move.target} does not answer {move.source}"))
        elif self._gone_meanwhile(move):
            self._break(move, Conflict(f"{move.plan.domain_name}: the guest ended on its way"))
        else:
            move.silent_s = 0.0
            self._advance(move)
        if not move.over:
            self._arm(move)

    def _reach(self, move: Move) -> bool:
        lines = self._datacenter.lines
        asleep = {"frozen", "off"} & {lines[move.source].value, lines[move.target].value}
        parted = frozenset((move.source, move.target)) in self.apart
        booted = move.boots != tuple(self._datacenter.machines[name].boot for name in (move.source, move.target))
        return not (asleep or parted or booted)

    def _gone_meanwhile(self, move: Move) -> bool:
        here = self._domain(move, move.source)
        there = move.phase is Phase.SENT or self._domain(move, move.target) is not None
        return here is None or here.live is not move.live or not there

    def _advance(self, move: Move) -> None:
        if move.phase is Phase.SENT:
            if move.source not in self.stalled:
                self._knock(move)
        elif move.gone_s >= move.seconds:
            self._change_over(move)

    def _knock(self, move: Move) -> None:
        """The target looks at everything that QEMU opens, the ticket first."""
        try:
            self._machine(move.target).accept(move.plan.running)
        except WorldError as problem:
            self._break(move, problem)
        else:
            move.phase = Phase.GOING

    def _change_over(self, move: Move) -> None:
        here, there = self._domain(move, move.source), self._domain(move, move.target)
        assert here is not None
        assert there is not None
        for disk in move.plan.running.disks:
            if disk.name in move.plan.copied_disks:
                self._copy(move, disk.name)
        paused = move.plan.arrive_paused or (here.state is DomainState.PAUSED and here.reason == "user")
        there.state = DomainState.PAUSED if paused else DomainState.RUNNING
        there.reason = "user" if paused else "migrated"
        there.plan, there.persistent, there.holds_guest = move.plan.kept, True, True
        if move.target in self.last_word_lost:
            self._resume_at_the_source(move, here, there)
            return
        move.phase = Phase.DONE
        self._machine(move.source).end(here.name, "migrated")
        self._machine(move.target).tell_resumed(there.name)
        self._datacenter.answered(move.source)

    def _resume_at_the_source(self, move: Move, here: Domain, there: Domain) -> None:
        """libvirt hears nothing from the target, so the guest goes on at the source; a shared image is locked by then."""
        move.phase = Phase.BROKEN
        move.problem = Transient(f"{move.plan.domain_name}: {move.target} did not say whether the guest has arrived")
        if here.state is DomainState.RUNNING:
            here.reason = "migration-canceled"
        shared = [disk for disk in move.live.disks if disk.name not in move.plan.copied_disks and not disk.read_only]
        if there.state is DomainState.PAUSED:
            there.holds_guest = False  # its vCPUs stand still until somebody resumes it
        elif shared:
            self._machine(move.target).end(there.name, "failed")
        self._datacenter.answered(move.source)

    def _copy(self, move: Move, disk_name: str) -> None:
        paths = [next(d.path for d in plan.disks if d.name == disk_name) for plan in (move.live, move.plan.running)]
        source, target = self._machine(move.source).file(paths[0]), self._machine(move.target).file(paths[1])
        if source is not None and target is not None:
            target.content, target.capacity = source.content, source.capacity

    def _break(self, move: Move, problem: WorldError) -> None:
        """The guest stays where it was; after post-copy began, nobody has all of it."""
        spent = move.phase
        move.phase, move.problem = Phase.BROKEN, problem
        here, there = self._domain(move, move.source), self._domain(move, move.target)
        if spent is Phase.POST_COPY:
            for half in (here, there):
                if half is not None:
                    half.state, half.reason = DomainState.PAUSED, "postcopy-failed"
        elif there is not None:
            self._machine(move.target).end(there.name, "failed")
        self._datacenter.answered(move.source)

    def _machine(self, name: str) -> Machine:
        return self._datacenter.machines[name]

    def _domain(self, move: Move, machine: str) -> Domain | None:
        """This move's half on that machine: the run that leaves, or the QEMU that waits."""
        domain = self._machine(machine).domains.get(move.plan.domain_name)
        mine = move.live if machine == move.source else move.plan.running
        return domain if domain is not None and domain.live is mine else None
