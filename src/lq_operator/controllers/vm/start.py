"""One start of one guest: lease renewed, placement read back, seed written, defined, started or resumed."""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.runtime.guestabi import kept_hardware
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.statefiles import (
    STATE_POOL,
    console_file,
    hardware_files,
    nvram_file,
    resumed_mark,
    seed_file,
    spent_files,
    store_file,
    suspend_file,
    suspended_epochs,
)
from lq_operator.controllers.vm.memory import VmMemory
from lq_operator.controllers.vm.prepare import Prepared
from lq_operator.controllers.vm.seeds import SeedRefused, build_seed
from lq_operator.convert.domain import HostSide, domain_plan
from lq_operator.core.failover.guards import Refusal
from lq_operator.core.failover.patch import placement_from_dict
from lq_operator.core.failover.protocol import may_act
from lq_operator.core.lifecycle.power import BACKOFF_S
from lq_operator.core.model import DomainPlan, Epoch, Identity, Placement, VolumePlan
from lq_operator.core.result import Conflict, OutcomeUnknown, Rejected, Transient
from lq_operator.ports import Clock, Resources
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import bound, get_logger

log = get_logger(__name__)


@dataclass(slots=True)
class Starter:
    """Starts guests under a placement that this process has just committed."""

    resources: Resources
    book: HostBook
    clock: Clock

    async def start(
        self,
        vm: VirtualMachine,
        identity: Identity,
        placement: Placement,
        entry: OwnedHost,
        prepared: Prepared,
        memory: VmMemory,
    ) -> None:
        """Raises Conflict when the placement is not ours any more, Fenced when the lease is not.

        A host that refuses the start is remembered in `memory` with a growing wait, and is not an error here.
        """
        assert placement.epoch is not None
        await self._allowed(vm, placement, memory)
        # From here on this epoch counts as used, whatever happens.
        memory.unused = None
        started_s = self.clock.mono_s()
        try:
            with bound(vm=identity.key, node=entry.node, epoch=str(placement.epoch)):
                await self._start(vm, identity, placement.epoch, entry, prepared, memory)
        except (Rejected, Transient, OutcomeUnknown) as error:
            metrics.VM_STARTS.labels(type(error).__name__.lower()).inc()
            # Own gate gone = deposed or rebooted (raises Transient); else an ordinary failure (gate.md).
            await self.book.check_gate(entry)
            if isinstance(error, OutcomeUnknown):
                raise
            self._failed(memory, error)
        else:
            memory.start_failures, memory.start_error = 0, ""
            metrics.VM_STARTS.labels("ok").inc()
            metrics.VM_START_SECONDS.observe(self.clock.mono_s() - started_s)
        await self.book.refresh(entry, identity.domain_name)

    async def _allowed(self, vm: VirtualMachine, placement: Placement, memory: VmMemory) -> None:
        """Renew the lease, then read back what was written: only then the first write to the host."""
        await self.book.tenure.renew()
        read = await self.resources.get(VirtualMachine, vm.metadata.namespace, vm.metadata.name)
        status = read.status.placement if read is not None and read.metadata.uid == vm.metadata.uid else None
        back = placement_from_dict(status.model_dump(by_alias=True)) if status is not None else None
        refusal = may_act(placement, back, lease_renewed=True)
        if isinstance(refusal, Refusal):
            memory.unused = None
            raise Conflict(refusal.sentence)

    def _failed(self, memory: VmMemory, error: Exception) -> None:
        memory.start_failures += 1
        wait_s = BACKOFF_S[min(memory.start_failures, len(BACKOFF_S) - 1)]
        seed = isinstance(error, SeedRefused)
        memory.start_reason = "SeedNotReady" if seed else "StartFailed"
        memory.start_error = (str(error) if seed else f"the host refused the start: {error}")[:1500]
        memory.retry_at_s = self.clock.mono_s() + wait_s
        log.warning("the start failed", reason=str(error)[:500], retry_s=wait_s)

    async def _start(
        self,
        vm: VirtualMachine,
        identity: Identity,
        epoch: Epoch,
        entry: OwnedHost,
        prepared: Prepared,
        memory: VmMemory,
    ) -> None:
        seed = await build_seed(vm, epoch, prepared, self.resources)
        names = [volume.name for volume in await entry.host.list_volumes(STATE_POOL, refresh=True)]
        memory.hardware_kept = tuple(hardware_files(identity, names))
        if not vm.status.hardware.machine and (kept := await kept_hardware(entry, identity, names)) is not None:
            vm = vm.model_copy(update={"status": vm.status.model_copy(update={"hardware": kept})})
        directory = await self.state_dir(entry)
        if seed is not None:
            await store_file(entry.host, seed_file(identity, epoch), seed)
        seed_path = f"{directory}/{seed_file(identity, epoch)}" if seed is not None else ""
        plan = _plan(vm, identity, epoch, entry, prepared, directory, seed_path)
        saved = suspended_epochs(identity, names)
        # Before the start: after a crash or a refused start nobody would come back for them.
        for name in spent_files(identity, epoch, names):
            await entry.host.delete_volume(STATE_POOL, name)
        log.info("starting", resume=bool(saved))
        if not (saved and await self._resume(entry, identity, saved[-1], plan, directory)):
            await entry.host.define(plan)
            await entry.host.start(identity.domain_name)
        # It runs, so its disks move on: no image of an earlier run may ever be resumed, marked or not.
        for name in spent_files(identity, epoch, names, resumed=epoch):
            await entry.host.delete_volume(STATE_POOL, name)

    async def _resume(
        self, entry: OwnedHost, identity: Identity, saved: Epoch, plan: DomainPlan, directory: str
    ) -> bool:
        """Restore the suspend image, once. False: it was used before (a crash in between), so start cold.

        The mark is made first: an image whose disks have moved on since would destroy them.
        """
        mark = VolumePlan(resumed_mark(identity, saved), 0, format="raw")
        try:
            await entry.host.create_volume(STATE_POOL, mark)
        except Conflict:
            return False
        try:
            await entry.host.restore(f"{directory}/{suspend_file(identity, saved)}", plan)
        except (Rejected, Transient):
            # Refused before the guest ran: the image is untouched and may be tried again.
            await entry.host.delete_volume(STATE_POOL, mark.name)
            raise
        return True

    async def plan(
        self, vm: VirtualMachine, identity: Identity, epoch: Epoch, entry: OwnedHost, prepared: Prepared
    ) -> DomainPlan:
        """What a start would define now, its seed left out."""
        return _plan(vm, identity, epoch, entry, prepared, await self.state_dir(entry), "")

    async def state_dir(self, entry: OwnedHost) -> str:
        """Directory of the state pool on this host."""
        if not entry.state_dir:
            pools = {pool.name: pool for pool in await entry.host.list_pools()}
            if STATE_POOL not in pools:
                raise Transient(f"{entry.node}: the state pool {STATE_POOL} is not set up yet")
            entry.state_dir = pools[STATE_POOL].path
        return entry.state_dir


