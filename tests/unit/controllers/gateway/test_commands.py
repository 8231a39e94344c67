"""Commands in guests: what is asked for, what comes back, and what is shown of it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.sim.fakes.clock import FakeClock
from tests.sim.fakes.hosts import Datacenter, FakeFleet
from tests.unit.controllers.gateway.test_access import FakeDoorkeeper, bearer

from lq_operator.controllers.gateway.access import EXEC, READ, WRITE, Door, Refusal
from lq_operator.controllers.gateway.commands import MOST_OUTPUT_BYTES, carry_out, order_of
from lq_operator.controllers.gateway.guests import Guest
from lq_operator.core.model import DiskPlan, DomainPlan, Epoch, Identity, NodeName
from lq_operator.core.result import Rejected, Transient

SECRET = "hunter2"


def body(**fields: Any) -> bytes:
    return json.dumps({"command": ["echo", SECRET]} | fields).encode()


def test_an_order_shows_its_first_word_only() -> None:
    order = order_of(body(stdin=base64.b64encode(SECRET.encode()).decode(), timeoutSeconds=5))
    assert (order.argv, order.stdin, order.timeout_s) == (("echo", SECRET), SECRET.encode(), 5)
    assert SECRET not in f"{order} {order.shown}"
    assert order_of(json.dumps({"command": ["\x1b[31m" + "a" * 500]}).encode()).shown == "[31m" + "a" * 96


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        body(command=[]),
        body(command=[""]),
        body(command=[1]),
        body(command=["a\0b"]),
        body(command=["a"] * 257),
        body(command=["a" * 70_000]),
        body(command={"a": 1, "b": 2}, stdin=1),
        body(stdin="!"),
        body(timeoutSeconds=0),
        body(timeoutSeconds=301),
        body(timeoutSeconds=True),
        body(timeoutSeconds="5"),
    ],
)
def test_what_is_no_order_is_refused_in_words(asked: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        order_of(asked)
    assert refused.value.status == 400
    assert SECRET not in refused.value.message


async def test_no_other_right_includes_it() -> None:
    keeper = FakeDoorkeeper(rights={("ann", verb, "exec", "ns") for verb in (READ, WRITE)})
    keeper.rights |= {("ann", verb, "console", "ns") for verb in (READ, WRITE, EXEC)}
    door = Door(keeper)
    with pytest.raises(Refusal) as refused:
        await door.let_in(bearer("good"), "exec", "ns", "web", wants_to_write=False, peer="", needs=EXEC)
    assert refused.value.status == 403
    assert "ann may not create exec of vm/web" in refused.value.message
    keeper.rights.add(("ann", EXEC, "exec", "ns"))
    await door.let_in(bearer("good"), "exec", "ns", "web", wants_to_write=False, peer="", needs=EXEC)


async def running(clock: FakeClock) -> Guest:
    datacenter = Datacenter(clock)
    machine = datacenter.add("h1")
    fleet = FakeFleet(datacenter, clock)
    fleet.configure(NodeName("h1"), "qemu+tls://h1/system", {})
    host = fleet.host(NodeName("h1"))
    assert host is not None
    machine.put_file("/d/root")
    disk = DiskPlan("root", "/d/root", "qcow2")
    plan = DomainPlan(Identity("i", "ns", "web"), "u", Epoch(1, 1), "h", "", 1, 32, accel="tcg", disks=(disk,))
    await host.define(plan)
    await host.start(plan.identity.domain_name)
    return Guest(host, "h1", plan.identity.domain_name)


@contextlib.asynccontextmanager
async def kept(guest: Guest) -> AsyncIterator[Guest]:
    """As Guests.running: what is raised inside passes through a context manager."""
    yield guest


async def answer(order: bytes) -> dict[str, Any]:
    clock = FakeClock()
    guest = await running(clock)

    async def ask() -> dict[str, Any]:
        async with kept(guest):
            return await carry_out(guest, order_of(order), clock)

    asked = asyncio.ensure_future(ask())
    await clock.run_until(asked.done, limit_s=400)
    return await asked


async def test_output_and_exit_code_come_back() -> None:
    told = await answer(body())
    assert (told["exitCode"], base64.b64decode(told["stdout"]), told["truncated"]) == (0, b"hunter2\n", False)
    fed = base64.b64encode(b"x" * MOST_OUTPUT_BYTES).decode()
    assert not (await answer(body(command=["cat"], stdin=fed)))["truncated"]


async def test_what_does_not_end_and_what_is_not_there() -> None:
    with pytest.raises(Refusal) as refused:
        await answer(body(command=["sleep", "9"], timeoutSeconds=20))
    assert (refused.value.status, "kill 100" in refused.value.message) == (504, True)
    with pytest.raises(Rejected, match="no nonsense"):
        await answer(body(command=["nonsense"]))


async def test_a_silent_agent_is_transient() -> None:
    clock = FakeClock()
    guest = await running(clock)
    guest.host.machine.hung.add(guest.domain_name)  # type: ignore[attr-defined]
    with pytest.raises(Transient):
        await carry_out(guest, order_of(body()), clock)
