"""What a host is: its answers about itself, asked in one job of one thread."""

from __future__ import annotations

from typing import Any

from lq_operator.adapters.libvirt.xml.capabilities import (
    HostNumbers,
    accelerator,
    host_arch,
    host_uuid,
    read_inventory,
)
from lq_operator.core.model import HostInventory, HostUUID


def observe_uuid(conn: Any) -> HostUUID:
    """The host's UUID from its capabilities (0.7 s at the first time, when libvirt probes QEMU)."""
    return host_uuid(conn.getCapabilities())


def observe_inventory(conn: Any) -> HostInventory:
    """Capabilities, the domain capabilities of the machine type we use, versions and sizes."""
    capabilities = conn.getCapabilities()
    arch = host_arch(capabilities)
    machine = {"x86_64": "q35", "aarch64": "virt"}.get(arch)
    virt_type = "kvm" if accelerator(capabilities, arch) == "kvm" else "qemu"
    domain_capabilities = conn.getDomainCapabilities(None, arch, machine, virt_type, 0)
    info = conn.getInfo()
    numbers = HostNumbers(
        hostname=conn.getHostname(),
        libvirt_version=conn.getLibVersion(),
        hypervisor_name=conn.getType(),
        hypervisor_version=conn.getVersion(),
        memory_mib=int(info[1]),
        cpus=int(info[2]),
    )
    return read_inventory(capabilities, domain_capabilities, numbers)
