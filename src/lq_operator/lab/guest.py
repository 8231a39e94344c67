"""The lab's guest: a few megabytes that boot in seconds, and a real bootable disk image of it.

The root is the initramfs; the disk holds the boot loader, the kernel, and an ext4 partition in which every boot is
counted, so that a test can tell which disk a guest came from and whether its data survived.
"""

import fcntl
import hashlib
import json
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lq_operator.lab.errors import LabError
from lq_operator.lab.names import cache_dir
from lq_operator.lab.shell import run

_DATA = Path(__file__).parent / "data"
_INGREDIENTS = ("mkguest.sh", "guest-init", "guest-netplan.awk", "guest-runcmd.awk", "udhcpc.script")
_MBR_CODE = Path("/usr/lib/syslinux/mbr/mbr.bin")
_SECTOR = 512
_MIB = 1024 * 1024
_BOOT_MIB = 40
_DATA_MIB = 16
_REVISION = "2: disk not compressed"
"""Part of the cache's key: change it when this file builds something else from the same ingredients."""
_FAT16_LBA, _LINUX = 0x0E, 0x83
# no_timer_check: an emulated guest on a busy machine gets too little CPU for the kernel's timer check and panics ("IO-APIC +
# timer doesn't work", seen with sixty QEMUs on two CPUs).
_SYSLINUX_CFG = """\
SERIAL 0 115200
DEFAULT lab
PROMPT 0
TIMEOUT 0
LABEL lab
  LINUX vmlinuz
  INITRD initrd.gz
  APPEND console=ttyS0 quiet no_timer_check
"""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """Built files, in the cache."""

    kernel: Path
    initrd: Path
    disk: Path
    """qcow2 without a backing file; not compressed, which would cost every boot 1.2 s of CPU under emulation."""
    sha256: str
    virtual_size_mib: int


def _version() -> str:
    digest = hashlib.sha256(f"{_REVISION} {_SYSLINUX_CFG} {_BOOT_MIB} {_DATA_MIB}".encode())
    for name in _INGREDIENTS:
        digest.update((_DATA / name).read_bytes())
    return digest.hexdigest()[:12]


def ensure(progress: Callable[[str], None]) -> GuestImage:
    """The guest of this version of the lab, built on the first call (about 10 s plus 60 MB of packages)."""
    base = cache_dir() / "guest"
    base.mkdir(parents=True, exist_ok=True)
    folder = base / _version()
    with (base / "build.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not folder.is_dir():
            progress("building the guest image (once)")
            with tempfile.TemporaryDirectory(dir=base) as scratch:
                _build(Path(scratch), base / "packages")
                Path(scratch).chmod(0o755)
                shutil.copytree(scratch, folder.with_suffix(".new"), dirs_exist_ok=True)
            folder.with_suffix(".new").rename(folder)
    facts = json.loads((folder / "facts.json").read_text())
    return GuestImage(
        folder / "vmlinuz", folder / "initrd.gz", folder / "guest.qcow2", facts["sha256"], facts["virtual_size_mib"]
    )


def _build(out: Path, packages: Path) -> None:
    work = packages
    work.mkdir(exist_ok=True)
    run(["bash", str(_DATA / "mkguest.sh"), str(_DATA), str(work), str(out)], timeout_s=600)
    raw = out / "guest.raw"
    _write_disk(out, raw)
    disk = out / "guest.qcow2"
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(disk)], timeout_s=300)
    facts = {
        "sha256": hashlib.sha256(disk.read_bytes()).hexdigest(),
        "virtual_size_mib": raw.stat().st_size // _MIB,
    }
    (out / "facts.json").write_text(json.dumps(facts))
    raw.unlink()


def _write_disk(out: Path, raw: Path) -> None:
    """MBR + FAT16 with syslinux, kernel, initramfs + ext4 for data. Boots under SeaBIOS without a menu."""
    if not _MBR_CODE.exists():
        raise LabError(f"{_MBR_CODE} is missing; apt-get install syslinux-common")
    boot, data = out / "boot.part", out / "data.part"
    _empty(boot, _BOOT_MIB)
    first_sector = _MIB // _SECTOR
    run(["mkfs.fat", "-F", "16", "-n", "LQBOOT", "-h", str(first_sector), str(boot)])
    config = out / "syslinux.cfg"
    config.write_text(_SYSLINUX_CFG)
    for file in (config, out / "vmlinuz", out / "initrd.gz"):
        run(["mcopy", "-i", str(boot), str(file), f"::{file.name}"])
    run(["syslinux", "--install", str(boot)])
    _empty(data, _DATA_MIB)
    run(["mke2fs", "-q", "-t", "ext4", "-L", "LQDATA", "-J", "size=1", "-b", "1024", str(data)])
    table = _partition(first_sector, _BOOT_MIB, _FAT16_LBA, active=True) + _partition(
        first_sector + _BOOT_MIB * _MIB // _SECTOR, _DATA_MIB, _LINUX, active=False
    )
    with raw.open("wb") as disk:
        head = _MBR_CODE.read_bytes()[:440].ljust(440, b"\0") + b"LQLB\0\0" + table.ljust(64, b"\0") + b"\x55\xaa"
        disk.write(head.ljust(_MIB, b"\0"))
        for part in (boot, data):
            with part.open("rb") as source:
                shutil.copyfileobj(source, disk)
    for part in (boot, data, config):
        part.unlink()


def _empty(path: Path, size_mib: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_mib * _MIB)


def _partition(first_sector: int, size_mib: int, kind: int, *, active: bool) -> bytes:
    """One entry of the MBR's table; the CHS fields say 'use LBA' (0xFEFFFF)."""
    chs = b"\xfe\xff\xff"
    return struct.pack("<B3sB3sII", 0x80 if active else 0, chs, kind, chs, first_sector, size_mib * _MIB // _SECTOR)
