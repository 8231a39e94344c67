"""`lq-operator replay FILE`: decide again from a decision record, in this process, and compare byte for byte.

Records come from the scheduler's /debug/decisions/NUMBER; a file holds one, or one per line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lq_operator.cli_tools.quiet import libraries_to_stderr
from lq_operator.core.placement.replay import outcome_of, replay
from lq_operator.core.result import Rejected


def run(arguments: argparse.Namespace) -> int:
    """How many were repeated, on standard error; the first that differs in full."""
    try:
        content = sys.stdin.buffer.read() if arguments.file == "-" else Path(arguments.file).read_bytes()
    except OSError as error:
        raise Rejected(f"cannot read {arguments.file}: {error.strerror or error}") from error
    records = [line for line in content.splitlines() if line.strip()]
    if not records:
        raise Rejected(f"{arguments.file} holds no record; get one from the scheduler's /debug/decisions/NUMBER")
    differing = 0
    for number, record in enumerate(records, start=1):
        with libraries_to_stderr():
            again = repeat(record, f"{arguments.file}, line {number}")
        if arguments.print:
            print(again.decode())
        if again != outcome_of(record):
            differing += 1
            print(
                f"line {number} differs:\nrecorded {outcome_of(record).decode()}\nnow      {again.decode()}",
                file=sys.stderr,
            )
    print(f"{len(records) - differing} of {len(records)} decisions repeated byte for byte", file=sys.stderr)
    return 1 if differing else 0


def repeat(record: bytes, where: str) -> bytes:
    """The outcome decided again, in canonical bytes. Rejected where the record cannot be read."""
    try:
        return replay(record)
    except ValueError as error:
        raise Rejected(f"{where}: this is no decision record ({error})") from error
