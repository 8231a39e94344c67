"""VirtualMachine: what a user wants of a VM, and what is true of it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lq_operator.api.base import (
    AGE,
    MESSAGE,
    READY,
    REASON,
    ApiModel,
    DnsLabel,
    DnsName,
    LabelKey,
    LabelMap,
    LabelSelector,
    LabelValue,
    LocalRef,
    PrinterColumn,
    Quantity,
    Resource,
    SecretKeyRef,
    SharedRef,
    UserText,
    list_map,
)
from lq_operator.api.network import Ipv4
from lq_operator.api.vmmigration import MigrationTuning
from lq_operator.api.vmstatus import VirtualMachineStatus
from lq_operator.api.volume import VolumeSource

Mac = Annotated[str, Field(pattern=r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$", max_length=17)]
"""A unicast MAC address in lower case."""

PowerState = Literal["Running", "Stopped", "Paused", "Suspended"]


class CpuSpec(ApiModel):
    """vCPUs and how the guest sees them."""

    count: Annotated[int, Field(ge=1, le=256)]
    """vCPUs, 1 to 256."""
    sockets: Annotated[int | None, Field(ge=1, le=256)] = None
    """Sockets that the guest sees; with cores and threads. Left out: one socket a vCPU."""
    cores: Annotated[int | None, Field(ge=1, le=256)] = None
    """Cores a socket."""
    threads: Annotated[int | None, Field(ge=1, le=8)] = None
    """Threads a core."""
    model: Annotated[str | None, Field(min_length=1, max_length=64, pattern=r"^[-._a-zA-Z0-9]+$")] = None
    """Named CPU model, or host-passthrough (then it cannot move between different hosts). Left out: the cluster's baseline."""
    shares: Annotated[int | None, Field(ge=2, le=262144)] = None
    """Weight against other VMs when CPUs are short. Left out: 1024 per vCPU's default of the host."""
    limit_percent: Annotated[int | None, Field(ge=1, le=100)] = None
    """Most of each vCPU that it may use, in percent."""
    max_count: Annotated[int | None, Field(ge=1, le=256)] = None
    """vCPUs that can be added while it runs, the first ones included. Left out: count, so none can. Costs the guest some memory."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "(has(self.sockets) == has(self.cores)) && (has(self.cores) == has(self.threads))",
            "cpu.sockets, cpu.cores and cpu.threads go together: set all or none",
        ),
        (
            "!has(self.sockets) || !has(self.cores) || !has(self.threads) || self.sockets * self.cores * self.threads == self.count",
            "cpu.sockets x cpu.cores x cpu.threads must equal cpu.count",
        ),
        ("!has(self.maxCount) || self.maxCount >= self.count", "cpu.maxCount must be at least cpu.count"),
        (
            "!has(self.maxCount) || !has(self.cores) || !has(self.threads) || self.maxCount % (self.cores * self.threads) == 0",
            "cpu.maxCount must be a multiple of cpu.cores x cpu.threads: whole sockets are added",
        ),
    )


class MemorySpec(ApiModel):
    """Guest memory."""

    size: Quantity
    """256Mi to 1Ti."""
    max_size: Quantity | None = None
    """Up to where memory can be added while it runs (virtio-mem). Left out: what it was started with. Costs the guest some memory."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "quantity(self.size).compareTo(quantity('256Mi')) >= 0 && quantity(self.size).compareTo(quantity('1Ti')) <= 0",
            "memory.size must be from 256Mi to 1Ti",
        ),
        (
            "!has(self.maxSize) || (quantity(self.maxSize).compareTo(quantity(self.size)) >= 0 && quantity(self.maxSize).compareTo(quantity('1Ti')) <= 0)",
            "memory.maxSize must be from memory.size to 1Ti",
        ),
    )