def _plan(
    vm: VirtualMachine,
    identity: Identity,
    epoch: Epoch,
    entry: OwnedHost,
    prepared: Prepared,
    directory: str,
    seed_path: str,
) -> DomainPlan:
    assert prepared.size is not None
    assert prepared.cluster is not None
    cluster, spec = prepared.cluster, vm.spec
    wished = spec.cpu.model if spec.cpu is not None else None
    host = HostSide(
        gate_path=entry.gate_path,
        accel=entry.inventory.accel,
        arch=entry.inventory.arch,
        cpu_model=wished or cluster.spec.cpu_model or cluster.status.cpu_model or _own_model(entry),
        machine=spec.machine or cluster.spec.machine,
        seed_path=seed_path,
        console_log_path=f"{directory}/{console_file(identity)}",
        nvram_path=f"{directory}/{nvram_file(identity)}" if spec.firmware != "bios" else "",
    )
    return domain_plan(
        vm,
        identity=identity,
        epoch=epoch,
        size=prepared.size,
        host=host,
        disks=tuple(prepared.disks),
        cdroms=tuple(drive.resolved for drive in prepared.drives),
        nics=tuple(prepared.nics),
        addresses=tuple((nic.name, nic.cidr.partition("/")[0]) for nic in prepared.seed_nics),
    )


def _own_model(entry: OwnedHost) -> str:
    """Where no baseline is known yet. Emulation has no host CPU to follow: the adapter's default there."""
    return entry.inventory.cpu_model if entry.inventory.accel == "kvm" else ""
