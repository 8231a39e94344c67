"""What is true of a VirtualMachine: its status, by who writes which part of it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lq_operator.api.base import ApiModel, DnsLabel, DnsName, Status, list_map

Word = Annotated[str, Field(max_length=100)]
Sentence = Annotated[str, Field(max_length=2000)]


class EvidenceStatus(ApiModel):
    """Typed proof that a host does not run this VM."""

    kind: Word
    host_uuid: Annotated[str, Field(alias="hostUUID", max_length=36)] = ""
    epoch: Word = ""
    boot: Word = ""
    detail: Sentence = ""


class PlacementStatus(ApiModel):
    """Who owns the VM: see docs/reference/protocol. Changed only by tested patches; never edit it."""

    atomic: ClassVar[bool] = True

    phase: Literal["Released", "Assigned", "Committed", "Moving"]
    write_id: Word
    since: Word = ""
    node: Annotated[str, Field(max_length=253)] = ""
    host_uuid: Annotated[str, Field(alias="hostUUID", max_length=36)] = ""
    boot: Word = ""
    epoch: Word = ""
    released_epoch: Word = ""
    target: Annotated[str, Field(max_length=253)] = ""
    target_uuid: Annotated[str, Field(alias="targetUUID", max_length=36)] = ""
    target_boot: Word = ""
    evidence: Annotated[list[EvidenceStatus], Field(max_length=8)] = Field(default_factory=list)
    run_epoch: Word = ""
    """Epoch of the run, where a move has given the placement a newer one since the guest was started."""


class VerdictStatus(ApiModel):
    """What the scheduler thinks of one host."""

    node: DnsName
    fits: bool
    reason: Word = ""
    message: Annotated[str, Field(max_length=400)] = ""
    score: Annotated[int, Field(ge=0, le=1000)] = 0


class SchedulingStatus(ApiModel):
    """The scheduler's last decision, and why."""

    atomic: ClassVar[bool] = True

    message: Sentence = ""
    verdicts: Annotated[list[VerdictStatus], Field(max_length=32, json_schema_extra=list_map("node"))] = Field(
        default_factory=list
    )
    """At most 32 hosts, the best first."""
    rejected: Annotated[dict[str, int], Field(max_length=32)] = Field(default_factory=dict)
    """Reason -> number of hosts."""
    remedies: Annotated[list[Annotated[str, Field(max_length=400)]], Field(max_length=8)] = Field(default_factory=list)
    """Single changes that would make it fit, the cheapest first."""


class PowerStatus(ApiModel):
    """What the host shows."""

    state: Literal["Running", "Stopped", "Paused", "Suspended", "Starting", "Stopping", "Crashed", "Unknown"] = (
        "Unknown"
    )
    reason: Word = ""
    since: Word = ""
    wanted: Literal["Running", "Stopped", "Paused", "Suspended"] = "Running"
    """What we work towards: spec.powerState, else what the last operation said."""
    declared: Word = ""
    """spec.powerState when `wanted` was last taken from it."""
    stop_deadline: Word = ""
    """When a guest that was asked to stop is cut off."""
    started_at: Word = ""
    restarts: int = 0
    """Starts by restartPolicy since the last start by wish."""
    next_restart: Word = ""
    epoch: Word = ""
    """Epoch of the start that `state` speaks about."""
    last_operation: Word = ""
    """uid of the last VirtualMachineOperation that decided `wanted`."""
    wanted_before: Literal["Running", "Stopped", "Paused", "Suspended", ""] = ""
    """While that operation is carried out: what was wanted before it, and is again if it fails or is deleted."""
    state_node: Annotated[str, Field(max_length=253)] = ""
    """The host that holds the suspend image, where the state pool is local: it can resume only there."""


class SlotStatus(ApiModel):
    """Where the guest sees a device."""

    device: Word
    address: Word


class HardwareStatus(ApiModel):
    """Guest ABI, recorded at the first start: what a guest saw it sees for ever."""

    machine: Word = ""
    cpu_model: Word = ""
    cpu_features: Annotated[list[Word], Field(max_length=512)] = Field(default_factory=list)
    slots: Annotated[list[SlotStatus], Field(max_length=256)] = Field(default_factory=list)
    targets: Annotated[list[SlotStatus], Field(max_length=64)] = Field(default_factory=list)


class GuestStatus(ApiModel):
    """What the guest agent says."""

    agent: Literal["Connected", "Silent", "None"] = "None"
    hostname: Annotated[str, Field(max_length=253)] = ""
    os: Annotated[str, Field(max_length=200)] = ""
    kernel: Word = ""
    agent_version: Word = ""


