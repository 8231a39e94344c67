"""Addresses that may be claimed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lq_operator.core.network.ipam import Subnet

NET = Subnet("10.0.0.0/29", "", ("10.0.0.4", "10.0.0.5"))


def test_gateway_range_and_edges_are_not_given_out() -> None:
    free = []
    while (address := NET.first_free(set(free))) is not None:
        free.append(address)
    assert free == ["10.0.0.2", "10.0.0.3", "10.0.0.6"]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.0.1.2", "not in the subnet"),
        ("10.0.0.0", "network or broadcast"),
        ("10.0.0.7", "network or broadcast"),
        ("10.0.0.1", "gateway"),
        ("10.0.0.4", "DHCP range"),
        ("10.0.0.2", ""),
    ],
)
def test_why_not(address: str, why: str) -> None:
    said = NET.why_not(address)
    assert why in said
    assert bool(said) == bool(why)


def test_the_search_may_begin_anywhere_and_goes_round() -> None:
    assert [NET.first_free(set(), begin=begin) for begin in range(6)] == [
        "10.0.0.2",
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.6",
        "10.0.0.6",
        "10.0.0.6",
    ]
    assert NET.first_free({"10.0.0.6"}, begin=5) == "10.0.0.2"
    assert NET.first_free({"10.0.0.2", "10.0.0.3", "10.0.0.6"}, begin=5) is None


@given(st.integers(16, 30), st.integers(0, 2**16), st.sets(st.integers(1, 12)), st.integers(0, 2**64))
def test_what_is_free_may_be_claimed(prefix: int, base: int, taken: set[int], begin: int) -> None:
    network = ipaddress.IPv4Network((0x0A000000 + base * 256, prefix), strict=False)
    subnet = Subnet(str(network))
    used = {str(network.network_address + n) for n in taken}
    found = subnet.first_free(used, begin=begin)
    assert (found is None) == (subnet.first_free(used) is None)
    if found is not None:
        assert subnet.why_not(found) == ""
        assert found not in used
