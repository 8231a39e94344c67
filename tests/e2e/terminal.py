"""A program in a terminal of its own: a pseudo terminal that is its controlling one, as a person's window is."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

from tests.e2e.datacenter import PATIENCE_S


class Terminal:
    """`screen` is everything it has printed."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.resize(100, 30)

        def own() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self._slave = slave
        self._process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env={"TERM": "xterm", **env}, preexec_fn=own
        )
        self.screen = ""
        self.before = termios.tcgetattr(slave)

    def resize(self, columns: int, rows: int) -> None:
        """As dragging the window's corner."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str, *, after: int = 0, timeout_s: float = PATIENCE_S) -> int:
        """Until it has printed this; the place behind it. AssertionError with the screen otherwise."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = re.compile(pattern).search(self.screen, after)
            if found:
                return found.end()
            assert time.monotonic() < deadline, f"never printed {pattern!r}:\n{self.screen[-3000:]}"
            if not self._read(0.2):
                assert self._process.poll() is None, f"ended without {pattern!r}:\n{self.screen[-3000:]}"

    def _read(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], timeout_s)
        if ready:
            self.screen += os.read(self._master, 65536).decode(errors="replace")
        return bool(ready)

    def ended(self, *, timeout_s: float = PATIENCE_S) -> int:
        """Its exit code."""
        deadline = time.monotonic() + timeout_s
        while self._process.poll() is None:
            assert time.monotonic() < deadline, f"runs still:\n{self.screen[-3000:]}"
            self._read(0.1)
        while self._read(0.1):
            pass
        return int(self._process.returncode)

    def restored(self) -> bool:
        """Echo, lines and signals are as they were."""
        return termios.tcgetattr(self._slave)[3] == self.before[3]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        os.close(self._slave)
