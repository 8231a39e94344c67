"""The rules of placement written a second time, slowly and plainly: what the engine's answers are held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lq_operator.core.placement import HostFacts, Placed, PlacementRequest, Shape, VmKey, VmTerm
from lq_operator.core.placement.selectors import all_match
from lq_operator.core.placement.types import HOSTNAME_KEY

Vms = Mapping[VmKey, Placed]


def domain(host: HostFacts, key: str) -> str | None:
    return host.name if key == HOSTNAME_KEY else host.labels.get(key)


def selected(term_selector, namespaces: tuple[str, ...], own: str, identity: VmKey, shape: Shape) -> bool:
    return identity.namespace in (namespaces or (own,)) and all_match(term_selector, shape.labels)


def used(host: HostFacts, vms: Vms) -> dict[str, int]:
    """Everything the VMs of a host take, by hand."""
    here = [vm.shape for vm in vms.values() if vm.host == host.name]
    total = {
        "mvcpus": sum(s.vcpus * (host.overcommit_milli if s.dedicated_cpus else 1000) for s in here),
        "memory": sum(s.memory_mib for s in here if not s.hugepage_kib),
    }
    for s in here:
        if s.hugepage_kib:
            key = f"huge{s.hugepage_kib}"
            total[key] = total.get(key, 0) + s.memory_mib
        for device, count in s.devices.items():
            total[f"dev{device}"] = total.get(f"dev{device}", 0) + count
    return total


def cell_room(host: HostFacts, vms: Vms, shape: Shape) -> int:
    """Number of cells with room for one part of the VM."""
    bound = [vm for vm in vms.values() if vm.host == host.name and vm.shape.bound_cells]
    parts = shape.bound_cells
    fitting = 0
    for cell in host.cells:
        cpus, memory = cell.pcpus, cell.memory_mib
        if shape.hugepage_kib:
            memory = cell.hugepages.get(shape.hugepage_kib, 0) * shape.hugepage_kib // 1024
        for vm in bound:
            if vm.numa_cells and cell.cell not in vm.numa_cells:
                continue
            n = vm.shape.bound_cells
            if vm.shape.dedicated_cpus:
                cpus -= vm.shape.vcpus // n
            if vm.shape.hugepage_kib == shape.hugepage_kib:
                memory -= -(-vm.shape.memory_mib // n)
        if memory >= -(-shape.memory_mib // parts) and (not shape.dedicated_cpus or cpus >= shape.vcpus // parts):
            fitting += 1
    return fitting


FACTS = ("ready", "cordon", "maintenance", "taints", "node-selector", "node-affinity", "cpu-model", "networks", "storage-reach",
         "bound-volumes")  # fmt: skip


def refusals(request: PlacementRequest, host: HostFacts, hosts: Iterable[HostFacts], vms: Vms) -> list[str]:
    """Every filter that refuses this host, in the order in which they are reported."""
    shape, own = request.shape, request.identity.namespace
    bad = refusals_by_facts(shape, host)
    took = used(host, vms)
    need = shape.vcpus * (host.overcommit_milli if shape.dedicated_cpus else 1000)
    if took["mvcpus"] + need > host.pcpus * host.overcommit_milli:
        bad.append("vcpus")
    if not shape.hugepage_kib:
        room = host.memory_mib - host.reserved_memory_mib - sum(k * n for k, n in host.hugepages.items()) // 1024
        if took["memory"] + shape.memory_mib > max(0, room):
            bad.append("memory")
    else:
        pages = host.hugepages.get(shape.hugepage_kib, 0) * shape.hugepage_kib // 1024
        if took.get(f"huge{shape.hugepage_kib}", 0) + shape.memory_mib > pages:
            bad.append("hugepages")
    if shape.bound_cells and cell_room(host, vms, shape) < shape.bound_cells:
        bad.append("numa")
    if any(took.get(f"dev{d}", 0) + n > host.devices.get(d, 0) for d, n in shape.devices.items()):
        bad.append("devices")
    if any(n > (host.pools[p].free_bytes if p in host.pools else 0) for p, n in shape.pools.items()):
        bad.append("storage-space")
    return bad + refusals_by_vms(shape, own, host, list(hosts), vms)


def refusals_by_facts(shape: Shape, host: HostFacts) -> list[str]:
    bad = []
    if not host.ready:
        bad.append("ready")
    if host.cordoned:
        bad.append("cordon")
    if host.maintenance:
        bad.append("maintenance")
    hard = [t for t in host.taints if t.effect != "PreferNoSchedule"]
    if any(not any(tol.tolerates(t) for tol in shape.tolerations) for t in hard):
        bad.append("taints")
    if not all(r.matches(host.labels) for r in shape.node_selector):
        bad.append("node-selector")
    if shape.node_affinity and not any(all(r.matches(host.labels) for r in t) for t in shape.node_affinity):
        bad.append("node-affinity")
    if shape.cpu_model and shape.cpu_model not in host.cpu_models:
        bad.append("cpu-model")
    if any(n not in host.networks for n in shape.networks):
        bad.append("networks")
    if any(p not in host.pools for p in shape.pools):
        bad.append("storage-reach")
    if any(host.name not in where for where in shape.bound_volumes.values()):
        bad.append("bound-volumes")
    return bad


def refusals_by_vms(shape: Shape, own: str, host: HostFacts, hosts: list[HostFacts], vms: Vms) -> list[str]:
    by_name = {h.name: h for h in hosts}
    me = VmKey(own, "?")

    def in_domain(term: VmTerm, where: str | None) -> list[Placed]:
        return [
            vm
            for key, vm in vms.items()
            if vm.host in by_name
            and selected(term.selector, term.namespaces, own, key, vm.shape)
            and (where is None or domain(by_name[vm.host], term.topology_key) == where)
        ]

    bad = []
    for term in shape.affinity:
        where = domain(host, term.topology_key)
        lonely = not in_domain(term, None) and selected(term.selector, term.namespaces, own, me, shape)
        if where is None or (not lonely and not in_domain(term, where)):
            bad.append("vm-affinity")
            break
    for term in shape.anti_affinity:
        where = domain(host, term.topology_key)
        if where is not None and in_domain(term, where):
            bad.append("vm-anti-affinity")
            break
    if any(
        selected(term.selector, term.namespaces, key.namespace, me, shape)
        and vm.host in by_name
        and domain(host, term.topology_key) is not None
        and domain(by_name[vm.host], term.topology_key) == domain(host, term.topology_key)
        for key, vm in vms.items()
        for term in vm.shape.anti_affinity
    ):
        bad.append("refused-by-others")
    for spread in shape.spread:
        where = domain(host, spread.topology_key)
        eligible = {domain(h, spread.topology_key) for h in hosts if not refusals_by_facts(shape, h)} - {None}
        low = min((len(in_domain(spread.term, d)) for d in eligible), default=2**40)
        mine = 1 if selected(spread.selector, spread.namespaces, own, me, shape) else 0
        if where is None or len(in_domain(spread.term, where)) + mine - low > spread.max_skew:
            bad.append("spread")
            break
    return bad
