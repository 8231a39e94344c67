"""Which address a VM gets: what one process gives out at once it never asks for twice, two processes step aside, and
nothing is given twice whatever happens."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Sequence
from typing import Any, cast

import pytest
from tests.sim.fakes.clock import FakeClock

from lq_operator.api.base import Resource
from lq_operator.api.network import AddressClaim, VirtualNetwork, claim_name
from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.vm.addresses import RIVALS_S, Addresses
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.model import Identity
from lq_operator.core.result import Conflict, OutcomeUnknown
from lq_operator.ports import Resources, Store

SUBNET, SMALL = "10.0.0.0/24", "10.0.0.0/28"
VMS = 40


class Server:
    """The claims that exist, whoever knows of them. Every request takes its time, some more."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.claims: dict[str, AddressClaim] = {}
        self.refused = 0

    async def hold(self) -> None:
        for _ in range(self.rng.randrange(12)):
            await asyncio.sleep(0)


class Shelf:
    """What one process has seen: its own answers at once, others' writes when the watch likes."""

    def __init__(self) -> None:
        self.claims: dict[str, AddressClaim] = {}
        self.vms: list[VirtualMachine] = []

    def get(self, kind: type[Resource], namespace: str | None, name: str) -> Resource | None:
        return self.claims.get(name)

    def list(self, kind: type[Resource]) -> Sequence[Resource]:
        return list(self.claims.values()) if kind is AddressClaim else list(self.vms)


class Wire:
    """One process's way to the server."""

    def __init__(self, server: Server, shelf: Shelf, lost_answers: float) -> None:
        self.server, self.shelf, self.lost_answers = server, shelf, lost_answers

    async def create(self, claim: AddressClaim) -> AddressClaim:
        await self.server.hold()
        if claim.metadata.name in self.server.claims:
            self.server.refused += 1
            raise Conflict("it exists")
        self.server.claims[claim.metadata.name] = claim
        if self.server.rng.random() < self.lost_answers:
            raise OutcomeUnknown("the answer was lost")
        await self.server.hold()
        self.shelf.claims[claim.metadata.name] = claim
        return claim

    async def get(self, kind: type[Resource], namespace: str | None, name: str) -> Resource | None:
        await self.server.hold()
        found = self.server.claims.get(name)
        if found is not None:
            self.shelf.claims[name] = found
        return found


class Process:
    """An operator that starts VMs with one claimed address each."""

    def __init__(self, server: Server, subnet: str = SUBNET, *, lost_answers: float = 0.0) -> None:
        self.server, self.shelf, self.clock = server, Shelf(), FakeClock()
        spec = {"type": "nat", "subnet": subnet}
        self.network = VirtualNetwork.model_validate({"metadata": {"name": "net", "namespace": "ns"}, "spec": spec})
        wire = Wire(server, self.shelf, lost_answers)
        self.book = Addresses(cast(Store, self.shelf), cast(Resources, wire), self.clock)

    async def start(self, name: str, address: str | None = None, **domains: str) -> AddressClaim | Lack:
        """`domains`: VM -> address, as hosts tell it."""
        machine = vm(name, address)
        in_use = {of: (identity(user), "eth0") for user, of in domains.items()}
        return await self.book.ensure(machine, identity(name), machine.spec.interfaces[0], self.network, in_use)

    async def start_until_claimed(self, name: str) -> str:
        while True:
            try:
                claim = await self.start(name)
            except OutcomeUnknown:
                continue
            assert isinstance(claim, AddressClaim), claim
            return claim.spec.address

    def watch(self) -> None:
        """Everything that happened is seen."""
        self.shelf.claims = dict(self.server.claims)


def identity(name: str) -> Identity:
    return Identity("installation", "ns", name)


