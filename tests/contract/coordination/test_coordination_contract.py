"""What every coordination backend promises, on real servers: one suite, run on Kubernetes Leases and on etcd."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import random
import signal
import subprocess
import time
from contextlib import AsyncExitStack

import pytest
from tests.contract.coordination.coordination_parts import Proxy, Site, helper, opened, tamper

from lq_operator.adapters.coordination import kubernetes_lease
from lq_operator.adapters.coordination.lease import LeaseCoordination
from lq_operator.core.result import Fenced, Transient
from lq_operator.ports import Coordination, Grant

NAME = "hosts-0"


async def renew_for(coordination: Coordination, grant: Grant, seconds: float, every_s: float = 0.8) -> Grant:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(every_s)
        try:
            grant = await coordination.renew(grant)
        except Transient:
            continue
    return grant


async def test_first_grant(site: Site) -> None:
    async with opened(site, "pod-a") as a:
        assert await a.highest_term() == (0, 0)
        before = time.monotonic()
        grant = await a.acquire(NAME)
        assert (grant.name, grant.term, grant.beat) == (NAME, 1, 1)
        assert grant.holder.startswith("pod-a_")
        assert grant.expires_mono_s < before + site.ttl_s + (time.monotonic() - before)
        assert grant.expires_mono_s > time.monotonic()
        assert await a.highest_term() == (1, 1)


async def test_same_process_name_is_not_the_same_holder(site: Site) -> None:
    async with opened(site, "pod") as a, opened(site, "pod") as b:
        await a.acquire(NAME)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(b.acquire(NAME), site.ttl_s / 2)


async def test_beat_is_counted_by_every_renewal(site: Site) -> None:
    async with opened(site) as a:
        grant = await a.acquire(NAME)
        for beat in (2, 3, 4):
            renewed = await a.renew(grant)
            assert (renewed.beat, renewed.term, renewed.holder) == (beat, grant.term, grant.holder)
            assert renewed.expires_mono_s > grant.expires_mono_s
            assert await a.highest_term() == (grant.term, beat)
            grant = renewed


async def test_expiry_gives_the_lease_to_the_next_and_not_before(site: Site) -> None:
    async with opened(site) as a, opened(site) as b:
        first = await a.renew(await a.acquire(NAME))
        second = await b.acquire(NAME)
        assert time.monotonic() > first.expires_mono_s
        assert second.term > first.term
        assert second.beat > first.beat
        assert (first.found, second.found) == ((0, 0), (first.term, first.beat))
        with pytest.raises(Fenced, match="stop acting"):
            await a.renew(first)
        assert (await b.renew(second)).beat == second.beat + 1


async def test_an_expired_grant_is_refused_even_if_nobody_took_it(site: Site) -> None:
    async with opened(site) as a:
        grant = await a.acquire(NAME)
        await asyncio.sleep(grant.expires_mono_s - time.monotonic() + 0.05)
        with pytest.raises(Fenced):
            await a.renew(grant)
        with pytest.raises(Fenced):
            await a.renew(grant)
        again = await a.acquire(NAME)
        assert again.term > grant.term
        with pytest.raises(Fenced):
            await a.renew(grant)
        await a.renew(again)


async def test_a_renewed_lease_is_never_taken(site: Site) -> None:
    async with opened(site) as a, opened(site) as b:
        grant = await a.acquire(NAME)
        waiting = asyncio.create_task(b.acquire(NAME))
        grant = await renew_for(a, grant, 2.5 * site.ttl_s)
        assert not waiting.done()
        await a.release(grant)
        assert (await asyncio.wait_for(waiting, site.ttl_s)).term > grant.term


async def test_release(site: Site) -> None:
    async with opened(site) as a, opened(site) as b:
        first = await a.acquire(NAME)
        await a.release(first)
        with pytest.raises(Fenced):
            await a.renew(first)
        second = await b.acquire(NAME)
        assert second.term > first.term
        await a.release(first)  # late, and of a lease that is another's by now
        await b.renew(second)
        await b.release(second)
        await b.release(second)


async def test_terms_rise_over_names_and_holders(site: Site) -> None:
    async with opened(site) as a, opened(site) as b:
        terms = [
            (await a.acquire("hosts-0")).term,
            (await b.acquire("scheduler")).term,
            (await a.acquire("hosts-1")).term,
            (await b.acquire("ha")).term,
        ]
        assert terms == sorted(set(terms))
        assert (await a.highest_term())[0] == terms[-1]


async def test_concurrent_terms_are_unique(site: Site) -> None:
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(opened(site)) for _ in range(6)]
        grants = await asyncio.gather(*(p.acquire(f"hosts-{n}") for n, p in enumerate(processes)))
        assert len({grant.term for grant in grants}) == 6
        assert (await processes[0].highest_term())[0] == max(grant.term for grant in grants)


async def test_above_term_is_honoured_and_stays(site: Site) -> None:
    async with opened(site) as a, opened(site) as b:
        grant = await a.acquire(NAME, above_term=41)
        assert grant.term == 42
        await a.release(grant)
        assert (await b.acquire(NAME, above_term=7)).term == 43
        assert (await a.acquire("scheduler")).term == 44


async def test_a_lost_counter_does_not_bring_terms_back(site: Site) -> None:
    async with opened(site) as a, opened(site) as b:
        first = await a.acquire(NAME, above_term=10)
        await tamper(site, "terms", delete=True)
        assert (await b.acquire("scheduler")).term > first.term
        await tamper(site, "terms", delete=True)
        await a.release(await a.renew(first))
        assert (await b.acquire(NAME)).term > first.term + 1


async def test_a_store_that_went_back_fences_the_holder(site: Site) -> None:
    async with opened(site) as a:
        grant = await a.acquire(NAME)
        for _ in range(3):
            grant = await a.renew(grant)
        await tamper(site, NAME, beat=grant.beat - 1)
        with pytest.raises(Fenced):
            await a.renew(grant)
        with pytest.raises(Fenced):
            await a.renew(grant)


async def test_a_deleted_lease_fences_the_holder(site: Site) -> None:
    async with opened(site) as a, opened(site) as b:
        grant = await a.acquire(NAME)
        await tamper(site, NAME, delete=True)
        with pytest.raises(Fenced):
            await a.renew(grant)
        assert (await b.acquire(NAME)).term > grant.term


async def test_a_wiped_store_does_not_confuse_two_holders_with_the_same_beat(site: Site) -> None:
    """Everything is forgotten and taken anew: term and beat start where the old holder's are."""
    async with opened(site) as a, opened(site) as b:
        old = await a.acquire(NAME)
        await tamper(site, NAME, delete=True)
        await tamper(site, "terms", delete=True)
        new = await b.acquire(NAME)
        assert (new.term, new.beat) == (old.term, old.beat)
        with pytest.raises(Fenced):
            await a.renew(old)
        await a.release(old)
        assert (await b.renew(new)).beat == new.beat + 1


