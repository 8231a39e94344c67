"""The wires: an outer network namespace with a management and a data bridge, and one veth pair out of it.

Nothing of a lab can reach the machine's own network: hosts are wired to bridges inside the namespace, forwarding is
off in it, and the only way out is a /30 of the link-local range, so that a plain kubectl reaches the API server.
"""

import ipaddress
import json
from contextlib import suppress
from pathlib import Path

from lq_operator.lab.errors import CommandFailedError, LabError
from lq_operator.lab.locks import exclusive
from lq_operator.lab.names import CONTROLLER_IP, LabNames
from lq_operator.lab.shell import run

MANAGEMENT_BRIDGE = "br-mgmt"
DATA_BRIDGE = "br-data"
_ACCESS_POOL = ipaddress.IPv4Network("169.254.78.0/24")
"""64 labs side by side; link-local (RFC 3927) so that no routed network of the machine is shadowed."""


class Fabric:
    """The outer network namespace of one lab."""

    def __init__(self, names: LabNames) -> None:
        self.names = names

    @property
    def enter_argv(self) -> list[str]:
        """Prefix that runs a program inside the fabric. Not `ip netns exec`: that remounts /sys and hides cgroups."""
        return ["nsenter", f"--net=/run/netns/{self.names.netns}", "--"]

    def exists(self) -> bool:
        """Whether the namespace is there."""
        return Path("/run/netns", self.names.netns).exists()

    def _ip(self, *arguments: str, check: bool = True) -> str:
        return run(["ip", "-n", self.names.netns, *arguments], check=check).stdout

    def _has(self, link: str) -> bool:
        return run(["ip", "-n", self.names.netns, "link", "show", link], check=False).returncode == 0

    def create(self) -> str:
        """Make what is missing; returns the address of the fabric as the machine's own namespace sees it."""
        if not self.exists():
            run(["ip", "netns", "add", self.names.netns])
        self._ip("link", "set", "lo", "up")
        run([*self.enter_argv, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"])
        for bridge in (MANAGEMENT_BRIDGE, DATA_BRIDGE):
            if not self._has(bridge):
                self._ip("link", "add", bridge, "type", "bridge")
            self._ip("link", "set", bridge, "up")
        self._ip("addr", "replace", f"{CONTROLLER_IP}/24", "dev", MANAGEMENT_BRIDGE)
        return self._ensure_access()

    def _ensure_access(self) -> str:
        with exclusive("addresses", timeout_s=60):
            existing = self.access_address()
            if existing is not None:
                return existing
            run(["ip", "link", "del", self.names.access_link], check=False)
            network = _free_access_network()
            outside, inside = list(network.hosts())
            link = self.names.access_link
            run(["ip", "link", "add", link, "type", "veth", "peer", "name", "access", "netns", self.names.netns])
            run(["ip", "link", "set", link, "alias", self.names.netns, "up"])
            self._ip("link", "set", "access", "up")
            self._ip("addr", "add", f"{inside}/30", "dev", "access")
            run(["ip", "addr", "add", f"{outside}/30", "dev", link])
            return str(inside)

    def access_address(self) -> str | None:
        """The fabric's address seen from the machine's own namespace, or None when the pair is not complete."""
        if not self.exists() or not self._has("access"):
            return None
        outside = _addresses(run(["ip", "-j", "-4", "addr", "show", self.names.access_link], check=False).stdout)
        inside = _addresses(self._ip("-j", "-4", "addr", "show", "access", check=False))
        return str(inside[0]) if outside and inside else None

    def wire_host(self, index: int, pid: int) -> None:
        """Give the host's namespace eth0 (management) and eth1 (data).

        The addresses are fixed: with random ones a rebooted host is unreachable for 30-70 s, by stale neighbour entries.
        """
        self.unwire_host(index)
        for kind, bridge, peer, octet in (("m", MANAGEMENT_BRIDGE, "eth0", 0), ("d", DATA_BRIDGE, "eth1", 1)):
            wire = f"{kind}{index}"
            mac = f"02:78:{octet:02x}:00:00:{index:02x}"
            self._ip("link", "add", wire, "type", "veth", "peer", "name", peer, "address", mac, "netns", str(pid))
            self._ip("link", "set", wire, "master", bridge, "up")

    def unwire_host(self, index: int) -> None:
        """Pull both cables out for good."""
        for kind in "md":
            self._ip("link", "del", f"{kind}{index}", check=False)

    def forget_neighbour(self, address: str) -> None:
        """Drop the ARP entry of a host that lost power, or connects to it take up to 71 s to fail."""
        self._ip("neigh", "del", address, "dev", MANAGEMENT_BRIDGE, check=False)

    def partition(self, index: int, *, data: bool = False) -> None:
        """Take the host's cable off the bridge (management, and on request the data network)."""
        for wire in self._cut(index, data=data):
            self._ip("link", "set", wire, "nomaster")

    def heal(self, index: int) -> None:
        """Put both cables back."""
        self._ip("link", "set", f"m{index}", "master", MANAGEMENT_BRIDGE)
        self._ip("link", "set", f"d{index}", "master", DATA_BRIDGE)

    @staticmethod
    def _cut(index: int, *, data: bool) -> list[str]:
        return [f"m{index}", f"d{index}"] if data else [f"m{index}"]

    def is_partitioned(self, index: int) -> bool:
        """Whether the management cable is off the bridge."""
        said = self._ip("-j", "link", "show", f"m{index}", check=False)
        return bool(said) and "master" not in json.loads(said)[0]

    def wait_port(self, address: str, port: int, timeout_s: float = 60) -> None:
        """Return when something accepts TCP connections there, asked from inside the fabric."""
        probe = (
            f"for k in $(seq 5000); do timeout 1 bash -c 'exec 3<>/dev/tcp/{address}/{port}' 2>/dev/null && exit 0; "
            "sleep .03; done; exit 1"
        )
        try:
            run([*self.enter_argv, "bash", "-c", probe], timeout_s=timeout_s)
        except CommandFailedError as error:
            raise LabError(f"nothing accepted connections on {address}:{port} within {timeout_s:g} s") from error

    def remove(self) -> None:
        """Delete the access link and the namespace; whatever is missing already is fine."""
        run(["ip", "link", "del", self.names.access_link], check=False)
        if self.exists():
            run(["ip", "netns", "del", self.names.netns])


def _addresses(ip_json: str) -> list[ipaddress.IPv4Address]:
    if not ip_json.strip():
        return []
    found = []
    for link in json.loads(ip_json):
        for info in link.get("addr_info", ()):
            with suppress(ValueError):
                found.append(ipaddress.IPv4Address(info["local"]))
    return found


def _free_access_network() -> ipaddress.IPv4Network:
    taken = _addresses(run(["ip", "-j", "-4", "addr"]).stdout)
    for network in _ACCESS_POOL.subnets(new_prefix=30):
        if not any(address in network for address in taken):
            return network
    raise LabError(f"every /30 of {_ACCESS_POOL} is in use; stop a lab (`lq-operator lab down --name ...`)")
