"""timeline vm/NAME: where the time of the last start or move went, from what status, conditions and Events keep already.

timeline() is pure. Nothing is estimated: a step whose time nobody keeps is listed with the reason, and a time that
Kubernetes keeps to the second only (creation) is marked, because a phase that begins there may be up to a second shorter.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.api.vmoperation import VirtualMachineOperation
from lq_operator.api.volume import Volume
from lq_operator.cli_tools.lq.cluster import Cluster, Happened, connect
from lq_operator.cli_tools.lq.names import vm_name
from lq_operator.cli_tools.text import table, to_json
from lq_operator.core.result import Rejected

CREATION_RESOLUTION_MS = 1000
"""metadata.creationTimestamp has whole seconds."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something happened. `resolution_ms`: up to so much later than `at`."""

    what: str
    at: str
    source: str
    resolution_ms: int = 1


@dataclass(frozen=True, slots=True)
class Phase:
    """From the mark before it to its own. `took_ms` is None where one of the two is not kept."""

    what: str
    at: str
    since_begin_ms: int | None
    took_ms: int | None
    resolution_ms: int
    source: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """One start."""

    vm: str
    story: str
    phases: tuple[Phase, ...]
    total_ms: int | None
    missing: tuple[str, ...]


def millis(stamp: str) -> int:
    """RFC 3339 -> milliseconds since the epoch."""
    return round(datetime.fromisoformat(stamp).timestamp() * 1000)


def timeline(
    vm: VirtualMachine,
    volumes: Sequence[Volume],
    operations: Sequence[VirtualMachineOperation],
    events: Sequence[Happened],
) -> Timeline:
    """The last start of this VM. Rejected when it was never started."""
    started = vm.status.power.started_at
    if not started:
        raise Rejected(f"{vm.key} was never started: status.power.startedAt is empty")
    missing: list[str] = []
    asked, story = _asked(vm, operations, started)
    if asked is None:
        missing.append(f"when it was asked for: {story}")
    begin = asked.at if asked else ""
    marks = [asked] if asked else []
    marks += _placed(vm, events, begin, started, missing)
    marks += _disks(vm, volumes, begin, started)
    marks.append(Mark("QEMU ran, seen by the operator", started, "status.power.startedAt"))
    marks += _after(vm, started, missing)
    marks.sort(key=lambda mark: millis(mark.at))
    return _measure(vm.key, story, marks, asked is not None, missing)


def _asked(vm: VirtualMachine, operations: Sequence[VirtualMachineOperation], started: str) -> tuple[Mark | None, str]:
    last = vm.status.power.last_operation
    op = next((one for one in operations if one.metadata.uid == last), None)
    if op is not None and op.spec.verb in ("Start", "Restart", "Resume") and op.metadata.creation_timestamp:
        what = f"{op.spec.verb} asked for ({op.metadata.name})"
        mark = Mark(what, op.metadata.creation_timestamp, "vmop metadata.creationTimestamp", CREATION_RESOLUTION_MS)
        if millis(mark.at) <= millis(started):
            return mark, f"{op.spec.verb.lower()} by operation {op.metadata.name}"
    first = vm.status.power.restarts == 0 and not last
    made = vm.metadata.creation_timestamp or ""
    if first and made and vm.metadata.generation == 1:
        return (
            Mark("VirtualMachine created", made, "metadata.creationTimestamp", CREATION_RESOLUTION_MS),
            "first start, since its creation",
        )
    if op is None and last:
        return None, "the operation that asked for it is deleted already (ttlSecondsAfterFinished)"
    return None, "nothing keeps when spec was changed or the guest ended"


def _placed(vm: VirtualMachine, events: Sequence[Happened], begin: str, started: str, missing: list[str]) -> list[Mark]:
    marks = []
    assigned = [one for one in events if one.reason == "Assigned" and _between(one.at, begin, started)]
    scheduled = vm.status.condition("Scheduled")
    if scheduled and scheduled.status == "True" and _between(scheduled.last_transition_time, begin, started):
        marks.append(Mark("a host was chosen", scheduled.last_transition_time, "condition Scheduled"))
    elif assigned:
        marks.append(Mark("a host was chosen", assigned[-1].at, "Event Assigned"))
    else:
        missing.append("when a host was chosen: it stayed on its host, or the Event is older than Kubernetes keeps it")
    placement = vm.status.placement
    if placement is not None and placement.phase == "Committed" and _between(placement.since, begin, started):
        marks.append(Mark("the start was committed to that host", placement.since, "status.placement.since"))
    else:
        missing.append("when the start was committed: status.placement says something later by now")
    return marks


