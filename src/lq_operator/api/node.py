"""HypervisorNode: one libvirt host, how it is reached, what it may be used for, what it shows."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lq_operator.api.base import (
    AGE,
    MESSAGE,
    READY,
    REASON,
    ApiModel,
    LabelKey,
    LabelMap,
    LabelValue,
    LocalRef,
    PrinterColumn,
    Quantity,
    Resource,
    Scope,
    Status,
    Text,
    list_map,
)
from lq_operator.api.cluster import Overcommit


class Taint(ApiModel):
    """Keeps VMs away that do not tolerate it."""

    key: LabelKey
    """What VMs tolerate."""
    value: LabelValue = ""
    """Compared by operator Equal of tolerations."""
    effect: Literal["NoSchedule", "PreferNoSchedule"] = "NoSchedule"
    """NoSchedule: never. PreferNoSchedule: only when no other host fits."""


class Reserved(ApiModel):
    """What the host keeps for itself."""

    cpu: Annotated[int, Field(ge=0, le=1024)] = 0
    """Whole CPUs."""
    memory: Quantity = "1Gi"
    """Memory for the host's own processes and QEMU overhead. At most 64Ti."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("quantity(self.memory).compareTo(quantity('64Ti')) <= 0", "reserved.memory must be at most 64Ti"),
    )


class CapacityOverride(ApiModel):
    """Says what the host has, where its own answer is not to be used."""

    cpu: Annotated[int | None, Field(ge=1, le=4096)] = None
    """CPUs. Left out: what the host says."""
    memory: Quantity | None = None
    """Left out: what the host says. At most 64Ti."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "!has(self.memory) || (quantity(self.memory).compareTo(quantity('256Mi')) >= 0 && quantity(self.memory).compareTo(quantity('64Ti')) <= 0)",
            "capacity.memory must be from 256Mi to 64Ti",
        ),
    )


_PEER_PARAMETER = r"(mode|proxy|socket|tls_priority|pkipath|keyfile)=[-._:+/a-zA-Z0-9]*"
"""The sending host's libvirtd opens this URI as root: `command=` or `netcat=` would run programs there."""


class NodeMigration(ApiModel):
    """How other hosts reach this one when a guest is moved to it: host to host, not through the operator."""

    uri: Annotated[
        str,
        Field(max_length=300, pattern=r"^(qemu\+(tls|tcp|ssh)://[-._:@\[\]a-zA-Z0-9]+/system)?$"),
    ] = ""
    """libvirt URI of this host as the other hosts write it. Left out: spec.uri without its parameters. The sending host
    uses its own credentials (/etc/pki/libvirt, or root's SSH key)."""
    address: Annotated[str, Field(max_length=253, pattern=r"^[-._:\[\]a-zA-Z0-9]*$")] = ""
    """Address or name that carries guest memory and disks, where that is another network. Left out: the host of the URI."""
    parameters: Annotated[str, Field(max_length=300, pattern=rf"^({_PEER_PARAMETER}(&{_PEER_PARAMETER})*)?$")] = ""
    """URI parameters that this host adds when it sends (pkipath=DIR, keyfile=FILE), where its credentials lie elsewhere."""


