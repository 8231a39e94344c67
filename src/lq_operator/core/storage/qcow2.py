"""What the first bytes of an image say: its format, its virtual size, and whether it would make a host read other files.

Images are untrusted. QEMU and libvirt obey a header: a backing file or an external data file in it would be opened on the
host. Everything that is not plainly a disk of its declared format is refused before a byte of it is stored. Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from lq_operator.core.result import Rejected

HEAD_BYTES = 64 * 1024
"""How much of an image is looked at. A qcow2 header with its extensions ends within the first cluster (64 KiB usual)."""

_QCOW2 = b"QFI\xfb"
_V2_LENGTH, _V3_LENGTH = 72, 104
_CLUSTER_BITS = range(9, 22)  # docs/interop/qcow2.txt: at least 9; QEMU takes at most 21 (2 MiB)
_MOST_EXTENSIONS = 64

_DIRTY, _CORRUPT, _EXTERNAL_DATA, _COMPRESSION, _EXTENDED_L2 = 1, 2, 4, 8, 16
_KNOWN_INCOMPATIBLE = _DIRTY | _CORRUPT | _EXTERNAL_DATA | _COMPRESSION | _EXTENDED_L2
_EXTENSION_END = 0
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441
_EXTENSION_ENCRYPTION = 0x0537BE77

_OTHER_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, _QCOW2, "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vhd"),
    (0, b"cxsparse", "vhd"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"LUKS\xba\xbe", "LUKS-encrypted"),
    (0, b"OOOM", "cow"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format", "cloop"),
)
"""(offset, magic, name) of what QEMU's drivers and libvirt's pools recognise in a file that is called raw."""

_NOT_DISKS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip-compressed"),
    (b"\xfd7zXZ\0", "xz-compressed"),
    (b"BZh", "bzip2-compressed"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
)


@dataclass(frozen=True, slots=True)
class Header:
    """What an accepted image says of itself."""

    format: str
    virtual_size_bytes: int


def check_header(head: bytes, format_: str, length_bytes: int) -> Header:
    """Judge the first HEAD_BYTES (or all, where it is shorter) of an image of `length_bytes`, declared as `format_`.

    Rejected (field spec.source) for everything that is not a self-contained disk of that format.
    """
    if not head or length_bytes <= 0:
        raise _refused("the URL holds no bytes")
    if format_ == "raw":
        other = recognise(head)
        if other:
            raise _refused(f"declared as raw, but it looks {_like(other)}")
        return Header("raw", length_bytes)
    if format_ != "qcow2":
        raise _refused(f"format {format_!r} is not one of qcow2, raw", field="spec.source.format")
    if not head.startswith(_QCOW2):
        raise _refused(f"declared as qcow2, but it looks {_like(recognise(head)) or 'like a raw disk'}")
    return Header("qcow2", _check_qcow2(head))


def recognise(head: bytes) -> str:
    """Name of what these bytes begin like; '' for nothing that is known (a raw disk)."""
    for offset, magic, name in _OTHER_FORMATS:
        if head[offset : offset + len(magic)] == magic:
            return name
    start = head[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, name in _NOT_DISKS:
        if head.startswith(magic) or start.startswith(magic):
            return name
    return ""


def _like(name: str) -> str:
    if not name:
        return ""
    if name.endswith("compressed"):
        return f"{name}: publish it decompressed"
    return f"like {name}" if name.startswith("a") else f"like a {name} image"


def _check_qcow2(head: bytes) -> int:
    """The virtual size in bytes. Field offsets: QEMU's docs/interop/qcow2.txt."""
    if len(head) < _V2_LENGTH:
        raise _refused("its qcow2 header is cut off")
    (version, backing_offset, backing_length, cluster_bits, size, encryption) = struct.unpack_from(">IQIIQI", head, 4)
    if version not in (2, 3):
        raise _refused(f"qcow version {version} is not supported: convert it with qemu-img convert -O qcow2")
    if backing_offset or backing_length:
        raise _refused("it has a backing file, which a host would read: flatten it with qemu-img convert -O qcow2")
    if encryption:
        raise _refused("it is encrypted: convert it with qemu-img convert -O qcow2")
    if cluster_bits not in _CLUSTER_BITS:
        raise _refused(f"its qcow2 header is broken (cluster size 2^{cluster_bits})")
    if not 0 < size < 2**63:
        raise _refused(f"its qcow2 header is broken (virtual size {size})")
    header_length = _V2_LENGTH
    if version == 3:
        header_length = _check_version_3(head)
    _check_extensions(head, header_length, 1 << cluster_bits)
    return int(size)


def _check_version_3(head: bytes) -> int:
    if len(head) < _V3_LENGTH:
        raise _refused("its qcow2 header is cut off")
    (incompatible,) = struct.unpack_from(">Q", head, 72)
    (header_length,) = struct.unpack_from(">I", head, 100)
    if incompatible & _EXTERNAL_DATA:
        raise _refused("it keeps its data in an external file: convert it with qemu-img convert -O qcow2")
    if incompatible & ~_KNOWN_INCOMPATIBLE:
        raise _refused(f"it needs qcow2 features that are not known (bits {incompatible:#x})")
    if incompatible & (_DIRTY | _CORRUPT):
        raise _refused("it was not closed cleanly or is corrupt: repair it with qemu-img check -r all")
    if header_length < _V3_LENGTH or header_length % 8 or header_length > len(head):
        raise _refused(f"its qcow2 header is broken (header length {header_length})")
    return int(header_length)


def _check_extensions(head: bytes, offset: int, cluster_bytes: int) -> None:
    """Walk the header extensions, which lie within the first cluster. What goes beyond the looked-at part is refused."""
    end = min(cluster_bytes, len(head))
    for _ in range(_MOST_EXTENSIONS):
        if offset + 8 > end:
            if end == cluster_bytes:
                return  # QEMU stops at the end of the first cluster as well
            raise _refused("its qcow2 header is cut off")
        kind, length = struct.unpack_from(">II", head, offset)
        if kind == _EXTENSION_END:
            return
        if kind in (_EXTENSION_DATA_FILE, _EXTENSION_BACKING_FORMAT, _EXTENSION_ENCRYPTION):
            what = {
                _EXTENSION_DATA_FILE: "names an external data file",
                _EXTENSION_BACKING_FORMAT: "names the format of a backing file",
                _EXTENSION_ENCRYPTION: "says that it is encrypted",
            }[kind]
            raise _refused(f"its qcow2 header {what}: convert it with qemu-img convert -O qcow2")
        offset += 8 + (length + 7) // 8 * 8
    raise _refused("its qcow2 header is broken (too many extensions)")


def _refused(why: str, *, field: str = "spec.source") -> Rejected:
    return Rejected(f"{field}: the image is refused: {why}", field=field)
