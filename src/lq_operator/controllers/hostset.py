"""The host-facing controllers of one term, put together: queues, routes, and how they run. Used by app and simulator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lq_operator.api.attestation import HostAttestation
from lq_operator.api.base import Resource
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.network import VirtualNetwork
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.api.vmoperation import VirtualMachineOperation
from lq_operator.api.volume import Volume
from lq_operator.controllers.attestation import AttestationController
from lq_operator.controllers.cluster import ClusterController
from lq_operator.controllers.guest import GuestController
from lq_operator.controllers.guestaccess import GuestAccess
from lq_operator.controllers.maintenance.controller import MaintenanceController
from lq_operator.controllers.maintenance.observe import DrainObserver
from lq_operator.controllers.maintenance.report import MaintenanceReporter
from lq_operator.controllers.migration.moveset import MoveSet
from lq_operator.controllers.network import NetworkController
from lq_operator.controllers.node.controller import NodeController
from lq_operator.controllers.node.decommission import Decommission
from lq_operator.controllers.node.report import NodeReporter
from lq_operator.controllers.node.residents import Housekeeper
from lq_operator.controllers.operation import OperationController
from lq_operator.controllers.pool import PoolController
from lq_operator.controllers.runtime.attachments import Attachments
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.guestbook import GuestBook
from lq_operator.controllers.runtime.hostbook import HostBook
from lq_operator.controllers.runtime.inventory import Inventory
from lq_operator.controllers.runtime.reconciler import Reconciler
from lq_operator.controllers.runtime.refs import Namespaces
from lq_operator.controllers.runtime.tenure import Tenure
from lq_operator.controllers.runtime.wiring import Routes
from lq_operator.controllers.vm.act import Actor
from lq_operator.controllers.vm.addresses import Addresses
from lq_operator.controllers.vm.controller import VmController
from lq_operator.controllers.vm.hotchange import HotChanger
from lq_operator.controllers.vm.memory import Memories
from lq_operator.controllers.vm.observe import Observer
from lq_operator.controllers.vm.report import Reporter
from lq_operator.controllers.vm.start import Starter
from lq_operator.controllers.volume import VolumeController
from lq_operator.core.model import DomainEvent, NodeName
from lq_operator.ports import Clock, Events, Fleet, Resources, Store
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

Reconcile = Callable[[str], Awaitable[Requeue | None]]


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside, as the controllers see it."""

    store: Store
    resources: Resources
    fleet: Fleet
    events: Events
    clock: Clock
    installation: str
    operator_namespace: str


