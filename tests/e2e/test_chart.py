"""The chart on a real API server with real Helm: rights, survival of what people own, processes from Deployments."""

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import kubernetes
import pytest
import yaml
from tests.labfixtures import lab_name, require_lab

from lq_operator.api.base import API_VERSION, GROUP
from lq_operator.api.kinds import KINDS
from lq_operator.lab.datacenter import Lab
from lq_operator.lab.errors import CommandFailedError
from lq_operator.lab.release import Release, chart_dir

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

NAMESPACE = "lq-system"
PROCESSES = ("run", "importer", "scheduler")
PLURALS = sorted(kind.plural for kind in KINDS)
READ = ("get", "list", "watch")
VERBS = (*READ, "create", "update", "patch", "delete", "deletecollection")

Right = tuple[str, str, str, str, str]
"""(verb, API group, resource or resource/subresource, namespace, name); '' for all."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    """A control plane of this module's own: releases and CRDs are cluster-wide."""
    require_lab()
    made = Lab.create(lab_name("-chart"), hosts=1)
    try:
        made.up(print)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def release(cluster: Lab) -> Release:
    """Installed once, with default values; the Deployments' processes are not started."""
    made = Release(cluster, namespace=NAMESPACE)
    helm_install(made)
    return made


def helm_install(release: Release, *arguments: str, values: dict[str, Any] | None = None) -> None:
    """Install or upgrade without waiting: no kubelet runs pods here."""
    release.helm(
        "upgrade", "--install", release.name, str(chart_dir()), "--create-namespace",
        "--values", "-", *arguments, stdin=yaml.safe_dump(values or {}),
    )  # fmt: skip


def apply(cluster: Lab, *manifests: dict[str, Any]) -> None:
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(manifests))


def get(cluster: Lab, *arguments: str) -> dict[str, Any]:
    return json.loads(cluster.kubectl("get", *arguments, "-o", "json").stdout)


@dataclass(frozen=True)
class Account:
    """Somebody with a real token (a ServiceAccount), or a name (a person, asked about by the administrator)."""

    client: kubernetes.client.ApiClient
    user: str = ""

    def may(self, right: Right) -> bool:
        """The API server's own verdict."""
        verb, group, resource, namespace, name = right
        plural, _, subresource = resource.partition("/")
        attributes = {
            "verb": verb, "group": group, "resource": plural, "subresource": subresource,
            "namespace": namespace, "name": name,
        }  # fmt: skip
        kind = "SubjectAccessReview" if self.user else "SelfSubjectAccessReview"
        spec: dict[str, Any] = {"resourceAttributes": attributes}
        if self.user:
            spec["user"] = self.user
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        path = f"/apis/authorization.k8s.io/v1/{kind.lower()}s"
        return bool(self.call("POST", path, body)[1]["status"].get("allowed", False))

    def call(self, method: str, path: str, body: Any = None, content: str = "application/json") -> tuple[int, Any]:
        """(HTTP status, answer)."""
        configuration = self.client.configuration
        headers = {"Content-Type": content}
        token = configuration.get_api_key_with_prefix("BearerToken")
        if token:
            headers["Authorization"] = token
        data = None if body is None else json.dumps(body).encode()
        url = configuration.host + path
        answer = self.client.rest_client.pool_manager.request(method, url, body=data, headers=headers, timeout=60)
        return answer.status, json.loads(answer.data)


def administrator(cluster: Lab, user: str = "") -> Account:
    return Account(kubernetes.config.new_client_from_config(str(cluster.kubeconfig)), user)


def service_account(cluster: Lab, name: str) -> Account:
    """With a token as its pod would have."""
    token = cluster.kubectl("-n", NAMESPACE, "create", "token", name).stdout.strip()
    admin = kubernetes.config.new_client_from_config(str(cluster.kubeconfig)).configuration
    own = kubernetes.client.Configuration(host=admin.host, api_key={"BearerToken": f"Bearer {token}"})
    own.ssl_ca_cert = admin.ssl_ca_cert
    return Account(kubernetes.client.ApiClient(own))


