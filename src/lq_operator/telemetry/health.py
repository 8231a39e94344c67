"""Whether this process is alive and ready, and the HTTP server that says so (/healthz, /readyz, /metrics).

The server runs in a thread and loop of its own: when the main loop hangs, the probe answers 503 with the name of
what hangs instead of timing out, and metrics can still be read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import threading
import time
from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from lq_operator.telemetry import metrics

WATCH_STALE_S = 180.0
"""kopf ends a silent watch after 70 s (bookmarks come every minute), so three minutes is two missed chances."""

LOOP_STUCK_S = 20.0
READY_GATES = ("caches", "leader")

DebugPage = Callable[[str], bytes | None]
"""The rest of the path after its name ('' for none) -> JSON, None for 404. Called in the server's thread."""


class Health:
    """What components feed, from any thread; reads are cheap enough for a probe every second.

    `gates` are the names that must be set ready before /readyz says yes. Times are seconds by the monotonic clock.
    """

    def __init__(
        self,
        gates: Iterable[str] = READY_GATES,
        *,
        watch_stale_s: float = WATCH_STALE_S,
        loop_stuck_s: float = LOOP_STUCK_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch_stale_s = watch_stale_s
        self._loop_stuck_s = loop_stuck_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._watches: dict[str, float] = {}
        self._loops: dict[str, float] = {}
        self._gates: dict[str, tuple[bool, str]] = dict.fromkeys(gates, (False, "not reported yet"))
        self._fatal: dict[str, str] = {}

    def expect_watch(self, kind: str) -> None:
        """Count the silence of this watch from now on; a watch that never says anything is stale too."""
        self.watch_seen(kind)

    def watch_seen(self, kind: str) -> None:
        """An event, a bookmark or a completed listing of this kind has arrived."""
        with self._lock:
            known = kind in self._watches
            self._watches[kind] = self._monotonic()
        if not known:
            metrics.WATCH_STALENESS_SECONDS.labels(kind).set_function(lambda: self.watch_staleness_s(kind))

    def watch_gone(self, kind: str) -> None:
        """This kind is no longer watched, by intention."""
        with self._lock:
            known = self._watches.pop(kind, None) is not None
        if known:
            metrics.WATCH_STALENESS_SECONDS.remove(kind)

    def watch_staleness_s(self, kind: str) -> float:
        """Seconds since anything was heard of this kind; 0.0 for a kind that is not watched."""
        with self._lock:
            seen = self._watches.get(kind)
        return 0.0 if seen is None else self._monotonic() - seen

    def loop_seen(self, name: str = "main") -> None:
        """This event loop has just run a callback."""
        with self._lock:
            self._loops[name] = self._monotonic()

    def loop_gone(self, name: str = "main") -> None:
        """This event loop ends by intention."""
        with self._lock:
            self._loops.pop(name, None)

    def set_ready(self, name: str, ready: bool, reason: str = "") -> None:
        """Open or close a gate of /readyz; an unknown name becomes a gate."""
        with self._lock:
            self._gates[name] = (ready, reason)

    def set_failed(self, name: str, reason: str | None) -> None:
        """Something that only a restart mends (None takes it back): /healthz fails and says it."""
        with self._lock:
            if reason is None:
                self._fatal.pop(name, None)
            else:
                self._fatal[name] = reason

    def liveness_failures(self) -> list[str]:
        """Why this process should be restarted; empty when it should not."""
        now = self._monotonic()
        with self._lock:
            watches, loops, fatal = dict(self._watches), dict(self._loops), dict(self._fatal)
        failures = [
            f"watch {kind}: nothing heard for {now - seen:.0f} s (limit {self._watch_stale_s:.0f} s)"
            for kind, seen in sorted(watches.items())
            if now - seen > self._watch_stale_s
        ]
        failures += [
            f"event loop {name}: stuck for {now - seen:.0f} s (limit {self._loop_stuck_s:.0f} s)"
            for name, seen in sorted(loops.items())
            if now - seen > self._loop_stuck_s
        ]
        return failures + [f"{name}: {reason}" for name, reason in sorted(fatal.items())]

    def readiness_failures(self) -> list[str]:
        """What is still missing before this process does its work; includes every liveness failure."""
        with self._lock:
            gates = dict(self._gates)
        waiting = [f"{name}: {reason or 'not ready'}" for name, (ready, reason) in sorted(gates.items()) if not ready]
        return waiting + self.liveness_failures()


async def beat_loop(health: Health, name: str = "main", every_s: float = 1.0) -> None:
    """Report the running loop as alive until cancelled; start it once in each loop that matters."""
    try:
        while True:
            health.loop_seen(name)
            await asyncio.sleep(every_s)
    finally:
        health.loop_gone(name)


class HealthServer:
    """HTTP on `host`:`port` (0 picks a free one, see `port` after `start`) in a daemon thread of its own."""

    def __init__(self, health: Health, host: str, port: int, registry: CollectorRegistry = metrics.REGISTRY) -> None:
        self._health = health
        self._host = host
        self._wanted_port = port
        self._registry = registry
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._bound = threading.Event()
        self._error: OSError | None = None
        self._debug: dict[str, DebugPage] = {}
        self.port = port

    def serve_debug(self, name: str, page: DebugPage | None) -> None:
        """Answer GET /debug/NAME and /debug/NAME/REST from this machine (None: no longer). See DebugPage."""
        if page is None:
            self._debug.pop(name, None)
        else:
            self._debug[name] = page

    def start(self) -> None:
        """Bind and serve; returns when requests are answered. Raises OSError when the address cannot be bound."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="lq-health", daemon=True)
        self._thread.start()
        self._bound.wait()
        if self._error is not None:
            raise OSError(
                self._error.errno,
                f"cannot serve health and metrics on {self._host}:{self._wanted_port} ({self._error.strerror}); "
                "choose another address or port",
            )

    def stop(self) -> None:
        """Close the listening socket and end the thread; does nothing when it is not running."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=5)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/debug/{name}", self._debugged)
        app.router.add_get("/debug/{name}/{rest}", self._debugged)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        try:
            await runner.setup()
            await web.TCPSite(runner, self._host, self._wanted_port).start()
            self.port = runner.addresses[0][1]
            self._bound.set()
            await self._stop.wait()
        except OSError as error:
            self._error = error
        finally:
            self._bound.set()
            await runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _verdict(self._health.liveness_failures())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _verdict(self._health.readiness_failures())

    async def _debugged(self, request: web.Request) -> web.Response:
        # They name VMs and hosts of everybody, and the port is open to whoever scrapes metrics.
        if request.remote is None or not ipaddress.ip_address(request.remote.partition("%")[0]).is_loopback:
            return web.Response(status=403, text="from this machine only: use kubectl port-forward\n")
        page = self._debug.get(request.match_info["name"])
        body = page(request.match_info.get("rest", "")) if page is not None else None
        if body is None:
            return web.Response(status=404, text="not found, or no longer kept\n")
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


def _verdict(failures: list[str]) -> web.Response:
    return web.json_response(
        {"ok": not failures, "failures": failures},
        status=503 if failures else 200,
        headers={"Cache-Control": "no-store"},
    )
