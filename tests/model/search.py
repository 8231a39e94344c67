"""Breadth-first search over the model, with traces; and random walks for what is too big to exhaust."""

from __future__ import annotations

import gc
import random
from dataclasses import dataclass

from .environment import steps
from .rules import Rules
from .world import (
    A_PLACEMENT,
    API,
    COMMITTED,
    H_DOMAIN,
    HOSTS,
    P_BACK,
    PROCS,
    RUNS,
    State,
    healed,
    running,
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a search found. `trace`: the shortest way to two runs of one identity, empty when there is none."""

    states: int
    depth: int
    exhausted: bool
    trace: tuple[str, ...]


Seen = dict[State, tuple[State, str] | None]


def explore(start: State, rules: Rules, *, ha: bool, snapshots: bool, limit: int = 2_000_000) -> Result:
    """All states in reach, or the first `limit`."""
    seen, (depth, exhausted, bad) = _reach(start, rules, ha=ha, snapshots=snapshots, limit=limit)
    return Result(len(seen), depth, exhausted, _trace(seen, bad) if bad is not None else ())


def _reach(
    start: State, rules: Rules, *, ha: bool, snapshots: bool, limit: int
) -> tuple[Seen, tuple[int, bool, State | None]]:
    """Breadth first: every state with where it came from; the depth, whether that was all, and the first bad one.

    Nothing here refers in a circle, so Python need not look for that: it takes a third of the time.
    """
    gc.disable()
    try:
        return _breadth_first(start, rules, ha=ha, snapshots=snapshots, limit=limit)
    finally:
        gc.enable()


def _breadth_first(
    start: State, rules: Rules, *, ha: bool, snapshots: bool, limit: int
) -> tuple[Seen, tuple[int, bool, State | None]]:
    seen: Seen = {start: None}
    level, depth = [start], 0
    while level:
        following: list[State] = []
        for state in level:
            for label, after in steps(state, rules, ha=ha, snapshots=snapshots):
                if after in seen:
                    continue
                seen[after] = (state, label)
                if running(after) > 1 or (rules.true_clock and false_alarm(after)):
                    return seen, (depth + 1, False, after)
                following.append(after)
            if len(seen) > limit:
                return seen, (depth, False, None)
        level = following
        depth += 1
    return seen, (depth, True, None)


def false_alarm(state: State) -> bool:
    """A process says that the API server went back."""
    return any(process[P_BACK] for process in state[PROCS])


def _trace(seen: Seen, state: State) -> tuple[str, ...]:
    labels = []
    before = seen[state]
    while before is not None:
        state, label = before
        labels.append(label)
        before = seen[state]
    return tuple(reversed(labels))


def walk(start: State, rules: Rules, seed: int, length: int, *, ha: bool, snapshots: bool) -> tuple[str, ...]:
    """One random walk; the labels up to two runs, empty when there were none."""
    chance = random.Random(seed)
    state, labels = start, []
    for _ in range(length):
        choices = list(steps(state, rules, ha=ha, snapshots=snapshots))
        if not choices:
            break
        label, state = chance.choice(choices)
        labels.append(label)
        if running(state) > 1:
            return tuple(labels)
    return ()


class Refused(AssertionError):
    """A scripted step is not possible; the message says which, and what is."""


def follow(start: State, rules: Rules, script: tuple[str, ...], *, ha: bool = True) -> State:
    """Plays a script: every entry is a piece of the label of the next step. Refused where there is no such step."""
    state = start
    for number, wanted in enumerate(script):
        options = list(steps(state, rules, ha=ha, snapshots=True))
        chosen = [after for label, after in options if wanted in label]
        if not chosen:
            listed = "".join(f"\n    {label}" for label, _ in options)
            raise Refused(f"step {number} {wanted!r} is not possible; these are:{listed}")
        state = chosen[0]
    return state


def reaches_running(
    start: State, rules: Rules, *, ha: bool, limit: int = 30_000, known: set[State] | None = None
) -> bool | None:
    """Can the guest run again from here? None when `limit` states did not show it.

    `known`: states from which it can, of earlier questions with the same rules; those on the way found are added.
    """
    known = set() if known is None else known
    before: dict[State, State | None] = {start: None}
    level = [start]
    while level:
        following = []
        for state in level:
            if state in known or runs_as_placed(state):
                way: State | None = state
                while way is not None:
                    known.add(way)
                    way = before[way]
                return True
            for _, after in steps(state, rules, ha=ha, snapshots=False):
                if after not in before:
                    before[after] = state
                    following.append(after)
        if len(before) > limit:
            return None
        level = following
    return False


def runs_as_placed(state: State) -> bool:
    """One guest runs, where its placement says and under the epoch that it names or an earlier one (after a move)."""
    placement = state[API][A_PLACEMENT]
    if placement is None or placement[0] != COMMITTED or running(state) != 1:
        return False
    domain = state[HOSTS][placement[1]][H_DOMAIN]
    return domain is not None and domain[1] == RUNS


@dataclass(frozen=True)
class Recovery:
    """What the question "does it run again once faults stop?" found for every state of a family.

    `ends`: how many different worlds are left when every fault has stopped and every process was replaced.
    `stuck`: the way to one from which it cannot run again, empty when there is none.
    """

    states: int
    ends: int
    stuck: tuple[str, ...]


def recover(start: State, rules: Rules, alone: Rules, *, ha: bool, snapshots: bool, limit: int) -> Recovery:
    """From every state in reach: power and network return, fresh processes act, and the guest can run."""
    seen, _ = _reach(start, rules, ha=ha, snapshots=snapshots, limit=limit)
    ends: set[State] = set()
    known: set[State] = set()
    for state in seen:
        end = healed(state)
        if end in ends:
            continue
        ends.add(end)
        if not reaches_running(end, alone, ha=ha, known=known):
            return Recovery(len(seen), len(ends), (*_trace(seen, state), "every fault stops"))
    return Recovery(len(seen), len(ends), ())


def end_of_walk(start: State, rules: Rules, seed: int, length: int, *, ha: bool) -> tuple[State, list[str]]:
    """Where one random walk gets to, and how."""
    chance = random.Random(seed)
    state, labels = start, []
    for _ in range(length):
        choices = list(steps(state, rules, ha=ha, snapshots=True))
        if not choices:
            break
        label, state = chance.choice(choices)
        labels.append(label)
    return state, labels
