"""Entering a named network namespace from Python: of one thread, and back."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000


@contextmanager
def entered(name: str) -> Iterator[None]:
    """The calling thread, and threads it starts meanwhile, see the network of that namespace; files stay as they are.

    Sockets keep the namespace they were made in. `os.setns` is not used because it needs Python 3.12.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(libc.setns(other, _CLONE_NEWNET))
        finally:
            os.close(other)
        try:
            yield
        finally:
            _check(libc.setns(own, _CLONE_NEWNET))
    finally:
        os.close(own)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
