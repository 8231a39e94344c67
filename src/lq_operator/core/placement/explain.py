"""Words for a decision: one bounded sentence for status and condition, and the verdict of every host on request.

Owns wording only; every number in it comes from the engine's arrays.
"""

from __future__ import annotations

from lq_operator.core.placement.types import Change, Verdict

MAX_SENTENCE = 1024
"""Longest sentence in characters: what a condition message may hold with room to spare (Kubernetes allows 32768)."""


def bounded(text: str, limit: int = MAX_SENTENCE) -> str:
    """Cut at the limit, visibly."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def template_of(terms: tuple[tuple[str, int], ...]) -> str:
    """Format of one ranked host for a class: made once, because names and weights do not change per decision."""
    return "%s %.4f (" + ", ".join([f"{name} %.2fx{weight}" for name, weight in terms]) + ")"


def say_placed(
    best: list[str],
    feasible: int,
    total: int,
    rejected: tuple[tuple[str, int], ...],
    examples: tuple[Verdict, ...],
) -> str:
    """Sentence for a VM that fits: where and why there, what came next (words by `template_of`), what was refused."""
    text = f"best of {feasible} fitting hosts, {total} in all: {', then '.join(best)}"
    if rejected:
        text += f"; refused: {say_rejected(rejected, examples)}"
    return bounded(text)


def say_rejected(rejected: tuple[tuple[str, int], ...], examples: tuple[Verdict, ...]) -> str:
    """Counts per filter, with one host and its number where there is an example."""
    example = {verdict.filter: f" ({verdict.host} {verdict.sentence})" for verdict in examples}
    return ", ".join([f"{name} {count}{example.get(name, '')}" for name, count in rejected])


def say_unplaced(
    total: int, rejected: tuple[tuple[str, int], ...], examples: tuple[Verdict, ...], changes: tuple[Change, ...]
) -> str:
    """Sentence for a VM that fits nowhere: the remedy first, then what refused it."""
    if not total:
        return "0 of 0 hosts fit: no host is known; add a HypervisorNode"
    text = f"0 of {total} hosts fit"
    if changes:
        text += "; it would fit if " + ", or if ".join([change.sentence for change in changes])
    else:
        text += "; no single change makes it fit"
    return bounded(f"{text}; refused: {say_rejected(rejected, examples)}")