async def test_overlapping_renewals_share_exchanges_and_old_beats_will_do(site: Site) -> None:
    async with opened(site) as a:
        grant = await a.acquire(NAME)
        renewed = await asyncio.gather(*(a.renew(grant) for _ in range(40)))
        assert {r.term for r in renewed} == {grant.term}
        assert max(r.beat for r in renewed) <= grant.beat + 3
        assert min(r.beat for r in renewed) > grant.beat
        assert (await a.renew(grant)).beat == max(r.beat for r in renewed) + 1


async def test_contenders_never_overlap(site: Site) -> None:
    """Six contenders; half of the holders vanish without release, some after renewals, some at once."""
    rng = random.Random(7)
    spans: list[tuple[float, float, int]] = []

    async def contend(coordination: LeaseCoordination, rounds: int) -> None:
        for _ in range(rounds):
            grant = await coordination.acquire(NAME)
            start = time.monotonic()
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(rng.uniform(0, 0.4))
                grant = await coordination.renew(grant)
            if rng.random() < 0.5:
                spans.append((start, time.monotonic(), grant.term))
                await coordination.release(grant)
            else:  # as if it had crashed; it may have acted until its time was over
                spans.append((start, grant.expires_mono_s, grant.term))

    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(opened(site)) for _ in range(6)]
        await asyncio.gather(*(contend(process, 2) for process in processes))
    spans.sort()
    assert len(spans) == 12
    for (_, end, term), (start, _, next_term) in itertools.pairwise(spans):
        assert start >= end
        assert next_term > term


