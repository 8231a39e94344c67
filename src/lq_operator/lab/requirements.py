"""What the lab needs from the distribution, and the command that brings it.

Names are Debian's and Ubuntu's. Programs are looked for, not packages, so other distributions work when they have them.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lq_operator.lab.errors import LabError

_SEARCH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


@dataclass(frozen=True, slots=True)
class Requirement:
    """A program (found on PATH) or a file (a path, `*` allowed) with the package that has it."""

    needs: str
    package: str
    purpose: str

    def present(self) -> bool:
        """Whether it is there."""
        if self.needs.startswith("/"):
            return any(Path("/").glob(self.needs.lstrip("/")))
        return shutil.which(self.needs, path=_SEARCH) is not None


HOSTS = (
    Requirement("libvirtd", "libvirt-daemon", "the hosts"),
    Requirement(
        "/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so", "libvirt-daemon-driver-qemu", "the hosts"
    ),
    Requirement("virsh", "libvirt-clients", "asking hosts"),
    Requirement("qemu-system-x86_64", "qemu-system-x86", "guests"),
    Requirement("qemu-img", "qemu-utils", "disks"),
    Requirement("dnsmasq", "dnsmasq-base", "DHCP of NAT networks"),
    Requirement("nft", "nftables", "packet filters"),
    Requirement("iptables", "iptables", "NAT networks"),
    Requirement("ebtables", "ebtables", "security groups"),
    Requirement("ip", "iproute2", "wires"),
    Requirement("nsenter", "util-linux", "namespaces"),
    Requirement("curl", "curl", "asking the control plane"),
)
GUEST = (
    Requirement("modprobe", "kmod", "the guest's kernel modules"),
    Requirement("cpio", "cpio", "the guest's initramfs"),
    Requirement("mke2fs", "e2fsprogs", "the guest's data partition"),
    Requirement("mkfs.fat", "dosfstools", "the guest's boot partition"),
    Requirement("mcopy", "mtools", "the guest's boot partition"),
    Requirement("syslinux", "syslinux", "the guest's boot loader"),
    Requirement("/usr/lib/syslinux/mbr/mbr.bin", "syslinux-common", "the guest's boot loader"),
)
SSH = (
    Requirement("sshd", "openssh-server", "hosts reached over ssh"),
    Requirement("ssh-keygen", "openssh-client", "hosts reached over ssh"),
)


def missing(transport: str) -> list[Requirement]:
    """What a lab with that transport lacks here."""
    wanted: Iterable[Requirement] = (*HOSTS, *GUEST, *(SSH if transport == "ssh" else ()))
    return [requirement for requirement in wanted if not requirement.present()]


def install_command(requirements: Iterable[Requirement]) -> str:
    """The one command that brings them all."""
    packages = sorted({requirement.package for requirement in requirements})
    return "apt-get install --no-install-recommends " + " ".join(packages)


def check(transport: str) -> None:
    """Raise LabError, naming everything that is missing at once, or the missing right to make namespaces."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and mounts: run it as root (sudo)")
    if lacking := missing(transport):
        what = "; ".join(f"{r.needs} ({r.purpose})" for r in lacking)
        raise LabError(f"missing on this machine: {what}. Install with:\n    {install_command(lacking)}")
