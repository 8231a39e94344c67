"""Which address of a network is free. Claims come from the subnet outside the DHCP range."""

from __future__ import annotations

import ipaddress
from collections.abc import Set
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subnet:
    """Addresses of one network. `dhcp` is (first, last) of what a DHCP server gives out, or None."""

    cidr: str
    gateway: str = ""
    dhcp: tuple[str, str] | None = None

    @property
    def prefix(self) -> int:
        """Length of the network prefix in bits."""
        return ipaddress.IPv4Network(self.cidr, strict=False).prefixlen

    def effective_gateway(self) -> str:
        """The gateway, by default the first address."""
        return self.gateway or str(next(ipaddress.IPv4Network(self.cidr, strict=False).hosts()))

    def why_not(self, address: str) -> str:
        """'' when the address may be claimed, else a sentence."""
        ip = ipaddress.IPv4Address(address)
        network = ipaddress.IPv4Network(self.cidr, strict=False)
        if ip not in network:
            return f"{address} is not in the subnet {self.cidr}"
        if ip in (network.network_address, network.broadcast_address):
            return f"{address} is the network or broadcast address of {self.cidr}"
        if address == self.effective_gateway():
            return f"{address} is the gateway of {self.cidr}"
        if self._in_dhcp(ip):
            return f"{address} is in the DHCP range {'-'.join(self.dhcp or ())}; choose one outside it"
        return ""

    def _in_dhcp(self, ip: ipaddress.IPv4Address) -> bool:
        if self.dhcp is None:
            return False
        first, last = self.dhcp
        return ipaddress.IPv4Address(first) <= ip <= ipaddress.IPv4Address(last)

    def first_free(self, taken: Set[str], *, begin: int = 0) -> str | None:
        """An address that may be claimed and is not taken: the lowest, or, going round, the first from place `begin`.

        `begin` may be any number: it is taken modulo the size of the subnet, so a hash serves.
        """
        network = ipaddress.IPv4Network(self.cidr, strict=False)
        first, count = int(network.network_address) + 1, network.num_addresses - 2
        gateway = int(ipaddress.IPv4Address(self.effective_gateway()))
        low, high = (int(ipaddress.IPv4Address(end)) for end in self.dhcp) if self.dhcp else (0, -1)
        for place in range(begin, begin + count):
            number = first + place % count
            if number == gateway or low <= number <= high:
                continue
            address = str(ipaddress.IPv4Address(number))
            if address not in taken:
                return address
        return None