async def _line(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    text = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
    assert text, f"helper ended with {process.poll()}"
    answer: dict[str, object] = json.loads(text)
    return answer


async def _ask_renewal(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdin is not None
    process.stdin.write("renew\n")
    process.stdin.flush()
    return await _line(process)


async def test_a_paused_holder_is_refused_afterwards(site: Site) -> None:
    with helper(site, NAME, "manual") as process:
        held = await _line(process)
        assert "beat" in await _ask_renewal(process)
        process.send_signal(signal.SIGSTOP)
        async with opened(site) as b:
            second = await b.acquire(NAME)
            assert second.term > held["term"]  # type: ignore[operator]
            process.send_signal(signal.SIGCONT)
            assert "fenced" in await _ask_renewal(process)
            assert "fenced" in await _ask_renewal(process)
            assert (await b.renew(second)).beat == second.beat + 1


async def test_a_killed_holder_is_followed(site: Site) -> None:
    with helper(site, NAME, "manual") as process:
        held = await _line(process)
        process.kill()
        async with opened(site) as b:
            second = await b.acquire(NAME)
            assert second.term > held["term"]  # type: ignore[operator]
            assert time.monotonic() > held["expires"]  # type: ignore[operator]


async def test_partition(site: Site) -> None:
    """Cut off: not known at first, fenced when the time is over; its late request changes nothing."""
    async with Proxy(site.port) as proxy:
        behind = site.at(site.url.replace(str(site.port), str(proxy.port)))
        async with opened(behind) as a, opened(site) as b:
            grant = await a.renew(await a.acquire(NAME))
            waiting = asyncio.create_task(b.acquire(NAME))
            proxy.drop()
            outcomes: list[type[Exception]] = []
            while Fenced not in outcomes:
                with pytest.raises((Transient, Fenced)) as caught:
                    await a.renew(grant)
                outcomes.append(caught.type)
            assert time.monotonic() < grant.expires_mono_s + site.ttl_s  # calls do not hang past the grant
            assert outcomes[0] is Transient
            second = await waiting
            assert time.monotonic() > grant.expires_mono_s
            second = await b.renew(second)
            proxy.heal()  # the held-back renewals arrive now
            await asyncio.sleep(0.5)
            second = await renew_for(b, second, site.ttl_s / 2)
            assert await b.highest_term() == (second.term, second.beat)
            with pytest.raises(Fenced):
                await a.renew(grant)


async def test_a_short_cut_is_survived(site: Site) -> None:
    async with Proxy(site.port) as proxy, opened(site.at(site.url.replace(str(site.port), str(proxy.port)))) as a:
        grant = await a.acquire(NAME)
        for direction in ("up", "down"):
            proxy.drop(direction)
            with pytest.raises(Transient):
                await a.renew(grant)
            proxy.heal()
            renewed = await a.renew(grant)
            assert renewed.beat > grant.beat
            assert renewed.term == grant.term
            grant = renewed


async def test_an_acquisition_whose_answer_was_lost_is_ours(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The acquiring write arrives, its answer does not: the same term is ours, and nobody waits for it to run out."""
    slow = dataclasses.replace(site, ttl_s=10.0)
    async with Proxy(site.port) as proxy, opened(slow) as b:
        behind = slow.at(site.url.replace(str(site.port), str(proxy.port)))
        async with opened(behind) as a, asyncio.timeout(60):
            make_grant = a._new_grant

            def cut_then_grant(name: str, term: int, beat: int, sent_mono_s: float) -> Grant:
                monkeypatch.setattr(a, "_new_grant", make_grant)
                proxy.drop("down")
                return make_grant(name, term, beat, sent_mono_s)

            monkeypatch.setattr(a, "_new_grant", cut_then_grant)
            waiting = asyncio.create_task(a.acquire(NAME))
            while await b.highest_term() != (1, 1):  # noqa: ASYNC110 - until the write has arrived
                await asyncio.sleep(0.05)
            await asyncio.sleep(a.timing.call_timeout_s + 0.3)  # until its call has given up
            assert not waiting.done()
            proxy.heal()
            grant = await waiting
            assert grant.term == 1
            assert grant.beat > 1
            assert (await a.renew(grant)).term == 1


async def test_acquire_waits_through_an_outage(site: Site) -> None:
    async with Proxy(site.port) as proxy:
        proxy.drop()
        async with opened(site.at(site.url.replace(str(site.port), str(proxy.port)))) as a:
            waiting = asyncio.create_task(a.acquire(NAME))
            await asyncio.sleep(site.ttl_s / 2)
            assert not waiting.done()
            proxy.heal()
            assert (await asyncio.wait_for(waiting, 3 * site.ttl_s)).name == NAME


@pytest.mark.parametrize("jump_s", [3.2e9, -1.2e9])
async def test_wall_clocks_do_not_matter(site: Site, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    """A holder whose wall clock jumps is neither robbed early nor kept late."""
    real_time = time.time
    monkeypatch.setattr(time, "time", lambda: real_time() + jump_s)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(real_time() + jump_s))
    stamps = (f"{stamp}.{n:06d}Z" if n % 2 else "2001-01-01T00:00:00.000000Z" for n in itertools.count())
    monkeypatch.setattr(kubernetes_lease, "_now", lambda: next(stamps))
    async with opened(site) as a, opened(site) as b:
        grant = await a.acquire(NAME)
        waiting = asyncio.create_task(b.acquire(NAME))
        grant = await renew_for(a, grant, 1.5 * site.ttl_s)
        assert not waiting.done()
        second = await asyncio.wait_for(waiting, 4 * site.ttl_s)
        assert time.monotonic() > grant.expires_mono_s
        assert second.term > grant.term


async def test_leader_is_told_to_those_who_wait(site: Site) -> None:
    heard: list[tuple[str, str]] = []
    async with opened(site) as a, opened(site, on_leader=lambda name, holder: heard.append((name, holder))) as b:
        grant = await a.acquire(NAME)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(b.acquire(NAME), site.ttl_s / 2)
        assert set(heard) == {(NAME, grant.holder)}


@pytest.mark.parametrize("name", ["", "terms", "Hosts", "a/b", "x" * 51, "-a"])
async def test_odd_names_are_refused(site: Site, name: str) -> None:
    async with opened(site) as a:
        with pytest.raises(ValueError, match="DNS label"):
            await a.acquire(name)
