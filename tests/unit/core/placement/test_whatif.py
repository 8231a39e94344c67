"""Scenarios end as the same events on a real engine would, and leave the engine they were asked on alone."""

from __future__ import annotations

import pytest

from lq_operator.core.placement import HostFacts, Placed, PlacementEngine, PlacementRequest, Shape, VmKey
from lq_operator.core.placement.replay import canonical
from lq_operator.core.placement.whatif import add_hosts, cannot_fail, hosts_down, hosts_in_domain, maintenance, more_vms

GIB = 1024


def host(name: str, rack: str, memory_gib: int = 16) -> HostFacts:
    return HostFacts(name, pcpus=8, memory_mib=memory_gib * GIB, overcommit_milli=4000, labels={"rack": rack})


@pytest.fixture
def engine() -> PlacementEngine:
    """Four hosts of 16 GiB in two racks, 6 + 6 GiB on each of the first three."""
    engine = PlacementEngine("balanced")
    for name, rack in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")):
        engine.set_host(host(name, rack))
    for number, name in enumerate(("a1", "a1", "a2", "a2", "b1", "b1")):
        key = VmKey("x", f"v{number}")
        engine.set_vm(Placed(key, name, Shape(2, 6 * GIB)))
    return engine


def test_one_host_down(engine: PlacementEngine) -> None:
    outcome = hosts_down(engine, ["a1"])
    assert {(m.identity.name, m.source, m.host) for m in outcome.moves} == {("v0", "a1", "b2"), ("v1", "a1", "b2")}
    assert outcome.cannot_fail_before == ()
    assert outcome.cannot_fail_after == ("a2", "b1", "b2")
    assert outcome.sentence == "a1 down; 2 of 2 VMs find another host; hosts that cannot fail: 0 before, 3 after"


def test_a_rack_down_names_who_is_left_out(engine: PlacementEngine) -> None:
    assert hosts_in_domain(engine, "rack", "a") == ("a1", "a2")
    outcome = hosts_down(engine, hosts_in_domain(engine, "rack", "a"))
    assert sum(m.host is None for m in outcome.moves) == 2
    assert "first without room: x/v" in outcome.sentence
    with pytest.raises(ValueError, match="no host has rack=c"):
        hosts_in_domain(engine, "rack", "c")


def test_maintenance_add_host_and_more_vms(engine: PlacementEngine) -> None:
    assert all(move.host == "b2" for move in maintenance(engine, ["b1"]).moves)
    more = more_vms(engine, "x", Shape(2, 6 * GIB), 5)
    assert len(more.placed) == 2
    assert len(more.unplaced) == 3
    waiting = [PlacementRequest(VmKey("x", f"w{n}"), Shape(2, 6 * GIB)) for n in range(4)]
    added = add_hosts(engine, [host("c1", "c")], waiting)
    assert len(added.placed) == 4
    assert added.sentence.startswith("1 hosts added; 4 of 4 new VMs fit")


def test_nothing_is_changed_by_asking(engine: PlacementEngine) -> None:
    request = PlacementRequest(VmKey("x", "new"), Shape(1, 4 * GIB))
    engine.reserve(VmKey("x", "held"), "b2", Shape(1, 2 * GIB))
    before = canonical(engine.decide(request)), cannot_fail(engine), engine.state.version.tolist()
    hosts_down(engine, ["a1", "b2"])
    maintenance(engine, ["a2"])
    more_vms(engine, "x", Shape(1, GIB), 3)
    add_hosts(engine, [host("c1", "c")])
    assert (canonical(engine.decide(request)), cannot_fail(engine), engine.state.version.tolist()) == before


def test_bad_questions_are_refused(engine: PlacementEngine) -> None:
    for ask, words in (
        (lambda: hosts_down(engine, ["zz"]), "host 'zz' is not known"),
        (lambda: maintenance(engine, ["zz"]), "host 'zz' is not known"),
        (lambda: add_hosts(engine, [host("a1", "a")]), "host 'a1' is there already"),
        (lambda: more_vms(engine, "x", Shape(1, 1), 0), "count 0 is not at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            ask()
