"""The pod's mounts where the program itself lies below an emptyDir, as a checkout in /tmp does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")
def test_an_empty_directory_over_the_program_keeps_the_program() -> None:
    above = str(Path(sys.prefix).resolve().parent)
    script = f"import os, lq_operator.lab.pod; print(sorted(os.listdir({above!r})))"
    argv = [sys.executable, "-m", "lq_operator.lab.pod", "--empty", above, "--", sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    shown = eval(done.stdout)
    assert Path(sys.prefix).resolve().name in shown
    assert "pyproject.toml" not in shown
