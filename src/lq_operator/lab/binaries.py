"""Where the control plane's programs come from: an envtest folder, PATH, the cache, or built once from Go modules.

`controlplane/go.mod` and `go.sum` pin everything that is built; the cache folder is named after their content, so a
changed pin builds anew and an unchanged one never does.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lq_operator.lab.errors import LabError
from lq_operator.lab.names import cache_dir
from lq_operator.lab.shell import run

KUBERNETES_VERSION = "v1.36.3"
_MODULE_DIR = Path(__file__).parent / "controlplane"
_VERSION_PACKAGE = "k8s.io/component-base/version"
_PACKAGES_IN_ALL = 1900
"""Compiled for all six programs together (measured); only for the progress line."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Program:
    """One program: its Go package, the name Go gives it, and how to ask an installed one for its version."""

    name: str
    package: str
    go_name: str
    version_argv: tuple[str, ...]
    oldest: tuple[int, int]
    """Major and minor: an older one on PATH is passed over, with the reason in the constant's line below."""


PROGRAMS = {
    program.name: program
    for program in (
        # 3.5: the oldest that this API server's authors test with.
        Program("etcd", "go.etcd.io/etcd/server/v3", "server", ("--version",), (3, 5)),
        # 1.32: selectableFields of custom resources are on by default.
        Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver", ("--version",), (1, 32)),
        Program(
            "kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
            "kube-controller-manager",
            ("--version",),
            (1, 32),
        ),
        # kubectl supports servers one minor version away.
        Program("kubectl", "k8s.io/kubernetes/cmd/kubectl", "kubectl", ("version", "--client"), (1, 35)),
        # 3.14: the oldest that its authors' skew table pairs with a supported cluster.
        Program("helm", "helm.sh/helm/v4/cmd/helm", "helm", ("version", "--short"), (3, 14)),
        Program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler", ("--version",), (1, 32)),
    )
}


FOR_UP = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
"""What a lab with a control plane of its own needs; the rest is built when it is asked for."""


def pinned_hash() -> str:
    """First 12 hex digits of the SHA-256 over go.mod and go.sum."""
    content = (_MODULE_DIR / "go.mod").read_bytes() + (_MODULE_DIR / "go.sum").read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


def binary_dir() -> Path:
    """The cache folder for programs built from the present pins."""
    return cache_dir() / "controlplane" / pinned_hash() / "bin"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def find(name: str) -> Path | None:
    """The program without building it: KUBEBUILDER_ASSETS, then PATH when new enough, then the cache."""
    program = PROGRAMS[name]
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and os.access(Path(assets, name), os.X_OK):
        return Path(assets, name)
    on_path = shutil.which(name)
    if on_path and _is_new_enough(on_path, program):
        return Path(on_path)
    cached = binary_dir() / name
    return cached if os.access(cached, os.X_OK) else None


def _is_new_enough(path: str, program: Program) -> bool:
    done = run([path, *program.version_argv], check=False, timeout_s=30)
    found = re.search(r"(\d+)\.(\d+)", done.stdout + done.stderr)
    return done.returncode == 0 and found is not None and (int(found[1]), int(found[2])) >= program.oldest


def ensure(*names: str, progress: Progress = _say, temporary_cache: bool = False) -> dict[str, Path]:
    """Paths of the programs, built where they are found nowhere. Raises LabError when they cannot be built."""
    paths = {name: find(name) for name in names}
    if missing := [name for name, path in paths.items() if path is None]:
        with _build_lock():
            for name in missing:
                if find(name) is None:
                    _build(PROGRAMS[name], progress, temporary_cache=temporary_cache)
    found = {name: find(name) for name in names}
    return {name: path for name, path in found.items() if path is not None}


@contextmanager
def _build_lock() -> Iterator[None]:
    """One build at a time on a machine: two would take twice as long each."""
    folder = binary_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "build.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(program: Program, progress: Progress, *, temporary_cache: bool) -> None:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise LabError(
            f"{program.name} is not on PATH or in KUBEBUILDER_ASSETS, and cannot be built without Go 1.26 or newer: "
            f"install Go, or fetch the programs with setup-envtest and set KUBEBUILDER_ASSETS to their folder"
        )
    progress(f"building {program.name} from pinned Go modules (once; minutes on two cores)")
    target = binary_dir()
    # In the same file system as the target, so that the last step is an atomic rename.
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        _go_install(go, program, Path(scratch), progress, temporary_cache=temporary_cache)
        (Path(scratch) / "bin" / program.go_name).rename(target / program.name)
    progress(f"built {program.name}: {target / program.name}")


def _go_install(go: str, program: Program, scratch: Path, progress: Progress, *, temporary_cache: bool) -> None:
    major, minor = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
    stamps = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    # Without the stamps the API server calls itself v0.0.0 and Helm's kubeVersion checks fail.
    flags = "-s -w " + " ".join(f"-X {_VERSION_PACKAGE}.{key}={value}" for key, value in stamps.items())
    env = {**os.environ, "GOBIN": str(scratch / "bin"), "CGO_ENABLED": "0"}
    if temporary_cache:
        env["GOCACHE"] = str(scratch / "cache")
    # The build ends with the `lab up` that wanted it, also after kill -9.
    argv = ["setpriv", "--pdeathsig", "KILL", go, "install", "-v", "-trimpath", "-ldflags", flags, program.package]
    with subprocess.Popen(
        argv, cwd=_MODULE_DIR, env=env, text=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as build:
        tail = _report_packages(build, program.name, progress)
    if build.returncode != 0:
        raise LabError(f"building {program.name} failed with status {build.returncode}: " + " | ".join(tail))


def _report_packages(build: "subprocess.Popen[str]", name: str, progress: Progress) -> list[str]:
    """Turn `go install -v`'s line per compiled package into a line every five seconds; returns the last lines."""
    lines: list[str] = []
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(5):
            last = lines[-1].strip() if lines else "reading modules"
            progress(f"  {name}: {len(lines)} packages compiled (of up to {_PACKAGES_IN_ALL}), now {last}")

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    assert build.stderr is not None
    for line in build.stderr:  # not extend(): the ticker reads while this grows
        lines.append(line)
    ended.set()
    ticker.join()
    return [line.strip() for line in lines[-5:]]
