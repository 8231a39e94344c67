"""Names of volume files in a pool, and which existing file a Volume takes up again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

READY_SUFFIX = ".ready"
"""An empty file beside a volume file that says: its bytes are complete. A copy that died half-way has none."""


MOVING_SUFFIX = ".moving"
"""Beside a file that a live move fills on its target: complete only if the guest runs here, which the guest itself shows."""


def host_pool_name(pool: str) -> str:
    """Name of the libvirt pool of a StoragePool."""
    return f"lq-{pool}"


def volume_file(namespace: str, name: str, uid: str, format_: str) -> str:
    """File of a Volume: identity and incarnation. '_' is in no Kubernetes name, so the parts cannot run together."""
    return f"vol_{namespace}_{name}_{uid[:8]}.{format_}"


def ready_mark(file: str) -> str:
    """Name of the mark of a complete file."""
    return f"{file}{READY_SUFFIX}"


def moving_mark(file: str) -> str:
    """Name of the mark of a file that a live move fills."""
    return f"{file}{MOVING_SUFFIX}"


def existing_file(
    namespace: str, name: str, names: Iterable[str], doomed: Set[str], *, runs_here: bool = False
) -> str | None:
    """The complete file of an earlier incarnation of this Volume: taken up again, so that a lost API server loses
    no data. Files that a tombstone names are doomed and not taken. None where there is none; ValueError for several.

    `runs_here`: the guest runs on this host, so what a move brought here is what it runs from.
    """
    stem = f"vol_{namespace}_{name}_"
    there = set(names)
    found = sorted(
        file
        for file in there
        if file.startswith(stem)
        and not file.endswith((READY_SUFFIX, MOVING_SUFFIX))
        and "_" not in file[len(stem) :]
        and (ready_mark(file) in there or (runs_here and moving_mark(file) in there))
        and file not in doomed
    )
    if len(found) > 1:
        raise ValueError(f"several files could be this volume's: {', '.join(found)}; remove or rename all but one")
    return found[0] if found else None


def unfinished_files(names: Set[str], uids: Mapping[tuple[str | None, str], str]) -> list[str]:
    """Volume files without their mark whose Volume (namespace, name -> uid) is not there: left by a process that died,
    or made late by one that had lost its lease. Of a Volume that is there they are its own controller's to replace."""
    found = []
    for file in sorted(names):
        prefix, _, rest = file.partition("_")
        namespace, _, rest = rest.partition("_")
        name, _, tail = rest.partition("_")
        if prefix != "vol" or not tail or "_" in tail or file.endswith((READY_SUFFIX, MOVING_SUFFIX)):
            continue
        if ready_mark(file) in names and moving_mark(file) in names:
            found.append(moving_mark(file))  # made late, by the sender of a move that is long over
        if ready_mark(file) in names or moving_mark(file) in names:
            continue
        if uids.get((namespace, name), "")[:8] != tail.partition(".")[0]:
            found.append(file)
    return found


def artefact_file(namespace: str, name: str, sha256: str, format_: str) -> str:
    """File of an imported image in a pool: image and content, so that it is found again after the API server was lost."""
    return f"img_{namespace}_{name}_{sha256[:16]}.{format_}"


def medium_of(path: str) -> str:
    """What a file in a CD-ROM drive is: NAMESPACE/NAME of an Image, NAME of a Volume, '' for nothing and for what is not
    ours. Inverse of `artefact_file` and `volume_file`."""
    kind, _, rest = path.rpartition("/")[2].partition("_")
    namespace, _, rest = rest.partition("_")
    name, mark, _ = rest.partition("_")
    if not mark or kind not in ("img", "vol"):
        return ""
    return f"{namespace}/{name}" if kind == "img" else name
