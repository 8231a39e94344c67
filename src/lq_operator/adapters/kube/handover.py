"""What kopf hears, brought to the main loop: its settings, its one hook per kind, and the queue between two threads.

Everything that kopf does per event beyond handing it over (memory of what it handled, diffs, a line of log) is
switched off here. Refuses to judge an event; that is WatchStore's.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from typing import Any, cast

import kopf

from lq_operator.adapters.kube.store import Kind, WatchStore

AT_ONCE = 50
"""Events taken up before others have their turn on the main loop: some milliseconds of it."""


class _NoDiffBase(kopf.DiffBaseStorage):
    """kopf copies and compares every object for handlers of changes, of which we have none."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        del body, extra_fields
        return cast(kopf.BodyEssence, {})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        del body
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        del body, patch, essence


class _NoProgress(kopf.ProgressStorage):
    """The same for the progress of handlers that are retried."""

    def fetch(self, *, key: Any, body: kopf.Body) -> None:
        del key, body

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        del key, record, body, patch

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        del key, body, patch

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        del body, patch, value

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


def watch_settings() -> kopf.OperatorSettings:
    """kopf as a list/watch engine: measured values, see docs/adr on the watch."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.queueing.worker_limit = None  # a limit means limit/idle_timeout objects per second
    settings.queueing.idle_timeout = 1
    settings.watching.chunk_size = 500
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = 300
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = (1, 2, 3, 5, 8, 13)
    settings.process.ultimate_exiting_timeout = None  # kopf's way is SIGKILL of the whole process
    return settings


class Handover:
    """Events of one life of kopf, in order. Put from kopf's thread, taken on the main loop.

    One wake-up of the main loop serves all events that have come by then: a wake-up is a system call on both sides.
    Once `stop` is set nothing is delivered any more: a stopped watch must not speak over its successor.
    """

    def __init__(self, store: WatchStore, main_loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        self._store = store
        self._loop = main_loop
        self._stop = stop
        self._events: deque[tuple[Kind, kopf.RawEvent, float]] = deque()  # with the monotonic time at which it was put
        self._woken = False

    def put(self, kind: Kind, event: kopf.RawEvent) -> None:
        """From any thread. RuntimeError when the main loop is closed."""
        if self._stop.is_set():
            return
        self._events.append((kind, event, time.monotonic()))
        if not self._woken:  # cleared before the queue is read: what is appended after that wakes again
            self._woken = True
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._woken = False
        try:
            for _ in range(AT_ONCE):
                if self._stop.is_set():
                    self._events.clear()
                    return
                if not self._events:
                    return
                self._deliver(*self._events.popleft())
        finally:  # also when a bug ended this turn: the events behind it are not to blame
            if self._events and not self._woken:
                self._woken = True
                self._loop.call_soon(self._take)

    def _deliver(self, kind: Kind, event: kopf.RawEvent, put_s: float) -> None:
        raw: dict[str, Any] = dict(event["object"])
        if event["type"] == "DELETED":
            self._store.watched_deletion(kind, raw)
        else:
            # No type: kopf has listed, and whatever vanished since it listened last is not told (no DELETED).
            self._store.watched(kind, raw, put_s if event["type"] is None else None)


def register(registry: kopf.OperatorRegistry, kind: Kind, handover: Handover) -> None:
    """Ask kopf for every event of the kind.

    The event is taken in the handler's filter, and the handler itself is never run: kopf spends three times as much on
    running a handler (a context, a record of its outcome, two lines of log) as on everything before it, filter included
    (measured with 1.45.2).
    """
    group, version = str(kind.model_fields["api_version"].default).split("/")

    def taken(event: kopf.RawEvent, **_: Any) -> bool:
        handover.put(kind, event)
        return False

    @kopf.on.event(group, version, kind.plural, registry=registry, id=f"lq-{kind.plural}", when=taken)
    async def never(**_: Any) -> None:
        raise AssertionError("the filter says no to everything")
