"""What guest agents said last, per VM and run. Memory only: a cache between the controller that asks and the one that reports."""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.core.model import AgentState, Epoch, GuestFacts, Identity
from lq_operator.ports import Host


@dataclass(frozen=True, slots=True)
class GuestSaid:
    """`facts` None: the agent was asked and is silent."""

    epoch: Epoch | None
    facts: GuestFacts | None


@dataclass(frozen=True, slots=True)
class Heard:
    """How an agent takes its questions, on one connection to one run. `silent_since_s`: first of an unbroken row of
    silences (monotonic), None where the last question was answered or proves nothing."""

    epoch: Epoch | None
    host: Host
    answers: bool
    silent_since_s: float | None


class GuestBook:
    """Identity -> what its agent said, and how it takes questions."""

    def __init__(self) -> None:
        self._said: dict[Identity, GuestSaid] = {}
        self._heard: dict[Identity, Heard] = {}

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

    def listen(
        self, identity: Identity, epoch: Epoch | None, host: Host, state: AgentState | None, now_s: float
    ) -> bool:
        """One question to the agent, and what became of it (None: the host could not tell). True when that is news.

        Anything but a silence ends a row of silences; so does another run or another connection.
        """
        before = self._heard.get(identity)
        since_s = now_s if state is AgentState.SILENT else None
        if since_s is not None and before is not None and before.epoch == epoch and before.host is host:
            since_s = since_s if before.silent_since_s is None else before.silent_since_s
        now = Heard(epoch, host, state is AgentState.ANSWERS, since_s)
        self._heard[identity] = now
        return now != before

    def heard(self, identity: Identity, epoch: Epoch | None, host: Host) -> Heard | None:
        """How it took its last question, in this run and on this connection."""
        heard = self._heard.get(identity)
        return heard if heard is not None and heard.epoch == epoch and heard.host is host else None

    def deaf(self, identity: Identity) -> None:
        """What was heard proves nothing any more: it was reset, paused, moved."""
        self._heard.pop(identity, None)

    def forget(self, identity: Identity) -> None:
        """It does not run any more."""
        self._said.pop(identity, None)
        self.deaf(identity)
