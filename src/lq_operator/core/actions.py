"""Everything the VM controller may do after deciding: a closed union of values, carried out in order by its act step."""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.core.failover.facts import Tombstone
from lq_operator.core.lifecycle.heartbeat import Remedy
from lq_operator.core.model import Epoch, NodeName, Placement


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """Before anything outside the API server is touched for this VM."""


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Nothing outside is left, or tombstones name what is."""


@dataclass(frozen=True, slots=True)
class WritePlacement:
    """The tested patch current -> new."""

    current: Placement | None
    new: Placement


@dataclass(frozen=True, slots=True)
class StartGuest:
    """Renew the lease, read `placement` back, then write the seed, define and start (or resume the suspend image)."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class AskStop:
    """Ask the guest to switch itself off: 'agent' or 'acpi'. `again`: the deadline runs already."""

    node: NodeName
    mode: str
    again: bool


@dataclass(frozen=True, slots=True)
class CutOff:
    """Destroy the running domain of exactly this epoch."""

    node: NodeName
    epoch: Epoch | None


@dataclass(frozen=True, slots=True)
class PauseGuest:
    """Stop its vCPUs."""

    node: NodeName


@dataclass(frozen=True, slots=True)
class ResumeGuest:
    """Let its vCPUs run."""

    node: NodeName


@dataclass(frozen=True, slots=True)
class SaveGuest:
    """Suspend to the state pool; the domain is shut off afterwards."""

    node: NodeName
    epoch: Epoch | None


@dataclass(frozen=True, slots=True)
class ResetGuest:
    """The reset button. Done once, for this operation."""

    node: NodeName
    operation_uid: str


@dataclass(frozen=True, slots=True)
class EndHang:
    """Reset or destroy the running domain of exactly this epoch, if its agent is still silent right before."""

    node: NodeName
    epoch: Epoch | None
    remedy: Remedy


@dataclass(frozen=True, slots=True)
class Depart:
    """Departure note, undefine, list: what makes the absence on a host provable (failover/evidence)."""

    node: NodeName
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class LeaveTombstones:
    """On the nodes that are away, so that a deletion ends and is not forgotten."""

    tombstones: tuple[Tombstone, ...]


@dataclass(frozen=True, slots=True)
class SweepState:
    """Delete the VM's state files on every host that can be reached, and give its addresses back."""


Action = (
    AddFinalizer
    | RemoveFinalizer
    | WritePlacement
    | StartGuest
    | AskStop
    | CutOff
    | PauseGuest
    | ResumeGuest
    | SaveGuest
    | ResetGuest
    | EndHang
    | Depart
    | LeaveTombstones
    | SweepState
)
