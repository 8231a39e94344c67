"""What a controller may ask of a placement: a closed union, one class per row of the table.

Values only. Every fact a row's guards need is a field, so a request without the fact cannot be written down.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lq_operator.core.failover.facts import Actor, HostView, Knowledge, Memory, Proof, Stamp, Tombstone
from lq_operator.core.model import Epoch, HostUUID, NodeName


@dataclass(frozen=True, slots=True)
class Register:
    """absent -> Released(inventory): nobody knows a domain of this identity."""

    actor: Actor
    stamp: Stamp
    knowledge: Knowledge


@dataclass(frozen=True, slots=True)
class Bind:
    """absent -> Committed as found. `view`: the host that has the domain. The guest is not touched."""

    actor: Actor
    stamp: Stamp
    knowledge: Knowledge
    view: HostView


@dataclass(frozen=True, slots=True)
class Displace:
    """any phase -> Committed as found: a domain elsewhere than the placement says. `proofs` for the placement's
    hosts where it is Committed or Moving."""

    actor: Actor
    stamp: Stamp
    knowledge: Knowledge
    view: HostView
    proofs: tuple[Proof, ...] = ()


@dataclass(frozen=True, slots=True)
class Assign:
    """Released or Assigned -> Assigned(node). `wanted`: the VM should run; `fits`: the engine says so.

    `unknown_to`: members whose record does not name this node yet (inventory.unknown_to).
    """

    actor: Actor
    stamp: Stamp
    node: NodeName
    host_uuid: HostUUID
    wanted: bool
    fits: bool
    unknown_to: tuple[NodeName, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()


@dataclass(frozen=True, slots=True)
class Unassign:
    """Assigned -> Released: nothing has been written to a host."""

    actor: Actor
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Commit:
    """Assigned or Committed -> Committed(epoch), before EVERY start. `view`: my listing of the placed host."""

    actor: Actor
    stamp: Stamp
    knowledge: Knowledge
    view: HostView
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class BeginMove:
    """Committed -> Moving. `ticket`: name of the file created exclusively on the target just now; `reserved`: a
    VirtualMachineMigration exists and the target has room set aside."""

    actor: Actor
    stamp: Stamp
    memory: Memory
    source: HostView
    target: HostView
    ticket: str
    reserved: bool
    unknown_to: tuple[NodeName, ...] = ()


class MoveEnd(StrEnum):
    """How a move ended."""

    TARGET = "Target"
    SOURCE = "Source"
    NEITHER = "Neither"


@dataclass(frozen=True, slots=True)
class EndMove:
    """Moving -> Committed(target), Committed(source) or Released; each uses up `epoch`.

    A side is a view (listed in this term) or, where it is silent, None with a proof about it in `proofs`. A side
    that does not run it needs a proof in any case. `ticket_deleted_at`: when (same counter as HostView.listed_at)
    the ticket was surely gone from the target, None when that is not known; a target that is surely off has none.
    """

    actor: Actor
    stamp: Stamp
    knowledge: Knowledge
    end: MoveEnd
    source: HostView | None
    target: HostView | None
    proofs: tuple[Proof, ...]
    ticket_deleted_at: int | None
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Release:
    """Committed or Moving -> Released(evidence)."""

    actor: Actor
    stamp: Stamp
    memory: Memory
    proofs: tuple[Proof, ...]


Request = Register | Bind | Displace | Assign | Unassign | Commit | BeginMove | EndMove | Release
"""Everything that may be asked; `protocol.transition` answers."""
