"""What the migration controller has observed of one move when it decides. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from lq_operator.core.failover.facts import Actor, HostView, Knowledge, Proof, Stamp
from lq_operator.core.model import DomainSeen, Epoch, MoveProgress, MoveResult, NodeName, Placement


class Phase(StrEnum):
    """status.phase of a VirtualMachineMigration."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    RUNNING = "Running"
    SETTLING = "Settling"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    REFUSED = "Refused"

    @property
    def ended(self) -> bool:
        """Nothing happens any more."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.REFUSED)

    @property
    def begun(self) -> bool:
        """Something may have been written for it: the placement decides what became of it."""
        return self in (Phase.PREPARING, Phase.RUNNING, Phase.SETTLING)


@dataclass(frozen=True, slots=True)
class Side:
    """Source or target. `view` and `domain` are None while it is silent or not ours; `off`: valid proofs that the boot
    in question is over. `why`: why it is silent."""

    node: NodeName
    view: HostView | None = None
    domain: DomainSeen | None = None
    why: str = ""
    off: tuple[Proof, ...] = ()

    @property
    def runs(self) -> bool:
        """It shows a QEMU of this VM."""
        return self.view is not None and self.view.runs


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How this process's own call to the source ended. `result` None: not by success; `refused`: the host said no."""

    result: MoveResult | None
    message: str = ""
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """The transfer. `ours`: this process's call is in flight. `end`: that call has ended. `progress`: what the source
    says of it. `asked`: it was already called off by this process."""

    ours: bool = False
    end: JobEnd | None = None
    progress: MoveProgress | None = None
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Vm:
    """The VM that is to be moved. `wanted`: it should run (or be paused); `uid`: of the object now."""

    uid: str
    placement: Placement | None
    wanted: bool = True
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class PostCopy:
    """The policy: allowed at all, and the downtime that pre-copy must come below."""

    allowed: bool = False
    max_downtime_ms: int = 300


@dataclass(frozen=True, slots=True)
class MoveWorld:
    """One VirtualMachineMigration with everything around it.

    `outcome`: the reason word under which it began to settle, '' before. `vm_uid`, `epoch`, `source_node`,
    `target_node`: as its status recorded them when it began. `chosen`: the node that the scheduler holds room on, None
    while it has not answered, '' when nothing fits (`chosen_why`). `turn`: '' when it is its turn, else whom it waits
    for. `age_s`: since creation, `begun_s`: since it began (None before). `tickets_gone_at`: listing counter at which this
    pass knew the target's tickets to be gone. `listed_since`: counter that a listing must exceed to be of this pass.
    `copied`: disks go along that lie on hosts; `switched`: their Volumes already name the target's copy.
    """

    actor: Actor
    stamp: Stamp
    next_epoch: Epoch
    knowledge: Knowledge
    phase: Phase = Phase.PENDING
    outcome: str = ""
    message: str = ""
    deleting: bool = False
    cancel: bool = False
    deadline_s: float = 3600.0
    age_s: float = 0.0
    begun_s: float | None = None
    vm: Vm | None = None
    vm_uid: str = ""
    epoch: Epoch | None = None
    source_node: str = ""
    target_node: str = ""
    wished: str = ""
    chosen: str | None = None
    chosen_why: str = ""
    turn: str = ""
    other: str = ""
    source: Side | None = None
    target: Side | None = None
    job: Job = field(default_factory=Job)
    post_copy: PostCopy = PostCopy()
    copied: bool = False
    switched: bool = False
    tickets_gone_at: int | None = None
    listed_since: int = 0
