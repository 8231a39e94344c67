"""libvirt networks and bridges over one connection: plain blocking functions. Networks that are not ours are never changed."""

from __future__ import annotations

from typing import Any

import libvirt

from lq_operator.adapters.libvirt.errors import code_of
from lq_operator.adapters.libvirt.xml.build import parse
from lq_operator.adapters.libvirt.xml.network import is_ours, network_xml, read_network, same_network
from lq_operator.core.model import NetworkPlan, NetworkSeen
from lq_operator.core.result import Rejected, Transient


def _read(network: Any) -> NetworkSeen:
    return read_network(network.XMLDesc(0), active=bool(network.isActive()))


def list_networks(conn: Any) -> tuple[NetworkSeen, ...]:
    """Every network of the host, ours or not."""
    for _ in range(3):
        try:
            return tuple(sorted(map(_read, conn.listAllNetworks(0)), key=lambda network: network.name))
        except libvirt.libvirtError as problem:
            if code_of(problem) != libvirt.VIR_ERR_NO_NETWORK:  # one was removed under the listing
                raise
    raise Transient("networks came and went through 3 listings: list again")


def ensure_network(conn: Any, plan: NetworkPlan) -> NetworkSeen:
    """Defined as planned and active. An inactive one of ours is redefined; an active one that differs is Rejected,
    because a restart would cut its guests off."""
    wanted = network_xml(plan)
    try:
        network = conn.networkLookupByName(plan.name)
    except libvirt.libvirtError as problem:
        if code_of(problem) != libvirt.VIR_ERR_NO_NETWORK:
            raise
        network = conn.networkDefineXML(wanted)
    document = network.XMLDesc(0)
    if not same_network(document, plan):
        network = _redefine(conn, network, document, plan)
    if not network.isActive():
        _activate(network)
    if not network.autostart():
        network.setAutostart(1)
    return _read(network)


def _redefine(conn: Any, network: Any, document: str, plan: NetworkPlan) -> Any:
    if not is_ours(document):
        raise Rejected(f"network {plan.name} is on the host already and is not ours: rename one of them", field="name")
    if network.isActive():
        raise Rejected(
            f"network {plan.name} is active with other settings: stop its VMs on this host, then remove it there"
        )
    network.undefine()
    return conn.networkDefineXML(network_xml(plan))


def _activate(network: Any) -> None:
    try:
        network.create()
    except libvirt.libvirtError as problem:
        if code_of(problem) != libvirt.VIR_ERR_OPERATION_INVALID or not network.isActive():
            raise


def remove_network(conn: Any, name: str) -> None:
    """Stop and undefine one of ours. Absent already is success; a foreign one is Rejected."""
    try:
        network = conn.networkLookupByName(name)
        if not is_ours(network.XMLDesc(0)):
            raise Rejected(f"network {name} is not ours and stays: remove it on the host", field="name")
        if network.isActive():
            network.destroy()
        if network.isPersistent():
            network.undefine()
    except libvirt.libvirtError as problem:
        if code_of(problem) != libvirt.VIR_ERR_NO_NETWORK:
            raise


def list_bridges(conn: Any) -> tuple[str, ...]:
    """Bridges of the host, by its interface driver (udev) and its active networks."""
    found = {network.bridge for network in list_networks(conn) if network.active and network.bridge}
    for interface in conn.listAllInterfaces(0):
        try:
            root = parse(interface.XMLDesc(0), "interface")
        except libvirt.libvirtError as problem:
            if code_of(problem) != libvirt.VIR_ERR_NO_INTERFACE:  # taps come and go with guests
                raise
            continue
        if root.get("type") == "bridge":
            found.add(str(root.get("name")))
    return tuple(sorted(found))
