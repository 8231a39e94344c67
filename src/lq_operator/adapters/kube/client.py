"""The API server asked directly: implements ports.Resources over one KubeTransport.

Owns paths, preconditions, paging and parsing. Refuses to guess: an object that does not parse is an error.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from lq_operator.adapters.kube.errors import ListExpired
from lq_operator.adapters.kube.transport import APPLY_PATCH, JSON_PATCH, KubeTransport
from lq_operator.api.base import Resource, Scope
from lq_operator.core.result import Conflict, NotFound, Rejected

K = TypeVar("K", bound=Resource)
OnResult = Callable[[type[Resource], dict[str, Any], Resource], None]

PAGE_SIZE = 500
LIST_TIMEOUT_S = 20.0
"""Of one page."""
LIST_RESTARTS = 3
APPLY_ATTEMPTS = 4
REMEMBERED_VERSIONS = 20_000
"""Of objects that we read or wrote one by one; a forgotten one costs one more read at its next status."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One consistent list as the server sent it, managedFields dropped."""

    items: list[dict[str, Any]]
    resource_version: str


def collection_path(kind: type[Resource], namespace: str | None) -> str:
    """Path of a kind's collection: of one namespace, or (None) of all of them."""
    prefix = "/apis/" + str(kind.model_fields["api_version"].default)
    if kind.scope is Scope.NAMESPACED and namespace is not None:
        prefix += f"/namespaces/{quote(namespace, safe='')}"
    return f"{prefix}/{kind.plural}"


def object_path(kind: type[Resource], namespace: str | None, name: str) -> str:
    """Path of one object. ValueError (our bug) when a namespaced kind comes without its namespace."""
    if kind.scope is Scope.NAMESPACED and not namespace:
        raise ValueError(f"{kind.kind_name} {name!r} is namespaced: give its namespace")
    if not name:
        raise ValueError(f"{kind.kind_name}: the name is empty")
    return f"{collection_path(kind, namespace)}/{quote(name, safe='')}"


