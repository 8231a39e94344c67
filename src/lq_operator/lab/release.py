"""The chart in a lab: a real `helm install`, then each Deployment's process under the lab's supervisor.

Owns what a cluster with nodes would do between an installed release and running processes: reading the Deployments back,
giving and renewing ServiceAccount tokens. `python -m lq_operator.lab.release LAB RELEASE NAMESPACE` is the renewal.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lq_operator.lab import binaries
from lq_operator.lab.datacenter import Lab
from lq_operator.lab.deployments import Manifest, PodProcess, process_of
from lq_operator.lab.errors import LabError
from lq_operator.lab.names import APISERVER_PORT, CONTROLLER_IP
from lq_operator.lab.shell import run
from lq_operator.lab.supervisor import ProcessSpec

TOKEN_LIFETIME_S = 3607
"""What a kubelet asks for (an hour, and 7 s by which the API server recognises the request)."""
_RENEW_AFTER_S = TOKEN_LIFETIME_S * 0.5
_RETRY_S = 15.0
_RENEWAL = "token-renewal"


def chart_dir() -> Path:
    """The chart: inside an installed package, or in the source tree beside it. LabError when there is none."""
    here = Path(__file__).parent
    for candidate in (here / "chart", here.parents[2] / "charts" / "lq-operator"):
        if (candidate / "Chart.yaml").is_file():
            return candidate
    raise LabError("the chart lq-operator was not found; give its folder")


class Release:
    """One installed release of the chart in one lab, found again by its names."""

    def __init__(
        self, lab: Lab, name: str = "lq-operator", namespace: str = "lq-system", chart: Path | None = None
    ) -> None:
        self.lab = lab
        self.name = name
        self.namespace = namespace
        self._chart = chart

    def helm(self, *arguments: str, stdin: str | None = None, check: bool = True, timeout_s: float = 180) -> str:
        """Helm as the lab's administrator; its output. CommandFailedError with its words when it fails."""
        program = binaries.ensure("helm")["helm"]
        folders = {
            f"HELM_{kind}_HOME": str(self.lab.state_dir / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")
        }
        environ = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/"), **folders}
        argv = [str(program), f"--kubeconfig={self.lab.kubeconfig}", f"--namespace={self.namespace}", *arguments]
        return run(argv, stdin=stdin, check=check, timeout_s=timeout_s, env=environ).stdout

    def install(self, values: Mapping[str, Any] | None = None, *extra: str) -> None:
        """`helm upgrade --install` with these values over the lab's own, and start (again) what it declares.

        The lab's image server has a private address, so the importer is allowed the lab's network. Helm does not
        wait for pods: no kubelet runs them here.
        """
        lab_values = {"importer": {"allowedPrivateNetworks": ["10.78.0.0/24"]}}
        arguments = ["upgrade", "--install", self.name, str(self._chart or chart_dir()), "--create-namespace"]
        merged = yaml.safe_dump(_merged(lab_values, values or {}))
        self.helm(*arguments, "--values", "-", *extra, stdin=merged)
        self.start()

    def uninstall(self) -> None:
        """Stop the processes, then `helm uninstall`. CRDs and custom resources stay, by the chart's keep policy."""
        self.stop()
        self.helm("uninstall", self.name)

    def processes(self) -> list[PodProcess]:
        """From the release's Deployments as the API server has them now, with defaults and what admission changed."""
        return [process_of(item, self._find, self.namespace) for item in self._deployments()]

    def _deployments(self) -> list[Manifest]:
        found = self._mine("deployments")
        if not found:
            raise LabError(f"release {self.name} has no Deployments in namespace {self.namespace}; install it first")
        return found

    def _mine(self, plural: str) -> list[Manifest]:
        selector = f"app.kubernetes.io/instance={self.name}"
        return list(json.loads(self._kubectl("get", plural, "-l", selector, "-o", "json"))["items"])

    def _publish(self) -> None:
        """Services with an address of their own lead to the processes, through the API server's proxy as well.

        That proxy looks at Endpoints, and only at those that name a Pod whose status has the address (measured with
        1.36); so there is a Pod of that name, which nobody runs.
        """
        for service in self._mine("services"):
            for deployment in self._deployments():
                endpoints = _endpoints(service, deployment)
                if endpoints is not None:
                    pod = _pod(deployment)
                    name = str(pod["metadata"]["name"])
                    self.lab.kubectl(
                        "-n", self.namespace, "apply", "-f", "-", stdin=yaml.safe_dump_all([pod, endpoints])
                    )
                    self._kubectl(
                        "patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps(_RUNNING)
                    )

    def start(self) -> list[str]:
        """Start (again) one supervised process per Deployment and the renewal of their tokens; returns their names."""
        processes = self.processes()
        gone = set(self._running()) - {process.spec.name for process in processes}
        for name in gone:
            self.lab.supervisor.remove(name)
        for process in processes:
            self.lab.supervisor.start(self._launchable(process))
        self.lab.supervisor.start(self._renewal())
        self._publish()
        return [process.spec.name for process in processes]

    def stop(self) -> None:
        """Stop the processes and forget them."""
        for name in [*self._running(), self._renewal_name]:
            if name in self.lab.supervisor.names():
                self.lab.supervisor.remove(name)

    def renew_tokens(self) -> None:
        """A fresh token into every running process's mount, as a kubelet does long before the old one expires."""
        for process in self.processes():
            if process.token_folder is not None and process.spec.name in self.lab.supervisor.names():
                token = self._token(process)
                self.lab.supervisor.write_file(process.spec.name, process.token_folder, "token", token)

    @property
    def _renewal_name(self) -> str:
        return f"{self.name}-{_RENEWAL}"

    def _running(self) -> list[str]:
        prefix = f"{self.name}-"
        return [n for n in self.lab.supervisor.names() if n.startswith(prefix) and n != self._renewal_name]

    def _renewal(self) -> ProcessSpec:
        # The lab is found by its name below this folder, its programs below the cache.
        passed = ("HOME", "PATH", "LQ_LAB_DIR", "XDG_CACHE_HOME", "KUBEBUILDER_ASSETS")
        return ProcessSpec(
            name=self._renewal_name,
            argv=[sys.executable, "-m", "lq_operator.lab.release", self.lab.name, self.name, self.namespace],
            env={key: os.environ[key] for key in passed if key in os.environ},
        )

    def _kubectl(self, *arguments: str) -> str:
        return self.lab.kubectl("-n", self.namespace, *arguments).stdout

    def _find(self, kind: str, namespace: str, name: str) -> Manifest | None:
        arguments = ("-n", namespace, "get", kind.lower(), name, "-o", "json", "--ignore-not-found")
        found = self.lab.kubectl(*arguments).stdout
        return dict(json.loads(found)) if found.strip() else None

    def _token(self, process: PodProcess) -> str:
        arguments = ("create", "token", process.service_account, f"--duration={TOKEN_LIFETIME_S}s")
        return self._kubectl(*arguments).strip()

    def _authority(self, timeout_s: float = 30) -> str:
        """The API server's CA from the ConfigMap that a controller puts into every namespace, soon after its creation."""
        deadline = time.monotonic() + timeout_s
        while (found := self._find("ConfigMap", self.namespace, "kube-root-ca.crt")) is None:
            if time.monotonic() > deadline:
                raise LabError(f"namespace {self.namespace} got no ConfigMap kube-root-ca.crt: is the lab up?")
            time.sleep(0.2)
        return str(found["data"]["ca.crt"])

    def _launchable(self, process: PodProcess) -> ProcessSpec:
        spec = process.spec
        if process.token_folder is not None:
            spec = process.with_token(self._token(process), self._authority())
        address = {"KUBERNETES_SERVICE_HOST": CONTROLLER_IP, "KUBERNETES_SERVICE_PORT": str(APISERVER_PORT)}
        return replace(spec, env={**address, **spec.env})


def _endpoints(service: Manifest, deployment: Manifest) -> dict[str, Any] | None:
    """What the endpoints controller would write of this Service about the one pod of this Deployment."""
    spec, pod = service["spec"], deployment["spec"]["template"]
    wanted, labels = spec.get("selector") or {}, pod["metadata"].get("labels") or {}
    if spec.get("clusterIP") == "None" or not wanted or any(labels.get(key) != value for key, value in wanted.items()):
        return None
    ports = {port.get("name"): port["containerPort"] for port in pod["spec"]["containers"][0].get("ports", [])}
    named = [{"name": p.get("name", ""), "port": ports.get(p.get("targetPort"), p["port"])} for p in spec["ports"]]
    where = service["metadata"]["namespace"]  # the proxy compares it with its own
    reference = {"kind": "Pod", "name": _pod(deployment)["metadata"]["name"], "namespace": where}
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": str(service["metadata"]["name"])},
        "subsets": [{"addresses": [{"ip": CONTROLLER_IP, "targetRef": reference}], "ports": named}],
    }


