"""What the watches have shown so far, parsed: implements ports.Store. Lives on the main loop, one writer at a time.

Fed by three sources: the watch, our own write answers, and periodic lists. A list is the only truth about what
vanished and about a server that went back in time; resourceVersions order events of one history only.

What contradicts what is known raises a doubt, and a list settles it. One contradiction is none: our own answer runs
ahead of the watch, which still has older states of that object to deliver, and then the answer's own. Such an event is
passed over, as long as the watch owes us that state and has not owed it for long. Nothing is lost by that: a history
that was replaced never delivers the state, so the debt itself becomes a doubt once it is OWED_S old, with or without
further events (an answer that no event contradicts would otherwise never be doubted). A watch that lists or is started
anew raises its doubts as ever; an answer that is older than what is known is a contradiction as ever.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lq_operator.adapters.kube.client import Listing, parse_object
from lq_operator.api.base import Resource
from lq_operator.core.result import Rejected
from lq_operator.telemetry.logging import get_logger

K = TypeVar("K", bound=Resource)
Kind = type[Resource]

REMEMBERED_DELETIONS = 20_000
"""Deleted uids kept so that a late answer or event does not bring an object back; a few MB at most."""

OWED_S = 10.0
"""The watch may be this far behind our own answers before that is a doubt; as long as a restored etcd may stay unseen
otherwise (PROBE_S of the watch). A busy main loop takes up events seconds late, and a list would make it busier."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WentBack:
    """The API server shows an older state than it has shown before: a restored or replaced etcd."""

    kind: str
    seen_version: int
    listed_version: int


@dataclass(frozen=True, slots=True)
class Broken:
    """An object that this version cannot read."""

    key: str
    uid: str
    version: int
    why: str
    field: str | None


@dataclass(slots=True)
class _Entry:
    key: str
    uid: str
    version: int
    arrival: int
    obj: Resource | None  # None while it never parsed
    broken: Broken | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    uid: str
    version: int
    came_s: float


@dataclass(slots=True)
class _Shelf:
    entries: dict[str, _Entry] = field(default_factory=dict)
    deleted: OrderedDict[str, int] = field(default_factory=OrderedDict)  # uid -> version
    undelivered: dict[str, tuple[str, int]] = field(default_factory=dict)  # key -> what the watch still owes us
    ahead: dict[str, _Answer] = field(default_factory=dict)  # key -> our answer that the watch has not delivered yet
    synced: bool = False
    rewound: bool = False  # another kind's list has shown that time went back; this kind has not been listed since
    last_seen_s: float = 0.0
    settled_s: float = 0.0  # when the newest list that we have an answer to was sent


@dataclass(frozen=True, slots=True)
class ListTicket:
    """What was known when a list was sent. Without it a list cannot be told from a late one."""

    kind: Kind
    highest_version: int
    arrival: int
    sent_s: float


def version_of(raw: dict[str, Any]) -> int:
    """resourceVersion as a number (Kubernetes: comparable integers); 0 when it is missing or no number."""
    text = str((raw.get("metadata") or {}).get("resourceVersion") or "")
    return int(text) if text.isdigit() else 0


def key_of(raw: dict[str, Any]) -> str:
    """namespace/name, or name for cluster-scoped kinds."""
    metadata = raw.get("metadata") or {}
    name, namespace = str(metadata.get("name", "")), metadata.get("namespace")
    return f"{namespace}/{name}" if namespace else name


