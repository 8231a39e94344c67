"""What a host-facing process does, one write or one listing per step, so that it can pause, die or be late anywhere.

Takeover: create gate, list gates and record, delete lower and note the term, list domains and gates. Reconcile: read
the placement, list each host, decide and patch, renew, read back, define, start; stop, move and their resolution
likewise. The decisions are `rules.ask`, that is `protocol.transition`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .rules import Rules, epoch_of, placement_of
from .world import (
    A_ATTESTED,
    A_BOOTS,
    A_LEASES,
    A_NODES,
    A_PLACEMENT,
    A_SIGNED,
    A_TOMBS,
    A_UID,
    API,
    ASSIGNED,
    COMMITTED,
    H_BEAT,
    H_BOOT,
    H_CUT,
    H_DEPARTED,
    H_DOMAIN,
    H_GATES,
    H_MEMBERS,
    H_TERM,
    H_TICKET,
    H_UP,
    HOSTS,
    INCOMING,
    MOVE,
    MOVING,
    NO_MEMORY,
    P_BACK,
    P_BEAT,
    P_FLOOR,
    P_FOUND,
    P_INC,
    P_LISTED,
    P_LOC,
    P_MEM,
    P_N,
    P_OFF,
    P_OWN,
    P_PC,
    P_TAKE,
    P_TERM,
    PROCS,
    RELEASED,
    RUNS,
    SHUT,
    State,
    budget,
    fresh_process,
    put,
    set_api,
    set_host,
    set_process,
    with_new_wid,
)

Steps = Iterator[tuple[str, State]]

IDLE, LIST, PATCH, SIGN = 0, 1, 2, 3
SIGNED, CHECK, DEFINE, START = 9, 10, 12, 13
DESTROY, UNDEFINE, LIST_ABSENT, RELEASE = 20, 21, 22, 23
TICKET, MOVE_PATCH, MOVE_SEND = 30, 31, 32
END_TICKET, END_SOURCE, END_LIST_SOURCE, END_TARGET, END_LIST_TARGET, END_PATCH = 40, 41, 42, 43, 44, 45
CLEAN = 50
TOMB_DESTROY, TOMB_UNDEFINE, TOMB_LIST = 60, 61, 62


def later(a: Any, b: Any) -> Any:
    """The higher of two epochs, None lowest."""
    if a is None:
        return b
    return a if b is None or a > b else b


def known(placement: Any) -> Any:
    """The highest epoch a compact placement speaks of."""
    return None if placement is None else later(placement[3], placement[4])


def process_steps(state: State, p: int, rules: Rules) -> Steps:
    """Everything process `p` may do next."""
    process = state[PROCS][p]
    if process[P_TERM] == 0:
        yield from acquire(state, p, rules)
        return
    pc = process[P_PC]
    if pc == IDLE:
        yield from takeover_steps(state, p, rules)
        yield from off_steps(state, p, rules)
        yield from read_placement(state, p, rules)
        if rules.beats:
            yield from beat_steps(state, p, rules)
    else:
        if rules.concurrent:
            yield from takeover_steps(state, p, rules)
        yield from PROGRAM[pc](state, p, rules)


# ---------------------------------------------------------------- lease


def maker(state: State, p: int) -> int:
    return p + len(state[PROCS]) * state[PROCS][p][P_INC]


def acquire(state: State, p: int, rules: Rules) -> Steps:
    """Takes the lease of its shard at any time: whoever held it may be paused and still believe it."""
    after = budget(state, "usurp")
    if after is None:
        return
    seat, leases = rules.shape.seats[p], state[API][A_LEASES]
    term = max([state[PROCS][p][P_FLOOR], *(lease[0] for lease in leases)]) + 1
    beat, found = (leases[seat][2] + 1, (leases[seat][0], leases[seat][2])) if rules.beats else (0, (0, 0))
    if "found when acquired" in rules.off:
        found = (1, 0)
    after = set_api(after, leases=put(leases, seat, (term, maker(state, p), beat)))
    yield f"p{p} acquires term {term}", set_process(after, p, term=term, beat=beat, found=found)


def holds(state: State, p: int, rules: Rules) -> bool:
    """Does the lease of its shard still show this process, at a beat that is not below its own?"""
    process, lease = state[PROCS][p], state[API][A_LEASES][rules.shape.seats[p]]
    return lease[:2] == (process[P_TERM], maker(state, p)) and lease[2] >= process[P_BEAT]


def renewed(state: State, p: int, rules: Rules) -> State:
    """One that holds its lease counts the beat up."""
    if not rules.beats:
        return state
    seat, leases = rules.shape.seats[p], state[API][A_LEASES]
    term, who, beat = leases[seat]
    return set_process(set_api(state, leases=put(leases, seat, (term, who, beat + 1))), p, beat=beat + 1)


def fenced(state: State, p: int, rules: Rules) -> tuple[str, State]:
    return f"p{p} has lost the lease", step_down(state, p, state[API][A_LEASES][rules.shape.seats[p]][0])


def beat_steps(state: State, p: int, rules: Rules) -> Steps:
    """The keeper's renewal, and the beat noted on a host that is owned."""
    after = budget(state, "renew")
    if after is not None:
        yield (f"p{p} renews", renewed(after, p, rules)) if holds(state, p, rules) else fenced(after, p, rules)
    process = state[PROCS][p]
    for h in rules.mine(p):
        own, host = process[P_OWN][h], state[HOSTS][h]
        mark = (process[P_TERM], process[P_BEAT])
        if own is not None and own[2] == 4 and connected(state, p, h) and (host[H_TERM], host[H_BEAT]) < mark:
            yield f"p{p} notes term {mark[0]} beat {mark[1]} on h{h}", set_host(state, h, term=mark[0], beat=mark[1])


