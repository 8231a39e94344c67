"""Several owners of hosts: what the owner of one shard signs for a start in another (docs/adr/0004). Pure.

The rule of a second shard before there is one: no controller calls it, the search does. It moves to core/failover with
the controller that signs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lq_operator.core.failover import guards as g
from lq_operator.core.failover.facts import Knowledge, Memory, highest_known
from lq_operator.core.failover.guards import Reason, Refusal
from lq_operator.core.failover.inventory import Complete, Incomplete, Listed, Off, judge_inventory
from lq_operator.core.failover.record import HostRecord, Member
from lq_operator.core.model import Epoch, HostUUID, NodeName, Placement


@dataclass(frozen=True, slots=True)
class Signature:
    """Written on the Lease of the shard that signs, by a patch that tests its holder and term.

    `key`: the write id of the commit that is signed, or the uid of a VM that has no placement. `accounted`: the hosts
    that the signer has listed in `term` or knows to be off; `members`: every member that their records name.
    """

    shard: int
    term: int
    key: str
    accounted: frozenset[HostUUID]
    members: frozenset[Member]


def countersign(placement: Placement | None, knowledge: Knowledge) -> Refusal | None:
    """May the owner of other hosts sign this commit (or, without a placement, this VM)? `knowledge` is the signer's own,
    its hosts listed after `placement` was read.

    It refuses where one of its hosts shows the VM, or showed it when last listed under an epoch that no release covers,
    where its memory says that the API server went back, and where its records know an epoch as high.
    """
    refusal = g.memory_agrees(placement, _Ask(knowledge))
    if refusal is not None:
        return refusal
    if knowledge.sightings:
        nodes = ", ".join(sorted(s.node for s in knowledge.sightings))
        return Refusal(Reason.FOUND_ELSEWHERE, f"a domain of this VM exists on {nodes}: it is bound or removed first")
    released = placement.released_epoch if placement is not None else None
    for seen in knowledge.last_seen:
        if seen.epoch is None or released is None or seen.epoch > released:
            return Refusal(Reason.FOUND_ELSEWHERE, f"{seen.node} had a domain of this VM and is silent since")
    known = highest_known(None, _without_memory(knowledge))
    if placement is not None and placement.epoch is not None and known is not None and placement.epoch <= known:
        return Refusal(Reason.EPOCH_NOT_NEW, f"epoch {placement.epoch} is not above {known}, which a record here knows")
    return None


def judge_together(
    term: int,
    nodes: Mapping[NodeName, HostUUID | None],
    listed: Iterable[Listed],
    off: Iterable[Off],
    signatures: Iterable[Signature],
    key: str,
    lease_terms: Mapping[int, int],
) -> Complete | Incomplete:
    """The inventory of all shards: what I have listed, and what others accounted for when they signed this very `key`
    under the term that their lease shows now. Who owns which host is not asked: what nobody accounted for is missing."""
    counted = [
        Listed(uuid, term, HostRecord(joined={member: Epoch(0, 0) for member in signature.members}))
        for signature in signatures
        if signature.key == key and signature.term == lease_terms[signature.shard]
        for uuid in signature.accounted
    ]
    return judge_inventory(term, nodes, [*listed, *counted], off)


@dataclass(frozen=True, slots=True)
class _Ask:
    knowledge: Knowledge


def _without_memory(knowledge: Knowledge) -> Knowledge:
    """Its memory holds the placement that is to be signed, which is no reason against itself."""
    return Knowledge(
        knowledge.inventory, knowledge.sightings, knowledge.departures, knowledge.tombstones, knowledge.orphans,
        Memory(), knowledge.last_seen,
    )  # fmt: skip