class WatchStore:
    """ports.Store. Every method is for the main loop's thread; the watch thread uses call_soon_threadsafe."""

    def __init__(
        self,
        kinds: Iterable[Kind],
        *,
        mono_s: Callable[[], float] = time.monotonic,
        on_seen: Callable[[str], None] = lambda kind_name: None,
    ) -> None:
        """`on_seen` is told the name of a kind at each event and list of it (telemetry.health: watch_seen)."""
        self._on_seen = on_seen
        self._shelves: dict[Kind, _Shelf] = {kind: _Shelf() for kind in kinds}
        self._mono_s = mono_s
        self._arrivals = itertools.count(1)
        self._arrival = 0
        self._highest_version = 0
        self._subscribers: list[Callable[[Kind, str], None]] = []
        self._on_went_back: list[Callable[[WentBack], None]] = []
        self._on_doubt: Callable[[Kind], None] = lambda kind: None

    # ---------------------------------------------------------------- reading (ports.Store)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds that are watched."""
        return tuple(self._shelves)

    def get(self, kind: type[K], namespace: str | None, name: str) -> K | None:
        """The object as last seen. Rejected when it exists but cannot be read: that is not absence."""
        entry = self._shelf(kind).entries.get(f"{namespace}/{name}" if namespace else name)
        if entry is None:
            return None
        if entry.broken is not None:
            raise Rejected(entry.broken.why, field=entry.broken.field)
        assert isinstance(entry.obj, kind)
        return entry.obj

    def list(self, kind: type[K]) -> Sequence[K]:
        """All readable objects; one that became unreadable is given as it was last read. See also broken()."""
        return [entry.obj for entry in self._shelf(kind).entries.values() if isinstance(entry.obj, kind)]

    def synced(self, *kinds: Kind) -> bool:
        """True once everything that existed at start is in the store (all watched kinds when none is named)."""
        return all(self._shelf(kind).synced for kind in (kinds or self.kinds))

    def broken(self, kind: Kind) -> Sequence[Broken]:
        """Objects that exist but cannot be read. Whoever concludes from absence must look here too."""
        return [entry.broken for entry in self._shelf(kind).entries.values() if entry.broken is not None]

    def last_seen_s(self, kind: Kind) -> float:
        """Monotonic time of the last event or list of the kind; 0 before the first."""
        return self._shelf(kind).last_seen_s

    def undelivered(self, kind: Kind) -> int:
        """How many changes a list has shown that the watch has not delivered yet. Lasting: the watch is deaf."""
        return len(self._shelf(kind).undelivered)

    # ---------------------------------------------------------------- subscriptions

    def subscribe(self, callback: Callable[[Kind, str], None]) -> None:
        """callback(kind, key) on every change, addition and removal. It must not raise and not block."""
        self._subscribers.append(callback)

    def on_went_back(self, callback: Callable[[WentBack], None]) -> None:
        """Called when a list proves that the API server forgot something it had shown."""
        self._on_went_back.append(callback)

    def on_doubt(self, callback: Callable[[Kind], None]) -> None:
        """Called when an event contradicts what is known: a list should settle it soon."""
        self._on_doubt = callback

    # ---------------------------------------------------------------- feeding

    def observe(self, kind: Kind, raw: dict[str, Any], parsed: Resource | None = None) -> None:
        """The answer to one of our own reads or writes (`parsed`: the same, read already). Unwatched kinds are ignored."""
        if kind not in self._shelves or not self._shelves[kind].synced:
            return
        if self._put(kind, raw, parsed):
            answer = _Answer(str(raw["metadata"].get("uid", "")), version_of(raw), self._mono_s())
            ahead = self._shelves[kind].ahead
            ahead.pop(key_of(raw), None)  # the oldest stays first
            ahead[key_of(raw)] = answer

    def watched(self, kind: Kind, raw: dict[str, Any], relisted_s: float | None = None) -> None:
        """ADDED, MODIFIED, or an item of the watch's own list, which hides what has vanished.

        `relisted_s`: monotonic time by which the watch had that list. One of ours that was sent later has shown what
        is missing from it, however late its items are taken up here.
        """
        self._delivered(kind, raw)
        if relisted_s is not None:
            if relisted_s >= self._shelf(kind).settled_s:
                self._on_doubt(kind)
        elif self._is_on_its_way(kind, raw):
            return
        self._put(kind, raw)

    def watched_deletion(self, kind: Kind, raw: dict[str, Any]) -> None:
        """DELETED."""
        self._delivered(kind, raw)
        self._remove(kind, key_of(raw), str(raw["metadata"].get("uid", "")), version_of(raw))

    def doubt_debts(self) -> None:
        """Raise a doubt for every kind whose watch has not delivered one of our own answers for OWED_S."""
        now_s = self._mono_s()
        for kind, shelf in self._shelves.items():
            oldest = next(iter(shelf.ahead.values()), None)
            if oldest is not None and now_s - oldest.came_s >= OWED_S:
                self._on_doubt(kind)

    def begin_list(self, kind: Kind) -> ListTicket:
        """Take the ticket right before the list is sent."""
        return ListTicket(kind, self._highest_version, self._arrival, self._mono_s())

    @property
    def highest_version(self) -> int:
        """The newest version of the whole server that was seen. A version that is asked for after this was read is not
        lower, except on a server that went back; our own answers may pass one that is under way."""
        return self._highest_version

    def listed(self, ticket: ListTicket, listing: Listing) -> WentBack | None:
        """Settle a kind by a consistent list: additions, changes, removals, and whether time went back.

        A consistent list is never older than what was known when it was sent. If it is, or if one of its objects
        is, the history was replaced: then the list wins over everything that did not arrive after it was sent.
        """
        kind = ticket.kind
        shelf = self._shelf(kind)
        self._seen(kind)
        listed_version = int(listing.resource_version) if listing.resource_version.isdigit() else 0
        went_back = self._judge_time(ticket, listing, listed_version)
        if went_back is not None:
            self._rewind(ticket, listed_version)
        self._highest_version = max(self._highest_version, listed_version)
        for raw in listing.items:
            self._settle_item(ticket, raw, listed_version)
        self._settle_vanished(ticket, listing, listed_version)
        for key in [key for key, owed in shelf.ahead.items() if owed.version <= listed_version]:
            del shelf.ahead[key]
        shelf.synced, shelf.rewound, shelf.settled_s = True, False, ticket.sent_s
        if went_back is not None:
            log.warning("the API server went back in time", kind=kind.kind_name, **_fields(went_back))
            for callback in self._on_went_back:
                callback(went_back)
        return went_back

    # ---------------------------------------------------------------- inside

    def _shelf(self, kind: Kind) -> _Shelf:
        shelf = self._shelves.get(kind)
        if shelf is None:
            raise ValueError(f"{kind.kind_name} is not watched: add it to the kinds of the WatchStore")
        return shelf

    def _is_on_its_way(self, kind: Kind, raw: dict[str, Any]) -> bool:
        """Is this event merely older than our own answer, which the watch is about to deliver?"""
        owed = self._shelf(kind).ahead.get(key_of(raw))
        return (
            owed is not None
            and owed.uid == raw["metadata"].get("uid")
            and version_of(raw) < owed.version
            and self._mono_s() - owed.came_s < OWED_S
        )

    def _judge_time(self, ticket: ListTicket, listing: Listing, listed_version: int) -> WentBack | None:
        if listed_version < ticket.highest_version:
            return WentBack(ticket.kind.kind_name, ticket.highest_version, listed_version)
        entries = self._shelf(ticket.kind).entries
        for raw in listing.items:
            entry = entries.get(key_of(raw))
            if entry is None or entry.arrival > ticket.arrival or entry.uid != raw["metadata"].get("uid"):
                continue
            if version_of(raw) < entry.version <= listed_version:  # restored with its revision bumped
                return WentBack(ticket.kind.kind_name, entry.version, version_of(raw))
        return None

    def _rewind(self, ticket: ListTicket, listed_version: int) -> None:
        # Versions of the old history order nothing any more, for no kind. What arrived after the list was sent is
        # kept; should it be of the old history after all, its version makes the next list find that out.
        kept = [listed_version]
        for shelf in self._shelves.values():
            shelf.rewound = True
            shelf.deleted.clear()
            shelf.ahead.clear()
            kept += [entry.version for entry in shelf.entries.values() if entry.arrival > ticket.arrival]
        self._highest_version = max(kept)

    def _is_newer(self, entry: _Entry, ticket: ListTicket, listed_version: int) -> bool:
        """Did the entry reach us after the list was made?"""
        if self._shelf(ticket.kind).rewound:
            return entry.arrival > ticket.arrival
        return entry.version > listed_version

    def _settle_item(self, ticket: ListTicket, raw: dict[str, Any], listed_version: int) -> None:
        kind, uid = ticket.kind, str(raw["metadata"].get("uid", ""))
        shelf, key = self._shelf(kind), key_of(raw)
        if shelf.deleted.get(uid, -1) > listed_version:
            return
        entry = shelf.entries.get(key)
        if entry is not None:
            if (entry.uid, entry.version) == (uid, version_of(raw)):
                return
            if self._is_newer(entry, ticket, listed_version):
                return
        shelf.undelivered[key] = (uid, version_of(raw))
        self._store(kind, key, raw)

    def _settle_vanished(self, ticket: ListTicket, listing: Listing, listed_version: int) -> None:
        shelf = self._shelf(ticket.kind)
        present = {key_of(raw) for raw in listing.items}
        for key in [key for key in shelf.entries if key not in present]:
            entry = shelf.entries[key]
            if not self._is_newer(entry, ticket, listed_version):
                self._remove(ticket.kind, key, entry.uid, listed_version)
        for key in [key for key in shelf.undelivered if key not in shelf.entries]:
            del shelf.undelivered[key]

    def _seen(self, kind: Kind) -> None:
        self._shelf(kind).last_seen_s = self._mono_s()
        self._on_seen(kind.kind_name)

    def _delivered(self, kind: Kind, raw: dict[str, Any]) -> None:
        self._seen(kind)
        shelf = self._shelf(kind)
        owed = shelf.undelivered.get(key_of(raw))
        if owed is not None and (owed[0] != raw["metadata"].get("uid") or version_of(raw) >= owed[1]):
            del shelf.undelivered[key_of(raw)]
        answer = shelf.ahead.get(key_of(raw))
        if answer is not None and version_of(raw) >= answer.version:
            del shelf.ahead[key_of(raw)]

    def _put(self, kind: Kind, raw: dict[str, Any], parsed: Resource | None = None) -> bool:
        """True when it was news."""
        shelf, key, version = self._shelf(kind), key_of(raw), version_of(raw)
        uid = str(raw["metadata"].get("uid", ""))
        entry = shelf.entries.get(key)
        if entry is not None and (entry.uid, entry.version) == (uid, version):
            return False
        if uid in shelf.deleted or (entry is not None and version < entry.version):
            # Late by a moment, or the server went back: a list tells which.
            self._on_doubt(kind)
            return False
        self._highest_version = max(self._highest_version, version)
        self._store(kind, key, raw, parsed)
        return True

    def _store(self, kind: Kind, key: str, raw: dict[str, Any], parsed: Resource | None = None) -> None:
        shelf = self._shelf(kind)
        raw["metadata"].pop("managedFields", None)
        uid, version = str(raw["metadata"].get("uid", "")), version_of(raw)
        self._arrival = next(self._arrivals)
        before = shelf.entries.get(key)
        try:
            entry = _Entry(key, uid, version, self._arrival, parsed or parse_object(kind, raw))
        except Rejected as error:
            log.warning("cannot read an object", kind=kind.kind_name, key=key, field=error.field, error=str(error))
            last_read = before.obj if before is not None and before.uid == uid else None
            broken = Broken(key, uid, version, str(error), error.field)
            entry = _Entry(key, uid, version, self._arrival, last_read, broken)
        shelf.entries[key] = entry
        self._notify(kind, key)

    def _remove(self, kind: Kind, key: str, uid: str, version: int) -> None:
        shelf = self._shelf(kind)
        self._highest_version = max(self._highest_version, version)
        shelf.deleted[uid] = max(version, shelf.deleted.get(uid, 0))
        while len(shelf.deleted) > REMEMBERED_DELETIONS:
            shelf.deleted.popitem(last=False)
        entry = shelf.entries.get(key)
        if entry is not None and entry.uid == uid:
            del shelf.entries[key]
            self._notify(kind, key)

    def _notify(self, kind: Kind, key: str) -> None:
        for callback in self._subscribers:
            callback(kind, key)


def _fields(went_back: WentBack) -> dict[str, int]:
    return {"seen_version": went_back.seen_version, "listed_version": went_back.listed_version}
