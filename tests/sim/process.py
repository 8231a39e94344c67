"""Operator processes of the simulator: the real HostSet and Scheduler on proxies that a test can pause, cut and kill."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tests.sim.fakes.calls import Crashed, Tracer
from tests.sim.fakes.clock import FakeClock
from tests.sim.fakes.events import FakeEvents
from tests.sim.fakes.hosts import FakeFleet
from tests.sim.fakes.leases import FakeLease
from tests.sim.fakes.resources import FakeApi, FakeStore

from lq_operator.api.base import Resource
from lq_operator.controllers.hostset import HostSet, World
from lq_operator.controllers.runtime.loop import PeriodicLoop
from lq_operator.controllers.runtime.refs import Namespaces
from lq_operator.controllers.runtime.tenure import Tenure
from lq_operator.controllers.scheduler import Scheduler
from lq_operator.core.result import Fenced, Transient
from lq_operator.ports import Clock

if TYPE_CHECKING:
    from tests.sim.world import SimWorld

K = TypeVar("K", bound=Resource)
T = TypeVar("T")


class ProcessClock:
    """The world's clock, as a process sees it that may be paused."""

    def __init__(self, clock: FakeClock, tracer: Tracer) -> None:
        self._clock = clock
        self._tracer = tracer

    def mono_s(self) -> float:
        return self._clock.mono_s()

    def now_rfc3339(self) -> str:
        return self._clock.now_rfc3339()

    def token(self) -> str:
        return self._clock.token()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        if self._tracer.dead:
            raise asyncio.CancelledError
        await self._tracer.stand_still()


class ProcessApi:
    """ports.Resources of one process over the one FakeApi."""

    def __init__(self, world: SimWorld, tracer: Tracer) -> None:
        self._world = world
        self._tracer = tracer

    @property
    def _api(self) -> FakeApi:
        return self._world.api

    async def _run(self, verb: str, about: str, write: bool, act: Callable[[], Awaitable[T]]) -> T:
        async def arrive() -> T:
            await asyncio.sleep(0)
            if not self._world.api_up:
                raise Transient("the API server does not answer")
            return await act()

        return await self._tracer.run("api", verb, about, write, arrive)

    async def get(self, kind: type[K], namespace: str | None, name: str) -> K | None:
        return await self._run("get", f"{kind.kind_name} {name}", False, lambda: self._api.get(kind, namespace, name))

    async def list(self, kind: type[K]) -> Sequence[K]:
        return await self._run("list", kind.kind_name, False, lambda: self._api.list(kind))

    async def create(self, obj: K) -> K:
        return await self._run("create", f"{type(obj).kind_name} {obj.key}", True, lambda: self._api.create(obj))

    async def delete(self, kind: type[Resource], namespace: str | None, name: str, *, uid: str) -> None:
        act = lambda: self._api.delete(kind, namespace, name, uid=uid)  # noqa: E731
        await self._run("delete", f"{kind.kind_name} {name}", True, act)

    async def json_patch(
        self,
        kind: type[K],
        namespace: str | None,
        name: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        subresource: str | None = None,
        manager: str = "lq-operator",
    ) -> K:
        return await self._run(
            "patch",
            f"{kind.kind_name} {name} {operations[-1]['path']}",
            True,
            lambda: self._api.json_patch(kind, namespace, name, operations, subresource=subresource, manager=manager),
        )

    async def apply_status(self, obj: K, status: Mapping[str, Any], *, manager: str) -> K:
        about = f"{type(obj).kind_name} {obj.key}"
        return await self._run(
            "apply_status", about, True, lambda: self._api.apply_status(obj, status, manager=manager)
        )

    async def read_secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        return await self._run("read_secret", name, False, lambda: self._api.read_secret(namespace, name))

    async def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:
        return await self._run("namespace_labels", namespace, False, lambda: self._api.namespace_labels(namespace))

    async def kube_system_uid(self) -> str:
        return await self._run("kube_system_uid", "", False, self._api.kube_system_uid)


