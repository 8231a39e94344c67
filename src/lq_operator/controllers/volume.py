"""Volume: the file on a host, once its VM is committed there; growth; and the end by reclaim policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lq_operator.api.base import FINALIZER
from lq_operator.api.image import Image
from lq_operator.api.node import Tombstone, TombstoneVolume
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.volume import Volume
from lq_operator.controllers.runtime.attachments import Attachments
from lq_operator.controllers.runtime.awaited import awaited_hosts
from lq_operator.controllers.runtime.conditions import Progress, dump_conditions, set_progress
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.finalizers import ensure_finalizer, remove_finalizer
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.placements import is_moving, on_a_host, placement_of
from lq_operator.controllers.runtime.refs import UNPLACED, Namespaces, Refs, disk_volumes
from lq_operator.controllers.runtime.status import report_status
from lq_operator.controllers.runtime.tombstones import doomed_files, leave_tombstone
from lq_operator.convert.power import should_run
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.model import Identity, NodeName, Phase, VolumePlan
from lq_operator.core.result import Conflict, NotFound, Rejected, Transient
from lq_operator.core.storage.names import existing_file, host_pool_name, moving_mark, ready_mark, volume_file
from lq_operator.core.times import age_s
from lq_operator.core.units import parse_bytes
from lq_operator.ports import Clock, Events, Resources, Store

MANAGER = "lq-volume"
WAIT_S = 5.0
IN_USE_S = 15.0
"""How soon to look again for a Volume to be deleted that is in use: a disk taken out of a spec wakes nobody."""
QUIET_S = 30.0
"""A new Volume whose VM is about to be placed says only after this long that it waits for that: the VM says why."""


@dataclass(slots=True)
class VolumeController:
    """reconcile(namespace/name)."""

    store: Store
    resources: Resources
    namespaces: Namespaces
    book: HostBook
    attachments: Attachments
    events: Events
    clock: Clock

    async def reconcile(self, key: str) -> Requeue | None:
        """Make the file exist where its VM is, let it grow, and take it away in the end."""
        namespace, _, name = key.partition("/")
        volume = self.store.get(Volume, namespace, name)
        if volume is None:
            return None
        if volume.deleting:
            return await self._delete(volume)
        volume = await ensure_finalizer(self.resources, volume, manager=MANAGER)
        user = self.attachments.user(namespace, name)
        if volume.status.phase == "Ready" and volume.status.node and user is not None and is_moving(user):
            return Requeue.after(WAIT_S)  # the migration controller says which host's copy it is
        if volume.status.phase == "Ready":
            return await self._ready(volume, user)
        return await self._bind(volume, user)

    # ------------------------------------------------------------ coming into being

    async def _bind(self, volume: Volume, user: VirtualMachine | None) -> Requeue | None:
        placement = placement_of(user) if user is not None else None
        if user is None or placement is None or placement.phase is not Phase.COMMITTED or placement.node is None:
            if user is not None and (hold_s := self._hold_s(volume, user)) > 0:
                return Requeue.after(hold_s)
            await self._write(volume, Progress.WORKING, UNPLACED, "made when its first VM is placed", {})
            return None
        refs = Refs(
            self.store, user.metadata.namespace or "", await self.namespaces.labels(user.metadata.namespace or "")
        )
        pool = self._pool(volume, user, refs)
        if isinstance(pool, Lack):
            return await self._lack(volume, pool)
        entry = self.book.owned(placement.node)
        if entry is None or entry.uuid != placement.host_uuid:
            return Requeue.after(WAIT_S)
        lack = self._room(volume, pool, entry)
        if lack is not None:
            return await self._lack(volume, lack)
        source = self._source(volume, pool, entry, refs)
        if isinstance(source, Lack):
            where = {"pool": pool.metadata.name, "node": entry.node, "phase": "Bound"}
            return await self._lack(volume, source, where)
        return await self._make(volume, pool, entry, source)

    def _hold_s(self, volume: Volume, user: VirtualMachine) -> float:
        """Seconds to hold back a first status of a disk whose VM is about to be placed: mostly it is the last word too."""
        if volume.status.conditions or not should_run(user):
            return 0.0
        return QUIET_S - age_s(volume.metadata.creation_timestamp, self.clock.now_rfc3339())

    def _pool(self, volume: Volume, user: VirtualMachine, refs: Refs) -> StoragePool | Lack:
        cluster = refs.cluster(user.spec.cluster_ref.name if user.spec.cluster_ref else None)
        if isinstance(cluster, Lack):
            return cluster
        return refs.pool(volume.spec.pool_ref, cluster.metadata.name, "spec.poolRef")

    def _room(self, volume: Volume, pool: StoragePool, entry: OwnedHost) -> Lack | None:
        here = next((node for node in pool.status.nodes if node.node == entry.node), None)
        if here is None or not here.ready:
            why = here.message if here else "not set up there yet"
            return Lack("PoolNotReady", f"StoragePool {pool.metadata.name} on {entry.node}: {why}")
        size = parse_bytes(volume.spec.size)
        usable = here.capacity_bytes - parse_bytes(pool.spec.reserve)
        if size > usable:
            message = f"spec.size: {volume.spec.size} is more than pool {pool.metadata.name} has on {entry.node} ({usable // 1024**3}Gi)"
            return Lack("LargerThanPool", message, stalled=True)
        if self._format(volume, pool) == "raw" and size > here.available_bytes:
            return Lack(
                "PoolFull", f"pool {pool.metadata.name} on {entry.node} has {here.available_bytes // 1024**3}Gi free"
            )
        return None

    def _source(self, volume: Volume, pool: StoragePool, entry: OwnedHost, refs: Refs) -> str | Lack | None:
        """The artefact to copy, None for an empty volume, or what it waits for."""
        ref = volume.spec.source.image_ref
        if ref is None:
            return None
        namespace = ref.namespace or volume.metadata.namespace
        image = self.store.get(Image, namespace, ref.name)
        where = "spec.source.imageRef"
        if image is None:
            return Lack("ImageNotFound", f"{where}: there is no Image {namespace}/{ref.name}", stalled=True)
        if not refs.admitted(image.spec.allowed_namespaces, namespace):
            message = f"{where}: Image {namespace}/{ref.name} does not admit namespace {volume.metadata.namespace}"
            return Lack("NotAdmitted", message, stalled=True)
        node = "" if pool.spec.access == "Shared" else entry.node
        artefact = next((a for a in image.status.artefacts if (a.pool, a.node) == (pool.metadata.name, node)), None)
        if artefact is None or artefact.phase == "Importing":
            done = f" ({artefact.progress_percent} %)" if artefact else ""
            return Lack("ImportingImage", f"Image {image.key} is being imported into {pool.metadata.name}{done}")
        if artefact.phase == "Failed":
            return Lack("ImageFailed", f"{where}: Image {image.key}: {artefact.message}", stalled=True)
        if artefact.virtual_size_bytes > parse_bytes(volume.spec.size):
            needed = -(-artefact.virtual_size_bytes // 1024**3)
            return Lack(
                "SmallerThanImage",
                f"spec.size: {volume.spec.size} is less than the image needs ({needed}Gi)",
                stalled=True,
            )
        return artefact.file

    async def _make(self, volume: Volume, pool: StoragePool, entry: OwnedHost, source: str | None) -> Requeue | None:
        host_pool, format_ = host_pool_name(pool.metadata.name), self._format(volume, pool)
        names = {seen.name: seen for seen in await entry.host.list_volumes(host_pool, refresh=True)}
        namespace, name = volume.metadata.namespace or "", volume.metadata.name
        try:
            doomed = doomed_files(self.store, pool.metadata.name)
            file = existing_file(namespace, name, names, doomed, runs_here=self._runs_on(entry, volume))
        except ValueError as error:
            return await self._lack(volume, Lack("Ambiguous", str(error), stalled=True))
        size = parse_bytes(volume.spec.size)
        if file is None:
            file = volume_file(namespace, name, volume.metadata.uid, format_)
            if file in names:
                # No mark beside it: a copy that died half-way, and no VM has ever had it.
                await entry.host.delete_volume(host_pool, file)
            try:
                seen = await entry.host.create_volume(host_pool, VolumePlan(file, size, format_, clone_of=source))
            except NotFound:
                message = f"the copy of its image in pool {pool.metadata.name} is gone; it is imported again"
                return await self._lack(volume, Lack("ImportingImage", message))
            except Rejected as error:
                return await self._lack(volume, Lack("HostRefused", str(error), stalled=True))
            # A late file without its mark is nobody's and is swept; a late mark would make it somebody's.
            self.book.tenure.check()
            await entry.host.create_volume(host_pool, VolumePlan(ready_mark(file), 0, format="raw"))
        else:
            seen = names[file]
            if ready_mark(file) not in names:  # the API server forgot a move: the guest runs from what was brought here
                await entry.host.create_volume(host_pool, VolumePlan(ready_mark(file), 0, format="raw"))
                await entry.host.delete_volume(host_pool, moving_mark(file))
            self.events.emit(volume, "Adopted", f"took up the existing file {file} of pool {pool.metadata.name}")
        status = {
            "phase": "Ready",
            "pool": pool.metadata.name,
            "node": "" if pool.spec.access == "Shared" else entry.node,
            "sizeBytes": seen.capacity_bytes,
            # By its name, never by what libvirt probes: a guest can write a qcow2 header with a backing file of the host
            # into its raw disk.
            "chain": [{"file": file, "format": file.rpartition(".")[2], "path": seen.path}],
        }
        await self._write(volume, Progress.READY, "Ready", "", status)
        return None

    def _runs_on(self, entry: OwnedHost, volume: Volume) -> bool:
        user = self.attachments.user(volume.metadata.namespace or "", volume.metadata.name)
        if user is None:
            return False
        sighting = self.book.sighting(entry, self._identity(user))
        return sighting is not None and sighting.runs

    def _format(self, volume: Volume, pool: StoragePool) -> str:
        return volume.spec.format or pool.spec.default_format

    # ------------------------------------------------------------ being there

    async def _ready(self, volume: Volume, user: VirtualMachine | None) -> Requeue | None:
        status = self._kept(volume)
        wanted = parse_bytes(volume.spec.size)
        if wanted <= volume.status.size_bytes:
            await self._write(volume, Progress.READY, "Ready", "", status)
            return None
        if user is not None and on_a_host(user):
            return await self._grow_under(volume, user, wanted, status)
        entry = self._reachable(volume)
        if entry is None:
            await self._write(volume, Progress.WORKING, "GrowthWaits", "its host is not to be reached now", status)
            return Requeue.after(WAIT_S)
        await entry.host.resize_volume(host_pool_name(volume.status.pool), volume.status.chain[0].file, wanted)
        await self._write(volume, Progress.READY, "Ready", "", status | {"sizeBytes": wanted})
        return None

    async def _grow_under(
        self, volume: Volume, user: VirtualMachine, wanted: int, status: dict[str, Any]
    ) -> Requeue | None:
        """While its VM is on a host: by the QEMU that has the file open, if it does; nobody else may touch it.

        A late growth is refused by nothing and harms nothing: it is what was declared, and a file only ever grows.
        """
        entry, disk, why = self._open_in(volume, user)
        if entry is not None:
            try:
                await entry.host.grow_disk(self._identity(user).domain_name, disk, wanted)
            except (Rejected, Conflict) as error:
                why = str(error)[:300]
            else:
                await self._write(volume, Progress.READY, "Ready", "", status | {"sizeBytes": wanted})
                return None
        message = f"grows to {volume.spec.size} when VirtualMachine {user.metadata.name} is stopped: {why}"
        await self._write(volume, Progress.WORKING, "GrowthWaits", message, status)
        return Requeue.after(IN_USE_S)

    def _open_in(self, volume: Volume, user: VirtualMachine) -> tuple[OwnedHost | None, str, str]:
        """(host, disk) whose running guest has it; else why that cannot be said."""
        placement = placement_of(user)
        entry = self.book.owned(placement.node) if placement is not None else None
        if placement is None or placement.phase is not Phase.COMMITTED:
            return None, "", "it is being moved"
        if entry is None or entry.uuid != placement.host_uuid:
            return None, "", "its host is not to be reached now"
        domain = entry.domains.get(self._identity(user).domain_name)
        disk = next((disk for disk, name in disk_volumes(user).items() if name == volume.metadata.name), "")
        if domain is None or not domain.state.runs or domain.epoch != placement.started_epoch or not disk:
            return None, "", "its guest does not run with it now"
        return entry, disk, ""

    def _identity(self, user: VirtualMachine) -> Identity:
        return Identity(self.book.installation, user.metadata.namespace or "", user.metadata.name)

    def _reachable(self, volume: Volume) -> OwnedHost | None:
        """A host from which its file can be touched."""
        if volume.status.node:
            return self.book.owned(NodeName(volume.status.node))
        pool = self.store.get(StoragePool, None, volume.status.pool)
        ready = {node.node for node in pool.status.nodes if node.ready} if pool else set()
        return next((entry for entry in self.book.all() if entry.node in ready), None)

    # ------------------------------------------------------------ going

    async def _delete(self, volume: Volume) -> Requeue | None:
        if FINALIZER not in volume.metadata.finalizers:
            return None
        user = self.attachments.user(volume.metadata.namespace or "", volume.metadata.name)
        if user is not None and not _of_former(volume, user):
            message = f"in use by VirtualMachine {user.metadata.name}: delete that, or take the disk out of it"
            await self._write(volume, Progress.STALLED, "InUse", message, self._kept(volume))
            return Requeue.after(IN_USE_S)
        if volume.spec.reclaim_policy == "Delete":
            await self._delete_files(volume)
        await remove_finalizer(self.resources, volume, manager=MANAGER)
        return None

    async def _delete_files(self, volume: Volume) -> None:
        pool, files = volume.status.pool, [link.file for link in volume.status.chain]
        if not files:
            await self._sweep_unfinished(volume)
            return
        doomed = doomed_files(self.store, pool, volume.status.node)
        if all(file in doomed for file in files):
            return  # a tombstone has them: they go when their VM is surely gone
        entry = self._reachable(volume)
        if entry is None:
            await self._leave_tombstone(volume, files)
            return
        for file in files:
            # The mark first: a file without it is nobody's.
            await entry.host.delete_volume(host_pool_name(pool), ready_mark(file))
            await entry.host.delete_volume(host_pool_name(pool), file)

    async def _sweep_unfinished(self, volume: Volume) -> None:
        """It never became ready; a half-made file may still lie on a host."""
        if waiting := awaited_hosts(self.store, self.book):
            raise Transient(f"{', '.join(waiting)}: not taken over yet, a half-made file may lie there")
        stem = f"vol_{volume.metadata.namespace}_{volume.metadata.name}_{volume.metadata.uid[:8]}."
        for entry in self.book.all():
            for pool in await entry.host.list_pools():
                if not pool.name.startswith("lq-") or not pool.active:
                    continue
                for seen in await entry.host.list_volumes(pool.name):
                    if seen.name.startswith(stem):
                        await entry.host.delete_volume(pool.name, seen.name)

    async def _leave_tombstone(self, volume: Volume, files: list[str]) -> None:
        node, pool = volume.status.node, volume.status.pool
        if not node:
            raise Transient(f"no host of pool {pool} answers: the files go when one does")
        entry = Tombstone(
            kind="Volume",
            namespace=volume.metadata.namespace or "",
            name=volume.metadata.name,
            uid=volume.metadata.uid,
            volumes=[TombstoneVolume(pool=pool, file=file) for file in files],
        )
        await leave_tombstone(self.resources, NodeName(node), entry, manager=MANAGER)

    # ------------------------------------------------------------ saying so

    async def _lack(self, volume: Volume, lack: Lack, where: dict[str, Any] | None = None) -> Requeue | None:
        progress = Progress.STALLED if lack.stalled else Progress.WORKING
        status = {"phase": "Failed" if lack.stalled else "Pending", **(where or {})}
        if lack.stalled:
            status["phase"] = "Failed"
        await self._write(volume, progress, lack.reason, lack.message, status)
        return Requeue.after(WAIT_S if not lack.stalled else 30.0)

    def _kept(self, volume: Volume) -> dict[str, Any]:
        return volume.status.model_dump(by_alias=True, mode="json", exclude={"conditions", "observed_generation"})

    async def _write(
        self, volume: Volume, progress: Progress, reason: str, message: str, status: dict[str, Any]
    ) -> None:
        now, generation = self.clock.now_rfc3339(), volume.metadata.generation
        conditions = set_progress(volume.status.conditions, progress, reason, message, generation=generation, now=now)
        empty: dict[str, Any] = {
            "phase": "Pending",
            "pool": "",
            "node": "",
            "sizeBytes": 0,
            "chain": [],
        }
        full = empty | status | {"observedGeneration": generation, "conditions": dump_conditions(conditions)}
        try:
            await report_status(self.resources, volume, full, MANAGER)
        except (NotFound, Conflict):
            return


def _of_former(volume: Volume, user: VirtualMachine) -> bool:
    """Made for an earlier VM of this name, while the new one is on no host: it waits for the file to go, not the other
    way round. One that is on a host may have been bound to a guest that still writes to it."""
    owners = [owner for owner in volume.metadata.owner_references if owner.kind == "VirtualMachine"]
    placement = placement_of(user)
    placed = placement is not None and placement.phase in (Phase.COMMITTED, Phase.MOVING)
    return bool(owners) and all(owner.uid != user.metadata.uid for owner in owners) and not placed
