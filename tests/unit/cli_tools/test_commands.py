"""Commands as people type them, without a cluster: records that are none, contexts, and what must not be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lq_operator.api.vm import VirtualMachine
from lq_operator.cli import main
from lq_operator.cli_tools import why
from lq_operator.cli_tools.context import namespace_of_context
from lq_operator.core.placement import HostFacts, PlacementEngine, PlacementRequest, Shape, VmKey
from lq_operator.core.placement.replay import record_of


def run(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def record() -> bytes:
    engine = PlacementEngine(seed=3)
    engine.set_host(HostFacts("h1", pcpus=4, memory_mib=4096))
    engine.set_host(HostFacts("h2", pcpus=4, memory_mib=4096))
    request = PlacementRequest(VmKey("ns", "vm"), Shape(vcpus=1, memory_mib=1024))
    return record_of(engine, request, engine.decide(request))


def test_replay_prints_the_recorded_bytes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "record"
    file.write_bytes(record())
    assert run("replay", str(file), "--print") == 0
    assert json.loads(capfd.readouterr().out) == json.loads(record())["outcome"]


def test_replay_of_another_outcome_fails_and_shows_both(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    body = json.loads(record())
    body["outcome"]["host"] = "h9"
    file = tmp_path / "record"
    file.write_text(json.dumps(body))
    assert run("replay", str(file)) == 1
    said = capfd.readouterr().err
    assert "h9" in said
    assert "0 of 1" in said


@pytest.mark.parametrize(
    "content", ["", "{}", "no json", '{"format": 99}', "[]", '{"format": 1, "strategy": "balanced"}']
)
def test_what_is_no_record_is_said(tmp_path: Path, content: str) -> None:
    file = tmp_path / "record"
    file.write_text(content)
    said = run("replay", str(file))
    assert isinstance(said, str)
    assert "record" in said


def test_a_file_that_is_missing_is_named() -> None:
    assert "/nowhere/record" in run("replay", "/nowhere/record")


def test_why_says_where_and_what_would_help() -> None:
    status = {
        "placement": {"phase": "Released", "writeId": "w"},
        "scheduling": {
            "message": "0 of 2 hosts fit",
            "verdicts": [{"node": "h1", "fits": False, "reason": "memory", "message": "needs 64 GiB, free 1 GiB"}],
            "rejected": {"memory": 2},
            "remedies": ["h1 were uncordoned"],
        },
    }
    metadata = {"name": "vm", "namespace": "ns"}
    spec = {"cpu": {"count": 1}, "memory": {"size": "64Gi"}}
    text = why.say(VirtualMachine.model_validate({"metadata": metadata, "spec": spec, "status": status}))
    assert text.startswith("ns/vm: Released")
    assert "h1    no: memory" in text
    assert "  - h1 were uncordoned" in text
    assert "refused in all: memory 2" in text, "one of the two is not shown"


def test_only_vms_are_asked_about() -> None:
    assert "only VMs are placed" in run("why", "pod/x")


def test_the_namespace_is_that_of_the_context(tmp_path: Path) -> None:
    config = tmp_path / "config"
    contexts = [{"name": "a", "context": {"namespace": "shop"}}, {"name": "b", "context": {}}]
    config.write_text(json.dumps({"current-context": "a", "contexts": contexts}))
    assert namespace_of_context(None, None, {"KUBECONFIG": f"{tmp_path}/absent:{config}"}) == "shop"
    assert namespace_of_context(config, "b", {}) == "default"


def test_the_version_needs_neither_libvirt_nor_a_client() -> None:
    script = (
        "import sys\nfrom lq_operator.cli import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('libvirt', 'kopf', 'kubernetes', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
