"""The API server as `kubectl lq` sees it: one identity, one namespace, objects found by name or by a good guess.

Reads one namespace only (a user need not be allowed more), and says of a name that is not there which one is close.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lq_operator.adapters.kube.client import KubeResources, collection_path, describe, parse_object
from lq_operator.adapters.kube.endpoint import from_kubeconfig
from lq_operator.adapters.kube.errors import Denied
from lq_operator.adapters.kube.transport import KubeTransport
from lq_operator.api.base import Resource, Scope
from lq_operator.cli_tools.context import namespace_of_context
from lq_operator.cli_tools.lq.names import did_you_mean
from lq_operator.core.result import NotFound, OutcomeUnknown, Rejected, WorldError

K = TypeVar("K", bound=Resource)

MANAGER = "kubectl-lq"
PAGE = "500"


@dataclass(frozen=True, slots=True)
class Happened:
    """One Event about an object. `at` is RFC 3339, to the microsecond where the writer gave it."""

    reason: str
    note: str
    at: str
    warning: bool


class Cluster:
    """Open it with connect()."""

    def __init__(self, transport: KubeTransport, namespace: str) -> None:
        self.transport = transport
        self.namespace = namespace
        self.resources = KubeResources(transport)

    def where(self, kind: type[Resource]) -> str | None:
        """The namespace that objects of this kind are looked for in; None for cluster-scoped kinds."""
        return self.namespace if kind.scope is Scope.NAMESPACED else None

    async def get(self, kind: type[K], name: str) -> K | None:
        """None when there is none."""
        return await self.resources.get(kind, self.where(kind), name)

    async def find(self, kind: type[K], name: str) -> K:
        """Rejected, with the names that are close, when there is none."""
        found = await self.get(kind, name)
        if found is not None:
            return found
        known: Sequence[str] = ()
        with contextlib.suppress(Denied):  # who may read one object need not be allowed to list them
            known = [one.metadata.name for one in await self.listing(kind)]
        place = f" in namespace {self.namespace}" if kind.scope is Scope.NAMESPACED else ""
        hint = did_you_mean(name, known)
        if not known and place:
            hint = "; name another namespace with -n"
        raise NotFound(f"there is no {kind.kind_name} {name}{place}{hint}")

    async def listing(self, kind: type[K], *, labels: str = "") -> list[K]:
        """Those of our namespace, or all of a cluster-scoped kind. `labels`: a selector as kubectl takes it."""
        query = {"limit": PAGE} | ({"labelSelector": labels} if labels else {})
        found: list[K] = []
        while True:
            page = await self.transport.request(
                "GET", collection_path(kind, self.where(kind)), what=f"the list of {kind.plural}", query=query
            )
            found += [parse_object(kind, {"kind": kind.kind_name, **item}) for item in page.get("items") or ()]
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                return found
            query = {**query, "continue": str(more)}

    async def create(self, obj: K) -> K:
        """Our names are random: an object of that name after a lost answer is ours."""
        try:
            return await self.resources.create(obj, manager=MANAGER)
        except OutcomeUnknown:
            found = await self.resources.get(type(obj), obj.metadata.namespace, obj.metadata.name)
            if found is None:
                raise
            return found

    async def set_spec(self, kind: type[K], name: str, values: Mapping[str, Any]) -> K:
        """Top-level fields of spec."""
        operations = [{"op": "add", "path": f"/spec/{field}", "value": value} for field, value in values.items()]
        return await self.resources.json_patch(kind, self.where(kind), name, operations, manager=MANAGER)

    async def delete(self, obj: Resource) -> None:
        """That incarnation; absent already is success."""
        meta = obj.metadata
        await self.resources.delete(type(obj), meta.namespace, meta.name, uid=meta.uid)

    async def who_am_i(self) -> str:
        """The name by which the API server knows us; '' where it does not say."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        try:
            answer = await self.transport.request(
                "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", what="who we are", body=body
            )
        except WorldError:
            return ""
        return str(((answer.get("status") or {}).get("userInfo") or {}).get("username") or "")

    async def events(self, about: Resource) -> list[Happened]:
        """Events about one object, the oldest first. Kubernetes keeps them for an hour."""
        kind, meta = type(about), about.metadata
        page = await self.transport.request(
            "GET",
            f"/apis/events.k8s.io/v1/namespaces/{meta.namespace or 'default'}/events",
            what=f"Events about {describe(kind, meta.namespace, meta.name)}",
            query={"fieldSelector": f"regarding.uid={meta.uid}", "limit": PAGE},
        )
        seen = []
        for item in page.get("items") or ():
            series = item.get("series") or {}
            at = series.get("lastObservedTime") or item.get("eventTime") or item.get("deprecatedLastTimestamp") or ""
            warning = item.get("type") == "Warning"
            seen.append(Happened(str(item.get("reason", "")), str(item.get("note", "")), str(at), warning))
        return sorted(seen, key=lambda one: one.at)


@contextlib.asynccontextmanager
async def connect(arguments: Namespace) -> AsyncIterator[Cluster]:
    """By --kubeconfig, --context and -n, each with kubectl's default."""
    endpoint = await from_kubeconfig(arguments.kubeconfig, arguments.context)
    named = getattr(arguments, "namespace", None)
    namespace = named or namespace_of_context(arguments.kubeconfig, arguments.context, os.environ)
    async with KubeTransport(endpoint, user_agent="kubectl-lq") as transport:
        yield Cluster(transport, namespace)


def new_name(*parts: str) -> str:
    """A name that nobody has: the parts and six random hex digits, at most 63 characters."""
    return f"{'-'.join(parts)[:56].rstrip('-')}-{secrets.token_hex(3)}"


def require(value: str, what: str, remedy: str) -> str:
    """The value; Rejected when it is empty."""
    if not value:
        raise Rejected(f"{what} is not known; {remedy}")
    return value
