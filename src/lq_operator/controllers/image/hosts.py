"""The importer's own connections: one for each HypervisorNode, and which host can do an import."""

from __future__ import annotations

from dataclasses import dataclass

from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.controllers.runtime.errors import Requeue
from lq_operator.core.model import NodeName
from lq_operator.core.result import Rejected
from lq_operator.core.storage.importing import Target
from lq_operator.ports import Fleet, Host, Resources, Store

CREDENTIALS_S = 300.0
"""How often the credentials are read again: a Secret that changes wakes nobody here."""


@dataclass(frozen=True, slots=True)
class HostLinks:
    """reconcile(node name): configure the fleet as the object and its Secret say."""

    store: Store
    resources: Resources
    fleet: Fleet
    operator_namespace: str

    async def reconcile(self, name: str) -> Requeue | None:
        """Equal words again change nothing."""
        node = self.store.get(HypervisorNode, None, name)
        if node is None:
            self.fleet.forget(NodeName(name))
            return None
        credentials: dict[str, bytes] = {}
        ref = node.spec.credentials_secret_ref
        if ref is not None:
            found = await self.resources.read_secret(self.operator_namespace, ref.name)
            if found is None:
                field = "spec.credentialsSecretRef"
                raise Rejected(f"{field}: there is no Secret {self.operator_namespace}/{ref.name}", field=field)
            credentials = dict(found)
        self.fleet.configure(NodeName(name), node.spec.uri, credentials)
        return Requeue.after(CREDENTIALS_S)


@dataclass(frozen=True, slots=True)
class Reach:
    """Which hosts can be used now."""

    store: Store
    fleet: Fleet

    def live(self, node: str) -> Host | None:
        """The connection, if what answers there is the host that `run` has taken over for this node."""
        known = self.store.get(HypervisorNode, None, node)
        host = self.fleet.host(NodeName(node))
        if known is None or host is None or not known.status.host_uuid or host.uuid != known.status.host_uuid:
            return None
        return host

    def host(self, pool: StoragePool, target: Target, preferred: list[str]) -> Host | str:
        """A host that has the pool ready, or a sentence: what is waited for."""
        nodes = [seen for seen in pool.status.nodes if target.node in ("", seen.node)]
        ready = sorted((seen.node for seen in nodes if seen.ready), key=lambda node: (node not in preferred, node))
        for node in ready:
            host = self.live(node)
            if host is not None:
                return host
        if ready:
            return f"waits for {ready[0]}: {self.fleet.why_down(NodeName(ready[0])) or 'not taken over yet'}"
        place = f"pool {target.pool} on {target.node}" if target.node else f"pool {target.pool}"
        why = next((seen.message for seen in nodes if seen.message), "not set up yet")
        return f"waits for {place}: {why}"
