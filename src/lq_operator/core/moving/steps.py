"""Everything the migration controller may do next: a closed union of values."""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.core.model import Epoch, NodeName, Placement
from lq_operator.core.moving.world import Phase


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Nothing outside is left of it."""


@dataclass(frozen=True, slots=True)
class Rest:
    """It has ended; delete it when its time is over."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now but to say where it stands. `again_s`: look again then, at the latest."""

    phase: Phase
    reason: str
    message: str
    again_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Finish:
    """It has ended so."""

    phase: Phase
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Begin:
    """Ask both hosts what stands in the way; when nothing does: prepare, ticket, BeginMove, send."""

    target: NodeName


@dataclass(frozen=True, slots=True)
class CallOff:
    """Ask the source to stop the transfer; `reason` is kept as the outcome."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class StartPostCopy:
    """Change over before all memory is there: from now on a failing host or network costs the guest its run."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Write down that both hosts are asked now, and why the transfer ended; before anything is concluded."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class DeleteTickets:
    """Every ticket of this VM on the target goes, before either host is listed [5]."""


@dataclass(frozen=True, slots=True)
class List:
    """List one host completely, gates last."""

    node: NodeName


@dataclass(frozen=True, slots=True)
class Depart:
    """Departure note, undefine what is shut off, list: what makes the absence on that host provable."""

    node: NodeName
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Discard:
    """Destroy the shell of a guest that runs on the other side, or can never run any more."""

    node: NodeName
    epoch: Epoch | None


@dataclass(frozen=True, slots=True)
class DiscardArrived:
    """Destroy what arrived on `target` and never ran, because the guest goes on at `source` (docs/adr/0003)."""

    source: NodeName
    target: NodeName
    epoch: Epoch | None


@dataclass(frozen=True, slots=True)
class Resume:
    """The guest stands still on the source although it was not taken over by the target."""

    node: NodeName


@dataclass(frozen=True, slots=True)
class SwitchDisks:
    """The guest has changed over: its Volumes name the target's copies from now on, whatever happens to either host."""


@dataclass(frozen=True, slots=True)
class EndMove:
    """The tested patch Moving -> `new`."""

    current: Placement
    new: Placement


Step = (
    RemoveFinalizer
    | Rest
    | Wait
    | Finish
    | Begin
    | CallOff
    | StartPostCopy
    | Settle
    | DeleteTickets
    | List
    | Depart
    | Discard
    | DiscardArrived
    | Resume
    | SwitchDisks
    | EndMove
)
