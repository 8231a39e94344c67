"""The VM decision as a table: what is observed -> what is done and said. Each row is a sentence."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from lq_operator.core.actions import (
    AddFinalizer,
    AskStop,
    CutOff,
    Depart,
    LeaveTombstones,
    PauseGuest,
    RemoveFinalizer,
    ResetGuest,
    ResumeGuest,
    SaveGuest,
    StartGuest,
    SweepState,
    WritePlacement,
)
from lq_operator.core.failover.evidence import off_proof
from lq_operator.core.failover.facts import Actor, HostView, Knowledge, Role, Sighting, Stamp, Tombstone
from lq_operator.core.failover.inventory import Complete, Incomplete, Missing
from lq_operator.core.lifecycle.decide import decide
from lq_operator.core.lifecycle.power import Power, RestartPolicy
from lq_operator.core.lifecycle.world import Lack, PlacedHost, Run, Standing, VmWorld, Wish
from lq_operator.core.model import (
    BootNonce,
    DomainSeen,
    DomainState,
    Epoch,
    EvidenceKind,
    HostUUID,
    Identity,
    NodeName,
    Phase,
    Placement,
)

VM = Identity("inst", "ns", "a")
H1, H2 = NodeName("h1"), NodeName("h2")
U1, U2 = HostUUID("u1"), HostUUID("u2")
G1, G2 = BootNonce("gate-3-1-aa"), BootNonce("gate-3-2-bb")
E1, E2 = Epoch(2, 1), Epoch(3, 9)


def domain(state: DomainState = DomainState.RUNNING, epoch: Epoch = E1, reason: str = "booted") -> DomainSeen:
    return DomainSeen(VM.domain_name, VM.domain_uuid, state, reason, True, VM, "uid", epoch)


def view(found: DomainSeen | None, node: NodeName = H1, uuid: HostUUID = U1, departed: Epoch | None = None) -> HostView:
    gate = G1 if node == H1 else G2
    sighting = Sighting(node, uuid, gate, found.state.runs, found.epoch) if found else None
    return HostView(node, uuid, gate, 3, True, sighting, departed, 1)


def placement(phase: Phase, **fields: object) -> Placement:
    base = {
        Phase.COMMITTED: {"node": H1, "host_uuid": U1, "boot": G1, "epoch": E1},
        Phase.ASSIGNED: {"node": H1, "host_uuid": U1},
    }
    return Placement(phase, "w1", "now", **(base.get(phase, {}) | fields))  # type: ignore[arg-type]


def world(**changes: object) -> VmWorld:
    base = VmWorld(
        VM, "uid", Actor(Role.VM_CONTROLLER, 3), Stamp("w2", "now"), E2, Knowledge(Complete(3)), Wish(), fresh=True
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def committed(found: DomainSeen | None, departed: Epoch | None = None, **changes: object) -> VmWorld:
    seen = view(found, departed=departed)
    sightings = (seen.sighting,) if seen.sighting else ()
    return world(
        placement=placement(Phase.COMMITTED),
        placed=PlacedHost(H1, seen, found),
        views=(seen,) if found else (),
        knowledge=Knowledge(Complete(3), sightings=sightings, departures=(departed,) if departed else ()),
        **changes,
    )


RUNNING, SHUTOFF = domain(), domain(DomainState.SHUTOFF, reason="shutdown")
CRASHED = domain(DomainState.SHUTOFF, reason="crashed")
NEVER_RAN = domain(DomainState.SHUTOFF, reason="unknown")
PAUSED = domain(DomainState.PAUSED, reason="user")
RAN = Run("Running", E1)
SILENT = PlacedHost(H1, why="h1 does not answer")
OFF = PlacedHost(
    H1, why="silent", off=(off_proof(EvidenceKind.HUMAN_ATTESTED, U1, G1, placement(Phase.COMMITTED), "seen"),)
)
STOP, PAUSE, SUSPEND = Wish(Power.STOPPED), Wish(Power.PAUSED), Wish(Power.SUSPENDED)
MISSING = Incomplete(3, (Missing(H2, U2, "silent"),))


@dataclass(frozen=True)
class Row:
    """One sentence: the world, and the kinds of actions, reason and standing that follow."""

    given: VmWorld
    does: tuple[type, ...] = ()
    reason: str = ""
    standing: Standing | None = None
    state: str = ""
    more: dict[str, object] = field(default_factory=dict)


TABLE: dict[str, Row] = {
    "a new VM gets the finalizer before anything else": Row(world(finalizer=False), (AddFinalizer,)),
    "unknown anywhere and everything listed: registered": Row(world(), (WritePlacement,)),
    "not registered while a host is unaccounted for": Row(
        world(knowledge=Knowledge(MISSING)), (), "InventoryIncomplete", Standing.WORKING
    ),
    "not registered while a tombstone names it": Row(
        world(knowledge=Knowledge(Complete(3), tombstones=(Tombstone(H2, "ns", "a", "old"),))),
        (),
        "PreviousIncarnation",
    ),
    "a domain found is bound, not touched": Row(
        world(views=(view(RUNNING),), knowledge=Knowledge(Complete(3), sightings=(view(RUNNING).sighting,))),  # type: ignore[arg-type]
        (WritePlacement,),
    ),
    "running twice: a person decides": Row(
        world(knowledge=Knowledge(Complete(3), sightings=(view(RUNNING).sighting, view(RUNNING, H2, U2).sighting))),  # type: ignore[arg-type]
        (),
        "SplitBrain",
        Standing.STALLED,
    ),
    "released and wanted: waits for the scheduler": Row(
        world(placement=placement(Phase.RELEASED)), (), "WaitingForHost"
    ),
    "released and a reference is wrong: says which": Row(
        world(placement=placement(Phase.RELEASED), blockers=(Lack("ClassNotFound", "spec.className: none", True),)),
        (),
        "ClassNotFound",
        Standing.STALLED,
    ),
    "stopped by wish is Ready": Row(
        world(placement=placement(Phase.RELEASED), wish=STOP), (), "Stopped", Standing.READY, "Stopped"
    ),
    "suspended by wish is Ready": Row(
        world(placement=placement(Phase.RELEASED), wish=SUSPEND, run=Run(suspended=True)),
        (),
        "Suspended",
        Standing.READY,
        "Suspended",
    ),
    "stopped by the restart policy although declared Running is not Ready": Row(
        world(placement=placement(Phase.RELEASED), wish=Wish(Power.STOPPED, Power.RUNNING)),
        (),
        "GuestEnded",
        Standing.STALLED,
    ),
    "assigned: committed before anything is written to the host": Row(
        world(placement=placement(Phase.ASSIGNED), placed=PlacedHost(H1, view(None))), (WritePlacement,)
    ),
    "assigned to a silent host: nothing is written": Row(
        world(placement=placement(Phase.ASSIGNED), placed=SILENT), (), "HostNotReady"
    ),
    "assigned but the inventory is incomplete: nothing starts": Row(
        world(placement=placement(Phase.ASSIGNED), placed=PlacedHost(H1, view(None)), knowledge=Knowledge(MISSING)),
        (),
        "InventoryIncomplete",
    ),
    "committed with an unused epoch: starts": Row(committed(None, unused_epoch=True), (StartGuest,)),
    "committed by a process that died before starting: a new epoch first": Row(committed(NEVER_RAN), (WritePlacement,)),
    "committed, volume not ready: waits, nothing starts": Row(
        committed(None, unused_epoch=True, pending=(Lack("VolumeNotReady", "spec.disks[root]: copying"),)),
        (),
        "VolumeNotReady",
    ),
    "running as wanted": Row(committed(RUNNING), (), "Running", Standing.READY, "Running"),
    "host silent: Unknown, and nothing else": Row(
        world(placement=placement(Phase.COMMITTED), placed=SILENT), (), "HostUnreachable", Standing.UNKNOWN, "Unknown"
    ),
    "host silent and wanted stopped: still nothing": Row(
        world(placement=placement(Phase.COMMITTED), placed=SILENT, wish=STOP), (), "HostUnreachable", Standing.UNKNOWN
    ),
    "host off by evidence: released": Row(
        world(placement=placement(Phase.COMMITTED), placed=OFF), (WritePlacement,), "HostOff"
    ),
    "stop: the guest is asked, by ACPI while no agent answers": Row(
        committed(RUNNING, wish=STOP), (AskStop,), "Stopping", more={"mode": "acpi"}
    ),
    "stop: the agent is asked first where it answers": Row(
        committed(RUNNING, wish=STOP, run=Run("Running", E1, agent=True)), (AskStop,), more={"mode": "agent"}
    ),
    "stop: asked by both and waiting": Row(
        committed(RUNNING, wish=STOP, run=Run("Stopping", E1, stop_left_s=5, asked=("acpi", "agent"))), (), "Stopping"
    ),
    "stop: cut off at the deadline": Row(
        committed(RUNNING, wish=STOP, run=Run("Stopping", E1, stop_left_s=0, asked=("acpi", "agent"))), (CutOff,)
    ),
    "stop by force: cut off at once": Row(committed(RUNNING, wish=Wish(Power.STOPPED, force=True)), (CutOff,)),
    "stopped: departure note and undefine before the release": Row(committed(SHUTOFF, wish=STOP, run=RAN), (Depart,)),
    "stopped, noted and listed absent: released": Row(committed(None, departed=E1, wish=STOP), (WritePlacement,)),
    "stopped, noted, but not listed in this pass: listed first": Row(
        committed(None, departed=E1, wish=STOP, fresh=False), (Depart,)
    ),
    "pause": Row(committed(RUNNING, wish=PAUSE), (PauseGuest,)),
    "paused as wanted": Row(committed(PAUSED, wish=PAUSE), (), "Paused", Standing.READY),
    "resume": Row(committed(PAUSED), (ResumeGuest,)),
    "paused by the host for lack of space is not resumed": Row(
        committed(domain(DomainState.PAUSED, reason="io-error")), (), "PausedByHost", Standing.STALLED
    ),
    "suspend": Row(committed(RUNNING, wish=SUSPEND), (SaveGuest,)),
    "reset once": Row(committed(RUNNING, wish=Wish(reset="op-uid")), (ResetGuest,)),
    "restart: the old run is stopped": Row(committed(RUNNING, wish=Wish(restart_of=E1)), (AskStop,), "Restarting"),
    "restart: the new run is left alone": Row(committed(RUNNING, wish=Wish(restart_of=Epoch(1, 1))), (), "Running"),
    "guest switched itself off, Always: started again": Row(committed(SHUTOFF, run=RAN), (WritePlacement,)),
    "guest switched itself off, OnFailure: rests": Row(
        committed(SHUTOFF, run=RAN, wish=Wish(policy=RestartPolicy.ON_FAILURE)),
        (),
        "GuestEnded",
        more={"give_up": True},
    ),
    "QEMU lost, OnFailure: started again": Row(
        committed(CRASHED, run=RAN, wish=Wish(policy=RestartPolicy.ON_FAILURE)), (WritePlacement,)
    ),
    "QEMU lost, Never: rests": Row(
        committed(CRASHED, run=RAN, wish=Wish(policy=RestartPolicy.NEVER)), (), "GuestEnded", more={"give_up": True}
    ),
    "QEMU lost for the third time: waits first": Row(
        committed(CRASHED, run=replace(RAN, restarts=2)), (), "RestartBackOff", more={"restart_in_s": 10.0}
    ),
    "the wait is over: started again": Row(
        committed(CRASHED, run=replace(RAN, restarts=2, restart_left_s=0)), (WritePlacement,)
    ),
    "a domain of an older epoch runs where a newer one was committed": Row(
        committed(domain(epoch=Epoch(1, 1))), (), "SplitBrain", Standing.STALLED
    ),
    "deleted, never placed: only our own things go": Row(
        world(deleting=True, placement=placement(Phase.RELEASED)), (SweepState, RemoveFinalizer)
    ),
    "deleted while running: asked to stop": Row(committed(RUNNING, deleting=True), (AskStop,), "Deleting"),
    "deleted and shut off: departs": Row(committed(SHUTOFF, deleting=True), (Depart,)),
    "deleted while the host is away: a tombstone, and it ends": Row(
        world(deleting=True, placement=placement(Phase.COMMITTED), placed=replace(SILENT, away=True)),
        (LeaveTombstones, SweepState, RemoveFinalizer),
    ),
    "deleted while the host is silent for a moment: waits": Row(
        world(deleting=True, placement=placement(Phase.COMMITTED), placed=SILENT), (), "HostUnreachable"
    ),
    "deleted while the host is off by evidence: released first": Row(
        world(deleting=True, placement=placement(Phase.COMMITTED), placed=OFF), (WritePlacement,)
    ),
}


@pytest.mark.parametrize("sentence", TABLE)
def test_decision(sentence: str) -> None:
    row = TABLE[sentence]
    decision = decide(row.given)
    assert tuple(type(action) for action in decision.actions) == row.does, decision
    if row.reason:
        assert decision.reason == row.reason, decision
    if row.standing:
        assert decision.standing is row.standing, decision
    if row.state:
        assert decision.state == row.state
    for name, value in row.more.items():
        found = getattr(decision, name) if hasattr(decision, name) else getattr(decision.actions[0], name)
        assert found == value


UNKNOWN_HOSTS = [
    replace(row.given, placed=replace(row.given.placed, view=None, domain=None, off=()), views=(), unused_epoch=unused)
    for row in TABLE.values()
    if row.given.placed is not None
    for unused in (True, False)
]
HARMLESS = (AddFinalizer, LeaveTombstones, SweepState, RemoveFinalizer)


@pytest.mark.parametrize("given", UNKNOWN_HOSTS)
def test_nothing_is_done_about_a_host_that_is_not_seen(given: VmWorld) -> None:
    """Rule 1: whatever is wished, Unknown never leads to an action on a host or to a changed placement."""
    assert given.placed is not None
    for action in decide(given).actions:
        assert isinstance(action, HARMLESS), action


def test_the_new_epoch_is_the_one_that_was_given_out() -> None:
    action = decide(committed(NEVER_RAN)).actions[0]
    assert isinstance(action, WritePlacement)
    assert action.new.epoch == E2
    assert action.current is not None
    assert action.current.epoch == E1


def test_evidence_is_stored_with_the_release() -> None:
    action = decide(world(placement=placement(Phase.COMMITTED), placed=OFF)).actions[0]
    assert isinstance(action, WritePlacement)
    assert action.new.phase is Phase.RELEASED
    assert action.new.released_epoch == E1
    assert [e.kind for e in action.new.evidence] == [EvidenceKind.HUMAN_ATTESTED]


def test_a_host_failure_ends_the_wish_where_the_vm_says_so() -> None:
    given = world(placement=placement(Phase.COMMITTED), placed=OFF, wish=Wish(restart_on_host_failure=False))
    assert decide(given).give_up


def _found_on_h2(found: DomainSeen, here: DomainSeen | None, departed: Epoch | None, *, fresh: bool) -> VmWorld:
    """Placed on h1 under E1; h2 has a domain."""
    there, seen = view(found, H2, U2), view(here, departed=departed)
    sightings = tuple(s for s in (seen.sighting, there.sighting) if s is not None)
    return world(
        placement=placement(Phase.COMMITTED),
        placed=PlacedHost(H1, seen, here),
        views=(seen, there) if here else (there,),
        knowledge=Knowledge(Complete(3), sightings=sightings, departures=(departed,) if departed else ()),
        fresh=fresh,
    )


def test_a_run_found_elsewhere_is_believed_after_one_more_look_at_the_placed_host() -> None:
    running = domain(epoch=Epoch(2, 7))
    asked = decide(_found_on_h2(running, None, E1, fresh=False))
    assert (asked.look, asked.actions, asked.state) == (True, (), "Unknown")
    action = decide(_found_on_h2(running, None, E1, fresh=True)).actions[0]
    assert isinstance(action, WritePlacement)
    assert (action.new.phase, action.new.node, action.new.epoch) == (Phase.COMMITTED, H2, Epoch(2, 7))


def test_what_is_left_of_an_earlier_run_elsewhere_disturbs_no_running_guest() -> None:
    left = domain(DomainState.SHUTOFF, epoch=Epoch(1, 4), reason="unknown")
    decision = decide(_found_on_h2(left, RUNNING, None, fresh=True))
    assert (decision.state, decision.standing, decision.actions) == ("Running", Standing.READY, ())


def test_a_vm_that_cannot_be_registered_yet_is_unknown_and_not_stopped() -> None:
    decision = decide(world(knowledge=Knowledge(MISSING)))
    assert (decision.state, decision.reason) == ("Unknown", "InventoryIncomplete")


def in_maintenance(built: VmWorld) -> VmWorld:
    assert built.placed is not None
    return replace(built, placed=replace(built.placed, maintenance=True))


def test_nothing_is_started_on_a_host_in_maintenance() -> None:
    """A guest that ended there, or was never started, leaves first: note and undefine, then the release."""
    for found in (None, domain(DomainState.SHUTOFF, reason="crashed")):
        said = decide(in_maintenance(committed(found)))
        assert [type(action) for action in said.actions] == [Depart]
        assert said.reason == "HostInMaintenance"
    released = decide(in_maintenance(committed(None, departed=E1)))
    (write,) = released.actions
    assert isinstance(write, WritePlacement)
    assert write.new is not None
    assert write.new.phase is Phase.RELEASED


def test_a_host_in_maintenance_is_left_before_the_commit() -> None:
    assigned = world(placement=placement(Phase.ASSIGNED), placed=PlacedHost(H1, view(None), None))
    assert [type(action) for action in decide(assigned).actions] == [WritePlacement]
    said = decide(in_maintenance(assigned))
    assert (said.actions, said.reason) == ((), "HostInMaintenance")


def test_a_running_guest_on_a_host_in_maintenance_is_not_touched() -> None:
    running = committed(domain())
    assert decide(in_maintenance(running)) == decide(running)


def test_a_start_that_may_not_be_made_yet_counts_no_restart() -> None:
    """It is asked again every other second: a host that is silent for an hour would end in the longest back-off."""
    crashed = committed(CRASHED, run=RAN)
    assert decide(crashed).counts_restart
    waits = replace(crashed, knowledge=replace(crashed.knowledge, inventory=MISSING))
    decision = decide(waits)
    assert (decision.reason, decision.actions, decision.counts_restart) == ("InventoryIncomplete", (), False)


# ---------------------------------------------------------------- moves


MOVING = placement(Phase.MOVING, node=H1, host_uuid=U1, boot=G1, epoch=E1, target=H2, target_uuid=U2, target_boot=G2)


def on_its_way(here: DomainSeen | None, there: DomainSeen | None, **changes: object) -> VmWorld:
    views = (view(here), view(there, H2, U2))
    return world(
        **{
            "placement": MOVING,
            "placed": PlacedHost(H1, views[0], here),
            "target": PlacedHost(H2, views[1], there),
            "knowledge": Knowledge(Complete(3), sightings=tuple(v.sighting for v in views if v.sighting)),
        }
        | changes
    )


def test_two_sides_of_a_move_are_no_split_brain_and_nothing_is_done() -> None:
    coming = domain(DomainState.PAUSED, reason="migration")
    for sides in ((domain(), coming), (domain(), None), (None, domain()), (domain(), domain())):
        found = decide(on_its_way(*sides))
        assert (found.state, found.standing, found.reason, found.actions) == ("Running", Standing.READY, "Moving", ())
    waiting = decide(on_its_way(None, coming))
    assert (waiting.state, waiting.standing) == ("Paused", Standing.WORKING)
    assert decide(on_its_way(None, None)).state == "Unknown"


def test_a_third_host_that_runs_it_is_a_split_brain() -> None:
    third = Sighting(NodeName("h3"), HostUUID("u3"), BootNonce("gate-3-3-cc"), True, E1)
    sides = on_its_way(domain(), None)
    found = decide(replace(sides, knowledge=replace(sides.knowledge, sightings=(*sides.knowledge.sightings, third))))
    assert found.reason == "SplitBrain"


def test_deleted_while_it_moves_it_waits_for_the_settlement_and_leaves_tombstones_on_both_when_one_stays_away() -> None:
    found = decide(on_its_way(domain(), None, deleting=True))
    assert (found.reason, found.actions) == ("Moving", ())
    away = decide(on_its_way(domain(), None, deleting=True, target=PlacedHost(H2, away=True, why="no route")))
    assert isinstance(away.actions[0], LeaveTombstones)
    assert {stone.node for stone in away.actions[0].tombstones} == {H1, H2}


def test_the_run_of_a_moved_vm_keeps_its_epoch() -> None:
    moved = placement(Phase.COMMITTED, epoch=E2, run_epoch=E1)
    found = domain()
    seen = view(found)
    base = world(
        placement=moved, placed=PlacedHost(H1, seen, found), knowledge=Knowledge(Complete(3), (seen.sighting,))
    )  # type: ignore[arg-type]
    assert decide(base).reason == "Running"
    assert decide(replace(base, placement=replace(moved, run_epoch=None))).reason == "SplitBrain"
    ended = domain(DomainState.SHUTOFF, reason="shutdown")
    over = replace(
        base,
        placed=PlacedHost(H1, view(ended), ended),
        run=Run("Running", E1),
        wish=Wish(policy=RestartPolicy.NEVER),
        knowledge=Knowledge(Complete(3)),
    )
    assert decide(over).give_up, "what ended is the run that was moved here"
