"""The fetcher against servers of our own: redirects, names that lead inside, answers that cannot be used."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from lq_operator.adapters import fetch
from lq_operator.adapters.fetch import UrlFetcher
from lq_operator.core.result import Rejected, Transient

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
BODY = os.urandom(300_000)


class Server:
    """One web server on a loopback address of its own; counts the connections that reach it."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.port = 0
        self.asked: list[str] = []
        self.location = ""

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        match request.path:
            case "/image":
                return web.Response(body=BODY)
            case "/redirect":
                return web.Response(status=302, headers={"Location": self.location})
            case "/loop":
                return web.Response(status=301, headers={"Location": "/loop"})
            case "/nowhere":
                return web.Response(status=302)
            case "/chunked":
                stream = web.StreamResponse()
                await stream.prepare(request)
                await stream.write(BODY)
                return stream
            case "/gzip":
                return web.Response(body=BODY, headers={"Content-Encoding": "gzip"})
            case "/cut":
                stream = web.StreamResponse(headers={"Content-Length": str(len(BODY))})
                await stream.prepare(request)
                await stream.write(BODY[:1000])
                assert request.transport is not None
                request.transport.close()
                return stream
            case path if path[1:].isdigit():
                return web.Response(status=int(path[1:]))
        return web.Response(status=404)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    runners: list[web.AppRunner] = []

    async def start(host: str = "127.0.0.1") -> Server:
        server = Server(host)
        app = web.Application()
        app.router.add_get("/{tail:.*}", server.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, host, 0)
        await site.start()
        server.port = runner.addresses[0][1]
        return server

    yield start
    for runner in runners:
        await runner.cleanup()


async def read(fetcher: UrlFetcher, url: str) -> bytes:
    async with fetcher.fetch(url) as fetched:
        content = b"".join([chunk async for chunk in fetched.chunks])
        assert fetched.length_bytes == len(content)
        return content


async def test_bytes_come_as_they_are(serve: Callable[..., Any]) -> None:
    server = await serve()
    assert await read(UrlFetcher(LOOPBACK), f"{server.url}/image") == BODY


async def test_redirects_are_followed_relative_ones_too(serve: Callable[..., Any]) -> None:
    first, second = await serve(), await serve("127.0.0.2")
    second.location = "image"
    first.location = f"{second.url}/redirect"
    assert await read(UrlFetcher(LOOPBACK), f"{first.url}/redirect") == BODY
    assert second.asked == ["/redirect", "/image"]


@pytest.mark.parametrize("spelling", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "[::ffff:7f00:1]"])
async def test_an_internal_address_is_never_connected_to(serve: Callable[..., Any], spelling: str) -> None:
    server = await serve()
    with pytest.raises(Rejected, match=r"spec\.source\.url.*(loopback|usual IP address)") as refusal:
        await read(UrlFetcher(), f"http://{spelling}:{server.port}/image")
    assert refusal.value.field == "spec.source.url"
    assert server.asked == []


async def test_a_redirect_to_an_internal_address_is_refused(serve: Callable[..., Any]) -> None:
    outside, inside = await serve("127.0.0.1"), await serve("127.0.0.2")
    outside.location = f"{inside.url}/image"
    with pytest.raises(Rejected, match=r"127\.0\.0\.2 is loopback"):
        await read(UrlFetcher([ipaddress.ip_network("127.0.0.1/32")]), f"{outside.url}/redirect")
    assert inside.asked == []


