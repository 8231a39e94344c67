"""`lq-operator lab ...`: arguments and words for the person at the terminal; the work is done elsewhere."""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lq_operator.lab import accel, binaries, guest, leftovers, requirements
from lq_operator.lab.datacenter import Lab, take_down
from lq_operator.lab.errors import LabError
from lq_operator.lab.names import LabNames

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DESCRIPTION = "a datacenter on one machine: a real control plane and N real libvirt hosts in namespaces"
_HOST_ACTIONS = ("kill", "start", "freeze", "thaw", "partition", "heal")


def add_parser(subparsers: "Subparsers") -> None:
    """Mount `lab` below another command line; call `run(arguments)` when it was chosen."""
    add_commands(subparsers.add_parser("lab", help=DESCRIPTION, description=DESCRIPTION))


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Every command of the lab."""
    commands = parser.add_subparsers(dest="lab_command", required=True, metavar="COMMAND")
    add = _Adder(commands)
    up = add("up", _up, "start a lab; repeat it to start what has stopped")
    up.add_argument("--hosts", type=int, default=None, help="number of hosts (default 3)")
    up.add_argument("--transport", choices=("tls", "tcp", "ssh"), default=None, help="how hosts are reached (tls)")
    up.add_argument("--no-controlplane", action="store_true", help="hosts only")
    up.add_argument("--kubeconfig", type=Path, help="use this cluster instead of starting one")
    up.add_argument("--tmp-cache", action="store_true", help="when programs are built, keep no Go build cache")
    prepare = add("prepare", _prepare, "build what `up` needs and other programs, start nothing")
    prepare.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"also: {', '.join(binaries.PROGRAMS)}")
    prepare.add_argument("--tmp-cache", action="store_true", help="keep no Go build cache")
    up.add_argument("--accel", choices=("kvm", "tcg"), help="do not probe /dev/kvm")
    add("down", _down, "stop and remove everything of a lab, whatever state it is in")
    add("status", _status, "what runs")
    add("kubeconfig", _kubeconfig, "print the path of the administrator's kubeconfig")
    host = add("host", _host, "power and cables of one host")
    host.add_argument("host", metavar="HOST")
    host.add_argument("action", choices=_HOST_ACTIONS)
    daemon = add("daemon", _daemon, "libvirtd of one host")
    daemon.add_argument("host", metavar="HOST")
    daemon.add_argument("action", choices=("kill", "start"))
    execute = add("exec", _exec, "run a command on a host (or in the fabric: HOST = controller)")
    execute.add_argument("host", metavar="HOST")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    add("apiserver", _apiserver, "the API server").add_argument("action", choices=("stop", "start"))
    add("etcd", _etcd, "etcd").add_argument("action", choices=("kill", "start", "wipe"))
    add("snapshot-etcd", _snapshot, "copy etcd's data into a folder").add_argument("path", type=Path)
    add("restore-etcd", _restore, "put the cluster back to such a copy").add_argument("path", type=Path)
    process = add("process", _process, "controllers kept running by the lab")
    process.add_argument("process", nargs="?", metavar="NAME")
    process.add_argument("action", nargs="?", choices=("kill", "pause", "resume", "stop", "restart", "log"))

    left = add("leftovers", _leftovers, "compare the machine with before: what has a lab left behind?")
    which = left.add_mutually_exclusive_group(required=True)
    which.add_argument("--save", type=Path, metavar="FILE", help="remember what is there now")
    which.add_argument(
        "--since", type=Path, metavar="FILE", help="print what was added since; exit status 1 if anything"
    )
    left.add_argument("--this-lab", action="store_true", help="only what bears this lab's name")


class _Adder:
    """Adds a command with the option that all have."""

    def __init__(self, commands: "Subparsers") -> None:
        self._commands = commands

    def __call__(self, name: str, action: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser = self._commands.add_parser(name, help=text, description=text)
        parser.add_argument("--name", default="lab", dest="lab_name", help="the lab's name (default: lab)")
        parser.set_defaults(lab_action=action)
        return parser


def run(arguments: argparse.Namespace) -> int:
    """Carry out the chosen command; returns the exit status, errors are one message on standard error."""
    action: Callable[[argparse.Namespace], int] = arguments.lab_action
    try:
        return action(arguments)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


class _Progress:
    """A line per step, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f} s] {text}", flush=True)


def _up(arguments: argparse.Namespace) -> int:
    progress = _Progress()
    lab = _existing(arguments) or _create(arguments, progress)
    lab.up(progress, temporary_build_cache=arguments.tmp_cache)
    progress(f"lab {lab.name!r} is up: {len(lab.hosts)} hosts, guests run on {lab.accel}")
    if lab.config.controlplane or lab.config.existing_kubeconfig:
        kubectl = "kubectl" if shutil.which("kubectl") else binaries.find("kubectl")
        print(f"\nTry:  {kubectl} --kubeconfig {lab.kubeconfig} get namespaces")
    print(f"      lq-operator lab exec --name {lab.name} {lab.hosts[0].name} -- virsh list --all")
    print(f"      lq-operator lab status --name {lab.name}\n      lq-operator lab down --name {lab.name}")
    return 0


def _existing(arguments: argparse.Namespace) -> Lab | None:
    try:
        lab = Lab.load(arguments.lab_name)
    except LabError:
        return None
    for option, present in (("hosts", lab.config.hosts), ("transport", lab.config.transport)):
        wanted = getattr(arguments, option)
        if wanted is not None and wanted != present:
            raise LabError(
                f"lab {lab.name!r} exists with --{option} {present}; take it down first "
                f"(`lq-operator lab down --name {lab.name}`) or use another --name"
            )
    return lab


