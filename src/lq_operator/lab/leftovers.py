"""Proof that `down` leaves nothing: what a machine holds before and after, compared by name.

Only additions count. A machine-wide snapshot sees every lab; `of_lab` keeps what bears one lab's name, so that labs of
others may come and go meanwhile.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from lq_operator.lab.cgroups import v2_root
from lq_operator.lab.names import LabNames
from lq_operator.lab.shell import run

_IPROUTE_MOUNT = "/run/netns"
"""iproute2's own mount point: the first `ip netns add` after a boot makes it, and nothing ever removes it."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Everything a lab could leave behind, as readable lines."""

    processes: frozenset[str]
    namespaces: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    links: frozenset[str]
    nft: frozenset[str]
    loops: frozenset[str]
    files: frozenset[str]

    def added_since(self, before: "Leftovers") -> list[str]:
        """One line for each thing that is here and was not there; empty is the good answer."""
        return [
            f"{kind.name}: {thing}"
            for kind in fields(self)
            for thing in sorted(getattr(self, kind.name) - getattr(before, kind.name))
        ]

    def to_json(self) -> str:
        """For a comparison by a later command."""
        return json.dumps({kind.name: sorted(getattr(self, kind.name)) for kind in fields(self)}, indent=1)

    @staticmethod
    def from_json(text: str) -> "Leftovers":
        """What `to_json` wrote."""
        return Leftovers(**{kind: frozenset(things) for kind, things in json.loads(text).items()})

    def __iter__(self) -> Iterator[str]:
        for kind in fields(self):
            yield from (f"{kind.name}: {thing}" for thing in sorted(getattr(self, kind.name)))


def of_machine(parents: tuple[Path, ...] = (Path("/var/tmp/lq-lab"),)) -> Leftovers:
    """Everything of the kinds a lab makes. Processes and cgroups: of labs only, the machine's own come and go."""
    return Leftovers(
        processes=frozenset(_processes("lq-lab-")),
        namespaces=frozenset(_namespaces()),
        mounts=frozenset(_mounts()),
        cgroups=frozenset(_cgroups("lq-lab-*")),
        links=frozenset(name for name, _ in _links()),
        nft=frozenset(_nft_tables()),
        loops=frozenset(_loops()),
        files=frozenset(str(path) for parent in parents for path in (parent, *parent.glob("*")) if path.exists()),
    )


def of_lab(names: LabNames) -> Leftovers:
    """What bears that lab's name now; nothing at all after `down`."""
    below = f"{names.state_dir}/"
    return Leftovers(
        processes=frozenset(_processes(f"/{names.cgroup}/", below)),
        namespaces=frozenset(n for n in _namespaces() if n == names.netns),
        mounts=frozenset(m for m in _mounts() if below in f"{m}/" or m == f"{_IPROUTE_MOUNT}/{names.netns}"),
        cgroups=frozenset(_cgroups(names.cgroup)),
        links=frozenset(n for n, alias in _links() if n == names.access_link or alias == names.netns),
        nft=frozenset(t for t in _nft_tables() if names.netns in t),
        loops=frozenset(loop for loop in _loops() if below in loop),
        files=frozenset({str(names.state_dir)} if names.state_dir.exists() else ()),
    )


def _processes(*markers: str) -> Iterator[str]:
    """Live processes with a marker in their cgroup's path; a second marker is looked for in the command line."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            cgroup = (folder / "cgroup").read_text()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # ended meanwhile
            continue
        # A zombie has no command line, and a dead process holds nothing.
        in_cgroup = any(f"{line}/".find(markers[0]) >= 0 for line in cgroup.splitlines())
        if command and (in_cgroup or any(marker in command for marker in markers[1:])):
            yield f"{folder.name} {command[:160]}"


def _namespaces() -> Iterator[str]:
    folder = Path(_IPROUTE_MOUNT)
    if folder.is_dir():
        yield from (path.name for path in folder.iterdir())


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = line.split(" ")[4]
        if where != _IPROUTE_MOUNT:
            yield where


def _cgroups(pattern: str) -> Iterator[str]:
    yield from (str(path) for path in v2_root().glob(pattern))


def _links() -> Iterator[tuple[str, str]]:
    for link in json.loads(run(["ip", "-j", "link"]).stdout):
        yield link["ifname"], link.get("ifalias", "")


def _nft_tables() -> Iterator[str]:
    yield from run(["nft", "list", "tables"]).stdout.splitlines()


def _loops() -> Iterator[str]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        yield f"{backing.parts[3]} {backing.read_text().strip()}"