class DiskTemplate(ApiModel):
    """A Volume that is made for this VM and owned by it. Its name is VM-DISK."""

    size: Quantity
    """1Gi to 64Ti."""
    pool_ref: DnsName | None = None
    """StoragePool. Left out: the only pool of the cluster."""
    source: VolumeSource = VolumeSource()
    """What is on it at the beginning; left out: nothing."""
    format: Literal["qcow2", "raw"] | None = None
    """Left out: the pool's default."""
    reclaim_policy: Literal["Delete", "Retain"] = "Delete"
    """What happens to the bytes when the VM is deleted."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "quantity(self.size).compareTo(quantity('1Gi')) >= 0 && quantity(self.size).compareTo(quantity('64Ti')) <= 0",
            "disks[].template.size must be from 1Gi to 64Ti",
        ),
    )


class DiskLimits(ApiModel):
    """The most that a disk may do, reads and writes together."""

    iops: Annotated[int | None, Field(ge=10, le=10_000_000)] = None
    """Operations a second. Left out: no limit."""
    bandwidth: Quantity | None = None
    """Bytes a second, for example 100Mi; 64Ki to 1Ti. Left out: no limit."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "!has(self.bandwidth) || (quantity(self.bandwidth).compareTo(quantity('64Ki')) >= 0 && quantity(self.bandwidth).compareTo(quantity('1Ti')) <= 0)",
            "disks[].limits.bandwidth must be from 64Ki to 1Ti",
        ),
    )


class Disk(ApiModel):
    """One disk: an existing Volume, or a template."""

    name: DnsLabel
    """Unique within the VM."""
    volume_ref: LocalRef | None = None
    """An existing Volume of this namespace."""
    template: DiskTemplate | None = None
    """A Volume that is made for this VM."""
    bus: Literal["virtio", "scsi", "sata"] = "virtio"
    """How the guest sees it."""
    boot_order: Annotated[int | None, Field(ge=1, le=64)] = None
    """1 is tried first. Left out of every disk: the first disk, with the first number that nothing else has."""
    cache: Literal["none", "writeback", "writethrough"] = "none"
    """Host caching. writeback is faster and loses the last writes with the host."""
    read_only: bool = False
    """The guest cannot write."""
    limits: DiskLimits | None = None
    """Left out: no limit."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("has(self.volumeRef) != has(self.template)", "each disk has either volumeRef or template"),
    )


class Medium(ApiModel):
    """What lies in a CD-ROM drive: an ISO image that several VMs may have at once, or a Volume that is this VM's alone."""

    image_ref: SharedRef | None = None
    """An Image of format raw (as ISO images are). It is imported into the pool; the drives read that one copy."""
    pool_ref: DnsName | None = None
    """StoragePool that the Image is imported into. Left out: the only pool of the cluster."""
    volume_ref: LocalRef | None = None
    """An existing Volume of this namespace, read only."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("has(self.imageRef) != has(self.volumeRef)", "a medium is either imageRef or volumeRef"),
        (
            "!has(self.poolRef) || has(self.imageRef)",
            "medium.poolRef is for imageRef only: a Volume has its pool already",
        ),
    )


class Cdrom(ApiModel):
    """One CD-ROM drive. The drive stays until the next start; its medium may change while the VM runs."""

    name: DnsLabel
    """Unique among the drives of the VM."""
    medium: Medium | None = None
    """What lies in it. Left out: nothing. Taken away while the VM runs: ejected."""
    bus: Literal["sata", "scsi"] = "sata"
    """How the guest sees it."""
    boot_order: Annotated[int | None, Field(ge=1, le=64)] = None
    """1 is tried first, counted together with disks and interfaces. Left out: it is not booted from."""
    force_eject: bool = False
    """Take the medium out though the guest has locked the tray. Left out: a locked tray is told, and waited for."""


class Interface(ApiModel):
    """One network interface."""

    name: DnsLabel
    """Unique within the VM."""
    network_ref: SharedRef
    """VirtualNetwork it plugs into."""
    mac: Mac | None = None
    """Left out: derived from the VM's identity, and stays."""
    addressing: Literal["Dhcp", "Claim", "None"] = "Dhcp"
    """Dhcp: the network gives one. Claim: we reserve one (AddressClaim) and tell the guest by cloud-init. None: no business of ours."""
    address: Ipv4 | None = None
    """The address to claim. Left out: the first free one."""
    model: Literal["virtio", "e1000e"] = "virtio"
    """How the guest sees it."""
    boot_order: Annotated[int | None, Field(ge=1, le=64)] = None
    """Network boot; 1 is tried first, counted together with disks and CD-ROM drives."""
    link_state: Literal["Up", "Down"] = "Up"
    """Down: as if the cable were out."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("!has(self.address) || self.addressing == 'Claim'", "interfaces[].address is for addressing Claim only"),
    )


class CloudInit(ApiModel):
    """NoCloud seed. Read by the VM controller alone; nothing of it shows in status, events or logs."""

    user_data: Annotated[str | None, Field(max_length=32768)] = None
    """Inline, at most 32 KiB, readable by everyone who may read the VM. Secrets go into userDataSecretRef."""
    user_data_secret_ref: SecretKeyRef | None = None
    """At most 512 KiB."""
    meta_data_secret_ref: SecretKeyRef | None = None
    """Added to ours (instance-id and local-hostname are ours)."""
    network_data: Annotated[str | None, Field(max_length=32768)] = None
    """network-config, version 2. Left out: written from interfaces with a claimed address."""
    network_data_secret_ref: SecretKeyRef | None = None
    """The same from a Secret."""
    ssh_authorized_keys: Annotated[
        list[
            Annotated[str, Field(min_length=16, max_length=4096, pattern=r"^[^\x00-\x1f\x7f-\x9f\x{fffe}\x{ffff}]+$")]
        ],
        Field(max_length=64),
    ] = Field(default_factory=list)
    """Public keys for the image's default user."""
    ssh_authorized_keys_secret_ref: SecretKeyRef | None = None
    """One key a line."""
    hostname: Annotated[
        str | None, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$")
    ] = None
    """Left out: the VM's name."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "!(has(self.userData) && has(self.userDataSecretRef))",
            "cloudInit.userData and cloudInit.userDataSecretRef exclude each other",
        ),
        (
            "!(has(self.networkData) && has(self.networkDataSecretRef))",
            "cloudInit.networkData and cloudInit.networkDataSecretRef exclude each other",
        ),
    )


class Toleration(ApiModel):
    """Lets the VM onto hosts with this taint."""

    key: Annotated[
        str,
        Field(
            max_length=317, pattern=r"^(([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
        ),
    ] = ""
    """'' with Exists tolerates everything."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Equal compares the value; Exists does not."""
    value: LabelValue = ""
    """For Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", ""] = ""
    """'' tolerates both effects."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "self.operator == 'Exists' || (has(self.key) && self.key != '')",
            "tolerations[].key is required with operator Equal",
        ),
        (
            "self.operator == 'Equal' || !has(self.value) || self.value == ''",
            "tolerations[].value is for operator Equal only",
        ),
    )


