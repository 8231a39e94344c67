"""HypervisorCluster: how many hosts, is the inventory complete, the pinned CPU baseline, recovery on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.node import HypervisorNode
from lq_operator.controllers.runtime.conditions import (
    READY,
    RECONCILING,
    STALLED,
    Progress,
    dump_conditions,
    only,
    set_progress,
)
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.hostbook import HostBook
from lq_operator.controllers.runtime.inventory import Inventory
from lq_operator.controllers.runtime.status import report_status
from lq_operator.core.failover.inventory import Incomplete
from lq_operator.core.lifecycle.baseline import best_common_model
from lq_operator.core.result import Fenced
from lq_operator.ports import Clock, Events, Resources, Store

MANAGER = "lq-cluster"
RECHECK_S = 15.0


@dataclass(slots=True)
class ClusterController:
    """reconcile(cluster name). `api_went_back(sentence)` begins a recovery that a person asked for."""

    store: Store
    resources: Resources
    book: HostBook
    inventory: Inventory
    events: Events
    clock: Clock
    api_went_back: Callable[[str], None]

    async def reconcile(self, name: str) -> Requeue | None:
        """Summarise the hosts of one cluster."""
        cluster = self.store.get(HypervisorCluster, None, name)
        if cluster is None or cluster.deleting:
            return None
        nodes = [n for n in self.store.list(HypervisorNode) if n.spec.cluster_ref.name == name]
        ready = [n for n in nodes if (c := n.status.condition("Ready")) is not None and c.status == "True"]
        judged = self.inventory.judge()
        missing = [f"{m.node}: {m.why}"[:400] for m in judged.missing][:100] if isinstance(judged, Incomplete) else []
        # Noted before stepping down: a crash in between begins a new term as well, and that is all that is asked for.
        recover = cluster.spec.recovery != cluster.status.recovery_done and bool(cluster.spec.recovery)
        model = cluster.spec.cpu_model or cluster.status.cpu_model or self._baseline(nodes, ready)
        await self._report(cluster, len(nodes), len(ready), missing, model)
        if recover:
            self.events.emit(
                cluster,
                "Recovery",
                f"spec.recovery is {cluster.spec.recovery}: every host is taken over anew",
                warning=True,
            )
            self.api_went_back(f"spec.recovery of HypervisorCluster {name} asks for it")
            self.book.tenure.step_down(self.book.tenure.term)
            raise Fenced("recovery: beginning again in a new term")
        return Requeue.after(RECHECK_S)

    def _baseline(self, nodes: list[HypervisorNode], ready: list[HypervisorNode]) -> str:
        """Pinned once, when every host of the cluster can be seen: a default must not change with the weather."""
        if not ready or len(ready) < len(nodes):
            return ""
        return best_common_model([(n.status.accel, n.status.usable_cpu_models) for n in ready])

    async def _report(self, cluster: HypervisorCluster, nodes: int, ready: int, missing: list[str], model: str) -> None:
        now, generation = self.clock.now_rfc3339(), cluster.metadata.generation
        progress, reason, message = Progress.READY, "Ready", ""
        if nodes == 0:
            progress, reason, message = Progress.WORKING, "NoNodes", "register hosts as HypervisorNode"
        elif missing:
            progress, reason = Progress.WORKING, "InventoryIncomplete"
            message = f"nothing new starts until every host is accounted for: {'; '.join(missing)}"
        elif ready < nodes:
            progress, reason, message = (
                Progress.WORKING,
                "NodesNotReady",
                f"{nodes - ready} of {nodes} hosts are not ready",
            )
        conditions = set_progress(cluster.status.conditions, progress, reason, message, generation=generation, now=now)
        status = {
            "observedGeneration": generation,
            # FailoverCapacity is the scheduler's.
            "conditions": dump_conditions(only(conditions, (READY, RECONCILING, STALLED))),
            "installation": self.book.installation,
            "cpuModel": model,
            "term": self.book.tenure.term,
            "beat": 0,
            "recoveryDone": cluster.spec.recovery,
            "nodes": nodes,
            "nodesReady": ready,
            "inventoryComplete": not missing and nodes > 0,
            "missing": missing,
        }
        await report_status(self.resources, cluster, status, MANAGER)
