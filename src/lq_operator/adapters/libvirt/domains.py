"""Domain verbs over one connection: plain blocking functions, run by calls.py in a thread.

Every verb looks its domain up by name on the connection it is given; nothing is kept between calls.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import libvirt

from lq_operator.adapters.libvirt.errors import code_of
from lq_operator.adapters.libvirt.words import state_of
from lq_operator.adapters.libvirt.xml.domain import domain_xml, with_gate
from lq_operator.adapters.libvirt.xml.parse import read_domain, read_hardware
from lq_operator.core.model import DomainPlan, DomainSeen, DomainState, HardwareAbi
from lq_operator.core.result import Rejected, Transient

_LISTINGS = 5

_MODES = {
    "agent": (libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT, libvirt.VIR_DOMAIN_REBOOT_GUEST_AGENT),
    "acpi": (libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN, libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN),
}


def _find(conn: Any, domain_name: str) -> Any:
    return conn.lookupByName(domain_name)


def _describe(dom: Any) -> DomainSeen:
    # The gate is that of the next start, so of the inactive definition; a transient domain has only the live one.
    persistent = bool(dom.isPersistent())
    document = dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE if persistent else 0)
    state, word = state_of(*dom.state(0))
    seen = read_domain(document, state, word, persistent=persistent)
    if not (persistent and state.runs):
        return seen
    # Who runs, and under which epoch, is in the live one: define is not gated, so a deposed owner may redefine late.
    live = read_domain(dom.XMLDesc(0), state, word, persistent=True)
    return replace(live, gate=seen.gate)


def list_domains(conn: Any) -> tuple[DomainSeen, ...]:
    """Every domain, all or an error.

    libvirt lists atomically, but describes domain by domain. One that vanished in between is left out only
    when a second listing lacks it too; one that came back meanwhile makes us start again.
    """
    for _ in range(_LISTINGS):
        seen, vanished = [], set()
        for dom in conn.listAllDomains(0):
            try:
                seen.append(_describe(dom))
            except libvirt.libvirtError as problem:
                if code_of(problem) != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
                vanished.add(dom.UUIDString())
        if not vanished or vanished.isdisjoint(dom.UUIDString() for dom in conn.listAllDomains(0)):
            return tuple(sorted(seen, key=lambda domain: domain.domain_name))
    raise Transient(f"domains came and went through {_LISTINGS} listings: list again")


def find_domain(conn: Any, domain_name: str) -> DomainSeen | None:
    """None only when the host says that there is none."""
    try:
        return _describe(_find(conn, domain_name))
    except libvirt.libvirtError as problem:
        if code_of(problem) == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def observe_hardware(conn: Any, domain_name: str) -> HardwareAbi:
    """From the live XML while it runs (there the CPU model is expanded), else from the definition."""
    return read_hardware(_find(conn, domain_name).XMLDesc(0))


def define(conn: Any, plan: DomainPlan) -> None:
    """Define or redefine. The definition is refused by libvirt when name and UUID belong to different domains."""
    dom = conn.defineXMLFlags(domain_xml(plan), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    if dom.autostart():  # somebody switched it on by hand; hosts never start guests by themselves
        dom.setAutostart(0)


def start(conn: Any, domain_name: str, *, paused: bool) -> None:
    """Boot from the definition (or from the managed save that somebody made by hand: it has a gate, too)."""
    _find(conn, domain_name).createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)


def _mode(mode: str) -> tuple[int, int]:
    try:
        return _MODES[mode]
    except KeyError:
        raise Rejected(f"mode {mode!r} is not agent or acpi", field="mode") from None


def shutdown(conn: Any, domain_name: str, mode: str) -> None:
    """Ask the guest. Returns when it was asked."""
    flags = _mode(mode)[0]
    _find(conn, domain_name).shutdownFlags(flags)


def reboot(conn: Any, domain_name: str, mode: str) -> None:
    """Ask the guest. Returns when it was asked."""
    flags = _mode(mode)[1]
    _find(conn, domain_name).reboot(flags)


def reset(conn: Any, domain_name: str) -> None:
    """The reset button."""
    _find(conn, domain_name).reset(0)


def destroy(conn: Any, domain_name: str) -> None:
    """Pull the plug. A domain that does not run is as wished."""
    dom = _find(conn, domain_name)
    try:
        dom.destroyFlags(0)
    except libvirt.libvirtError as problem:
        if code_of(problem) != libvirt.VIR_ERR_OPERATION_INVALID or dom.isActive():
            raise


def undefine(conn: Any, domain_name: str, *, keep_nvram: bool) -> None:
    """Forget the definition with its snapshots' and checkpoints' metadata. Absent already is success.

    keep_nvram keeps the TPM state too: both are guest state that outlives a stay on this host.
    """
    flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    flags |= libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    if keep_nvram:
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_TPM
    else:
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_TPM
    try:
        dom = _find(conn, domain_name)
        if dom.isPersistent():  # one that only runs has no definition to forget
            dom.undefineFlags(flags)
    except libvirt.libvirtError as problem:
        if code_of(problem) != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def pause(conn: Any, domain_name: str) -> None:
    """Stop the vCPUs. Paused already is as wished."""
    dom = _find(conn, domain_name)
    try:
        dom.suspend()
    except libvirt.libvirtError as problem:
        if not _is_already(dom, problem, DomainState.PAUSED):
            raise


def resume(conn: Any, domain_name: str) -> None:
    """Let the vCPUs run. Running already is as wished."""
    dom = _find(conn, domain_name)
    try:
        dom.resume()
    except libvirt.libvirtError as problem:
        if not _is_already(dom, problem, DomainState.RUNNING):
            raise


def _is_already(dom: Any, problem: libvirt.libvirtError, wanted: DomainState) -> bool:
    return code_of(problem) == libvirt.VIR_ERR_OPERATION_INVALID and state_of(*dom.state(0))[0] is wanted


def save(conn: Any, domain_name: str, path: str) -> None:
    """Memory and devices to a file; the domain is off afterwards and keeps its definition."""
    _find(conn, domain_name).saveFlags(path, None, 0)


def restore(conn: Any, path: str, plan: DomainPlan) -> None:
    """Start from a file under the gate of `plan`. The definition comes first, or the domain would be transient.

    The guest runs afterwards, also one that was paused when it was saved: left paused it would show "migration",
    the word of a guest that may not be resumed.

    Rejected when the image is of another domain: restoring it would start a guest under a foreign identity.
    """
    document = conn.saveImageGetXMLDesc(path, libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
    image = read_domain(document, *state_of(5, 0), persistent=True)
    if image.domain_uuid != plan.identity.domain_uuid:
        raise Rejected(f"{path} is the suspend image of {image.domain_name}, not of {plan.identity.domain_name}")
    changed = with_gate(document, plan)
    define(conn, plan)
    conn.restoreFlags(path, changed, libvirt.VIR_DOMAIN_SAVE_RUNNING)
