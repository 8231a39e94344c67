"""What the contract suite needs besides ports.Resources, for the fake and for the real API server."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Protocol

from tests.contract.resources.kube_parts import Site
from tests.sim.fakes.resources import FakeApi

from lq_operator.adapters.kube.client import KubeResources, collection_path, manifest_of, object_path
from lq_operator.api.base import Resource
from lq_operator.ports import Resources


class World(Protocol):
    """One API server, and a person at it."""

    resources: Resources

    def put_namespace(self, name: str, labels: Mapping[str, str]) -> None: ...
    def put_secret(self, namespace: str, name: str, data: Mapping[str, bytes]) -> None: ...
    def user_apply(self, obj: Resource) -> None: ...
    def user_delete(self, kind: type[Resource], namespace: str | None, name: str) -> None: ...
    def raw(self, kind: type[Resource], namespace: str | None, name: str) -> dict[str, Any]: ...


class FakeWorld:
    """FakeApi as it is."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.resources: Resources = self.api

    def put_namespace(self, name: str, labels: Mapping[str, str]) -> None:
        self.api.put_namespace(name, labels)

    def put_secret(self, namespace: str, name: str, data: Mapping[str, bytes]) -> None:
        self.api.put_secret(namespace, name, data)

    def user_apply(self, obj: Resource) -> None:
        self.api.user_apply(obj)

    def user_delete(self, kind: type[Resource], namespace: str | None, name: str) -> None:
        self.api.user_delete(kind, namespace, name)

    def raw(self, kind: type[Resource], namespace: str | None, name: str) -> dict[str, Any]:
        found = self.api.raw(kind, namespace, name)
        assert found is not None
        return found


class RealWorld:
    """A person with kubectl's calls at a real API server."""

    def __init__(self, site: Site, resources: KubeResources) -> None:
        self._site = site
        self.resources: Resources = resources

    def put_namespace(self, name: str, labels: Mapping[str, str]) -> None:
        self._ask("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": dict(labels)}})

    def put_secret(self, namespace: str, name: str, data: Mapping[str, bytes]) -> None:
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        self._ask("POST", f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": name}, "data": encoded})

    def user_apply(self, obj: Resource) -> None:
        path = f"{collection_path(type(obj), obj.metadata.namespace)}/{obj.metadata.name}"
        self._ask("PATCH", f"{path}?fieldManager=kubectl", manifest_of(obj), "application/apply-patch+yaml")

    def user_delete(self, kind: type[Resource], namespace: str | None, name: str) -> None:
        self._ask("DELETE", object_path(kind, namespace, name))

    def raw(self, kind: type[Resource], namespace: str | None, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("GET", object_path(kind, namespace, name))
        return found

    def _ask(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        status, answer = self._site.ask(method, path, body, content_type)
        assert status < 300, answer
        return answer
