"""Dir pools: definition and what a host says about one."""

from __future__ import annotations

from lq_operator.adapters.libvirt.xml.build import dump, file_name, node, parse, path, size_bytes
from lq_operator.core.model import PoolPlan, PoolSeen


def pool_xml(plan: PoolPlan) -> str:
    """Definition of a dir pool."""
    root = node(None, "pool", type="dir")
    node(root, "name", file_name(plan.name, "pool.name"))
    target = node(root, "target")
    node(target, "path", path(plan.path, "pool.path"))
    node(node(target, "permissions"), "mode", f"0{plan.mode:o}")
    return dump(root)


def read_pool(document: str, *, active: bool) -> PoolSeen:
    """Sizes are those of the last refresh, and 0 while the pool is not active."""
    root = parse(document, "pool")
    return PoolSeen(
        name=root.findtext("name") or "",
        active=active,
        path=root.findtext("target/path") or "",
        capacity_bytes=size_bytes(root.find("capacity")),
        available_bytes=size_bytes(root.find("available")),
    )


def pool_type(document: str) -> str:
    """'dir', 'netfs' ..."""
    return str(parse(document, "pool").get("type") or "")
