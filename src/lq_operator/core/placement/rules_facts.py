"""Rules about the facts of a host: readiness, taints, labels, CPU models, networks, pools, volumes. Used by FILTERS.

`fails_*` says for many hosts which of them fail, `says_*` for one host in a sentence by how much.
"""

from __future__ import annotations

from lq_operator.core.placement.question import Question, facts_of, names_of
from lq_operator.core.placement.selectors import all_match, any_term_matches, untolerated
from lq_operator.core.placement.state import BoolArray, ClusterState, Rows


def fails_ready(state: ClusterState, _: Question, rows: Rows) -> BoolArray:
    return state.column("unready", lambda host: not host.ready)[rows]


def says_ready(state: ClusterState, _: Question, row: int) -> str:
    return f"is not ready: {facts_of(state, row).not_ready_reason or 'no reason was given'}"


def fails_cordon(state: ClusterState, _: Question, rows: Rows) -> BoolArray:
    return state.column("cordoned", lambda host: host.cordoned)[rows]


def says_cordon(_: ClusterState, __: Question, ___: int) -> str:
    return "is cordoned"


def fails_maintenance(state: ClusterState, _: Question, rows: Rows) -> BoolArray:
    return state.column("maintenance", lambda host: host.maintenance)[rows]


def says_maintenance(_: ClusterState, __: Question, ___: int) -> str:
    return "is in maintenance"


def fails_taints(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    tolerations = question.shape.tolerations
    return state.column(("taints", tolerations), lambda host: bool(untolerated(host.taints, tolerations)))[rows]


def says_taints(state: ClusterState, question: Question, row: int) -> str:
    left = untolerated(facts_of(state, row).taints, question.shape.tolerations)
    return f"has {len(left)} taint{'s' * (len(left) != 1)} the VM does not tolerate: {', '.join(map(str, left))}"


def fails_node_selector(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    wanted = question.shape.node_selector
    return state.column(("not labels", wanted), lambda host: not all_match(wanted, host.labels))[rows]


def says_node_selector(state: ClusterState, question: Question, row: int) -> str:
    labels = facts_of(state, row).labels
    wrong = [str(r) for r in question.shape.node_selector if not r.matches(labels)]
    return f"lacks {len(wrong)} of {len(question.shape.node_selector)} selected labels: {', '.join(wrong)}"


def fails_node_affinity(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    terms = question.shape.node_affinity
    return state.column(("affinity", terms), lambda host: not any_term_matches(terms, host.labels))[rows]


def says_node_affinity(_: ClusterState, question: Question, __: int) -> str:
    return f"matches 0 of {len(question.shape.node_affinity)} node affinity terms"


def fails_cpu_model(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    model = question.shape.cpu_model
    return state.column(("cpu", model), lambda host: model not in host.cpu_models)[rows]


def says_cpu_model(state: ClusterState, question: Question, row: int) -> str:
    known = len(facts_of(state, row).cpu_models)
    return f"cannot run CPU model {question.shape.cpu_model} (it can run {known} others)"


def fails_networks(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    wanted = question.shape.networks
    return state.column(("networks", wanted), lambda host: not wanted <= host.networks)[rows]


def says_networks(state: ClusterState, question: Question, row: int) -> str:
    missing = question.shape.networks - facts_of(state, row).networks
    return f"does not reach {len(missing)} of {len(question.shape.networks)} networks: {names_of(missing)}"


def fails_pool_reach(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    wanted = frozenset(question.shape.pools)
    return state.column(("reach", wanted), lambda host: not wanted <= host.pools.keys())[rows]


def says_pool_reach(state: ClusterState, question: Question, row: int) -> str:
    missing = question.shape.pools.keys() - facts_of(state, row).pools.keys()
    return f"does not reach {len(missing)} of {len(question.shape.pools)} storage pools: {names_of(missing)}"


def fails_volumes(state: ClusterState, question: Question, rows: Rows) -> BoolArray:
    hosts = frozenset.intersection(*question.shape.bound_volumes.values())
    return state.column(("volumes", hosts), lambda host: host.name not in hosts)[rows]


def says_volumes(state: ClusterState, question: Question, row: int) -> str:
    name = state.names[row]
    away = {volume for volume, hosts in question.shape.bound_volumes.items() if name not in hosts}
    where = sorted(set().union(*(question.shape.bound_volumes[volume] for volume in away)))
    on = f"bound to {', '.join(where[:3])}" if where else "bound to no host that is left"
    return f"does not reach {len(away)} bound volume{'s' * (len(away) != 1)}: {names_of(away)} ({on})"
