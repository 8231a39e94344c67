"""The words the whole house speaks: identities, epochs, placements, what a host shows, what a host is asked for.

Values only: frozen, comparable, without IO. Adapters translate them to libvirt and Kubernetes; the pure
rooms decide over them.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

NodeName = NewType("NodeName", str)
"""metadata.name of a HypervisorNode."""

HostUUID = NewType("HostUUID", str)
"""libvirt's host UUID, lower case with dashes: who a host is, whatever its URI says."""

BootNonce = NewType("BootNonce", str)
"""Names one boot of one host: the name of the gate that was made on its tmpfs when it was taken over."""

_LQ_NAMESPACE = uuid.UUID("6e1a6c1e-8f0b-5d0e-9a54-6c71c1a9a001")


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """One start attempt: (term of the lease, counter of the process that holds it). Never reused."""

    term: int
    n: int

    def __str__(self) -> str:
        return f"{self.term}-{self.n}"

    @classmethod
    def parse(cls, text: str) -> Epoch:
        """Inverse of str(); ValueError names the text."""
        term, dash, n = text.partition("-")
        if not dash or not term.isdigit() or not n.isdigit():
            raise ValueError(f"{text!r} is not an epoch (TERM-N)")
        return cls(int(term), int(n))


def domain_name_of(namespace: str, name: str) -> str:
    """Name of a VM's libvirt domain. '_' is in no Kubernetes name, so the parts cannot run together."""
    return f"lq_{namespace}_{name}"


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """Who a VM is: installation + namespace/name. The object's uid is only an incarnation."""

    installation: str
    namespace: str
    name: str

    @property
    def key(self) -> str:
        """namespace/name, as kubectl and our queues write it."""
        return f"{self.namespace}/{self.name}"

    @property
    def domain_name(self) -> str:
        """Name of the libvirt domain."""
        return domain_name_of(self.namespace, self.name)

    @property
    def domain_uuid(self) -> str:
        """UUID of the libvirt domain: derived, so that a VM keeps it over a lost API server."""
        return str(uuid.uuid5(_LQ_NAMESPACE, f"{self.installation}/{self.namespace}/{self.name}"))

    def mac(self, interface: str) -> str:
        """Locally administered MAC of an interface: 02 + 40 bits derived from the identity."""
        tail = uuid.uuid5(_LQ_NAMESPACE, f"mac/{self.installation}/{self.key}/{interface}").bytes[:5]
        return "02:" + ":".join(f"{byte:02x}" for byte in tail)


# ---------------------------------------------------------------- placement (protocol.md)


class Phase(StrEnum):
    """Where a VM stands in the ownership protocol."""

    RELEASED = "Released"
    ASSIGNED = "Assigned"
    COMMITTED = "Committed"
    MOVING = "Moving"


class EvidenceKind(StrEnum):
    """The only things that prove that a host does not run a VM."""

    HOST_CONFIRMED_ABSENT = "host-confirmed-absent"
    BMC_CONFIRMED_OFF = "bmc-confirmed-off"
    STORAGE_LEASE_LOST = "storage-lease-lost"
    HUMAN_ATTESTED = "human-attested"
    INVENTORY = "inventory"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Typed proof, stored with the transition that used it. `boot` is the boot that is over, where one is meant."""

    kind: EvidenceKind
    host_uuid: HostUUID | None = None
    epoch: Epoch | None = None
    boot: BootNonce | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """status.placement. Absent (None) means: never considered. `write_id` is random at every change."""

    phase: Phase
    write_id: str
    since: str  # RFC 3339, for people; nothing decides by it
    node: NodeName | None = None
    host_uuid: HostUUID | None = None
    boot: BootNonce | None = None
    epoch: Epoch | None = None
    released_epoch: Epoch | None = None
    target: NodeName | None = None
    target_uuid: HostUUID | None = None
    target_boot: BootNonce | None = None
    evidence: tuple[Evidence, ...] = ()
    run_epoch: Epoch | None = None  # of the run, where a move has used up an epoch since it was started

    @property
    def started_epoch(self) -> Epoch | None:
        """The epoch that the domain of this run carries: a move gives the placement a newer one, the run keeps its own."""
        return self.run_epoch or self.epoch


# ---------------------------------------------------------------- what a host shows


class DomainState(StrEnum):
    """libvirt's domain state in our words."""

    RUNNING = "Running"
    PAUSED = "Paused"
    STARTING = "Starting"  # listed as active while QEMU comes up
    SHUTTING_DOWN = "ShuttingDown"
    SHUTOFF = "Shutoff"
    CRASHED = "Crashed"
    PM_SUSPENDED = "PMSuspended"

    @property
    def runs(self) -> bool:
        """True where a QEMU exists (also paused, starting and shutting down)."""
        return self not in (DomainState.SHUTOFF, DomainState.CRASHED)


