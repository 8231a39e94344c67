"""libvirt's event loop (one thread for the process) and its callbacks in our words.

The loop also drives every keepalive timer, so it must be registered before the first open and must never
be kept: callbacks do nothing but hand a DomainEvent over.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import libvirt

from lq_operator.adapters.libvirt.words import LIFECYCLE
from lq_operator.core.model import DomainEvent, NodeName

Emit = Callable[[DomainEvent], None]

_lock = threading.Lock()
_threads: list[threading.Thread] = []  # at most one: libvirt's loop is one per process


def ensure_event_loop() -> None:
    """Start the process's libvirt event loop once. Idempotent; safe from any thread."""
    with _lock:
        if _threads:
            return
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are raised, not printed
        libvirt.virEventRegisterDefaultImpl()
        # A timer of our own keeps poll() from sleeping for ever when nothing else is registered.
        libvirt.virEventAddTimeout(1000, lambda _timer, _opaque: None, None)
        _threads.append(threading.Thread(target=_run, name="libvirt-events", daemon=True))
        _threads[0].start()


def _run() -> None:
    while True:
        # A callback's exception must not end the loop that every host's keepalive hangs on.
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()


def _word(words: tuple[str, ...], value: int) -> str:
    return words[value] if 0 <= value < len(words) else f"unknown-{value}"


def register(conn: Any, node: NodeName, emit: Emit) -> list[int]:
    """Ask the host for its events. Returns the ids to deregister. One RPC each."""

    def send(dom: Any, kind: str, detail: str) -> None:
        emit(DomainEvent(node=node, domain_name=str(dom.name()), kind=kind, detail=detail))

    def lifecycle(_conn: Any, dom: Any, event: int, detail: int, _opaque: Any) -> None:
        kind, details = LIFECYCLE.get(event, (f"unknown-{event}", ()))
        send(dom, "lifecycle", f"{kind}:{_word(details, detail)}")

    def agent(_conn: Any, dom: Any, state: int, _reason: int, _opaque: Any) -> None:
        connected = state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED
        send(dom, "agent", "connected" if connected else "disconnected")

    def reboot(_conn: Any, dom: Any, _opaque: Any) -> None:
        send(dom, "reboot", "")

    def watchdog(_conn: Any, dom: Any, action: int, _opaque: Any) -> None:
        send(dom, "watchdog", _word(("none", "pause", "reset", "poweroff", "shutdown", "debug", "nmi"), action))

    def io_error(_conn: Any, dom: Any, path: str, alias: str, action: int, reason: str, _opaque: Any) -> None:
        send(dom, "io-error", f"{_word(('none', 'pause', 'report'), action)}:{alias}:{reason}:{path}")

    wanted = (
        (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
        (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, agent),
        (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, reboot),
        (libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG, watchdog),
        (libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, io_error),
    )
    return [int(conn.domainEventRegisterAny(None, event_id, callback, None)) for event_id, callback in wanted]
