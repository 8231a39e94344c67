"""The command line: arguments only. Every command hands over to a room of its own."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from lq_operator import __version__
from lq_operator.core.result import Rejected, WorldError


def _parser() -> argparse.ArgumentParser:
    from lq_operator.cli_tools import commands as tools
    from lq_operator.lab import cli as lab_cli

    parser = argparse.ArgumentParser(
        prog="lq-operator",
        description="Virtual machines on plain libvirt hosts, driven by Kubernetes custom resources.",
    )
    parser.add_argument("--version", action="version", version=f"lq-operator {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in (
        ("run", "the controllers that talk to hosts: nodes, VMs, volumes, networks, pools"),
        ("importer", "streams images from URLs into pools"),
        ("scheduler", "chooses a host for every VM that should run"),
        ("gateway", "consoles and screens of VMs for people, over one authenticated port"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--config", type=Path, required=True, help="YAML file with the process's settings")
    crds = commands.add_parser("crds", help="write or check the CustomResourceDefinitions")
    action = crds.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="DIR", help="write them into DIR")
    action.add_argument("--check", type=Path, metavar="DIR", help="fail when DIR differs from the models")
    crds.add_argument("--docs", type=Path, metavar="DIR", help="the reference pages too, in this folder")
    for add_tool in (tools.add_check, tools.add_simulate, tools.add_why, tools.add_replay, tools.add_explain):
        add_tool(commands)
    lab_cli.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `lq-operator`."""
    arguments = _parser().parse_args(argv)
    try:
        sys.exit(_dispatch(arguments))
    except Rejected as error:
        sys.exit(f"lq-operator: {error}")
    except WorldError as error:
        sys.exit(f"lq-operator: {error}; try again when that has passed")


def _dispatch(arguments: argparse.Namespace) -> int:
    if hasattr(arguments, "lab_action"):
        from lq_operator.lab import cli as lab_cli

        return lab_cli.run(arguments)
    if hasattr(arguments, "tool"):
        return int(arguments.tool(arguments))
    if arguments.command == "crds":
        return _crds(arguments)
    return _process(arguments)


def _process(arguments: argparse.Namespace) -> int:
    # Imported late: `--version` and `crds` must not need libvirt or a cluster.
    from lq_operator import app
    from lq_operator.config import GatewaySettings, ImporterSettings, RunSettings, SchedulerSettings, load_settings

    match arguments.command:
        case "run":
            asyncio.run(app.run_hosts(load_settings(RunSettings, arguments.config)))
        case "scheduler":
            asyncio.run(app.run_scheduler(load_settings(SchedulerSettings, arguments.config)))
        case "gateway":
            asyncio.run(app.run_gateway(load_settings(GatewaySettings, arguments.config)))
        case _:
            asyncio.run(app.run_importer(load_settings(ImporterSettings, arguments.config)))
    return 0


def _crds(arguments: argparse.Namespace) -> int:
    from lq_operator.api import crdgen, docgen

    if arguments.write is not None:
        crdgen.write(arguments.write)
        if arguments.docs is not None:
            docgen.write(arguments.docs)
        return 0
    problems = crdgen.check(arguments.check)
    if arguments.docs is not None:
        problems += docgen.check(arguments.docs)
    for line in problems:
        print(line)
    return 1 if problems else 0
