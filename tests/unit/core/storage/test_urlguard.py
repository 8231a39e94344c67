"""Which addresses and URLs may be read."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lq_operator.core.result import Rejected
from lq_operator.core.storage.urlguard import address_refusal, below, check_http, file_path, shown

PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::200e", "64:ff9b::808:808"]
INTERNAL = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
    "168.63.129.16", "169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1",
    "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250",
    "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::a00:1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2001:2::1",
    "2002:7f00:1::", "2002:a00:1::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0",
    "fec0::1", "ff02::1", "ff0e::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_read(address: str) -> None:
    assert address_refusal(address, ()) is None


@pytest.mark.parametrize("address", INTERNAL)
def test_internal_ones_may_not(address: str) -> None:
    refusal = address_refusal(address, ())
    assert refusal
    assert " is " in refusal


@pytest.mark.parametrize("text", ["", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "1.2.3.4 "])
def test_odd_spellings_are_no_addresses(text: str) -> None:
    assert "no IP address" in (address_refusal(text, ()) or "")


@pytest.mark.parametrize(
    ("address", "network", "may"),
    [
        ("10.78.0.1", "10.78.0.0/24", True),
        ("10.78.1.1", "10.78.0.0/24", False),
        ("::ffff:10.78.0.1", "10.78.0.0/24", True),
        ("64:ff9b::a4e:1", "10.78.0.0/24", True),
        ("fd12::1", "fd12::/64", True),
        ("fd13::1", "fd12::/64", False),
        ("127.0.0.1", "127.0.0.0/8", True),
        ("169.254.169.254", "10.0.0.0/8", False),
        ("10.0.0.1", "::/0", False),
        ("fe80::1%eth0", "fe80::/10", True),
    ],
)
def test_what_the_administrator_allows(address: str, network: str, may: bool) -> None:
    assert (address_refusal(address, [ipaddress.ip_network(network)]) is None) is may


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_ipv6_dress(address: ipaddress.IPv4Address) -> None:
    plain = address_refusal(str(address), ())
    assert address_refusal(f"::ffff:{address}", ()) == plain
    assert address_refusal(str(ipaddress.IPv6Address((0x64FF9B << 96) | int(address))), ()) == plain
    assert address_refusal(f"::{address}", ()) is not None


@given(st.ip_addresses())
def test_nothing_private_passes(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address_refusal(str(address), ()) is None:
        assert not any((address.is_private, address.is_loopback, address.is_link_local, address.is_multicast))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/x", "only http and https"),
        ("gopher://example.com/x", "only http and https"),
        ("//example.com/x", "scheme '\\(none\\)'"),
        ("http:///x", "without a host"),
        ("http://user@example.com/x", "user or password"),
        ("http://user:pw@example.com/x", "user or password"),
        ("http://@example.com/x", "user or password"),
        ("http://example.com:0/x", "port 0"),
        ("http://example.com:99999/x", "no URL"),
        ("http://[::1/x", "no URL"),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(Rejected, match=words) as refusal:
        check_http(url)
    assert refusal.value.field == "spec.source.url"
    assert "pw" not in str(refusal.value)


def test_a_redirect_says_that_it_is_one() -> None:
    with pytest.raises(Rejected, match="a redirect leads to scheme 'file'"):
        check_http("file:///etc/passwd", redirected=True)


def test_paths_and_queries_are_not_shown() -> None:
    assert (
        shown(check_http("https://bucket.example.com:8443/a/b?signature=secret#x")) == "https://bucket.example.com:8443"
    )
    assert shown(check_http("http://[2606:4700::1]/x")) == "http://[2606:4700::1]"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///srv/images/a.qcow2", "/srv/images/a.qcow2"),
        ("file://localhost/srv/images/sub/a.qcow2", "/srv/images/sub/a.qcow2"),
        ("file:///srv/images/a%20b.qcow2", "/srv/images/a b.qcow2"),
    ],
)
def test_files_below_the_directories(url: str, path: str) -> None:
    assert file_path(url, ["/srv/images"]) == path


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "file:///srv/images",
        "file:///srv/images-other/a",
        "file:///srv/images/../secret",
        "file:///srv/images/%2e%2e/secret",
        "file:///srv/images/sub/../../secret",
        "file://host/srv/images/a",
        "file:///srv/images/a?x",
        "file:///srv/images/a#x",
        "file:///srv/images/a%00",
        "file:srv/images/a",
    ],
)
def test_files_elsewhere(url: str) -> None:
    with pytest.raises(Rejected, match=r"spec\.source\.url"):
        file_path(url, ["/srv/images"])


def test_without_directories_every_file_is_refused() -> None:
    with pytest.raises(Rejected, match="for administrators"):
        file_path("file:///srv/images/a", [])


@given(st.lists(st.sampled_from(["srv", "images", "..", ".", "", "etc", "a"]), max_size=8))
def test_below_means_below(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    if below(path, ["/srv/images"]):
        assert ".." not in parts
        assert [part for part in parts if part not in ("", ".")][:2] == ["srv", "images"]
