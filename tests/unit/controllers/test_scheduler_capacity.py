"""Failures: what the cluster says about them, what Strict refuses, what Warn tells, what the records repeat."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.controllers.scheduling import Site

from lq_operator.api.cluster import HypervisorCluster
from lq_operator.controllers.scheduler import debug_page
from lq_operator.controllers.scheduler.records import NEWEST
from lq_operator.core.placement.replay import outcome_of, replay


def cluster_status(site: Site) -> tuple[dict[str, Any], list[str]]:
    raw = site.api.raw(HypervisorCluster, None, "c1")
    assert raw is not None
    found = [c for c in raw["status"].get("conditions", []) if c["type"] == "FailoverCapacity"]
    return (found[0] if found else {}), raw["status"].get("whichCanFail", [])


async def test_the_cluster_says_which_hosts_can_fail_and_who_blocks() -> None:
    site = Site()
    site.host("h1")
    site.host("h2", memory_mib=4096)
    site.vm("large", memory="8Gi")
    scheduler = site.scheduler()
    report = site.report(scheduler)
    await scheduler.run_once()
    await report.run_once()
    said, can_fail = cluster_status(site)
    assert (said["status"], said["reason"]) == ("False", "CannotFail")
    assert "team/large" in said["message"]
    assert can_fail == ["h2"]
    site.host("h3")
    await scheduler.run_once()
    await report.run_once()
    said, can_fail = cluster_status(site)
    assert said["status"] == "True"
    assert can_fail == ["h1", "h2", "h3"]
    assert "8 GiB" in said["message"], "h3 failed leaves h1 with 8 GiB; h1 failed leaves 8 GiB on h3"


async def test_the_report_is_written_once_and_keeps_the_conditions_of_others() -> None:
    site = Site()
    site.host("h1")
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": ""}
    site.status(HypervisorCluster, None, "c1", {"conditions": [ready]})
    scheduler = site.scheduler()
    report = site.report(scheduler)
    await scheduler.run_once()
    for _ in range(3):
        await report.run_once()
    assert [op.verb for op in site.api.writes()] == ["apply/status"]
    raw = site.api.raw(HypervisorCluster, None, "c1")
    assert raw is not None
    assert {c["type"] for c in raw["status"]["conditions"]} == {"Ready", "FailoverCapacity"}


async def test_a_vm_that_is_not_to_be_restarted_blocks_nobody() -> None:
    site = Site()
    site.host("h1")
    site.vm("cattle", memory="8Gi", availability={"restartOnHostFailure": False})
    scheduler = site.scheduler()
    await scheduler.run_once()
    await site.report(scheduler).run_once()
    assert cluster_status(site)[0]["status"] == "True"
    site.vm("cattle", memory="8Gi", released=False)
    await scheduler.run_once()
    await site.report(scheduler).run_once()
    assert cluster_status(site)[0]["status"] == "False"


@pytest.mark.parametrize(("admission", "placed"), [("Ignore", True), ("Warn", True), ("Strict", False)])
async def test_admission(admission: str, placed: bool) -> None:
    site = Site(admission=admission)
    site.host("h1")
    site.host("h2")
    scheduler = site.scheduler()
    for name in ("a", "b"):
        site.vm(name, memory="8Gi")
        await scheduler.run_once()
    site.vm("too-much", memory="8Gi")
    await scheduler.run_once()
    assert bool(site.node_of("too-much")) is placed
    said = site.scheduled("too-much")
    if admission == "Strict":
        assert "failover" in site.raw("too-much")["status"]["scheduling"]["rejected"]
        assert "no room for a failure" in said["message"]
    assert ("FailoverRisk" in site.events.reasons("team/too-much")) is (admission == "Warn")
    assert ("no room for a failure" in said["message"]) is (admission != "Ignore")


async def test_two_failures_tolerated() -> None:
    site = Site(admission="Strict", hostFailuresTolerated=2)
    for name in ("h1", "h2", "h3"):
        site.host(name)
    scheduler = site.scheduler()
    report = site.report(scheduler)
    for n in range(5):
        site.vm(f"vm-{n}", memory="4Gi")
        await scheduler.run_once()
    placed = [n for n in range(5) if site.node_of(f"vm-{n}")]
    assert len(placed) == 4, "one host of 16 GiB must be able to carry all"
    await report.run_once()
    assert cluster_status(site)[0]["status"] == "True"
    site.cluster(admission="Ignore", hostFailuresTolerated=2)
    await scheduler.run_once()
    await report.run_once()
    assert all(site.node_of(f"vm-{n}") for n in range(5)), "a policy that is loosened lets the waiting ones in"
    assert cluster_status(site)[0]["status"] == "False"
    assert len(cluster_status(site)[1]) == 3, "each of them alone can fail"


async def test_every_record_replays_to_the_same_bytes() -> None:
    site = Site(admission="Strict")
    for n in range(4):
        site.host(f"h{n}", labels={"rack": f"r{n % 2}"})
    scheduler = site.scheduler(term=7)
    spread = {"spread": [{"selector": {"matchLabels": {"app": "a"}}, "topologyKey": "rack", "maxSkew": 1}]}
    for n in range(18):
        site.vm(f"vm-{n}", memory="4Gi", labels={"app": "a"}, placement=spread if n % 3 else {})
        await scheduler.run_once()
        if n % 4 == 3:
            site.delete(f"vm-{n - 3}")
            site.host("h1", unschedulable=n % 8 == 3)
    page = debug_page(lambda: [fleet.journal for fleet in scheduler.book.fleets.values()])
    listing = json.loads(page("") or b"")
    assert len(listing) >= 12
    outcomes = set()
    for line in listing:
        record = page(line["number"])
        assert record is not None
        body = json.loads(record)
        assert replay(record) == outcome_of(record), line
        assert body["seed"] == 7
        assert set(body["versions"]) == {"h0", "h1", "h2", "h3"}
        outcomes.add(body["outcome"]["host"])
    assert None in outcomes, "a refusal by the guard is among them"
    assert len(outcomes) > 2
    assert page("7-999") is None


async def test_the_journal_forgets_the_oldest_decisions_and_replays_the_rest() -> None:
    site = Site()
    site.host("h1", cpu=4000, memory_mib=2**22)
    scheduler = site.scheduler()
    for n in range(NEWEST + 40):
        site.vm(f"vm-{n}", memory="64Mi")
        if n % 50 == 0:
            await scheduler.run_once()
    await scheduler.run_once()
    journal = scheduler.book.fleets["c1"].journal
    lines = journal.summaries()
    assert len(lines) == NEWEST
    assert journal.record("1-1") is None
    oldest = journal.record(lines[-1]["number"])
    assert oldest is not None
    assert replay(oldest) == outcome_of(oldest)
    assert len(json.loads(oldest)["vms"]) + len(json.loads(oldest)["reservations"]) == 40
