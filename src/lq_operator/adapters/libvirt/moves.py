"""Live moves over one connection to the source: plain blocking functions. libvirt's peer to peer carries them.

What `move` says is true of this host when it says so: where the guest does not run here any more after an error,
nobody but both hosts together knows how it ended, and that is OutcomeUnknown.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import libvirt

from lq_operator.adapters.libvirt.errors import TABLE, code_of, text_of
from lq_operator.adapters.libvirt.words import state_of
from lq_operator.adapters.libvirt.xml.domain import cpu_xml
from lq_operator.adapters.libvirt.xml.moving import disk_targets, moved_xml, shares_disks
from lq_operator.core.model import DomainPlan, MovePlan, MoveProgress, MoveResult
from lq_operator.core.result import Conflict, OutcomeUnknown, Rejected, Transient, WorldError

LIVE_XML = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE

_POST_COPY = ("postcopy", "postcopy-failed")


def move(conn: Any, plan: MovePlan) -> MoveResult:
    """Blocks until it is over. Errors in our words, as ports.Host.move has them; a broken wire is left to calls.py."""
    dom = conn.lookupByName(plan.domain_name)
    document = dom.XMLDesc(LIVE_XML)
    if not dom.isActive():
        raise Conflict(f"domain {plan.domain_name} does not run")
    if _move_stats(dom) is not None:
        raise Conflict(f"domain {plan.domain_name} is on its way already")
    parameters = move_parameters(document, plan)
    flags = move_flags(document, plan)
    # A setting of the running QEMU, not of the call: it stays until the next move sets it.
    dom.migrateSetMaxDowntime(plan.max_downtime_ms, 0)
    began_s = time.monotonic()
    try:
        dom.migrateToURI3(plan.peer_uri, parameters, flags)
    except libvirt.libvirtError as problem:
        if not conn.isAlive():
            raise
        raise explain_move(problem, plan, _state_word(dom)) from problem
    return _result(dom, int((time.monotonic() - began_s) * 1000))


def move_flags(document: str, plan: MovePlan) -> int:
    """VIR_MIGRATE_* of this move."""
    flags = libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PERSIST_DEST
    if plan.copied_disks:
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
    if shares_disks(document, plan.copied_disks):
        # libvirt knows a few cluster file systems by name and calls every other directory unsafe, also one that both
        # hosts mount. Which pools are shared is declared (StoragePool.spec.access): a disk that is not goes along.
        flags |= libvirt.VIR_MIGRATE_UNSAFE
    if plan.auto_converge:
        flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
    if plan.arrive_paused:
        if plan.post_copy:
            raise Rejected("a guest cannot arrive paused where post-copy is allowed", field="post_copy")
        flags |= libvirt.VIR_MIGRATE_PAUSED
    if plan.post_copy:
        flags |= libvirt.VIR_MIGRATE_POSTCOPY
    elif plan.parallel_connections > 1:  # QEMU has either several connections or post-copy
        flags |= libvirt.VIR_MIGRATE_PARALLEL
    if _peer(plan).scheme.endswith("+tls"):
        # The target's libvirtd is asked over TLS, so the guest's memory goes over TLS, too. libvirtd refuses where
        # QEMU has no certificates: nothing goes in the clear by accident.
        flags |= libvirt.VIR_MIGRATE_TLS
    return int(flags)


def move_parameters(document: str, plan: MovePlan) -> dict[str, Any]:
    """VIR_MIGRATE_PARAM_* of this move. Rejected where the plan and the guest do not fit."""
    parameters: dict[str, Any] = {
        libvirt.VIR_MIGRATE_PARAM_DEST_XML: moved_xml(document, plan.running),
        libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: moved_xml(document, plan.kept),
    }
    peer = _peer(plan)
    # libvirt's own choice is the target's host name, which the source often cannot resolve or takes for itself.
    address = plan.data_address or peer.hostname
    if address:
        bare = address.strip("[]")
        parameters[libvirt.VIR_MIGRATE_PARAM_URI] = f"tcp://[{bare}]" if ":" in bare else f"tcp://{bare}"
    if plan.copied_disks:
        parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(disk_targets(document, plan.copied_disks))
    if plan.bandwidth_mib_s:
        parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = plan.bandwidth_mib_s
        if plan.post_copy:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY] = plan.bandwidth_mib_s
    if plan.parallel_connections > 1 and not plan.post_copy:
        parameters[libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = plan.parallel_connections
    if peer.scheme.endswith("+tls") and peer.hostname:
        # Certificates name the host as libvirt is reached, which is not always the address that carries the data.
        parameters[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = peer.hostname
    return parameters


def _peer(plan: MovePlan) -> Any:
    try:
        return urlsplit(plan.peer_uri)
    except ValueError as problem:
        raise Rejected(f"URI {plan.peer_uri!r}: {problem}", field="spec.migration.uri") from problem


def _state_word(dom: Any) -> tuple[bool, str]:
    """(runs, reason); what is not there does not run."""
    try:
        state, word = state_of(*dom.state(0))
    except libvirt.libvirtError as problem:
        if code_of(problem) == libvirt.VIR_ERR_NO_DOMAIN:
            return False, "gone"
        raise
    return state.runs, word


# Words of libvirt ("Cannot read CA certificate") and of QEMU ("Unable to access credentials"); neither has a code for it.
_NO_CREDENTIALS = ("credentials", "certificate")
_REFUSED = (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR)


def explain_move(problem: libvirt.libvirtError, plan: MovePlan, now: tuple[bool, str]) -> WorldError:
    """An error of migrateToURI3 in our words. `now`: whether the domain runs here after it, and libvirt's reason."""
    runs, word = now
    said = " ".join(text_of(problem).split())
    message = f"moving {plan.domain_name} to {_peer(plan).hostname}: {said}"
    if not runs or word in _POST_COPY:
        return OutcomeUnknown(f"{message}; the guest does not run here now ({word}): ask both hosts")
    code = code_of(problem)
    if code == libvirt.VIR_ERR_MIGRATE_PERSIST_FAILED:
        return OutcomeUnknown(f"{message}; ask both hosts")
    if code in _REFUSED and plan.running.gate_path and plan.running.gate_path in said:
        return Rejected(f"{message}; the ticket of this move is gone from the target")
    if any(word in said for word in _NO_CREDENTIALS):
        return Rejected(f"{message}; the source and QEMU on both hosts need certificates that the other one trusts")
    if code == libvirt.VIR_ERR_OPERATION_FAILED:
        # One code for "exists already" and for everything that breaks off on the way.
        return (Rejected if "already exists" in said else Transient)(message)
    if code == libvirt.VIR_ERR_SYSTEM_ERROR:
        return Transient(message)  # the peer's port, name or route; a missing file of the guest is checked before
    return TABLE.get(code, Transient)(message)