def _disks(vm: VirtualMachine, volumes: Sequence[Volume], begin: str, started: str) -> list[Mark]:
    marks = []
    by_name = {volume.metadata.name: volume for volume in volumes}
    for disk in vm.status.disks:
        volume = by_name.get(disk.volume)
        ready = volume.status.condition("Ready") if volume else None
        if ready and ready.status == "True" and begin and _between(ready.last_transition_time, begin, started):
            marks.append(Mark(f"disk {disk.name} was ready", ready.last_transition_time, f"vol/{disk.volume} Ready"))
    return marks


def _after(vm: VirtualMachine, started: str, missing: list[str]) -> list[Mark]:
    marks = []
    ready = vm.status.condition("Ready")
    if ready and ready.status == "True" and millis(ready.last_transition_time) >= millis(started):
        marks.append(Mark("Ready", ready.last_transition_time, "condition Ready"))
    else:
        missing.append("when it was Ready: it is not, or was without a break since before this start")
    if vm.spec.guest_agent and vm.status.guest.agent == "Connected":
        missing.append("when the guest had booted: status.guest says that its agent answers, not since when")
    return marks


def _between(at: str, begin: str, end: str) -> bool:
    if not at:
        return False
    return (not begin or millis(at) >= millis(begin)) and millis(at) <= millis(end)


def _measure(vm: str, story: str, marks: Sequence[Mark], has_begin: bool, missing: list[str]) -> Timeline:
    begin = millis(marks[0].at) if marks else 0
    phases = []
    before: Mark | None = None
    for mark in marks:
        took = millis(mark.at) - millis(before.at) if before else None
        resolution = max(mark.resolution_ms, before.resolution_ms if before else 0)
        since = millis(mark.at) - begin
        phases.append(Phase(mark.what, mark.at, since, took, resolution, mark.source))
        before = mark
    total = millis(marks[-1].at) - begin if has_begin and len(marks) > 1 else None
    return Timeline(vm, story, tuple(phases), total, tuple(missing))


def timeline_of_move(vm: str, move: VirtualMachineMigration) -> Timeline:
    """A move that has ended. How long the memory took and how long the guest stood still is what the hosts measured."""
    status = move.status
    created = move.metadata.creation_timestamp or ""
    marks = (
        [Mark("move asked for", created, "vmmig metadata.creationTimestamp", CREATION_RESOLUTION_MS)] if created else []
    )
    missing = []
    for what, at, source in (
        ("checked and reserved; it began", status.started_at, "vmmig status.startedAt"),
        ("both hosts agreed who runs it", status.finished_at, "vmmig status.finishedAt"),
    ):
        if at:
            marks.append(Mark(what, at, source))
        else:
            missing.append(f"{what}: {source} is empty")
    if not status.total_milliseconds:
        missing.append("how long memory and disks took: the hosts did not tell (the move did not change over)")
    story = f"moved {status.source_node or '?'} -> {status.target_node or '?'}: {status.phase}"
    if status.total_milliseconds:
        story += f"; by the hosts {status.total_milliseconds} ms, the guest stood still for {status.downtime_milliseconds} ms"
    return _measure(vm, story, sorted(marks, key=lambda mark: millis(mark.at)), bool(created), missing)


async def run(arguments: Namespace) -> int:
    """The later of the last start and the last move."""
    async with connect(arguments) as cluster:
        vm = await cluster.find(VirtualMachine, vm_name(arguments.vm))
        last, started = vm.status.migration, vm.status.power.started_at
        move = None
        if last is not None and last.finished_at and (not started or millis(last.finished_at) > millis(started)):
            move = await cluster.get(VirtualMachineMigration, last.name)
        found = timeline_of_move(vm.key, move) if move is not None else await read(cluster, vm)
    print(to_json(found) if arguments.output == "json" else say(found))
    return 0


async def read(cluster: Cluster, vm: VirtualMachine) -> Timeline:
    """Everything that timeline() needs."""
    volumes = [await cluster.get(Volume, disk.volume) for disk in vm.status.disks if disk.volume]
    operations = await cluster.listing(VirtualMachineOperation)
    events = await cluster.events(vm)
    return timeline(vm, [volume for volume in volumes if volume], operations, events)


def say(found: Timeline) -> str:
    """For a terminal."""
    rows = [
        (
            phase.what,
            "" if phase.since_begin_ms is None else f"{phase.since_begin_ms}",
            "" if phase.took_ms is None else f"{phase.took_ms}" + ("*" if phase.resolution_ms > 1 else ""),
            phase.source,
        )
        for phase in found.phases
    ]
    lines = [f"{found.vm}: {found.story}", "", table(("WHAT", "AT MS", "TOOK MS", "FROM"), rows)]
    if any(phase.resolution_ms > 1 and phase.took_ms is not None for phase in found.phases):
        lines.append("* up to 1000 ms less: creation times are kept to the second")
    if found.missing:
        lines += ["", "Not kept:"] + [f"  - {one}" for one in found.missing]
    return "\n".join(lines)