@dataclass(frozen=True, slots=True)
class DomainSeen:
    """One domain as a host lists it. `identity` is None for domains that are not ours (never touched).

    Where it runs, uid, epoch and the rest are those of the run; `gate` is always that of the next start.
    """

    domain_name: str
    domain_uuid: str
    state: DomainState
    state_reason: str  # libvirt's reason as a word, e.g. 'booted', 'destroyed', 'crashed', 'migrated'
    persistent: bool
    identity: Identity | None = None
    uid: str = ""
    epoch: Epoch | None = None
    spec_hash: str = ""
    gate: str = ""  # name of the gate its inactive XML requires, '' where none
    addresses: tuple[tuple[str, str], ...] = ()  # (interface, claimed address) that its seed told the guest


@dataclass(frozen=True, slots=True)
class NumaCell:
    """One NUMA cell of a host. Memory in MiB."""

    cell: int
    memory_mib: int
    cpus: int


@dataclass(frozen=True, slots=True)
class HostInventory:
    """What a host is, asked once per connection and on change. Memory in MiB."""

    host_uuid: HostUUID
    hostname: str
    libvirt_version: str
    hypervisor: str  # e.g. 'QEMU 7.2.22'
    arch: str
    cpu_model: str
    cpu_vendor: str
    cpu_features: tuple[str, ...]
    usable_cpu_models: tuple[str, ...]
    cpus: int
    memory_mib: int
    numa: tuple[NumaCell, ...]
    machine_types: tuple[str, ...]
    accel: str  # 'kvm' or 'tcg'
    firmware: tuple[str, ...]  # subset of ('bios', 'uefi', 'uefi-secure')
    emulates_tpm: bool | None = None  # a TPM 2.0 by swtpm; None: this libvirt does not say


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """What the guest agent says. Empty fields where the agent does not know."""

    hostname: str = ""
    os_name: str = ""
    os_version: str = ""
    kernel: str = ""
    agent_version: str = ""
    addresses: tuple[tuple[str, str], ...] = ()  # (MAC, address with prefix), link-local left out


class AgentState(StrEnum):
    """What a guest's agent does with a question, as its host sees it."""

    ANSWERS = "Answers"
    SILENT = "Silent"  # the guest holds the channel open, and nothing comes back in time
    CLOSED = "Closed"  # nobody has the channel open: the guest boots, or the agent does not run


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """How a command in a guest ended. `truncated`: there was more output."""

    exit_code: int | None
    signal: int | None
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class VolumeSeen:
    """One volume of a pool on a host. Sizes in bytes."""

    name: str
    path: str
    format: str
    capacity_bytes: int
    allocation_bytes: int
    backing_path: str = ""


@dataclass(frozen=True, slots=True)
class PoolSeen:
    """A storage pool on a host. Sizes in bytes."""

    name: str
    active: bool
    path: str
    capacity_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class NetworkSeen:
    """A libvirt network on a host."""

    name: str
    active: bool
    bridge: str


