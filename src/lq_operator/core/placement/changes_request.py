"""Single changes to the request that make it fit; each finder yields the cheapest of its kind.

A finder first looks for hosts that its change alone could cure, then judges the changed request in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lq_operator.core.placement.case import Case, Pick, fits_with
from lq_operator.core.placement.groups import is_host_level
from lq_operator.core.placement.question import gib
from lq_operator.core.placement.rules_vms import counts_per_row, fewest
from lq_operator.core.placement.selectors import Toleration, untolerated
from lq_operator.core.placement.state import BoolArray, IntArray
from lq_operator.core.placement.types import Shape


def _try_shape(case: Case, cost: int, target: str, sentence: str, shape: Shape, **terms: object) -> Iterator[Pick]:
    row = case.first(fits_with(case, shape, **terms))
    if row is not None:
        yield (cost, target, 0, row, sentence)


def tolerate(case: Case, cost: int, _: int) -> Iterator[Pick]:
    state, shape = case.state, case.shape
    wanted = {}
    for row in np.flatnonzero(case.only("taints")).tolist() if case.any_only("taints") else ():
        entry = state.row[row]
        assert entry is not None
        left = untolerated(entry.facts.taints, shape.tolerations)
        if len(set(left)) == 1:
            wanted[str(left[0])] = left[0]
    for text, taint in sorted(wanted.items()):
        more = (*shape.tolerations, Toleration(taint.key, taint.value, taint.effect))
        yield from _try_shape(case, cost, text, f"it tolerated taint {text}", replace(shape, tolerations=more))


def max_skew(case: Case, cost: int, _: int) -> Iterator[Pick]:
    state, question = case.state, case.question
    if not case.any_only("spread"):
        return
    alone = case.only("spread")
    every = slice(0, state.n)
    broken, needed = [], []
    for spread, group in question.spread:
        key = spread.topology_key
        own = 1 if group in question.belongs else 0
        skew = counts_per_row(state, group, key, every) + own - fewest(state, question, group, key)
        lacks = np.zeros(len(skew), np.bool_) if is_host_level(spread.term) else state.topology(key).ids[every] < 0
        broken.append((skew > spread.max_skew) | lacks)
        needed.append(np.where(lacks, 2**40, skew))
    for at, (spread, _group) in enumerate(question.spread):
        others = [mask for index, mask in enumerate(broken) if index != at]
        rows = alone & ~np.any(others, axis=0) if others else alone
        rows = rows & (needed[at] < 2**40)
        if rows.any():
            skew_needed = int(needed[at][rows].min())
            row = case.first(rows & (needed[at] == skew_needed))
            assert row is not None
            words = f"max skew per {spread.topology_key} were {skew_needed} instead of {spread.max_skew}"
            yield (cost + 5 * (skew_needed - spread.max_skew), str(at), skew_needed, row, words)


def _nth_largest(cells: IntArray, allowed: BoolArray, count: int) -> IntArray:
    """Per row the amount that `count` allowed cells all have; 0 where there are fewer such cells."""
    if cells.shape[1] < count:
        return np.zeros(len(cells), np.int64)
    ordered = np.sort(np.where(allowed, cells, 0), axis=1)
    amounts: IntArray = np.maximum(ordered[:, -count], 0)
    return amounts


def less_memory(case: Case, cost: int, _: int) -> Iterator[Pick]:
    state, shape = case.state, case.shape
    if not case.any_only("memory", "hugepages", "numa"):
        return
    rows = case.only("memory", "hugepages", "numa")
    every, page = slice(0, state.n), shape.hugepage_kib
    most = (state.amount("hugepages", str(page)) if page else state.free_memory)[every]
    if shape.bound_cells:
        count = shape.bound_cells
        allowed = np.ones_like(state.cells(page)[every], np.bool_)
        if shape.dedicated_cpus:
            allowed = state.cells(-1)[every] >= shape.vcpus // count
        most = np.minimum(most, count * _nth_largest(state.cells(page)[every], allowed, count))
    if page:
        whole_mib = max(1, page // 1024)  # page sizes are powers of two
        most = most // whole_mib * whole_mib
    most = np.minimum(most, shape.memory_mib)
    best = int(most[rows].max())
    if best < 1 or best >= shape.memory_mib:
        return
    row = case.first(rows & (most == best))
    assert row is not None
    words = f"it asked for {gib(best)} memory instead of {gib(shape.memory_mib)}"
    yield (cost + _percent(shape.memory_mib, best), "memory_mib", best, row, words)


def less_vcpus(case: Case, cost: int, _: int) -> Iterator[Pick]:
    state, shape = case.state, case.shape
    names = ("vcpus", "numa") if shape.dedicated_cpus else ("vcpus",)
    if not case.any_only(*names):
        return
    rows = case.only(*names)
    every = slice(0, state.n)
    most = state.free_mvcpus[every] // (state.overcommit[every] if shape.dedicated_cpus else 1000)
    if shape.dedicated_cpus:
        count = shape.bound_cells
        allowed = state.cells(shape.hugepage_kib)[every] >= -(-shape.memory_mib // count)
        most = np.minimum(most // count, _nth_largest(state.cells(-1)[every], allowed, count)) * count
    best = int(most[rows].max())
    if best < 1 or best >= shape.vcpus:
        return
    row = case.first(rows & (most == best))
    assert row is not None
    words = f"it asked for {best} vCPU instead of {shape.vcpus}"
    yield (cost + _percent(shape.vcpus, best), "vcpus", best, row, words)


def _percent(whole: int, part: int) -> int:
    return -(-100 * (whole - part) // whole)


def less_devices(case: Case, cost: int, _: int) -> Iterator[Pick]:
    if not case.any_only("devices"):
        return
    alone, devices = case.only("devices"), case.shape.devices
    free = {device: case.state.amount("devices", device)[: case.state.n] for device in devices}
    if len(devices) > 1:
        short = np.sum([free[device] < count for device, count in devices.items()], axis=0)
        alone &= short == 1
    for device, count in devices.items():
        rows = alone & (free[device] < count)
        if rows.any():
            most = np.maximum(free[device], 0)
            best = int(most[rows].max())
            row = case.first(rows & (most == best))
            assert row is not None
            words = f"it asked for {best} {device} instead of {count}"
            yield (cost + count - best, device, best, row, words)


def drop_node_selector(case: Case, cost: int, _: int) -> Iterator[Pick]:
    if case.any_only("node-selector"):
        for at, requirement in enumerate(case.shape.node_selector):
            left = (*case.shape.node_selector[:at], *case.shape.node_selector[at + 1 :])
            words = f"it did not select hosts with {requirement}"
            yield from _try_shape(case, cost, str(at), words, replace(case.shape, node_selector=left))


def drop_node_affinity(case: Case, cost: int, _: int) -> Iterator[Pick]:
    if case.any_only("node-affinity"):
        words = "it had no node affinity"
        yield from _try_shape(case, cost, "", words, replace(case.shape, node_affinity=()))


def drop_vm_affinity(case: Case, cost: int, _: int) -> Iterator[Pick]:
    terms = case.question.affinity
    for at, (term, _group) in enumerate(terms if case.any_only("vm-affinity") else ()):
        left = (*terms[:at], *terms[at + 1 :])
        yield from _try_shape(case, cost, str(at), f"it need not run with {term}", case.shape, affinity=left)


def drop_anti_affinity(case: Case, cost: int, _: int) -> Iterator[Pick]:
    terms = case.question.anti_affinity
    for at, (term, _group) in enumerate(terms if case.any_only("vm-anti-affinity") else ()):
        left = (*terms[:at], *terms[at + 1 :])
        yield from _try_shape(case, cost, str(at), f"it might run beside {term}", case.shape, anti_affinity=left)


def drop_hugepages(case: Case, cost: int, _: int) -> Iterator[Pick]:
    if case.shape.hugepage_kib and case.any_only("hugepages", "numa"):
        words = f"it did without hugepages of {case.shape.hugepage_kib} KiB"
        yield from _try_shape(case, cost, "", words, replace(case.shape, hugepage_kib=0))


def drop_numa(case: Case, cost: int, _: int) -> Iterator[Pick]:
    shape = case.shape
    if shape.numa_cells and not shape.dedicated_cpus and case.any_only("numa"):
        yield from _try_shape(case, cost, "", "it were not bound to NUMA cells", replace(shape, numa_cells=0))


def drop_dedicated(case: Case, cost: int, _: int) -> Iterator[Pick]:
    if case.shape.dedicated_cpus and case.any_only("vcpus", "numa"):
        words = "its CPUs were shared instead of dedicated"
        yield from _try_shape(case, cost, "", words, replace(case.shape, dedicated_cpus=False))


def drop_cpu_model(case: Case, cost: int, _: int) -> Iterator[Pick]:
    if case.any_only("cpu-model"):
        words = f"it did not need CPU model {case.shape.cpu_model}"
        yield from _try_shape(case, cost, "", words, replace(case.shape, cpu_model=""))


def drop_network(case: Case, cost: int, _: int) -> Iterator[Pick]:
    for network in sorted(case.shape.networks) if case.any_only("networks") else ():
        left = replace(case.shape, networks=case.shape.networks - {network})
        yield from _try_shape(case, cost, network, f"it did not need network {network}", left)


def drop_pool(case: Case, cost: int, _: int) -> Iterator[Pick]:
    pools = case.shape.pools
    for pool in pools if case.any_only("storage-reach", "storage-space") else ():
        left = replace(case.shape, pools={name: size for name, size in pools.items() if name != pool})
        yield from _try_shape(case, cost, pool, f"it did not need pool {pool}", left)


def drop_volume(case: Case, cost: int, _: int) -> Iterator[Pick]:
    volumes = case.shape.bound_volumes
    for volume in volumes if case.any_only("bound-volumes") else ():
        left = replace(case.shape, bound_volumes={name: hosts for name, hosts in volumes.items() if name != volume})
        yield from _try_shape(case, cost, volume, f"it did not need volume {volume}", left)
