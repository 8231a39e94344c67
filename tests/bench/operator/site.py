"""The lab of the operator's benchmarks: built once, with connections of its own to every host for judging."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import libvirt
import yaml

from lq_operator.lab import manifests
from lq_operator.lab.datacenter import Lab, take_down
from lq_operator.lab.release import Release

NAME = "bench"
GROUP = "/apis/limiquantix.io/v1alpha1"


class Api:
    """The API server over one kept connection: a kubectl per question would cost more than what is measured."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._address = urlsplit(cluster["server"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pair.flush()
            self._tls.load_cert_chain(pair.name)
        self._connection: http.client.HTTPSConnection | None = None

    def ask(self, method: str, path: str, body: dict | None = None) -> dict:
        """The decoded answer. RuntimeError for a refusal."""
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(self._address.netloc, context=self._tls, timeout=60)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            self._connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = self._connection.getresponse()
            payload = json.loads(answer.read())
        except (http.client.HTTPException, OSError):
            self._connection.close()
            self._connection = None
            raise
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {payload.get('message')}")
        return dict(payload)


class Site:
    """A lab with the operator installed and its datacenter Ready."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.release = Release(lab)
        self.hosts: dict[str, libvirt.virConnect] = {}
        self.api = Api(lab.kubeconfig)
        self.audit_mark = 0

    def install(self) -> None:
        self.release.install()
        self.lab.kubectl("apply", "-f", "-", stdin=manifests.dump(manifests.datacenter(self.lab)))
        self.until(
            lambda: (
                self.ready("hypervisornodes") == 3
                and self.ready("storagepools") == 2
                and self.ready("virtualnetworks") == 1
            )
        )
        with self.lab.entered():
            self.hosts = {host.name: libvirt.open(host.uri) for host in self.lab.hosts}

    def items(self, kind: str) -> list[dict]:
        return list(self.api.ask("GET", f"{GROUP}/{kind}")["items"])

    def vm(self, name: str) -> dict:
        return self.api.ask("GET", f"{GROUP}/namespaces/default/virtualmachines/{name}")

    def create(self, body: dict, api: Api | None = None) -> None:
        """A namespaced object of ours, in the namespace that it names or in default."""
        namespace = body["metadata"].get("namespace", "default")
        (api or self.api).ask("POST", f"{GROUP}/namespaces/{namespace}/{body['kind'].lower()}s", body)

    def ready(self, kind: str) -> int:
        return sum(
            any(c["type"] == "Ready" and c["status"] == "True" for c in item.get("status", {}).get("conditions", []))
            for item in self.items(kind)
        )

    def running(self) -> set[str]:
        """Domains that run, asked of the hosts."""
        return {
            d.name() for c in self.hosts.values() for d in c.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        }

    def until(self, done: Callable[[], bool], limit_s: float = 300.0, every_s: float = 0.2) -> float:
        """Wait; the seconds it took."""
        started = time.monotonic()
        while not done():
            if time.monotonic() - started > limit_s:
                raise TimeoutError("the lab did not get there")
            time.sleep(every_s)
        return time.monotonic() - started

    def delete_vms(self) -> None:
        self.api.ask("DELETE", f"{GROUP}/namespaces/default/virtualmachines")
        self.until(lambda: not self.items("virtualmachines") and not self.running() and not self.items("volumes"))

    def process_stats(self) -> dict[str, tuple[float, float]]:
        """Process -> (CPU seconds so far, RSS MiB), its children included."""
        found = {}
        for name in ("lq-operator-run", "lq-operator-scheduler", "lq-operator-importer"):
            pids = _tree(self.lab.supervisor.status(name).pid)
            found[name] = (sum(_cpu_s(p) for p in pids), sum(_rss_mib(p) for p in pids))
        return found


def _tree(pid: int | None) -> list[int]:
    if pid is None:
        return []
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            below = [int(word) for word in children.read().split()]
    except FileNotFoundError:
        return []
    return [pid, *(p for child in below for p in _tree(child))]


def _cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def site() -> Iterator[Site]:
    """A fresh one, taken down in the end."""
    take_down(NAME)
    lab = Lab.create(NAME, hosts=3)
    try:
        lab.up(lambda text: print(text, flush=True))
        made = Site(lab)
        made.install()
        yield made
    finally:
        take_down(NAME)
