"""Opens the libvirt connections to one host and closes them without ever waiting for a host.

Blocking code for a thread of its own; what comes out is an Opened, or an error whose sentence names the remedy.
"""

from __future__ import annotations

import atexit
import contextlib
import re
import threading
import weakref
from collections.abc import Callable
from typing import Any

import libvirt

from lq_operator.adapters.libvirt import events
from lq_operator.adapters.libvirt.calls import Lane
from lq_operator.adapters.libvirt.endpoint import Access, Endpoint, probe
from lq_operator.adapters.libvirt.errors import code_of, text_of
from lq_operator.adapters.libvirt.inventory import observe_uuid
from lq_operator.adapters.libvirt.settings import LibvirtSettings
from lq_operator.adapters.libvirt.sockets import cut_sockets, end_children, sockets_to, ssh_children
from lq_operator.core.model import HostUUID, NodeName
from lq_operator.core.result import Transient, WorldError

CLOSE_REASONS = ("I/O error", "the host closed the connection", "no keepalive answer", "closed by us")


class Wire:
    """What carries connections that are opened together, and how to cut it from outside: sockets, or ssh children.

    It is found by what is new, so wires to one host are opened one after the other.
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self._before: frozenset[Any] | None = None
        self._mine: frozenset[Any] | None = None

    def opening(self) -> None:
        """Call just before open(): what is there now belongs to others."""
        self._before = self._now()
        _wires.add(self)

    def _now(self) -> frozenset[Any]:
        if self.access.endpoint.transport != "ssh":
            return sockets_to(self.access.endpoint)
        return ssh_children(self.access.directory) if self.access.directory is not None else frozenset()

    def opened(self) -> None:
        """The connection stands: from now on only what carries it is cut."""
        self._mine = self._now() - (self._before or frozenset())

    def cut(self) -> None:
        """Everybody who waits on this connection gets an error now. Never blocks; idempotent."""
        if self._before is None:
            return
        mine = self._mine if self._mine is not None else self._now() - self._before
        if self.access.endpoint.transport == "ssh":
            end_children(mine & self._now())  # the number of a process that has ended is given to others
        else:
            cut_sockets(mine)


_wires: weakref.WeakSet[Wire] = weakref.WeakSet()


@atexit.register
def _cut_all() -> None:
    """A connection to a frozen host that is still held at exit would hang in its destructor for ever."""
    for wire in list(_wires):
        wire.cut()


def is_alive(conn: Any) -> bool:
    """False once libvirt knows that the wire broke; asks nobody."""
    with contextlib.suppress(libvirt.libvirtError):
        return bool(conn.isAlive())
    return False


def connections_of(settings: LibvirtSettings, transport: str) -> dict[Lane, int]:
    """How many connections each lane gets."""
    ssh = transport == "ssh"
    return {
        Lane.SHORT: settings.short_connections,
        Lane.START: 1 if ssh else settings.start_connections,
        Lane.LONG: 1 if ssh else settings.long_connections,
        Lane.AGENT: 1 if ssh else settings.agent_connections,
    }


class Opened:
    """The connections to one host that stand and fall together; the first of the short lane has the events.

    All of them are opened before the first call, so that none can have met a later boot of the host than another.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.conns: dict[Lane, list[Any]] = {lane: [] for lane in Lane}
        self.event_ids: list[int] = []
        self.uuid = HostUUID("")

    def close(self, *, polite: bool, timeout_s: float, wait_idle: Callable[[float], bool] = lambda _: True) -> None:
        """Blocking. Give everything back. Not polite, or too slow: the wire is cut first.

        `wait_idle(timeout_s)` says whether all calls have left libvirt. While one has not, the connection is
        not closed, because that frees it under the call; its wire is cut, so it costs its memory and no more.
        """
        if not polite or not wait_idle(timeout_s):
            self.wire.cut()
            if not wait_idle(timeout_s):
                return
        ending = threading.Thread(target=self._end, name="libvirt-close", daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():
            self.wire.cut()
            ending.join(timeout_s)
        self.wire.cut()  # another reference may have kept it open

    def _end(self) -> None:
        for event_id in self.event_ids:
            with contextlib.suppress(libvirt.libvirtError):
                self.conns[Lane.SHORT][0].domainEventDeregisterAny(event_id)
        for conn in [conn for lane in self.conns.values() for conn in lane]:
            with contextlib.suppress(libvirt.libvirtError):
                conn.unregisterCloseCallback()
            with contextlib.suppress(libvirt.libvirtError):
                conn.close()


def open_connection(
    node: NodeName,
    access: Access,
    wire: Wire,
    settings: LibvirtSettings,
    on_close: Callable[[str], None],
    emit: events.Emit,
) -> Opened:
    """Probe, open, keepalive, events, UUID. Raises WorldError with a sentence for a person."""
    probe(access.endpoint, settings.probe_timeout_s)
    events.ensure_event_loop()
    wire.opening()
    opened = Opened(wire)
    try:
        for lane, wanted in connections_of(settings, access.endpoint.transport).items():
            for _ in range(wanted):
                conn = libvirt.open(access.uri)
                opened.conns[lane].append(conn)
                conn.registerCloseCallback(lambda _conn, reason, _opaque: on_close(CLOSE_REASONS[reason & 3]), None)
                is_first = conn is opened.conns[Lane.SHORT][0]
                interval_s = settings.keepalive_interval_s if is_first else settings.spare_keepalive_interval_s
                conn.setKeepAlive(interval_s, settings.keepalive_count)
        wire.opened()
        first = opened.conns[Lane.SHORT][0]
        opened.uuid = observe_uuid(first)
        opened.event_ids = events.register(first, node, emit)
    except libvirt.libvirtError as problem:
        opened.close(polite=False, timeout_s=settings.close_timeout_s)
        raise explain(access.endpoint, problem) from problem
    except WorldError:
        opened.close(polite=False, timeout_s=settings.close_timeout_s)
        raise
    return opened


_REMEDIES = (
    # (part of libvirt's or GnuTLS's text in lower case, what it means and what to do)
    ("unable to import", "no usable certificate: check ca.crt, tls.crt and tls.key in the credentials Secret"),
    ("unable to set x509 key", "tls.crt and tls.key do not fit: check both in the credentials Secret"),
    ("but we need one for", "the wrong kind of certificate: check ca.crt and tls.crt in the credentials Secret"),
    ("clientcert.pem", "our own certificate is not usable: check tls.crt and ca.crt in the credentials Secret"),
    ("cacert.pem", "our own CA is not usable: check ca.crt in the credentials Secret"),
    ("failed to verify peer", "the host's certificate is not signed by ca.crt: put the CA that signed it there"),
    ("hasn't got a known issuer", "the host's certificate is not signed by ca.crt: put the CA that signed it there"),
    ("not trusted", "the host's certificate is not trusted by ca.crt: put the CA that signed it there"),
    ("certificate is not valid", "the host's certificate fails verification: check ca.crt and the host's certificate"),
    ("owner does not match", "the host's certificate is for another name: use that name or address in spec.uri"),
    ("expired", "a certificate has expired: renew it"),
    ("not yet active", "a certificate is not valid yet: check the clocks"),
    ("unexpected tls packet", "what answers there does not speak TLS: use qemu+tcp or the right port"),
    ("tls handshake failed", "the TLS handshake failed: check that the port is libvirtd's TLS port"),
    ("tls confirmation", "the host refuses our certificate: tls.crt must be signed by the CA that the host trusts"),
    ("tls session", "TLS failed: the host may not accept our certificate (tls.crt signed by the host's CA?)"),
    ("received from server too", "what answers there is not libvirtd: correct host and port in spec.uri"),
    ("host key verification failed", "the SSH host key is not in known_hosts: add the host's key to the Secret"),
    ("permission denied", "the host refuses us: check user and key, and that the user may open libvirt's socket"),
    ("could not resolve", "the host name does not resolve: correct spec.uri or the DNS"),
    ("authentication", "the host asks for a login: configure auth_tcp/auth_tls and polkit for this client"),
    ("failed to connect socket", "SSH works but libvirtd's socket does not answer: start libvirtd there"),
    ("end of file while reading data", "the host hung up: it may refuse our certificate, or not be libvirtd"),
    ("cannot recv data", "the host hung up: it may refuse our certificate, or not be libvirtd"),
)


def explain(endpoint: Endpoint, problem: libvirt.libvirtError) -> WorldError:
    """An error of open() as a sentence: where, what it means and the remedy, libvirt's words last."""
    said = " ".join(text_of(problem).split())
    said = said[:500]  # it ends in a condition, and whoever answers on that port chose the words
    said = re.sub(r"\S*/lq-host-[^/\s]*/", "", said)  # a path of this process helps nobody
    lowered = said.lower()
    where = f"{endpoint.host} port {endpoint.port}"
    for part, meaning in _REMEDIES:
        if part in lowered:
            return Transient(f"{where}: {meaning} (libvirt: {said})")
    if code_of(problem) in (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_CANCELLED):
        return Transient(f"{where}: the host refuses our login: check the credentials Secret (libvirt: {said})")
    return Transient(f"{where}: {said}")
