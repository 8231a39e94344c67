"""What both backends share: the life of a grant, judged by the monotonic clock of whoever judges.

Owns the timing, the waiting in `acquire`, one renewal at a time per lease, and the refusal of an expired or lost
grant without asking anybody. A backend adds four short exchanges with its store.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from lq_operator.core.result import Conflict, Fenced, OutcomeUnknown, Rejected, Transient
from lq_operator.ports import Grant
from lq_operator.telemetry.logging import get_logger

T = TypeVar("T")

_log = get_logger("lq.coordination")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?")
_RESERVED = "terms"
_QUICK_RETRIES = 5


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a lease lives. `ttl_s` is counted by every observer's own monotonic clock; 15 s is kubelet's habit.

    The holder stops acting a third earlier than anybody may take over (client-go's lease_duration 15 s and
    renew_deadline 10 s): that margin covers clocks that run at different speeds and a write already under way.
    """

    ttl_s: float = 15.0

    def __post_init__(self) -> None:
        if self.ttl_s < 1:
            raise ValueError(f"a lease of {self.ttl_s} s is shorter than its renewals; use at least 1 s")

    @property
    def valid_s(self) -> float:
        """How long a grant may be acted on, from before the call that renewed it was sent."""
        return self.ttl_s * 2 / 3

    @property
    def renew_every_s(self) -> float:
        """Renewal rhythm: one may fail whole and the next still comes before the grant ends."""
        return self.ttl_s / 3

    @property
    def call_timeout_s(self) -> float:
        """Deadline of one call to the store, shortened further by what is left of a grant."""
        return self.ttl_s / 5

    @property
    def poll_s(self) -> float:
        """How often somebody who waits looks; jitter of a quarter comes on top."""
        return self.ttl_s / 8


@dataclass(frozen=True, slots=True)
class Record:
    """A lease as the store shows it. An empty `holder` is a released lease."""

    holder: str
    term: int
    beat: int

    def is_of(self, grant: Grant) -> bool:
        return self.holder == grant.holder and self.term == grant.term


@dataclass(slots=True)
class _Renewing:
    """The state of one lease that this process holds."""

    latest: Grant
    lock: asyncio.Lock
    sent_mono_s: float
    error: Exception | None = None


