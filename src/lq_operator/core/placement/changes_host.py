"""Single changes to a host, or to a VM that is in the way, that make a VM fit; each finder yields the cheapest of its kind.

Exactness is held against brute force by the tests; the prices are in counterfactual.KINDS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lq_operator.core.placement.case import Case, Pick
from lq_operator.core.placement.filters import FILTERS, Depends
from lq_operator.core.placement.groups import Group
from lq_operator.core.placement.rules_room import pool_free
from lq_operator.core.placement.rules_vms import counts_per_row, fewest
from lq_operator.core.placement.state import BoolArray, IntArray
from lq_operator.core.placement.types import VmKey


def _even_with(case: Case, row: int) -> bool:
    """Whether spreading still allows the row once it counts as eligible (a new domain may lower the minimum)."""
    if not case.question.spread:
        return True
    assert case.question.eligible is not None
    eligible = case.question.eligible.copy()
    eligible[row] = True
    domains = {}
    for key, (version, known) in case.question.eligible_domains.items():
        topology = case.state.topology(key)
        if version == topology.version:
            own = int(topology.ids[row])
            domains[key] = (version, known if own < 0 or own in known else [*known, own])
    question = replace(case.question, eligible=eligible, eligible_domains=domains)
    spread = next(rule for rule in FILTERS if rule.name == "spread")
    return not spread.fails(case.state, question, slice(row, row + 1))[0]


def _repair(case: Case, name: str, cost: int, words: str) -> Iterator[Pick]:
    if not case.any_only(name):
        return
    order = case.state.tie_order()
    for row in order[case.only(name)[order]].tolist():
        if _even_with(case, row):
            yield (cost, case.state.names[row], 0, row, f"{case.state.names[row]} {words}")
            return


def uncordon(case: Case, cost: int, _: int) -> Iterator[Pick]:
    yield from _repair(case, "cordon", cost, "were uncordoned")


def make_ready(case: Case, cost: int, _: int) -> Iterator[Pick]:
    yield from _repair(case, "ready", cost, "became ready")


def more_pool_space(case: Case, cost: int, _: int) -> Iterator[Pick]:
    if not case.any_only("storage-space"):
        return
    alone = case.only("storage-space")
    every = slice(0, case.state.n)
    missing = {p: size - pool_free(case.state, p, every) for p, size in case.shape.pools.items() if size}
    short = np.sum([amount > 0 for amount in missing.values()], axis=0)
    for pool, amount in missing.items():
        rows = alone & (short == 1) & (amount > 0)
        if rows.any():
            gibs = -(-amount // 2**30)
            least = int(gibs[rows].min())
            row = case.first(rows & (gibs == least))
            assert row is not None
            host = case.state.names[row]
            yield (cost + least, f"{pool}", least, row, f"pool {pool} had {least} GiB more space on {host}")


MOVABLE_RULES = tuple(rule for rule in FILTERS if rule.depends is not Depends.FACTS)
MOVABLE = ("vcpus", "memory", "hugepages", "numa", "devices", "vm-anti-affinity", "refused-by-others", "spread")


def move_vm(case: Case, cost: int, limit: int) -> Iterator[Pick]:
    state, shape = case.state, case.shape
    if not case.any_only(*MOVABLE):
        return
    rows = _with_devices(case, np.flatnonzero(case.only(*MOVABLE)))
    rows = rows[_one_vm_too_many(case, rows)]
    if not len(rows):
        return
    free = state.amount("hugepages", str(shape.hugepage_kib)) if shape.hugepage_kib else state.free_memory
    lacking = np.maximum(shape.memory_mib - free[rows], 1)
    at_least = cost - (-np.maximum(lacking, _smallest_that_helps(case, rows)) // 1024)
    best: Pick | None = None
    for at in np.lexsort((state.tie[rows], at_least)).tolist():
        bound = limit if best is None else min(limit, best[0])
        if at_least[at] >= bound:
            break
        best = _move_from(case, int(rows[at]), int(lacking[at]), cost, bound) or best
    if best is not None:
        yield best


def _smallest_that_helps(case: Case, rows: IntArray) -> IntArray:
    """Per row an amount of MiB that no VM whose leaving helps can be smaller than: it must belong to a group that is in
    the way, and hold the devices that are short."""
    smallest = np.zeros(len(rows), np.int64)
    for name, groups in _between_vms(case):
        if name in case.fails:
            mib = min(map(case.state.groups.smallest_mib, groups), default=0)
            smallest = np.maximum(smallest, np.where(case.fails[name][rows], mib, 0))
    for device in case.shape.devices if "devices" in case.fails else ():
        kinds = case.state.groups.device_kinds.get(device, [])
        least, left = dict.fromkeys(rows.tolist(), 0), set(rows.tolist())
        for kind in sorted(kinds, key=lambda kind: kind.shape.memory_mib):
            there = kind.rows.keys() & left
            least.update(dict.fromkeys(there, kind.shape.memory_mib))
            left -= there
            if not left:
                break
        held = np.array(list(least.values()), np.int64)
        short = case.state.amount("devices", device)[rows] < case.shape.devices[device]
        smallest = np.maximum(smallest, np.where(short, held, 0))
    return smallest


def _with_devices(case: Case, rows: IntArray) -> IntArray:
    """Of these rows those whose VMs hold the devices that are short: most hosts have none of a scarce device."""
    state = case.state
    for device, count in case.shape.devices.items():
        short = count - state.amount("devices", device)[rows]
        rows = rows[state.amount("devices held", device)[rows] >= short]
    return rows


def _between_vms(case: Case) -> tuple[tuple[str, list[Group]], ...]:
    """The rules that one VM's leaving may satisfy, and the groups it would have to belong to."""
    return (
        ("vm-anti-affinity", [group for _, group in case.question.anti_affinity]),
        ("refused-by-others", list(case.question.refused_by)),
        ("spread", [group for _, group in case.question.spread]),
    )


