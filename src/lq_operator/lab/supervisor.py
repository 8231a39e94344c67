"""Keeps the controllers' processes running, as a Deployment would: they exit by design when they lose their lease.

One small process per supervised command (`supervise`), so that nothing central can fail; everything about it lies in its
folder below the lab's state, and any other process may look, kill, pause or stop it by name.
"""

import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lq_operator.lab.cgroups import Cgroup
from lq_operator.lab.errors import LabError
from lq_operator.lab.fabric import Fabric
from lq_operator.lab.names import LabNames

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One command and what a container would give it."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """The whole environment; only PATH and HOME are added when missing."""
    cwd: str = "/"
    mounts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Absolute folder -> {file name: content}: seen there by this process alone, like a ConfigMap or Secret volume."""
    grace_s: float = 10
    """Between SIGTERM and SIGKILL when it is stopped."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What the supervisor last said about a process."""

    name: str
    state: str
    """running | waiting (to be started again) | stopped | lost (its supervisor is gone)."""
    pid: int | None
    restarts: int
    last_exit: int | None
    paused: bool


class Supervisor:
    """The supervised processes of one lab."""

    def __init__(self, names: LabNames, fabric: Fabric) -> None:
        self._dir = names.state_dir / "processes"
        self._fabric = fabric
        self._group = Cgroup(f"{names.cgroup}/processes")

    def _folder(self, name: str) -> Path:
        folder = self._dir / name
        if not (folder / "spec.json").exists():
            raise LabError(f"no process {name!r} is supervised; known: {', '.join(self.names()) or 'none'}")
        return folder

    def names(self) -> list[str]:
        """Of every process started here and not removed."""
        return sorted(path.parent.name for path in self._dir.glob("*/spec.json"))

    def start(self, spec: ProcessSpec) -> None:
        """Keep it running from now on, inside the fabric. One of that name that runs already is stopped first."""
        folder = self._dir / spec.name
        if (folder / "spec.json").exists():
            self.stop(spec.name)
        folder.mkdir(parents=True, exist_ok=True)
        group = self._group.child(spec.name)
        group.child("run").create()
        self._write_mounts(folder, spec)
        content = {
            "full_argv": [*self._fabric.enter_argv, *_in_mounts(folder, spec.mounts), *spec.argv],
            "argv": list(spec.argv),
            "env": {"PATH": _DEFAULT_PATH, "HOME": "/", **spec.env},
            "cwd": spec.cwd,
            "log": str(self.log(spec.name)),
            "grace_s": spec.grace_s,
            "run_cgroup": str(group.child("run").path),
        }
        (folder / "status.json").unlink(missing_ok=True)
        (folder / "spec.json").touch(mode=0o600)
        (folder / "spec.json").write_text(json.dumps(content))
        self._launch(spec.name)

    def _launch(self, name: str) -> None:
        folder = self._folder(name)
        argv = [sys.executable, "-m", "lq_operator.lab.supervise", str(folder)]
        self._group.child(name).spawn(argv, log=folder / "supervisor.log", cwd=Path("/"))
        self._await_status(name, lambda status: status.state in ("running", "waiting"))

    def restart(self, name: str) -> None:
        """Stop it with grace, start it again from the same spec."""
        self.stop(name)
        self._launch(name)

    def _await_status(self, name: str, condition: Callable[[ProcessStatus], bool], timeout_s: float = 30) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition(self.status(name)):
            if time.monotonic() > deadline:
                log = self._folder(name) / "supervisor.log"
                raise LabError(f"process {name} is {self.status(name).state}; see {log} and {self.log(name)}")
            time.sleep(0.05)

    def status(self, name: str) -> ProcessStatus:
        """What it does now. Raises LabError for a name never started."""
        folder = self._folder(name)
        group = self._group.child(name)
        known: dict[str, int | str | None] = {}
        with suppress(FileNotFoundError):
            known = json.loads((folder / "status.json").read_text())
        state = str(known.get("state", "starting"))
        if not group.populated() and state != "stopped":
            state = "lost"
        return ProcessStatus(
            name=name,
            state=state,
            pid=_int(known.get("pid")) if state == "running" else None,
            restarts=_int(known.get("restarts")) or 0,
            last_exit=_int(known.get("last_exit")),
            paused=group.child("run").frozen(),
        )

    def list(self) -> "tuple[ProcessStatus, ...]":
        """Every process, by name."""
        return tuple(self.status(name) for name in self.names())

    def log(self, name: str) -> Path:
        """Where its outputs are appended, over restarts."""
        return self._dir / name / "output.log"

    def kill(self, name: str) -> None:
        """kill -9 of the process and its children; it is started again."""
        self._folder(name)
        self._group.child(name).child("run").kill()

    def pause(self, name: str) -> None:
        """Stop it in its tracks, as SIGSTOP would, children included; it is not restarted meanwhile."""
        self._folder(name)
        self._group.child(name).child("run").freeze()

    def resume(self, name: str) -> None:
        """Let it go on where it was."""
        self._folder(name)
        self._group.child(name).child("run").thaw()

    def stop(self, name: str) -> None:
        """SIGTERM, after the grace SIGKILL; not started again until `start` or `restart`. Stopped already is fine."""
        folder = self._folder(name)
        group = self._group.child(name)
        if not group.populated():
            return
        group.child("run").thaw()
        grace_s = float(json.loads((folder / "spec.json").read_text())["grace_s"])
        for pid in _own_pids(group):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s + 5
        while group.populated() and time.monotonic() < deadline:
            time.sleep(0.05)
        group.kill()

    def remove(self, name: str) -> None:
        """Stop it and forget it, log included."""
        self.stop(name)
        self._group.child(name).remove()
        shutil.rmtree(self._folder(name))

    def write_file(self, name: str, folder: str, file: str, content: str) -> None:
        """Replace one mounted file under a running process, as a rotated token or a changed ConfigMap is."""
        target = _source(self._folder(name), folder) / file
        scratch = target.with_name(target.name + ".new")
        scratch.write_text(content)
        scratch.rename(target)

    def _write_mounts(self, folder: Path, spec: ProcessSpec) -> None:
        shutil.rmtree(folder / "mounts", ignore_errors=True)
        for where, files in spec.mounts.items():
            source = _source(folder, where)
            source.mkdir(parents=True)
            for file, content in files.items():
                (source / file).parent.mkdir(parents=True, exist_ok=True)
                (source / file).write_text(content)


