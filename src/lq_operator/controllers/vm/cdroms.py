"""Media of CD-ROM drives: which file a drive gets on a host, where an Image is wanted for it, and what is said of it.

Nothing here reads or writes a host. The importer brings Images to where status.cdroms says that they are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lq_operator.api.image import Image
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import Cdrom, Medium, VirtualMachine
from lq_operator.api.vmstatus import CdromStatus
from lq_operator.api.volume import Volume
from lq_operator.controllers.runtime.attachments import Attachments
from lq_operator.controllers.runtime.refs import Refs
from lq_operator.convert.domain import ResolvedCdrom
from lq_operator.core.lifecycle.shape import GuestShape
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.model import NodeName
from lq_operator.core.storage.names import medium_of
from lq_operator.ports import Store

IN_USE_S = 10.0


@dataclass(frozen=True, slots=True)
class Drive:
    """One drive of spec, resolved. `image`, `pool`, `node`: where its Image is wanted. `lack`: why the medium cannot be
    put in; `blocks`: nothing is placed for it either, because no host would change that."""

    name: str
    image: str = ""
    volume: str = ""
    pool: str = ""
    node: str = ""
    path: str = ""
    format: str = "raw"
    lack: Lack | None = None
    blocks: bool = False

    @property
    def resolved(self) -> ResolvedCdrom:
        """As a domain is made of it."""
        waits = self.lack.message if self.lack is not None else ""
        return ResolvedCdrom(self.name, self.path, self.format, waits)

    @property
    def medium(self) -> str:
        """As status.cdroms[].inserted names it."""
        return self.image or self.volume


@dataclass(frozen=True, slots=True)
class Resolver:
    """Resolves the drives of one VM for one node (None: not placed)."""

    vm: VirtualMachine
    node: NodeName | None
    refs: Refs
    store: Store
    attachments: Attachments
    cluster: str

    def drives(self) -> list[Drive]:
        """Every drive of spec, in its order."""
        return [self._drive(drive) for drive in self.vm.spec.cdroms]

    def _drive(self, drive: Cdrom) -> Drive:
        where = f"spec.cdroms[{drive.name}].medium"
        if drive.medium is None:
            return Drive(drive.name)
        if drive.medium.volume_ref is not None:
            return self._volume(drive.name, drive.medium.volume_ref.name, where)
        return self._image(drive.name, drive.medium, where)

    # ------------------------------------------------------------ an Image

    def _image(self, name: str, medium: Medium, where: str) -> Drive:
        assert medium.image_ref is not None
        namespace = medium.image_ref.namespace or self.vm.metadata.namespace or ""
        drive = Drive(name, image=f"{namespace}/{medium.image_ref.name}")
        image = self.store.get(Image, namespace, medium.image_ref.name)
        lack = self._why_not(image, drive, where)
        if lack is not None or image is None:
            return replace(drive, lack=lack, blocks=True)
        pool = self.refs.pool(medium.pool_ref, self.cluster, where)
        if isinstance(pool, Lack):
            return replace(drive, lack=pool, blocks=True)
        return self._artefact(drive, image, pool, where)

    def _why_not(self, image: Image | None, drive: Drive, where: str) -> Lack | None:
        if image is None:
            return Lack("ImageNotFound", f"{where}: there is no Image {drive.image}", stalled=True)
        namespace = image.metadata.namespace
        if not self.refs.admitted(image.spec.allowed_namespaces, namespace):
            message = f"{where}: Image {drive.image} does not admit namespace {self.vm.metadata.namespace}"
            return Lack("NotAdmitted", message, stalled=True)
        if image.spec.source.format != "raw":
            message = (
                f"{where}: Image {drive.image} is of format {image.spec.source.format}; a CD-ROM drive takes format raw "
                "(an ISO image is that): make a disk of this one"
            )
            return Lack("NotAMedium", message, stalled=True)
        if image.deleting and not is_told(self.vm, drive):
            return Lack("ImageDeleting", f"{where}: Image {drive.image} is being deleted", stalled=True)
        return None

    def _artefact(self, drive: Drive, image: Image, pool: StoragePool, where: str) -> Drive:
        """Its file in the pool. Which node a local pool is to have it on shows with the placement."""
        local = pool.spec.access != "Shared"
        if self.node is None:
            return replace(drive, lack=Lack("ImportingImage", f"{where}: Image {image.key} comes to where the VM is"))
        drive = replace(drive, pool=pool.metadata.name, node=self.node if local else "")
        found = next((a for a in image.status.artefacts if (a.pool, a.node) == (drive.pool, drive.node)), None)
        if found is not None and found.phase == "Ready":
            return replace(drive, path=f"{pool.spec.dir.path}/{found.file}")
        if found is not None and found.phase == "Failed":
            lack = Lack("ImageFailed", f"{where}: Image {image.key}: {found.message}", stalled=True)
            return replace(drive, lack=lack)
        done = f" ({found.progress_percent} %)" if found is not None else ""
        message = f"{where}: Image {image.key} is being imported into {drive.pool}{done}"
        return replace(drive, lack=Lack("ImportingImage", message))

    # ------------------------------------------------------------ a Volume

    def _volume(self, name: str, volume_name: str, where: str) -> Drive:
        drive = Drive(name, volume=volume_name)
        volume = self.store.get(Volume, self.vm.metadata.namespace, volume_name)
        if volume is None:
            lack = Lack("VolumeNotFound", f"{where}: there is no Volume {volume_name}", stalled=True)
            return replace(drive, lack=lack, blocks=True)
        user = self.attachments.user(self.vm.metadata.namespace or "", volume_name)
        if user is not None and user.metadata.name != self.vm.metadata.name:
            message = f"{where}: Volume {volume_name} belongs to VirtualMachine {user.metadata.name}; it has one VM"
            return replace(drive, lack=Lack("VolumeInUse", message, stalled=True, again_s=IN_USE_S), blocks=True)
        if volume.deleting:
            lack = Lack("VolumeDeleting", f"{where}: Volume {volume_name} is being deleted", stalled=True)
            return replace(drive, lack=lack, blocks=True)
        status, ready = volume.status, volume.status.condition("Ready")
        if status.phase != "Ready" or not status.chain:
            why = ready.message if ready is not None and ready.message else "is not ready yet"
            message = f"{where}: Volume {volume_name}: {why}"
            return replace(drive, lack=Lack("VolumeNotReady", message, stalled=status.phase == "Failed"))
        if status.node and self.node is not None and status.node != self.node:
            message = f"{where}: Volume {volume_name} lies on {status.node}, not on {self.node}"
            return replace(drive, lack=Lack("VolumeElsewhere", message, stalled=True))
        return replace(drive, path=status.chain[0].path, format=status.chain[0].format)


# ---------------------------------------------------------------- what is said


def told_cdroms(
    vm: VirtualMachine, drives: list[Drive], shape: GuestShape | None, *, known: bool, keeps: bool
) -> list[CdromStatus]:
    """status.cdroms. `keeps`: there is a guest with drives (it runs, or is suspended). `known`: what it has in them is;
    then `shape` None says: all is as spec wants it."""
    before = {entry.name: entry for entry in vm.status.cdroms}
    has = {drive.name: medium_of(drive.path) for drive in shape.cdroms} if shape is not None else {}
    told = []
    for drive in drives:
        old = before.get(drive.name)
        inserted, lack = old.inserted if old is not None and keeps else "", drive.lack
        if keeps and known and shape is not None:
            inserted = has.get(drive.name, "")
        elif keeps and known and lack is None:
            inserted = drive.medium
        told.append(
            CdromStatus(
                name=drive.name,
                image=drive.image,
                volume=drive.volume,
                pool=drive.pool,
                node=drive.node,
                ready=lack is None,
                inserted=inserted,
                message=lack.message[:2000] if lack is not None else "",
            )
        )
    if keeps and (shape is not None or not known):
        told += _taken_out(before, {drive.name for drive in drives}, has if known else None)
    return told[:8]


def _taken_out(before: dict[str, CdromStatus], named: set[str], has: dict[str, str] | None) -> list[CdromStatus]:
    """Drives that spec does not name any more: the guest has them, and what lies in them, until its next start."""
    if has is None:
        return [entry for name, entry in before.items() if name not in named]
    message = "taken out of spec.cdroms: the guest has it until its next start"
    return [CdromStatus(name=n, ready=True, inserted=has[n], message=message) for n in sorted(has.keys() - named)]


def is_told(vm: VirtualMachine, drive: Drive) -> bool:
    """status names the medium: only then may a guest have it, or what is deleted meanwhile would be missing to it."""
    return any(
        e.name == drive.name and (e.image, e.volume) == (drive.image, drive.volume) and e.ready
        for e in vm.status.cdroms
    )
