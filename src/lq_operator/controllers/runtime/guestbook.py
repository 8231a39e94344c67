"""What guest agents said last, per VM and run. Memory only: a cache between the controller that asks and the one that reports."""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.core.model import Epoch, GuestFacts, Identity


@dataclass(frozen=True, slots=True)
class GuestSaid:
    """`facts` None: the agent was asked and is silent."""

    epoch: Epoch | None
    facts: GuestFacts | None


class GuestBook:
    """Identity -> what its agent said."""

    def __init__(self) -> None:
        self._said: dict[Identity, GuestSaid] = {}

    def get(self, identity: Identity, epoch: Epoch | None) -> GuestSaid | None:
        """What was said in this run; None when it was not asked yet."""
        said = self._said.get(identity)
        return said if said is not None and said.epoch == epoch else None

    def put(self, identity: Identity, said: GuestSaid) -> bool:
        """Keep it; True when it is news."""
        if self._said.get(identity) == said:
            return False
        self._said[identity] = said
        return True

    def forget(self, identity: Identity) -> None:
        """It does not run any more."""
        self._said.pop(identity, None)
