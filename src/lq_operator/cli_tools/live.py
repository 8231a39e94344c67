"""The inventory of a running installation, listed once through a kubeconfig: GET requests and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lq_operator.adapters.clock import SystemClock
from lq_operator.adapters.kube.client import KubeResources
from lq_operator.adapters.kube.endpoint import from_kubeconfig
from lq_operator.adapters.kube.transport import KubeTransport
from lq_operator.api.base import Resource
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.network import VirtualNetwork
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmclass import VirtualMachineClass
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.api.volume import Volume
from lq_operator.controllers.runtime.refs import Namespaces
from lq_operator.controllers.scheduler.book import Book

KINDS = (
    HypervisorCluster,
    HypervisorNode,
    StoragePool,
    VirtualMachineClass,
    VirtualMachine,
    VirtualMachineMigration,
    VirtualNetwork,
    Volume,
)

K = TypeVar("K", bound=Resource)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """ports.Store over one listing of each kind."""

    objects: Mapping[type[Resource], Mapping[str, Any]]

    def get(self, kind: type[K], namespace: str | None, name: str) -> K | None:
        found: K | None = self.objects[kind].get(f"{namespace}/{name}" if namespace else name)
        return found

    def list(self, kind: type[K]) -> Sequence[K]:
        return list(self.objects[kind].values())

    def broken(self, kind: type[Resource]) -> Sequence[object]:
        """None: what cannot be parsed ended the reading."""
        del kind
        return ()

    def synced(self, *kinds: type[Resource]) -> bool:
        return all(kind in self.objects for kind in kinds)


@dataclass(frozen=True, slots=True)
class Live:
    """The book as the scheduler keeps it, and the objects it was made of."""

    book: Book
    store: Snapshot


async def _read(kubeconfig: Path | None, context: str | None) -> Live:
    endpoint = await from_kubeconfig(kubeconfig, context)
    async with KubeTransport(endpoint, user_agent="lq-operator simulate") as transport:
        resources = KubeResources(transport)
        listings = await asyncio.gather(*(resources.list(kind) for kind in KINDS))
        store = Snapshot(
            {kind: {obj.key: obj for obj in listing} for kind, listing in zip(KINDS, listings, strict=True)}
        )
        book = Book(store, Namespaces(resources, SystemClock()))
        await book.refresh()
        return Live(book, store)


def read_live(kubeconfig: Path | None, context: str | None) -> Live:
    """List everything that placement depends on. Errors: ports.Resources.list, Rejected for the kubeconfig."""
    return asyncio.run(_read(kubeconfig, context))


async def _ask(
    kubeconfig: Path | None, context: str | None, kind: type[K], namespace: str | None, name: str
) -> K | None:
    endpoint = await from_kubeconfig(kubeconfig, context)
    async with KubeTransport(endpoint, user_agent="kubectl-lq") as transport:
        return await KubeResources(transport).get(kind, namespace, name)


def read_one(kubeconfig: Path | None, context: str | None, kind: type[K], namespace: str | None, name: str) -> K | None:
    """One object, None when it does not exist."""
    return asyncio.run(_ask(kubeconfig, context, kind, namespace, name))
