"""Small random clusters in which every filter has something to refuse."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from lq_operator.core.placement import (
    HostFacts,
    HostLoad,
    NumaCellFacts,
    Placed,
    PlacementEngine,
    PlacementRequest,
    PoolReach,
    Shape,
    SpreadTerm,
    VmKey,
    VmTerm,
    WeightedVmTerm,
)
from lq_operator.core.placement.selectors import Operator, Requirement, Taint, Toleration, match_labels
from lq_operator.core.placement.types import HOSTNAME_KEY

ZONE = "zone"
APPS = ("a", "b")
NAMESPACES = ("x", "y")

taints = st.sampled_from([(), (), (), (Taint("gpu"),), (Taint("gpu"), Taint("old", "1", "NoExecute")),
                          (Taint("soft", effect="PreferNoSchedule"),)])  # fmt: skip
selectors = st.sampled_from(
    [match_labels({"app": "a"}), match_labels({"app": "b"}), (Requirement("app", Operator.EXISTS),)]
)
vm_terms = st.builds(VmTerm, selectors, st.sampled_from([HOSTNAME_KEY, ZONE]), st.sampled_from([(), (), ("x", "y")]))


@st.composite
def hosts(draw: st.DrawFn, name: str) -> HostFacts:
    numa: tuple[NumaCellFacts, ...] = ()
    pcpus, memory, pages = draw(st.integers(1, 8)), draw(st.integers(4, 32)), draw(st.sampled_from([0, 0, 4]))
    if draw(st.booleans()):
        numa = tuple(NumaCellFacts(c, pcpus // 2, memory // 2, {2048: pages // 2}) for c in (0, 1))
    labels = {k: draw(st.sampled_from(v)) for k, v in {ZONE: ("z0", "z1", ""), "tier": ("gold", "silver")}.items()}
    return HostFacts(
        name,
        pcpus=pcpus,
        memory_mib=memory + pages * 2,
        overcommit_milli=draw(st.sampled_from([1000, 1500, 4000])),
        reserved_memory_mib=draw(st.integers(0, 2)),
        hugepages={2048: pages} if pages else {},
        numa=numa,
        labels={k: v for k, v in labels.items() if v},
        taints=draw(taints),
        ready=draw(st.sampled_from([True] * 6 + [False])),
        cordoned=draw(st.sampled_from([False] * 6 + [True])),
        maintenance=draw(st.sampled_from([False] * 6 + [True])),
        devices=draw(st.sampled_from([{}, {"gpu": 1}, {"gpu": 2, "vf": 3}])),
        pools=draw(st.sampled_from([{}, {"p": PoolReach(3 * 2**30)}, {"p": PoolReach(2**30), "q": PoolReach(2**40)}])),
        networks=draw(st.sampled_from([frozenset(), frozenset({"n"}), frozenset({"n", "m"})])),
        cpu_models=draw(st.sampled_from([frozenset({"v2"}), frozenset({"v2", "v3"})])),
        images=draw(st.sampled_from([frozenset(), frozenset({"img"})])),
        load=draw(st.sampled_from([None, HostLoad(500, 100), HostLoad(4000, 900)])),
    )


def _sometimes(value: st.SearchStrategy, otherwise: object, odds: int = 4) -> st.SearchStrategy:
    return st.one_of(*([st.just(otherwise)] * odds), value)


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    huge = draw(st.sampled_from([0, 0, 0, 2048]))
    dedicated = draw(st.sampled_from([False, False, False, True]))
    cells = draw(st.sampled_from([0, 0, 0, 1, 2]))
    vcpus = draw(st.integers(1, 6))
    return Shape(
        vcpus=vcpus - vcpus % (cells or 1) or (cells or 1),
        memory_mib=draw(st.integers(1, 12)) * (2 if huge else 1),
        hugepage_kib=huge,
        dedicated_cpus=dedicated,
        numa_cells=cells,
        devices=draw(_sometimes(st.sampled_from([{"gpu": 1}, {"gpu": 2}, {"vf": 2, "gpu": 1}]), {})),
        pools=draw(_sometimes(st.sampled_from([{"p": 0}, {"p": 2**31}, {"p": 2**30, "q": 2**30}]), {})),
        networks=draw(_sometimes(st.sampled_from([frozenset({"n"}), frozenset({"n", "m"})]), frozenset())),
        bound_volumes=draw(_sometimes(st.sampled_from([{"v": frozenset({"h0", "h1"})}, {"v": frozenset({"h1"}), "w": frozenset({"h0"})}]), {}, 8)),
        cpu_model=draw(_sometimes(st.sampled_from(["v2", "v3"]), "")),
        node_selector=draw(_sometimes(st.sampled_from([match_labels({"tier": "gold"}), match_labels({"tier": "gold", ZONE: "z0"})]), ())),
        node_affinity=draw(_sometimes(st.just((match_labels({"tier": "gold"}), match_labels({ZONE: "z1"}))), ())),
        tolerations=draw(_sometimes(st.sampled_from([(Toleration("gpu", exists=True),), (Toleration(exists=True),)]), ())),
        labels=draw(st.sampled_from([{}, {"app": "a"}, {"app": "b"}])),
        affinity=draw(_sometimes(st.tuples(vm_terms), ())),
        anti_affinity=draw(_sometimes(st.tuples(vm_terms), (), 2)),
        spread=draw(_sometimes(st.tuples(st.builds(SpreadTerm, selectors, st.sampled_from([HOSTNAME_KEY, ZONE]), st.integers(1, 2))), ())),
        preferred=draw(_sometimes(st.tuples(st.builds(WeightedVmTerm, vm_terms, st.sampled_from([-50, 10]))), ())),
        strategy=draw(st.sampled_from(["", "spread", "pack"])),
    )  # fmt: skip


@dataclass
class World:
    hosts: dict[str, HostFacts]
    vms: dict[VmKey, Placed]
    request: PlacementRequest

    def engine(self, *, reverse: bool = False, seed: int = 0) -> PlacementEngine:
        """An engine built from scratch, in either order."""
        engine = PlacementEngine("balanced", seed=seed)
        events = [
            *((engine.set_host, h) for h in self.hosts.values()),
            *((engine.set_vm, v) for v in self.vms.values()),
        ]
        for act, value in reversed(events) if reverse else events:
            act(value)
        return engine


@st.composite
def worlds(draw: st.DrawFn, max_hosts: int = 5, max_vms: int = 8) -> World:
    """VMs stand where somebody put them, fitting or not: the engine must cope with what it finds."""
    there = {f"h{n}": draw(hosts(f"h{n}")) for n in range(draw(st.integers(1, max_hosts)))}
    vms = {}
    for number in range(draw(st.integers(0, max_vms))):
        key = VmKey(draw(st.sampled_from(NAMESPACES)), f"vm{number}")
        shape = draw(shapes())
        host = draw(st.sampled_from([*there, *there, *there, "gone"]))
        cells: tuple[int, ...] = ()
        if shape.bound_cells and host in there and len(there[host].cells) >= shape.bound_cells and draw(st.booleans()):
            cells = tuple(c.cell for c in there[host].cells[: shape.bound_cells])
        vms[key] = Placed(key, host, shape, cells, movable=draw(st.sampled_from([True, True, True, False])))
    return World(there, vms, PlacementRequest(VmKey(draw(st.sampled_from(NAMESPACES)), "new"), draw(shapes())))
