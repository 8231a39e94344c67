"""What this process remembers of one VM between passes. Losing it costs a repeated question, never safety."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lq_operator.core.failover.facts import Memory
from lq_operator.core.model import Epoch, HardwareAbi

ASK_AGAIN_S = 15.0
"""A guest that was still booting has not heard the button: it is asked again that often until its deadline."""


@dataclass(slots=True)
class Tried:
    """A change of the running guest that was tried: not again before `until_s` (monotonic). `error`: why it failed,
    '' where the guest was asked and may take its time. `wish`: what was tried; another wish does not wait for it."""

    until_s: float
    count: int = 1
    error: str = ""
    wish: str = ""


@dataclass(slots=True)
class VmMemory:
    """`unused`: the epoch that this process committed and under which no start was attempted. `asked`: how the guest
    was asked to stop since `asked_epoch`. `facts_at_s`: when the agent last answered (monotonic). `remedied`: what a
    hanging guest got, until status says so (lost in a crash: one try more)."""

    protocol: Memory = field(default_factory=Memory)
    unused: Epoch | None = None
    asked: tuple[str, ...] = ()
    asked_epoch: Epoch | None = None
    asked_at_s: float = -1e9
    facts_at_s: float = -1e9
    agent: bool = False
    start_failures: int = 0
    start_error: str = ""
    start_reason: str = "StartFailed"
    retry_at_s: float = 0.0
    saved_on: str = ""
    first_seen_s: float | None = None
    started_hash: str = ""
    hardware_kept: tuple[str, ...] = ()
    hardware_due: HardwareAbi | None = None
    resets_begun: set[str] = field(default_factory=set)
    resets_done: set[str] = field(default_factory=set)
    remedied: str = ""
    hot: dict[str, Tried] = field(default_factory=dict)

    def hot_asked(self, path: str, until_s: float, wish: str = "") -> None:
        """The guest was asked for this change of its spec."""
        self.hot[path] = Tried(until_s, wish=wish)

    def hot_failed(self, path: str, error: str, now_s: float, backoff_s: Sequence[float], wish: str = "") -> None:
        """It was refused; the wait grows."""
        before = self.hot.get(path)
        count = before.count + 1 if before is not None and before.error and before.wish == wish else 1
        self.hot[path] = Tried(now_s + backoff_s[min(count, len(backoff_s)) - 1], count, error, wish)

    def asked_of(self, epoch: Epoch | None, now_s: float) -> tuple[str, ...]:
        """How this run was asked to stop lately; nothing once that is so long ago that it is to be asked anew."""
        recently = now_s - self.asked_at_s < ASK_AGAIN_S
        return self.asked if self.asked_epoch == epoch and recently else ()

    def ask(self, epoch: Epoch | None, mode: str, now_s: float) -> None:
        """It is being asked."""
        self.asked = (*self.asked_of(epoch, now_s), mode)
        self.asked_epoch, self.asked_at_s = epoch, now_s


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
