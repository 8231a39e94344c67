"""What the placement engine is told and what it says: frozen values, every number an integer with its unit.

Refuses bad numbers when a value is made, with the name of the field. Knows nothing about how they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from lq_operator.core.placement.selectors import Requirements, Taint, Toleration

HOSTNAME_KEY = "kubernetes.io/hostname"
"""Topology key of a single host: its domain is the host's name, whatever its labels say."""

MAX_NUMBER = 2**53
"""Largest amount accepted: beyond it float64 scores would no longer tell two amounts apart."""


class VmKey(NamedTuple):
    """Who a VM is inside one installation: namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def check_number(owner: str, name: str, value: object, *, low: int = 0, high: int = MAX_NUMBER) -> None:
    """Refuse what is not an integer in [low, high]; ValueError names owner and field."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{owner}.{name}: {value!r} is not an integer")  # noqa: TRY004  one error type for bad values
    if not low <= value <= high:
        raise ValueError(f"{owner}.{name}: {value} is not between {low} and {high}")


def _amounts(owner: str, name: str, amounts: Mapping[str, int]) -> Mapping[str, int]:
    for key, amount in amounts.items():
        check_number(owner, f"{name}[{key}]", amount)
    return MappingProxyType({key: amounts[key] for key in sorted(amounts)})