_RUNNING = {
    "status": {
        "phase": "Running",
        "podIP": CONTROLLER_IP,
        "podIPs": [{"ip": CONTROLLER_IP}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
}


def _pod(deployment: Manifest) -> dict[str, Any]:
    """A Pod that stands for the process: its labels, and no more than the API server asks of a spec."""
    template = deployment["spec"]["template"]
    container = template["spec"]["containers"][0]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{deployment['metadata']['name']}-lab", "labels": template["metadata"].get("labels", {})},
        "spec": {
            "serviceAccountName": template["spec"].get("serviceAccountName", "default"),
            "automountServiceAccountToken": False,
            "containers": [{"name": container["name"], "image": container["image"]}],
        },
    }


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def keep_renewing(release: Release) -> None:
    """For ever. An API server that is away is asked again soon: half a token's life is left for that."""
    due = time.monotonic() + _RENEW_AFTER_S
    while True:
        time.sleep(max(due - time.monotonic(), 0))
        try:
            release.renew_tokens()
            due = time.monotonic() + _RENEW_AFTER_S
        except LabError as error:
            print(f"tokens could not be renewed, trying again: {error}", file=sys.stderr, flush=True)
            due = time.monotonic() + _RETRY_S


if __name__ == "__main__":
    keep_renewing(Release(Lab.load(sys.argv[1]), sys.argv[2], sys.argv[3]))
