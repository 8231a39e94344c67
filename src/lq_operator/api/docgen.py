"""Reference pages from the models: `python -m lq_operator.api.docgen --write docs/reference/api | --check ...`.

It reads the same schema as the CRDs, so that a page cannot say anything that the API server does not enforce.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lq_operator.api.base import API_VERSION, Resource
from lq_operator.api.crdgen import check_files, generator, write_files
from lq_operator.api.kinds import KINDS
from lq_operator.api.structural import RULES, Schema, resource_schema, walk

_GENERATED = "<!-- Generated from the models (lq-operator crds --write); edit those. -->\n"


def pages() -> dict[str, str]:
    """File name -> Markdown: one page a kind, and README.md as the index."""
    return {"README.md": _index(), **{page_name(kind): page(kind) for kind in KINDS}}


def page_name(kind: type[Resource]) -> str:
    """Name of the page of a kind."""
    return f"{kind.kind_name.lower()}.md"


def page(kind: type[Resource]) -> str:
    """The reference page of one kind."""
    schema = resource_schema(kind)
    facts = [
        ("apiVersion", f"`{API_VERSION}`"),
        ("kind", f"`{kind.kind_name}`"),
        ("scope", kind.scope.value),
        ("resource", ", ".join(f"`{name}`" for name in (kind.plural, *kind.short_names))),
        ("field selectors", ", ".join(f"`{path[1:]}`" for path in kind.selectable) or "metadata only"),
    ]
    parts = [
        _GENERATED,
        f"# {kind.kind_name}\n",
        f"{schema['description']}\n",
        "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in facts),
    ]
    if RULES in schema:
        parts += ["## Name\n", _bullets([rule["message"] for rule in schema[RULES]])]
    for section in ("spec", "status"):
        parts += [f"## {section}\n", *_section(schema["properties"][section], section)]
    return "\n".join(parts)


def _section(schema: Schema, section: str) -> list[str]:
    rows = ["| field | type | limits | default | meaning |\n|---|---|---|---|---|\n"]
    rules: list[str] = []
    required = _required_paths(schema, section)
    for path, node in walk(schema, section):
        if path != section and not path.endswith(("[]", "{}")):
            name = path.removeprefix(f"{section}.")
            mark = " *" if path in required else ""
            default = _code(json.dumps(node["default"], ensure_ascii=False)) if "default" in node else ""
            cells = (f"`{name}`{mark}", _type(node), _limits(node), default, _cell(node.get("description", "")))
            rows.append(f"| {' | '.join(cells)} |\n")
        rules += [
            f"`{path.removesuffix('[]')}`: {rule['message']}" if path != section else rule["message"]
            for rule in node.get(RULES, ())
        ]
    parts = ["".join(rows)]
    if section == "spec":
        parts.append("Fields with * are required where the object around them is given.\n")
    if rules:
        parts += ["Rules:\n", _bullets(list(dict.fromkeys(rules)))]
    return parts


def _required_paths(schema: Schema, section: str) -> set[str]:
    return {f"{path}.{name}" for path, node in walk(schema, section) for name in node.get("required", ())}


def _type(node: Schema) -> str:
    if node["type"] == "array":
        keys = node.get("x-kubernetes-list-map-keys")
        return f"list of {_type(node['items'])}" + (f" by {', '.join(keys)}" if keys else "")
    if "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'])}"
    return str(node["type"])


def _limits(node: Schema) -> str:
    """All bounds of a field and of what it holds, in one cell."""
    said: list[str] = []
    if "enum" in node:
        said.append(", ".join(_code(str(value) or "''") for value in node["enum"]))
    for low, high, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " keys"),
    ):
        said += _range(node.get(low), node.get(high), unit)
    if "pattern" in node:
        said.append(_code(node["pattern"]))
    inner = node.get("items") or node.get("additionalProperties")
    if inner is not None and "properties" not in inner and _limits(inner):
        said.append(f"each {_limits(inner)}")
    return "; ".join(said)


def _range(low: int | None, high: int | None, unit: str) -> list[str]:
    if low is None and high is None:
        return []
    if high is None:
        return [f"at least {low}{unit}"]
    return [f"at most {high}{unit}" if low is None else f"{low} to {high}{unit}" if low != high else f"{low}{unit}"]


def _code(text: str) -> str:
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _bullets(lines: list[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _index() -> str:
    rows = []
    for kind in KINDS:
        description: Any = resource_schema(kind)["description"]
        short = ", ".join(f"`{name}`" for name in kind.short_names)
        link = f"[{kind.kind_name}]({page_name(kind)})"
        rows.append(f"| {link} | {short} | {kind.scope.value} | {_cell(description)} |\n")
    return "\n".join(
        [
            _GENERATED,
            "# Custom resources\n",
            f"Group and version: `{API_VERSION}`. `kubectl get lq` lists all of them; `kubectl explain KIND.spec` shows the same "
            "texts.\n`spec` is yours, `status` is ours. Ready means: as declared.\n",
            "Kubernetes 1.31 or later: the rules use its CEL libraries for quantities and addresses, and the kinds have "
            "selectable\nfields. Every limit named in these pages is tested against a real API server. A Kubernetes quantity is "
            'always written as\ntext here (`10Gi`, `"0"`), and a MAC address in quotes: YAML reads some of them as numbers.\n',
            "| kind | short | scope | |\n|---|---|---|---|\n" + "".join(rows),
        ]
    )


def write(directory: Path) -> list[Path]:
    """Write every page and remove pages of kinds that are no more."""
    return write_files(directory, pages(), "*.md")


def check(directory: Path) -> list[str]:
    """What differs between the models and the committed pages, one sentence each."""
    return check_files(directory, pages(), "*.md", "lq-operator crds --write")


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    return generator("lq_operator.api.docgen", __doc__, "docs/reference/api", write, check, arguments)


if __name__ == "__main__":
    sys.exit(main())
