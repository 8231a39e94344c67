"""The newest decisions with everything they saw, kept as one base and a journal, so that a decision costs a few entries.

A whole record (a megabyte with 200 hosts and 1 000 VMs) is only put together when somebody asks for it. Written on
the main loop, read from the health server's thread.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from lq_operator.core.placement import Decision, HostFacts, Placed, PlacementRequest, Reservation, VmKey
from lq_operator.core.placement.replay import compose

NEWEST = 256
"""Decisions kept; each further one makes the oldest be forgotten."""
MAX_EVENTS = 100_000
"""Journal entries kept at most (some 20 MB), even where that means fewer decisions."""

Key = str | VmKey
Event = tuple[int, Key, object]  # (which table, key, value or None)
HOSTS, VMS, RESERVATIONS = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision: `at` events of the journal had happened before it."""

    number: str
    at: int
    when: str
    versions: dict[str, int]
    request: PlacementRequest
    decision: Decision
    refusals: dict[str, str] | None  # None: no guard was asked


@dataclass(slots=True)
class Journal:
    """What one engine was told, and what it decided in between."""

    strategy: str
    seed: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _base: tuple[dict[Key, Any], dict[Key, Any], dict[Key, Any]] = field(default_factory=lambda: ({}, {}, {}))
    _events: deque[Event] = field(default_factory=deque)
    _first: int = 0  # number of the first event in _events
    _entries: deque[Entry] = field(default_factory=deque)

    def host(self, name: str, facts: HostFacts | None) -> None:
        """A host appeared, changed or left."""
        self._note((HOSTS, name, facts))

    def vm(self, key: VmKey, placed: Placed | None) -> None:
        """A VM holds room, or no longer."""
        self._note((VMS, key, placed))

    def reservation(self, key: VmKey, held: Reservation | None) -> None:
        """Room is held for a decision in flight, or no longer."""
        self._note((RESERVATIONS, key, held))

    def decided(
        self,
        number: str,
        when: str,
        versions: dict[str, int],
        request: PlacementRequest,
        decision: Decision,
        refusals: dict[str, str] | None,
    ) -> None:
        """A decision, told before anything of it is applied."""
        with self._lock:
            at = self._first + len(self._events)
            self._entries.append(Entry(number, at, when, versions, request, decision, refusals))
            while len(self._entries) > NEWEST:
                self._entries.popleft()
            self._fold()

    def _note(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)
            while len(self._events) > MAX_EVENTS and self._entries:
                self._entries.popleft()
                self._fold()
            if not self._entries:
                self._fold()

    def _fold(self) -> None:
        """What happened before the oldest decision becomes the base."""
        upto = self._entries[0].at if self._entries else self._first + len(self._events)
        while self._first < upto:
            _apply(self._base, self._events.popleft())
            self._first += 1

    # ------------------------------------------------------------ reading, from any thread

    def summaries(self) -> list[dict[str, Any]]:
        """The newest first."""
        with self._lock:
            entries = list(self._entries)
        return [
            {
                "number": entry.number,
                "when": entry.when,
                "vm": str(entry.request.identity),
                "host": entry.decision.host,
                "sentence": entry.decision.sentence,
            }
            for entry in reversed(entries)
        ]

    def record(self, number: str) -> bytes | None:
        """The whole record in the form of core/placement/replay, None when it is not (or no longer) kept."""
        with self._lock:
            entry = next((one for one in self._entries if one.number == number), None)
            if entry is None:
                return None
            tables = tuple(dict(table) for table in self._base)
            events = [event for event, _ in zip(self._events, range(entry.at - self._first), strict=False)]
        for event in events:
            _apply(tables, event)
        return self._encode(entry, *tables)

    def _encode(self, entry: Entry, hosts: dict[Key, Any], vms: dict[Key, Any], held: dict[Key, Any]) -> bytes:
        return compose(
            self.strategy,
            self.seed,
            versions=entry.versions,
            hosts=[hosts[name] for name in sorted(hosts)],
            vms=[vms[key] for key in sorted(vms)],
            reservations=[held[key] for key in sorted(held)],
            request=entry.request,
            outcome=entry.decision,
            refusals=entry.refusals,
            number=entry.number,
            when=entry.when,
        )


def _apply(tables: tuple[dict[Key, Any], ...], event: Event) -> None:
    table, key, value = event
    if value is None:
        tables[table].pop(key, None)
    else:
        tables[table][key] = value


def debug_page(journals: Callable[[], Iterable[Journal]]) -> Callable[[str], bytes | None]:
    """/debug/decisions: '' lists the newest of every cluster, a number gives the whole record."""

    def page(number: str) -> bytes | None:
        if number:
            return next((found for journal in journals() if (found := journal.record(number)) is not None), None)
        return json.dumps([line for journal in journals() for line in journal.summaries()]).encode()

    return page
