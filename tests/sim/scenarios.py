"""What users do, as scenarios: a world before, an act, a goal, and what a person does while it is not reached.

`steady(scenario)` is the prepared world (made once); every experiment works on a fork of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.sim.process import Operator, Planner
from tests.sim.world import NS, SimWorld

from lq_operator.api.attestation import HostAttestation
from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmoperation import VirtualMachineOperation
from lq_operator.api.volume import Volume

CALM_S = 60.0
"""After the goal, so long nothing may change any more: requeues, resyncs and clean-ups have had their turn."""


def _nothing(world: SimWorld) -> None:
    del world


@dataclass(frozen=True)
class Scenario:
    """`before` builds on a founded world with processes; `act` is the user's deed; `human` is called every second."""

    name: str
    act: Callable[[SimWorld], None]
    goal: Callable[[SimWorld], bool]
    before: tuple[Callable[[SimWorld], None], Callable[[SimWorld], bool]] = (_nothing, lambda world: True)
    human: Callable[[SimWorld], None] = _nothing
    access: str = "Shared"
    hosts: int = 2
    limit_s: float = field(default=400.0)


def _running(world: SimWorld) -> bool:
    return world.running()


def _create(world: SimWorld) -> None:
    world.vm()


def _suspended(world: SimWorld) -> bool:
    return world.power() == "Suspended" and not world.runs_on() and world.placement().get("phase") == "Released"


def _restarted(world: SimWorld) -> bool:
    ops = world.api.raw_list(VirtualMachineOperation)
    return world.running() and bool(ops) and all(o["status"].get("phase") == "Succeeded" for o in ops)


def _lose_its_host(world: SimWorld) -> None:
    world.datacenter.power_off(world.placement()["node"])


def attest_what_is_off(world: SimWorld) -> None:
    """A person walks to each silent host and says so, again whenever the statement does not count (a new term)."""
    for node in world.api.raw_list(HypervisorNode):
        name = node["metadata"]["name"]
        if world.datacenter.lines[name].value != "off" or not node["status"].get("hostUUID"):
            continue
        if world.condition(HypervisorNode, None, name).get("status") != "Unknown":
            continue
        mine = [a for a in world.api.raw_list(HostAttestation) if a["spec"]["node"] == name]
        if all(
            any(c["type"] == "Stalled" and c["status"] == "True" for c in a["status"].get("conditions", ()))
            for a in mine
        ):
            world.attest(name)


def _elsewhere(world: SimWorld) -> bool:
    return world.running() and world.datacenter.lines[world.runs_on()[0]].value == "up" and not _silent_placed(world)


def _silent_placed(world: SimWorld) -> bool:
    return world.datacenter.lines[world.placement()["node"]].value != "up"


CREATE = Scenario("create", _create, _running)
STOP = Scenario("stop", lambda w: w.vm(powerState="Stopped"), lambda w: w.stopped(), (_create, _running))
RESTART = Scenario("restart", lambda w: void(w.operation("Restart")), _restarted, (_create, _running))
DELETE = Scenario("delete", lambda w: w.delete(), lambda w: w.gone(), (_create, _running))
DELETE_STOPPED = Scenario(
    "delete-stopped",
    lambda w: w.delete(),
    lambda w: w.gone(),
    (lambda w: w.vm(powerState="Stopped"), lambda w: w.stopped()),
)
SUSPEND = Scenario("suspend", lambda w: w.vm(powerState="Suspended"), _suspended, (_create, _running))
HOST_LOST = Scenario("host-lost", _lose_its_host, _elsewhere, (_create, _running), attest_what_is_off)


CREATE_LOCAL = Scenario("create-local", _create, _running, access="Local")


def _suspended_in_turn(world: SimWorld) -> bool:
    if world.running():
        world.vm(powerState="Suspended")
    return _suspended(world)


RESUME = Scenario("resume", lambda w: w.vm(powerState="Running"), _running, (_create, _suspended_in_turn))


def _delete_when_committed(world: SimWorld) -> None:
    """A change of mind while it starts."""
    raw = world.raw(VirtualMachine, NS, "vm")
    if raw and "deletionTimestamp" not in raw["metadata"] and world.api.raw_list(Volume):
        world.delete()


DELETE_AT_ONCE = Scenario("delete-at-once", _create, lambda w: w.gone(), human=_delete_when_committed, access="Local")


def _lose_and_delete(world: SimWorld) -> None:
    world.datacenter.power_off(world.placement()["node"])
    world.delete()


def _boot_when_gone(world: SimWorld) -> None:
    """The host comes back once the VM object is gone and a tombstone waits for it."""
    if world.gone():
        for name, line in world.datacenter.lines.items():
            if line.value == "off":
                world.datacenter.restore(name)


def _buried(world: SimWorld) -> bool:
    left = world.leftovers()
    return (
        world.gone() and all(line.value == "up" for line in world.datacenter.lines.values()) and not left["tombstones"]
    )


