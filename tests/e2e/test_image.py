"""The image: built by buildah from the Dockerfile as it is, and run under what the chart's security context says."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lq_operator.lab.names import cache_dir

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(1200)]

REPOSITORY = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.13-slim"
IMAGE = "localhost/lq-operator:test"


def run(*argv: str, timeout_s: float = 120, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, text=True, capture_output=True, timeout=timeout_s, check=False, cwd=REPOSITORY, env=env, errors="replace"
    )


def ensure_base() -> None:
    """The real base where a registry answers; otherwise Debian's own Python under the same name (hack/stand-in-base.sh)."""
    if run("buildah", "images", "--quiet", BASE).stdout.strip():
        return
    if run("buildah", "pull", "--quiet", BASE, timeout_s=300).returncode == 0:
        return
    done = run("hack/stand-in-base.sh", str(cache_dir() / "image-base"), timeout_s=900)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A working container of the freshly built image."""
    missing = [program for program in ("buildah", "mmdebstrap") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing: apt-get install --no-install-recommends buildah mmdebstrap")
    ensure_base()
    built = run("hack/build-image.sh", IMAGE, timeout_s=1000, env={**os.environ, "PULL": "never"})
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-3000:]
    made = run("buildah", "from", "--pull-never", IMAGE)
    assert made.returncode == 0, made.stderr
    name = made.stdout.strip()
    yield name
    run("buildah", "rm", name)


def inside(container: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return run("buildah", "run", "--isolation", "chroot", container, "--", *argv)


def test_it_tells_its_version(container: str) -> None:
    done = inside(container, "lq-operator", "--version")
    assert done.returncode == 0, done.stdout + done.stderr
    declared = next(
        line.split('"')[1]
        for line in (REPOSITORY / "pyproject.toml").read_text().splitlines()
        if line.startswith("version = ")
    )
    assert declared in done.stdout


def test_it_runs_as_nobody_in_particular_with_a_name(container: str) -> None:
    """libvirt's client looks its user up; a uid without a name fails only when the first host is connected."""
    done = inside(
        container, "python", "-c", "import os, pwd; print(os.getuid(), os.getgid(), pwd.getpwuid(os.getuid())[0])"
    )
    assert done.stdout.split() == ["65532", "65532", "lq"], done.stderr


def test_the_libvirt_client_works_in_it(container: str) -> None:
    """The library that was compiled against is there; its test driver opens without any daemon."""
    script = "import libvirt; c = libvirt.open('test:///default'); print(c.getType(), len(c.listAllDomains()))"
    assert inside(container, "python", "-c", script).stdout.split() == ["TEST", "1"]


def test_every_room_of_the_operator_can_be_imported(container: str) -> None:
    script = """
import importlib, pkgutil, lq_operator
for module in pkgutil.walk_packages(lq_operator.__path__, "lq_operator."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("all")
"""
    done = inside(container, "python", "-c", script)
    assert done.stdout.strip().endswith("all"), done.stderr[-2000:]


def test_the_placement_engine_is_compiled_in_it(container: str) -> None:
    script = "from lq_operator.core.placement import kernel; print(kernel.library is not None)"
    assert inside(container, "python", "-c", script).stdout.split() == ["True"]


def test_it_brings_no_compiler_and_writes_nothing_of_its_own(container: str) -> None:
    assert inside(container, "sh", "-c", "command -v gcc || command -v make || echo none").stdout.strip() == "none"
    listing = inside(container, "find", "/opt/venv", "-writable", "-print", "-quit")
    assert listing.stdout.strip() == "", "the user it runs as could change the program"


def test_its_configuration_is_what_the_chart_counts_on(container: str) -> None:
    described = json.loads(run("buildah", "inspect", "--type", "image", IMAGE).stdout)
    config = described["OCIv1"]["config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["lq-operator"]
    assert "HOME=/tmp" in config["Env"]
    assert not any(entry.startswith(("PIP_", "SSL_")) for entry in config["Env"]), "the build's environment leaked"
