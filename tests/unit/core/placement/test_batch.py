"""Batches: at most the bound + 1 host per class, every VM once, no host overfull; groups whole or not at all."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lq_operator.core.placement import HostFacts, PlacementEngine, PlacementRequest, Reservation, Shape, VmKey, VmTerm
from lq_operator.core.placement.batch import Bins, pack, place_group
from lq_operator.core.placement.selectors import match_labels

GIB = 1024


def flavours(count: int, seed: int) -> Counter[tuple[int, int]]:
    rng = random.Random(seed)
    found: Counter[tuple[int, int]] = Counter()
    for _ in range(count):
        vcpus = rng.choices([1, 2, 4, 8, 16, 32], [12, 28, 28, 20, 10, 2])[0]
        found[vcpus * 1000, vcpus * rng.choices([2, 4, 8], [30, 45, 25])[0] * GIB] += 1
    return found


CASES = [
    (200, [Bins(64_000, 256 * GIB, 1000)]),
    (4000, [Bins(64_000, 256 * GIB, 10_000)]),
    (20_000, [Bins(64_000, 256 * GIB, 10_000)]),
    (3000, [Bins(64_000, 256 * GIB, 100), Bins(128_000, 768 * GIB, 10_000)]),
    (3000, [Bins(128_000, 768 * GIB, 60), Bins(64_000, 256 * GIB, 10_000)]),
]


@pytest.mark.parametrize(("count", "bins"), CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_close_to_the_bound_and_never_overfull(count: int, bins: list[Bins], seed: int) -> None:
    demand = flavours(count, seed)
    sizes = sorted(demand)
    packing = pack(sizes, [demand[size] for size in sizes], bins)
    assert packing.unplaced == (0,) * len(sizes)
    assert packing.lower_bound <= packing.hosts <= packing.lower_bound + len(bins)
    volume = sum(v * n for (v, _), n in demand.items()) / max(b.mvcpus for b in bins)
    assert packing.lower_bound >= volume - 1e-6
    placed: Counter[tuple[int, int]] = Counter()
    used: Counter[int] = Counter()
    for kind, pattern, times in packing.patterns:
        used[kind] += times
        assert sum(size[0] * n for size, n in zip(sizes, pattern, strict=True)) <= bins[kind].mvcpus
        assert sum(size[1] * n for size, n in zip(sizes, pattern, strict=True)) <= bins[kind].memory_mib
        for size, n in zip(sizes, pattern, strict=True):
            placed[size] += n * times
    assert placed == demand
    assert all(used[kind] <= room.count for kind, room in enumerate(bins))


def test_what_does_not_fit_is_said() -> None:
    packing = pack([(4000, 4 * GIB), (99_000, GIB)], [5, 1], [Bins(8000, 16 * GIB, 2)])
    assert packing.unplaced == (1, 1)
    assert packing.hosts == 2
    assert pack([], [], [Bins(1, 1, 1)]).hosts == 0


def test_groups_are_whole_or_not_at_all() -> None:
    engine = PlacementEngine("spread")
    for number in range(3):
        engine.set_host(HostFacts(f"h{number}", pcpus=4, memory_mib=1024))
    apart = Shape(1, 256, labels={"app": "db"}, anti_affinity=(VmTerm(match_labels({"app": "db"})),))

    def group(count: int) -> list[PlacementRequest]:
        return [PlacementRequest(VmKey("x", f"g{n}"), apart) for n in range(count)]

    refused = place_group(engine, group(4))
    assert isinstance(refused, PlacementRequest)
    assert not engine.state.reserved
    assert engine.state.free_memory[:3].tolist() == [1024] * 3
    held = place_group(engine, group(3))
    assert isinstance(held, tuple)
    assert [r.identity.name for r in held] == ["g0", "g1", "g2"]
    assert len({r.host for r in held}) == 3
    assert all(isinstance(r, Reservation) for r in held)
