"""One HypervisorNode, one pass: who is here, who is sent away, who stays; said once.

Owns the VirtualMachineMigration objects with its label, and writes nothing to any host. Late writes: a move is created
under a name that no other has, so a second process has a Conflict; one that came after the maintenance was ended, or of
a VM that has left, is deleted at the next look, which calls it off.
"""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.base import ObjectMeta
from lq_operator.api.node import HypervisorNode
from lq_operator.api.vmmigration import VirtualMachineMigration, VirtualMachineMigrationSpec
from lq_operator.controllers.maintenance.observe import DrainObserver
from lq_operator.controllers.maintenance.report import MaintenanceReporter
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.controllers.runtime.refs import MAINTENANCE_LABEL
from lq_operator.core.maintenance.drain import plan_drain
from lq_operator.core.maintenance.world import Drain, NewMove
from lq_operator.ports import Resources, Store
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

TTL_S = 3600
"""Finished moves of a drain are kept this long: they are its memory of what was tried, and more than the longest wait
between two attempts."""


@dataclass(slots=True)
class MaintenanceController:
    """reconcile(node name)."""

    store: Store
    resources: Resources
    observer: DrainObserver
    reporter: MaintenanceReporter

    async def reconcile(self, name: str) -> Requeue | None:
        """Empty one host as far as it can be, or take back what was begun for that."""
        node = self.store.get(HypervisorNode, None, name)
        drain = plan_drain(self.observer.world(name, node))
        await self._act(name, drain)
        if node is None:
            return None
        await self.reporter.report(node, drain)
        return None if drain.again_s is None else Requeue.after(max(drain.again_s, 1.0))

    async def _act(self, name: str, drain: Drain) -> None:
        for drop in drain.drop:
            log.info("a move of a drain is taken back", node=name, move=f"{drop.namespace}/{drop.name}")
            await self.resources.delete(VirtualMachineMigration, drop.namespace, drop.name, uid=drop.uid)
        for new in drain.create:
            await self.resources.create(_move(name, new))
            metrics.DECISIONS.labels("maintenance", "move").inc()
            log.info("a VM is sent away", node=name, vm=f"{new.namespace}/{new.vm}", move=new.name)


def _move(node: str, new: NewMove) -> VirtualMachineMigration:
    return VirtualMachineMigration(
        metadata=ObjectMeta(name=new.name, namespace=new.namespace, labels={MAINTENANCE_LABEL: node}),
        spec=VirtualMachineMigrationSpec.model_validate(
            {
                "vmRef": {"name": new.vm},
                "reason": f"maintenance of {node}"[:200],
                "ttlSecondsAfterFinished": TTL_S,
            }
        ),
    )
