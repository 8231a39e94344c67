"""Calls without a deadline: bounded in number, never in anybody's way, unknown once the host is given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lq_operator.adapters.libvirt.movelane import MoveLane
from lq_operator.adapters.libvirt.settings import LibvirtSettings
from lq_operator.core.model import HostUUID
from lq_operator.core.result import OutcomeUnknown, Rejected, Transient


class _Wire:
    def __init__(self) -> None:
        self.was_cut = threading.Event()

    def cut(self) -> None:
        self.was_cut.set()


class _Connection:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Lane(MoveLane):
    """A lane whose connections need no host."""

    def __init__(self, limit: int = 2) -> None:
        settings = LibvirtSettings(move_connections=limit)
        super().__init__("h1", asyncio.get_running_loop(), None, HostUUID("u"), settings)  # type: ignore[arg-type]
        self.conns: list[_Connection] = []
        self.wires: list[_Wire] = []
        self.may_open = threading.Event()
        self.may_open.set()

    def new_wire(self) -> Any:
        self.wires.append(_Wire())
        return self.wires[-1]

    def open(self, wire: Any) -> Any:
        del wire
        assert self.may_open.wait(20)
        self.conns.append(_Connection())
        return self.conns[-1]


@pytest.fixture
def hold() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def _begun(lane: Lane, count: int) -> None:
    async with asyncio.timeout(20):
        while len(lane.conns) < count:  # noqa: ASYNC110 - threads do not tell
            await asyncio.sleep(0.01)


async def test_a_call_has_its_own_connection_and_gives_it_back() -> None:
    lane = Lane()
    assert await lane.run("move", lambda conn: conn is lane.conns[0], about="vm")
    assert lane.conns[0].closed.is_set()


async def test_no_more_than_the_limit_at_once(hold: threading.Event) -> None:
    lane = Lane(2)
    calls = [asyncio.create_task(lane.run("move", lambda _: hold.wait(20), about=f"vm{n}")) for n in range(2)]
    await _begun(lane, 2)
    with pytest.raises(Transient, match="2 moves are under way"):
        await lane.run("move", lambda _: None, about="vm3")
    hold.set()
    assert await asyncio.gather(*calls) == [True, True]
    assert await lane.run("move", lambda _: "now", about="vm3") == "now"


async def test_errors_of_the_call_are_raised() -> None:
    def refuse(_: Any) -> None:
        raise Rejected("not this one")

    with pytest.raises(Rejected, match="not this one"):
        await Lane().run("move", refuse, about="vm")


async def test_a_host_that_is_given_up_leaves_the_outcome_unknown(hold: threading.Event) -> None:
    lane = Lane()
    call = asyncio.create_task(lane.run("move", lambda _: hold.wait(20), about="vm"))
    await _begun(lane, 1)
    async with asyncio.timeout(20):
        while not lane._jobs or not next(iter(lane._jobs))._sent:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    lane.die("no keepalive answer")
    with pytest.raises(OutcomeUnknown, match="no keepalive answer"):
        await call
    assert await asyncio.to_thread(lane.wires[0].was_cut.wait, 20)  # so that its thread leaves libvirt
    with pytest.raises(Transient):
        await lane.run("move", lambda _: None, about="vm")


async def test_what_was_not_asked_yet_is_never_asked(hold: threading.Event) -> None:
    lane = Lane()
    lane.may_open.clear()
    asked = threading.Event()
    call = asyncio.create_task(lane.run("move", lambda _: asked.set(), about="vm"))
    await asyncio.sleep(0.01)
    lane.die("the host closed the connection")
    with pytest.raises(Transient):
        await call
    lane.may_open.set()
    await _begun(lane, 1)
    assert await asyncio.to_thread(lane.conns[0].closed.wait, 20)
    assert not asked.is_set()


async def test_whoever_stops_waiting_leaves_the_call_to_itself(hold: threading.Event) -> None:
    lane = Lane(1)
    call = asyncio.create_task(lane.run("move", lambda _: hold.wait(20), about="vm"))
    await _begun(lane, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(Transient, match="1 moves"):
        await lane.run("move", lambda _: None, about="vm2")
    hold.set()
    async with asyncio.timeout(20):
        while lane._jobs:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await lane.run("move", lambda _: "free", about="vm2") == "free"
