"""Locks between the lab's commands that leave no file behind and end with their holder, however it ends."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lq_operator.lab.errors import LabError


@contextmanager
def exclusive(what: str, *, timeout_s: float) -> Iterator[None]:
    """Hold `what` machine-wide, by binding an abstract socket name. Raises LabError when another holds it too long."""
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as holder:
        while True:
            try:
                holder.bind(f"\0lq-lab/{what}")
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LabError(
                        f"another lab command holds {what!r}: wait for it, or stop it "
                        f"(`ss -xlp | grep lq-lab/{what}` names the process), and try again"
                    ) from error
                time.sleep(0.1)
        holder.listen(1)
        yield