def _int(value: int | str | None) -> int | None:
    return None if value is None else int(value)


def _own_pids(group: Cgroup) -> list[int]:
    """The supervisor itself, without what it runs."""
    return [int(pid) for pid in (group.path / "cgroup.procs").read_text().split()]


def _source(folder: Path, where: str) -> Path:
    return folder / "mounts" / where.strip("/").replace("/", "+")


def _in_mounts(folder: Path, mounts: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Prefix that shows the folders at their places in a mount namespace of the process's own.

    A place that does not exist on this machine is made in an overlay above its nearest existing parent, so that nothing
    is ever created on the machine itself.
    """
    if not mounts:
        return []
    lines = ["mount --make-rprivate /"]
    overlays: set[str] = set()
    for number, where in enumerate(sorted(mounts)):
        target = Path(os.path.realpath(where))
        parent = target
        while not parent.is_dir():
            parent = parent.parent
        if parent != target:
            if str(parent) in ("/", "/var", "/usr"):
                raise LabError(
                    f"mount {where}: this machine has no folder {parent / target.relative_to(parent).parts[0]}"
                )
            if str(parent) not in overlays:
                layers = folder / "mounts" / f".overlay{number}"
                quoted = shlex.quote(f"lowerdir={parent},upperdir={layers}/upper,workdir={layers}/work")
                lines += [f"mkdir -p {shlex.quote(str(layers))}/upper {shlex.quote(str(layers))}/work"]
                lines += [f"mount -t overlay overlay -o {quoted} {shlex.quote(str(parent))}"]
                overlays.add(str(parent))
            lines.append(f"mkdir -p {shlex.quote(str(target))}")
        lines.append(f"mount --bind {shlex.quote(str(_source(folder, where)))} {shlex.quote(str(target))}")
    script = " && ".join(lines) + ' && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]
