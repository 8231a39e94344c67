"""exec vm/NAME -- COMMAND ARGUMENT ...: one command in the guest, by its agent; its output and its exit code.

No terminal: for that there is the console. Nothing is expanded: a shell's words need a shell (sh -c '...').
"""

from __future__ import annotations

import base64
import json
import sys
from argparse import Namespace
from typing import Any

from lq_operator.api.vm import VirtualMachine
from lq_operator.cli_tools.lq.cluster import connect
from lq_operator.cli_tools.lq.gateway import find_door, send, tell
from lq_operator.cli_tools.lq.names import vm_name
from lq_operator.cli_tools.text import to_json
from lq_operator.core.result import Rejected, Transient

GRACE_S = 30.0
"""Beyond the command's own time, for the way there."""


async def run(arguments: Namespace) -> int:
    """The command's exit code; 128 + signal when one ended it."""
    argv = list(getattr(arguments, "argv", ()))
    if not argv:
        raise Rejected("say what to run, after two dashes: kubectl lq exec vm/NAME -- uname -a")
    stdin = sys.stdin.buffer.read() if arguments.stdin else b""
    order = {"command": argv, "stdin": base64.b64encode(stdin).decode(), "timeoutSeconds": arguments.timeout}
    async with connect(arguments) as cluster:
        vm = await cluster.find(VirtualMachine, vm_name(arguments.vm))
        door = await find_door(cluster, arguments)
        url = door.of(cluster.namespace, vm.metadata.name, "exec")
        answer = _read(await send(door, url, order, timeout_s=arguments.timeout + GRACE_S))
    out, err = base64.b64decode(answer["stdout"]), base64.b64decode(answer["stderr"])
    if arguments.output == "json":
        texts = {"stdout": out.decode(errors="replace"), "stderr": err.decode(errors="replace")}
        print(to_json({"vm": vm.metadata.name} | answer | texts))
    else:
        sys.stdout.buffer.write(out)
        sys.stdout.flush()
        sys.stderr.buffer.write(err)
        sys.stderr.flush()
        if answer["truncated"]:
            tell("the output is cut: let the command write to a file, or pick from it in the guest (tail, grep)")
    return int(answer["exitCode"]) if answer["exitCode"] is not None else 128 + int(answer["signal"] or 0)


def _read(body: bytes) -> dict[str, Any]:
    try:
        answer = dict(json.loads(body))
        return {key: answer[key] for key in ("exitCode", "signal", "stdout", "stderr", "truncated", "node", "pid")}
    except (ValueError, KeyError, TypeError) as error:
        raise Transient("what answers there is no gateway of this version") from error
