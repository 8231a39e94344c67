"""VirtualNetwork: the libvirt network (or the bridge that must exist) on every host of its cluster."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from lq_operator.api.base import FINALIZER
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.network import AddressClaim, NetworkNode, VirtualNetwork
from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.runtime.awaited import awaited_hosts
from lq_operator.controllers.runtime.conditions import Progress, dump_conditions, set_progress
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.finalizers import ensure_finalizer, remove_finalizer
from lq_operator.controllers.runtime.hostbook import HostBook, OwnedHost
from lq_operator.controllers.runtime.refs import VM_LABEL, Namespaces, Refs
from lq_operator.controllers.runtime.status import report_status
from lq_operator.core.lifecycle.world import Lack
from lq_operator.core.model import NetworkPlan, NodeName
from lq_operator.core.network.ipam import Subnet
from lq_operator.core.result import OutcomeUnknown, Rejected, Transient
from lq_operator.core.times import age_s
from lq_operator.ports import Clock, Resources, Store

MANAGER = "lq-network"
RECHECK_S = 300.0
ORPHAN_CLAIM_S = 120.0
"""So old a claim of ours must be before its VM counts as gone: manifests come in any order after a restore."""


def libvirt_network_name(namespace: str, name: str) -> str:
    """Name of the libvirt network; '_' is in no Kubernetes name."""
    return f"lq_{namespace}_{name}"


def bridge_name(namespace: str, name: str) -> str:
    """Name of its bridge: at most 15 characters, derived, so that it is the same on every host."""
    return "lq" + hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:10]


@dataclass(slots=True)
class NetworkController:
    """reconcile(namespace/name)."""

    store: Store
    resources: Resources
    namespaces: Namespaces
    book: HostBook
    clock: Clock

    async def reconcile(self, key: str) -> Requeue | None:
        """Make it exist on every host of the cluster and say where it does."""
        namespace, _, name = key.partition("/")
        network = self.store.get(VirtualNetwork, namespace, name)
        if network is None:
            return None
        if network.deleting:
            return await self._delete(network)
        refs = Refs(self.store, namespace, await self.namespaces.labels(namespace))
        cluster = refs.cluster(network.spec.cluster_ref.name if network.spec.cluster_ref else None)
        problem = cluster if isinstance(cluster, Lack) else _problem(network, cluster, refs)
        if isinstance(problem, Lack) or isinstance(cluster, Lack):
            assert isinstance(problem, Lack)
            await self._write(network, Progress.STALLED, problem.reason, problem.message, [], "")
            return Requeue.after(RECHECK_S)
        network = await ensure_finalizer(self.resources, network, manager=MANAGER)
        plan = _plan(network, cluster)
        found = []
        for node in sorted(self.store.list(HypervisorNode), key=lambda n: n.metadata.name):
            if node.spec.cluster_ref.name == cluster.metadata.name:
                found.append(await self._on_node(network, NodeName(node.metadata.name), plan))
        await self._report(network, found, plan)
        await self._give_back(network)
        return Requeue.after(RECHECK_S)

    async def _on_node(self, network: VirtualNetwork, node: NodeName, plan: NetworkPlan) -> NetworkNode:
        entry = self.book.owned(node)
        if entry is None:
            # What was set up stays set up; the scheduler looks at the host's own readiness.
            before = next((n for n in network.status.nodes if n.node == node), None)
            return before or NetworkNode(node=node, ready=False, message="the host is not taken over yet")
        try:
            if plan.mode == "bridge":
                return await _bridge(entry, plan)
            await entry.host.ensure_network(plan)
        except (Rejected, Transient, OutcomeUnknown) as error:
            return NetworkNode(node=node, ready=False, message=str(error)[:1000])
        return NetworkNode(node=node, ready=True)

    async def _give_back(self, network: VirtualNetwork) -> None:
        """Addresses claimed for a VM that is gone: by a process that died, or late by one that had lost its lease."""
        buried = {c for n in self.store.list(HypervisorNode) for t in n.status.tombstones for c in t.claims}
        for claim in self.store.list(AddressClaim):
            of = claim.spec.vm
            if not _claims(claim, network) or of is None or claim.spec.retain or claim.key in buried:
                continue
            # Made by us for a VM, and not from a manifest that may be applied before its VM.
            if (
                claim.metadata.labels.get(VM_LABEL) != of.name
                or age_s(claim.metadata.creation_timestamp, self.clock.now_rfc3339()) < ORPHAN_CLAIM_S
            ):
                continue
            namespace, meta = of.namespace or claim.metadata.namespace, claim.metadata
            if self.store.get(VirtualMachine, namespace, of.name) is not None:
                continue
            if await self.resources.get(VirtualMachine, namespace, of.name) is None:
                await self.resources.delete(AddressClaim, meta.namespace, meta.name, uid=meta.uid)

    async def _delete(self, network: VirtualNetwork) -> Requeue | None:
        if FINALIZER not in network.metadata.finalizers:
            return None
        users = [vm.key for vm in self.store.list(VirtualMachine) if _uses(vm, network)]
        users += [f"AddressClaim {claim.key}" for claim in self.store.list(AddressClaim) if _claims(claim, network)]
        if users:
            message = f"in use by {', '.join(sorted(users)[:5])}{' and others' if len(users) > 5 else ''}"
            await self._write(
                network, Progress.STALLED, "InUse", message, list(network.status.nodes), network.status.bridge
            )
            return Requeue.after(RECHECK_S)
        if network.spec.type != "bridge":
            if waiting := awaited_hosts(self.store, self.book):
                raise Transient(f"{', '.join(waiting)}: not taken over yet, the network is to be removed there too")
            for entry in self.book.all():
                await entry.host.remove_network(
                    libvirt_network_name(network.metadata.namespace or "", network.metadata.name)
                )
        await remove_finalizer(self.resources, network, manager=MANAGER)
        return None

    async def _report(self, network: VirtualNetwork, found: list[NetworkNode], plan: NetworkPlan) -> None:
        broken = [node for node in found if not node.ready]
        if not found:
            progress, reason, text = Progress.WORKING, "NoNodes", "the cluster has no HypervisorNode yet"
        elif broken:
            progress, reason = Progress.WORKING, "NotOnEveryNode"
            text = "; ".join(f"{node.node}: {node.message}" for node in broken)[:2000]
        else:
            progress, reason, text = Progress.READY, "Ready", ""
        await self._write(network, progress, reason, text, found, plan.bridge_name)

    async def _write(
        self,
        network: VirtualNetwork,
        progress: Progress,
        reason: str,
        message: str,
        nodes: list[NetworkNode],
        bridge: str,
    ) -> None:
        now, generation = self.clock.now_rfc3339(), network.metadata.generation
        conditions = set_progress(network.status.conditions, progress, reason, message, generation=generation, now=now)
        namespace, name = network.metadata.namespace or "", network.metadata.name
        status = {
            "observedGeneration": generation,
            "conditions": dump_conditions(conditions),
            "nodes": [node.model_dump(by_alias=True) for node in nodes],
            "libvirtName": "" if network.spec.type == "bridge" else libvirt_network_name(namespace, name),
            "bridge": bridge,
        }
        await report_status(self.resources, network, status, MANAGER)


async def _bridge(entry: OwnedHost, plan: NetworkPlan) -> NetworkNode:
    if plan.bridge_name in await entry.host.list_bridges():
        return NetworkNode(node=entry.node, ready=True)
    return NetworkNode(node=entry.node, ready=False, message=f"there is no bridge {plan.bridge_name} on this host")


def _problem(network: VirtualNetwork, cluster: HypervisorCluster, refs: Refs) -> Lack | None:
    spec = network.spec
    if spec.subnet is not None and spec.dhcp_range is not None:
        subnet = Subnet(spec.subnet, spec.gateway or "", None)
        for field, address in (("start", spec.dhcp_range.start), ("end", spec.dhcp_range.end)):
            if why := subnet.why_not(address):
                return Lack("InvalidRange", f"spec.dhcpRange.{field}: {why}", stalled=True)
    if spec.type != "bridge":
        return None
    opened = next((p for p in cluster.spec.physical_networks if p.name == spec.physical_network), None)
    if opened is None:
        message = f"spec.physicalNetwork: HypervisorCluster {cluster.metadata.name} opens no {spec.physical_network}"
        return Lack("PhysicalNetworkNotFound", message, stalled=True)
    if not refs.admitted(opened.allowed_namespaces, None):
        message = f"spec.physicalNetwork: {opened.name} is not opened for namespace {network.metadata.namespace}"
        return Lack("NotAdmitted", message, stalled=True)
    return None


def _plan(network: VirtualNetwork, cluster: HypervisorCluster) -> NetworkPlan:
    spec, namespace, name = network.spec, network.metadata.namespace or "", network.metadata.name
    if spec.type == "bridge":
        opened = next(p for p in cluster.spec.physical_networks if p.name == spec.physical_network)
        return NetworkPlan(name=opened.bridge, mode="bridge", bridge_name=opened.bridge)
    subnet = Subnet(spec.subnet, spec.gateway or "") if spec.subnet else None
    return NetworkPlan(
        name=libvirt_network_name(namespace, name),
        mode=spec.type,
        bridge_name=bridge_name(namespace, name),
        gateway=subnet.effective_gateway() if subnet else "",
        prefix=subnet.prefix if subnet else 0,
        dhcp_start=spec.dhcp_range.start if spec.dhcp_range else "",
        dhcp_end=spec.dhcp_range.end if spec.dhcp_range else "",
        domain=f"{name}.{namespace}.lq.internal",
        mtu=spec.mtu or 0,
    )


def _uses(vm: VirtualMachine, network: VirtualNetwork) -> bool:
    return any(
        i.network_ref.name == network.metadata.name
        and (i.network_ref.namespace or vm.metadata.namespace) == network.metadata.namespace
        for i in vm.spec.interfaces
    )


def _claims(claim: AddressClaim, network: VirtualNetwork) -> bool:
    return (
        claim.metadata.namespace == network.metadata.namespace and claim.spec.network_ref.name == network.metadata.name
    )