class VmAffinityTerm(ApiModel):
    """VMs of this namespace that match the selector, in the same topology domain."""

    selector: LabelSelector
    """Which VMs of this namespace."""
    topology_key: LabelKey = "limiquantix.io/host"
    """Label of hosts; limiquantix.io/host is the host itself."""
    required: bool = True
    """true: a host that breaks it does not fit. false: it costs weight."""
    weight: Annotated[int, Field(ge=1, le=100)] = 50
    """For required: false."""


class TopologySpread(ApiModel):
    """At most maxSkew more of the matching VMs in one domain than in the emptiest."""

    selector: LabelSelector
    """Which VMs of this namespace are counted."""
    topology_key: LabelKey = "limiquantix.io/host"
    """Label of hosts whose values are the domains."""
    max_skew: Annotated[int, Field(ge=1, le=1000)] = 1
    """Largest difference between two domains."""


class PlacementWishes(ApiModel):
    """Where it may and should run."""

    node_selector: LabelMap = Field(default_factory=dict)
    """Labels the host must have. limiquantix.io/host pins to one."""
    node_affinity: LabelSelector = LabelSelector()
    """The same with expressions."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default_factory=list)
    """Taints that do not keep it away."""
    affinity: Annotated[list[VmAffinityTerm], Field(max_length=8)] = Field(default_factory=list)
    """Together with these VMs."""
    anti_affinity: Annotated[list[VmAffinityTerm], Field(max_length=8)] = Field(default_factory=list)
    """Apart from these VMs."""
    spread: Annotated[list[TopologySpread], Field(max_length=4)] = Field(default_factory=list)
    """Evenly over domains."""
    strategy: Literal["Spread", "Pack", "Balanced"] | None = None
    """Left out: the cluster's."""


