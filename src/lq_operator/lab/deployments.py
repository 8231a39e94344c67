"""Deployments as supervised processes: the part of a kubelet that makes a wrong argument or a missing file fail.

Owns the translation only. It takes command, arguments, environment and volumes from a Deployment (rendered by Helm, or as
the API server has it) and refuses what it cannot translate faithfully instead of leaving it out. `supervisor` runs them.
"""

import base64
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lq_operator.lab.errors import LabError
from lq_operator.lab.shell import run
from lq_operator.lab.supervisor import ProcessSpec

TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(r"\$(\$|\(([-._a-zA-Z][-._a-zA-Z0-9]*)\))")

Manifest = Mapping[str, Any]
Lookup = Callable[[str, str, str], Manifest | None]
"""(kind, namespace, name) -> ConfigMap or Secret, or None when there is none."""


@dataclass(frozen=True, slots=True)
class PodProcess:
    """One Deployment's container, ready but for its ServiceAccount's token."""

    spec: ProcessSpec
    deployment: str
    namespace: str
    service_account: str
    token_folder: str | None
    """Where the token, the authority and the namespace are mounted; None: the pod has no token."""
    liveness: tuple[int, str] | None
    """Port and path of the probes; the lab does not probe, people and tests do."""
    readiness: tuple[int, str] | None

    def with_token(self, token: str, authority: str) -> ProcessSpec:
        """The process with its identity mounted, as a projected ServiceAccount volume would be."""
        if self.token_folder is None:
            return self.spec
        files = {"token": token, "ca.crt": authority, "namespace": self.namespace}
        return ProcessSpec(
            name=self.spec.name,
            argv=self.spec.argv,
            env=self.spec.env,
            cwd=self.spec.cwd,
            mounts={**self.spec.mounts, self.token_folder: files},
            grace_s=self.spec.grace_s,
        )


def render(helm: Path, chart_dir: Path, values: Mapping[str, Any], *, release: str, namespace: str) -> list[PodProcess]:
    """`helm template` and the processes of its Deployments. Raises LabError with Helm's words when values are refused."""
    argv = [str(helm), "template", release, str(chart_dir), "--namespace", namespace, "--values", "-"]
    rendered = run(argv, stdin=yaml.safe_dump(dict(values)), timeout_s=120).stdout
    return from_manifests(list(yaml.safe_load_all(rendered)), namespace)


def from_manifests(
    manifests: Iterable[Manifest | None], namespace: str, lookup: Lookup = lambda *_: None
) -> list[PodProcess]:
    """The processes of the Deployments among `manifests`; what they mount is sought there first, then by `lookup`."""
    known = [manifest for manifest in manifests if manifest]
    by_name = {
        (str(m["kind"]), str(m["metadata"].get("namespace", namespace)), str(m["metadata"]["name"])): m for m in known
    }

    def find(kind: str, where: str, name: str) -> Manifest | None:
        return by_name.get((kind, where, name)) or lookup(kind, where, name)

    return [process_of(manifest, find, namespace) for manifest in known if manifest["kind"] == "Deployment"]


