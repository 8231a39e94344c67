"""HypervisorCluster: the hosts that belong together and what holds for all of them."""

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
    DnsLabel,
    DnsName,
    PrinterColumn,
    Resource,
    Scope,
    Status,
    list_map,
)
from lq_operator.api.vmmigration import MigrationTuning


class Overcommit(ApiModel):
    """How much more may be promised than a host has. Percent: 200 = twice."""

    cpu_percent: Annotated[int, Field(ge=100, le=3200)] = 400
    """vCPUs per host CPU, in percent (400 = four vCPUs per CPU)."""
    memory_percent: Annotated[int, Field(ge=50, le=400)] = 100
    """Guest memory per host memory, in percent. Above 100 guests can be killed when all use theirs."""


class SchedulingPolicy(ApiModel):
    """How VMs are placed."""

    strategy: Literal["Spread", "Pack", "Balanced"] = "Spread"
    """Spread: least loaded host first. Pack: fullest host that fits. Balanced: CPU and memory evenly used."""
    admission: Literal["Strict", "Warn", "Ignore"] = "Ignore"
    """Whether a placement that would leave no room for a host failure is refused, told, or allowed."""
    host_failures_tolerated: Annotated[int, Field(ge=0, le=10)] = 1
    """N+k: how many hosts may fail at once, for admission."""


class StatePool(ApiModel):
    """Where state that is not on disks lives: seeds, NVRAM, suspend images, console logs."""

    path: Annotated[str, Field(min_length=2, max_length=200, pattern=r"^/[-._/a-zA-Z0-9]+$")] = (
        "/var/lib/libvirt/lq-vmstate"
    )
    """Directory on every host. Reserved for us."""
    access: Literal["Local", "Shared"] = "Local"
    """Shared: the same file system on every host (NFS or the like), so that a VM takes its state along."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("!self.path.contains('..')", "statePool.path must not contain '..'"),
    )


class PhysicalNetwork(ApiModel):
    """A bridge that exists on the hosts and which this cluster opens to some namespaces."""

    name: DnsLabel
    """What VirtualNetwork.spec.physicalNetwork says."""
    bridge: Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[a-zA-Z0-9][-._a-zA-Z0-9]*$")]
    """Name of the Linux bridge on the hosts."""
    allowed_namespaces: AllowedNamespaces = AllowedNamespaces()
    """Who may put VMs on it. Same admits nobody (a cluster has no namespace): say All or a selector."""


class MigrationPolicy(ApiModel):
    """How guests are moved in this cluster."""

    tuning: MigrationTuning = MigrationTuning()
    """For every move; a VM or a move may say otherwise."""
    parallel_per_host: Annotated[int, Field(ge=1, le=64)] = 2
    """Moves that one host may send and receive at the same time."""
    parallel_per_cluster: Annotated[int, Field(ge=1, le=1024)] = 8
    """Moves in the cluster at the same time."""


class HypervisorClusterSpec(ApiModel):
    """What holds for all hosts of the cluster."""

    allowed_namespaces: AllowedNamespaces = AllowedNamespaces.model_validate({"from": "All"})
    """Whose VMs may run here."""
    scheduling: SchedulingPolicy = SchedulingPolicy()
    """How VMs are placed."""
    overcommit: Overcommit = Overcommit()
    """How much more may be promised than a host has; a node may say otherwise."""
    state_pool: StatePool = StatePool()
    """Where state that is not on disks lives."""
    physical_networks: Annotated[list[PhysicalNetwork], Field(max_length=64, json_schema_extra=list_map("name"))] = (
        Field(default_factory=list)
    )
    """Bridges of the hosts that VirtualNetworks of type bridge may use."""
    migration: MigrationPolicy = MigrationPolicy()
    """How guests are moved."""
    cpu_model: Annotated[str, Field(max_length=64, pattern=r"^[-._a-zA-Z0-9]*$")] = ""
    """Named CPU model for guests. Left out: the best model that all hosts can give, pinned in status when first known."""
    machine: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[-._a-zA-Z0-9]+$")] = "q35"
    """Machine type for new VMs; expanded and recorded per VM at its first start."""
    start_policy: Literal["Complete"] = "Complete"
    """When a VM may start: Complete = every member was taken over and listed in this term, or is proved to be off."""
    split_brain_policy: Literal["Report", "KillStale"] = "Report"
    """What happens to a running domain with a stale epoch: only told, or destroyed where a newer one surely runs."""
    recovery: Annotated[str, Field(max_length=63, pattern=NO_CONTROL)] = ""
    """Write a new word here after restoring a backup of the API server: nothing unconfirmed starts until all hosts were compared."""


class HypervisorClusterStatus(Status):
    """What is observed of the cluster."""

    installation: Annotated[str, Field(max_length=128)] = ""
    """Id under which we write on the hosts."""
    cpu_model: Annotated[str, Field(max_length=64)] = ""
    """Pinned CPU baseline: the default of every VM."""
    term: int = 0
    """Highest lease term seen on any member."""
    beat: int = 0
    """Beat of that term when last noted."""
    recovery_done: Annotated[str, Field(max_length=63)] = ""
    """The last spec.recovery that has been carried through."""
    nodes: int = 0
    nodes_ready: int = 0
    inventory_complete: bool = False
    """True: every member has been listed completely in this term, or is proved to be off."""
    missing: Annotated[list[Annotated[str, Field(max_length=400)]], Field(max_length=100)] = Field(default_factory=list)
    """Members that stand in the way of a complete inventory, each with the reason."""
    which_can_fail: Annotated[list[DnsName], Field(max_length=1000)] = Field(default_factory=list)


class HypervisorCluster(Resource):
    """The hosts that belong together: scheduling strategy, overcommit, CPU baseline, state pool, physical networks."""

    kind_name: ClassVar[str] = "HypervisorCluster"
    plural: ClassVar[str] = "hypervisorclusters"
    short_names: ClassVar[tuple[str, ...]] = ("hvc",)
    scope: ClassVar[Scope] = Scope.CLUSTER
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        READY,
        PrinterColumn(name="Nodes", path=".status.nodes", type="integer"),
        PrinterColumn(name="NodesReady", path=".status.nodesReady", type="integer"),
        PrinterColumn(name="Complete", path=".status.inventoryComplete", type="boolean"),
        PrinterColumn(name="CPU", path=".status.cpuModel"),
        REASON,
        AGE,
        MESSAGE,
    )

    spec: HypervisorClusterSpec = HypervisorClusterSpec()
    status: HypervisorClusterStatus = HypervisorClusterStatus()
