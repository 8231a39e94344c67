"""ports.Fetcher over aiohttp and the file system: connects to exactly the addresses that the guard has judged.

Redirects are followed by hand, each as suspicious as the first URL. Every socket is judged by the address it will
connect to, after all parsing and resolving, so neither odd spellings nor a name that changes its mind get around it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from lq_operator.core.result import Rejected, Transient, WorldError
from lq_operator.core.storage.urlguard import (
    FIELD,
    MOST_REDIRECTS,
    Network,
    address_refusal,
    below,
    check_http,
    file_path,
    not_below,
    shown,
)
from lq_operator.ports import Fetched

CHUNK_BYTES = 256 * 1024
CONNECT_S = 20.0  # several addresses, TLS included
SILENCE_S = 60.0  # a server that sends nothing for so long is gone
SLOW_WINDOW_S = 60.0
SLOW_BYTES = 256 * 1024  # less in a window: it holds one of few places (maxParallel) and would for days

_AGAIN = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
}
_REDIRECTS = {301, 302, 303, 307, 308}


class UrlFetcher:
    """Reads http(s) URLs from public addresses and `allowed_networks`, and files below `directories`."""

    def __init__(self, allowed_networks: Sequence[Network] = (), directories: Sequence[str] = ()) -> None:
        self._allowed = tuple(allowed_networks)
        self._directories = tuple(directories)

    @asynccontextmanager
    async def fetch(self, url: str) -> AsyncIterator[Fetched]:
        """As ports.Fetcher."""
        if url.startswith("file:"):
            async with self._file(url) as fetched:
                yield fetched
            return
        guard = _Guard(self._allowed)
        connector = aiohttp.TCPConnector(
            resolver=guard, socket_factory=guard.make_socket, use_dns_cache=False, force_close=True
        )
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        # trust_env stays off: a proxy would connect in our place, and the guard would judge the proxy.
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            response = await _follow(session, guard, url)
            try:
                yield Fetched(_length(response), _body(response))
            finally:
                response.close()

    @asynccontextmanager
    async def _file(self, url: str) -> AsyncIterator[Fetched]:
        path = file_path(url, self._directories)
        descriptor, length = await asyncio.to_thread(self._open, path)
        try:
            yield Fetched(length, _read(descriptor))
        finally:
            os.close(descriptor)

    def _open(self, path: str) -> tuple[int, int]:
        """Judged before and after opening: a link that is exchanged in between leads nowhere."""
        folders = [os.path.realpath(folder) for folder in self._directories]
        if not below(os.path.realpath(path), folders):
            raise not_below(self._directories)
        try:
            # Non-blocking: a FIFO would hold the thread for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            raise not_below(self._directories) from None
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or not below(os.readlink(f"/proc/self/fd/{descriptor}"), folders):
            os.close(descriptor)
            raise not_below(self._directories)
        return descriptor, facts.st_size


class _Guard(AbstractResolver):
    """Judges names and addresses; `problem` is what it refused, which aiohttp would wrap beyond recognition."""

    def __init__(self, allowed: tuple[Network, ...]) -> None:
        self._allowed = allowed
        self.problem: WorldError | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name that may be connected to."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
            )
        except (OSError, UnicodeError) as error:
            self.problem = _unresolved(host, error)
            raise OSError(str(self.problem)) from error
        results, refusals = [], []
        for kind, _, protocol, _, address in found:
            text = str(address[0])
            refusal = address_refusal(text, self._allowed)
            if refusal is None:
                results.append(
                    ResolveResult(
                        hostname=host, host=text, port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST
                    )
                )
            else:
                refusals.append(refusal)
        if not results:
            raise self._refuse(refusals[0] if refusals else "it has no address", host)
        return results

    def make_socket(self, info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        """The last gate: no socket for an address that is refused, wherever it came from."""
        family, kind, protocol, _, address = info
        refusal = address_refusal(str(address[0]), self._allowed)
        if refusal is not None:
            raise self._refuse(refusal)
        return socket.socket(family, kind, protocol)

    def _refuse(self, why: str, host: str = "") -> OSError:
        name = f"{host} leads to " if host and not why.startswith(host) else ""
        self.problem = Rejected(
            f"{FIELD}: {name}an address that may not be read: {why}; publish the image elsewhere, or let the "
            "administrator add the network to the importer's allowedPrivateNetworks",
            field=FIELD,
        )
        return OSError(str(self.problem))

    async def close(self) -> None:
        """Nothing is kept."""


def _unresolved(host: str, error: OSError | UnicodeError) -> WorldError:
    gone = isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
    if gone or isinstance(error, UnicodeError):
        return Rejected(f"{FIELD}: there is no host {host[:253]}: correct the name", field=FIELD)
    return Transient(f"{FIELD}: the name {host[:253]} could not be looked up ({error})")


async def _follow(session: aiohttp.ClientSession, guard: _Guard, url: str) -> aiohttp.ClientResponse:
    """The response behind at most MOST_REDIRECTS redirects; only status 200 is one."""
    for hop in range(MOST_REDIRECTS + 1):
        where = shown(check_http(url, redirected=hop > 0))
        response = await _get(session, guard, url, where)
        if response.status not in _REDIRECTS:
            try:
                _check_status(response, where)
            except WorldError:
                response.close()
                raise
            return response
        location = response.headers.get("Location", "")
        response.close()
        try:
            url = str(yarl.URL(url).join(yarl.URL(location)))
        except ValueError as error:
            raise Rejected(f"{FIELD}: {where} redirects to something that is no URL", field=FIELD) from error
        if not location:
            raise Rejected(f"{FIELD}: {where} redirects without saying where to", field=FIELD)
    raise Rejected(f"{FIELD}: more than {MOST_REDIRECTS} redirects", field=FIELD)


async def _get(session: aiohttp.ClientSession, guard: _Guard, url: str, where: str) -> aiohttp.ClientResponse:
    headers = {"Accept-Encoding": "identity", "User-Agent": "lq-operator-importer"}
    guard.problem = None
    try:
        return await session.get(url, headers=headers, allow_redirects=False)
    except (aiohttp.InvalidURL, ValueError) as error:
        message = f"{FIELD}: {where} is no URL that can be asked: write the host as a name or a usual IP address"
        raise Rejected(message, field=FIELD) from error
    except (aiohttp.ClientError, OSError) as error:
        if guard.problem is not None:
            raise guard.problem from error
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            message = f"{FIELD}: the certificate of {where} is not trusted ({error.certificate_error})"
            raise Rejected(message, field=FIELD) from error
        raise Transient(f"{FIELD}: {where} does not answer ({_reason(error)})") from error


def _check_status(response: aiohttp.ClientResponse, where: str) -> None:
    status = response.status
    text = f"{FIELD}: {where} answers {status} {_phrase(status)}".rstrip()
    if status >= 500 or status in _AGAIN:
        raise Transient(text)
    if status != HTTPStatus.OK:
        raise Rejected(f"{text}: correct the URL", field=FIELD)
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise Rejected(f"{FIELD}: {where} sends {encoding[:20]!r}-encoded bytes; publish them as they are", field=FIELD)
    if response.content_length is None or "Transfer-Encoding" in response.headers:
        raise Rejected(
            f"{FIELD}: {where} does not say how long the image is (no Content-Length): publish it on a server that does",
            field=FIELD,
        )


def _length(response: aiohttp.ClientResponse) -> int:
    assert response.content_length is not None, "_check_status has seen it"
    return response.content_length


async def _body(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    chunks = response.content.iter_chunked(CHUNK_BYTES)
    waited_s, received = 0.0, 0
    try:
        while True:
            asked_s = loop.time()
            chunk = await anext(chunks, None)
            waited_s += loop.time() - asked_s  # the time that the host takes is not the server's
            if chunk is None:
                return
            received += len(chunk)
            yield chunk
            if waited_s > SLOW_WINDOW_S:
                if received < SLOW_BYTES:
                    raise Transient(f"{FIELD}: the server sent only {received} bytes in {waited_s:.0f} s")
                waited_s, received = 0.0, 0
    except (aiohttp.ClientError, OSError) as error:
        raise Transient(f"{FIELD}: the download broke off ({_reason(error)})") from error


async def _read(descriptor: int) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(os.read, descriptor, CHUNK_BYTES):
        yield chunk


def _reason(error: Exception) -> str:
    """Short, and without the URL, whose query may be a secret."""
    inner = getattr(error, "os_error", None) or error
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror[:200]
    return "timeout" if isinstance(error, TimeoutError) else type(inner).__name__


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
