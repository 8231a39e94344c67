"""VirtualMachine -> DomainPlan: everything resolved, nothing looked up. Also what of a spec needs a power cycle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmstatus import HardwareStatus, SlotStatus
from lq_operator.convert.record import spec_record
from lq_operator.core.model import CdromPlan, DiskPlan, DomainPlan, Epoch, HardwareAbi, Identity, NicPlan
from lq_operator.core.units import parse_bytes, parse_mib


@dataclass(frozen=True, slots=True)
class Size:
    """vCPUs and memory that hold for a VM: inline, or copied from its class when it was created."""

    cpu: int
    memory_mib: int
    class_name: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedDisk:
    """A disk whose Volume is ready on the host."""

    name: str
    path: str
    format: str


@dataclass(frozen=True, slots=True)
class ResolvedCdrom:
    """A drive and the file that lies in it, '' for nothing. `waits`: why the wished medium cannot be put in yet."""

    name: str
    path: str = ""
    format: str = "raw"
    waits: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedNic:
    """A NIC whose network is ready on the host: libvirt network or bridge."""

    name: str
    mac: str
    network: str = ""
    bridge: str = ""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class HostSide:
    """What the host and the cluster contribute to a definition."""

    gate_path: str
    accel: str
    arch: str
    cpu_model: str
    machine: str
    seed_path: str = ""
    console_log_path: str = ""
    nvram_path: str = ""


_DECISIONS = {
    "placement", "availability", "migration", "power_state", "restart_policy", "heartbeat", "shutdown", "class_name", "description",
}  # fmt: skip


def spec_hash(vm: VirtualMachine, size: Size) -> str:
    """Twelve hex digits over everything that a domain definition is made of; wishes about placement are left out."""
    relevant = vm.spec.model_dump(
        mode="json",
        by_alias=True,
        exclude=_DECISIONS,
    )
    if not vm.spec.cdroms:  # the hashes of guests that were started before there were drives stay what they are
        del relevant["cdroms"]
    text = json.dumps([relevant, size.cpu, size.memory_mib], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def domain_plan(
    vm: VirtualMachine,
    *,
    identity: Identity,
    epoch: Epoch,
    size: Size,
    host: HostSide,
    disks: tuple[ResolvedDisk, ...],
    nics: tuple[ResolvedNic, ...],
    cdroms: tuple[ResolvedCdrom, ...] = (),
    addresses: tuple[tuple[str, str], ...] = (),
) -> DomainPlan:
    """The definition of this VM for one start on one host. `addresses`: (interface, claimed address)."""
    spec = vm.spec
    abi = _abi(vm)
    cpu = spec.cpu
    cpu_mode, cpu_model = _cpu(abi.cpu_model or host.cpu_model)
    return DomainPlan(
        identity=identity,
        uid=vm.metadata.uid,
        epoch=epoch,
        spec_hash=spec_hash(vm, size),
        gate_path=host.gate_path,
        vcpus=size.cpu,
        memory_mib=size.memory_mib,
        vcpus_max=(cpu.max_count or 0) if cpu else 0,
        memory_max_mib=parse_mib(spec.memory.max_size) if spec.memory and spec.memory.max_size else 0,
        sockets=(cpu.sockets or 0) if cpu else 0,
        cores=(cpu.cores or 0) if cpu else 0,
        threads=(cpu.threads or 0) if cpu else 0,
        arch=host.arch,
        machine=abi.machine or spec.machine or host.machine,
        accel=host.accel,
        cpu_mode=cpu_mode,
        cpu_model=cpu_model,
        cpu_features=abi.cpu_features,
        cpu_shares=(cpu.shares or 0) if cpu else 0,
        cpu_quota_percent=(cpu.limit_percent or 0) if cpu else 0,
        firmware=spec.firmware,
        nvram_path=host.nvram_path,
        disks=_disks(vm, disks, abi),
        cdroms=_cdroms(vm, cdroms, abi),
        nics=_nics(vm, nics, abi),
        seed_path=host.seed_path,
        console_log_path=host.console_log_path if spec.console_log else "",
        guest_agent=spec.guest_agent,
        vnc=spec.vnc,
        tpm=spec.tpm,
        watchdog=spec.watchdog or "",
        addresses=addresses,
        record=spec_record(vm),
        hardware=abi,
    )


def _abi(vm: VirtualMachine) -> HardwareAbi:
    """What the guest saw first; a CPU model that the spec names since then is another CPU, and recorded anew."""
    abi = hardware_abi(vm.status.hardware)
    return replace(abi, cpu_model="", cpu_features=()) if _other_cpu(vm, abi) else abi


def _other_cpu(vm: VirtualMachine, known: HardwareAbi) -> bool:
    """The spec names a CPU model, and not the one that was recorded."""
    wish = vm.spec.cpu.model if vm.spec.cpu else None
    return bool(wish and known.cpu_model and wish != known.cpu_model)


def _cpu(model: str) -> tuple[str, str]:
    if model in ("host-passthrough", "maximum", "host-model"):
        return model, ""
    return "custom", model


def _disks(vm: VirtualMachine, resolved: tuple[ResolvedDisk, ...], abi: HardwareAbi) -> tuple[DiskPlan, ...]:
    by_name = {disk.name: disk for disk in resolved}
    implied = _implied_order(vm)
    slots, targets = dict(abi.slots), dict(abi.targets)
    plans = []
    for index, disk in enumerate(vm.spec.disks):
        where = by_name[disk.name]
        plans.append(
            DiskPlan(
                name=disk.name,
                path=where.path,
                format=where.format,
                bus=disk.bus,
                read_only=disk.read_only,
                cache=disk.cache,
                iops=(disk.limits.iops or 0) if disk.limits else 0,
                bytes_per_second=parse_bytes(disk.limits.bandwidth) if disk.limits and disk.limits.bandwidth else 0,
                boot_order=disk.boot_order or (implied if index == 0 else 0),
                serial=disk.name[:20],
                slot=slots.get(f"disk/{disk.name}", ""),
                target=targets.get(f"disk/{disk.name}", ""),
            )
        )
    return tuple(plans)


def _implied_order(vm: VirtualMachine) -> int:
    """Of the first disk where no disk has one: the first free number, so that an installer's CD comes before it."""
    if any(disk.boot_order for disk in vm.spec.disks):
        return 0
    taken = {drive.boot_order for drive in vm.spec.cdroms} | {nic.boot_order for nic in vm.spec.interfaces}
    return next(number for number in range(1, 65) if number not in taken)


