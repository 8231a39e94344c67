"""StoragePool: the dir pool on every host that its selector picks, its space, and the proof that a shared one is shared."""

from __future__ import annotations

from dataclasses import dataclass, field

from lq_operator.api.base import FINALIZER
from lq_operator.api.pool import PoolNode, StoragePool
from lq_operator.api.volume import Volume
from lq_operator.controllers.runtime.awaited import awaited_hosts
from lq_operator.controllers.runtime.conditions import Progress, dump_conditions, set_progress
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.finalizers import ensure_finalizer, remove_finalizer
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.refs import pool_nodes
from lq_operator.controllers.runtime.status import report_status
from lq_operator.core.model import NodeName, PoolPlan, PoolSeen, VolumePlan
from lq_operator.core.result import Conflict, OutcomeUnknown, Rejected, Transient
from lq_operator.core.storage.names import host_pool_name, unfinished_files
from lq_operator.core.units import GIB, format_mib
from lq_operator.ports import Clock, Resources, Store

MANAGER = "lq-pool"
REFRESH_S = 60.0
"""How often free space is looked at."""
SPACE_STEP = GIB
"""Space is reported in whole GiB: a status is not written for every megabyte."""


@dataclass(slots=True)
class PoolController:
    """reconcile(pool name)."""

    store: Store
    resources: Resources
    book: HostBook
    clock: Clock
    _proved: dict[tuple[str, str], str] = field(default_factory=dict)
    _swept: set[tuple[str, str]] = field(default_factory=set)

    async def reconcile(self, name: str) -> Requeue | None:
        """Make it exist on its hosts and say what they have."""
        pool = self.store.get(StoragePool, None, name)
        if pool is None:
            return None
        if pool.deleting:
            return await self._delete(pool)
        pool = await ensure_finalizer(self.resources, pool, manager=MANAGER)
        nonce = f"nonce_{pool.metadata.uid}"
        known, awaited = {entry.node: entry for entry in pool.status.nodes}, awaited_hosts(self.store, self.book)
        found: list[PoolNode] = []
        for name in sorted(NodeName(node.metadata.name) for node in pool_nodes(self.store, pool)):
            entry = self.book.owned(name)
            if entry is not None:
                found.append(await self._on_host(pool, entry, nonce))
            elif name in awaited and name in known:
                # About to be taken over by a process that has just started: that says nothing about its pool.
                found.append(known[name])
            else:
                found.append(_silent(pool, name, self.book.fleet.why_down(name)))
        await self._report(pool, found, nonce)
        return Requeue.after(REFRESH_S)

    async def _on_host(self, pool: StoragePool, entry: OwnedHost, nonce: str) -> PoolNode:
        plan = PoolPlan(host_pool_name(pool.metadata.name), pool.spec.dir.path)
        try:
            seen = await entry.host.ensure_pool(plan)
            if pool.spec.access == "Shared" and not await self._shares(pool, entry, plan.name, nonce):
                message = "does not show the nonce that another host wrote: the directory is not the same file system"
                return _node(entry.node, seen, ready=False, message=message)
            await self._sweep(entry, plan.name)
        except Rejected as error:
            return PoolNode(node=entry.node, ready=False, message=str(error)[:1000])
        except (Transient, OutcomeUnknown) as error:
            return _silent(pool, entry.node, str(error))
        return _node(entry.node, seen, ready=True, message="")

    async def _sweep(self, entry: OwnedHost, name: str) -> None:
        """Once per takeover: files that were never completed and whose Volume is gone. No VM has ever had them."""
        if (name, entry.boot) in self._swept or not self.store.synced(Volume):
            return
        uids = {(v.metadata.namespace, v.metadata.name): v.metadata.uid for v in self.store.list(Volume)}
        for file in unfinished_files({seen.name for seen in await entry.host.list_volumes(name)}, uids):
            await entry.host.delete_volume(name, file)
        self._swept.add((name, entry.boot))

    async def _shares(self, pool: StoragePool, entry: OwnedHost, name: str, nonce: str) -> bool:
        """The first host writes the nonce, every other must see it before it may be used."""
        key = (pool.metadata.uid, entry.boot)
        if self._proved.get(key):
            return True
        names = {volume.name for volume in await entry.host.list_volumes(name, refresh=True)}
        if nonce not in names:
            written = any(node.ready for node in pool.status.nodes) or any(k[0] == key[0] for k in self._proved)
            if written:
                return False
            try:
                await entry.host.create_volume(name, VolumePlan(nonce, 0, format="raw"))
            except Conflict:
                return False
        self._proved[key] = entry.node
        return True

    async def _delete(self, pool: StoragePool) -> Requeue | None:
        if FINALIZER not in pool.metadata.finalizers:
            return None
        users = [v.key for v in self.store.list(Volume) if pool.metadata.name in (v.status.pool, v.spec.pool_ref)]
        if users:
            message = f"{len(users)} Volumes are here ({', '.join(sorted(users)[:5])}): delete them first"
            await self._write(pool, Progress.STALLED, "InUse", message, list(pool.status.nodes))
            return Requeue.after(REFRESH_S)
        if waiting := awaited_hosts(self.store, self.book):
            raise Transient(f"{', '.join(waiting)}: not taken over yet, the pool is to be removed there too")
        for entry in self.book.all():
            await entry.host.remove_pool(host_pool_name(pool.metadata.name))
        await remove_finalizer(self.resources, pool, manager=MANAGER)
        return None

    async def _report(self, pool: StoragePool, found: list[PoolNode], nonce: str) -> None:
        ready = [node for node in found if node.ready]
        broken = [node for node in found if not node.ready]
        if not found:
            await self._write(pool, Progress.STALLED, "NoNodes", "spec.nodeSelector picks no HypervisorNode", found)
        elif broken:
            text = "; ".join(f"{node.node}: {node.message}" for node in broken)[:2000]
            await self._write(pool, Progress.WORKING if ready else Progress.UNKNOWN, "NotOnEveryNode", text, found)
        else:
            await self._write(pool, Progress.READY, "Ready", "", found)

    async def _write(
        self, pool: StoragePool, progress: Progress, reason: str, message: str, nodes: list[PoolNode]
    ) -> None:
        now, generation = self.clock.now_rfc3339(), pool.metadata.generation
        conditions = set_progress(pool.status.conditions, progress, reason, message, generation=generation, now=now)
        shared = pool.spec.access == "Shared"
        counted = nodes[:1] if shared else nodes
        status = {
            "observedGeneration": generation,
            "conditions": dump_conditions(conditions),
            "nodes": [node.model_dump(by_alias=True) for node in nodes],
            "sharedProved": shared and bool(nodes) and all(node.ready for node in nodes),
            "nonce": f"nonce_{pool.metadata.uid}" if shared else "",
            "capacity": format_mib(sum(n.capacity_bytes for n in counted) // 1024**2),
            "available": format_mib(sum(n.available_bytes for n in counted) // 1024**2),
        }
        await report_status(self.resources, pool, status, MANAGER)


def _node(node: NodeName, seen: PoolSeen, *, ready: bool, message: str) -> PoolNode:
    return PoolNode(
        node=node,
        ready=ready,
        capacity_bytes=seen.capacity_bytes // SPACE_STEP * SPACE_STEP,
        available_bytes=seen.available_bytes // SPACE_STEP * SPACE_STEP,
        message=message,
    )


def _silent(pool: StoragePool, node: str, why: str) -> PoolNode:
    """Not to be seen now: what it had is kept, but it is not ready."""
    before = next((n for n in pool.status.nodes if n.node == node), PoolNode(node=node))
    return before.model_copy(update={"ready": False, "message": (why or "the host is not taken over yet")[:1000]})
