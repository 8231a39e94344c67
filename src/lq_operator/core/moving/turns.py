"""Whose turn it is: moves that wait, against the limits per host and per cluster. Pure; first come, first served, but who
waits for a busy host holds up nobody who does not need it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Way:
    """A move from host to host. `name`: namespace/name of its object."""

    name: str
    source: str
    target: str


def turn_of(mine: Way, under_way: Iterable[Way], waiting: Sequence[Way], per_host: int, per_cluster: int) -> str:
    """'' when `mine` may begin, else a sentence: what is full, and how many are before it.

    `waiting`: those that could begin as far as their target is known, the oldest first; `mine` is among them.
    """
    busy: Counter[str] = Counter()
    total = 0
    for way in under_way:
        busy.update((way.source, way.target))
        total += 1
    before = 0
    for way in waiting:
        full = _full(way, busy, total, per_host, per_cluster)
        if way.name == mine.name:
            return f"{full}; {before} wait before it" if full else ""
        if full:
            before += 1
            continue
        busy.update((way.source, way.target))
        total += 1
    return _full(mine, busy, total, per_host, per_cluster)


def _full(way: Way, busy: Counter[str], total: int, per_host: int, per_cluster: int) -> str:
    for host in (way.source, way.target):
        if busy[host] >= per_host:
            return f"{host} sends or receives {busy[host]} moves (spec.migration.parallelPerHost: {per_host})"
    if total >= per_cluster:
        return f"{total} moves are under way (spec.migration.parallelPerCluster: {per_cluster})"
    return ""
