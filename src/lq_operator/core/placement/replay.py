"""A decision as a record that another process can repeat: inputs, versions, seed and outcome as canonical JSON.

`record_of` writes what a decision saw; `replay` decides again from the record alone and returns the outcome's bytes.
The two are equal byte for byte, or something that matters is not in the record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from lq_operator.core.placement import selectors, types
from lq_operator.core.placement.engine import PlacementEngine
from lq_operator.core.placement.types import Decision, Placed, PlacementRequest

FORMAT = 1

_CLASSES: dict[str, Any] = {
    name: value
    for module in (types, selectors)
    for name, value in vars(module).items()
    if isinstance(value, type) and value.__module__ == module.__name__
}


def encode(value: Any) -> Any:
    """Plain JSON values. Classes carry their name; sets are sorted; maps become sorted pairs (their keys may be ints)."""
    if isinstance(value, selectors.Operator):
        return {"enum": value.value}
    if value is None or isinstance(value, (str, int, float)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        shown = {f.name: encode(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"is": type(value).__name__, **shown}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"is": type(value).__name__, **{name: encode(getattr(value, name)) for name in value._fields}}
    if isinstance(value, Mapping):
        return {"map": [[encode(key), encode(value[key])] for key in sorted(value)]}
    if isinstance(value, frozenset):
        return {"set": sorted(value)}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be part of a decision record")


def decode(value: Any) -> Any:
    """Inverse of `encode`. ValueError for a class that is none of ours."""
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "enum" in value:
        return selectors.Operator(value["enum"])
    if "map" in value:
        return {decode(key): decode(item) for key, item in value["map"]}
    if "set" in value:
        return frozenset(value["set"])
    name = value.get("is")
    if name not in _CLASSES:
        raise ValueError(f"decision record: {name!r} is not a value of the placement engine")
    return _CLASSES[name](**{key: decode(item) for key, item in value.items() if key != "is"})


def canonical(value: Any) -> bytes:
    """The one byte form of a value: sorted keys, no spaces, floats as Python's shortest exact text."""
    return json.dumps(
        encode(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def record_of(engine: PlacementEngine, request: PlacementRequest, decision: Decision) -> bytes:
    """Everything the decision saw. Call it before the decision is applied.

    A failover guard is not part of the record: its refusals are in the outcome, so `replay` refuses such a record.
    """
    state = engine.state
    hosts = dict(sorted(state.rows.items()))
    body = {
        "format": FORMAT,
        "strategy": engine.strategy,
        "seed": engine.seed,
        "guarded": engine.guard is not None,
        "versions": {name: int(state.version[row]) for name, row in hosts.items()},
        "hosts": [encode(entry.facts) for row in hosts.values() if (entry := state.row[row]) is not None],
        "vms": [encode(state.placed[key]) for key in sorted(state.placed)],
        "reservations": [encode(state.reserved[key]) for key in sorted(state.reserved)],
        "request": encode(request),
        "outcome": encode(decision),
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def rebuild(record: bytes) -> tuple[PlacementEngine, PlacementRequest]:
    """An engine in the recorded state, and the request. ValueError for records this version cannot read."""
    body = json.loads(record)
    if body.get("format") != FORMAT:
        raise ValueError(f"decision record: format {body.get('format')!r} is not {FORMAT}")
    engine = PlacementEngine(body["strategy"], seed=body["seed"])
    for facts in body["hosts"]:
        engine.set_host(decode(facts))
    for vm in body["vms"]:
        placed: Placed = decode(vm)
        engine.set_vm(placed)
    for held in body["reservations"]:
        engine.hold(decode(held))
    request: PlacementRequest = decode(body["request"])
    return engine, request


def replay(record: bytes) -> bytes:
    """Decide again from the record; the outcome in canonical bytes, to be compared with `outcome_of(record)`."""
    if json.loads(record).get("guarded"):
        raise ValueError("decision record: it was made with a failover guard, which a record does not hold")
    engine, request = rebuild(record)
    return canonical(engine.decide(request))


def outcome_of(record: bytes) -> bytes:
    """The recorded outcome in canonical bytes."""
    body = json.loads(record)
    return json.dumps(
        body["outcome"], sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
