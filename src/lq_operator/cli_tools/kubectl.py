"""`kubectl lq ...`: what kubectl runs when it finds `kubectl-lq` on the PATH. Errors become one sentence and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lq_operator.cli_tools.lq.arguments import build_parser
from lq_operator.core.result import Rejected, WorldError

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `kubectl-lq`. Exit codes: 0 done, 1 not done (the sentence says why), 2 usage, 130 interrupted."""
    arguments = build_parser().parse_args(argv)
    try:
        sys.exit(arguments.tool(arguments))
    except Rejected as error:
        sys.exit(f"kubectl lq: {error}")
    except WorldError as error:
        from lq_operator.adapters.kube.errors import Denied  # loaded by now; help must not wait for it

        if isinstance(error, Denied):
            sys.exit(f"kubectl lq: {error}")
        sys.exit(f"kubectl lq: {error}; try again when that has passed")
    except KeyboardInterrupt:
        print("\nkubectl lq: interrupted; what was asked for goes on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(1)
