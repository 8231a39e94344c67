"""Writes docs/reference/protocol-counterexamples.md: `cd tests && python -m model.report` (about ten minutes)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from .families import FAMILIES, REMOVALS, TRACES, Family
from .search import Refused, follow
from .world import initial, running

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "protocol-counterexamples.md"
MARK = "<!-- counterexamples -->\n"
REMEDY = "write the page again: cd tests && python -m model.report"

HEAD = """# The ownership protocol, searched

This page is generated. The model (`tests/model`) has an API server, two hosts, two host-facing processes, a scheduler,
HA and one VM; every write and every listing is a step of its own, so a process can pause, die or come late at each.
Its decisions are the operator's own: `core/failover/protocol.transition`, `inventory.judge_inventory` and
`evidence.judge_attestation`. The invariants: no identity runs twice, and no transition lowers the epoch that a
placement speaks of.

Bounds are budgets: how often each fault or wish may happen. `usurp` is a new holder of the lease while the old one
still believes in its own (a pause), `cut` a partition of a host from the operator, `restore` an etcd snapshot taken
before any write and restored at any later time, `wipe` an etcd lost and manifests applied again for both hosts or one.

Not modelled: three hosts, several shards, the beat, storage locks, decommissioning, virsh by hand, a false attestation.

## What was exhausted
"""

MIDDLE = """
"not all": too big to exhaust, clean to that depth. The big families run with `LQ_MODEL_DEEP=1 pytest tests/model`.
In addition random walks of 200 steps mix every fault, with takeovers in the middle of everything else; and from where
walks of 80 steps end, once faults have stopped, the guest can run again (the way back is searched for each).

Taken away alone, these gave no double start in the families that are not big, because another guard stops the same
one: departure notes, the gate listed after the domains, looking at every host, `epoch_is_new`, `found_displaces`,
`found_elsewhere`, `not_running_here`, `on_the_placed_host`. They stay: what is redundant while the inventory is complete
in every term is not where that is relaxed. Undefining on stop, unique gate names and the term in the record were not
shown to be needed either. Renewal, the quoted term of an attestation, the inventory per term and the last sighting
need more faults than those families have: the scripts 6b, 8, 9 and 10 below take each away alone. Every guard of the
table, needed by the search or not, has a table test that fails without it.

## Counterexamples: what is taken away, and how it then starts twice
"""


def families_table(deep: bool) -> str:
    lines = ["| family | starts | budgets | states | depth | seconds |", "|---|---|---|---|---|---|"]
    for family in FAMILIES:
        if family.deep and not deep:
            continue
        began = time.monotonic()
        result = family.search()
        took = time.monotonic() - began
        budgets = ", ".join(f"{name} {count}" for name, count in family.faults.items()) + (", HA" if family.ha else "")
        end = f"{result.states:,}" if result.exhausted else f"{result.states:,}, not all"
        if result.trace:
            raise SystemExit(f"{family.name} starts twice:\n" + "\n".join(result.trace))
        line = f"| {family.name} | {family.start} | {budgets} | {end} | {result.depth} | {took:.0f} |"
        print(line, file=sys.stderr, flush=True)
        lines.append(line)
    return "\n".join(lines) + "\n"


def counterexamples() -> str:
    """The part that does not depend on the machine; the tests compare it."""
    parts = []
    for removal in REMOVALS:
        trace = removal.search().trace
        parts.append(f"\n### {removal.says}\n\nTaken away: {removal.name}. {len(trace)} steps, the shortest:\n\n")
        parts.append("```\n" + "\n".join(trace) + "\n```\n")
    parts.append("\n## The numbered traces, as scripts\n")
    for trace in TRACES:
        family = Family(trace.name, trace.start, trace.faults)
        world = initial(trace.start, trace.faults)
        twice = running(follow(world, family.rules(*trace.removed), trace.script)) == 2
        try:
            follow(world, family.rules(), trace.script)
        except Refused as refused:
            at = str(refused).split(" is not possible")[0]
        else:
            raise SystemExit(f"trace {trace.name} is not refused")
        parts.append(f"\n### {trace.name}: {trace.title}\n\nWithout {' + '.join(trace.removed)}: ")
        parts.append(f"{'two runs' if twice else 'no double start'}. With everything in place it ends at {at}.\n\n")
        parts.append("```\n" + "\n".join(trace.script) + "\n```\n")
    return "".join(parts)


def main() -> None:
    """Search everything and write the page; `quick` leaves the big families' rows as they are not searched."""
    deep = "quick" not in sys.argv[1:]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(HEAD + "\n" + families_table(deep) + MIDDLE + MARK + counterexamples())


if __name__ == "__main__":
    main()
