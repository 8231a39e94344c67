"""Disks and state files that lie on hosts: copies on the target before a move, the old ones away after it.

A file is deleted only where a Volume names another one and the hosts agree who runs: never the only good copy. Late
writes: a copy is created exclusively; a delete names a file that the Volume, read again, no longer names.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.node import Tombstone, TombstoneVolume
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.volume import Volume
from lq_operator.controllers.migration.plan import Guest
from lq_operator.controllers.migration.preflight import Checked
from lq_operator.controllers.runtime.awaited import awaited_hosts
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.refs import disk_volumes
from lq_operator.controllers.runtime.statefiles import STATE_POOL, files_of, nvram_file, seed_file, store_file
from lq_operator.controllers.runtime.tombstones import leave_tombstone
from lq_operator.core.model import Epoch, Identity, NodeName, VolumePlan
from lq_operator.core.result import Conflict, NotFound, Transient
from lq_operator.core.storage.names import host_pool_name, moving_mark, ready_mark
from lq_operator.ports import Resources, Store
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

MANAGER = "lq-volume"


@dataclass(slots=True)
class Disks:
    """Everything of a move that is a file."""

    store: Store
    resources: Resources
    book: HostBook

    # ------------------------------------------------------------ what lies where

    def local(self, vm: VirtualMachine) -> list[Volume]:
        """The VM's Volumes that lie on one host."""
        found = (self.store.get(Volume, vm.metadata.namespace, name) for name in disk_volumes(vm).values())
        return [volume for volume in found if volume is not None and volume.status.node and volume.status.chain]

    def where(self, vm: VirtualMachine) -> str | None:
        """The one host to which its disks bind it; None where they bind it to none."""
        nodes = {volume.status.node for volume in self.local(vm)}
        return nodes.pop() if len(nodes) == 1 else None

    # ------------------------------------------------------------ before

    async def prepare(self, guest: Guest, checked: Checked, source: OwnedHost, target: OwnedHost) -> None:
        """Empty volumes of the same size and format on the target, and the state files where they are not shared."""
        for disk in guest.disks:
            if disk.shared:
                continue
            seen = checked.sources[disk.pool, disk.file]
            with contextlib.suppress(Conflict):
                await target.host.create_volume(disk.pool, VolumePlan(moving_mark(disk.file), 0, format="raw"))
            try:
                await target.host.create_volume(disk.pool, VolumePlan(disk.file, seen.capacity_bytes, disk.format))
            except Conflict:
                # An earlier attempt's (preflight refuses complete ones). Never deleted here: a delete that comes late would
                # meet the file that the guest runs from by then. QEMU writes the whole target, zeros included
                # (`qmp_blockdev_mirror`: zero_target with sync=full), so only its size matters; a late resize meets its lock.
                await target.host.resize_volume(disk.pool, disk.file, seen.capacity_bytes)
        if not guest.state_shared:
            for name in checked.files:
                await _copy(source, target, name)

    # ------------------------------------------------------------ after

    async def switch(self, vm: VirtualMachine, source: NodeName, target: NodeName) -> None:
        """The Volumes name the target's copies, complete from now on. Safe to repeat."""
        entry = self.book.owned(target)
        for volume in self.local(vm):
            pool = self.store.get(StoragePool, None, volume.status.pool)
            if volume.status.node == target and entry is not None:
                await _mark(entry, volume)
            if volume.status.node != source or pool is None:
                continue
            if entry is not None:
                await _mark(entry, volume)
            link = volume.status.chain[0]
            meta = volume.metadata
            operations = [
                {"op": "test", "path": "/metadata/uid", "value": meta.uid},
                {"op": "test", "path": "/status/node", "value": source},
                {"op": "test", "path": "/status/chain/0/file", "value": link.file},
                {"op": "replace", "path": "/status/node", "value": target},
                {"op": "replace", "path": "/status/chain/0/path", "value": f"{pool.spec.dir.path}/{link.file}"},
            ]
            await self.resources.json_patch(
                Volume, meta.namespace, meta.name, operations, subresource="status", manager=MANAGER
            )
            log.info("volume switched to its copy", volume=volume.key, node=target)

    async def forget_source(
        self, vm: VirtualMachine, identity: Identity, started: Epoch | None, source: NodeName, target: NodeName
    ) -> None:
        """The guest runs on the target: the old copies go, or a tombstone on their node names them."""
        entry = self.book.owned(source)
        if entry is None and source in awaited_hosts(self.store, self.book):
            raise Transient(f"{source}: about to be taken over, old files lie there")
        if entry is not None and await entry.host.find_domain(identity.domain_name) is not None:
            raise Conflict(f"{source} has a domain {identity.domain_name} again: its files stay")
        old: list[TombstoneVolume] = []
        for volume in self.local(vm):
            read = await self.resources.get(Volume, volume.metadata.namespace, volume.metadata.name)
            if read is not None and read.metadata.uid == volume.metadata.uid and read.status.node == target:
                old.append(TombstoneVolume(pool=read.status.pool, file=read.status.chain[0].file))
        if entry is None:
            await self._bury(vm, source, old + self._old_state(vm, identity, started))
            return
        for file in old:
            # The mark first: a file without it is nobody's.
            await entry.host.delete_volume(host_pool_name(file.pool), ready_mark(file.file))
            await entry.host.delete_volume(host_pool_name(file.pool), file.file)
        await self._drop_state(vm, identity, entry)

    async def forget_target(self, vm: VirtualMachine, identity: Identity, target: NodeName) -> None:
        """The guest stays where it is: unfinished copies on the target go. Away: they wait for the next move there."""
        entry = self.book.owned(target)
        if entry is None or await entry.host.find_domain(identity.domain_name) is not None:
            return
        for volume in self.local(vm):
            read = await self.resources.get(Volume, volume.metadata.namespace, volume.metadata.name)
            if read is None or read.metadata.uid != volume.metadata.uid or read.status.node == target:
                continue
            pool, file = host_pool_name(read.status.pool), read.status.chain[0].file
            with contextlib.suppress(NotFound, Conflict):
                names = {seen.name for seen in await entry.host.list_volumes(pool, refresh=True)}
                if ready_mark(file) not in names:
                    await entry.host.delete_volume(pool, file)
                    await entry.host.delete_volume(pool, moving_mark(file))
        await self._drop_state(vm, identity, entry)

    async def _drop_state(self, vm: VirtualMachine, identity: Identity, entry: OwnedHost) -> None:
        """Seed, NVRAM and record of the devices that went along, where the state pool is each host's own."""
        if self._state_shared(vm):
            return
        names = [seen.name for seen in await entry.host.list_volumes(STATE_POOL, refresh=True)]
        for name in files_of(identity, names, "seed", "nvram", "hardware"):
            await entry.host.delete_volume(STATE_POOL, name)

    def _state_shared(self, vm: VirtualMachine) -> bool:
        cluster = self.store.get(HypervisorCluster, None, vm.status.effective.cluster)
        return cluster is None or cluster.spec.state_pool.access == "Shared"

    def _old_state(self, vm: VirtualMachine, identity: Identity, started: Epoch | None) -> list[TombstoneVolume]:
        if self._state_shared(vm) or started is None:
            return []
        pool = STATE_POOL.removeprefix(host_pool_name(""))
        return [TombstoneVolume(pool=pool, file=f) for f in (seed_file(identity, started), nvram_file(identity))]

    async def _bury(self, vm: VirtualMachine, source: NodeName, files: list[TombstoneVolume]) -> None:
        """Its own uid: a tombstone of the VM itself, or of one of its Volumes, is another matter."""
        if not files:
            return
        stone = Tombstone(
            kind="Volume",
            namespace=vm.metadata.namespace or "",
            name=vm.metadata.name,
            uid=f"move-{vm.metadata.uid}",
            volumes=files,
        )
        await leave_tombstone(self.resources, source, stone, manager=MANAGER)


async def _mark(entry: OwnedHost, volume: Volume) -> None:
    """Its bytes are complete: the guest has run from it."""
    pool, file = host_pool_name(volume.status.pool), volume.status.chain[0].file
    with contextlib.suppress(Conflict):
        await entry.host.create_volume(pool, VolumePlan(ready_mark(file), 0, format="raw"))
    await entry.host.delete_volume(pool, moving_mark(file))


async def _copy(source: OwnedHost, target: OwnedHost, name: str) -> None:
    """One small state file (seed, NVRAM), through this process."""
    seen = next((s for s in await source.host.list_volumes(STATE_POOL) if s.name == name), None)
    if seen is None:
        raise NotFound(f"{source.node}: {name} is not in the state pool any more")
    body = await source.host.download(STATE_POOL, name, length=seen.capacity_bytes)
    await target.host.delete_volume(STATE_POOL, name)
    await store_file(target.host, name, body)
