"""What would happen if: hosts fail, go into maintenance or are added, or more VMs of a class arrive. Nothing is written.

Works on a copy of the inventory, with the same engine and the same admission code as the real decisions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lq_operator.core.failover.admission import Admission, FailureVerdict
from lq_operator.core.placement.engine import PlacementEngine
from lq_operator.core.placement.types import (
    Decision,
    HostFacts,
    Placed,
    PlacementRequest,
    Shape,
    VmKey,
)


@dataclass(frozen=True, slots=True)
class Move:
    """A VM that would run elsewhere; host None = it would find no room, and why."""

    identity: VmKey
    source: str
    host: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario ends in. cannot_fail: hosts whose failure would leave a VM without room, before and after."""

    scenario: str
    moves: tuple[Move, ...]
    placed: tuple[tuple[VmKey, str], ...]
    unplaced: tuple[tuple[VmKey, str], ...]
    cannot_fail_before: tuple[str, ...]
    cannot_fail_after: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """One line for people."""
        stuck = [move for move in self.moves if move.host is None]
        parts = [self.scenario]
        if self.moves:
            parts.append(f"{len(self.moves) - len(stuck)} of {len(self.moves)} VMs find another host")
        if self.placed or self.unplaced:
            parts.append(f"{len(self.placed)} of {len(self.placed) + len(self.unplaced)} new VMs fit")
        if stuck:
            parts.append(f"first without room: {stuck[0].identity}: {stuck[0].why}")
        elif self.unplaced:
            parts.append(f"first without room: {self.unplaced[0][0]}: {self.unplaced[0][1]}")
        parts.append(
            f"hosts that cannot fail: {len(self.cannot_fail_before)} before, {len(self.cannot_fail_after)} after"
        )
        return "; ".join(parts)


def copy_of(engine: PlacementEngine) -> PlacementEngine:
    """The same inventory in an engine of its own. Reservations count; the guard is left out."""
    copy = PlacementEngine(engine.strategy, seed=engine.seed)
    for row in engine.state.rows.values():
        entry = engine.state.row[row]
        assert entry is not None
        copy.set_host(entry.facts)
    for placed in engine.state.placed.values():
        copy.set_vm(placed)
    for reservation in engine.state.reserved.values():
        copy.hold(reservation)
    return copy


def hosts_in_domain(engine: PlacementEngine, topology_key: str, value: str) -> tuple[str, ...]:
    """Hosts of a rack or zone, for `hosts_down`. ValueError where there is none."""
    topology = engine.state.topology(topology_key)
    domain = topology.number.get(value, -2)
    names = tuple(sorted(name for name, row in engine.state.rows.items() if topology.ids[row] == domain))
    if not names:
        raise ValueError(f"simulate: no host has {topology_key}={value}")
    return names


def hosts_down(engine: PlacementEngine, names: Iterable[str]) -> Outcome:
    """These hosts fail together (a host, a rack): their VMs restart elsewhere, largest first."""
    failed = _known(engine, names)
    copy = copy_of(engine)
    before = cannot_fail(copy)
    for name in failed:
        facts = _facts(copy, name)
        copy.set_host(replace(facts, ready=False, not_ready_reason="failed in this simulation"))
    return _evacuated(copy, failed, f"{', '.join(failed)} down", before)


def maintenance(engine: PlacementEngine, names: Iterable[str]) -> Outcome:
    """These hosts are drained."""
    drained = _known(engine, names)
    copy = copy_of(engine)
    before = cannot_fail(copy)
    for name in drained:
        copy.set_host(replace(_facts(copy, name), maintenance=True))
    return _evacuated(copy, drained, f"{', '.join(drained)} in maintenance", before)


def add_hosts(engine: PlacementEngine, facts: Iterable[HostFacts], waiting: Iterable[PlacementRequest] = ()) -> Outcome:
    """These hosts join; VMs that wait are tried again."""
    copy = copy_of(engine)
    before = cannot_fail(copy)
    names = []
    for host in facts:
        if host.name in copy.state.rows:
            raise ValueError(f"simulate: host {host.name!r} is there already")
        copy.set_host(host)
        names.append(host.name)
    placed, unplaced = _place(copy, waiting)
    return Outcome(f"{len(names)} hosts added", (), placed, unplaced, before, cannot_fail(copy))


def more_vms(engine: PlacementEngine, namespace: str, shape: Shape, count: int) -> Outcome:
    """`count` more VMs of one class arrive."""
    if count < 1:
        raise ValueError(f"simulate: count {count} is not at least 1")
    copy = copy_of(engine)
    before = cannot_fail(copy)
    requests = [PlacementRequest(VmKey(namespace, f"simulated-{number}"), shape) for number in range(count)]
    placed, unplaced = _place(copy, requests)
    return Outcome(f"{count} more VMs", (), placed, unplaced, before, cannot_fail(copy))


def cannot_fail(engine: PlacementEngine) -> tuple[str, ...]:
    """Hosts whose failure would leave a VM without room."""
    verdicts: dict[str, FailureVerdict] = Admission(engine).hosts_that_can_fail()
    return tuple(name for name, verdict in verdicts.items() if not verdict.ok)


def _known(engine: PlacementEngine, names: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(sorted(set(names)))
    for name in chosen:
        if name not in engine.state.rows:
            raise ValueError(f"simulate: host {name!r} is not known")
    return chosen


def _facts(engine: PlacementEngine, name: str) -> HostFacts:
    entry = engine.state.row[engine.state.rows[name]]
    assert entry is not None
    return entry.facts


def _evacuated(copy: PlacementEngine, away: tuple[str, ...], scenario: str, before: tuple[str, ...]) -> Outcome:
    leaving = [vm for name in away for vm in copy.state.placed.values() if vm.host == name]
    leaving.sort(key=lambda vm: (-vm.priority, -vm.shape.memory_mib, -vm.shape.vcpus, vm.identity))
    for vm in leaving:  # all of them are away at once: none holds a place that another must avoid
        copy.remove_vm(vm.identity)
    moves = []
    for vm in leaving:
        decision = copy.decide(PlacementRequest(vm.identity, vm.shape, vm.priority))
        _apply(copy, decision, vm.shape)
        moves.append(Move(vm.identity, vm.host, decision.host, "" if decision.host else decision.sentence))
    for name in away:  # what is down or drained can fail no further
        copy.remove_host(name)
    return Outcome(scenario, tuple(moves), (), (), before, cannot_fail(copy))


def _place(
    copy: PlacementEngine, requests: Iterable[PlacementRequest]
) -> tuple[tuple[tuple[VmKey, str], ...], tuple[tuple[VmKey, str], ...]]:
    placed, unplaced = [], []
    for request in requests:
        decision = copy.decide(request)
        _apply(copy, decision, request.shape)
        if decision.host is None:
            unplaced.append((request.identity, decision.sentence))
        else:
            placed.append((request.identity, decision.host))
    return tuple(placed), tuple(unplaced)


def _apply(copy: PlacementEngine, decision: Decision, shape: Shape) -> None:
    if decision.host is not None:
        copy.set_vm(Placed(decision.identity, decision.host, shape, decision.numa_cells))