# -- the manifests themselves


def test_the_api_server_accepts_every_manifest_strictly(cluster: Lab, release: Release) -> None:
    """Unknown and doubled fields are errors here, which a plain install would only warn about."""
    everything = {
        "networkPolicy": {"enabled": True},
        "run": {"hostNetwork": True, "tolerations": [{"operator": "Exists"}]},
        "coordination": {
            "backend": "etcd",
            "etcd": {"endpoints": ["https://e:2379"], "tlsSecret": "etcd-client"},
        },
    }
    for values in ({}, everything):
        text = release.helm("template", release.name, str(chart_dir()), "--values", "-", stdin=yaml.safe_dump(values))
        cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "--server-side", "--force-conflicts",
                        "-f", "-", stdin=text)  # fmt: skip


def test_lint_is_silent_when_strict(release: Release) -> None:
    assert "0 chart(s) failed" in release.helm("lint", "--strict", str(chart_dir()))


def test_policy_expressions_were_type_checked_without_warning(cluster: Lab, release: Release) -> None:
    """The API server compiles CEL against our CRDs and says what it does not like in status, not in the answer."""
    policy = get(cluster, "validatingadmissionpolicy", "lq-operator-spec-guard")
    warnings = policy.get("status", {}).get("typeChecking", {}).get("expressionWarnings", [])
    assert warnings == []


# -- rights of the processes: everything that is not in the table is denied

ALL = [(kind, "") for kind in PLURALS]


def expected(process: str) -> set[Right]:
    """What a process may do with our kinds in any namespace; nothing else."""

    def rights(verbs: tuple[str, ...], resources: str) -> set[Right]:
        return {(verb, GROUP, resource, "", "") for verb in verbs for resource in resources.split()}

    if process == "run":
        status = " ".join(f"{plural}/status" for plural in PLURALS if plural != "images")
        return (
            rights(READ, " ".join(PLURALS))
            | rights(("patch",), status)
            | rights(
                ("patch",),
                "hypervisornodes storagepools virtualmachinemigrations virtualmachines virtualnetworks volumes",
            )
            | rights(("create", "delete"), "addressclaims volumes")
            | rights(("delete",), "virtualmachinemigrations virtualmachineoperations")
            | rights(("create",), "virtualmachinemigrations")
            | rights(("update",), "virtualmachines/finalizers")
        )
    if process == "importer":
        return rights(READ, "hypervisorclusters hypervisornodes images storagepools virtualmachines volumes") | rights(
            ("patch",), "images images/status"
        )
    return rights(
        READ,
        "hypervisorclusters hypervisornodes storagepools virtualmachineclasses virtualmachinemigrations virtualmachines "
        "virtualnetworks volumes",
    ) | rights(("patch",), "virtualmachines/status virtualmachinemigrations/status hypervisorclusters/status")


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_may_do_exactly_this_with_our_kinds(cluster: Lab, release: Release, process: str) -> None:
    account = service_account(cluster, f"lq-operator-{process}")
    resources = [f"{plural}{sub}" for plural in PLURALS for sub in ("", "/status", "/finalizers", "/scale")]
    asked = {(verb, GROUP, resource, "", "") for verb, resource in itertools.product(VERBS, resources)}
    assert {right for right in asked if account.may(right)} == expected(process)