class HeartbeatStatus(ApiModel):
    """What spec.heartbeat has done. Condition GuestHung says how it stands."""

    answered: Word = ""
    """Epoch of the run in which the agent has answered since the last action; '' : not yet."""
    tries: int = 0
    """Actions in a row."""
    last_action: Word = ""
    last_action_at: Word = ""


class InterfaceStatus(ApiModel):
    """One interface as it is."""

    name: DnsLabel
    mac: Annotated[str, Field(max_length=17)]
    network: Word = ""
    claim: Annotated[str, Field(max_length=253)] = ""
    addresses: Annotated[list[Annotated[str, Field(max_length=50)]], Field(max_length=16)] = Field(default_factory=list)


class DiskStatus(ApiModel):
    """One disk as it is."""

    name: DnsLabel
    volume: Annotated[str, Field(max_length=253)] = ""
    ready: bool = False
    message: Sentence = ""


class CdromStatus(ApiModel):
    """One CD-ROM drive: what spec wants in it, where that lies, and what the guest has in it."""

    name: DnsLabel
    image: Annotated[str, Field(max_length=320)] = ""
    """NAMESPACE/NAME of the Image that spec names."""
    volume: Annotated[str, Field(max_length=253)] = ""
    pool: Annotated[str, Field(max_length=253)] = ""
    """Where that Image is wanted; on `node` alone where the pool is local."""
    node: Annotated[str, Field(max_length=253)] = ""
    ready: bool = False
    """The medium that spec names can be put in (nothing always can)."""
    inserted: Annotated[str, Field(max_length=330)] = ""
    """What lies in the drive of the running guest: image NAMESPACE/NAME or volume NAME; '' nothing."""
    message: Sentence = ""


class EffectiveStatus(ApiModel):
    """What holds where spec leaves it open. Memory in MiB."""

    cluster: Annotated[str, Field(max_length=253)] = ""
    class_name: Annotated[str, Field(max_length=253)] = ""
    cpu: int = 0
    memory_mib: int = 0
    cpu_model: Word = ""
    machine: Word = ""
    spec_hash: Word = ""
    """Of what the running guest was started with."""


class FieldChange(ApiModel):
    """One field of spec that differs from what runs, and what it takes to get there."""

    path: Annotated[str, Field(max_length=300)]
    """For example spec.cpu.count or spec.disks[data].bus."""
    effect: Literal["Live", "Migrate", "PowerCycle", "Impossible"]
    """Live: being applied to the running guest. Migrate: with the next move. PowerCycle: with the next start."""
    before: Annotated[str, Field(max_length=200)] = ""
    after: Annotated[str, Field(max_length=200)] = ""
    message: Annotated[str, Field(max_length=400)] = ""


class LastMigration(ApiModel):
    """The last move, or the one under way. Written by the migration controller."""

    name: Annotated[str, Field(max_length=253)] = ""
    """The VirtualMachineMigration."""
    phase: Word = ""
    source: Annotated[str, Field(max_length=253)] = ""
    target: Annotated[str, Field(max_length=253)] = ""
    finished_at: Word = ""
    total_milliseconds: Annotated[int, Field(ge=0)] = 0
    downtime_milliseconds: Annotated[int, Field(ge=0)] = 0


class VirtualMachineStatus(Status):
    """What is true of the VM. One writer per field: docs/reference/protocol."""

    placement: PlacementStatus | None = None
    scheduling: SchedulingStatus | None = None
    power: PowerStatus = PowerStatus()
    effective: EffectiveStatus = EffectiveStatus()
    hardware: HardwareStatus = HardwareStatus()
    guest: GuestStatus = GuestStatus()
    heartbeat: HeartbeatStatus | None = None
    addresses: Annotated[list[Annotated[str, Field(max_length=50)]], Field(max_length=64)] = Field(default_factory=list)
    interfaces: Annotated[list[InterfaceStatus], Field(max_length=16, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )
    disks: Annotated[list[DiskStatus], Field(max_length=32, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )
    cdroms: Annotated[list[CdromStatus], Field(max_length=8, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )
    changes: Annotated[list[FieldChange], Field(max_length=128, json_schema_extra=list_map("path"))] = Field(
        default_factory=list
    )
    """What of spec is not yet true of the running guest, per field."""
    migration: LastMigration | None = None
    """The last move, or the one under way."""
