"""Taking a host over, played against a small host: the order of steps, who wins, who is refused."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from lq_operator.core.failover import takeover as to
from lq_operator.core.failover.record import (
    decode_record,
    departure_name,
    gate_name,
    installation_name,
    term_name,
    ticket_name,
)
from lq_operator.core.model import BootNonce, Epoch, HostUUID, NodeName

NODE = NodeName("h1")
UUID = HostUUID("11111111-1111-1111-1111-111111111111")
OTHER = HostUUID("22222222-2222-2222-2222-222222222222")


@dataclass
class SmallHost:
    """Two pools and nothing else."""

    record: set[str] = field(default_factory=set)
    gates: set[str] = field(default_factory=set)


@dataclass
class Owner:
    """Does what next_step says, one step at a time; `steps` is what it did."""

    host: SmallHost
    seen: to.Seen
    steps: list[str] = field(default_factory=list)
    end: to.Step | None = None

    def step(self) -> bool:
        step = to.next_step(self.seen)
        self.steps.append(type(step).__name__)
        match step:
            case to.ReadRecord(again=again):
                names = tuple(self.host.record)
                self.seen = replace(self.seen, **{"record_after" if again else "record": names})
            case to.CreateGate(name):
                assert name not in self.host.gates, "creation is exclusive"
                self.host.gates.add(name)
                self.seen = replace(self.seen, gate_created=True)
            case to.ListGates():
                self.seen = replace(self.seen, gates=tuple(self.host.gates))
            case to.DeleteGates(names):
                self.host.gates -= set(names)
                self.seen = replace(self.seen, gates=None)
            case to.NoteFacts(names):
                self.host.record |= set(names)
                claimed = any(name.startswith("installation_") for name in names)
                self.seen = replace(self.seen, record_after=None, claimed_here=self.seen.claimed_here or claimed)
            case to.Withdraw(names):
                self.host.record -= set(names)
                self.seen = replace(self.seen, record=None, record_after=None, claimed_here=False)
            case to.ListDomains():
                self.seen = replace(self.seen, domains_listed=True)
            case to.ListGatesAgain():
                self.seen = replace(self.seen, gates_after=tuple(self.host.gates))
            case to.StepDown(_, delete, _):
                self.host.gates -= set(delete)
                self.end = step
            case _:
                self.end = step
        return self.end is None

    def run(self) -> to.Step:
        for _ in range(30):
            if not self.step():
                assert self.end is not None
                return self.end
        raise AssertionError(f"no end: {self.steps}")


def owner(host: SmallHost, term: int, token: str = "aa", **changes: object) -> Owner:
    seen = to.Seen("inst", NODE, UUID, term, 1, gate_name(term, token), {NODE: UUID})
    return Owner(host, replace(seen, **changes))  # type: ignore[arg-type]


def test_a_fresh_host_in_the_lawful_order() -> None:
    host = SmallHost()
    taken = owner(host, 4)
    end = taken.run()
    assert isinstance(end, to.Owned)
    assert taken.steps == [
        "ReadRecord", "CreateGate", "ListGates", "ReadRecord", "NoteFacts", "ReadRecord", "ListDomains",
        "ListGatesAgain", "Owned",
    ]  # fmt: skip
    record = decode_record(host.record)
    assert (record.installations, record.term, record.beat) == ({"inst"}, 4, 1)
    assert [m.node for m in record.members] == [NODE]


def test_a_successor_deletes_lower_gates_and_tickets_before_it_lists() -> None:
    host = SmallHost({installation_name("inst")}, {gate_name(3, "old"), ticket_name(3, "ns", "vm", "tt"), "stranger"})
    taken = owner(host, 4)
    assert isinstance(taken.run(), to.Owned)
    assert host.gates == {"stranger", gate_name(4, "aa")}
    assert taken.steps.index("DeleteGates") < taken.steps.index("ListDomains")
    assert taken.steps.index("NoteFacts") < taken.steps.index("ListDomains")


@pytest.mark.parametrize("foreign", [gate_name(4, "bb"), gate_name(5, "bb")])
def test_a_gate_of_the_same_or_a_higher_term_wins(foreign: str) -> None:
    """Trace 4: two processes of the same term both step down, none passes."""
    host = SmallHost(gates={foreign})
    end = owner(host, 4).run()
    assert isinstance(end, to.StepDown)
    assert end.above_term >= 4
    assert host.gates == {foreign}


def test_two_processes_of_one_term_never_both_own_the_host() -> None:
    """All interleavings of their steps."""
    ends: set[tuple[str, str]] = set()
    for pattern in range(2**14):
        host = SmallHost()
        pair = [owner(host, 4, "aa"), owner(host, 4, "bb")]
        for bit in range(14):
            who = pair[pattern >> bit & 1]
            if who.end is None:
                who.step()
        outcome = tuple(type(who.run() if who.end is None else who.end).__name__ for who in pair)
        ends.add(outcome)  # type: ignore[arg-type]
    assert ("Owned", "Owned") not in ends
    assert ("StepDown", "StepDown") in ends


@pytest.mark.parametrize("fact", [term_name(6, 1), departure_name("ns", "vm", Epoch(6, 1))])
def test_a_higher_term_in_the_record_deposes(fact: str) -> None:
    end = owner(SmallHost({fact}), 4).run()
    assert isinstance(end, to.StepDown)
    assert end.above_term == 6
    assert end.delete == ()


def test_a_successor_that_came_between_record_and_gate_is_seen() -> None:
    """It noted its term and lost its gate to a reboot, all before my gate was made."""
    host = SmallHost()
    late = owner(host, 4)
    late.step()
    host.record.add(term_name(5, 1))
    end = late.run()
    assert isinstance(end, to.StepDown)
    assert end.above_term == 5
    assert host.gates == set()


def test_a_reboot_in_between_voids_everything() -> None:
    for lost_after in range(2, 9):
        host = SmallHost()
        taken = owner(host, 4)
        for _ in range(lost_after):
            taken.step()
        host.gates.clear()
        end = taken.run() if taken.end is None else taken.end
        listed_gates_before_reboot = "ListGatesAgain" in taken.steps[:lost_after]
        assert isinstance(end, to.Owned if listed_gates_before_reboot else to.Lost), (lost_after, taken.steps)


def test_my_own_former_gate_of_this_term_goes() -> None:
    former = gate_name(4, "before", 1)
    host = SmallHost(gates={former})
    assert isinstance(owner(host, 4, former_gates=frozenset({former})).run(), to.Owned)
    assert former not in host.gates


def test_another_installation_keeps_its_host() -> None:
    host = SmallHost({installation_name("theirs")})
    end = owner(host, 4).run()
    assert isinstance(end, to.RefuseHost)
    assert end.reason is to.ClaimReason.FOREIGN_INSTALLATION
    assert "installation.id" in end.sentence
    assert "delete its HypervisorNode" in end.sentence
    assert host.gates == set()


def test_two_installations_at_once_both_withdraw() -> None:
    host = SmallHost()
    mine = owner(host, 4)
    while mine.steps[-1:] != ["NoteFacts"]:
        mine.step()
    host.record.add(installation_name("theirs"))
    end = mine.run()
    assert isinstance(end, to.RefuseHost)
    assert "Withdraw" in mine.steps
    assert decode_record(host.record).installations == {"theirs"}


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({NODE: OTHER}, to.ClaimReason.OTHER_HOST),
        ({NODE: None, NodeName("h2"): UUID}, to.ClaimReason.DUPLICATE_HOST),
        ({NodeName("h2"): UUID}, to.ClaimReason.DUPLICATE_HOST),
    ],
)
def test_hosts_that_are_not_who_they_should_be_are_not_touched(
    known: dict[NodeName, HostUUID | None], reason: to.ClaimReason
) -> None:
    host = SmallHost()
    end = owner(host, 4, known=known).run()
    assert isinstance(end, to.RefuseHost)
    assert end.reason is reason
    assert (host.record, host.gates) == (set(), set())


def test_a_first_registration_knows_no_uuid_yet() -> None:
    assert isinstance(owner(SmallHost(), 4, known={NODE: None}).run(), to.Owned)


def test_check_after_listing() -> None:
    gate = BootNonce(gate_name(4, "aa"))
    assert to.check_after_listing(NODE, gate, (gate, "other")) is None
    assert isinstance(to.check_after_listing(NODE, gate, ("other",)), to.Lost)
