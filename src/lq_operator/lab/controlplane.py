"""A real control plane inside the fabric: etcd, kube-apiserver, kube-controller-manager.

It owns their certificates, arguments and processes. etcd listens on the namespace's own loopback, so two labs never
meet; the API server listens on every address of the fabric and so is reached from the machine's own namespace too.
"""

import base64
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from lq_operator.lab import binaries
from lq_operator.lab.cgroups import Cgroup
from lq_operator.lab.errors import LabError
from lq_operator.lab.fabric import Fabric
from lq_operator.lab.names import APISERVER_PORT, CONTROLLER_IP, LabNames
from lq_operator.lab.pki import Authority, write_secret, write_signing_key
from lq_operator.lab.shell import run

PARTS = ("etcd", "kube-apiserver", "kube-controller-manager")
_ETCD = "http://127.0.0.1:2379"
_ETCD_PEER = "http://127.0.0.1:2380"
_CONTROLLERS = (
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "clusterrole-aggregation-controller",
    "root-ca-certificate-publisher-controller",
)
"""Those our resources need: ownership, namespaces that end, ServiceAccounts. No workloads run in the lab's cluster."""

_AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/readyz*", "/livez*", "/healthz*"]
- level: Metadata
"""


class ControlPlane:
    """The cluster of one lab. Every method works on what the state folder and the cgroups say, not on memory."""

    def __init__(self, names: LabNames, fabric: Fabric) -> None:
        self.names = names
        self.fabric = fabric
        self.dir = names.state_dir / "controlplane"
        self.pki = self.dir / "pki"
        self.kubeconfig = names.state_dir / "kubeconfig"
        self.audit_log = self.dir / "audit.log"
        self._group = Cgroup(names.cgroup)

    def _part(self, name: str) -> Cgroup:
        return self._group.child(name)

    def running(self, name: str) -> bool:
        """Whether that program has a process."""
        return self._part(name).populated()

    def pids(self, name: str) -> list[int]:
        """Its processes."""
        return self._part(name).pids()

    def up(self, access_ip: str, progress: Callable[[str], None]) -> None:
        """Start what is not running and return when the API server is ready."""
        binaries.ensure(*PARTS, progress=progress)
        self._prepare(access_ip)
        for start in (self.etcd_start, self.apiserver_start, self._controller_manager_start):
            start()
        progress(f"control plane ready: {self.server(access_ip)}")

    @staticmethod
    def server(access_ip: str) -> str:
        """The URL that works inside the fabric and in the machine's own namespace."""
        return f"https://{access_ip}:{APISERVER_PORT}"

    def _prepare(self, access_ip: str) -> None:
        self.dir.mkdir(parents=True, exist_ok=True)
        (self.dir / "audit-policy.yaml").write_text(_AUDIT_POLICY)
        authority = Authority(self.pki, "lq-lab-kubernetes")
        if not (self.pki / "sa.pub").exists():  # written last
            write_signing_key(self.pki / "sa.key", self.pki / "sa.pub")
        # Issued anew at every `up`: the access address may have changed.
        hosts = (
            "kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "controller",
            "127.0.0.1", "10.96.0.1", CONTROLLER_IP, access_ip,
        )  # fmt: skip
        serving = authority.issue("kube-apiserver", hosts=hosts, server=True)
        write_secret(self.pki / "apiserver.crt", serving.certificate)
        write_secret(self.pki / "apiserver.key", serving.key)
        self.write_kubeconfig(self.kubeconfig, "lab-admin", "system:masters", access_ip)
        self.write_kubeconfig(
            self.pki / "controller-manager.kubeconfig", "system:kube-controller-manager", None, CONTROLLER_IP
        )

    def write_kubeconfig(self, path: Path, user: str, group: str | None, address: str) -> None:
        """A kubeconfig in one file, with a fresh client certificate for that user."""
        authority = Authority(self.pki, "lq-lab-kubernetes")
        pair = authority.issue(user, organization=group)
        cluster = {"server": self.server(address), "certificate-authority-data": _b64(authority.certificate)}
        credentials = {"client-certificate-data": _b64(pair.certificate), "client-key-data": _b64(pair.key)}
        name = self.names.netns
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            "current-context": name,
        }
        write_secret(path, yaml.safe_dump(config, sort_keys=False).encode())

    def _start(self, name: str, arguments: list[str]) -> None:
        if self.running(name):
            return
        program = binaries.ensure(name)[name]
        argv = [*self.fabric.enter_argv, str(program), *arguments]
        self._part(name).spawn(argv, log=self.names.log_dir / f"{name}.log")

    def _wait(self, name: str, url: str, timeout_s: float, *extra: str) -> None:
        """Poll the URL inside the fabric; a program that ended meanwhile is reported with its last words."""
        deadline = time.monotonic() + timeout_s
        probe = [*self.fabric.enter_argv, "curl", "-sf", "--max-time", "2", "--noproxy", "*", *extra, url]
        while run(probe, check=False, timeout_s=10).returncode != 0:
            if not self.running(name) or time.monotonic() > deadline:
                log = self.names.log_dir / f"{name}.log"
                last = log.read_text(errors="replace").splitlines()[-5:]
                state = "is not ready" if self.running(name) else "has exited"
                raise LabError(f"{name} {state}; see {log}: " + " | ".join(last))
            time.sleep(0.1)

    def etcd_start(self) -> None:
        """Start etcd on its kept data; an API server that runs is waited for, it connects again in its own time.

        Without fsync: a lab's machine does not lose power in mid-write.
        """
        arguments = [
            "--name=lab", f"--data-dir={self.dir / 'etcd'}", "--unsafe-no-fsync",
            f"--listen-client-urls={_ETCD}", f"--advertise-client-urls={_ETCD}",
            f"--listen-peer-urls={_ETCD_PEER}", f"--initial-advertise-peer-urls={_ETCD_PEER}",
            f"--initial-cluster=lab={_ETCD_PEER}", "--log-level=warn",
        ]  # fmt: skip
        self._start("etcd", arguments)
        self._wait("etcd", f"{_ETCD}/health", 60)
        if self.running("kube-apiserver"):
            self._wait_for_apiserver()

    def etcd_kill(self) -> None:
        """kill -9."""
        self._part("etcd").kill()

    def apiserver_start(self) -> None:
        """Start the API server and wait until it is ready (about 4 s on two idle cores)."""
        pki = self.pki
        arguments = [
            f"--etcd-servers={_ETCD}", f"--secure-port={APISERVER_PORT}", "--bind-address=0.0.0.0",
            f"--advertise-address={CONTROLLER_IP}", f"--cert-dir={pki}", f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'apiserver.crt'}", f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--service-account-key-file={pki / 'sa.pub'}", f"--service-account-signing-key-file={pki / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none",
            f"--audit-policy-file={self.dir / 'audit-policy.yaml'}", f"--audit-log-path={self.audit_log}",
            "--audit-log-mode=blocking", "--audit-log-maxsize=200", "--audit-log-maxbackup=2",
        ]  # fmt: skip
        self._start("kube-apiserver", arguments)
        self._wait_for_apiserver()

    def _wait_for_apiserver(self) -> None:
        ready = f"https://{CONTROLLER_IP}:{APISERVER_PORT}/readyz"
        self._wait("kube-apiserver", ready, 120, "--cacert", str(self.pki / "ca.crt"))

    def apiserver_stop(self) -> None:
        """kill -9: every watch breaks at once."""
        self._part("kube-apiserver").kill()

    def _controller_manager_start(self) -> None:
        pki = self.pki
        arguments = [
            f"--kubeconfig={pki / 'controller-manager.kubeconfig'}", f"--controllers={','.join(_CONTROLLERS)}",
            f"--service-account-private-key-file={pki / 'sa.key'}", f"--root-ca-file={pki / 'ca.crt'}",
            "--use-service-account-credentials=true", "--leader-elect=false", "--bind-address=127.0.0.1",
            f"--cert-dir={pki}",
        ]  # fmt: skip
        self._start("kube-controller-manager", arguments)

    def ensure_controller_manager(self) -> None:
        """Start it again if it gave up while the API server was away."""
        self._controller_manager_start()

    def etcd_snapshot(self, target: Path) -> None:
        """Copy etcd's data to the folder `target` while etcd is frozen.

        What is copied is what kill -9 at that moment would leave, which etcd recovers from by design. Replaces `target`.
        """
        etcd = self._part("etcd")
        shutil.rmtree(target, ignore_errors=True)
        etcd.freeze()
        try:
            shutil.copytree(self.dir / "etcd", target)
        finally:
            etcd.thaw()

    def etcd_restore(self, source: Path) -> None:
        """Go back in time: stop the API server and etcd, put the snapshot's data in place, start both."""
        if not (source / "member").is_dir():
            raise LabError(f"{source} is no snapshot: it has no folder `member`; make one with snapshot-etcd")
        self._replace_data(source)

    def etcd_wipe(self) -> None:
        """The cluster forgets everything: an empty etcd under a new API server, same certificates."""
        self._replace_data(None)

    def _replace_data(self, source: Path | None) -> None:
        for name in reversed(PARTS):
            self._part(name).kill()
        shutil.rmtree(self.dir / "etcd", ignore_errors=True)
        if source is not None:
            shutil.copytree(source, self.dir / "etcd")
        self.etcd_start()
        self.apiserver_start()
        self._controller_manager_start()


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()
