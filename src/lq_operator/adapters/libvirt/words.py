"""libvirt's numbers as words: domain states, their reasons, lifecycle events and their details.

The order of each tuple is the order of libvirt's enum (include/libvirt/libvirt-domain.h).
"""

from __future__ import annotations

from lq_operator.core.model import DomainState

STATES: dict[int, tuple[DomainState, tuple[str, ...]]] = {
    # VIR_DOMAIN_NOSTATE: a driver that does not know; something may run, so it counts as running.
    0: (DomainState.RUNNING, ("unknown",)),
    1: (
        DomainState.RUNNING,
        (
            "unknown",
            "booted",
            "migrated",
            "restored",
            "from-snapshot",
            "unpaused",
            "migration-canceled",
            "save-canceled",
            "wakeup",
            "crashed",
            "postcopy",
            "postcopy-failed",
        ),
    ),
    2: (DomainState.RUNNING, ("unknown",)),  # VIR_DOMAIN_BLOCKED: runs, waits for a resource
    3: (
        DomainState.PAUSED,
        (
            "unknown",
            "user",
            "migration",
            "save",
            "dump",
            "io-error",
            "watchdog",
            "from-snapshot",
            "shutting-down",
            "snapshot",
            "crashed",
            "starting-up",
            "postcopy",
            "postcopy-failed",
            "api-error",
        ),
    ),
    4: (DomainState.SHUTTING_DOWN, ("unknown", "user")),
    5: (
        DomainState.SHUTOFF,
        ("unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from-snapshot", "daemon"),
    ),
    6: (DomainState.CRASHED, ("unknown", "panicked")),
    7: (DomainState.PM_SUSPENDED, ("unknown",)),
}

_PAUSED_STARTING_UP = 11


def state_of(state: int, reason: int) -> tuple[DomainState, str]:
    """(our state, libvirt's reason as a word). A state of the future counts as running: something is there."""
    ours, reasons = STATES.get(state, (DomainState.RUNNING, ()))
    word = reasons[reason] if 0 <= reason < len(reasons) else f"unknown-{reason}"
    if ours is DomainState.PAUSED and reason == _PAUSED_STARTING_UP:
        ours = DomainState.STARTING
    return ours, word


LIFECYCLE: dict[int, tuple[str, tuple[str, ...]]] = {
    0: ("defined", ("added", "updated", "renamed", "from-snapshot")),
    1: ("undefined", ("removed", "renamed")),
    2: ("started", ("booted", "migrated", "restored", "from-snapshot", "wakeup", "recovered")),
    3: (
        "suspended",
        (
            "paused",
            "migrated",
            "io-error",
            "watchdog",
            "restored",
            "from-snapshot",
            "api-error",
            "postcopy",
            "postcopy-failed",
        ),
    ),
    4: ("resumed", ("unpaused", "migrated", "from-snapshot", "postcopy", "postcopy-failed")),
    5: ("stopped", ("shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from-snapshot", "recovered")),
    6: ("shutdown", ("finished", "guest", "host")),
    7: ("pm-suspended", ("memory", "disk")),
    8: ("crashed", ("panicked", "crashloaded")),
}
