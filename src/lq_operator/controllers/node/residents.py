"""What lies on a host that we own: stale definitions go, tombstones are settled, orphans and split brains are told.

Only shut-off domains with a stale epoch are removed, after a fresh read of their placement; nothing that runs is
killed, except by a tombstone (its VM was deleted) or where the cluster's splitBrainPolicy says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.network import AddressClaim
from lq_operator.api.node import HypervisorNode, OrphanDomain, Tombstone
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.runtime.guestabi import keep_hardware
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.placements import epoch_of, placement_of
from lq_operator.controllers.runtime.statefiles import STATE_POOL, files_of, hardware_files, spent_files
from lq_operator.controllers.runtime.tombstones import drop_tombstone, release_tombstone
from lq_operator.core.failover.facts import known_epoch
from lq_operator.core.failover.inventory import domain_ahead
from lq_operator.core.failover.record import departure_name
from lq_operator.core.model import DomainSeen, Epoch, HostUUID, Identity, NodeName, Phase, Placement
from lq_operator.core.result import Conflict, NotFound
from lq_operator.core.storage.names import host_pool_name
from lq_operator.ports import Resources, Store
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

MANAGER = "lq-node"


@dataclass(slots=True)
class Residents:
    """What was found: for the node's status."""

    orphans: list[OrphanDomain] = field(default_factory=list)
    split_brains: list[str] = field(default_factory=list)
    went_back: list[str] = field(default_factory=list)
    running: int = 0
    foreign: int = 0


