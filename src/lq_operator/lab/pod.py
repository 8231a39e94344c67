"""What a kubelet does to a container's process and a supervisor does not: a read-only root, emptyDirs, no capabilities.

`python -m lq_operator.lab.pod [--empty DIR]... [--writable-root] [--keep-capabilities] -- COMMAND...` changes itself in
a mount namespace of its own and becomes COMMAND. Standard library only: it stands in front of every controller.
"""

import argparse
import ctypes
import errno
import os
import sys
from collections.abc import Sequence

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 0x1000, 0x4000, 0x40000, 0x2, 0x4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SYS_MOUNT_SETATTR = 442  # the same on every architecture since Linux 5.12
_MOUNT_ATTR_RDONLY = 0x1
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 23, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    done = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _checked(done, f"mount {kind} on {target}")


def _read_only(target: str) -> None:
    attributes = _MountAttr(attr_set=_MOUNT_ATTR_RDONLY)
    done = _libc.syscall(
        _SYS_MOUNT_SETATTR,
        _AT_FDCWD,
        target.encode(),
        _AT_RECURSIVE,
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _checked(done, f"make {target} read-only")


def change_mounts(empty: Sequence[str], *, read_only_root: bool) -> None:
    """A mount namespace of our own in which only `empty` (fresh, in memory) and /dev/shm can be written."""
    _checked(_libc.unshare(_CLONE_NEWNS), "unshare the mount namespace")
    _mount("none", "/", "none", _MS_REC | _MS_PRIVATE)
    if read_only_root:
        _read_only("/")
    for directory in (*empty, "/dev/shm"):
        _empty_directory(directory, [path for path in _program_folders() if _lies_below(path, directory)])


def _program_folders() -> list[str]:
    """Where the interpreter and this package are: an image has them at places that no emptyDir covers, a checkout
    below /tmp has not."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return sorted({os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, package)})


def _lies_below(path: str, directory: str) -> bool:
    return os.path.commonpath([path, os.path.realpath(directory)]) == os.path.realpath(directory)


def _empty_directory(directory: str, kept: Sequence[str]) -> None:
    """Cover `directory` with memory; the kept folders stay visible in it, read-only."""
    # Opened before they are covered: a bind through the descriptor finds them afterwards.
    handles = [(path, os.open(path, os.O_PATH | os.O_DIRECTORY)) for path in kept]
    _mount("tmpfs", directory, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777,size=64m")
    for path, handle in handles:
        os.makedirs(path, exist_ok=True)
        _mount(f"/proc/self/fd/{handle}", path, "none", _MS_BIND | _MS_REC)
        _read_only(path)
        os.close(handle)


def drop_privileges() -> None:
    """No capability now or after exec, and no setuid program can give one back. The user stays: in the lab it is root,
    because the interpreter may lie in root's home; without capabilities root is bound by file modes as anybody is."""
    for capability in range(_LAST_CAPABILITY + 1):
        present = _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0)
        if present < 0 and ctypes.get_errno() == errno.EINVAL:
            break
        if present > 0:
            _checked(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), f"drop capability {capability}")
    _checked(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear ambient capabilities")
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")


def main(argv: Sequence[str]) -> None:
    """Change and become the command."""
    parser = argparse.ArgumentParser(prog="lq_operator.lab.pod")
    parser.add_argument("--empty", action="append", default=[], metavar="DIR")
    parser.add_argument("--writable-root", action="store_true")
    parser.add_argument("--keep-capabilities", action="store_true")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args(argv)
    change_mounts(arguments.empty, read_only_root=not arguments.writable_root)
    if not arguments.keep_capabilities:
        drop_privileges()
    os.execvp(arguments.command[0], arguments.command)  # noqa: S606 - becoming the command is the purpose


if __name__ == "__main__":
    main(sys.argv[1:])