OWN_LEASE = {"run": "lq-hosts-0", "importer": "lq-importer", "scheduler": "lq-scheduler"}
_OTHER: dict[str, set[Right]] = {
    "run": {
        ("get", "", "secrets", "tenant", "cloud-init"),
        ("get", "", "secrets", NAMESPACE, "host-tls"),
        ("get", "", "secrets", "", ""),
        ("get", "", "namespaces", "", "kube-system"),
        ("get", "", "namespaces", "", "tenant"),
        ("list", "", "namespaces", "", ""),
    },
    "importer": {("get", "", "secrets", NAMESPACE, "host-tls"), ("get", "", "namespaces", "", "kube-system")},
    "scheduler": {
        ("get", "", "namespaces", "", "kube-system"),
        ("get", "", "namespaces", "", "tenant"),
        ("list", "", "namespaces", "", ""),
    },
}
EVERYONE: set[Right] = {
    (verb, "events.k8s.io", "events", namespace, "")
    for verb in ("create", "patch")
    for namespace in ("tenant", "default", "")
}
SENSITIVE: set[Right] = {
    *((verb, "", "secrets", namespace, "") for verb in VERBS for namespace in ("", "tenant", NAMESPACE)),
    ("get", "", "secrets", "tenant", "cloud-init"),
    ("get", "", "secrets", NAMESPACE, "host-tls"),
    ("get", "", "secrets", "kube-system", "any"),
    *((verb, "", "namespaces", "", "") for verb in VERBS),
    ("get", "", "namespaces", "", "kube-system"),
    ("get", "", "namespaces", "", "tenant"),
    *EVERYONE,
    *((verb, "", "events", "tenant", "") for verb in VERBS),
    *((verb, "coordination.k8s.io", "leases", where, "") for verb in VERBS for where in (NAMESPACE, "kube-system", "")),
    *(
        (verb, "coordination.k8s.io", "leases", NAMESPACE, name)
        for verb in ("get", "update", "patch", "delete")
        for name in ("lq-terms", *OWN_LEASE.values(), "other")
    ),
    *(
        (verb, group, resource, "", "")
        for verb in VERBS
        for group, resource in (
            ("", "pods"),
            ("", "pods/exec"),
            ("", "nodes"),
            ("", "configmaps"),
            ("", "serviceaccounts"),
            ("", "serviceaccounts/token"),
            ("apps", "deployments"),
            ("rbac.authorization.k8s.io", "clusterroles"),
            ("rbac.authorization.k8s.io", "rolebindings"),
            ("apiextensions.k8s.io", "customresourcedefinitions"),
            ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
        )
    ),
    ("impersonate", "", "users", "", ""),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles", "", ""),
    ("bind", "rbac.authorization.k8s.io", "clusterroles", "", ""),
}


def may_outside(process: str) -> set[Right]:
    """What a process may do with others' kinds, of what is asked in SENSITIVE."""
    leases = {("list", NAMESPACE, ""), ("create", NAMESPACE, "")} | {
        (verb, NAMESPACE, name) for verb in ("get", "patch") for name in ("lq-terms", OWN_LEASE[process])
    }
    secrets: set[Right] = set()
    if process == "run":
        secrets = {("get", "", "secrets", namespace, "") for namespace in ("tenant", NAMESPACE)}
        secrets |= {("get", "", "secrets", "kube-system", "any")}
    if process == "importer":
        secrets = {("get", "", "secrets", NAMESPACE, "")}
    namespaces: set[Right] = set() if process == "importer" else {("get", "", "namespaces", "", "")}
    return (
        _OTHER[process]
        | EVERYONE
        | secrets
        | namespaces
        | {(verb, "coordination.k8s.io", "leases", where, name) for verb, where, name in leases}
    )


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_may_do_exactly_this_with_others_kinds(cluster: Lab, release: Release, process: str) -> None:
    account = service_account(cluster, f"lq-operator-{process}")
    assert {right for right in SENSITIVE if account.may(right)} == may_outside(process)


# -- rights of people


def bind(cluster: Lab, user: str, role: str, namespace: str = "") -> None:
    kind = "RoleBinding" if namespace else "ClusterRoleBinding"
    metadata = {"name": f"test-{user}", **({"namespace": namespace} if namespace else {})}
    apply(
        cluster,
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        },
    )


def of_ours(verb: str, resource: str, namespace: str = "") -> Right:
    return (verb, GROUP, resource, namespace, "")


