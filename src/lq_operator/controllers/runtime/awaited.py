"""Which hosts are about to be taken over: whoever cleans up "everywhere" waits for them first.

A process that has just started owns nothing yet; sweeping what it owns then would sweep nothing and call it done.
"""

from __future__ import annotations

from lq_operator.api.node import HypervisorNode
from lq_operator.controllers.runtime.hostbook import HostBook
from lq_operator.core.model import NodeName
from lq_operator.ports import Store


def awaited_hosts(store: Store, book: HostBook) -> tuple[NodeName, ...]:
    """Nodes that were Ready when last heard of and are not owned now. Soon they are owned, or Ready turns Unknown."""
    return tuple(
        NodeName(node.metadata.name)
        for node in store.list(HypervisorNode)
        if book.owned(NodeName(node.metadata.name)) is None
        and (ready := node.status.condition("Ready")) is not None
        and ready.status == "True"
    )
