"""The world of the ownership model: API server, hosts, processes, HA, one VM. All of it is one nested tuple.

Compact on purpose: a search visits hundreds of thousands of these. The words:

  epoch      (term, n) or None
  gate       (term, take, maker); maker = process and its incarnation, so that no gate is ever made twice
  placement  (phase, node, boot, epoch, released, target, target_boot, wid) or None; phase 0 Released 1 Assigned
             2 Committed 3 Moving; node and target are host numbers, -1 = none; wid = write id, renamed freely
  api        (placement, uid, leases, attested, boots, nodes, tombs, signed); leases: per shard (term, maker, beat);
             attested: per host None or (gate, quoted term); boots: last gate per host; nodes: bit mask of
             HypervisorNodes; tombs: ((host, epoch)...); signed: per shard None or what its owner has countersigned last,
             (wid or -uid, term, masks of the hosts it accounts for and of the members their records name)
  host       (up, cut, boot, gates, record_term, record_members, departed, domain, ticket, beat); beat: the one noted
             with record_term
             domain None or (epoch, state, gate it requires); state 0 shut off 1 runs 2 coming in
  process    (inc, term, floor, own, listed, off, take, n, pc, loc, memory, beat, found, back)
             own: per host None or (gate, boot, stage), stage 4 = taken over; listed: per host None or (members its
             record named, domain last seen there), from listings in this term; off: per host evidence in this term;
             memory (uid, latest wid, superseded wids, highest epoch); beat: its latest renewal; found: (term, beat) of the
             lease as it was acquired; back: it has concluded that the API server went back
  move       None or (source, target, ticket, target gate, stage): a migrate call that libvirtd has not finished
  ha         None or (placement, uid, evidence per host)
  left       how much of every fault is left, by the order of FAULTS
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

State = tuple[Any, ...]

# fields of a state
API, SNAP, HOSTS, PROCS, MOVE, HA, LEFT = range(7)
# fields of the API
A_PLACEMENT, A_UID, A_LEASES, A_ATTESTED, A_BOOTS, A_NODES, A_TOMBS, A_SIGNED = range(8)
# fields of a host
H_UP, H_CUT, H_BOOT, H_GATES, H_TERM, H_MEMBERS, H_DEPARTED, H_DOMAIN, H_TICKET, H_BEAT = range(10)
# fields of a process
P_INC, P_TERM, P_FLOOR, P_OWN, P_LISTED, P_OFF, P_TAKE, P_N, P_PC, P_LOC, P_MEM, P_BEAT, P_FOUND, P_BACK = range(14)
# phases
RELEASED, ASSIGNED, COMMITTED, MOVING = range(4)
# domain states
SHUT, RUNS, INCOMING = range(3)

FAULTS = (
    "crash",
    "usurp",
    "reboot",
    "poweroff",
    "cut",
    "restore",
    "wipe",
    "attest",
    "move",
    "delete",
    "stop",
    "start",
    "reassign",
    "renew",
)
"""Budgets of a search: how often each may happen. From `move` on they are wishes or the keeper's renewals, the rest are
faults."""

NO_MEMORY = (0, 0, frozenset(), None)


@dataclass(frozen=True)
class Shape:
    """How large the world is. `shards`: the hosts of each. `seats`: the shard for whose lease each process stands."""

    shards: tuple[tuple[int, ...], ...] = ((0, 1),)
    seats: tuple[int, ...] = (0, 0)

    @property
    def hosts(self) -> tuple[int, ...]:
        return tuple(h for shard in self.shards for h in shard)

    @property
    def everything(self) -> int:
        """Mask of all hosts."""
        return (1 << len(self.hosts)) - 1

    def shard_of(self, host: int) -> int:
        return next(s for s, hosts in enumerate(self.shards) if host in hosts)


TWO_HOSTS = Shape()
THREE_HOSTS = Shape(((0, 1, 2),))
TWO_SHARDS = Shape(((0,), (1,)), (0, 1, 0))
"""h0 under p0 and, should that pause, p2; h1 under p1."""
THREE_IN_TWO = Shape(((0,), (1, 2)), (0, 1))


def fresh_process(inc: int, hosts: int, floor: int = 0) -> tuple[Any, ...]:
    """One that knows nothing, except perhaps above which term it has to acquire."""
    none = (None,) * hosts
    return (inc, 0, floor, none, none, none, 0, 0, 0, (), NO_MEMORY, 0, (0, 0), False)


def put(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    """`values` with one field changed."""
    return (*values[:index], value, *values[index + 1 :])


def set_host(state: State, h: int, **changes: Any) -> State:
    """`state` with fields of one host changed (names of the H_ constants, lower case)."""
    host = list(state[HOSTS][h])
    for name, value in changes.items():
        host[_HOST_FIELDS[name]] = value
    return put(state, HOSTS, put(state[HOSTS], h, tuple(host)))


def set_process(state: State, p: int, **changes: Any) -> State:
    """`state` with fields of one process changed."""
    process = list(state[PROCS][p])
    for name, value in changes.items():
        process[_PROCESS_FIELDS[name]] = value
    return put(state, PROCS, put(state[PROCS], p, tuple(process)))


def set_api(state: State, **changes: Any) -> State:
    """`state` with fields of the API server changed."""
    api = list(state[API])
    for name, value in changes.items():
        api[_API_FIELDS[name]] = value
    return put(state, API, tuple(api))


_HOST_FIELDS = {
    "up": H_UP, "cut": H_CUT, "boot": H_BOOT, "gates": H_GATES, "term": H_TERM, "members": H_MEMBERS,
    "departed": H_DEPARTED, "domain": H_DOMAIN, "ticket": H_TICKET, "beat": H_BEAT,
}  # fmt: skip
_PROCESS_FIELDS = {
    "inc": P_INC, "term": P_TERM, "floor": P_FLOOR, "own": P_OWN, "listed": P_LISTED, "off": P_OFF, "take": P_TAKE,
    "n": P_N, "pc": P_PC, "loc": P_LOC, "mem": P_MEM, "beat": P_BEAT, "found": P_FOUND, "back": P_BACK,
}  # fmt: skip
_API_FIELDS = {
    "placement": A_PLACEMENT, "uid": A_UID, "leases": A_LEASES, "attested": A_ATTESTED, "boots": A_BOOTS,
    "nodes": A_NODES, "tombs": A_TOMBS, "signed": A_SIGNED,
}  # fmt: skip


def initial(kind: str, budgets: Mapping[str, int], shape: Shape = TWO_HOSTS) -> State:
    """`running`: committed and running on host 0 under process 0. `fresh`: the same without a placement or domain.
    `stopped`: released after epoch 1-1 ran on host 0. Shard s is owned by process s in term s + 1."""
    left = tuple(budgets.get(fault, 0) for fault in FAULTS)
    n = len(shape.hosts)
    gates = [
        (s + 1, hosts.index(h) + 1, s) for s, hosts in enumerate(shape.shards) for h in hosts
    ]  # (term, take, maker) of each host's owner
    ran = kind != "fresh"
    placement: Any = None
    domain: Any = None
    departed: Any = None
    if kind == "running":
        placement, domain = (COMMITTED, 0, gates[0], (1, 1), None, -1, None, 1), ((1, 1), RUNS, gates[0])
    if kind == "stopped":
        placement, departed = (RELEASED, -1, None, None, (1, 1), -1, None, 1), (1, 1)
    none = (None,) * n
    boots = tuple(gates) if budgets.get("attest", 0) or budgets.get("restore", 0) else none
    leases = tuple((s + 1, s, 0) for s in range(len(shape.shards)))
    api = (placement, 1, leases, none, boots, shape.everything, (), (None,) * len(shape.shards))
    hosts_now = tuple(
        (1, 0, 1, (gates[h],), gates[h][0], shape.everything, departed if h == 0 else None, domain if h == 0 else None,
         None, 0)
        for h in shape.hosts
    )  # fmt: skip
    remembers = budgets.get("restore", 0) > 0
    memory = (1, 1, frozenset(), (1, 1)) if ran and remembers else NO_MEMORY
    processes = []
    for p in range(len(shape.seats)):
        process = fresh_process(0, n)
        if p < len(shape.shards):
            mine = shape.shards[p]
            process = put(process, P_TERM, p + 1)
            process = put(process, P_OWN, tuple((gates[h], 1, 4) if h in mine else None for h in shape.hosts))
            listed = tuple((shape.everything, domain if h == 0 else None) if h in mine else None for h in shape.hosts)
            process = put(put(process, P_LISTED, listed), P_TAKE, len(mine))
            process = put(put(process, P_N, 1 if ran and p == 0 else 0), P_MEM, memory)
        processes.append(process)
    return (api, None, hosts_now, tuple(processes), None, None, left)


def healed(state: State) -> State:
    """Faults have stopped: power and network are there, every process has been replaced by a fresh one."""
    for h, host in enumerate(state[HOSTS]):
        up = {} if host[H_UP] else {"up": 1, "boot": host[H_BOOT] + 1}
        state = set_host(state, h, cut=0, **up)
    fresh = tuple(fresh_process(process[P_INC] + 1, len(state[HOSTS])) for process in state[PROCS])
    left = tuple({"start": 4, "usurp": 6, "stop": 2}.get(fault, 0) for fault in FAULTS)
    return put(put(put(put(state, PROCS, fresh), HA, None), SNAP, None), LEFT, left)


def running(state: State) -> int:
    """How many guests of the one identity execute."""
    return sum(1 for host in state[HOSTS] if host[H_DOMAIN] is not None and host[H_DOMAIN][1] == RUNS)


def budget(state: State, fault: str) -> State | None:
    """`state` with one of `fault` used up, None when none is left."""
    index = FAULTS.index(fault)
    left = state[LEFT]
    if left[index] <= 0:
        return None
    return put(state, LEFT, put(left, index, left[index] - 1))


def live_wids(state: State) -> set[int]:
    """Write ids that something can still compare with."""
    wids = set()
    for placement in (
        state[API][A_PLACEMENT],
        state[SNAP][A_PLACEMENT] if state[SNAP] else None,
        state[HA][0] if state[HA] else None,
        *(process[P_LOC][0] for process in state[PROCS] if process[P_LOC]),
    ):
        if placement is not None:
            wids.add(placement[-1])
    for api in (state[API], state[SNAP]):
        wids |= {entry[0] for entry in api[A_SIGNED] if entry} if api else set()
    return wids


def with_new_wid(state: State) -> tuple[State, int]:
    """A write id that nothing knows: never one that came before. Forgets ids that nothing can show any more."""
    live = live_wids(state)
    for p, process in enumerate(state[PROCS]):
        uid, latest, superseded, high = process[P_MEM]
        if superseded - live:
            state = set_process(state, p, mem=(uid, latest, superseded & live, high))
    latest_known = {process[P_MEM][1] for process in state[PROCS]}
    wid = 1
    while wid in live or wid in latest_known:
        wid += 1
    return state, wid
