"""ports.Doorkeeper by TokenReview and SubjectAccessReview: the API server decides, nothing is cached."""

from __future__ import annotations

from typing import Any

from lq_operator.adapters.kube.transport import KubeTransport
from lq_operator.api.base import GROUP, VERSION
from lq_operator.ports import Caller

AUDIENCE = "lq-gateway"
"""Tokens made for this audience open consoles and nothing else; those of the API server are accepted as well."""


class KubeDoorkeeper:
    """Errors: Transient when the API server does not answer; the caller is then neither let in nor called a stranger."""

    def __init__(self, transport: KubeTransport) -> None:
        self._transport = transport

    async def authenticate(self, token: str) -> Caller | None:
        for audiences in ([AUDIENCE], []):
            caller = await self._review(token, audiences)
            if caller is not None:
                return caller
        return None

    async def _review(self, token: str, audiences: list[str]) -> Caller | None:
        spec: dict[str, Any] = {"token": token} | ({"audiences": audiences} if audiences else {})
        status = await self._ask("authentication.k8s.io", "TokenReview", "tokenreviews", spec, "a token")
        if not status.get("authenticated"):
            return None
        if audiences and AUDIENCE not in (status.get("audiences") or ()):
            return None  # an authenticator that knows no audiences: ask again without
        user = status.get("user") or {}
        extra = tuple((str(key), tuple(map(str, values))) for key, values in (user.get("extra") or {}).items())
        groups = tuple(map(str, user.get("groups") or ()))
        return Caller(str(user.get("username", "")), str(user.get("uid", "")), groups, extra)

    async def allowed(self, caller: Caller, verb: str, subresource: str, namespace: str, name: str) -> tuple[bool, str]:
        attributes = {
            "group": GROUP,
            "version": VERSION,
            "resource": "virtualmachines",
            "subresource": subresource,
            "verb": verb,
            "namespace": namespace,
            "name": name,
        }
        spec = {
            "user": caller.name,
            "uid": caller.uid,
            "groups": list(caller.groups),
            "extra": {key: list(values) for key, values in caller.extra},
            "resourceAttributes": attributes,
        }
        what = f"what {caller.name} may do"
        status = await self._ask("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", spec, what)
        if status.get("allowed") and not status.get("denied"):
            return True, ""
        need = f"it needs the verb {verb} on virtualmachines/{subresource} ({GROUP}) in namespace {namespace}"
        said = status.get("reason") or status.get("evaluationError") or ""
        return False, need + (f" ({said})" if said else "")

    async def _ask(self, group: str, kind: str, plural: str, spec: dict[str, Any], what: str) -> dict[str, Any]:
        body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        answer = await self._transport.request("POST", f"/apis/{group}/v1/{plural}", what=what, body=body)
        return dict(answer.get("status") or {})
