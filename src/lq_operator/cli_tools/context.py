"""Which namespace a kubeconfig means, read without a client: completion and help must not wait for one to be imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def namespace_of_context(kubeconfig: Path | None, context: str | None, environ: Mapping[str, str]) -> str:
    """The namespace that kubectl would use: that of the context, else 'default'."""
    named = str(kubeconfig) if kubeconfig else environ.get("KUBECONFIG", "") or str(Path.home() / ".kube" / "config")
    loaded = [_yaml(Path(part)) for part in named.split(":") if part]
    wanted = context or next((str(c["current-context"]) for c in loaded if c.get("current-context")), "")
    for config in loaded:
        for entry in config.get("contexts") or ():
            if entry.get("name") == wanted:
                return str((entry.get("context") or {}).get("namespace") or "default")
    return "default"


def _yaml(path: Path) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return {}  # reading it for real says what is wrong with it
    return parsed if isinstance(parsed, dict) else {}
