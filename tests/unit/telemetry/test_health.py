"""Health over real HTTP, with a clock of the test's own for staleness."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lq_operator.telemetry.health import Health, HealthServer, beat_loop


class _Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def health(clock: _Clock) -> Health:
    return Health(watch_stale_s=60, loop_stuck_s=10, monotonic=clock)


@pytest.fixture
def server(health: Health) -> Iterator[HealthServer]:
    server = HealthServer(health, "127.0.0.1", 0)
    server.start()
    yield server
    server.stop()


def _get(server: HealthServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def _verdict(server: HealthServer, path: str) -> tuple[int, Any]:
    status, _, body = _get(server, path)
    return status, json.loads(body)["failures"]


def test_alive_at_birth_but_not_ready(server: HealthServer) -> None:
    assert _verdict(server, "/healthz") == (200, [])
    status, failures = _verdict(server, "/readyz")
    assert status == 503
    assert [f.split(":")[0] for f in failures] == ["caches", "leader"]


def test_ready_when_every_gate_is_open_and_back(server: HealthServer, health: Health) -> None:
    health.set_ready("caches", True)
    health.set_ready("leader", True)
    assert _verdict(server, "/readyz") == (200, [])
    health.set_ready("leader", False, "lease lost")
    assert _verdict(server, "/readyz") == (503, ["leader: lease lost"])
    assert _verdict(server, "/healthz") == (200, [])


def test_a_stale_watch_fails_liveness_and_names_the_kind(server: HealthServer, health: Health, clock: _Clock) -> None:
    health.expect_watch("VirtualMachine")
    health.expect_watch("HypervisorNode")
    clock.now_s += 59
    health.watch_seen("HypervisorNode")
    assert _verdict(server, "/healthz") == (200, [])
    clock.now_s += 2
    status, failures = _verdict(server, "/healthz")
    assert status == 503
    assert failures == ["watch VirtualMachine: nothing heard for 61 s (limit 60 s)"]
    assert _verdict(server, "/readyz")[0] == 503
    metrics_text = _get(server, "/metrics")[2].decode()
    assert 'lq_watch_staleness_seconds{kind="VirtualMachine"} 61.0' in metrics_text
    assert 'lq_watch_staleness_seconds{kind="HypervisorNode"} 2.0' in metrics_text
    health.watch_seen("VirtualMachine")
    assert _verdict(server, "/healthz") == (200, [])
    health.watch_gone("VirtualMachine")
    health.watch_gone("VirtualMachine")
    health.watch_gone("HypervisorNode")
    assert "VirtualMachine" not in _get(server, "/metrics")[2].decode()


def test_a_fatal_report_fails_liveness_until_taken_back(server: HealthServer, health: Health) -> None:
    health.set_failed("kopf", "gave up after 5 restarts")
    assert _verdict(server, "/healthz") == (503, ["kopf: gave up after 5 restarts"])
    health.set_failed("kopf", None)
    assert _verdict(server, "/healthz") == (200, [])


async def test_a_stuck_loop_is_reported_while_it_is_stuck() -> None:
    health = Health((), loop_stuck_s=0.5)
    server = HealthServer(health, "127.0.0.1", 0)
    server.start()
    beat = asyncio.create_task(beat_loop(health, "main", every_s=0.05))
    await asyncio.sleep(0.1)
    assert (await asyncio.to_thread(_verdict, server, "/healthz"))[0] == 200
    seen: list[tuple[int, Any]] = []
    prober = threading.Thread(target=lambda: seen.append((time.sleep(1.0), _verdict(server, "/healthz"))[1]))
    prober.start()
    prober.join()  # blocks this very loop, as a synchronous call in a handler would
    assert seen[0][0] == 503
    assert seen[0][1][0].startswith("event loop main: stuck")
    await asyncio.sleep(0.2)
    assert (await asyncio.to_thread(_verdict, server, "/healthz"))[0] == 200
    beat.cancel()
    await asyncio.gather(beat, return_exceptions=True)
    await asyncio.sleep(0.6)
    assert (await asyncio.to_thread(_verdict, server, "/healthz"))[0] == 200
    server.stop()


def test_metrics_content_types(server: HealthServer) -> None:
    status, headers, body = _get(server, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert b"# HELP lq_leader" in body
    _, headers, body = _get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.rstrip().endswith(b"# EOF")


def test_only_these_paths_and_methods(server: HealthServer) -> None:
    assert _get(server, "/")[0] == 404
    assert _get(server, "/healthz", "POST")[0] == 405
    assert _get(server, "/healthz", "HEAD")[0] == 200


def test_a_taken_port_is_an_error_with_the_remedy(server: HealthServer, health: Health) -> None:
    second = HealthServer(health, "127.0.0.1", server.port)
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{server.port}.*choose another"):
        second.start()
    second.stop()


def test_stop_frees_the_port(health: Health) -> None:
    first = HealthServer(health, "127.0.0.1", 0)
    first.start()
    port = first.port
    first.stop()
    first.stop()
    again = HealthServer(health, "127.0.0.1", port)
    again.start()
    assert _verdict(again, "/healthz") == (200, [])
    again.stop()


def test_components_may_feed_from_many_threads(health: Health) -> None:
    def feed(n: int) -> None:
        for i in range(300):
            health.watch_seen(f"Kind{(n + i) % 5}")
            health.set_ready(f"gate{n}", i % 2 == 1)
            health.readiness_failures()
            health.watch_gone(f"Kind{(n + i) % 5}")

    threads = [threading.Thread(target=feed, args=(n,)) for n in range(6)]
    errors: list[BaseException] = []
    threading.excepthook, before = (lambda a: errors.append(a.exc_value or RuntimeError())), threading.excepthook
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    threading.excepthook = before
    assert errors == []
