"""One cgroup v2 folder per part of a lab: how processes are started, found again, frozen and killed.

Only the core files are used (`cgroup.procs`, `.freeze`, `.kill`, `.events`), which need no controller; so this works
both where v2 is the only hierarchy and where it lies empty beside v1. A process enters its folder before it executes
anything, hence there is no moment in which a killed `lab up` could lose it.
"""

import errno
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from lq_operator.lab.errors import LabError

_ENTER = 'echo $$ > "$0" || exit 1; log="$1"; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!'
"""Prints the pid that the program will have: setsid of a non-leader execs in place, and so does nsenter without --fork."""


@cache
def v2_root() -> Path:
    """Mount point of the cgroup v2 hierarchy. Raises LabError when there is none."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind == "cgroup2" and where.startswith("/sys/fs/cgroup"):
            return Path(where)
    raise LabError(
        "no cgroup v2 hierarchy below /sys/fs/cgroup; `mkdir -p /sys/fs/cgroup/unified && "
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified` adds one beside v1"
    )


class Cgroup:
    """A cgroup v2 folder, named relative to the hierarchy's root. Missing folders count as empty."""

    def __init__(self, relative: str) -> None:
        self.path = v2_root() / relative

    def child(self, name: str) -> "Cgroup":
        """The folder below this one."""
        return Cgroup(str((self.path / name).relative_to(v2_root())))

    def create(self) -> None:
        """Make it and its parents; leave an old one thawed."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.thaw()

    def exists(self) -> bool:
        """Whether the folder is there."""
        return self.path.is_dir()

    def _event(self, key: str) -> bool:
        try:
            text = (self.path / "cgroup.events").read_text()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return False
            raise
        return f"{key} 1" in text.splitlines()

    def populated(self) -> bool:
        """Whether a live process is in it or below it."""
        return self._event("populated")

    def frozen(self) -> bool:
        """Whether every process in it is stopped by the freezer."""
        return self._event("frozen")

    def pids(self) -> list[int]:
        """Pids in this folder and below it."""
        found: list[int] = []
        for folder in self._tree():
            try:
                found += [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
        return found

    def _tree(self) -> Iterator[Path]:
        """Deepest first, so that the order suits removal."""
        if self.path.is_dir():
            yield from sorted((p for p in self.path.rglob("*") if p.is_dir()), reverse=True)
            yield self.path

    def freeze(self, timeout_s: float = 20) -> None:
        """Stop every process in it; returns when the kernel says so."""
        (self.path / "cgroup.freeze").write_text("1")
        self._wait(self.frozen, timeout_s, "did not freeze")

    def thaw(self) -> None:
        """Let the processes go on."""
        (self.path / "cgroup.freeze").write_text("0")

    def kill(self, timeout_s: float = 30) -> None:
        """SIGKILL to every process at once, frozen ones too; returns when none is left."""
        if not self.exists():
            return
        (self.path / "cgroup.kill").write_text("1")
        self._wait(lambda: not self.populated(), timeout_s, "still has processes after cgroup.kill")

    def remove(self) -> None:
        """Kill what is in it, then remove the folders."""
        self.kill()
        for folder in self._tree():
            folder.rmdir()

    def _wait(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"cgroup {self.path} {otherwise} ({timeout_s:g} s)")
            time.sleep(0.01)

    def enter_argv(self, argv: Sequence[str]) -> list[str]:
        """`argv` in the foreground, but as a member of this cgroup from its first instruction on."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs"), *argv]

    def spawn(
        self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> int:
        """Start `argv` detached, output appended to `log`; returns its pid. Exec failures are found in the log."""
        self.create()
        log.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["sh", "-c", _ENTER, str(self.path / "cgroup.procs"), str(log), *argv],
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=None if env is None else dict(env),
            cwd=cwd,
            timeout=30,
            check=False,
        )
        if done.returncode != 0 or not done.stdout.strip().isdigit():
            raise LabError(f"could not start `{argv[0]}`: {done.stderr.strip()}")
        return int(done.stdout)
