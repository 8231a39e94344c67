"""The bridge: compact model values into the project's own pure functions, and back. Answers are remembered.

The model decides nothing about placements by itself: every patch is what `protocol.transition` says, inventories are
judged by `inventory.judge_inventory`, statements by `evidence.judge_attestation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lq_operator.core.failover import evidence as ev
from lq_operator.core.failover import inventory as inv
from lq_operator.core.failover import protocol as pr
from lq_operator.core.failover.facts import Role
from lq_operator.core.failover.record import HostRecord, Member, gate_name, parse_gate
from lq_operator.core.model import BootNonce, Epoch, Evidence, EvidenceKind, HostUUID, NodeName, Phase, Placement

from . import shards as sh
from .world import TWO_HOSTS, Shape

NODES = tuple(NodeName(f"h{h}") for h in range(3))
UUIDS = tuple(HostUUID(f"{h}" * 8 + f"-{h}{h}{h}{h}" * 3 + f"-{h}" + f"{h}" * 11) for h in range(3))
MEMBERS = tuple(Member(node, uuid) for node, uuid in zip(NODES, UUIDS, strict=True))
PHASES = (Phase.RELEASED, Phase.ASSIGNED, Phase.COMMITTED, Phase.MOVING)
ROLES = {"vm": Role.VM_CONTROLLER, "sched": Role.SCHEDULER, "mig": Role.MIGRATION_CONTROLLER, "ha": Role.HA_CONTROLLER}


def gate_text(gate: Any) -> BootNonce | None:
    return None if gate is None else gate_name(gate[0], f"m{gate[2]}", gate[1])


def _gate(text: str | None) -> Any:
    if text is None:
        return None
    gate = parse_gate(text)
    assert gate is not None
    return gate.term, gate.take, int(gate.token[1:])


def epoch_of(epoch: Any) -> Epoch | None:
    return None if epoch is None else Epoch(*epoch)


def _pair(epoch: Epoch | None) -> Any:
    return None if epoch is None else (epoch.term, epoch.n)


def placement_of(p: Any) -> Placement | None:
    if p is None:
        return None
    phase, node, boot, epoch, released, target, target_boot, wid = p
    return Placement(
        PHASES[phase],
        str(wid),
        "",
        NODES[node] if node >= 0 else None,
        UUIDS[node] if node >= 0 else None,
        gate_text(boot),
        epoch_of(epoch),
        epoch_of(released),
        NODES[target] if target >= 0 else None,
        UUIDS[target] if target >= 0 else None,
        gate_text(target_boot),
    )


def _compact(p: Placement, wid: int) -> Any:
    return (
        PHASES.index(p.phase),
        NODES.index(p.node) if p.node else -1,
        _gate(p.boot),
        _pair(p.epoch),
        _pair(p.released_epoch),
        NODES.index(p.target) if p.target else -1,
        _gate(p.target_boot),
        wid,
    )


class Rules:
    """One rule book: the table, perhaps with guards taken away, and the answers it has given so far.

    `off`: names of things taken away that are no guard of the table (see `OFF`). `remembers`, `attests`: whether the
    family needs what a process remembers (the API server may go back) and which boot a node's status shows; left
    out where it decides nothing, so that states that differ in nothing else are one. `concurrent`: takeovers also
    happen while a reconcile is under way. `beats`: leases count renewals and hosts note them. `true_clock`: the API
    server never goes back here, so nobody may say that it did. `shape`: how many hosts,
    processes and shards there are.
    """

    def __init__(
        self,
        *removed: str,
        remembers: bool = True,
        attests: bool = True,
        concurrent: bool = False,
        beats: bool = False,
        true_clock: bool = False,
        shape: Shape = TWO_HOSTS,
    ) -> None:
        self.remembers = remembers
        self.attests = attests
        self.concurrent = concurrent
        self.beats = beats
        self.true_clock = true_clock
        self.shape = shape
        self.sharded = len(shape.shards) > 1
        self.processes: tuple[int, ...] = tuple(range(len(shape.seats)))
        self._mine = tuple(shape.shards[seat] for seat in shape.seats)
        guards = [name for name in removed if name not in OFF]
        self.table: Mapping[type, pr.Row] = pr.without(*guards) if guards else pr.TABLE
        self.off = frozenset(name for name in removed if name in OFF)
        self.removed = frozenset(removed)
        self.forgetful = "memory_agrees" in self.removed
        self._answers: dict[Any, Any] = {}

    def ask(self, current: Any, kind: str, args: tuple[Any, ...]) -> Any:
        """The next placement with write id 0, or None when it is refused."""
        key = (current, kind, args)
        if key in self._answers:
            return self._answers[key]
        answer = pr.transition(placement_of(current), self._request(current, kind, args), self.table)
        result = None if isinstance(answer, pr.Refusal) else _compact(answer, 0)
        if result is not None:
            before, after = pr.known_epoch(placement_of(current)), pr.known_epoch(answer)  # type: ignore[arg-type]
            assert before is None or (after is not None and after >= before), f"epoch went back: {current} -> {result}"
        self._answers[key] = result
        return result

    def _request(self, current: Any, kind: str, args: tuple[Any, ...]) -> Any:
        stamp = pr.Stamp("0", "")
        if kind == "assign":
            (host,) = args
            return pr.Assign(pr.Actor(ROLES["sched"], 0), stamp, NODES[host], UUIDS[host], True, True)
        if kind == "release":
            role, term, memory, proofs = args
            return pr.Release(pr.Actor(ROLES[role], term), stamp, _memory(memory), self._proofs(current, term, proofs))
        term, knowledge, rest = args
        vm, mig = pr.Actor(ROLES["vm"], term), pr.Actor(ROLES["mig"], term)
        know = self._knowledge(term, knowledge)
        match kind:
            case "register":
                return pr.Register(vm, stamp, know)
            case "bind":
                return pr.Bind(vm, stamp, know, self._view(term, rest))
            case "displace":
                view, proofs = rest
                return pr.Displace(vm, stamp, know, self._view(term, view), self._proofs(current, term, proofs))
            case "commit":
                view, epoch = rest
                return pr.Commit(vm, stamp, know, self._view(term, view), Epoch(*epoch))
            case "begin":
                source, target = rest
                return pr.BeginMove(
                    mig, stamp, know.memory, self._view(term, source), self._view(term, target), "ticket", True
                )
            case "end":
                end, source, target, proofs, deleted, epoch = rest
                return pr.EndMove(
                    mig,
                    stamp,
                    know,
                    pr.MoveEnd(end),
                    self._view(term, source),
                    self._view(term, target),
                    self._proofs(current, term, proofs),
                    deleted,
                    Epoch(*epoch),
                )
        raise AssertionError(kind)

    def _view(self, term: int, view: Any) -> Any:
        """(host, gate, held, domain, departed, listed_at)"""
        if view is None:
            return None
        host, gate, held, _domain, departed, at = view
        held = held or "gate after listing" in self.off
        return pr.HostView(
            NODES[host],
            UUIDS[host],
            gate_text(gate),
            term,
            held,
            _sighting(view),
            epoch_of(departed),
            at,  # type: ignore[arg-type]
        )

    def _knowledge(self, term: int, knowledge: Any) -> pr.Knowledge:
        complete, views, tombs, memory, silent = knowledge
        sightings = tuple(s for s in (_sighting(view) for view in views if view is not None) if s is not None)
        departures = tuple(Epoch(*view[4]) for view in views if view is not None and view[4] is not None)
        stones = tuple(pr.Tombstone(NODES[h], "ns", "vm", "old", epoch_of(e)) for h, e in tombs)
        judged = inv.Complete(term) if complete else inv.Incomplete(term, ())
        seen = tuple(s for s in (_sighting(view) for view in silent) if s is not None)
        return pr.Knowledge(judged, sightings, departures, stones, (), _memory(memory), seen)

    def _proofs(self, current: Any, term: int, proofs: Any) -> tuple[pr.Proof, ...]:
        """Each (host, 'absent', view) | (host, 'bmc', boot) | (host, 'human', boot) | (host, 'silence', boot)."""
        placement = placement_of(current)
        assert placement is not None
        made = []
        for host, kind, what in proofs:
            if kind == "absent":
                made.append(ev.absence_proof(self._view(term, what), placement))
            else:
                named = EvidenceKind.HUMAN_ATTESTED if kind == "human" else EvidenceKind.BMC_CONFIRMED_OFF
                boot = placement.boot if "boot in evidence" in self.off else gate_text(what)
                made.append(ev.off_proof(named, UUIDS[host], boot, placement))  # type: ignore[arg-type]
        return tuple(made)

    def mine(self, p: int) -> tuple[int, ...]:
        """The hosts for which process `p` stands."""
        return self._mine[p]

    # ------------------------------------------------------------ inventory and statements

    def complete(self, term: int, nodes: int, listed: tuple[int, ...], off: tuple[Any, ...]) -> bool:
        """inventory.judge_inventory over node objects, members named by the records listed, and evidence."""
        return self.together(term, nodes, listed, off, (), 0, ())

    def together(
        self,
        term: int,
        nodes: int,
        listed: tuple[int, ...],
        off: tuple[Any, ...],
        signed: tuple[Any, ...],
        wanted: int,
        lease_terms: tuple[int, ...],
    ) -> bool:
        """The same with what owners of other shards have signed (shards.judge_together). `signed`: (shard, entry)."""
        key = ("inventory", term, nodes, listed, off, signed, wanted, lease_terms)
        if key not in self._answers:
            named = {NODES[h]: UUIDS[h] for h in self.shape.hosts if nodes >> h & 1}
            entries = [
                inv.Listed(UUIDS[h], term, HostRecord(joined={m: Epoch(0, 0) for m in self._members(listed[h])}))
                for h in self.shape.hosts
                if listed[h] >= 0
            ]
            gone = [
                inv.Off(Evidence(EvidenceKind.BMC_CONFIRMED_OFF, UUIDS[h]), term)
                for h in self.shape.hosts
                if off[h] is not None
            ]
            signatures = [
                sh.Signature(
                    shard,
                    by_term,
                    str(wanted if "signature names the commit" in self.off else on),
                    frozenset(UUIDS[h] for h in self.shape.hosts if accounted >> h & 1),
                    frozenset(self._members(members)),
                )
                for shard, (on, by_term, accounted, members) in signed
            ]
            judged = sh.judge_together(
                term, named, entries, gone, signatures, str(wanted), dict(enumerate(lease_terms))
            )
            self._answers[key] = isinstance(judged, inv.Complete)
        return bool(self._answers[key])

    def _members(self, mask: int) -> list[Member]:
        if "members from records" in self.off:
            return []
        return [MEMBERS[m] for m in self.shape.hosts if mask >> m & 1]

    def signs(self, placement: Any, term: int, knowledge: Any) -> bool:
        """shards.countersign."""
        key = ("sign", placement, term, knowledge)
        if key not in self._answers:
            know = self._knowledge(term, knowledge)
            if "signer looks" in self.off:
                know = replace(know, sightings=(), last_seen=())
            if "signer minds silent hosts" in self.off:
                know = replace(know, last_seen=())
            if self.forgetful:
                know = replace(know, memory=pr.Memory())
            self._answers[key] = sh.countersign(placement_of(placement), know) is None
        return bool(self._answers[key])

    def ahead(self, record: tuple[int, int], found: tuple[int, int], term: int) -> bool:
        """inventory.record_ahead."""
        key = ("ahead", record, found, term)
        if key not in self._answers:
            host = HostRecord(term=record[0], beat=record[1])
            self._answers[key] = inv.record_ahead(NODES[0], host, found, term) is not None
        return bool(self._answers[key])

    def attested(self, host: int, attested: Any, last_boot: Any, term: int) -> bool:
        """evidence.judge_attestation, for a host that does not answer."""
        if attested is None:
            return False
        key = ("attested", host, attested, last_boot, term)
        if key not in self._answers:
            gate, quoted = attested
            gate = last_boot if "boot in evidence" in self.off else gate
            if "attestation per term" in self.off:
                quoted = term
            statement = ev.Attestation(
                "a", NODES[host], UUIDS[host], gate_text(gate) or BootNonce("-"), "me", quoted_term=quoted
            )
            contact = ev.HostContact(NODES[host], UUIDS[host], gate_text(last_boot), False)
            self._answers[key] = isinstance(ev.judge_attestation(statement, contact, term), ev.Accepted)
        return bool(self._answers[key])


OFF = frozenset(
    {
        "tested patches", "commit first", "gate", "list gates after mine", "members from records", "undefine on stop",
        "epoch per start", "gate after listing", "unique gate", "renewal", "read back", "look at every host",
        "inventory per term", "ticket", "silence is no evidence", "attestation per term", "void on contact", "boot in evidence",
        "term in record", "departure notes", "countersign", "signature names the commit",
        "signer looks", "signer minds silent hosts", "signed after the commit", "found when acquired",
    }
)  # fmt: skip
"""What can be taken away beside the guards of the table: the host's part and the process's part of the protocol."""


def _memory(memory: Any) -> pr.Memory:
    latest, superseded, high = memory
    return pr.Memory(str(latest) if latest else "", frozenset(map(str, superseded)), epoch_of(high))


def _sighting(view: Any) -> pr.Sighting | None:
    host, gate, _held, domain, _departed, _at = view
    if domain is None:
        return None
    return pr.Sighting(NODES[host], UUIDS[host], gate_text(gate), domain[1] > 0, epoch_of(domain[0]))  # type: ignore[arg-type]
