"""Capabilities and domain capabilities as a HostInventory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lq_operator.adapters.libvirt.xml.build import Element, parse, size_bytes, whole
from lq_operator.core.model import HostInventory, HostUUID, NumaCell
from lq_operator.core.result import Transient


@dataclass(frozen=True, slots=True)
class HostNumbers:
    """What a host answers outside its XML. Memory in MiB, versions as libvirt packs them (major*10^6 + minor*10^3 + micro)."""

    hostname: str
    libvirt_version: int
    hypervisor_name: str
    hypervisor_version: int
    cpus: int
    memory_mib: int


def host_uuid(capabilities: str) -> HostUUID:
    """Who the host is. Transient when it does not say: such a host is evidence for nothing."""
    found = parse(capabilities, "capabilities").findtext("host/uuid")
    if not found:
        raise Transient("the host does not say its UUID: set host_uuid in its libvirtd.conf")
    return HostUUID(found.strip().lower())


def host_arch(capabilities: str) -> str:
    """Architecture of the host's CPUs, e.g. 'x86_64'."""
    return parse(capabilities, "capabilities").findtext("host/cpu/arch") or ""


def accelerator(capabilities: str, arch: str) -> str:
    """'kvm' where the host offers it for arch, else 'tcg'."""
    return "kvm" if "kvm" in _domain_types(_guest(parse(capabilities, "capabilities"), arch)) else "tcg"


def _guest(root: Element, arch: str) -> Element | None:
    for guest in root.findall("guest"):
        described = guest.find("arch")
        if guest.findtext("os_type") == "hvm" and described is not None and described.get("name") == arch:
            return guest
    return None


def _domain_types(guest: Element | None) -> set[str]:
    return set() if guest is None else {str(d.get("type")) for d in guest.findall("arch/domain")}


def version_text(packed: int) -> str:
    """'9.0.0' from 9000000."""
    return f"{packed // 1_000_000}.{packed // 1000 % 1000}.{packed % 1000}"


def read_inventory(capabilities: str, domain_capabilities: str, numbers: HostNumbers) -> HostInventory:
    """Everything a scheduler needs to know about a host."""
    root = parse(capabilities, "capabilities")
    domain = parse(domain_capabilities, "domain capabilities")
    arch = root.findtext("host/cpu/arch") or ""
    guest = _guest(root, arch)
    model, vendor, features = _cpu(root, domain)
    return HostInventory(
        host_uuid=host_uuid(capabilities),
        hostname=numbers.hostname,
        libvirt_version=version_text(numbers.libvirt_version),
        hypervisor=f"{numbers.hypervisor_name} {version_text(numbers.hypervisor_version)}",
        arch=arch,
        cpu_model=model,
        cpu_vendor=vendor,
        cpu_features=features,
        usable_cpu_models=_sorted(
            m.text for m in domain.findall("cpu/mode[@name='custom']/model") if m.get("usable") == "yes"
        ),
        cpus=numbers.cpus,
        memory_mib=numbers.memory_mib,
        numa=tuple(_numa(root)),
        machine_types=_sorted(m.text for m in guest.findall("arch/machine")) if guest is not None else (),
        accel="kvm" if "kvm" in _domain_types(guest) else "tcg",
        firmware=_firmware(domain, arch),
        emulates_tpm=_emulates_tpm(domain),
    )


def _cpu(root: Element, domain: Element) -> tuple[str, str, tuple[str, ...]]:
    """(model, vendor, features) a guest can get: host-model of the domain capabilities, else the host's own CPU."""
    mode = domain.find("cpu/mode[@name='host-model']")
    if mode is not None and mode.get("supported") == "yes" and mode.findtext("model"):
        features = _sorted(f.get("name") for f in mode.findall("feature") if f.get("policy") == "require")
        return mode.findtext("model"), mode.findtext("vendor") or root.findtext("host/cpu/vendor") or "", features
    host = root.find("host/cpu")
    if host is None:
        return "", "", ()
    features = _sorted(f.get("name") for f in host.findall("feature"))
    return host.findtext("model") or "", host.findtext("vendor") or "", features


def _numa(root: Element) -> Iterable[NumaCell]:
    for cell in root.findall("host/topology/cells/cell"):
        cpus = cell.find("cpus")
        yield NumaCell(
            cell=whole(cell.get("id")),
            memory_mib=size_bytes(cell.find("memory"), "kib") // 1024**2,
            cpus=whole(cpus.get("num")) if cpus is not None else 0,
        )


def _firmware(domain: Element, arch: str) -> tuple[str, ...]:
    found = ["bios"] if arch in ("x86_64", "i686") else []
    if any(v.text == "efi" for v in domain.findall("os/enum[@name='firmware']/value")):
        found.append("uefi")
        if any(v.text == "yes" for v in domain.findall("os/loader/enum[@name='secure']/value")):
            found.append("uefi-secure")
    return tuple(found)


def _emulates_tpm(domain: Element) -> bool | None:
    """libvirt names the emulator only where it finds swtpm. Where it tells no versions, that is believed."""
    tpm = domain.find("devices/tpm")
    if tpm is None:
        return None
    said = {(enum.get("name"), value.text) for enum in tpm.findall("enum") for value in enum.findall("value")}
    versions = {version for name, version in said if name == "backendVersion"}
    emulator = tpm.get("supported") == "yes" and ("backendModel", "emulator") in said
    return emulator and (not versions or "2.0" in versions)


def _sorted(names: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if name}))
