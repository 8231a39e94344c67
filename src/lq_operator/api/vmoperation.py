"""VirtualMachineOperation: one verb on one VM, done once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lq_operator.api.base import (
    AGE,
    MESSAGE,
    READY,
    REASON,
    ApiModel,
    LocalRef,
    PrinterColumn,
    Resource,
    SecretKeyRef,
    Status,
)

GUEST_VERBS = ("SetPassword", "AddSshKeys", "RemoveSshKeys")
"""Verbs that change an account in the guest, through its agent; the others are about power."""
_FOR_GUESTS = f"self.verb in {list(GUEST_VERBS)}"


class VirtualMachineOperationSpec(ApiModel):
    """Which verb on which VM. Immutable."""

    vm_ref: LocalRef
    """The VirtualMachine, of this namespace."""
    verb: Literal[
        "Start", "Stop", "Restart", "Reset", "Pause", "Resume", "Suspend", "SetPassword", "AddSshKeys", "RemoveSshKeys"
    ]
    """Stop and Restart ask the guest and cut it off at the VM's grace period; Reset is the reset button. SetPassword, AddSshKeys and RemoveSshKeys change an account through the guest's agent; they need the right to update virtualmachines/access."""
    user: Annotated[str | None, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_][-A-Za-z0-9_.]*[$]?$")] = None
    """SetPassword, AddSshKeys and RemoveSshKeys: the account in the guest."""
    secret_ref: SecretKeyRef | None = None
    """Of this namespace. SetPassword: the password. AddSshKeys, RemoveSshKeys: public keys, one a line."""
    force: bool = False
    """Stop and Restart: cut off at once."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2592000)] = 3600
    """Deleted this long after it ended."""
    deadline_seconds: Annotated[int, Field(ge=1, le=86400)] = 600
    """Given up as Failed after this long. Its wish is taken back: a guest that had not stopped yet goes on running."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("self == oldSelf", "a VirtualMachineOperation is immutable; write a new one"),
        (
            f"({_FOR_GUESTS}) == has(self.user) && ({_FOR_GUESTS}) == has(self.secretRef)",
            "SetPassword, AddSshKeys and RemoveSshKeys need spec.user and spec.secretRef, other verbs take neither",
        ),
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
    """One verb on one VM: start, stop, restart, reset, pause, resume, suspend; set a password, add or remove ssh keys."""

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
