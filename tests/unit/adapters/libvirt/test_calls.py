"""The lanes: what a deadline, a dead connection, a full lane and a cancelled caller turn a call into."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import libvirt
import pytest

from lq_operator.adapters.libvirt.calls import Call, Calls, Lane, _Busy, _Job, _Workers
from lq_operator.core.result import Conflict, OutcomeUnknown, Transient

READ = Call("read", 30)
SOON = 0.05
THREADS = 3
CONNS = {lane: [f"{lane.value}-{n}" for n in range(THREADS)] for lane in Lane}


@pytest.fixture
async def calls() -> AsyncIterator[Calls]:
    made = Calls("node", asyncio.get_running_loop(), CONNS)
    yield made
    made.die("the test is over")


class Gate:
    """A call that hangs in its thread until it is let go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.running = threading.Semaphore(0)

    def __call__(self, _conn: object = None) -> str:
        self.running.release()
        self.open.wait(30)
        return "done"


async def _started(gate: Gate, times: int = 1) -> None:
    for _ in range(times):
        assert await asyncio.to_thread(gate.running.acquire, timeout=30)


async def test_results_and_bugs_come_through(calls: Calls) -> None:
    assert await calls.run(READ, lambda _conn: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await calls.run(READ, lambda _conn: 1 // 0)
    assert await calls.run(READ, lambda _conn: 8) == 8


@pytest.mark.parametrize(("writes", "error"), [(False, Transient), (True, OutcomeUnknown)])
async def test_after_the_deadline(calls: Calls, writes: bool, error: type[Exception]) -> None:
    gate = Gate()
    with pytest.raises(error, match="node: verb thing"):
        await calls.run(Call("verb", SOON, writes=writes), gate, about="thing")
    gate.open.set()


async def test_a_write_that_waited_in_vain_was_never_sent(calls: Calls) -> None:
    gate = Gate()
    filling = [asyncio.create_task(calls.run(READ, gate)) for _ in range(THREADS)]
    await _started(gate, THREADS)
    ran = threading.Event()
    with pytest.raises(Transient, match="not sent"):
        await calls.run(Call("write", SOON, writes=True), lambda _conn: ran.set())
    gate.open.set()
    assert await asyncio.gather(*filling) == ["done"] * THREADS
    await calls.run(READ, lambda _conn: None)
    assert not ran.is_set()  # not even later


async def test_lanes_do_not_wait_for_each_other(calls: Calls) -> None:
    gate = Gate()
    filling = [asyncio.create_task(calls.run(Call("agent", 30, lane=Lane.AGENT), gate)) for _ in range(20)]
    await _started(gate, THREADS)
    assert await calls.run(READ, lambda _conn: "quick") == "quick"
    assert sum(t.name == "libvirt-node-agent" for t in threading.enumerate()) == THREADS
    gate.open.set()
    await asyncio.gather(*filling)


async def test_one_thread_is_enough_for_one_call_at_a_time(calls: Calls) -> None:
    for _ in range(20):
        await calls.run(READ, lambda _conn: None)
    assert sum(t.name == "libvirt-node-short" for t in threading.enumerate()) == 1


async def test_death_ends_what_is_in_flight_and_what_comes_after(calls: Calls) -> None:
    gate = Gate()
    reading = asyncio.create_task(calls.run(READ, gate))
    writing = [asyncio.create_task(calls.run(Call("w", 30, writes=True), gate)) for _ in range(THREADS - 1)]
    await _started(gate, THREADS)
    unsent = asyncio.create_task(calls.run(Call("w", 30, writes=True), gate))
    await asyncio.sleep(0)
    calls.die("the wire broke")
    with pytest.raises(Transient, match="the wire broke"):
        await reading
    for write in writing:
        with pytest.raises(OutcomeUnknown, match="the wire broke"):
            await write
    with pytest.raises(Transient, match="not sent"):
        await unsent
    with pytest.raises(Transient, match="the wire broke"):
        await calls.run(READ, lambda _conn: 1)
    calls.die("again")
    assert calls.dead == "the wire broke"
    gate.open.set()


async def test_a_caller_that_leaves_takes_its_unsent_call_along(calls: Calls) -> None:
    gate = Gate()
    filling = [asyncio.create_task(calls.run(READ, gate)) for _ in range(THREADS)]
    await _started(gate, THREADS)
    ran = threading.Event()
    leaving = asyncio.create_task(calls.run(READ, lambda _conn: ran.set()))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    gate.open.set()
    await asyncio.gather(*filling)
    await calls.run(READ, lambda _conn: None)
    assert not ran.is_set()


def _libvirt_problem(code: int, text: str) -> libvirt.libvirtError:
    problem = libvirt.libvirtError("x")
    problem.err = (code, 0, text, 2, "", "", "", 0, 0)
    return problem


async def test_libvirt_errors_are_translated_by_what_the_wire_says(calls: Calls) -> None:
    def refuse(_conn: object) -> None:
        raise _libvirt_problem(libvirt.VIR_ERR_OPERATION_INVALID, "wrong state")

    write = Call("write", 30, writes=True)
    with pytest.raises(Conflict, match="node: write: wrong state"):
        await calls.run(write, refuse)
    assert calls.dead is None
    calls.is_alive = lambda _conn: False
    with pytest.raises(OutcomeUnknown):
        await calls.run(write, refuse)
    assert calls.dead == "wrong state"  # the others hear of it at once


async def test_a_hung_call_does_not_keep_a_free_thread_from_the_next(calls: Calls) -> None:
    """Submitted back to back, before the first thread has even taken its job."""
    gate = Gate()
    hanging = [asyncio.create_task(calls.run(READ, gate)) for _ in range(THREADS - 1)]
    assert await calls.run(READ, lambda _conn: "answered") == "answered"
    gate.open.set()
    await asyncio.gather(*hanging)


async def test_a_connection_is_idle_only_when_its_threads_have_left_libvirt(calls: Calls) -> None:
    gate = Gate()
    hanging = [asyncio.create_task(calls.run(READ, gate)) for _ in range(THREADS + 5)]
    await _started(gate, THREADS)
    calls.die("given up")
    await asyncio.gather(*hanging, return_exceptions=True)
    assert not calls.wait_idle(SOON)  # the callers have their answer, the threads are still inside
    gate.open.set()
    assert await asyncio.to_thread(calls.wait_idle, 30)
    assert not gate.running.acquire(blocking=False)  # and none of the five that waited ever entered


def test_idle_threads_end_and_come_back() -> None:
    workers = _Workers("idle-lane", ["a", "b"], _Busy(), idle_s=0.01)
    for _ in range(200):
        done = threading.Event()
        workers.submit(_Job(lambda _conn, done=done: done.set(), lambda _result, _problem: None))
        assert done.wait(30)
    deadline = threading.Event()
    for _ in range(1000):
        if not any(t.name == "idle-lane" for t in threading.enumerate()):
            break
        deadline.wait(0.01)
    assert not any(t.name == "idle-lane" for t in threading.enumerate())
    done = threading.Event()
    workers.submit(_Job(lambda _conn: done.set(), lambda _result, _problem: None))
    assert done.wait(30)
    workers.close()


async def test_no_two_threads_ever_have_the_same_connection(calls: Calls) -> None:
    inside: dict[object, int] = {}
    most = 0
    lock = threading.Lock()

    def use(conn: object) -> None:
        nonlocal most
        with lock:
            inside[conn] = inside.get(conn, 0) + 1
            most = max(most, inside[conn])
        threading.Event().wait(0.001)
        with lock:
            inside[conn] -= 1

    every = [Call("c", 30, lane=lane) for lane in Lane]
    await asyncio.gather(*(calls.run(call, use) for call in every for _ in range(50)))
    assert most == 1
    assert set(inside) == {conn for conns in CONNS.values() for conn in conns}


async def test_every_call_is_measured() -> None:
    seen: list[tuple[str, str, str]] = []
    calls = Calls("node", asyncio.get_running_loop(), CONNS, lambda n, c, o, s: seen.append((n, c, o)) or None)
    await calls.run(READ, lambda _conn: None)
    gate = Gate()
    with pytest.raises(Transient):
        await calls.run(Call("slow", SOON), gate)
    gate.open.set()
    calls.die("over")
    assert seen == [("node", "read", "ok"), ("node", "slow", "Transient")]


async def test_many_at_once_all_get_their_own_answer(calls: Calls) -> None:
    answers = await asyncio.gather(*(calls.run(READ, lambda _conn, n=n: n) for n in range(2000)))  # type: ignore[misc]
    assert answers == list(range(2000))
