"""Settings of each process: a YAML file (the chart mounts a ConfigMap) and the pod's own name and namespace.

Owns names, defaults, limits and their reasons. Refuses unknown keys, so that a typing error never means "default".
There is no switch for tests: they run what users run.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from lq_operator.core.result import Rejected

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _file_key(field: str) -> str:
    """Name of a field in the file: camelCase, and seconds written out as Kubernetes does (ttl_s -> ttlSeconds)."""
    return to_camel(re.sub(r"_s$", "_seconds", field))


def _parse_network(value: Any) -> Any:
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"write a CIDR such as 10.20.0.0/16 ({error})") from error


IPNetwork = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_parse_network)]


def _check_listen(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("write host:port or :port, for example :8080")
    if host and not (host.startswith("[") and host.endswith("]")) and ":" in host:
        raise ValueError("write an IPv6 address in brackets, for example [::1]:8080")
    return value


class SettingsModel(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(
        alias_generator=_file_key,
        extra="forbid",
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )


class EtcdSettings(SettingsModel):
    """Where the etcd for coordination is. Never the API server's own etcd: its credentials open every Secret."""

    endpoints: tuple[Annotated[str, Field(pattern=r"^https?://[-._a-zA-Z0-9\[\]:]+:[0-9]+$")], ...] = ()
    """URLs of the members, tried in turn. Default: none, because etcd is opt-in."""

    prefix: Annotated[str, Field(pattern=r"^/[-._/a-zA-Z0-9]*/$")] = "/limiquantix/"
    """Keys begin with it. Default: our API group's first word; installations that share an etcd take one each."""

    ca_file: Path | None = None
    """PEM file of the authority that signed the members' certificates. Required with https."""

    cert_file: Path | None = None
    """PEM file of our client certificate; goes with key_file."""

    key_file: Path | None = None
    """PEM file of our client key; goes with cert_file."""

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("certFile and keyFile go together: give both or neither")
        if any(url.startswith("https://") for url in self.endpoints) and self.ca_file is None:
            raise ValueError("https endpoints need caFile")
        return self


class CoordinationSettings(SettingsModel):
    """How this process proves that it alone may act."""

    backend: Literal["kubernetes", "etcd"] = "kubernetes"
    """Leases in the API server, or keys in an etcd of your own. Default: kubernetes, which everyone has already."""

    lease_name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$")]
    """What is leased: for `run` a shard of hosts, for the others the work itself. The chart's Role names its object
    (`lq-<leaseName>`), so that no process can take another's lease."""

    ttl_s: Annotated[float, Field(ge=3, le=300)] = 15.0
    """Takeover happens this long after the last renewal was seen. Default: client-go's LeaseDuration. At least 3 s,
    because one call to the store may take a fifth of it."""

    etcd: EtcdSettings = EtcdSettings()
    """Used when backend is etcd."""

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        if self.backend == "etcd" and not self.etcd.endpoints:
            raise ValueError("backend etcd needs etcd.endpoints")
        if self.backend == "kubernetes" and self.etcd.endpoints:
            raise ValueError("etcd.endpoints are given but backend is kubernetes: set backend to etcd or remove them")
        return self


