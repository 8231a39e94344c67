"""Decisions of an import."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lq_operator.core.result import Rejected, Transient
from lq_operator.core.storage.importing import (
    BACKOFF_MOST_S,
    Space,
    add_seconds,
    backoff_s,
    check_fits,
    check_length,
    judge_files,
    own_files,
    percent,
    seconds_until,
)
from lq_operator.core.storage.names import artefact_file, ready_mark
from lq_operator.core.units import GIB

FILE = artefact_file("team-a", "debian", "ab" * 32, "qcow2")
MARK = ready_mark(FILE)


@pytest.mark.parametrize(
    ("names", "ready", "rubbish"),
    [
        ({FILE, MARK}, True, ()),
        ({FILE}, False, (FILE,)),
        ({MARK}, False, (MARK,)),
        (set(), False, ()),
        ({"vol_team-a_debian_12345678.qcow2"}, False, ()),
    ],
)
def test_a_file_counts_only_with_its_mark(names: set[str], ready: bool, rubbish: tuple[str, ...]) -> None:
    found = judge_files(FILE, names)
    assert (found.ready, found.rubbish) == (ready, rubbish)


def test_an_images_own_files_are_no_other_images() -> None:
    others = [
        artefact_file("team-a", "debian-12", "ab" * 32, "qcow2"),
        artefact_file("team-b", "debian", "ab" * 32, "qcow2"),
        artefact_file("team", "a-debian", "ab" * 32, "qcow2"),
        "vol_team-a_debian_12345678.qcow2",
        "img_team-a_debian_x_y",
        "nonce_1",
    ]
    older = artefact_file("team-a", "debian", "cd" * 32, "raw")
    assert own_files("team-a", "debian", [*others, FILE, MARK, older]) == [MARK, FILE, older]


@pytest.mark.parametrize(
    ("length", "virtual", "words"),
    [
        (11 * GIB, 1, "spec.maxSize: the download has 11Gi, more than 10Gi"),
        (1, 11 * GIB, "spec.maxSize: the disk in the image has 11Gi"),
        (1, 9 * GIB, "pool p has 8192Mi altogether"),
        (9 * GIB, 1, "pool p has 8192Mi altogether"),
    ],
)
def test_what_never_fits(length: int, virtual: int, words: str) -> None:
    with pytest.raises(Rejected, match=words):
        check_fits(length, virtual, 10 * GIB, Space("p", 9 * GIB, 9 * GIB, GIB))


def test_what_does_not_fit_now() -> None:
    with pytest.raises(Transient, match="make room"):
        check_fits(GIB, 4 * GIB, 10 * GIB, Space("p", 9 * GIB, 2 * GIB - 1, GIB))
    check_fits(GIB, 4 * GIB, 10 * GIB, Space("p", 9 * GIB, 2 * GIB, GIB))


def test_the_limit_itself_is_allowed() -> None:
    check_length(10 * GIB, 10 * GIB)
    with pytest.raises(Rejected, match="maxSize"):
        check_length(10 * GIB + 1, 10 * GIB)


def test_backoff_grows_and_is_bounded() -> None:
    delays = [backoff_s(failures) for failures in range(1, 40)]
    assert delays == sorted(delays)
    assert delays[0] == 2
    assert delays[-1] == BACKOFF_MOST_S


@given(st.integers(0, 10**6))
def test_times_come_back(seconds: int) -> None:
    now = "2030-01-31T23:59:59.500Z"
    assert abs(seconds_until(add_seconds(now, seconds), now) - seconds) <= 1


@pytest.mark.parametrize("stamp", ["", "soon", "2020-01-01T00:00:00Z", "2030-01-01T00:00:00"])
def test_what_has_passed_or_is_no_time_is_now(stamp: str) -> None:
    assert seconds_until(stamp, "2030-01-01T00:00:00Z") == 0


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_only_the_mark_makes_it_a_hundred(done: int, length: int) -> None:
    assert 0 <= percent(done, length) <= 99
