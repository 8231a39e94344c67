"""Asks both hosts what a move needs and has. Reads only; core/moving/obstacles judges."""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.node import HypervisorNode
from lq_operator.controllers.migration.plan import Guest, drives_of, media_of, peer_uri, state_files, target_plan
from lq_operator.controllers.runtime.hostbook import OwnedHost
from lq_operator.controllers.runtime.statefiles import STATE_POOL, hardware_files
from lq_operator.core.model import DomainPlan, DomainSeen, Identity, Placement, VolumeSeen
from lq_operator.core.moving.obstacles import DiskNeed, MediumNeed, Needs, Obstacle, TargetSeen, obstacles
from lq_operator.core.result import Conflict, NotFound
from lq_operator.core.storage.names import READY_SUFFIX, host_pool_name
from lq_operator.ports import Store


@dataclass(frozen=True, slots=True)
class Checked:
    """`plan`: the guest on the target, with its gate. `files`: what goes along where each host has its own state pool: the
    state files of this run, and the record of what the guest sees. `sources`: by (pool, file), of disks that are copied."""

    found: tuple[Obstacle, ...]
    plan: DomainPlan
    files: tuple[str, ...]
    sources: dict[tuple[str, str], VolumeSeen]


async def check(
    store: Store,
    guest: Guest,
    identity: Identity,
    placement: Placement,
    domain: DomainSeen,
    source: OwnedHost,
    target: OwnedHost,
    closed: tuple[str, ...],
) -> Checked:
    """Everything at once; Transient when a host does not answer."""
    source_files = await _volumes(source, {STATE_POOL, *(disk.pool for disk in guest.disks if not disk.shared)})
    names = frozenset(source_files.get(STATE_POOL, {}))
    files = state_files(guest, identity, placement, names)
    drives = drives_of(await source.host.read_shape(identity.domain_name)) if _has_drives(guest) else ()
    media = media_of(drives, store)
    plan = target_plan(guest, identity, placement, domain, target, files, target.gate_path, drives)
    sources = {
        (disk.pool, disk.file): seen
        for disk in guest.disks
        if not disk.shared and (seen := source_files.get(disk.pool, {}).get(disk.file)) is not None
    }
    needs = Needs(
        plan=plan,
        networks=tuple((nic.name, nic.bridge or nic.network, bool(nic.bridge)) for nic in guest.nics),
        disks=tuple(
            DiskNeed(disk.name, disk.pool, disk.file, disk.shared, _bytes(sources.get((disk.pool, disk.file))))
            for disk in guest.disks
        ),
        media=media,
        state_pool=STATE_POOL,
        state_files=files,
        state_shared=guest.state_shared,
        tpm=guest.vm.spec.tpm,
    )
    there = await _target(store, guest, identity, plan, media, source, target, closed)
    found = list(obstacles(needs, there))
    found += [Obstacle("Network", lack.reason, lack.message) for lack in guest.lacks]
    found += _unmovable(guest, sources, source)
    return Checked(tuple(found), plan, (*files, *hardware_files(identity, names)[:1]), sources)


def _has_drives(guest: Guest) -> bool:
    """By status too: a drive that was taken out of the spec stays until the next start."""
    status = guest.vm.status
    known = any(slot.device.startswith("cdrom/") for slot in status.hardware.targets)
    return known or bool(status.cdroms)


def _unmovable(guest: Guest, sources: dict[tuple[str, str], VolumeSeen], source: OwnedHost) -> list[Obstacle]:
    found = []
    for disk in guest.disks:
        if disk.shared:
            continue
        if len(disk.volume.status.chain) > 1:
            message = (
                f"Volume {disk.volume.metadata.name} has {len(disk.volume.status.chain)} layers: only one is copied"
            )
            found.append(Obstacle("Disk", disk.name, message))
        elif (disk.pool, disk.file) not in sources:
            message = f"{source.node} does not list {disk.file} in pool {disk.pool}"
            found.append(Obstacle("Disk", disk.name, message))
    return found


def _bytes(seen: VolumeSeen | None) -> int:
    if seen is None:
        return 0
    return seen.capacity_bytes if seen.format == "raw" else seen.allocation_bytes


async def _target(
    store: Store,
    guest: Guest,
    identity: Identity,
    plan: DomainPlan,
    media: tuple[MediumNeed, ...],
    source: OwnedHost,
    target: OwnedHost,
    closed: tuple[str, ...],
) -> TargetSeen:
    pools = {pool.name: pool for pool in await target.host.list_pools()}
    wanted = {STATE_POOL, *(disk.pool for disk in guest.disks), *(medium.pool for medium in media)}
    files = await _volumes(target, wanted & set(pools))
    names = {pool: frozenset(found) for pool, found in files.items()}
    marked = {
        (pool, name.removesuffix(READY_SUFFIX))
        for pool, found in names.items()
        for name in found
        if name.endswith(READY_SUFFIX) and name.removesuffix(READY_SUFFIX) in found
    }
    taken = await target.host.find_domain(identity.domain_name)
    nodes = {name: store.get(HypervisorNode, None, name) for name in (source.node, target.node)}
    there, here = nodes[target.node], nodes[source.node]
    return TargetSeen(
        node=target.node,
        inventory=target.inventory,
        source_accel=source.inventory.accel,
        closed=closed,
        cpu=await target.host.cpu_obstacle(plan),
        networks=frozenset(network.name for network in await target.host.list_networks() if network.active),
        bridges=frozenset(await target.host.list_bridges()),
        pools=pools,
        files=names,
        marked=frozenset(marked),
        doomed=frozenset(
            (host_pool_name(volume.pool), volume.file)
            for stone in (there.status.tombstones if there is not None else ())
            for volume in stone.volumes
        ),
        taken=taken.domain_name if taken is not None else "",
        peer_uri=peer_uri(here, there) if here is not None and there is not None else "",
    )


async def _volumes(entry: OwnedHost, pools: set[str]) -> dict[str, dict[str, VolumeSeen]]:
    """pool -> name -> volume; pools that the host does not have (active) are left out."""
    found: dict[str, dict[str, VolumeSeen]] = {}
    for pool in sorted(pools):
        try:
            found[pool] = {seen.name: seen for seen in await entry.host.list_volumes(pool, refresh=True)}
        except (NotFound, Conflict):
            continue
    return found


__all__ = ["Checked", "check"]
