"""Moves between machines in memory, in the ways that no real host can be made to do at will (power, freezing, stalling).

What both worlds can do is in tests/contract/host/test_host_moves.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.contract.host.pairs import H1, H2, MemoryPair, Trip
from tests.sim.fakes.clock import FakeClock

from lq_operator.core.result import OutcomeUnknown, Rejected, Transient


@pytest.fixture
async def trip() -> AsyncIterator[Trip]:
    pair = MemoryPair()
    made = Trip(pair, await pair.connected(H1), await pair.connected(H2))
    await made.prepare()
    await made.begin()
    yield made
    await pair.close()


def world(trip: Trip) -> MemoryPair:
    assert isinstance(trip.pair, MemoryPair)
    return trip.pair


def runs_on(pair: MemoryPair) -> list[str]:
    return [str(name) for name, machine in pair.datacenter.machines.items() if machine.running()]


async def _stalled(trip: Trip) -> asyncio.Task[object]:
    """The source's libvirtd sits on the move, and the caller has lost its connection (trace 5 of the protocol)."""
    pair = world(trip)
    pair.datacenter.moves.stalled.add(H1)
    moving: asyncio.Task[object] = asyncio.ensure_future(trip.source.move(trip.plan()))
    await pair.clock.advance(2.0)
    pair.datacenter.cut(H1)
    await pair.clock.advance(10.0)
    with pytest.raises(OutcomeUnknown):
        await moving
    pair.datacenter.restore(H1)
    return moving


async def test_a_move_that_everybody_gave_up_arrives_late(trip: Trip) -> None:
    await _stalled(trip)
    assert runs_on(world(trip)) == ["h1"]
    world(trip).datacenter.moves.stalled.clear()
    await world(trip).clock.advance(30.0)
    assert runs_on(world(trip)) == ["h2"]


async def test_without_its_ticket_it_never_does(trip: Trip) -> None:
    await _stalled(trip)
    await trip.target.delete_volume(trip.gates.name, "ticket-1")
    world(trip).datacenter.moves.stalled.clear()
    await world(trip).clock.advance(30.0)
    assert runs_on(world(trip)) == ["h1"]
    assert await trip.state(trip.target) == "absent"


async def test_the_target_loses_its_power_midway(trip: Trip) -> None:
    moving = await trip.slow()
    world(trip).datacenter.power_off(H2)
    with pytest.raises(Transient):
        await trip.pair.wait(moving)
    assert runs_on(world(trip)) == ["h1"]


async def test_the_source_loses_its_power_midway(trip: Trip) -> None:
    moving = await trip.slow()
    world(trip).datacenter.power_off(H1)
    with pytest.raises(OutcomeUnknown):
        await trip.pair.wait(moving)
    assert runs_on(world(trip)) == []
    assert await trip.state(trip.target) == "absent"


async def test_a_host_that_thaws_in_time_goes_on_and_later_it_is_over(trip: Trip) -> None:
    pair = world(trip)
    moving = await trip.slow()
    pair.datacenter.freeze(H2)
    await pair.clock.advance(5.0)
    pair.datacenter.restore(H2)
    await trip.pair.wait(moving)
    assert runs_on(pair) == ["h2"]


async def test_a_host_that_stays_frozen_breaks_it_off(trip: Trip) -> None:
    pair = world(trip)
    moving = await trip.slow()
    pair.datacenter.freeze(H2)
    with pytest.raises(Transient):
        await trip.pair.wait(moving)
    assert runs_on(pair) == ["h1"]
    pair.datacenter.restore(H2)
    await pair.clock.advance(10.0)
    assert runs_on(pair) == ["h1"]
    assert await trip.state(await pair.connected(H2)) == "absent"


async def test_hosts_that_lose_each_other_break_it_off(trip: Trip) -> None:
    pair = world(trip)
    moving = await trip.slow()
    pair.datacenter.moves.apart.add(frozenset((H1, H2)))
    with pytest.raises(Transient):
        await trip.pair.wait(moving)
    assert (runs_on(pair), await trip.state(trip.target)) == (["h1"], "absent")


async def test_a_move_sent_to_a_frozen_source_begins_when_it_thaws(trip: Trip) -> None:
    pair = world(trip)
    pair.datacenter.freeze(H1)
    moving = asyncio.ensure_future(trip.source.move(trip.plan()))
    await pair.clock.advance(20.0)
    with pytest.raises(OutcomeUnknown):
        await moving
    pair.datacenter.restore(H1)
    await pair.clock.advance(20.0)
    assert runs_on(pair) == ["h2"]


async def test_post_copy_that_breaks_leaves_nobody_running(trip: Trip) -> None:
    pair = world(trip)
    moving = await trip.slow(post_copy=True)
    await trip.source.start_post_copy(trip.name)
    assert runs_on(pair) == ["h2"]
    pair.datacenter.power_off(H2)
    with pytest.raises(Transient):
        await trip.pair.wait(moving)
    assert (runs_on(pair), await trip.state(trip.source)) == ([], "Paused postcopy-failed")


async def test_a_copy_of_the_world_carries_the_move_on_by_itself(trip: Trip) -> None:
    pair = world(trip)
    moving = await trip.slow()
    clock = FakeClock()
    twin = pair.datacenter.copy(clock)
    await trip.source.cancel_move(trip.name)
    with pytest.raises(Transient):
        await trip.pair.wait(moving)
    await clock.advance(20.0)
    assert [name for name, machine in twin.machines.items() if machine.running()] == ["h2"]
    assert runs_on(pair) == ["h1"]
    twin.close()


async def test_the_first_that_is_looked_at_is_the_ticket(trip: Trip) -> None:
    await trip.target.delete_volume(trip.gates.name, "ticket-1")
    with pytest.raises(Rejected, match="ticket-1"):
        await trip.pair.wait(trip.source.move(trip.plan()))


# ---------------------------------------------------------------- the last word is lost (docs/adr/0003)


async def _lose_the_last_word(trip: Trip, **changes: object) -> None:
    pair = world(trip)
    pair.datacenter.moves.last_word_lost.add(H2)
    with pytest.raises(Transient):
        await trip.pair.wait(trip.source.move(trip.plan(**changes)))


async def test_a_guest_that_shares_nothing_then_runs_twice(trip: Trip) -> None:
    """What libvirt does by itself; arrive_paused is there because of it."""
    await _lose_the_last_word(trip)
    assert runs_on(world(trip)) == ["h1", "h2"]


async def test_one_that_arrives_paused_does_not(trip: Trip) -> None:
    await _lose_the_last_word(trip, arrive_paused=True)
    assert runs_on(world(trip)) == ["h1"]
    assert await trip.state(trip.target) == "Paused user"
    await trip.target.destroy(trip.name)
    assert runs_on(world(trip)) == ["h1"]


async def test_a_shared_disk_is_locked_by_the_one_that_was_first() -> None:
    pair = MemoryPair()
    trip = Trip(pair, await pair.connected(H1), await pair.connected(H2))
    await trip.prepare()
    await trip.begin(disks=(await trip.disk(trip.source, "shared"),))
    await _lose_the_last_word(trip)
    assert runs_on(pair) == ["h1"]
    assert await trip.state(trip.target) == "Shutoff failed"
    await pair.close()
