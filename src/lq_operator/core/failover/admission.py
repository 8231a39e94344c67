"""Which hosts can fail: can every VM of the failed hosts be restarted on the others, with a placement as witness.

Sound and complete for room (vCPU, memory, hugepages, devices, NUMA cells with dedicated CPUs), for the facts of hosts
(readiness, taints, labels, networks, pools, CPU model, local volumes) and for hard anti-affinity. Spreading and VM
affinity do not stop a restart: running comes before tidy.

Best-fit and worst-fit decreasing first (in 360 of 360 tight random cases one of them already had the exact answer);
only a failure of all of them asks HiGHS, which either finds a placement or proves that there is none.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lq_operator.core.failover.cells import PCPUS, CellRooms, Part, part_of
from lq_operator.core.failover.conflicts import About, Conflicts, Refugee
from lq_operator.core.failover.exact import ExactProblem, holds, solve_exact
from lq_operator.core.placement.engine import PlacementEngine
from lq_operator.core.placement.groups import Kind
from lq_operator.core.placement.question import gib
from lq_operator.core.placement.records import Occupant
from lq_operator.core.placement.types import Shape, VmKey

VCPU, MEMORY = 0, 1
ROW_BITS = 24
ROW = (1 << ROW_BITS) - 1


@dataclass(frozen=True, slots=True)
class FailureVerdict:
    """Whether these hosts can fail together. witness: where each VM would go; blocker: a VM that finds no room.

    method: 'nothing-to-do', 'best-fit', 'worst-fit', 'exact' or 'unproven' (the node limit was reached: ok is False).
    """

    failed: tuple[str, ...]
    ok: bool
    witness: tuple[tuple[VmKey, str], ...]
    blocker: VmKey | None
    method: str
    sentence: str


More = tuple[int, tuple[int, ...], Part | None]
"""One VM more than there are: its row, what it takes there, and what it takes in NUMA cells."""


def _by_cpu(refugee: Refugee) -> tuple[int, int, VmKey]:
    return (-refugee.shape.vcpus, -refugee.shape.memory_mib, refugee.identity)


ATTEMPTS: tuple[tuple[str, Callable[[Refugee], Any] | None, bool], ...] = (
    ("best-fit", None, True),  # by memory: the order of Refugee
    ("worst-fit", None, False),
    ("best-fit", _by_cpu, True),
    ("worst-fit", _by_cpu, False),
)

_refugee = partial(tuple.__new__, Refugee)  # a third of the cost of the named constructor; made for every VM there is


class Admission:
    """Answers about failures over one engine's state. `protects` says which VMs must be restarted (default: all)."""

    def __init__(
        self,
        engine: PlacementEngine,
        protects: Callable[[VmKey, Shape], bool] | None = None,
        *,
        max_nodes: int = 20_000,
    ) -> None:
        self.engine = engine
        self.state = engine.state
        self.protects = protects
        self.max_nodes = max_nodes
        self._snapshot_at = -1
        self._free: list[list[int]] = []
        self._sorted: list[int] = []  # free memory and row of each host that takes VMs, see `_ranked`
        self._resources: dict[tuple[str, str], int] = {}
        self._restricted: dict[tuple[str, Shape], frozenset[int] | None] = {}
        self._kinds: dict[Kind | None, About] = {}

    # ------------------------------------------------------------ questions

    def can_fail(self, failed: Iterable[str]) -> FailureVerdict:
        """Whether these hosts can fail at the same time. Unknown names raise ValueError."""
        names = tuple(sorted(set(failed)))
        for name in names:
            if name not in self.state.rows:
                raise ValueError(f"can_fail: host {name!r} is not known")
        self._take_snapshot()
        return self._judge(names, self._refugees(names))

    def hosts_that_can_fail(self) -> dict[str, FailureVerdict]:
        """Every single failure, by host name."""
        self._take_snapshot()
        return {name: self._judge((name,), self._refugees((name,))) for name in sorted(self.state.rows)}

    def can_fail_with(self, failed: str | Iterable[str], identity: VmKey, shape: Shape, host: str) -> FailureVerdict:
        """The same for one failure (or one set), as if one more VM stood on `host`."""
        names = (failed,) if isinstance(failed, str) else tuple(sorted(set(failed)))
        self._take_snapshot()
        row = self.state.rows[host]
        self.state.groups.groups_of(identity.namespace, shape)  # its anti-affinity is known from now on
        self._need_resources(shape)
        needs = self._needs(shape)
        refugees = self._refugees(names)
        if host in names:
            if self.protects is None or self.protects(identity, shape):
                about = self._known_about(identity, shape)
                refugees.append(Refugee(about.size, identity, about))
            return self._judge(names, refugees)
        return self._judge(names, refugees, (row, self._taken(needs, shape, row), part_of(shape)))

    def largest_restart_mib(self, failed: Iterable[str]) -> int:
        """Memory of the largest ordinary VM (1 vCPU) that could still start after these hosts failed and their VMs
        were restarted by the witness; where they cannot be, before any of them was."""
        verdict = self.can_fail(failed)
        free = [list(room) for room in self._free]
        for identity, host in verdict.witness:
            row = self.state.rows[host]
            shape = self._occupant(identity, verdict.failed).shape
            for at, amount in enumerate(self._taken(self._needs(shape), shape, row)):
                free[row][at] -= amount
        down = {self.state.rows[name] for name in verdict.failed}
        rooms = [free[row] for row in self._live() if row not in down]
        return max((room[MEMORY] for room in rooms if room[VCPU] >= 1000), default=0)

    # ------------------------------------------------------------ snapshot of room

    def _live(self) -> list[int]:
        state = self.state
        return [
            row
            for row in state.rows.values()
            if (entry := state.row[row]) is not None
            and entry.facts.ready
            and not entry.facts.cordoned
            and not entry.facts.maintenance
        ]

    def _take_snapshot(self) -> None:
        state = self.state
        if self._snapshot_at == state.events:
            return
        self._restricted.clear()
        self._read_rooms()
        self._snapshot_at = state.events

    def _read_rooms(self) -> None:
        state = self.state
        self._kinds.clear()
        columns = [state.free_mvcpus, state.free_memory, *(state.amount(*key) for key in self._resources)]
        self._free = np.array([column[: state.n] for column in columns]).T.tolist()
        self._sorted = sorted([_ranked(self._free[row][MEMORY], row) for row in self._live()])

    def _need_resources(self, shape: Shape) -> None:
        wanted = [("devices", name) for name in shape.devices]
        if shape.hugepage_kib:
            wanted.append(("hugepages", str(shape.hugepage_kib)))
        new = [key for key in wanted if key not in self._resources]
        for key in new:
            self._resources[key] = len(self._resources) + 2
        if new:
            self._read_rooms()

    def _needs(self, shape: Shape) -> tuple[int, ...]:
        needs = [0] * (2 + len(self._resources))
        needs[VCPU] = shape.vcpus * 1000
        if shape.hugepage_kib:
            needs[self._resources["hugepages", str(shape.hugepage_kib)]] = shape.memory_mib
        else:
            needs[MEMORY] = shape.memory_mib
        for name, count in shape.devices.items():
            needs[self._resources["devices", name]] = count
        return tuple(needs)

    def _taken(self, needs: tuple[int, ...], shape: Shape, row: int) -> tuple[int, ...]:
        if not shape.dedicated_cpus:
            return needs
        return (shape.vcpus * int(self.state.overcommit[row]), *needs[1:])

    # ------------------------------------------------------------ who must move, and where to

    def _occupant(self, identity: VmKey, failed: tuple[str, ...]) -> Occupant:
        return next(
            self.state.occupants[name][identity] for name in failed if identity in self.state.occupants.get(name, {})
        )

    def _refugees(self, failed: tuple[str, ...]) -> list[Refugee]:
        while True:
            kinds = len(self._resources)
            found = self._found_on(failed)
            if len(self._resources) == kinds:  # else earlier needs lack a resource that a later VM brought in
                return found

    def _found_on(self, failed: tuple[str, ...]) -> list[Refugee]:
        known, protects, found = self._kinds, self.protects, []
        for name in failed:
            for identity, occupant in self.state.occupants.get(name, {}).items():
                shape, kind = occupant.shape, occupant.kind
                if protects is None or protects(identity, shape):
                    about = known.get(kind)
                    if about is None:
                        about = self._known_about(identity, shape)
                        self._kinds[kind] = about
                    found.append(_refugee((about.size, identity, about)))
        return found

    def _known_about(self, identity: VmKey, shape: Shape) -> About:
        if shape.devices or shape.hugepage_kib:
            self._need_resources(shape)
        return About(shape, self._needs(shape), self._rows_for(identity, shape), part_of(shape))

    def _rows_for(self, identity: VmKey, shape: Shape) -> frozenset[int] | None:
        key = (identity.namespace, shape)
        if key not in self._restricted:
            static = self.engine.fitting_by_facts(*key)
            live = self._live()
            rows = [row for row in live if static[row]]
            self._restricted[key] = None if len(rows) == len(live) else frozenset(rows)
        return self._restricted[key]

    def _judge(self, failed: tuple[str, ...], refugees: list[Refugee], more: More | None = None) -> FailureVerdict:
        if not refugees:
            return FailureVerdict(failed, True, (), None, "nothing-to-do", f"{_named(failed)} can fail: no VM is there")
        down = frozenset(self.state.rows[name] for name in failed)
        conflicts = Conflicts(self.engine, refugees, down)
        blocker: Refugee | None = None
        for method, order, best in ATTEMPTS:
            sequence = sorted(refugees, key=order)
            placed, stuck = self._greedy(sequence, down, conflicts, more, best)
            if stuck is None:
                names = self.state.names
                witness = tuple([(identity, names[placed[identity]]) for identity in sorted(placed)])
                words = f"{_named(failed)} can fail: {len(refugees)} VMs find room"
                return FailureVerdict(failed, True, witness, None, method, words)
            blocker = blocker or stuck
        assert blocker is not None
        return self._exactly(failed, refugees, down, conflicts, more, blocker)

    def _greedy(
        self,
        sequence: list[Refugee],
        down: frozenset[int],
        conflicts: Conflicts,
        more: More | None,
        best: bool,
    ) -> tuple[dict[VmKey, int], Refugee | None]:
        """Place in this order; best fit takes the fullest host (by memory) that has room, worst fit the emptiest."""
        rooms = self._sorted.copy()
        for row in down:
            entry = _ranked(self._free[row][MEMORY], row)
            at = bisect_left(rooms, entry)
            if at < len(rooms) and rooms[at] == entry:  # hosts that take no VMs are not in the list
                del rooms[at]
        free = self._free.copy()
        cells = CellRooms(self.state)
        if more is not None:
            row, amounts, its_part = more
            if its_part is not None:
                cells.take_as_placed(row, its_part)
            free[row] = [a - b for a, b in zip(_padded(free[row], amounts), amounts, strict=True)]
            rooms = sorted([_ranked(free[row][MEMORY], row) if each & ROW == row else each for each in rooms])
        apart = conflicts.any
        if best and not apart and False not in [about.plain for _, _, about in sequence]:
            return _best_fit(sequence, rooms, free)
        placed: dict[VmKey, int] = {}
        for refugee in sequence:
            needs, rows, part = refugee.about.needs, refugee.about.rows, refugee.about.part
            dedicated = part is not None and part.pcpus > 0
            low = bisect_left(rooms, needs[MEMORY] << ROW_BITS) if needs[MEMORY] else 0
            for at in range(low, len(rooms)) if best else range(len(rooms) - 1, low - 1, -1):
                row = rooms[at] & ROW
                room = free[row]
                wanted = self._taken(needs, refugee.shape, row) if dedicated else needs
                if wanted[VCPU] > room[VCPU] or (rows is not None and row not in rows):
                    continue
                if len(wanted) > 2 and any(a and a > b for a, b in zip(wanted, room, strict=False)):
                    continue
                if apart and not conflicts.allow(refugee, row, placed):
                    continue
                if part is not None:
                    chosen = cells.find(row, part)
                    if chosen is None:
                        continue
                    cells.take(row, part, chosen)
                del rooms[at]
                left = free[row] = [a - b for a, b in zip(room, wanted, strict=False)]
                insort(rooms, left[MEMORY] << ROW_BITS | row)
                placed[refugee.identity] = row
                break
            else:
                return placed, refugee
        return placed, None

    def _exact_cells(self, refugees: list[Refugee], rows: list[int], more: More | None) -> dict[str, Any]:
        """The part of the exact problem about NUMA cells; nothing where no VM is bound to any."""
        parts = [refugee.about.part for refugee in refugees]
        kinds = {PCPUS, *(part.page_kib for part in parts if part is not None)}
        if len(kinds) == 1:
            return {}
        rooms = CellRooms(self.state)
        if more is not None and more[2] is not None:
            rooms.take_as_placed(more[0], more[2])
        return {"parts": parts, "cells": [{kind: rooms.free(row, kind) for kind in kinds} for row in rows]}

    def _exactly(
        self,
        failed: tuple[str, ...],
        refugees: list[Refugee],
        down: frozenset[int],
        conflicts: Conflicts,
        more: More | None,
        blocker: Refugee,
    ) -> FailureVerdict:
        rows = [row for each in self._sorted if (row := each & ROW) not in down]
        rooms = [list(self._free[row]) for row in rows]
        if more is not None and more[0] in rows:
            at = rows.index(more[0])
            rooms[at] = [a - b for a, b in zip(_padded(rooms[at], more[1]), more[1], strict=True)]
        problem = ExactProblem(
            rooms=rooms,
            needs=[[self._taken(r.about.needs, r.shape, row) for row in rows] for r in refugees],
            allowed=[
                [
                    (r.about.rows is None or row in r.about.rows) and (not conflicts.any or conflicts.allow(r, row, {}))
                    for row in rows
                ]
                for r in refugees
            ],
            apart=conflicts.pairs(rows) if conflicts.any else [],
            **self._exact_cells(refugees, rows, more),
        )
        answer = solve_exact(problem, self.max_nodes)
        if answer.places is not None and holds(problem, answer):
            pairs = zip(refugees, answer.places, strict=True)
            witness = tuple(sorted((r.identity, self.state.names[rows[at]]) for r, at in pairs))
            words = f"{_named(failed)} can fail: {len(refugees)} VMs find room"
            return FailureVerdict(failed, True, witness, None, "exact", words)
        stuck = refugees[answer.stuck] if answer.stuck is not None else blocker
        bound = f", {stuck.about.part}" if stuck.about.part is not None else ""
        size = f"{stuck.shape.vcpus} vCPU, {gib(stuck.shape.memory_mib)}{bound}"
        largest = max((room[MEMORY] for room in rooms), default=0)
        words = (
            f"{_named(failed)} cannot fail: of {len(refugees)} VMs {stuck.identity} ({size}) would find no room "
            f"(most free memory on one other host {gib(max(largest, 0))}); move VMs together or add a host"
        )
        if not answer.proven:
            words = f"{_named(failed)}: not proven within {self.max_nodes} nodes, so counted as unsafe; {words}"
        method = "exact" if answer.proven else "unproven"
        return FailureVerdict(failed, False, (), stuck.identity, method, words)


