"""The committed CRDs and reference pages are what the models say; nothing is edited by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lq_operator.api import crdgen, docgen
from lq_operator.api.base import GROUP, VERSION, Resource
from lq_operator.api.kinds import KINDS

REPOSITORY = Path(__file__).parents[2]
CRDS = REPOSITORY / "crds"
PAGES = REPOSITORY / "docs" / "reference" / "api"


def test_crds_are_current() -> None:
    assert crdgen.check(CRDS) == []


def test_reference_pages_are_current() -> None:
    assert docgen.check(PAGES) == []


def test_check_sees_every_kind_of_drift(tmp_path: Path) -> None:
    written = crdgen.write(tmp_path)
    assert crdgen.check(tmp_path) == []
    written[0].write_text(written[0].read_text() + "\n")
    written[1].unlink()
    (tmp_path / "stranger.yaml").write_text("{}")
    problems = crdgen.check(tmp_path)
    assert [word for word in ("differs", "missing", "belongs to no kind") if not any(word in p for p in problems)] == []
    assert len(problems) == 3
    assert all("lq-operator crds --write" in problem for problem in problems)
    crdgen.write(tmp_path)
    assert crdgen.check(tmp_path) == []
    assert not (tmp_path / "stranger.yaml").exists()


def test_command_line(tmp_path: Path) -> None:
    for module in (crdgen, docgen):
        folder = tmp_path / module.__name__
        assert module.main(["--check", str(folder)]) == 1
        assert module.main(["--write", str(folder)]) == 0
        assert module.main(["--check", str(folder)]) == 0


def test_output_does_not_depend_on_the_process(tmp_path: Path) -> None:
    """Another hash seed, locale and folder: the same bytes."""
    for seed in ("1", "2"):
        argv = [sys.executable, "-m", "lq_operator.api.crdgen", "--write", str(tmp_path / seed)]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "C", "TZ": f"UTC+{seed}"}
        subprocess.run(argv, env=environment, check=True, cwd=tmp_path, timeout=60)
    for name, text in crdgen.render_all().items():
        for seed in ("1", "2"):
            assert (tmp_path / seed / name).read_bytes() == text.encode()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind_name)
def test_what_every_kind_has(kind: type[Resource]) -> None:
    document = yaml.safe_load((CRDS / crdgen.file_name(kind)).read_text(encoding="utf-8"))
    spec = document["spec"]
    (version,) = spec["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    assert document["metadata"]["name"] == f"{kind.plural}.{GROUP}"
    assert (version["name"], version["served"], version["storage"]) == (VERSION, True, True)
    assert spec["names"]["categories"] == ["lq"]
    assert spec["names"]["shortNames"]
    assert version["subresources"] == {"status": {}}
    assert version["additionalPrinterColumns"]
    assert schema["description"]
    status = schema["properties"]["status"]
    assert status["default"] == {"observedGeneration": -1}
    conditions = status["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert "status" not in schema.get("required", [])


def test_names_are_unique() -> None:
    names = [name for kind in KINDS for name in (kind.plural, kind.kind_name.lower(), *kind.short_names)]
    assert len(names) == len(set(names))


def test_status_has_one_default_only() -> None:
    """A default in status would look like an observation that nobody made."""

    def defaults(node: object, path: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        found = [path] if "default" in node and "type" in node else []
        for name, child in node.get("properties", {}).items():
            found += defaults(child, f"{path}.{name}")
        return found + defaults(node.get("items"), f"{path}[]")

    for kind in KINDS:
        schema = crdgen.crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        found = set(defaults(schema["properties"]["status"], "status"))
        keys = {"status.artefacts[].node", "status.taints[].effect"}
        assert found - keys <= {"status", "status.observedGeneration"}, kind.kind_name
