"""Placements on the wire, and what the patch tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.failover.protocol_cases import ASSIGNED, COMMITTED, LAWFUL, MOVING, RELEASED

from lq_operator.core.failover.patch import placement_from_dict, placement_patch, placement_to_dict
from lq_operator.core.failover.protocol import transition
from lq_operator.core.model import BootNonce, Epoch, Evidence, EvidenceKind, HostUUID, NodeName, Phase, Placement

words = st.text(min_size=1, max_size=12)
epochs = st.none() | st.builds(Epoch, st.integers(0, 99), st.integers(0, 99))


def optional(kind: type) -> st.SearchStrategy[object]:
    return st.none() | words.map(kind)


placements = st.builds(
    Placement,
    st.sampled_from(Phase), words, words, optional(NodeName), optional(HostUUID), optional(BootNonce), epochs, epochs,
    optional(NodeName), optional(HostUUID), optional(BootNonce),
    st.lists(
        st.builds(Evidence, st.sampled_from(EvidenceKind), optional(HostUUID), epochs, optional(BootNonce),
                  st.text(max_size=5)),
        max_size=3,
    ).map(tuple),
    epochs,
)  # fmt: skip


@given(placements)
def test_round_trip(placement: Placement) -> None:
    assert placement_from_dict(placement_to_dict(placement)) == placement


def test_the_wire_names() -> None:
    assert placement_to_dict(MOVING) == {
        "phase": "Moving", "writeId": "w", "since": "t", "node": "h1", "epoch": "4-2", "releasedEpoch": "3-1",
        "hostUUID": "11111111-1111-1111-1111-111111111111", "boot": "gate-5-1-aa", "target": "h2",
        "targetUUID": "22222222-2222-2222-2222-222222222222", "targetBoot": "gate-5-2-bb",
    }  # fmt: skip


@pytest.mark.parametrize("row", LAWFUL)
def test_every_outcome_of_the_table_survives_the_wire(row: str) -> None:
    after = transition(*LAWFUL[row])
    assert isinstance(after, Placement)
    assert placement_from_dict(placement_to_dict(after)) == after


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"phase": "Committed"}, "writeId"),
        ({"phase": "Nowhere", "writeId": "w"}, "phase"),
        ({"phase": "Released", "writeId": "w", "epoch": "7"}, "placement.epoch"),
        ({"phase": "Released", "writeId": "w", "releasedEpoch": "x-y"}, "placement.releasedEpoch"),
        ({"phase": "Released", "writeId": "w", "evidence": [{"kind": "hearsay"}]}, "evidence"),
    ],
)
def test_what_we_never_wrote_is_an_error_that_names_the_field(data: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        placement_from_dict(data)


def test_absent_is_none_and_empty_strings_are_absent_fields() -> None:
    assert placement_from_dict(None) is None
    assert placement_from_dict({}) is None
    assert placement_from_dict({"phase": "Released", "writeId": "w", "since": "t", "node": "", "epoch": "",
                                "releasedEpoch": "3-1", "boot": "", "evidence": []}) == RELEASED  # fmt: skip


def test_a_change_tests_uid_and_write_id_and_replaces_the_whole_struct() -> None:
    operations = placement_patch("uid-1", ASSIGNED, COMMITTED)
    assert operations == [
        {"op": "test", "path": "/metadata/uid", "value": "uid-1"},
        {"op": "test", "path": "/status/placement/writeId", "value": "w"},
        {"op": "replace", "path": "/status/placement", "value": placement_to_dict(COMMITTED)},
    ]


@pytest.mark.parametrize(
    ("status_exists", "path", "value"),
    [
        (True, "/status/placement", placement_to_dict(RELEASED)),
        (False, "/status", {"placement": placement_to_dict(RELEASED)}),
    ],
)
def test_a_first_placement_tests_the_version_that_showed_none(status_exists: bool, path: str, value: object) -> None:
    operations = placement_patch("uid-1", None, RELEASED, resource_version="41", status_exists=status_exists)
    assert operations == [
        {"op": "test", "path": "/metadata/uid", "value": "uid-1"},
        {"op": "test", "path": "/metadata/resourceVersion", "value": "41"},
        {"op": "add", "path": path, "value": value},
    ]


def test_a_first_placement_without_a_version_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="resourceVersion"):
        placement_patch("uid-1", None, RELEASED)
