"""Which hosts must be accounted for, when they are, and the signs that the API server went back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.core.failover.protocol_cases import COMMITTED, G1, N1, N2, N3, NEW, NOW, OLD, RELEASED, TERM, U1, U2, U3

from lq_operator.core.failover.inventory import (
    Complete,
    Incomplete,
    Listed,
    Off,
    WentBack,
    domain_ahead,
    judge_inventory,
    members_of,
    note_ahead,
    record_ahead,
    unknown_to,
)
from lq_operator.core.failover.record import HostRecord, Member, decode_record, departure_name, term_name
from lq_operator.core.model import Epoch, Evidence, EvidenceKind

M1, M2, M3 = Member(N1, U1), Member(N2, U2), Member(N3, U3)
START = Epoch(0, 0)


def record(*members: Member, **changes: object) -> HostRecord:
    return replace(HostRecord(joined=dict.fromkeys(members, START)), **changes)  # type: ignore[arg-type]


def listed(uuid: object, *members: Member, term: int = TERM) -> Listed:
    return Listed(uuid, term, record(*members))  # type: ignore[arg-type]


def off(uuid: object, kind: EvidenceKind = EvidenceKind.BMC_CONFIRMED_OFF, **changes: object) -> Off:
    return replace(Off(Evidence(kind, uuid, boot=G1), TERM), **changes)  # type: ignore[arg-type]


NODES = {N1: U1, N2: U2}


def test_complete_when_every_node_is_listed_in_this_term() -> None:
    assert judge_inventory(TERM, NODES, [listed(U1, M1, M2), listed(U2, M1, M2)]) == Complete(TERM)


@pytest.mark.parametrize("evidence", [[], [off(U3)], [off(U2, term=TERM - 1)], [off(U2, void="answered")],
                                      [off(U2, EvidenceKind.INVENTORY)],
                                      [off(U2, EvidenceKind.HOST_CONFIRMED_ABSENT)]])  # fmt: skip
def test_a_silent_member_is_missing_by_name_and_reason(evidence: list[Off]) -> None:
    answer = judge_inventory(TERM, NODES, [listed(U1, M1, M2)], evidence, {N2: "no answer for 9 s"})
    assert isinstance(answer, Incomplete)
    assert [(m.node, m.host_uuid) for m in answer.missing] == [(N2, U2)]
    assert "h2 (no answer for 9 s)" in answer.sentence


def test_evidence_of_being_off_completes_it() -> None:
    assert isinstance(judge_inventory(TERM, NODES, [listed(U1, M1, M2)], [off(U2)]), Complete)


def test_a_listing_of_an_earlier_term_counts_for_nothing() -> None:
    assert isinstance(judge_inventory(TERM, NODES, [listed(U1), listed(U2, term=TERM - 1)]), Incomplete)


def test_a_host_that_only_records_name_is_a_member() -> None:
    """After a wipe the manifest of h3 is not applied yet: h1 remembers it."""
    answer = judge_inventory(TERM, NODES, [listed(U1, M1, M3), listed(U2, M1)])
    assert isinstance(answer, Incomplete)
    assert [m.node for m in answer.missing] == [N3]


def test_a_node_that_never_answered_is_missing() -> None:
    answer = judge_inventory(TERM, {N1: U1, N3: None}, [listed(U1, M1)])
    assert isinstance(answer, Incomplete)
    assert [(m.node, m.host_uuid) for m in answer.missing] == [(N3, None)]


def test_another_machine_under_a_known_name_does_not_account_for_the_first() -> None:
    answer = judge_inventory(TERM, {N1: U3}, [listed(U3, M1)])
    assert isinstance(answer, Incomplete)
    assert [m.host_uuid for m in answer.missing] == [U1]


def test_statements_by_people_do_not_count_while_the_api_server_went_back() -> None:
    back = [WentBack(N1, "h1 remembers more")]
    attested = [off(U2, EvidenceKind.HUMAN_ATTESTED)]
    assert isinstance(judge_inventory(TERM, NODES, [listed(U1)], attested), Complete)
    assert isinstance(judge_inventory(TERM, NODES, [listed(U1)], attested, went_back=back), Incomplete)
    assert isinstance(judge_inventory(TERM, NODES, [listed(U1)], [off(U2)], went_back=back), Complete)


def test_a_member_taken_out_with_evidence_is_out_for_all_records() -> None:
    stale, fresh = record(M1, M3), record(M1, M3, gone={M3: Epoch(2, 1)})
    assert members_of({N1: U1}, [stale, fresh]) == {N1: {U1}}
    again = record(joined={M3: Epoch(3, 1)})
    assert members_of({N1: U1}, [stale, fresh, again]) == {N1: {U1}, N3: {U3}}
    assert members_of({N1: U1, N3: U3}, [fresh]) == {N1: {U1}, N3: {U3}}


@pytest.mark.parametrize(
    ("facts", "ahead"),
    [
        ([term_name(4, 9)], False),
        ([term_name(4, 10)], False),
        ([term_name(4, 11)], True),
        ([term_name(5, 0)], True),
        ([departure_name("ns", "vm", Epoch(5, 1))], True),
        ([], False),
        ([term_name(4, 11), term_name(6, 12)], False),  # my own mark of an earlier takeover hides what was there
    ],
)
def test_a_record_ahead_of_the_lease(facts: list[str], ahead: bool) -> None:
    sign = record_ahead(N1, decode_record(facts), (4, 10), 6)
    assert (sign is not None) is ahead
    if sign:
        assert "h1" in sign.sentence


def test_a_note_above_every_epoch_of_the_placement_contradicts_it() -> None:
    key = ("ns", "vm")
    assert note_ahead(N1, key, NEW, COMMITTED) is not None
    assert note_ahead(N1, key, NOW, COMMITTED) is None
    assert note_ahead(N1, key, NOW, RELEASED) is not None
    assert note_ahead(N1, key, OLD, RELEASED) is None
    assert note_ahead(N1, key, NEW, None) is None


def test_a_domain_above_its_placement_means_that_the_host_wins() -> None:
    key = ("ns", "vm")
    sign = domain_ahead(N2, key, NEW, COMMITTED)
    assert sign is not None
    assert "ns/vm" in sign.sentence
    assert domain_ahead(N2, key, NOW, COMMITTED) is None
    assert domain_ahead(N2, key, NOW, RELEASED) is not None
    assert domain_ahead(N2, key, NOW, replace(RELEASED, released_epoch=None)) is not None
    assert domain_ahead(N2, key, NOW, None) is None


def test_a_new_member_waits_until_every_other_record_names_it() -> None:
    records: dict[Member, HostRecord | None] = {M1: record(M1, M2, M3), M2: record(M1, M2), M3: record(M3)}
    assert unknown_to(M3, records) == (N2,)
    records[M2] = None
    assert unknown_to(M3, records) == (N2,)
    records[M2] = record(M1, M2, M3)
    assert unknown_to(M3, records) == ()
