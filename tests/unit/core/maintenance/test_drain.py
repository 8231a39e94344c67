"""Emptying a host, as tables: who goes now, who stays and why, what is taken back. Each test is a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lq_operator.core.maintenance.drain import BACKOFF_S, NAMED_AFTER, plan_drain
from lq_operator.core.maintenance.world import (
    Drain,
    DrainPhase,
    DrainWorld,
    Move,
    Resident,
    Stray,
    Why,
)

NODE = "h1"


def vm(name: str, **fields: object) -> Resident:
    return replace(Resident("ns", name, memory_mib=512), **fields)  # type: ignore[arg-type]


def move(name: str, **fields: object) -> Move:
    return replace(Move(name, f"uid-{name}", mine=True), **fields)  # type: ignore[arg-type]


def failed(name: str, ended_s: float = 1e6, **fields: object) -> Move:
    return move(name, ended_s=ended_s, message="the network broke", **fields)


def drain(*residents: Resident, **fields: object) -> Drain:
    return plan_drain(replace(DrainWorld(NODE, True, residents), **fields))  # type: ignore[arg-type]


def goes(plan: Drain) -> list[str]:
    return [new.vm for new in plan.create]


def stays(plan: Drain) -> dict[str, Why]:
    return {blocker.name: blocker.why for blocker in plan.blockers}


def test_an_empty_host_is_in_maintenance() -> None:
    plan = drain()
    assert (plan.phase, plan.remaining, plan.blockers) == (DrainPhase.IN_MAINTENANCE, 0, ())


def test_no_more_at_once_than_the_host_may_send() -> None:
    plan = drain(vm("a"), vm("b"), vm("c"), vm("d"), per_host=2)
    assert (goes(plan), plan.moving, plan.remaining, plan.phase) == (["a", "b"], 2, 4, DrainPhase.DRAINING)


def test_what_is_under_way_takes_a_place_whoever_asked_for_it() -> None:
    mine, theirs = move("h1-a-1", begun=True), move("by-hand", mine=False)
    assert goes(drain(vm("a", moves=(mine,)), vm("b", moves=(theirs,)), vm("c"), per_host=2)) == []
    assert goes(drain(vm("a", moves=(mine,)), vm("b", moves=(theirs,)), vm("c"), per_host=3)) == ["c"]


def test_priority_goes_first_then_the_largest() -> None:
    plan = drain(
        vm("small", memory_mib=256),
        vm("large", memory_mib=4096),
        vm("first", memory_mib=256, priority=90),
        vm("last", memory_mib=8192, priority=10),
        per_host=4,
    )
    assert goes(plan) == ["first", "large", "small", "last"]


def test_who_waits_for_room_keeps_no_place_and_is_named() -> None:
    waits = move("h1-a-1", no_room="0 of 3 hosts fit: memory 2")
    plan = drain(vm("a", moves=(waits,)), vm("b"), per_host=1)
    assert (goes(plan), stays(plan), plan.phase) == (["b"], {"a": Why.NO_ROOM}, DrainPhase.DRAINING)
    alone = drain(vm("a", moves=(waits,)))
    assert (alone.phase, alone.create, alone.drop) == (DrainPhase.BLOCKED, (), ())
    assert "memory 2" in alone.blockers[0].message


@pytest.mark.parametrize("state", ["Starting", "Stopping", "Stopped", "Crashed"])
def test_what_passes_by_itself_is_waited_for(state: str) -> None:
    plan = drain(vm("a", state=state))
    assert (plan.phase, plan.create, plan.blockers) == (DrainPhase.DRAINING, (), ())


@pytest.mark.parametrize("fields", [{"deleting": True}, {"here": False}, {"committed": False}])
def test_who_leaves_or_is_not_there_yet_is_waited_for(fields: dict[str, object]) -> None:
    plan = drain(vm("a", **fields))
    assert (plan.phase, plan.create, plan.blockers) == (DrainPhase.DRAINING, (), ())


@pytest.mark.parametrize(
    ("fields", "why", "way_out"),
    [
        ({"state": "Paused"}, Why.POWER, "Resume"),
        ({"state": "Unknown", "stalled": True, "said": "SplitBrain: two of them"}, Why.UNKNOWN, "SplitBrain"),
        ({"pinned": "spec.placement.nodeSelector matches no other host"}, Why.RULE, "change the rule"),
        ({"moves": (failed("1", refused=True, obstacles=(("Tpm", "its TPM"),)),)}, Why.DEVICE, "Take the device out"),
        ({"moves": (failed("1", refused=True, obstacles=(("Disk", "no room"),)),)}, Why.LOCAL_DISK, "Make room"),
        (
            {"moves": (failed("1", refused=True, obstacles=(("Cpu", "no avx"), ("Disk", "full"))),)},
            Why.REFUSED,
            "no avx; full",
        ),
        ({"moves": tuple(failed(str(n)) for n in range(NAMED_AFTER))}, Why.FAILED, "the network broke"),
    ],
)
def test_who_stays_is_named_with_the_way_out(fields: dict[str, object], why: Why, way_out: str) -> None:
    plan = drain(vm("a", **fields))
    assert stays(plan) == {"a": why}
    assert way_out in plan.blockers[0].message
    assert plan.phase is DrainPhase.BLOCKED


def test_of_a_silent_host_nothing_is_asked() -> None:
    plan = drain(vm("a"), vm("b", state="Paused"), silent="no route to host")
    assert (goes(plan), stays(plan)) == ([], {"a": Why.UNKNOWN, "b": Why.UNKNOWN})
    assert "no route to host" in plan.blockers[0].message


@pytest.mark.parametrize("fields", [{"unseen": True, "silent": "connecting"}, {}], ids=["host", "vm"])
def test_a_process_that_has_just_started_takes_nothing_back_and_names_nobody_new(fields: dict[str, object]) -> None:
    before = vm("before", state="Unknown", named=(Why.RULE, "pinned"))
    plan = drain(vm("a", state="Unknown"), before, **fields)
    assert (goes(plan), stays(plan), plan.phase) == ([], {"before": Why.RULE}, DrainPhase.DRAINING)
    assert drain(before, **fields).phase is DrainPhase.BLOCKED


def test_domains_that_nobody_may_move_are_named() -> None:
    plan = drain(orphans=(("ns", "lost"),), misplaced=(("ns", "twin"),))
    assert stays(plan) == {"lost": Why.UNKNOWN, "twin": Why.UNKNOWN}
    assert (plan.phase, plan.remaining) == (DrainPhase.BLOCKED, 2)


@pytest.mark.parametrize("attempts", range(1, len(BACKOFF_S) + 3))
def test_it_is_tried_again_for_ever_each_time_later_and_not_in_silence(attempts: int) -> None:
    wait_s = BACKOFF_S[min(attempts, len(BACKOFF_S)) - 1]
    before = [failed(f"h1-a-{n}") for n in range(1, attempts)]
    names = frozenset(m.name for m in before) | {f"h1-a-{attempts}"}
    early = drain(vm("a", moves=(*before, failed(f"h1-a-{attempts}", wait_s - 1)), taken=names))
    late = drain(vm("a", moves=(*before, failed(f"h1-a-{attempts}", wait_s)), taken=names))
    assert (goes(early), early.again_s) == ([], 1.0)
    assert [new.name for new in late.create] == [f"h1-a-{attempts + 1}"]
    named = {"a": Why.FAILED} if attempts >= NAMED_AFTER else {}
    assert stays(early) == named


def test_a_success_ends_the_row_of_failures() -> None:
    """It came back, was moved away, came back: it is not punished for last week."""
    past = (*(failed(str(n)) for n in range(5)), move("ok", ended_s=1.0, succeeded=True))
    assert goes(drain(vm("a", moves=past))) == ["a"]


def test_a_name_is_never_used_twice() -> None:
    plan = drain(vm("a", taken=frozenset({"h1-a-1", "h1-a-2"})))
    assert [new.name for new in plan.create] == ["h1-a-3"]


def test_of_two_moves_of_one_vm_the_older_stays() -> None:
    plan = drain(vm("a", moves=(move("h1-a-1"), move("h1-a-2"))))
    assert [drop.name for drop in plan.drop] == ["h1-a-2"]
    assert plan.create == ()


def test_a_move_of_a_vm_that_has_left_is_taken_back_unless_it_has_begun() -> None:
    strays = (
        Stray("ns", move("waits")),
        Stray("ns", move("begun", begun=True)),
        Stray("ns", move("done", ended_s=1.0, succeeded=True)),
    )
    assert [drop.name for drop in drain(strays=strays).drop] == ["waits"]


def test_back_to_service_takes_back_what_is_not_done() -> None:
    """Also what a late writer created after it; what others asked for is theirs."""
    here = vm("a", moves=(failed("f"), move("running", begun=True), move("theirs", mine=False)))
    strays = (Stray("ns", move("done", ended_s=1.0, succeeded=True)), Stray("ns", move("late")))
    plan = plan_drain(DrainWorld(NODE, False, (here,), strays))
    assert [drop.name for drop in plan.drop] == ["f", "running", "late"]
    assert (plan.phase, plan.create, plan.again_s) == (DrainPhase.OFF, (), None)
