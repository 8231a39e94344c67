"""status.hardware beside the VM's other state on its host, so that a guest sees the same devices after the API server was
lost: written when it changed, read where status says nothing.

A late write is harmless: the name carries the epoch, creation is exclusive, and the newest counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from lq_operator.api.vmstatus import HardwareStatus
from lq_operator.controllers.runtime.hostbook import OwnedHost
from lq_operator.controllers.runtime.statefiles import STATE_POOL, hardware_file, hardware_files, store_file
from lq_operator.core.model import Epoch, Identity
from lq_operator.core.result import Conflict, NotFound, Rejected, Transient
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

LIMIT_BYTES = 256 * 1024
"""More than any record has: 256 slots, 512 CPU features."""


async def keep_hardware(
    entry: OwnedHost, identity: Identity, epoch: Epoch, hardware: HardwareStatus, names: Sequence[str]
) -> None:
    """Write it, then delete the older ones among `names`. A host that refuses costs the copy, not the start."""
    body = hardware.model_dump_json(by_alias=True, exclude_defaults=True).encode()
    name = hardware_file(identity, epoch)
    try:
        try:
            await store_file(entry.host, name, body)
        except Conflict:  # ours, of this very start: the answer to the first attempt was lost
            await entry.host.delete_volume(STATE_POOL, name)
            await store_file(entry.host, name, body)
        for old in hardware_files(identity, names):
            if old != name:
                await entry.host.delete_volume(STATE_POOL, old)
    except (Conflict, Rejected, Transient) as error:
        log.warning("what the guest sees was not written beside its state", reason=str(error)[:300])


async def kept_hardware(entry: OwnedHost, identity: Identity, names: Sequence[str]) -> HardwareStatus | None:
    """The newest that can be read; a process that died while it wrote leaves one that cannot."""
    for name in hardware_files(identity, names):
        try:
            body = await entry.host.download(STATE_POOL, name, length=LIMIT_BYTES)
            found = HardwareStatus.model_validate_json(body.rstrip(b"\0"))
        except (NotFound, ValidationError):
            continue
        if found.machine:
            return found
    return None
