"""What the maintenance controller has observed of one host when it decides, and the shape of its plan. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Why(StrEnum):
    """Why a VM stays: reasons of status.maintenance.blockers."""

    POWER = "Power"
    LOCAL_DISK = "LocalDisk"
    DEVICE = "Device"
    RULE = "Rule"
    NO_ROOM = "NoRoom"
    REFUSED = "Refused"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


class DrainPhase(StrEnum):
    """status.maintenance.phase. OFF: the host is in service."""

    OFF = ""
    DRAINING = "Draining"
    BLOCKED = "Blocked"
    IN_MAINTENANCE = "InMaintenance"


@dataclass(frozen=True, slots=True)
class Move:
    """One VirtualMachineMigration of a VM. `mine`: made for this host's maintenance.

    `begun`: something may have been written for it. `no_room`: the scheduler's sentence while nothing fits.
    `ended_s`: seconds since it ended, None while it has not. `obstacles`: (what, sentence) of a refused one.
    """

    name: str
    uid: str
    mine: bool
    begun: bool = False
    ended_s: float | None = None
    succeeded: bool = False
    refused: bool = False
    no_room: str = ""
    message: str = ""
    obstacles: tuple[tuple[str, str], ...] = ()
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class Resident:
    """A VM whose placement names the host. `state`: word of status.power.state; `said`: its own words about it.

    `committed`: it is there now, and goes nowhere by itself. `here` False: it is on its way to the host.
    `pinned`: a sentence when its placement rules admit no other host. `taken`: names of moves in its namespace.
    `moves`: of this VM, the oldest first. `stalled`: by its own condition only a person can help. `named`: what it was
    last named for, and the message.
    """

    namespace: str
    name: str
    state: str = "Running"
    said: str = ""
    committed: bool = True
    here: bool = True
    deleting: bool = False
    priority: int = 50
    memory_mib: int = 0
    pinned: str = ""
    moves: tuple[Move, ...] = ()
    taken: frozenset[str] = frozenset()
    stalled: bool = False
    named: tuple[Why, str] | None = None


@dataclass(frozen=True, slots=True)
class Stray:
    """A move made for this host's maintenance of a VM that is not there (any more)."""

    namespace: str
    move: Move


@dataclass(frozen=True, slots=True)
class DrainWorld:
    """One host. `wanted`: spec.maintenance. `silent`: why it cannot be seen, '' while it answers.

    `orphans`: (namespace, name) of running domains of ours without a VirtualMachine. `misplaced`: the same of domains
    that run there by its own listing, but whose VM is placed elsewhere.
    `unseen`: this process has not looked at the host yet (it has just started), which says nothing about it.
    `per_host`: moves that one host may send at a time.
    """

    node: str
    wanted: bool
    residents: tuple[Resident, ...] = ()
    strays: tuple[Stray, ...] = ()
    orphans: tuple[tuple[str, str], ...] = ()
    misplaced: tuple[tuple[str, str], ...] = ()
    silent: str = ""
    unseen: bool = False
    per_host: int = 2


@dataclass(frozen=True, slots=True)
class NewMove:
    """A VirtualMachineMigration to create: exclusively, by name."""

    namespace: str
    vm: str
    name: str


@dataclass(frozen=True, slots=True)
class DropMove:
    """One to delete: an unfinished one is called off by that, a failed one is forgotten."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Blocker:
    """A VM that stays, and the way out."""

    namespace: str
    name: str
    why: Why
    message: str


@dataclass(frozen=True, slots=True)
class Drain:
    """What to do (drop first), and what to say. `again_s`: look again then, although nothing changed."""

    phase: DrainPhase
    drop: tuple[DropMove, ...] = ()
    create: tuple[NewMove, ...] = ()
    moving: int = 0
    remaining: int = 0
    blockers: tuple[Blocker, ...] = ()
    again_s: float | None = None