def test_operators_run_machines_but_delete_no_network_storage_or_host(cluster: Lab, release: Release) -> None:
    bind(cluster, "olga", "limiquantix-operator")
    olga = administrator(cluster, "olga")
    for allowed in (
        of_ours("create", "virtualmachines"),
        of_ours("delete", "virtualmachines"),
        of_ours("create", "virtualmachinemigrations"),
        of_ours("create", "virtualmachineoperations"),
        of_ours("patch", "hypervisornodes"),
        of_ours("create", "virtualnetworks"),
        of_ours("patch", "storagepools"),
        of_ours("list", "hostattestations"),
    ):
        assert olga.may(allowed), allowed
    for denied in (
        of_ours("create", "hypervisornodes"),
        of_ours("delete", "hypervisornodes"),
        of_ours("delete", "virtualnetworks"),
        of_ours("deletecollection", "virtualnetworks"),
        of_ours("delete", "storagepools"),
        of_ours("delete", "volumes"),
        of_ours("delete", "images"),
        of_ours("create", "hostattestations"),
        of_ours("patch", "hypervisorclusters"),
        of_ours("patch", "virtualmachines/status"),
        ("get", "", "secrets", NAMESPACE, "host-tls"),
    ):
        assert not olga.may(denied), denied


def test_admins_may_everything_but_status_and_viewers_only_look(cluster: Lab, release: Release) -> None:
    bind(cluster, "ada", "limiquantix-admin")
    bind(cluster, "vera", "limiquantix-viewer")
    ada, vera = administrator(cluster, "ada"), administrator(cluster, "vera")
    for plural, verb in itertools.product(PLURALS, VERBS):
        assert ada.may(of_ours(verb, plural)), (verb, plural)
        assert vera.may(of_ours(verb, plural)) == (verb in READ), (verb, plural)
        assert not ada.may(of_ours(verb, f"{plural}/status"))


def test_a_namespaces_editor_owns_its_machines_and_no_host(cluster: Lab, release: Release) -> None:
    apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tenant"}})
    bind(cluster, "emil", "edit", "tenant")
    bind(cluster, "vito", "view", "tenant")
    bind(cluster, "erna", "edit")
    emil, vito, erna = (administrator(cluster, user) for user in ("emil", "vito", "erna"))
    deadline = time.monotonic() + 60
    while not emil.may(of_ours("create", "virtualmachines", "tenant")):  # aggregation is a controller's work
        assert time.monotonic() < deadline, "edit never got the aggregated rights"
        time.sleep(0.2)
    assert emil.may(of_ours("delete", "virtualnetworks", "tenant"))
    assert not emil.may(of_ours("create", "virtualmachines", "default"))
    assert vito.may(of_ours("watch", "virtualmachines", "tenant"))
    assert not vito.may(of_ours("create", "virtualmachineoperations", "tenant"))
    for verb, plural in itertools.product(VERBS, ("hypervisornodes", "storagepools", "hostattestations")):
        assert not erna.may(of_ours(verb, plural)), "aggregation must not reach the hosts"


# -- spec belongs to people


def machine(name: str, namespace: str = "tenant") -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"cpu": {"cores": 1}, "memory": {"size": "512Mi"}, "powerState": "Stopped"},
    }


def volume(name: str, namespace: str = "tenant", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "Volume",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"size": "1Gi"},
    }


