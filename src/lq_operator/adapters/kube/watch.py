"""Keeps a WatchStore fed: kopf lists, watches and reconnects in a thread of its own; we list now and then to check it.

Owns kopf and its supervision. Refuses everything else of kopf: no change handlers, finalizers, annotations, peering.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kopf

from lq_operator.adapters.kube.client import KubeResources
from lq_operator.adapters.kube.endpoint import Endpoint
from lq_operator.adapters.kube.handover import Handover, register, watch_settings
from lq_operator.adapters.kube.store import Kind, WatchStore
from lq_operator.core.result import WorldError
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

RELIST_S = 120.0
"""Between two checking lists. 5 000 objects of 1 kB are some 5 MB per list."""
PROBE_S = 10.0
"""Between two looks at the API server's present version: how long a restored etcd or a new API server stays unseen."""
HASTY_RELIST_S = 2.0
"""Least time between two lists of one kind, however great the doubt."""
HEALTHY_RUN_S = 60.0
"""A watch that ran this long was no failure in a row."""
BACKOFF_CAP_S = 30.0
STOP_S = 25.0
LEAVE_S = 10.0
DEAF_S = 15.0
"""The watch may lag this far behind a list before it counts as deaf (it then is started anew)."""

log = get_logger(__name__)


class KubeWatch:
    """One watch over the kinds of a store. start() returns when the store is synced; stop() before closing the loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        resources: KubeResources,
        store: WatchStore,
        *,
        on_fatal: Callable[[str], None],
        relist_s: float = RELIST_S,
        probe_s: float = PROBE_S,
        failures_allowed: int = 8,
        deaf_s: float = DEAF_S,
    ) -> None:
        self._endpoint = endpoint
        self._resources = resources
        self._store = store
        self._on_fatal = on_fatal
        self._relist_s = relist_s
        self._probe_s = probe_s
        self._probe_failed = False
        self._failures_allowed = failures_allowed
        self._deaf_s = deaf_s
        self._doubted: set[Kind] = set()
        self._doubt = asyncio.Event()
        self._listed_s: dict[Kind, float] = {}
        self._owing_since_s: dict[Kind, float] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._restart = asyncio.Event()
        self._stopping = False
        self.restarts = 0
        store.on_doubt(self.doubt)

    async def start(self) -> None:
        """List every kind (retried until the API server answers), then watch. Rejected when a kind cannot be listed."""
        backoff_s = 0.5
        for kind in self._store.kinds:
            while not await self._list_once(kind):
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_CAP_S)
        self._tasks = [
            asyncio.create_task(self._relist_loop(), name="kube-relist"),
            asyncio.create_task(self._supervise(), name="kube-watch"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Stop listing and end kopf."""
        self._stopping = True
        self._restart.set()
        for task in self._tasks:
            if task.get_name() == "kube-relist":
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Neither ends by itself, except when it was fatal already: a watch without them goes deaf without a word.
        if self._stopping:
            return
        if task.cancelled():
            self._on_fatal(f"{task.get_name()} was cancelled")
        elif (error := task.exception()) is not None:
            log.error("a bug ended the watch", task=task.get_name(), exc_info=error)
            self._on_fatal(f"{task.get_name()} ended: {type(error).__name__}: {error}")

    def doubt(self, kind: Kind) -> None:
        """Ask for a list of the kind soon."""
        if kind not in self._doubted:
            self._doubted.add(kind)
            self._doubt.set()

    # ---------------------------------------------------------------- the checking list

    async def _list_once(self, kind: Kind) -> bool:
        doubted = kind in self._doubted
        self._doubted.discard(kind)  # before it is sent: what is doubted meanwhile, this list may not show
        ticket = self._store.begin_list(kind)
        try:
            listing = await self._resources.list_raw(kind)
        except WorldError as error:
            log.warning("cannot list", kind=kind.kind_name, error=str(error))
            if doubted:
                self._doubted.add(kind)
            return False
        self._listed_s[kind] = time.monotonic()
        if self._store.listed(ticket, listing) is not None:
            # A watch from the other history may wait for ever at a version that will not come.
            self._doubted.update(other for other in self._store.kinds if other is not kind)
            self._restart_watch("went-back")
        return True

    async def _relist_loop(self) -> None:
        probed_s = -self._probe_s
        while True:
            await self._wait_for_doubt(self._probe_s)
            if time.monotonic() - probed_s >= min(self._probe_s, HASTY_RELIST_S):  # doubts may come by the hundred
                await self._probe()
                probed_s = time.monotonic()
            self._store.doubt_debts()
            now_s = time.monotonic()
            for kind in self._store.kinds:
                age_s = now_s - self._listed_s.get(kind, 0.0)
                due_s = HASTY_RELIST_S if kind in self._doubted else self._relist_s
                if age_s >= due_s:
                    await self._list_once(kind)
                self._check_deaf(kind)

    async def _probe(self) -> None:
        # A watch that waits for a version which a restored etcd will not reach for hours is silent, not broken.
        known_before = self._store.highest_version
        try:
            version = await self._resources.current_version(self._store.kinds[0])
        except WorldError:
            self._probe_failed = True
            return
        if self._probe_failed or (version.isdigit() and int(version) < known_before):
            self._probe_failed = False
            self._doubted.update(self._store.kinds)  # deletions of an outage are told to nobody

    async def _wait_for_doubt(self, longest_s: float) -> None:
        if self._doubted:
            longest_s = min(longest_s, HASTY_RELIST_S)
        self._doubt.clear()
        try:
            await asyncio.wait_for(self._doubt.wait(), longest_s)
        except TimeoutError:
            return

    def _check_deaf(self, kind: Kind) -> None:
        # kopf has had watches that ended without a word (its #1145, #1276): what a list shows, the watch must
        # deliver too, or it is started anew.
        if not self._store.undelivered(kind):
            self._owing_since_s.pop(kind, None)
            return
        since_s = self._owing_since_s.setdefault(kind, time.monotonic())
        if time.monotonic() - since_s > self._deaf_s:
            log.warning("the watch is deaf", kind=kind.kind_name, undelivered=self._store.undelivered(kind))
            self._owing_since_s.clear()
            self._restart_watch("deaf")

    def _restart_watch(self, cause: str) -> None:
        metrics.WATCH_RESTARTS.labels(cause=cause).inc()
        self._restart.set()

    # ---------------------------------------------------------------- supervising kopf

    async def _supervise(self) -> None:
        failures = 0
        while not self._stopping:
            self._restart.clear()
            started_s = time.monotonic()
            error = await self._run_watch()
            if self._stopping:
                return
            self.restarts += 1
            for kind in self._store.kinds:
                self.doubt(kind)  # whatever happened in between
            if error is None:
                continue  # asked for
            metrics.WATCH_RESTARTS.labels(cause="ended").inc()
            failures = 1 if time.monotonic() - started_s > HEALTHY_RUN_S else failures + 1
            log.warning("the watch ended; starting it again", error=error, failures=failures)
            if failures > self._failures_allowed and await self._api_answers():
                self._on_fatal(f"the watch failed {failures} times in a row, last: {error}")
                return
            await asyncio.sleep(min(0.5 * 2**failures, BACKOFF_CAP_S))

    async def _api_answers(self) -> bool:
        # While the API server is away, a new process would do no better than this one.
        try:
            await self._resources.list_raw(self._store.kinds[0])
        except WorldError:
            return False
        return True

    async def _run_watch(self) -> str | None:
        """One life of kopf, in a thread of its own (two kopf operators in one loop kill each other's tasks).

        Returns why it ended, or None when it was stopped because of `_restart`.
        """
        stop = threading.Event()
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kube-watch")
        work = _watch(self._endpoint, self._store, asyncio.get_running_loop(), stop)
        ended: asyncio.Future[None] = asyncio.wrap_future(executor.submit(_live, work))
        asked = asyncio.create_task(self._restart.wait())
        waiting: set[asyncio.Future[Any]] = {asked, ended}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                error = ended.exception()
                return f"{type(error).__name__}: {error}" if error else "kopf ended by itself"
            stop.set()
            await asyncio.wait({ended}, timeout=STOP_S)
            return None
        finally:
            stop.set()
            asked.cancel()
            executor.shutdown(wait=False)


