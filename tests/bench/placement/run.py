"""All placement benchmarks in one run: a table for people, JSON for machines.

python -m tests.bench.placement.run [--json FILE] [--peers] [--quick]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
from tests.bench.placement.decisions import bench_decisions
from tests.bench.placement.failover import GIB, bench_batch, bench_can_fail, bench_safe_placement

from lq_operator.core.placement.batch import Bins


def machine_us() -> float:
    """CPU microseconds of one numpy comparison of 1000 integers: says how fast this machine is right now."""
    array = np.arange(1000)
    start = time.process_time()
    for _ in range(20_000):
        array > 5  # noqa: B015
    return round((time.process_time() - start) / 20_000 * 1e6, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write all rows here")
    parser.add_argument("--peers", action="store_true", help="run hcheck and hail too (minutes)")
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []

    def show(*new: dict[str, object]) -> None:
        rows.extend(new)
        for row in new:
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)

    show({"bench": "machine", "python": platform.python_version(), "numpy": np.__version__, "compare_us": machine_us()})
    for hosts in (1000,) if options.quick else (1000, 10_000):
        for numpy_alone in (False, True):
            show(bench_decisions(hosts, 3000 if options.quick else 10_000, numpy_alone=numpy_alone))
    for bins in ([Bins(64_000, 256 * GIB, 10**6)], [Bins(256_000, 768 * GIB, 10**6)],
                 [Bins(64_000, 256 * GIB, 800), Bins(128_000, 768 * GIB, 10**6)]):  # fmt: skip
        show(bench_batch(4000 if options.quick else 20_000, bins))
    for hosts in (40, 200) if options.quick else (40, 200, 1000):
        show(*bench_can_fail(hosts, peers=options.peers and hosts <= 200))
    for hosts in (40, 200):
        show(*bench_safe_placement(hosts, peers=options.peers))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
