"""The composition root: builds the adapters of one process and hands them to its controllers.

Order of every process: logs, health, API server, watches, leadership, controllers. Losing the lease ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lq_operator import __version__
from lq_operator.adapters.clock import SystemClock
from lq_operator.adapters.coordination.etcd import EtcdLeases, EtcdTls
from lq_operator.adapters.coordination.kubernetes_lease import KubernetesLeases
from lq_operator.adapters.coordination.leadership import Leadership, hold
from lq_operator.adapters.coordination.lease import Timing
from lq_operator.adapters.fetch import UrlFetcher
from lq_operator.adapters.kube.client import KubeResources
from lq_operator.adapters.kube.doorkeeper import KubeDoorkeeper
from lq_operator.adapters.kube.endpoint import Endpoint, discover_endpoint
from lq_operator.adapters.kube.events import KubeEvents
from lq_operator.adapters.kube.store import WatchStore
from lq_operator.adapters.kube.transport import KubeTransport
from lq_operator.adapters.kube.watch import KubeWatch
from lq_operator.adapters.libvirt.fleet import LibvirtFleet
from lq_operator.adapters.libvirt.settings import LibvirtSettings
from lq_operator.adapters.tls import server_context
from lq_operator.api.base import Resource
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.kinds import KINDS
from lq_operator.api.network import VirtualNetwork
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmclass import VirtualMachineClass
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.api.volume import Volume
from lq_operator.config import (
    GatewaySettings,
    ImporterSettings,
    PodSettings,
    ProcessSettings,
    RunSettings,
    SchedulerSettings,
)
from lq_operator.controllers.gateway.access import Door
from lq_operator.controllers.gateway.guests import Guests
from lq_operator.controllers.gateway.screens import Screens
from lq_operator.controllers.gateway.server import Gateway
from lq_operator.controllers.hostset import HostSet, World
from lq_operator.controllers.image.imageset import IMAGE_KINDS, ImageSet, Surroundings
from lq_operator.controllers.runtime.loop import PeriodicLoop
from lq_operator.controllers.runtime.refs import Namespaces
from lq_operator.controllers.runtime.tenure import Tenure
from lq_operator.controllers.scheduler import FailoverReport, Scheduler, debug_page
from lq_operator.ports import Coordination, OutcomeUnknown, Transient
from lq_operator.telemetry import metrics
from lq_operator.telemetry.health import READY_GATES, Health, HealthServer, beat_loop
from lq_operator.telemetry.logging import configure, get_logger

log = get_logger(__name__)

HOST_KINDS = KINDS
"""What `run` watches: everything."""
SCHEDULER_KINDS = (
    HypervisorCluster,
    HypervisorNode,
    StoragePool,
    VirtualMachineClass,
    VirtualMachine,
    VirtualMachineMigration,
    VirtualNetwork,
    Volume,
)
"""What `scheduler` watches; its role reads no more (charts/lq-operator/templates/scheduler)."""
GATEWAY_KINDS = (HypervisorNode, VirtualMachine)
"""What `gateway` watches: where VMs run, and how their hosts are reached."""

EXIT_WATCH_FAILED = 70
"""EX_SOFTWARE of sysexits.h: the watch could not be kept up; the supervisor starts us again."""


@dataclass(slots=True)
class Base:
    """What every process has in hand once it is connected."""

    settings: PodSettings
    endpoint: Endpoint
    transport: KubeTransport
    health: Health
    server: HealthServer
    resources: KubeResources
    store: WatchStore
    events: KubeEvents
    clock: SystemClock
    installation: str


class Main(Protocol):
    """A process's work under one term."""

    async def __call__(self, base: Base, tenure: Tenure) -> None: ...


async def run_hosts(settings: RunSettings) -> None:
    """`lq-operator run`: nodes, VMs, volumes, networks, pools."""
    await _process(settings, HOST_KINDS, _hosts)


async def run_importer(settings: ImporterSettings) -> None:
    """`lq-operator importer`."""
    await _process(settings, IMAGE_KINDS, _import)


async def run_scheduler(settings: SchedulerSettings) -> None:
    """`lq-operator scheduler`."""
    await _process(settings, SCHEDULER_KINDS, _schedule)


async def run_gateway(settings: GatewaySettings) -> None:
    """`lq-operator gateway`: no lease, because it decides nothing and writes nothing."""
    async with _connected(settings, GATEWAY_KINDS, gates=("caches",)) as base:
        await _until_stopped(_serve(base, settings))