def _create(arguments: argparse.Namespace, progress: _Progress) -> Lab:
    kind = arguments.accel
    if kind is None:
        kind, reason = accel.probe()
        progress(f"guests will run on {kind}: {reason}")
    return Lab.create(
        arguments.lab_name,
        3 if arguments.hosts is None else arguments.hosts,
        transport=arguments.transport or "tls",
        controlplane=not arguments.no_controlplane,
        existing_kubeconfig=arguments.kubeconfig,
        accelerator=kind,
    )


def _prepare(arguments: argparse.Namespace) -> int:
    progress = _Progress()
    if unknown := set(arguments.programs) - binaries.PROGRAMS.keys():
        raise LabError(f"prepare: {', '.join(sorted(unknown))} unknown; there are {', '.join(binaries.PROGRAMS)}")
    requirements.check("tls")
    wanted = {**dict.fromkeys(binaries.FOR_UP), **dict.fromkeys(arguments.programs)}
    for name, path in binaries.ensure(*wanted, progress=progress, temporary_cache=arguments.tmp_cache).items():
        progress(f"{name}: {path}")
    progress(f"guest: {guest.ensure(progress).disk}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    take_down(arguments.lab_name)
    print(f"lab {arguments.lab_name!r} is gone")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    lab = Lab.load(arguments.lab_name)
    rows = [("fabric", "ready" if lab.fabric.access_address() else "missing", lab.netns)]
    if lab.config.controlplane:
        for part in ("etcd", "kube-apiserver", "kube-controller-manager"):
            rows.append((part, "running" if lab.control_plane.running(part) else "stopped", ""))
        rows.append(("kubeconfig", "", str(lab.kubeconfig)))
    for host in lab.hosts:
        state = "off" if not host.alive() else "frozen" if host.frozen() else "running"
        rows.append((host.name, f"{state}, partitioned" if host.partitioned() else state, host.uri))
    for process in lab.supervisor.list():
        state = "paused" if process.paused else process.state
        rows.append((process.name, state, f"restarts {process.restarts}, last exit {process.last_exit}"))
    for name, state, detail in rows:
        print(f"{name:<24} {state:<22} {detail}".rstrip())
    return 0


def _kubeconfig(arguments: argparse.Namespace) -> int:
    print(Lab.load(arguments.lab_name).kubeconfig)
    return 0


def _host(arguments: argparse.Namespace) -> int:
    host = Lab.load(arguments.lab_name).host(arguments.host)
    getattr(host, arguments.action)()
    print(f"{host.name}: {arguments.action} done")
    return 0


def _daemon(arguments: argparse.Namespace) -> int:
    host = Lab.load(arguments.lab_name).host(arguments.host)
    getattr(host, f"daemon_{arguments.action}")()
    print(f"libvirtd on {host.name}: {arguments.action} done")
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    argv = _command_after_dashes(arguments)
    lab = Lab.load(arguments.lab_name)
    inside = [*lab.enter_argv, *argv] if arguments.host == "controller" else lab.host(arguments.host).enter_argv(argv)
    return subprocess.run(inside, check=False).returncode


def _command_after_dashes(arguments: argparse.Namespace) -> list[str]:
    """argparse hands over everything behind HOST; what stands before `--` are still our own options."""
    given: list[str] = arguments.argv
    if "--" in given:
        options = argparse.ArgumentParser(prog="lq-operator lab exec", usage="%(prog)s HOST [--name NAME] -- COMMAND")
        options.add_argument("--name", default=arguments.lab_name, dest="lab_name")
        options.parse_args(given[: given.index("--")], namespace=arguments)
        given = given[given.index("--") + 1 :]
    if not given:
        raise LabError("exec: name a command after `--`")
    return given


def _apiserver(arguments: argparse.Namespace) -> int:
    lab = Lab.load(arguments.lab_name)
    lab.apiserver_stop() if arguments.action == "stop" else lab.apiserver_start()
    return 0


def _etcd(arguments: argparse.Namespace) -> int:
    lab = Lab.load(arguments.lab_name)
    {"kill": lab.etcd_kill, "start": lab.etcd_start, "wipe": lab.etcd_wipe}[arguments.action]()
    return 0


def _snapshot(arguments: argparse.Namespace) -> int:
    Lab.load(arguments.lab_name).etcd_snapshot(arguments.path)
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    Lab.load(arguments.lab_name).etcd_restore(arguments.path)
    return 0


def _leftovers(arguments: argparse.Namespace) -> int:
    names = LabNames.of(arguments.lab_name)
    now = leftovers.of_lab(names) if arguments.this_lab else leftovers.of_machine((names.state_dir.parent,))
    if arguments.save:
        arguments.save.write_text(now.to_json())
        return 0
    added = now.added_since(leftovers.Leftovers.from_json(arguments.since.read_text()))
    print("\n".join(added) or "nothing was left behind")
    return 1 if added else 0


def _process(arguments: argparse.Namespace) -> int:
    supervisor = Lab.load(arguments.lab_name).supervisor
    if arguments.process is None:
        for process in supervisor.list():
            print(process)
    elif arguments.action in (None, "log"):
        print(supervisor.log(arguments.process).read_text(errors="replace"), end="")
    else:
        getattr(supervisor, arguments.action)(arguments.process)
    return 0