class Availability(ApiModel):
    """What happens when its host fails."""

    restart_on_host_failure: bool = True
    """Start it elsewhere once there is evidence that its host does not run it."""
    priority: Annotated[int, Field(ge=0, le=100)] = 50
    """Higher is placed and restarted first."""


class Heartbeat(ApiModel):
    """Watches the guest by its agent: one that has answered in this run, keeps its channel open and is silent hangs."""

    action: Literal["None", "Reset", "Restart"] = "None"
    """What a guest that hangs gets. None: it is only told. Reset: the reset button. Restart: cut off, started anew by restartPolicy."""
    after_seconds: Annotated[int, Field(ge=10, le=3600)] = 60
    """Unbroken silence that counts, while it runs and its host answers. Twice as long before each further try."""
    tries: Annotated[int, Field(ge=1, le=10)] = 3
    """Actions in a row, then it is given up; counted from zero after ten good minutes or an operation."""


class Shutdown(ApiModel):
    """How it is stopped by wish."""

    grace_period_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """After this long without success the guest is cut off. 0: at once."""


def _each_once(items: str, field: str) -> str:
    """CEL: no two items have the same value there."""
    return f"{items}.all(a, !has(a.{field}) || {items}.exists_one(b, has(b.{field}) && b.{field} == a.{field}))"


