"""Looks at hosts that nobody manages yet: what they are and what runs there. Read-only connections, read calls only.

For `lq-operator check`. Needs nothing of ours on the host or on this machine: the URI is the person's own, with the
credentials that `virsh -c URI` would use. Unknown stays unknown: a host that does not answer is an error, never empty.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import libvirt
from lxml import etree

from lq_operator.adapters.libvirt.endpoint import PORTS
from lq_operator.adapters.libvirt.errors import text_of
from lq_operator.adapters.libvirt.xml.build import Element, parse, size_bytes, whole
from lq_operator.adapters.libvirt.xml.capabilities import HostNumbers, read_inventory
from lq_operator.core.lifecycle.baseline import PREFERRED
from lq_operator.core.model import HostInventory
from lq_operator.core.result import Rejected, Transient, WorldError

PROBE_S = 3.0
"""For the TCP connect, which the kernel alone would try for two minutes."""
HOST_S = 60.0
"""For everything that is asked of one host."""

NETWORKED_POOLS = frozenset({"netfs", "gluster", "rbd", "iscsi", "iscsi-direct", "sheepdog", "vstorage"})
"""Pool types whose content does not lie on the host. A `dir` pool may be a shared mount; libvirt cannot tell."""


@dataclass(frozen=True, slots=True)
class SurveyedPool:
    """An active storage pool. `source` is equal on two hosts that mount the same thing, '' for storage of the host."""

    name: str
    kind: str
    path: str
    source: str


@dataclass(frozen=True, slots=True)
class SurveyedDomain:
    """A domain that has a QEMU now. disks: paths on the host; passthrough: devices of the host that it holds."""

    name: str
    vcpus: int
    memory_mib: int
    hugepage_kib: int
    cpu_mode: str
    cpu_model: str
    disks: tuple[str, ...]
    networks: tuple[str, ...]
    passthrough: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostSurvey:
    """One host. `off`: domains that are defined and have no QEMU. cpu_xml: its CPU."""

    uri: str
    inventory: HostInventory
    domains: tuple[SurveyedDomain, ...]
    off: int
    networks: frozenset[str]
    pools: tuple[SurveyedPool, ...]
    cpu_xml: str


@dataclass(frozen=True, slots=True)
class CommonCpu:
    """What libvirt calls the best CPU that all hosts can give. lost: host URI -> features that its guests give up."""

    model: str
    lost: dict[str, tuple[str, ...]]


def survey(uris: Sequence[str], timeout_s: float = HOST_S) -> tuple[list[HostSurvey], dict[str, str], CommonCpu | None]:
    """(hosts that answered in the order given, URI -> why not, CPU baseline). All hosts are asked at once."""
    found: dict[str, tuple[Any, HostSurvey]] = {}
    down: dict[str, str] = {}

    def one(uri: str) -> None:
        try:
            conn = _open(uri)
            found[uri] = conn, _look(conn, uri)
        except libvirt.libvirtError as error:
            down[uri] = " ".join(text_of(error).split())[:400]
        except WorldError as error:
            down[uri] = str(error)

    threads = [threading.Thread(target=one, args=(uri,), daemon=True) for uri in uris]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
    answered = [uri for uri in uris if uri in found]
    for uri in uris:
        if uri not in found:
            down.setdefault(uri, f"did not answer within {timeout_s:g} s: the host is overloaded or hangs")
    hosts = [found[uri][1] for uri in answered]
    try:
        return hosts, {uri: down[uri] for uri in uris if uri in down}, _common_cpu([found[uri] for uri in answered])
    finally:
        for conn, _ in found.values():
            with contextlib.suppress(libvirt.libvirtError):
                conn.close()


def _open(uri: str) -> Any:
    parts = urlsplit(uri)
    transport = parts.scheme.partition("+")[2]
    if not parts.scheme.startswith("qemu"):
        raise Rejected(f"{uri}: is no URI of QEMU hosts; write qemu+tls://HOST/system or qemu+ssh://HOST/system")
    if transport in PORTS and parts.hostname:
        where = f"{parts.hostname} port {parts.port or PORTS[transport]}"
        try:
            socket.create_connection((parts.hostname, parts.port or PORTS[transport]), timeout=PROBE_S).close()
        except OSError as error:
            raise Transient(
                f"{where} cannot be reached ({error}): is the host up, and does libvirtd listen?"
            ) from error
    return libvirt.openReadOnly(uri)


def _look(conn: Any, uri: str) -> HostSurvey:
    capabilities = conn.getCapabilities()
    inventory = _inventory(conn, capabilities)
    active = [read_domain(domain.XMLDesc(0)) for domain in _active(conn)]
    pools = [
        read_pool(pool.XMLDesc(0)) for pool in conn.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
    ]
    networks = {
        f"network {network.name()}" for network in conn.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
    }
    return HostSurvey(
        uri=uri,
        inventory=inventory,
        domains=tuple(sorted(active, key=lambda domain: domain.name)),
        off=len(conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE)),
        networks=frozenset(networks | _bridges(conn)),
        pools=tuple(pools),
        cpu_xml=host_cpu(capabilities),
    )


def _inventory(conn: Any, capabilities: str) -> HostInventory:
    """Without the domain capabilities, which a read-only connection is refused (they make libvirt run a program).

    Models are compared with the host's CPU instead; under emulation nearly every model works, so none is named.
    """
    info = conn.getInfo()
    numbers = HostNumbers(
        hostname=conn.getHostname(),
        libvirt_version=conn.getLibVersion(),
        hypervisor_name=conn.getType(),
        hypervisor_version=conn.getVersion(),
        memory_mib=int(info[1]),
        cpus=int(info[2]),
    )
    inventory = read_inventory(capabilities, "<domainCapabilities/>", numbers)
    if inventory.accel != "kvm":
        return inventory
    return replace(inventory, usable_cpu_models=tuple(m for m in PREFERRED if _runs(conn, inventory.arch, m)))


def _runs(conn: Any, arch: str, model: str) -> bool:
    try:
        answer = conn.compareCPU(f"<cpu><arch>{arch}</arch><model>{model}</model></cpu>", 0)
    except libvirt.libvirtError:
        return False  # a model of another architecture, or one that this libvirt does not know
    return answer in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET)


def _active(conn: Any) -> list[Any]:
    return list(conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE))


def _bridges(conn: Any) -> set[str]:
    """Bridges of the host, by its network interfaces' sysfs entries as libvirt lists them."""
    found = set()
    with contextlib.suppress(libvirt.libvirtError):  # no interface driver: then bridges are compared by use only
        found |= {f"bridge {one.name()}" for one in conn.listAllInterfaces(libvirt.VIR_CONNECT_LIST_INTERFACES_ACTIVE)}
    return found