class LeaseCoordination(ABC):
    """Coordination (see ports) over some store. One event loop; several leases; one holder identity per instance.

    `process_name` is the pod's name; a random part is added, so that a process started again under the same name is
    never taken for its predecessor. `on_leader(name, holder)` hears who holds a lease, also while we wait for it.
    """

    def __init__(
        self,
        process_name: str,
        timing: Timing | None = None,
        *,
        on_leader: Callable[[str, str], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = f"{process_name}_{secrets.token_hex(8)}"
        self.timing = timing if timing is not None else Timing()
        self._on_leader = on_leader
        self._mono_s = monotonic
        self._held: dict[tuple[str, int], _Renewing] = {}
        self._over: set[tuple[str, int]] = set()
        self._pending: dict[str, Grant] = {}

    # -- the port --------------------------------------------------------------------------------------------------

    async def acquire(self, name: str, above_term: int = 0) -> Grant:
        """Wait until `name` is ours, under a term above `above_term` and above every term the store has given out.

        Waits through outages of the store. Raises Rejected when the store refuses us for good (permissions).
        """
        if not _NAME.fullmatch(name) or name == _RESERVED:
            raise ValueError(f"lease name {name!r} must be a DNS label of at most 50 characters, not {_RESERVED!r}")
        trouble: str | None = None
        conflicts = 0
        while True:
            try:
                grant = await self._try_acquire(name, above_term)
                trouble, conflicts = None, 0
            except (Conflict, Transient, OutcomeUnknown) as error:
                conflicts = conflicts + 1 if isinstance(error, Conflict) else 0
                if 0 < conflicts <= _QUICK_RETRIES:  # somebody moved between our read and our write: look again
                    await asyncio.sleep(random.uniform(0, self.timing.poll_s / 4))  # noqa: S311 - jitter
                    continue
                if str(error) != trouble:
                    trouble = str(error)
                    _log.warning("lease cannot be acquired yet", lease=name, why=trouble)
                grant = None
            if grant is not None:
                self._remember(grant, grant.expires_mono_s - self.timing.valid_s)
                self._tell(name, grant.holder)
                return grant
            await asyncio.sleep(self.timing.poll_s * random.uniform(1, 1.25))  # noqa: S311 - jitter

    async def renew(self, grant: Grant) -> Grant:
        """Count the beat up and get a later deadline; proof that the lease was still ours after this call began.

        Any grant of the same lease and term will do, however old its beat. Calls that overlap share one exchange.
        Raises Fenced once the lease is lost or its time is over, Transient while that is not known.
        """
        asked_mono_s = self._mono_s()
        key = (grant.name, grant.term)
        held = self._held.get(key)
        if key in self._over or held is None or grant.holder != self.identity:
            raise Fenced(_lost(grant, "this process does not hold it (any more)"))
        async with held.lock:
            if held.sent_mono_s > asked_mono_s:  # sent after we asked: its answer answers us too
                if held.error is not None:
                    raise held.error
                return held.latest
            if key in self._over:
                raise Fenced(_lost(grant, "it was released or lost meanwhile"))
            held.sent_mono_s, held.error = self._mono_s(), None
            try:
                held.latest = await self._renew_once(held.latest, held.sent_mono_s)
            except (Conflict, Fenced, Rejected, OutcomeUnknown, Transient) as error:
                held.error = error
                if isinstance(error, Fenced):
                    self._end(key)
                raise
            return held.latest

    async def release(self, grant: Grant) -> None:
        """Give the lease up so that the next holder need not wait; one that is no longer ours is left alone.

        The grant is void at once, whatever the store says. Raises Transient when the store could not be told: the
        lease then runs out by itself.
        """
        held = self._held.get((grant.name, grant.term))
        self._end((grant.name, grant.term))
        latest = held.latest if held is not None else grant
        if latest.holder == self.identity:
            await self._bounded(self._write_release(latest), self.timing.call_timeout_s, "releasing", grant.name)

    async def highest_term(self) -> tuple[int, int]:
        """(term, beat) of the highest term the store knows; (0, 0) when it knows none."""
        return await self._bounded(self._read_highest(), self.timing.call_timeout_s, "reading", "all leases")

    # -- what a backend adds ---------------------------------------------------------------------------------------

    @abstractmethod
    async def _try_acquire(self, name: str, above_term: int) -> Grant | None:
        """One look, and the taking when it may be taken. None: somebody holds it. Conflict: look again."""

    @abstractmethod
    async def _write_renewal(self, grant: Grant) -> Record | None:
        """Count up from exactly `grant` and extend. None: done. A Record: refused, and this is what is there.

        Raises Fenced when nothing is there.
        """

    @abstractmethod
    async def _write_release(self, grant: Grant) -> None:
        """Release if it is still of this holder and term; otherwise nothing."""

    @abstractmethod
    async def _read_highest(self) -> tuple[int, int]: ...

    # -- for the backends ------------------------------------------------------------------------------------------

    async def _call(self, exchange: Awaitable[T], doing: str, name: str) -> T:
        return await self._bounded(exchange, self.timing.call_timeout_s, doing, name)

    async def _bounded(self, exchange: Awaitable[T], timeout_s: float, doing: str, name: str) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await exchange
        except TimeoutError as error:
            raise Transient(f"{doing} lease {name!r}: no answer within {timeout_s:.1f} s") from error

    def _new_grant(self, name: str, term: int, found: tuple[int, int], sent_mono_s: float) -> Grant:
        """The beat goes on across holders, so that one lease never shows the same one twice."""
        return Grant(name, self.identity, term, found[1] + 1, sent_mono_s + self.timing.valid_s, found)

    def _tell(self, name: str, holder: str) -> None:
        if self._on_leader is not None and holder:
            self._on_leader(name, holder)

    async def _adopt(self, name: str, record: Record) -> Grant | None:
        """Our own acquiring write, whose answer was lost, seen in the store: ours if it is still young enough."""
        pending = self._pending.get(name)
        if pending is None or not record.is_of(pending) or (name, record.term) in self._over:
            return None
        if self._mono_s() >= pending.expires_mono_s:
            return None
        self._remember(replace(pending, beat=record.beat), pending.expires_mono_s - self.timing.valid_s)
        self._pending[name] = pending  # should this renewal get no answer either
        try:
            return await self.renew(pending)
        except Fenced:
            return None

    # -- inside ----------------------------------------------------------------------------------------------------

    def _remember(self, grant: Grant, sent_mono_s: float) -> None:
        self._pending.pop(grant.name, None)
        for key in [key for key in self._held if key[0] == grant.name and key[1] != grant.term]:
            self._end(key)
        if (grant.name, grant.term) not in self._held:
            self._held[grant.name, grant.term] = _Renewing(grant, asyncio.Lock(), sent_mono_s)

    def _end(self, key: tuple[str, int]) -> None:
        self._held.pop(key, None)
        self._over.add(key)

    async def _renew_once(self, latest: Grant, sent_mono_s: float) -> Grant:
        remaining_s = latest.expires_mono_s - sent_mono_s
        if remaining_s <= 0:
            raise Fenced(_lost(latest, f"its time was over {-remaining_s:.1f} s before this renewal"))
        timeout_s = min(self.timing.call_timeout_s, remaining_s)
        beat = await self._bounded(self._renew_from(latest), timeout_s, "renewing", latest.name)
        renewed = replace(latest, beat=beat, expires_mono_s=sent_mono_s + self.timing.valid_s)
        if self._mono_s() >= renewed.expires_mono_s:
            raise Fenced(_lost(latest, "the process was paused during its renewal"))
        return renewed

    async def _renew_from(self, grant: Grant) -> int:
        for _ in range(3):
            found = await self._write_renewal(grant)
            if found is None:
                return grant.beat + 1
            if not found.is_of(grant):
                raise Fenced(_lost(grant, f"it is held by {found.holder or 'nobody'} under term {found.term}"))
            if found.beat < grant.beat:
                raise Fenced(_lost(grant, f"the store went back to beat {found.beat}; it was restored or rolled back"))
            # Higher: an earlier renewal of ours whose answer was lost. Only this process writes under its term.
            grant = replace(grant, beat=found.beat)
        raise Transient(f"renewing lease {grant.name!r}: the store refused three times without a visible reason")


def _lost(grant: Grant, why: str) -> str:
    return f"lease {grant.name!r}, term {grant.term}, beat {grant.beat}: {why}; stop acting, the process must exit"