def parse_object(kind: type[K], raw: Mapping[str, Any]) -> K:
    """Rejected, naming the first field that does not fit the kind."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        about = raw.get("metadata") or {}
        name = "/".join(part for part in (about.get("namespace"), about.get("name")) if part)
        raise Rejected(
            f"{kind.kind_name} {name} cannot be read: {field}: {first['msg']}; was it written by another version?",
            field=field,
        ) from error


def describe(kind: type[Resource], namespace: str | None, name: str) -> str:
    """Kind namespace/name, for messages."""
    return f"{kind.kind_name} {namespace}/{name}" if namespace else f"{kind.kind_name} {name}"


def describe_object(obj: Resource) -> str:
    """The same of an object."""
    return describe(type(obj), obj.metadata.namespace, obj.metadata.name)


class KubeResources:
    """ports.Resources on a real API server.

    `on_result` receives (kind, raw object, parsed object) of every read and write answer that carries an object, on the
    caller's loop: WatchStore.observe makes our own writes visible in the store at once.
    """

    def __init__(
        self,
        transport: KubeTransport,
        *,
        on_result: OnResult | None = None,
        page_size: int = PAGE_SIZE,
    ) -> None:
        self._transport = transport
        self._on_result = on_result
        self._page_size = page_size
        self._versions: OrderedDict[str, str] = OrderedDict()  # uid -> resourceVersion of our last answer

    def observe_results(self, on_result: OnResult) -> None:
        """Set `on_result` after construction (the store and the client know each other)."""
        self._on_result = on_result

    async def get(self, kind: type[K], namespace: str | None, name: str) -> K | None:
        """The object, or None when the API server says that it does not exist."""
        try:
            raw = await self._transport.request(
                "GET", object_path(kind, namespace, name), what=describe(kind, namespace, name)
            )
        except NotFound:
            return None
        return self._result(kind, raw)

    async def list(self, kind: type[K]) -> Sequence[K]:
        """Every object of the kind in all namespaces."""
        listing = await self.list_raw(kind)
        return [parse_object(kind, item) for item in listing.items]

    async def list_raw(self, kind: type[Resource]) -> Listing:
        """Every object as sent, read in pages from one snapshot; begins again when the snapshot expires."""
        for _ in range(LIST_RESTARTS):
            try:
                return await self._list_pages(kind)
            except ListExpired as error:
                expired = error
        raise expired

    async def current_version(self, kind: type[Resource]) -> str:
        """The API server's resourceVersion now (one etcd has one for all kinds); costs next to nothing."""
        page = await self._transport.request(
            "GET", collection_path(kind, None), what=f"the list of {kind.plural}", query={"limit": "1"}
        )
        return str((page.get("metadata") or {}).get("resourceVersion", ""))

    async def _list_pages(self, kind: type[Resource]) -> Listing:
        items: list[dict[str, Any]] = []
        query = {"limit": str(self._page_size)}
        while True:
            page = await self._transport.request(
                "GET",
                collection_path(kind, None),
                what=f"the list of {kind.plural}",
                query=query,
                timeout_s=LIST_TIMEOUT_S,
            )
            for item in page.get("items") or ():
                item.get("metadata", {}).pop("managedFields", None)
                item.setdefault("kind", kind.kind_name)
                items.append(item)
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                return Listing(items, str(meta.get("resourceVersion", "")))
            query = {"limit": str(self._page_size), "continue": str(meta["continue"])}

    async def create(self, obj: K, *, manager: str = "lq-operator") -> K:
        """Create with the fields that `obj` sets; Conflict when the name is taken."""
        kind = type(obj)
        raw = await self._transport.request(
            "POST",
            collection_path(kind, obj.metadata.namespace),
            what=describe(kind, obj.metadata.namespace, obj.metadata.name),
            query={"fieldManager": manager},
            body=manifest_of(obj),
            count_as=(kind.kind_name, "create"),
        )
        return self._result(kind, raw)

    async def delete(self, kind: type[Resource], namespace: str | None, name: str, *, uid: str) -> None:
        """Delete that incarnation only; Conflict when the name now belongs to another uid."""
        try:
            await self._transport.request(
                "DELETE",
                object_path(kind, namespace, name),
                what=describe(kind, namespace, name),
                body={"preconditions": {"uid": uid}, "propagationPolicy": "Background"},
                count_as=(kind.kind_name, "delete"),
            )
        except NotFound:
            return

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
        """RFC 6902. Conflict when a test fails or a path is missing; Rejected (with the field) when the result is invalid."""
        suffix = f"/{subresource}" if subresource else ""
        raw = await self._transport.request(
            "PATCH",
            object_path(kind, namespace, name) + suffix,
            what=describe(kind, namespace, name),
            query={"fieldManager": manager},
            body=[dict(operation) for operation in operations],
            content_type=JSON_PATCH,
            count_as=(kind.kind_name, f"patch{suffix}"),
        )
        return self._result(kind, raw)

    async def apply_status(self, obj: K, status: Mapping[str, Any], *, manager: str) -> K:
        """Server-side apply of what `manager` owns in status; fields that it no longer sends are removed.

        Conflict when the object's uid is not obj's any more; NotFound when it is gone.
        """
        # The API server ignores metadata.uid in an apply of the status subresource (measured with 1.36; the contract
        # suite has the case), but it compares resourceVersion, which no two incarnations share. A version that moved
        # on is no reason to fail, since only our own fields are written: look whether it is still the same object.
        version = self._newest_version(obj)
        for _ in range(APPLY_ATTEMPTS):
            try:
                return await self._apply_status_at(obj, version, status, manager)
            except Conflict as error:
                conflict = error
            found = await self.get(type(obj), obj.metadata.namespace, obj.metadata.name)
            if found is None:
                raise NotFound(f"{describe_object(obj)} does not exist")
            if found.metadata.uid != obj.metadata.uid:
                raise Conflict(f"{describe_object(obj)} is another object of the same name now")
            version = found.metadata.resource_version
        raise conflict

    async def _apply_status_at(self, obj: K, version: str, status: Mapping[str, Any], manager: str) -> K:
        kind, meta = type(obj), obj.metadata
        identity = {"name": meta.name, "uid": meta.uid, "resourceVersion": version}
        raw = await self._transport.request(
            "PATCH",
            object_path(kind, meta.namespace, meta.name) + "/status",
            what=describe_object(obj),
            query={"fieldManager": manager, "force": "true"},
            body={
                "apiVersion": obj.api_version,
                "kind": kind.kind_name,
                "metadata": identity | ({"namespace": meta.namespace} if meta.namespace else {}),
                "status": dict(status),
            },
            content_type=APPLY_PATCH,
            count_as=(kind.kind_name, "apply/status"),
        )
        return self._result(kind, raw)

    def _newest_version(self, obj: Resource) -> str:
        """The version that our own calls have seen last of this object, when that is newer than obj."""
        seen, given = self._versions.get(obj.metadata.uid, ""), obj.metadata.resource_version
        return seen if seen.isdigit() and given.isdigit() and int(seen) > int(given) else given

    async def read_secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """A Secret's decoded data, or None when it does not exist. Never cached, never logged."""
        try:
            raw = await self._transport.request(
                "GET",
                f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets/{quote(name, safe='')}",
                what=f"Secret {namespace}/{name}",
            )
        except NotFound:
            return None
        return {key: base64.b64decode(value) for key, value in (raw.get("data") or {}).items()}

    async def namespace_labels(self, namespace: str) -> Mapping[str, str] | None:
        """A namespace's labels, or None when it does not exist."""
        try:
            raw = await self._transport.request(
                "GET", f"/api/v1/namespaces/{quote(namespace, safe='')}", what=f"Namespace {namespace}"
            )
        except NotFound:
            return None
        return dict((raw.get("metadata") or {}).get("labels") or {})

    async def kube_system_uid(self) -> str:
        """The uid of kube-system: the default name of the installation."""
        raw = await self._transport.request("GET", "/api/v1/namespaces/kube-system", what="Namespace kube-system")
        return str(raw["metadata"]["uid"])

    def _result(self, kind: type[K], raw: dict[str, Any]) -> K:
        raw.get("metadata", {}).pop("managedFields", None)
        parsed = parse_object(kind, raw)
        self._versions[parsed.metadata.uid] = parsed.metadata.resource_version
        self._versions.move_to_end(parsed.metadata.uid)
        while len(self._versions) > REMEMBERED_VERSIONS:
            self._versions.popitem(last=False)
        if self._on_result is not None:
            self._on_result(kind, raw, parsed)
        return parsed


def manifest_of(obj: Resource) -> dict[str, Any]:
    """The object as a manifest: only what was set, without what the server fills in and without status."""
    manifest = obj.model_dump(by_alias=True, mode="json", exclude_unset=True, exclude_none=True, exclude={"status"})
    metadata = manifest.get("metadata", {})
    for server_side in ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"):
        metadata.pop(server_side, None)
    return manifest | {"apiVersion": obj.api_version, "kind": type(obj).kind_name, "metadata": metadata}