async def _serve(base: Base, settings: GatewaySettings) -> None:
    keepalives = max(1, round(settings.unreachable_after_s / 2) - 1)  # two seconds apart, the first is not counted
    patience = LibvirtSettings(
        keepalive_count=keepalives, short_connections=1, start_connections=1, long_connections=1, agent_connections=1
    )
    fleet = LibvirtFleet(patience, on_call=_count_host_call)
    guests = Guests(base.store, base.resources, fleet, base.clock, settings.namespace, settings.idle_host_s)
    gateway = Gateway(
        Door(KubeDoorkeeper(base.transport)),
        guests,
        base.events,
        base.clock,
        history_bytes=settings.history_kib * 1024,
        recheck_s=settings.recheck_s,
        screens=Screens(base.clock, frames_per_second=settings.frames_per_second, pointer=settings.pointer),
    )
    try:
        await gateway.serve(settings.listen_host, settings.listen_port, server_context(settings.tls))
    finally:
        await fleet.close()


async def _hosts(base: Base, tenure: Tenure) -> None:
    settings = base.settings
    assert isinstance(settings, RunSettings)
    fleet = LibvirtFleet(on_call=_count_host_call)
    world = World(base.store, base.resources, fleet, base.events, base.clock, base.installation, settings.namespace)
    hosts = HostSet(world, tenure, workers=settings.workers, resync_s=settings.resync_s)
    fleet.on_event(hosts.host_event)
    unsubscribe = _follow(base, hosts.changed)
    base.store.on_went_back(lambda sign: tenure.step_down(tenure.term))
    try:
        await hosts.run()
    finally:
        unsubscribe()
        await fleet.close()


async def _import(base: Base, tenure: Tenure) -> None:
    settings = base.settings
    assert isinstance(settings, ImporterSettings)
    # Two seconds between keepalives; the first is not counted among those that may be lost.
    patience = LibvirtSettings(keepalive_count=max(1, round(settings.unreachable_after_s / 2) - 1))
    fleet = LibvirtFleet(patience, on_call=_count_host_call)
    directories = [str(directory) for directory in settings.file_url_directories]
    fetcher = UrlFetcher(settings.allowed_private_networks, directories)
    world = Surroundings(base.store, base.resources, fleet, fetcher, base.events, base.clock, settings.namespace)
    images = ImageSet(
        world, tenure, workers=settings.workers, resync_s=settings.resync_s, max_parallel=settings.max_parallel
    )
    fleet.on_event(images.host_event)
    unsubscribe = _follow(base, images.changed)
    try:
        await images.run()
    finally:
        unsubscribe()
        await fleet.close()


async def _schedule(base: Base, tenure: Tenure) -> None:
    settings = base.settings
    assert isinstance(settings, SchedulerSettings)
    scheduler = Scheduler(
        base.store,
        base.resources,
        Namespaces(base.resources, base.clock),
        tenure,
        base.events,
        base.clock,
        lambda: base.store.synced(*SCHEDULER_KINDS) and not base.store.broken(VirtualMachine),
        max_batch=settings.max_batch,
    )
    capacity = FailoverReport(scheduler.book, base.store, base.resources, base.clock)

    settled = False

    async def gather_then_place() -> None:
        nonlocal settled
        await base.clock.sleep(settings.batch_window_s)
        await scheduler.run_once()
        if scheduler.book.fleets and not settled:
            settled = True
            gc.collect()
            gc.freeze()  # what was read at the start mostly stays: full collections need not go through it again

    # Changes wake it; the 30 s are for what nobody watches (labels of namespaces), and cost next to nothing.
    loop = PeriodicLoop("scheduler", gather_then_place, every_s=30.0, clock=base.clock)
    report = PeriodicLoop("failover-capacity", capacity.run_once, every_s=5.0, clock=base.clock)
    unsubscribe = _follow(base, lambda _kind, _key: loop.wake())
    base.store.on_went_back(lambda sign: tenure.step_down(tenure.term))
    base.server.serve_debug("decisions", debug_page(lambda: [f.journal for f in list(scheduler.book.fleets.values())]))
    loops = [asyncio.ensure_future(one.run()) for one in (loop, report)]
    try:
        await asyncio.gather(*loops)
    finally:
        for one in loops:
            one.cancel()
        base.server.serve_debug("decisions", None)
        unsubscribe()


