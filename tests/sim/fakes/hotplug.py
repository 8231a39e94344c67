"""Changes of a running guest in memory: what libvirt would do to the live plan and to the definition.

The shape of a guest is that of its live plan, less what was fixed at its start (vCPUs, memory): that is in `started`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lq_operator.core.lifecycle.shape import GuestShape, shape_of
from lq_operator.core.model import DomainPlan
from lq_operator.core.result import Conflict, NotFound, Rejected

if TYPE_CHECKING:
    from tests.sim.fakes.machine import Domain, Machine


@dataclass
class Hotplug:
    """`holds`: devices ('disk/data') that the guest does not let go of, and drives ('cdrom/a') whose tray it has locked."""

    machine: Machine
    holds: set[str] = field(default_factory=set)

    def _running(self, name: str) -> tuple[Domain, DomainPlan]:
        domain = self.machine.domain(name)
        if domain.live is None:
            raise Conflict(f"{name} does not run")
        return domain, domain.live

    def _both(self, name: str, **changes: object) -> None:
        domain, live = self._running(name)
        domain.live = replace(live, **changes)  # type: ignore[arg-type]
        if domain.plan is not None and domain.persistent:
            domain.plan = replace(domain.plan, **changes)  # type: ignore[arg-type]

    def read_shape(self, name: str) -> GuestShape:
        domain, live = self._running(name)
        started, now = shape_of(domain.started or live), shape_of(live)
        return replace(
            now,
            vcpus_max=started.vcpus_max,
            boot_memory_mib=started.boot_memory_mib,
            memory_max_mib=started.memory_max_mib,
            cdroms=tuple(replace(drive, force=False, waits="") for drive in now.cdroms),
            added_memory_mib=max(0, now.memory_mib - started.memory_mib),
        )

    def set_vcpus(self, name: str, count: int) -> None:
        shape = self.read_shape(name)
        if not shape.vcpus <= count <= shape.vcpus_max:
            raise Rejected(f"{name}: {count} vCPUs are not within {shape.vcpus} to {shape.vcpus_max}")
        self._both(name, vcpus=count)

    def set_memory(self, name: str, size_mib: int) -> None:
        shape = self.read_shape(name)
        if size_mib > shape.memory_max_mib:
            raise Rejected(f"{name}: {size_mib} MiB are more than the {shape.memory_max_mib} it has room for")
        self._both(name, memory_mib=size_mib)

    def set_cpu_tuning(self, name: str, shares: int, quota_percent: int) -> None:
        _, live = self._running(name)
        self._both(name, cpu_shares=shares or live.cpu_shares, cpu_quota_percent=quota_percent)

    def attach_disk(self, plan: DomainPlan, disk: str) -> None:
        name = plan.identity.domain_name
        _, live = self._running(name)
        wished = next(one for one in plan.disks if one.name == disk)
        there = next((one for one in live.disks if one.name == disk), None)
        if there is not None and there.path != wished.path:
            raise Conflict(f"{name}: another file is attached as {disk}")
        if there is not None:
            return
        if self.machine.file(wished.path) is None:
            raise Rejected(f"{name}: cannot open {wished.path}: No such file or directory")
        self._both(name, disks=(*live.disks, wished))

    def detach_disk(self, name: str, disk: str) -> None:
        _, live = self._running(name)
        if f"disk/{disk}" not in self.holds:
            self._both(name, disks=tuple(one for one in live.disks if one.name != disk))

    def set_disk_limits(self, plan: DomainPlan, disk: str) -> None:
        name = plan.identity.domain_name
        _, live = self._running(name)
        wished = next(one for one in plan.disks if one.name == disk)
        if all(one.name != disk for one in live.disks):
            raise NotFound(f"{name} has no disk {disk}")
        limits = {"iops": wished.iops, "bytes_per_second": wished.bytes_per_second}
        self._both(name, disks=tuple(replace(d, **limits) if d.name == disk else d for d in live.disks))

    def grow_disk(self, name: str, disk: str, capacity_bytes: int) -> None:
        _, live = self._running(name)
        found = next((one for one in live.disks if one.name == disk), None)
        file = self.machine.file(found.path) if found is not None else None
        if file is None:
            raise NotFound(f"{name} has no disk {disk}")
        file.capacity = max(file.capacity, capacity_bytes)

    def set_medium(self, plan: DomainPlan, drive: str, force: bool) -> None:
        name = plan.identity.domain_name
        _, live = self._running(name)
        wished = next(one for one in plan.cdroms if one.name == drive)
        there = next((one for one in live.cdroms if one.name == drive), None)
        if there is None:
            raise NotFound(f"{name} has no CD-ROM drive {drive}")
        if there.path == wished.path:
            return
        if wished.path and self.machine.file(wished.path) is None:
            raise Rejected(f"{name}: cannot open {wished.path}: No such file or directory")
        if there.path and f"cdrom/{drive}" in self.holds and not force:
            raise Rejected(f"{name}: the guest has locked the tray of {drive}: set spec.cdroms[{drive}].forceEject")
        now = {"path": wished.path, "format": wished.format}
        self._both(name, cdroms=tuple(replace(d, **now) if d.name == drive else d for d in live.cdroms))

    def attach_nic(self, plan: DomainPlan, nic: str) -> None:
        name = plan.identity.domain_name
        _, live = self._running(name)
        wished = next(one for one in plan.nics if one.name == nic)
        if wished.network and wished.network not in self.machine.networks:
            raise Rejected(f"{name}: network {wished.network} does not exist")
        if all(one.name != nic for one in live.nics):
            self._both(name, nics=(*live.nics, wished))

    def detach_nic(self, name: str, nic: str) -> None:
        _, live = self._running(name)
        if f"nic/{nic}" not in self.holds:
            self._both(name, nics=tuple(one for one in live.nics if one.name != nic))

    def update_nic(self, plan: DomainPlan, nic: str) -> None:
        name = plan.identity.domain_name
        _, live = self._running(name)
        wished = next(one for one in plan.nics if one.name == nic)
        if all(one.name != nic for one in live.nics):
            raise NotFound(f"{name} has no interface {nic}")
        now = {"network": wished.network, "bridge": wished.bridge, "link_up": wished.link_up}
        self._both(name, nics=tuple(replace(n, **now) if n.name == nic else n for n in live.nics))

    def set_marks(self, name: str, spec_hash: str, record: tuple[tuple[str, str], ...]) -> None:
        self._both(name, spec_hash=spec_hash, record=record)
