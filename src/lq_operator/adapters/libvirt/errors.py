"""One table: libvirt's error codes in our words. Everything leaves this adapter as a WorldError.

A code that is not in the table is Transient: a host that says something new must not stall a VM for ever,
and the message reaches a person through the condition either way.
"""

from __future__ import annotations

import errno
from typing import Any

import libvirt

from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected, Transient, WorldError

TABLE: dict[int, type[WorldError]] = {
    libvirt.VIR_ERR_INTERNAL_ERROR: Transient,  # QEMU died while starting, and a hundred other things
    libvirt.VIR_ERR_NO_MEMORY: Transient,  # the host is short of memory now
    libvirt.VIR_ERR_NO_SUPPORT: Rejected,  # this libvirt lacks the call
    libvirt.VIR_ERR_NO_CONNECT: Transient,  # no driver answered: the daemon is still starting
    libvirt.VIR_ERR_INVALID_CONN: Transient,  # the connection was closed under the call
    libvirt.VIR_ERR_INVALID_ARG: Rejected,  # a value the host cannot take
    libvirt.VIR_ERR_OPERATION_FAILED: Rejected,  # "domain 'x' already exists with uuid ...", pool defined already
    libvirt.VIR_ERR_XML_ERROR: Rejected,  # our XML says something this libvirt cannot parse
    libvirt.VIR_ERR_XML_DETAIL: Rejected,  # the same, with a line number
    libvirt.VIR_ERR_XML_INVALID_SCHEMA: Rejected,  # the same, by the schema
    libvirt.VIR_ERR_DOM_EXIST: Conflict,  # a domain of that name or UUID is there already
    libvirt.VIR_ERR_RPC: Transient,  # the wire broke
    libvirt.VIR_ERR_AUTH_FAILED: Rejected,  # the host wants other credentials
    libvirt.VIR_ERR_AUTH_CANCELLED: Rejected,  # the host asks for a password, which we never send
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: Rejected,  # polkit refuses the socket
    libvirt.VIR_ERR_NO_DOMAIN: NotFound,  # gone or never there
    libvirt.VIR_ERR_NO_NETWORK: NotFound,  # gone or never there
    libvirt.VIR_ERR_NO_STORAGE_POOL: NotFound,  # gone or never there
    libvirt.VIR_ERR_NO_STORAGE_VOL: NotFound,  # gone or never there
    libvirt.VIR_ERR_STORAGE_VOL_EXIST: Conflict,  # code 90: the name is in libvirt's list
    libvirt.VIR_ERR_NETWORK_EXIST: Conflict,  # made by somebody a moment ago
    libvirt.VIR_ERR_OPERATION_INVALID: Conflict,  # code 55, wrong state for the verb: look again
    libvirt.VIR_ERR_OPERATION_DENIED: Rejected,  # read-only connection
    libvirt.VIR_ERR_ACCESS_DENIED: Rejected,  # the host's access rules refuse us
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: Rejected,  # this host or QEMU cannot do what the definition asks
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: Rejected,  # a flag this host does not know
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: Rejected,  # never possible for this kind of object
    libvirt.VIR_ERR_OPERATION_TIMEOUT: Transient,  # another job holds the domain; nothing was done
    libvirt.VIR_ERR_RESOURCE_BUSY: Transient,  # code 87, the lock manager: someone else holds the lease
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: Transient,  # the guest agent is not installed, not up, or hung
    libvirt.VIR_ERR_AGENT_UNSYNCED: Transient,  # the agent answered something older
    libvirt.VIR_ERR_MIGRATE_UNSAFE: Rejected,  # the disks are not on shared storage
    libvirt.VIR_ERR_CPU_INCOMPATIBLE: Rejected,  # the host lacks the CPU model
    libvirt.VIR_ERR_NO_DOMAIN_METADATA: NotFound,  # code 80: not one of ours
}

ERRNO: dict[int, type[WorldError]] = {
    errno.ENOENT: Rejected,  # a file that the definition names is missing (not the domain: never NotFound)
    errno.ENOTDIR: Rejected,  # a path that cannot be
    errno.EACCES: Rejected,  # QEMU's user may not read it
    errno.EPERM: Rejected,  # the same, by a security driver
    errno.EROFS: Rejected,  # a read-only file system does not heal
    errno.EINVAL: Rejected,  # the host's kernel refuses the value
    errno.EEXIST: Conflict,  # somebody made the file first
}
"""For code 38 (VIR_ERR_SYSTEM_ERROR), whose int1 is the errno; the rest (ENOSPC, EBUSY ...) may pass."""


def code_of(problem: libvirt.libvirtError) -> int:
    """libvirt's code, -1 where the error carries none."""
    code: Any = problem.get_error_code()
    return -1 if code is None else int(code)


def errno_of(problem: libvirt.libvirtError) -> int:
    """errno of a VIR_ERR_SYSTEM_ERROR, 0 for every other error."""
    if code_of(problem) != libvirt.VIR_ERR_SYSTEM_ERROR:
        return 0
    return int(problem.get_int1() or 0)


def text_of(problem: libvirt.libvirtError) -> str:
    """libvirt's own sentence."""
    return str(problem.get_error_message() or problem)


def translate(problem: libvirt.libvirtError, what: str, *, wrote: bool, alive: bool) -> WorldError:
    """The error in our words. `alive` False: the connection died, so a write may have happened all the same."""
    message = f"{what}: {text_of(problem)}"
    if not alive:
        if wrote:
            return OutcomeUnknown(f"{message}; the connection died during the call: look before repeating it")
        return Transient(message)
    code = code_of(problem)
    if code == libvirt.VIR_ERR_SYSTEM_ERROR:
        return ERRNO.get(errno_of(problem), Transient)(message)
    return TABLE.get(code, Transient)(message)