def step_down(state: State, p: int, floor: int) -> State:
    process = state[PROCS][p]
    fresh = fresh_process(process[P_INC] + 1, len(state[HOSTS]), max(floor, process[P_FLOOR]))
    return put(state, PROCS, put(state[PROCS], p, fresh))


# ---------------------------------------------------------------- hosts


def reachable(state: State, h: int) -> bool:
    return bool(state[HOSTS][h][H_UP] and not state[HOSTS][h][H_CUT])


def connected(state: State, p: int, h: int) -> bool:
    """Does the connection on which `p` observed host `h` still live?"""
    own = state[PROCS][p][P_OWN][h]
    return own is not None and reachable(state, h) and own[1] == state[HOSTS][h][H_BOOT]


def disconnect(state: State, p: int, h: int) -> State:
    return set_process(state, p, own=put(state[PROCS][p][P_OWN], h, None))


def takeover_steps(state: State, p: int, rules: Rules) -> Steps:
    process = state[PROCS][p]
    for h in rules.mine(p):
        if not reachable(state, h):
            continue
        if not connected(state, p, h):
            yield create_gate(state, p, h, rules)
        elif process[P_OWN][h][2] == 1:
            yield check_gates(state, p, h, rules)
        elif process[P_OWN][h][2] == 2:
            yield clear_gates(state, p, h, rules)


def create_gate(state: State, p: int, h: int, rules: Rules) -> tuple[str, State]:
    """The first contact: a statement that the host is off is void from here on."""
    process, host = state[PROCS][p], state[HOSTS][h]
    gate = (process[P_TERM], process[P_TAKE] + 1, maker(state, p))
    if "unique gate" in rules.off:
        gate = (process[P_TERM], 0, 0)
    after = set_host(state, h, gates=tuple(sorted({*host[H_GATES], gate})))
    after = set_process(after, p, take=process[P_TAKE] + 1, own=put(process[P_OWN], h, (gate, host[H_BOOT], 1)))
    if "void on contact" not in rules.off:
        after = set_process(after, p, off=put(process[P_OFF], h, None))
        after = set_api(after, attested=put(after[API][A_ATTESTED], h, None))
    return f"p{p} makes gate {gate} on h{h}", after


def check_gates(state: State, p: int, h: int, rules: Rules) -> tuple[str, State]:
    process, host = state[PROCS][p], state[HOSTS][h]
    gate, boot, _ = process[P_OWN][h]
    if gate not in host[H_GATES]:
        return f"p{p} finds its gate on h{h} gone", disconnect(state, p, h)
    foreign = [g[0] for g in host[H_GATES] if g != gate and g[2] != gate[2]]
    above = max([t for t in foreign if t >= gate[0]], default=0) if "list gates after mine" not in rules.off else 0
    if host[H_TERM] > gate[0] and "term in record" not in rules.off:
        above = max(above, host[H_TERM])
    if above:
        after = set_host(state, h, gates=tuple(g for g in host[H_GATES] if g != gate))
        return f"p{p} finds term {above} on h{h} and steps down", step_down(after, p, above)
    return f"p{p} lists the gates of h{h}", set_process(state, p, own=put(process[P_OWN], h, (gate, boot, 2)))


def clear_gates(state: State, p: int, h: int, rules: Rules) -> tuple[str, State]:
    """Delete the lower gates, note term and members, and own the host if my gate is still there."""
    process, host = state[PROCS][p], state[HOSTS][h]
    gate, boot, _ = process[P_OWN][h]
    if gate not in host[H_GATES]:
        return f"p{p} finds its gate on h{h} gone", disconnect(state, p, h)
    gates = tuple(g for g in host[H_GATES] if g == gate or (g[0] >= gate[0] and g[2] != gate[2]))
    members = host[H_MEMBERS] | state[API][A_NODES] | 1 << h
    for entry in process[P_LISTED]:
        members |= entry[0] if entry else 0
    ticket = host[H_TICKET] if host[H_TICKET] and host[H_TICKET][0] >= gate[0] else None
    noted = max((host[H_TERM], host[H_BEAT]), (gate[0], process[P_BEAT]))
    after = set_host(state, h, gates=gates, term=noted[0], beat=noted[1], members=members, ticket=ticket)
    if rules.beats and rules.ahead((host[H_TERM], host[H_BEAT]), process[P_FOUND], process[P_TERM]):
        # What people attested before is void; it is looked at by this process alone, so at once and later are the same.
        after = set_process(after, p, back=True)
        after = set_api(after, attested=(None,) * len(state[HOSTS]))
    after = set_process(
        after,
        p,
        own=put(process[P_OWN], h, (gate, boot, 4)),
        listed=put(process[P_LISTED], h, (members, host[H_DOMAIN])),
    )
    if rules.attests:
        after = set_api(after, boots=put(state[API][A_BOOTS], h, gate))
    heard = " and hears that the API server went back" if after[PROCS][p][P_BACK] and not process[P_BACK] else ""
    return f"p{p} deletes lower gates, notes term {gate[0]} and owns h{h}{heard}", after


