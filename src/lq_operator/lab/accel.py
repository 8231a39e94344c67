"""Whether guests can run on hardware virtualization here, judged by trying it.

An openable /dev/kvm is no proof: on nested and paravirtual KVM (kvm_pvm) a virtual machine can be made, but QEMU aborts
as soon as a vCPU gets the host's own model ("failed to set MSR 0x10a"; with an older model the boot loader ends in a KVM
emulation failure, measured on QEMU 7.2). So the probe is QEMU itself, with the CPU model our guests default to.
"""

import os
from pathlib import Path
from typing import Literal

from lq_operator.lab.errors import CommandFailedError
from lq_operator.lab.shell import run

Accel = Literal["kvm", "tcg"]
_DEVICE = Path("/dev/kvm")


def probe() -> tuple[Accel, str]:
    """The accelerator to use, and the reason in a few words."""
    if not _DEVICE.exists():
        return "tcg", "no /dev/kvm"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return "tcg", "/dev/kvm may not be opened"
    argv = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "64", "-S", "-nodefaults", "-display", "none"]
    try:
        run([*argv, "-monitor", "stdio"], stdin="quit\n", timeout_s=20)
    except CommandFailedError as error:
        return "tcg", f"/dev/kvm is there, but QEMU cannot use it ({str(error)[-120:]})"
    return "kvm", "QEMU started a vCPU of the host's own model"
