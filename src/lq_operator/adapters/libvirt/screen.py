"""A guest's screen, keys and pointer through libvirt calls alone: no port of the host is opened to the network.

Keys use virDomainSendKey. libvirt has no call for a pointer, so that goes to QEMU's monitor (`input-send-event`), which
libvirt allows and notes as taint "custom-monitor" in the domain's log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import libvirt
import libvirt_qemu

from lq_operator.adapters.libvirt.errors import translate
from lq_operator.core.result import Rejected
from lq_operator.ports import Picture

MOST_BYTES = 64 << 20
"""A PNG of 8K is smaller; a guest that claims more is not believed."""
CHUNK_BYTES = 256 << 10
HOLD_MS = 20
"""How long keys are held: long enough for firmware that polls."""
MOST_KEYS = 16  # VIR_DOMAIN_SEND_KEY_MAX_KEYS
ABSOLUTE_MAX = 0x7FFF  # QEMU's INPUT_EVENT_ABS_MAX
BUTTONS = ("left", "middle", "right", "wheel-up", "wheel-down")


def screenshot(conn: Any, domain_name: str) -> Picture:
    """The first screen of the domain as the host's QEMU gives it: PNG or PPM by its version."""
    domain = conn.lookupByName(domain_name)
    stream = conn.newStream(0)
    try:
        mime = str(domain.screenshot(stream, 0, 0))
    except libvirt.libvirtError as problem:
        if "no console to take a screendump" in str(problem):
            raise Rejected(
                f"{domain_name} has no screen: set spec.vnc and start it anew", field="spec.vnc"
            ) from problem
        raise
    parts: list[bytes] = []
    size = 0
    try:
        while part := stream.recv(CHUNK_BYTES):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise Rejected(f"{domain_name}: its screenshot is larger than {MOST_BYTES >> 20} MiB")
    except BaseException:
        stream.abort()
        raise
    stream.finish()
    return Picture(b"".join(parts), mime)


def press_keys(conn: Any, domain_name: str, keycodes: Sequence[int]) -> None:
    """All down, then all up."""
    codes = list(keycodes)
    if not codes or len(codes) > MOST_KEYS or any(not 0 < code < 0x300 for code in codes):
        raise Rejected(f"keys {codes}: from 1 to {MOST_KEYS} Linux key codes")
    domain = conn.lookupByName(domain_name)
    domain.sendKey(libvirt.VIR_KEYCODE_SET_LINUX, HOLD_MS, codes, len(codes), 0)


def point(conn: Any, domain_name: str, x: float, y: float, changed: Mapping[str, bool]) -> None:
    """One monitor command: the place first, then the buttons."""
    unknown = [button for button in changed if button not in BUTTONS]
    if unknown:
        raise Rejected(f"pointer buttons {unknown}: there are {', '.join(BUTTONS)}")
    events: list[dict[str, Any]] = [
        {"type": "abs", "data": {"axis": axis, "value": round(min(1.0, max(0.0, place)) * ABSOLUTE_MAX)}}
        for axis, place in (("x", x), ("y", y))
    ]
    events += [{"type": "btn", "data": {"button": button, "down": down}} for button, down in changed.items()]
    command = json.dumps({"execute": "input-send-event", "arguments": {"events": events}})
    domain = conn.lookupByName(domain_name)
    try:
        libvirt_qemu.qemuMonitorCommand(domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
    except libvirt.libvirtError as problem:
        if problem.get_error_code() == libvirt.VIR_ERR_INTERNAL_ERROR:  # how QEMU's own refusal arrives
            raise Rejected(f"{domain_name}: QEMU takes no pointer: {problem.get_error_message()}") from problem
        raise translate(problem, domain_name, wrote=True, alive=True) from problem
