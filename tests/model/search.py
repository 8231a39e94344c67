"""Breadth-first search over the model, with traces; and random walks for what is too big to exhaust."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .environment import steps
from .rules import Rules
from .world import A_PLACEMENT, API, COMMITTED, State, running


@dataclass(frozen=True)
class Result:
    """What a search found. `trace`: the shortest way to two runs of one identity, empty when there is none."""

    states: int
    depth: int
    exhausted: bool
    trace: tuple[str, ...]


def explore(start: State, rules: Rules, *, ha: bool, snapshots: bool, limit: int = 2_000_000) -> Result:
    """All states in reach, or the first `limit`."""
    seen: dict[State, tuple[State, str] | None] = {start: None}
    level, depth = [start], 0
    while level:
        following: list[State] = []
        for state in level:
            for label, after in steps(state, rules, ha=ha, snapshots=snapshots):
                if after in seen:
                    continue
                seen[after] = (state, label)
                if running(after) > 1:
                    return Result(len(seen), depth + 1, False, _trace(seen, after))
                following.append(after)
            if len(seen) > limit:
                return Result(len(seen), depth, False, ())
        level = following
        depth += 1
    return Result(len(seen), depth, True, ())


def _trace(seen: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
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


def reaches_running(start: State, rules: Rules, *, ha: bool, limit: int = 30_000) -> bool | None:
    """Can the guest run again from here? None when `limit` states did not show it."""
    seen = {start}
    level = [start]
    while level:
        following = []
        for state in level:
            if running(state) == 1 and state[API][A_PLACEMENT] is not None and state[API][A_PLACEMENT][0] == COMMITTED:
                return True
            for _, after in steps(state, rules, ha=ha, snapshots=False):
                if after not in seen:
                    seen.add(after)
                    following.append(after)
        if len(seen) > limit:
            return None
        level = following
    return False


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
