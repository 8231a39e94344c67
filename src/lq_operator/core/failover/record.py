"""What a host remembers: small facts encoded in the NAMES of empty files, and the names of gates and tickets.

Owns the encoding, both ways, and which names are superseded. Creating a file is exclusive and a name is never
rewritten, so two owners can only add facts, never lose one (protocol.md, trace 7). Refuses names that would not
fit a file name; keeps and ignores names it does not know (a newer version may have written them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lq_operator.core.model import BootNonce, Epoch, HostUUID, NodeName

RECORD_PREFIXES = ("installation_", "member_", "gone_", "term_", "left_")
"""Names with these prefixes in the lq-state pool are facts. Everything else there belongs to others."""

STATE_PREFIXES = ("seed_", "nvram_", "suspend_", "tpm_", "console_", "hardware_")
"""Reserved for per-VM state files of the same pool (`<prefix><ns>_<name>_<epoch>.<ext>`); never facts."""

MAX_NAME_BYTES = 255
"""NAME_MAX of every Linux file system that libvirt uses for a dir pool."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_INSTALLATION = re.compile(r"[A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TOKEN = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A host that belongs to the cluster: its node name and its host UUID."""

    node: NodeName
    host_uuid: HostUUID


@dataclass(frozen=True, slots=True)
class HostRecord:
    """One host's record, decoded. `members` are those that joined and have not left since, as this host knows it.

    `joined` and `gone` keep the stamp of each (an Epoch of the process that wrote it; 0-0 where none was given), so
    that the records of several hosts can be put together (inventory.members_of).
    """

    installations: frozenset[str] = frozenset()
    joined: Mapping[Member, Epoch] = field(default_factory=dict)
    gone: Mapping[Member, Epoch] = field(default_factory=dict)
    term: int = 0
    beat: int = 0
    departures: Mapping[tuple[str, str], Epoch] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def members(self) -> frozenset[Member]:
        """Members as this record alone knows them."""
        return frozenset(m for m, stamp in self.joined.items() if m not in self.gone or self.gone[m] < stamp)

    @property
    def highest_term(self) -> int:
        """The highest term this host knows anything of: terms in stamps and departures count too."""
        stamps = (*self.joined.values(), *self.gone.values(), *self.departures.values())
        return max((self.term, *(stamp.term for stamp in stamps)))


def _named(name: str) -> str:
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(
            f"the fact {name[:60]}... takes {len(name.encode())} bytes, a file name holds {MAX_NAME_BYTES}"
            ": use shorter namespace, VM or node names"
        )
    return name


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r} is not {what}")
    return text


def installation_name(installation: str) -> str:
    """Fact: this host belongs to that installation. ValueError for ids with other characters than [A-Za-z0-9.-]."""
    return _named(f"installation_{_checked(_INSTALLATION, installation, 'an installation id ([A-Za-z0-9.-])')}")


def member_name(node: NodeName, host_uuid: HostUUID, joined: Epoch | None = None) -> str:
    """Fact: that host belongs to the cluster, since `joined` (a new stamp for every joining again)."""
    return _membership("member", node, host_uuid, joined or Epoch(0, 0))


def gone_name(node: NodeName, host_uuid: HostUUID, gone: Epoch) -> str:
    """Fact: that member was taken out, with evidence. It supersedes every `member_` with a stamp up to `gone`."""
    return _membership("gone", node, host_uuid, gone)


def _membership(kind: str, node: NodeName, host_uuid: HostUUID, stamp: Epoch) -> str:
    base = f"{kind}_{_checked(_LABEL, node, 'a node name')}_{_checked(_UUID, host_uuid, 'a host UUID')}"
    return _named(base if stamp == Epoch(0, 0) and kind == "member" else f"{base}_{stamp}")


def term_name(term: int, beat: int) -> str:
    """Fact: a process that held this term at this beat of its lease was here."""
    return _named(f"term_{term:d}_{beat:d}")


def departure_name(namespace: str, name: str, epoch: Epoch) -> str:
    """Fact (departure note): the VM ran here under `epoch` at the latest, and was taken off."""
    return _named(f"left_{_checked(_LABEL, namespace, 'a namespace')}_{_checked(_LABEL, name, 'a VM name')}_{epoch}")


def decode_record(names: Iterable[str]) -> HostRecord:
    """Read the facts out of the names of one complete listing. Order does not matter; repetitions are harmless."""
    installations: set[str] = set()
    joined: dict[Member, Epoch] = {}
    gone: dict[Member, Epoch] = {}
    term = (0, 0)
    departures: dict[tuple[str, str], Epoch] = {}
    unknown: list[str] = []
    for name in names:
        match _parse(name):
            case ("installation", str(installation)):
                installations.add(installation)
            case ("member", Member() as member, Epoch() as stamp):
                joined[member] = max(stamp, joined.get(member, stamp))
            case ("gone", Member() as member, Epoch() as stamp):
                gone[member] = max(stamp, gone.get(member, stamp))
            case ("term", int(number), int(beat)):
                term = max(term, (number, beat))
            case ("left", str(namespace), str(vm), Epoch() as epoch):
                departures[namespace, vm] = max(epoch, departures.get((namespace, vm), epoch))
            case _:
                unknown.append(name)
    return HostRecord(frozenset(installations), joined, gone, term[0], term[1], departures, tuple(sorted(unknown)))


def _parse(name: str) -> tuple[object, ...] | None:
    """(kind, values...) of a fact, None for a name that is none."""
    kind, *parts = name.split("_")
    try:
        match kind, parts:
            case "installation", [installation] if _INSTALLATION.fullmatch(installation):
                return "installation", installation
            case (("member" | "gone"), [node, host_uuid, *stamp]) if (
                _LABEL.fullmatch(node) and _UUID.fullmatch(host_uuid) and len(stamp) <= 1
            ):
                at = Epoch.parse(stamp[0]) if stamp else Epoch(0, 0)
                return kind, Member(NodeName(node), HostUUID(host_uuid)), at
            case "term", [term, beat] if _number(term) and _number(beat):
                return "term", int(term), int(beat)
            case "left", [namespace, vm, epoch] if _LABEL.fullmatch(namespace) and _LABEL.fullmatch(vm):
                return "left", namespace, vm, Epoch.parse(epoch)
    except ValueError:
        return None
    return None


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def compaction(names: Iterable[str]) -> tuple[str, ...]:
    """Names that may be deleted, in any order and interrupted anywhere: each is superseded by one that stays.

    Only the host's owner compacts, under its gate, from one complete listing. Installations and unknown names stay.
    """
    kept = list(names)
    record = decode_record(kept)
    superseded = []
    for name in kept:
        match _parse(name):
            case ("member", Member() as member, Epoch() as stamp):
                stale = stamp < record.joined[member] or (member in record.gone and stamp <= record.gone[member])
            case ("gone", Member() as member, Epoch() as stamp):
                stale = stamp < record.gone[member] or (member in record.joined and stamp < record.joined[member])
            case ("term", int(term), int(beat)):
                stale = (term, beat) < (record.term, record.beat)
            case ("left", str(namespace), str(vm), Epoch() as epoch):
                stale = epoch < record.departures[namespace, vm]
            case _:
                stale = False
        if stale:
            superseded.append(name)
    return tuple(sorted(superseded))


# ---------------------------------------------------------------- gates and tickets (/run/lq, a tmpfs)


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate's name, read. `take` counts the takeovers of one process, so that gates of one term have an order."""

    term: int
    take: int
    token: str


def gate_name(term: int, token: str, take: int = 0) -> BootNonce:
    """Name of a gate: `token` is random and fresh for every takeover of every host, lower-case hex.

    `take` must grow with every takeover within the process: evidence about a later gate of a host covers starts
    under an earlier one (facts.boot_covers); takeovers that share a `take` are not ordered, which is safe.
    """
    return BootNonce(_named(f"gate-{term:d}-{take:d}-{_checked(_TOKEN, token, 'a random token ([a-z0-9])')}"))


def parse_gate(name: str) -> Gate | None:
    """The gate of that name, None when it is not a gate."""
    match name.split("-"):
        case ["gate", term, take, token] if _number(term) and _number(take) and _TOKEN.fullmatch(token):
            return Gate(int(term), int(take), token)
    return None


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket's name, read."""

    term: int
    namespace: str
    name: str
    token: str


def ticket_name(term: int, namespace: str, name: str, token: str) -> str:
    """Name of the ticket of one incoming migration, in the gate pool of the target; fresh token every time."""
    vm = f"{_checked(_LABEL, namespace, 'a namespace')}_{_checked(_LABEL, name, 'a VM name')}"
    return _named(f"ticket_{term:d}_{vm}_{_checked(_TOKEN, token, 'a random token ([a-z0-9])')}")


def parse_ticket(name: str) -> Ticket | None:
    """The ticket of that name, None when it is not a ticket."""
    match name.split("_"):
        case ["ticket", term, namespace, vm, token] if (
            _number(term) and _LABEL.fullmatch(namespace) and _LABEL.fullmatch(vm) and _TOKEN.fullmatch(token)
        ):
            return Ticket(int(term), namespace, vm, token)
    return None
