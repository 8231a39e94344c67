"""The ownership protocol searched for double starts. LQ_MODEL_DEEP=1 adds the big families (minutes, gigabytes)."""

from __future__ import annotations

import os

import pytest

from . import report
from .families import FAMILIES, RECOVERED, REMOVALS, TRACES, Family, Removal, Trace
from .search import Refused, end_of_walk, follow, reaches_running, walk
from .world import healed, initial, running

DEEP = os.environ.get("LQ_MODEL_DEEP", "") == "1"
NEEDS_DEEP = pytest.mark.skipif(not DEEP, reason="a big family: set LQ_MODEL_DEEP=1 (takes minutes)")


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=NEEDS_DEEP) if f.deep else f for f in FAMILIES], ids=lambda f: f.name
)
def test_no_identity_runs_twice(family: Family, record_property: pytest.RecordProperty) -> None:
    result = family.search()
    record_property("states", result.states)
    record_property("depth", result.depth)
    print(f"{family.name}: {result.states} states, depth {result.depth}, exhausted {result.exhausted}")
    assert result.trace == ()
    assert result.exhausted or family.partial, "the family outgrew its limit: the claim in the docs no longer holds"


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda r: f"{r.name}, {r.start}")
def test_without_this_guard_it_runs_twice(removal: Removal) -> None:
    result = removal.search()
    assert result.trace, f"{removal.name} taken away, and nothing happens in {result.states} states"


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda r: f"{r.name}, {r.start}")
def test_with_this_guard_the_same_family_is_clean(removal: Removal) -> None:
    result = removal.family().search()
    assert result.trace == ()
    assert result.exhausted


@pytest.mark.parametrize("trace", TRACES, ids=lambda t: t.name)
def test_trace_starts_twice_without_its_guards(trace: Trace) -> None:
    family = trace.family()
    end = follow(family.world(), family.rules(*trace.removed), trace.script)
    assert running(end) == 2


@pytest.mark.parametrize("trace", TRACES, ids=lambda t: t.name)
def test_trace_is_refused_by_the_protocol(trace: Trace) -> None:
    family = trace.family()
    with pytest.raises(Refused) as refused:
        follow(family.world(), family.rules(), trace.script)
    assert repr(trace.refused_at) in str(refused.value).split("is not possible")[0]


def test_the_counterexamples_in_the_docs_are_those_found() -> None:
    assert report.PAGE.read_text().split(report.MARK)[1] == report.counterexamples(), report.REMEDY


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=NEEDS_DEEP) if f.deep else f for f in FAMILIES if f.recovered],
    ids=lambda f: f.name,
)
def test_it_runs_again_wherever_faults_stop(family: Family) -> None:
    found = family.recovers(limit=0 if DEEP else RECOVERED)
    print(f"{family.name}: {found.states} states, {found.ends} different ends")
    assert found.ends > 1
    assert found.stuck == ()


def test_the_search_for_a_way_back_can_fail() -> None:
    """Nobody may start anything: then it says so."""
    alone = Family("stuck", "stopped", {"start": 1}).rules()
    alone.processes = ()
    assert reaches_running(healed(initial("stopped", {})), alone, ha=True) is False


def test_a_restored_lease_is_heard_from_a_host_that_noted_a_later_beat() -> None:
    budgets = {"start": 1, "restore": 1, "usurp": 1, "renew": 1}
    family = Family("heard", "stopped", budgets, beats=True)
    script = (
        "etcd snapshot; p0 renews", "p0 notes term 1 beat 1 on h0", "etcd is restored", "p1 acquires term 2",
        "p1 makes gate", "p1 lists the gates of h0", "owns h0 and hears that the API server went back",
    )  # fmt: skip
    follow(family.world(), family.rules(), script)


EVERYTHING = {
    "crash": 1, "usurp": 3, "reboot": 1, "poweroff": 1, "cut": 2, "restore": 1, "wipe": 1, "attest": 2, "move": 2,
    "delete": 1, "stop": 3, "start": 6, "reassign": 2,
}  # fmt: skip


@pytest.mark.parametrize("start", ["running", "fresh", "stopped"])
def test_random_walks_with_every_fault(start: str) -> None:
    """What cannot be exhausted is at least walked through: every fault of the model mixed."""
    family = Family("walks", start, EVERYTHING, ha=True, concurrent=True)
    rules = family.rules()
    for seed in range(4000 if DEEP else 150):
        labels = walk(initial(start, EVERYTHING), rules, seed, 200, ha=True, snapshots=True)
        assert labels == (), f"seed {seed}:\n" + "\n".join(labels)


@pytest.mark.parametrize("start", ["running", "fresh", "stopped"])
def test_it_can_run_again_when_faults_stop(start: str) -> None:
    """From wherever a walk through every fault ends: hosts have power, are reachable, one fresh process acts."""
    family = Family("walks", start, EVERYTHING, ha=True, concurrent=True)
    alone = family.rules()
    alone.processes, alone.concurrent = (0,), False
    for seed in range(2000 if DEEP else 60):
        state, labels = end_of_walk(initial(start, EVERYTHING), family.rules(), seed, 80, ha=True)
        again = reaches_running(healed(state), alone, ha=True)
        assert again, f"seed {seed}, {again}:\n" + "\n".join(labels)