def off_steps(state: State, p: int, rules: Rules) -> Steps:
    """Evidence that a host is off, for the inventory: observed now, kept for the term."""
    process, api = state[PROCS][p], state[API]
    for h in rules.mine(p):
        if process[P_OFF][h] is not None or (process[P_OWN][h] is not None and connected(state, p, h)):
            continue
        off = put(process[P_OFF], h, 1)
        if not state[HOSTS][h][H_UP]:
            yield f"p{p} hears from the BMC that h{h} is off", set_process(state, p, off=off)
        elif "silence is no evidence" in rules.off and not reachable(state, h):
            yield f"p{p} takes the silence of h{h} for evidence", set_process(state, p, off=off)
        if reachable(state, h):
            continue
        attested = api[A_ATTESTED][h]
        if attested and rules.attested(h, attested, api[A_BOOTS][h], process[P_TERM]):
            yield f"p{p} accepts the statement about h{h}", set_process(state, p, off=off)


def listing(state: State, p: int, h: int, at: int, rules: Rules) -> tuple[State, Any]:
    """What the host shows about the VM on the owned connection, None where there is none."""
    own = state[PROCS][p][P_OWN][h]
    if own is None or own[2] != 4:
        return state, None
    if not connected(state, p, h):
        return state, None
    host = state[HOSTS][h]
    return state, (h, own[0], own[0] in host[H_GATES], host[H_DOMAIN], host[H_DEPARTED], at)


# ---------------------------------------------------------------- reading and patching


def contradicts(process: Any, placement: Any, uid: int) -> bool:
    seen_uid, latest, superseded, high = process[P_MEM]
    if seen_uid != uid:
        return False
    if placement is None:
        return bool(latest)
    spoken = known(placement)
    return placement[-1] in superseded or (high is not None and (spoken is None or spoken < high))


def remember(state: State, p: int, placement: Any, uid: int, rules: Rules) -> State:
    if not rules.remembers:
        return state
    seen_uid, latest, superseded, high = state[PROCS][p][P_MEM]
    if seen_uid != uid:
        latest, superseded, high = 0, frozenset(), None
    if placement is not None and placement[-1] != latest:
        superseded = superseded | {latest} if latest else superseded
        latest, high = placement[-1], later(high, known(placement))
    return set_process(state, p, mem=(uid, latest, superseded, high))


def memory_for(process: Any, uid: int) -> Any:
    seen_uid, latest, superseded, high = process[P_MEM]
    return (latest, superseded, high) if seen_uid == uid else (0, frozenset(), None)


def read_placement(state: State, p: int, rules: Rules) -> Steps:
    placement, uid = state[API][A_PLACEMENT], state[API][A_UID]
    stale = contradicts(state[PROCS][p], placement, uid)
    if stale and not rules.forgetful:
        return
    if all(own is None or own[2] != 4 for own in state[PROCS][p][P_OWN]):
        return
    after = state if stale else remember(state, p, placement, uid, rules)
    yield f"p{p} reads {show(placement)}", set_process(after, p, pc=LIST, loc=(placement, uid))


def show(placement: Any) -> str:
    if placement is None:
        return "no placement"
    phase, node, _boot, epoch, released, target, _tboot, wid = placement
    where = f" h{node}" if node >= 0 else ""
    where += f"->h{target}" if target >= 0 else ""
    return f"{('Released', 'Assigned', 'Committed', 'Moving')[phase]}{where} epoch {epoch} released {released} #{wid}"


def idle(state: State, p: int) -> State:
    return set_process(state, p, pc=IDLE, loc=())


def patch(state: State, p: int | None, old: Any, uid: int, new: Any, rules: Rules) -> tuple[State, Any] | None:
    """The tested JSON patch; None when the API server refuses it."""
    api = state[API]
    if api[A_UID] != uid:
        return None
    same = (api[A_PLACEMENT] is None) == (old is None) and (old is None or api[A_PLACEMENT][-1] == old[-1])
    if not same and "tested patches" not in rules.off:
        return None
    state, wid = with_new_wid(state)
    written = (*new[:-1], wid)
    after = set_api(state, placement=written)
    if p is not None:
        after = remember(after, p, written, uid, rules)
    return after, written


def accounted(state: State, p: int, rules: Rules) -> tuple[int, ...]:
    """Per host the members that its record named when it was listed in this term, -1 where it was not."""
    process = state[PROCS][p]
    masks = [entry[0] if entry else -1 for entry in process[P_LISTED]]
    if "inventory per term" in rules.off and not process[P_BACK]:
        boots = state[API][A_BOOTS]
        masks = [rules.shape.everything if boots[h] is not None else masks[h] for h in rules.shape.hosts]
    return tuple(masks)


