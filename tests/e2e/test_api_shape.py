"""What users see of the kinds in a real cluster: columns, selectors, categories, explanations, the status subresource."""

import subprocess
from typing import Any

import pytest
from tests.e2e.apiserver import NAMESPACE, REPOSITORY, ApiServer, collection
from tests.e2e.limits import base, edit

from lq_operator.api.base import API_VERSION, GROUP, Resource, Scope
from lq_operator.api.kinds import KINDS
from lq_operator.lab import binaries

pytestmark = pytest.mark.lab

EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind_name)


def kubectl(server: ApiServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(binaries.ensure("kubectl")["kubectl"]), f"--kubeconfig={server.kubeconfig}", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


@pytest.fixture
def machine(api_server: ApiServer) -> Any:
    """A stored VM with a status."""
    manifest = edit(base("VirtualMachine"), {"metadata.name": "shape"})
    manifest["metadata"]["namespace"] = NAMESPACE
    api_server.delete(manifest)
    made = api_server.create(manifest, dry_run=False)
    assert made.accepted, made.message
    yield made.body
    api_server.delete(manifest)


STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "placement": {"phase": "Committed", "writeId": "w1", "node": "h1"},
    "power": {"state": "Running"},
    "addresses": ["10.20.1.10"],
    "conditions": [{"type": "Ready", "status": "True", "reason": "AsDeclared", "message": "As declared."}],
}


@pytest.mark.parametrize("how", ["--server-side", "--server-side=false"])
def test_the_committed_files_are_accepted_without_a_warning(api_server: ApiServer, how: str) -> None:
    """Both ways people apply them: without --server-side each must fit into an annotation of 256 KiB."""
    folder = str(REPOSITORY / "crds")
    done = kubectl(
        api_server,
        "apply",
        how,
        "--dry-run=server",
        "--validate=strict",
        "--force-conflicts" if how == "--server-side" else "--wait=false",
        "-f",
        folder,
    )
    assert done.returncode == 0, done.stderr
    assert "unchanged" in done.stdout or "applied" in done.stdout or "configured" in done.stdout
    assert [line for line in done.stderr.splitlines() if "last-applied-configuration" not in line] == []