@dataclass(slots=True)
class Housekeeper:
    """Looks after one host per call."""

    store: Store
    resources: Resources
    book: HostBook

    async def tend(self, node: HypervisorNode, entry: OwnedHost) -> Residents:
        """Remove what is surely stale, settle tombstones, and tell the rest."""
        found = Residents()
        for tombstone in node.status.tombstones:
            await self._settle(node, entry, tombstone)
        for domain in list(entry.domains.values()):
            identity = domain.identity
            if identity is None or identity.installation != self.book.installation:
                found.foreign += 1
                continue
            found.running += domain.state.runs
            await self._resident(entry, domain, identity, found)
        if not entry.tidied:
            await self._tidy(entry)
            entry.tidied = True
        return found

    async def _tidy(self, entry: OwnedHost) -> None:
        """Once per takeover: what a process that died right after a start would have cleaned up and written down."""
        running = [d for d in entry.domains.values() if d.identity and d.epoch and d.state.runs]
        ours = [d for d in running if d.identity is not None and d.identity.installation == self.book.installation]
        if not ours:
            return
        names = [volume.name for volume in await entry.host.list_volumes(STATE_POOL, refresh=True)]
        for domain in ours:
            assert domain.identity is not None
            assert domain.epoch is not None
            for name in spent_files(domain.identity, domain.epoch, names, resumed=domain.epoch):
                await entry.host.delete_volume(STATE_POOL, name)
            vm = self.store.get(VirtualMachine, domain.identity.namespace, domain.identity.name)
            if vm is not None and vm.status.hardware.machine and not hardware_files(domain.identity, names):
                await keep_hardware(entry, domain.identity, domain.epoch, vm.status.hardware, ())

    async def _resident(self, entry: OwnedHost, domain: DomainSeen, identity: Identity, found: Residents) -> None:
        if not self.store.synced(VirtualMachine):
            return
        vm = self.store.get(VirtualMachine, identity.namespace, identity.name)
        if vm is None:
            if await self._left_long_ago(entry, domain, identity, vm):
                return
            found.orphans.append(
                OrphanDomain(
                    namespace=identity.namespace,
                    name=identity.name,
                    epoch=str(domain.epoch or ""),
                    state=domain.state.value,
                )
            )
            return
        placement = placement_of(vm)
        if placement is None and (
            await self._left_behind(entry, domain, identity) or await self._left_long_ago(entry, domain, identity, vm)
        ):
            return
        if domain.epoch is None or not is_stale(domain.epoch, placement, entry.uuid):
            ahead = (
                domain_ahead(entry.node, (identity.namespace, identity.name), domain.epoch, placement)
                if domain.epoch
                else None
            )
            if ahead is not None:
                found.went_back.append(ahead.sentence)
            return
        # The watch may be behind: what is removed must be stale by the API server's own word.
        fresh = await self.resources.get(VirtualMachine, identity.namespace, identity.name)
        if fresh is None or not is_stale(domain.epoch, placement_of(fresh), entry.uuid):
            return
        if domain.state.runs:
            await self._split_brain(entry, domain, identity, placement_of(fresh), found)
        else:
            await self._remove(entry, identity, domain.epoch)

    async def _left_long_ago(
        self, entry: OwnedHost, domain: DomainSeen, identity: Identity, vm: VirtualMachine | None
    ) -> bool:
        """A shut-off definition that a departure note speaks of. Without an object it is no orphan: an owner past its
        lease wrote it again. Where its VM was made again while this host was away and has no placement, it is bound to
        nobody (StaleDomain) and the VM waits until it is gone; not so at the note's own epoch, which is the latest."""
        noted = max(self.book.departures(identity), default=None)
        if domain.state.runs or domain.epoch is None or noted is None or noted < domain.epoch:
            return False
        if vm is not None and noted == domain.epoch:
            return False
        fresh = await self.resources.get(VirtualMachine, identity.namespace, identity.name)
        still = fresh is None if vm is None else fresh is not None and placement_of(fresh) is None
        if still:
            await self._remove(entry, identity, domain.epoch)
        return True

    async def _left_behind(self, entry: OwnedHost, domain: DomainSeen, identity: Identity) -> bool:
        """The API server was wiped during or after a move: what is shut off here runs elsewhere, under an epoch at least
        as high. Two domains of one identity would never be bound; removing the one that is shut off starts nothing."""
        if domain.state.runs or domain.epoch is None or not self._runs_elsewhere(identity, domain.epoch, entry):
            return False
        fresh = await self.resources.get(VirtualMachine, identity.namespace, identity.name)
        if fresh is not None and placement_of(fresh) is None:
            await self._remove(entry, identity, domain.epoch)
        return True

    def _runs_elsewhere(self, identity: Identity, epoch: Epoch, entry: OwnedHost) -> bool:
        return any(
            s.runs and s.host_uuid != entry.uuid and s.epoch is not None and s.epoch >= epoch
            for s in self.book.sightings(identity)
        )

    async def _remove(self, entry: OwnedHost, identity: Identity, epoch: Epoch) -> None:
        log.info("removing a stale definition", node=entry.node, vm=identity.key, epoch=str(epoch))
        await self.book.note(entry, departure_name(identity.namespace, identity.name, epoch))
        current = await entry.host.find_domain(identity.domain_name)
        if current is not None and (current.state.runs or current.epoch != epoch):
            raise Conflict(f"{entry.node}: {identity.domain_name} has changed, looking again")
        if current is not None:
            await entry.host.undefine(identity.domain_name, keep_nvram=True)
        await self.book.refresh(entry, identity.domain_name)

    async def _split_brain(
        self, entry: OwnedHost, domain: DomainSeen, identity: Identity, placement: Placement | None, found: Residents
    ) -> None:
        where = (
            f"{placement.phase.value} on {placement.node or 'no host'}, epoch {known_epoch(placement)}"
            if placement
            else "nowhere"
        )
        sentence = f"{identity.key} runs here under the stale epoch {domain.epoch}; its placement is {where}"
        newer = self._newer_run(identity, domain, entry)
        if newer and any(c.spec.split_brain_policy == "KillStale" for c in self.store.list(HypervisorCluster)):
            log.warning(
                "split brain: destroying the stale side", node=entry.node, vm=identity.key, epoch=str(domain.epoch)
            )
            await entry.host.destroy(identity.domain_name)
            await self.book.refresh(entry, identity.domain_name)
            return
        found.split_brains.append(sentence[:1000])

    def _newer_run(self, identity: Identity, domain: DomainSeen, entry: OwnedHost) -> bool:
        return any(
            s.runs
            and s.host_uuid != entry.uuid
            and s.epoch is not None
            and domain.epoch is not None
            and s.epoch > domain.epoch
            for s in self.book.sightings(identity)
        )

    # ------------------------------------------------------------ tombstones

    async def release(self, node: HypervisorNode, evidence: str) -> None:
        """The host is surely off: the names of VMs that were deleted meanwhile are free, addresses and shared disks go.

        What lies on the host itself goes when it returns.
        """
        for tombstone in node.status.tombstones:
            if tombstone.kind != "VirtualMachine" or tombstone.evidence:
                continue
            await self._give_back(tombstone)
            left = []
            for volume in tombstone.volumes:
                if (sharer := self._sharer(volume.pool)) is not None:
                    await _delete_file(sharer, host_pool_name(volume.pool), volume.file)
                else:
                    left.append(volume)
            released = tombstone.model_copy(update={"evidence": evidence, "claims": [], "volumes": left})
            log.info("the name of a deleted VM is free", node=node.metadata.name, vm=tombstone.name, evidence=evidence)
            await release_tombstone(self.resources, NodeName(node.metadata.name), released, manager=MANAGER)

    def _sharer(self, pool_name: str) -> OwnedHost | None:
        """A host that has the files of this shared pool too."""
        pool = self.store.get(StoragePool, None, pool_name)
        if pool is None or pool.spec.access != "Shared":
            return None
        ready = {entry.node for entry in pool.status.nodes if entry.ready}
        return next((entry for entry in self.book.all() if entry.node in ready), None)

    async def _settle(self, node: HypervisorNode, entry: OwnedHost, tombstone: Tombstone) -> None:
        """The deleted VM's domain goes, in the order of an absence; then its files and addresses; then the tombstone."""
        if tombstone.kind == "VirtualMachine":
            await self._bury(entry, tombstone)
        for volume in tombstone.volumes:
            await _delete_file(entry, host_pool_name(volume.pool), volume.file)
        await self._give_back(tombstone)
        await drop_tombstone(self.resources, NodeName(node.metadata.name), tombstone.uid, manager=MANAGER)

    async def _bury(self, entry: OwnedHost, tombstone: Tombstone) -> None:
        identity = Identity(self.book.installation, tombstone.namespace, tombstone.name)
        domain = await entry.host.find_domain(identity.domain_name)
        epoch = epoch_of(tombstone.epoch)
        if domain is not None and domain.identity == identity and domain.uid == tombstone.uid:
            if domain.state.runs:
                await entry.host.destroy(identity.domain_name)
            last = max((e for e in (epoch, domain.epoch) if e is not None), default=None)
            if last is not None:
                await self.book.note(entry, departure_name(identity.namespace, identity.name, last))
            await entry.host.undefine(identity.domain_name, keep_nvram=False)
        elif epoch is not None:
            await self.book.note(entry, departure_name(identity.namespace, identity.name, epoch))
        await self.book.relist(entry)
        successor = self.store.get(VirtualMachine, tombstone.namespace, tombstone.name)
        placed = successor.status.placement if successor is not None else None
        if tombstone.evidence and placed is not None and placed.phase != "Released":
            return  # it may have run elsewhere meanwhile, and the state pool may be shared: what is spent it removes
        if self.book.sighting(entry, identity) is None:
            names = [volume.name for volume in await entry.host.list_volumes(STATE_POOL, refresh=True)]
            for name in files_of(identity, names):
                await entry.host.delete_volume(STATE_POOL, name)

    async def _give_back(self, tombstone: Tombstone) -> None:
        for key in tombstone.claims:
            namespace, _, name = key.partition("/")
            claim = await self.resources.get(AddressClaim, namespace, name)
            of = claim.spec.vm if claim is not None else None
            theirs = of is not None and (of.namespace or namespace, of.name) == (tombstone.namespace, tombstone.name)
            if claim is not None and theirs and not claim.spec.retain:
                await self.resources.delete(AddressClaim, namespace, name, uid=claim.metadata.uid)


async def _delete_file(entry: OwnedHost, pool: str, file: str) -> None:
    try:
        await entry.host.delete_volume(pool, file)
        await entry.host.delete_volume(pool, f"{file}.ready")
    except NotFound:
        return  # the pool is not on this host


def is_stale(found: Epoch, placement: Placement | None, here: HostUUID) -> bool:
    """Has the placement moved on from this epoch, away from this host? Pure."""
    if placement is None:
        return False
    if placement.phase in (Phase.COMMITTED, Phase.MOVING):
        elsewhere = here not in (placement.host_uuid, placement.target_uuid)
        return elsewhere and placement.epoch is not None and placement.epoch > found
    return placement.released_epoch is not None and placement.released_epoch >= found
