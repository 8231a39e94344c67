"""Rules about where other VMs stand: affinity in both directions, and spreading. Used by FILTERS.

`fails_*` says for many hosts which of them fail, `says_*` for one host in a sentence by how much.
"""

from __future__ import annotations

import numpy as np

from lq_operator.core.placement.groups import Group
from lq_operator.core.placement.question import Question
from lq_operator.core.placement.state import BoolArray, ClusterState, IntArray, Rows
from lq_operator.core.placement.types import HOSTNAME_KEY

NO_DOMAIN = 2**40


def counts_per_row(state: ClusterState, group: Group, key: str, rows: Rows) -> IntArray:
    """VMs of the group in each host's domain of `key`; 0 for hosts without the label."""
    if key == HOSTNAME_KEY:
        return group.host_counts[rows]
    topology = state.topology(key)
    return state.groups.domain_counts(group, key)[topology.ids[rows]]


def present_per_row(state: ClusterState, group: Group, key: str, rows: Rows) -> BoolArray:
    """Whether any VM of the group is in each host's domain of `key`. May be the group's own array: do not write to it."""
    return group.present[rows] if key == HOSTNAME_KEY else counts_per_row(state, group, key, rows) > 0


def domain_of(state: ClusterState, key: str, row: int) -> str:
    """Name of the host's domain, for sentences."""
    if key == HOSTNAME_KEY:
        return state.names[row]
    topology = state.topology(key)
    domain = int(topology.ids[row])
    return topology.names[domain] if domain >= 0 else f"(no label {key})"


def _lacks_label(state: ClusterState, key: str, rows: Rows) -> BoolArray:
    return state.topology(key).ids[rows] < 0


def _is_first_of_its_kind(question: Question, group: Group) -> bool:
    # Kubernetes' exception: the first VM of a group that wants to be together may go anywhere.
    return group.total == 0 and group in question.belongs


def fails_affinity(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing = np.zeros(len(state.free_memory[rows]), np.bool_)
    for term, group in question.affinity:
        if term.topology_key != HOSTNAME_KEY:
            failing |= _lacks_label(state, term.topology_key, rows)
        if not _is_first_of_its_kind(question, group):
            failing |= counts_per_row(state, group, term.topology_key, rows) == 0
    return failing


def says_affinity(state: ClusterState, question: Question, row: int) -> str:
    one = slice(row, row + 1)
    missing = [
        f"{term} in {domain_of(state, term.topology_key, row)} (0 of {group.total} matching VMs)"
        for term, group in question.affinity
        if (not counts_per_row(state, group, term.topology_key, one)[0] and not _is_first_of_its_kind(question, group))
        or (term.topology_key != HOSTNAME_KEY and _lacks_label(state, term.topology_key, one)[0])
    ]
    return f"has no VM that it must run with: {'; '.join(missing)}"


def nobody_to_avoid(_: ClusterState, question: Question) -> bool:
    return not any(group.total for _, group in question.anti_affinity)


def fails_anti_affinity(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing: BoolArray | None = None
    for term, group in question.anti_affinity:
        hit = present_per_row(state, group, term.topology_key, rows)
        failing = hit if failing is None else failing | hit
    assert failing is not None
    return failing


def says_anti_affinity(state: ClusterState, question: Question, row: int) -> str:
    one = slice(row, row + 1)
    hits = []
    for term, group in question.anti_affinity:
        count = int(counts_per_row(state, group, term.topology_key, one)[0])
        if count:
            hits.append(f"{count} VM(s) {term} in {domain_of(state, term.topology_key, row)}")
    return f"it must not run with {'; '.join(hits)}"


def nobody_refuses(_: ClusterState, question: Question) -> bool:
    return not any(group.total for group in question.refused_by)


def fails_refused(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing: BoolArray | None = None
    for group in question.refused_by:
        hit = present_per_row(state, group, group.term.topology_key, rows)
        failing = hit if failing is None else failing | hit
    assert failing is not None
    return failing


def says_refused(state: ClusterState, question: Question, row: int) -> str:
    one = slice(row, row + 1)
    hits = []
    for group in question.refused_by:
        count = int(counts_per_row(state, group, group.term.topology_key, one)[0])
        if count:
            where = domain_of(state, group.term.topology_key, row)
            hits.append(f"{count} VM(s) in {where} refuse {group.term}")
    return f"VMs that are there refuse it: {'; '.join(hits)}"


def fewest(state: ClusterState, question: Question, group: Group, key: str) -> int:
    """The smallest count in any domain that has a host passing every FACTS filter.

    Without any such host nothing is uneven: the FACTS filters say already why the VM fits nowhere.
    """
    assert question.eligible is not None
    eligible = question.eligible[: state.n]
    if key == HOSTNAME_KEY:
        counts = group.host_counts[: state.n][eligible]
    else:
        topology = state.topology(key)
        known = question.eligible_domains.get(key)
        if known is None or known[0] != topology.version:
            domains = np.unique(topology.ids[: state.n][eligible])
            known = question.eligible_domains[key] = (topology.version, domains[domains >= 0].tolist())
        per_domain = state.groups.domain_counts(group, key).tolist()
        return min([per_domain[domain] for domain in known[1]], default=NO_DOMAIN)
    return int(counts.min()) if len(counts) else NO_DOMAIN


def fails_spread(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    failing: BoolArray | None = None
    for spread, group in question.spread:
        key = spread.topology_key
        own = 1 if group in question.belongs else 0
        limit = fewest(state, question, group, key) + spread.max_skew - own
        if key == HOSTNAME_KEY:
            uneven = group.host_counts[rows] > limit
        else:
            topology = state.topology(key)
            full = state.groups.domain_counts(group, key) > limit
            full[-1] = True  # a host without the label belongs to no domain
            uneven = full[topology.ids[rows]]
        failing = uneven if failing is None else failing | uneven
    assert failing is not None
    return failing


def says_spread(state: ClusterState, question: Question, row: int) -> str:
    one, broken = slice(row, row + 1), []
    for spread, group in question.spread:
        key = spread.topology_key
        own = 1 if group in question.belongs else 0
        there = int(counts_per_row(state, group, key, one)[0])
        low = fewest(state, question, group, key)
        lacks = key != HOSTNAME_KEY and bool(_lacks_label(state, key, one)[0])
        if lacks or there + own - low > spread.max_skew:
            skew = f"{there + own} there against {low} at the least, skew {there + own - low} > {spread.max_skew}"
            broken.append(f"{domain_of(state, key, row)}: {skew}")
    return f"would be spread unevenly: {'; '.join(broken)}"