class HostSet:
    """One term's controllers. `changed` and `host_event` feed it, `run` works until cancelled or Fenced."""

    def __init__(self, world: World, tenure: Tenure, *, workers: int = 16, resync_s: float = 300.0) -> None:
        self.world = world
        self.book = HostBook(world.fleet, tenure, world.installation)
        self.inventory = Inventory(world.store, self.book)
        self.guests = GuestBook()
        self._tenure = tenure
        self._namespaces = Namespaces(world.resources, world.clock)
        self._attachments = Attachments(world.store)
        self.attestation = AttestationController(world.store, world.resources, self.book, world.events, world.clock)
        self.node = self._node()
        self._memories = Memories()
        self._observer = Observer(world.store, self.book, self.inventory, self.guests, world.clock)
        self.vm = self._vm()
        self.moves = self._moves()
        self._guest = GuestController(world.store, self.book, self.guests, world.events, world.clock, self._wake_vm)
        self.reconcilers = self._reconcilers(workers, resync_s)
        self.routes = Routes(world.store, {name: r.enqueue for name, r in self.reconcilers.items()}, world.installation)
        self.book.on_change(self.routes.domain_changed)
        self.book.on_owned(self.routes.host_owned)

    # ------------------------------------------------------------ what comes in

    def changed(self, kind: type[Resource], key: str) -> None:
        """A watch event."""
        self.routes.object_changed(kind, key)

    def host_event(self, event: DomainEvent) -> None:
        """A host event."""
        if event.kind == "connected":
            self.attestation.contact(event.node)
        if event.kind in ("connected", "closed"):
            self.node.touched(event.node)
            for found in self.world.store.list(HostAttestation):
                if found.spec.node == event.node:
                    self.reconcilers["attestation"].enqueue(found.key)
        if event.kind == "watchdog":
            self._guest.watchdog(event)
        self.routes.host_event(event)

    def api_went_back(self, sentence: str) -> None:
        """The API server was restored or wiped: what people attested before is void, everything is looked at again."""
        log.warning("the API server went back in time", reason=sentence)
        self.attestation.api_went_back()
        for reconciler in (self.reconcilers["attestation"], self.reconcilers["cluster"]):
            for key in self._keys_of(HostAttestation if reconciler.name == "attestation" else HypervisorCluster):
                reconciler.enqueue(key)

    def prime(self) -> None:
        """Look at everything once, nodes first."""
        for kind in (
            HypervisorNode,
            HypervisorCluster,
            HostAttestation,
            StoragePool,
            VirtualNetwork,
            Volume,
            VirtualMachine,
            VirtualMachineOperation,
            VirtualMachineMigration,
        ):
            for obj in self.world.store.list(kind):
                self.changed(kind, obj.key)

    async def run(self) -> None:
        """Until cancelled; Fenced (and bugs of the runtime) are raised."""
        self.prime()
        try:
            async with asyncio.TaskGroup() as group:
                for reconciler in self.reconcilers.values():
                    group.create_task(reconciler.run(), name=reconciler.name)
        finally:
            await self.moves.close()

    # ------------------------------------------------------------ putting together

    def _keys_of(self, kind: type[Resource]) -> list[str]:
        return [obj.key for obj in self.world.store.list(kind)]

    def _node(self) -> NodeController:
        w = self.world
        reporter = NodeReporter(w.store, w.resources, w.events, self.book, w.clock)
        return NodeController(
            w.store,
            w.resources,
            w.fleet,
            self.book,
            self.inventory,
            Housekeeper(w.store, w.resources, self.book),
            Decommission(w.store, w.resources, self.book, reporter),
            reporter,
            w.clock,
            w.operator_namespace,
            self.api_went_back,
        )

    def _vm(self) -> VmController:
        w = self.world
        starter = Starter(w.resources, self.book, w.clock)
        return VmController(
            w.store,
            w.resources,
            self._namespaces,
            self._attachments,
            Addresses(w.store, w.resources, w.clock),
            self._observer,
            Actor(w.store, w.resources, self.book, self.guests, starter),
            HotChanger(w.store, self.book, starter, self._attachments),
            Reporter(w.store, w.resources, w.events, self.guests, w.clock),
            self._memories,
        )

    def _moves(self) -> MoveSet:
        w = self.world
        return MoveSet.of(
            w.store,
            w.resources,
            w.events,
            w.clock,
            self._namespaces,
            self._attachments,
            self._observer,
            self._memories,
            self._wake_moves,
        )

    def _reconcilers(self, workers: int, resync_s: float) -> dict[str, Reconciler]:
        w, book = self.world, self.book
        pool = PoolController(w.store, w.resources, book, w.clock)
        network = NetworkController(w.store, w.resources, self._namespaces, book, w.clock)
        volume = VolumeController(w.store, w.resources, self._namespaces, book, self._attachments, w.events, w.clock)
        operation = OperationController(
            w.store, w.resources, GuestAccess(w.resources, book, w.events, w.clock), w.clock
        )
        cluster = ClusterController(w.store, w.resources, book, self.inventory, w.events, w.clock, self.api_went_back)
        guest = self._guest
        maintenance = MaintenanceController(
            w.store,
            w.resources,
            DrainObserver(w.store, book, w.clock),
            MaintenanceReporter(w.store, w.resources, w.events, w.clock),
        )

        def make(
            name: str,
            reconcile: Reconcile,
            kind: type[Resource] | None,
            n: int,
            field: str = "key",
            all_keys: Callable[[], list[str]] | None = None,
        ) -> Reconciler:
            async def under_the_lease(key: str) -> Requeue | None:
                # A process that was stopped past its lease begins no pass more; what is in flight has its own guards.
                self._tenure.check()
                return await reconcile(key)

            keys = all_keys if kind is None else lambda: self._keys_of(kind)
            return Reconciler(
                name,
                under_the_lease,
                clock=w.clock,
                workers=n,
                resync_s=resync_s,
                keys=keys,
                log_field=field,
            )

        return {
            "node": make("node", self.node.reconcile, HypervisorNode, max(workers, 32), "node"),
            "maintenance": make("maintenance", maintenance.reconcile, HypervisorNode, 4, "node"),
            "vm": make("vm", self.vm.reconcile, VirtualMachine, workers, "vm"),
            "volume": make("volume", volume.reconcile, Volume, workers),
            "guest": make("guest", guest.reconcile, VirtualMachine, 32, "vm"),
            "pool": make("pool", pool.reconcile, StoragePool, 4),
            "network": make("network", network.reconcile, VirtualNetwork, 4),
            "cluster": make("cluster", cluster.reconcile, HypervisorCluster, 2),
            "attestation": make("attestation", self.attestation.reconcile, HostAttestation, 2),
            "operation": make("operation", operation.reconcile, VirtualMachineOperation, 2),
            "migration": make("migration", self.moves.controller.reconcile, None, workers, "vm", self.moves.keys),
            "domain": make("domain", self._refresh, None, workers),
        }

    def _wake_moves(self, key: str) -> None:
        self.reconcilers["migration"].enqueue(key)

    def _wake_vm(self, key: str) -> None:
        self.reconcilers["vm"].enqueue(key)

    async def _refresh(self, key: str) -> Requeue | None:
        """One domain of one host, because the host said so."""
        node, _, domain_name = key.partition(" ")
        entry = self.book.owned(NodeName(node))
        if entry is not None:
            await self.book.refresh(entry, domain_name)
        return None