_left_behind: list[tuple[asyncio.AbstractEventLoop, set[asyncio.Task[Any]]]] = []
"""Kept for ever: a collected task would run its clean-up in whatever thread the collector happens to be in."""


def _live(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` in a loop of its own and leave that loop even when tasks in it refuse to end."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(work)
    finally:
        left = asyncio.all_tasks(loop)
        deadline_s = time.monotonic() + LEAVE_S
        while left and time.monotonic() < deadline_s:
            for task in left:  # again and again: kopf's retries swallow single cancellations
                task.cancel()
            loop.run_until_complete(asyncio.wait(left, timeout=0.5))
            left = asyncio.all_tasks(loop)
        if left:
            log.warning("left tasks behind", tasks=sorted(task.get_name() for task in left))
            _left_behind.append((loop, left))
        else:
            loop.close()


async def _watch(
    endpoint: Endpoint, store: WatchStore, main_loop: asyncio.AbstractEventLoop, stop: threading.Event
) -> None:
    registry = kopf.OperatorRegistry()
    handover = Handover(store, main_loop, stop)
    for kind in store.kinds:
        register(registry, kind, handover)

    @kopf.on.login(registry=registry, id="lq-login")
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await endpoint.kopf_connection()

    tasks = await kopf.spawn_tasks(
        registry=registry, settings=watch_settings(), clusterwide=True, standalone=True, stop_flag=stop
    )
    # None of them ends while the operator is well. kopf.operator() itself would wait here for ever after a failure:
    # the watchers of the other kinds swallow their cancellation while they wait for a login that nobody serves any
    # more ("Hung tasks are not stopped", measured with 1.45.2 for a watch that was answered 401, 404 or 410).
    ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.wait(tasks, timeout=LEAVE_S)
    for task in ended:
        task.result()
