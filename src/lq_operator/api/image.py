"""Image: bytes behind a URL with a checksum; one artefact per pool (and host, where the pool is local)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lq_operator.api.base import (
    AGE,
    MESSAGE,
    NO_CONTROL,
    READY,
    REASON,
    AllowedNamespaces,
    ApiModel,
    DnsName,
    PrinterColumn,
    Quantity,
    Resource,
    Status,
    list_map,
)


class ImageSource(ApiModel):
    """Where the bytes are and how to know them."""

    url: Annotated[str, Field(min_length=8, max_length=2000, pattern=r"^(https?|file)://[!-~]+$")]
    """http or https. file:// is for administrators (the importer must be allowed the directory)."""
    sha256: Annotated[str, Field(max_length=64, pattern=r"^[0-9a-f]{64}$")]
    """Checksum of the bytes behind the URL."""
    format: Literal["qcow2", "raw"] = "qcow2"
    """Format of the bytes; the header is checked against it."""


class ImageSpec(ApiModel):
    """Source, limits and sharing."""

    source: ImageSource
    """Where the bytes are and how to know them. Immutable."""
    allowed_namespaces: AllowedNamespaces = AllowedNamespaces()
    """Who besides its own namespace may make volumes of it."""
    max_size: Quantity = "64Gi"
    """Refused when the download or the virtual size is larger."""
    os: Annotated[str, Field(max_length=100, pattern=NO_CONTROL)] = ""
    """For people: what is inside."""
    min_memory: Quantity | None = None
    """For people and the VM controller: what a guest of it needs."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("self.source == oldSelf.source", "spec.source is immutable; volumes were made of it. Write a new Image"),
        (
            "quantity(self.maxSize).compareTo(quantity('1Mi')) >= 0 && quantity(self.maxSize).compareTo(quantity('64Ti')) <= 0",
            "spec.maxSize must be from 1Mi to 64Ti",
        ),
        (
            "!has(self.minMemory) || quantity(self.minMemory).compareTo(quantity('1Ti')) <= 0",
            "spec.minMemory must be at most 1Ti",
        ),
    )


class ImageArtefact(ApiModel):
    """The image in one pool; on one node where the pool is local (node '' where it is shared)."""

    pool: DnsName
    node: Annotated[str, Field(max_length=253)] = ""
    phase: Literal["Importing", "Ready", "Failed"] = "Importing"
    file: Annotated[str, Field(max_length=255)] = ""
    size_bytes: int = 0
    virtual_size_bytes: int = 0
    progress_percent: Annotated[int, Field(ge=0, le=100)] = 0
    message: Annotated[str, Field(max_length=1000)] = ""
    retry_after: Annotated[str, Field(max_length=40)] = ""


class ImageStatus(Status):
    """The artefacts that exist or are being made."""

    artefacts: Annotated[list[ImageArtefact], Field(max_length=1000, json_schema_extra=list_map("pool", "node"))] = (
        Field(default_factory=list)
    )
    progress: Annotated[str, Field(max_length=20)] = ""


class Image(Resource):
    """A disk image behind a URL. Imported into a pool when the first volume there needs it."""

    kind_name: ClassVar[str] = "Image"
    plural: ClassVar[str] = "images"
    short_names: ClassVar[tuple[str, ...]] = ("img",)
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        READY,
        PrinterColumn(name="Progress", path=".status.progress"),
        PrinterColumn(name="OS", path=".spec.os"),
        REASON,
        AGE,
        PrinterColumn(name="URL", path=".spec.source.url", priority=1),
        MESSAGE,
    )
    name_rule: ClassVar[tuple[str, str] | None] = (
        "self.metadata.name.size() <= 63",
        "metadata.name may have at most 63 characters",
    )

    spec: ImageSpec
    status: ImageStatus = ImageStatus()
