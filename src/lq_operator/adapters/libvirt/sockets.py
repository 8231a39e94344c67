"""Finds and cuts the socket (or the ssh process) behind a libvirt connection.

libvirt has no deadline for open() or close() and no way to interrupt them; shutting the socket down under
them makes both return at once (measured), as does ending the ssh process that is the wire.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

from lq_operator.adapters.libvirt.endpoint import Endpoint


def _inode(fd: str) -> str:
    try:
        link = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
    return link if link.startswith("socket:") else ""


def sockets_to(endpoint: Endpoint) -> frozenset[str]:
    """The kernel's names of this process's TCP sockets whose peer is the endpoint (any address of its name)."""
    return frozenset(inode for inode, _ in _peers(endpoint))


def _addresses(endpoint: Endpoint) -> frozenset[str]:
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        return frozenset(str(item[4][0]) for item in found)
    return frozenset()


def _peers(endpoint: Endpoint) -> list[tuple[str, str]]:
    addresses = _addresses(endpoint)
    found = []
    for fd in os.listdir("/proc/self/fd"):
        inode = _inode(fd)
        if not inode:
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(fd))) as copy:
            if copy.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            peer = copy.getpeername()
            if peer[1] == endpoint.port and str(peer[0]).removeprefix("::ffff:") in addresses:
                found.append((inode, fd))
    return found


def cut_sockets(inodes: frozenset[str]) -> None:
    """shutdown() the sockets of these names; whoever waits on them gets an error now."""
    if not inodes:
        return
    for fd in os.listdir("/proc/self/fd"):
        if _inode(fd) in inodes:
            # The number may be reused between the two calls only if the wire is gone already; checked again on the copy.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(fd))) as copy:
                if os.readlink(f"/proc/self/fd/{copy.fileno()}") in inodes:
                    copy.shutdown(socket.SHUT_RDWR)


def end_children(pids: frozenset[int]) -> None:
    """SIGKILL to children of ours; those that are gone are no error."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def ssh_children(directory: Path) -> frozenset[int]:
    """The ssh children of this process that use the credentials in `directory`."""
    found = set()
    marker = f"UserKnownHostsFile={directory}/known_hosts".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            if parent == os.getpid() and marker in (entry / "cmdline").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return frozenset(found)
