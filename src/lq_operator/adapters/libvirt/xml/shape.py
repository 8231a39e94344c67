"""Live domain XML -> GuestShape: what a guest is made of now, by its host."""

from __future__ import annotations

import json

from lq_operator.adapters.libvirt.xml.build import Element, parse, size_bytes, whole
from lq_operator.adapters.libvirt.xml.devices import AGENT_CHANNEL, key_of
from lq_operator.adapters.libvirt.xml.domain import CPU_PERIOD_US, LQ_DOMAIN
from lq_operator.core.lifecycle.shape import CdromShape, DiskShape, GuestShape, NicShape

_MIB = 1024 * 1024


def read_shape(document: str) -> GuestShape:
    """Of a running domain. Devices that are not ours (no alias of ours) are left out."""
    root = parse(document, "domain")
    vcpus_max = whole(root.findtext("vcpu"))
    vcpus = whole(root.find("vcpu").get("current"), vcpus_max)
    topology = root.find("cpu/topology")
    plugs = root.findall("devices/memory[@model='virtio-mem']/target")
    memory_mib = _mib(root.find("memory"))
    quota_us = whole(root.findtext("cputune/quota"))
    period_us = whole(root.findtext("cputune/period"), CPU_PERIOD_US)
    return GuestShape(
        vcpus=vcpus,
        memory_mib=_mib(root.find("currentMemory")) or memory_mib,
        vcpus_max=vcpus_max,
        cores=whole(topology.get("cores")) if topology is not None else 0,
        threads=whole(topology.get("threads")) if topology is not None else 0,
        boot_memory_mib=memory_mib - sum(_mib(plug.find("size")) for plug in plugs),
        added_memory_mib=sum(_mib(plug.find("requested")) for plug in plugs),
        memory_max_mib=memory_mib,
        cpu_shares=whole(root.findtext("cputune/shares")),
        cpu_quota_percent=max(0, quota_us) * 100 // max(1, period_us),
        tpm=root.find("devices/tpm") is not None,
        watchdog=_attribute(
            root, "devices/watchdog[@model='i6300esb']", "action"
        ),  # later libvirts add one to each q35
        vnc=root.find("devices/graphics[@type='vnc']") is not None,
        guest_agent=root.find(f"devices/channel/target[@name='{AGENT_CHANNEL}']") is not None,
        # Guests of an earlier version have a serial port that is nothing but its log.
        console_log=root.find("devices/serial/log") is not None
        or root.find("devices/serial[@type='file']") is not None,
        disks=tuple(sorted(_disks(root), key=lambda disk: disk.name)),
        cdroms=tuple(sorted(_cdroms(root), key=lambda drive: drive.name)),
        nics=tuple(sorted(_nics(root), key=lambda nic: nic.name)),
        record=_record(_attribute(root, f"metadata/{{{LQ_DOMAIN}}}vm", "record")),
    )


def _mib(element: Element | None) -> int:
    return size_bytes(element, "k") // _MIB


def _attribute(parent: Element, where: str, name: str) -> str:
    found = parent.find(where)
    return "" if found is None else str(found.get(name) or "")


def _record(text: str) -> tuple[tuple[str, str], ...]:
    """What is no object of texts was edited by somebody, and says nothing."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return ()
    return tuple(sorted((str(k), str(v)) for k, v in found.items())) if isinstance(found, dict) else ()


def _ours(root: Element, tag: str, kind: str) -> list[tuple[str, Element]]:
    """(name, element) of the devices whose alias is ours."""
    found = []
    for device in root.findall(f"devices/{tag}"):
        which, _, name = key_of(_attribute(device, "alias", "name")).partition("/")
        if which == kind and name:
            found.append((name, device))
    return found


def _disks(root: Element) -> list[DiskShape]:
    return [
        DiskShape(
            name=name,
            path=_attribute(disk, "source", "file") or _attribute(disk, "source", "dev"),
            bus=_attribute(disk, "target", "bus"),
            cache=_attribute(disk, "driver", "cache") or "none",
            read_only=disk.find("readonly") is not None,
            boot_order=whole(_attribute(disk, "boot", "order")),
            iops=whole(disk.findtext("iotune/total_iops_sec")),
            bytes_per_second=whole(disk.findtext("iotune/total_bytes_sec")),
        )
        for name, disk in _ours(root, "disk", "disk")
    ]


def _cdroms(root: Element) -> list[CdromShape]:
    return [
        CdromShape(
            name=name,
            path=_attribute(drive, "source", "file") or _attribute(drive, "source", "dev"),
            bus=_attribute(drive, "target", "bus"),
            boot_order=whole(_attribute(drive, "boot", "order")),
        )
        for name, drive in _ours(root, "disk", "cdrom")
    ]


def _nics(root: Element) -> list[NicShape]:
    return [
        NicShape(
            name=name,
            mac=_attribute(nic, "mac", "address"),
            network=_attribute(nic, "source", "network"),
            bridge=_attribute(nic, "source", "bridge") if nic.get("type") == "bridge" else "",
            model=_attribute(nic, "model", "type"),
            boot_order=whole(_attribute(nic, "boot", "order")),
            mtu=whole(_attribute(nic, "mtu", "size")),
            link_up=_attribute(nic, "link", "state") != "down",
        )
        for name, nic in _ours(root, "interface", "nic")
    ]
