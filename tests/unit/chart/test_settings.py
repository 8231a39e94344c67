"""config.py: defaults, refusals that name the key, and that nothing unknown passes."""

import ipaddress
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from lq_operator.config import (
    ImporterSettings,
    ProcessSettings,
    RunSettings,
    SchedulerSettings,
    load_settings,
)
from lq_operator.core.result import Rejected

POD = {"POD_NAME": "lq-operator-run-6d4f9-x2x7p", "POD_NAMESPACE": "lq-system"}
KINDS: tuple[type[ProcessSettings], ...] = (RunSettings, ImporterSettings, SchedulerSettings)


def load(tmp_path: Path, text: str, kind: type[ProcessSettings] = RunSettings, pod: dict[str, str] = POD):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_settings(kind, path, pod)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file_means_defaults_and_the_pod_says_who_it_is(tmp_path, kind):
    settings = load(tmp_path, "", kind)
    assert (settings.pod_name, settings.namespace) == (POD["POD_NAME"], "lq-system")
    assert settings.component == kind.model_fields["component"].default
    assert settings.coordination.backend == "kubernetes"


def test_the_processes_lease_different_things():
    names = [kind.model_fields["coordination"].default.lease_name for kind in KINDS]
    assert len(set(names)) == len(names)


def test_a_second_shard_of_hosts_is_refused(tmp_path):
    with pytest.raises(Rejected, match="one shard of hosts and its lease is 'hosts-0': remove the setting"):
        load(tmp_path, "coordination: {leaseName: hosts-1}")
    assert load(tmp_path, "coordination: {leaseName: hosts-0}").coordination.lease_name == "hosts-0"


def test_setting_the_ttl_keeps_the_process_own_lease(tmp_path):
    assert load(tmp_path, "coordination: {ttlSeconds: 9}", SchedulerSettings).coordination.lease_name == "scheduler"


def test_every_setting_is_explained():
    def sections(model: type[BaseModel]):
        yield model
        for field in model.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from sections(field.annotation)

    silent = [
        f"{model.__name__}.{name}"
        for kind in KINDS
        for model in sections(kind)
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("wokers: 3", "wokers", "no setting of this process"),
        ("unreachable_after_s: 9", "unreachable_after_s", "no setting"),
        ("coordination: {ttl: 3}", "coordination.ttl", "no setting"),
        ("coordination: {ttlSeconds: 1}", "coordination.ttlSeconds", "greater than or equal to 3"),
        ("coordination: {backend: etcd}", "coordination", "needs etcd.endpoints"),
        ("coordination: {etcd: {endpoints: ['http://e:2379']}}", "coordination", "backend is kubernetes"),
        (
            "coordination: {backend: etcd, etcd: {endpoints: ['https://e:2379']}}",
            "coordination.etcd",
            "https endpoints need caFile",
        ),
        (
            "coordination: {backend: etcd, etcd: {endpoints: ['http://e:2379'], certFile: /a}}",
            "coordination.etcd",
            "go together",
        ),
        ("telemetry: {listen: '8080'}", "telemetry.listen", "write host:port"),
        ("telemetry: {listen: '::1:8080'}", "telemetry.listen", "brackets"),
        ("telemetry: {logLevel: loud}", "telemetry.logLevel", "'debug', 'info'"),
        ("installationId: Not-A-Name", "installationId", "pattern"),
        ("component: scheduler", "component", "'run'"),
        ("podName: me", "podName", "POD_NAME"),
        ("namespace: other", "namespace", "POD_NAMESPACE"),
    ],
)
def test_a_bad_setting_is_refused_by_name(tmp_path, text, field, words):
    with pytest.raises(Rejected) as caught:
        load(tmp_path, text)
    assert caught.value.field == field
    assert words in str(caught.value)
    assert "config.yaml" in str(caught.value)


def test_all_problems_are_named_at_once(tmp_path):
    with pytest.raises(Rejected, match=r"foo is no setting.*bar is no setting"):
        load(tmp_path, "foo: 1\nbar: 2")


@pytest.mark.parametrize("text", ["[]", "just words", "a: b: c", "1: 2", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(Rejected, match=r"config\.yaml"):
        load(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Rejected, match="cannot read the settings"):
        load_settings(RunSettings, tmp_path / "none.yaml", POD)


@pytest.mark.parametrize("missing", ["POD_NAME", "POD_NAMESPACE"])
def test_without_the_pods_identity_nothing_starts(tmp_path, missing):
    with pytest.raises(Rejected, match=f"{missing} is not set"):
        load(tmp_path, "", pod={key: value for key, value in POD.items() if key != missing})


def test_a_namespace_must_be_one(tmp_path):
    with pytest.raises(Rejected, match="no namespace name"):
        load(tmp_path, "", pod={**POD, "POD_NAMESPACE": "../etc"})


def test_settings_cannot_be_changed(tmp_path):
    settings = load(tmp_path, "")
    with pytest.raises(ValidationError):
        settings.workers = 1


def test_the_importer_reaches_nothing_private_and_no_file_by_default(tmp_path):
    settings = load(tmp_path, "", ImporterSettings)
    assert settings.allowed_private_networks == ()
    assert settings.file_url_directories == ()


def test_the_importers_networks_are_networks(tmp_path):
    settings = load(tmp_path, "allowedPrivateNetworks: [10.78.0.0/24, 'fd00::/8']", ImporterSettings)
    assert ipaddress.ip_address("10.78.0.1") in settings.allowed_private_networks[0]
    for bad in ("10.0.0.1/8", "localhost", "10.0.0.0/33"):
        with pytest.raises(Rejected, match=r"allowedPrivateNetworks\.0: write a CIDR"):
            load(tmp_path, yaml.safe_dump({"allowedPrivateNetworks": [bad]}), ImporterSettings)


@pytest.mark.parametrize("bad", ["/", "images", "/images/../etc"])
def test_file_urls_need_a_real_directory(tmp_path, bad):
    with pytest.raises(Rejected, match="fileUrlDirectories"):
        load(tmp_path, yaml.safe_dump({"fileUrlDirectories": [bad]}), ImporterSettings)


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [(":8080", "", 8080), ("127.0.0.1:1", "127.0.0.1", 1), ("[::1]:65535", "::1", 65535)],
)
def test_listen_is_taken_apart(tmp_path, listen, host, port):
    telemetry = load(tmp_path, yaml.safe_dump({"telemetry": {"listen": listen}})).telemetry
    assert (telemetry.listen_host, telemetry.listen_port) == (host, port)
