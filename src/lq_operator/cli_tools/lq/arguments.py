"""Arguments of `kubectl lq`: names, flags, help. Each command's room is imported when it runs."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lq_operator.cli_tools.commands import add_simulate, add_why
from lq_operator.cli_tools.lq.names import did_you_mean
from lq_operator.cli_tools.lq.verbs import VERBS

VM, NODE = "vm", "node"
"""What a positional argument names; completion looks them up."""


class Parser(argparse.ArgumentParser):
    """Says which command was probably meant."""

    takes_command = False
    """Whatever follows `--` is not ours: argparse takes what looks like our flags out of it."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As it is, but for the words after `--` of a command that takes a command: they become `argv`."""
        if not self.takes_command or args is None or "--" not in args:
            return super().parse_known_args(args, namespace)
        cut = list(args).index("--")
        found, extra = super().parse_known_args(args[:cut], namespace)
        found.argv = list(args[cut + 1 :])
        return found, extra

    def error(self, message: str) -> NoReturn:
        """Usage on standard error, exit code 2."""
        if "invalid choice:" in message and "argument COMMAND" in message:
            typed = message.split("invalid choice: ")[1].split("'")[1]
            message = f"there is no command {typed}{did_you_mean(typed, COMMANDS)}"
            print(f"kubectl lq: {message}", file=sys.stderr)
            raise SystemExit(2)
        super().error(message)


COMMANDS: dict[str, Callable[[Any], argparse.ArgumentParser]] = {}
"""Filled by the functions below; the order is that of the help."""


def _verb(name: str) -> Callable[[Any], argparse.ArgumentParser]:
    def add(commands: Any) -> argparse.ArgumentParser:
        parser = _command(commands, name, VERBS[name][2], "operate", "run")
        _positional(parser, "vm", VM, "vm/NAME ...", nargs="*")
        parser.add_argument("-l", "--selector", help="by labels instead of names, as kubectl takes it")
        if name in ("stop", "restart"):
            parser.add_argument("--force", action="store_true", help="do not ask the guest: cut it off now")
        parser.add_argument(
            "--timeout", type=_seconds, metavar="SECONDS", help="the operation is given up after this (default 600)"
        )
        _add_wait(parser)
        return parser

    return add


def _cordon(name: str, text: str) -> Callable[[Any], argparse.ArgumentParser]:
    def add(commands: Any) -> argparse.ArgumentParser:
        parser = _command(commands, name, text, "hosts", name)
        _positional(parser, "node", NODE, "NODE ...", nargs="+")
        return parser

    return add


def _migrate(commands: Any) -> argparse.ArgumentParser:
    parser = _command(commands, "migrate", "move a running VM to another host, live", "migrate", "run")
    _positional(parser, "vm", VM, "vm/NAME")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--to", metavar="NODE", help="the host to move to (default: the scheduler picks one)")
    way.add_argument("--cancel", action="store_true", help="call off the move that is under way")
    _add_wait(parser)
    return parser


def _drain(commands: Any) -> argparse.ArgumentParser:
    text = "move everything off a host, until it is in maintenance (undrain ends it)"
    parser = _command(commands, "drain", text, "hosts", "drain")
    _positional(parser, "node", NODE, "NODE")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="stop waiting after this (default 3600)")
    _add_wait(parser)
    return parser


def _undrain(commands: Any) -> argparse.ArgumentParser:
    parser = _command(commands, "undrain", "end a host's maintenance, or a drain half-way", "hosts", "undrain")
    _positional(parser, "node", NODE, "NODE")
    return parser


def _attest(commands: Any) -> argparse.ArgumentParser:
    parser = _command(
        commands,
        "attest",
        "state that a host is off, so that its VMs may start elsewhere",
        "attest",
        "run",
        more="Only somebody who saw it may say so: if the host still runs, its VMs run twice and their disks are destroyed.",
    )
    _positional(parser, "node", NODE, "NODE")
    parser.add_argument("--seen", help="what you saw; asked for on a terminal")
    parser.add_argument("--destroyed", action="store_true", help="it will never run again (default: it has no power)")
    parser.add_argument("--attested-by", help="who you are (default: the name by which the API server knows you)")
    parser.add_argument("--yes", action="store_true", help="do not ask to type the host's name")
    _add_wait(parser)
    return parser


def _timeline(commands: Any) -> argparse.ArgumentParser:
    parser = _command(commands, "timeline", "milliseconds per phase of a VM's last start", "timeline", "run")
    _positional(parser, "vm", VM, "vm/NAME")
    return parser


def _top(commands: Any) -> argparse.ArgumentParser:
    parser = _command(
        commands, "top", "sizes, room and states of VMs or hosts; no load, nothing measures it", "top", "run"
    )
    parser.add_argument("what", nargs="?", choices=("vms", "nodes"), default="vms")
    return parser


def _tree(commands: Any) -> argparse.ArgumentParser:
    parser = _command(
        commands, "tree", "a VM and what it stands on: disks, images, networks, host, operations", "tree", "run"
    )
    _positional(parser, "vm", VM, "vm/NAME")
    return parser


def _console(commands: Any) -> argparse.ArgumentParser:
    text = "the guest's serial console; leave it with ^]"
    parser = _command(commands, "console", text, "console", "run", more="Several may read; one types.")
    _positional(parser, "vm", VM, "vm/NAME")
    role = parser.add_mutually_exclusive_group()
    role.add_argument("--read-only", action="store_true", help="see it and type nothing")
    role.add_argument("--take", action="store_true", help="take the keyboard from whoever types now")
    role.add_argument("--share", action="store_true", help="type together with others who asked for that")
    parser.add_argument(
        "--linger",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="after the end of a standard input that is no terminal",
    )
    _add_gateway(parser)
    return parser