class VirtualMachineSpec(ApiModel):
    """What the user wants."""

    cluster_ref: LocalRef | None = None
    """Left out: the only cluster that admits the namespace."""
    class_name: DnsName | None = None
    """A VirtualMachineClass; or cpu and memory."""
    cpu: CpuSpec | None = None
    """vCPUs; with memory, where there is no className."""
    memory: MemorySpec | None = None
    """Guest memory; with cpu, where there is no className."""
    firmware: Literal["bios", "uefi", "uefi-secure"] = "bios"
    """Immutable. uefi-secure: with secure boot."""
    tpm: bool = False
    """TPM 2.0. Its state stays on the host (condition Restartable tells)."""
    machine: Annotated[str | None, Field(min_length=1, max_length=64, pattern=r"^[-._a-zA-Z0-9]+$")] = None
    """Machine type. Left out: the cluster's; recorded at the first start."""
    disks: Annotated[list[Disk], Field(max_length=32, json_schema_extra=list_map("name"))] = Field(default_factory=list)
    """At most 32; none is valid too."""
    cdroms: Annotated[list[Cdrom], Field(max_length=4, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )
    """CD-ROM drives, at most 4."""
    interfaces: Annotated[list[Interface], Field(max_length=16, json_schema_extra=list_map("name"))] = Field(
        default_factory=list
    )
    """At most 16; none is valid too."""
    cloud_init: CloudInit | None = None
    """NoCloud seed. Left out: no seed disk."""
    guest_agent: bool = True
    """Give it the channel of the QEMU guest agent."""
    vnc: bool = True
    """A VNC display on the host's loopback."""
    console_log: bool = True
    """Keep what the serial console prints, in the state pool."""
    watchdog: Literal["reset", "poweroff", "pause"] | None = None
    """What a guest that stops feeding its watchdog gets."""
    heartbeat: Heartbeat | None = None
    """Left out: nobody minds whether its agent answers."""
    power_state: PowerState | None = None
    """Declared power state; operations that contradict it are refused. Left out: operations decide, starting with Running."""
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    """When a guest ends by itself. Always: start again. OnFailure: after a crash or lost QEMU. Never: stay stopped."""
    shutdown: Shutdown = Shutdown()
    """How it is stopped by wish."""
    placement: PlacementWishes = PlacementWishes()
    """Where it may and should run."""
    availability: Availability = Availability()
    """What happens when its host fails."""
    migration: MigrationTuning = MigrationTuning()
    """How it is moved while it runs; what is left out is the cluster's."""
    description: UserText = ""
    """For people; stored with the domain."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "has(self.className) ? (!has(self.cpu) && !has(self.memory)) : (has(self.cpu) && has(self.memory))",
            "either spec.className, or both spec.cpu and spec.memory",
        ),
        (
            "has(self.clusterRef) == has(oldSelf.clusterRef) && (!has(self.clusterRef) || self.clusterRef == oldSelf.clusterRef)",
            "spec.clusterRef is immutable",
        ),
        (
            "self.firmware == oldSelf.firmware",
            "spec.firmware is immutable: the guest would not boot any more. Make a new VM with the same volumes",
        ),
        (
            "!has(self.heartbeat) || !has(self.guestAgent) || self.guestAgent",
            "spec.heartbeat listens to the guest agent: spec.guestAgent must be true",
        ),
        (
            "!has(self.heartbeat) || !has(self.heartbeat.action) || self.heartbeat.action != 'Restart' || "
            "!has(self.restartPolicy) || self.restartPolicy != 'Never'",
            "spec.heartbeat.action Restart starts by spec.restartPolicy: it must not be Never",
        ),
        (
            f"!has(self.disks) || {_each_once('self.disks', 'bootOrder')}",
            "disks[].bootOrder: each number may be used once",
        ),
        (
            f"!has(self.interfaces) || {_each_once('self.interfaces', 'bootOrder')}",
            "interfaces[].bootOrder: each number may be used once",
        ),
        (
            "!has(self.disks) || !has(self.interfaces) || self.disks.all(d, !has(d.bootOrder) || "
            "self.interfaces.all(i, !has(i.bootOrder) || i.bootOrder != d.bootOrder))",
            "bootOrder: disks and interfaces count together, each number may be used once",
        ),
        (
            f"!has(self.cdroms) || {_each_once('self.cdroms', 'bootOrder')}",
            "cdroms[].bootOrder: each number may be used once",
        ),
        (
            "!has(self.cdroms) || self.cdroms.all(c, !has(c.bootOrder) || "
            "((!has(self.disks) || self.disks.all(d, !has(d.bootOrder) || d.bootOrder != c.bootOrder)) && "
            "(!has(self.interfaces) || self.interfaces.all(i, !has(i.bootOrder) || i.bootOrder != c.bootOrder))))",
            "bootOrder: CD-ROM drives count together with disks and interfaces, each number may be used once",
        ),
        (
            "!has(self.cdroms) || self.cdroms.all(c, !has(c.medium) || !has(c.medium.volumeRef) || "
            "(self.cdroms.exists_one(o, has(o.medium) && has(o.medium.volumeRef) && "
            "o.medium.volumeRef.name == c.medium.volumeRef.name) && (!has(self.disks) || "
            "self.disks.all(d, !has(d.volumeRef) || d.volumeRef.name != c.medium.volumeRef.name))))",
            "cdroms[].medium.volumeRef: each volume may be used once, as a medium or as a disk",
        ),
        (
            f"!has(self.interfaces) || {_each_once('self.interfaces', 'mac')}",
            "interfaces[].mac: each address may be used once",
        ),
        (
            "!has(self.disks) || self.disks.all(d, !has(d.volumeRef) || "
            "self.disks.exists_one(e, has(e.volumeRef) && e.volumeRef.name == d.volumeRef.name))",
            "disks[].volumeRef: each volume may be used once",
        ),
    )


class VirtualMachine(Resource):
    """A virtual machine. It never runs twice."""

    kind_name: ClassVar[str] = "VirtualMachine"
    plural: ClassVar[str] = "virtualmachines"
    short_names: ClassVar[tuple[str, ...]] = ("vm",)
    selectable: ClassVar[tuple[str, ...]] = (
        ".status.placement.node",
        ".status.placement.phase",
        ".status.power.state",
        ".spec.className",
        ".spec.clusterRef.name",
    )
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        PrinterColumn(name="State", path=".status.power.state"),
        READY,
        PrinterColumn(name="Node", path=".status.placement.node"),
        PrinterColumn(name="IP", path=".status.addresses[0]"),
        PrinterColumn(name="Hostname", path=".status.guest.hostname"),
        PrinterColumn(name="CPU", path=".status.effective.cpu", type="integer", priority=1),
        PrinterColumn(name="MemoryMiB", path=".status.effective.memoryMib", type="integer", priority=1),
        REASON,
        AGE,
        MESSAGE,
    )
    name_rule: ClassVar[tuple[str, str] | None] = (
        "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be a DNS label of at most 63 characters: it becomes the guest's host name",
    )

    spec: VirtualMachineSpec
    status: VirtualMachineStatus = VirtualMachineStatus()
