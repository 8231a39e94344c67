"""Leases with a term in memory: what a Lease object (or etcd) holds, and one process's leadership on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from tests.sim.fakes.calls import Tracer

from lq_operator.core.result import Fenced, Transient
from lq_operator.ports import Clock, Grant

TTL_S = 15.0
RENEW_EVERY_S = 5.0
RETRY_S = 1.0


@dataclass
class Held:
    """One lease as it is written down."""

    holder: str
    term: int
    beat: int
    expires_s: float


@dataclass
class LeaseStore:
    """One counter for the installation, whatever is leased."""

    term: int = 0
    held: dict[str, Held] = field(default_factory=dict)
    up: bool = True

    def copy(self) -> LeaseStore:
        """As it is now."""
        return LeaseStore(self.term, {name: replace(held) for name, held in self.held.items()}, self.up)

    def become(self, other: LeaseStore) -> None:
        """Back to what it was: leases are forgotten, everybody who holds one is fenced at the next renewal."""
        self.term, self.held = other.term, other.copy().held


class FakeLease:
    """controllers.runtime.tenure.Lease for one process."""

    def __init__(self, store: LeaseStore, name: str, holder: str, clock: Clock, tracer: Tracer) -> None:
        self._store = store
        self._name = name
        self._holder = holder
        self._clock = clock
        self._tracer = tracer
        self.grant = Grant(name, holder, 0, 0, 0.0)
        self.stepping_down = asyncio.Event()
        self.above_term = 0
        self.awake = asyncio.Event()
        self.awake.set()

    async def acquire(self, above_term: int = 0) -> None:
        """Wait until it is free; the term is above every one that the store has given out and above `above_term`."""
        while True:
            taken = await self._tracer.run("lease", "acquire", self._name, True, lambda: self._try(above_term))
            if taken:
                return
            await self._clock.sleep(RETRY_S)

    async def _try(self, above_term: int) -> bool:
        self._answers()
        now_s = self._clock.mono_s()
        held = self._store.held.get(self._name)
        if held is not None and held.expires_s > now_s:
            return False
        self._store.term = max(self._store.term, above_term) + 1
        found = (held.term, held.beat) if held is not None else (0, 0)
        term, beat = self._store.term, found[1] + 1
        self._store.held[self._name] = Held(self._holder, term, beat, now_s + TTL_S)
        self.grant = Grant(self._name, self._holder, term, beat, now_s + TTL_S, found)
        return True

    def check(self) -> Grant:
        """Fenced when it is over by the clock."""
        if self.stepping_down.is_set():
            raise Fenced(f"lease {self._name}: stepping down")
        if self.grant.expires_mono_s <= self._clock.mono_s():
            raise Fenced(f"lease {self._name}, term {self.grant.term}: its time is over")
        return self.grant

    async def renew(self) -> Grant:
        """Prove that it is ours."""
        self.check()
        return await self.extend()

    async def extend(self) -> Grant:
        """The keeper's renewal."""
        return await self._tracer.run("lease", "renew", self._name, True, self._extend)

    async def _extend(self) -> Grant:
        self._answers()
        held, now_s = self._store.held.get(self._name), self._clock.mono_s()
        if held is None or (held.holder, held.term) != (self._holder, self.grant.term):
            raise Fenced(f"lease {self._name}, term {self.grant.term}: somebody else has it")
        if held.beat < self.grant.beat:
            raise Fenced(f"lease {self._name}, term {self.grant.term}: the store went back to beat {held.beat}")
        held.beat, held.expires_s = held.beat + 1, now_s + TTL_S
        self.grant = replace(self.grant, beat=held.beat, expires_mono_s=held.expires_s)
        return self.grant

    def step_down(self, above_term: int) -> None:
        """A host knows a term of at least ours."""
        self.above_term = max(self.above_term, above_term)
        self.stepping_down.set()

    def release(self) -> None:
        """Give it back."""
        held = self._store.held.get(self._name)
        if held is not None and (held.holder, held.term) == (self._holder, self.grant.term):
            held.expires_s = 0.0

    async def keep(self) -> None:
        """Renew for ever; ends by raising Fenced."""
        while True:
            await self._clock.sleep(RENEW_EVERY_S)
            await self.awake.wait()  # a test may let everything else of a late process go first
            try:
                await self.extend()
            except Transient:
                await self._clock.sleep(RETRY_S)
                if self.grant.expires_mono_s <= self._clock.mono_s():
                    raise Fenced(f"lease {self._name}: could not be renewed in time") from None

    def _answers(self) -> None:
        if not self._store.up:
            raise Transient("the store of the leases does not answer")