def host_cpu(capabilities: str) -> str:
    """The host's CPU in the form that baselineCPU takes; '' where libvirt does not know it."""
    found = parse(capabilities, "capabilities").find("host/cpu")
    return "" if found is None or not found.findtext("model") else etree.tostring(found, encoding="unicode")


def _common_cpu(hosts: list[tuple[Any, HostSurvey]]) -> CommonCpu | None:
    """Asked of the first host: libvirt knows the features behind model names, we do not."""
    described = [(conn, host) for conn, host in hosts if host.cpu_xml]
    if not described or len(described) < len(hosts):
        return None
    conn = described[0][0]
    try:
        common = _expanded(conn, [host.cpu_xml for _, host in described])
        lost = {}
        for _, host in described:
            own = _expanded(conn, [host.cpu_xml])
            lost[host.uri] = tuple(sorted(own[1] - common[1]))
    except libvirt.libvirtError:
        return None  # different vendors or architectures: there is no common CPU
    return CommonCpu(common[0], lost)


def _expanded(conn: Any, cpus: list[str]) -> tuple[str, frozenset[str]]:
    root = parse(conn.baselineCPU(cpus, libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES), "CPU baseline")
    names = {str(f.get("name")) for f in root.findall("feature") if f.get("policy") != "disable"}
    return root.findtext("model") or "", frozenset(names)


# ---------------------------------------------------------------- XML


def read_domain(document: str) -> SurveyedDomain:
    """A live domain definition. Memory is what the guest may use without hotplug; CD-ROMs and floppies do not count."""
    root = parse(document, "domain")
    vcpu = root.find("vcpu")
    cpu = root.find("cpu")
    page = root.find("memoryBacking/hugepages/page")
    hugepages = root.find("memoryBacking/hugepages") is not None
    return SurveyedDomain(
        name=root.findtext("name") or "",
        vcpus=whole(vcpu.get("current") or vcpu.text) if vcpu is not None else 1,
        memory_mib=max(1, -(-size_bytes(root.find("memory"), "kib") // 1024**2)),
        hugepage_kib=_page_kib(page) if hugepages else 0,
        cpu_mode=cpu.get("mode") or "" if cpu is not None else "",
        cpu_model=(cpu.findtext("model") or "").strip() if cpu is not None else "",
        disks=tuple(path for disk in root.findall("devices/disk") if (path := _disk_path(disk))),
        networks=tuple(sorted({name for nic in root.findall("devices/interface") if (name := _network(nic))})),
        passthrough=tuple(_passthrough(root)),
    )


_PAGE_KIB = {"k": 1, "kib": 1, "m": 1024, "mib": 1024, "g": 1024**2, "gib": 1024**2}


def _page_kib(page: Element | None) -> int:
    """Size of its hugepages; x86's default where none is named."""
    if page is None:
        return 2048
    return whole(page.get("size")) * _PAGE_KIB.get((page.get("unit") or "KiB").lower(), 1)


def _disk_path(disk: Element) -> str:
    source = disk.find("source")
    if disk.get("device", "disk") not in ("disk", "lun") or source is None or disk.get("type") == "network":
        return ""
    if disk.get("type") == "volume":
        return f"pool {source.get('pool')}/{source.get('volume')}"
    return source.get("file") or source.get("dev") or source.get("dir") or ""


def _network(nic: Element) -> str:
    source = nic.find("source")
    if source is None:
        return ""
    if nic.get("type") == "network":
        return f"network {source.get('network')}"
    if nic.get("type") == "bridge":
        return f"bridge {source.get('bridge')}"
    return f"device {source.get('dev')}" if nic.get("type") == "direct" else ""


def _passthrough(root: Element) -> list[str]:
    found = []
    for device in root.findall("devices/hostdev"):
        address = device.find("source/address")
        named = " ".join(str(value) for value in address.attrib.values()) if address is not None else ""
        found.append(f"{device.get('type') or device.get('mode') or 'device'} {named}".strip())
    return found


def read_pool(document: str) -> SurveyedPool:
    """A storage pool; its source is made of everything that names what is mounted."""
    root = parse(document, "pool")
    kind = root.get("type") or ""
    source = root.find("source")
    parts: list[str] = []
    if kind in NETWORKED_POOLS and source is not None:
        for element in source.iter():
            parts += [f"{key}={value}" for key, value in sorted(element.attrib.items())]
            if element.text and element.text.strip():
                parts.append(element.text.strip())
    return SurveyedPool(root.findtext("name") or "", kind, root.findtext("target/path") or "", " ".join(parts))
