"""What a node's URI and Secret say, checked, and the private files that libvirt wants for it.

Refuses URI parameters outside a short list: `command=` and `netcat=` would let whoever may edit a
HypervisorNode run programs as the operator, `no_verify=1` would trust any host.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from lq_operator.core.result import Rejected, Transient

PORTS = {"tls": 16514, "tcp": 16509, "ssh": 22}
"""Default port of each transport (libvirt's documentation, "Remote support")."""

ALLOWED_PARAMETERS = frozenset({"mode", "proxy", "socket", "tls_priority"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a host answers. `transport` is 'tls', 'tcp' or 'ssh'."""

    driver: str
    transport: str
    host: str
    port: int
    user: str
    path: str
    parameters: tuple[tuple[str, str], ...]


def parse_endpoint(uri: str, drivers: tuple[str, ...] = ("qemu",)) -> Endpoint:
    """Raises Rejected naming what is wrong with the URI."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as problem:
        raise Rejected(f"URI {uri!r}: {problem}", field="spec.uri") from problem
    driver, _, transport = parts.scheme.partition("+")
    if driver not in drivers or transport not in PORTS:
        wanted = ", ".join(f"{name}+{kind}://" for name in drivers for kind in PORTS)
        raise Rejected(f"URI {uri!r}: the scheme must be one of {wanted}", field="spec.uri")
    if not parts.hostname:
        raise Rejected(f"URI {uri!r}: no host; write {parts.scheme}://HOST/system", field="spec.uri")
    if parts.password is not None:
        raise Rejected("URI: a password does not belong here; use credentials from a Secret", field="spec.uri")
    if driver == "qemu" and parts.path != "/system":
        raise Rejected(f"URI {uri!r}: the path must be /system, where system VMs live", field="spec.uri")
    return _checked(uri, parts, driver, transport, port or PORTS[transport])


def _checked(uri: str, parts: SplitResult, driver: str, transport: str, port: int) -> Endpoint:
    parameters = tuple(parse_qsl(parts.query, keep_blank_values=True))
    for name, _ in parameters:
        if name not in ALLOWED_PARAMETERS:
            allowed = ", ".join(sorted(ALLOWED_PARAMETERS))
            raise Rejected(f"URI {uri!r}: parameter {name!r} is not allowed (allowed: {allowed})", field="spec.uri")
    host = parts.hostname or ""
    if host.startswith("-") or (parts.username or "").startswith("-"):
        raise Rejected(f"URI {uri!r}: host and user must not start with '-'", field="spec.uri")
    return Endpoint(driver, transport, host, port, parts.username or "", parts.path, parameters)


SECRET_FILES = {
    "tls": {"ca.crt": "cacert.pem", "tls.crt": "clientcert.pem", "tls.key": "clientkey.pem"},
    "ssh": {"ssh-privatekey": "id", "known_hosts": "known_hosts"},
    "tcp": {},
}
"""Key of the Secret -> file name that libvirt (or our ssh call) expects."""


class Access:
    """The URI to open, with the credentials written 0600 in a directory of its own until close()."""

    def __init__(self, endpoint: Endpoint, credentials: Mapping[str, bytes], connect_timeout_s: float) -> None:
        self.endpoint = endpoint
        self.directory: Path | None = None
        files = SECRET_FILES[endpoint.transport]
        missing = [key for key in files if not credentials.get(key)]
        if missing:
            raise Rejected(
                f"{endpoint.transport.upper()} needs {', '.join(missing)} in the credentials Secret",
                field="spec.credentialsSecretRef",
            )
        extra: dict[str, str] = {}
        if files:
            self.directory = Path(tempfile.mkdtemp(prefix="lq-host-"))  # made with mode 0700
            for key, name in files.items():
                path = self.directory / name
                path.touch(mode=0o600)
                data = credentials[key]
                path.write_bytes(data if data.endswith(b"\n") else data + b"\n")  # ssh refuses a key without it
            if endpoint.transport == "tls":
                extra["pkipath"] = str(self.directory)
            else:
                extra["command"] = str(self._write_ssh(self.directory, connect_timeout_s))
                extra["keyfile"] = str(self.directory / "id")
        self.uri = self._uri(extra)

    def _write_ssh(self, directory: Path, connect_timeout_s: float) -> Path:
        """libvirt offers no way to bound ssh or to name known_hosts for it, so it calls this instead."""
        options = (
            f"ConnectTimeout={max(1, int(connect_timeout_s))}",
            "ServerAliveInterval=2",
            "ServerAliveCountMax=3",
            f"UserKnownHostsFile={directory / 'known_hosts'}",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
        )
        words = " ".join(f"-o {shlex.quote(option)}" for option in options)
        script = directory / "ssh"
        script.touch(mode=0o700)
        script.write_text(f'#!/bin/sh\nexec ssh -F /dev/null {words} "$@"\n', encoding="ascii")
        return script

    def _uri(self, extra: Mapping[str, str]) -> str:
        at = self.endpoint
        host = f"[{at.host}]" if ":" in at.host else at.host
        user = f"{quote(at.user, safe='')}@" if at.user else ""
        query = urlencode([*at.parameters, *extra.items()], quote_via=quote)
        base = f"{at.driver}+{at.transport}://{user}{host}:{at.port}{at.path}"
        return f"{base}?{query}" if query else base

    def close(self) -> None:
        """Remove the credentials. Idempotent."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None


def probe(endpoint: Endpoint, timeout_s: float) -> None:
    """Raises Transient with the remedy unless the port takes a TCP connection within timeout_s.

    libvirt's own connect() waits for the kernel: up to 127 s on dropped packets.
    """
    where = f"{endpoint.host} port {endpoint.port}"
    try:
        socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s).close()
    except UnicodeError as problem:
        raise Rejected(
            f"the name {endpoint.host!r} cannot be a host's: correct spec.uri", field="spec.uri"
        ) from problem
    except socket.gaierror as problem:
        raise Transient(
            f"the name {endpoint.host!r} does not resolve ({problem.strerror}): correct spec.uri or the DNS"
        ) from problem
    except ConnectionRefusedError as problem:
        raise Transient(
            f"{where} refuses connections: start libvirtd there, listening on {endpoint.transport}"
        ) from problem
    except TimeoutError as problem:
        raise Transient(
            f"{where} does not answer within {timeout_s:g} s: the host is off or hung, or a firewall drops it"
        ) from problem
    except OSError as problem:
        raise Transient(
            f"{where} cannot be reached: {problem.strerror or problem}: check host and network"
        ) from problem
