"""The real API server with our CRDs installed, for tests that send it manifests.

The lab's control plane, or the one of `LQ_TEST_KUBECONFIG`. Everything is a dry run except in namespaces of our own.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import kubernetes
import pytest
import yaml

from lq_operator.api.base import API_VERSION, GROUP, Scope
from lq_operator.api.crdgen import crd
from lq_operator.api.kinds import KINDS

REPOSITORY = Path(__file__).parents[2]
PLURALS = {kind.kind_name: kind.plural for kind in KINDS}
NAMESPACED = {kind.kind_name for kind in KINDS if kind.scope == Scope.NAMESPACED}
NAMESPACE = "lq-limits"

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the API server said. `causes` are (field, message); `field` is '' where it names none."""

    status: int
    body: dict[str, Any]

    @property
    def accepted(self) -> bool:
        return self.status in (200, 201)

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))

    @property
    def causes(self) -> list[tuple[str, str]]:
        details = self.body.get("details") or {}
        return [(str(cause.get("field", "")), str(cause.get("message", ""))) for cause in details.get("causes", [])]


class ApiServer:
    """Sends manifests as they are; nothing is validated or defaulted on our side."""

    def __init__(self, kubeconfig: str) -> None:
        self.kubeconfig = kubeconfig
        self._client = kubernetes.config.new_client_from_config(kubeconfig)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content: str = "application/json",
        accept: str = "application/json",
        **query: str,
    ) -> Answer:
        headers = {"Content-Type": content, "Accept": accept}
        token = self._client.configuration.get_api_key_with_prefix("BearerToken")
        if token:
            headers["Authorization"] = token
        url = f"{self._client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        response = self._client.rest_client.pool_manager.request(method, url, body=data, headers=headers, timeout=60)
        try:
            return Answer(response.status, json.loads(response.data))
        except ValueError:
            return Answer(response.status, {"message": response.data.decode(errors="replace")})

    def create(self, manifest: Manifest, *, dry_run: bool = True) -> Answer:
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        return self.call("POST", collection(manifest), manifest, **query)

    def replace(self, manifest: Manifest, *, subresource: str = "", dry_run: bool = True) -> Answer:
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        path = f"{collection(manifest)}/{manifest['metadata']['name']}{subresource}"
        return self.call("PUT", path, manifest, **query)

    def delete(self, manifest: Manifest) -> Answer:
        return self.call("DELETE", f"{collection(manifest)}/{manifest['metadata']['name']}")

    def ensure_namespace(self, name: str) -> None:
        answer = self.call(
            "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        )
        assert answer.accepted or answer.status == 409, answer.message

    def install_crds(self) -> None:
        """Apply and wait until every kind is served."""
        for kind in KINDS:
            document = crd(kind)
            name = document["metadata"]["name"]
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
            answer = self.call(
                "PATCH", path, document, "application/apply-patch+yaml", fieldManager="crd-tests", force="true"
            )
            assert answer.accepted, answer.message
        for kind in KINDS:
            path = f"/apis/{API_VERSION}/{kind.plural}"
            for _ in range(100):
                if self.call("GET", path, limit="1").accepted and self._current(kind):
                    break
                time.sleep(0.1)
            else:
                raise AssertionError(f"{kind.kind_name} is not served")

    def _current(self, kind: Any) -> bool:
        """Whether the served schema is the one just applied (the OpenAPI document follows the CRD by a moment)."""
        answer = self.call("GET", f"/openapi/v3/apis/{API_VERSION}")
        served = answer.body.get("components", {}).get("schemas", {})
        wanted = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        for schema in served.values():
            known = schema.get("x-kubernetes-group-version-kind", [])
            if any(entry.get("kind") == kind.kind_name and entry.get("group") == GROUP for entry in known):
                return bool(set(schema["properties"]["spec"]["properties"]) == set(wanted["properties"]))
        return False


def collection(manifest: Manifest) -> str:
    """The path that creates this manifest's kind."""
    kind, metadata = manifest["kind"], manifest["metadata"]
    if manifest["apiVersion"] == "v1":
        plural = f"{kind.lower()}s"
        return (
            f"/api/v1/namespaces/{metadata['namespace']}/{plural}" if "namespace" in metadata else f"/api/v1/{plural}"
        )
    if kind in NAMESPACED:
        return f"/apis/{API_VERSION}/namespaces/{metadata.get('namespace', NAMESPACE)}/{PLURALS[kind]}"
    return f"/apis/{API_VERSION}/{PLURALS[kind]}"


def read_manifests(folder: Path) -> list[tuple[str, Manifest]]:
    """Every document of every YAML file below the folder, with a name for test ids."""
    found = []
    for path in sorted(folder.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            found.append((f"{path.relative_to(folder)}:{document['metadata']['name']}", document))
    return found


@pytest.fixture(scope="session")
def api_server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """The API server, our kinds served, and a namespace of our own."""
    kubeconfig = os.environ.get("LQ_TEST_KUBECONFIG") or str(request.getfixturevalue("lab").kubeconfig)
    server = ApiServer(kubeconfig)
    server.install_crds()
    server.ensure_namespace(NAMESPACE)
    return server
