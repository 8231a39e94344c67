"""Decisions of an import: what the files in the pool mean, whether the image fits, when to try again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from lq_operator.core.result import Rejected, Transient
from lq_operator.core.storage.names import READY_SUFFIX, ready_mark
from lq_operator.core.units import GIB, MIB

RETRY_FAILED_S = 600.0
"""After this an import that failed for good is tried once more: somebody may have mended the server."""
BACKOFF_FIRST_S = 2.0
BACKOFF_MOST_S = 120.0
PROGRESS_STEP_S = 2.0
"""Progress of one import is told at most this often."""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Where an artefact is to be: a pool, and the node where the pool is local ('' where it is shared)."""

    pool: str
    node: str


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in the pool before an import: `ready` is complete; `rubbish` is to be deleted, in this order."""

    ready: bool
    rubbish: tuple[str, ...]


def judge_files(file: str, names: Set[str]) -> Found:
    """A file counts only with its mark, a mark only with its file: what a crash left is rubbish."""
    mark = ready_mark(file)
    if file in names and mark in names:
        return Found(True, ())
    return Found(False, tuple(name for name in (mark, file) if name in names))


def own_files(namespace: str, name: str, names: Iterable[str]) -> list[str]:
    """Files and marks of an Image in a pool, marks first, whatever its content was. '_' is in no Kubernetes name."""
    stem = f"img_{namespace}_{name}_"
    own = [found for found in names if found.startswith(stem) and "_" not in found[len(stem) :]]
    return sorted(own, key=lambda found: (not found.endswith(READY_SUFFIX), found))


def check_length(length_bytes: int, most_bytes: int) -> None:
    """Rejected when the download is larger than spec.maxSize."""
    if length_bytes > most_bytes:
        raise Rejected(
            f"spec.maxSize: the download has {_size(length_bytes)}, more than {_size(most_bytes)}", field="spec.maxSize"
        )


@dataclass(frozen=True, slots=True)
class Space:
    """Of a pool on a host, in bytes; `reserve_bytes` may not be taken."""

    pool: str
    capacity_bytes: int
    available_bytes: int
    reserve_bytes: int = 0


def check_fits(length_bytes: int, virtual_size_bytes: int, most_bytes: int, space: Space) -> None:
    """Rejected for what never fits; Transient when the pool is only too full now."""
    check_length(length_bytes, most_bytes)
    if virtual_size_bytes > most_bytes:
        raise Rejected(
            f"spec.maxSize: the disk in the image has {_size(virtual_size_bytes)}, more than {_size(most_bytes)}",
            field="spec.maxSize",
        )
    usable = space.capacity_bytes - space.reserve_bytes
    largest = max(length_bytes, virtual_size_bytes)
    if largest > usable:
        raise Rejected(
            f"the image needs {_size(largest)}, pool {space.pool} has {_size(max(0, usable))} altogether: "
            "use a larger pool",
            field="spec.source",
        )
    free = space.available_bytes - space.reserve_bytes
    if length_bytes > free:
        raise Transient(
            f"the image takes {_size(length_bytes)}, pool {space.pool} has {_size(max(0, free))} free: make room there"
        )


def backoff_s(failures: int) -> float:
    """Seconds until the next try after so many failures in a row (1 = the first)."""
    return float(min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(max(0, failures - 1), 16)))


def add_seconds(stamp: str, seconds: float) -> str:
    """An RFC 3339 time in UTC, later by so many seconds."""
    moment = datetime.fromisoformat(stamp) + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_until(stamp: str, now: str) -> float:
    """From now until the time; 0 when it has passed or is no time."""
    try:
        left = datetime.fromisoformat(stamp) - datetime.fromisoformat(now)
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, left.total_seconds())


def percent(done_bytes: int, length_bytes: int) -> int:
    """0 to 99: only the mark makes it 100."""
    return min(99, done_bytes * 100 // length_bytes) if length_bytes > 0 else 0


def _size(count_bytes: int) -> str:
    if count_bytes >= 10 * GIB:
        return f"{count_bytes // GIB}Gi"
    if count_bytes >= MIB:
        return f"{count_bytes // MIB}Mi"
    return f"{count_bytes} bytes"
