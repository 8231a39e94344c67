"""Compiles the placement engine's inner loops while the package is built. Without a C compiler numpy does their work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

SOURCE = "src/lq_operator/core/placement/kernel.c"
FLAGS = ("-O3", "-ffp-contract=off", "-fPIC", "-shared")


class CompileKernel(BuildHookInterface[Any]):
    """Puts kernel.compiled (a shared library) beside kernel.c, and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is put together, for an editable one too."""
        source = Path(self.root, SOURCE)
        target = source.with_suffix(".compiled")  # whatever ends in ".so" is taken for a module of Python
        target.unlink(missing_ok=True)
        compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
        if compiler is None:
            print("no C compiler: the placement engine will decide with numpy alone", file=sys.stderr)
            return
        subprocess.run([compiler, *FLAGS, "-o", str(target), str(source), "-lm"], check=True)
        build_data["artifacts"].append(f"/{target.relative_to(self.root)}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{next(platform_tags())}"