async def test_a_redirect_to_a_file_is_refused(serve: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    server = await serve()
    server.location = f"file://{tmp_path}/secret"
    with pytest.raises(Rejected, match="a redirect leads to scheme 'file'"):
        await read(UrlFetcher(LOOPBACK, [str(tmp_path)]), f"{server.url}/redirect")


def resolves_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Names resolve to the next list of addresses at every look-up, the last one for ever. Returns what was asked."""
    asked: list[str] = []

    async def getaddrinfo(self: Any, host: str, port: int, **kwargs: Any) -> list[Any]:
        del self, kwargs
        addresses = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        kind = lambda text: socket.AF_INET6 if ":" in text else socket.AF_INET  # noqa: E731
        return [(kind(text), socket.SOCK_STREAM, 6, "", (text, port)) for text in addresses]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("address", ["10.0.0.5", "169.254.169.254", "127.0.0.1", "::1", "::ffff:10.0.0.1", "fe80::1"])
async def test_a_public_name_with_an_internal_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    resolves_to(monkeypatch, [address])
    with pytest.raises(Rejected, match=r"images\.example\.com leads to an address that may not be read"):
        await read(UrlFetcher(), "http://images.example.com/image")


async def test_of_several_addresses_only_the_allowed_are_used(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, inside = await serve("127.0.0.1"), await serve("127.0.0.2")
    resolves_to(monkeypatch, ["127.0.0.2", "127.0.0.1", "::1"])
    fetcher = UrlFetcher([ipaddress.ip_network("127.0.0.1/32")])
    assert await read(fetcher, f"http://images.example.com:{allowed.port}/image") == BODY
    assert inside.asked == []


async def test_a_name_that_changes_its_mind_is_looked_up_once_for_each_connection(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, inside = await serve("127.0.0.1"), await serve("127.0.0.2")
    asked = resolves_to(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    fetcher = UrlFetcher([ipaddress.ip_network("127.0.0.1/32")])
    assert await read(fetcher, f"http://rebind.example.com:{server.port}/image") == BODY
    assert asked == ["rebind.example.com"]
    with pytest.raises(Rejected, match=r"127\.0\.0\.2 is loopback"):
        await read(fetcher, f"http://rebind.example.com:{inside.port}/image")
    assert inside.asked == []


async def test_the_socket_itself_is_guarded_when_the_resolver_is_bypassed(serve: Callable[..., Any]) -> None:
    server = await serve()
    guard = fetch._Guard(())
    with pytest.raises(OSError, match="loopback"):
        guard.make_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)))
    assert isinstance(guard.problem, Rejected)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/404", "404 Not Found"),
        ("/403", "403 Forbidden"),
        ("/204", "204"),
        ("/chunked", "no Content-Length"),
        ("/gzip", "'gzip'-encoded"),
        ("/loop", "more than 10 redirects"),
        ("/nowhere", "without saying where"),
    ],
)
async def test_answers_that_only_a_person_can_mend(serve: Callable[..., Any], path: str, words: str) -> None:
    server = await serve()
    with pytest.raises(Rejected, match=words):
        await read(UrlFetcher(LOOPBACK), f"{server.url}{path}")


@pytest.mark.parametrize("path", ["/500", "/503", "/429", "/408", "/cut"])
async def test_answers_that_may_pass(serve: Callable[..., Any], path: str) -> None:
    server = await serve()
    with pytest.raises(Transient, match=r"spec\.source\.url"):
        await read(UrlFetcher(LOOPBACK), f"{server.url}{path}")


async def test_nobody_there_may_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Transient, match="does not answer"):
        await read(UrlFetcher(LOOPBACK), f"http://127.0.0.1:{port}/image?signature=secret")


async def test_a_signed_url_stays_secret(serve: Callable[..., Any]) -> None:
    server = await serve()
    with pytest.raises(Rejected) as refusal:
        await read(UrlFetcher(LOOPBACK), f"{server.url}/404?signature=secret")
    assert "secret" not in str(refusal.value)


async def test_no_proxy_of_the_environment_is_used(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    server, proxy = await serve(), await serve("127.0.0.2")
    monkeypatch.setenv("http_proxy", proxy.url)
    assert await read(UrlFetcher(LOOPBACK), f"{server.url}/image") == BODY
    assert proxy.asked == []


async def test_a_server_that_drips_is_given_up(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SLOW_WINDOW_S", 0.0)
    monkeypatch.setattr(fetch, "SLOW_BYTES", 10 * len(BODY))
    server = await serve()
    with pytest.raises(Transient, match="the server sent only"):
        await read(UrlFetcher(LOOPBACK), f"{server.url}/image")


# ------------------------------------------------------------ files


async def test_a_file_below_the_directory(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(BODY)
    assert await read(UrlFetcher((), [str(tmp_path)]), f"file://{tmp_path}/a.raw") == BODY


async def test_a_directory_that_is_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.raw").write_bytes(BODY)
    (tmp_path / "images").symlink_to("real")
    assert await read(UrlFetcher((), [f"{tmp_path}/images"]), f"file://{tmp_path}/images/a.raw") == BODY


@pytest.mark.parametrize("what", ["missing", "outward link", "linked folder", "fifo", "folder", "dots"])
async def test_nothing_else_is_read_and_the_words_are_the_same(tmp_path: Path, what: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (images / "outward link").symlink_to(tmp_path / "secret")
    (images / "linked folder").symlink_to(tmp_path)
    os.mkfifo(images / "fifo")
    (images / "folder").mkdir()
    name = {"linked folder": "linked folder/secret", "dots": "../secret"}.get(what, what)
    with pytest.raises(Rejected, match="no readable file there below"):
        await read(UrlFetcher((), [str(images)]), f"file://{images}/{name}")