@EVERY_KIND
def test_schemas_are_structural(api_server: ApiServer, kind: type[Resource]) -> None:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.plural}.{GROUP}"
    conditions = {entry["type"]: entry["status"] for entry in api_server.call("GET", path).body["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in conditions


@EVERY_KIND
def test_field_selectors(api_server: ApiServer, kind: type[Resource]) -> None:
    path = f"/apis/{API_VERSION}/{kind.plural}"
    for selectable in kind.selectable:
        answer = api_server.call("GET", path, fieldSelector=f"{selectable[1:]}=x")
        assert answer.accepted, answer.message
    refused = api_server.call("GET", path, fieldSelector="spec.nonsense=x")
    assert refused.status == 400


@EVERY_KIND
def test_columns_are_what_the_model_says(api_server: ApiServer, kind: type[Resource]) -> None:
    path = f"/apis/{API_VERSION}/{kind.plural}"
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    answer = api_server.call("GET", path, accept=table)
    names = [column["name"] for column in answer.body["columnDefinitions"]]
    assert names == ["Name", *(column.name for column in kind.columns)]


@EVERY_KIND
def test_explain_and_short_names(api_server: ApiServer, kind: type[Resource]) -> None:
    for name in (kind.kind_name.lower(), kind.plural, *kind.short_names):
        done = kubectl(api_server, "get", name, *(["-A"] if kind.scope == Scope.NAMESPACED else []))
        assert done.returncode == 0, done.stderr
    done = kubectl(api_server, "explain", f"{kind.kind_name.lower()}.spec", f"--api-version={API_VERSION}")
    assert done.returncode == 0, done.stderr
    assert "DESCRIPTION" in done.stdout
    assert "<no description>" not in done.stdout


def test_one_category_has_all(api_server: ApiServer, machine: Any) -> None:
    done = kubectl(api_server, "get", "lq", "-A")
    assert "virtualmachine.limiquantix.io/shape" in done.stdout, done.stderr


def test_an_unobserved_object_is_not_ready(api_server: ApiServer, machine: Any) -> None:
    """observedGeneration -1 from the schema: kstatus and Argo CD see an object as pending before anybody looked."""
    assert machine["status"] == {"observedGeneration": -1}
    done = kubectl(api_server, "-n", NAMESPACE, "wait", "vm/shape", "--for=condition=Ready", "--timeout=1s")
    assert done.returncode != 0
    assert "timed out" in done.stderr


def test_spec_and_status_are_written_apart(api_server: ApiServer, machine: Any) -> None:
    tried = api_server.replace({**machine, "status": STATUS}, dry_run=False)
    assert tried.accepted, tried.message
    assert tried.body["status"] == {"observedGeneration": -1}, "status may not be written with spec"
    written = api_server.replace({**tried.body, "status": STATUS}, subresource="/status", dry_run=False)
    assert written.accepted, written.message
    assert written.body["status"]["placement"]["node"] == "h1"
    assert written.body["metadata"]["generation"] == 1, "status is no new generation"
    changed = edit(written.body, {"spec.description": "by status"})
    kept = api_server.replace(changed, subresource="/status", dry_run=False)
    assert "description" not in kept.body["spec"], "spec may not be written with status"


def test_the_table_line_of_a_running_vm(api_server: ApiServer, machine: Any) -> None:
    written = api_server.replace({**machine, "status": STATUS}, subresource="/status", dry_run=False)
    assert written.accepted, written.message
    done = kubectl(api_server, "-n", NAMESPACE, "get", "vm", "shape", "--no-headers")
    assert done.stdout.split()[:5] == ["shape", "Running", "True", "h1", "10.20.1.10"]
    by_node = kubectl(
        api_server, "-n", NAMESPACE, "get", "vm", "--field-selector=status.placement.node=h1", "-o", "name"
    )
    assert by_node.stdout.split() == ["virtualmachine.limiquantix.io/shape"]
    nowhere = kubectl(api_server, "-n", NAMESPACE, "get", "vm", "--field-selector=status.placement.node=", "-o", "name")
    assert nowhere.stdout.split() == []
    waited = kubectl(api_server, "-n", NAMESPACE, "wait", "vm/shape", "--for=condition=Ready", "--timeout=5s")
    assert waited.returncode == 0, waited.stderr


def test_two_writers_of_status_meet_by_field(api_server: ApiServer, machine: Any) -> None:
    """Server-side apply with one manager per controller: lists of named things merge by name."""
    path = f"{collection(machine)}/shape/status"

    def apply(manager: str, status: dict[str, Any]) -> dict[str, Any]:
        body = {"apiVersion": API_VERSION, "kind": "VirtualMachine", "metadata": {"name": "shape"}, "status": status}
        answer = api_server.call("PATCH", path, body, "application/apply-patch+yaml", fieldManager=manager)
        assert answer.accepted, answer.message
        return dict(answer.body["status"])

    apply("lq-vm", {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]})
    both = apply(
        "lq-scheduler", {"scheduling": {"message": "m"}, "conditions": [{"type": "Scheduled", "status": "True"}]}
    )
    assert [condition["type"] for condition in both["conditions"]] == ["Ready", "Scheduled"]
    assert both["observedGeneration"] == 1
    left = apply("lq-vm", {"observedGeneration": 2})
    assert [condition["type"] for condition in left["conditions"]] == ["Scheduled"]


def test_a_tested_patch_on_a_fresh_object(api_server: ApiServer, machine: Any) -> None:
    """status exists from the start, so that placement can be added by a JSON patch that tests the resourceVersion."""
    operations = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": machine["metadata"]["resourceVersion"]},
        {"op": "add", "path": "/status/placement", "value": STATUS["placement"]},
    ]
    path = f"{collection(machine)}/shape/status"
    first = api_server.call("PATCH", path, operations, "application/json-patch+json")
    assert first.accepted, first.message
    again = api_server.call("PATCH", path, operations, "application/json-patch+json")
    assert again.status in (409, 422), "the second writer must lose"
    assert first.body["status"]["placement"] == STATUS["placement"]
