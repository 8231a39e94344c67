"""`lq-operator simulate`: what would happen if, on the live inventory, by the scheduler's own code, without a write."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from lq_operator.api.vmclass import VirtualMachineClass
from lq_operator.cli_tools.live import Live, read_live
from lq_operator.cli_tools.quiet import libraries_to_stderr
from lq_operator.cli_tools.text import table, to_json
from lq_operator.controllers.scheduler.fleet import Fleet
from lq_operator.convert.power import should_run
from lq_operator.core.placement import PlacementRequest, Shape
from lq_operator.core.placement.whatif import Outcome, add_hosts, hosts_down, hosts_in_domain, maintenance, more_vms
from lq_operator.core.result import Rejected
from lq_operator.core.units import parse_mib

MOST_ROWS = 50

Scenario = Callable[[Live, Fleet, argparse.Namespace], Outcome]


def run(arguments: argparse.Namespace) -> int:
    """List, think, print."""
    live = read_live(arguments.kubeconfig, arguments.context)
    fleet = _fleet(live, arguments.cluster)
    try:
        with libraries_to_stderr():
            outcome = SCENARIOS[arguments.scenario](live, fleet, arguments)
    except ValueError as error:
        raise Rejected(str(error)) from error
    print(to_json({"cluster": fleet.cluster, "sentence": outcome.sentence, "outcome": outcome})
          if arguments.output == "json" else say(outcome))  # fmt: skip
    stuck = [move for move in outcome.moves if move.host is None]
    return 1 if stuck or outcome.unplaced else 0


def _fleet(live: Live, named: str | None) -> Fleet:
    fleets = live.book.fleets
    if named is not None and named not in fleets:
        raise Rejected(f"--cluster {named}: there are {', '.join(sorted(fleets)) or 'no clusters'}")
    if named is None and len(fleets) != 1:
        raise Rejected(f"name one with --cluster: there are {', '.join(sorted(fleets)) or 'no clusters'}")
    return fleets[named or next(iter(fleets))]


def _hosts_down(_live: Live, fleet: Fleet, arguments: argparse.Namespace) -> Outcome:
    return hosts_down(fleet.engine, arguments.host)


def _maintenance(_live: Live, fleet: Fleet, arguments: argparse.Namespace) -> Outcome:
    return maintenance(fleet.engine, arguments.host)


def _rack_down(_live: Live, fleet: Fleet, arguments: argparse.Namespace) -> Outcome:
    key, equals, value = arguments.label.partition("=")
    if not equals:
        raise Rejected(f"{arguments.label}: write KEY=VALUE, for example rack=r1")
    return hosts_down(fleet.engine, hosts_in_domain(fleet.engine, key, value))


def _add_hosts(live: Live, fleet: Fleet, arguments: argparse.Namespace) -> Outcome:
    facts = fleet.facts(arguments.like)
    if facts is None:
        raise Rejected(f"--like {arguments.like}: there is no such host in cluster {fleet.cluster}")
    if arguments.count < 1:
        raise Rejected("--count must be at least 1")
    names = [f"simulated-{number}" for number in range(arguments.count)]
    like = replace(facts, ready=True, not_ready_reason="", cordoned=False, maintenance=False, load=None)
    new = [replace(like, name=name) for name in names]
    return add_hosts(fleet.engine, new, _waiting(live, fleet))


def _waiting(live: Live, fleet: Fleet) -> list[PlacementRequest]:
    """In the scheduler's order."""
    found = [
        known
        for known in live.book.open.values()
        if known.found
        and known.found[0] == fleet.cluster
        and should_run(known.vm)
        and known.placement is not None
        and not known.placement.node
    ]
    found.sort(
        key=lambda known: (-known.vm.spec.availability.priority, known.vm.metadata.creation_timestamp or "", known.key)
    )
    return [
        PlacementRequest(known.key, known.found[1], known.vm.spec.availability.priority)
        for known in found
        if known.found
    ]


def _more_vms(live: Live, fleet: Fleet, arguments: argparse.Namespace) -> Outcome:
    found = live.store.get(VirtualMachineClass, None, arguments.class_name)
    if found is None:
        names = ", ".join(sorted(one.metadata.name for one in live.store.list(VirtualMachineClass)))
        raise Rejected(f"--class {arguments.class_name}: there are {names or 'no classes'}")
    shape = Shape(vcpus=found.spec.cpu, memory_mib=parse_mib(found.spec.memory))
    return more_vms(fleet.engine, arguments.namespace, shape, arguments.count)


SCENARIOS: dict[str, Scenario] = {
    "host-down": _hosts_down,
    "maintenance": _maintenance,
    "rack-down": _rack_down,
    "add-host": _add_hosts,
    "more-vms": _more_vms,
}


def say(outcome: Outcome) -> str:
    """For a terminal: the sentence, where everybody would go, and who could not fail any more."""
    lines = [outcome.sentence]
    moves = [(str(move.identity), move.source, move.host or "-", move.why) for move in outcome.moves]
    placed = [(str(key), "", host, "") for key, host in outcome.placed]
    placed += [(str(key), "", "-", why) for key, why in outcome.unplaced]
    rows = sorted(moves + placed, key=lambda row: (row[2] != "-", row))
    if rows:
        lines += ["", table(("VM", "FROM", "TO", "WHY NOT"), [(*row[:3], row[3][:200]) for row in rows[:MOST_ROWS]])]
    if len(rows) > MOST_ROWS:
        lines.append(f"({len(rows) - MOST_ROWS} more: -o json shows all)")
    lines.append("")
    lines.append(f"cannot fail before: {', '.join(outcome.cannot_fail_before) or 'none'}")
    lines.append(f"cannot fail after:  {', '.join(outcome.cannot_fail_after) or 'none'}")
    return "\n".join(lines)