def _best_fit(
    sequence: list[Refugee], rooms: list[int], free: list[list[int]]
) -> tuple[dict[VmKey, int], Refugee | None]:
    """`_greedy` for VMs that take nothing but vCPUs and memory and go anywhere: the usual case, twice as fast."""
    placed: dict[VmKey, int] = {}
    for refugee in sequence:
        _, identity, about = refugee
        mvcpus, mib = about.needs
        for at in range(bisect_left(rooms, mib << ROW_BITS), len(rooms)):
            row = rooms[at] & ROW
            room = free[row]
            if room[VCPU] >= mvcpus:
                break
        else:
            return placed, refugee
        del rooms[at]
        left = room[MEMORY] - mib
        free[row] = [room[VCPU] - mvcpus, left]
        insort(rooms, left << ROW_BITS | row, 0, at)
        placed[identity] = row
    return placed, None


def _ranked(memory_mib: int, row: int) -> int:
    """Free memory, then row, in one integer: sorted lists of integers are searched twice as fast as of pairs."""
    return memory_mib << ROW_BITS | row


def _padded(room: list[int], amounts: tuple[int, ...]) -> list[int]:
    return room + [0] * (len(amounts) - len(room))


def _named(failed: tuple[str, ...]) -> str:
    return (
        failed[0] if len(failed) == 1 else f"{', '.join(failed[:5])}{' and others' if len(failed) > 5 else ''} together"
    )
