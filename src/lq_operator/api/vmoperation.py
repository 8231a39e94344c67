"""VirtualMachineOperation: one verb on one VM, done once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lq_operator.api.base import AGE, MESSAGE, READY, REASON, ApiModel, LocalRef, PrinterColumn, Resource, Status


class VirtualMachineOperationSpec(ApiModel):
    """Which verb on which VM. Immutable."""

    vm_ref: LocalRef
    """The VirtualMachine, of this namespace."""
    verb: Literal["Start", "Stop", "Restart", "Reset", "Pause", "Resume", "Suspend"]
    """Stop and Restart ask the guest and cut it off at the VM's grace period; Reset is the reset button."""
    force: bool = False
    """Stop and Restart: cut off at once."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2592000)] = 3600
    """Deleted this long after it ended."""
    deadline_seconds: Annotated[int, Field(ge=1, le=86400)] = 600
    """Given up as Failed after this long. Its wish is taken back: a guest that had not stopped yet goes on running."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("self == oldSelf", "a VirtualMachineOperation is immutable; write a new one"),
    )


class VirtualMachineOperationStatus(Status):
    """How it went."""

    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Refused"] = "Pending"
    started_at: Annotated[str, Field(max_length=40)] = ""
    finished_at: Annotated[str, Field(max_length=40)] = ""
    message: Annotated[str, Field(max_length=2000)] = ""
    observed_start: Annotated[str, Field(max_length=100)] = ""
    """Epoch of the guest when the operation was accepted: Restart is done when a later one runs."""


class VirtualMachineOperation(Resource):
    """One verb on one VM: start, stop, restart, reset, pause, resume, suspend."""

    kind_name: ClassVar[str] = "VirtualMachineOperation"
    plural: ClassVar[str] = "virtualmachineoperations"
    short_names: ClassVar[tuple[str, ...]] = ("vmop",)
    selectable: ClassVar[tuple[str, ...]] = (".spec.vmRef.name", ".status.phase")
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        PrinterColumn(name="VM", path=".spec.vmRef.name"),
        PrinterColumn(name="Verb", path=".spec.verb"),
        PrinterColumn(name="Phase", path=".status.phase"),
        READY,
        REASON,
        AGE,
        MESSAGE,
    )

    spec: VirtualMachineOperationSpec
    status: VirtualMachineOperationStatus = VirtualMachineOperationStatus()
