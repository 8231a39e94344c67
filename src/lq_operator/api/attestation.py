"""HostAttestation: a person's statement that a host is off, as evidence (protocol.md)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lq_operator.api.base import (
    AGE,
    MESSAGE,
    NO_CONTROL,
    READY,
    REASON,
    ApiModel,
    DnsName,
    PrinterColumn,
    Resource,
    Scope,
    Status,
)


class HostAttestationSpec(ApiModel):
    """Who says what about which host. Immutable: a new statement is a new object."""

    node: DnsName
    """HypervisorNode that the statement is about."""
    host_uuid: Annotated[
        str, Field(alias="hostUUID", max_length=36, pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
    ]
    """status.hostUUID of that node: proves that you looked at the right machine."""
    boot: Annotated[str, Field(min_length=1, max_length=100, pattern=NO_CONTROL)]
    """status.boot of that node: the boot that is over. Covers no start in a later boot."""
    term: Annotated[int, Field(ge=1, le=1_000_000_000)]
    """status.term of the HypervisorCluster when you looked: a statement from before a restart or a restore counts for nothing."""
    statement: Literal["PoweredOff", "Destroyed"]
    """PoweredOff: I saw that it has no power. Destroyed: it will never run again."""
    seen: Annotated[str, Field(min_length=10, max_length=1000, pattern=NO_CONTROL)]
    """What you saw, in your words, for the audit."""
    attested_by: Annotated[str, Field(min_length=2, max_length=253, pattern=NO_CONTROL)]
    """Who you are."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("self == oldSelf", "a HostAttestation is immutable; write a new one"),
    )


class HostAttestationStatus(Status):
    """Whether it counts."""

    accepted: bool = False
    accepted_term: int = 0
    """Lease term in which it was accepted; it counts in no other."""
    void: bool = False
    """True for ever once the host answered, or the API server went back: write a new one if it is off again."""


class HostAttestation(Resource):
    """A person's statement about a host, as evidence that its VMs do not run there. Wrong statements duplicate VMs."""

    kind_name: ClassVar[str] = "HostAttestation"
    plural: ClassVar[str] = "hostattestations"
    short_names: ClassVar[tuple[str, ...]] = ("attest",)
    scope: ClassVar[Scope] = Scope.CLUSTER
    selectable: ClassVar[tuple[str, ...]] = (".spec.node",)
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        PrinterColumn(name="Node", path=".spec.node"),
        PrinterColumn(name="Statement", path=".spec.statement"),
        PrinterColumn(name="Accepted", path=".status.accepted", type="boolean"),
        PrinterColumn(name="Void", path=".status.void", type="boolean"),
        READY,
        REASON,
        PrinterColumn(name="By", path=".spec.attestedBy", priority=1),
        AGE,
        MESSAGE,
    )

    spec: HostAttestationSpec
    status: HostAttestationStatus = HostAttestationStatus()
