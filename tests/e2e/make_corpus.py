"""Write tests/unit/api/corpus/vVERSION: the examples as an API server stores them, one of each kind with a full status.

    python tests/e2e/make_corpus.py KUBECONFIG      # a cluster to play in: the lab's

For the version in pyproject.toml only; folders of earlier versions are closed.
"""

import copy
import sys
import tomllib
from typing import Any

import yaml
from tests.e2e.apiserver import REPOSITORY, ApiServer, Manifest, read_manifests

from lq_operator.api.base import API_VERSION
from lq_operator.api.kinds import KINDS
from lq_operator.api.structural import Schema, resource_schema

CORPUS = REPOSITORY / "tests" / "unit" / "api" / "corpus"
_NOW = "2026-03-01T09:40:00Z"
_WORDS = {
    "name": "first", "namespace": "web", "node": "h1", "pool": "shared", "mac": "52:54:00:aa:bb:01",
    "hostUUID": "4c4c4544-0042-3510-8053-b4c04f4e3132", "targetUUID": "4c4c4544-0042-3510-8053-b4c04f4e3133",
    "lastTransitionTime": _NOW, "since": _NOW, "startedAt": _NOW, "finishedAt": _NOW, "lastContact": _NOW,
    "type": "Ready", "reason": "AsDeclared", "message": "All is as declared.", "cpuModel": "Skylake-Server",
    "machine": "pc-q35-8.2", "addresses": "10.20.1.10", "format": "qcow2", "whichCanFail": "h2",
}  # fmt: skip


def current_version() -> str:
    """The version that is being made."""
    return str(tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def full(node: Schema, name: str) -> Any:
    """A value with every field set."""
    match node["type"]:
        case "string":
            return (
                next(filter(None, node["enum"]))
                if "enum" in node
                else _WORDS.get(name, f"a-{name.lower()}")[: node["maxLength"]]
            )
        case "integer":
            return min(node.get("maximum", 7), 7)
        case "boolean":
            return True
        case "array":
            return [full(node["items"], name)]
    if "additionalProperties" in node:
        return {"k": full(node["additionalProperties"], name)}
    return {key: full(child, key) for key, child in node["properties"].items()}


def _stored(server: ApiServer, manifest: Manifest, status: Any) -> Manifest:
    """The object as it is stored, without what the API server keeps for itself."""
    server.delete(manifest)
    answer = server.create(manifest, dry_run=False)
    assert answer.accepted, answer.message
    if status is not None:
        answer = server.replace({**answer.body, "status": status}, subresource="/status", dry_run=False)
        assert answer.accepted, answer.message
    server.delete(manifest)
    body = copy.deepcopy(answer.body)
    body["metadata"].pop("managedFields", None)
    return body


def main(kubeconfig: str) -> None:
    server = ApiServer(kubeconfig)
    server.install_crds()
    folder = CORPUS / f"v{current_version()}"
    if (folder / "SHA256SUMS").exists():
        sys.exit(f"{folder} is closed; raise the version in pyproject.toml")
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.yaml"):
        stale.unlink()
    statuses = {kind.kind_name: full(resource_schema(kind)["properties"]["status"], "status") for kind in KINDS}
    for _, manifest in read_manifests(REPOSITORY / "docs" / "examples"):
        if manifest["apiVersion"] != API_VERSION:
            continue
        if "namespace" in manifest["metadata"]:
            server.ensure_namespace(manifest["metadata"]["namespace"])
        body = _stored(server, manifest, statuses.pop(manifest["kind"], None))
        path = folder / f"{manifest['kind'].lower()}.{manifest['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(body, allow_unicode=True, width=120), encoding="utf-8")
    assert not statuses, f"no example of {sorted(statuses)}"


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__))
