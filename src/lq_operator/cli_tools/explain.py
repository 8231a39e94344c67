"""`lq-operator explain fields`: what a change of each field does to a running VM; the page and the admission policy made of it.

The table is core/lifecycle/fields.py; this room only writes it down.
"""

from __future__ import annotations

import json
from pathlib import Path

from lq_operator.api.structural import Schema, resource_schema, walk
from lq_operator.api.vm import VirtualMachine
from lq_operator.core.lifecycle.fields import FIELDS, Effect, Row
from lq_operator.core.result import Rejected

REMEDY = "run lq-operator explain fields --write"
_DOCS, _POLICY = Path("docs/reference/fields.md"), Path("charts/lq-operator/files/change-warnings.yaml")


def leaves() -> list[str]:
    """Every leaf field of spec, as spec.disks[].bus."""
    schema = resource_schema(VirtualMachine)["properties"]["spec"]
    return [path for path, node in walk(schema, "spec") if _is_leaf(node)]


def _is_leaf(node: Schema) -> bool:
    return not any(isinstance(node.get(word), dict) for word in ("properties", "items", "additionalProperties"))


def run(write: Path | None, check: Path | None, output: str) -> int:
    """`write`, `check`: the root of a checkout."""
    if write is not None:
        for name, content in files().items():
            (write / name).write_text(content, encoding="utf-8")
        return 0
    if check is not None:
        problems = [
            f"{name} differs from the table: {REMEDY} ."
            for name, content in files().items()
            if not (check / name).is_file() or (check / name).read_text(encoding="utf-8") != content
        ]
        print("\n".join(problems), end="\n" if problems else "")
        return 1 if problems else 0
    print(_as_json() if output == "json" else _as_text())
    return 0


def files() -> dict[Path, str]:
    """What is generated from the table, by its path in a checkout."""
    return {_DOCS: page(), _POLICY: policy()}


def _as_json() -> str:
    rows = [{"path": path, "effect": row.effect.value, "when": row.when} for path, row in FIELDS.items()]
    return json.dumps(rows, indent=2)


def _as_text() -> str:
    width = max(map(len, FIELDS))
    return "\n".join(f"{path:<{width}}  {row.effect:<10}  {row.when}".rstrip() for path, row in FIELDS.items())


# ---------------------------------------------------------------- the page

_INTRO = """\
<!-- Generated from core/lifecycle/fields.py (lq-operator explain fields --write .); edit that. -->

# What a change does to a running VM

`kubectl apply` says it at once (a warning of the API server), `status.changes` of the VM until it is so, and condition
PendingChanges in one sentence. A change that is taken back vanishes. The same list: `lq-operator explain fields`.

- **Live**: applied to the running guest. What the guest or its host does not take is said in `status.changes` and tried again.
- **PowerCycle**: with the next start by the operator (Restart, or Stop and Start). A reboot inside the guest is none.
- **Migrate**: with the next move to another host.
- **Impossible**: make a new VM; the same volumes can be used.
- **Nothing**: not a thing of the guest; read when it is needed.

A row is about its field and everything below it.

| field | effect | more | observed in tests |
|---|---|---|---|
"""

_GUEST = """
## What the guest has to do

Linux sees added vCPUs and memory by itself, but leaves them off line unless told otherwise. Most distributions for clouds
have these udev rules; where they are missing:

```
SUBSYSTEM=="cpu", ACTION=="add", TEST=="online", ATTR{online}!="1", ATTR{online}="1"
SUBSYSTEM=="memory", ACTION=="add", TEST=="state", ATTR{state}!="online", ATTR{state}="online"
```

`spec.cpu.maxCount` and `spec.memory.maxSize` are chosen before the start: left out, a guest gets exactly what it was
declared, as before, and what it sees does not change with the operator's version. Added memory is a virtio-mem device (Linux
5.8, Windows with the virtio drivers of 2023, or later); memory below the size of the last start is given back by balloon.
"""


