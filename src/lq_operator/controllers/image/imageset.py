"""The importer's controllers of one term, put together: queues, routes, and how they run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from lq_operator.api.base import Resource
from lq_operator.api.image import Image
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.volume import Volume
from lq_operator.controllers.image.controller import ImageController, image_of, media_of
from lq_operator.controllers.image.hosts import HostLinks, Reach
from lq_operator.controllers.image.job import Importer
from lq_operator.controllers.image.jobs import Jobs
from lq_operator.controllers.image.report import ImageReporter
from lq_operator.controllers.image.sweep import Sweep
from lq_operator.controllers.runtime.reconciler import Reconciler
from lq_operator.controllers.runtime.tenure import Tenure
from lq_operator.core.model import DomainEvent
from lq_operator.ports import Clock, Events, Fetcher, Fleet, Resources, Store

IMAGE_KINDS: tuple[type[Resource], ...] = (HypervisorNode, Image, StoragePool, VirtualMachine, Volume)
"""What the importer watches; its role reads no more."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything outside, as the importer sees it."""

    store: Store
    resources: Resources
    fleet: Fleet
    fetcher: Fetcher
    events: Events
    clock: Clock
    operator_namespace: str


class ImageSet:
    """`changed` and `host_event` feed it, `run` works until cancelled or Fenced."""

    def __init__(
        self, world: Surroundings, tenure: Tenure, *, workers: int = 8, resync_s: float = 300.0, max_parallel: int = 4
    ) -> None:
        self._store = world.store
        reach = Reach(world.store, world.fleet)
        self.jobs = Jobs(world.clock, max_parallel, self._wake)
        self.controller = ImageController(
            world.store,
            world.resources,
            reach,
            self.jobs,
            Importer(world.fetcher, tenure, world.clock),
            Sweep(world.store, reach),
            ImageReporter(world.resources, world.clock),
            world.events,
            world.clock,
        )
        links = HostLinks(world.store, world.resources, world.fleet, world.operator_namespace)
        self.images = Reconciler(
            "image",
            self.controller.reconcile,
            clock=world.clock,
            workers=workers,
            resync_s=resync_s,
            keys=lambda: [image.key for image in self._store.list(Image)],
        )
        self.links = Reconciler("image-host", links.reconcile, clock=world.clock, workers=workers, log_field="node")

    def changed(self, kind: type[Resource], key: str) -> None:
        """A watch event."""
        if kind is Image:
            self._wake(key)
        elif kind is Volume:
            self._volume_changed(key)
        elif kind is VirtualMachine:
            self._vm_changed(key)
        else:
            if kind is HypervisorNode:
                self.links.enqueue(key)
            self._wake_restless()

    def host_event(self, event: DomainEvent) -> None:
        """A host came: whoever waits for it looks again, and what should lie there is looked for."""
        if event.kind == "connected":
            self._wake_restless()
            for image in self._store.list(Image):
                if any(artefact.node in ("", event.node) for artefact in image.status.artefacts):
                    self._wake(image.key)

    async def run(self) -> None:
        """Until cancelled; Fenced (and bugs of the runtime) are raised."""
        for node in self._store.list(HypervisorNode):
            self.links.enqueue(node.key)
        for image in self._store.list(Image):
            self._wake(image.key)
        try:
            async with asyncio.TaskGroup() as group:
                for reconciler in (self.links, self.images):
                    group.create_task(reconciler.run(), name=reconciler.name)
        finally:
            await self.jobs.close()

    def _wake(self, key: str) -> None:
        self.images.enqueue(key)

    def _wake_restless(self) -> None:
        for key in self.jobs.restless():
            self._wake(key)

    def _vm_changed(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        vm = self._store.get(VirtualMachine, namespace, name)
        for image in media_of(vm) if vm is not None else ():
            self._wake(image)

    def _volume_changed(self, key: str) -> None:
        namespace, _, name = key.partition("/")
        volume = self._store.get(Volume, namespace, name)
        if volume is None:
            self._wake_restless()  # perhaps the last that waited for an import
            return
        image = image_of(volume)
        if image is not None:
            self._wake(image)