def complete(state: State, p: int, rules: Rules, key: int | None) -> bool:
    """Is the inventory complete? With several shards: my part of it, or, with a `key`, together with what the owners of
    the others have signed for that."""
    process, api = state[PROCS][p], state[API]
    masks = accounted(state, p, rules)
    if not rules.sharded:
        return rules.complete(process[P_TERM], api[A_NODES], masks, process[P_OFF])
    if key is None or "countersign" in rules.off:
        part = sum(1 << h for h in rules.mine(p))
        mine = tuple(mask & part if mask >= 0 else mask for mask in masks)
        return rules.complete(process[P_TERM], api[A_NODES] & part, mine, process[P_OFF])
    signed = tuple(
        (shard, entry) for shard, entry in enumerate(api[A_SIGNED]) if entry and shard != rules.shape.seats[p]
    )
    terms = tuple(lease[0] for lease in api[A_LEASES])
    return rules.together(process[P_TERM], api[A_NODES], masks, process[P_OFF], signed, key, terms)


def knowledge(state: State, p: int, uid: int, views: Any, rules: Rules, key: int | None = None) -> Any:
    process, api = state[PROCS][p], state[API]
    listed = process[P_LISTED]
    silent = tuple(
        (h, None, False, listed[h][1], None, 0)
        for h in rules.shape.hosts
        if views[h] is None and listed[h] and listed[h][1] and process[P_OFF][h] is None
    )
    return (complete(state, p, rules, key), views, api[A_TOMBS], memory_for(process, uid), silent)


# ---------------------------------------------------------------- observe and decide


def list_and_decide(state: State, p: int, rules: Rules) -> Steps:
    """Lists its hosts; one successor per decision that is possible on what they show, else back to rest."""
    placement, uid, *_ = state[PROCS][p][P_LOC]
    views = []
    for h in rules.shape.hosts:
        _, view = listing(state, p, h, 1, rules)
        if "look at every host" in rules.off and placement is not None and placement[1] not in (-1, h):
            view = None
        views.append(view)
        entry = state[PROCS][p][P_LISTED][h]
        if view is not None and entry and entry[1] != view[3]:
            state = set_process(state, p, listed=put(state[PROCS][p][P_LISTED], h, (entry[0], view[3])))
    seen = tuple(views)
    decided = False
    for label, after in decide(state, p, placement, uid, seen, rules):
        decided = True
        yield f"p{p} lists its hosts, {label}", after
    if not decided:
        yield f"p{p} lists its hosts and lets it be", idle(state, p)


def decide(state: State, p: int, placement: Any, uid: int, views: Any, rules: Rules) -> Steps:
    if placement is None:
        yield from decide_absent(state, p, uid, views, rules)
        yield from decide_outlived(state, p, uid, views)
        return
    yield from decide_found(state, p, placement, uid, views, rules)
    yield from decide_clean(state, p, placement, uid, views)
    if placement[0] == ASSIGNED:
        yield from decide_start(state, p, placement, uid, views, rules)
    elif placement[0] == COMMITTED:
        yield from decide_committed(state, p, placement, uid, views, rules)
    elif placement[0] == MOVING:
        yield "will resolve the move", set_process(state, p, pc=END_TICKET)
    yield from decide_sign(state, p, placement, uid, views, rules)
    yield from decide_delete(state, p, placement, uid, views, rules)


def decide_sign(state: State, p: int, placement: Any, uid: int, views: Any, rules: Rules) -> Steps:
    """What the owner of another shard waits for: nothing of this VM is here, and I know of this very commit."""
    if not rules.sharded or (placement is not None and placement[1] in rules.mine(p)):
        return
    phases = (ASSIGNED,) if "signed after the commit" in rules.off else (COMMITTED,)
    if placement is not None and placement[0] not in phases:
        return
    process, shard = state[PROCS][p], rules.shape.seats[p]
    key = -uid if placement is None else placement[-1]
    if not rules.signs(placement, process[P_TERM], knowledge(state, p, uid, views, rules)):
        return
    masks = accounted(state, p, rules)
    hosts = sum(1 << h for h in rules.mine(p) if masks[h] >= 0 or process[P_OFF][h] is not None)
    members = 0
    for mask in masks:
        members |= max(mask, 0)
    entry = (key, process[P_TERM], hosts, members)
    if state[API][A_SIGNED][shard] != entry:
        yield (
            f"will countersign for h{placement[1]}" if placement else "will say that it is not here",
            set_process(state, p, pc=SIGN, loc=(placement, uid, entry)),
        )


def sign(state: State, p: int, rules: Rules) -> Steps:
    """A patch of its own Lease, which tests holder and term."""
    *_, entry = state[PROCS][p][P_LOC]
    if not holds(state, p, rules):
        yield fenced(state, p, rules)
        return
    after = set_api(state, signed=put(state[API][A_SIGNED], rules.shape.seats[p], entry))
    yield f"p{p} countersigns {'#' if entry[0] > 0 else 'uid '}{abs(entry[0])}", idle(after, p)


def will_patch(state: State, p: int, placement: Any, uid: int, new: Any, then: int = IDLE) -> State:
    return set_process(state, p, pc=PATCH, loc=(placement, uid, new, then))


