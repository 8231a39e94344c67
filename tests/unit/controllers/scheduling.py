"""A cluster on the API server in memory, for tests of the scheduler: nodes and VMs with hand-written status."""

from __future__ import annotations

from typing import Any

from tests.sim.fakes.clock import FakeClock
from tests.sim.fakes.events import FakeEvents
from tests.sim.fakes.resources import FakeApi, FakeStore

from lq_operator.api.base import Resource
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.node import HypervisorNode
from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.runtime.refs import Namespaces
from lq_operator.controllers.runtime.tenure import Tenure
from lq_operator.controllers.scheduler import FailoverReport, Scheduler
from lq_operator.core.result import Fenced
from lq_operator.ports import Grant

NS = "team"


class EternalLease:
    """A lease that lasts until somebody sets `over`. Both schedulers of a race may believe that they hold it."""

    def __init__(self, term: int = 1) -> None:
        self.grant = Grant("scheduler", "test", term, 0, float("inf"))
        self.over = False

    def check(self) -> Grant:
        if self.over:
            raise Fenced("the lease is over")
        return self.grant

    async def renew(self) -> Grant:
        return self.check()

    def step_down(self, above_term: int) -> None:
        self.over = True


class Site:
    """One cluster `c1`; hosts of 8 CPUs (overcommit 1) and 16 GiB unless told otherwise."""

    def __init__(self, seed: int = 0, **scheduling: Any) -> None:
        self.clock = FakeClock(seed)
        self.api = FakeApi(self.clock)
        self.events = FakeEvents()
        self.api.put_namespace(NS)
        self.cluster(**scheduling)

    def apply(self, kind: type[Resource], namespace: str | None, name: str, spec: dict[str, Any], **meta: Any) -> None:
        metadata = {"name": name, **meta} | ({"namespace": namespace} if namespace else {})
        self.api.user_apply(kind.model_validate({"metadata": metadata, "spec": spec}))

    def status(self, kind: type[Resource], namespace: str | None, name: str, status: dict[str, Any]) -> None:
        """Merged over what is there, as its controller would write it."""
        key = f"{namespace}/{name}" if namespace else name
        stored = self.api._existing(kind, key)
        changed = stored | {"status": {**stored.get("status", {}), **status}}
        changed["metadata"] = dict(stored["metadata"])
        self.api._replace(kind, key, stored, changed, "status")

    def cluster(self, **scheduling: Any) -> None:
        spec = {"overcommit": {"cpuPercent": 100, "memoryPercent": 100}, "scheduling": scheduling}
        self.apply(HypervisorCluster, None, "c1", spec)

    def host(self, name: str, *, cpu: int = 8, memory_mib: int = 16384, ready: bool = True, **spec: Any) -> None:
        base = {"clusterRef": {"name": "c1"}, "uri": f"qemu+tls://{name}/system", "reserved": {"memory": "0"}}
        self.apply(HypervisorNode, None, name, base | spec)
        conditions = [condition("Ready", ready), condition("Member", True)]
        capacity = {"cpu": cpu, "memoryMib": memory_mib}
        status = {"hostUUID": f"uuid-{name}", "capacity": capacity, "conditions": conditions}
        self.status(HypervisorNode, None, name, status)

    def vm(self, name: str, *, cpu: int = 1, memory: str = "1Gi", released: bool = True, **spec: Any) -> None:
        labels = spec.pop("labels", {})
        base = {"cpu": {"count": cpu}, "memory": {"size": memory}}
        self.apply(VirtualMachine, NS, name, base | spec, labels=labels)
        if released:
            self.release(name)

    def release(self, name: str) -> None:
        """What the VM controller writes when nobody knows the identity, or when it was stopped."""
        evidence = [{"kind": "inventory"}]
        placement = {"phase": "Released", "writeId": self.clock.token(), "since": "", "evidence": evidence}
        self.status(VirtualMachine, NS, name, {"placement": placement})

    def commit(self, name: str) -> None:
        """What the VM controller writes before a start."""
        placement = self.placement(name)
        assert placement["phase"] == "Assigned"
        committed = placement | {"phase": "Committed", "epoch": "1-1", "boot": "b", "writeId": self.clock.token()}
        self.status(VirtualMachine, NS, name, {"placement": committed})

    def delete(self, name: str) -> None:
        self.api.user_delete(VirtualMachine, NS, name)

    def raw(self, name: str) -> dict[str, Any]:
        found = self.api.raw(VirtualMachine, NS, name)
        assert found is not None
        return found

    def placement(self, name: str) -> dict[str, Any]:
        return dict(self.raw(name).get("status", {}).get("placement") or {})

    def node_of(self, name: str) -> str:
        return str(self.placement(name).get("node", ""))

    def scheduled(self, name: str) -> dict[str, Any]:
        """Condition Scheduled."""
        conditions = self.raw(name)["status"].get("conditions", [])
        return next((c for c in conditions if c["type"] == "Scheduled"), {})

    def scheduler(self, *, term: int = 1, live: bool = True, resources: Any = None, **options: Any) -> Scheduler:
        store = FakeStore(self.api, live=live)
        api = resources or self.api
        tenure = Tenure(EternalLease(term), self.clock)
        namespaces = Namespaces(self.api, self.clock)
        return Scheduler(store, api, namespaces, tenure, self.events, self.clock, lambda: True, **options)

    def report(self, scheduler: Scheduler) -> FailoverReport:
        return FailoverReport(scheduler.book, scheduler.store, self.api, self.clock)


def condition(kind: str, holds: bool) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "reason": "Test",
        "message": "" if holds else "it is silent",
        "lastTransitionTime": "2030-01-01T00:00:00Z",
    }