def _exec(commands: Any) -> argparse.ArgumentParser:
    text = "run a command in the guest, by its agent"
    parser = _command(
        commands, "exec", text, "execute", "run", more="vm/NAME -- COMMAND ARGUMENT ... Its exit code is this one's."
    )
    _positional(parser, "vm", VM, "vm/NAME")
    parser.add_argument("-i", "--stdin", action="store_true", help="pass standard input to it, to its end (1 MiB)")
    parser.add_argument(
        "--timeout", type=_seconds, default=30, metavar="SECONDS", help="wait that long (default 30, at most 300)"
    )
    _add_gateway(parser)
    parser.takes_command = True  # type: ignore[attr-defined]
    return parser


def _screenshot(commands: Any) -> argparse.ArgumentParser:
    parser = _command(commands, "screenshot", "what the guest's screen shows, as PNG", "screenshot", "run")
    _positional(parser, "vm", VM, "vm/NAME")
    parser.add_argument("-f", "--file", help="where to write it (default NAME.png; - is standard output)")
    _add_gateway(parser)
    return parser


def _vnc(commands: Any) -> argparse.ArgumentParser:
    text = "a port on this machine that leads to the guest's screen, for any VNC viewer"
    parser = _command(commands, "vnc", text, "vnc", "run")
    _positional(parser, "vm", VM, "vm/NAME")
    parser.add_argument("--port", type=int, default=0, help="which port (default: a free one)")
    parser.add_argument(
        "--viewer", metavar="CMD", help="start this; {port} in it is the port, else 127.0.0.1::PORT is added"
    )
    parser.add_argument("--read-only", action="store_true", help="see it; keys and mouse are not passed on")
    _add_gateway(parser)
    return parser


def _add_gateway(parser: argparse.ArgumentParser) -> None:
    way = parser.add_argument_group("the way to the gateway (default: through the API server)")
    way.add_argument(
        "--gateway-service", default="lq-system/lq-operator-gateway", metavar="NAMESPACE/NAME", help="its Service"
    )
    way.add_argument("--gateway", metavar="URL", help="go there directly, https://HOST:PORT ($LQ_GATEWAY)")
    way.add_argument("--gateway-ca", metavar="FILE", help="with --gateway: the authority that signed its certificate")
    way.add_argument("--insecure-skip-tls-verify", action="store_true", help="with --gateway: trust any certificate")
    way.add_argument("--token", help="bearer token ($LQ_TOKEN; default: that of the kubeconfig)")
    way.add_argument("--service-account", metavar="NAME", help="ask the API server for a token of this ServiceAccount")


def _why(commands: Any) -> argparse.ArgumentParser:
    add_why(commands)
    parser: argparse.ArgumentParser = commands.choices["why"]
    return parser


def _simulate(commands: Any) -> argparse.ArgumentParser:
    add_simulate(commands)
    parser: argparse.ArgumentParser = commands.choices["simulate"]
    return parser


COMMANDS |= {name: _verb(name) for name in VERBS}
COMMANDS |= {
    "console": _console,
    "vnc": _vnc,
    "screenshot": _screenshot,
    "exec": _exec,
    "migrate": _migrate,
    "drain": _drain,
    "undrain": _undrain,
    "cordon": _cordon("cordon", "no new VMs on these hosts; those there stay"),
    "uncordon": _cordon("uncordon", "new VMs may be placed on these hosts again"),
    "attest": _attest,
    "why": _why,
    "simulate": _simulate,
    "timeline": _timeline,
    "top": _top,
    "tree": _tree,
}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(prog="kubectl lq", description="Virtual machines: what people do with them all day.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for add in COMMANDS.values():
        add(commands)
    return parser


def add_connection(parser: argparse.ArgumentParser) -> None:
    """The flags that kubectl has."""
    parser.add_argument("-n", "--namespace", help="default: that of the context")
    parser.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, then ~/.kube/config")
    parser.add_argument("--context", help="of the kubeconfig; default: its current one")


def _command(
    commands: Any, name: str, text: str, module: str, function: str, *, more: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{name}: {text}. {more}".strip()
    )
    add_connection(parser)
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")

    def tool(arguments: argparse.Namespace) -> int:
        room = importlib.import_module(f"lq_operator.cli_tools.lq.{module}")
        return int(asyncio.run(getattr(room, function)(arguments)))

    parser.set_defaults(tool=tool)
    return parser


def _positional(parser: argparse.ArgumentParser, name: str, kind: str, metavar: str, nargs: str | None = None) -> None:
    text = {VM: "vm/NAME or NAME", NODE: "name of a HypervisorNode"}[kind]
    action = parser.add_argument(name, nargs=nargs, help=text) if nargs else parser.add_argument(name, help=text)
    action.metavar = metavar


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-wait",
        dest="wait",
        action="store_false",
        help="ask for it and return; what was asked is carried out anyway",
    )


def _seconds(text: str) -> int:
    number = text.removesuffix("s")
    if not number.isdecimal() or not 1 <= int(number) <= 86400:
        raise argparse.ArgumentTypeError(f"{text}: whole seconds from 1 to 86400, for example 90 or 90s")
    return int(number)
