"""The files of a VM in the state pool: their names, and how a small one is stored. '_' separates: it is in no Kubernetes
name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from lq_operator.core.model import Epoch, Identity, VolumePlan
from lq_operator.ports import Host

STATE_POOL = "lq-vmstate"
KINDS = ("seed", "nvram", "suspend", "resumed", "tpm", "console", "hardware")


async def store_file(host: Host, name: str, body: bytes) -> None:
    """A new file that its owner alone may read. Conflict when the name is taken; what dies half-way leaves a short file."""
    await host.create_volume(STATE_POOL, VolumePlan(name, len(body), format="raw", mode=0o600))
    await host.upload(STATE_POOL, name, _one_chunk(body))


async def _one_chunk(body: bytes) -> AsyncIterator[bytes]:
    yield body


def seed_file(identity: Identity, epoch: Epoch) -> str:
    """cloud-init seed of one start."""
    return f"seed_{identity.namespace}_{identity.name}_{epoch}.iso"


def suspend_file(identity: Identity, epoch: Epoch) -> str:
    """Memory of the guest that ran under this epoch."""
    return f"suspend_{identity.namespace}_{identity.name}_{epoch}.img"


def resumed_mark(identity: Identity, epoch: Epoch) -> str:
    """Says that the suspend image of this epoch has been used: never again, its disks have moved on."""
    return f"resumed_{identity.namespace}_{identity.name}_{epoch}"


def console_file(identity: Identity) -> str:
    """What the serial console printed, over all starts."""
    return f"console_{identity.namespace}_{identity.name}.log"


def hardware_file(identity: Identity, epoch: Epoch) -> str:
    """What its guest sees (status.hardware as JSON), as it was recorded at the start under this epoch."""
    return f"hardware_{identity.namespace}_{identity.name}_{epoch}.json"


def hardware_files(identity: Identity, names: Iterable[str]) -> list[str]:
    """The VM's records of what its guest sees, the newest first."""
    return sorted(files_of(identity, names, "hardware"), key=_epoch_of, reverse=True)


def nvram_file(identity: Identity) -> str:
    """UEFI variables."""
    return f"nvram_{identity.namespace}_{identity.name}.fd"


def files_of(identity: Identity, names: Iterable[str], *kinds: str) -> list[str]:
    """The VM's files among `names`, of these kinds (none given: all)."""
    found = []
    for name in names:
        kind, _, rest = name.partition("_")
        stem = f"{identity.namespace}_{identity.name}"
        if kind in (kinds or KINDS) and rest.startswith(stem) and rest[len(stem) : len(stem) + 1] in ("", "_", "."):
            found.append(name)
    return sorted(found)


def suspended_epochs(identity: Identity, names: Iterable[str]) -> list[Epoch]:
    """Epochs whose suspend image lies here and has not been used, the newest last."""
    there = set(names)
    found = []
    for name in files_of(identity, there, "suspend"):
        epoch = _epoch_of(name)
        if resumed_mark(identity, epoch) not in there:
            found.append(epoch)
    return sorted(found)


def spent_files(identity: Identity, epoch: Epoch, names: Iterable[str], resumed: Epoch | None = None) -> list[str]:
    """Files that the run (or start) under `epoch` has no use for, in the order in which they may be deleted: seeds of
    earlier starts, suspend images that were used (up to `resumed`, or marked), and then their marks. An image whose
    mark went first would be resumed again, although its disks have moved on."""
    there = set(names)
    seeds = [name for name in files_of(identity, there, "seed") if _epoch_of(name) < epoch]
    marks = files_of(identity, there, "resumed")
    used = {_epoch_of(name) for name in marks}
    images = [
        name
        for name in files_of(identity, there, "suspend")
        if (at := _epoch_of(name)) in used or (resumed is not None and at <= resumed)
    ]
    gone = {_epoch_of(name) for name in images} | used
    return seeds + images + [resumed_mark(identity, at) for at in sorted(gone)]


def _epoch_of(name: str) -> Epoch:
    return Epoch.parse(name.rsplit("_", 1)[1].partition(".")[0])
