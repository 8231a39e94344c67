"""Completion: `kubectl_complete-lq`, which kubectl's own bash and zsh completion runs for the plugin `lq`.

It gets the words after `kubectl lq`, the last of them unfinished, and prints one candidate a line, then the directive
of cobra. Never fails and never asks for long: a completion that hangs is worse than none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence

from lq_operator.cli_tools.lq.arguments import build_parser
from lq_operator.cli_tools.lq.verbs import VERBS

NO_FILES = 4
"""cobra's ShellCompDirectiveNoFileComp."""
PATIENCE_S = 5.0
_VM_COMMANDS = (*VERBS, "migrate", "why", "timeline", "tree", "console", "vnc", "screenshot", "exec")
_NODE_COMMANDS = ("cordon", "uncordon", "drain", "undrain", "attest")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `kubectl_complete-lq`."""
    words = list(sys.argv[1:] if argv is None else argv)
    found: list[str] = []
    with contextlib.suppress(Exception):  # whatever it is, the person is typing, not reading
        found = candidates(words)
    print("\n".join([*found, f":{NO_FILES}"]))


def candidates(words: list[str]) -> list[str]:
    """What the last word could become, each with '\\tdescription' where there is one."""
    *before, last = words or [""]
    parser = build_parser()
    commands = _subcommands(parser)
    if not before:
        return _starting(last, {name: help_ for name, (_, help_) in commands.items()})
    command = before[0]
    if command not in commands:
        return []
    chosen = commands[command][0]
    options = {option: action for action in chosen._actions for option in action.option_strings}
    previous = options.get(before[-1])
    if previous is not None and previous.nargs != 0:
        return _values(previous, before, last)
    if last.startswith("-"):
        return _starting(last, {option: action.help or "" for option, action in options.items()})
    nested = _subcommands(chosen)
    if nested:
        return _starting(last, {name: help_ for name, (_, help_) in nested.items()})
    return _positional(command, chosen, before, last)


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {pseudo.dest: pseudo.help or "" for pseudo in action._choices_actions}
            return {name: (choice, helps.get(name, "")) for name, choice in action.choices.items()}
    return {}


def _values(option: argparse.Action, before: list[str], last: str) -> list[str]:
    if option.choices:
        return _starting(last, {str(choice): "" for choice in option.choices})
    if option.dest == "namespace":
        return _starting(last, dict.fromkeys(_ask(before[:-1], "namespaces"), ""))
    if option.dest in ("to", "target_node"):
        return _starting(last, dict.fromkeys(_ask(before[:-1], "nodes"), ""))
    return []


def _positional(command: str, parser: argparse.ArgumentParser, before: list[str], last: str) -> list[str]:
    for action in parser._actions:
        if not action.option_strings and action.choices:
            return _starting(last, {str(choice): "" for choice in action.choices})
    if command in _NODE_COMMANDS:
        prefix = last.rpartition("/")[0]
        names = _ask(before, "nodes")
        return _starting(last, {f"{prefix}/{name}" if prefix else name: "" for name in names if name not in before})
    if command in _VM_COMMANDS:
        named = {word.rpartition("/")[2] for word in before[1:]}
        names = [name for name in _ask(before, "vms") if name not in named]
        return _starting(last, {f"vm/{n}": "" for n in names}) or _starting(last, dict.fromkeys(names, ""))
    return []


def _starting(last: str, options: dict[str, str]) -> list[str]:
    return [f"{name}\t{text}" if text else name for name, text in options.items() if name.startswith(last)]


def _ask(before: list[str], what: str) -> list[str]:
    """Names from the API server, by the connection flags typed so far."""
    from lq_operator.api.node import HypervisorNode
    from lq_operator.api.vm import VirtualMachine
    from lq_operator.cli_tools.lq.arguments import add_connection
    from lq_operator.cli_tools.lq.cluster import connect

    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    add_connection(parser)
    arguments, _ = parser.parse_known_args(before)

    async def ask() -> list[str]:
        async with asyncio.timeout(PATIENCE_S), connect(arguments) as cluster:
            if what == "namespaces":
                page = await cluster.transport.request("GET", "/api/v1/namespaces", what="the namespaces")
                return [str(item["metadata"]["name"]) for item in page["items"]]
            kind = HypervisorNode if what == "nodes" else VirtualMachine
            return sorted(one.metadata.name for one in await cluster.listing(kind))

    return asyncio.run(ask())
