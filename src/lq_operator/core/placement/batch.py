"""Many VMs at once: close to the fewest hosts, and groups that are placed whole or not at all.

Plain VMs (nothing but vCPU and memory) of few sizes go by column generation (Gilmore and Gomory 1961): its cost depends
on the number of sizes, not of VMs. Everything else goes one by one through the engine, largest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np

from lq_operator.core.placement.engine import PlacementEngine
from lq_operator.core.placement.solver import make_solver
from lq_operator.core.placement.state import BoolArray, FloatArray, IntArray
from lq_operator.core.placement.types import PlacementRequest, Reservation, VmKey

MAX_ROUNDS = 200
DIVE_ROUNDS = 6

Chosen = tuple[int, tuple[int, ...], int]
"""(bin class, VMs per size, hosts)."""


@dataclass(frozen=True, slots=True)
class Bins:
    """`count` equal hosts with this much room (milli-vCPU, MiB)."""

    mvcpus: int
    memory_mib: int
    count: int


@dataclass(frozen=True, slots=True)
class Packing:
    """patterns: (bin class, VMs per size, hosts). lower_bound: no packing uses fewer hosts. unplaced per size."""

    patterns: tuple[Chosen, ...]
    hosts: int
    lower_bound: int
    unplaced: tuple[int, ...]


def pack(sizes: Sequence[tuple[int, int]], demand: Sequence[int], bins: Sequence[Bins]) -> Packing:
    """Pack `demand[i]` VMs of size (milli-vCPU, MiB) into as few hosts as possible.

    At most the LP bound plus one host per bin class is the aim; the bound is returned, so the caller can see the gap.
    """
    items = np.array(sizes, np.int64).reshape(len(sizes), 2)
    left = np.array(demand, np.int64)
    master = _Master(items, left, bins)
    bound = master.solve() if left.sum() else 0.0
    lower = max(0, int(np.ceil(bound - 1e-6)))
    hosts = [b.count for b in bins]
    chosen = master.rounded(left, hosts)
    rooms = [Bins(b.mvcpus, b.memory_mib, count) for b, count in zip(bins, hosts, strict=True)]
    packing = _result(len(sizes), demand, [*chosen, *_filled_hosts(items, left, rooms)], lower)
    if packing.hosts > lower and left.sum():
        packing = min(
            packing, _result(len(sizes), demand, [*chosen, *_dive(items, left, rooms, master)], lower), key=_worse
        )
    return packing


def _worse(packing: Packing) -> tuple[int, int]:
    return (sum(packing.unplaced), packing.hosts)


def _dive(items: IntArray, demand: IntArray, bins: Sequence[Bins], known: _Master) -> list[Chosen]:
    """Column generation for what is left, again and again: take whole multiples, or the one pattern used most."""
    left, hosts, chosen = demand.copy(), [b.count for b in bins], []
    patterns = list(known.patterns)
    while left.sum() > 0:
        rooms = [Bins(b.mvcpus, b.memory_mib, count) for b, count in zip(bins, hosts, strict=True)]
        master = _Master(items, left, rooms)
        for kind, pattern in dict.fromkeys((kind, tuple(np.minimum(p, left).tolist())) for kind, p in patterns):
            if sum(pattern):
                master.add(kind, pattern)
        master.solve(DIVE_ROUNDS)
        step = master.rounded(left, hosts)
        if not step:
            at = int(np.argmax(master.values)) if len(master.values) else -1
            kind, pattern = master.patterns[at] if at >= 0 else (0, ())
            if at < 0 or master.values[at] < 1e-6 or hosts[kind] < 1:
                break
            used = np.minimum(pattern, left)
            left -= used
            hosts[kind] -= 1
            step = [(kind, tuple(used.tolist()), 1)]
        chosen += step
        patterns = list(master.patterns)
    return chosen


class _Master:
    """Restricted master problem: minimise hosts over known patterns; dual prices ask for better patterns."""

    def __init__(self, items: IntArray, demand: IntArray, bins: Sequence[Bins]) -> None:
        self.items, self.demand, self.bins = items, demand, bins
        self.patterns: list[tuple[int, tuple[int, ...]]] = []
        self.values: FloatArray = np.zeros(0)
        self.solver: Any = make_solver()
        infinity = highspy.kHighsInf
        for amount in demand:  # sum of pattern counts - leftover >= demand; the leftover column pays a high price
            self.solver.addRow(float(amount), infinity, 0, np.zeros(0, np.int32), np.zeros(0))
        for kind in bins:
            self.solver.addRow(-infinity, float(kind.count), 0, np.zeros(0, np.int32), np.zeros(0))
        for at in range(len(demand)):
            self.solver.addCol(1000.0, 0.0, infinity, 1, np.array([at], np.int32), np.ones(1))

    def solve(self, rounds: int = MAX_ROUNDS) -> float:
        """Value of the LP relaxation over all patterns, leftovers not counted."""
        for kind in range(len(self.bins)):
            for at in range(len(self.demand)):  # start: hosts full of one size
                times = self._times(kind, at)
                if times:
                    self.add(kind, tuple(times if other == at else 0 for other in range(len(self.demand))))
        self.solver.run()
        for _ in range(rounds):
            solution = self.solver.getSolution()
            duals = np.array(solution.row_dual)
            prices, rents = duals[: len(self.demand)], duals[len(self.demand) :]
            better = False
            patterns = _best_patterns(self.items, prices, self.demand, self.bins)
            for kind, (rent, (pattern, worth)) in enumerate(zip(rents.tolist(), patterns, strict=True)):
                if worth + rent > 1 + 1e-7 and (kind, pattern) not in self.patterns:
                    self.add(kind, pattern)
                    better = True
            if not better:
                break
            self.solver.run()
        self.values = np.array(self.solver.getSolution().col_value)[len(self.demand) :]
        return float(self.values.sum())

    def _times(self, kind: int, at: int) -> int:
        room = self.bins[kind]
        vcpus, memory = self.items[at].tolist()
        return int(min(room.mvcpus // max(vcpus, 1), room.memory_mib // max(memory, 1), self.demand[at]))

    def add(self, kind: int, pattern: tuple[int, ...]) -> None:
        entries = [(at, float(count)) for at, count in enumerate(pattern) if count]
        entries.append((len(self.demand) + kind, 1.0))
        indices, values = np.array([at for at, _ in entries], np.int32), np.array([value for _, value in entries])
        self.solver.addCol(1.0, 0.0, highspy.kHighsInf, len(entries), indices, values)
        self.patterns.append((kind, pattern))

    def rounded(self, left: IntArray, hosts: list[int]) -> list[Chosen]:
        """Whole multiples of each pattern; takes them off `left` and `hosts`."""
        chosen: list[Chosen] = []
        for (kind, pattern), value in zip(self.patterns, self.values.tolist(), strict=False):
            fits = [int(have) // count for have, count in zip(left, pattern, strict=True) if count]
            times = min(int(value + 1e-6), hosts[kind], *fits)
            if times > 0:
                left -= times * np.array(pattern)
                hosts[kind] -= times
                chosen.append((kind, pattern, times))
        return chosen


def _best_patterns(
    items: IntArray, prices: FloatArray, demand: IntArray, rooms: Sequence[Bins]
) -> list[tuple[tuple[int, ...], float]]:
    """Pricing: the most valuable pattern for each kind of host, a two-dimensional knapsack by dynamic programming.

    One table answers for all kinds: it holds the best value for every smaller host too. Sizes are divided by their
    greatest common divisors, which keeps the table small for real flavours (1 vCPU, 1 GiB) and the answer exact.
    """
    unit = [max(1, int(np.gcd.reduce(items[:, axis]))) for axis in (0, 1)]
    whole = (demand @ items).tolist()  # no pattern is larger than all VMs together
    ends = [(min(r.mvcpus, whole[0]) // unit[0], min(r.memory_mib, whole[1]) // unit[1]) for r in rooms]
    width, height = (max(end[axis] for end in ends) for axis in (0, 1))
    best = np.zeros((width + 1, height + 1))
    scratch = np.empty_like(best)  # fresh memory for every step would cost as much as the sums
    steps = []
    for at in np.argsort(-prices, kind="stable").tolist():
        if prices[at] <= 1e-12:
            continue
        vcpus, memory = int(items[at, 0]) // unit[0], int(items[at, 1]) // unit[1]
        if vcpus > width or memory > height or not demand[at]:
            continue
        most = int(min(width // vcpus if vcpus else demand[at], height // memory if memory else demand[at], demand[at]))
        count = 1
        while most > 0:  # binary splitting of the bounded item
            take = min(count, most)
            if take * vcpus <= width and take * memory <= height:
                target = best[take * vcpus :, take * memory :]
                candidate = scratch[: target.shape[0], : target.shape[1]]
                np.add(best[: target.shape[0], : target.shape[1]], take * prices[at], out=candidate)
                steps.append((at, take, vcpus, memory, candidate > target))
                np.maximum(candidate, target, out=target)
            most -= take
            count *= 2
    return [(_traced(len(items), steps, end), float(best[end])) for end in ends]


def _traced(sizes: int, steps: list[tuple[int, int, int, int, BoolArray]], end: tuple[int, int]) -> tuple[int, ...]:
    """The pattern behind one entry of the table, from the last step back to the first."""
    pattern, (x, y) = [0] * sizes, end
    for at, take, vcpus, memory, taken in reversed(steps):
        if x >= take * vcpus and y >= take * memory and taken[x - take * vcpus, y - take * memory]:
            pattern[at] += take
            x, y = x - take * vcpus, y - take * memory
    return tuple(pattern)


def _filled_hosts(items: IntArray, demand: IntArray, bins: Sequence[Bins]) -> list[Chosen]:
    """Host by host the fullest that is left to build."""
    left, rooms_left = demand.copy(), [room.count for room in bins]
    chosen: list[Chosen] = []
    fullest: dict[int, tuple[int, ...]] = {}  # per kind; stays the fullest while its VMs are left
    while left.sum() > 0:
        for kind, room in enumerate(bins):
            if kind not in fullest or (np.array(fullest[kind]) > left).any():
                fullest[kind] = _filled(items, left, room)
        options = [(fullest[kind], kind) for kind, count in enumerate(rooms_left) if count and sum(fullest[kind])]
        if not options:
            break
        pattern, kind = max(options, key=lambda option: (_share(items, option[0], bins[option[1]]), -option[1]))
        took = np.array(pattern)
        times = min(rooms_left[kind], int((left[took > 0] // took[took > 0]).min()))
        chosen.append((kind, pattern, times))
        rooms_left[kind] -= times
        left -= times * took
    return chosen


def _result(sizes: int, demand: Sequence[int], chosen: list[Chosen], lower: int) -> Packing:
    placed = np.zeros(sizes, np.int64)
    for _, pattern, times in chosen:
        placed += times * np.array(pattern)
    unplaced = tuple((np.array(demand) - placed).tolist())
    return Packing(tuple(chosen), sum(times for _, _, times in chosen), lower, unplaced)


def _filled(items: IntArray, left: IntArray, room: Bins) -> tuple[int, ...]:
    """The fullest host from what is left: the same knapsack, priced by the share of the host that a VM takes."""
    prices = items[:, 0] / max(1, room.mvcpus) + items[:, 1] / max(1, room.memory_mib)
    return _best_patterns(items, prices, left, [room])[0][0]


def _share(items: IntArray, pattern: tuple[int, ...], room: Bins) -> float:
    took = np.array(pattern) @ items
    return float(took[0] / max(1, room.mvcpus) + took[1] / max(1, room.memory_mib))


# ---------------------------------------------------------------- batches and groups on an engine


def place_group(
    engine: PlacementEngine, requests: Sequence[PlacementRequest]
) -> tuple[Reservation, ...] | PlacementRequest:
    """All or nothing: reservations for every VM, or the first VM that found no room with nothing reserved.

    Largest first; VMs of equal size in the order given.
    """
    order = sorted(requests, key=lambda r: (-r.priority, -r.shape.memory_mib, -r.shape.vcpus))
    held: list[Reservation] = []
    for request in order:
        decision = engine.decide(request)
        answer = None if decision.host is None else engine.reserve(request.identity, decision.host, request.shape)
        if not isinstance(answer, Reservation):
            for reservation in held:
                engine.release(reservation.identity)
            return request
        held.append(answer)
    by_identity: dict[VmKey, Reservation] = {reservation.identity: reservation for reservation in held}
    return tuple(by_identity[request.identity] for request in requests)
