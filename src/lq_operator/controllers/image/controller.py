"""One Image, one pass: which artefacts are wanted, what their imports came to, and the end of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from lq_operator.api.base import FINALIZER
from lq_operator.api.image import Image, ImageArtefact
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.volume import Volume
from lq_operator.controllers.image.hosts import Reach
from lq_operator.controllers.image.job import Importer
from lq_operator.controllers.image.jobs import Jobs, Slot
from lq_operator.controllers.image.report import MANAGER, ImageReporter
from lq_operator.controllers.image.sweep import Sweep
from lq_operator.controllers.runtime.conditions import Progress
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.finalizers import ensure_finalizer, remove_finalizer
from lq_operator.controllers.runtime.refs import cdrom_images
from lq_operator.core.result import Fenced, NotFound, Rejected, WorldError
from lq_operator.core.storage.importing import RETRY_FAILED_S, Target, add_seconds, judge_files, seconds_until
from lq_operator.core.storage.names import host_pool_name
from lq_operator.ports import Clock, Events, Resources, Store
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

VERIFY_S = 240.0
"""A finished artefact is looked for again at every resync: somebody may have emptied the directory."""
HOST_WAIT_S = 10.0
LEAVE_BEHIND_S = 300.0
"""How long a deletion waits for a host that is away; after that its file stays there, and an Event says so."""


@dataclass(slots=True)
class ImageController:
    """reconcile(namespace/name)."""

    store: Store
    resources: Resources
    reach: Reach
    jobs: Jobs
    importer: Importer
    sweep: Sweep
    reporter: ImageReporter
    events: Events
    clock: Clock
    _verified_s: dict[tuple[str, Target], float] = field(default_factory=dict)

    async def reconcile(self, key: str) -> Requeue | None:
        """Have every artefact that a bound Volume waits for, and tell how far it is."""
        namespace, _, name = key.partition("/")
        image = self.store.get(Image, namespace, name)
        if image is None:
            await self.jobs.drop_image(key)
            return None
        if image.deleting:
            return await self._delete(image)
        wanted = self._wanted(image)
        known = {Target(a.pool, a.node): a for a in image.status.artefacts}
        if wanted or known:
            image = await ensure_finalizer(self.resources, image, manager=MANAGER)
        entries: list[ImageArtefact] = []
        delays: list[float] = []
        for target in sorted({*wanted, *known}):
            entry, delay_s = await self._step(image, target, known.get(target), wanted.get(target, []))
            entries += [entry] if entry is not None else []
            delays += [delay_s] if delay_s is not None else []
        await self.reporter.artefacts(image, entries)
        return Requeue.after(min(delays)) if delays else None

    def _wanted(self, image: Image) -> dict[Target, list[str]]:
        """Where Volumes wait for it and CD-ROM drives want it, and on which nodes their VMs are."""
        wanted: dict[Target, list[str]] = {}
        for volume in self.store.list(Volume):
            pool = self.store.get(StoragePool, None, volume.status.pool) if waits_for(volume, image.key) else None
            if pool is not None:
                node = "" if pool.spec.access == "Shared" else volume.status.node
                wanted.setdefault(Target(pool.metadata.name, node), []).append(volume.status.node)
        for vm in self.store.list(VirtualMachine):
            for drive in vm.status.cdroms:
                pool = self.store.get(StoragePool, None, drive.pool) if drive.image == image.key else None
                if pool is not None and bool(drive.node) == (pool.spec.access != "Shared"):
                    node = vm.status.placement.node if vm.status.placement is not None else ""
                    wanted.setdefault(Target(drive.pool, drive.node), []).append(drive.node or node)
        return wanted

    # ------------------------------------------------------------ one artefact

    async def _step(
        self, image: Image, target: Target, before: ImageArtefact | None, nodes: list[str]
    ) -> tuple[ImageArtefact | None, float | None]:
        """What is to be said about it (None: nothing any more) and when to look again."""
        if before is not None and before.phase == "Ready":
            if await self._is_there(image, target, before):
                return before, None
            before = None
        if not nodes:
            await self.jobs.drop(image.key, target)
            return None, None
        slot = self.jobs.slot(image.key, target)
        if slot.task is not None:
            return await self._watch(image, target, slot)
        if (
            before is not None
            and before.phase == "Failed"
            and image.status.observed_generation == image.metadata.generation
        ):
            left_s = seconds_until(before.retry_after, self.clock.now_rfc3339())
            if left_s > 0:
                return before, left_s
        left_s = slot.next_s - self.clock.mono_s()
        if left_s > 0:
            return _importing(target, slot), left_s
        return self._start(image, target, slot, nodes)

    def _start(
        self, image: Image, target: Target, slot: Slot, nodes: list[str]
    ) -> tuple[ImageArtefact | None, float | None]:
        pool = self.store.get(StoragePool, None, target.pool)
        if pool is None:
            return None, None
        host = self.reach.host(pool, target, nodes)
        if isinstance(host, str):
            slot.message = host
            return _importing(target, slot), HOST_WAIT_S
        slot = self.jobs.start(image.key, target, lambda told: self.importer.run(image, target, host, pool, told))
        return _importing(target, slot), None

    async def _watch(self, image: Image, target: Target, slot: Slot) -> tuple[ImageArtefact | None, float | None]:
        """A running import's progress, or what an ended one came to."""
        assert slot.task is not None
        if not slot.task.done():
            return _importing(target, slot), None
        try:
            artefact = slot.task.result()
        except Fenced:
            raise
        except NotFound as error:  # the pool is not on its host yet, or something was removed under the import
            return self._again(image, target, slot, error)
        except Rejected as error:
            return await self._failed(image, target, error)
        except WorldError as error:
            return self._again(image, target, slot, error)
        await self.jobs.drop(image.key, target)
        metrics.IMAGE_IMPORTS.labels("ready").inc()
        self._verified_s[(image.key, target)] = self.clock.mono_s()
        self.events.emit(image, "Imported", f"imported into {where(target)} as {artefact.file}")
        return artefact, None

    async def _failed(self, image: Image, target: Target, error: Rejected) -> tuple[ImageArtefact | None, float | None]:
        await self.jobs.drop(image.key, target)
        metrics.IMAGE_IMPORTS.labels("failed").inc()
        self.events.emit(image, "ImportFailed", f"{where(target)}: {error}", warning=True)
        log.warning("import failed", image=image.key, pool=target.pool, node=target.node, reason=str(error))
        retry_after = add_seconds(self.clock.now_rfc3339(), RETRY_FAILED_S)
        entry = ImageArtefact(
            pool=target.pool, node=target.node, phase="Failed", message=str(error)[:1000], retry_after=retry_after
        )
        return entry, RETRY_FAILED_S

    def _again(
        self, image: Image, target: Target, slot: Slot, error: WorldError
    ) -> tuple[ImageArtefact | None, float | None]:
        metrics.IMAGE_IMPORTS.labels("retried").inc()
        delay_s = slot.failed(str(error), self.clock.mono_s())
        log.warning("import will be tried again", image=image.key, pool=target.pool, reason=str(error), retry_s=delay_s)
        return _importing(target, slot), delay_s

    async def _is_there(self, image: Image, target: Target, artefact: ImageArtefact) -> bool:
        """False only when its host was asked and does not have it (any more)."""
        pool = self.store.get(StoragePool, None, target.pool)
        if pool is None or (target.node and self.store.get(HypervisorNode, None, target.node) is None):
            return False
        at = (image.key, target)
        if self.clock.mono_s() - self._verified_s.get(at, -VERIFY_S) < VERIFY_S:
            return True
        host = self.reach.host(pool, target, [])
        if isinstance(host, str):
            return True
        try:
            for refresh in (False, True):
                names = {seen.name for seen in await host.list_volumes(host_pool_name(target.pool), refresh=refresh)}
                if judge_files(artefact.file, names).ready:
                    self._verified_s[at] = self.clock.mono_s()
                    return True
        except WorldError as error:
            log.info("artefact not verified", image=image.key, pool=target.pool, reason=str(error))
            return True
        self.events.emit(image, "ArtefactLost", f"{artefact.file} is no more in {where(target)}", warning=True)
        return False

    # ------------------------------------------------------------ the end

    async def _delete(self, image: Image) -> Requeue | None:
        if FINALIZER not in image.metadata.finalizers:
            await self.jobs.drop_image(image.key)
            return None
        message = self._in_use(image)
        if message:
            await self.reporter.say(image, Progress.WORKING, "InUse", message)
            return Requeue.after(HOST_WAIT_S)
        await self.jobs.drop_image(image.key)
        left = await self.sweep.run(image)
        if left:
            waited_s = seconds_until(self.clock.now_rfc3339(), image.metadata.deletion_timestamp or "")
            if waited_s < LEAVE_BEHIND_S:
                await self.reporter.say(image, Progress.WORKING, "DeletingArtefacts", "; ".join(left))
                return Requeue.after(min(HOST_WAIT_S, LEAVE_BEHIND_S - waited_s))
            self.events.emit(image, "LeftBehind", "; ".join(left), warning=True)
            log.warning("artefacts left behind", image=image.key, left=left)
        await remove_finalizer(self.resources, image, manager=MANAGER)
        return None

    def _in_use(self, image: Image) -> str:
        """A sentence, '' when nobody needs its files."""
        if not self.store.synced(VirtualMachine, Volume):
            return "Volumes and VirtualMachines are not listed yet: who has it is not known"
        copied = self._copied(image)
        if copied:
            return f"Volumes are being made of it: {', '.join(sorted(copied)[:5])}"
        drives = {vm.key for vm in self.store.list(VirtualMachine) if image.key in media_of(vm)}
        if drives:
            names = ", ".join(sorted(drives)[:5])
            return f"in a CD-ROM drive of VirtualMachine {names}: take it out of spec.cdroms there first"
        if self.store.broken(VirtualMachine):
            return "some VirtualMachine cannot be read, and may have it in a CD-ROM drive: mend or delete that first"
        return ""

    def _copied(self, image: Image) -> list[str]:
        """Volumes that are being copied from a finished artefact on a host that answers."""
        ready = {Target(a.pool, a.node) for a in image.status.artefacts if a.phase == "Ready"}
        copied = []
        for volume in self.store.list(Volume):
            if volume.status.phase != "Bound" or not waits_for(volume, image.key):
                continue
            here = {Target(volume.status.pool, volume.status.node), Target(volume.status.pool, "")}
            if ready & here and self.reach.live(volume.status.node) is not None:
                copied.append(volume.key)
        return copied


