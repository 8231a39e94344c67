"""Ten VMs at once on a slow API server and slow hosts: what it costs the API server, with and without a crash half-way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.sim.fakes.calls import Tracer
from tests.sim.scenarios import start_all
from tests.sim.world import SimWorld

from lq_operator.api.network import AddressClaim
from lq_operator.core.result import Conflict

VMS = [f"vm{n}" for n in range(10)]
API_S, HOST_S = 0.05, 0.4
BUDGET = {
    ("patch", "VirtualMachine"): 1,  # finalizer
    ("patch/status", "VirtualMachine"): 3,  # registered, assigned, committed
    ("apply/status", "VirtualMachine"): 1,  # running
    ("create", "Volume"): 1,
    ("apply/status", "Volume"): 1,
    ("create", "AddressClaim"): 1,
}


def slow_down(world: SimWorld, tracer: Tracer) -> list[str]:
    """Every call takes its time. Returns the creates that are refused, as they come."""
    run, refused = tracer.run, []

    async def slow(room: str, verb: str, about: str, write: bool, act: Callable[[], Awaitable[Any]]) -> Any:
        await world.clock.sleep(HOST_S if room == "host" else API_S)
        try:
            return await run(room, verb, about, write, act)
        except Conflict:
            if room == "api" and verb == "create":
                refused.append(about)
            raise

    tracer.run = slow  # type: ignore[method-assign]
    return refused


async def ready_world() -> SimWorld:
    world = SimWorld()
    world.found(3)
    start_all(world)
    await world.until(lambda: world.hosts_ready(3), "hosts ready")
    await world.run(10)
    return world


def claimed(world: SimWorld) -> list[str]:
    return sorted(claim["spec"]["vm"]["name"] for claim in world.api.raw_list(AddressClaim))


async def test_a_start_among_many_costs_what_one_alone_costs() -> None:
    world = await ready_world()
    operator, _ = world.processes
    refused = slow_down(world, operator.tracer)
    before, began_s = len(world.api.writes()), world.clock.mono_s()
    for name in VMS:
        world.vm(name, guestAgent=False)  # what an agent tells is another write
    await world.until(lambda: all(world.running(name) for name in VMS), "all run")
    took_s = world.clock.mono_s() - began_s
    assert 4 < took_s < 25, f"{took_s} s: first words are due after 2 s, and after 30 s whatever is waited for"
    await world.run(5)
    of_vms = {"VirtualMachine", "Volume", "AddressClaim"}
    writes = Counter((op.verb, op.kind) for op in world.api.writes()[before:] if op.kind in of_vms and op.manager)
    assert {write: count / len(VMS) for write, count in writes.items()} == BUDGET
    assert refused == []
    assert claimed(world) == VMS


@pytest.mark.parametrize("after_creates", [3, 9])
async def test_killed_among_many_claims_each_vm_has_one_in_the_end(after_creates: int) -> None:
    world = await ready_world()
    operator, _ = world.processes
    slow_down(world, operator.tracer)
    for name in VMS:
        world.vm(name, guestAgent=False)  # what an agent tells is another write
    await world.until(lambda: len(claimed(world)) >= after_creates, "half-way")
    await operator.crash()
    refused = slow_down(world, world.operator().tracer)
    await world.until(lambda: all(world.running(name) for name in VMS), "all run")
    await world.run(5)
    assert refused == []
    assert claimed(world) == VMS