DELETE_AWAY = Scenario("delete-away", _lose_and_delete, _buried, (_create, _running), _boot_when_gone, access="Local")


def _moved(world: SimWorld) -> bool:
    """It ended, one way or the other, and the guest has run on all the while."""
    return world.settled() and world.running() and world.judge.starts_of("vm") == 1


MOVE = Scenario("move", lambda w: w.move(), _moved, (_create, _running))
MOVE_LOCAL = Scenario("move-local", lambda w: w.move(), _moved, (_create, _running), access="Local")


def _cancel_when_it_runs(world: SimWorld) -> None:
    if world.move_phase() == "Running":
        world.move(cancel=True)


MOVE_CANCELLED = Scenario("move-cancelled", lambda w: w.move(), _moved, (_create, _running), _cancel_when_it_runs)
_HOT = {
    "cpu": {"count": 2, "maxCount": 4, "limitPercent": 50},
    "memory": {"size": "768Mi", "maxSize": "1Gi"},
    "disks": [{"name": "root", "template": {"size": "1Gi"}}, {"name": "more", "template": {"size": "1Gi"}}],
    "interfaces": [{"name": "eth1", "networkRef": {"name": "n1"}, "addressing": "None"}],
}
"""Every live change at once: size, a disk and an interface more, an interface less."""


def _create_roomy(world: SimWorld) -> None:
    world.vm(cpu={"count": 1, "maxCount": 4}, memory={"size": "512Mi", "maxSize": "1Gi"})


def _changed_live(world: SimWorld) -> bool:
    """The guest that ran before is as the spec wants it, and everybody says so."""
    if not world.running() or world.raw(VirtualMachine, NS, "vm")["status"].get("changes"):
        return False
    found = [d for m in world.datacenter.machines.values() for d in m.domains.values() if d.live is not None]
    live, started = found[0].live, found[0].started
    assert live is not None
    assert started is not None
    same = (live.vcpus, live.memory_mib, live.cpu_quota_percent) == (2, 768, 50)
    devices = ({disk.name for disk in live.disks}, {nic.name for nic in live.nics}) == ({"root", "more"}, {"eth1"})
    return same and devices and started.vcpus == 1 and found[0].plan is not None and found[0].plan.disks == live.disks


HOT_CHANGE = Scenario("hot-change", lambda w: w.vm(**_HOT), _changed_live, (_create_roomy, _running))


def void(value: object) -> None:
    """For lambdas whose value nobody wants."""
    del value


def start_all(world: SimWorld) -> tuple[Operator, Planner]:
    """Both processes."""
    return world.operator(), world.planner()


async def reach(world: SimWorld, scenario: Scenario, *, calm: bool = True) -> None:
    """Until the goal, with the person at hand; then the calm. AssertionError with the story otherwise."""

    def there() -> bool:
        scenario.human(world)
        world.api.gc()
        return scenario.goal(world)

    await world.until(there, f"goal of {scenario.name}", limit_s=scenario.limit_s)
    if calm:
        await world.run(CALM_S)
        assert scenario.goal(world), f"{scenario.name}: the goal did not last\n{world.story()}"


async def prepare(scenario: Scenario) -> SimWorld:
    """The world before the act, without processes."""
    world = SimWorld(access=scenario.access)
    world.found(scenario.hosts)
    start_all(world)
    await world.until(lambda: world.hosts_ready(scenario.hosts), "hosts ready")
    scenario.before[0](world)
    await world.until(lambda: scenario.before[1](world), f"world before {scenario.name}")
    await world.run(5)
    await world.close()
    return world


async def awake(base: SimWorld, scenario: Scenario, seed: int = 1) -> tuple[SimWorld, Operator, Planner]:
    """A fork of the world with processes that have taken everything over; the act is still to come."""
    world = base.fork(seed)
    operator, planner = start_all(world)
    await world.until(lambda: _owned(operator, scenario.hosts), "hosts taken over")
    await world.run(1)
    return world, operator, planner


def _owned(operator: Operator, hosts: int) -> bool:
    return operator.hosts is not None and len(operator.hosts.book.all()) == hosts


EVERY = (
    CREATE,
    CREATE_LOCAL,
    STOP,
    RESTART,
    DELETE,
    DELETE_STOPPED,
    DELETE_AT_ONCE,
    SUSPEND,
    RESUME,
    HOST_LOST,
    DELETE_AWAY,
    HOT_CHANGE,
)
MOVES = (MOVE, MOVE_LOCAL, MOVE_CANCELLED)
"""Their end may differ with a crash (moved, or broken off): the guest and its files are whole either way."""


@functools.cache
def by_name(name: str) -> Scenario:
    """The scenario of that name."""
    return next(scenario for scenario in EVERY if scenario.name == name)