def patch_step(state: State, p: int, rules: Rules) -> Steps:
    placement, uid, new, then = state[PROCS][p][P_LOC]
    done = patch(state, p, placement, uid, new, rules)
    if done is None:
        yield f"p{p}'s patch is refused", idle(state, p)
    elif then == IDLE:
        yield f"p{p} patches: {show(done[1])}", idle(done[0], p)
    else:
        signed = done[1][-1] if "signed after the commit" not in rules.off else placement[-1]
        loc = (done[1], uid, signed) if then == SIGNED else (done[1], uid)
        yield f"p{p} patches: {show(done[1])}", set_process(done[0], p, pc=then, loc=loc)


def decide_absent(state: State, p: int, uid: int, views: Any, rules: Rules) -> Steps:
    know, term = knowledge(state, p, uid, views, rules, -uid), state[PROCS][p][P_TERM]
    asks = [("register", None)]
    asks += [("bind", view) for view in views if view is not None and view[3] is not None]
    for kind, rest in asks:
        new = rules.ask(None, kind, (term, know, rest))
        if new:
            yield f"will {kind}", will_patch(state, p, None, uid, new)
    for h, epoch in state[API][A_TOMBS]:
        if h not in rules.mine(p):
            continue
        if views[h] is not None:
            yield (
                f"will settle the tombstone on h{h}",
                set_process(state, p, pc=TOMB_DESTROY, loc=(None, uid, h, epoch)),
            )
        elif not state[HOSTS][h][H_UP]:
            tombs = tuple(t for t in state[API][A_TOMBS] if t[0] != h)
            yield f"settles the tombstone on h{h} (BMC: off)", idle(set_api(state, tombs=tombs), p)
    yield from decide_sign(state, p, None, uid, views, rules)


def off_now(state: State, h: int, boot: Any, term: int, rules: Rules) -> list[Any]:
    """Evidence about a silent host that can be had right now, as proofs."""
    proofs = []
    if not state[HOSTS][h][H_UP]:
        proofs.append((h, "bmc", boot))
    elif "silence is no evidence" in rules.off and not reachable(state, h):
        proofs.append((h, "silence", boot))
    attested = state[API][A_ATTESTED][h]
    if attested and (term == 0 or rules.attested(h, attested, state[API][A_BOOTS][h], term)):
        proofs.append((h, "human", attested[0]))
    return proofs


def decide_found(state: State, p: int, placement: Any, uid: int, views: Any, rules: Rules) -> Steps:
    know, term = knowledge(state, p, uid, views, rules), state[PROCS][p][P_TERM]
    proofs: list[Any] = []
    if placement[0] >= COMMITTED and views[placement[1]] is None:
        proofs += off_now(state, placement[1], placement[2], term, rules)
    for view in views:
        if view is None or view[3] is None:
            continue
        new = rules.ask(placement, "displace", (term, know, (view, tuple(proofs))))
        if new:
            yield f"will displace by h{view[0]}", will_patch(state, p, placement, uid, new)


def decide_clean(state: State, p: int, placement: Any, uid: int, views: Any) -> Steps:
    """Shut-off domains of a stale epoch go (the epoch they had is noted)."""
    placed = {placement[1], placement[5]} if placement[0] >= COMMITTED else set()
    for view in views:
        if view is None or view[3] is None or view[3][1] != SHUT or view[0] in placed or placement[0] == MOVING:
            continue
        if known(placement) is not None and view[3][0] <= known(placement):
            loc = (placement, uid, view[0], view[3][0])
            yield f"finds a stale domain on h{view[0]}", set_process(state, p, pc=CLEAN, loc=loc)


def decide_outlived(state: State, p: int, uid: int, views: Any) -> Steps:
    """Without a placement: a shut-off domain below a departure note is bound to nobody, and its VM waits for it to go."""
    noted = max((view[4] for view in views if view is not None and view[4] is not None), default=None)
    for view in views:
        if noted is None or view is None or view[3] is None or view[3][1] != SHUT or view[3][0] >= noted:
            continue
        yield (
            f"finds an outlived domain on h{view[0]}",
            set_process(state, p, pc=CLEAN, loc=(None, uid, view[0], view[3][0])),
        )


def decide_start(state: State, p: int, placement: Any, uid: int, views: Any, rules: Rules) -> Steps:
    view = views[placement[1]]
    after = budget(state, "start")
    if view is None or after is None:
        return
    process = after[PROCS][p]
    if "epoch per start" in rules.off and placement[0] == COMMITTED:
        if view[3] is None or view[3][1] == SHUT:
            yield "starts again under the same epoch", set_process(after, p, pc=CHECK)
        return
    epoch = (process[P_TERM], process[P_N] + 1)
    know = knowledge(after, p, uid, views, rules)
    new = rules.ask(placement, "commit", (process[P_TERM], know, (view, epoch)))
    if not new:
        return
    after = set_process(after, p, n=process[P_N] + 1)
    if "commit first" in rules.off:
        yield "will start without a commit", set_process(after, p, pc=DEFINE, loc=(new, uid))
    else:
        yield f"will commit {epoch}", will_patch(after, p, placement, uid, new, SIGNED if rules.sharded else CHECK)