def _result(dom: Any, total_ms: int) -> MoveResult:
    """What libvirt measured; its clock starts a little later than the call. Without an answer: the call's time."""
    try:
        stats = dom.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    except libvirt.libvirtError:
        stats = {}
    return MoveResult(
        total_ms=int(stats.get(libvirt.VIR_DOMAIN_JOB_TIME_ELAPSED, total_ms)),
        downtime_ms=int(stats.get(libvirt.VIR_DOMAIN_JOB_DOWNTIME, 0)),
        transferred_bytes=int(stats.get(libvirt.VIR_DOMAIN_JOB_DATA_PROCESSED, 0)),
    )


def observe_progress(conn: Any, domain_name: str) -> MoveProgress | None:
    """Of the move under way from here; None where there is none (also while another job runs)."""
    stats = _move_stats(conn.lookupByName(domain_name))
    if stats is None:
        return None
    page = int(stats.get(libvirt.VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE, 4096))
    return MoveProgress(
        total_bytes=int(stats.get(libvirt.VIR_DOMAIN_JOB_DATA_TOTAL, 0)),
        remaining_bytes=int(stats.get(libvirt.VIR_DOMAIN_JOB_DATA_REMAINING, 0)),
        transferred_bytes=int(stats.get(libvirt.VIR_DOMAIN_JOB_DATA_PROCESSED, 0)),
        dirty_bytes_s=int(stats.get(libvirt.VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE, 0)) * page,
        expected_downtime_ms=int(stats.get(libvirt.VIR_DOMAIN_JOB_DOWNTIME, 0)),
        elapsed_ms=int(stats.get(libvirt.VIR_DOMAIN_JOB_TIME_ELAPSED, 0)),
        iteration=int(stats.get(libvirt.VIR_DOMAIN_JOB_MEMORY_ITERATION, 0)),
        post_copy=state_of(*conn.lookupByName(domain_name).state(0))[1] in _POST_COPY,
    )


def _move_stats(dom: Any) -> dict[str, Any] | None:
    if not dom.isActive():
        return None
    try:
        stats: dict[str, Any] = dom.jobStats(0)
    except libvirt.libvirtError as problem:
        code = code_of(problem)
        # The target of a move has no numbers; a domain that has just changed over is not active any more.
        arrives = code == libvirt.VIR_ERR_OPERATION_UNSUPPORTED
        if arrives or (code == libvirt.VIR_ERR_OPERATION_INVALID and not dom.isActive()):
            return None
        raise
    none = stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE
    is_move = stats.get(libvirt.VIR_DOMAIN_JOB_OPERATION) == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
    return stats if is_move and not none else None


def cancel_move(conn: Any, domain_name: str) -> None:
    """Late is harmless: it ends whatever move is under way, and the guest stays where it is.

    A job that is no move is left alone. Conflict once post-copy has begun.
    """
    dom = conn.lookupByName(domain_name)
    if _move_stats(dom) is None:
        return
    if _state_word(dom)[1] in _POST_COPY:
        raise Conflict(f"domain {domain_name} runs on the target already: post-copy cannot be called off")
    try:
        dom.abortJob()
    except libvirt.libvirtError as problem:
        if code_of(problem) != libvirt.VIR_ERR_OPERATION_INVALID or _move_stats(dom) is not None:
            raise


def start_post_copy(conn: Any, domain_name: str) -> None:
    """Conflict where no move that allows it is under way (libvirt: code 55)."""
    dom = conn.lookupByName(domain_name)
    if _move_stats(dom) is None:
        raise Conflict(f"domain {domain_name}: no move is under way")
    dom.migrateStartPostCopy(0)


def cpu_obstacle(conn: Any, plan: DomainPlan) -> str:
    """'' or libvirt's sentence about what this host's CPU lacks for the guest.

    Under emulation the comparison is with what QEMU can emulate.
    """
    document = cpu_xml(plan)
    if document == "":
        return ""
    virt = "kvm" if plan.accel == "kvm" else "qemu"
    machine = plan.hardware.machine or plan.machine
    try:
        answer = conn.compareHypervisorCPU(
            None, plan.arch, machine, virt, document, libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
        )
    except libvirt.libvirtError as problem:
        said = " ".join(text_of(problem).split())
        # A libvirt older than the model or feature says so with its code for everything.
        if code_of(problem) == libvirt.VIR_ERR_CPU_INCOMPATIBLE or "Unknown CPU" in said:
            return said
        raise
    return "" if answer != libvirt.VIR_CPU_COMPARE_INCOMPATIBLE else "the host's CPU lacks what the guest sees"
