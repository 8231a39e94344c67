"""`kubectl lq ...` by the real kubectl, which finds the plugin on its PATH; judged by the hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.datacenter import Datacenter, diskless, power
from tests.e2e.plugin import NOT_DONE, USAGE, Plugin


@pytest.fixture(scope="module")
def plugin(dc: Datacenter) -> Iterator[Plugin]:
    dc.apply(diskless("plug"))
    dc.wait_state("plug", "Running")
    yield Plugin(dc)
    dc.delete("VirtualMachine", "plug")
    dc.wait_gone("VirtualMachine", "plug")


def test_verbs_are_carried_out_before_they_return(plugin: Plugin) -> None:
    dc = plugin.dc
    assert "vm/plug: paused on h" in plugin.lq("pause", "vm/plug")
    assert list(dc.seen("plug").values()) == ["paused"]
    assert "resumed" in plugin.lq("resume", "plug")
    assert list(dc.seen("plug").values()) == ["running"]
    pid = dc.qemu_pid("plug")
    assert "reset" in plugin.lq("reset", "vm/plug")
    assert dc.qemu_pid("plug") == pid
    assert "restarted" in plugin.lq("restart", "vm/plug", "--force")
    assert dc.qemu_pid("plug") != pid
    assert "suspended" in plugin.lq("suspend", "vm/plug")
    assert dc.seen("plug") == {}
    started = json.loads(plugin.lq("start", "vm/plug", "-o", "json"))
    assert (started["phase"], started["state"]) == ("Succeeded", "Running")
    assert list(dc.seen("plug")) == [started["node"]]
    assert "stopped" in plugin.lq("stop", "vm/plug")
    assert dc.seen("plug") == {}
    said = plugin.lq("start", "vm/plug", "--no-wait")
    assert "vmop" in said
    dc.wait_state("plug", "Running")


def test_what_cannot_be_done_is_said_with_the_reason(plugin: Plugin) -> None:
    dc = plugin.dc
    assert "did you mean plug?" in plugin.lq("stop", "vm/plgu", code=NOT_DONE)
    assert "vm/plug" in plugin.lq("stop", "pod/plug", code=NOT_DONE)
    assert "did you mean stop?" in plugin.lq("sotp", "vm/plug", code=USAGE)
    dc.patch("VirtualMachine", "plug", {"spec": {"powerState": "Running"}})
    assert "spec.powerState" in plugin.lq("stop", "vm/plug", code=NOT_DONE)
    assert list(dc.seen("plug").values()) == ["running"]
    dc.patch("VirtualMachine", "plug", {"spec": {"powerState": None}})
    # Nothing was created for what was refused before it was asked.
    asked = json.loads(dc.kubectl("get", "vmop", "-o", "json"))["items"]
    assert not [one for one in asked if one["spec"]["vmRef"]["name"] == "plgu"]


def test_several_at_once_by_label(plugin: Plugin) -> None:
    dc = plugin.dc
    dc.kubectl("label", "vm", "plug", "tier=x")
    said = plugin.lq("pause", "-l", "tier=x")
    assert said.startswith("vm/plug: paused")
    plugin.lq("resume", "-l", "tier=x")
    assert "selects no VM" in plugin.lq("pause", "-l", "tier=none", code=NOT_DONE)


def test_questions(plugin: Plugin) -> None:
    host = plugin.dc.host_of("plug").name
    assert f"hvn/{host}  Ready" in plugin.lq("tree", "vm/plug")
    facts = json.loads(plugin.lq("timeline", "vm/plug", "-o", "json"))
    started = plugin.dc.vm("plug")["status"]["power"]["startedAt"]
    assert [phase["at"] for phase in facts["phases"] if phase["what"].startswith("QEMU")] == [started]
    [row] = [row for row in json.loads(plugin.lq("top", "vms", "-o", "json")) if row["vm"] == "plug"]
    assert (row["state"], row["node"]) == ("Running", host)
    assert {row["node"] for row in json.loads(plugin.lq("top", "nodes", "-o", "json"))} == {"h1", "h2", "h3"}
    assert host in plugin.lq("why", "vm/plug")


def test_cordon_keeps_what_is_there(plugin: Plugin) -> None:
    host = plugin.dc.host_of("plug").name
    try:
        assert plugin.lq("cordon", host) == f"hvn/{host}: cordoned\n"
        assert plugin.lq("cordon", f"hvn/{host}") == f"hvn/{host}: cordoned already\n"
        node = plugin.dc.get("HypervisorNode", host)
        assert node is not None
        assert node["spec"]["unschedulable"] is True
        assert list(plugin.dc.seen("plug")) == [host]
    finally:
        assert plugin.lq("uncordon", host) == f"hvn/{host}: uncordoned\n"


def test_attest_refuses_a_host_that_answers_and_a_shrug(plugin: Plugin) -> None:
    assert "nothing to attest" in plugin.lq("attest", "h1", "--yes", "--seen", "cords are out, rack 4", code=NOT_DONE)
    assert json.loads(plugin.dc.kubectl("get", "attest", "-o", "json"))["items"] == []


def test_kubectl_completes(plugin: Plugin) -> None:
    def complete(*words: str) -> list[str]:
        out = plugin.run("__complete", "lq", *words, namespace=False).stdout.splitlines()
        assert out[-1] == ":4", out
        return [line.partition("\t")[0] for line in out[:-1]]

    assert complete("sto") == ["stop"]
    assert complete("stop", "-n", plugin.dc.namespace, "vm/pl") == ["vm/plug"]
    assert complete("stop", "-n", "e2") == ["e2e"]
    assert complete("cordon", "") == ["h1", "h2", "h3"]


def test_another_context_and_namespace(plugin: Plugin, tmp_path: Path) -> None:
    """As kubectl does: --kubeconfig and --context decide who asks, the context which namespace."""
    lab = plugin.dc.lab
    target = tmp_path / "viewer.kubeconfig"
    lab.control_plane.write_kubeconfig(target, "nobody-special", None, "10.78.0.1")
    ended = plugin.run("lq", "stop", "vm/plug", "--kubeconfig", str(_outside(plugin, target)))
    assert ended.returncode == NOT_DONE
    assert "nobody-special" in ended.stderr
    assert "try again" not in ended.stderr
    assert power(plugin.dc.vm("plug")) == "Running"


def _outside(plugin: Plugin, file: Path) -> Path:
    """The same user at the address that works outside the fabric."""
    here = next(line for line in Path(plugin.dc.lab.kubeconfig).read_text().splitlines() if "server:" in line)
    lines = [here if "server:" in line else line for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines))
    return file
