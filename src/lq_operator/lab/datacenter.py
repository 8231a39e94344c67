"""One lab as a whole: made by name, brought up, found again from its state folder, taken down without a trace.

lab = Lab.create("mine", hosts=3)
lab.up()
...
Lab.load("mine").down()
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from lq_operator.lab import binaries, guest, requirements
from lq_operator.lab.accel import Accel
from lq_operator.lab.accel import probe as probe_accelerator
from lq_operator.lab.cgroups import Cgroup
from lq_operator.lab.controlplane import ControlPlane
from lq_operator.lab.errors import LabError
from lq_operator.lab.fabric import Fabric
from lq_operator.lab.host import HostSettings, LabHost, Transport, write_client_credentials
from lq_operator.lab.locks import exclusive
from lq_operator.lab.names import APISERVER_PORT, CONTROLLER_IP, IMAGE_PORT, MAX_HOSTS, LabNames
from lq_operator.lab.netns import entered
from lq_operator.lab.pki import write_secret
from lq_operator.lab.shell import run
from lq_operator.lab.supervisor import Supervisor

__all__ = ["Lab", "LabConfig", "LabError", "LabHost"]
_IMAGE_NAME = "guest.qcow2"


def _quiet(_: str) -> None:
    """For callers that want no progress."""


@dataclass(frozen=True, slots=True)
class LabConfig:
    """What `up` was asked for; kept in the state folder."""

    hosts: int = 3
    transport: Transport = "tls"
    controlplane: bool = True
    existing_kubeconfig: str | None = None
    """Path of a kubeconfig for a cluster outside the lab; then the lab starts none."""
    accel: Accel = "tcg"
    qemu_conf: str = ""
    image_sha256: str = ""


class Lab:
    """A lab; holds no state of its own beyond the name and the config file's content."""

    def __init__(self, names: LabNames, config: LabConfig) -> None:
        self.names = names
        self.config = config
        self.fabric = Fabric(names)

    # -- made, found

    @staticmethod
    def create(
        name: str = "lab",
        hosts: int = 3,
        *,
        transport: Transport = "tls",
        controlplane: bool = True,
        existing_kubeconfig: str | Path | None = None,
        accelerator: Accel | None = None,
        qemu_conf: str = "",
    ) -> "Lab":
        """Check the machine and write the lab's config; starts nothing. A lab that exists is refused with its remedy."""
        if not 1 <= hosts <= MAX_HOSTS:
            raise LabError(f"hosts: {hosts} asked for, 1 to {MAX_HOSTS} are possible")
        names = LabNames.of(name)
        requirements.check(transport)
        if names.config_file.exists() or Fabric(names).exists() or Cgroup(names.cgroup).exists():
            raise LabError(
                f"lab {name!r} exists; take it down (`lq-operator lab down --name {name}`) or use another name"
            )
        config = LabConfig(
            hosts=hosts,
            transport=transport,
            controlplane=controlplane and existing_kubeconfig is None,
            existing_kubeconfig=None if existing_kubeconfig is None else str(Path(existing_kubeconfig).absolute()),
            accel=accelerator or probe_accelerator()[0],
            qemu_conf=qemu_conf,
        )
        lab = Lab(names, config)
        lab._save(config)
        return lab

    @staticmethod
    def load(name: str = "lab") -> "Lab":
        """The lab of that name from its state folder. Raises LabError when there is none."""
        names = LabNames.of(name)
        try:
            return Lab(names, LabConfig(**json.loads(names.config_file.read_text())))
        except FileNotFoundError as error:
            known = ", ".join(sorted(p.parent.name for p in names.state_dir.parent.glob("*/lab.json"))) or "none"
            raise LabError(f"no lab {name!r} in {names.state_dir.parent} (there: {known})") from error

    def _save(self, config: LabConfig) -> None:
        self.names.state_dir.mkdir(parents=True, exist_ok=True)
        scratch = self.names.config_file.with_suffix(".new")
        scratch.write_text(json.dumps(asdict(config), indent=1))
        scratch.rename(self.names.config_file)
        self.config = config

    # -- parts

    @property
    def accel(self) -> Accel:
        """What guests run on: `kvm` or `tcg`; a libvirt domain's type is `kvm` or `qemu` accordingly."""
        return self.config.accel

    @cached_property
    def hosts(self) -> list[LabHost]:
        """`h1`, `h2`, ... in order."""
        settings = HostSettings(
            self.config.transport, self.config.accel == "kvm", self.config.hosts, self.config.qemu_conf
        )
        return [LabHost(self.names, self.fabric, i, settings) for i in range(1, self.config.hosts + 1)]

    def host(self, name: str) -> LabHost:
        """One host by name. Raises LabError for an unknown one."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(
            f"no host {name!r} in lab {self.names.name!r}; there are {', '.join(h.name for h in self.hosts)}"
        )

    @property
    def control_plane(self) -> ControlPlane:
        """The lab's own cluster. Raises LabError when it has none."""
        if not self.config.controlplane:
            raise LabError(f"lab {self.names.name!r} was made without a control plane of its own")
        return ControlPlane(self.names, self.fabric)

    @property
    def supervisor(self) -> Supervisor:
        """Keeps controllers running."""
        return Supervisor(self.names, self.fabric)

    # -- where things are

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.names.name

    @property
    def state_dir(self) -> Path:
        """Everything of this lab that is a file."""
        return self.names.state_dir

    @property
    def shared_dir(self) -> Path:
        """A folder that every host sees at the same path."""
        return self.names.shared_dir

    @property
    def www_dir(self) -> Path:
        """Served at `www_url` inside the fabric; put further images here."""
        return self.names.www_dir

    @property
    def www_url(self) -> str:
        """Of the fabric's web server."""
        return f"http://{CONTROLLER_IP}:{IMAGE_PORT}"

    @property
    def image_url(self) -> str:
        """The guest's bootable disk image (qcow2)."""
        return f"{self.www_url}/{_IMAGE_NAME}"

    @property
    def image_sha256(self) -> str:
        """Of the file behind `image_url`."""
        return self.config.image_sha256

    @property
    def records_file(self) -> Path:
        """JSON lines, one per `GET /record?...` a guest made (see `httpd`)."""
        return self.names.state_dir / "records.jsonl"

    @property
    def client_pki(self) -> Path:
        """cacert.pem, clientcert.pem, clientkey.pem for `pkipath` (transport tls)."""
        return self.names.state_dir / "pki" / "client"

    @property
    def ssh_pki(self) -> Path:
        """id_ed25519 and known_hosts (transport ssh)."""
        return self.names.state_dir / "pki" / "ssh"

    @property
    def netns(self) -> str:
        """Name of the outer network namespace."""
        return self.names.netns

    @property
    def enter_argv(self) -> list[str]:
        """Prefix that runs a program inside the fabric."""
        return self.fabric.enter_argv

    @property
    def kubeconfig(self) -> Path:
        """Administrator's; works inside the fabric and, for the lab's own cluster, in the machine's namespace too."""
        if not self.config.controlplane and self.config.existing_kubeconfig is None:
            raise LabError(f"lab {self.name!r} was made without a control plane")
        return self.names.state_dir / "kubeconfig"

    # -- up and down

    def up(self, progress: Callable[[str], None] = _quiet, *, temporary_build_cache: bool = False) -> None:
        """Start everything that is not running. May be repeated; ends with every host and the API server answering.

        With `temporary_build_cache` a build of the control plane leaves no Go build cache behind (1.5 GB).
        """
        with exclusive(f"lab {self.name}", timeout_s=5):
            if self.config.controlplane:
                binaries.ensure(*binaries.FOR_UP, progress=progress, temporary_cache=temporary_build_cache)
            self._up(progress, guest.ensure(progress))

    def _up(self, progress: Callable[[str], None], image: guest.GuestImage) -> None:
        Cgroup(self.names.cgroup).create()
        access_ip = self.fabric.create()
        progress(f"fabric ready: network namespace {self.netns}, reached at {access_ip}")
        self.shared_dir.mkdir(parents=True, exist_ok=True)
        self._serve(image)
        progress(f"guest image served at {self.image_url}")
        with ThreadPoolExecutor() as pool:
            hosts = pool.submit(self._start_hosts, progress)
            if self.config.controlplane:
                self.control_plane.up(access_ip, progress)
            elif self.config.existing_kubeconfig is not None:
                self._join_existing_cluster(Path(self.config.existing_kubeconfig))
                progress(f"using the cluster of {self.config.existing_kubeconfig}")
            hosts.result()

    def _serve(self, image: guest.GuestImage) -> None:
        self.www_dir.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.disk, self.www_dir / _IMAGE_NAME)
        for kept in (image.kernel, image.initrd):
            shutil.copyfile(kept, self.shared_dir / kept.name)
        self._save(LabConfig(**{**asdict(self.config), "image_sha256": image.sha256}))
        group = Cgroup(f"{self.names.cgroup}/httpd")
        if not group.populated():
            argv = [*self.enter_argv, sys.executable, "-m", "lq_operator.lab.httpd", "--bind", CONTROLLER_IP]
            argv += ["--port", str(IMAGE_PORT), "--directory", str(self.www_dir), "--records", str(self.records_file)]
            group.spawn(argv, log=self.names.log_dir / "httpd.log", cwd=Path("/"))
        self.fabric.wait_port(CONTROLLER_IP, IMAGE_PORT)

    def _start_hosts(self, progress: Callable[[str], None]) -> None:
        write_client_credentials(self.names, self.config.transport, self.config.hosts)
        for host in self.hosts:
            host.start(wait=False)
        for host in self.hosts:
            host.wait_up()
            progress(f"host {host.name} ready: {host.uri}")
        # Also the reason why a second lab starts faster: the first one's probe of QEMU is kept.
        self.hosts[0].virsh("domcapabilities")
        self.hosts[0].keep_capabilities()

    def _join_existing_cluster(self, source: Path) -> None:
        """Forward a port of the fabric to the cluster, and write a kubeconfig that uses it."""
        config = yaml.safe_load(source.read_text())
        current = config.get("current-context")
        context = next((c["context"] for c in config["contexts"] if c["name"] == current), None)
        if context is None:
            raise LabError(f"{source}: current-context {current!r} is not among its contexts")
        cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == context["cluster"])
        server = urlsplit(cluster["server"])
        if server.scheme != "https" or server.hostname is None:
            raise LabError(f"{source}: server {cluster['server']!r} is no https URL")
        group = Cgroup(f"{self.names.cgroup}/tunnel")
        if not group.populated():
            argv = [sys.executable, "-m", "lq_operator.lab.tunnel", "--netns", self.netns]
            argv += ["--listen", f"0.0.0.0:{APISERVER_PORT}", "--to", f"{server.hostname}:{server.port or 443}"]
            group.spawn(argv, log=self.names.log_dir / "tunnel.log", cwd=Path("/"))
        self.fabric.wait_port(CONTROLLER_IP, APISERVER_PORT)
        cluster["server"] = f"https://{self.fabric.access_address()}:{APISERVER_PORT}"
        cluster.setdefault("tls-server-name", server.hostname)
        write_secret(self.kubeconfig, yaml.safe_dump(config, sort_keys=False).encode())

    def down(self) -> None:
        """Stop and remove everything of this lab except the cache."""
        take_down(self.name)

    # -- use

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread, and threads it starts meanwhile, into the fabric, where hosts can be reached."""
        with entered(self.netns):
            yield

    def exec(
        self, argv: list[str], *, timeout_s: float = 60, check: bool = False, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside the fabric."""
        return run([*self.enter_argv, *argv], timeout_s=timeout_s, check=check, stdin=stdin)

    def kubectl(
        self, *arguments: str, check: bool = True, stdin: str | None = None, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """kubectl as administrator, from the machine's own namespace."""
        program = binaries.ensure("kubectl")["kubectl"]
        cache = self.names.state_dir / "kubectl-cache"
        argv = [str(program), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={cache}", *arguments]
        return run(argv, check=check, stdin=stdin, timeout_s=timeout_s)

    def apiserver_stop(self) -> None:
        """kill -9 of the API server."""
        self.control_plane.apiserver_stop()

    def apiserver_start(self) -> None:
        """Start it and wait until it is ready."""
        self.control_plane.apiserver_start()
        self.control_plane.ensure_controller_manager()

    def etcd_kill(self) -> None:
        """kill -9 of etcd."""
        self.control_plane.etcd_kill()

    def etcd_start(self) -> None:
        """Start etcd on its data."""
        self.control_plane.etcd_start()

    def etcd_snapshot(self, path: str | Path) -> None:
        """Copy etcd's present data into the folder `path`, without stopping it."""
        self.control_plane.etcd_snapshot(Path(path))

    def etcd_restore(self, path: str | Path) -> None:
        """Put the cluster back to that snapshot; ends with the API server ready."""
        self.control_plane.etcd_restore(Path(path))

    def etcd_wipe(self) -> None:
        """The cluster forgets every object; ends with the API server ready."""
        self.control_plane.etcd_wipe()


def take_down(name: str) -> None:
    """Stop and remove everything of that name, also what a killed `up` left without a config file."""
    names = LabNames.of(name)
    with exclusive(f"lab {name}", timeout_s=5):
        Cgroup(names.cgroup).remove()
        Fabric(names).remove()
        _detach_loops(names.state_dir)
        if names.state_dir.exists():
            shutil.rmtree(names.state_dir)
        if names.state_dir.parent.is_dir() and not any(names.state_dir.parent.iterdir()):
            names.state_dir.parent.rmdir()


def _detach_loops(below: Path) -> None:
    """Loop devices are the machine's: a host that had a file system image attached leaves it so when it dies."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        if backing.read_text().startswith(f"{below}/"):
            run(["losetup", "-d", f"/dev/{backing.parts[3]}"])