def media_of(vm: VirtualMachine) -> set[str]:
    """Keys of the Images that its drives are to have or have, and of none that could not be told apart from a Volume."""
    return cdrom_images(vm) | {
        name for drive in vm.status.cdroms for name in (drive.image, drive.inserted) if "/" in name
    }


def waits_for(volume: Volume, image_key: str) -> bool:
    """Is the volume committed to a pool and has no file yet, for want of this image?"""
    if not volume.status.pool or volume.status.chain or volume.deleting or image_of(volume) != image_key:
        return False
    if volume.status.phase == "Bound":
        return True
    ready = volume.status.condition("Ready")
    # So it is called while the last import has failed; it still waits for the next.
    return volume.status.phase == "Failed" and ready is not None and ready.reason == "ImageFailed"


def image_of(volume: Volume) -> str | None:
    """Key of the Image that a Volume is made of."""
    ref = volume.spec.source.image_ref
    return None if ref is None else f"{ref.namespace or volume.metadata.namespace}/{ref.name}"


def where(target: Target) -> str:
    """For messages."""
    return f"pool {target.pool} on {target.node}" if target.node else f"pool {target.pool}"


def _importing(target: Target, slot: Slot) -> ImageArtefact:
    message = slot.message
    if slot.task is None and slot.failures:
        message = f"{message}; tried again by itself (failed {slot.failures} times)"
    elif slot.queued and not message:
        message = "waits for its turn"
    return ImageArtefact(
        pool=target.pool, node=target.node, phase="Importing", progress_percent=slot.percent, message=message[:1000]
    )
