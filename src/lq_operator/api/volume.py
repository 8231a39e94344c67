"""Volume: one disk. It binds to a pool (and a host, where the pool is local) when its first VM is placed."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lq_operator.api.base import (
    AGE,
    MESSAGE,
    READY,
    REASON,
    ApiModel,
    DnsName,
    PrinterColumn,
    Quantity,
    Resource,
    SharedRef,
    Status,
)


class VolumeSource(ApiModel):
    """What is on it at the beginning; left out: nothing."""

    image_ref: SharedRef | None = None
    """A full copy of this image, grown to size."""


class VolumeSpec(ApiModel):
    """Size, pool, source, and what happens to it in the end."""

    size: Quantity
    """1Gi to 64Ti. May grow; never shrinks."""
    pool_ref: Annotated[DnsName | None, Field(description="StoragePool. Left out: the only pool of the cluster.")] = (
        None
    )
    source: VolumeSource = VolumeSource()
    """What is on it at the beginning; left out: nothing. Immutable."""
    format: Literal["qcow2", "raw"] | None = None
    """Left out: the pool's default."""
    reclaim_policy: Literal["Delete", "Retain"] = "Delete"
    """What happens to the bytes when this object is deleted."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "quantity(self.size).compareTo(quantity('1Gi')) >= 0 && quantity(self.size).compareTo(quantity('64Ti')) <= 0",
            "spec.size must be from 1Gi to 64Ti",
        ),
        ("quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0", "spec.size may only grow"),
        (
            "has(self.poolRef) == has(oldSelf.poolRef) && (!has(self.poolRef) || self.poolRef == oldSelf.poolRef)",
            "spec.poolRef is immutable",
        ),
        ("self.source == oldSelf.source", "spec.source is immutable"),
        (
            "has(self.format) == has(oldSelf.format) && (!has(self.format) || self.format == oldSelf.format)",
            "spec.format is immutable",
        ),
    )


class ChainLink(ApiModel):
    """One file of the chain, the newest first."""

    file: Annotated[str, Field(max_length=255)]
    format: Annotated[str, Field(max_length=10)] = "qcow2"
    path: Annotated[str, Field(max_length=500)] = ""


class VolumeStatus(Status):
    """Where it is. Who has it is said by VirtualMachines: status.disks."""

    phase: Literal["Pending", "Bound", "Ready", "Failed", "Lost"] = "Pending"
    pool: Annotated[str, Field(max_length=253)] = ""
    node: Annotated[str, Field(max_length=253)] = ""
    """The host of a local pool; '' where the pool is shared."""
    size_bytes: int = 0
    chain: Annotated[list[ChainLink], Field(max_length=64)] = Field(default_factory=list)


class Volume(Resource):
    """One disk of a VM."""

    kind_name: ClassVar[str] = "Volume"
    plural: ClassVar[str] = "volumes"
    short_names: ClassVar[tuple[str, ...]] = ("vol",)
    selectable: ClassVar[tuple[str, ...]] = (".status.pool", ".status.node", ".status.phase")
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        PrinterColumn(name="Phase", path=".status.phase"),
        PrinterColumn(name="Size", path=".spec.size"),
        PrinterColumn(name="Pool", path=".status.pool"),
        PrinterColumn(name="Node", path=".status.node"),
        PrinterColumn(name="VM", path=".metadata.labels.limiquantix\\.io/vm"),
        READY,
        REASON,
        AGE,
        MESSAGE,
    )
    name_rule: ClassVar[tuple[str, str] | None] = (
        "self.metadata.name.size() <= 127",
        "metadata.name may have at most 127 characters",
    )

    spec: VolumeSpec
    status: VolumeStatus = VolumeStatus()
