"""What the scheduler writes, in which order it decides, and what it does not do again."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.controllers.scheduling import NS, Site

from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.scheduler import Scheduler
from lq_operator.controllers.scheduler.rounds import EARMARK_AFTER_S, REPEAT_AFTER_S
from lq_operator.core.placement import Verdict
from lq_operator.core.result import Conflict, Fenced, Transient


@pytest.fixture
def site() -> Site:
    made = Site()
    made.host("h1")
    made.host("h2")
    return made


def count_decisions(scheduler: Scheduler) -> list[str]:
    """VMs that the engines are asked about from now on."""
    asked: list[str] = []
    for fleet in scheduler.book.fleets.values():
        decide = fleet.engine.decide

        def counted(request: Any, decide: Any = decide) -> Any:
            asked.append(request.identity.name)
            return decide(request)

        fleet.engine.decide = counted
    return asked


async def test_a_bind_is_one_write_with_placement_verdicts_and_condition(site: Site) -> None:
    site.vm("a")
    scheduler = site.scheduler()
    await scheduler.run_once()
    assert [op.verb for op in site.api.writes()] == ["patch/status"]
    raw = site.raw("a")["status"]
    assert raw["placement"]["phase"] == "Assigned"
    assert raw["placement"]["hostUUID"] == f"uuid-{site.node_of('a')}"
    assert site.scheduled("a")["status"] == "True"
    verdicts = raw["scheduling"]["verdicts"]
    assert {v["node"] for v in verdicts} == {"h1", "h2"}
    assert verdicts[0]["score"] > 0
    assert "contention" in verdicts[0]["message"], "the best hosts show the terms of their score"


async def test_nothing_changed_nothing_is_asked_or_written(site: Site) -> None:
    site.vm("a")
    site.vm("big", memory="64Gi")
    scheduler = site.scheduler()
    await scheduler.run_once()
    asked, writes = count_decisions(scheduler), len(site.api.writes())
    for _ in range(3):
        await scheduler.run_once()
    assert asked == []
    assert len(site.api.writes()) == writes


async def test_a_waiting_vm_is_asked_about_again_only_when_room_may_have_come(site: Site) -> None:
    site.vm("big", memory="64Gi")
    scheduler = site.scheduler()
    await scheduler.run_once()
    asked = count_decisions(scheduler)
    site.vm("small")
    await scheduler.run_once()
    assert asked == ["small"], "a VM that was placed makes no room"
    site.host("h3", memory_mib=2**17)
    await scheduler.run_once()
    assert asked == ["small", "big"]
    assert site.node_of("big") == "h3"


async def test_a_vm_that_wants_company_is_asked_about_when_others_are_placed(site: Site) -> None:
    near = [{"selector": {"matchLabels": {"app": "db"}}, "topologyKey": "limiquantix.io/host", "required": True}]
    site.vm("web", labels={"app": "web"}, placement={"affinity": near})
    scheduler = site.scheduler()
    await scheduler.run_once()
    assert site.placement("web")["phase"] == "Released"
    site.vm("db", labels={"app": "db"})
    await scheduler.run_once()
    await scheduler.run_once()
    assert site.node_of("web") == site.node_of("db") != ""


async def test_vms_of_one_shape_that_do_not_fit_are_decided_once(site: Site) -> None:
    for n in range(20):
        site.vm(f"big-{n}", memory="64Gi")
    scheduler = site.scheduler()
    await scheduler.book.refresh()
    asked = count_decisions(scheduler)
    await scheduler.run_once()
    assert len(asked) == 1
    assert all(site.scheduled(f"big-{n}")["reason"] == "NoHostFits" for n in range(20))
    assert f"{NS}/big-7" not in site.raw("big-3")["status"]["scheduling"]["message"]


async def test_the_order_is_priority_then_age(site: Site) -> None:
    site.vm("late", memory="16Gi", availability={"priority": 10})
    site.clock.skip(5)
    site.vm("old", memory="16Gi")
    site.clock.skip(5)
    site.vm("young", memory="16Gi")
    site.clock.skip(5)
    site.vm("urgent", memory="16Gi", availability={"priority": 90})
    await site.scheduler().run_once()
    placed = {name for name in ("late", "old", "young", "urgent") if site.node_of(name)}
    assert placed == {"urgent", "old"}


async def test_a_full_batch_leaves_nobody_behind(site: Site) -> None:
    for n in range(10):
        site.vm(f"vm-{n}")
    await site.scheduler(max_batch=3).run_once()
    assert all(site.node_of(f"vm-{n}") for n in range(10))


async def test_the_first_that_waits_long_gets_its_room_although_small_ones_keep_coming() -> None:
    site = Site()  # both hosts are full of 1 GiB
    site.host("h1", cpu=64)
    site.host("h2", cpu=64)
    for n in range(32):
        site.vm(f"small-{n}")
    scheduler = site.scheduler()
    await scheduler.run_once()
    assert all(site.node_of(f"small-{n}") for n in range(32))
    site.clock.skip(1)
    site.vm("large", memory="4Gi")
    await scheduler.run_once()
    site.clock.skip(EARMARK_AFTER_S + 1)
    await scheduler.run_once()
    waited, generation = 0, 32
    while not site.node_of("large") and waited < 32:
        waited += 1
        site.delete(f"small-{waited - 1}")  # one goes, another of the same size comes, for ever
        site.clock.skip(1)
        site.vm(f"small-{generation}")
        generation += 1
        await scheduler.run_once()
    assert site.node_of("large"), "it starved"
    assert waited <= 8, "the earmarked host must fill up for nobody else"


async def test_a_higher_priority_may_take_the_earmarked_room(site: Site) -> None:
    site.vm("filler-1", memory="10Gi")
    site.vm("filler-2", memory="10Gi")
    scheduler = site.scheduler()
    await scheduler.run_once()
    site.vm("large", memory="12Gi")
    await scheduler.run_once()
    site.clock.skip(EARMARK_AFTER_S + 1)
    site.vm("equal", memory="6Gi")
    site.vm("equal-2", memory="6Gi")
    await scheduler.run_once()
    assert sorted(bool(site.node_of(name)) for name in ("equal", "equal-2")) == [False, True]
    site.vm("urgent", memory="6Gi", availability={"priority": 90})
    await scheduler.run_once()
    assert site.node_of("urgent"), "what is kept for one is not kept from those before it"


async def test_a_conflict_is_left_to_the_watch_and_the_room_is_given_back(site: Site) -> None:
    site.vm("a", memory="16Gi")
    scheduler = site.scheduler()

    def somebody_writes_first(op: Any) -> None:
        if op.verb == "patch/status":
            site.api.before = lambda _: None
            site.release("a")

    site.api.before = somebody_writes_first
    await scheduler.run_once()
    assert site.placement("a")["phase"] == "Released"
    fleet = scheduler.book.fleets["c1"]
    assert not fleet.engine.state.reserved
    assert not fleet.binding
    await scheduler.run_once()
    assert site.placement("a")["phase"] == "Assigned"


async def test_the_next_best_host_is_taken_when_the_best_does_not_take_it_any_more(site: Site) -> None:
    site.vm("a")
    scheduler = site.scheduler()
    await scheduler.book.refresh()
    fleet = scheduler.book.fleets["c1"]
    reserve, refused = fleet.engine.reserve, []

    def refuse_first(identity: Any, host: str, shape: Any = None) -> Any:
        if not refused:
            refused.append(host)
            return Verdict(host, "memory", "is full now")
        return reserve(identity, host, shape)

    fleet.engine.reserve = refuse_first
    await scheduler.run_once()
    assert site.node_of("a") == ({"h1", "h2"} - set(refused)).pop()


async def test_an_assignment_that_no_longer_fits_goes_elsewhere_or_back(site: Site) -> None:
    site.vm("a")
    scheduler = site.scheduler()
    await scheduler.run_once()
    first = site.node_of("a")
    site.host(first, ready=False)
    await scheduler.run_once()
    assert site.node_of("a") == ({"h1", "h2"} - {first}).pop()
    site.host("h1", ready=False)
    site.host("h2", ready=False)
    await scheduler.run_once()
    assert site.placement("a")["phase"] == "Released"
    assert site.scheduled("a")["status"] == "False"


async def test_a_vm_that_shall_not_run_is_unassigned_and_not_placed(site: Site) -> None:
    site.vm("a")
    site.vm("off", powerState="Stopped")
    scheduler = site.scheduler()
    await scheduler.run_once()
    assert not site.node_of("off")
    site.vm("a", released=False, powerState="Stopped")
    await scheduler.run_once()
    assert site.placement("a")["phase"] == "Released"


async def test_numbers_that_move_are_not_written_at_every_change(site: Site) -> None:
    site.vm("big", memory="64Gi")
    scheduler = site.scheduler()
    await scheduler.run_once()
    writes = len(site.api.writes())
    for step in range(5):
        for host in ("h1", "h2"):
            site.host(host, memory_mib=16384 - 1024 * (step + 1))
        site.clock.skip(1)
        await scheduler.run_once()
    assert len(site.api.writes()) == writes
    site.clock.skip(REPEAT_AFTER_S)
    await scheduler.run_once()
    assert len(site.api.writes()) == writes + 1, "old numbers do not stay for ever"
    site.host("h1", memory_mib=10240, unschedulable=True)
    await scheduler.run_once()
    assert len(site.api.writes()) == writes + 2, "another reason is said at once"


async def test_status_stays_bounded_with_many_hosts() -> None:
    site = Site()
    for n in range(60):
        site.host(f"h{n:02}", memory_mib=1024 + n)
    site.vm("fits", memory="512Mi")
    site.vm("big", memory="64Gi")
    await site.scheduler().run_once()
    assert len(site.raw("big")["status"]["scheduling"]["verdicts"]) == 32
    assert 1 <= len(site.raw("fits")["status"]["scheduling"]["verdicts"]) <= 32


async def test_the_strategy_of_the_cluster_and_of_the_vm(site: Site) -> None:
    site.cluster(strategy="Pack")
    scheduler = site.scheduler()
    for name in ("a", "b", "c"):
        site.vm(name)
        await scheduler.run_once()
    assert len({site.node_of(name) for name in ("a", "b", "c")}) == 1
    site.vm("d", placement={"strategy": "Spread"})
    await scheduler.run_once()
    assert site.node_of("d") != site.node_of("a")
    site.cluster(strategy="Spread")
    site.vm("e")
    await scheduler.run_once()
    assert site.node_of("e") != site.node_of("a"), "a new strategy takes effect, and knows where everybody is"


async def test_room_comes_back_when_a_vm_goes(site: Site) -> None:
    for name in ("a", "b", "c"):
        site.vm(name, memory="16Gi")
    scheduler = site.scheduler()
    await scheduler.run_once()
    waiting = next(name for name in ("a", "b", "c") if not site.node_of(name))
    gone = next(name for name in ("a", "b", "c") if site.node_of(name))
    where = site.node_of(gone)
    site.delete(gone)
    await scheduler.run_once()
    assert site.node_of(waiting) == where


async def test_a_namespace_that_is_admitted_later_is_served_without_a_restart(site: Site) -> None:
    spec = {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"vms": "yes"}}}}
    site.apply(HypervisorCluster, None, "c1", spec)
    site.vm("a")
    scheduler = site.scheduler()
    await scheduler.run_once()
    assert not site.node_of("a")
    site.api.put_namespace(NS, {"vms": "yes"})
    site.clock.skip(31)
    await scheduler.run_once()
    assert site.node_of("a")


async def test_a_lost_lease_ends_the_round_before_the_next_write(site: Site) -> None:
    for n in range(3):
        site.vm(f"vm-{n}")
    scheduler = site.scheduler()
    site.api.after = lambda _: setattr(scheduler.tenure._lease, "over", True)
    with pytest.raises(Fenced):
        await scheduler.run_once()
    assert len(site.api.writes()) <= 1


async def test_a_silent_api_server_ends_the_round_and_no_room_stays_held(site: Site) -> None:
    for n in range(3):
        site.vm(f"vm-{n}")
    scheduler = site.scheduler()

    def silent(op: Any) -> None:
        if op.write:
            raise Transient("no answer")

    site.api.before = silent
    with pytest.raises(Transient):
        await scheduler.run_once()
    assert not scheduler.book.fleets["c1"].engine.state.reserved
    site.api.before = lambda _: None
    await scheduler.run_once()
    assert all(site.node_of(f"vm-{n}") for n in range(3))


async def test_a_node_without_uuid_is_refused_with_a_reason(site: Site) -> None:
    site.host("h2", ready=False)
    site.status(HypervisorNode, None, "h1", {"hostUUID": ""})
    site.vm("a")
    await site.scheduler().run_once()
    assert site.placement("a")["phase"] == "Released"
    assert site.scheduled("a")["status"] == "False"
    assert site.scheduled("a")["message"]


async def test_a_tombstone_keeps_the_successor_waiting(site: Site) -> None:
    tombstone = {"namespace": NS, "name": "a", "uid": "older", "epoch": "1-1"}
    site.status(HypervisorNode, None, "h2", {"tombstones": [tombstone]})
    site.vm("a")
    await site.scheduler().run_once()
    assert site.placement("a")["phase"] == "Released"
    assert site.scheduled("a")["reason"] == "PreviousIncarnation"


async def test_a_conflict_names_itself(site: Site) -> None:
    """The fake raises what the real server's refusal becomes; that the real one does is in tests/e2e."""
    site.vm("a")
    operations = [{"op": "test", "path": "/status/placement/writeId", "value": "another"}]
    with pytest.raises(Conflict):
        await site.api.json_patch(VirtualMachine, NS, "a", operations, subresource="status")