def page() -> str:
    """docs/reference/fields.md."""
    rows = "".join(
        f"| `{path}` | {row.effect.value} | {_cell(row.when)} | {_cell(row.observed)} |\n"
        for path, row in FIELDS.items()
    )
    return _INTRO + rows + _GUEST


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# ---------------------------------------------------------------- the policy

_HEAD = """\
# Generated from core/lifecycle/fields.py (lq-operator explain fields --write .); edit that.
# Each is true where nothing is to be said. `new` and `old` are the specs, `pending` the paths of status.changes.
"""


def policy() -> str:
    """The validations of the chart's ValidatingAdmissionPolicy, one for each field that a running VM does not take live."""
    entries = []
    for path, row in FIELDS.items():
        condition = warns_when(path, row)
        if condition:
            message = f"{path.replace('[]', '')} {Effect.POWER_CYCLE.phrase}"
            if row.effect is Effect.IMPOSSIBLE:
                message = f"{path} {Effect.IMPOSSIBLE.phrase}: {row.when[0].lower()}{row.when[1:].rstrip('.')}"
            entries.append(f"- expression: {json.dumps(f'!({condition})')}\n  message: {json.dumps(message)}\n")
    return _HEAD + "".join(entries)


_REFUSED = "Refused by the API server."
_LISTS = {"disks", "cdroms", "interfaces"}


def warns_when(path: str, row: Row) -> str:
    """CEL over variables.new, .old and .pending that is true where the row's warning is due; '' where it never is.

    What is pending already was told when it came, and may be about to be taken back: nothing is said then.
    """
    if row.effect in (Effect.NOTHING, Effect.MIGRATE) or row.when == _REFUSED:
        return ""
    head, _, rest = path.removeprefix("spec.").partition("[].")
    if rest:
        return _item_warning(head, rest, row)
    differs = _differs(path, row)
    return f"({differs}) && !variables.pending.exists(p, p.startsWith('{path}'))" if differs else ""


def _differs(path: str, row: Row) -> str:
    if row.effect is Effect.LIVE:
        return row.also.replace("new.", "variables.new.").replace("old.", "variables.old.")
    if path == "spec.machine":  # recorded at the first start; leaving it out changes nothing
        return "has(variables.new.machine) && variables.new.?machine != variables.old.?machine"
    chain = ".".join(f"?{part}" for part in path.removeprefix("spec.").split("."))
    differs = f"variables.new.{chain} != variables.old.{chain}"
    return f"variables.new.{chain}.hasValue() && {differs}" if path == "spec.cpu.model" else differs


def _item_warning(items: str, rest: str, row: Row) -> str:
    """For a field of the items of a list by name: some item is in both and differs."""
    new, old = f"variables.new.?{items}.orValue([])", f"variables.old.?{items}.orValue([])"
    untold = f"!(('spec.{items}[' + n.name + '].{rest}') in variables.pending)"
    if rest == "name":
        also = row.also or ("true" if row.effect is Effect.POWER_CYCLE else "")
        if not also:
            return ""
        one_way = f"{new}.exists(n, ({also}) && {untold} && !{old}.exists(o, o.name == n.name))"
        return f"{one_way} || {old}.exists(n, ({also}) && {untold} && !{new}.exists(o, o.name == n.name))"
    if row.effect is Effect.LIVE:
        return ""
    chain = ".".join(f"?{part}" for part in rest.split("."))
    return f"{new}.exists(n, {untold} && {old}.exists(o, o.name == n.name && n.{chain} != o.{chain}))"


def require_rows() -> None:
    """Rejected naming the leaf fields that have no row, and the rows that have no field."""
    known = leaves()
    lost = [path for path in known if not _covered(path)]
    idle = [row for row in FIELDS if not any(_below(path, row) for path in known)]
    if lost or idle:
        raise Rejected(f"fields without a row: {lost}; rows without a field: {idle}")


def _covered(path: str) -> bool:
    return any(_below(path, row) for row in FIELDS)


def _below(path: str, row: str) -> bool:
    return path == row or path.startswith((f"{row}.", f"{row}[", f"{row}{{"))
