"""What `helm template` makes of the chart, over the values that change its shape."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from tests.unit.chart.chart import CHART, NAMESPACE, PROCESSES, RELEASE, REPOSITORY, helm_template, of_kind, render

from lq_operator.api.base import GROUP, Scope
from lq_operator.api.kinds import KINDS
from lq_operator.config import (
    GatewaySettings,
    ImporterSettings,
    ProcessSettings,
    RunSettings,
    SchedulerSettings,
    load_settings,
)
from lq_operator.telemetry import metrics

SETTINGS: dict[str, type[ProcessSettings]] = {
    "run": RunSettings,
    "importer": ImporterSettings,
    "scheduler": SchedulerSettings,
}
GUEST = {"virtualmachines/access", "virtualmachines/exec"}
CONSOLES = {"virtualmachines/console", "virtualmachines/vnc", "virtualmachines/screenshot"}
ETCD = {"backend": "etcd", "etcd": {"endpoints": ["https://etcd-0.etcd:2379"], "tlsSecret": "etcd-client"}}
EVERYTHING = {
    "fullnameOverride": "vms",
    "commonLabels": {"team": "infra"},
    "image": {"repository": "registry.example.org/lq", "digest": "sha256:" + "a" * 64},
    "imagePullSecrets": ["pull"],
    "installation": {"id": "old-cluster"},
    "rbac": {"secrets": {"scope": "Namespaces", "namespaces": ["a", "b"]}, "nodeCredentialSecrets": ["host-tls"]},
    "coordination": ETCD,
    "logLevel": "debug",
    "run": {
        "hostNetwork": True,
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"key": "x", "operator": "Exists"}],
        "nodeSelector": {"a": "b"},
        "podLabels": {"c": "d"},
        "podAnnotations": {"e": "f"},
        "serviceAccountAnnotations": {"g": "h"},
    },
    "importer": {
        "allowedPrivateNetworks": ["10.1.0.0/16"],
        "fileUrlDirectories": ["/images"],
        "extraVolumes": [{"name": "images", "persistentVolumeClaim": {"claimName": "images"}}],
        "extraVolumeMounts": [{"name": "images", "mountPath": "/images", "readOnly": True}],
    },
    "metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True, "labels": {"i": "j"}}},
    "networkPolicy": {"enabled": True},
}
MATRIX = {
    "defaults": {},
    "etcd": {"coordination": ETCD},
    "everything": EVERYTHING,
    "nothing": {
        "crds": {"install": False},
        "rbac": {"create": False},
        "roles": {"create": False, "aggregate": False},
        "specGuard": {"enabled": False},
        "guestAccessGuard": {"enabled": False},
        "metrics": {"service": {"enabled": False}},
    },
}
matrix = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())


def deployments(values):
    return {
        d["metadata"]["labels"]["app.kubernetes.io/component"]: d for d in render(values) if d["kind"] == "Deployment"
    }


@matrix
def test_one_deployment_per_process_that_never_runs_twice(values):
    found = deployments(values)
    assert set(found) == set(PROCESSES)
    for deployment in found.values():
        assert deployment["spec"]["replicas"] == 1
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}


@matrix
def test_each_config_map_is_what_its_process_accepts(values, tmp_path):
    manifests = render(values)
    for process, deployment in deployments(values).items():
        pod = deployment["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert container["command"] == ["lq-operator"]
        assert container["args"] == [process, "--config", "/etc/lq-operator/config.yaml"]
        (volume,) = [v for v in pod["volumes"] if v["name"] == "config"]
        mount = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
        assert mount["/etc/lq-operator"] == "config"
        content = of_kind(manifests, "ConfigMap")[volume["configMap"]["name"]]["data"]["config.yaml"]
        path = tmp_path / process
        path.write_text(content)
        settings = load_settings(SETTINGS[process], path, {"POD_NAME": "x", "POD_NAMESPACE": NAMESPACE})
        port = {p["name"]: p["containerPort"] for p in container["ports"]}["metrics"]
        assert settings.telemetry.listen_port == port
        assert settings.shutdown_s < pod["terminationGracePeriodSeconds"]
        for name in ("ca_file", "cert_file", "key_file"):
            file: Path | None = getattr(settings.coordination.etcd, name)
            assert file is None or str(file.parent) in mount


def test_values_reach_the_settings(tmp_path):
    manifests = of_kind(render(EVERYTHING), "ConfigMap")
    content = yaml.safe_load(manifests["vms-importer"]["data"]["config.yaml"])
    assert content["installationId"] == "old-cluster"
    assert content["telemetry"]["logLevel"] == "debug"
    assert content["coordination"]["etcd"]["endpoints"] == ["https://etcd-0.etcd:2379"]
    assert content["allowedPrivateNetworks"] == ["10.1.0.0/16"]


def test_chart_defaults_are_the_programs_defaults(tmp_path):
    """Two places name defaults; they must not part."""
    for process, manifest in of_kind(render(), "ConfigMap").items():
        kind = SETTINGS[process.removeprefix(f"{RELEASE}-")]
        path = tmp_path / process
        path.write_text(manifest["data"]["config.yaml"])
        pod = {"POD_NAME": "x", "POD_NAMESPACE": NAMESPACE}
        (tmp_path / "empty").write_text("")
        from_chart = load_settings(kind, path, pod).model_dump(exclude={"telemetry": {"listen"}, "workers": True})
        from_program = load_settings(kind, tmp_path / "empty", pod).model_dump(
            exclude={"telemetry": {"listen"}, "workers": True}
        )
        assert from_chart == from_program


@matrix
def test_containers_have_no_privilege(values):
    for deployment in deployments(values).values():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 65532
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
        assert container["resources"]["requests"]
        assert "memory" in container["resources"]["limits"]
        assert not any("hostPath" in volume for volume in pod["volumes"])


@matrix
def test_selectors_find_their_pods_and_hold_nothing_that_changes(values):
    seen = set()
    for deployment in deployments(values).values():
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert set(selector) == {
            "app.kubernetes.io/name",
            "app.kubernetes.io/instance",
            "app.kubernetes.io/component",
        }
        assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
        seen.add(tuple(sorted(selector.items())))
    assert len(seen) == len(PROCESSES)


def test_ports_differ_so_that_the_processes_can_share_a_network():
    ports = [
        d["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] for d in deployments({}).values()
    ]
    assert len(set(ports)) == len(ports)


def test_a_changed_setting_starts_only_its_own_process_anew():
    def checksums(values):
        return {
            process: d["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for process, d in deployments(values).items()
        }

    before, after = checksums({}), checksums({"importer": {"maxParallel": 2}})
    assert {process for process in PROCESSES if before[process] != after[process]} == {"importer"}


def test_image_by_tag_and_by_digest():
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]

    def image(values):
        return deployments({"image": values})["run"]["spec"]["template"]["spec"]["containers"][0]["image"]

    assert image({}) == f"localhost/lq-operator:{version}"
    assert image({"tag": "x"}) == "localhost/lq-operator:x"
    assert image({"tag": "x", "digest": "sha256:" + "b" * 64}) == "localhost/lq-operator@sha256:" + "b" * 64


# -- what is refused


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"instalation": {"id": "x"}}, "instalation"),
        ({"run": {"worker": 3}}, "worker"),
        ({"scheduler": {"unreachableAfterSeconds": 8}}, "unreachableAfterSeconds"),
        ({"rbac": {"secrets": {"scope": "Everywhere"}}}, "/rbac/secrets/scope"),
        ({"coordination": {"backend": "etcd"}}, "/coordination/etcd/endpoints"),
        ({"coordination": {"etcd": {"endpoints": ["http://e:2379"]}}}, "/coordination/etcd/endpoints"),
        ({"importer": {"allowedPrivateNetworks": ["10.0.0.0"]}}, "/importer/allowedPrivateNetworks/0"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"run": {"metricsPort": 80}}, "/run/metricsPort"),
        ({"installation": {"id": "UPPER"}}, "/installation/id"),
        ({"run": {"shutdownSeconds": 60}}, "run.terminationGracePeriodSeconds (30) must be longer"),
        (
            {"metrics": {"service": {"enabled": False}, "serviceMonitor": {"enabled": True}}},
            "needs metrics.service.enabled",
        ),
    ],
)
def test_wrong_values_are_refused_by_name(values, named):
    done = helm_template(values)
    assert done.returncode != 0
    assert named in done.stderr.replace("'", "/") or named in done.stderr


def test_every_value_is_in_the_schema_with_its_default():
    import json

    schema = json.loads((CHART / "values.schema.json").read_text())

    def missing(values, node, path=""):
        for key, value in values.items():
            inner = node.get("properties", {}).get(key)
            if inner is None:
                yield f"{path}{key}"
            elif isinstance(value, dict) and "properties" in inner:
                assert inner.get("additionalProperties") is False, f"{path}{key} accepts unknown keys"
                yield from missing(value, inner, f"{path}{key}.")

    assert list(missing(yaml.safe_load((CHART / "values.yaml").read_text()), schema)) == []


# -- CRDs


def test_the_chart_carries_the_generated_crds():
    generated = {path.name: path.read_bytes() for path in (REPOSITORY / "crds").glob("*.yaml")}
    carried = {path.name: path.read_bytes() for path in (CHART / "files" / "crds").glob("*.yaml")}
    assert generated
    assert carried == generated, "run: make crds"


def test_crds_render_as_generated_and_survive():
    rendered = of_kind(render(), "CustomResourceDefinition")
    generated = [yaml.safe_load(path.read_text()) for path in (REPOSITORY / "crds").glob("*.yaml")]
    assert {crd["metadata"]["name"] for crd in generated} == set(rendered)
    for crd in generated:
        ours = rendered[crd["metadata"]["name"]]
        assert ours["spec"] == crd["spec"], "a number or a string changed its form on the way through Helm"
        annotations = ours["metadata"]["annotations"]
        assert annotations["helm.sh/resource-policy"] == "keep"
        assert annotations["argocd.argoproj.io/sync-options"] == "Prune=false,Delete=false"
        assert annotations["kustomize.toolkit.fluxcd.io/prune"] == "disabled"
    loose = of_kind(render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert all("helm.sh/resource-policy" not in (c["metadata"].get("annotations") or {}) for c in loose.values())


def test_crds_can_be_left_out():
    assert of_kind(render(MATRIX["nothing"]), "CustomResourceDefinition") == {}


# -- rights, offline: the API server's own word is asked in tests/e2e/test_chart.py


def rules(values, kind, name):
    return of_kind(render(values), kind)[name]["rules"]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kind", ["ClusterRole", "Role"])
def test_no_wildcards_anywhere(process, kind):
    for rule in rules({}, kind, f"{RELEASE}-{process}"):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_every_kind_is_named_by_the_roles():
    plurals = {kind.plural for kind in KINDS}
    namespaced = {kind.plural for kind in KINDS if kind.scope is Scope.NAMESPACED}
    for role in ("admin", "operator", "viewer"):
        readable = {
            resource
            for rule in rules({}, "ClusterRole", f"limiquantix-{role}")
            if "watch" in rule["verbs"]
            for resource in rule["resources"]
        }
        assert readable == plurals
    for role in ("aggregate-to-edit", "aggregate-to-view"):
        named = {one for rule in rules({}, "ClusterRole", f"limiquantix-{role}") for one in rule["resources"]}
        assert {one for one in named if "/" not in one} == namespaced, (
            "cluster-scoped kinds never reach people by aggregation"
        )
    watched = {
        resource
        for rule in rules({}, "ClusterRole", f"{RELEASE}-run")
        if "watch" in rule["verbs"]
        for resource in rule["resources"]
    }
    assert watched == plurals


def test_nobody_but_the_operator_writes_status():
    for name, role in of_kind(render(), "ClusterRole").items():
        if name.startswith("limiquantix-"):
            assert not any(resource.endswith("/status") for rule in role["rules"] for resource in rule["resources"])


def test_the_guest_itself_is_for_admins_alone():
    """Accounts in the guest and commands run in it: not for those who may only start, stop and type."""
    roles = {d["metadata"]["name"]: d for d in render({}) if d["kind"] == "ClusterRole"}
    guest = {"virtualmachines/access": ["update"], "virtualmachines/exec": ["create"]}
    for name, role in roles.items():
        given = {r: rule["verbs"] for rule in role["rules"] for r in rule.get("resources", ()) if r in guest}
        assert given == (guest if name in ("limiquantix-admin", "limiquantix-aggregate-to-admin") else {}), name
    (label,) = {k for k in roles["limiquantix-aggregate-to-admin"]["metadata"]["labels"] if "aggregate-to" in k}
    assert label == "rbac.authorization.k8s.io/aggregate-to-admin"
    guards = [d for d in render({}) if d["kind"].startswith("ValidatingAdmissionPolicy")]
    assert sum(d["metadata"]["name"].endswith("-guest-access") for d in guards) == 2


def test_consoles_are_for_those_who_may_change_machines():
    for role, may in (
        ("admin", True),
        ("operator", True),
        ("aggregate-to-edit", True),
        ("viewer", False),
        ("aggregate-to-view", False),
    ):
        named = {one for rule in rules({}, "ClusterRole", f"limiquantix-{role}") for one in rule["resources"]}
        assert {one for one in named if "/" in one} - GUEST == (CONSOLES if may else set()), role


def test_the_gateway_is_off_until_it_is_asked_for():
    assert not [one for one in render() if "gateway" in str(one["metadata"]["name"])]


def test_the_gateway_has_its_settings_its_port_and_few_rights(tmp_path):
    values = {"gateway": {"enabled": True, "tlsSecret": "door", "historyKib": 8}}
    manifests = render(values)
    config = of_kind(manifests, "ConfigMap")[f"{RELEASE}-gateway"]["data"]["config.yaml"]
    file = tmp_path / "config.yaml"
    file.write_text(config)
    settings = load_settings(GatewaySettings, file, {"POD_NAME": "p", "POD_NAMESPACE": NAMESPACE})
    assert (settings.history_kib, settings.listen, str(settings.tls.key_file)) == (
        8,
        ":8443",
        "/var/run/lq-operator/tls/tls.key",
    )
    assert "coordination" not in config
    container = of_kind(manifests, "Deployment")[f"{RELEASE}-gateway"]["spec"]["template"]["spec"]["containers"][0]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"metrics": 8084, "gateway": 8443}
    written = {
        (verb, resource)
        for kind in ("ClusterRole", "Role")
        for rule in rules(values, kind, f"{RELEASE}-gateway")
        for verb in rule["verbs"]
        for resource in rule["resources"]
        if verb not in ("get", "list", "watch")
    }
    reviews = {("create", "tokenreviews"), ("create", "subjectaccessreviews")}
    assert written == reviews | {("create", "events"), ("patch", "events")}
    (proxy,) = rules(values, "Role", f"{RELEASE}-gateway-proxy")
    assert (proxy["resourceNames"], proxy["verbs"]) == ([f"https:{RELEASE}-gateway:8443"], ["get", "create"])
    assert not [
        one for one in render({"gateway": {"enabled": True, "proxy": False}}) if "proxy" in str(one["metadata"]["name"])
    ]


def test_secret_rights_narrow_down():
    def secret_rules(values, kind, name):
        return [rule for rule in rules(values, kind, name) if "secrets" in rule["resources"]]

    assert secret_rules({}, "ClusterRole", f"{RELEASE}-run") == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    ]
    assert secret_rules({}, "ClusterRole", f"{RELEASE}-importer") == []
    assert secret_rules({}, "ClusterRole", f"{RELEASE}-scheduler") == []
    assert secret_rules({}, "Role", f"{RELEASE}-scheduler") == []
    assert secret_rules(EVERYTHING, "ClusterRole", "vms-run") == []
    assert secret_rules(EVERYTHING, "Role", "vms-importer")[0]["resourceNames"] == ["host-tls"]
    scoped = [m for m in render(EVERYTHING) if m["kind"] == "Role" and m["metadata"]["name"] == "vms-run-secrets"]
    assert {m["metadata"]["namespace"] for m in scoped} == {"a", "b"}


def test_bindings_bind_what_exists_to_accounts_that_exist():
    for values in MATRIX.values():
        manifests = render(values)
        accounts = {
            (m["metadata"]["namespace"], m["metadata"]["name"]) for m in manifests if m["kind"] == "ServiceAccount"
        }
        names = {(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in manifests}
        for manifest in manifests:
            if manifest["kind"] in ("RoleBinding", "ClusterRoleBinding"):
                reference = manifest["roleRef"]
                where = manifest["metadata"].get("namespace") if reference["kind"] == "Role" else None
                assert (reference["kind"], where, reference["name"]) in names
                assert {(s["namespace"], s["name"]) for s in manifest["subjects"]} <= accounts


def test_the_spec_guard_names_every_account():
    policy = of_kind(render(EVERYTHING), "ValidatingAdmissionPolicy")["vms-spec-guard"]
    (condition,) = [c for c in policy["spec"]["matchConditions"] if c["name"] == "by-the-operator"]
    users = set(re.findall(r"'([^']+)'", condition["expression"]))
    assert users == {f"system:serviceaccount:{NAMESPACE}:vms-{process}" for process in PROCESSES}
    assert policy["spec"]["matchConstraints"]["resourceRules"][0]["apiGroups"] == [GROUP]


# -- observability and documents


def test_alerts_use_metrics_that_exist():
    known = {family.name for family in metrics.REGISTRY.collect()}
    (rule,) = of_kind(render(EVERYTHING), "PrometheusRule").values()
    expressions = " ".join(r["expr"] for group in rule["spec"]["groups"] for r in group["rules"])
    used = set(re.findall(r"\blq_\w+", expressions))
    assert used
    assert {name.removesuffix("_total") for name in used} <= known


def test_service_and_monitor_find_the_pods():
    manifests = render(EVERYTHING)
    (service,) = of_kind(manifests, "Service").values()
    for deployment in deployments(EVERYTHING).values():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
    (monitor,) = of_kind(manifests, "ServiceMonitor").values()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {e["port"] for e in monitor["spec"]["endpoints"]} == {p["name"] for p in service["spec"]["ports"]}


def test_only_the_importer_reaches_the_outside_and_only_talkers_reach_hosts():
    policies = of_kind(render(EVERYTHING), "NetworkPolicy")

    def ports(process):
        return {p["port"] for rule in policies[f"vms-{process}"]["spec"]["egress"] for p in rule.get("ports", [])}

    assert 16514 in ports("run")
    assert 16514 in ports("importer")
    assert 16514 not in ports("scheduler")
    assert 80 in ports("importer")
    assert 80 not in ports("run") | ports("scheduler")
    assert all(2379 in ports(process) for process in PROCESSES)


def test_the_readmes_table_is_the_values():
    spec = importlib.util.spec_from_file_location("chart_readme", REPOSITORY / "hack" / "chart_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table = module.table((CHART / "values.yaml").read_text())
    assert table in (CHART / "README.md").read_text(), "run hack/chart_readme.py"


def test_the_dockerfile_and_the_deployments_agree():
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["lq-operator"]' in dockerfile
    assert "USER 65532:65532" in dockerfile


def test_versions_agree():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    declared = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    assert chart["appVersion"] == chart["version"] == declared[1]
