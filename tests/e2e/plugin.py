"""The real kubectl with our plugin on its PATH, as a user has it, against the lab's API server."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.datacenter import Datacenter

from lq_operator.lab import binaries

OK, NOT_DONE, USAGE = 0, 1, 2


@dataclass
class Plugin:
    """kubectl as a user has it: our programs beside it on the PATH, a kubeconfig, a namespace."""

    dc: Datacenter

    @property
    def kubectl(self) -> str:
        return str(binaries.ensure("kubectl")["kubectl"])

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": os.environ.get("HOME", "/"),
            "KUBECONFIG": str(self.dc.lab.kubeconfig),
        }

    def run(
        self, *arguments: str, stdin: str | None = None, namespace: bool = True, binary: bool = False
    ) -> subprocess.CompletedProcess[Any]:
        argv = [self.kubectl, *arguments, *(["-n", self.dc.namespace] if namespace else [])]
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=not binary, timeout=300, env=self.environ, check=False
        )

    def lq(self, *arguments: str, code: int = OK, stdin: str | None = None) -> str:
        """Its standard output (when it fails: its error); the exit code must be as said."""
        ended = self.run("lq", *arguments, stdin=stdin)
        assert ended.returncode == code, f"{arguments}: {ended.returncode}: {ended.stdout}{ended.stderr}"
        return str(ended.stdout if code == OK else ended.stderr + ended.stdout)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """One that is followed while other things happen; its output is collected by `communicate`."""
        argv = [self.kubectl, "lq", *arguments, "-n", self.dc.namespace]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environ)
