"""The way to the gateway: its address, the token that it asks for, and its refusals as sentences.

By default through the API server's proxy to the gateway's Service, so that whoever reaches the API server reaches consoles
and no port needs to be opened; --gateway (or LQ_GATEWAY) names it directly.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp

from lq_operator.adapters.kube.doorkeeper import AUDIENCE
from lq_operator.cli_tools.lq.cluster import Cluster
from lq_operator.controllers.gateway.wire import AUTHORIZATION, MODE, REASON
from lq_operator.core.result import Rejected, Transient

TOKEN_S = 3600
CONNECT_S = 15.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_FRAME_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Door:
    """Where, as whom. `url` has no trailing slash."""

    url: str
    token: str
    tls: ssl.SSLContext | bool
    proxied_as: str | None
    """Authorization for the API server on the way, where it goes through its proxy."""

    def headers(self, mode: str = "") -> dict[str, str]:
        """Of every request."""
        headers = {AUTHORIZATION: f"Bearer {self.token}"} | ({MODE: mode} if mode else {})
        return headers | ({"Authorization": self.proxied_as} if self.proxied_as else {})

    def of(self, namespace: str, vm: str, what: str, **query: str) -> str:
        """URL of one thing of one VM."""
        path = f"{self.url}/namespaces/{namespace}/virtualmachines/{vm}/{what}"
        return f"{path}?{urlencode(query)}" if query else path


async def find_door(cluster: Cluster, arguments: Namespace) -> Door:
    """From the flags, the environment and the kubeconfig. Rejected, with what to do, where a part is missing."""
    authorization = await cluster.transport.endpoint.authorization()
    token = await _token(cluster, arguments, authorization)
    named = arguments.gateway or os.environ.get("LQ_GATEWAY", "")
    if named:
        return _direct(named, token, arguments)
    configuration = cluster.transport.endpoint.configuration
    namespace, _, service = arguments.gateway_service.rpartition("/")
    if not namespace or not service:
        raise Rejected(f"--gateway-service {arguments.gateway_service}: write NAMESPACE/NAME")
    path = f"/api/v1/namespaces/{namespace}/services/https:{service}:8443/proxy"
    return Door(cluster.transport.endpoint.server + path, token, _tls_of(configuration), authorization)


async def _token(cluster: Cluster, arguments: Namespace, authorization: str | None) -> str:
    if arguments.service_account:
        return await _token_of_account(cluster, arguments.service_account)
    given = arguments.token or os.environ.get("LQ_TOKEN", "")
    if given:
        return str(given)
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token
    raise Rejected(
        "the gateway asks for a bearer token and your kubeconfig has a client certificate: "
        "add --service-account NAME (one of this namespace that you may create tokens for), or --token / LQ_TOKEN"
    )


async def _token_of_account(cluster: Cluster, account: str) -> str:
    """A token that opens consoles and nothing else."""
    namespace, _, name = account.rpartition("/")
    where = namespace or cluster.namespace
    answer = await cluster.transport.request(
        "POST",
        f"/api/v1/namespaces/{where}/serviceaccounts/{name}/token",
        what=f"a token of ServiceAccount {where}/{name}",
        body={
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [AUDIENCE], "expirationSeconds": TOKEN_S},
        },
    )
    return str(answer["status"]["token"])


def _direct(url: str, token: str, arguments: Namespace) -> Door:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise Rejected(f"--gateway {url}: write https://HOST:PORT")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise Rejected(f"--gateway {url}: your token would go there unencrypted; write https://")
    context = ssl.create_default_context(cafile=arguments.gateway_ca)
    if arguments.insecure_skip_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return Door(url.rstrip("/"), token, context, None)


def _tls_of(configuration: Any) -> ssl.SSLContext:
    """As the kubeconfig says: its CA, its client certificate."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.asynccontextmanager
async def web_socket(door: Door, url: str, protocol: str, mode: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Rejected when the gateway refuses for good, Transient when it may pass."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            socket = await session.ws_connect(
                url,
                headers=door.headers(mode),
                ssl=door.tls,
                protocols=(protocol,),
                heartbeat=20.0,
                max_msg_size=MOST_FRAME_BYTES,
            )
        except aiohttp.WSServerHandshakeError as error:
            reason = error.headers.get(REASON, "") if error.headers is not None else ""
            raise refusal(error.status, reason) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Transient(f"the gateway cannot be reached: {error or type(error).__name__}") from error
        async with socket:
            yield socket


async def fetch(door: Door, url: str) -> bytes:
    """The body of one GET."""
    return await _ask(door, "GET", url, None, 60)


async def send(door: Door, url: str, body: Mapping[str, Any], *, timeout_s: float) -> bytes:
    """The answer's body to one POST of JSON."""
    return await _ask(door, "POST", url, body, timeout_s)


async def _ask(door: Door, method: str, url: str, sent: Mapping[str, Any] | None, timeout_s: float) -> bytes:
    timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            async with session.request(method, url, headers=door.headers(), ssl=door.tls, json=sent) as answer:
                body = await answer.read()
                if answer.status != 200:
                    raise refusal(answer.status, answer.headers.get(REASON, "") or _message(body))
                return body
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Transient(f"the gateway cannot be reached: {error or type(error).__name__}") from error


def _message(body: bytes) -> str:
    try:
        decoded: Mapping[str, Any] = json.loads(body)
        return str(decoded.get("message", ""))
    except (ValueError, AttributeError):
        return body[:300].decode("utf-8", "replace")


def refusal(status: int, reason: str) -> Rejected | Transient:
    """In words. Without a reason of the gateway's own it was the API server's proxy that refused."""
    if reason and status >= 500:
        return Transient(reason)
    if reason:
        return Rejected(reason)
    if status in (401, 403):
        return Rejected(
            f"the API server does not let you through to the gateway's Service (HTTP {status}): see docs/guides/console.md"
        )
    if status == 404 or status >= 500:  # 500: what the proxy says while the gateway's port refuses (1.36)
        return Transient(
            f"no gateway answers there (HTTP {status}): is it installed (gateway.enabled=true) and running? "
            "Name it with --gateway-service NAMESPACE/NAME or --gateway URL"
        )
    return Rejected(f"the gateway refuses (HTTP {status})")


def tell(line: str) -> None:
    """One line for the person, apart from what the guest prints; the terminal may be raw."""
    print(f"\r\x1b[2m[{line}]\x1b[0m\r" if sys.stderr.isatty() else f"[{line}]", file=sys.stderr, flush=True)
