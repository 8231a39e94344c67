"""Which hosts can fail: condition FailoverCapacity and status.whichCanFail of every HypervisorCluster, and metrics.

Looks again only when the engine was told something, and never more than a twentieth of the time. Only tells; what a
placement may break is the guard's matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lq_operator.api.cluster import HypervisorCluster
from lq_operator.controllers.runtime.conditions import dump_conditions, only, set_condition
from lq_operator.controllers.runtime.status import report_status
from lq_operator.controllers.scheduler.bind import MANAGER
from lq_operator.controllers.scheduler.book import Book
from lq_operator.controllers.scheduler.fleet import Fleet
from lq_operator.controllers.scheduler.guard import heaviest_sets
from lq_operator.core.failover.admission import Admission, FailureVerdict
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected
from lq_operator.ports import Clock, Resources, Store
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

CONDITION = "FailoverCapacity"
SHARE = 20
"""At most a twentieth of the time is spent on this: the next look waits 20 times as long as the last one took."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What is known about failures of one cluster. largest_mib: memory of the largest VM that could still start
    whichever tolerated failure happens; None where some host cannot fail."""

    hosts: tuple[str, ...]
    can_fail: tuple[str, ...]
    tolerated: int
    first: FailureVerdict | None
    largest_mib: int | None

    @property
    def ok(self) -> bool:
        """True where every failure that is to be tolerated can be."""
        return bool(self.hosts) and self.first is None

    @property
    def sentence(self) -> str:
        """For the condition: whole GiB, so that not every placement is another sentence."""
        if not self.hosts:
            return "no host is known; add a HypervisorNode"
        if self.tolerated == 0:
            return "spec.scheduling.hostFailuresTolerated is 0: no host has to be able to fail"
        count = f"{len(self.can_fail)} of {len(self.hosts)} hosts can fail"
        if self.first is not None:
            return f"{count}; {self.first.sentence}"
        several = f", also {self.tolerated} at once of the {self.tolerated} or more that carry most"
        largest = f"{(self.largest_mib or 0) // 1024} GiB"
        return f"{count}{several if self.tolerated > 1 else ''}; a VM of up to {largest} could still be started then"


def capacity_of(fleet: Fleet) -> Capacity:
    """Judge every single host, and for N+k also the heaviest sets of k."""
    engine, tolerated = fleet.engine, fleet.policy.host_failures_tolerated
    kept = engine.state.reserved.get(fleet.earmark) if fleet.earmark is not None else None
    if kept is not None:  # room that is kept for a VM that does not run is not to be restarted
        fleet.drop_earmark()
    try:
        admission = Admission(engine, fleet.protects)
        verdicts = list(admission.hosts_that_can_fail().values())
        if tolerated > 1:
            verdicts += [admission.can_fail(names) for names in heaviest_sets(engine, tolerated)]
        first = next((verdict for verdict in verdicts if not verdict.ok), None) if tolerated else None
        largest = None
        if first is None and verdicts:
            largest = min(admission.largest_restart_mib(verdict.failed) for verdict in verdicts)
        can_fail = tuple(verdict.failed[0] for verdict in verdicts if verdict.ok and len(verdict.failed) == 1)
        return Capacity(tuple(sorted(engine.state.rows)), can_fail, tolerated, first, largest)
    finally:
        if kept is not None:
            fleet.hold(kept)
            fleet.earmark = kept.identity


@dataclass(slots=True)
class FailoverReport:
    """`run_once()` every few seconds; it does nothing while nothing happened."""

    book: Book
    store: Store
    resources: Resources
    clock: Clock
    _seen: dict[str, tuple[Fleet, int, object]] = field(default_factory=dict)
    _not_before_s: float = 0.0

    async def run_once(self) -> None:
        """Compute and report for every cluster in which something happened."""
        if self.clock.mono_s() < self._not_before_s:
            return
        started_s = self.clock.mono_s()
        for name, fleet in list(self.book.fleets.items()):
            cluster = self.store.get(HypervisorCluster, None, name)
            if cluster is None or cluster.deleting:
                continue
            state = (fleet, fleet.moved + fleet.grown, fleet.policy)
            if self._seen.get(name) != state:
                await self._report(cluster, capacity_of(fleet))
                self._seen[name] = state
        for name in self._seen.keys() - self.book.fleets.keys():
            del self._seen[name]
            metrics.forget_cluster(name)
        self._not_before_s = self.clock.mono_s() + SHARE * (self.clock.mono_s() - started_s)

    async def _report(self, cluster: HypervisorCluster, capacity: Capacity) -> None:
        name = cluster.metadata.name
        metrics.HOSTS_CANNOT_FAIL.labels(name).set(len(capacity.hosts) - len(capacity.can_fail))
        metrics.LARGEST_RESTART_BYTES.labels(name).set((capacity.largest_mib or 0) * 2**20)
        reason = "Tolerated" if capacity.ok else "CannotFail" if capacity.hosts else "NoHosts"
        conditions = set_condition(
            only(cluster.status.conditions, (CONDITION,)),
            CONDITION,
            "True" if capacity.ok else "False",
            reason,
            capacity.sentence,
            generation=cluster.metadata.generation,
            now=self.clock.now_rfc3339(),
        )
        status = {"conditions": dump_conditions(conditions), "whichCanFail": list(capacity.can_fail)[:1000]}
        try:
            await report_status(self.resources, cluster, status, MANAGER)
        except (Conflict, NotFound, OutcomeUnknown, Rejected) as error:
            log.warning("failover capacity not written", cluster=name, reason=str(error)[:500])
