"""Real parts for the resources contract: etcd and kube-apiserver that can be stopped, cut off and sent back in time."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import aiohttp
import yaml
from aiohttp import web
from pydantic import Field

from lq_operator.api import crdgen
from lq_operator.api.base import ApiModel, Resource, Scope, Status

TOKEN = "admin-t0ken"


class Part(ApiModel):
    """One named thing of a Widget."""

    name: Annotated[str, Field(min_length=1, max_length=20)]
    """Name."""
    size: Annotated[int, Field(ge=0, le=1000)] = 0
    """Size."""


class WidgetSpec(ApiModel):
    """What is wished."""

    size: Annotated[int, Field(ge=1, le=100)]
    """Size of the widget."""
    colour: Annotated[str, Field(max_length=20)] = ""
    """Its colour."""


class WidgetPlacement(ApiModel):
    """As a VM's placement: changed by tested patches only."""

    write_id: Annotated[str, Field(max_length=40)]
    """Random at every change."""
    node: Annotated[str | None, Field(max_length=40)] = None
    """Where."""


class WidgetStatus(Status):
    """What is seen."""

    node: Annotated[str | None, Field(max_length=40)] = None
    """Where."""
    weight: Annotated[int | None, Field(ge=0, le=1000)] = None
    """How heavy."""
    checked_at: Annotated[str | None, Field(max_length=40)] = None
    """When it was looked at."""
    placement: WidgetPlacement | None = None
    """Its placement."""
    parts: Annotated[
        list[Part],
        Field(
            max_length=10,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = Field(default_factory=list)
    """Its parts."""


class Widget(Resource):
    """A kind of the tests alone: it has of everything that matters one."""

    kind_name: ClassVar[str] = "Widget"
    plural: ClassVar[str] = "widgets"
    spec: WidgetSpec
    status: WidgetStatus = WidgetStatus()


class Rack(Resource):
    """A cluster-scoped kind of the tests."""

    kind_name: ClassVar[str] = "Rack"
    plural: ClassVar[str] = "racks"
    scope: ClassVar[Scope] = Scope.CLUSTER
    spec: WidgetSpec
    status: WidgetStatus = WidgetStatus()


def widget(namespace: str, name: str, size: int = 1, **metadata: Any) -> Widget:
    return Widget.model_validate(
        {"metadata": {"namespace": namespace, "name": name, **metadata}, "spec": {"size": size}}
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Site:
    """One etcd and one API server below a folder; admin by token."""

    def __init__(self, folder: Path, etcd: Path, apiserver: Path) -> None:
        self.folder = folder
        self._binaries = {"etcd": etcd, "apiserver": apiserver}
        self.port, self._etcd_port, self._peer_port = free_port(), free_port(), free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        key = folder / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        (folder / "tokens.csv").write_text(f"{TOKEN},admin,1,system:masters\nnobody-t0ken,nobody,2\n")

    def up(self) -> None:
        self.etcd_start()
        self.apiserver_start()
        for kind in (Widget, Rack):
            status, answer = self.ask(
                "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crdgen.crd(kind)
            )
            assert status in (201, 409), answer
            self._wait(
                lambda kind=kind: self.ask("GET", f"/apis/limiquantix.io/v1alpha1/{kind.plural}")[0] == 200, kind.plural
            )

    def down(self) -> None:
        for name in list(self._processes):
            self._stop(name, hard=True)

    def etcd_start(self) -> None:
        url, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self._start(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )
        self._wait(lambda: _port_open(self._etcd_port), "etcd")

    def apiserver_start(self) -> None:
        key = self.folder / "sa.key"
        self._start(
            "apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.folder / 'pki'}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
        )
        self._wait(lambda: self.ask("GET", "/readyz")[0] == 200, "the API server")

    def etcd_freeze(self) -> None:
        """etcd hangs: the API server answers, after its own deadline, with errors."""
        self._processes["etcd"].send_signal(signal.SIGSTOP)

    def etcd_thaw(self) -> None:
        self._processes["etcd"].send_signal(signal.SIGCONT)

    def apiserver_stop(self) -> None:
        self._stop("apiserver", hard=True)

    def backup(self, target: Path) -> None:
        """A cold copy of etcd's data, as a backup tool takes it."""
        self._stop("etcd", hard=False)
        shutil.copytree(self.folder / "etcd", target)
        self.etcd_start()

    def compact(self) -> None:
        """Make etcd forget all history, as the API server does every five minutes."""
        revision = self._etcd("kv/range", {"key": "AA=="})["header"]["revision"]
        self._etcd("kv/compaction", {"revision": revision, "physical": True})

    def _etcd(self, call: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", f"/v3/{call}", body=json.dumps(body))
            return json.loads(connection.getresponse().read())

    def restore(self, source: Path) -> None:
        """The cluster of the backup again; API server and etcd are restarted, as in a real restore."""
        self._stop("apiserver", hard=True)
        self._stop("etcd", hard=True)
        shutil.rmtree(self.folder / "etcd")
        shutil.copytree(source, self.folder / "etcd")
        self.etcd_start()
        self.apiserver_start()

    def kubeconfig(self, *, port: int | None = None, token: str = TOKEN) -> Path:
        """A kubeconfig for the API server, or for a proxy before it."""
        path = self.folder / f"kubeconfig-{port or self.port}-{token}"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "c",
                    "clusters": [
                        {
                            "name": "c",
                            "cluster": {
                                "server": f"https://127.0.0.1:{port or self.port}",
                                "certificate-authority": str(self.folder / "pki" / "apiserver.crt"),
                            },
                        }
                    ],
                    "users": [{"name": "u", "user": {"token": token}}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                }
            )
        )
        return path

    def ask(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> tuple[int, Any]:
        """A person's call, past everything that is tested."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=30)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": content_type}
        with contextlib.closing(connection):
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            text = answer.read()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text.decode()

    def _start(self, name: str, *arguments: str) -> None:
        argv = ["setpriv", "--pdeathsig", "KILL", "--", str(self._binaries[name]), *arguments]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(argv, stdout=log, stderr=log)

    def _stop(self, name: str, *, hard: bool) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill() if hard else process.terminate()
            process.wait(timeout=30)

    def _wait(self, ready: Any, what: str) -> None:
        deadline_s = time.monotonic() + 90
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ready():
                    return
            time.sleep(0.1)
        logs = {path.name: path.read_text()[-1500:] for path in self.folder.glob("*.log")}
        raise AssertionError(f"{what} did not get ready: {logs}")


def _port_open(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


class Proxy:
    """A TCP proxy before the API server that can lose answers and cut streams."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.port = 0
        self.swallow_answers = False  # requests pass, their answers are cut off
        self.mute = False  # requests pass, answers are kept for ever
        self.refuse = False  # new connections are reset
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._muted: set[asyncio.StreamWriter] = set()

    def mute_open_connections(self) -> None:
        """Those that are open now stay open and say nothing more; new ones work."""
        self._muted |= self._writers

    def cut(self) -> None:
        """Reset every connection now."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuse:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}
        await asyncio.gather(self._pump(reader, up_writer, answers=False), self._pump(up_reader, writer, answers=True))
        self._writers -= {writer, up_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if answers and self.swallow_answers:
                    self.cut()
                    return
                if answers and (self.mute or writer in self._muted):
                    continue
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()


@asynccontextmanager
async def proxy_before(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()


class Spoiler:
    """A plain HTTP proxy before the API server that spoils the next watch of each kind of a list of faults."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.faults: list[str] = []
        self.spoiled: list[str] = []
        self.watches = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        watch = "watch" in request.query
        self.watches += watch
        fault = self.faults.pop(0) if self.faults and watch and "widgets" in request.path else ""
        if fault:
            self.spoiled.append(fault)
        if fault.isdigit():
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": int(fault),
                "message": "spoiled",
            }
            return web.json_response(status, status=int(fault))
        url = f"https://127.0.0.1:{self._site.port}{request.raw_path}"
        headers = {key: value for key, value in request.headers.items() if key not in ("Host", "Accept-Encoding")}
        headers["Accept-Encoding"] = "identity"  # the answer is passed on as bytes
        body = await request.read()
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, url, data=body or None, headers=headers, ssl=False) as answer,
        ):
            response = web.StreamResponse(
                status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]}
            )
            await response.prepare(request)
            if fault:
                await response.write(_SPOILED[fault])
                return response
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response


_SPOILED = {
    "error-event-500": b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcdserver: no leader"}}\n',
    "error-event-410": b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n',
    "half-a-line": b'{"type":"MODIFIED","object":{"kind":"Wid',
    "no-json": b"<html>bad gateway</html>\n",
    "closed-at-once": b"",
}


@asynccontextmanager
async def spoiler_before(site: Site) -> AsyncIterator[tuple[Spoiler, Path]]:
    """The spoiler and a kubeconfig that leads through it."""
    spoiler = Spoiler(site)
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", spoiler.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0)
    await server.start()
    port = runner.addresses[0][1]
    path = site.folder / f"kubeconfig-spoiler-{port}"
    path.write_text(site.kubeconfig().read_text().replace(f"https://127.0.0.1:{site.port}", f"http://127.0.0.1:{port}"))
    try:
        yield spoiler, path
    finally:
        await runner.cleanup()


async def until(condition: Any, *, timeout_s: float = 150.0) -> None:
    """Wait for something that another process does; fails with the condition's text."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"did not happen within {timeout_s} s"
        await asyncio.sleep(0.05)
