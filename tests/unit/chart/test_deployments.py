"""lab/deployments.py: a Deployment becomes a process, or an error that says what a kubelet would have refused."""

import base64
import copy
import sys
from pathlib import Path

import pytest
from tests.unit.chart.chart import CHART, NAMESPACE, PROCESSES, RELEASE, helm

from lq_operator.lab.deployments import TOKEN_FOLDER, from_manifests, process_of, render
from lq_operator.lab.errors import LabError

CONFIG = {"kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"config.yaml": "a: 1", "other": "x"}}
SECRET = {
    "kind": "Secret",
    "metadata": {"name": "etcd"},
    "data": {"ca.crt": base64.b64encode(b"CERTIFICATE").decode()},
}
DEPLOYMENT = {
    "kind": "Deployment",
    "metadata": {"name": "op", "namespace": "ns"},
    "spec": {
        "replicas": 1,
        "template": {
            "spec": {
                "serviceAccountName": "op",
                "terminationGracePeriodSeconds": 7,
                "containers": [
                    {
                        "name": "op",
                        "command": ["tool"],
                        "args": ["$(WHO)", "$$(WHO)", "$(NOBODY)", "--config", "/etc/op/config.yaml"],
                        "env": [
                            {"name": "WHO", "value": "me"},
                            {"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                            {"name": "CA", "valueFrom": {"secretKeyRef": {"name": "etcd", "key": "ca.crt"}}},
                            {"name": "TWICE", "value": "$(WHO)$(WHO)"},
                        ],
                        "ports": [{"name": "metrics", "containerPort": 9000}],
                        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "metrics"}},
                        "securityContext": {"readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
                        "volumeMounts": [
                            {"name": "c", "mountPath": "/etc/op"},
                            {"name": "s", "mountPath": "/var/run/etcd"},
                            {"name": "t", "mountPath": "/tmp"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "c", "configMap": {"name": "settings"}},
                    {"name": "s", "secret": {"secretName": "etcd", "items": [{"key": "ca.crt", "path": "sub/ca"}]}},
                    {"name": "t", "emptyDir": {}},
                ],
            }
        },
    },
}


def find(kind, namespace, name):
    assert namespace == "ns"
    return {("ConfigMap", "settings"): CONFIG, ("Secret", "etcd"): SECRET}.get((kind, name))


def changed(path, value):
    """The Deployment with one field of its pod spec replaced; None removes it."""
    deployment = copy.deepcopy(DEPLOYMENT)
    node = deployment["spec"]["template"]["spec"]
    *way, last = path
    for step in way:
        node = node[step]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return deployment


def container(deployment):
    return deployment["spec"]["template"]["spec"]["containers"][0]


def test_command_arguments_and_environment_are_the_containers():
    process = process_of(DEPLOYMENT, find)
    argv = list(process.spec.argv)
    assert argv[argv.index("--") + 1 :] == ["tool", "me", "$(WHO)", "$(NOBODY)", "--config", "/etc/op/config.yaml"]
    environment = dict(process.spec.env)
    assert environment["WHERE"] == "ns"
    assert environment["POD"].startswith("op-")
    assert environment["CA"] == "CERTIFICATE"
    assert environment["TWICE"] == "meme"
    assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert set(environment) == {"WHO", "WHERE", "POD", "CA", "TWICE", "PATH", "HOME"}, "nothing of ours leaks in"


def test_each_start_is_another_pod():
    names = {process_of(DEPLOYMENT, find).spec.env["POD"] for _ in range(20)}
    assert len(names) == 20


def test_files_are_where_the_container_mounts_them():
    process = process_of(DEPLOYMENT, find)
    assert process.spec.mounts == {
        "/etc/op": {"config.yaml": "a: 1", "other": "x"},
        "/var/run/etcd": {"sub/ca": "CERTIFICATE"},
    }
    assert process.spec.grace_s == 7
    assert process.liveness == (9000, "/healthz")
    assert process.readiness is None


def test_the_token_is_mounted_where_client_libraries_look():
    process = process_of(DEPLOYMENT, find)
    assert process.token_folder == TOKEN_FOLDER
    spec = process.with_token("secret", "authority")
    assert spec.mounts[TOKEN_FOLDER] == {"token": "secret", "ca.crt": "authority", "namespace": "ns"}
    without = process_of(changed(["automountServiceAccountToken"], False), find)
    assert without.token_folder is None
    assert without.with_token("secret", "authority") == without.spec


def test_a_projected_token_is_recognised():
    sources = [{"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "settings"}}, {"downwardAPI": {}}]
    deployment = changed(["volumes", 0], {"name": "c", "projected": {"sources": sources}})
    process = process_of(deployment, find)
    assert process.token_folder == "/etc/op"
    assert process.spec.mounts["/etc/op"]["config.yaml"] == "a: 1"


def test_privileges_follow_the_security_context():
    wrapper = list(process_of(DEPLOYMENT, find).spec.argv)
    assert "--writable-root" not in wrapper
    assert "--keep-capabilities" not in wrapper
    assert wrapper[wrapper.index("--empty") + 1] == "/tmp"
    loose = list(process_of(changed(["containers", 0, "securityContext"], None), find).spec.argv)
    assert "--writable-root" in loose
    assert "--keep-capabilities" in loose


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["volumes", 0], {"name": "c", "configMap": {"name": "gone"}}, "ConfigMap ns/gone does not exist"),
        (["volumes", 1], {"name": "s", "secret": {"secretName": "gone"}}, "Secret ns/gone does not exist"),
        (["volumes", 0], {"name": "c", "hostPath": {"path": "/"}}, "cannot mount hostPath"),
        (["volumes"], [], "there is no volume c"),
        (
            ["volumes", 1],
            {"name": "s", "secret": {"secretName": "etcd", "items": [{"key": "k", "path": "p"}]}},
            "Secret etcd has no key k",
        ),
        (["containers", 0, "command"], None, "command is missing"),
        (["containers", 0, "volumeMounts", 0], {"name": "c", "mountPath": "/x", "subPath": "y"}, "subPath"),
        (
            ["containers", 0, "env", 0],
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            "does not know the field status.podIP",
        ),
        (
            ["containers", 0, "env", 0],
            {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "gone"}}},
            "has no key gone",
        ),
        (
            ["containers", 0, "env", 0],
            {"name": "K", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            "resourceFieldRef is not known",
        ),
        (
            ["containers", 0, "livenessProbe"],
            {"httpGet": {"path": "/", "port": "web"}},
            "no port named web",
        ),
        (["initContainers"], [{"name": "i"}], "without init containers"),
    ],
)
def test_what_a_kubelet_would_refuse_is_an_error(path, value, words):
    with pytest.raises(LabError, match=words):
        process_of(changed(path, value), find)


def test_optional_sources_may_be_missing():
    deployment = changed(["volumes", 0], {"name": "c", "configMap": {"name": "gone", "optional": True}})
    assert process_of(deployment, find).spec.mounts["/etc/op"] == {}


def test_two_replicas_are_refused():
    deployment = copy.deepcopy(DEPLOYMENT)
    deployment["spec"]["replicas"] = 2
    with pytest.raises(LabError, match="one replica"):
        process_of(deployment, find)


def test_what_is_mounted_is_sought_in_the_release_first():
    manifests = [DEPLOYMENT, None, {**CONFIG, "metadata": {"name": "settings", "namespace": "ns"}}]
    (process,) = from_manifests(manifests, "ns", lambda kind, _ns, name: SECRET if kind == "Secret" else None)
    assert process.spec.mounts["/etc/op"]["config.yaml"] == "a: 1"


def test_binary_data_is_refused_rather_than_mangled():
    bad = {**SECRET, "data": {"ca.crt": base64.b64encode(b"\xff\xfe").decode()}}
    with pytest.raises(LabError, match=r"key ca\.crt is not text"):
        process_of(DEPLOYMENT, lambda kind, *_: bad if kind == "Secret" else CONFIG)


def test_the_chart_itself_translates():
    processes = render(helm(), CHART, {}, release=RELEASE, namespace=NAMESPACE)
    assert {process.service_account for process in processes} == {f"{RELEASE}-{name}" for name in PROCESSES}
    for process in processes:
        argv = list(process.spec.argv)
        command = argv[argv.index("--") + 1 :]
        assert command[0] == "lq-operator"
        assert command[2:] == ["--config", "/etc/lq-operator/config.yaml"]
        assert "config.yaml" in process.spec.mounts["/etc/lq-operator"]
        assert process.spec.env["HOME"] == "/tmp"
        assert process.liveness is not None


def test_helms_refusal_is_passed_on():
    with pytest.raises(LabError, match="wokers"):
        render(helm(), CHART, {"run": {"wokers": 1}}, release=RELEASE, namespace=NAMESPACE)


def test_a_secret_that_the_chart_only_names_must_exist():
    values = {
        "coordination": {"backend": "etcd", "etcd": {"endpoints": ["https://e:2379"], "tlsSecret": "etcd-client"}}
    }
    with pytest.raises(LabError, match=f"Secret {NAMESPACE}/etcd-client does not exist"):
        render(helm(), CHART, values, release=RELEASE, namespace=NAMESPACE)
