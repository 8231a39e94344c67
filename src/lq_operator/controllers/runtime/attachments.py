"""Which VM has a Volume. Nobody stores it: it follows from the VMs, so a start writes nothing about it.

Owns the order in which VMs that name one Volume come to it, and what this process is about to give away. Beyond one
process (another shard, a guest by hand) QEMU's image lock refuses the second one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.runtime.placements import on_a_host
from lq_operator.controllers.runtime.refs import named_volumes
from lq_operator.core.result import Conflict
from lq_operator.ports import Store


def attached_volumes(vm: VirtualMachine) -> set[str]:
    """Volumes that its guest may have open: what status says it was started with, while it is on a host."""
    if not on_a_host(vm):
        return set()
    inserted = {drive.inserted for drive in vm.status.cdroms if drive.inserted and "/" not in drive.inserted}
    return {disk.volume for disk in vm.status.disks if disk.ready} | inserted


@dataclass(slots=True)
class Attachments:
    """One per process and term. Losing it costs nothing: what is on a host says so in its status."""

    store: Store
    _taken: dict[tuple[str, str], str] = field(default_factory=dict)
    """(namespace, volume) -> name of the VM that this process commits, or has committed, with it."""

    def user(self, namespace: str, volume: str) -> VirtualMachine | None:
        """Who has it, or comes first: the one that is being started with it, one that runs with it, one that is on a
        host and names it, the oldest that names it."""
        users = [
            (rank, vm.metadata.creation_timestamp or "", vm.metadata.name, vm)
            for vm in self.store.list(VirtualMachine)
            if vm.metadata.namespace == namespace and (rank := self._rank(vm, volume)) is not None
        ]
        return min(users, key=lambda user: user[:3])[3] if users else None

    def _rank(self, vm: VirtualMachine, volume: str) -> int | None:
        attached, named = volume in attached_volumes(vm), volume in named_volumes(vm)
        if not attached and not named:
            return None
        if self._taken.get((vm.metadata.namespace or "", volume)) == vm.metadata.name:
            return 0
        if attached:
            return 1
        return 2 if on_a_host(vm) else 3

    def take(self, vm: VirtualMachine) -> None:
        """Before the commit of a start, in one step with the question. Conflict: another VM has one of its Volumes.

        The watch is behind our own commits, so what another worker has just committed is not seen in the Store.
        """
        namespace = vm.metadata.namespace or ""
        for volume in named_volumes(vm):
            user = self.user(namespace, volume)
            if user is not None and user.metadata.name != vm.metadata.name:
                raise Conflict(f"Volume {volume} belongs to VirtualMachine {user.metadata.name}")
        self.drop(namespace, vm.metadata.name)
        for volume in named_volumes(vm):
            self._taken[namespace, volume] = vm.metadata.name

    def drop(self, namespace: str, name: str) -> None:
        """This VM is on no host, or no more."""
        mine = [key for key, user in self._taken.items() if key[0] == namespace and user == name]
        for key in mine:
            del self._taken[key]