def _follow(base: Base, callback: Callable[[type[Resource], str], None]) -> Callable[[], None]:
    """Subscribe for as long as this term lasts: the store outlives it."""
    alive = True

    def forward(kind: type[Resource], key: str) -> None:
        if alive:
            callback(kind, key)

    def stop() -> None:
        nonlocal alive
        alive = False

    base.store.subscribe(forward)
    return stop


async def _process(settings: ProcessSettings, kinds: tuple[type[Resource], ...], main: Main) -> None:
    agent = f"lq-operator-{settings.component}/{__version__} leases"
    async with _connected(settings, kinds) as base, KubeTransport(base.endpoint, user_agent=agent) as lease_transport:
        await _lead(base, settings, _coordination(settings, lease_transport, base.installation), main)


@contextlib.asynccontextmanager
async def _connected(
    settings: PodSettings, kinds: tuple[type[Resource], ...], *, gates: tuple[str, ...] = READY_GATES
) -> AsyncIterator[Base]:
    """Logs, health, API server and watches of one process; all of it ends with the block."""
    configure(settings.telemetry.log_level, settings.component)
    metrics.BUILD_INFO.labels(__version__, settings.component).set(1)
    health = Health(gates)
    server = HealthServer(health, settings.telemetry.listen_host, settings.telemetry.listen_port)
    server.start()
    endpoint = await discover_endpoint()
    agent = f"lq-operator-{settings.component}/{__version__}"
    async with KubeTransport(endpoint, user_agent=agent, on_write=_count_write) as transport:
        resources = KubeResources(transport)
        store = WatchStore(kinds, on_seen=health.watch_seen)
        resources.observe_results(store.observe)
        events = KubeEvents(transport, component=settings.component, instance=settings.pod_name)
        watch = KubeWatch(endpoint, resources, store, on_fatal=_watch_failed)
        tasks = [asyncio.create_task(events.run()), asyncio.create_task(beat_loop(health))]
        try:
            installation = settings.installation_id or await _patiently(resources.kube_system_uid)
            await watch.start()
            health.set_ready("caches", True)
            yield Base(
                settings, endpoint, transport, health, server, resources, store, events, SystemClock(), installation
            )
        finally:
            await watch.stop()
            await events.flush()
            for task in tasks:
                task.cancel()
            server.stop()


async def _lead(base: Base, settings: ProcessSettings, coordination: Coordination, main: Main) -> None:
    """Hold the lease around `main`; every term begins with nothing but what the API and the hosts show."""

    async def under(leadership: Leadership) -> None:
        base.health.set_ready("leader", True)
        try:
            await main(base, Tenure(leadership, base.clock))
        finally:
            base.health.set_ready("leader", False, "between two terms")

    # A standby is ready to take over: that is what readiness of this process means.
    base.health.set_ready("leader", True)
    name = settings.coordination.lease_name
    await _until_stopped(hold(coordination, name, under, timing=Timing(settings.coordination.ttl_s)))


async def _until_stopped(work: Awaitable[None]) -> None:
    """SIGTERM and SIGINT end the work in order: controllers first, then the lease is given back."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("stopped")


def _coordination(settings: ProcessSettings, transport: KubeTransport, installation: str) -> Coordination:
    timing = Timing(settings.coordination.ttl_s)
    etcd = settings.coordination.etcd
    if settings.coordination.backend == "kubernetes":
        return KubernetesLeases(transport.api_client, settings.namespace, settings.pod_name, timing)
    tls = (
        EtcdTls(etcd.ca_file, etcd.cert_file, etcd.key_file)
        if etcd.ca_file and etcd.cert_file and etcd.key_file
        else None
    )
    prefix = f"{etcd.prefix.rstrip('/')}/{installation}"
    return EtcdLeases(list(etcd.endpoints), prefix, settings.pod_name, timing, tls=tls)


T = TypeVar("T")


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the API server answers: a process that starts before it must not die of that."""
    wait_s = 0.5
    while True:
        try:
            return await ask()
        except (Transient, OutcomeUnknown) as error:
            log.warning("waiting for the API server", reason=str(error), retry_s=wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 10.0)


def _count_write(kind: str, verb: str) -> None:
    metrics.API_WRITES.labels(kind, verb).inc()


def _count_host_call(_node: str, call: str, outcome: str, seconds: float) -> None:
    metrics.HOST_CALL_SECONDS.labels(call, outcome).observe(seconds)


def _watch_failed(why: str) -> None:
    log.error("the watch cannot be kept up, the process exits", reason=why)
    os._exit(EXIT_WATCH_FAILED)
