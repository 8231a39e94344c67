"""HiGHS as the core uses it: one thread, fixed seed, and nothing on standard output."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import highspy

OPTIONS: dict[str, Any] = {"output_flag": False, "log_to_console": False, "threads": 1, "random_seed": 0}
"""Results must not depend on the machine, so there is no time limit either: callers limit rounds or nodes."""

_banner_gone = False


def make_solver(**options: Any) -> Any:
    """A new solver with OPTIONS and these on top."""
    global _banner_gone  # noqa: PLW0603  the banner comes once in a process
    if not _banner_gone:
        _swallow_banner()
        _banner_gone = True
    return _configured(options)


def _configured(options: dict[str, Any]) -> Any:
    make: Any = highspy.Highs  # its constructor has no annotations
    solver = make()
    for name, value in (OPTIONS | options).items():
        solver.setOptionValue(name, value)
    return solver


def _swallow_banner() -> None:
    """HiGHS 1.16 prints two lines when its first solver is made, before output_flag can be set; programs that print JSON
    would be broken by it. So the first one is made while standard output is closed off."""
    flush = ctypes.CDLL(None).fflush
    flush(None)
    saved = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        _configured({}).run()
        flush(None)  # the banner may still be in the C library's buffer
    finally:
        os.dup2(saved, 1)
        os.close(nowhere)
        os.close(saved)
