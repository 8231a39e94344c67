"""Many VMs at once on the hosts of an engine: a packing becomes a host for every VM, and room is reserved for each.

Packing (batch.py) knows sizes and kinds of hosts; this module knows names. Nothing is reserved that the engine refuses.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lq_operator.core.placement.batch import Bins, Packing, pack
from lq_operator.core.placement.engine import PlacementEngine
from lq_operator.core.placement.parts import facts_key
from lq_operator.core.placement.types import PlacementRequest, Reservation, Shape, VmKey

MAX_KINDS = 24
"""Kinds of hosts that a packing tells apart; with more of them their room is rounded down until they are so few."""

Size = tuple[int, int]
"""Milli-vCPU and MiB."""


@dataclass(frozen=True, slots=True)
class Batch:
    """held: room for every VM that fits, in the order of the requests. waiting: the others, in that order too."""

    held: tuple[Reservation, ...]
    waiting: tuple[PlacementRequest, ...]


def assign(packing: Packing, vms: Sequence[Sequence[VmKey]], hosts: Sequence[Sequence[str]]) -> dict[VmKey, str]:
    """A host for every VM that the packing placed.

    vms[i]: the VMs of size i; hosts[k]: the hosts of bin class k; both are used from the front. ValueError where the
    packing was made for more of either than there are.
    """
    left, free = [list(reversed(each)) for each in vms], [list(reversed(each)) for each in hosts]
    found: dict[VmKey, str] = {}
    for kind, pattern, times in packing.patterns:
        for _ in range(times):
            if not free[kind]:
                raise ValueError(f"packing: uses more hosts of class {kind} than the {len(hosts[kind])} there are")
            host = free[kind].pop()
            for size, count in enumerate(pattern):
                if count > len(left[size]):
                    raise ValueError(f"packing: places more VMs of size {size} than the {len(vms[size])} there are")
                for _ in range(count):
                    found[left[size].pop()] = host
    return found


def place_many(engine: PlacementEngine, requests: Sequence[PlacementRequest]) -> Batch:
    """Place these VMs on few hosts: higher priorities first; of one priority those with wishes one by one, largest
    first, then the plain ones (see `is_plain`) packed into the room that is left. A guard is asked for each."""
    held: dict[VmKey, Reservation] = {}
    for priority in sorted({request.priority for request in requests}, reverse=True):
        due = [request for request in requests if request.priority == priority]
        picky = [request for request in due if not is_plain(request.shape)]
        _one_by_one(engine, picky, held)
        alike: dict[Hashable, list[PlacementRequest]] = {}
        for request in due:
            if is_plain(request.shape):
                alike.setdefault((request.identity.namespace, facts_key(request.shape)), []).append(request)
        for group in alike.values():
            _packed(engine, group, held)
    taken = tuple(held[request.identity] for request in requests if request.identity in held)
    return Batch(taken, tuple(request for request in requests if request.identity not in held))


def is_plain(shape: Shape) -> bool:
    """Nothing but vCPUs and memory decides between hosts that its facts allow."""
    by_name = shape.devices or shape.hugepage_kib or shape.bound_cells or any(shape.pools.values())
    return not (by_name or shape.affinity or shape.anti_affinity or shape.spread)


def _one_by_one(engine: PlacementEngine, requests: Iterable[PlacementRequest], held: dict[VmKey, Reservation]) -> None:
    for request in sorted(requests, key=lambda r: (-r.shape.memory_mib, -r.shape.vcpus)):
        decision = engine.decide(request)
        if decision.host is not None:
            answer = engine.reserve(request.identity, decision.host, request.shape)
            if isinstance(answer, Reservation):
                held[request.identity] = answer


def _packed(engine: PlacementEngine, requests: Sequence[PlacementRequest], held: dict[VmKey, Reservation]) -> None:
    by_size: dict[Size, list[PlacementRequest]] = {}
    for request in requests:
        by_size.setdefault((request.shape.vcpus * 1000, request.shape.memory_mib), []).append(request)
    sizes = sorted(by_size)
    rooms = _rooms_of(engine, requests[0])
    found: Mapping[VmKey, str] = {}
    if rooms:
        kinds = [Bins(*room, len(names)) for room, names in rooms.items()]
        packing = pack(sizes, [len(by_size[size]) for size in sizes], kinds)
        found = assign(packing, [[r.identity for r in by_size[size]] for size in sizes], list(rooms.values()))
    refused = [request for request in requests if not _take(engine, request, found.get(request.identity), held)]
    _one_by_one(engine, refused, held)  # rounding down, other VMs' rules or the guard may have stood in the way


def _take(engine: PlacementEngine, request: PlacementRequest, host: str | None, held: dict[VmKey, Reservation]) -> bool:
    if host is None or (engine.guard is not None and engine.guard(request.identity, request.shape, host)):
        return False
    answer = engine.reserve(request.identity, host, request.shape)
    if isinstance(answer, Reservation):
        held[request.identity] = answer
    return isinstance(answer, Reservation)


def _rooms_of(engine: PlacementEngine, request: PlacementRequest) -> dict[Size, list[str]]:
    """Hosts that the facts allow, by the room on them, in order of room and name."""
    state = engine.state
    rows = np.flatnonzero(engine.fitting_by_facts(request.identity.namespace, request.shape)).tolist()
    exact = sorted([(int(state.free_mvcpus[r]), int(state.free_memory[r]), state.names[r]) for r in rows])
    exact = [(mvcpus, mib, name) for mvcpus, mib, name in exact if mvcpus > 0 and mib > 0]
    step = 0
    while True:  # 2^step thousandths of a vCPU (or MiB) are told apart
        rooms: dict[Size, list[str]] = {}
        for mvcpus, mib, name in exact:
            rooms.setdefault((mvcpus >> step << step, mib >> step << step), []).append(name)
        if len(rooms) <= MAX_KINDS:
            return rooms
        step += 1
