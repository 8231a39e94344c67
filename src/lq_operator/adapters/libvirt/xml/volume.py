"""Volumes of file pools: definition and what a host says about one."""

from __future__ import annotations

from lq_operator.adapters.libvirt.xml.build import dump, file_name, node, parse, size_bytes
from lq_operator.core.model import VolumePlan, VolumeSeen
from lq_operator.core.result import Rejected

FORMATS = ("qcow2", "raw")


def volume_xml(plan: VolumePlan) -> str:
    """Definition of a thin volume. qcow2 is written as compat 1.1 (lazy refcounts and extended L2 left out: ABI of old hosts)."""
    if plan.format not in FORMATS:
        raise Rejected(f"volume {plan.name}: format {plan.format!r} is not one of {', '.join(FORMATS)}", field="format")
    if plan.capacity_bytes < 0:
        raise Rejected(f"volume {plan.name}: capacity {plan.capacity_bytes} is negative", field="capacity")
    root = node(None, "volume", type="file")
    node(root, "name", file_name(plan.name, "volume.name"))
    node(root, "capacity", str(plan.capacity_bytes), unit="bytes")
    node(root, "allocation", "0", unit="bytes")  # without it libvirt 9 allocates raw volumes fully
    target = node(root, "target")
    node(target, "format", type=plan.format)
    if plan.mode is not None:
        node(node(target, "permissions"), "mode", f"0{plan.mode:o}")
    if plan.format == "qcow2":
        node(target, "compat", "1.1")
    return dump(root)


def read_volume(document: str) -> VolumeSeen:
    """What the pool knew at its last refresh."""
    root = parse(document, "volume")
    form = root.find("target/format")
    return VolumeSeen(
        name=root.findtext("name") or "",
        path=root.findtext("target/path") or "",
        format=(form.get("type") or "") if form is not None else "",
        capacity_bytes=size_bytes(root.find("capacity")),
        allocation_bytes=size_bytes(root.find("allocation")),
        backing_path=root.findtext("backingStore/path") or "",
    )
