"""Facts in file names: they survive the round trip, strange names do no harm, compaction never loses one."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lq_operator.core.failover import record as rec
from lq_operator.core.failover.record import Member
from lq_operator.core.model import Epoch, HostUUID, NodeName

A = Member(NodeName("h1"), HostUUID("11111111-1111-1111-1111-111111111111"))
B = Member(NodeName("h-2.example"), HostUUID("22222222-2222-2222-2222-222222222222"))

labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
epochs = st.builds(Epoch, st.integers(0, 10**9), st.integers(0, 10**9))
members = st.sampled_from([A, B])
facts = st.one_of(
    labels.map(rec.installation_name),
    st.builds(lambda m, e: rec.member_name(m.node, m.host_uuid, e), members, st.builds(Epoch, st.integers(0, 3), st.integers(0, 2))),
    st.builds(lambda m, e: rec.gone_name(m.node, m.host_uuid, e), members, st.builds(Epoch, st.integers(0, 3), st.integers(0, 2))),
    st.builds(rec.term_name, st.integers(0, 9), st.integers(0, 9)),
    st.builds(rec.departure_name, st.sampled_from(["a", "b-c"]), st.sampled_from(["vm", "vm-1"]), st.builds(Epoch, st.integers(0, 3), st.integers(0, 3))),
    st.sampled_from(["", "seed_a_vm_1-1.iso", "lost+found", "left_a", "member_x_y", "term_1", "term_-1_2", "left_a_b_x-y",
                     "member_h1_11111111-1111-1111-1111-111111111111_x", "nonce", "installation_", "left_A_b_1-1"]),
)  # fmt: skip


@given(labels, labels, epochs)
def test_departures_survive_the_round_trip(namespace: str, name: str, epoch: Epoch) -> None:
    assert rec.decode_record([rec.departure_name(namespace, name, epoch)]).departures == {(namespace, name): epoch}


def test_a_whole_record() -> None:
    record = rec.decode_record(
        [
            rec.installation_name("6d1c-uid"),
            rec.member_name(A.node, A.host_uuid),
            rec.member_name(B.node, B.host_uuid),
            rec.term_name(3, 900),
            rec.term_name(4, 2),
            rec.departure_name("ns", "vm", Epoch(3, 1)),
            rec.departure_name("ns", "vm", Epoch(3, 10)),
            rec.departure_name("ns", "other", Epoch(1, 1)),
            "seed_ns_vm_3-1.iso",
        ]
    )
    assert record.installations == {"6d1c-uid"}
    assert record.members == {A, B}
    assert (record.term, record.beat) == (4, 2)
    assert record.departures == {("ns", "vm"): Epoch(3, 10), ("ns", "other"): Epoch(1, 1)}
    assert record.unknown == ("seed_ns_vm_3-1.iso",)


@given(st.lists(facts, max_size=12), st.randoms(use_true_random=False))
def test_compaction_interrupted_anywhere_loses_nothing(names: list[str], chance: object) -> None:
    """Every subset in any order: delete a random prefix of a random order, decode, compare."""
    before = rec.decode_record(names)
    doomed = list(rec.compaction(names))
    chance.shuffle(doomed)  # type: ignore[attr-defined]
    left = list(names)
    for name in doomed:
        left = [kept for kept in left if kept != name]
        after = rec.decode_record(left)
        assert (after.members, after.term, after.beat) == (before.members, before.term, before.beat)
        assert after.departures == before.departures
        assert after.installations == before.installations
        assert after.unknown == before.unknown
    assert rec.compaction(left) == ()


@given(st.lists(facts, max_size=10), st.lists(facts, max_size=4))
def test_facts_added_while_another_owner_compacts_are_kept(names: list[str], added: list[str]) -> None:
    """Trace 7: a deposed owner compacts by its old listing while the new one adds facts."""
    doomed = set(rec.compaction(names))
    everything = rec.decode_record([*names, *added])
    left = rec.decode_record([n for n in [*names, *added] if n not in doomed])
    assert left.departures == everything.departures
    assert (left.term, left.beat) == (everything.term, everything.beat)
    assert left.members == everything.members


def test_a_member_that_left_and_joined_again() -> None:
    joined, gone, again = Epoch(0, 0), Epoch(2, 1), Epoch(3, 1)
    names = [rec.member_name(A.node, A.host_uuid), rec.gone_name(A.node, A.host_uuid, gone)]
    for order in permutations(names):
        assert rec.decode_record(order).members == set()
    names.append(rec.member_name(A.node, A.host_uuid, again))
    for order in permutations(names):
        assert rec.decode_record(order).members == {A}
    assert rec.decode_record(names).joined[A] == again > gone > joined


@pytest.mark.parametrize(
    "make",
    [
        lambda: rec.installation_name("a_b"),
        lambda: rec.installation_name("../x"),
        lambda: rec.installation_name(""),
        lambda: rec.departure_name("NS", "vm", Epoch(1, 1)),
        lambda: rec.departure_name("ns", "v/m", Epoch(1, 1)),
        lambda: rec.member_name(NodeName("h_1"), A.host_uuid),
        lambda: rec.member_name(A.node, HostUUID("not-a-uuid")),
        lambda: rec.gate_name(1, "a-b"),
        lambda: rec.departure_name("n" * 63, "v" * 250, Epoch(1, 1)),
    ],
)
def test_names_that_would_not_come_back_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r".{15,}"):
        make()  # type: ignore[operator]


def test_the_longest_names_the_api_allows_fit() -> None:
    epoch = Epoch(2**31, 2**31)
    assert len(rec.departure_name("n" * 63, "v" * 63, epoch)) <= rec.MAX_NAME_BYTES
    assert len(rec.member_name(NodeName("h" * 63), A.host_uuid, epoch)) <= rec.MAX_NAME_BYTES
    assert len(rec.ticket_name(2**31, "n" * 63, "v" * 63, "f" * 32)) <= rec.MAX_NAME_BYTES


def test_gates_and_tickets_are_told_apart_from_everything() -> None:
    gate, ticket = rec.gate_name(7, "c0ffee", 3), rec.ticket_name(7, "ns", "vm-1", "c0ffee")
    assert gate == "gate-7-3-c0ffee"
    assert rec.parse_gate(gate) == rec.Gate(7, 3, "c0ffee")
    assert rec.parse_ticket(ticket) == rec.Ticket(7, "ns", "vm-1", "c0ffee")
    for other in ("gate-7-c0ffee", "gate-x-1-a", "gate", "", "ticket_1_ns_vm", "gate-7-3-C0FFEE", "gate-²-1-a"):
        assert rec.parse_gate(other) is None
        assert rec.parse_ticket(other) is None
    assert rec.parse_gate(ticket) is None
    assert rec.parse_ticket(gate) is None
    assert not any(name.startswith(rec.RECORD_PREFIXES) for name in (gate, ticket, *rec.STATE_PREFIXES))


def test_the_highest_term_counts_stamps_and_notes() -> None:
    assert rec.decode_record([rec.term_name(3, 1), rec.departure_name("ns", "vm", Epoch(9, 1))]).highest_term == 9
    assert rec.decode_record([]).highest_term == 0
