"""The power verbs of `kubectl lq` and their words. Imports nothing: help and completion read it."""

from __future__ import annotations

from typing import Literal

VerbName = Literal["Start", "Stop", "Restart", "Reset", "Pause", "Resume", "Suspend"]

VERBS: dict[str, tuple[VerbName, str, str]] = {
    "start": ("Start", "started", "start a VM, or resume a suspended one from its image"),
    "stop": ("Stop", "stopped", "ask the guest to stop; it is cut off at the VM's grace period (--force: at once)"),
    "restart": ("Restart", "restarted", "stop and start again; changes of the spec take effect (--force: do not ask)"),
    "reset": ("Reset", "reset", "the reset button: the guest is not asked"),
    "pause": ("Pause", "paused", "freeze the guest in memory"),
    "resume": ("Resume", "resumed", "let a paused or suspended guest go on"),
    "suspend": ("Suspend", "suspended", "save the guest's memory to the state pool and free the host"),
}
"""Command -> (verb, word for what was done, help)."""
