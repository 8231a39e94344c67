"""Commands in guests, for whoever may create virtualmachines/exec: one request, one answer, bounded in time and bytes.

No terminal and no streams: the agent hands the output over when the command has ended. It is not killed at the time
limit (the agent cannot), so the answer names its pid.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from lq_operator.controllers.gateway.access import Refusal
from lq_operator.controllers.gateway.guests import Guest
from lq_operator.core.model import CommandOutcome
from lq_operator.core.result import OutcomeUnknown, Transient
from lq_operator.ports import Clock

MOST_ARGUMENTS = 256
MOST_COMMAND_BYTES = 64 << 10
MOST_INPUT_BYTES = 1 << 20
MOST_OUTPUT_BYTES = 1 << 20
"""Of each of standard output and error; the rest is cut and said."""
MOST_BODY_BYTES = 2 << 20
# Not bounded here, because guest-exec has no limit of its own: an answer above libvirt's 10 MB makes libvirt drop the agent
# until the guest opens its channel anew (measured with 9 MB of output: "not available due to an error").
MOST_SECONDS = 300
_FIRST_LOOK_S, _LAST_LOOK_S = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run, for how long it is waited for (seconds). Its repr shows no more than its first word: arguments
    and input may be secrets."""

    argv: tuple[str, ...]
    stdin: bytes = b""
    timeout_s: float = 30.0

    @property
    def shown(self) -> str:
        """For logs and Events."""
        return "".join(c for c in self.argv[0] if c.isprintable())[:100]

    def __repr__(self) -> str:
        return f"Order({self.shown!r}, ...)"


def order_of(body: bytes) -> Order:
    """{"command": [...], "stdin": BASE64, "timeoutSeconds": N}; Refusal 400 names the field."""
    try:
        asked: Any = json.loads(body)
        argv, timeout_s = tuple(asked["command"]), asked.get("timeoutSeconds", 30)
        stdin = base64.b64decode(asked.get("stdin", ""), validate=True)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, RecursionError):
        raise _bad('write JSON: {"command": ["/bin/ls", "-l"], "stdin": BASE64, "timeoutSeconds": 30}') from None
    if not 1 <= len(argv) <= MOST_ARGUMENTS or not all(isinstance(word, str) and "\0" not in word for word in argv):
        raise _bad(f"command: 1 to {MOST_ARGUMENTS} words")
    if not argv[0] or sum(len(word.encode(errors="replace")) for word in argv) > MOST_COMMAND_BYTES:
        raise _bad(f"command: at most {MOST_COMMAND_BYTES} bytes, beginning with a program")
    if not isinstance(timeout_s, int) or isinstance(timeout_s, bool) or not 1 <= timeout_s <= MOST_SECONDS:
        raise _bad(f"timeoutSeconds: a whole number from 1 to {MOST_SECONDS}")
    if len(stdin) > MOST_INPUT_BYTES:
        raise _bad(f"stdin: at most {MOST_INPUT_BYTES} bytes")
    return Order(argv, stdin, float(timeout_s))


async def carry_out(guest: Guest, order: Order, clock: Clock) -> dict[str, Any]:
    """The answer's body. Refusal 504 when it has not ended in time; whatever else is raised, it may have run."""
    pid = await guest.host.start_command(guest.domain_name, order.argv, stdin=order.stdin)
    deadline_s, wait_s = clock.mono_s() + order.timeout_s, _FIRST_LOOK_S
    while True:
        await clock.sleep(wait_s)
        try:
            ended = await guest.host.command_outcome(guest.domain_name, pid, most_bytes=MOST_OUTPUT_BYTES)
        except Transient as error:
            raise OutcomeUnknown(
                f"it was begun in the guest as pid {pid}; how it ended is not known: {error} "
                "(if it prints more than 3 MiB, let it write to a file)"
            ) from error
        if ended is not None:
            return _told(ended, guest.node, pid)
        if clock.mono_s() >= deadline_s:
            message = f"it runs still after {order.timeout_s:.0f} s, in the guest as pid {pid}: end it there (kill {pid}), or wait longer (--timeout)"
            raise Refusal(504, "Timeout", message)
        wait_s = min(wait_s * 2, _LAST_LOOK_S)


def _told(ended: CommandOutcome, node: str, pid: int) -> dict[str, Any]:
    return {
        "exitCode": ended.exit_code,
        "signal": ended.signal,
        "stdout": base64.b64encode(ended.stdout).decode(),
        "stderr": base64.b64encode(ended.stderr).decode(),
        "truncated": ended.truncated,
        "node": node,
        "pid": pid,
    }


def _bad(message: str) -> Refusal:
    return Refusal(400, "BadRequest", message)
