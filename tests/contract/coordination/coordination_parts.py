"""Real parts for the coordination contract: etcd, kube-apiserver, and a TCP proxy that loses things on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes.aio.client as kube

from lq_operator.adapters.coordination import etcd as etcd_backend
from lq_operator.adapters.coordination import kubernetes_lease
from lq_operator.adapters.coordination.etcd import EtcdLeases
from lq_operator.adapters.coordination.kubernetes_lease import KubernetesLeases
from lq_operator.adapters.coordination.lease import LeaseCoordination, Timing

ADMIN_TOKEN, ELECTOR_TOKEN, NOBODY_TOKEN = "admin-t0ken", "elector-t0ken", "nobody-t0ken"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours, ended with us even when we are killed."""
    if shutil.which("setpriv"):
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
    with log.open("ab") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def wait_until(what: str, ready: Callable[[], bool], log: Path, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ready():
                return
        time.sleep(0.1)
    raise AssertionError(f"{what} did not get ready; the end of its log:\n{log.read_text()[-2000:]}")


def etcd_argv(binary: Path, data: Path, port: int, *extra: str, scheme: str = "http") -> list[str]:
    peer = f"http://127.0.0.1:{free_port()}"
    url = f"{scheme}://127.0.0.1:{port}"
    return [
        str(binary),
        "--data-dir",
        str(data),
        "--listen-client-urls",
        url,
        "--advertise-client-urls",
        url,
        "--listen-peer-urls",
        peer,
        "--initial-advertise-peer-urls",
        peer,
        "--initial-cluster",
        f"default={peer}",
        "--unsafe-no-fsync",
        *extra,
    ]


def port_open(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


@contextmanager
def etcd_server(binary: Path, folder: Path) -> Iterator[str]:
    port = free_port()
    folder.mkdir(exist_ok=True)
    log = folder / "etcd.log"
    with running(etcd_argv(binary, folder / "data", port), log):
        wait_until("etcd", lambda: port_open(port), log)
        yield f"http://127.0.0.1:{port}"


def _https(url: str, path: str, token: str, method: str = "GET", body: Any = None) -> tuple[int, bytes]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(urlsplit(url).netloc, context=context, timeout=10)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request(method, path, body=json.dumps(body) if body is not None else None, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


_RULES: Any = {
    "kind": "ClusterRole",
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "metadata": {"name": "elector"},
    "rules": [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "list", "create", "patch"]}
    ],
}
_BINDING: Any = {
    "kind": "ClusterRoleBinding",
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "metadata": {"name": "elector"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "elector"},
    "subjects": [{"kind": "User", "name": "elector", "apiGroup": "rbac.authorization.k8s.io"}],
}


@contextmanager
def api_server(binary: Path, folder: Path, etcd_url: str) -> Iterator[str]:
    """A kube-apiserver with RBAC; `elector` may do with leases exactly what the guide says, nothing else."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    key, tokens, log = folder / "sa.key", folder / "tokens.csv", folder / "apiserver.log"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    tokens.write_text(f"{ADMIN_TOKEN},admin,1,system:masters\n{ELECTOR_TOKEN},elector,2\n{NOBODY_TOKEN},nobody,3\n")
    argv = [
        str(binary),
        f"--etcd-servers={etcd_url}",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={folder / 'pki'}",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--endpoint-reconciler-type=none",
        f"--token-auth-file={tokens}",
    ]
    url = f"https://127.0.0.1:{port}"
    with running(argv, log):
        wait_until("kube-apiserver", lambda: _https(url, "/readyz", ADMIN_TOKEN)[0] == 200, log)
        for kind, body in (("clusterroles", _RULES), ("clusterrolebindings", _BINDING)):
            status, answer = _https(url, f"/apis/rbac.authorization.k8s.io/v1/{kind}", ADMIN_TOKEN, "POST", body)
            assert status == 201, answer
        yield url


@dataclasses.dataclass(frozen=True)
class Site:
    """How to reach one installation's leases; goes to helper processes as JSON."""

    kind: str
    url: str
    space: str
    """Namespace or etcd prefix, one per test."""
    token: str = ELECTOR_TOKEN
    ttl_s: float = 3.0

    def at(self, url: str) -> Site:
        return dataclasses.replace(self, url=url)

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0


def api_client(url: str, token: str) -> kube.ApiClient:
    configuration = kube.Configuration(host=url)
    configuration.verify_ssl = False
    configuration.api_key = {"BearerToken": token}
    configuration.api_key_prefix = {"BearerToken": "Bearer"}
    return kube.ApiClient(configuration)


@asynccontextmanager
async def opened(site: Site, process_name: str = "pod", **options: Any) -> AsyncIterator[LeaseCoordination]:
    timing = Timing(site.ttl_s)
    if site.kind == "kubernetes":
        async with api_client(site.url, site.token) as client:
            yield KubernetesLeases(client, site.space, process_name, timing, **options)
    else:
        etcd = EtcdLeases([site.url], site.space, process_name, timing, **options)
        try:
            yield etcd
        finally:
            await etcd.close()


def create_space(site: Site) -> None:
    if site.kind == "kubernetes":
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": site.space}}
        status, answer = _https(site.url, "/api/v1/namespaces", ADMIN_TOKEN, "POST", body)
        assert status == 201, answer


async def tamper(site: Site, name: str, *, beat: int | None = None, delete: bool = False) -> None:
    """What a restored or wiped store does to a lease behind its holder's back. `name` "terms" is the counter."""
    if site.kind == "kubernetes":
        async with api_client(site.url, ADMIN_TOKEN) as client:
            api, lease = kube.CoordinationV1Api(client), f"lq-{name}"
            if delete:
                await api.delete_namespaced_lease(lease, site.space)
            else:
                body: Any = {"metadata": {"annotations": {kubernetes_lease.BEAT: str(beat)}}}
                await api.patch_namespaced_lease(lease, site.space, body, _content_type="application/merge-patch+json")
        return
    rpc, stubs = etcd_backend._rpc, etcd_backend._stubs
    async with etcd_backend.grpc.aio.insecure_channel(urlsplit(site.url).netloc) as channel:
        kv, key = stubs.KVStub(channel), f"{site.space}/leases/{name}".encode()
        if name == "terms":
            key = f"{site.space}/terms".encode()
        if delete:
            await kv.DeleteRange(rpc.DeleteRangeRequest(key=key))
            await kv.DeleteRange(rpc.DeleteRangeRequest(key=f"{site.space}/last/{name}".encode()))
            return
        found = (await kv.Range(rpc.RangeRequest(key=key))).kvs[0]
        record = dataclasses.replace(etcd_backend._decode(found.value), beat=beat or 0)
        await kv.Put(rpc.PutRequest(key=key, value=etcd_backend._encode(record), lease=found.lease))


class Proxy:
    """TCP between a client and a server. Bytes are held back in either direction and delivered, late, on `heal`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._tasks: set[asyncio.Task[None]] = set()
        self.heal()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def heal(self) -> None:
        for gate in self._open.values():
            gate.set()

    def drop(self, *directions: str) -> None:
        """Stop delivering "up" (requests), "down" (answers), by default both; connections stay open, silent."""
        for direction in directions or ("up", "down"):
            self._open[direction].clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        server_writer: asyncio.StreamWriter | None = None
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.gather(self._pump(reader, server_writer, "up"), self._pump(server_reader, writer, "down"))
        except (OSError, asyncio.CancelledError):
            pass  # the end of the test; streams would print a cancelled task's traceback
        finally:
            writer.close()
            if server_writer is not None:
                server_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        # Whatever one side sent before it gave up is still delivered after `heal`: a late write.
        while chunk := await reader.read(65536):
            await self._open[direction].wait()
            with contextlib.suppress(OSError):
                writer.write(chunk)
                await writer.drain()
        await self._open[direction].wait()
        with contextlib.suppress(OSError):
            writer.write_eof() if writer.can_write_eof() else writer.close()


@contextmanager
def helper(site: Site, name: str, mode: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that holds a lease; see coordination_holder."""
    script = Path(__file__).with_name("coordination_holder.py")
    argv = [sys.executable, str(script), json.dumps(dataclasses.asdict(site)), name, mode]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close() if pipe else None
