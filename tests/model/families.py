"""What is searched: families of faults with their bounds, guards taken away, and the traces as scripts.

A family is exhausted or cut at a number of states; `deep` ones run with LQ_MODEL_DEEP=1 only. A `Removal` names what
is taken away and the family in which that starts the guest twice. A `Trace` plays a script: with `removed` taken away
it ends in two runs, with every guard in place it gets stuck at the step that contains `refused_at`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .rules import Rules
from .search import Recovery, Result, explore, recover
from .world import THREE_HOSTS, THREE_IN_TWO, TWO_HOSTS, TWO_SHARDS, Shape, State, initial


@dataclass(frozen=True)
class Family:
    """One search: where it starts, which faults it may use how often."""

    name: str
    start: str
    faults: Mapping[str, int]
    ha: bool = False
    deep: bool = False
    limit: int = 250_000
    concurrent: bool = False
    partial: bool = False  # too big to exhaust: clean to the depth that was reached
    shape: Shape = TWO_HOSTS
    beats: bool = False
    recovered: bool = True  # its way back is searched for in `make test`; False: measured once, see the page

    def world(self) -> State:
        """Where it starts."""
        return initial(self.start, self.faults, self.shape)

    def rules(self, *removed: str) -> Rules:
        """The protocol, with guards taken away, remembering only what this family can show."""
        back = self.faults.get("restore", 0) > 0
        return Rules(
            *removed,
            remembers=back,
            attests=back or self.faults.get("attest", 0) > 0,
            concurrent=self.concurrent,
            beats=self.beats,
            true_clock=not back and not self.faults.get("wipe", 0),
            shape=self.shape,
        )

    def search(self, *removed: str, limit: int = 0) -> Result:
        """Breadth first, so that a counterexample is a shortest one. The same question is answered once per run."""
        limit = limit or self.limit
        faults = tuple(sorted(self.faults.items()))
        key = (self.start, faults, self.ha, self.concurrent, self.shape, self.beats, removed, limit)
        if key not in _SEARCHED:
            _SEARCHED[key] = explore(
                self.world(), self.rules(*removed), ha=self.ha, snapshots="restore" in self.faults, limit=limit
            )
        return _SEARCHED[key]

    def recovers(self, *removed: str, limit: int = 0) -> Recovery:
        """From every state of it: does the guest run again when faults stop? One process for each shard acts then."""
        alone = self.rules(*removed)
        alone.processes, alone.concurrent = tuple(range(len(self.shape.shards))), False
        return recover(
            self.world(),
            self.rules(*removed),
            alone,
            ha=self.ha,
            snapshots="restore" in self.faults,
            limit=limit or self.limit,
        )


_SEARCHED: dict[object, Result] = {}

RECOVERED = 2_000
"""From how many states of a family the way back is searched for in `make test`."""

FAMILIES = (
    Family("takeover of a running VM", "running", {"start": 1, "stop": 1, "usurp": 1}),
    Family("takeover of a stopped VM", "stopped", {"start": 2, "stop": 1, "usurp": 1}),
    Family("first start, crash, takeover", "fresh", {"start": 2, "usurp": 1, "crash": 1}),
    Family("power, HA", "running", {"start": 2, "poweroff": 1, "cut": 1}, ha=True),
    Family("attestation, partition", "running", {"start": 2, "poweroff": 1, "attest": 1, "cut": 1}, ha=True),
    Family("restore, partition", "stopped", {"start": 2, "stop": 1, "restore": 1, "cut": 1, "reassign": 1}),
    Family("wipe, crash, takeover", "running", {"start": 1, "wipe": 1, "usurp": 1, "crash": 1}),
    Family("wipe, partition, takeovers", "running", {"start": 1, "wipe": 1, "usurp": 2, "cut": 1}),
    Family("wipe of a VM being started", "fresh", {"start": 2, "wipe": 1, "usurp": 1}),
    Family("move, takeover", "running", {"move": 1, "start": 1, "usurp": 1}),
    Family("move, power", "running", {"move": 1, "start": 1, "poweroff": 1}, ha=True),
    Family("move, partition", "running", {"move": 1, "start": 2, "cut": 1, "stop": 1}),
    Family("drain that turns back: two moves, takeover", "running", {"move": 2, "start": 1, "usurp": 1}, limit=400_000),
    Family("two moves, power, HA", "running", {"move": 2, "start": 1, "poweroff": 1}, ha=True),
    Family("deletion, partition, power", "running", {"delete": 1, "start": 2, "poweroff": 1, "cut": 1}, ha=True),
    Family("three hosts: power, HA", "running", {"start": 2, "poweroff": 1}, ha=True, shape=THREE_HOSTS,
           recovered=False),
    Family("three hosts: power, partition, HA", "running", {"start": 1, "poweroff": 1, "cut": 1}, ha=True,
           shape=THREE_HOSTS),
    Family("three hosts: restore, partition", "stopped", {"start": 2, "restore": 1, "cut": 1, "reassign": 1},
           shape=THREE_HOSTS, recovered=False),
    Family("beats: takeovers, partition", "running", {"start": 1, "usurp": 2, "renew": 2, "cut": 1}, beats=True),
    Family("two shards: partition", "stopped", {"start": 2, "stop": 1, "cut": 1, "reassign": 1}, shape=TWO_SHARDS),
    Family("two shards: power, HA", "running", {"start": 2, "poweroff": 1, "cut": 1}, ha=True, shape=TWO_SHARDS,
           recovered=False),
    Family("two shards: restore", "stopped", {"start": 2, "restore": 1, "reassign": 1}, shape=TWO_SHARDS, recovered=False),
    Family("two shards: takeover", "stopped", {"start": 2, "usurp": 1, "reassign": 1}, shape=TWO_SHARDS, recovered=False),
    Family("two shards: wipe", "running", {"start": 1, "wipe": 1, "usurp": 3}, shape=TWO_SHARDS, recovered=False),
    Family("two shards: restore, takeover", "stopped", {"start": 2, "restore": 1, "reassign": 1, "usurp": 1},
           shape=TWO_SHARDS, deep=True, limit=2_000_000, partial=True),
    Family("three hosts in two shards", "stopped", {"start": 2, "cut": 1, "reassign": 1}, shape=THREE_IN_TWO,
           recovered=False),
    Family("three hosts: wipe, takeovers", "running", {"start": 1, "wipe": 1, "usurp": 2}, shape=THREE_HOSTS, deep=True,
           limit=3_000_000),
    Family("three hosts: move, power, HA", "running", {"move": 1, "start": 1, "poweroff": 1}, ha=True,
           shape=THREE_HOSTS, deep=True, limit=3_000_000),
    Family("beats: restore, takeover", "stopped", {"start": 1, "stop": 1, "restore": 1, "usurp": 1, "renew": 1},
           beats=True, deep=True, limit=2_000_000, partial=True),
    Family("reboot, takeover", "running", {"start": 1, "stop": 1, "usurp": 1, "reboot": 1}, deep=True, limit=3_000_000),
    Family("power, HA, takeover", "running", {"start": 1, "poweroff": 1, "usurp": 1}, ha=True, deep=True,
           limit=3_000_000),
    Family("restore, takeover", "stopped", {"start": 1, "stop": 1, "restore": 1, "usurp": 1}, deep=True,
           limit=3_000_000),
    Family("restore, partition, takeover", "stopped",
           {"start": 2, "cut": 1, "restore": 1, "usurp": 1, "reassign": 1}, deep=True, limit=3_000_000, partial=True),
    Family("attestation, restore", "running", {"start": 2, "poweroff": 1, "attest": 1, "cut": 1, "restore": 1}, ha=True,
           deep=True, limit=3_000_000),
    Family("attestation, restore, takeover", "running",
           {"start": 2, "poweroff": 1, "attest": 1, "cut": 1, "restore": 1, "usurp": 1}, ha=True,
           deep=True, limit=1_500_000, partial=True),
    Family("move, power, HA, takeover", "running", {"move": 1, "start": 1, "poweroff": 1, "usurp": 1}, ha=True, deep=True,
           limit=6_000_000, partial=True),
    Family("two moves, power, partition, HA", "running", {"move": 2, "start": 1, "poweroff": 1, "cut": 1}, ha=True,
           deep=True, limit=3_000_000),
    Family("move, power, partition", "running", {"move": 1, "start": 1, "poweroff": 1, "cut": 1}, ha=True, deep=True,
           limit=3_000_000),
    Family("move, restore, takeover", "running", {"move": 1, "start": 1, "restore": 1, "usurp": 1}, deep=True,
           limit=3_000_000),
    Family("move, wipe, takeovers", "running", {"move": 1, "start": 1, "wipe": 1, "usurp": 2}, deep=True,
           limit=3_000_000),
    Family("deletion, partition, takeover", "running", {"delete": 1, "start": 1, "cut": 1, "usurp": 1, "stop": 1},
           deep=True, limit=3_000_000),
)  # fmt: skip


@dataclass(frozen=True)
class Removal:
    """Taken away, the search finds a double start. More than one where one covers for the other."""

    what: tuple[str, ...]
    says: str
    start: str
    faults: Mapping[str, int]
    ha: bool = False
    shape: Shape = TWO_HOSTS
    beats: bool = False

    @property
    def name(self) -> str:
        return " + ".join(self.what)

    def family(self) -> Family:
        return Family(self.name, self.start, self.faults, ha=self.ha, shape=self.shape, beats=self.beats)

    def search(self) -> Result:
        """To the double start (or the false alarm)."""
        return self.family().search(*self.what)


POWER = {"start": 2, "poweroff": 1, "cut": 1}
WIPE = {"start": 1, "wipe": 1, "usurp": 2, "cut": 1}
MOVE = {"move": 1, "start": 1, "cut": 1}

REMOVALS = (
    Removal(("gate",), "a start goes through without its gate", "stopped", {"start": 2, "stop": 1, "usurp": 1}),
    Removal(("commit first",), "a start is not preceded by a commit", "stopped", {"start": 2, "reassign": 1, "cut": 1}),
    Removal(("tested patches",), "patches do not test the write id", "running", POWER, ha=True),
    Removal(("epoch per start",), "a second start keeps the epoch", "running", POWER, ha=True),
    Removal(("list gates after mine",), "gates are not listed after mine is made", "fresh",
            {"start": 2, "wipe": 1, "usurp": 1}),
    Removal(("inventory_complete",), "the inventory need not be complete", "running", WIPE),
    Removal(("members from records",), "members are the HypervisorNodes alone", "running", WIPE),
    Removal(("no_sighting",), "a VM is registered although a host has its domain", "running", WIPE),
    Removal(("evidence_of_placement",), "a release needs no evidence", "running", {"start": 1, "cut": 1}, ha=True),
    Removal(("silence is no evidence",), "a host that does not answer counts as off", "running",
            {"start": 1, "cut": 1}, ha=True),
    Removal(("no_tombstone",), "a deleted VM leaves no tombstone", "running", {**POWER, "delete": 1}, ha=True),
    Removal(("memory_agrees",), "a process does not remember what it has seen", "stopped",
            {"start": 2, "restore": 1, "cut": 1, "reassign": 1}),
    Removal(("ticket",), "the target of a move asks for no ticket", "running", MOVE),
    Removal(("ticket_deleted_first",), "the ticket is not deleted before both sides are listed", "running", MOVE),
    Removal(("other_side_proved",), "a move ends without proof about the silent side", "running",
            {**MOVE, "poweroff": 1}),
    Removal(("countersign",), "the owner of the other shard is not asked (a restore)", "stopped",
            {"start": 2, "restore": 1, "reassign": 1}, shape=TWO_SHARDS),
    Removal(("found when acquired",), "the lease was read when a standby began to wait: no double start, but a false "
            "alarm that the API server went back", "running", {"usurp": 1, "renew": 1}, beats=True),
)  # fmt: skip
"""What the breadth-first search turns into two runs by itself once it is taken away."""


@dataclass(frozen=True)
class Trace:
    """A numbered trace of the protocol page (or one that this search found) as a script."""

    name: str
    title: str
    start: str
    faults: Mapping[str, int]
    removed: tuple[str, ...]
    refused_at: str
    script: tuple[str, ...]
    shape: Shape = TWO_HOSTS
    beats: bool = False

    def family(self) -> Family:
        """Its world and rules."""
        return Family(self.name, self.start, self.faults, shape=self.shape, beats=self.beats)


def own(p: int, h: int) -> tuple[str, ...]:
    return (f"p{p} makes gate", f"p{p} lists the gates of h{h}", f"p{p} deletes lower gates")


def start(p: int, h: int, epoch: str) -> tuple[str, ...]:
    return (
        f"p{p} reads Assigned h{h}", "will commit", f"p{p} patches: Committed h{h}", f"p{p} renews", f"p{p} defines",
        f"p{p} starts epoch {epoch} on h{h}",
    )  # fmt: skip


def restart(p: int, h: int, epoch: str) -> tuple[str, ...]:
    return (f"p{p} reads Committed h{h}", *start(p, h, epoch)[1:])


def commit(p: int, h: int) -> tuple[str, ...]:
    return (f"p{p} reads Assigned h{h}", "will commit", f"p{p} patches: Committed h{h}")


def act(p: int, h: int, epoch: str) -> tuple[str, ...]:
    """What a commit allows, with several shards."""
    return (f"p{p} finds the signatures", f"p{p} renews", f"p{p} defines", f"p{p} starts epoch {epoch} on h{h}")


TWICE = {"start": 2, "reassign": 1, "restore": 1, "crash": 1, "usurp": 2}
TWICE_SCRIPT = (
    "scheduler: Assigned h0", "etcd snapshot; scheduler: Assigned h1", *commit(1, 1), "p0 reads Committed h1",
    "will countersign", "p0 countersigns", *act(1, 1, "(2, 1)"), "etcd is restored", "p1 crashes", "p2 acquires term 3",
    *own(2, 0), "p1 acquires term 4", *own(1, 1), *commit(2, 0), "p1 reads Committed h0", "will countersign",
    "p1 countersigns", *act(2, 0, "(3, 1)"),
)  # fmt: skip
"""Restored to before a start in the other shard, whose owner and the asker are both new and remember nothing."""

WIPED = "etcd is wiped, manifests applied (nodes 11)"

TRACES = (
    Trace("1", "evidence used against a later start of the same epoch", "running",
          {"start": 2, "poweroff": 1, "cut": 1}, ("epoch per start",), "starts again under the same epoch",
          ("HA reads Committed h0", "h0 loses power", "HA has evidence", "h0 gets power", *own(0, 0),
           "p0 reads Committed h0", "starts again under the same epoch", "p0 renews", "p0 defines",
           "p0 starts epoch (1, 1) on h0", "HA releases", "scheduler: Assigned h1", "p0 reads Assigned h1",
           "h0 is cut off", "will commit", "p0 patches", "p0 renews", "p0 defines", "p0 starts epoch (1, 2) on h1")),
    Trace("1, in time", "the same with an epoch per start: the late release is refused", "running",
          {"start": 2, "poweroff": 1, "cut": 1}, ("tested patches",), "HA releases",
          ("HA reads Committed h0", "h0 loses power", "HA has evidence", "h0 gets power", *own(0, 0),
           *restart(0, 0, "(1, 2)"), "HA releases", "scheduler: Assigned h1", "p0 reads Assigned h1", "h0 is cut off",
           "will commit", "p0 patches", "p0 renews", "p0 defines", "p0 starts epoch (1, 3) on h1")),
    Trace("2a", "deleted while its host is away, the name used again", "running",
          {"delete": 1, "start": 1, "cut": 1}, ("no_tombstone", "no_sighting"), "will register",
          ("p0 reads Committed h0", "h0 is cut off", "ends the finalizer", "p0 reads no placement", "will register",
           "p0 patches: Released", "scheduler: Assigned h1", *start(0, 1, "(1, 2)"))),
    Trace("2b", "its successor bound to a stale shut-off domain of an even older host", "running",
          {"start": 2, "poweroff": 1, "delete": 1, "cut": 1},
          ("no_tombstone", "shut_off_only_if_latest", "not_last_seen_elsewhere"), "will bind",
          ("HA reads Committed h0", "h0 loses power", "HA has evidence", "HA releases", "scheduler: Assigned h1",
           *start(0, 1, "(1, 2)"), "p0 reads Committed h1", "h1 is cut off", "ends the finalizer", "h0 gets power",
           *own(0, 0), "p0 reads no placement", "will bind", "p0 patches: Committed h0", "p0 reads Committed h0",
           "will commit", "p0 patches", "p0 renews", "p0 defines", "p0 starts")),
    Trace("3a", "etcd restored to before the commit; reassigned under the same lease", "stopped",
          {"start": 2, "restore": 1, "reassign": 1}, ("memory_agrees", "seen_nowhere_else"), "p0 reads Assigned h1",
          ("etcd snapshot; scheduler: Assigned h0", *start(0, 0, "(1, 2)"), "etcd is restored",
           "scheduler: Assigned h1", *start(0, 1, "(1, 3)"))),
    Trace("3b", "restored between commit and start", "stopped", {"start": 2, "restore": 1, "reassign": 1},
          ("read back", "memory_agrees", "seen_nowhere_else"), "p0 renews",
          ("scheduler: Assigned h0", "p0 reads Assigned h0", "will commit", "etcd snapshot; p0 patches: Committed h0",
           "etcd is restored", "p0 renews", "p0 defines", "p0 starts epoch (1, 2) on h0", "scheduler: Assigned h1",
           *start(0, 1, "(1, 3)"))),
    Trace("4a", "wiped; hosts listed, and the VM placed before its domain is connected with it", "running",
          {"start": 1, "wipe": 1, "usurp": 2}, ("no_sighting", "seen_nowhere_else"), "will register",
          (WIPED, "p1 acquires term 1", "p1 makes gate", "p1 finds term 1 on h0 and steps down", "p1 acquires term 2",
           *own(1, 0), *own(1, 1), "p1 reads no placement", "will register", "p1 patches: Released",
           "scheduler: Assigned h1", *start(1, 1, "(2, 1)"))),
    Trace("4b", "two processes of the same term both pass the gate", "fresh", {"start": 2, "wipe": 1, "usurp": 1},
          ("list gates after mine",), "p1 lists the gates of h0",
          ("p0 reads no placement", "will register", "p0 patches: Released", "scheduler: Assigned h0",
           "p0 reads Assigned h0", "will commit", "p0 patches", "p0 renews", WIPED, "p1 acquires term 1", *own(1, 0),
           *own(1, 1), "p1 reads no placement", "will register", "p1 patches: Released", "scheduler: Assigned h1",
           *start(1, 1, "(1, 1)"), "p0 defines", "p0 starts epoch (1, 1) on h0")),
    Trace("5", "a migrate call hangs, the move is resolved, then it completes", "running",
          {"move": 1, "start": 1, "cut": 1}, ("ticket",), "migrate: h1 takes the guest in",
          ("p0 reads Committed h0", "will move it", "p0 makes a ticket", "p0 begins the move", "p0 sends migrate",
           "p0 reads Moving", "will resolve the move", "p0 deletes the ticket", "p0 removes", "p0 lists h0",
           "p0 removes", "p0 lists h1", "p0 ends the move: Committed h0", "p0 reads Committed h0",
           "migrate: h1 takes the guest in", "migrate: it runs on h1", "h1 is cut off", "will commit", "p0 patches",
           "p0 renews", "p0 defines", "p0 starts epoch (1, 3) on h0")),
    Trace("6a", "a true attestation used after the host came back", "running",
          {"start": 2, "poweroff": 1, "attest": 1, "cut": 1}, ("void on contact", "boot in evidence"),
          "HA has evidence [(0, 'human')]",
          ("h0 loses power", "a person attests", "h0 gets power", *own(0, 0), *restart(0, 0, "(1, 2)"),
           "HA reads Committed h0", "h0 is cut off", "HA has evidence [(0, 'human')]", "HA releases",
           "scheduler: Assigned h1", "p0 accepts the statement", *start(0, 1, "(1, 3)"))),
    Trace("6b", "the contact that voided it is undone by a restore (nobody had accepted it yet)", "running",
          {"start": 2, "poweroff": 1, "attest": 1, "cut": 1, "restore": 1, "usurp": 1}, ("attestation per term",),
          "p1 accepts the statement about h0",
          ("h0 loses power", "a person attests", "h0 gets power", "etcd snapshot; p0 makes gate", *own(0, 0)[1:],
           *restart(0, 0, "(1, 2)"), "etcd is restored", "h0 is cut off", "HA reads Committed h0",
           "HA has evidence [(0, 'human')]", "HA releases", "scheduler: Assigned h1", "p1 acquires term 2",
           "p1 accepts the statement about h0", *own(1, 1), *start(1, 1, "(2, 1)"))),
    Trace("8", "a deposed owner on a host that its successor knows as off", "stopped",
          {"start": 2, "poweroff": 1, "usurp": 1, "restore": 1, "reassign": 1}, ("renewal",), "p0 renews",
          ("h0 loses power", "p1 acquires term 2", *own(1, 1), "p1 hears from the BMC", "h0 gets power", *own(0, 0),
           "scheduler: Assigned h0", "p0 reads Assigned h0", "will commit", "etcd snapshot; p0 patches", "p0 renews",
           "p0 defines", "p0 starts epoch (1, 2) on h0", "etcd is restored", "scheduler: Assigned h1",
           *start(1, 1, "(2, 1)"))),
    Trace("9", "listed in this term, lost, and started elsewhere under a restored assignment", "stopped",
          {"start": 2, "reassign": 1, "restore": 1, "usurp": 1, "cut": 1}, ("not_last_seen_elsewhere",), "will commit",
          ("scheduler: Assigned h1", "etcd snapshot; scheduler: Assigned h0", *start(0, 0, "(1, 2)"),
           "etcd is restored", "p1 acquires term 2", *own(1, 0), *own(1, 1), "h0 is cut off", *start(1, 1, "(2, 1)"))),
    Trace("10", "a listing of an earlier term taken for one of this", "stopped",
          {"start": 2, "reassign": 1, "restore": 1, "usurp": 1, "cut": 1}, ("inventory per term",), "will commit",
          ("scheduler: Assigned h1", "etcd snapshot; scheduler: Assigned h0", *start(0, 0, "(1, 2)"),
           "etcd is restored", "h0 is cut off", "p1 acquires term 2", *own(1, 1), *start(1, 1, "(2, 1)"))),
    Trace("10, with the beat", "an earlier listing counts unless a host remembers a later beat: none has noted it yet",
          "stopped", {"start": 2, "reassign": 1, "restore": 1, "usurp": 1, "cut": 1}, ("inventory per term",),
          "will commit",
          ("scheduler: Assigned h1", "etcd snapshot; scheduler: Assigned h0", *start(0, 0, "(1, 2)"),
           "etcd is restored", "h0 is cut off", "p1 acquires term 2", *own(1, 1), *start(1, 1, "(2, 1)")), beats=True),
    Trace("11", "two shards: what another owner once signed taken for an answer now", "stopped",
          {"start": 3, "stop": 1, "restore": 1, "usurp": 1}, ("signature names the commit",),
          "p2 finds the signatures",
          ("scheduler: Assigned h0", *commit(0, 0), "p1 reads Committed h0", "will countersign", "p1 countersigns",
           *act(0, 0, "(1, 2)"), "p0 reads Committed h0",
           "will stop it", "p0 destroys", "p0 notes the departure", "p0 lists h0", "etcd snapshot; p0 releases", "scheduler: Assigned h1",
           *commit(1, 1), "p0 reads Committed h1", "will countersign", "p0 countersigns", *act(1, 1, "(2, 1)"),
           "etcd is restored", "p2 acquires term 3", *own(2, 0), "p2 reads Committed h0", "will commit",
           "p2 patches: Committed h0", *act(2, 0, "(3, 1)")), shape=TWO_SHARDS),
    Trace("12", "two shards: signed before the commit instead of after it", "stopped",
          {"start": 2, "reassign": 1, "restore": 1, "usurp": 1}, ("signed after the commit",),
          "will countersign",
          ("scheduler: Assigned h0", "p1 reads Assigned h0", "will countersign", "p1 countersigns",
           "etcd snapshot; scheduler: Assigned h1", "p0 reads Assigned h1", "will countersign", "p0 countersigns",
           *commit(1, 1), *act(1, 1, "(2, 1)"), "etcd is restored", "p2 acquires term 3", *own(2, 0), *commit(2, 0),
           *act(2, 0, "(3, 1)")), shape=TWO_SHARDS),
    Trace("13", "two shards: the signer does not look at its hosts", "stopped", TWICE, ("signer looks",),
          "will countersign", TWICE_SCRIPT, shape=TWO_SHARDS),
    Trace("14", "two shards: the signer forgets what a silent host showed", "stopped", {**TWICE, "cut": 1},
          ("signer minds silent hosts",), "will countersign",
          tuple(part for step in TWICE_SCRIPT for part in (
              (step, "h1 is cut off") if step == "p2 patches: Committed h0" else (step,))), shape=TWO_SHARDS),
)  # fmt: skip
"""1 to 8 as numbered in the protocol (7 is about file names: tests/unit/core/failover/test_protocol_record.py); 6b and
9 were found here in rules that had neither the quoted term nor the last sighting. From 11 on: docs/adr/0004."""
