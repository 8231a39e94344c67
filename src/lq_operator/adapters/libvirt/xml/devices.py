"""The <devices> of a DomainPlan, with stable aliases, targets and PCI addresses.

Keys of HardwareAbi.slots that are written and read here: 'disk/NAME', 'cdrom/NAME', 'nic/NAME', 'controller/INDEX' (PCIe root
ports), 'controller/INDEX/MODEL' (other PCI controllers), 'seed', 'memory', 'usb', 'scsi', 'serial', 'balloon', 'rng',
'watchdog', 'video'. Disks on scsi and sata get their place from the target name, so they have no slot.
"""

from __future__ import annotations

import re
import string

from lq_operator.adapters.libvirt.xml.build import Element, node, path
from lq_operator.core.lifecycle.shape import MEMORY_BLOCK_MIB, memory_headroom_mib
from lq_operator.core.model import CdromPlan, DiskPlan, DomainPlan, NicPlan
from lq_operator.core.result import Rejected

SEED_KEY = "seed"
MEMORY_KEY = "memory"
SEED_TARGET = "vdz"  # behind every disk that is added later
AGENT_CHANNEL = "org.qemu.guest_agent.0"

_SLOT = re.compile(r"^([0-9a-f]{4}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$")
_MAC = re.compile(r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$")
_SERIAL = re.compile(r"^[A-Za-z0-9_.+-]{0,20}$")  # 20: all that virtio-blk carries; libvirt's own character set
_PREFIX = {"virtio": "vd", "scsi": "sd", "sata": "sd"}


def alias_of(key: str) -> str:
    """'disk/root' -> 'ua-disk-root'. libvirt keeps user aliases; '.' of a name becomes '_', which no name has."""
    return "ua-" + key.replace("/", "-", 1).replace(".", "_")


def key_of(alias: str) -> str:
    """Inverse of alias_of, '' for aliases that are not ours."""
    kind, dash, name = alias.removeprefix("ua-").partition("-")
    if not alias.startswith("ua-"):
        return ""
    return f"{kind}/{name.replace('_', '.')}" if dash else kind


def add_devices(devices: Element, plan: DomainPlan) -> None:
    """Everything below <devices>, in a fixed order."""
    slots = dict(plan.hardware.slots)
    _add_pci(devices, plan)
    _add_controllers(devices, plan, slots)
    targets = _targets(plan)
    for disk in plan.disks:
        key = f"disk/{disk.name}"
        _add_disk(devices, disk, targets[key], disk.slot or slots.get(key, ""))
    for drive in plan.cdroms:
        key = f"cdrom/{drive.name}"
        _add_disk(devices, _as_disk(drive), targets[key], "", key=key)
    if plan.seed_path:
        seed = DiskPlan(SEED_KEY, plan.seed_path, "raw", read_only=True, discard=False, cache="writeback")
        _add_disk(devices, seed, SEED_TARGET, slots.get(SEED_KEY, ""), key=SEED_KEY)
    for nic in plan.nics:
        _add_nic(devices, nic, nic.slot or slots.get(f"nic/{nic.name}", ""))
    _add_memory(devices, plan, slots)
    _add_console(devices, plan)
    _add_graphics(devices, plan, slots)
    _add_small(devices, plan, slots)


def _address(device: Element, slot: str) -> None:
    if not slot:
        return
    match = _SLOT.match(slot)
    if match is None:
        raise Rejected(f"PCI address {slot!r} is not DDDD:BB:SS.F in lower-case hex", field="slot")
    domain, bus, place, function = match.groups()
    node(
        device,
        "address",
        type="pci",
        domain=f"0x{domain}",
        bus=f"0x{bus}",
        slot=f"0x{place}",
        function=f"0x{function}",
        multifunction="on" if device.tag == "controller" and device.get("type") == "pci" and function == "0" else None,
    )


def _has_pcie(plan: DomainPlan) -> bool:
    machine = plan.hardware.machine or plan.machine
    return "q35" in machine or machine.startswith("virt")


def _needs_scsi(plan: DomainPlan) -> bool:
    return any(disk.bus == "scsi" for disk in plan.disks) or any(drive.bus == "scsi" for drive in plan.cdroms)


def _add_pci(devices: Element, plan: DomainPlan) -> None:
    """Root ports: one per device plus the spare ones for hotplug; those the guest has seen keep their place."""
    if not _has_pcie(plan):
        return
    known: dict[int, tuple[str, str]] = {}
    for key, slot in plan.hardware.slots:
        kind, _, rest = key.partition("/")
        if kind == "controller":
            number, _, model = rest.partition("/")
            known[int(number)] = (model or "pcie-root-port", slot)
    busy = sum(disk.bus == "virtio" for disk in plan.disks) + len(plan.nics) + bool(plan.seed_path)
    busy += _needs_scsi(plan) + plan.vnc + plan.guest_agent + plan.rng + 1  # the last is the balloon
    busy += memory_headroom_mib(plan.memory_mib, plan.memory_max_mib) > 0
    ports = max(busy + plan.hotplug_ports, sum(model == "pcie-root-port" for model, _ in known.values()))
    node(devices, "controller", type="pci", index="0", model="pcie-root")
    index = made = 0
    while made < ports or index < max(known, default=0):
        index += 1
        model, slot = known.get(index, ("pcie-root-port", ""))
        made += model == "pcie-root-port"
        _address(node(devices, "controller", type="pci", index=str(index), model=model), slot)


def _add_controllers(devices: Element, plan: DomainPlan, slots: dict[str, str]) -> None:
    usb = node(devices, "controller", type="usb", index="0", model="qemu-xhci" if plan.vnc else "none")
    if plan.vnc:  # the tablet's
        _address(usb, slots.get("usb", ""))
    if _needs_scsi(plan):
        scsi = node(devices, "controller", type="scsi", index="0", model="virtio-scsi")
        _address(scsi, slots.get("scsi", ""))
    if plan.guest_agent:
        _address(node(devices, "controller", type="virtio-serial", index="0"), slots.get("serial", ""))


def _letters(number: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa: the kernel's way to count disks."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = string.ascii_lowercase[rest] + letters
    return letters


def _targets(plan: DomainPlan) -> dict[str, str]:
    """'disk/NAME' or 'cdrom/NAME' -> target: the device's own, else the recorded one, else the first free of its bus."""
    recorded = dict(plan.hardware.targets)
    chosen: dict[str, str] = {}
    wanted: list[tuple[str, DiskPlan | CdromPlan]] = [(f"disk/{disk.name}", disk) for disk in plan.disks]
    wanted += [(f"cdrom/{drive.name}", drive) for drive in plan.cdroms]
    for key, device in wanted:
        kind, _, name = key.partition("/")
        if key in chosen:
            raise Rejected(f"two {kind}s are named {name!r}; names must differ", field=f"{kind}s[{name}]")
        if device.bus not in _PREFIX:
            raise Rejected(f"{kind} {name}: bus {device.bus!r} is not {', '.join(_PREFIX)}", field="bus")
        chosen[key] = device.target or recorded.get(key, "")
    # Targets of disks that are detached now stay reserved: the guest knew something else under that name.
    used = {SEED_TARGET, *recorded.values(), *chosen.values()}
    for key, device in wanted:
        number = 0
        while not chosen[key]:
            candidate = _PREFIX[device.bus] + _letters(number)
            number += 1
            if candidate not in used:
                chosen[key] = candidate
                used.add(candidate)
    if len(set(chosen.values())) != len(chosen):
        raise Rejected(f"two disks have the same target: {chosen}", field="target")
    return chosen


def _as_disk(drive: CdromPlan) -> DiskPlan:
    """The host caches it: several guests may read the one file, and nobody writes to it."""
    return DiskPlan(
        drive.name, drive.path, drive.format, drive.bus, "cdrom", True, "writeback", drive.boot_order, discard=False
    )


def _add_disk(devices: Element, disk: DiskPlan, target: str, slot: str, *, key: str = "") -> None:
    where = f"disks[{disk.name}]"
    if disk.device not in ("disk", "cdrom"):
        raise Rejected(f"{where}.device: {disk.device!r} is not disk or cdrom", field=f"{where}.device")
    if disk.format not in ("qcow2", "raw"):
        raise Rejected(f"{where}.format: {disk.format!r} is not qcow2 or raw", field=f"{where}.format")
    if disk.device == "cdrom" and disk.bus == "virtio":
        raise Rejected(f"{where}: a cdrom needs bus scsi or sata", field=f"{where}.bus")
    if not disk.path and disk.device != "cdrom":
        raise Rejected(f"{where}: no path; only a cdrom may be empty", field=f"{where}.path")
    block = disk.path.startswith("/dev/")
    made = node(devices, "disk", type="block" if block else "file", device=disk.device)
    writable = disk.device == "disk" and not disk.read_only
    discard = "unmap" if disk.discard and writable else None
    node(made, "driver", name="qemu", type=disk.format, cache=disk.cache, discard=discard)
    if disk.path:
        source = path(disk.path, f"{where}.path")
        node(made, "source", **({"dev": source} if block else {"file": source}))
    node(made, "target", dev=target, bus=disk.bus)
    if not writable:
        node(made, "readonly")
    if disk.serial:
        if not _SERIAL.match(disk.serial):
            raise Rejected(
                f"{where}.serial: {disk.serial!r} must be at most 20 of A-Z a-z 0-9 . _ + -", field=f"{where}.serial"
            )
        node(made, "serial", disk.serial)
    if disk.iops or disk.bytes_per_second:
        limits = node(made, "iotune")
        if disk.bytes_per_second:
            node(limits, "total_bytes_sec", str(disk.bytes_per_second))
        if disk.iops:
            node(limits, "total_iops_sec", str(disk.iops))
    if disk.boot_order:
        node(made, "boot", order=str(disk.boot_order))
    node(made, "alias", name=_checked_alias(key or f"disk/{disk.name}", where))
    if disk.bus == "virtio":
        _address(made, slot)


def _checked_alias(key: str, where: str) -> str:
    alias = alias_of(key)
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", alias) or "_" in key:
        raise Rejected(f"{where}: the name may hold a-z, 0-9, '-' and '.' only", field=where)
    return alias


def _add_nic(devices: Element, nic: NicPlan, slot: str) -> None:
    where = f"nics[{nic.name}]"
    if not _MAC.match(nic.mac):
        raise Rejected(f"{where}.mac: {nic.mac!r} is not a unicast MAC in lower case", field=f"{where}.mac")
    if bool(nic.network) == bool(nic.bridge):
        raise Rejected(f"{where}: needs exactly one of network and bridge", field=where)
    made = node(devices, "interface", type="network" if nic.network else "bridge")
    node(made, "mac", address=nic.mac)
    node(made, "source", **({"network": nic.network} if nic.network else {"bridge": nic.bridge}))
    node(made, "model", type=nic.model)
    if nic.mtu:
        node(made, "mtu", size=str(nic.mtu))
    node(made, "link", state="up" if nic.link_up else "down")
    if nic.boot_order:
        node(made, "boot", order=str(nic.boot_order))
    node(made, "alias", name=_checked_alias(f"nic/{nic.name}", where))
    _address(made, slot)


def _add_memory(devices: Element, plan: DomainPlan, slots: dict[str, str]) -> None:
    """The device that gives and takes memory while the guest runs; it begins with none."""
    headroom_mib = memory_headroom_mib(plan.memory_mib, plan.memory_max_mib)
    if not headroom_mib:
        return
    memory = node(devices, "memory", model="virtio-mem")
    target = node(memory, "target")
    for tag, mib in (("size", headroom_mib), ("block", MEMORY_BLOCK_MIB), ("requested", 0)):
        node(target, tag, str(mib), unit="MiB")
        if tag == "size":
            node(target, "node", "0")
    node(memory, "alias", name=alias_of(MEMORY_KEY))
    _address(memory, slots.get(MEMORY_KEY, ""))


def _add_console(devices: Element, plan: DomainPlan) -> None:
    # A pty, because only that can be opened as a console; the log is written beside it, whether anybody listens or not.
    serial = node(devices, "serial", type="pty")
    if plan.console_log_path:
        # append: the target QEMU of a migration, and every start, truncates the log without it
        node(serial, "log", file=path(plan.console_log_path, "console_log_path"), append="on")
    node(serial, "target", port="0")
    if plan.guest_agent:
        channel = node(devices, "channel", type="unix")
        node(channel, "target", type="virtio", name=AGENT_CHANNEL)


def _add_graphics(devices: Element, plan: DomainPlan, slots: dict[str, str]) -> None:
    video = node(devices, "video")
    node(video, "model", type="vga" if plan.vnc else "none")
    if plan.vnc:
        _address(video, slots.get("video", ""))
        # Loopback only: VNC has no password worth the name, so it must never listen on a network.
        graphics = node(devices, "graphics", type="vnc", autoport="yes", websocket="-1")
        node(graphics, "listen", type="address", address="127.0.0.1")
        node(devices, "input", type="tablet", bus="usb")


def _add_small(devices: Element, plan: DomainPlan, slots: dict[str, str]) -> None:
    if plan.tpm:
        tpm = node(devices, "tpm", model="tpm-crb")
        node(tpm, "backend", type="emulator", version="2.0", persistent_state="yes")
    if plan.watchdog:
        if plan.watchdog not in ("reset", "poweroff", "pause"):
            raise Rejected(f"watchdog {plan.watchdog!r} is not reset, poweroff or pause", field="watchdog")
        _address(node(devices, "watchdog", model="i6300esb", action=plan.watchdog), slots.get("watchdog", ""))
    _address(node(devices, "memballoon", model="virtio"), slots.get("balloon", ""))
    if plan.rng:
        rng = node(devices, "rng", model="virtio")
        node(rng, "backend", "/dev/urandom", model="random")
        _address(rng, slots.get("rng", ""))


def describe_slots(devices: Element) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """(slots, targets) of a definition that libvirt completed: the inverse of what is written above."""
    slots: dict[str, str] = {}
    targets: dict[str, str] = {}
    for device in devices:
        key = _device_key(device)
        if not key:
            continue
        slot = _read_address(device)
        if slot:
            slots[key] = slot
        target = device.find("target")
        if device.tag == "disk" and target is not None and key != SEED_KEY:
            targets[key] = str(target.get("dev"))
    return tuple(sorted(slots.items())), tuple(sorted(targets.items()))


_SINGLE = {"memballoon": "balloon", "rng": "rng", "watchdog": "watchdog", "video": "video"}
_CONTROLLER = {"usb": "usb", "scsi": "scsi", "virtio-serial": "serial"}


def _device_key(device: Element) -> str:
    if device.tag in ("disk", "interface"):
        alias = device.find("alias")
        return key_of(str(alias.get("name"))) if alias is not None else ""
    if device.tag == "memory":
        return MEMORY_KEY
    if device.tag == "controller":
        kind, index, model = device.get("type"), device.get("index"), device.get("model")
        if kind == "pci" and model != "pcie-root":
            return f"controller/{index}" if model == "pcie-root-port" else f"controller/{index}/{model}"
        return _CONTROLLER.get(kind, "") if index == "0" else ""
    return _SINGLE.get(device.tag, "")


def _read_address(device: Element) -> str:
    address = device.find("address[@type='pci']")
    if address is None:
        return ""
    domain, bus, slot, function = (int(address.get(part) or "0", 16) for part in ("domain", "bus", "slot", "function"))
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
