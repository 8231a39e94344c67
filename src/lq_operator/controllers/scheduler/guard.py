"""Admission for failures at placement: may these hosts still fail once the VM is there? Remembers what it refused.

The refusals of the last decision go into its record, since a guard's evidence is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

from lq_operator.core.failover.admission import Admission
from lq_operator.core.failover.guard import FailoverGuard
from lq_operator.core.placement import PlacementEngine, Shape, VmKey

MOST_SETS = 64
"""Sets of hosts looked at for N+k with k > 1; 64 sets cost about as much as every single host of a middling cluster."""


def heaviest_sets(engine: PlacementEngine, size: int, limit: int = MOST_SETS) -> list[tuple[str, ...]]:
    """Sets of `size` hosts among those that carry most memory, as many as `limit` allows.

    Not all sets are looked at (200 hosts have 1.3 million triples): a yes for k > 1 is about the heaviest hosts.
    """
    state = engine.state
    used = {
        name: sum(occupant.shape.memory_mib for occupant in state.occupants.get(name, {}).values())
        for name in state.rows
    }
    order = sorted(used, key=lambda name: (-used[name], name))
    width = min(size, len(order))
    while width < len(order) and math.comb(width + 1, size) <= limit:
        width += 1
    return [tuple(sorted(chosen)) for chosen in combinations(order[:width], min(size, len(order)))]


@dataclass(slots=True)
class Guard:
    """`guard(vm, shape, host)`: '' = the VM may go there, else the sentence that refuses."""

    engine: PlacementEngine
    tolerated: int
    single: FailoverGuard
    admission: Admission
    refusals: dict[str, str] = field(default_factory=dict)
    _known_at: int = -1
    _can_fail: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, identity: VmKey, shape: Shape, host: str) -> str:
        """Judge one placement; what no placement has broken yet is all that can be broken."""
        said = self.single(identity, shape, host)
        if not said and self.tolerated > 1:
            said = self._several(identity, shape, host)
        if said:
            self.refusals[host] = said
        return said

    def _several(self, identity: VmKey, shape: Shape, host: str) -> str:
        if self._known_at != self.engine.state.events:
            sets = heaviest_sets(self.engine, self.tolerated)
            self._can_fail = [names for names in sets if self.admission.can_fail(names).ok]
            self._known_at = self.engine.state.events
        for names in self._can_fail:
            verdict = self.admission.can_fail_with(names, identity, shape, host)
            if not verdict.ok:
                return f"would leave no room for {self.tolerated} failures: {verdict.sentence}"
        return ""


def guard_of(engine: PlacementEngine, tolerated: int, protects: Callable[[VmKey, Shape], bool]) -> Guard:
    """A guard for N+`tolerated` over this engine; `protects` says which VMs are to be restarted."""
    return Guard(engine, tolerated, FailoverGuard(engine, protects), Admission(engine, protects))
