"""A decision as a record that another process can repeat: inputs, versions, seed and outcome as canonical JSON.

`record_of` writes what a decision saw; `replay` decides again from the record alone and returns the outcome's bytes.
The two are equal byte for byte, or something that matters is not in the record. Of a failover guard a record holds what
it refused, not its evidence: its answers are repeated as recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from lq_operator.core.placement import selectors, types
from lq_operator.core.placement.engine import PlacementEngine
from lq_operator.core.placement.types import Decision, HostFacts, Placed, PlacementRequest, Reservation

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
    return _bytes_of(encode(value))


def record_of(
    engine: PlacementEngine,
    request: PlacementRequest,
    decision: Decision,
    refusals: Mapping[str, str] | None = None,
) -> bytes:
    """Everything the decision saw. Call it before the decision is applied.

    refusals: host -> sentence of everything the engine's guard refused for it; ValueError where a guard was asked and
    they are missing, because such a record could not be repeated.
    """
    if engine.guard is not None and refusals is None:
        raise ValueError("decision record: refusals: is missing; pass what the engine's guard refused ({} for nothing)")
    state = engine.state
    hosts = dict(sorted(state.rows.items()))
    return compose(
        engine.strategy,
        engine.seed,
        versions={name: int(state.version[row]) for name, row in hosts.items()},
        hosts=[entry.facts for row in hosts.values() if (entry := state.row[row]) is not None],
        vms=[state.placed[key] for key in sorted(state.placed)],
        reservations=[state.reserved[key] for key in sorted(state.reserved)],
        request=request,
        outcome=decision,
        refusals=refusals if engine.guard is not None else None,
    )


def compose(
    strategy: str,
    seed: int,
    *,
    versions: Mapping[str, int],
    hosts: Iterable[HostFacts],
    vms: Iterable[Placed],
    reservations: Iterable[Reservation],
    request: PlacementRequest,
    outcome: Decision,
    refusals: Mapping[str, str] | None,
    **more: str,
) -> bytes:
    """A record from its pieces, each list in the order of its names. refusals: None = no guard was asked. more: told
    along, not replayed."""
    body = {
        **more,
        "format": FORMAT,
        "strategy": strategy,
        "seed": seed,
        "guarded": refusals is not None,
        "refusals": dict(refusals or {}),
        "versions": dict(versions),
        "hosts": [encode(facts) for facts in hosts],
        "vms": [encode(placed) for placed in vms],
        "reservations": [encode(held) for held in reservations],
        "request": encode(request),
        "outcome": encode(outcome),
    }
    return _bytes_of(body)


def _bytes_of(plain: Any) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def rebuild(record: bytes) -> tuple[PlacementEngine, PlacementRequest]:
    """An engine in the recorded state, and the request. ValueError for what is no record that this version can read."""
    body = json.loads(record)
    if not isinstance(body, dict):
        raise ValueError(f"decision record: {type(body).__name__} is not an object")  # noqa: TRY004  one error type
    if body.get("format") != FORMAT:
        raise ValueError(f"decision record: format {body.get('format')!r} is not {FORMAT}")
    try:
        return _rebuilt(body)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"decision record: is not whole: {error}") from error


def _rebuilt(body: dict[str, Any]) -> tuple[PlacementEngine, PlacementRequest]:
    engine = PlacementEngine(body["strategy"], seed=body["seed"])
    for facts in body["hosts"]:
        engine.set_host(decode(facts))
    for vm in body["vms"]:
        placed: Placed = decode(vm)
        engine.set_vm(placed)
    for held in body["reservations"]:
        engine.hold(decode(held))
    if body.get("guarded"):
        refusals: dict[str, str] = dict(body["refusals"])
        engine.guard = lambda _identity, _shape, host: refusals.get(host, "")
    request: PlacementRequest = decode(body["request"])
    return engine, request


def replay(record: bytes) -> bytes:
    """Decide again from the record; the outcome in canonical bytes, to be compared with `outcome_of(record)`."""
    engine, request = rebuild(record)
    return canonical(engine.decide(request))


def outcome_of(record: bytes) -> bytes:
    """The recorded outcome in canonical bytes."""
    return _bytes_of(json.loads(record)["outcome"])
