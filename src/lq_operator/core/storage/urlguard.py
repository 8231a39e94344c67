"""Which URLs and which addresses the importer may read from. Pure.

Users choose URLs, and the importer stands in the operator's network: without this guard everyone who may create an
Image could read internal services and a cloud's metadata through it. Judged is the address that is connected to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit

from lq_operator.core.result import Rejected

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

FIELD = "spec.source.url"
MOST_REDIRECTS = 10

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address behind a translator
_REFUSED: tuple[tuple[Network, str], ...] = (
    (ipaddress.ip_network("168.63.129.16/32"), "a cloud's metadata service"),  # Azure's, in public space
    (ipaddress.ip_network("100.64.0.0/10"), "shared (carrier) space"),
    (ipaddress.ip_network("192.88.99.0/24"), "a 6to4 relay"),
    (ipaddress.ip_network("::/96"), "an IPv4-compatible address"),
    (ipaddress.ip_network("64:ff9b:1::/48"), "private NAT64 space"),
    (ipaddress.ip_network("2001::/23"), "IETF protocol space (Teredo, ORCHID)"),
    (ipaddress.ip_network("2002::/16"), "6to4 space"),
    (ipaddress.ip_network("3fff::/20"), "documentation space"),
    (ipaddress.ip_network("5f00::/16"), "segment-routing space"),
    (ipaddress.ip_network("fec0::/10"), "site-local"),
)
"""Besides what Python's ipaddress calls not global (the IANA special-purpose registries): older releases lack some."""


def address_refusal(text: str, allowed: Iterable[Network]) -> str | None:
    """Why an address may not be connected to; None when it may. An IPv4 address inside an IPv6 one counts as itself."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return f"{text!r} is no IP address"
    networks = tuple(allowed)
    if any(address in network for network in networks if network.version == address.version):
        return None
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner_ipv4(address)
        if inner is not None:
            return address_refusal(str(inner), networks)
    what = _kind(address)
    return None if what is None else f"{address} is {what}"


def _inner_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _kind(address: Address) -> str | None:
    for flag, what in (
        (address.is_unspecified, "unspecified"),
        (address.is_loopback, "loopback"),
        (address.is_link_local, "link-local"),
        (address.is_multicast, "multicast"),
    ):
        if flag:
            return what
    for network, what in _REFUSED:
        if network.version == address.version and address in network:
            return what
    if address.is_private:
        return "private"
    if address.is_reserved or not address.is_global:
        return "reserved"
    return None


def check_http(url: str, *, redirected: bool = False) -> SplitResult:
    """An http(s) URL without credentials; Rejected otherwise. `redirected`: it came from a server, not from the user."""
    who = f"{FIELD}: a redirect leads to" if redirected else f"{FIELD}:"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Rejected(f"{who} something that is no URL ({error})", field=FIELD) from None
    if parts.scheme not in ("http", "https"):
        raise Rejected(f"{who} scheme {parts.scheme or '(none)'!r}; only http and https are read", field=FIELD)
    if not parts.hostname:
        raise Rejected(f"{who} a URL without a host", field=FIELD)
    if parts.username is not None or parts.password is not None:
        message = f"{who} a URL with user or password; URLs are readable by everyone who sees the Image: remove them"
        raise Rejected(message, field=FIELD)
    if port == 0:
        raise Rejected(f"{who} port 0", field=FIELD)
    return parts


def file_path(url: str, directories: Sequence[str]) -> str:
    """Absolute path of a file:// URL, by its words below one of the directories. Rejected otherwise.

    The words are not enough: whoever opens it must resolve links and ask `below` again about what it opened.
    """
    if not directories:
        message = (
            f"{FIELD}: file:// is for administrators: the importer has no fileUrlDirectories; use http:// or https://"
        )
        raise Rejected(message, field=FIELD)
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or "\0" in path:
        raise Rejected(f"{FIELD}: write file:///DIRECTORY/FILE without host, query or fragment", field=FIELD)
    if not below(path, directories):
        raise not_below(directories)
    return path


def below(path: str, directories: Sequence[str]) -> bool:
    """Is the path strictly below one of the directories, without '..'?"""
    pure = PurePosixPath(path)
    return (
        pure.is_absolute()
        and ".." not in pure.parts
        and any(PurePosixPath(folder) in pure.parents for folder in directories)
    )


def not_below(directories: Sequence[str]) -> Rejected:
    """The same words for what does not exist and what is elsewhere: nobody learns what lies outside."""
    return Rejected(f"{FIELD}: no readable file there below {', '.join(directories)} (fileUrlDirectories)", field=FIELD)


def shown(parts: SplitResult) -> str:
    """Scheme, host and port, for messages: paths and queries of signed URLs are secrets."""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
