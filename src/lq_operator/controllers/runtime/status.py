"""Writes a manager's part of status, once, and only when it says something new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from lq_operator.api.base import Resource
from lq_operator.ports import Resources

K = TypeVar("K", bound=Resource)

_STAMP_SUFFIXES = ("Time", "Timestamp", "At")
_STAMPS = ("since",)


async def report_status(resources: Resources, obj: K, status: Mapping[str, Any], manager: str) -> bool:
    """Server-side apply of `status` as `manager`, skipped when nothing but timestamps would change. True: written.

    `status` (camelCase, as on the wire) names EVERY field that the manager owns, with None where it has nothing to
    say: so a value that goes away is removed from the object and seen here as a change. Of `conditions` the manager
    owns the types it gives. ValueError for a field that the kind does not have. Errors: ports.Resources.apply_status.
    """
    model = _status_model(type(obj))
    known = {field.alias or name for name, field in model.model_fields.items()}
    if unknown := set(status) - known:
        raise ValueError(f"{type(obj).kind_name}.status has no field {', '.join(sorted(unknown))}")
    wanted = model.model_validate({key: value for key, value in status.items() if value is not None})
    stored = getattr(obj, "status", None)
    if stored is not None and _facts(wanted, status) == _facts(stored, status):
        return False
    await resources.apply_status(obj, without_none(status), manager=manager)
    return True


def without_none(value: Any) -> Any:
    """The same value with every None field left out, at any depth: absent is how server-side apply removes."""
    if isinstance(value, Mapping):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_none(item) for item in value]
    return value


def _status_model(kind: type[Resource]) -> type[BaseModel]:
    annotation = kind.model_fields["status"].annotation
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    raise ValueError(f"{kind.kind_name}: status is not a model")


def _facts(model: BaseModel, owned: Mapping[str, Any]) -> dict[str, Any]:
    dumped = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    facts = {key: dumped.get(key) for key in owned}  # a field that is left out counts as its default
    if "conditions" in facts:
        types = {condition["type"] for condition in owned["conditions"] or ()}
        facts["conditions"] = {c["type"]: c for c in facts["conditions"] or () if c["type"] in types}
    kept: dict[str, Any] = _without_stamps(facts)
    return kept


def _without_stamps(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_stamps(item)
            for key, item in value.items()
            if not (key in _STAMPS or key.endswith(_STAMP_SUFFIXES))
        }
    if isinstance(value, list):
        return [_without_stamps(item) for item in value]
    return value
