"""Every write of a scenario whose answer is lost (it happened), or that is lost itself (it did not), once each.

Both look the same to the process: OutcomeUnknown. It must look before it repeats, and end as if nothing had been.
"""

from __future__ import annotations

import pytest
from tests.sim.fakes.calls import Call
from tests.sim.scenarios import (
    CREATE,
    DELETE,
    HOT_CHANGE,
    MOVES,
    RESTART,
    STOP,
    SUSPEND,
    Scenario,
    awake,
    prepare,
    reach,
)

from lq_operator.core.result import OutcomeUnknown

SCENARIOS = (CREATE, STOP, RESTART, SUSPEND, DELETE, HOT_CHANGE, *MOVES)


@pytest.mark.parametrize("happened", [True, False], ids=["happened", "did-not"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_a_write_of_unknown_outcome_changes_nothing_in_the_end(scenario: Scenario, happened: bool) -> None:
    base = await prepare(scenario)
    world, operator, _ = await awake(base, scenario)
    first = len(operator.tracer.calls)
    scenario.act(world)
    await reach(world, scenario, calm=False)
    writes = [c.n for c in operator.tracer.calls[first:] if c.write and c.room != "lease"]
    await reach(world, scenario)
    end = world.leftovers()
    await world.close()
    failures = []
    for n in writes:
        world, operator, _ = await awake(base, scenario)

        def lose(call: Call, n: int = n) -> None:
            if call.n == n:
                raise OutcomeUnknown(f"no answer to {call}")

        if happened:
            operator.tracer.after = lose
        else:
            operator.tracer.before = lose
        scenario.act(world)
        try:
            await reach(world, scenario)
            assert world.leftovers() == end
        except AssertionError as problem:
            failures.append(f"{operator.tracer.calls[n - 1]}:\n{problem}")
        await world.close()
    assert not failures, f"{len(failures)} of {len(writes)}:\n" + "\n\n".join(failures[:3])
