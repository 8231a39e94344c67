"""Every name a lab leaves on the machine, derived from the lab's name alone.

`down` must find everything without trusting a state file that a killed `up` may not have written; so nothing here is
random and nothing is looked up.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from lq_operator.lab.errors import LabError

CONTROLLER_IP = "10.78.0.1"
MANAGEMENT_PREFIX = "10.78.0."
DATA_PREFIX = "10.78.1."
IMAGE_PORT = 8080
APISERVER_PORT = 6443
MAX_HOSTS = 99
"""One octet per host after .10, and two digits in the fixed MAC addresses."""

_VALID_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?")


def lab_parent() -> Path:
    """Folder that holds one folder per lab: `LQ_LAB_DIR`, by default /var/tmp/lq-lab."""
    return Path(os.environ.get("LQ_LAB_DIR") or "/var/tmp/lq-lab").absolute()


def cache_dir() -> Path:
    """What survives `down`: built binaries, guest images, QEMU capability probes."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "lq-operator"


@dataclass(frozen=True, slots=True)
class LabNames:
    """Names and paths of one lab; `state_dir` may lie anywhere, the rest is machine-wide and unique per lab name."""

    name: str
    state_dir: Path

    @staticmethod
    def of(name: str, parent: Path | None = None) -> "LabNames":
        """Check the name and derive the rest. Raises LabError for a name that cannot be part of other names."""
        if not _VALID_NAME.fullmatch(name):
            raise LabError(f"lab name {name!r}: use 1 to 22 lower-case letters, digits and '-', not at the ends")
        return LabNames(name, (parent or lab_parent()) / name)

    @property
    def netns(self) -> str:
        """The outer network namespace that holds every wire of this lab."""
        return f"lq-lab-{self.name}"

    @property
    def cgroup(self) -> str:
        """The cgroup v2 folder, below the hierarchy's root, that holds every process of this lab."""
        return f"lq-lab-{self.name}"

    @property
    def access_link(self) -> str:
        """The end of the veth pair that lies in the machine's own namespace (15 characters at most)."""
        return "lql" + hashlib.sha256(self.name.encode()).hexdigest()[:10]

    @property
    def config_file(self) -> Path:
        """What `Lab.load` reads."""
        return self.state_dir / "lab.json"

    @property
    def hosts_dir(self) -> Path:
        """One folder per host: its disks, definitions, logs."""
        return self.state_dir / "hosts"

    @property
    def shared_dir(self) -> Path:
        """Seen by every host at the same path."""
        return self.state_dir / "shared"

    @property
    def www_dir(self) -> Path:
        """Served over HTTP inside the fabric."""
        return self.state_dir / "www"

    @property
    def log_dir(self) -> Path:
        """Output of the processes that are not inside a host."""
        return self.state_dir / "log"
