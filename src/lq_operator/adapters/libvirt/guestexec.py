"""Commands run in a guest by its agent: begun, and asked about until they have ended. Plain blocking functions.

What a guest prints is the guest's word: bytes, bounded, passed on and never interpreted.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

import libvirt
import libvirt_qemu

from lq_operator.adapters.libvirt.agent import told, with_agent
from lq_operator.adapters.libvirt.errors import code_of
from lq_operator.core.model import CommandOutcome
from lq_operator.core.result import Rejected

REPLY_TIMEOUT_S = 10
"""For one answer of the agent, which carries the output: megabytes through a virtio serial port."""


def start_command(conn: Any, domain_name: str, argv: Sequence[str], stdin: bytes) -> int:
    """See ports.Host.start_command."""
    arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
    if stdin:
        arguments["input-data"] = base64.b64encode(stdin).decode()
    answer = _command(with_agent(conn, domain_name), "guest-exec", arguments, f"{domain_name}: the command")
    return int(answer["pid"])


def command_outcome(conn: Any, domain_name: str, pid: int, most_bytes: int) -> CommandOutcome | None:
    """See ports.Host.command_outcome."""
    what = f"{domain_name}: the outcome of command {pid}"
    answer = _command(with_agent(conn, domain_name), "guest-exec-status", {"pid": pid}, what)
    if not answer.get("exited"):
        return None
    out, err = _bytes(answer.get("out-data")), _bytes(answer.get("err-data"))
    cut = bool(answer.get("out-truncated") or answer.get("err-truncated") or max(len(out), len(err)) > most_bytes)
    code, signal = answer.get("exitcode"), answer.get("signal")
    return CommandOutcome(
        exit_code=None if code is None else int(code),
        signal=None if signal is None else int(signal),
        stdout=out[:most_bytes],
        stderr=err[:most_bytes],
        truncated=cut,
    )


def _command(dom: Any, verb: str, arguments: dict[str, Any], what: str) -> dict[str, Any]:
    request = json.dumps({"execute": verb, "arguments": arguments})
    try:
        with told(what):
            answer = libvirt_qemu.qemuAgentCommand(dom, request, REPLY_TIMEOUT_S, 0)
    except libvirt.libvirtError as problem:
        if code_of(problem) == libvirt.VIR_ERR_RPC:
            raise Rejected(f"{what}: it printed more than fits into one answer: let it write to a file") from problem
        raise
    try:
        return dict(json.loads(answer)["return"])
    except (ValueError, KeyError, TypeError) as problem:
        raise Rejected(f"{what}: its agent answers what nobody understands") from problem


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(value or "")
    except (binascii.Error, TypeError, ValueError):
        return b""