def decide_committed(state: State, p: int, placement: Any, uid: int, views: Any, rules: Rules) -> Steps:
    view = views[placement[1]]
    if view is None:
        return
    runs = view[3] is not None and view[3][1] != SHUT
    if not runs:
        yield from decide_start(state, p, placement, uid, views, rules)
    after = budget(state, "stop")
    if after is not None:
        yield "will stop it", set_process(after, p, pc=DESTROY if runs else UNDEFINE)
    after = budget(state, "move")
    if after is None or not runs or state[MOVE] is not None:
        return
    for t in rules.mine(p):
        if t != placement[1] and views[t] is not None and views[t][3] is None:
            yield "will move it", set_process(after, p, pc=TICKET, loc=(placement, uid, views, t))


def decide_delete(state: State, p: int, placement: Any, uid: int, views: Any, rules: Rules) -> Steps:
    """The user deletes the VM and creates one of the same name: tombstones where the host is away."""
    after = budget(state, "delete")
    if after is None:
        return
    api = after[API]
    if api[A_UID] != uid or api[A_PLACEMENT] is None or api[A_PLACEMENT][-1] != placement[-1]:
        return
    stones: tuple[Any, ...] = ()
    if placement[0] >= COMMITTED:
        if views[placement[1]] is not None:
            return
        hosts = {placement[1]} | ({placement[5]} if placement[0] == MOVING else set())
        stones = tuple((h, known(placement)) for h in sorted(hosts))
    if "no_tombstone" in rules.removed:
        stones = ()
    after = set_api(after, placement=None, uid=uid + 1, tombs=tuple(sorted({*api[A_TOMBS], *stones})))
    yield f"ends the finalizer (tombstones {stones}), the name is used again", idle(after, p)


# ---------------------------------------------------------------- start


def await_signatures(state: State, p: int, rules: Rules) -> Steps:
    """Waits until the owners of all other hosts have signed this commit, or gives up."""
    placement, uid, key = state[PROCS][p][P_LOC]
    if complete(state, p, rules, key):
        yield f"p{p} finds the signatures", set_process(state, p, pc=CHECK, loc=(placement, uid))
    else:
        yield f"p{p} waits for signatures no longer", idle(state, p)


def check(state: State, p: int, rules: Rules) -> Steps:
    """Renew the lease, then read the placement back."""
    placement, uid, *_ = state[PROCS][p][P_LOC]
    api = state[API]
    if not holds(state, p, rules) and "renewal" not in rules.off:
        yield fenced(state, p, rules)
        return
    state = renewed(state, p, rules)
    same = api[A_UID] == uid and api[A_PLACEMENT] is not None and api[A_PLACEMENT][-1] == placement[-1]
    if same or "read back" in rules.off:
        yield f"p{p} renews and reads back", set_process(state, p, pc=DEFINE)
    else:
        yield f"p{p} reads back something else", idle(state, p)


def lost(state: State, p: int, h: int) -> Steps:
    yield f"p{p}'s call to h{h} fails", idle(state, p)


def define(state: State, p: int, rules: Rules) -> Steps:
    placement, *_ = state[PROCS][p][P_LOC]
    h = placement[1]
    if not connected(state, p, h):
        yield from lost(state, p, h)
        return
    domain = state[HOSTS][h][H_DOMAIN]
    gate = state[PROCS][p][P_OWN][h][0]
    after = state
    if domain is None or domain[1] == SHUT:
        after = set_host(state, h, domain=(placement[3], SHUT, gate))
    yield f"p{p} defines epoch {placement[3]} on h{h}", set_process(after, p, pc=START)


def start(state: State, p: int, rules: Rules) -> Steps:
    placement, *_ = state[PROCS][p][P_LOC]
    h = placement[1]
    if not connected(state, p, h):
        yield from lost(state, p, h)
        return
    host = state[HOSTS][h]
    domain = host[H_DOMAIN]
    after = idle(state, p)
    if domain is None or domain[1] != SHUT or (domain[2] not in host[H_GATES] and "gate" not in rules.off):
        yield f"p{p} starts it on h{h}: refused", after
        return
    after = set_host(after, h, domain=(domain[0], RUNS, domain[2]))
    yield f"p{p} starts epoch {domain[0]} on h{h}", after


# ---------------------------------------------------------------- stop


def destroy(state: State, p: int, rules: Rules) -> Steps:
    placement, *_ = state[PROCS][p][P_LOC]
    h = placement[1]
    if not connected(state, p, h):
        yield from lost(state, p, h)
        return
    yield f"p{p} destroys it on h{h}", set_process(cut_off(state, h), p, pc=UNDEFINE)


def cut_off(state: State, h: int) -> State:
    domain = state[HOSTS][h][H_DOMAIN]
    if domain is None or domain[1] == SHUT:
        return state
    left = (domain[0], SHUT, domain[2]) if domain[1] == RUNS else None
    return set_host(state, h, domain=left)


def note_and_undefine(state: State, h: int, epoch: Any, rules: Rules) -> State:
    host = state[HOSTS][h]
    domain = host[H_DOMAIN]
    if domain is not None and domain[1] == SHUT and "undefine on stop" not in rules.off:
        state = set_host(state, h, domain=None)
    if "departure notes" not in rules.off:
        state = set_host(state, h, departed=later(host[H_DEPARTED], epoch))
    return state


