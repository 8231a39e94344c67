"""What a person sees while a command waits: one line that changes on a terminal, one line per change elsewhere.

Goes to standard error, so that standard output holds the answer and nothing else.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.3
"""Between two looks at one object: a GET of about a millisecond for the API server."""


class Progress:
    """say() the newest, end() before the answer."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._last = ""
        self._began_s = time.monotonic()

    @property
    def took_s(self) -> float:
        """Since the command began to wait."""
        return time.monotonic() - self._began_s

    def say(self, line: str) -> None:
        """Shown when it is new; on a terminal with the seconds that have passed."""
        if self._quiet:
            return
        if self._terminal:
            text = f"{line}  ({self.took_s:.0f} s)"
            width = shutil.get_terminal_size().columns - 1
            if text != self._last:
                print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)
            self._last = text
        elif line != self._last:
            print(line, file=sys.stderr, flush=True)
            self._last = line

    def end(self) -> None:
        """Leave the line free for the answer."""
        if self._terminal and self._last:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        self._last = ""


async def until(look: Callable[[], Awaitable[T | None]], *, timeout_s: float, every_s: float = POLL_S) -> T | None:
    """What `look` returns once it is not None; None when that took too long."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = await look()
        if found is not None:
            return found
        if time.monotonic() > deadline_s:
            return None
        await asyncio.sleep(every_s)
