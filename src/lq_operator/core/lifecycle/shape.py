"""What a guest is made of, as far as a spec can change it: of what runs (read from its host) and of what is wished.

Both sides have the same form, so that what is pending is their difference and nothing has to be remembered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lq_operator.core.model import CdromPlan, DiskPlan, DomainPlan, NicPlan

MEMORY_BLOCK_MIB = 2
"""Granularity of virtio-mem: the size of a huge page."""


@dataclass(frozen=True, slots=True)
class DiskShape:
    """One disk. Limits: 0 = none. `boot_order` 0 = not bootable."""

    name: str
    path: str
    bus: str = "virtio"
    cache: str = "none"
    read_only: bool = False
    boot_order: int = 0
    iops: int = 0
    bytes_per_second: int = 0


@dataclass(frozen=True, slots=True)
class CdromShape:
    """One CD-ROM drive; `path` '' = nothing lies in it. `force` and `waits` belong to what is wished (CdromPlan)."""

    name: str
    path: str = ""
    bus: str = "sata"
    boot_order: int = 0
    force: bool = False
    waits: str = ""


@dataclass(frozen=True, slots=True)
class NicShape:
    """One network interface, on a libvirt network or on a bridge."""

    name: str
    mac: str
    network: str = ""
    bridge: str = ""
    model: str = "virtio"
    boot_order: int = 0
    mtu: int = 0
    link_up: bool = True


@dataclass(frozen=True, slots=True)
class GuestShape:
    """A guest. Memory in MiB.

    `boot_memory_mib`: what it was started with; a balloon works below that. `added_memory_mib`: asked of virtio-mem on
    top. `record`: what the domain's devices do not tell (seed, wishes), as spec path -> value; a path that is not there
    is not known.
    """

    vcpus: int
    memory_mib: int
    vcpus_max: int = 0
    cores: int = 0
    threads: int = 0
    boot_memory_mib: int = 0
    added_memory_mib: int = 0
    memory_max_mib: int = 0
    cpu_shares: int = 0
    cpu_quota_percent: int = 0
    tpm: bool = False
    watchdog: str = ""
    vnc: bool = False
    guest_agent: bool = False
    console_log: bool = False
    disks: tuple[DiskShape, ...] = ()
    cdroms: tuple[CdromShape, ...] = ()
    nics: tuple[NicShape, ...] = ()
    record: tuple[tuple[str, str], ...] = ()


def memory_headroom_mib(size_mib: int, max_mib: int) -> int:
    """What virtio-mem can add to a guest that is started with `size_mib`: whole blocks, 0 where nothing."""
    return max(0, max_mib - size_mib) // MEMORY_BLOCK_MIB * MEMORY_BLOCK_MIB


def disk_shape(disk: DiskPlan) -> DiskShape:
    """A disk as it is wished."""
    return DiskShape(
        disk.name, disk.path, disk.bus, disk.cache, disk.read_only, disk.boot_order, disk.iops, disk.bytes_per_second
    )


def cdrom_shape(drive: CdromPlan) -> CdromShape:
    """A drive as it is wished."""
    return CdromShape(drive.name, drive.path, drive.bus, drive.boot_order, drive.force_eject, drive.waits)


def nic_shape(nic: NicPlan) -> NicShape:
    """A NIC as it is wished."""
    return NicShape(nic.name, nic.mac, nic.network, nic.bridge, nic.model, nic.boot_order, nic.mtu, nic.link_up)


def shape_of(plan: DomainPlan) -> GuestShape:
    """The guest right after a start with this plan."""
    headroom = memory_headroom_mib(plan.memory_mib, plan.memory_max_mib)
    return GuestShape(
        vcpus=plan.vcpus,
        memory_mib=plan.memory_mib,
        vcpus_max=max(plan.vcpus, plan.vcpus_max),
        cores=plan.cores,
        threads=plan.threads,
        boot_memory_mib=plan.memory_mib,
        memory_max_mib=plan.memory_mib + headroom,
        cpu_shares=plan.cpu_shares,
        cpu_quota_percent=plan.cpu_quota_percent,
        tpm=plan.tpm,
        watchdog=plan.watchdog,
        vnc=plan.vnc,
        guest_agent=plan.guest_agent,
        console_log=bool(plan.console_log_path),
        disks=tuple(sorted((disk_shape(disk) for disk in plan.disks), key=lambda disk: disk.name)),
        cdroms=tuple(sorted((cdrom_shape(drive) for drive in plan.cdroms), key=lambda drive: drive.name)),
        nics=tuple(sorted((nic_shape(nic) for nic in plan.nics), key=lambda nic: nic.name)),
        record=plan.record,
    )


def without_disk(shape: GuestShape, name: str) -> GuestShape:
    """The same guest less one disk."""
    return replace(shape, disks=tuple(disk for disk in shape.disks if disk.name != name))