def _pairs(amounts: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    return tuple(amounts.items())


# ---------------------------------------------------------------- hosts


@dataclass(frozen=True, slots=True)
class NumaCellFacts:
    """One NUMA cell: CPUs that may be dedicated, memory for VMs in MiB without hugepages, hugepages by size in KiB."""

    cell: int
    pcpus: int
    memory_mib: int
    hugepages: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("cell", "pcpus", "memory_mib"):
            check_number(f"numa cell {self.cell}", name, getattr(self, name))
        for size_kib, count in self.hugepages.items():
            check_number(f"numa cell {self.cell}", f"hugepages[{size_kib}]", count)


@dataclass(frozen=True, slots=True)
class PoolReach:
    """A storage pool as one host sees it. `shared`: one free space for all hosts, so reservations count everywhere."""

    free_bytes: int
    shared: bool = False


@dataclass(frozen=True, slots=True)
class HostLoad:
    """Measured CPU demand of a host: mean and standard deviation in thousandths of a core."""

    mean_mcores: int
    sd_mcores: int = 0


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host as the placement engine sees it.

    pcpus: physical CPUs for VMs; overcommit_milli: vCPUs per pCPU in thousandths (4000 = 4 vCPU per pCPU).
    memory_mib: total; reserved_memory_mib: kept for the host; hugepages (size in KiB -> count) are taken from it too.
    pools: pool name -> reach; numa: empty means the host is one cell; load: None means not measured.
    """

    name: str
    pcpus: int
    memory_mib: int
    overcommit_milli: int = 1000
    reserved_memory_mib: int = 0
    hugepages: Mapping[int, int] = field(default_factory=dict)
    numa: tuple[NumaCellFacts, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    ready: bool = True
    not_ready_reason: str = ""
    cordoned: bool = False
    maintenance: bool = False
    devices: Mapping[str, int] = field(default_factory=dict)
    pools: Mapping[str, PoolReach] = field(default_factory=dict)
    networks: frozenset[str] = frozenset()
    cpu_models: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    load: HostLoad | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("host.name: is empty; a host needs its node's name")
        owner = f"host {self.name}"
        for name in ("pcpus", "memory_mib", "reserved_memory_mib"):
            check_number(owner, name, getattr(self, name))
        check_number(owner, "overcommit_milli", self.overcommit_milli, low=1)
        for size_kib, count in self.hugepages.items():
            check_number(owner, f"hugepages[{size_kib}]", count)
        for device, count in self.devices.items():
            check_number(owner, f"devices[{device}]", count)
        for pool, reach in self.pools.items():
            check_number(owner, f"pools[{pool}].free_bytes", reach.free_bytes)
        if len({cell.cell for cell in self.numa}) != len(self.numa):
            raise ValueError(f"{owner}.numa: two cells have the same number")
        if self.load is not None:
            check_number(owner, "load.mean_mcores", self.load.mean_mcores)
            check_number(owner, "load.sd_mcores", self.load.sd_mcores, high=2**31)

    @property
    def hugepages_mib(self) -> int:
        """Memory that is tied up in hugepages."""
        return sum(size_kib * count for size_kib, count in self.hugepages.items()) // 1024

    @property
    def vm_memory_mib(self) -> int:
        """Memory for VMs without hugepages: total - reserved - hugepages, never below 0."""
        return max(0, self.memory_mib - self.reserved_memory_mib - self.hugepages_mib)

    @property
    def capacity_mvcpus(self) -> int:
        """vCPUs the host may promise, in thousandths."""
        return self.pcpus * self.overcommit_milli

    @property
    def cells(self) -> tuple[NumaCellFacts, ...]:
        """NUMA cells; a host that reports none is one cell."""
        return self.numa or (NumaCellFacts(0, self.pcpus, self.vm_memory_mib, dict(self.hugepages)),)


# ---------------------------------------------------------------- terms between VMs


@dataclass(frozen=True, slots=True)
class VmTerm:
    """VMs chosen by label, counted per domain of a topology key. No namespaces = the VM's own."""

    selector: Requirements
    topology_key: str = HOSTNAME_KEY
    namespaces: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"[{', '.join(str(r) for r in self.selector)}] per {self.topology_key}"


@dataclass(frozen=True, slots=True)
class SpreadTerm:
    """Hard spreading: (VMs in the domain + 1) - (fewest in any eligible domain) must stay <= max_skew."""

    selector: Requirements
    topology_key: str
    max_skew: int = 1
    namespaces: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("spread", "max_skew", self.max_skew, low=1)

    @property
    def term(self) -> VmTerm:
        """The counting part."""
        return VmTerm(self.selector, self.topology_key, self.namespaces)


@dataclass(frozen=True, slots=True)
class WeightedVmTerm:
    """Soft affinity (weight > 0) or anti-affinity (weight < 0), -100..100."""

    term: VmTerm
    weight: int

    def __post_init__(self) -> None:
        check_number("preferred", "weight", self.weight, low=-100, high=100)


@dataclass(frozen=True, slots=True)
class WeightedNodeTerm:
    """Soft node affinity, weight 1..100."""

    requirements: Requirements
    weight: int

    def __post_init__(self) -> None:
        check_number("preferred node", "weight", self.weight, low=1, high=100)


# ---------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """Everything that decides where a VM fits. Equal shapes share cached results, so keep identity out of it.

    memory_mib is ordinary memory, or hugepages of hugepage_kib where that is set. dedicated_cpus and numa_cells > 0
    bind the VM to NUMA cells: all of it to one, or evenly to numa_cells of them. pools: bytes still to be
    allocated per pool (0 = must only be reachable). bound_volumes: volume -> hosts that can reach it.
    node_affinity: alternatives. Derived: `bound_cells` (NUMA cells the VM is bound to, 0 = it floats) and `demand`
    (mean, standard deviation in thousandths of a core). demand_*: expected CPU demand; without it a quarter of the vCPUs, the mean of the
    synthetic clusters that the score was tuned on (tests/bench/placement).
    """

    vcpus: int
    memory_mib: int
    hugepage_kib: int = 0
    dedicated_cpus: bool = False
    numa_cells: int = 0
    devices: Mapping[str, int] = field(default_factory=dict)
    pools: Mapping[str, int] = field(default_factory=dict)
    networks: frozenset[str] = frozenset()
    bound_volumes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    cpu_model: str = ""
    node_selector: Requirements = ()
    node_affinity: tuple[Requirements, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    affinity: tuple[VmTerm, ...] = ()
    anti_affinity: tuple[VmTerm, ...] = ()
    spread: tuple[SpreadTerm, ...] = ()
    preferred: tuple[WeightedVmTerm, ...] = ()
    preferred_nodes: tuple[WeightedNodeTerm, ...] = ()
    images: frozenset[str] = frozenset()
    demand_mcores: int | None = None
    demand_sd_mcores: int | None = None
    strategy: str = ""
    _identity: tuple[object, ...] = field(init=False, repr=False)
    _hash: int = field(init=False, repr=False)
    demand: tuple[int, int] = field(init=False, repr=False)
    bound_cells: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_number("vm", "vcpus", self.vcpus, low=1, high=2**20)
        check_number("vm", "memory_mib", self.memory_mib, low=1)
        check_number("vm", "hugepage_kib", self.hugepage_kib)
        check_number("vm", "numa_cells", self.numa_cells, high=64)
        for name in ("demand_mcores", "demand_sd_mcores"):
            if getattr(self, name) is not None:
                check_number("vm", name, getattr(self, name), high=2**31)
        if self.hugepage_kib and self.memory_mib * 1024 % self.hugepage_kib:
            raise ValueError(f"vm.memory_mib: {self.memory_mib} is not a multiple of {self.hugepage_kib} KiB hugepages")
        cells = self.numa_cells or 1
        if self.dedicated_cpus and self.vcpus % cells:
            raise ValueError(f"vm.vcpus: {self.vcpus} cannot be divided evenly over {cells} NUMA cells")
        put = object.__setattr__
        devices = _amounts("vm", "devices", self.devices)
        put(self, "devices", MappingProxyType({name: count for name, count in devices.items() if count}))
        put(self, "pools", _amounts("vm", "pools", self.pools))
        put(self, "labels", MappingProxyType(dict(sorted(self.labels.items()))))
        put(self, "bound_volumes", MappingProxyType(dict(sorted(self.bound_volumes.items()))))
        identity: list[object] = []
        for name in SHAPE_FIELDS:
            value = getattr(self, name)
            identity.append(_pairs(value) if isinstance(value, Mapping) else value)
        put(self, "_identity", tuple(identity))
        put(self, "_hash", hash(self._identity))
        put(self, "bound_cells", self.numa_cells or (1 if self.dedicated_cpus else 0))
        mean = self.vcpus * 250 if self.demand_mcores is None else self.demand_mcores
        put(self, "demand", (mean, mean // 2 if self.demand_sd_mcores is None else self.demand_sd_mcores))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Shape) and self._hash == other._hash and self._identity == other._identity

    def __hash__(self) -> int:
        return self._hash


SHAPE_FIELDS = tuple(name for name, field_ in Shape.__dataclass_fields__.items() if field_.init)


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """One VM that should run somewhere."""

    identity: VmKey
    shape: Shape
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """A VM that holds room on a host (assigned, committed, or one side of a move).

    numa_cells: the cells it is bound to; empty although the shape is bound means not known yet, which counts against
    every cell. movable=False: no single change may propose to move it.
    """

    identity: VmKey
    host: str
    shape: Shape
    numa_cells: tuple[int, ...] = ()
    priority: int = 0
    movable: bool = True


# ---------------------------------------------------------------- answers


class Verdict(NamedTuple):
    """Why one host was refused: the filter's name and a sentence with the failing number. filter='' = it fits."""

    host: str
    filter: str
    sentence: str


class Ranked(NamedTuple):
    """One of the best hosts: total score and its terms, each 0..1, with the term's weight."""

    host: str
    score: float
    terms: tuple[tuple[str, int, float], ...]  # (name, weight, value)


@dataclass(frozen=True, slots=True)
class Change:
    """One single change that makes the VM fit. kind is a name of counterfactual.KINDS; cost in its points."""

    kind: str
    target: str
    value: int
    host: str
    cost: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one VM. host is None when it fits nowhere; sentence is bounded (see explain.MAX_SENTENCE)."""

    identity: VmKey
    host: str | None
    numa_cells: tuple[int, ...]
    best: tuple[Ranked, ...]
    feasible: int
    total: int
    rejected: tuple[tuple[str, int], ...]  # (filter, hosts), in the order of FILTERS
    examples: tuple[Verdict, ...]
    changes: tuple[Change, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room held for a decision in flight; row_version is the host's version after the reservation."""

    identity: VmKey
    host: str
    shape: Shape
    numa_cells: tuple[int, ...]
    row_version: int
