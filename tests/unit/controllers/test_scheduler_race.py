"""Two schedulers at once, each believing that it leads, with stale views, crashes before and after every write.

Whatever they do, a VM is assigned by one lawful patch after another and is never placed twice; what they did to the
capacity of hosts in their ignorance of each other is put right before anything is committed.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.sim.fakes.resources import Crash, Op
from tests.unit.controllers.scheduling import NS, Site

from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.scheduler import Scheduler
from lq_operator.core.result import OutcomeUnknown, Transient

HOSTS, VMS = 4, 14


class History:
    """Every placement that was stored, per VM; raises when one was not written over the one before it."""

    def __init__(self, site: Site) -> None:
        self.seen: dict[str, dict[str, Any]] = {}
        self.assignments = 0
        site.api.watch(self._event, lambda: None)

    def _event(self, event: str, kind: str, raw: dict[str, Any]) -> None:
        placement = raw.get("status", {}).get("placement")
        if kind != "VirtualMachine" or not placement or event == "DELETED":
            return
        name, before = raw["metadata"]["name"], self.seen.get(raw["metadata"]["name"], {})
        if before.get("writeId") == placement["writeId"]:
            assert before == placement, "a placement was changed without a new write id"
            return
        if before.get("phase") == "Committed":
            raise AssertionError(f"{name}: a scheduler wrote over a committed placement")
        self.assignments += placement["phase"] == "Assigned"
        self.seen[name] = dict(placement)


def faults(rng: random.Random, site: Site, rate: float) -> None:
    def maybe(op: Op) -> None:
        if op.write and rng.random() < rate:
            raise rng.choice([Crash(), OutcomeUnknown("no answer"), Transient("no answer")])

    site.api.before = maybe
    site.api.after = maybe


async def step(scheduler: Scheduler, rng: random.Random) -> bool:
    """Deliver some of what happened, then one round; False when it died."""
    scheduler.store.sync(rng.choice([0, 1, 5, None]))  # type: ignore[attr-defined]
    try:
        await scheduler.run_once()
    except Crash:
        return False
    except (Transient, OutcomeUnknown):
        return True
    return True


@pytest.mark.parametrize("seed", range(25))
async def test_two_schedulers_never_place_a_vm_twice(seed: int) -> None:
    rng = random.Random(seed)
    site = Site(seed)
    for n in range(HOSTS):
        site.host(f"h{n}", memory_mib=4096)
    for n in range(VMS):
        site.vm(f"vm-{n}", memory="1Gi", released=rng.random() < 0.8)
    history = History(site)
    faults(rng, site, 0.15)
    born = 2
    schedulers = [site.scheduler(term=1, live=False), site.scheduler(term=2, live=False)]
    for _ in range(30):
        at = rng.randrange(2)
        if not await step(schedulers[at], rng):
            born += 1
            schedulers[at] = site.scheduler(term=born, live=False)
        if rng.random() < 0.2:
            hidden = [f"vm-{n}" for n in range(VMS) if not site.placement(f"vm-{n}")]
            if hidden:
                site.release(rng.choice(hidden))
    site.api.before = site.api.after = lambda _: None
    for n in range(VMS):
        if not site.placement(f"vm-{n}"):
            site.release(f"vm-{n}")
    # One is left, as after a lease has settled: it sees everything, and puts right what the two did.
    for _ in range(4):
        schedulers[0].store.sync()  # type: ignore[attr-defined]
        site.clock.skip(61)
        await schedulers[0].run_once()
    used = dict.fromkeys((f"h{n}" for n in range(HOSTS)), 0)
    for n in range(VMS):
        placement = site.placement(f"vm-{n}")
        assert placement["phase"] == "Assigned", f"vm-{n}: {placement}"
        used[placement["node"]] += 1
    assert max(used.values()) <= 4, f"over capacity: {used}"
    assert history.assignments >= VMS


async def test_of_two_that_decide_at_once_one_is_believed() -> None:
    site = Site()
    site.host("h1")
    site.host("h2")
    site.vm("a")
    one, two = site.scheduler(term=1, live=False), site.scheduler(term=2, live=False)
    await one.run_once()
    where, written = site.node_of("a"), site.placement("a")["writeId"]
    await two.run_once()  # it has seen nothing of that
    assert (site.node_of("a"), site.placement("a")["writeId"]) == (where, written)
    assert not two.book.fleets["c1"].engine.state.placed
    two.store.sync()  # type: ignore[attr-defined]
    await two.run_once()
    assert [key.name for key in two.book.fleets["c1"].engine.state.placed] == ["a"]


async def test_nobody_touches_a_committed_placement() -> None:
    site = Site()
    site.host("h1")
    site.vm("a")
    late = site.scheduler(live=False)
    await late.book.refresh()
    await site.scheduler(term=2).run_once()
    site.commit("a")
    before = site.placement("a")
    await late.run_once()
    assert site.placement("a") == before


async def test_a_recreated_vm_of_the_same_name_is_not_hit_by_a_late_write() -> None:
    site = Site()
    site.host("h1")
    site.vm("a")
    late = site.scheduler(live=False)
    await late.book.refresh()
    site.delete("a")
    site.vm("a")
    before = site.raw("a")
    await late.run_once()
    assert site.api.raw(VirtualMachine, NS, "a") == before
