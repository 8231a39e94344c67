"""Leadership around a process, on real backends: loss, cancellation, stepping down, hangs and pauses."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import generate_latest
from tests.contract.coordination.coordination_parts import Proxy, Site, helper, opened, tamper

from lq_operator.adapters.coordination.leadership import EXIT_LEASE_LOST, Leadership, hold
from lq_operator.adapters.coordination.lease import LeaseCoordination, Timing
from lq_operator.core.result import Fenced
from lq_operator.ports import Grant
from lq_operator.telemetry import metrics

NAME = "hosts-0"


class _Main:
    """A main that runs until cancelled and remembers how it went."""

    def __init__(self, wind_down_s: float = 0.0) -> None:
        self.started: asyncio.Queue[Leadership] = asyncio.Queue()
        self.ended_mono_s: list[float] = []
        self._wind_down_s = wind_down_s

    async def __call__(self, leadership: Leadership) -> None:
        self.started.put_nowait(leadership)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(self._wind_down_s)
            self.ended_mono_s.append(time.monotonic())


def _held(
    coordination: LeaseCoordination, main: Callable[[Leadership], Awaitable[None]], exits: list[int]
) -> asyncio.Task[None]:
    return asyncio.create_task(hold(coordination, NAME, main, timing=coordination.timing, exit_process=exits.append))


async def test_it_renews_and_releases_when_main_returns(site: Site) -> None:
    async def main(leadership: Leadership) -> None:
        first = leadership.check()
        while leadership.check().beat < first.beat + 3:  # noqa: ASYNC110 - the keeper tells nobody
            await asyncio.sleep(0.05)
        assert 'lq_leader{name="hosts-0"} 1.0' in generate_latest(metrics.REGISTRY).decode()

    exits: list[int] = []
    async with opened(site) as a, opened(site) as b:
        await _held(a, main, exits)
        assert exits == []
        assert 'lq_leader{name="hosts-0"} 0.0' in generate_latest(metrics.REGISTRY).decode()
        before = time.monotonic()
        await b.acquire(NAME)
        assert time.monotonic() - before < site.ttl_s  # released: nobody had to wait for it to run out


async def test_an_error_of_main_comes_through_after_the_release(site: Site) -> None:
    async def main(_: Leadership) -> None:
        raise LookupError("mine")

    exits: list[int] = []
    async with opened(site) as a, opened(site) as b:
        with pytest.raises(LookupError, match="mine"):
            await _held(a, main, exits)
        assert exits == []
        await asyncio.wait_for(b.acquire(NAME), site.ttl_s)


async def test_cancelled_it_ends_main_under_the_lease_then_releases(site: Site) -> None:
    main, exits = _Main(wind_down_s=2 * site.ttl_s), []
    async with opened(site) as a, opened(site) as b:
        held = _held(a, main, exits)
        await main.started.get()
        follower = asyncio.create_task(b.acquire(NAME))
        held.cancel()
        second = await follower
        assert main.ended_mono_s, "the next holder came while main was still winding down"
        assert second.expires_mono_s > main.ended_mono_s[0]
        with pytest.raises(asyncio.CancelledError):
            await held
        assert exits == []


async def test_cancelled_while_waiting(site: Site) -> None:
    async with opened(site) as a, opened(site) as b:
        await a.acquire(NAME)
        held = _held(b, _Main(), [])
        await asyncio.sleep(0.3)
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held


async def test_a_lost_lease_exits_at_once_without_waiting_for_main(site: Site) -> None:
    main, exits = _Main(wind_down_s=0.5), []
    async with opened(site) as a:
        held = _held(a, main, exits)
        leadership = await main.started.get()
        await tamper(site, NAME, delete=True)
        with pytest.raises(Fenced):
            await held
        assert exits[0] == EXIT_LEASE_LOST
        with pytest.raises(Fenced):
            await leadership.renew()


async def test_a_partition_exits_when_the_time_is_over(site: Site) -> None:
    main, exits = _Main(), []
    async with Proxy(site.port) as proxy, opened(site.at(site.url.replace(str(site.port), str(proxy.port)))) as a:
        held = _held(a, main, exits)
        leadership = await main.started.get()
        proxy.drop()
        await asyncio.sleep(0)
        with pytest.raises(Fenced):
            await held
        assert exits[0] == EXIT_LEASE_LOST
        assert time.monotonic() >= leadership.grant.expires_mono_s
        with pytest.raises(Fenced):
            leadership.check()
        proxy.heal()


async def test_a_short_outage_is_survived(site: Site) -> None:
    main, exits = _Main(), []
    async with Proxy(site.port) as proxy, opened(site.at(site.url.replace(str(site.port), str(proxy.port)))) as a:
        held = _held(a, main, exits)
        leadership = await main.started.get()
        beat = (await leadership.renew()).beat
        proxy.drop()
        await asyncio.sleep(site.ttl_s / 3)
        proxy.heal()
        await asyncio.sleep(site.ttl_s)
        assert leadership.check().beat > beat
        assert exits == []
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)


async def test_stepping_down_starts_main_again_above_the_foreign_term(site: Site) -> None:
    main, exits = _Main(wind_down_s=0.2), []
    async with opened(site) as a:
        held = _held(a, main, exits)
        first = await main.started.get()
        term = first.grant.term
        first.step_down(term + 17)
        first.step_down(term + 3)
        with pytest.raises(Fenced, match="stepping down"):
            first.check()
        second = await asyncio.wait_for(main.started.get(), 2 * site.ttl_s)
        assert second.grant.term == term + 18
        assert len(main.ended_mono_s) == 1
        with pytest.raises(Fenced):
            await first.renew()
        assert (await second.renew()).term == term + 18
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        assert exits == []


async def _line(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    text = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
    answer: dict[str, object] = json.loads(text)
    return answer


async def test_a_hung_event_loop_ends_the_process(site: Site) -> None:
    with helper(site, NAME, "hang") as process:
        await _line(process)
        assert "hanging" in await _line(process)
        async with opened(site) as b:
            second = asyncio.create_task(b.acquire(NAME))
            assert await asyncio.to_thread(process.wait, 60) == EXIT_LEASE_LOST
            assert not second.done()
            await second


async def test_a_paused_process_exits_when_it_wakes(site: Site) -> None:
    with helper(site, NAME, "lead") as process:
        held = await _line(process)
        process.send_signal(signal.SIGSTOP)
        async with opened(site) as b:
            second = await b.acquire(NAME)
            assert second.term > held["term"]  # type: ignore[operator]
            process.send_signal(signal.SIGCONT)
            assert await asyncio.to_thread(process.wait, 60) == EXIT_LEASE_LOST
            await b.renew(second)


def test_timing_keeps_its_promises() -> None:
    timing = Timing(15.0)
    assert timing.valid_s < timing.ttl_s
    # A renewal that fails whole leaves room for one more call inside the grant.
    assert timing.renew_every_s + 1.5 * timing.call_timeout_s < timing.valid_s
    with pytest.raises(ValueError, match="at least 1 s"):
        Timing(0.5)


async def test_a_fault_of_the_keeper_itself_ends_leadership_too() -> None:
    """Whatever stops the renewals, the process must not run on without them."""

    class Faulty:
        async def acquire(self, name: str, above_term: int = 0) -> Grant:
            return Grant(name, "me", above_term + 1, 1, time.monotonic() + 60)

        async def renew(self, grant: Grant) -> Grant:
            raise ZeroDivisionError("a bug")

        async def release(self, grant: Grant) -> None:
            return None

        async def highest_term(self) -> tuple[int, int]:
            return 0, 0

    exits: list[int] = []
    with pytest.raises(Fenced, match="a bug"):
        await hold(Faulty(), NAME, _Main(), timing=Timing(1.0), exit_process=exits.append)
    assert exits[0] == EXIT_LEASE_LOST