# ---------------------------------------------------------------- what a host is asked for


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A dir pool to exist on a host. `mode` as in chmod; build makes the directory."""

    name: str
    path: str
    mode: int = 0o711
    build: bool = True
    autostart: bool = True


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """A volume to exist in a pool. `clone_of` names another volume of the same pool (full copy)."""

    name: str
    capacity_bytes: int
    format: str = "qcow2"  # 'qcow2' or 'raw'
    clone_of: str | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """A libvirt network to exist on a host; `bridge_name` only for an existing bridge (forward mode bridge)."""

    name: str
    mode: str  # 'nat', 'isolated', 'bridge'
    bridge_name: str = ""
    gateway: str = ""  # address of the host on the network, without prefix
    prefix: int = 0
    dhcp_start: str = ""
    dhcp_end: str = ""
    domain: str = ""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """A disk of a domain. `slot` is its PCI address (bus on q35, e.g. '0000:03:00.0'), '' = let libvirt choose."""

    name: str
    path: str
    format: str
    bus: str = "virtio"  # 'virtio', 'scsi', 'sata'
    device: str = "disk"  # 'disk' or 'cdrom'
    read_only: bool = False
    cache: str = "none"
    boot_order: int = 0  # 0 = not bootable
    serial: str = ""
    discard: bool = True
    slot: str = ""
    target: str = ""  # vda, sda ...; filled by the hardware plan so that it stays
    iops: int = 0  # reads and writes together; 0 = no limit
    bytes_per_second: int = 0  # the same


@dataclass(frozen=True, slots=True)
class CdromPlan:
    """A CD-ROM drive of a domain and what lies in it; `path` '' = nothing.

    `waits`: why the medium that is wished cannot be put in yet, '' where it can; a guest is not started with one that waits.
    """

    name: str
    path: str = ""
    format: str = "raw"
    bus: str = "sata"  # 'sata' or 'scsi'
    boot_order: int = 0  # 0 = not bootable
    target: str = ""  # sda, sdb ...; from the hardware record so that it stays
    force_eject: bool = False
    waits: str = ""


@dataclass(frozen=True, slots=True)
class NicPlan:
    """A network interface of a domain, on a libvirt network or on a bridge that exists."""

    name: str
    mac: str
    network: str = ""
    bridge: str = ""
    model: str = "virtio"
    boot_order: int = 0
    mtu: int = 0
    link_up: bool = True
    slot: str = ""


@dataclass(frozen=True, slots=True)
class HardwareAbi:
    """status.hardware: what the guest saw at its first start and must see for ever (machine, CPU, addresses)."""

    machine: str = ""
    cpu_model: str = ""
    cpu_features: tuple[str, ...] = ()
    slots: tuple[tuple[str, str], ...] = ()  # ('disk/root' | 'nic/eth0' | 'controller/3', PCI address)
    targets: tuple[tuple[str, str], ...] = ()  # ('disk/root', 'vda'), ('cdrom/install', 'sda')


@dataclass(frozen=True, slots=True)
class DomainPlan:
    """Everything a domain definition says, in our words; adapters/libvirt/xml writes it down."""

    identity: Identity
    uid: str
    epoch: Epoch
    spec_hash: str
    gate_path: str
    vcpus: int
    memory_mib: int
    vcpus_max: int = 0  # that can be plugged in; 0 = vcpus
    memory_max_mib: int = 0  # up to where memory can be added (virtio-mem); 0 = memory_mib
    sockets: int = 0  # 0 = vcpus sockets of one core
    cores: int = 0
    threads: int = 0
    arch: str = "x86_64"
    machine: str = "q35"
    accel: str = "kvm"
    cpu_mode: str = "custom"  # 'custom', 'host-model', 'host-passthrough', 'maximum'
    cpu_model: str = ""
    cpu_features: tuple[str, ...] = ()
    cpu_shares: int = 0
    cpu_quota_percent: int = 0  # of one vCPU; 0 = no limit
    firmware: str = "bios"  # 'bios', 'uefi', 'uefi-secure'
    nvram_path: str = ""
    disks: tuple[DiskPlan, ...] = ()
    cdroms: tuple[CdromPlan, ...] = ()
    nics: tuple[NicPlan, ...] = ()
    seed_path: str = ""
    console_log_path: str = ""
    guest_agent: bool = True
    vnc: bool = False
    tpm: bool = False
    rng: bool = True
    watchdog: str = ""  # '', 'reset', 'poweroff', 'pause'
    addresses: tuple[tuple[str, str], ...] = ()  # (interface, claimed address), for whoever finds the domain
    record: tuple[tuple[str, str], ...] = ()  # spec path -> value, of what the devices do not tell
    hotplug_ports: int = 8
    hardware: HardwareAbi = field(default_factory=HardwareAbi)


@dataclass(frozen=True, slots=True)
class MovePlan:
    """One live move, as the source host is asked for it. It runs host to host (libvirt's peer to peer)."""

    domain_name: str
    peer_uri: str  # the target's libvirt, as the source reaches it, with the source's parameters
    data_address: str  # address or name that carries memory and disks; '' = the host of peer_uri
    running: DomainPlan  # as it runs on the target: its gate_path is the ticket of this move
    kept: DomainPlan  # the definition that stays on the target: it requires the target's gate
    copied_disks: tuple[str, ...] = ()  # names of disks whose content goes along; their volumes exist on the target
    bandwidth_mib_s: int = 0  # 0 = no limit
    max_downtime_ms: int = 300
    auto_converge: bool = True
    parallel_connections: int = 1
    post_copy: bool = False  # allowed; it begins with Host.start_post_copy
    arrive_paused: bool = (
        False  # whoever moves it resumes it there, once the source is seen shut off; not with post_copy
    )


@dataclass(frozen=True, slots=True)
class MoveProgress:
    """What the source says of a move under way. Bytes count memory and copied disks together."""

    total_bytes: int
    remaining_bytes: int
    transferred_bytes: int
    dirty_bytes_s: int = 0
    expected_downtime_ms: int = 0
    elapsed_ms: int = 0
    iteration: int = 0
    post_copy: bool = False


@dataclass(frozen=True, slots=True)
class MoveResult:
    """What a finished move took, as the hosts measured it."""

    total_ms: int
    downtime_ms: int
    transferred_bytes: int


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """Something a host told us by itself: a hint to observe, never a fact to act on."""

    node: NodeName
    domain_name: str  # '' = the connection itself
    kind: str  # 'lifecycle', 'agent', 'reboot', 'watchdog', 'io-error', 'connected', 'closed'
    detail: str = ""
