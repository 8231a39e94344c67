"""Removes every file of an Image from the pools of the hosts that answer, and says what it had to leave."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from lq_operator.api.image import Image
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.controllers.image.hosts import Reach
from lq_operator.core.result import NotFound, WorldError
from lq_operator.core.storage.importing import Target, own_files
from lq_operator.core.storage.names import host_pool_name
from lq_operator.ports import Host, Store


@dataclass(frozen=True, slots=True)
class Sweep:
    """Looks into every pool, not only where status says: a restored API server may have forgotten an import."""

    store: Store
    reach: Reach

    async def run(self, image: Image) -> list[str]:
        """A sentence for each place that status names and that could not be cleaned."""
        recorded = {Target(entry.pool, entry.node) for entry in image.status.artefacts}
        targets = sorted(self._everywhere() | recorded)
        found = await asyncio.gather(*(self._clean(image, target, target in recorded) for target in targets))
        return [sentence for sentence in found if sentence]

    def _everywhere(self) -> set[Target]:
        targets: set[Target] = set()
        for pool in self.store.list(StoragePool):
            shared = pool.spec.access == "Shared"
            nodes = [""] if shared else [seen.node for seen in pool.status.nodes if seen.ready]
            targets |= {Target(pool.metadata.name, node) for node in nodes}
        return targets

    async def _clean(self, image: Image, target: Target, recorded: bool) -> str:
        pool = self.store.get(StoragePool, None, target.pool)
        if pool is None or (target.node and self.store.get(HypervisorNode, None, target.node) is None):
            return ""  # gone with its pool or node, which nobody can reach any more
        host = self.reach.host(pool, target, [])
        stem = f"img_{image.metadata.namespace}_{image.metadata.name}_*"
        place = f"{stem} in pool {target.pool}" + (f" on {target.node}" if target.node else "")
        if isinstance(host, str):
            return f"{place}: {host}" if recorded else ""
        try:
            await self._delete_files(image, target, host)
        except NotFound:
            return ""  # no such pool on that host
        except WorldError as error:
            return f"{place}: {error}" if recorded else ""
        return ""

    async def _delete_files(self, image: Image, target: Target, host: Host) -> None:
        pool = host_pool_name(target.pool)
        names = [seen.name for seen in await host.list_volumes(pool)]
        for name in own_files(image.metadata.namespace or "", image.metadata.name, names):
            await host.delete_volume(pool, name)
