"""How commands print: tables that line up, sizes that people read, JSON of any value."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, indent: str = "") -> str:
    """Columns as wide as their widest cell; the last one is not padded."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
    return "\n".join(
        indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def mib(amount: int) -> str:
    """'12.5 GiB' or '512 MiB'."""
    return f"{amount / 1024:.1f} GiB" if amount >= 1024 else f"{amount} MiB"


def to_json(value: Any) -> str:
    """Dataclasses, named tuples and maps as JSON for people and programs."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (
            str(value)
            if type(value).__str__ is not tuple.__str__
            else {name: _plain(getattr(value, name)) for name in value._fields}
        )
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return value
