"""The XML that a live move hands to the target, made from the guest's own live XML so that its ABI stays what it is.

libvirt refuses a move that changes what the guest sees; what may differ between hosts is replaced: the gate file, the
paths behind disks, seed, NVRAM and console log, the networks, and our metadata.
"""

from __future__ import annotations

from collections.abc import Mapping

from lq_operator.adapters.libvirt.xml.build import Element, dump, parse, path
from lq_operator.adapters.libvirt.xml.devices import SEED_KEY, key_of
from lq_operator.adapters.libvirt.xml.domain import mark_as, require_gate
from lq_operator.core.model import DiskPlan, DomainPlan
from lq_operator.core.result import Rejected


def moved_xml(document: str, plan: DomainPlan) -> str:
    """The live XML (MIGRATABLE|SECURE) as `plan` has it on the target.

    Rejected where the two do not speak of the same devices: the guest has a disk or interface that the plan lacks, or
    the other way round, or it was started without a gate and so cannot get one.
    """
    root = parse(document, "domain on its way")
    require_gate(root, plan, "the guest was started without a gate: stop and start it once before it can be moved")
    _place_disks(root, plan)
    _place_nics(root, plan)
    _place_nvram(root, plan)
    _place_console_log(root, plan)
    mark_as(root, plan)
    return dump(root)


def disk_targets(document: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Targets (vda ...) of the named disks of the guest; Rejected naming one that it does not have."""
    disks = _by_key(parse(document, "domain"), "disk")
    missing = [name for name in names if f"disk/{name}" not in disks]
    if missing:
        raise Rejected(f"the guest runs without disk {missing[0]}", field=f"disks[{missing[0]}]")
    return tuple(str(disks[f"disk/{name}"].find("target").get("dev")) for name in names)


def shares_disks(document: str, copied: tuple[str, ...]) -> bool:
    """True where the guest writes to a disk that does not go along: both hosts must then reach the same one."""
    disks = _by_key(parse(document, "domain"), "disk")
    kept = [disk for key, disk in disks.items() if key.removeprefix("disk/") not in copied]
    return any(disk.find("readonly") is None and disk.find("source") is not None for disk in kept)


def _by_key(root: Element, tag: str) -> dict[str, Element]:
    """Devices of that tag by key_of their alias; what is not ours is named by its target or MAC."""
    found = {}
    for device in root.findall(f"devices/{tag}"):
        alias, target, mac = device.find("alias"), device.find("target"), device.find("mac")
        key = key_of(str(alias.get("name"))) if alias is not None else ""
        named = (
            target.get("dev") if tag == "disk" and target is not None else mac.get("address") if mac is not None else ""
        )
        found[key or f"{tag}/{named}"] = device
    return found


def _place_disks(root: Element, plan: DomainPlan) -> None:
    found = _by_key(root, "disk")
    wanted = {f"disk/{disk.name}": disk for disk in plan.disks}
    if plan.seed_path:
        wanted[SEED_KEY] = DiskPlan(SEED_KEY, plan.seed_path, "raw")
    drives = {f"cdrom/{drive.name}": drive for drive in plan.cdroms}
    _same(found, {**wanted, **drives}, "disk")
    for key, drive in drives.items():
        source = found[key].find("source")
        inside = "" if source is None else str(source.get("file") or source.get("dev") or "")
        if inside != drive.path:  # never another medium under a guest that reads from this one
            what = f"cdroms[{drive.name}]"
            raise Rejected(f"{what}: {inside or 'nothing'} lies in it now, not {drive.path or 'nothing'}", field=what)
        for chain in found[key].findall("backingStore"):
            found[key].remove(chain)
    for key, disk in wanted.items():
        source = found[key].find("source")
        if source is None:  # an empty drive
            continue
        source.set("dev" if found[key].get("type") == "block" else "file", path(disk.path, f"{key}.path"))
        for chain in found[key].findall("backingStore"):  # the target looks for itself
            found[key].remove(chain)


def _place_nics(root: Element, plan: DomainPlan) -> None:
    found = _by_key(root, "interface")
    wanted = {f"nic/{nic.name}": nic for nic in plan.nics}
    _same(found, wanted, "interface")
    for key, nic in wanted.items():
        source = found[key].find("source")
        if source is not None:
            source.attrib.clear()  # also libvirt's own notes of the port on this host
            source.set(*(("network", nic.network) if nic.network else ("bridge", nic.bridge)))
            found[key].set("type", "network" if nic.network else "bridge")


def _same(found: dict[str, Element], wanted: Mapping[str, object], what: str) -> None:
    for key in found.keys() ^ wanted.keys():
        name = key.rpartition("/")[2]
        side = "the guest has it, the plan does not" if key in found else "the plan has it, the guest does not"
        raise Rejected(f"{what} {name}: {side}", field=f"{what}[{name}]")


def _place_console_log(root: Element, plan: DomainPlan) -> None:
    """The serial port's file, or the log beside its pty; libvirt says the first one again as a console."""
    if not plan.console_log_path:
        return
    log = path(plan.console_log_path, "console_log_path")
    for tag in ("serial", "console"):
        for source in root.findall(f"devices/{tag}[@type='file']/source"):
            source.set("path", log)
        for entry in root.findall(f"devices/{tag}/log"):
            entry.set("file", log)


def _place_nvram(root: Element, plan: DomainPlan) -> None:
    nvram = root.find("os/nvram")
    if nvram is None or not plan.nvram_path:
        return
    source = nvram.find("source")
    if source is not None:
        source.set("file", path(plan.nvram_path, "nvram_path"))
    else:
        nvram.text = path(plan.nvram_path, "nvram_path")
