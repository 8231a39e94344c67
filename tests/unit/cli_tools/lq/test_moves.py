"""migrate and drain: what is said of progress, ends and obstacles."""

from __future__ import annotations

from typing import Any

from lq_operator.api.node import MaintenanceStatus
from lq_operator.api.vmmigration import MigrationProgress, VirtualMachineMigration
from lq_operator.cli_tools.lq.hosts import emptying, say_drain
from lq_operator.cli_tools.lq.migrate import amounts, facts, say, under_way
from lq_operator.cli_tools.lq.timeline import timeline_of_move

MIB = 1024 * 1024


def move(**status: Any) -> VirtualMachineMigration:
    meta = {"name": "web-move-1", "namespace": "ns", "creationTimestamp": "2026-03-01T10:00:00Z"}
    return VirtualMachineMigration.model_validate(
        {"metadata": meta, "spec": {"vmRef": {"name": "web"}}, "status": status}
    )


def test_bytes_while_it_runs() -> None:
    progress = MigrationProgress(
        total_bytes=2048 * MIB, remaining_bytes=512 * MIB, iteration=3, dirty_bytes_per_second=90 * MIB
    )
    assert amounts(progress) == "75 % of 2.0 GiB, 512 MiB left, pass 3, the guest rewrites 90 MiB/s"
    running = move(phase="Running", sourceNode="h1", targetNode="h2", progress=progress.model_dump(by_alias=True))
    assert under_way(running).startswith("h1 -> h2 75 %")
    # More may be left than there was: memory that was written again.
    assert amounts(MigrationProgress(total_bytes=MIB, remaining_bytes=2 * MIB)).startswith("0 % of 1 MiB")


def test_waiting_says_what_for() -> None:
    waiting = move(phase="Pending", sourceNode="h1", scheduling={"node": "", "message": "no host fits: memory 3"})
    assert under_way(waiting) == "h1 -> ? Pending: no host fits: memory 3"


def test_ends() -> None:
    moved = move(
        phase="Succeeded", sourceNode="h1", targetNode="h2", totalMilliseconds=740, downtimeMilliseconds=12,
        startedAt="2026-03-01T10:00:01.500Z", finishedAt="2026-03-01T10:00:03.000Z",
    )  # fmt: skip
    assert say(facts(moved, waited=True)) == "vm/web: moved from h1 to h2 in 740 ms; it stood still for 12 ms"
    assert "kubectl get vmmig web-move-1" in say(facts(moved, waited=False))
    found = timeline_of_move("ns/web", moved)
    assert [phase.took_ms for phase in found.phases] == [None, 1500, 1500]
    assert (found.total_ms, found.missing) == (3000, ())
    refused = move(phase="Refused", obstacles=[{"what": "Network", "name": "nat", "message": "h2 lacks it"}])
    assert say(facts(refused, waited=True)).splitlines() == ["vm/web: move refused", "  - Network nat: h2 lacks it"]
    assert len(timeline_of_move("ns/web", refused).missing) == 3


def test_drain_names_who_stays_and_the_way_out() -> None:
    blocker = {"namespace": "ns", "name": "db", "reason": "LocalDisk", "message": "power it off"}
    status = MaintenanceStatus.model_validate({"phase": "Blocked", "remaining": 1, "blockers": [blocker]})
    text = say_drain("h1", status, waited=True)
    assert "ns/db" in text
    assert "power it off" in text
    assert emptying(status) == "Blocked: 1 VMs here, 0 on their way, 1 cannot be moved"
    assert "in maintenance" in say_drain("h1", MaintenanceStatus(phase="InMaintenance"), waited=True)
