"""A record, replayed in another process, gives the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lq_operator.core.placement import HostFacts, PlacementEngine, PlacementRequest, Shape, VmKey
from lq_operator.core.placement.replay import canonical, decode, encode, outcome_of, record_of, replay

from .worlds import World, worlds

CHILD = "import sys; from lq_operator.core.placement.replay import replay; " \
        "sys.stdout.buffer.write(b'\\n'.join(replay(line) for line in sys.stdin.buffer.read().split(b'\\n')))"  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds(), st.integers(0, 5))
def test_replay_gives_the_same_bytes(world: World, seed: int) -> None:
    engine = world.engine(reverse=bool(seed % 2), seed=seed)
    decision = engine.decide(world.request)
    record = record_of(engine, world.request, decision)
    assert replay(record) == outcome_of(record) == canonical(decision)
    assert decode(encode(world.request)) == world.request


def test_another_process_with_another_hash_seed_agrees() -> None:
    """Sets and dicts must not leak their order: the child runs with another PYTHONHASHSEED."""
    records = []

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(worlds())
    def collect(world: World) -> None:
        engine = world.engine(seed=4)
        records.append(record_of(engine, world.request, engine.decide(world.request)))

    collect()
    for hash_seed in ("1", "2"):
        child = subprocess.run([sys.executable, "-c", CHILD], input=b"\n".join(records), capture_output=True,
                               env={"PYTHONHASHSEED": hash_seed}, check=True, timeout=120)  # fmt: skip
        assert child.stdout.split(b"\n") == [outcome_of(record) for record in records]


def test_a_changed_record_is_noticed() -> None:
    engine = PlacementEngine("spread")
    engine.set_host(HostFacts("h0", pcpus=4, memory_mib=1024))
    request = PlacementRequest(VmKey("x", "v"), Shape(1, 256))
    record = record_of(engine, request, engine.decide(request))
    body = json.loads(record)
    body["hosts"][0]["memory_mib"] = 512
    assert replay(json.dumps(body).encode()) != outcome_of(record)
    body["hosts"][0]["is"] = "Popen"
    with pytest.raises(ValueError, match="'Popen' is not a value of the placement engine"):
        replay(json.dumps(body).encode())
    with pytest.raises(ValueError, match="format 99 is not 1"):
        replay(json.dumps({"format": 99}).encode())


def test_a_guarded_decision_is_repeated_from_what_the_guard_refused() -> None:
    """Two of five hosts are refused; a record without the refusals is not written, one that lost them decides elsewhere."""
    engine = PlacementEngine("spread", seed=3)
    for number in range(5):
        engine.set_host(HostFacts(f"h{number}", pcpus=4, memory_mib=1024))
    request = PlacementRequest(VmKey("x", "v"), Shape(1, 256))
    first = engine.decide(request).best[:2]
    refusals = {ranked.host: f"{ranked.host} is kept free" for ranked in first}
    engine.guard = lambda _identity, _shape, host: refusals.get(host, "")
    decision = engine.decide(request)
    assert decision.host not in refusals
    assert ("failover", 2) in decision.rejected
    record = record_of(engine, request, decision, refusals)
    assert replay(record) == outcome_of(record) == canonical(decision)
    with pytest.raises(ValueError, match="refusals: is missing; pass what the engine's guard refused"):
        record_of(engine, request, decision)
    body = json.loads(record)
    body["refusals"] = {}
    assert replay(json.dumps(body).encode()) != outcome_of(record)
    del body["refusals"]
    with pytest.raises(ValueError, match="decision record: is not whole: 'refusals'"):
        replay(json.dumps(body).encode())
