"""A crash before and after every port call of every scenario: the next process ends where an undisturbed one would.

All processes die at the same moment. Moments at which API server, leases and machines are the same are one case: a
process that starts knows nothing else. So a crash before a call and after the one before it is tried once.
"""

from __future__ import annotations

import pytest
from tests.sim.fakes.calls import Call
from tests.sim.scenarios import EVERY, MOVES, Scenario, awake, prepare, reach, start_all
from tests.sim.world import SimWorld


async def crash_points(base: SimWorld, scenario: Scenario) -> tuple[dict[str, SimWorld], dict[str, object]]:
    """What is left by a crash at each moment of one undisturbed run, and what that run ends with."""
    world, operator, planner = await awake(base, scenario)
    points: dict[str, SimWorld] = {}
    seen: set[str] = set()

    def take(when: str, process: str, call: Call) -> None:
        mark = world.mark()
        if mark not in seen:
            seen.add(mark)
            points[f"{when} {process} {call}"] = world.fork()

    for process in (operator, planner):
        process.tracer.before = lambda call, p=process.name: take("before", p, call)  # type: ignore[misc]
        process.tracer.after = lambda call, p=process.name: take("after", p, call)  # type: ignore[misc]
    scenario.act(world)
    await reach(world, scenario)
    end = world.leftovers()
    await world.close()
    return points, end


@pytest.mark.parametrize("scenario", [*EVERY, *MOVES], ids=lambda s: s.name)
async def test_a_crash_anywhere_changes_nothing_in_the_end(scenario: Scenario, record_property: object) -> None:
    base = await prepare(scenario)
    points, end = await crash_points(base, scenario)
    least = 11 if scenario in MOVES else 2
    assert len(points) >= least, f"only {len(points)} moments: the scenario does nothing"
    record_property("crash points", len(points))  # type: ignore[operator]
    failures = []
    for label, world in points.items():
        start_all(world)
        try:
            await reach(world, scenario)
            assert world.leftovers() == end
        except AssertionError as problem:
            failures.append(f"crash {label}:\n{problem}")
        await world.close()
    assert not failures, f"{len(failures)} of {len(points)}:\n" + "\n\n".join(failures[:3])