def vm(name: str, address: str | None = None) -> VirtualMachine:
    nic: dict[str, Any] = {"name": "eth0", "networkRef": {"name": "net"}, "addressing": "Claim"}
    nic |= {"address": address} if address else {}
    return VirtualMachine.model_validate(
        {"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {"className": "c", "interfaces": [nic]}}
    )


def foreign(server: Server, address: str, of: str = "other") -> None:
    """Claimed by somebody whom no watch has shown yet."""
    spec = {"networkRef": {"name": "net"}, "address": address, "vm": {"name": of, "namespace": "ns"}}
    meta = {"name": claim_name("net", address), "namespace": "ns"}
    server.claims[meta["name"]] = AddressClaim.model_validate({"metadata": meta, "spec": spec})


def lowest(count: int, subnet: str = SUBNET) -> list[str]:
    """The first addresses after the gateway."""
    return [str(ip) for ip in ipaddress.IPv4Network(subnet).hosts()][1 : count + 1]


def owners(server: Server) -> list[str]:
    return sorted(claim.spec.vm.name for claim in server.claims.values() if claim.spec.vm)


@pytest.mark.parametrize("seed", range(10))
async def test_started_at_once_by_one_process_none_is_refused_and_the_lowest_are_given(seed: int) -> None:
    process = Process(Server(seed))
    got = await asyncio.gather(*(process.start_until_claimed(f"vm-{n}") for n in range(VMS)))
    assert sorted(got, key=ipaddress.IPv4Address) == lowest(VMS)
    assert process.server.refused == 0


async def test_a_network_is_filled_to_its_last_address_and_says_when_it_is_full() -> None:
    process = Process(Server(1), SMALL)
    got = await asyncio.gather(*(process.start(f"vm-{n}") for n in range(15)))
    claims = [claim for claim in got if isinstance(claim, AddressClaim)]
    lacks = [lack for lack in got if isinstance(lack, Lack)]
    assert sorted(claim.spec.address for claim in claims) == sorted(lowest(13, SMALL))
    assert [(lack.reason, lack.stalled, lack.again_s is not None) for lack in lacks] == [("NoAddress", False, True)] * 2
    assert "has no free address" in lacks[0].message
    assert process.server.refused == 0


@pytest.mark.parametrize("seed", range(20))
async def test_two_processes_step_aside_after_the_first_refusal(seed: int) -> None:
    """Without stepping aside each address would be asked for by both: a refusal per VM."""
    server = Server(seed)
    processes = [Process(server), Process(server)]

    async def burst(process: Process, which: str) -> None:
        for first in range(0, VMS, 4):
            names = [f"{which}-{n}" for n in range(first, first + 4)]
            await asyncio.gather(*(process.start_until_claimed(name) for name in names))
            process.watch()

    await asyncio.gather(*(burst(process, f"p{n}") for n, process in enumerate(processes)))
    assert owners(server) == sorted(f"p{n}-{i}" for n in range(2) for i in range(VMS))
    assert server.refused <= VMS * 2 * 0.15


@pytest.mark.parametrize("seed", range(20))
async def test_lost_answers_leave_one_claim_per_vm(seed: int) -> None:
    """A create whose answer is lost may have happened: the next try comes upon it and takes it for its own."""
    process = Process(Server(seed), lost_answers=0.3)
    for n in range(VMS):
        await process.start_until_claimed(f"vm-{n}")
    assert owners(process.server) == sorted(f"vm-{n}" for n in range(VMS))


async def test_after_a_quiet_while_the_lowest_is_given_again() -> None:
    process = Process(Server(1))
    foreign(process.server, "10.0.0.2")
    first = await process.start_until_claimed("a")
    assert process.server.refused == 1
    assert await process.start_until_claimed("a") == first
    process.clock.skip(RIVALS_S + 1)
    assert await process.start_until_claimed("b") == "10.0.0.3" != first


async def test_what_a_spec_names_is_left_for_it_while_there_is_another() -> None:
    process = Process(Server(1), SMALL)
    process.shelf.vms = [vm("fixed", "10.0.0.2"), vm("a"), vm("b")]
    assert await process.start_until_claimed("a") == "10.0.0.3"
    assert isinstance(await process.start("fixed", "10.0.0.2"), AddressClaim)
    process.shelf.vms.append(vm("late", "10.0.0.14"))
    got = [await process.start_until_claimed(f"more-{n}") for n in range(11)]
    assert got == lowest(13, SMALL)[2:]
    late = await process.start("late", "10.0.0.14")
    assert isinstance(late, Lack)
    assert (late.reason, late.stalled) == ("AddressTaken", True)
    assert "net-10-0-0-14" in late.message


async def test_a_guest_keeps_the_address_that_its_domain_tells_and_no_other_gets_it() -> None:
    process = Process(Server(1))
    other = await process.start("b", a="10.0.0.2", c="10.0.0.9")
    mine = await process.start("c", a="10.0.0.2", c="10.0.0.9")
    assert isinstance(other, AddressClaim)
    assert isinstance(mine, AddressClaim)
    assert (other.spec.address, mine.spec.address) == ("10.0.0.3", "10.0.0.9")


async def test_told_by_status_its_claim_is_found_there_and_not_another_ones() -> None:
    process = Process(Server(1))
    foreign(process.server, "10.0.0.7", of="a")
    foreign(process.server, "10.0.0.8")
    process.watch()
    for told in ("10.0.0.7/24", "10.0.0.8/24", "10.0.0.99/24", ""):
        machine = vm("a")
        status = {"interfaces": [{"name": "eth0", "mac": "", "claim": told}]}
        machine = VirtualMachine.model_validate(machine.model_dump(by_alias=True) | {"status": status})
        claim = await process.book.ensure(machine, identity("a"), machine.spec.interfaces[0], process.network, {})
        assert isinstance(claim, AddressClaim)
        assert claim.spec.address == "10.0.0.7"
