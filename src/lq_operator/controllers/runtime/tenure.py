"""One term of leadership as the controllers use it: its number, fresh epochs and takes, and the renewal before a write."""

from __future__ import annotations

from typing import Protocol

from lq_operator.core.failover.facts import Stamp
from lq_operator.core.model import Epoch
from lq_operator.ports import Clock, Grant


class Lease(Protocol):
    """What holds the leadership (adapters/coordination.Leadership; a fake in the simulator)."""

    @property
    def grant(self) -> Grant: ...
    def check(self) -> Grant: ...
    async def renew(self) -> Grant: ...
    def step_down(self, above_term: int) -> None: ...


class Tenure:
    """Counters live as long as the process holds the term, so nothing they give out is given out twice.

    `found`: (term, beat) that the lease showed when this term was acquired; a host that remembers more than that tells
    that the API server went back (protocol.md).
    """

    def __init__(self, lease: Lease, clock: Clock) -> None:
        self._lease = lease
        self._clock = clock
        self._epochs = 0
        self._takes = 0
        self.term = lease.grant.term
        self.found = lease.grant.found

    @property
    def beat(self) -> int:
        """Renewals of this term so far."""
        return self._lease.grant.beat

    def next_epoch(self) -> Epoch:
        """A new epoch for one start attempt."""
        self._epochs += 1
        return Epoch(self.term, self._epochs)

    def next_take(self) -> int:
        """A new number for one takeover of one host."""
        self._takes += 1
        return self._takes

    def stamp(self) -> Stamp:
        """A write id that never comes back, and the time for people."""
        return Stamp(self._clock.token(), self._clock.now_rfc3339())

    def check(self) -> None:
        """Fenced when the lease is over by the monotonic clock."""
        self._lease.check()

    async def renew(self) -> None:
        """Prove that the lease is still ours, before the first write that a commit allows. Fenced when it is not."""
        await self._lease.renew()

    def step_down(self, above_term: int) -> None:
        """A host knows a term of at least ours: begin again above it."""
        self._lease.step_down(above_term)
