"""Where programs are taken from, with stand-ins that only know their version."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lq_operator.lab import binaries
from lq_operator.lab.errors import LabError


def program(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{says}'\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("assets", "path", "cache")}
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(found["assets"]))
    monkeypatch.setenv("PATH", f"{found['path']}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(found["cache"]))
    return found


def test_order_is_assets_then_path_then_cache(places: dict[str, Path]) -> None:
    assert binaries.find("kube-apiserver") is None
    cached = program(binaries.binary_dir(), "kube-apiserver", "Kubernetes v1.36.3")
    assert binaries.find("kube-apiserver") == cached
    on_path = program(places["path"], "kube-apiserver", "Kubernetes v1.34.0")
    assert binaries.find("kube-apiserver") == on_path
    asset = program(places["assets"], "kube-apiserver", "not asked")
    assert binaries.find("kube-apiserver") == asset


@pytest.mark.parametrize(
    ("name", "says", "taken"),
    [
        ("kubectl", "Client Version: v1.20.2", False),
        ("kubectl", "Client Version: v1.36.1", True),
        ("etcd", "etcd Version: 3.5.21", True),
        ("etcd", "etcd Version: 3.4.23", False),
        ("helm", "v3.9.4+gdbc6d8e", False),
        ("helm", "v4.3.1+g0", True),
        ("kube-apiserver", "no version at all", False),
    ],
)
def test_old_programs_on_path_are_passed_over(places: dict[str, Path], name: str, says: str, taken: bool) -> None:
    file = program(places["path"], name, says)
    assert binaries.find(name) == (file if taken else None)


def test_without_go_the_remedies_are_named(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries.shutil, "which", lambda *_, **__: None)
    with pytest.raises(LabError, match="setup-envtest") as raised:
        binaries.ensure("etcd", progress=lambda _: None)
    assert "Go 1.26" in str(raised.value)


def test_a_failed_build_says_what_the_compiler_said_and_leaves_no_program(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = places["path"] / "go"
    go.parent.mkdir(parents=True)
    go.write_text("#!/bin/sh\necho 'x/y.go:3: broken' >&2\nexit 2\n")
    go.chmod(0o755)
    with pytest.raises(LabError, match=r"building etcd failed with status 2: x/y.go:3: broken"):
        binaries.ensure("etcd", progress=lambda _: None)
    assert list(binaries.binary_dir().glob("*")) == []


def test_a_build_is_renamed_stamped_and_made_once(places: dict[str, Path]) -> None:
    go = places["path"] / "go"
    go.parent.mkdir(parents=True)
    go.write_text(
        f'#!/bin/sh\necho "$@" >> {places["path"]}/calls\nmkdir -p $GOBIN && echo built > $GOBIN/server\nchmod +x $GOBIN/server\n'
    )
    go.chmod(0o755)
    said: list[str] = []
    first = binaries.ensure("etcd", progress=said.append)["etcd"]
    assert first == binaries.binary_dir() / "etcd"
    assert first.read_text() == "built\n"
    assert binaries.ensure("etcd", progress=said.append)["etcd"] == first
    calls = (places["path"] / "calls").read_text().splitlines()
    assert len(calls) == 1
    assert f"version.gitVersion={binaries.KUBERNETES_VERSION}" in calls[0]
    assert any("building etcd" in line for line in said)


def test_kubernetes_version_is_the_pinned_module() -> None:
    assert f"k8s.io/kubernetes {binaries.KUBERNETES_VERSION}" in (binaries._MODULE_DIR / "go.mod").read_text()


def test_a_build_ends_with_the_command_that_wanted_it(places: dict[str, Path], tmp_path: Path) -> None:
    go = places["path"] / "go"
    go.parent.mkdir(parents=True)
    go.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid.new && mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 300\n")
    go.chmod(0o755)
    code = "from lq_operator.lab import binaries; binaries.ensure('etcd')"
    wanted_by = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < deadline, "the build has not begun"
        time.sleep(0.05)
    wanted_by.kill()
    wanted_by.wait()
    build = Path("/proc", (tmp_path / "pid").read_text().strip(), "cmdline")
    while build.exists() and build.read_bytes():  # a zombie's is empty
        assert time.monotonic() < deadline, "the build outlives its command"
        time.sleep(0.05)