def _one_vm_too_many(case: Case, rows: IntArray) -> BoolArray:
    """Per row whether one VM's leaving could be enough for the rules between VMs (necessary, not sufficient)."""
    state, question = case.state, case.question
    enough = np.ones(len(rows), np.bool_)
    for term, group in question.anti_affinity:
        enough &= counts_per_row(state, group, term.topology_key, rows) <= 1
    for group in question.refused_by:
        enough &= counts_per_row(state, group, group.term.topology_key, rows) <= 1
    for spread, group in question.spread:
        own = 1 if group in question.belongs else 0
        low = fewest(state, question, group, spread.topology_key)
        there = counts_per_row(state, group, spread.topology_key, rows)
        enough &= there + own - low <= spread.max_skew + 1
    for name, groups in _between_vms(case):
        if name in case.fails:  # the VM that leaves must be one of them
            here = np.any([group.present[rows] for group in groups], axis=0)
            enough &= here | ~case.fails[name][rows]
    return enough


def _culprits(case: Case, row: int) -> list[set[int]]:
    """For each rule between VMs that fails here: the groups one of whose members would have to leave."""
    state, question, one = case.state, case.question, slice(row, row + 1)
    wanted = []
    for name, terms in (
        ("vm-anti-affinity", [(term.topology_key, group) for term, group in question.anti_affinity]),
        ("refused-by-others", [(group.term.topology_key, group) for group in question.refused_by]),
    ):
        if name in case.fails and case.fails[name][row]:
            wanted += [{id(group)} for key, group in terms if counts_per_row(state, group, key, one)[0]]
    if "spread" in case.fails and case.fails["spread"][row]:
        wanted.append({id(group) for _, group in question.spread})
    return wanted


def _move_from(case: Case, row: int, lacking_mib: int, cost: int, bound: int) -> Pick | None:
    """The cheapest VM of one host whose leaving makes room, if it costs less than `bound`."""
    state, shape = case.state, case.shape
    host = state.names[row]
    fails = {name for name in MOVABLE if name in case.fails and case.fails[name][row]}
    short_of_memory = bool(fails & {"memory", "hugepages"})
    culprits = _culprits(case, row)
    mvcpus = int(state.overcommit[row])
    missing = shape.vcpus * (mvcpus if shape.dedicated_cpus else 1000) - int(state.free_mvcpus[row])
    devices = [(d, short) for d, n in shape.devices.items() if (short := n - int(state.amount("devices", d)[row])) > 0]
    found: list[tuple[int, VmKey]] = []
    for identity, occupant in state.occupants.get(host, {}).items():
        its = occupant.shape
        if devices and any(its.devices.get(device, 0) < short for device, short in devices):
            continue
        price = cost - (-its.memory_mib // 1024)
        if price >= bound or occupant.reserved:
            continue
        if short_of_memory and (its.memory_mib < lacking_mib or its.hugepage_kib != shape.hugepage_kib):
            continue
        if its.vcpus * (mvcpus if its.dedicated_cpus else 1000) < missing or ("numa" in fails and not its.bound_cells):
            continue
        if culprits:
            mine = {id(group) for group in state.groups.groups_of(identity.namespace, its)}
            if not all(mine & groups for groups in culprits):
                continue
        placed = state.placed.get(identity)
        if placed is not None and placed.movable:
            found.append((price, identity))
    for price, identity in sorted(found):
        if _fits_without(case, row, identity):
            return (price, str(identity), 0, row, f"VM {identity} were moved away from {host}")
    return None


def _fits_without(case: Case, row: int, identity: VmKey) -> bool:
    state, question = case.state, case.question
    host, version = state.names[row], int(state.version[row])
    occupant = state.occupants[host][identity]
    state.vacate(host, identity)
    one = slice(row, row + 1)
    fits = not any(rule.applies(question) and rule.fails(state, question, one)[0] for rule in MOVABLE_RULES)
    state.occupy(host, identity, occupant)
    state.version[row] = version  # only looked at
    return fits