class HypervisorNodeSpec(ApiModel):
    """How a host is reached and what it may be used for."""

    cluster_ref: LocalRef
    """The cluster it belongs to."""
    uri: Annotated[
        str,
        Field(
            min_length=12,
            max_length=300,
            # The parameters are those that the libvirt adapter takes: `command=` or `netcat=` would run programs as
            # the operator, `no_verify=` would trust any host.
            pattern=r"^(qemu\+(tls|tcp|ssh)://[-._:@\[\]a-zA-Z0-9]+/system"
            r"(\?(mode|proxy|socket|tls_priority)=[-._:+/a-zA-Z0-9]*(&(mode|proxy|socket|tls_priority)=[-._:+/a-zA-Z0-9]*)*)?"
            r"|test\+tcp://[-._:/a-zA-Z0-9]+)$",
        ),
    ]
    """libvirt URI, for example qemu+tls://10.0.0.11/system. TCP has no protection: laboratories only."""
    credentials_secret_ref: LocalRef | None = None
    """Secret in the operator's namespace: ca.crt, tls.crt, tls.key for TLS; ssh-privatekey, known_hosts for SSH."""
    labels: LabelMap = Field(default_factory=dict)
    """Labels for selectors and topology keys, besides those of metadata."""
    taints: Annotated[list[Taint], Field(max_length=32, json_schema_extra=list_map("key", "effect"))] = Field(
        default_factory=list
    )
    """Keep VMs away that do not tolerate them."""
    unschedulable: bool = False
    """Cordon: no new VMs; those here stay."""
    maintenance: bool = False
    """true: no new VMs, and those here are moved away; ends in condition InMaintenance. false: back to service."""
    migration: NodeMigration = NodeMigration()
    """How other hosts reach this one when a guest is moved to it."""
    reserved: Reserved = Reserved()
    """What the host keeps for itself."""
    overcommit: Overcommit | None = None
    """Left out: the cluster's."""
    capacity: CapacityOverride = CapacityOverride()
    """Says what the host has, where its own answer is not to be used."""
    unreachable_after_seconds: Annotated[int, Field(ge=2, le=300)] = 8
    """A host silent for this long is Ready=Unknown."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "self.clusterRef == oldSelf.clusterRef",
            "spec.clusterRef is immutable; decommission the node and register it again",
        ),
    )


class NodeCapacity(ApiModel):
    """CPUs and memory of the host. Memory in MiB."""

    cpu: int = 0
    memory_mib: int = 0


class OrphanDomain(ApiModel):
    """A domain of this installation for which there is no VirtualMachine."""

    namespace: Annotated[str, Field(max_length=63)]
    name: Annotated[str, Field(max_length=253)]
    epoch: Annotated[str, Field(max_length=100)] = ""
    state: Annotated[str, Field(max_length=40)] = ""


class TombstoneVolume(ApiModel):
    """A volume to delete once its VM is surely gone."""

    pool: Annotated[str, Field(max_length=253)]
    file: Annotated[str, Field(max_length=255)]


class Tombstone(ApiModel):
    """What was deleted while this host was away. That of a VM counts as a placement until it is settled."""

    kind: Literal["VirtualMachine", "Volume"] = "VirtualMachine"
    namespace: Annotated[str, Field(max_length=63)]
    name: Annotated[str, Field(max_length=127)]
    uid: Annotated[str, Field(max_length=64)]
    epoch: Annotated[str, Field(max_length=40)] = ""
    claims: Annotated[list[Annotated[str, Field(max_length=317)]], Field(max_length=16)] = Field(default_factory=list)
    """AddressClaims (namespace/name) to give back once the VM is surely gone."""
    evidence: Annotated[str, Field(max_length=500)] = ""
    """Why the VM surely runs on this host no more, although it has not returned: its name is free for another VM then,
    and what is left here is removed when the host returns."""
    volumes: Annotated[list[TombstoneVolume], Field(max_length=64)] = Field(default_factory=list)


class NodeNuma(ApiModel):
    """One NUMA cell."""

    cell: int
    cpus: int = 0
    memory_mib: int = 0


class MaintenanceBlocker(ApiModel):
    """A VM that cannot be moved away, and the way out."""

    namespace: Annotated[str, Field(max_length=63)]
    name: Annotated[str, Field(max_length=127)]
    reason: Literal["Power", "LocalDisk", "Device", "Rule", "NoRoom", "Refused", "Failed", "Unknown"]
    message: Annotated[str, Field(max_length=1000)] = ""


class MaintenanceStatus(ApiModel):
    """How the host is emptied. Written by the maintenance controller."""

    phase: Literal["Draining", "Blocked", "InMaintenance"] = "Draining"
    """Blocked: what could be moved is, the rest needs a person."""
    since: Annotated[str, Field(max_length=40)] = ""
    moving: Annotated[int, Field(ge=0)] = 0
    remaining: Annotated[int, Field(ge=0)] = 0
    """VMs still here, those under way included."""
    blockers: Annotated[
        list[MaintenanceBlocker], Field(max_length=200, json_schema_extra=list_map("namespace", "name"))
    ] = Field(default_factory=list)


class HypervisorNodeStatus(Status):
    """What the host shows. Inventory is kept while the host is away; conditions say so."""

    host_uuid: Annotated[str, Field(alias="hostUUID", max_length=36)] = ""
    """Recorded at registration; another host behind the same URI is refused."""
    boot: Annotated[str, Field(max_length=100)] = ""
    """Nonce of the boot under which the host was last taken over."""
    term: int = 0
    """Lease term in which the host was last taken over and listed completely."""
    last_contact: Annotated[str, Field(max_length=40)] = ""
    """When the host last answered, to the minute."""
    hostname: Annotated[str, Field(max_length=253)] = ""
    libvirt_version: Annotated[str, Field(max_length=40)] = ""
    hypervisor: Annotated[str, Field(max_length=80)] = ""
    arch: Annotated[str, Field(max_length=20)] = ""
    accel: Annotated[str, Field(max_length=10)] = ""
    cpu_model: Annotated[str, Field(max_length=64)] = ""
    cpu_vendor: Annotated[str, Field(max_length=64)] = ""
    cpu_features: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=512)] = Field(
        default_factory=list
    )
    usable_cpu_models: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=256)] = Field(
        default_factory=list
    )
    machine_types: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=256)] = Field(
        default_factory=list
    )
    firmware: Annotated[list[Annotated[str, Field(max_length=20)]], Field(max_length=5)] = Field(default_factory=list)
    capacity: NodeCapacity = NodeCapacity()
    """What the host has (or spec.capacity says)."""
    allocatable: NodeCapacity = NodeCapacity()
    """What VMs may be promised: capacity less reserved, times overcommit."""
    numa: Annotated[list[NodeNuma], Field(max_length=64)] = Field(default_factory=list)
    vms: int = 0
    """Running domains of this installation."""
    foreign_domains: int = 0
    """Domains that are not ours; never touched."""
    orphans: Annotated[list[OrphanDomain], Field(max_length=1000)] = Field(default_factory=list)
    tombstones: Annotated[
        list[Tombstone], Field(max_length=1000, json_schema_extra=list_map("namespace", "name", "uid"))
    ] = Field(default_factory=list)
    maintenance: MaintenanceStatus | None = None
    """Only while spec.maintenance is set."""
    split_brains: Annotated[list[Text], Field(max_length=100)] = Field(default_factory=list)


class HypervisorNode(Resource):
    """One libvirt host. Deleting it decommissions the host: refused while VMs are placed on it."""

    kind_name: ClassVar[str] = "HypervisorNode"
    plural: ClassVar[str] = "hypervisornodes"
    short_names: ClassVar[tuple[str, ...]] = ("hvn",)
    scope: ClassVar[Scope] = Scope.CLUSTER
    selectable: ClassVar[tuple[str, ...]] = (".spec.clusterRef.name",)
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        READY,
        PrinterColumn(name="Cluster", path=".spec.clusterRef.name"),
        PrinterColumn(name="VMs", path=".status.vms", type="integer"),
        PrinterColumn(name="CPUs", path=".status.capacity.cpu", type="integer"),
        PrinterColumn(name="MemoryMiB", path=".status.capacity.memoryMib", type="integer"),
        PrinterColumn(name="Cordoned", path=".spec.unschedulable", type="boolean", priority=1),
        PrinterColumn(name="Maintenance", path=".status.maintenance.phase"),
        PrinterColumn(name="Libvirt", path=".status.libvirtVersion", priority=1),
        REASON,
        AGE,
        MESSAGE,
    )
    name_rule: ClassVar[tuple[str, str] | None] = (
        "self.metadata.name.size() <= 63",
        "metadata.name may have at most 63 characters",
    )

    spec: HypervisorNodeSpec
    status: HypervisorNodeStatus = HypervisorNodeStatus()
