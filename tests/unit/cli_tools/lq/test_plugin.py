"""`kubectl lq` without a cluster: names, guesses, completion, usage errors, and what must load quickly."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lq_operator.cli_tools.kubectl import main
from lq_operator.cli_tools.lq.arguments import COMMANDS, build_parser
from lq_operator.cli_tools.lq.complete import candidates
from lq_operator.cli_tools.lq.complete import main as complete
from lq_operator.cli_tools.lq.names import did_you_mean, node_name, vm_name
from lq_operator.core.result import Rejected


@pytest.mark.parametrize(
    "typed", ["web", "vm/web", "VM/web", "virtualmachines/web", "virtualmachine.limiquantix.io/web"]
)
def test_a_vm_is_named_as_kubectl_names_it(typed: str) -> None:
    assert vm_name(typed) == "web"


@pytest.mark.parametrize(("typed", "says"), [("pod/web", "vm/web"), ("vm/", "vm/NAME"), ("", "vm/NAME")])
def test_what_is_no_vm_is_refused_with_what_to_write(typed: str, says: str) -> None:
    with pytest.raises(Rejected, match=says):
        vm_name(typed)


def test_hosts_have_words_of_their_own() -> None:
    assert [node_name(one) for one in ("h1", "hvn/h1", "node/h1", "host/h1")] == ["h1"] * 4
    with pytest.raises(Rejected, match="hvn/h1"):
        node_name("vm/h1")


def test_guesses_come_before_lists_and_lists_are_cut() -> None:
    assert did_you_mean("wbe", ["web", "db"]) == "; did you mean web?"
    assert did_you_mean("x", ["web", "db"]) == "; there are db, web"
    assert did_you_mean("x", []) == ""
    assert did_you_mean("x", [f"vm-{n:02}" for n in range(30)]).endswith("and 22 more")


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    return ended.value.code, capsys.readouterr().err


def test_a_mistyped_command_is_answered_with_the_one_that_is_close(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "sotp", "vm/web") == (2, "kubectl lq: there is no command sotp; did you mean stop?\n")


@pytest.mark.parametrize("timeout", ["0", "-1", "1.5", "soon", "86401"])
def test_nonsense_timeouts_are_refused(capsys: pytest.CaptureFixture[str], timeout: str) -> None:
    code, text = said(capsys, "stop", "vm/web", f"--timeout={timeout}")
    assert (code, "1 to 86400" in text) == (2, True)


def test_kubeconfig_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = said(capsys, "stop", "vm/web", "--kubeconfig", "/nonexistent")
    assert "/nonexistent" in str(code)


def test_every_command_has_help_and_kubectls_flags() -> None:
    words = build_parser().format_help().split()
    for name in COMMANDS:
        if name == "simulate":
            continue
        assert name in words
        flags = {option.partition("\t")[0] for option in candidates([name, "--"])}
        assert {"--namespace", "--context", "--kubeconfig", "--output"} <= flags, name


def test_completion_of_commands_options_and_choices() -> None:
    assert [one.partition("\t")[0] for one in candidates(["sto"])] == ["stop"]
    assert len(candidates([""])) == len(COMMANDS)
    assert candidates(["stop", "-o", ""]) == ["text", "json"]
    assert [one.partition("\t")[0] for one in candidates(["stop", "--f"])] == ["--force"]
    assert candidates(["top", "n"]) == ["nodes"]
    assert [one.partition("\t")[0] for one in candidates(["simulate", "rack"])] == ["rack-down"]
    assert candidates(["nonsense", ""]) == []


def test_completion_never_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    complete(["stop", "vm/"])
    assert capsys.readouterr().out == ":4\n"


def test_help_and_completion_of_words_load_no_client() -> None:
    script = (
        "import sys; from lq_operator.cli_tools.lq.complete import candidates; candidates(['st']); "
        "print([m for m in ('kubernetes', 'kopf', 'numpy', 'libvirt', 'aiohttp', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
