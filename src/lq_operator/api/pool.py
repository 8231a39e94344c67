"""StoragePool: where volumes live."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lq_operator.api.base import (
    AGE,
    MESSAGE,
    READY,
    REASON,
    AllowedNamespaces,
    ApiModel,
    DnsName,
    LabelSelector,
    LocalRef,
    PrinterColumn,
    Quantity,
    Resource,
    Scope,
    Status,
    list_map,
)


class DirBackend(ApiModel):
    """A directory on the hosts."""

    path: Annotated[str, Field(min_length=2, max_length=200, pattern=r"^/[-._/a-zA-Z0-9]+$")]
    """Absolute path on the hosts, without '..'."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (("!self.path.contains('..')", "dir.path must not contain '..'"),)


class StoragePoolSpec(ApiModel):
    """Backend, who sees it, who may use it."""

    cluster_ref: LocalRef
    """The HypervisorCluster whose hosts have it. Immutable."""
    dir: DirBackend
    """A directory on each host."""
    access: Literal["Local", "Shared"] = "Local"
    """Shared: the same file system on all its nodes; proved by a nonce read from every node."""
    node_selector: LabelSelector = LabelSelector()
    """On which nodes of the cluster; left out: on all."""
    allowed_namespaces: AllowedNamespaces = AllowedNamespaces.model_validate({"from": "All"})
    """Whose volumes may live here."""
    default_format: Literal["qcow2", "raw"] = "qcow2"
    """For volumes that do not say."""
    reserve: Quantity = "0"
    """Space that volumes may not take."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("self.clusterRef == oldSelf.clusterRef", "spec.clusterRef is immutable"),
        ("self.dir == oldSelf.dir", "spec.dir is immutable; volumes live there"),
        ("self.access == oldSelf.access", "spec.access is immutable"),
    )


class PoolNode(ApiModel):
    """The pool on one host. Sizes in bytes."""

    node: DnsName
    ready: bool = False
    capacity_bytes: int = 0
    available_bytes: int = 0
    message: Annotated[str, Field(max_length=1000)] = ""


class StoragePoolStatus(Status):
    """The pool on each host."""

    nodes: Annotated[list[PoolNode], Field(max_length=1000, json_schema_extra=list_map("node"))] = Field(
        default_factory=list
    )
    shared_proved: bool = False
    """True: every node of the pool has read the same nonce (access Shared)."""
    nonce: Annotated[str, Field(max_length=64)] = ""
    capacity: Annotated[str, Field(max_length=20)] = ""
    available: Annotated[str, Field(max_length=20)] = ""


class StoragePool(Resource):
    """A place for volumes on the hosts of a cluster."""

    kind_name: ClassVar[str] = "StoragePool"
    plural: ClassVar[str] = "storagepools"
    short_names: ClassVar[tuple[str, ...]] = ("pool",)
    scope: ClassVar[Scope] = Scope.CLUSTER
    selectable: ClassVar[tuple[str, ...]] = (".spec.clusterRef.name",)
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        READY,
        PrinterColumn(name="Access", path=".spec.access"),
        PrinterColumn(name="Capacity", path=".status.capacity"),
        PrinterColumn(name="Available", path=".status.available"),
        REASON,
        AGE,
        MESSAGE,
    )
    name_rule: ClassVar[tuple[str, str] | None] = (
        "self.metadata.name.size() <= 63",
        "metadata.name may have at most 63 characters",
    )

    spec: StoragePoolSpec
    status: StoragePoolStatus = StoragePoolStatus()
