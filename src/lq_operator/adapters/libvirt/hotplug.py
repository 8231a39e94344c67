"""Changes of a running guest over one connection: plain blocking functions. The definition follows the guest.

Each looks first and does nothing where it is as wished already, so that all may be repeated. A device that the guest has
not let go when the patience is over is simply still there: whoever asked looks again.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import libvirt
from lxml import etree

from lq_operator.adapters.libvirt.errors import code_of, text_of
from lq_operator.adapters.libvirt.xml.build import Element, parse, size_bytes
from lq_operator.adapters.libvirt.xml.devices import MEMORY_KEY, alias_of
from lq_operator.adapters.libvirt.xml.domain import CPU_PERIOD_US, LQ_DOMAIN, domain_xml
from lq_operator.adapters.libvirt.xml.shape import read_shape
from lq_operator.core.lifecycle.shape import MEMORY_BLOCK_MIB, GuestShape
from lq_operator.core.model import DiskPlan, DomainPlan
from lq_operator.core.result import Conflict, NotFound, Rejected

UNPLUG_PATIENCE_S = 10.0
"""Linux lets a PCI device go in under a second on an idle machine; a guest that is booting does not answer at all."""
_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
_KIB_PER_MIB = 1024


def observe_shape(conn: Any, domain_name: str) -> GuestShape:
    """Of the running guest. Conflict when it does not run."""
    return read_shape(_running(conn, domain_name).XMLDesc(0))


def _running(conn: Any, domain_name: str) -> Any:
    dom = conn.lookupByName(domain_name)
    if not dom.isActive():
        raise Conflict(f"{domain_name} does not run")
    return dom


def _sides(dom: Any) -> Iterator[tuple[int, Element]]:
    """(flag, XML) of the guest and of its definition, each as it is when its turn comes."""
    yield _LIVE, parse(dom.XMLDesc(0), "domain")
    if dom.isPersistent():
        yield _CONFIG, parse(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), "domain")


def _by_alias(root: Element, alias: str) -> Element | None:
    return root.find(f"devices/*/alias[@name='{alias}']/..")


def _text(element: Element) -> str:
    return str(etree.tostring(element, encoding="unicode"))


# ---------------------------------------------------------------- size


def set_vcpus(conn: Any, domain_name: str, count: int) -> None:
    """Plug in. Never fewer: unplugging hangs on the guest, and libvirt 9 loses track of a vCPU that goes late (measured)."""
    dom = _running(conn, domain_name)
    for flag, root in _sides(dom):
        vcpu = root.find("vcpu")
        now = int(vcpu.get("current") or vcpu.text)
        if flag == _LIVE and count < now:
            raise Rejected(f"{domain_name} has {now} vCPUs: {count} only with its next start", field="cpu")
        if count != now:
            dom.setVcpusFlags(count, flag)


def set_memory(conn: Any, domain_name: str, size_mib: int) -> None:
    """By balloon up to what it was started with, above that by its virtio-mem device. Returns once the guest was asked."""
    dom = _running(conn, domain_name)
    for flag, root in _sides(dom):
        device = _by_alias(root, alias_of(MEMORY_KEY))
        total = size_bytes(root.find("memory"), "k") // 1024**2
        room = size_bytes(device.find("target/size"), "k") // 1024**2 if device is not None else 0
        boot = total - room
        added = max(0, size_mib - boot) // MEMORY_BLOCK_MIB * MEMORY_BLOCK_MIB
        if added > room:
            raise Rejected(f"{domain_name}: {size_mib} MiB are more than the {total} it has room for", field="memory")
        if device is not None and size_bytes(device.find("target/requested"), "k") // 1024**2 != added:
            _request(dom, device, added, flag)
        dom.setMemoryFlags(min(size_mib, boot) * _KIB_PER_MIB, flag)


def _request(dom: Any, device: Element, added_mib: int, flag: int) -> None:
    wished = copy.deepcopy(device)
    requested = wished.find("target/requested")
    requested.text, unit = str(added_mib), "MiB"
    requested.set("unit", unit)
    current = wished.find("target/current")
    if current is not None:
        wished.find("target").remove(current)
    dom.updateDeviceFlags(_text(wished), flag)


def set_cpu_tuning(conn: Any, domain_name: str, shares: int, quota_percent: int) -> None:
    """Weight (0: as it is) and quota of each vCPU (0: none). Rejected on a host without the cgroup controller."""
    dom = _running(conn, domain_name)
    wanted: dict[str, int] = {"vcpu_period": CPU_PERIOD_US}
    wanted["vcpu_quota"] = CPU_PERIOD_US * quota_percent // 100 if quota_percent else -1
    if shares:
        wanted["cpu_shares"] = shares
    try:
        for flag, _ in _sides(dom):
            dom.setSchedulerParametersFlags(wanted, flag)
    except libvirt.libvirtError as problem:
        if code_of(problem) != libvirt.VIR_ERR_OPERATION_INVALID or "cgroup" not in text_of(problem):
            raise
        raise Rejected(
            f"{text_of(problem)}: the host limits no CPU time; enable the cgroup controller cpu there", field="cpu"
        ) from problem


# ---------------------------------------------------------------- disks


def _planned(plan: DomainPlan, key: str) -> tuple[Element, Element]:
    """(the whole planned domain, the planned device)."""
    root = parse(domain_xml(plan), "plan")
    device = _by_alias(root, alias_of(key))
    if device is None:
        raise Rejected(f"{plan.identity.key}: the plan has no {key}", field=key)
    return root, device


def attach_disk(conn: Any, plan: DomainPlan, disk: str) -> None:
    """Plug in the planned disk, with its controller where it is the first on scsi."""
    key = f"disk/{disk}"
    planned, device = _planned(plan, key)
    dom = _running(conn, plan.identity.domain_name)
    for flag, root in _sides(dom):
        there = _by_alias(root, alias_of(key))
        if there is not None:
            if _source(there) != _source(device):
                raise Conflict(f"{plan.identity.key}: another file is attached as {disk}: take it out first")
            continue
        on_scsi = device.find("target[@bus='scsi']") is not None
        if on_scsi and root.find("devices/controller[@type='scsi']") is None:
            dom.attachDeviceFlags(_text(planned.find("devices/controller[@type='scsi']")), flag)
        dom.attachDeviceFlags(_text(device), flag)


def _source(disk: Element) -> str:
    source = disk.find("source")
    return "" if source is None else str(source.get("file") or source.get("dev") or "")


def _target(root: Element, disk: str, domain_name: str) -> str:
    device = _by_alias(root, alias_of(f"disk/{disk}"))
    if device is None:
        raise NotFound(f"{domain_name} has no disk {disk}")
    return str(device.find("target").get("dev"))


def set_disk_limits(conn: Any, plan: DomainPlan, disk: str) -> None:
    """Operations and bytes a second, both directions together; 0 takes a limit away."""
    name = plan.identity.domain_name
    wished = _disk_of(plan, disk)
    dom = _running(conn, name)
    limits = {"total_bytes_sec": wished.bytes_per_second, "total_iops_sec": wished.iops}
    for flag, root in _sides(dom):
        dom.setBlockIoTune(_target(root, disk, name), limits, flag)


def _disk_of(plan: DomainPlan, disk: str) -> DiskPlan:
    found = next((one for one in plan.disks if one.name == disk), None)
    if found is None:
        raise Rejected(f"{plan.identity.key}: the plan has no disk {disk}", field="disks")
    return found


def grow_disk(conn: Any, domain_name: str, disk: str, capacity_bytes: int) -> None:
    """QEMU grows the file that it has open, and the guest sees it at once. Large enough already is success."""
    dom = _running(conn, domain_name)
    target = _target(parse(dom.XMLDesc(0), "domain"), disk, domain_name)
    if int(dom.blockInfo(target)[0]) < capacity_bytes:
        dom.blockResize(target, capacity_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)


def set_medium(conn: Any, plan: DomainPlan, drive: str, force: bool) -> None:
    """Put in, take out or exchange what lies in a CD-ROM drive. Rejected while the guest has the tray locked.

    QEMU asks such a guest to let go first (as the button of a drive does), so that one that listens opens the tray itself
    and a repetition succeeds. `force` opens it whatever the guest does.
    """
    key, name = f"cdrom/{drive}", plan.identity.domain_name
    _, planned = _planned(plan, key)
    dom = _running(conn, name)
    for flag, root in _sides(dom):
        device = _by_alias(root, alias_of(key))
        if device is None:
            raise NotFound(f"{name} has no CD-ROM drive {drive}")
        if _source(device) == _source(planned):
            continue
        flags = flag | libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE if force and flag == _LIVE else flag
        try:
            dom.updateDeviceFlags(_text(_with_medium(device, planned)), flags)
        except libvirt.libvirtError as problem:
            if "tray" not in text_of(problem) and "is locked" not in text_of(problem):
                raise
            raise Rejected(
                f"{text_of(problem)}: the guest has locked the tray, mostly because the medium is mounted; unmount it "
                f"there, or set spec.cdroms[{drive}].forceEject",
                field=f"spec.cdroms[{drive}].medium",
            ) from problem


def _with_medium(device: Element, planned: Element) -> Element:
    """The drive as it is, with the planned file in it: libvirt takes no other difference from a running guest."""
    wished = copy.deepcopy(device)
    for tag in ("source", "backingStore"):
        for old in wished.findall(tag):
            wished.remove(old)
    wished.set("type", str(planned.get("type")))
    wished.find("driver").set("type", str(planned.find("driver").get("type")))
    wished.find("target").attrib.pop("tray", None)
    source = planned.find("source")
    if source is not None:
        wished.insert(1, copy.deepcopy(source))
    return wished


# ---------------------------------------------------------------- network interfaces


def attach_nic(conn: Any, plan: DomainPlan, nic: str) -> None:
    """Plug in the planned interface."""
    key = f"nic/{nic}"
    _, device = _planned(plan, key)
    dom = _running(conn, plan.identity.domain_name)
    for flag, root in _sides(dom):
        if _by_alias(root, alias_of(key)) is None:
            dom.attachDeviceFlags(_text(device), flag)


def update_nic(conn: Any, plan: DomainPlan, nic: str) -> None:
    """Another network and another state of the link; the guest keeps the device."""
    key = f"nic/{nic}"
    _, planned = _planned(plan, key)
    dom = _running(conn, plan.identity.domain_name)
    for flag, root in _sides(dom):
        device = _by_alias(root, alias_of(key))
        if device is None:
            raise NotFound(f"{plan.identity.key} has no interface {nic}")
        for tag in ("source", "link"):
            old = device.find(tag)
            if old is not None:
                device.remove(old)
            device.append(copy.deepcopy(planned.find(tag)))
        dom.updateDeviceFlags(_text(device), flag)


# ---------------------------------------------------------------- both


def detach(conn: Any, domain_name: str, key: str) -> None:
    """Ask the guest to let go of 'disk/NAME' or 'nic/NAME' and wait a while; the definition follows once it has."""
    dom, alias = _running(conn, domain_name), alias_of(key)
    end_s = time.monotonic() + UNPLUG_PATIENCE_S
    if _by_alias(parse(dom.XMLDesc(0), "domain"), alias) is not None:
        _ask_to_let_go(dom, alias)
    while _by_alias(parse(dom.XMLDesc(0), "domain"), alias) is not None:
        if time.monotonic() > end_s:
            return
        time.sleep(0.1)
    if not dom.isPersistent():
        return
    if _by_alias(parse(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), "domain"), alias) is not None:
        dom.detachDeviceAlias(alias, _CONFIG)


def _ask_to_let_go(dom: Any, alias: str) -> None:
    try:
        dom.detachDeviceAlias(alias, _LIVE)
    except libvirt.libvirtError as problem:
        # QEMU says so while the guest still thinks about the first request.
        if "already in the process of unplug" not in text_of(problem):
            raise


def set_marks(conn: Any, domain_name: str, spec_hash: str, record: tuple[tuple[str, str], ...]) -> None:
    """What the running guest is made of, for whoever looks next. Who owns it and under which epoch stays as it is."""
    dom = _running(conn, domain_name)
    for flag, root in _sides(dom):
        mark = root.find(f"metadata/{{{LQ_DOMAIN}}}vm")
        if mark is None:
            raise Rejected(f"{domain_name} is not ours")
        bare = etree.Element("vm", {str(key): str(value) for key, value in mark.attrib.items()})
        bare.set("specHash", spec_hash)
        bare.set("record", json.dumps(dict(record), separators=(",", ":"), sort_keys=True))
        # libvirt declares the namespace itself, and refuses an element that has it already.
        dom.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, _text(bare), "lq", LQ_DOMAIN, flag)
