"""The command line: arguments only. Every command hands over to a room of its own."""

import sys


def main() -> None:
    """Entry point of `lq-operator`."""
    sys.exit("no command yet")
