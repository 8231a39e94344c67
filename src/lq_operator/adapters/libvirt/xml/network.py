"""libvirt networks: definition (marked as ours), what a host says, and whether two say the same."""

from __future__ import annotations

import ipaddress

from lxml import etree

from lq_operator.adapters.libvirt.xml.build import Element, dump, file_name, node, parse
from lq_operator.core.model import NetworkPlan, NetworkSeen
from lq_operator.core.result import Rejected

LQ_NETWORK = "https://limiquantix.io/network/1"


def network_xml(plan: NetworkPlan) -> str:
    """Definition of a nat, isolated or bridge network. Rejected where the plan contradicts itself."""
    root = node(None, "network")
    node(root, "name", file_name(plan.name, "network.name"))
    etree.SubElement(node(root, "metadata"), f"{{{LQ_NETWORK}}}network", nsmap={"lq": LQ_NETWORK})
    if plan.mode == "bridge":
        if not plan.bridge_name:
            raise Rejected(f"network {plan.name}: mode bridge needs the name of a bridge", field="bridge_name")
        node(root, "forward", mode="bridge")
        node(root, "bridge", name=plan.bridge_name)
        return dump(root)
    if plan.mode not in ("nat", "isolated"):
        raise Rejected(f"network {plan.name}: mode {plan.mode!r} is not nat, isolated or bridge", field="mode")
    if plan.mode == "nat":
        node(root, "forward", mode="nat")
    if plan.mtu:
        node(root, "mtu", size=str(plan.mtu))
    if plan.domain:
        node(root, "domain", name=plan.domain, localOnly="yes")
    if plan.gateway:
        _addressing(root, plan)
    return dump(root)


def _addressing(root: Element, plan: NetworkPlan) -> None:
    try:
        subnet = ipaddress.ip_interface(f"{plan.gateway}/{plan.prefix}").network
        ends = [ipaddress.ip_address(end) for end in (plan.dhcp_start, plan.dhcp_end) if end]
    except ValueError as problem:
        raise Rejected(f"network {plan.name}: {problem}", field="gateway") from problem
    for end in ends:
        if end not in subnet:
            raise Rejected(f"network {plan.name}: {end} is not in {subnet}", field="dhcp_start")
    family = "ipv6" if subnet.version == 6 else None
    ip = node(root, "ip", family=family, address=plan.gateway, prefix=str(plan.prefix))
    if plan.dhcp_start and plan.dhcp_end:
        node(node(ip, "dhcp"), "range", start=plan.dhcp_start, end=plan.dhcp_end)


def read_network(document: str, *, active: bool) -> NetworkSeen:
    """The bridge is '' while libvirt has not chosen one."""
    root = parse(document, "network")
    bridge = root.find("bridge")
    return NetworkSeen(
        name=root.findtext("name") or "",
        active=active,
        bridge=(bridge.get("name") or "") if bridge is not None else "",
    )


def is_ours(document: str) -> bool:
    """True for a network that this project defined."""
    return parse(document, "network").find(f"metadata/{{{LQ_NETWORK}}}network") is not None


def same_network(document: str, plan: NetworkPlan) -> bool:
    """True when the definition on the host says what the plan says (what libvirt adds by itself is left out)."""
    return _gist(parse(document, "network")) == _gist(parse(network_xml(plan), "network"))


def _gist(root: Element) -> tuple[object, ...]:
    def get(where: str, name: str) -> str:
        found = root.find(where)
        return (found.get(name) or "") if found is not None else ""

    mode = get("forward", "mode")
    ips = tuple(
        (
            ip.get("address"),
            _prefix(ip),
            tuple((r.get("start"), r.get("end")) for r in ip.findall("dhcp/range")),
        )
        for ip in root.findall("ip")
    )
    bridge = get("bridge", "name") if mode == "bridge" else ""
    return mode, bridge, get("mtu", "size"), get("domain", "name"), ips


def _prefix(ip: Element) -> str:
    if ip.get("prefix"):
        return str(ip.get("prefix"))
    if ip.get("netmask"):
        return str(ipaddress.ip_network(f"0.0.0.0/{ip.get('netmask')}").prefixlen)
    return ""
