"""Our finalizer on an object: put there before anything outside is touched, taken away when all of it is cleaned up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from lq_operator.api.base import FINALIZER, Resource
from lq_operator.core.result import NotFound
from lq_operator.ports import Resources

K = TypeVar("K", bound=Resource)


async def ensure_finalizer(resources: Resources, obj: K, *, manager: str, finalizer: str = FINALIZER) -> K:
    """The object with our finalizer. Conflict when it changed since it was read; a deleting object is left alone."""
    if finalizer in obj.metadata.finalizers or obj.deleting:
        return obj
    return await _patch(resources, obj, [*obj.metadata.finalizers, finalizer], manager)


async def remove_finalizer(resources: Resources, obj: Resource, *, manager: str, finalizer: str = FINALIZER) -> None:
    """Let the object go. Absent already is success; Conflict when it changed since it was read."""
    if finalizer not in obj.metadata.finalizers:
        return
    try:
        await _patch(resources, obj, [name for name in obj.metadata.finalizers if name != finalizer], manager)
    except NotFound:
        return


async def _patch(resources: Resources, obj: K, finalizers: list[str], manager: str) -> K:
    meta = obj.metadata
    operations: list[Mapping[str, Any]] = [
        {"op": "test", "path": "/metadata/uid", "value": meta.uid},
        # The list is replaced whole, so it must be the one that was read: others keep finalizers here too.
        {"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version},
        {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
    ]
    return await resources.json_patch(type(obj), meta.namespace, meta.name, operations, manager=manager)
