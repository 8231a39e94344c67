"""Leaving a tombstone in a node's status and taking it away: tested patches, because several controllers leave them.

Whoever deletes something on a host that is away leaves one; only the controller that owns the host takes one away, or
notes the evidence that its VM runs no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lq_operator.api.node import HypervisorNode, Tombstone
from lq_operator.core.model import NodeName
from lq_operator.ports import Resources, Store


async def leave_tombstone(resources: Resources, node: NodeName, tombstone: Tombstone, *, manager: str) -> None:
    """Add it. There already, or the node object gone, is success; Conflict when the node changed meanwhile."""
    found = await resources.get(HypervisorNode, None, node)
    if found is None or any(t.uid == tombstone.uid for t in found.status.tombstones):
        return
    value = tombstone.model_dump(by_alias=True, mode="json")
    add: dict[str, Any] = {"op": "add", "path": "/status/tombstones/-", "value": value}
    if not found.status.tombstones:
        add = {"op": "add", "path": "/status/tombstones", "value": [value]}
    await _patch(resources, found, [add], manager)


async def drop_tombstone(resources: Resources, node: NodeName, uid: str, *, manager: str) -> None:
    """Take it away; absent already is success."""
    found = await resources.get(HypervisorNode, None, node)
    if found is None:
        return
    index = next((i for i, t in enumerate(found.status.tombstones) if t.uid == uid), None)
    if index is not None:
        await _patch(resources, found, [{"op": "remove", "path": f"/status/tombstones/{index}"}], manager)


async def release_tombstone(resources: Resources, node: NodeName, released: Tombstone, *, manager: str) -> None:
    """Put it in the place of the one with its uid: with evidence it counts as a placement no more.

    Conflict when the node changed meanwhile.
    """
    found = await resources.get(HypervisorNode, None, node)
    if found is None:
        return
    index = next((i for i, t in enumerate(found.status.tombstones) if t.uid == released.uid), None)
    if index is not None:
        value = released.model_dump(by_alias=True, mode="json")
        replace = {"op": "replace", "path": f"/status/tombstones/{index}", "value": value}
        await _patch(resources, found, [replace], manager)


async def _patch(
    resources: Resources, node: HypervisorNode, operations: Sequence[dict[str, Any]], manager: str
) -> None:
    # The index is only right for the list that was read.
    test = {"op": "test", "path": "/metadata/resourceVersion", "value": node.metadata.resource_version}
    name = node.metadata.name
    await resources.json_patch(HypervisorNode, None, name, [test, *operations], subresource="status", manager=manager)


def doomed_files(store: Store, pool: str, on: str = "") -> set[str]:
    """Files of this pool that a tombstone names: they go with it and are nobody else's. `on`: of this node alone, for
    a pool whose hosts have files of the same name (a move leaves an old copy behind)."""
    return {
        volume.file
        for node in store.list(HypervisorNode)
        if on in ("", node.metadata.name)
        for tombstone in node.status.tombstones
        for volume in tombstone.volumes
        if volume.pool == pool
    }
