"""Decisions per CPU second with everything on: filters, anti-affinity, spreading, explanation text, events mixed in."""

from __future__ import annotations

import gc
import time

from tests.bench.placement.stream import Stream

from lq_operator.core.placement import PlacementEngine, kernel


def bench_decisions(
    hosts: int, decisions: int, *, classes: int = 96, seed: int = 1, numpy_alone: bool = False
) -> dict[str, object]:
    """One arrival = decide + reserve + set_vm; 0.9 departures and 0.05 host changes per arrival, all in the time.

    numpy_alone: without the compiled loops.
    """
    loops = kernel.library
    kernel.library = None if numpy_alone else loops
    try:
        row = _run(hosts, decisions, classes, seed)
    finally:
        kernel.library = loops
    return {"bench": "decisions", "loops": "numpy" if numpy_alone or loops is None else "compiled", **row}


def _run(hosts: int, decisions: int, classes: int, seed: int) -> dict[str, object]:
    engine = PlacementEngine("balanced", seed=seed)
    stream = Stream(hosts, engine, classes=classes, seed=seed)
    for _ in range(2 * classes):
        request = stream.request()
        stream.bind(request, engine.decide(request).host)
    latency, characters, filters = [], 0, set()
    stream.unplaced = 0
    gc.collect()
    gc.freeze()  # as the scheduler does once its caches are filled
    start = time.process_time()
    for _ in range(decisions):
        request = stream.request()
        before = time.process_time_ns()
        decision = engine.decide(request)
        latency.append(time.process_time_ns() - before)
        characters += len(decision.sentence)
        filters.update(name for name, _ in decision.rejected)
        stream.bind(request, decision.host)
        if stream.rng.random() < 0.9:
            stream.depart()
        if stream.rng.random() < 0.05:
            stream.change_host()
    cpu = time.process_time() - start
    latency.sort()
    return {
        "hosts": hosts,
        "classes": classes,
        "decisions": decisions,
        "unplaced": stream.unplaced,
        "cpu_s": round(cpu, 3),
        "per_s_with_events": round(decisions / cpu),
        "per_s_decide_only": round(decisions / (sum(latency) / 1e9)),
        "p50_us": round(latency[len(latency) // 2] / 1e3, 1),
        "p99_us": round(latency[len(latency) * 99 // 100] / 1e3, 1),
        "max_us": round(latency[-1] / 1e3, 1),
        "sentence_chars": characters // decisions,
        "filters_that_refused": len(filters),
    }


if __name__ == "__main__":
    import sys

    for size in sys.argv[1:] or ("1000", "10000"):
        for numpy_alone in (False, True):
            print(bench_decisions(int(size), 5000, numpy_alone=numpy_alone))
