"""VirtualMachineMigration: one live move of one VM to another host, done once."""

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
    LocalRef,
    PrinterColumn,
    Resource,
    Status,
    list_map,
)

Bytes = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[int, Field(ge=0)]


class MigrationTuning(ApiModel):
    """How a guest is moved. What is left out here is taken from where the next wider one says it: move, VM, cluster."""

    bandwidth_mib_per_second: Annotated[int | None, Field(ge=1, le=1048576)] = None
    """Most that one move may use of the network, in MiB/s. Left out everywhere: no limit."""
    max_downtime_milliseconds: Annotated[int | None, Field(ge=1, le=60000)] = None
    """How long the guest may stand still when the last of its memory goes over. Left out everywhere: 300."""
    auto_converge: bool | None = None
    """Slow the guest's vCPUs down when it writes faster than the network carries. Left out everywhere: true."""
    parallel_connections: Annotated[int | None, Field(ge=1, le=64)] = None
    """Connections that carry memory at the same time. Left out everywhere: 1."""
    post_copy: bool | None = None
    """Let the guest run on the target before all of its memory is there. It always ends, but a host or network that
    fails meanwhile costs the guest its run. Left out everywhere: false."""


class VirtualMachineMigrationSpec(ApiModel):
    """Which VM, and where to."""

    vm_ref: LocalRef
    """The VirtualMachine, of this namespace."""
    target_node: DnsName | None = None
    """HypervisorNode to move to. Left out: the scheduler picks one."""
    tuning: MigrationTuning = MigrationTuning()
    """Wins over what the VM and the cluster say."""
    cancel: bool = False
    """Set to true to call the move off: the guest stays where it is. Without effect once it has changed over."""
    deadline_seconds: Annotated[int, Field(ge=10, le=604800)] = 3600
    """A move that has not changed over by then is called off."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2592000)] = 86400
    """Deleted this long after it ended."""
    reason: Annotated[str, Field(max_length=200, pattern=NO_CONTROL)] = ""
    """For people: why it is moved."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "self.vmRef == oldSelf.vmRef && has(self.targetNode) == has(oldSelf.targetNode) && "
            "(!has(self.targetNode) || self.targetNode == oldSelf.targetNode)",
            "spec.vmRef and spec.targetNode are immutable; cancel this move and write a new one",
        ),
        ("!oldSelf.cancel || self.cancel", "spec.cancel cannot be taken back; write a new VirtualMachineMigration"),
    )


class MigrationChoice(ApiModel):
    """The scheduler's answer: where to, or why nowhere. Written by the scheduler."""

    node: Annotated[str, Field(max_length=253)] = ""
    """'' while no host fits."""
    message: Annotated[str, Field(max_length=2000)] = ""


class MigrationObstacle(ApiModel):
    """One thing in the way, found before the guest was touched."""

    what: Literal[
        "Cpu",
        "Machine",
        "Network",
        "Pool",
        "Disk",
        "Cdrom",
        "StatePool",
        "Device",
        "Tpm",
        "Host",
        "Peer",
        "Name",
        "Ticket",
    ]
    name: Annotated[str, Field(max_length=253)]
    """Of the thing; of the host where the whole host is meant."""
    message: Annotated[str, Field(max_length=1000)] = ""


class MigrationProgress(ApiModel):
    """What the source host says of the transfer, at most once in two seconds."""

    total_bytes: Bytes = 0
    """Memory and copied disks."""
    remaining_bytes: Bytes = 0
    transferred_bytes: Bytes = 0
    """May exceed the total: memory that was written again goes again."""
    dirty_bytes_per_second: Bytes = 0
    expected_downtime_milliseconds: Milliseconds = 0
    iteration: Annotated[int, Field(ge=0)] = 0
    post_copy: bool = False


class VirtualMachineMigrationStatus(Status):
    """How it goes."""

    phase: Literal["Pending", "Preparing", "Running", "Settling", "Succeeded", "Failed", "Cancelled", "Refused"] = (
        "Pending"
    )
    """Pending: waits for a target or its turn. Preparing: checks and reserves. Running: the guest is on its way.
    Settling: both hosts are asked which of them runs it. Refused: obstacles, nothing was touched."""
    scheduling: MigrationChoice | None = None
    source_node: Annotated[str, Field(max_length=253)] = ""
    target_node: Annotated[str, Field(max_length=253)] = ""
    obstacles: Annotated[list[MigrationObstacle], Field(max_length=64, json_schema_extra=list_map("what", "name"))] = (
        Field(default_factory=list)
    )
    """All of them at once."""
    progress: MigrationProgress | None = None
    vm_uid: Annotated[str, Field(max_length=64)] = ""
    """The incarnation that is moved; another VM of this name is not touched."""
    epoch: Annotated[str, Field(max_length=100)] = ""
    """Epoch under which the guest left."""
    started_at: Annotated[str, Field(max_length=40)] = ""
    finished_at: Annotated[str, Field(max_length=40)] = ""
    total_milliseconds: Milliseconds = 0
    """From the first byte to the changeover, as the hosts measured it."""
    downtime_milliseconds: Milliseconds = 0
    """How long the guest stood still, as the hosts measured it."""
    message: Annotated[str, Field(max_length=2000)] = ""


class VirtualMachineMigration(Resource):
    """One live move of one VM. Whatever fails meanwhile, the guest runs on exactly one host afterwards, or is Unknown."""

    kind_name: ClassVar[str] = "VirtualMachineMigration"
    plural: ClassVar[str] = "virtualmachinemigrations"
    short_names: ClassVar[tuple[str, ...]] = ("vmmig",)
    selectable: ClassVar[tuple[str, ...]] = (".spec.vmRef.name", ".status.phase")
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        PrinterColumn(name="VM", path=".spec.vmRef.name"),
        PrinterColumn(name="Phase", path=".status.phase"),
        PrinterColumn(name="From", path=".status.sourceNode"),
        PrinterColumn(name="To", path=".status.targetNode"),
        PrinterColumn(name="Remaining", path=".status.progress.remainingBytes", type="integer", priority=1),
        PrinterColumn(name="DowntimeMs", path=".status.downtimeMilliseconds", type="integer", priority=1),
        READY,
        REASON,
        AGE,
        MESSAGE,
    )

    spec: VirtualMachineMigrationSpec
    status: VirtualMachineMigrationStatus = VirtualMachineMigrationStatus()

    @property
    def vm_key(self) -> str:
        """namespace/name of the VM that it moves."""
        return f"{self.metadata.namespace}/{self.spec.vm_ref.name}"
