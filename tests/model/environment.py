"""Everything that is not a host-facing process: scheduler, HA, libvirt's migration, people, and the faults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .process import off_now, patch, process_steps, show
from .rules import Rules
from .world import (
    A_ATTESTED,
    A_BOOTS,
    A_LEASES,
    A_NODES,
    A_PLACEMENT,
    A_UID,
    API,
    ASSIGNED,
    COMMITTED,
    FAULTS,
    H_BOOT,
    H_CUT,
    H_DOMAIN,
    H_TICKET,
    H_UP,
    HA,
    HOSTS,
    INCOMING,
    LEFT,
    MOVE,
    MOVING,
    P_INC,
    P_TERM,
    PROCS,
    RELEASED,
    RUNS,
    SHUT,
    SNAP,
    State,
    budget,
    fresh_process,
    put,
    set_api,
    set_host,
)

Steps = Iterator[tuple[str, State]]


def steps(state: State, rules: Rules, *, ha: bool, snapshots: bool) -> Steps:
    """Every next state, with a label for people.

    An etcd snapshot is taken right before a write to the API server or not at all: taken at any other moment it
    holds the same.
    """
    snapshots = snapshots and state[SNAP] is None and state[LEFT][FAULTS.index("restore")] > 0
    for label, after in _steps(state, rules, ha=ha):
        yield label, after
        if snapshots and after[API] != state[API]:
            yield f"etcd snapshot; {label}", put(after, SNAP, state[API])


def _steps(state: State, rules: Rules, *, ha: bool) -> Steps:
    for p in rules.processes:
        yield from process_steps(state, p, rules)
    yield from scheduler(state, rules)
    if ha:
        yield from ha_steps(state, rules)
    yield from migration(state, rules)
    yield from faults(state, rules)


def scheduler(state: State, rules: Rules) -> Steps:
    api = state[API]
    placement = api[A_PLACEMENT]
    if placement is None or placement[0] > ASSIGNED:
        return
    for h in rules.shape.hosts:
        if not api[A_NODES] >> h & 1 or (placement[0] == ASSIGNED and placement[1] == h):
            continue
        new = rules.ask(placement, "assign", (h,))
        before = state if placement[0] == RELEASED else budget(state, "reassign")
        done = patch(before, None, placement, api[A_UID], new, rules) if new and before else None
        if done:
            yield f"scheduler: {show(done[1])}", done[0]


def ha_steps(state: State, rules: Rules) -> Steps:
    """Reads, observes, patches; it may be late with the patch."""
    api, ha = state[API], state[HA]
    if ha is None:
        placement = api[A_PLACEMENT]
        if placement is not None and placement[0] in (COMMITTED, MOVING):
            yield f"HA reads {show(placement)}", put(state, HA, (placement, api[A_UID], None))
        return
    placement, uid, proofs = ha
    if proofs is None:
        sides = [(placement[1], placement[2])]
        if placement[0] == MOVING:
            sides.append((placement[5], placement[6]))
        found: tuple[Any, ...] = tuple(proof for h, boot in sides for proof in off_now(state, h, boot, 0, rules))
        if found or "evidence_of_placement" in rules.removed:
            yield f"HA has evidence {[p[:2] for p in found]}", put(state, HA, (placement, uid, found))
        yield "HA gives up", put(state, HA, None)
        return
    new = rules.ask(placement, "release", ("ha", 0, (0, frozenset(), None), proofs))
    done = patch(put(state, HA, None), None, placement, uid, new, rules) if new else None
    if done:
        yield f"HA releases: {show(done[1])}", done[0]
    else:
        yield "HA may not release", put(state, HA, None)


def migration(state: State, rules: Rules) -> Steps:
    """libvirt's part of a migrate call: it may hang, then go on, at any time."""
    move = state[MOVE]
    if move is None:
        return
    n, t, name, gate, stage = move
    source, target = state[HOSTS][n], state[HOSTS][t]
    gone = put(state, MOVE, None)
    alive = source[H_UP] and source[H_DOMAIN] is not None and source[H_DOMAIN][1] == RUNS
    if stage == 0:
        if not alive or not target[H_UP]:
            yield "migrate fails", gone
            return
        free = target[H_DOMAIN] is None or target[H_DOMAIN][1] == SHUT
        if free and (target[H_TICKET] == name or "ticket" in rules.off):
            after = set_host(state, t, domain=(source[H_DOMAIN][0], INCOMING, gate))
            yield f"migrate: h{t} takes the guest in", put(after, MOVE, (n, t, name, gate, 1))
        else:
            yield f"migrate: h{t} refuses", gone
        return
    incoming = target[H_UP] and target[H_DOMAIN] is not None and target[H_DOMAIN][1] == INCOMING
    if incoming and alive:
        old = source[H_DOMAIN]
        after = set_host(gone, n, domain=(old[0], SHUT, old[2]))
        yield f"migrate: it runs on h{t} now", set_host(after, t, domain=(old[0], RUNS, gate))
    after = set_host(gone, t, domain=None) if incoming else gone
    yield "migrate is aborted", after


def power_off(state: State, h: int, up: int) -> State:
    """Power goes (and comes back at once when `up`): the tmpfs and every guest are lost, definitions stay."""
    host = state[HOSTS][h]
    domain = host[H_DOMAIN]
    if domain is not None:
        domain = (domain[0], SHUT, domain[2]) if domain[1] != INCOMING else None
    return set_host(state, h, up=up, boot=host[H_BOOT] + up, gates=(), ticket=None, domain=domain)


def faults(state: State, rules: Rules) -> Steps:
    api = state[API]
    hosts = rules.shape.hosts
    for p, process in enumerate(state[PROCS]):
        after = budget(state, "crash") if process[P_TERM] else None
        if after is not None:
            fresh = fresh_process(process[P_INC] + 1, len(hosts))
            yield f"p{p} crashes", put(after, PROCS, put(after[PROCS], p, fresh))
    for h in hosts:
        host = state[HOSTS][h]
        if host[H_UP]:
            after = budget(state, "reboot")
            if after is not None:
                yield f"h{h} reboots", power_off(after, h, 1)
            after = budget(state, "poweroff")
            if after is not None:
                yield f"h{h} loses power", power_off(after, h, 0)
        else:
            yield f"h{h} gets power", set_host(state, h, up=1, boot=host[H_BOOT] + 1)
            after = budget(state, "attest")
            if after is not None and api[A_ATTESTED][h] is None and api[A_BOOTS][h] is not None:
                statement = put(api[A_ATTESTED], h, (api[A_BOOTS][h], api[A_LEASES][rules.shape.shard_of(h)][0]))
                yield f"a person attests that h{h} is off", set_api(after, attested=statement)
        after = budget(state, "cut") if not host[H_CUT] else None
        if after is not None:
            yield f"h{h} is cut off", set_host(after, h, cut=1)
        if host[H_CUT]:
            yield f"h{h} is reachable again", set_host(state, h, cut=0)
    after = budget(state, "restore")
    if after is not None and state[SNAP] is not None:
        yield "etcd is restored", put(put(after, API, state[SNAP]), SNAP, None)
    after = budget(state, "wipe")
    if after is not None:
        none, shards = (None,) * len(hosts), len(rules.shape.shards)
        for nodes in (rules.shape.everything, *(1 << h for h in hosts)):
            forgotten = (None, api[A_UID] + 1, ((0, 0, 0),) * shards, none, none, nodes, (), (None,) * shards)
            yield f"etcd is wiped, manifests applied (nodes {nodes:0{len(hosts)}b})", put(after, API, forgotten)


__all__ = ["RELEASED", "faults", "steps"]