def undefine(state: State, p: int, rules: Rules) -> Steps:
    placement, *_ = state[PROCS][p][P_LOC]
    h = placement[1]
    if not connected(state, p, h):
        yield from lost(state, p, h)
        return
    after = note_and_undefine(state, h, placement[3], rules)
    yield f"p{p} notes the departure and undefines on h{h}", set_process(after, p, pc=LIST_ABSENT)


def absent_view(view: Any, epoch: Any, rules: Rules) -> Any:
    """The listing as the absence proof sees it, with what was taken away."""
    if view is None:
        return None
    host, gate, held, domain, departed, at = view
    if "undefine on stop" in rules.off and domain is not None and domain[1] == SHUT:
        domain = None
    if "departure notes" in rules.off:
        departed = epoch
    return (host, gate, held, domain, departed, at)


def list_absent(state: State, p: int, rules: Rules) -> Steps:
    placement, uid, *_ = state[PROCS][p][P_LOC]
    h = placement[1]
    after, view = listing(state, p, h, 3, rules)
    if view is None:
        yield from lost(state, p, h)
        return
    yield f"p{p} lists h{h} and its gates", set_process(after, p, pc=RELEASE, loc=(placement, uid, view))


def release(state: State, p: int, rules: Rules) -> Steps:
    placement, uid, view = state[PROCS][p][P_LOC]
    h, process = placement[1], state[PROCS][p]
    proof = (h, "absent", absent_view(view, placement[3], rules))
    new = rules.ask(placement, "release", ("vm", process[P_TERM], memory_for(process, uid), (proof,)))
    done = patch(state, p, placement, uid, new, rules) if new else None
    if done:
        yield f"p{p} releases: {show(done[1])}", idle(done[0], p)
    else:
        yield f"p{p} may not release", idle(state, p)


# ---------------------------------------------------------------- move


def ticket(state: State, p: int, rules: Rules) -> Steps:
    placement, uid, views, t = state[PROCS][p][P_LOC]
    process = state[PROCS][p]
    if not connected(state, p, t):
        yield from lost(state, p, t)
        return
    name = (process[P_TERM], process[P_TAKE] + 1, maker(state, p))
    after = set_process(set_host(state, t, ticket=name), p, take=process[P_TAKE] + 1)
    yield f"p{p} makes a ticket on h{t}", set_process(after, p, pc=MOVE_PATCH, loc=(placement, uid, views, t, name))


def move_patch(state: State, p: int, rules: Rules) -> Steps:
    placement, uid, views, t, name = state[PROCS][p][P_LOC]
    process = state[PROCS][p]
    know = knowledge(state, p, uid, views, rules)
    rest = (views[placement[1]], views[t])
    new = rules.ask(placement, "begin", (process[P_TERM], know, rest))
    done = patch(state, p, placement, uid, new, rules) if new else None
    if done:
        loc = (done[1], uid, name)
        yield f"p{p} begins the move: {show(done[1])}", set_process(done[0], p, pc=MOVE_SEND, loc=loc)
    else:
        yield f"p{p} may not move it", idle(state, p)


def move_send(state: State, p: int, rules: Rules) -> Steps:
    placement, _uid, name = state[PROCS][p][P_LOC]
    n, t = placement[1], placement[5]
    if not connected(state, p, n) or not connected(state, p, t) or state[MOVE] is not None:
        yield f"p{p}'s migrate call fails", idle(state, p)
        return
    after = put(state, MOVE, (n, t, name, state[PROCS][p][P_OWN][t][0], 0))
    yield f"p{p} sends migrate h{n}->h{t}", idle(after, p)


def end_ticket(state: State, p: int, rules: Rules) -> Steps:
    placement, uid, *_ = state[PROCS][p][P_LOC]
    t = placement[5]
    none = (None,) * len(state[HOSTS])
    loc = (placement, uid, none, ((), 0))
    after = set_process(state, p, pc=END_SOURCE, loc=loc)
    own = state[PROCS][p][P_OWN][t]
    if own is not None and own[2] == 4 and connected(state, p, t):
        left = state[HOSTS][t][H_TICKET] if "ticket_deleted_first" in rules.removed else None
        yield f"p{p} deletes the ticket on h{t}", set_host(after, t, ticket=left)
    elif off_now(state, t, placement[6], state[PROCS][p][P_TERM], rules):
        yield f"p{p} finds h{t} surely off", set_process(after, p, loc=(placement, uid, none, ((), None)))
    else:
        yield f"p{p} cannot resolve the move", idle(state, p)


def _end_remove(state: State, p: int, rules: Rules, side: int, pc: int) -> Steps:
    placement, *_ = state[PROCS][p][P_LOC]
    h = placement[side]
    own, after = state[PROCS][p][P_OWN][h], state
    if own is not None and own[2] == 4 and connected(state, p, h):
        domain = state[HOSTS][h][H_DOMAIN]
        if domain is None or domain[1] == SHUT:
            after = note_and_undefine(state, h, placement[3], rules)
    yield f"p{p} removes what is shut off on h{h}", set_process(after, p, pc=pc)