def test_the_operator_cannot_change_what_people_declared(cluster: Lab, release: Release) -> None:
    apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tenant"}})
    apply(cluster, volume("declared"))
    account = service_account(cluster, "lq-operator-run")
    path = f"/apis/{API_VERSION}/namespaces/tenant/volumes"
    merge = "application/merge-patch+json"
    deadline = time.monotonic() + 60
    while True:  # a new policy takes effect when the API server's own watch has seen it
        body = {"spec": {"size": f"{int(time.monotonic())}Gi"}}
        status, answer = account.call("PATCH", f"{path}/declared", body, merge)
        if status != 200 or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert status == 403
    assert "may not change spec" in answer["message"]
    finalizers = {"metadata": {"finalizers": [f"{GROUP}/protection"]}}
    assert account.call("PATCH", f"{path}/declared", finalizers, merge)[0] == 200
    assert account.call("PATCH", f"{path}/declared", {"metadata": {"finalizers": None}}, merge)[0] == 200
    assert account.call("PATCH", f"{path}/declared/status", {"status": {"phase": "Failed"}}, merge)[0] == 200
    owner = {
        "apiVersion": "v1", "kind": "ConfigMap", "name": "kube-root-ca.crt", "controller": True,
        "uid": get(cluster, "-n", "tenant", "configmap", "kube-root-ca.crt")["metadata"]["uid"],
    }  # fmt: skip
    status, answer = account.call("POST", path, volume("made", ownerReferences=[owner]))
    assert status == 201, answer
    status, answer = account.call("PATCH", f"{path}/made", {"spec": {"size": "2Gi"}}, merge)
    assert status == 200, answer
    # People are not held back by the operator's guard.
    assert administrator(cluster).call("PATCH", f"{path}/declared", {"spec": {"size": "9999999Mi"}}, merge)[0] == 200


# -- processes from Deployments

_PROBE = """
import json, os, pathlib, ssl, sys, time, urllib.request
here = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
def ask(path, body):
    context = ssl.create_default_context(cafile=str(here / "ca.crt"))
    url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}{path}"
    headers = {"Authorization": "Bearer " + (here / "token").read_text(), "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request, context=context, timeout=30))
def writable(path):
    try:
        pathlib.Path(path).write_text("x")
        return True
    except OSError:
        return False
review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
said = {
    "who": ask("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)["status"]["userInfo"]["username"],
    "argv": sys.argv[1:],
    "env": {k: os.environ.get(k) for k in ("POD_NAME", "POD_NAMESPACE", "HOME")},
    "inherited": sorted(set(os.environ) & {"LQ_LEAK", "SSH_AUTH_SOCK", "VIRTUAL_ENV"}),
    "config": pathlib.Path("/etc/lq-operator/config.yaml").read_text(),
    "tmp": writable("/tmp/x"), "etc": writable("/etc/lq-operator/x"), "root": writable("/x"), "var": writable("/var/x"),
    "capabilities": [l.split()[1] for l in open("/proc/self/status") if l.startswith(("CapEff", "CapBnd"))],
}
print("SAID " + json.dumps(said), flush=True)
first = (here / "token").read_text()
while (here / "token").read_text() == first:
    time.sleep(0.1)
print("RENEWED " + ask("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)["status"]["userInfo"]["username"], flush=True)
time.sleep(3600)
"""


def await_line(cluster: Lab, process: str, mark: str) -> str:
    log = cluster.supervisor.log(process)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        text = log.read_text() if log.exists() else ""
        for line in text.splitlines():
            if line.startswith(mark):
                return line.removeprefix(mark).strip()
        time.sleep(0.1)
    raise AssertionError(f"{process} never said {mark!r}; its log: {text[-3000:]}")


