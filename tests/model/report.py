"""Writes docs/reference/protocol-counterexamples.md: `cd tests && python -m model.report` (about ten minutes)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from .families import FAMILIES, REMOVALS, TRACES
from .search import Refused, follow
from .world import running

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "protocol-counterexamples.md"
MARK = "<!-- counterexamples -->\n"
REMEDY = "write the page again: cd tests && python -m model.report"

HEAD = """# The ownership protocol, searched

This page is generated. The model (`tests/model`) has an API server, two or three hosts, two host-facing processes, a
scheduler, HA and one VM; every write and every listing is a step of its own, so a process can pause, die or come late at
each. Its decisions are the operator's own: `core/failover/protocol.transition`, `inventory.judge_inventory`,
`inventory.record_ahead` and `evidence.judge_attestation`; what the owner of another shard signs is
`tests/model/shards.py` ([0004](../adr/0004-shards-of-hosts.md)). The invariants: no identity runs twice, no
transition lowers the epoch that a placement speaks of, nobody says that the API server went back when it did not, and
from where faults stop the guest runs again.

Bounds are budgets: how often each fault or wish may happen. `usurp` is a new holder of the lease while the old one
still believes in its own (a pause), `cut` a partition of a host from the operator, `restore` an etcd snapshot taken
before any write and restored at any later time, `wipe` an etcd lost and manifests applied again for all hosts or one,
`renew` a renewal by which the lease's beat goes on beside those that every start makes. "Two shards": a host each, with an
owner each and, in the first, a process that may take over from a paused one.

Not modelled: a move from one shard to another, a host that changes its shard, storage locks, decommissioning, virsh by
hand, a false attestation.

## What was exhausted
"""

MIDDLE = """
"not all": too big to exhaust, clean to that depth. The big families run with `LQ_MODEL_DEEP=1 pytest tests/model`.
In addition random walks of 200 steps mix every fault, with takeovers in the middle of everything else.

It runs again when faults stop: for every state of a family (of the first thousands in a big one) power and network return,
every process is replaced by one that knows nothing, and a way to the guest running where its placement says is searched
for; the same from where walks of 80 steps through every fault end. Measured over the small families, up to 60,000 states
each of the older ones and 12,000 of the new: 10,055 different worlds are left when faults stop, and the guest runs again
from all of them (two shards: "partition" and "power, HA" only; the others were not measured). `make test` looks at the
first 2,000 states of most.

The search for a way back found one dead end (family "deletion, partition, power"): the guest was released from h0 by
evidence, committed on h1, and its name used again while both were away. When they returned, h1 left a departure note and
the definition on h0 was refused as stale for ever. The node controller removes such a definition since (a simulator test of
trace 2 fails without it). It is shown that such a way exists, not that every scheduler takes it.

What the beat of a lease adds: a host that remembers a later one than the lease showed when it was acquired tells that the
API server was restored. It cannot replace anything: a host notes it once a minute, and a restore to within that minute is
not heard (trace "10, with the beat": listings of an earlier term, taken as good while no host objects, start twice).

Taken away alone, these gave no double start in the families that are not big, because another guard stops the same
one: departure notes, the gate listed after the domains, looking at every host, `epoch_is_new`, `found_displaces`,
`found_elsewhere`, `not_running_here`, `on_the_placed_host`. They stay: what is redundant while the inventory is complete
in every term is not where that is relaxed. Undefining on stop, unique gate names and the term in the record were not
shown to be needed either. Renewal, the quoted term of an attestation, the inventory per term and the last sighting
need more faults than those families have: the scripts 6b, 8, 9 and 10 below take each away alone. Of the rules for two
shards, that a signature stands on the signer's own Lease and counts under that Lease's present term only was not shown to
be needed: the gate on the asker's host stops what was tried. One host behind two addresses, or another machine behind a
known one, is not in the model (UUID: tests of the takeover and of the table). Every guard of the table, needed by the search or not, has a
table test that fails without it.

## Counterexamples: what is taken away, and how it then starts twice
"""


def families_table(what: str) -> str:
    """One row per family. Those that are not searched keep the row that they have on the page."""
    kept = {line.split("|")[1].strip(): line for line in PAGE.read_text().splitlines() if line.startswith("| ")}
    lines = ["| family | starts | budgets | states | depth | seconds |", "|---|---|---|---|---|---|"]
    for family in FAMILIES:
        if what == "text" or (family.deep and what == "quick"):
            lines.append(kept.get(family.name, f"| {family.name} | {family.start} | not searched yet | | | |"))
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
        family = trace.family()
        world = family.world()
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
    """Search everything and write the page. `quick` leaves the big families' rows as they are, `text` all of them."""
    what = (sys.argv[1:] or ["everything"])[0]
    PAGE.write_text(HEAD + "\n" + families_table(what) + MIDDLE + MARK + counterexamples())


if __name__ == "__main__":
    main()
