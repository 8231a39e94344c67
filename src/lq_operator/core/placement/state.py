"""The cluster as arrays: one row per host, every event O(1), with versions and change logs for cached classes.

Owns accounting (capacity, use, residents, reservations, groups). Decides nothing. Amounts are integers; floats are
derived per row from the integers, never summed, so a state reached by events equals one built from scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt

from lq_operator.core.placement.groups import GroupIndex, Topology
from lq_operator.core.placement.records import ChangeLog, Column, Occupant, Row, facts_differ, resized, tie_of
from lq_operator.core.placement.types import HOSTNAME_KEY, HostFacts, Placed, Reservation, Shape, VmKey

Rows = slice | npt.NDArray[np.int64]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

PER_ROW = ("alive", "version", "_tie", "overcommit", "free_mvcpus", "free_memory", "cpu_share", "memory_share",
           "cpu_unit", "memory_unit", "over", "var")  # fmt: skip


class ClusterState:
    """Structure of arrays over hosts. All public arrays are indexed by row; `n` rows are in use or free."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.rows: dict[str, int] = {}
        self.names: list[str] = []
        self.row: list[Row | None] = []
        self.n = 0
        self.occupants: dict[str, dict[VmKey, Occupant]] = {}
        self.placed: dict[VmKey, Placed] = {}
        self.reserved: dict[VmKey, Reservation] = {}
        self.pool_reserved: dict[str, int] = {}  # over all hosts; counts only where the pool is shared
        self.pool_version: dict[str, int] = {}
        self.pool_events = 0  # counts all changes of pool_version
        self._shared_pools: set[str] = set()
        self.events = 0  # counts what touched any row
        self._tie_order: IntArray | None = None
        self.facts_log = ChangeLog()
        self.load_log = ChangeLog()
        self._free_rows: list[int] = []
        self._columns: dict[Hashable, Column] = {}
        self._capacity = 64
        self.max_cells = 1
        self.groups = GroupIndex(self._capacity)
        cap = self._capacity
        self.alive: BoolArray = np.zeros(cap, np.bool_)
        self.version: IntArray = np.zeros(cap, np.int64)
        self._tie: FloatArray = np.zeros(cap)
        self.overcommit: IntArray = np.ones(cap, np.int64)
        self.free_mvcpus: IntArray = np.zeros(cap, np.int64)
        self.free_memory: IntArray = np.zeros(cap, np.int64)
        self.cpu_share: FloatArray = np.zeros(cap)  # used share of the vCPUs that may be promised
        self.memory_share: FloatArray = np.zeros(cap)
        self.cpu_unit: FloatArray = np.zeros(cap)  # share taken by one milli-vCPU
        self.memory_unit: FloatArray = np.zeros(cap)  # share taken by one MiB
        self.over: FloatArray = np.zeros(cap)  # expected CPU demand minus cores
        self.var: FloatArray = np.zeros(cap)  # its variance (cores^2)
        self.amounts: dict[
            tuple[str, str], IntArray
        ] = {}  # ('hugepages', KiB) | (devices, devices held, pools, shared; name)
        self.cell_free: dict[int, IntArray] = {}  # -1 = pCPUs, 0 = memory, size KiB = hugepages; [row, cell]
        self._cell_array(-1)
        self._cell_array(0)

    # ------------------------------------------------------------ shape of the arrays

    def _grow(self) -> None:
        cap = self._capacity = self._capacity * 2
        for name in PER_ROW:
            setattr(self, name, resized(getattr(self, name), cap))
        for key, array in self.amounts.items():
            self.amounts[key] = resized(array, cap)
        for kind, array in self.cell_free.items():
            cells = np.full((cap, array.shape[1]), -1, np.int64)
            cells[: len(array)] = array
            self.cell_free[kind] = cells
        self._columns.clear()
        self.groups.grow(cap)

    def _cell_array(self, kind: int) -> IntArray:
        array = self.cell_free.get(kind)
        if array is None or array.shape[1] < self.max_cells:
            array = self.cell_free[kind] = np.full((self._capacity, self.max_cells), -1, np.int64)
            for row in range(self.n):
                if self.row[row] is not None:
                    self._derive_cells(row, kind, array)
        return array

    def amount(self, kind: str, name: str) -> IntArray:
        """Free amount of a named resource per host (0 where the host has none)."""
        array = self.amounts.get((kind, name))
        if array is None:
            array = self.amounts[(kind, name)] = np.zeros(self._capacity, np.int64)
            for row in range(self.n):
                self._derive_amount(row, kind, name, array)
        return array

    def cells(self, kind: int) -> IntArray:
        """Free per NUMA cell [row, cell index]: -1 pCPUs, 0 memory MiB, else hugepages of that KiB in MiB."""
        return self._cell_array(kind)

    def column(self, key: Hashable, test: Callable[[HostFacts], bool]) -> BoolArray:
        """A cached yes/no fact per row. `key` must say everything that `test` depends on."""
        column = self._columns.get(key)
        if column is None:
            if len(self._columns) > 4096:
                self._columns.clear()
            column = self._columns[key] = Column(test, self._capacity)
        if column.position != self.facts_log.position:
            changed = self.facts_log.since(column.position)
            for row in range(self.n) if changed is None else set(changed.tolist()):
                entry = self.row[row]
                column.values[row] = entry is not None and test(entry.facts)
            column.position = self.facts_log.position
        return column.values

    def topology(self, key: str) -> Topology:
        """Failure domains of a label key."""
        if key not in self.groups.topologies:
            topology = self.groups.topology(key)
            for name, row in self.rows.items():
                topology.set_row(row, self._domain(name, key))
        return self.groups.topologies[key]

    def _domain(self, name: str, key: str) -> str | None:
        row = self.row[self.rows[name]]
        assert row is not None
        return name if key == HOSTNAME_KEY else row.facts.labels.get(key)

    def tie_order(self) -> IntArray:
        """Rows of live hosts by tie breaker: an order that does not depend on when hosts were added."""
        if self._tie_order is None:
            order = sorted((tie_of(self.seed, name), name, row) for name, row in self.rows.items())
            self._tie_order = np.array([row for _, _, row in order], np.int64)
            self._tie[self._tie_order] = np.arange(len(order)) / 2**30
        return self._tie_order

    @property
    def tie(self) -> FloatArray:
        """Tie breaker per row, 0..1, no two alike."""
        self.tie_order()
        return self._tie

    # ------------------------------------------------------------ hosts

    def set_host(self, facts: HostFacts) -> None:
        """A host appeared or its facts changed."""
        self.max_cells = max(self.max_cells, len(facts.cells))
        row = self.rows.get(facts.name)
        if row is None:
            row = self._new_row(facts)
        entry = self.row[row]
        assert entry is not None
        relevant = entry.capacity_mib < 0 or facts_differ(entry.facts, facts)
        if [cell.cell for cell in entry.facts.cells] != [cell.cell for cell in facts.cells]:
            self._renumber_cells(row, entry, facts)
        entry.facts = facts
        for pool, reach in facts.pools.items():
            if reach.shared and pool not in self._shared_pools:
                self._shared_pools.add(pool)
                self._pool_changed(pool)
        for key, topology in self.groups.topologies.items():
            topology.set_row(row, self._domain(facts.name, key))
        self.overcommit[row] = facts.overcommit_milli
        capacity = (facts.capacity_mvcpus, facts.vm_memory_mib)
        entry.capacity_mvcpus, entry.capacity_mib = capacity
        self.cpu_unit[row], self.memory_unit[row] = (1.0 / max(1, amount) for amount in capacity)
        for kind in list(self.cell_free):
            self._derive_cells(row, kind, self._cell_array(kind))
        for kind_name, array in self.amounts.items():
            self._derive_amount(row, *kind_name, array)
        if relevant:
            self.facts_log.note(row)
        self._derive(row)

    def _renumber_cells(self, row: int, entry: Row, facts: HostFacts) -> None:
        there = self.occupants.get(facts.name, {})
        for identity, occupant in there.items():
            self._account(row, identity, occupant, -1)
        entry.facts = facts
        for identity, occupant in there.items():
            self._account(row, identity, occupant, 1)

    def _new_row(self, facts: HostFacts) -> int:
        if not self._free_rows and self.n == self._capacity:
            self._grow()
        if self._free_rows:
            row = self._free_rows.pop()
        else:
            row = self.n
            self.n += 1
            self.names.append("")
            self.row.append(None)
        self.rows[facts.name] = row
        self.names[row] = facts.name
        self.row[row] = Row(facts)
        self.alive[row] = True
        self._tie_order = None
        self.facts_log.reset(4 * self._capacity)
        self.load_log.reset(4 * self._capacity)
        for identity, occupant in self.occupants.get(facts.name, {}).items():
            self._account(row, identity, occupant, 1)
        return row

    def remove_host(self, name: str) -> None:
        """A host left. Its VMs stay known and count again when it returns."""
        row = self.rows.get(name)
        if row is None:
            return
        for identity, occupant in self.occupants.get(name, {}).items():
            self._account(row, identity, occupant, -1)
        for topology in self.groups.topologies.values():
            topology.set_row(row, None)
        del self.rows[name]
        self.alive[row] = False
        self.row[row] = None
        self.names[row] = ""
        for array in self.amounts.values():
            array[row] = 0
        for cells in self.cell_free.values():
            cells[row] = -1
        self.events += 1
        self._tie_order = None
        self.version[row] += 1
        self._free_rows.append(row)
        self.facts_log.note(row)
        self.load_log.reset(4 * self._capacity)  # the tie breakers of the others were renumbered

    # ------------------------------------------------------------ VMs

    def occupy(self, host: str, identity: VmKey, occupant: Occupant) -> None:
        """A VM takes room on a host (known or not)."""
        there = self.occupants.setdefault(host, {})
        assert identity not in there, f"{identity} already holds room on {host}"
        there[identity] = occupant
        row = self.rows.get(host)
        if row is not None:
            self._account(row, identity, occupant, 1)
            self._derive(row)

    def settle(self, host: str, identity: VmKey) -> None:
        """A reservation became a placement: the same room, but its volumes and load are now in what hosts report."""
        occupant = self.occupants[host][identity]
        occupant.reserved = False
        row = self.rows.get(host)
        if row is None:
            return
        entry = self.row[row]
        assert entry is not None
        if occupant.shape.pools:
            self._account_pools(row, entry, occupant.shape, -1)
        entry.settle(occupant.shape)
        self._derive_load(row, entry)

    def vacate(self, host: str, identity: VmKey) -> None:
        """A VM gives its room on a host back."""
        there = self.occupants[host]
        occupant = there.pop(identity)
        if not there:
            del self.occupants[host]
        row = self.rows.get(host)
        if row is not None:
            self._account(row, identity, occupant, -1)
            self._derive(row)

    def _account(self, row: int, identity: VmKey, occupant: Occupant, sign: int) -> None:
        entry = self.row[row]
        assert entry is not None
        shape = occupant.shape
        entry.take(shape, sign, reserved=occupant.reserved)
        if shape.hugepage_kib:
            pages = entry.hugepages_mib
            pages[shape.hugepage_kib] = pages.get(shape.hugepage_kib, 0) + sign * shape.memory_mib
            self._derive_amount(row, "hugepages", str(shape.hugepage_kib), None)
        for device, count in shape.devices.items() if shape.devices else ():
            entry.devices[device] = entry.devices.get(device, 0) + sign * count
            self._derive_amount(row, "devices", device, None)
            self._derive_amount(row, "devices held", device, None)
        if shape.bound_cells:
            self._account_cells(row, entry, occupant, sign)
        if occupant.reserved and shape.pools:
            self._account_pools(row, entry, shape, sign)
        if sign > 0:
            kind = occupant.kind = self.groups.arrive(row, identity.namespace, shape)
            occupant.shape = kind.shape  # one object for equal shapes: lookups then compare by identity
        else:
            assert occupant.kind is not None
            self.groups.leave(row, occupant.kind)
            occupant.kind = None

    def _account_cells(self, row: int, entry: Row, occupant: Occupant, sign: int) -> None:
        shape = occupant.shape
        count = shape.bound_cells
        # Cells not known yet: count the share against every cell; the host cannot be overfilled that way.
        cells = occupant.cells or tuple(cell.cell for cell in entry.facts.cells)
        for cell in cells:
            if shape.dedicated_cpus:
                entry.cell_pcpus[cell] = entry.cell_pcpus.get(cell, 0) + sign * (shape.vcpus // count)
            key = (cell, shape.hugepage_kib)
            entry.cell_memory[key] = entry.cell_memory.get(key, 0) + sign * -(-shape.memory_mib // count)
        for kind in {-1, shape.hugepage_kib}:
            self._derive_cells(row, kind, self._cell_array(kind))

    def _account_pools(self, row: int, entry: Row, shape: Shape, sign: int) -> None:
        for pool, size in shape.pools.items():
            if not size:
                continue
            entry.pools[pool] = entry.pools.get(pool, 0) + sign * size
            self.pool_reserved[pool] = self.pool_reserved.get(pool, 0) + sign * size
            if pool in self._shared_pools:
                self._pool_changed(pool)
            self._derive_amount(row, "pools", pool, None)

    def _pool_changed(self, pool: str) -> None:
        self.pool_version[pool] = self.pool_version.get(pool, 0) + 1
        self.pool_events += 1

    # ------------------------------------------------------------ derived columns

    def _derive(self, row: int) -> None:
        entry = self.row[row]
        assert entry is not None
        facts, capacity, memory = entry.facts, entry.capacity_mvcpus, entry.capacity_mib
        used = entry.shared_mvcpus + entry.dedicated * facts.overcommit_milli
        self.free_mvcpus[row] = capacity - used
        self.free_memory[row] = memory - entry.memory_mib
        self.cpu_share[row] = used / capacity if capacity else 1.0
        self.memory_share[row] = entry.memory_mib / memory if memory else 1.0
        self._derive_load(row, entry)

    def _derive_load(self, row: int, entry: Row) -> None:
        mean, var = entry.load()
        self.over[row] = (mean - entry.facts.pcpus * 1000) / 1000
        self.var[row] = var / 1_000_000
        self.events += 1
        self.version[row] += 1
        self.load_log.note(row)

    def _derive_amount(self, row: int, kind: str, name: str, array: IntArray | None) -> None:
        entry = self.row[row]
        if array is None:
            array = self.amount(kind, name)
        if entry is None:
            array[row] = 0
            return
        facts = entry.facts
        if kind == "hugepages":
            size = int(name)
            array[row] = facts.hugepages.get(size, 0) * size // 1024 - entry.hugepages_mib.get(size, 0)
        elif kind == "devices held":
            array[row] = entry.devices.get(name, 0)
        elif kind == "devices":
            array[row] = facts.devices.get(name, 0) - entry.devices.get(name, 0)
        elif kind == "pools":
            reach = facts.pools.get(name)
            own = entry.pools.get(name, 0) if reach is None or not reach.shared else 0
            array[row] = (reach.free_bytes if reach is not None else 0) - own
        else:
            reach = facts.pools.get(name)
            array[row] = 1 if reach is not None and reach.shared else 0

    def _derive_cells(self, row: int, kind: int, array: IntArray) -> None:
        entry = self.row[row]
        array[row] = -1
        if entry is None:
            return
        for index, cell in enumerate(entry.facts.cells):
            if kind == -1:
                array[row, index] = cell.pcpus - entry.cell_pcpus.get(cell.cell, 0)
            elif kind == 0:
                array[row, index] = cell.memory_mib - entry.cell_memory.get((cell.cell, 0), 0)
            else:
                array[row, index] = cell.hugepages.get(kind, 0) * kind // 1024 - entry.cell_memory.get(
                    (cell.cell, kind), 0
                )
