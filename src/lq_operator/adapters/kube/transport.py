"""One HTTP call to the API server: deadline, identity, and the translation of every failure into core/result.

Shared by everything in this room that talks to the API server (resources, events, Leases). It knows no kinds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlencode
from urllib.request import getproxies_environment

import aiohttp
from kubernetes.aio import client

from lq_operator.adapters.kube.endpoint import Endpoint
from lq_operator.adapters.kube.errors import error_of_response, error_of_transport

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"

CALL_TIMEOUT_S = 15.0
"""Deadline of one call: above the API server's own etcd timeout (about 10 s), so that its answer usually arrives."""
CONNECT_TIMEOUT_S = 5.0


class KubeTransport:
    """Sends requests as the Endpoint's identity. One per process and loop; close() it."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        user_agent: str = "lq-operator",
        on_write: Callable[[str, str], None] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._timeout_s = timeout_s
        self._on_write = on_write
        # The environment is asked for a proxy only where it names one: with trust_env aiohttp reads ~/.netrc in another
        # thread before every request, for a password that we never want.
        setattr(endpoint.configuration, "client_session_kwargs", {"trust_env": bool(getproxies_environment())})  # noqa: B010 - not in its stub
        self._client = client.ApiClient(endpoint.configuration)
        self._client.user_agent = user_agent
        self._user_agent = user_agent

    async def __aenter__(self) -> KubeTransport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def api_client(self) -> client.ApiClient:
        """The generated client, for the typed APIs (Leases)."""
        return self._client

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def request(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        count_as: tuple[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Send one call and return the decoded answer.

        `what` names the thing in error messages ("VirtualMachine default/web"); `count_as` (kind, verb) is handed to
        the write counter. Raises NotFound, Conflict, Rejected, Transient; OutcomeUnknown for a write that may have
        been done.
        """
        write = method != "GET"
        if write and count_as is not None and self._on_write is not None:
            self._on_write(*count_as)
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": self._user_agent}
        authorization = await self.endpoint.authorization()
        if authorization:
            headers["Authorization"] = authorization
        url = self.endpoint.server + path + (f"?{urlencode(query)}" if query else "")
        timeout = aiohttp.ClientTimeout(total=timeout_s or self._timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        try:
            response = await self._client.call_api(method, url, headers, body, None, _request_timeout=timeout)
            payload = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise error_of_transport(error, what=what, write=write) from error
        if response.status >= 300:
            raise error_of_response(response.status, payload, what=what, write=write, patch=content_type)
        try:
            decoded = json.loads(payload)
        except ValueError as error:  # a proxy's page, or a body cut short by one
            raise error_of_transport(error, what=what, write=write) from error
        return decoded if isinstance(decoded, dict) else {}
