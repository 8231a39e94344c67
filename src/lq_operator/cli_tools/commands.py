"""Arguments of the commands for people. Their rooms are imported when they run: `--version` needs neither libvirt nor numpy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_check(commands: Any) -> None:
    """lq-operator check."""
    parser = commands.add_parser(
        "check",
        help="which libvirt hosts can fail today (no Kubernetes)",
        description="Looks at plain libvirt hosts over read-only connections and says which of them can fail today, "
        "which VM stands in the way, what the common CPU costs, and what is badly placed. Nothing is installed, nothing "
        "is written. Exit code: 0 any host can fail, 1 some host cannot, 2 some host did not answer.",
    )
    parser.add_argument("uri", nargs="+", help="for example qemu+tls://h1/system or qemu+ssh://root@h2/system")
    parser.add_argument(
        "--shared",
        action="append",
        default=[],
        metavar="DIR",
        help="a directory that is the same on every host (NFS behind a dir pool); may be repeated",
    )
    parser.add_argument(
        "--cpu-overcommit", type=float, default=4.0, metavar="N", help="vCPUs per host CPU that are fine (default 4)"
    )
    parser.add_argument(
        "--reserve-mib", type=int, default=1024, metavar="MIB", help="memory kept for each host itself (default 1024)"
    )
    _add_output(parser)
    parser.set_defaults(tool=_check)


def add_why(commands: Any) -> None:
    """lq-operator why, kubectl lq why."""
    parser = commands.add_parser(
        "why",
        help="why a VM runs where it runs, or nowhere",
        description="The scheduler's verdict per host, the score of the best and what would make it fit. Exit code 1: it is placed nowhere.",
    )
    parser.add_argument("vm", help="vm/NAME")
    parser.add_argument("-n", "--namespace", help="default: that of the context")
    _add_output(parser)
    _add_connection(parser)
    parser.set_defaults(tool=_why)


def add_replay(commands: Any) -> None:
    """lq-operator replay."""
    parser = commands.add_parser(
        "replay",
        help="repeat recorded placement decisions",
        description="Decides again from each record and compares byte for byte. Exit code 1: another outcome.",
    )
    parser.add_argument("file", help="a file with one record per line, - for standard input")
    parser.add_argument("--print", action="store_true", help="print the outcomes (canonical JSON, one per line)")
    parser.set_defaults(tool=_replay)


def add_simulate(commands: Any) -> None:
    """lq-operator simulate, kubectl lq simulate."""
    parser = commands.add_parser(
        "simulate",
        help="what would happen if a host failed, a rack, ...",
        description="Asks the live inventory by the scheduler's own code, without a write. Exit code 1: a VM finds no room.",
    )
    scenarios = parser.add_subparsers(dest="scenario", metavar="SCENARIO", required=True)
    for name, text in (("host-down", "these hosts fail together"), ("maintenance", "these hosts are drained")):
        _add_scenario(scenarios, name, text).add_argument("host", nargs="+")
    rack = _add_scenario(scenarios, "rack-down", "every host with this label fails")
    rack.add_argument("label", metavar="KEY=VALUE", help="for example rack=r1")
    add = _add_scenario(scenarios, "add-host", "more hosts like one there is; waiting VMs are tried again")
    add.add_argument("--like", required=True, metavar="HOST")
    add.add_argument("--count", type=int, default=1)
    more = _add_scenario(scenarios, "more-vms", "more VMs of a class arrive")
    more.add_argument("--class", required=True, dest="class_name", metavar="CLASS")
    more.add_argument("--count", type=int, required=True)
    more.add_argument("-n", "--namespace", default="default")


def add_explain(commands: Any) -> None:
    """lq-operator explain."""
    parser = commands.add_parser("explain", help="what a change of each field does to a running VM")
    topics = parser.add_subparsers(dest="topic", metavar="TOPIC", required=True)
    text = "every field of VirtualMachine.spec: live, with a power cycle, with a move, impossible"
    fields = topics.add_parser("fields", help=text, description=text)
    action = fields.add_mutually_exclusive_group()
    action.add_argument("--write", type=Path, metavar="ROOT", help="write page and policy into this checkout")
    action.add_argument("--check", type=Path, metavar="ROOT", help="fail when those of this checkout differ")
    _add_output(fields)
    fields.set_defaults(tool=_explain)


def _add_scenario(scenarios: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = scenarios.add_parser(name, help=text, description=text)
    parser.add_argument("--cluster", help="HypervisorCluster; needed where there are several")
    _add_output(parser)
    _add_connection(parser)
    parser.set_defaults(tool=_simulate)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")


def _add_connection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, then ~/.kube/config")
    parser.add_argument("--context", help="of the kubeconfig; default: its current one")


def _check(arguments: argparse.Namespace) -> int:
    from lq_operator.cli_tools import check

    return check.run(arguments)


def _why(arguments: argparse.Namespace) -> int:
    from lq_operator.cli_tools import why

    return why.run(arguments)


def _explain(arguments: argparse.Namespace) -> int:
    from lq_operator.cli_tools import explain

    return explain.run(arguments.write, arguments.check, arguments.output)


def _replay(arguments: argparse.Namespace) -> int:
    from lq_operator.cli_tools import replay

    return replay.run(arguments)


def _simulate(arguments: argparse.Namespace) -> int:
    from lq_operator.cli_tools import simulate

    return simulate.run(arguments)
