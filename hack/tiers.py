"""Runs the test tiers, two at a time, and says how long each took.

    python hack/tiers.py [--lanes N] [TIER ...]

A tier is a pytest run of its own, so that one that dies does not hide the others; its whole output is shown when it
fails. The last line counts all tests: 'N passed, N failed, N skipped'.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

TIERS: dict[str, tuple[str, ...]] = {
    # Pure and quick: no root, no libvirt, no API server.
    "unit": ("tests/unit", "tests/golden", "tests/arch"),
    "model": ("tests/model",),
    "sim": ("tests/sim",),
    # The same suite on the fake and on the real thing.
    "contract-host": ("tests/contract/host",),
    "contract-resources": ("tests/contract/resources",),
    "contract-coordination": ("tests/contract/coordination",),
    # Real API server, libvirtd, QEMU, Helm.
    "e2e-lab": ("tests/e2e/test_lab.py",),
    "e2e-api": ("tests/e2e/test_api_limits.py", "tests/e2e/test_api_shape.py", "tests/e2e/test_examples.py"),
    "e2e-chart": ("tests/e2e/test_chart.py",),
    "e2e-image": ("tests/e2e/test_image.py",),
    "e2e-faults": ("tests/e2e/test_host_lost.py", "tests/e2e/test_forgetting.py", "tests/e2e/test_crashes.py"),
}
SECOND_CHANCES = 3
"""More failures than that are no accident and are not run again."""
LONGEST_FIRST = ("contract-coordination", "e2e-rest", "e2e-faults", "e2e-lab")


@dataclass
class Outcome:
    """One tier's end."""

    name: str
    seconds: float
    code: int
    counts: dict[str, int] = field(default_factory=dict)
    output: str = ""
    second: list[str] = field(default_factory=list)
    """Tests that failed and passed when they were run again, alone: told, because they are somebody's next bug."""


def tiers() -> dict[str, tuple[str, ...]]:
    """The literal ones whose files exist, and one with every other end-to-end test."""
    found = {name: tuple(p for p in paths if (ROOT / p).exists()) for name, paths in TIERS.items()}
    named = {path for paths in TIERS.values() for path in paths}
    rest = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests/e2e").glob("test_*.py"))
    found["e2e-rest"] = tuple(path for path in rest if path not in named)
    return {name: paths for name, paths in found.items() if paths}


def run_tier(name: str, paths: tuple[str, ...]) -> Outcome:
    """Run it to its end; pytest's exit code 5 (no tests) counts as a failure.

    In the tiers with real parts a few failed tests are run once more, alone: emulated guests on two busy cores miss
    deadlines that they meet otherwise. Both outcomes are shown.
    """
    outcome = _pytest(name, paths)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+::\S+)", outcome.output, re.MULTILINE)
    if not name.startswith(("e2e", "contract")) or not 0 < len(failed) <= SECOND_CHANCES or outcome.code != 1:
        return outcome
    again = _pytest(name, tuple(dict.fromkeys(failed)))
    outcome.seconds += again.seconds
    if again.code == 0:
        for word in ("failed", "error"):
            outcome.counts["passed"] = outcome.counts.get("passed", 0) + outcome.counts.pop(word, 0)
        outcome.code, outcome.second = 0, failed
    outcome.output += f"\n===== run again, alone =====\n{again.output}"
    return outcome


def _pytest(name: str, paths: tuple[str, ...]) -> Outcome:
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as sink:
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", *paths]
        code = subprocess.run(argv, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT, check=False).returncode
        sink.seek(0)
        output = sink.read()
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", _last_line(output))}
    return Outcome(name, time.monotonic() - started, code, counts, output)


def _last_line(output: str) -> str:
    return next((line for line in reversed(output.splitlines()) if re.search(r"\d+ (passed|failed|error)", line)), "")


def main() -> int:
    """Entry point; the exit code says whether everything passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("tier", nargs="*", help=f"of {', '.join(tiers())}; default: all")
    arguments = parser.parse_args()
    chosen = {name: paths for name, paths in tiers().items() if not arguments.tier or name in arguments.tier}
    queue = sorted(chosen, key=lambda name: (name not in LONGEST_FIRST, list(chosen).index(name)))
    outcomes: list[Outcome] = []
    lock = threading.Lock()

    def lane(number: int) -> None:
        while True:
            with lock:
                if not queue:
                    return
                # Guests of two labs at once would take both cores: one lane keeps to them while others are left.
                mine = [name for name in queue if name.startswith("e2e") == (number == 0)]
                name = (mine or queue)[0]
                queue.remove(name)
                print(f"[tier] {name} ...", flush=True)
            outcome = run_tier(name, chosen[name])
            with lock:
                outcomes.append(outcome)
                _tell(outcome)

    started = time.monotonic()
    lanes = [threading.Thread(target=lane, args=(number,)) for number in range(arguments.lanes)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    return _summary(outcomes, time.monotonic() - started)


def _tell(outcome: Outcome) -> None:
    said = ", ".join(f"{n} {word}" for word, n in outcome.counts.items()) or "no tests"
    print(
        f"[tier] {outcome.name}: {said} in {outcome.seconds:.0f} s{'' if outcome.code == 0 else '  FAILED'}", flush=True
    )
    if outcome.code != 0:
        print(outcome.output, flush=True)
        return
    for test in outcome.second:
        print(f"         passed only when run again: {test}", flush=True)
    for line in outcome.output.splitlines():
        if line.startswith("SKIPPED"):
            print(f"         {line}", flush=True)


def _summary(outcomes: list[Outcome], seconds: float) -> int:
    print(f"\n{'tier':24} {'seconds':>8} {'passed':>7} {'failed':>7} {'skipped':>8} {'second try':>11}")
    total = {"passed": 0, "failed": 0, "skipped": 0}
    for outcome in sorted(outcomes, key=lambda o: -o.seconds):
        failed = outcome.counts.get("failed", 0) + outcome.counts.get("error", 0)
        failed = max(failed, 1) if outcome.code != 0 else failed
        row = {"passed": outcome.counts.get("passed", 0), "failed": failed, "skipped": outcome.counts.get("skipped", 0)}
        total = {key: total[key] + row[key] for key in total}
        print(
            f"{outcome.name:24} {outcome.seconds:8.0f} {row['passed']:7} {row['failed']:7} {row['skipped']:8} {len(outcome.second):11}"
        )
    print(f"{'wall clock':24} {seconds:8.0f}\n")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
