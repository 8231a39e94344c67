"""RFC 6902 and server-side apply on plain documents, as far as the API server's behaviour matters to us."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lq_operator.core.result import Conflict

Path = tuple[str, ...]
Owned = frozenset[Path]


def json_patch(document: dict[str, Any], operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A patched copy. Conflict when a test fails or a path is missing, as the API server answers 422."""
    result = copy.deepcopy(document)
    for operation in operations:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
        _apply(result, operation, steps)
    return result


def _apply(document: dict[str, Any], operation: Mapping[str, Any], steps: list[str]) -> None:
    op, path = operation["op"], operation["path"]
    parent: Any = document
    for step in steps[:-1]:
        try:
            parent = parent[int(step)] if isinstance(parent, list) else parent[step]
        except (KeyError, IndexError, ValueError, TypeError):
            if op == "test" and operation.get("value") is None:
                return  # the API server's library takes a missing path for null
            raise Conflict(f"{op} operation does not apply: {path} is missing") from None
    last = steps[-1]
    present = _has(parent, last)
    value = copy.deepcopy(operation.get("value"))
    match op:
        case "test":
            found = _get(parent, last) if present else None
            if found != value:
                raise Conflict(f"testing value {path} failed: {json.dumps(found)}")
        case "add":
            _add(parent, last, value, path)
        case "replace" if present:
            _set(parent, last, value)
        case "remove" if present:
            del parent[int(last) if isinstance(parent, list) else last]
        case "replace" | "remove":
            raise Conflict(f"{op} operation does not apply: {path} is missing")
        case _:
            raise NotImplementedError(f"JSON patch operation {op!r}")


def _has(parent: Any, step: str) -> bool:
    if isinstance(parent, list):
        return step.isdigit() and int(step) < len(parent)
    return isinstance(parent, dict) and step in parent


def _get(parent: Any, step: str) -> Any:
    return parent[int(step)] if isinstance(parent, list) else parent[step]


def _set(parent: Any, step: str, value: Any) -> None:
    parent[int(step) if isinstance(parent, list) else step] = value


def _add(parent: Any, step: str, value: Any, path: str) -> None:
    if isinstance(parent, dict):
        parent[step] = value
    elif isinstance(parent, list):
        parent.insert(len(parent) if step == "-" else int(step), value)
    else:
        raise Conflict(f"add operation does not apply: the parent of {path} is missing")


# ---------------------------------------------------------------- server-side apply


def leaves(value: Any, list_keys: Mapping[Path, tuple[str, ...]], path: Path = (), schema: Path = ()) -> set[Path]:
    """Paths of the leaves; an item of a list-map is a step like 'k:{"type":"Ready"}'. Other lists are leaves."""
    if isinstance(value, dict) and value:
        found: set[Path] = set()
        for key, item in value.items():
            found |= leaves(item, list_keys, (*path, f"f:{key}"), (*schema, key))
        return found
    keys = list_keys.get(schema)
    if isinstance(value, list) and keys and value:
        found = set()
        for item in value:
            found |= leaves(item, list_keys, (*path, item_step(item, keys)), schema)
        return found
    return {path}


def item_step(item: Mapping[str, Any], keys: Iterable[str]) -> str:
    """The step that names an item of a list-map."""
    return "k:" + json.dumps({key: item.get(key) for key in keys}, sort_keys=True)


def merge(stored: Any, applied: Any, list_keys: Mapping[Path, tuple[str, ...]], schema: Path = ()) -> Any:
    """`stored` with `applied` laid over it."""
    if isinstance(stored, dict) and isinstance(applied, dict):
        result = dict(stored)
        for key, item in applied.items():
            result[key] = merge(stored[key], item, list_keys, (*schema, key)) if key in stored else copy.deepcopy(item)
        return result
    keys = list_keys.get(schema)
    if keys and isinstance(stored, list) and isinstance(applied, list):
        result_list = list(stored)
        places = {item_step(item, keys): index for index, item in enumerate(result_list)}
        for item in applied:
            place = places.get(item_step(item, keys))
            if place is None:
                result_list.append(copy.deepcopy(item))
            else:
                result_list[place] = merge(result_list[place], item, list_keys, schema)
        return result_list
    return copy.deepcopy(applied)


def drop(document: Any, path: Path, list_keys: Mapping[Path, tuple[str, ...]], schema: Path = ()) -> None:
    """Remove a leaf, and the containers that it leaves empty."""
    step, rest = path[0], path[1:]
    if step.startswith("f:"):
        key = step[2:]
        if not isinstance(document, dict) or key not in document:
            return
        if rest:
            drop(document[key], rest, list_keys, (*schema, key))
        if not rest or document[key] in ({}, []):
            del document[key]
        return
    keys = list_keys[schema]
    if not isinstance(document, list):
        return
    for index, item in enumerate(document):
        if item_step(item, keys) != step:
            continue
        key_leaf = len(rest) == 1 and rest[0][2:] in keys
        if rest and not key_leaf:
            drop(item, rest, list_keys, schema)
        if not rest or set(item) <= set(keys):
            del document[index]
        return


def list_map_keys(schema: Mapping[str, Any]) -> dict[Path, tuple[str, ...]]:
    """Every list-map of a JSON schema (pydantic's) with its keys, by its path."""
    found: dict[Path, tuple[str, ...]] = {}
    _walk_schema(schema, schema.get("$defs", {}), (), found, depth=0)
    return found


def _walk_schema(
    node: Mapping[str, Any], defs: Mapping[str, Any], path: Path, found: dict[Path, tuple[str, ...]], depth: int
) -> None:
    if depth > 16:
        return
    if "$ref" in node:
        _walk_schema(defs[node["$ref"].rsplit("/", 1)[1]], defs, path, found, depth + 1)
    for option in (*node.get("anyOf", ()), *node.get("allOf", ())):
        _walk_schema(option, defs, path, found, depth + 1)
    if "x-kubernetes-list-map-keys" in node:
        found[path] = tuple(node["x-kubernetes-list-map-keys"])
    if isinstance(node.get("items"), dict):
        _walk_schema(node["items"], defs, path, found, depth + 1)
    for key, item in node.get("properties", {}).items():
        _walk_schema(item, defs, (*path, key), found, depth + 1)