def process_of(deployment: Manifest, find: Lookup, default_namespace: str = "default") -> PodProcess:
    """Translate one Deployment. Raises LabError naming what a kubelet would refuse or what the lab cannot imitate."""
    name = str(deployment["metadata"]["name"])
    namespace = str(deployment["metadata"].get("namespace", default_namespace))
    pod = deployment["spec"]["template"]["spec"]
    containers = pod["containers"]
    if len(containers) != 1 or pod.get("initContainers") or deployment["spec"].get("replicas", 1) != 1:
        raise LabError(f"Deployment {name}: the lab runs one replica of one container, without init containers")
    container = containers[0]
    if not container.get("command"):
        raise LabError(f"Deployment {name}: command is missing; the lab has no image whose entrypoint it could take")
    pod_name = f"{name}-{secrets.token_hex(4)}-{secrets.token_hex(3)[:5]}"
    facts = {
        "metadata.name": pod_name,
        "metadata.namespace": namespace,
        "spec.serviceAccountName": str(pod.get("serviceAccountName", "default")),
    }
    reader = _Reader(name, namespace, find, facts)
    environment = reader.environment(container)
    mounts, empty, token_folder = reader.volumes(pod, container)
    if pod.get("automountServiceAccountToken", True) and token_folder is None:
        token_folder = TOKEN_FOLDER
    security = container.get("securityContext") or {}
    wrapper = [sys.executable, "-m", "lq_operator.lab.pod"]
    wrapper += [argument for where in empty for argument in ("--empty", where)]
    if not security.get("readOnlyRootFilesystem", False):
        wrapper.append("--writable-root")
    if "ALL" not in (security.get("capabilities") or {}).get("drop", []):
        wrapper.append("--keep-capabilities")
    command = [_expand(str(part), environment) for part in [*container["command"], *container.get("args", [])]]
    spec = ProcessSpec(
        name=name,
        argv=[*wrapper, "--", *command],
        # The image's PATH begins with its virtual environment; so does this one.
        env={"PATH": f"{Path(sys.executable).parent}:{_PATH}", "HOME": "/", **environment},
        cwd=str(container.get("workingDir", "/")),
        # Only to make the place: the pod covers it itself, and keeps the program visible where that lies below it.
        mounts={**mounts, **{where: {} for where in empty if not Path(where).is_dir()}},
        grace_s=float(pod.get("terminationGracePeriodSeconds", 30)),
    )
    return PodProcess(
        spec=spec,
        deployment=name,
        namespace=namespace,
        service_account=facts["spec.serviceAccountName"],
        token_folder=token_folder,
        liveness=_probe(container, "livenessProbe"),
        readiness=_probe(container, "readinessProbe"),
    )


