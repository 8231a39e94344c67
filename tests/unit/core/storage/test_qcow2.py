"""Headers of images, hostile ones above all. Real ones come from qemu-img where it is installed."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lq_operator.core.result import Rejected
from lq_operator.core.storage.qcow2 import HEAD_BYTES, check_header, recognise

MAGIC = 0x514649FB


def header(
    *,
    version: int = 3,
    backing: tuple[int, int] = (0, 0),
    cluster_bits: int = 16,
    size: int = 1 << 30,
    encryption: int = 0,
    incompatible: int = 0,
    length: int = 104,
    extensions: bytes = b"",
) -> bytes:
    """A header as docs/interop/qcow2.txt lays it out, padded to the first cluster."""
    head = struct.pack(">IIQIIQI", MAGIC, version, *backing, cluster_bits, size, encryption)
    head += struct.pack(">IQQIIQ", 16, 0x30000, 0x10000, 1, 0, 0)
    if version >= 3:
        head += struct.pack(">QQQII", incompatible, 0, 0, 4, length)
    return (head + extensions).ljust(HEAD_BYTES, b"\0")


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">II", kind, len(content)) + content.ljust((len(content) + 7) // 8 * 8, b"\0")


@pytest.mark.parametrize(
    "head",
    [
        header(),
        header(version=2),
        header(incompatible=8, length=112, extensions=b"\1" + bytes(7)),  # zstd
        header(incompatible=16),  # extended L2
        header(cluster_bits=9)[:512],
        header(extensions=extension(0x6803F857, bytes(48 * 7))),  # feature name table, in every new image
        header(extensions=extension(0x12345678, b"unknown ones are skipped")),
    ],
)
def test_self_contained_images_are_accepted(head: bytes) -> None:
    found = check_header(head, "qcow2", len(head))
    assert (found.format, found.virtual_size_bytes) == ("qcow2", 1 << 30)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (header(backing=(0x200, 11)), "backing file"),
        (header(backing=(0x200, 0)), "backing file"),
        (header(backing=(0, 11)), "backing file"),
        (header(version=2, backing=(0x200, 11)), "backing file"),
        (header(incompatible=4), "external file"),
        (header(incompatible=4 | 64), "external file"),
        (header(incompatible=1), "closed cleanly"),
        (header(incompatible=2), "corrupt"),
        (header(incompatible=32), "not known"),
        (header(incompatible=1 << 63), "not known"),
        (header(encryption=1), "encrypted"),
        (header(encryption=2), "encrypted"),
        (header(version=1), "version 1"),
        (header(version=4), "version 4"),
        (header(cluster_bits=8), "cluster size"),
        (header(cluster_bits=22), "cluster size"),
        (header(cluster_bits=0xFFFFFFFF), "cluster size"),
        (header(size=0), "virtual size"),
        (header(size=1 << 63), "virtual size"),
        (header(length=103), "header length"),
        (header(length=96), "header length"),
        (header(length=0xFFFFFFF8), "header length"),
        (header(extensions=extension(0x44415441, b"/etc/shadow")), "external data file"),
        (header(extensions=extension(0xE2792ACA, b"raw")), "backing file"),
        (header(extensions=extension(0x0537BE77, bytes(16))), "encrypted"),
        (header(version=2, extensions=extension(0x44415441, b"/etc/shadow")), "external data file"),
        (header(extensions=extension(0x12345678, b"x") * 65), "too many extensions"),
        (header(extensions=struct.pack(">II", 0x12345678, 0xFFFFFFF0), cluster_bits=21), "cut off"),
        (header()[:71], "cut off"),
        (header()[:103], "cut off"),
        (header()[:104], "cut off"),
        (b"QFI\xfb", "cut off"),
        (b"", "no bytes"),
        (bytes(1024), "like a raw disk"),
        (b"KDMV" + bytes(1024), "vmdk"),
        (b"\x1f\x8b\x08" + bytes(1024), "gzip-compressed: publish it decompressed"),
        (b"\xfd7zXZ\0" + bytes(1024), "xz-compressed"),
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML>", "HTML page"),
    ],
)
def test_refused_with_the_reason(head: bytes, words: str) -> None:
    with pytest.raises(Rejected, match=words) as refusal:
        check_header(head, "qcow2", len(head))
    assert (refusal.value.field or "").startswith("spec.source")


@pytest.mark.parametrize(
    "start",
    [
        header(),
        header(version=1),
        b"QED\0",
        b"KDMV",
        b"COWD",
        b"# Disk DescriptorFile",
        b"vhdxfile",
        b"conectix",
        bytes(0x40) + b"\x7f\x10\xda\xbe",
        b"LUKS\xba\xbe",
        b"OOOM",
        b"WithoutFreeSpace",
        b"WithouFreSpacExt",
        b"Bochs Virtual HD Image",
        b"\x1f\x8b\x08",
        b"<html>",
    ],
)
def test_a_raw_disk_must_not_look_like_anything_that_a_host_would_interpret(start: bytes) -> None:
    content = start.ljust(4096, b"\0")
    with pytest.raises(Rejected, match="declared as raw"):
        check_header(content, "raw", len(content))


def test_a_raw_disk_has_the_size_of_its_bytes() -> None:
    boot_sector = b"\xeb\x63\x90".ljust(510, b"\0") + b"\x55\xaa"
    assert check_header(boot_sector, "raw", 10**9).virtual_size_bytes == 10**9


def test_other_formats_are_none_of_ours() -> None:
    with pytest.raises(Rejected, match="qcow2, raw"):
        check_header(b"KDMV", "vmdk", 4)


@given(st.binary(max_size=2048))
@example(b"QFI\xfb\0\0\0\3")
def test_any_bytes_are_judged_and_nothing_else_is_raised(content: bytes) -> None:
    for format_ in ("qcow2", "raw"):
        try:
            found = check_header(content, format_, len(content))
        except Rejected:
            continue
        assert found.virtual_size_bytes > 0
        assert (format_ == "qcow2") == (recognise(content) == "qcow2")


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=400),
)
def test_no_accepted_header_names_another_file(
    version: int, offset: int, length: int, incompatible: int, header_length: int, rest: bytes
) -> None:
    head = bytearray(header(extensions=rest))
    struct.pack_into(">IQI", head, 4, version, offset, length)
    struct.pack_into(">Q", head, 72, incompatible)
    struct.pack_into(">I", head, 100, header_length)
    try:
        check_header(bytes(head), "qcow2", len(head))
    except Rejected:
        return
    assert version in (2, 3)
    assert (offset, length) == (0, 0)
    assert version == 2 or not incompatible & 4


@given(st.data())
def test_a_flipped_byte_never_makes_it_larger_than_it_says(data: st.DataObject) -> None:
    head = bytearray(header())
    head[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    try:
        found = check_header(bytes(head), "qcow2", len(head))
    except Rejected:
        return
    assert found.virtual_size_bytes == int.from_bytes(head[24:32], "big")


needs_qemu_img = pytest.mark.skipif(
    shutil.which("qemu-img") is None, reason="qemu-img is missing: apt-get install --no-install-recommends qemu-utils"
)


@needs_qemu_img
@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ("compat=0.10", True),
        ("compat=1.1", True),
        ("cluster_size=512", True),
        ("cluster_size=2M", True),
        ("extended_l2=on", True),
        ("lazy_refcounts=on", True),
        ("preallocation=metadata", True),
        ("data_file=other.raw", False),
        ("data_file=other.raw,data_file_raw=on", False),
    ],
)
def test_what_qemu_img_makes(tmp_path: Path, options: str, accepted: bool) -> None:
    image = tmp_path / "i.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image.name, "100M"], check=True, cwd=tmp_path
    )
    head = image.read_bytes()[:HEAD_BYTES]
    if accepted:
        assert check_header(head, "qcow2", image.stat().st_size).virtual_size_bytes == 100 * 1024**2
    else:
        with pytest.raises(Rejected, match="external"):
            check_header(head, "qcow2", image.stat().st_size)


@needs_qemu_img
def test_a_flattened_overlay_is_accepted_and_the_overlay_is_not(tmp_path: Path) -> None:
    def qemu_img(*arguments: str) -> None:
        subprocess.run(["qemu-img", *arguments], check=True, cwd=tmp_path, capture_output=True)

    qemu_img("create", "-f", "qcow2", "base.qcow2", "10M")
    qemu_img("create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "overlay.qcow2")
    with pytest.raises(Rejected, match="backing file"):
        check_header((tmp_path / "overlay.qcow2").read_bytes()[:HEAD_BYTES], "qcow2", 10**6)
    for flat in (["convert", "-O", "qcow2", "overlay.qcow2", "flat.qcow2"], ["rebase", "-b", "", "overlay.qcow2"]):
        qemu_img(*flat)
        path = tmp_path / ("flat.qcow2" if flat[0] == "convert" else "overlay.qcow2")
        assert check_header(path.read_bytes()[:HEAD_BYTES], "qcow2", 10**6).virtual_size_bytes == 10 * 1024**2