def _cdroms(vm: VirtualMachine, resolved: tuple[ResolvedCdrom, ...], abi: HardwareAbi) -> tuple[CdromPlan, ...]:
    by_name, targets = {drive.name: drive for drive in resolved}, dict(abi.targets)
    plans = []
    for drive in vm.spec.cdroms:
        medium = by_name[drive.name]
        plans.append(
            CdromPlan(
                name=drive.name,
                path=medium.path,
                format=medium.format,
                bus=drive.bus,
                boot_order=drive.boot_order or 0,
                target=targets.get(f"cdrom/{drive.name}", ""),
                force_eject=drive.force_eject,
                waits=medium.waits,
            )
        )
    return tuple(plans)


def _nics(vm: VirtualMachine, resolved: tuple[ResolvedNic, ...], abi: HardwareAbi) -> tuple[NicPlan, ...]:
    by_name = {nic.name: nic for nic in resolved}
    slots = dict(abi.slots)
    plans = []
    for interface in vm.spec.interfaces:
        where = by_name[interface.name]
        plans.append(
            NicPlan(
                name=interface.name,
                mac=where.mac,
                network=where.network,
                bridge=where.bridge,
                mtu=where.mtu,
                model=interface.model,
                boot_order=interface.boot_order or 0,
                link_up=interface.link_state == "Up",
                slot=slots.get(f"nic/{interface.name}", ""),
            )
        )
    return tuple(plans)


def hardware_abi(status: HardwareStatus) -> HardwareAbi:
    """status.hardware as the core speaks of it."""
    return HardwareAbi(
        machine=status.machine,
        cpu_model=status.cpu_model,
        cpu_features=tuple(status.cpu_features),
        slots=tuple((slot.device, slot.address) for slot in status.slots),
        targets=tuple((target.device, target.address) for target in status.targets),
    )


def merged_abi(known: HardwareAbi, seen: HardwareAbi, vm: VirtualMachine) -> HardwareAbi:
    """What the guest saw before, and where it sees what is new. A disk, drive or NIC that spec does not name any more is
    forgotten: its place is free for others."""
    named = {f"disk/{disk.name}" for disk in vm.spec.disks} | {f"nic/{nic.name}" for nic in vm.spec.interfaces}
    named |= {f"cdrom/{drive.name}" for drive in vm.spec.cdroms}

    def merge(before: tuple[tuple[str, str], ...], now: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        places = dict(before) | {device: place for device, place in now if device not in dict(before)}
        return tuple(
            (device, place)
            for device, place in places.items()
            if device in named or not device.startswith(("disk/", "nic/", "cdrom/"))
        )

    known = replace(known, cpu_model="") if _other_cpu(vm, known) else known
    return HardwareAbi(
        machine=known.machine or seen.machine,
        cpu_model=known.cpu_model or seen.cpu_model,
        cpu_features=known.cpu_features if known.cpu_model else seen.cpu_features,
        slots=merge(known.slots, seen.slots),
        targets=merge(known.targets, seen.targets),
    )


def hardware_status(abi: HardwareAbi) -> HardwareStatus:
    """The inverse of hardware_abi."""
    return HardwareStatus(
        machine=abi.machine,
        cpu_model=abi.cpu_model,
        cpu_features=list(abi.cpu_features),
        slots=[SlotStatus(device=device, address=address) for device, address in abi.slots],
        targets=[SlotStatus(device=device, address=address) for device, address in abi.targets],
    )
