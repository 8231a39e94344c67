"""Every example manifest is accepted by a real API server, and our models read what it stores."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.apiserver import REPOSITORY, ApiServer, read_manifests

from lq_operator.api.base import API_VERSION, Resource
from lq_operator.api.kinds import KINDS
from lq_operator.lab import binaries

pytestmark = pytest.mark.lab

EXAMPLES = REPOSITORY / "docs" / "examples"
MANIFESTS = read_manifests(EXAMPLES)
OURS = [(name, manifest) for name, manifest in MANIFESTS if manifest["apiVersion"] == API_VERSION]
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())
BY_KIND: dict[str, type[Resource]] = {kind.kind_name: kind for kind in KINDS}


@pytest.fixture(scope="module")
def namespaces(api_server: ApiServer) -> ApiServer:
    """The namespaces that the examples live in: a dry run does not make them."""
    for _, manifest in MANIFESTS:
        if "namespace" in manifest["metadata"]:
            api_server.ensure_namespace(manifest["metadata"]["namespace"])
    return api_server


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_kubectl_applies_the_folder(namespaces: ApiServer, folder: Path) -> None:
    """As the README says, with kubectl's own YAML reader (1.1) and strict validation."""
    kubectl = binaries.ensure("kubectl")["kubectl"]
    argv = [str(kubectl), f"--kubeconfig={namespaces.kubeconfig}", "apply", "--server-side", "--dry-run=server"]
    done = subprocess.run([*argv, "--validate=strict", "-f", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "unknown field" not in done.stderr


def _left_out(sent: Any, stored: Any, path: str = "") -> list[str]:
    """Paths of `sent` that `stored` does not have with the same value."""
    if isinstance(sent, dict):
        lost = [f"{path}.{key}" for key in sent if key not in stored]
        return lost + [p for key in sent if key in stored for p in _left_out(sent[key], stored[key], f"{path}.{key}")]
    if isinstance(sent, list):
        if len(sent) != len(stored):
            return [path]
        return [p for index, item in enumerate(sent) for p in _left_out(item, stored[index], f"{path}[{index}]")]
    return [] if sent == stored else [path]


@pytest.mark.parametrize("manifest", [manifest for _, manifest in OURS], ids=[name for name, _ in OURS])
def test_models_read_what_is_stored(namespaces: ApiServer, manifest: dict[str, Any]) -> None:
    """Defaults of the CRD and of the model are the same thing said twice: parsing what the user wrote and parsing what
    the API server stored must give equal specs."""
    answer = namespaces.create(manifest)
    assert answer.accepted, answer.message
    stored = answer.body
    assert _left_out(manifest["spec"], stored["spec"]) == []
    kind = BY_KIND[manifest["kind"]]
    read = kind.model_validate(stored)
    assert read.spec == kind.model_validate(manifest).spec  # type: ignore[attr-defined]
    assert read.status.observed_generation == -1  # type: ignore[attr-defined]
    assert read.metadata.uid
    written = json.loads(read.model_dump_json(by_alias=True, exclude_unset=True))
    assert _left_out(stored["spec"], written["spec"]) == []


def test_every_kind_has_an_example() -> None:
    assert {kind.kind_name for kind in KINDS} <= {manifest["kind"] for _, manifest in MANIFESTS}


def test_the_readme_lists_every_folder() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [folder.name for folder in FOLDERS if f"]({folder.name}/)" not in text] == []


CORPUS = read_manifests(REPOSITORY / "tests" / "unit" / "api" / "corpus")


@pytest.mark.parametrize("stored", [stored for _, stored in CORPUS], ids=[name for name, _ in CORPUS])
def test_stored_objects_stay_accepted(namespaces: ApiServer, stored: dict[str, Any]) -> None:
    """Spec and status of earlier versions, written as they were stored, come back as they were."""
    metadata = {"name": stored["metadata"]["name"], "namespace": "lq-limits"}
    if "namespace" not in stored["metadata"]:
        metadata = {"name": metadata["name"]}
    manifest = {**stored, "metadata": metadata}
    namespaces.delete(manifest)
    made = namespaces.create(manifest, dry_run=False)
    assert made.accepted, made.message
    try:
        answer = namespaces.replace({**made.body, "status": stored["status"]}, subresource="/status", dry_run=False)
        assert answer.accepted, answer.message
        assert answer.body["spec"] == stored["spec"]
        assert answer.body["status"] == stored["status"]
    finally:
        namespaces.delete(manifest)
