"""Renders the chart for tests, once per set of values."""

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lq_operator.lab import binaries

REPOSITORY = Path(__file__).parents[3]
CHART = REPOSITORY / "charts" / "lq-operator"
NAMESPACE = "lq-system"
RELEASE = "lq-operator"
PROCESSES = ("run", "importer", "scheduler")

Manifest = dict[str, Any]


def helm() -> Path:
    """The program, or a skip that says how to get it; in CI its absence fails."""
    found = binaries.find("helm")
    if found is None:
        reason = "helm is not built yet: `lq-operator lab up` builds it, or install Helm 3.14 or newer"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def helm_template(values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """`helm template` with these values."""
    argv = [str(helm()), "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", "-"]
    return subprocess.run(argv, input=yaml.safe_dump(values), text=True, capture_output=True, timeout=120, check=False)


@functools.cache
def _rendered(values: str) -> tuple[Manifest, ...]:
    done = helm_template(json.loads(values))
    assert done.returncode == 0, done.stderr
    # libyaml where it is there: the CRDs are 5 000 lines.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(manifest for manifest in yaml.load_all(done.stdout, loader) if manifest)


def render(values: dict[str, Any] | None = None) -> list[Manifest]:
    """Every manifest of the chart; not to be changed, others get the same objects."""
    return list(_rendered(json.dumps(values or {}, sort_keys=True)))


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """By name; a name that comes twice is an error."""
    found: dict[str, Manifest] = {}
    for manifest in manifests:
        if manifest["kind"] == kind:
            name = manifest["metadata"]["name"]
            key = name if name not in found else f"{manifest['metadata'].get('namespace')}/{name}"
            assert key not in found, f"{kind} {name} twice"
            found[key] = manifest
    return found
