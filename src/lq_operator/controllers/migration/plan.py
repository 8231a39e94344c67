"""What a move needs and what the source is asked for: the guest as it runs, with the target's paths and gate.

Reads the Store only. The guest's own settings are those it was started with; the adapter takes the rest from its XML.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lq_operator.api.base import ApiModel
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import MigrationTuning, VirtualMachineMigration
from lq_operator.api.volume import Volume
from lq_operator.controllers.runtime.attachments import Attachments
from lq_operator.controllers.runtime.hostbook import GATE_DIR, OwnedHost
from lq_operator.controllers.runtime.refs import Refs, disk_volumes
from lq_operator.controllers.runtime.statefiles import console_file, nvram_file, seed_file
from lq_operator.controllers.vm.children import Children
from lq_operator.controllers.vm.prepare import prepare
from lq_operator.convert.domain import HostSide, ResolvedDisk, ResolvedNic, Size, domain_plan
from lq_operator.core.lifecycle.shape import GuestShape
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.model import CdromPlan, DomainPlan, DomainSeen, Identity, MovePlan, Placement
from lq_operator.core.moving.obstacles import MediumNeed
from lq_operator.core.result import Transient
from lq_operator.core.storage.names import host_pool_name
from lq_operator.ports import Store


@dataclass(frozen=True, slots=True)
class MovedDisk:
    """A disk of the guest and its Volume. `shared`: the same file everywhere; else it is copied along."""

    name: str
    volume: Volume
    pool: str
    file: str
    format: str
    path: str  # on the target
    shared: bool


@dataclass(frozen=True, slots=True)
class Guest:
    """The running guest, resolved for the target."""

    vm: VirtualMachine  # with the devices that it runs with
    size: Size
    cluster: HypervisorCluster
    disks: tuple[MovedDisk, ...]
    nics: tuple[ResolvedNic, ...]
    lacks: tuple[Lack, ...]

    @property
    def state_shared(self) -> bool:
        """The state pool is one file system for all hosts."""
        return self.cluster.spec.state_pool.access == "Shared"


def running_guest(
    vm: VirtualMachine, identity: Identity, target: OwnedHost, refs: Refs, store: Store, attachments: Attachments
) -> Guest:
    """Transient where a reference leads nowhere at the moment."""
    ran = _as_started(vm)
    prepared = prepare(ran, identity, target.node, refs, store, attachments, Children())
    if prepared.cluster is None or prepared.size is None:
        raise Transient(
            "; ".join(lack.message for lack in prepared.blockers) or "the VM's size or cluster is not known"
        )
    effective = vm.status.effective
    size = Size(effective.cpu or prepared.size.cpu, effective.memory_mib or prepared.size.memory_mib)
    networks = tuple(lack for lack in (*prepared.blockers, *prepared.pending) if "networkRef" in lack.message)
    return Guest(ran, size, prepared.cluster, _disks(ran, store), tuple(prepared.nics), networks)


def _as_started(vm: VirtualMachine) -> VirtualMachine:
    """Only the devices that the guest was started with: what was added to the spec since waits for its own change.
    CD-ROM drives are as the guest has them (`drives_of`), whatever the spec says meanwhile."""
    vm = vm.model_copy(update={"spec": vm.spec.model_copy(update={"cdroms": []})})
    hardware = vm.status.hardware
    if not hardware.machine:
        return vm
    known = {slot.device for slot in (*hardware.slots, *hardware.targets)}
    spec = vm.spec.model_copy(
        update={
            "disks": [disk for disk in vm.spec.disks if f"disk/{disk.name}" in known],
            "interfaces": [nic for nic in vm.spec.interfaces if f"nic/{nic.name}" in known],
        }
    )
    return vm.model_copy(update={"spec": spec})


def _disks(vm: VirtualMachine, store: Store) -> tuple[MovedDisk, ...]:
    found = []
    for disk, name in disk_volumes(vm).items():
        volume = store.get(Volume, vm.metadata.namespace, name)
        if volume is None or not volume.status.chain:
            raise Transient(f"spec.disks[{disk}]: Volume {name} is not known to lie anywhere")
        link, pool = volume.status.chain[0], store.get(StoragePool, None, volume.status.pool)
        shared = not volume.status.node
        path = link.path if shared or pool is None else f"{pool.spec.dir.path}/{link.file}"
        where = host_pool_name(volume.status.pool)
        found.append(MovedDisk(disk, volume, where, link.file, link.format, path, shared))
    return tuple(found)


def drives_of(shape: GuestShape) -> tuple[CdromPlan, ...]:
    """The CD-ROM drives that a running guest has, and what lies in them."""
    return tuple(CdromPlan(d.name, d.path, bus=d.bus, boot_order=d.boot_order) for d in shape.cdroms)


def media_of(drives: tuple[CdromPlan, ...], store: Store) -> tuple[MediumNeed, ...]:
    """Where what lies in the drives is: a pool has the same directory on each of its hosts."""
    pools = {pool.spec.dir.path: pool for pool in store.list(StoragePool)}
    found = []
    for drive in drives:
        folder, _, file = drive.path.rpartition("/")
        pool = pools.get(folder)
        if drive.path:
            shared = pool is not None and pool.spec.access == "Shared"
            named = host_pool_name(pool.metadata.name) if pool is not None else ""
            found.append(MediumNeed(drive.name, named, file, shared))
    return tuple(found)


def state_files(guest: Guest, identity: Identity, placement: Placement, names: frozenset[str]) -> tuple[str, ...]:
    """Files of the state pool that QEMU opens for this run, of those that the source has."""
    started = placement.started_epoch
    wanted = [nvram_file(identity)] if guest.vm.spec.firmware != "bios" else []
    if started is not None:
        wanted.append(seed_file(identity, started))
    return tuple(name for name in wanted if name in names)


def target_plan(
    guest: Guest,
    identity: Identity,
    placement: Placement,
    domain: DomainSeen,
    target: OwnedHost,
    files: tuple[str, ...],
    gate_path: str,
    drives: tuple[CdromPlan, ...] = (),
) -> DomainPlan:
    """The guest as the target is to define it, under the epoch it was started with."""
    started = placement.started_epoch
    assert started is not None
    seed = seed_file(identity, started)
    directory = target.state_dir
    host = HostSide(
        gate_path=gate_path,
        accel=target.inventory.accel,
        arch=target.inventory.arch,
        cpu_model=guest.cluster.spec.cpu_model or guest.cluster.status.cpu_model,
        machine=guest.vm.spec.machine or guest.cluster.spec.machine,
        seed_path=f"{directory}/{seed}" if seed in files else "",
        console_log_path=f"{directory}/{console_file(identity)}",
        nvram_path=f"{directory}/{nvram_file(identity)}" if guest.vm.spec.firmware != "bios" else "",
    )
    plan = domain_plan(
        guest.vm,
        identity=identity,
        epoch=started,
        size=guest.size,
        host=host,
        disks=tuple(ResolvedDisk(disk.name, disk.path, disk.format) for disk in guest.disks),
        nics=guest.nics,
        addresses=domain.addresses,
    )
    return replace(plan, spec_hash=domain.spec_hash or plan.spec_hash, cdroms=drives)


def move_plan(
    guest: Guest,
    running: DomainPlan,
    ticket: str,
    nodes: tuple[HypervisorNode, HypervisorNode],
    tuning: MigrationTuning,
    *,
    arrive_paused: bool,
) -> MovePlan:
    """`running` is the target's plan with its gate; the incoming QEMU asks for the ticket instead. `nodes`: from, to."""
    source, target = nodes
    return MovePlan(
        domain_name=running.identity.domain_name,
        peer_uri=peer_uri(source, target),
        data_address=target.spec.migration.address,
        running=replace(running, gate_path=f"{GATE_DIR}/{ticket}"),
        kept=running,
        copied_disks=tuple(disk.name for disk in guest.disks if not disk.shared),
        bandwidth_mib_s=tuning.bandwidth_mib_per_second or 0,
        max_downtime_ms=tuning.max_downtime_milliseconds or DEFAULT_DOWNTIME_MS,
        auto_converge=tuning.auto_converge is not False,
        parallel_connections=tuning.parallel_connections or 1,
        post_copy=bool(tuning.post_copy) and not arrive_paused,
        arrive_paused=arrive_paused,
    )


