"""The process that keeps one other process running: started by `supervisor`, found by its cgroup, stopped by SIGTERM.

It reads `spec.json` in its folder, starts the command in the cgroup `run` below its own, restarts it with backoff when it
ends, and writes `status.json` at every change. Standard library only: there is one per controller.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 5.0
HEALTHY_AFTER_S = 10.0
"""A process that ran this long starts again without delay. A kubelet's 10 s to 5 min would only slow tests down."""


class Supervise:
    """One command, kept alive."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec: dict[str, Any] = json.loads((folder / "spec.json").read_text())
        self.child: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self.restarts = 0
        self.last_exit: int | None = None

    def run(self) -> None:
        """Until SIGTERM."""
        signal.signal(signal.SIGTERM, self._on_term)
        backoff_s = FIRST_BACKOFF_S
        while not self.stopping:
            started = time.monotonic()
            self._start()
            self.last_exit = self._wait()
            self.child = None
            if self.stopping:
                break
            self.restarts += 1
            self._report("waiting")
            backoff_s = FIRST_BACKOFF_S if time.monotonic() - started > HEALTHY_AFTER_S else backoff_s
            self._sleep(backoff_s)
            backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
        self._kill_group()
        self._report("stopped")

    def _start(self) -> None:
        enter = 'echo $$ > "$0" && exec "$@"'
        argv = ["sh", "-c", enter, str(Path(self.spec["run_cgroup"]) / "cgroup.procs"), *self.spec["full_argv"]]
        with Path(self.spec["log"]).open("ab") as log:
            self.child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.spec["cwd"],
                env=self.spec["env"],
                start_new_session=True,
            )
        self._report("running")

    def _wait(self) -> int:
        assert self.child is not None
        asked_at: float | None = None
        while True:
            try:
                return self.child.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                if self.stopping and asked_at is None:
                    asked_at = time.monotonic()
                    self.child.terminate()
                if asked_at is not None and time.monotonic() - asked_at > self.spec["grace_s"]:
                    self._kill_group()

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.stopping and time.monotonic() < deadline:
            time.sleep(0.05)

    def _kill_group(self) -> None:
        (Path(self.spec["run_cgroup"]) / "cgroup.kill").write_text("1")

    def _on_term(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True

    def _report(self, state: str) -> None:
        status = {
            "state": state,
            "pid": self.child.pid if self.child else None,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
        }
        scratch = self.folder / "status.json.new"
        scratch.write_text(json.dumps(status))
        scratch.rename(self.folder / "status.json")


if __name__ == "__main__":
    os.umask(0o077)
    Supervise(Path(sys.argv[1])).run()
