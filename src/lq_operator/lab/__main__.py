"""`python -m lq_operator.lab ...`: the same commands as `lq-operator lab ...`."""

import argparse
import sys

from lq_operator.lab import cli


def main() -> int:
    """Parse and run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lq_operator.lab", description=cli.DESCRIPTION)
    cli.add_commands(parser)
    arguments = parser.parse_args()
    return cli.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