class Process:
    """One process under a supervisor: it holds a lease, works, and begins again when it is fenced or steps down.

    crash() is final for this object; a restart is a new Process. pause() and resume() are SIGSTOP and SIGCONT.
    """

    def __init__(self, world: SimWorld, name: str, lease_name: str) -> None:
        self.world = world
        self.name = name
        self.tracer = Tracer()
        self.clock: Clock = ProcessClock(world.clock, self.tracer)
        self.resources = ProcessApi(world, self.tracer)
        self.store = FakeStore(world.api)
        self.events = FakeEvents()
        self.term = 0
        self.lease: FakeLease | None = None
        self.bugs: list[BaseException] = []
        self._lease_name = lease_name
        self._task = asyncio.ensure_future(self._live())

    # ------------------------------------------------------------ what a test does to it

    def pause(self) -> None:
        """SIGSTOP: nothing of it goes on, and it sees nothing."""
        self.tracer.paused = True
        self.store.live = False

    def resume(self) -> None:
        """SIGCONT: what it was about to do happens before it hears of anything."""
        self.tracer.resume()

    async def late_deeds(self) -> int:
        """SIGCONT long after its lease: everything it can do before it notices happens, then it ends. Returns how
        many calls it made. Its watch shows it nothing new, and its keeper is the last to wake up: the worst order."""
        before = len(self.tracer.calls)
        if self.lease is not None:
            self.lease.awake.clear()
        self.resume()
        await self.world.clock.settle()
        made = len(self.tracer.calls) - before
        await self.crash()
        return made

    async def crash(self) -> None:
        """SIGKILL."""
        self.tracer.kill()
        self.store.live = False
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.world.forget(self)

    # ------------------------------------------------------------ its life

    async def _live(self) -> None:
        above = 0
        while not self.tracer.dead:
            lease = FakeLease(self.world.leases, self._lease_name, self.name, self.clock, self.tracer)
            try:
                await lease.acquire(above)
            except Transient:
                await self.clock.sleep(1.0)
                continue
            self.lease, self.term = lease, lease.grant.term
            await self._term(Tenure(lease, self.clock), lease)
            above = lease.above_term
            lease.release()
            await self.clock.sleep(0.1)

    async def _term(self, tenure: Tenure, lease: FakeLease) -> None:
        work = asyncio.ensure_future(self.main(tenure))
        keeper = asyncio.ensure_future(lease.keep())
        stepping = asyncio.ensure_future(lease.stepping_down.wait())
        waiting: set[asyncio.Future[Any]] = {work, keeper, stepping}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not work.cancelled():
                self._judge(work.exception())
        finally:
            for future in waiting:
                future.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _judge(self, error: BaseException | None) -> None:
        """Fenced and our own kills are ways to end; anything else is a bug."""
        inner = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
        self.bugs += [e for e in inner if e is not None and not isinstance(e, (Fenced, Crashed))]

    async def main(self, tenure: Tenure) -> None:
        """What it does while it leads."""
        raise NotImplementedError


class Operator(Process):
    """`lq-operator run`."""

    hosts: HostSet | None = None

    def __init__(self, world: SimWorld, name: str) -> None:
        super().__init__(world, name, "run")
        self._subscribed: HostSet | None = None
        self._tenure: Tenure | None = None
        self.store.subscribe(self._changed)
        self.store.on_went_back(lambda _: self._tenure and self._tenure.step_down(self._tenure.term))

    def _changed(self, kind: type[Resource], key: str) -> None:
        if self._subscribed is not None and not self.tracer.dead:
            self._subscribed.changed(kind, key)

    async def main(self, tenure: Tenure) -> None:
        fleet = FakeFleet(self.world.datacenter, self.clock, self.tracer)
        world = World(self.store, self.resources, fleet, self.events, self.clock, self.world.installation, "lq-system")
        self.hosts = hosts = HostSet(world, tenure, workers=4)
        fleet.on_event(hosts.host_event)
        self._subscribed, self._tenure = hosts, tenure
        try:
            await hosts.run()
        finally:
            self._subscribed = None
            await fleet.close()


class Planner(Process):
    """`lq-operator scheduler`."""

    def __init__(self, world: SimWorld, name: str) -> None:
        super().__init__(world, name, "scheduler")
        self._loop: PeriodicLoop | None = None
        self._tenure: Tenure | None = None
        self.store.subscribe(lambda _kind, _key: self._loop.wake() if self._loop and not self.tracer.dead else None)
        self.store.on_went_back(lambda _: self._tenure and self._tenure.step_down(self._tenure.term))

    async def main(self, tenure: Tenure) -> None:
        scheduler = Scheduler(
            self.store,
            self.resources,
            Namespaces(self.resources, self.clock),
            tenure,
            self.events,
            self.clock,
            lambda: True,
        )

        async def gather_then_place() -> None:
            await self.clock.sleep(0.05)
            await scheduler.run_once()

        self._tenure = tenure
        self._loop = PeriodicLoop("scheduler", gather_then_place, every_s=30.0, clock=self.clock)
        try:
            await self._loop.run()
        finally:
            self._loop = None
