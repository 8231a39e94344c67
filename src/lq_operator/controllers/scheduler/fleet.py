"""One cluster's engine, with a journal of what it is told and marks that say whether a waiting VM may fit now.

Every event goes to the engine through here, or the decision records could not be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lq_operator.api.cluster import SchedulingPolicy
from lq_operator.controllers.scheduler.guard import Guard, guard_of
from lq_operator.controllers.scheduler.records import Journal
from lq_operator.core.placement import HostFacts, Placed, PlacementEngine, Reservation, Shape, Verdict, VmKey

Mark = tuple[int, int]


@dataclass(slots=True)
class Fleet:
    """`grown` counts what may make room (host facts, a VM that left); `moved` counts every VM that came or left."""

    cluster: str
    engine: PlacementEngine
    journal: Journal
    grown: int = 0
    moved: int = 0
    policy: SchedulingPolicy = field(default_factory=SchedulingPolicy)
    guard: Guard | None = None
    binding: set[VmKey] = field(default_factory=set)
    earmark: VmKey | None = None
    unprotected: set[VmKey] = field(default_factory=set)  # availability.restartOnHostFailure: false

    @classmethod
    def of(cls, cluster: str, strategy: str, seed: int) -> Fleet:
        """An engine that knows nothing yet."""
        return cls(cluster, PlacementEngine(strategy=strategy, seed=seed), Journal(strategy, seed))

    def mark(self, shape: Shape) -> Mark:
        """Changes when a VM of this shape that did not fit might fit now. Others that were placed can help only those
        who want to be near them, or whose spreading counts them."""
        near = shape.affinity or shape.spread
        return self.grown, self.moved if near else 0

    # ------------------------------------------------------------ events

    def set_host(self, facts: HostFacts) -> None:
        """Nothing happens when it says what is known."""
        if self.facts(facts.name) == facts:
            return
        self.engine.set_host(facts)
        self.journal.host(facts.name, facts)
        self.grown += 1

    def remove_host(self, name: str) -> None:
        """It left the cluster."""
        if name in self.engine.state.rows:
            self.engine.remove_host(name)
            self.journal.host(name, None)
            self.grown += 1

    def facts(self, name: str) -> HostFacts | None:
        """What the engine knows of a host."""
        row = self.engine.state.rows.get(name)
        entry = None if row is None else self.engine.state.row[row]
        return None if entry is None else entry.facts

    def set_vm(self, key: VmKey, host: str, shape: Shape, priority: int) -> None:
        """It holds room there; ends its earmark and its reservation there."""
        before = self.engine.state.placed.get(key)
        after = Placed(key, host, shape, priority=priority)
        if before is not None and (before.host, before.shape, before.priority) == (host, shape, priority):
            return
        held = self.engine.state.reserved.get(key)
        if held is not None and held.host == host and held.shape == shape:
            after = Placed(key, host, shape, held.numa_cells, priority)
        if self.earmark == key:
            self.drop_earmark()
        self.engine.set_vm(after)
        self.journal.vm(key, after)
        self.journal.reservation(key, self.engine.state.reserved.get(key))
        self.moved += 1
        if before is not None:  # it left one host, or shrank
            self.grown += 1

    def remove_vm(self, key: VmKey) -> None:
        """It holds no room any more."""
        if key in self.engine.state.placed:
            self.engine.remove_vm(key)
            self.journal.vm(key, None)
            self.grown += 1
            self.moved += 1

    def set_target(self, key: VmKey, host: str, shape: Shape | None) -> None:
        """The other side of a move, '' when there is none; a bind or an earmark under way is left alone."""
        held = self.engine.state.reserved.get(key)
        if key in self.binding or key == self.earmark:
            return
        if host and shape is not None:
            if held is None or (held.host, held.shape) != (host, shape):
                self.hold(Reservation(key, host, shape, (), 0))
        elif held is not None:
            self.release(key)
            self.grown += 1

    def reserve(self, key: VmKey, host: str, shape: Shape) -> Verdict | None:
        """Room for a bind under way; a Verdict when it does not fit (any more)."""
        answer = self.engine.reserve(key, host, shape)
        self.journal.reservation(key, self.engine.state.reserved.get(key))
        return answer if isinstance(answer, Verdict) else None

    def hold(self, reservation: Reservation) -> None:
        """Room that is held whether it is there or not."""
        held = self.engine.hold(reservation)
        self.journal.reservation(reservation.identity, held)

    def release(self, key: VmKey) -> None:
        """Give it back."""
        self.engine.release(key)
        self.journal.reservation(key, None)

    def drop_earmark(self) -> None:
        """Nobody is kept room for any more."""
        if self.earmark is not None:
            self.release(self.earmark)
            self.earmark = None

    # ------------------------------------------------------------ admission

    def set_admission(self, policy: SchedulingPolicy) -> None:
        """Strict: the engine asks the guard before it chooses. Warn: the binder asks, and tells. Ignore: nobody asks."""
        if policy != self.policy:
            self.policy = policy
            self._renew_guard()

    def set_protected(self, key: VmKey, protected: bool) -> None:
        """Whether it is to be restarted when its host fails."""
        if protected == (key not in self.unprotected):
            return
        (self.unprotected.discard if protected else self.unprotected.add)(key)
        self._renew_guard()

    def protects(self, key: VmKey, _shape: Shape) -> bool:
        """For Admission."""
        return key not in self.unprotected

    def _renew_guard(self) -> None:
        wanted = self.policy.admission != "Ignore" and self.policy.host_failures_tolerated > 0
        self.guard = guard_of(self.engine, self.policy.host_failures_tolerated, self.protects) if wanted else None
        self.engine.guard = self.guard if self.policy.admission == "Strict" else None
        self.grown += 1