def _end_list(state: State, p: int, rules: Rules, side: int, at: int, pc: int) -> Steps:
    placement, uid, views, (proofs, deleted) = state[PROCS][p][P_LOC]
    h, boot = placement[side], placement[2 if side == 1 else 6]
    after, view = listing(state, p, h, at, rules)
    if view is None:
        proofs = (*proofs, *off_now(state, h, boot, state[PROCS][p][P_TERM], rules))
    loc = (placement, uid, put(views, h, view), (proofs, deleted))
    yield f"p{p} lists h{h}", set_process(after, p, pc=pc, loc=loc)


def end_source(state: State, p: int, rules: Rules) -> Steps:
    yield from _end_remove(state, p, rules, 1, END_LIST_SOURCE)


def end_list_source(state: State, p: int, rules: Rules) -> Steps:
    yield from _end_list(state, p, rules, 1, 1, END_TARGET)


def end_target(state: State, p: int, rules: Rules) -> Steps:
    yield from _end_remove(state, p, rules, 5, END_LIST_TARGET)


def end_list_target(state: State, p: int, rules: Rules) -> Steps:
    yield from _end_list(state, p, rules, 5, 2, END_PATCH)


def end_patch(state: State, p: int, rules: Rules) -> Steps:
    placement, uid, views, (proofs, deleted) = state[PROCS][p][P_LOC]
    process = state[PROCS][p]
    epoch = (process[P_TERM], process[P_N] + 1)
    source, target = views[placement[1]], views[placement[5]]
    found = []
    for h, view in ((placement[1], source), (placement[5], target)):
        if view is not None and (view[3] is None or view[3][1] == SHUT):
            found.append((h, "absent", absent_view(view, placement[3], rules)))
    know = knowledge(state, p, uid, views, rules)
    yield f"p{p} leaves it Moving", idle(state, p)
    for end in ("Source", "Target", "Neither"):
        rest = (end, source, target, (*found, *proofs), deleted, epoch)
        new = rules.ask(placement, "end", (process[P_TERM], know, rest))
        done = patch(set_process(state, p, n=process[P_N] + 1), p, placement, uid, new, rules) if new else None
        if done:
            yield f"p{p} ends the move: {show(done[1])}", idle(done[0], p)


# ---------------------------------------------------------------- stale domains and tombstones


def clean(state: State, p: int, rules: Rules) -> Steps:
    _placement, _uid, h, epoch = state[PROCS][p][P_LOC]
    if not connected(state, p, h):
        yield from lost(state, p, h)
        return
    yield f"p{p} undefines the stale domain on h{h}", idle(note_and_undefine(state, h, epoch, rules), p)


def tomb_destroy(state: State, p: int, rules: Rules) -> Steps:
    *_, h, _epoch = state[PROCS][p][P_LOC]
    if not connected(state, p, h):
        yield from lost(state, p, h)
        return
    yield f"p{p} destroys the deleted VM on h{h}", set_process(cut_off(state, h), p, pc=TOMB_UNDEFINE)


def tomb_undefine(state: State, p: int, rules: Rules) -> Steps:
    *_, h, epoch = state[PROCS][p][P_LOC]
    if not connected(state, p, h):
        yield from lost(state, p, h)
        return
    after = note_and_undefine(state, h, epoch, rules)
    yield f"p{p} notes and undefines the deleted VM on h{h}", set_process(after, p, pc=TOMB_LIST)


def tomb_list(state: State, p: int, rules: Rules) -> Steps:
    *_, h, _epoch = state[PROCS][p][P_LOC]
    after, view = listing(state, p, h, 3, rules)
    if view is None:
        yield from lost(state, p, h)
        return
    held = view[2] or "gate after listing" in rules.off
    shut = view[3] is not None and view[3][1] == SHUT and "undefine on stop" in rules.off
    if held and (view[3] is None or shut):
        after = set_api(after, tombs=tuple(t for t in state[API][A_TOMBS] if t[0] != h))
        yield f"p{p} settles the tombstone on h{h}", idle(after, p)
    else:
        yield f"p{p} cannot settle the tombstone on h{h}", idle(after, p)


PROGRAM = {
    LIST: list_and_decide, PATCH: patch_step, SIGN: sign, SIGNED: await_signatures, CHECK: check, DEFINE: define, START: start,
    DESTROY: destroy, UNDEFINE: undefine, LIST_ABSENT: list_absent, RELEASE: release, TICKET: ticket,
    MOVE_PATCH: move_patch, MOVE_SEND: move_send, END_TICKET: end_ticket, END_SOURCE: end_source,
    END_LIST_SOURCE: end_list_source, END_TARGET: end_target, END_LIST_TARGET: end_list_target, END_PATCH: end_patch,
    CLEAN: clean, TOMB_DESTROY: tomb_destroy, TOMB_UNDEFINE: tomb_undefine, TOMB_LIST: tomb_list,
}  # fmt: skip

__all__ = [
    "INCOMING",
    "NO_MEMORY",
    "RELEASED",
    "epoch_of",
    "idle",
    "off_now",
    "patch",
    "placement_of",
    "process_steps",
    "show",
    "step_down",
]
