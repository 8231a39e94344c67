"""timeline(): phases of a start from stamps that are there, and a sentence for each that is not."""

from __future__ import annotations

from typing import Any

import pytest

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmoperation import VirtualMachineOperation
from lq_operator.api.volume import Volume
from lq_operator.cli_tools.lq.cluster import Happened
from lq_operator.cli_tools.lq.timeline import say, timeline
from lq_operator.core.result import Rejected


def at(second: float) -> str:
    return f"2026-03-01T10:00:{second:06.3f}Z"


def condition(kind: str, when: str, status: str = "True") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": kind, "lastTransitionTime": when}


def vm(**over: Any) -> VirtualMachine:
    status: dict[str, Any] = {
        "power": {"state": "Running", "startedAt": at(4.5)},
        "placement": {"phase": "Committed", "writeId": "w", "since": at(1.25), "node": "h1"},
        "disks": [{"name": "root", "volume": "web-root", "ready": True}],
        "guest": {"agent": "Connected"},
        "conditions": [condition("Scheduled", at(1.0)), condition("Ready", at(4.75))],
    }
    return VirtualMachine.model_validate(
        {
            "metadata": {
                "name": "web",
                "namespace": "ns",
                "generation": 1,
                "creationTimestamp": "2026-03-01T10:00:00Z",
            },
            "spec": {"className": "small"},
            "status": status | over,
        }
    )


def volume(ready_at: str) -> Volume:
    return Volume.model_validate(
        {
            "metadata": {"name": "web-root", "namespace": "ns"},
            "spec": {"size": "1Gi", "poolRef": "p"},
            "status": {"conditions": [condition("Ready", ready_at)]},
        }
    )


def test_first_start_in_milliseconds() -> None:
    found = timeline(vm(), [volume(at(2.0))], [], [])
    assert [(phase.what, phase.since_begin_ms, phase.took_ms) for phase in found.phases] == [
        ("VirtualMachine created", 0, None),
        ("a host was chosen", 1000, 1000),
        ("the start was committed to that host", 1250, 250),
        ("disk root was ready", 2000, 750),
        ("QEMU ran, seen by the operator", 4500, 2500),
        ("Ready", 4750, 250),
    ]
    assert found.total_ms == 4750
    assert [phase.resolution_ms for phase in found.phases] == [1000, 1000, 1, 1, 1, 1]
    assert len(found.missing) == 1
    assert "not since when" in found.missing[0]
    assert "1000*" in say(found)


def test_a_later_start_begins_with_its_operation_and_leaves_out_what_was_before() -> None:
    op = VirtualMachineOperation.model_validate(
        {
            "metadata": {"name": "web-restart-1", "uid": "u1", "creationTimestamp": "2026-03-01T10:00:03Z"},
            "spec": {"vmRef": {"name": "web"}, "verb": "Restart"},
        }
    )
    power = {"state": "Running", "startedAt": at(4.5), "lastOperation": "u1"}
    found = timeline(vm(power=power), [volume(at(2.0))], [op], [Happened("Assigned", "", at(3.5), False)])
    assert [phase.what for phase in found.phases] == [
        "Restart asked for (web-restart-1)",
        "a host was chosen",
        "QEMU ran, seen by the operator",
        "Ready",
    ]
    assert found.phases[1].source == "Event Assigned"
    assert any("committed" in one for one in found.missing)


def test_a_start_that_nothing_tells_the_begin_of_has_no_total() -> None:
    power = {"state": "Running", "startedAt": at(4.5), "lastOperation": "gone", "restarts": 0}
    found = timeline(vm(power=power), [], [], [])
    assert found.total_ms is None
    assert "ttlSecondsAfterFinished" in found.missing[0]


def test_never_started() -> None:
    with pytest.raises(Rejected, match="never started"):
        timeline(vm(power={"state": "Stopped"}), [], [], [])
