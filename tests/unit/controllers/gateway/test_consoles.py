"""Fan-out of one console: who types, what latecomers get, what slow readers lose, and that it opens again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from tests.sim.fakes.clock import FakeClock
from tests.sim.fakes.consoles import FakeConsole

from lq_operator.controllers.gateway.consoles import MOST_WAITING_BYTES, Hub, Hubs, Mode, Reader, Said
from lq_operator.controllers.gateway.guests import Guest
from lq_operator.core.result import Conflict, Transient, WorldError


@dataclass
class OneGuest:
    """Guests with one VM whose consoles the test makes; `problem` instead of the guest."""

    problem: WorldError | None = None
    opened: list[FakeConsole] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, namespace: str, name: str) -> AsyncIterator[Guest]:
        if self.problem is not None:
            raise self.problem
        yield Guest(cast("Any", self), "h1", f"lq_{namespace}_{name}")

    async def open_console(self, domain_name: str) -> FakeConsole:
        self.opened.append(FakeConsole(domain_name))
        return self.opened[-1]


def hub_of(guests: OneGuest, clock: FakeClock, history: int = 64) -> Hub:
    return Hub("ns", "web", cast("Any", guests), clock, history)


def said(reader: Reader) -> list[Said]:
    """What waits for it."""
    return list(reader._waiting)


def roles(reader: Reader) -> list[str]:
    return [one.message for one in said(reader) if one.state == "role"]


def seated(hub: Hub, who: str, mode: Mode = "write") -> Reader:
    reader = Reader(who, mode)
    hub.join(reader)
    return reader


def test_one_types_until_another_takes_it() -> None:
    hub = hub_of(OneGuest(), FakeClock())
    ann, bob = seated(hub, "ann"), seated(hub, "bob")
    assert (ann.writes, bob.writes) == (True, False)
    assert "ann types" in roles(bob)[0]
    eve = seated(hub, "eve", "take")
    assert (ann.writes, eve.writes) == (False, True)
    assert "eve took the keyboard" in roles(ann)[-1]
    hub.leave(eve)
    hub.leave(eve)
    assert seated(hub, "dan").writes


def test_sharing_needs_both() -> None:
    hub = hub_of(OneGuest(), FakeClock())
    ann, bob = seated(hub, "ann", "share"), seated(hub, "bob", "share")
    assert ann.writes
    assert bob.writes
    assert not seated(hub, "eve").writes
    other = hub_of(OneGuest(), FakeClock())
    seated(other, "ann")
    assert not seated(other, "bob", "share").writes
    assert not seated(other, "eve", "read").writes


def test_a_latecomer_gets_the_last_bytes_only() -> None:
    hub = hub_of(OneGuest(), FakeClock(), history=8)
    hub._printed(b"0123456789")
    assert said(seated(hub, "ann"))[0] == Said(b"23456789")


def test_a_slow_reader_loses_its_oldest_bytes_and_is_told() -> None:
    hub = hub_of(OneGuest(), FakeClock())
    slow = seated(hub, "ann", "read")
    for _ in range(3):
        hub._printed(b"x" * (MOST_WAITING_BYTES // 2))
    assert slow._bytes <= MOST_WAITING_BYTES
    assert said(slow)[0].state == "lost"


async def test_bytes_that_wait_come_together_and_sentences_apart() -> None:
    reader = Reader("ann", "read")
    for part in (Said(b"a"), Said(b"b"), Said(state="open", message="m"), Said(b"c")):
        reader.put(part)
    assert [await reader.next() for _ in range(3)] == [Said(b"ab"), Said(state="open", message="m"), Said(b"c")]
    assert reader._bytes == 0


async def test_it_opens_again_and_says_why_it_was_away() -> None:
    clock, guests = FakeClock(), OneGuest(problem=Conflict("vm/web does not run: it is Stopped"))
    hub = hub_of(guests, clock)
    reader = seated(hub, "ann")
    task = asyncio.ensure_future(hub.run())
    await clock.advance(2.5)
    await hub.type(reader, b"lost")
    guests.problem = None
    await clock.advance(1.5)
    await hub.type(reader, b"uname\r")
    await clock.settle()
    assert b"uname" in b"".join(one.data for one in said(reader))
    guests.opened[0].end()
    guests.problem = Transient("host h1 does not answer")
    await clock.advance(1.5)
    states = [one.state for one in said(reader) if one.state and one.state != "role"]
    assert states == ["waiting", "waiting", "lost", "open", "waiting", "unreachable"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_hub_lives_while_somebody_reads_and_a_little_longer() -> None:
    clock, guests = FakeClock(), OneGuest()
    hubs = Hubs(cast("Any", guests), clock, 64)
    async with hubs.joined("ns", "web", Reader("ann", "write")) as first:
        await clock.advance(1)
        async with hubs.joined("ns", "web", Reader("bob", "read")) as second:
            assert second is first
        assert len(guests.opened) == 1
    await clock.advance(5)
    async with hubs.joined("ns", "web", Reader("ann", "write")) as again:
        assert again is first
    await clock.advance(12)
    assert guests.opened[0].over
    async with hubs.joined("ns", "web", Reader("ann", "write")) as new:
        assert new is not first
    await hubs.close()
