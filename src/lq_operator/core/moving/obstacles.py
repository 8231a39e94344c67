"""What stands in the way of a move to one host, all of it at once: what the guest needs against what the target said. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lq_operator.core.model import DomainPlan, HostInventory, PoolSeen

SPARE_BYTES = 64 * 1024**2
"""Room to be left on the target's pool beside a copied disk: thin files grow while they are copied."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing in the way: `what` is a word of status.obstacles, `name` the thing, `message` a sentence with the remedy."""

    what: str
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """One disk: its file in a pool. `shared`: every host of the pool sees the same file, else it is copied.

    `bytes_needed`: what a copy takes on the target, at least; `raw` copies are never sparse.
    """

    disk: str
    pool: str
    file: str
    shared: bool
    bytes_needed: int = 0


@dataclass(frozen=True, slots=True)
class MediumNeed:
    """What lies in a CD-ROM drive: its file in a pool ('' where no pool of ours has it)."""

    drive: str
    pool: str
    file: str
    shared: bool


@dataclass(frozen=True, slots=True)
class Needs:
    """What the guest needs on the target. `networks`: (interface, libvirt network or bridge, is a bridge).

    `state_files`: files of the state pool that QEMU opens (seed, NVRAM); `state_shared`: the pool is the same everywhere.
    `pools`, `state_pool`: names as libvirt has them.
    """

    plan: DomainPlan
    networks: tuple[tuple[str, str, bool], ...] = ()
    disks: tuple[DiskNeed, ...] = ()
    state_pool: str = ""
    state_files: tuple[str, ...] = ()
    state_shared: bool = True
    tpm: bool = False
    media: tuple[MediumNeed, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetSeen:
    """What the target said about itself just now, and what its node object says.

    `closed`: sentences why it takes no guests (not Ready, cordoned, in maintenance ...). `source_accel`: of the source.
    `files`: pool -> names; `doomed`: (pool, file) that a tombstone of this node still has to delete. `marked`: files whose
    bytes are complete.
    """

    node: str
    inventory: HostInventory
    source_accel: str
    closed: tuple[str, ...] = ()
    cpu: str = ""
    networks: frozenset[str] = frozenset()
    bridges: frozenset[str] = frozenset()
    pools: Mapping[str, PoolSeen] = field(default_factory=dict)
    files: Mapping[str, frozenset[str]] = field(default_factory=dict)
    marked: frozenset[tuple[str, str]] = frozenset()
    doomed: frozenset[tuple[str, str]] = frozenset()
    taken: str = ""
    peer_uri: str = ""


def obstacles(needs: Needs, seen: TargetSeen) -> tuple[Obstacle, ...]:
    """Every obstacle; none: the move may begin."""
    found = [Obstacle("Host", seen.node, sentence) for sentence in seen.closed]
    found += _machine(needs, seen)
    found += _networks(needs, seen)
    found += _disks(needs, seen)
    found += _media(needs, seen)
    found += _state(needs, seen)
    if seen.taken:
        found.append(Obstacle("Name", seen.taken, f"{seen.node} has a domain {seen.taken} already: remove it first"))
    if not seen.peer_uri:
        message = f"the other hosts do not know how to reach {seen.node}: set spec.migration.uri of its HypervisorNode"
        found.append(Obstacle("Peer", seen.node, message))
    return tuple(_once(found))


def _once(found: Iterable[Obstacle]) -> list[Obstacle]:
    """One per (what, name), as the list map of the status wants it; their sentences joined."""
    merged: dict[tuple[str, str], Obstacle] = {}
    for one in found:
        key = (one.what, one.name)
        before = merged.get(key)
        merged[key] = one if before is None else Obstacle(one.what, one.name, f"{before.message}; {one.message}")
    return list(merged.values())


def _machine(needs: Needs, seen: TargetSeen) -> list[Obstacle]:
    found = []
    plan, inventory = needs.plan, seen.inventory
    if seen.cpu:
        found.append(Obstacle("Cpu", plan.cpu_model or plan.cpu_mode, seen.cpu))
    if inventory.accel != seen.source_accel:
        message = f"{seen.node} runs guests by {inventory.accel}, the source by {seen.source_accel}"
        found.append(Obstacle("Cpu", inventory.accel, message))
    machine = plan.hardware.machine or plan.machine
    if machine not in inventory.machine_types and plan.hardware.machine:
        message = f"QEMU of {seen.node} does not know machine type {machine}: it is older than the guest's; upgrade it"
        found.append(Obstacle("Machine", machine, message))
    if plan.firmware not in inventory.firmware:
        message = f"{seen.node} has no firmware {plan.firmware}: install it there (package ovmf)"
        found.append(Obstacle("Machine", plan.firmware, message))
    if needs.tpm and inventory.emulates_tpm is False:
        message = (
            f"{seen.node} cannot emulate a TPM 2.0, whose state libvirt would send along: install swtpm and swtpm-tools "
            "there and restart libvirtd"
        )
        found.append(Obstacle("Tpm", "2.0", message))
    return found


def _networks(needs: Needs, seen: TargetSeen) -> list[Obstacle]:
    found = []
    for interface, name, is_bridge in needs.networks:
        if name not in (seen.bridges if is_bridge else seen.networks):
            what = "bridge" if is_bridge else "active libvirt network"
            message = f"interface {interface}: {seen.node} has no {what} {name}"
            found.append(Obstacle("Network", name, message))
    return found


def _disks(needs: Needs, seen: TargetSeen) -> list[Obstacle]:
    found: list[Obstacle] = []
    copied: dict[str, int] = {}
    for disk in needs.disks:
        pool = seen.pools.get(disk.pool)
        if pool is None or not pool.active:
            state = "does not have" if pool is None else "has, but not active,"
            found.append(Obstacle("Pool", disk.pool, f"{seen.node} {state} pool {disk.pool} of disk {disk.disk}"))
            continue
        there = disk.file in seen.files.get(disk.pool, frozenset())
        if disk.shared:
            if not there:
                message = f"{seen.node} does not see file {disk.file} in pool {disk.pool}, which is said to be shared"
                found.append(Obstacle("Disk", disk.disk, message))
            continue
        copied[disk.pool] = copied.get(disk.pool, 0) + disk.bytes_needed
        if (disk.pool, disk.file) in seen.doomed:
            message = f"an old copy of {disk.file} on {seen.node} is still to be deleted there"
            found.append(Obstacle("Disk", disk.disk, message))
        elif (disk.pool, disk.file) in seen.marked:
            message = f"{seen.node} has a complete file {disk.file} in pool {disk.pool}: compare it and remove one"
            found.append(Obstacle("Disk", disk.disk, message))
    return found + _room(copied, seen)


def _media(needs: Needs, seen: TargetSeen) -> list[Obstacle]:
    """A medium goes along where the target reads the same file, or has a complete copy of it."""
    found = []
    for medium in needs.media:
        there = medium.file in seen.files.get(medium.pool, frozenset())
        if there and (medium.shared or (medium.pool, medium.file) in seen.marked):
            continue
        where = f"in pool {medium.pool}" if medium.pool else "in any pool"
        message = (
            f"{seen.node} does not have {medium.file} {where}, which lies in CD-ROM drive {medium.drive}: eject it (take "
            f"spec.cdroms[{medium.drive}].medium away), or use a shared pool for it"
        )
        found.append(Obstacle("Cdrom", medium.drive, message))
    return found


def _room(copied: Mapping[str, int], seen: TargetSeen) -> list[Obstacle]:
    found = []
    for pool, wanted in copied.items():
        free = seen.pools[pool].available_bytes
        if wanted + SPARE_BYTES > free:
            message = (
                f"the local disks to be copied take {wanted // 1024**2} MiB, pool {pool} on {seen.node} has "
                f"{free // 1024**2} MiB free"
            )
            found.append(Obstacle("Pool", pool, message))
    return found


def _state(needs: Needs, seen: TargetSeen) -> list[Obstacle]:
    if not needs.state_files and not needs.plan.console_log_path:
        return []
    pool = seen.pools.get(needs.state_pool)
    if pool is None or not pool.active:
        return [Obstacle("StatePool", needs.state_pool, f"{seen.node} has no active pool {needs.state_pool}")]
    if not needs.state_shared:
        return []
    missing = [file for file in needs.state_files if file not in seen.files.get(needs.state_pool, frozenset())]
    if not missing:
        return []
    message = f"{seen.node} does not see {', '.join(missing)}: the state pool is said to be shared (spec.statePool)"
    return [Obstacle("StatePool", needs.state_pool, message)]
