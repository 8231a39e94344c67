"""Objects that exist in clusters go through the models without loss, and files of released versions never change."""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from lq_operator.api.base import Resource
from lq_operator.api.kinds import KINDS

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(CORPUS.rglob("*.yaml"))
IDS = [str(path.relative_to(CORPUS)) for path in FILES]
BY_KIND: dict[str, type[Resource]] = {kind.kind_name: kind for kind in KINDS}
VERSION = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "version"
]


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_round_trip_without_loss(path: Path) -> None:
    """What we read and write back is what was there, field by field."""
    stored = read(path)
    model = BY_KIND[stored["kind"]].model_validate(stored)
    assert json.loads(model.model_dump_json(by_alias=True, exclude_unset=True)) == stored


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_fields_of_a_newer_version_do_not_stop_us(path: Path) -> None:
    """A newer operator may have written more; reading ignores it."""
    stored = read(path)
    stored["spec"]["fromTheFuture"] = {"a": [1]}
    stored.setdefault("status", {})["alsoNew"] = True
    model = BY_KIND[stored["kind"]].model_validate(stored)
    assert "fromTheFuture" not in json.loads(model.model_dump_json(by_alias=True))["spec"]


def test_the_loss_of_a_field_would_be_seen() -> None:
    """The round trip is a real comparison: a stored field that no model knows makes it unequal."""
    stored = read(FILES[0])
    stored["spec"]["removedField"] = "x"
    model = BY_KIND[stored["kind"]].model_validate(stored)
    assert json.loads(model.model_dump_json(by_alias=True, exclude_unset=True)) != stored


def test_every_kind_is_stored_with_a_status_of_every_version() -> None:
    for folder in (path for path in CORPUS.iterdir() if path.is_dir()):
        full = {read(path)["kind"] for path in folder.glob("*.yaml") if read(path)["status"]["observedGeneration"] > 0}
        assert full, folder
        if folder.name == f"v{VERSION}":
            assert full == set(BY_KIND)


def test_released_versions_are_closed() -> None:
    """See corpus/README.md."""
    assert (CORPUS / f"v{VERSION}").is_dir()
    for folder in (path for path in CORPUS.iterdir() if path.is_dir() and path.name != f"v{VERSION}"):
        sums = (line.split() for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.yaml")}
        assert found == {name: digest for digest, name in sums}


def test_models_are_read_only() -> None:
    stored = read(FILES[0])
    model = BY_KIND[stored["kind"]].model_validate(stored)
    with pytest.raises(ValidationError, match="frozen"):
        model.kind = "Other"
