"""Where a VM may run and where it runs best: a pure engine over host facts, with the reason in numbers.

Entry point: `PlacementEngine`. No IO, clock, randomness or logging; the same inputs give the same bytes.
"""

from lq_operator.core.placement.engine import PlacementEngine
from lq_operator.core.placement.types import (
    Change,
    Decision,
    HostFacts,
    HostLoad,
    NumaCellFacts,
    Placed,
    PlacementRequest,
    PoolReach,
    Reservation,
    Shape,
    SpreadTerm,
    Verdict,
    VmKey,
    VmTerm,
    WeightedNodeTerm,
    WeightedVmTerm,
)

__all__ = [
    "Change",
    "Decision",
    "HostFacts",
    "HostLoad",
    "NumaCellFacts",
    "Placed",
    "PlacementEngine",
    "PlacementRequest",
    "PoolReach",
    "Reservation",
    "Shape",
    "SpreadTerm",
    "Verdict",
    "VmKey",
    "VmTerm",
    "WeightedNodeTerm",
    "WeightedVmTerm",
]
