"""`python -m tests.bench [NAME ...]`: every benchmark, or those named. Figures are printed, never asserted."""

from __future__ import annotations

import argparse
import subprocess
import sys

BENCHES = {
    "starts": "tests.bench.operator.starts",
    "isolation": "tests.bench.operator.isolation",
    "footprint": "tests.bench.operator.footprint",
    "binds": "tests.bench.operator.binds",
    "moves": "tests.bench.operator.moves",
    "bare-moves": "tests.bench.bare_moves",
    "emulated-moves": "tests.bench.emulated_moves",
    "placement": "tests.bench.placement.run",
}


def main() -> int:
    """Run them one after the other; one that fails is told and does not stop the rest."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", nargs="*", help="which ones; default: all")
    chosen = parser.parse_args().name or list(BENCHES)
    if unknown := set(chosen) - set(BENCHES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    failed = []
    for name in chosen:
        print(f"-- {name}", flush=True)
        # Each in a process of its own: one that dies does not take the others along.
        if subprocess.run([sys.executable, "-m", BENCHES[name]], check=False).returncode:
            print(f"-- {name} failed", flush=True)
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
