"""The ownership protocol searched for double starts. LQ_MODEL_DEEP=1 adds the big families (minutes, gigabytes)."""

from __future__ import annotations

import os

import pytest

from . import report
from .families import FAMILIES, REMOVALS, TRACES, Family, Removal, Trace
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


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda r: r.name)
def test_without_this_guard_it_runs_twice(removal: Removal) -> None:
    result = removal.search()
    assert result.trace, f"{removal.name} taken away, and nothing happens in {result.states} states"


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda r: r.name)
def test_with_this_guard_the_same_family_is_clean(removal: Removal) -> None:
    result = removal.family().search()
    assert result.trace == ()
    assert result.exhausted


@pytest.mark.parametrize("trace", TRACES, ids=lambda t: t.name)
def test_trace_starts_twice_without_its_guards(trace: Trace) -> None:
    family = Family(trace.name, trace.start, trace.faults)
    end = follow(initial(trace.start, trace.faults), family.rules(*trace.removed), trace.script)
    assert running(end) == 2


@pytest.mark.parametrize("trace", TRACES, ids=lambda t: t.name)
def test_trace_is_refused_by_the_protocol(trace: Trace) -> None:
    family = Family(trace.name, trace.start, trace.faults)
    with pytest.raises(Refused) as refused:
        follow(initial(trace.start, trace.faults), family.rules(), trace.script)
    assert repr(trace.refused_at) in str(refused.value).split("is not possible")[0]


def test_the_counterexamples_in_the_docs_are_those_found() -> None:
    assert report.PAGE.read_text().split(report.MARK)[1] == report.counterexamples(), report.REMEDY


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
