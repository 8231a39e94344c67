"""`kubectl lq ...`: what kubectl runs when it finds `kubectl-lq` on the PATH."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lq_operator.cli_tools.commands import add_simulate, add_why
from lq_operator.core.result import Rejected, WorldError


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `kubectl-lq`."""
    parser = argparse.ArgumentParser(
        prog="kubectl lq", description="Questions about virtual machines. Nothing is written."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_why(commands)
    add_simulate(commands)
    arguments = parser.parse_args(argv)
    try:
        sys.exit(arguments.tool(arguments))
    except Rejected as error:
        sys.exit(f"kubectl lq: {error}")
    except WorldError as error:
        sys.exit(f"kubectl lq: {error}; try again when that has passed")
