"""CustomResourceDefinitions from the models: `python -m lq_operator.api.crdgen --write crds | --check crds`.

It owns the CRD document around the schema, its YAML, and the comparison with the committed files. The output is a
function of the models alone: no clock, no environment, fixed order.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lq_operator.api.base import GROUP, VERSION, PrinterColumn, Resource
from lq_operator.api.kinds import KINDS
from lq_operator.api.structural import resource_schema

CATEGORY = "lq"
_HEADER = "# Generated from the models in lq_operator.api (lq-operator crds --write); edit those.\n"


class _Dumper(yaml.SafeDumper):
    """YAML that diffs well: no anchors, lists indented."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def to_yaml(document: dict[str, Any]) -> str:
    """Block YAML in the order of the keys."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def crd(kind: type[Resource]) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind. Raises CrdGenerationError."""
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
    }
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    version["schema"] = {"openAPIV3Schema": resource_schema(kind)}
    names: dict[str, Any] = {
        "kind": kind.kind_name,
        "listKind": f"{kind.kind_name}List",
        "plural": kind.plural,
        "singular": kind.kind_name.lower(),
        "shortNames": list(kind.short_names),
        "categories": [CATEGORY],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "lq-operator", "app.kubernetes.io/part-of": "lq-operator"},
        },
        "spec": {"group": GROUP, "scope": kind.scope.value, "names": names, "versions": [version]},
    }


def _column(column: PrinterColumn) -> dict[str, Any]:
    result: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.priority:
        result["priority"] = column.priority
    if column.description:
        result["description"] = column.description
    return result


def file_name(kind: type[Resource]) -> str:
    """Name of the committed file of a kind."""
    return f"{GROUP}_{kind.plural}.yaml"


def render(kind: str) -> str:
    """The YAML of one kind, by its name (VirtualMachine). Raises KeyError for a name that is no kind."""
    by_name = {known.kind_name: known for known in KINDS}
    return _HEADER + to_yaml(crd(by_name[kind]))


def render_all() -> dict[str, str]:
    """File name -> content, for every kind."""
    return {file_name(kind): render(kind.kind_name) for kind in KINDS}


def write(directory: Path) -> list[Path]:
    """Write every CRD and remove files of kinds that are no more. Returns the files written."""
    return write_files(directory, render_all(), "*.yaml")


def check(directory: Path) -> list[str]:
    """What differs between the models and the committed files, one sentence each; empty when nothing does."""
    return check_files(directory, render_all(), "*.yaml", "lq-operator crds --write")


def write_files(directory: Path, files: dict[str, str], pattern: str) -> list[Path]:
    """Make `directory` hold exactly `files` among those that match `pattern`."""
    directory.mkdir(parents=True, exist_ok=True)
    for stale in set(directory.glob(pattern)) - {directory / name for name in files}:
        stale.unlink()
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return sorted(directory / name for name in files)


def check_files(directory: Path, files: dict[str, str], pattern: str, remedy: str) -> list[str]:
    """Sentences about files that are missing, differ or do not belong."""
    problems = []
    for name, text in sorted(files.items()):
        path = directory / name
        if not path.exists():
            problems.append(f"{name} is missing: run {remedy}")
        elif path.read_text(encoding="utf-8") != text:
            problems.append(f"{name} differs from the models: run {remedy}")
    for extra in sorted({path.name for path in directory.glob(pattern)} - set(files)):
        problems.append(f"{extra} belongs to no kind: run {remedy}")
    return problems


def generator(
    prog: str,
    about: str | None,
    default: str,
    write_into: Callable[[Path], object],
    differences: Callable[[Path], list[str]],
    arguments: list[str] | None,
) -> int:
    """Command line of a generator: --write or --check a directory. Exit status 1 when --check finds a difference."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", metavar="DIR", nargs="?", const=default, type=Path)
    action.add_argument("--check", metavar="DIR", nargs="?", const=default, type=Path)
    options = parser.parse_args(arguments)
    if options.write is not None:
        write_into(options.write)
        return 0
    problems = differences(options.check)
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    return generator("lq_operator.api.crdgen", __doc__, "crds", write, check, arguments)


if __name__ == "__main__":
    sys.exit(main())
