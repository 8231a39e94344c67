"""spec.heartbeat on the simulator's hosts: who is reset and who is not, whatever else happens meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sim.fakes.machine import Machine
from tests.sim.scenarios import start_all
from tests.sim.test_traces import running_world, starts
from tests.sim.world import NS, SimWorld

from lq_operator.api.vm import VirtualMachine

DOMAIN = f"lq_{NS}_vm"
AFTER_S = 30


async def watched(action: str = "Reset", **spec: Any) -> SimWorld:
    """One VM that runs, is listened to, and has answered."""
    world, _ = await running_world()
    world.vm(heartbeat={"action": action, "afterSeconds": AFTER_S, "tries": 2}, **spec)
    await world.until(lambda: bool(beat(world).get("answered")), "heard")
    assert verdict(world) == ("False", "Answers")
    return world


def beat(world: SimWorld) -> dict[str, Any]:
    found = world.raw(VirtualMachine, NS, "vm")["status"].get("heartbeat")
    return dict(found or {})


def verdict(world: SimWorld) -> tuple[str, str]:
    found = world.condition(VirtualMachine, NS, "vm", "GuestHung")
    return found.get("status", ""), found.get("reason", "")


def home(world: SimWorld) -> Machine:
    (name,) = world.runs_on()
    return world.datacenter.machines[name]


def resets(world: SimWorld) -> int:
    return sum(machine.resets.count(DOMAIN) for machine in world.datacenter.machines.values())


async def test_a_guest_that_hangs_is_reset_once_and_is_back() -> None:
    world = await watched()
    home(world).hung.add(DOMAIN)
    await world.run(AFTER_S - 5)
    assert resets(world) == 0
    await world.until(lambda: resets(world) == 1, "reset")
    await world.until(lambda: verdict(world) == ("False", "Answers"), "back")
    assert (beat(world)["tries"], beat(world)["lastAction"]) == (1, "Reset")
    await world.run(10 * AFTER_S)
    assert (resets(world), len(starts(world))) == (1, 1)
    # After ten good minutes it is a new story.
    await world.until(lambda: beat(world)["tries"] == 0, "counted from zero", limit_s=1500)
    await world.close()


async def test_one_that_hangs_again_and_again_is_given_up() -> None:
    world = await watched()
    for _ in range(2):
        before = resets(world)
        home(world).hung.add(DOMAIN)
        await world.until(lambda n=before: resets(world) == n + 1, "reset")  # type: ignore[misc]
        await world.until(lambda: verdict(world)[1] == "Answers", "back")
    home(world).hung.add(DOMAIN)
    await world.until(lambda: verdict(world) == ("True", "GivenUp"), "given up")
    await world.run(1000)
    assert resets(world) == 2
    # A person takes over.
    world.operation("Reset")
    await world.until(lambda: verdict(world)[1] == "Answers" and beat(world)["tries"] == 0, "by hand")
    await world.close()


async def test_restart_starts_it_anew_under_a_new_epoch() -> None:
    world = await watched("Restart")
    before = world.epoch()
    home(world).hung.add(DOMAIN)
    await world.until(lambda: world.running() and world.epoch() != before, "started anew")
    await world.until(lambda: verdict(world)[1] == "Answers", "back")
    assert (len(starts(world)), resets(world)) == (2, 0)
    assert world.raw(VirtualMachine, NS, "vm")["status"]["power"]["restarts"] == 1
    await world.close()


async def test_none_only_tells() -> None:
    world = await watched("None")
    home(world).hung.add(DOMAIN)
    await world.until(lambda: verdict(world) == ("True", "Hung"), "told")
    await world.run(20 * AFTER_S)
    assert (resets(world), len(starts(world))) == (0, 1)
    await world.close()


async def test_a_stopped_agent_is_not_a_hung_guest() -> None:
    world = await watched()
    home(world).agent = False
    await world.until(lambda: verdict(world) == ("False", "NotListening"), "told")
    await world.run(20 * AFTER_S)
    assert resets(world) == 0
    await world.close()


async def test_silence_ends_with_the_connection_and_with_a_pause() -> None:
    world = await watched()
    machine = home(world)
    machine.hung.add(DOMAIN)
    await world.run(AFTER_S - 8)
    world.datacenter.cut(str(machine.name))
    await world.run(5 * AFTER_S)
    assert resets(world) == 0  # nothing is known of it
    world.datacenter.restore(str(machine.name))
    await world.until(lambda: world.hosts_ready(2), "back")
    await world.run(AFTER_S - 10)
    assert resets(world) == 0  # what was silent before is not counted
    world.operation("Pause")
    await world.until(lambda: world.power() == "Paused", "paused")
    await world.run(5 * AFTER_S)
    assert resets(world) == 0
    world.operation("Resume")
    await world.until(lambda: resets(world) == 1, "silent for long enough after it runs again")
    await world.close()


@pytest.mark.parametrize("verb", ["agent_state", "reset"])
async def test_who_dies_at_the_reset_does_no_harm(verb: str) -> None:
    world, operator = await running_world()
    world.vm(heartbeat={"action": "Reset", "afterSeconds": AFTER_S, "tries": 2})
    await world.until(lambda: bool(beat(world).get("answered")), "heard")
    home(world).hung.add(DOMAIN)
    await world.run(AFTER_S / 2)
    operator.tracer.pause_when = lambda call: call.verb == verb
    await world.until(lambda: operator.tracer.paused, "stopped there")
    await operator.crash()
    world.forget(operator)
    start_all(world)
    await world.until(lambda: resets(world) >= 1 and verdict(world)[1] == "Answers", "reset by the next")
    await world.run(10 * AFTER_S)
    assert (resets(world), len(starts(world))) == (1, 1)
    await world.close()