class TelemetrySettings(SettingsModel):
    """Logs, metrics and probes."""

    listen: Annotated[str, AfterValidator(_check_listen)] = ":8080"
    """host:port of /metrics, /healthz and /readyz; an empty host means every address. Default: unprivileged, and
    what the chart's probes ask."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is written. Default: info, one line for each change of the world."""

    @property
    def listen_host(self) -> str:
        """Address to bind, without brackets; '' means every address of both families."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def listen_port(self) -> int:
        """TCP port to bind."""
        return int(self.listen.rpartition(":")[2])


class PodSettings(SettingsModel):
    """What every process has."""

    component: Literal["run", "importer", "scheduler", "gateway"]
    """Which process the file is for; a file mounted into the wrong one is refused."""

    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    """The operator's own namespace: its leases, and the Secrets of cluster-scoped kinds. From POD_NAMESPACE."""

    pod_name: Annotated[str, Field(min_length=1, max_length=253)]
    """Who we are in leases and events. From POD_NAME; unique per start of a pod."""

    installation_id: Annotated[str, Field(max_length=63, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")] = ""
    """Under which name we write on hosts. Default '': the uid of the namespace kube-system, the customary identity
    of a cluster. A rebuilt control plane takes its hosts back with the old value."""

    telemetry: TelemetrySettings = TelemetrySettings()
    """Logs, metrics and probes."""


class ProcessSettings(PodSettings):
    """What every process has that acts alone, under a lease."""

    coordination: CoordinationSettings
    """Leadership."""

    workers: Annotated[int, Field(ge=1, le=512)] = 32
    """Objects worked on at once. Default: above what one host takes in parallel and far below what makes the API
    server queue (its default is 600 requests in flight)."""

    resync_s: Annotated[float, Field(ge=10, le=86400)] = 300.0
    """Every object is looked at again this often although nothing was heard. Default: events carry the work; five
    minutes bounds what a lost one costs."""

    shutdown_s: Annotated[float, Field(ge=1, le=600)] = 20.0
    """Time for work under way to end after SIGTERM, before the lease is given back. Default: below the Deployment's
    terminationGracePeriodSeconds (30, Kubernetes' default), or the kubelet kills us first."""


HOSTS_LEASE = "hosts-0"
"""The one shard of hosts that there is (docs/adr/0004)."""


class RunSettings(ProcessSettings):
    """`lq-operator run`: the controllers that talk to hosts."""

    component: Literal["run"] = "run"
    """Which process the file is for."""

    coordination: CoordinationSettings = CoordinationSettings(lease_name=HOSTS_LEASE)
    """Leadership over the hosts. Its lease has one name: see `_check_shard`."""

    unreachable_after_s: Annotated[float, Field(ge=2, le=300)] = 8.0
    """A host that has been silent this long is not connected any more; also where
    HypervisorNode.spec.unreachableAfterSeconds is not known yet. Default: two lost keepalives of 4 s and no more,
    so that a busy host is not taken for a dead one."""

    @model_validator(mode="after")
    def _check_shard(self) -> Self:
        """Two owners under two leases would depose each other on every host for ever, and start nothing meanwhile."""
        if self.coordination.lease_name != HOSTS_LEASE:
            raise ValueError(
                f"coordination.leaseName is {self.coordination.lease_name!r}, but there is one shard of hosts and its "
                f"lease is {HOSTS_LEASE!r}: remove the setting; several owners of hosts are not supported"
            )
        return self


class ImporterSettings(ProcessSettings):
    """`lq-operator importer`: streams images from URLs into pools. What it reads is untrusted."""

    component: Literal["importer"] = "importer"
    """Which process the file is for."""

    coordination: CoordinationSettings = CoordinationSettings(lease_name="importer")
    """Leadership over imports."""

    unreachable_after_s: Annotated[float, Field(ge=2, le=300)] = 8.0
    """As for `run`: after this silence of its host an import is given up and tried again later."""

    allowed_private_networks: tuple[IPNetwork, ...] = ()
    """CIDRs that a URL may lead to although they are private, loopback or link-local. Default: none, or every user
    who may create an Image could read internal services (and a cloud's metadata address) through us."""

    file_url_directories: tuple[Path, ...] = ()
    """Directories, as the importer's own container sees them, that file:// URLs may name. Default: none, which
    refuses every file:// URL."""

    max_parallel: Annotated[int, Field(ge=1, le=64)] = 4
    """Imports at once. Default: a few streams fill a network link; more only delay the first."""

    @model_validator(mode="after")
    def _check_directories(self) -> Self:
        for directory in self.file_url_directories:
            if not directory.is_absolute() or ".." in directory.parts or directory == Path("/"):
                raise ValueError(f"fileUrlDirectories: {directory} must be absolute, without '..', and not /")
        return self


class SchedulerSettings(ProcessSettings):
    """`lq-operator scheduler`: chooses hosts. Talks to no host and reads no Secret."""

    component: Literal["scheduler"] = "scheduler"
    """Which process the file is for."""

    coordination: CoordinationSettings = CoordinationSettings(lease_name="scheduler")
    """Leadership over placement."""

    batch_window_s: Annotated[float, Field(ge=0, le=10)] = 0.05
    """How long to gather waiting VMs before they are placed together. Default: not noticeable for one VM, and one
    `kubectl apply` of many is seen as one batch, which places better than one after the other."""

    max_batch: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """VMs placed in one call at most. Default: bounds the time until the first of a great many is told."""


class GatewayTls(SettingsModel):
    """The certificate that clients see."""

    cert_file: Path | None = None
    """PEM file, the certificate first; goes with key_file. Default: one that the process signs itself at start, which
    serves behind the API server's proxy (that does not check it); clients that come directly need a real one."""

    key_file: Path | None = None
    """PEM file of its key."""

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("certFile and keyFile go together: give both or neither")
        return self


class GatewaySettings(PodSettings):
    """`lq-operator gateway`: consoles and screens for people. It changes nothing and holds no lease."""

    component: Literal["gateway"] = "gateway"
    """Which process the file is for."""

    listen: Annotated[str, AfterValidator(_check_listen)] = ":8443"
    """host:port for clients, TLS always: they send bearer tokens. An empty host means every address."""

    tls: GatewayTls = GatewayTls()
    """The certificate that clients see."""

    @property
    def listen_host(self) -> str:
        """Address to bind, without brackets; '' means every address of both families."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def listen_port(self) -> int:
        """TCP port to bind."""
        return int(self.listen.rpartition(":")[2])

    history_kib: Annotated[int, Field(ge=0, le=16384)] = 64
    """How much of what a guest has printed a late reader of its console gets. Default: a few screens and a panic."""

    recheck_s: Annotated[float, Field(ge=5, le=3600)] = 60.0
    """Open sessions are judged again this often: a token that was revoked or a role that was taken away ends them."""

    idle_host_s: Annotated[float, Field(ge=5, le=86400)] = 120.0
    """A host is disconnected this long after the last session with it. Default: leafing through consoles stays quick."""

    unreachable_after_s: Annotated[float, Field(ge=2, le=300)] = 8.0
    """As for `run`: a host that has been silent this long is not connected any more."""

    frames_per_second: Annotated[float, Field(ge=0.2, le=25)] = 5.0
    """Most pictures of a screen per second and VM, shared by all who watch. Each costs the host one screen dump."""

    pointer: bool = True
    """Pass the mouse on. It needs QEMU's monitor, which libvirt notes as taint `custom-monitor` in the domain's log."""


S = TypeVar("S", bound=PodSettings)


def load_settings(kind: type[S], path: Path | str, environ: Mapping[str, str] = os.environ) -> S:
    """Read the settings of one process from its file and the pod's environment (POD_NAME, POD_NAMESPACE).

    Rejected, naming file, key and remedy: unreadable or not YAML, unknown or misplaced keys, values out of range,
    a file for another process, no POD_NAME or POD_NAMESPACE.
    """
    content = _read_mapping(Path(path))
    for key, variable, given_by in (
        ("podName", "POD_NAME", "metadata.name"),
        ("namespace", "POD_NAMESPACE", "metadata.namespace"),
    ):
        if key in content:
            raise Rejected(f"{path}: {key} comes from {variable}; remove it from the file", field=key)
        if not environ.get(variable):
            raise Rejected(f"{variable} is not set; the Deployment sets it from {given_by}", field=variable)
        content[key] = environ[variable]
    if not _NAMESPACE.fullmatch(environ["POD_NAMESPACE"]):
        raise Rejected(f"POD_NAMESPACE {environ['POD_NAMESPACE']!r} is no namespace name", field="POD_NAMESPACE")
    content.setdefault("component", kind.model_fields["component"].default)
    # A file may set one part of the coordination (say ttlSeconds) and keep this process's own lease.
    coordination = content.get("coordination")
    if isinstance(coordination, dict) and "coordination" in kind.model_fields:
        content["coordination"] = {"leaseName": kind.model_fields["coordination"].default.lease_name} | coordination
    try:
        return kind.model_validate(content, by_alias=True, by_name=False)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise Rejected(f"{path}: " + "; ".join(problems), field=_dotted(error.errors()[0]["loc"])) from error


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(f"cannot read the settings {path}: {error}") from error
    except yaml.YAMLError as error:
        raise Rejected(f"{path} is not YAML: {error}") from error
    if parsed is None:
        return {}
    if not isinstance(parsed, dict) or not all(isinstance(key, str) for key in parsed):
        raise Rejected(f"{path} must be a mapping of settings, not {type(parsed).__name__}")
    return dict(parsed)


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _explain(problem: Any) -> str:
    where = _dotted(problem["loc"]) or "the settings"
    if problem["type"] == "extra_forbidden":
        return f"{where} is no setting of this process"
    return f"{where}: {str(problem['msg']).removeprefix('Value error, ')}"
