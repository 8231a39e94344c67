"""What this process remembers of one VM between passes. Losing it costs a repeated question, never safety."""

from __future__ import annotations

from dataclasses import dataclass, field

from lq_operator.core.failover.facts import Memory
from lq_operator.core.model import Epoch


@dataclass(slots=True)
class VmMemory:
    """`unused`: the epoch that this process committed and under which no start was attempted. `asked`: how the guest
    was asked to stop since `asked_epoch`. `facts_at_s`: when the agent last answered (monotonic)."""

    protocol: Memory = field(default_factory=Memory)
    unused: Epoch | None = None
    asked: tuple[str, ...] = ()
    asked_epoch: Epoch | None = None
    facts_at_s: float = -1e9
    agent: bool = False
    start_failures: int = 0
    start_error: str = ""
    start_reason: str = "StartFailed"
    retry_at_s: float = 0.0
    saved_on: str = ""
    first_seen_s: float | None = None
    started_hash: str = ""
    resets_begun: set[str] = field(default_factory=set)
    resets_done: set[str] = field(default_factory=set)


class Memories:
    """One per object uid: a new incarnation begins with none."""

    def __init__(self) -> None:
        self._by_uid: dict[str, VmMemory] = {}

    def of(self, uid: str) -> VmMemory:
        """The memory of this incarnation."""
        return self._by_uid.setdefault(uid, VmMemory())

    def forget(self, uid: str) -> None:
        """The object is gone."""
        self._by_uid.pop(uid, None)