def writes_are_locked(vm: VirtualMachine, store: Store) -> bool:
    """A writable disk lies on shared storage, so that QEMU's image lock refuses the second of two runs (docs/adr/0003)."""
    read_only = {disk.name for disk in vm.spec.disks if disk.read_only}
    volumes = (store.get(Volume, vm.metadata.namespace, v) for d, v in disk_volumes(vm).items() if d not in read_only)
    return any(volume is not None and volume.status.chain and not volume.status.node for volume in volumes)


DEFAULT_DOWNTIME_MS = 300
"""As api/vmmigration says; libvirt's own default."""


def peer_uri(source: HypervisorNode, target: HypervisorNode) -> str:
    """How the source's libvirt reaches the target's: with the source's own credentials."""
    base = target.spec.migration.uri or target.spec.uri.partition("?")[0]
    parameters = source.spec.migration.parameters
    return f"{base}?{parameters}" if base and parameters else base


def tuning_of(migration: VirtualMachineMigration, vm: VirtualMachine, cluster: HypervisorCluster) -> MigrationTuning:
    """Field by field: the move's own word, else the VM's, else the cluster's."""
    layers: tuple[ApiModel, ...] = (migration.spec.tuning, vm.spec.migration, cluster.spec.migration.tuning)
    merged = {
        name: next((value for layer in layers if (value := getattr(layer, name)) is not None), None)
        for name in MigrationTuning.model_fields
    }
    return MigrationTuning.model_construct(**merged)