class _Reader:
    """Reads one Deployment's environment and volumes."""

    def __init__(self, deployment: str, namespace: str, find: Lookup, facts: Mapping[str, str]) -> None:
        self._deployment = deployment
        self._namespace = namespace
        self._find = find
        self._facts = facts

    def _error(self, text: str) -> LabError:
        return LabError(f"Deployment {self._deployment}: {text}")

    def _data(self, kind: str, name: str, optional: bool) -> dict[str, str]:
        found = self._find(kind, self._namespace, name)
        if found is None:
            if optional:
                return {}
            raise self._error(f"{kind} {self._namespace}/{name} does not exist; its container would not be created")
        if found.get("binaryData"):
            raise self._error(f"{kind} {name} has binaryData, which the lab cannot mount")
        values = dict(found.get("data") or {}) if kind == "ConfigMap" else _decoded(found, self._error)
        return {key: str(value) for key, value in values.items()}

    def environment(self, container: Manifest) -> dict[str, str]:
        """env and envFrom, references resolved in order as Kubernetes does."""
        result: dict[str, str] = {}
        for source in container.get("envFrom", []):
            kind, reference = ("ConfigMap", "configMapRef") if "configMapRef" in source else ("Secret", "secretRef")
            data = self._data(kind, source[reference]["name"], source[reference].get("optional", False))
            result |= {source.get("prefix", "") + key: value for key, value in data.items()}
        for variable in container.get("env", []):
            value = self._variable(variable)
            if value is not None:
                result[variable["name"]] = _expand(value, result)
        return result

    def _variable(self, variable: Manifest) -> str | None:
        source = variable.get("valueFrom")
        if source is None:
            return str(variable.get("value", ""))
        if "fieldRef" in source:
            path = source["fieldRef"]["fieldPath"]
            if path not in self._facts:
                raise self._error(f"env {variable['name']}: the lab does not know the field {path}")
            return self._facts[path]
        for reference, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if reference in source:
                wanted = source[reference]
                optional = wanted.get("optional", False)
                data = self._data(kind, wanted["name"], optional)
                if wanted["key"] not in data and not optional:
                    raise self._error(f"env {variable['name']}: {kind} {wanted['name']} has no key {wanted['key']}")
                return data.get(wanted["key"])
        raise self._error(f"env {variable['name']}: valueFrom {', '.join(source)} is not known to the lab")

    def volumes(self, pod: Manifest, container: Manifest) -> tuple[dict[str, dict[str, str]], list[str], str | None]:
        """(folder -> files, empty folders, folder of the ServiceAccount's token)."""
        declared = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounts: dict[str, dict[str, str]] = {}
        empty: list[str] = []
        token_folder: str | None = None
        for mount in container.get("volumeMounts", []):
            where, volume = mount["mountPath"].rstrip("/"), declared.get(mount["name"])
            if volume is None:
                raise self._error(f"mount {where}: there is no volume {mount['name']}")
            if mount.get("subPath") or mount.get("subPathExpr"):
                raise self._error(f"mount {where}: the lab cannot mount a subPath")
            if "emptyDir" in volume:
                empty.append(where)
                continue
            files, has_token = self._files(volume)
            mounts[where] = files
            token_folder = where if has_token else token_folder
        return mounts, empty, token_folder

    def _files(self, volume: Manifest) -> tuple[dict[str, str], bool]:
        if "configMap" in volume:
            return self._selected("ConfigMap", volume["configMap"], volume["configMap"]["name"]), False
        if "secret" in volume:
            return self._selected("Secret", volume["secret"], volume["secret"]["secretName"]), False
        if "projected" not in volume:
            kinds = ", ".join(key for key in volume if key != "name")
            raise self._error(f"volume {volume['name']}: the lab cannot mount {kinds}")
        files: dict[str, str] = {}
        has_token = False
        for source in volume["projected"].get("sources", []):
            if "serviceAccountToken" in source:
                has_token = True
            elif "configMap" in source:
                files |= self._selected("ConfigMap", source["configMap"], source["configMap"]["name"])
            elif "secret" in source:
                files |= self._selected("Secret", source["secret"], source["secret"]["name"])
            elif "downwardAPI" not in source:  # its only use beside a token is the namespace, which with_token gives
                raise self._error(f"volume {volume['name']}: the lab cannot project {', '.join(source)}")
        return files, has_token

    def _selected(self, kind: str, source: Manifest, name: str) -> dict[str, str]:
        optional = source.get("optional", False)
        data = self._data(kind, name, optional)
        if not source.get("items"):
            return data
        missing = [item["key"] for item in source["items"] if item["key"] not in data]
        if missing and not optional:
            raise self._error(f"{kind} {name} has no key {missing[0]}")
        return {item["path"]: data[item["key"]] for item in source["items"] if item["key"] in data}


def _decoded(secret: Manifest, error: Callable[[str], LabError]) -> dict[str, str]:
    result = {key: str(value) for key, value in (secret.get("stringData") or {}).items()}
    for key, value in (secret.get("data") or {}).items():
        try:
            result[key] = base64.b64decode(value).decode()
        except UnicodeDecodeError as problem:
            raise error(f"Secret {secret['metadata']['name']}: key {key} is not text: {problem}") from problem
    return result


def _expand(text: str, environment: Mapping[str, str]) -> str:
    """$(NAME) of variables known so far; unknown ones stay as they are, $$ is a $ (core/v1 Container.args)."""

    def replace(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else environment.get(match[2], match[0])

    return _REFERENCE.sub(replace, text)


def _probe(container: Manifest, name: str) -> tuple[int, str] | None:
    http = (container.get(name) or {}).get("httpGet")
    if http is None:
        return None
    ports = {port.get("name"): int(port["containerPort"]) for port in container.get("ports", [])}
    port = ports.get(http["port"], http["port"])
    if not isinstance(port, int):
        raise LabError(f"{name}: there is no port named {port}")
    return port, str(http.get("path", "/"))
