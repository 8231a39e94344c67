"""How every benchmark speaks: rows of figures, printed as JSON (one line a row) and as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

Row = Mapping[str, object]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of them lie, by the nearest-rank rule."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def show(title: str, rows: Sequence[Row]) -> None:
    """Print them. Floats with three significant digits in the table, whole in the JSON."""
    for row in rows:
        print(json.dumps({"bench": title, **row}))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    print(f"\n== {title}")
    print("  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)))
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    print(flush=True)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
