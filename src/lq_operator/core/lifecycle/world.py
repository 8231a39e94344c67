"""What the VM controller has observed of one VM when it decides, and the shape of its decision."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from lq_operator.core.actions import Action
from lq_operator.core.failover.facts import Actor, HostView, Knowledge, Proof, Stamp
from lq_operator.core.lifecycle.heartbeat import Heartbeat, Pulse, Verdict
from lq_operator.core.lifecycle.power import Power, RestartPolicy
from lq_operator.core.model import DomainSeen, Epoch, Identity, NodeName, Placement


@dataclass(frozen=True, slots=True)
class PlacedHost:
    """The host that a placement names. `view` and `domain` are None while it is silent or not ours.

    `away`: it has been silent long enough to be Ready=Unknown. `off`: valid proofs that the boot in question is over.
    `maintenance`: nothing is started there any more.
    """

    node: NodeName
    view: HostView | None = None
    domain: DomainSeen | None = None
    away: bool = False
    why: str = ""
    off: tuple[Proof, ...] = ()
    maintenance: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What spec and operations ask for. `force`: stop without asking the guest. `restart_of`: the epoch whose run is
    to be replaced by a new one. `reset`: uid of a reset that has not been done yet."""

    power: Power = Power.RUNNING
    declared: Power | None = None
    policy: RestartPolicy = RestartPolicy.ALWAYS
    force: bool = False
    restart_of: Epoch | None = None
    reset: str = ""
    restart_on_host_failure: bool = True


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that a start needs and that is not there. `stalled`: only a person can help. `again_s`: nothing will
    tell when it is there, so look again after that long. `untold`: our own next step, that nobody needs to hear of soon."""

    reason: str
    message: str
    stalled: bool = False
    again_s: float | None = None
    untold: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What was last reported of the run: power state word and epoch, automatic starts in a row.

    `stop_left_s`: seconds until the guest is cut off, None where it was not asked to stop. `asked`: modes tried.
    `restart_left_s`: seconds until the next automatic start, None where none waits.
    """

    state: str = "Unknown"
    epoch: Epoch | None = None
    restarts: int = 0
    stop_left_s: float | None = None
    asked: tuple[str, ...] = ()
    restart_left_s: float | None = None
    agent: bool = False
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class VmWorld:
    """One VM with everything around it. `blockers` prevent a commit, `pending` a start on the placed host.

    `unused_epoch`: the placement was committed by this process and no start was attempted under it. `next_epoch`
    is what a commit would take. `fresh`: the placed host was listed in this pass. `awaited`: hosts that are about to
    be taken over, and may hold files of this VM.
    """

    identity: Identity
    uid: str
    actor: Actor
    stamp: Stamp
    next_epoch: Epoch
    knowledge: Knowledge
    wish: Wish
    deleting: bool = False
    finalizer: bool = True
    placement: Placement | None = None
    placed: PlacedHost | None = None
    target: PlacedHost | None = None
    views: tuple[HostView, ...] = ()
    blockers: tuple[Lack, ...] = ()
    pending: tuple[Lack, ...] = ()
    run: Run = field(default_factory=Run)
    unused_epoch: bool = False
    scheduling: str = ""
    fresh: bool = False
    awaited: tuple[NodeName, ...] = ()
    heartbeat: Heartbeat | None = None
    pulse: Pulse = field(default_factory=Pulse)


class Standing(StrEnum):
    """How the VM stands against its declaration; becomes Ready, Reconciling and Stalled."""

    READY = "ready"
    WORKING = "working"
    UNKNOWN = "unknown"
    STALLED = "stalled"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now (in order), and what to say. `state` is the word of status.power.state.

    `give_up`: the wish is over by the restart policy: from now on Stopped is wanted, and `reason` says why.
    `restart_in_s`: an automatic start waits that long. `counts_restart`: the start is an automatic one.
    `look`: nothing can be decided before the placed host was listed again: ask once more with a fresh world.
    `hang`: what spec.heartbeat makes of a guest that should run and does; None where it says nothing.
    """

    state: str
    standing: Standing
    reason: str
    message: str = ""
    actions: tuple[Action, ...] = ()
    requeue_s: float | None = None
    give_up: bool = False
    restart_in_s: float | None = None
    counts_restart: bool = False
    look: bool = False
    hang: Verdict | None = None
