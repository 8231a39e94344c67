"""One host: a real libvirtd in namespaces of its own, with its faults.

It owns the host's folder, configuration, start and death. What a reboot loses is what a real one loses: /run, running
guests, runtime links; definitions, disks and logs stay in the host's folder.
"""

import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lq_operator.lab.cgroups import Cgroup
from lq_operator.lab.errors import LabError
from lq_operator.lab.fabric import Fabric
from lq_operator.lab.names import CONTROLLER_IP, DATA_PREFIX, MANAGEMENT_PREFIX, LabNames, cache_dir
from lq_operator.lab.pki import Authority, write_secret
from lq_operator.lab.shell import run

Transport = Literal["tls", "tcp", "ssh"]
PORTS: dict[str, int] = {"tls": 16514, "tcp": 16509, "ssh": 22}
_INIT = Path(__file__).parent / "data" / "host-init.sh"


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What all hosts of a lab share."""

    transport: Transport
    kvm: bool
    host_count: int
    qemu_conf: str = ""
    """Appended to every host's qemu.conf."""


class LabHost:
    """One host of the lab, `h1`, `h2` ... Works on what the machine says, so any process may hold one."""

    def __init__(self, names: LabNames, fabric: Fabric, index: int, settings: HostSettings) -> None:
        self.name = f"h{index}"
        self.index = index
        self.ip = f"{MANAGEMENT_PREFIX}{10 + index}"
        self.data_ip = f"{DATA_PREFIX}{10 + index}"
        self.dir = names.hosts_dir / self.name
        self.names = names
        self._fabric = fabric
        self._settings = settings
        self._group = Cgroup(f"{names.cgroup}/{self.name}")

    # -- identity and addresses

    @property
    def uuid(self) -> str:
        """What libvirt reports as the host's own UUID; kept over reboots."""
        file = self.dir / "uuid"
        if not file.exists():
            self.dir.mkdir(parents=True, exist_ok=True)
            file.write_text(str(uuid.uuid4()))
        return file.read_text().strip()

    @property
    def uri(self) -> str:
        """The libvirt URI for a client inside the fabric, credentials named in it."""
        pki = self.names.state_dir / "pki"
        if self._settings.transport == "tcp":
            return f"qemu+tcp://{self.ip}/system"
        if self._settings.transport == "ssh":
            # libvirt's ssh transport takes no known_hosts of its own (only its libssh ones do): a command that names it.
            options = f"keyfile={pki / 'ssh' / 'id_ed25519'}&command={pki / 'ssh' / 'ssh'}&no_tty=1"
            return f"qemu+ssh://root@{self.ip}/system?{options}"
        return f"qemu+tls://{self.ip}/system?pkipath={pki / 'client'}"

    def peer_uri(self, other: "LabHost") -> str:
        """The URI under which this host itself reaches another one (peer-to-peer migration), with its own credentials."""
        if self._settings.transport == "tls":
            return f"qemu+tls://{other.ip}/system?pkipath={self.dir / 'tls'}"
        return other.uri

    @property
    def pid1(self) -> int:
        """The host's first process, as the machine numbers it. Raises LabError when the host is off."""
        if not self.alive():
            raise LabError(f"host {self.name} is powered off; `lq-operator lab host {self.name} start`")
        return int(self._pid1_file.read_text())

    @property
    def _pid1_file(self) -> Path:
        return self.dir / "pid1"

    def alive(self) -> bool:
        """Whether the host has power (frozen counts as powered)."""
        return self._group.populated()

    def frozen(self) -> bool:
        """Whether every process of the host is stopped."""
        return self._group.frozen()

    def partitioned(self) -> bool:
        """Whether its management cable is cut."""
        return self.alive() and self._fabric.is_partitioned(self.index)

    # -- power

    def start(self, *, wait: bool = True) -> None:
        """Power on; with `wait` return when libvirtd accepts connections. A powered host is left alone."""
        if self.alive() and not self._pid1_file.exists():
            self.kill()  # whoever started it died before its cables were in
        if not self.alive():
            self._configure()
            self._power_on()
        if wait:
            self.wait_up()

    def wait_up(self, timeout_s: float = 60) -> None:
        """Return when the daemon accepts connections from the fabric."""
        self._fabric.wait_port(self.ip, PORTS[self._settings.transport], timeout_s)
        if self._settings.transport == "ssh":
            self._wait_socket(timeout_s)

    def _wait_socket(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.exec(["virsh", "-c", "qemu:///system", "version"], check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise LabError(f"libvirtd on {self.name} does not answer; see {self.dir / 'varlog'}")
            time.sleep(0.1)

    def _power_on(self) -> None:
        argv = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.dir / "home"),
            "LQ_ROOT": str(self.dir),
            "LQ_NAME": self.name,
            "LQ_INDEX": str(self.index),
            "LQ_TRANSPORT": self._settings.transport,
            "LQ_KVM": "1" if self._settings.kvm else "0",
        }
        self._pid1_file.unlink(missing_ok=True)
        parent = self._group.spawn([*argv, "bash", str(_INIT)], log=self.dir / "console.log", env=env)
        pid1 = self._first_child(parent)
        self._fabric.wire_host(self.index, pid1)
        # Last: its presence says that the host is complete.
        scratch = self._pid1_file.with_suffix(".new")
        scratch.write_text(str(pid1))
        scratch.rename(self._pid1_file)

    def _first_child(self, parent: int) -> int:
        """PID 1 as the machine sees it; unshare enters the namespaces first and forks afterwards."""
        children = Path(f"/proc/{parent}/task/{parent}/children")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                is_unshare = Path(f"/proc/{parent}/comm").read_text().strip() == "unshare"
                found = children.read_text().split() if is_unshare else []
            except FileNotFoundError:
                break
            if found:
                return int(found[0])
            time.sleep(0.005)
        last = (self.dir / "console.log").read_text(errors="replace")[-500:]
        raise LabError(f"host {self.name} did not start: {last}")

    def kill(self) -> None:
        """Power off as the plug does: cables first (a dead host sends no FIN), then everything at once, frozen or not."""
        self._fabric.unwire_host(self.index)
        self._fabric.forget_neighbour(self.ip)
        self._group.kill()

    def reset(self, *, wait: bool = True) -> None:
        """Reinstall: power off, forget definitions, disks and logs, power on; addresses, UUID and certificates stay."""
        self.kill()
        for folder in ("varlib", "varlog", "etc", "private"):
            shutil.rmtree(self.dir / folder, ignore_errors=True)
        self.start(wait=wait)

    def freeze(self) -> None:
        """A hung host: nothing in it runs any more, TCP still acknowledges."""
        self._group.freeze()

    def thaw(self) -> None:
        """End of the hang."""
        self._group.thaw()

    def partition(self, *, data: bool = False) -> None:
        """Cut the management network (with `data` the other one too); guests go on."""
        self._fabric.partition(self.index, data=data)

    def heal(self) -> None:
        """Both cables back."""
        self._fabric.heal(self.index)

    # -- inside

    def exec(
        self, argv: Sequence[str], *, timeout_s: float = 60, check: bool = False, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host and return its outputs. Raises LabError for a host that is off or frozen."""
        return run(self.enter_argv(argv), timeout_s=timeout_s, check=check, stdin=stdin)

    def enter_argv(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` on the host. What it leaves running belongs to the host and dies with it."""
        if self.frozen():
            raise LabError(f"host {self.name} is frozen; `lq-operator lab host {self.name} thaw` first")
        enter = ["nsenter", "-t", str(self.pid1), "-n", "-m", "-u", "-i", "-p", "--"]
        return self._group.enter_argv([*enter, *argv])

    def virsh(self, *arguments: str, check: bool = True, timeout_s: float = 60) -> str:
        """Standard output of virsh on the host's own socket: what the host says, whoever asks."""
        return self.exec(["virsh", "-q", "-c", "qemu:///system", *arguments], check=check, timeout_s=timeout_s).stdout

    def daemon_kill(self) -> None:
        """kill -9 of libvirtd, returns when it is gone; guests go on."""
        script = "p=$(cat /run/libvirtd.pid) && kill -9 $p && while [ -e /proc/$p ]; do sleep .01; done"
        self.exec(["sh", "-c", script], check=True)

    def daemon_start(self) -> None:
        """Start libvirtd again and wait until it accepts connections."""
        listen = [] if self._settings.transport == "ssh" else ["--listen"]
        self.exec(["libvirtd", "-d", *listen], check=True)
        self.wait_up()

    # -- configuration

    def _configure(self) -> None:
        for folder in ("varlib", "varlog", "etc", "cache", "home"):
            (self.dir / folder).mkdir(parents=True, exist_ok=True)
        self._seed_capabilities()
        (self.dir / "etc" / "libvirtd.conf").write_text(self._libvirtd_conf())
        (self.dir / "etc" / "qemu.conf").write_text(self._qemu_conf())
        names = [f"{MANAGEMENT_PREFIX}{10 + i} h{i}" for i in range(1, self._settings.host_count + 1)]
        hosts = ["127.0.0.1 localhost", f"{CONTROLLER_IP} controller", *names]
        (self.dir / "hosts").write_text("\n".join(hosts) + "\n")
        if self._settings.transport == "tls":
            self._write_certificates()
        if self._settings.transport == "ssh":
            self._write_sshd_config()

    def _libvirtd_conf(self) -> str:
        lines = [
            f"listen_tls = {int(self._settings.transport == 'tls')}",
            f"listen_tcp = {int(self._settings.transport == 'tcp')}",
            'auth_tcp = "none"',
            'auth_unix_rw = "none"',
            f'host_uuid = "{self.uuid}"',
            'log_outputs = "3:file:/var/log/libvirt/libvirtd.log"',
            "max_clients = 2000",
            "max_anonymous_clients = 200",
            "min_workers = 2",
            "max_workers = 20",
            "keepalive_interval = 5",
            "keepalive_count = 3",
        ]
        if self._settings.transport == "tls":
            tls = self.dir / "tls"
            lines += [f'{key}_file = "{tls / file}"' for key, file in
                      (("key", "server-key.pem"), ("cert", "server-cert.pem"), ("ca", "ca-cert.pem"))]  # fmt: skip
        return "\n".join(lines) + "\n"

    def _qemu_conf(self) -> str:
        lines = [
            'user = "root"',
            'group = "root"',
            'security_driver = "none"',
            "namespaces = []",
            "remember_owner = 0",
            'swtpm_user = "root"',  # Debian's tss user may not write the local CA that swtpm_setup makes
            'swtpm_group = "root"',
            'stdio_handler = "file"',  # no virtlogd needed
            'migration_address = "0.0.0.0"',
            f'migration_host = "{self.ip}"',  # without it a migration waits 5 s for a name to resolve
        ]
        if self._settings.transport == "tls":
            lines.append(f'default_tls_x509_cert_dir = "{self.dir / "tls"}"')
        return "\n".join([*lines, self._settings.qemu_conf]) + "\n"

    def _write_certificates(self) -> None:
        folder = self.dir / "tls"
        if (folder / "ca-cert.pem").exists():
            return
        authority = Authority(self.names.state_dir / "pki" / "ca", "lq-lab-libvirt")
        pair = authority.issue(self.name, hosts=(self.name, self.ip, self.data_ip), server=True)
        for role in ("server", "client"):
            write_secret(folder / f"{role}-cert.pem", pair.certificate)
            write_secret(folder / f"{role}-key.pem", pair.key)
        # libvirt's pkipath names, for a host that connects to another one (peer-to-peer migration).
        write_secret(folder / "cacert.pem", authority.certificate)
        write_secret(folder / "clientcert.pem", pair.certificate)
        write_secret(folder / "clientkey.pem", pair.key)
        write_secret(folder / "ca-cert.pem", authority.certificate)

    def _write_sshd_config(self) -> None:
        folder = self.dir / "ssh"
        folder.mkdir(exist_ok=True)
        pki = self.names.state_dir / "pki" / "ssh"
        lines = [
            f"HostKey {folder / 'host_key'}",
            f"AuthorizedKeysFile {pki / 'id_ed25519.pub'}",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "UsePAM no",
            "StrictModes no",
            "PidFile /run/sshd.pid",
            "MaxStartups 200",
            "MaxSessions 200",
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")

    # -- QEMU's capabilities: probing takes a new host 0.7 s or more, reading what another one found does not

    def _seed_capabilities(self) -> None:
        target = self.dir / "cache" / "qemu" / "capabilities"
        source = capability_cache()
        if source.is_dir() and not target.exists():
            shutil.copytree(source, target)

    def keep_capabilities(self) -> None:
        """Offer what this host's libvirtd found out about QEMU to hosts made later; libvirtd checks that it still fits."""
        source = self.dir / "cache" / "qemu" / "capabilities"
        target = capability_cache()
        if source.is_dir() and any(source.iterdir()) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = target.with_name(f"capabilities-{self.names.name}")
            shutil.copytree(source, scratch, dirs_exist_ok=True)
            try:
                scratch.rename(target)
            except OSError:  # another lab was faster
                shutil.rmtree(scratch)


def capability_cache() -> Path:
    """Where probed capabilities wait for new hosts."""
    return cache_dir() / "qemu" / "capabilities"


def write_client_credentials(names: LabNames, transport: Transport, host_count: int) -> None:
    """What a client of the hosts needs: a pkipath folder, or an ssh key and the hosts' keys."""
    pki = names.state_dir / "pki"
    if transport == "tls" and not (pki / "client" / "clientkey.pem").exists():
        authority = Authority(pki / "ca", "lq-lab-libvirt")
        pair = authority.issue("lq-operator")
        write_secret(pki / "client" / "cacert.pem", authority.certificate)
        write_secret(pki / "client" / "clientcert.pem", pair.certificate)
        write_secret(pki / "client" / "clientkey.pem", pair.key)
    if transport == "ssh":
        _write_ssh_keys(names, pki / "ssh", host_count)


def _write_ssh_keys(names: LabNames, folder: Path, host_count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    keys = [folder / "id_ed25519", *(names.hosts_dir / f"h{i}" / "ssh" / "host_key" for i in range(1, host_count + 1))]
    for key in keys:
        key.parent.mkdir(parents=True, exist_ok=True)
        if not key.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lq-lab-{names.name}", "-f", str(key)])
    known = [
        f"{MANAGEMENT_PREFIX}{10 + i} " + " ".join(key.with_suffix(".pub").read_text().split()[:2])
        for i, key in enumerate(keys)
        if i > 0
    ]
    (folder / "known_hosts").write_text("\n".join(known) + "\n")
    options = f"-F none -o UserKnownHostsFile={folder / 'known_hosts'} -o StrictHostKeyChecking=yes -o BatchMode=yes"
    (folder / "ssh").write_text(f'#!/bin/sh\nexec ssh {options} "$@"\n')
    (folder / "ssh").chmod(0o755)
