"""Which file a Volume takes up again."""

from __future__ import annotations

import pytest

from lq_operator.core.storage.names import existing_file, ready_mark, volume_file

FILE = volume_file("ns", "web-root", "0123456789ab", "qcow2")


def test_a_complete_file_of_the_same_identity_is_taken_up() -> None:
    assert existing_file("ns", "web-root", [FILE, ready_mark(FILE)], set()) == FILE


@pytest.mark.parametrize(
    "names",
    [
        [],
        [FILE],  # a copy that died half-way
        [ready_mark(FILE)],
        [
            volume_file("ns", "web", "0123456789ab", "qcow2"),
            ready_mark(volume_file("ns", "web", "0123456789ab", "qcow2")),
        ],
        [
            volume_file("ns2", "web-root", "01234567", "raw"),
            ready_mark(volume_file("ns2", "web-root", "01234567", "raw")),
        ],
    ],
)
def test_nothing_else_is(names: list[str]) -> None:
    assert existing_file("ns", "web-root", names, set()) is None


def test_what_a_tombstone_names_is_left_to_it() -> None:
    assert existing_file("ns", "web-root", [FILE, ready_mark(FILE)], {FILE}) is None


def test_two_candidates_are_a_persons_choice() -> None:
    other = volume_file("ns", "web-root", "ffffffff", "qcow2")
    with pytest.raises(ValueError, match="several files"):
        existing_file("ns", "web-root", [FILE, ready_mark(FILE), other, ready_mark(other)], set())