def test_a_deployments_process_has_what_its_container_would_have(
    cluster: Lab, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed Deployment `scheduler`, its command replaced by one that tells what it finds."""
    monkeypatch.setenv("LQ_LEAK", "1")
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/command", "value": ["python3", "-c", _PROBE]}]
    cluster.kubectl(
        "-n", NAMESPACE, "patch", "deployment", "lq-operator-scheduler", "--type=json", "-p", json.dumps(patch)
    )
    cluster.kubectl("-n", NAMESPACE, "delete", "deployment", "lq-operator-run", "lq-operator-importer")
    try:
        assert release.start() == ["lq-operator-scheduler"]
        renewal = "lq-operator-token-renewal"
        assert cluster.supervisor.names() == ["lq-operator-scheduler", renewal]
        said = json.loads(await_line(cluster, "lq-operator-scheduler", "SAID "))
        account = f"system:serviceaccount:{NAMESPACE}:lq-operator-scheduler"
        assert said["who"] == account
        assert said["argv"] == ["scheduler", "--config", "/etc/lq-operator/config.yaml"]
        assert said["env"]["POD_NAMESPACE"] == NAMESPACE
        assert said["env"]["POD_NAME"].startswith("lq-operator-scheduler-")
        assert said["env"]["HOME"] == "/tmp"
        assert said["inherited"] == []
        assert yaml.safe_load(said["config"])["component"] == "scheduler"
        assert {key: said[key] for key in ("tmp", "etc", "root", "var")} == {
            "tmp": True, "etc": False, "root": False, "var": False,
        }  # fmt: skip
        assert set(said["capabilities"]) == {"0" * 16}
        release.renew_tokens()
        assert await_line(cluster, "lq-operator-scheduler", "RENEWED ") == account
        assert cluster.supervisor.status("lq-operator-scheduler").restarts == 0
        assert cluster.supervisor.status(renewal).state == "running"
        assert cluster.supervisor.log(renewal).read_text() == ""
    finally:
        release.stop()
        # Helm applies as one field owner among others: what the test has patched would be a conflict.
        cluster.kubectl("-n", NAMESPACE, "delete", "deployment", "lq-operator-scheduler", "--ignore-not-found")
        helm_install(release)
    assert cluster.supervisor.names() == []


def test_install_starts_a_process_per_deployment_and_stop_ends_them(cluster: Lab, release: Release) -> None:
    release.install({"scheduler": {"maxBatch": 7}})
    wanted = [f"lq-operator-{process}" for process in (*PROCESSES, "token-renewal")]
    assert sorted(cluster.supervisor.names()) == sorted(wanted)
    config = get(cluster, "-n", NAMESPACE, "configmap", "lq-operator-importer")["data"]["config.yaml"]
    assert yaml.safe_load(config)["allowedPrivateNetworks"] == ["10.78.0.0/24"], "the lab's image server"
    release.stop()
    assert cluster.supervisor.names() == []


# -- what survives: last, because it uninstalls


def test_machines_outlive_upgrade_uninstall_and_every_way_to_lose_crds(cluster: Lab, release: Release) -> None:
    apply(
        cluster,
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tenant"}},
        {"apiVersion": API_VERSION, "kind": "HypervisorCluster", "metadata": {"name": "main"}, "spec": {}},
        volume("kept"),
    )

    def facts() -> dict[str, str]:
        crds = get(cluster, "crds")["items"]
        ours = [crd for crd in crds if crd["spec"]["group"] == GROUP]
        objects = [get(cluster, "hypervisorclusters", "main"), get(cluster, "-n", "tenant", "volumes", "kept")]
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in [*ours, *objects]}

    before = facts()
    assert len(before) == len(KINDS) + 2

    helm_install(release, values={"logLevel": "debug", "run": {"workers": 3}})
    config = get(cluster, "-n", NAMESPACE, "configmap", "lq-operator-run")["data"]["config.yaml"]
    assert yaml.safe_load(config)["workers"] == 3
    assert facts() == before

    helm_install(release, values={"crds": {"install": False}})
    assert facts() == before, "switching crds.install off deletes nothing"

    helm_install(release)
    release.helm("uninstall", release.name)
    assert facts() == before, "uninstalling keeps CRDs and what people declared"
    left = get(cluster, "-n", NAMESPACE, "deployments,serviceaccounts,configmaps,roles")["items"]
    assert [item["metadata"]["name"] for item in left if item["metadata"]["name"].startswith("lq-operator")] == []
    roles = get(cluster, "clusterroles")["items"]
    assert [r["metadata"]["name"] for r in roles if r["metadata"]["name"].startswith(("lq-", "limiquantix"))] == []

    helm_install(release)
    assert facts() == before, "installing again finds them"

    release.helm("uninstall", release.name)
    other = Release(cluster, name="second", namespace="other")
    with pytest.raises(CommandFailedError, match="invalid ownership metadata"):
        helm_install(other)
    helm_install(other, "--take-ownership")
    assert facts() == before, "another release may take them over when told to"
