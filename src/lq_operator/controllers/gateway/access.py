"""Who may do what at the gateway: a bearer token, judged by the API server at the door and again while a session lasts.

Nothing is let in on a guess: an API server that does not answer means 503, not yes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from lq_operator.controllers.gateway.wire import AUTHORIZATION
from lq_operator.core.result import WorldError
from lq_operator.ports import Caller, Doorkeeper
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

PROTOCOL_TOKEN = "base64url.bearer.authorization.k8s.io."  # noqa: S105 - a prefix, as Kubernetes has it for browsers
READ, WRITE = "get", "update"
"""Verbs on virtualmachines/console and virtualmachines/vnc: to see, and to type."""
EXEC = "create"
"""Verb on virtualmachines/exec: to run a command in the guest. No other right includes it."""


@dataclass(slots=True, eq=False)  # not frozen: Python sets the traceback of what passes through a context manager
class Refusal(Exception):
    """`status`: the one of HTTP."""

    status: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Pass:
    """Somebody who was let in. The token is kept to ask again, and printed nowhere."""

    caller: Caller
    token: str
    writes: bool

    def __repr__(self) -> str:
        return f"Pass({self.caller.name}, writes={self.writes})"


@dataclass(frozen=True, slots=True)
class Door:
    """let_in() at the beginning, still_open() while it lasts."""

    doorkeeper: Doorkeeper

    async def let_in(
        self,
        headers: Mapping[str, str],
        kind: str,
        namespace: str,
        name: str,
        *,
        wants_to_write: bool,
        peer: str,
        needs: str = READ,
    ) -> Pass:
        """Refusal otherwise. Who may only read is let in as a reader, also when they asked to write. `needs`: the verb."""
        token = token_of(headers)
        if not token:
            raise _refuse(
                401,
                "Unauthorized",
                f"send a bearer token in {AUTHORIZATION} or Authorization",
                kind,
                namespace,
                name,
                peer,
            )
        try:
            caller = await self.doorkeeper.authenticate(token)
            if caller is None:
                message = "the API server does not accept this token: it is expired, or not one of this cluster"
                raise _refuse(401, "Unauthorized", message, kind, namespace, name, peer)
            allowed, why = await self.doorkeeper.allowed(caller, needs, kind, namespace, name)
            writes = False
            if wants_to_write:
                writes, _ = await self.doorkeeper.allowed(caller, WRITE, kind, namespace, name)
        except WorldError as error:
            raise _refuse(
                503, "Unavailable", f"nobody can be let in now: {error}", kind, namespace, name, peer
            ) from error
        if not allowed and not writes:
            do = f"see {kind} of" if needs == READ else f"{needs} {kind} of"
            message = f"{caller.name} may not {do} vm/{name}: {why}"
            raise _refuse(403, "Forbidden", message, kind, namespace, name, peer, who=caller.name)
        return Pass(caller, token, writes)

    async def still_open(self, ticket: Pass, kind: str, namespace: str, name: str) -> str:
        """Why the session must end, '' while it may go on. An API server that is away ends no session."""
        try:
            caller = await self.doorkeeper.authenticate(ticket.token)
            if caller is None or caller.name != ticket.caller.name:
                return "your token is not accepted any more"
            verb = WRITE if ticket.writes else READ
            allowed, why = await self.doorkeeper.allowed(caller, verb, kind, namespace, name)
        except WorldError as error:
            log.warning("a session cannot be judged again, it goes on", vm=f"{namespace}/{name}", reason=str(error))
            return ""
        return "" if allowed else f"this was taken from you: {why}"


def token_of(headers: Mapping[str, str]) -> str:
    """From our header, Kubernetes' own, or a WebSocket's list of protocols; '' where there is none."""
    for header in (AUTHORIZATION, "Authorization"):
        scheme, _, token = headers.get(header, "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    for protocol in headers.get("Sec-WebSocket-Protocol", "").split(","):
        encoded = protocol.strip().removeprefix(PROTOCOL_TOKEN)
        if encoded != protocol.strip():
            try:
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
            except ValueError:  # not base64, or not text
                return ""
    return ""


def _refuse(
    status: int, reason: str, message: str, kind: str, namespace: str, name: str, peer: str, *, who: str = ""
) -> Refusal:
    result = {401: "unauthenticated", 403: "denied"}.get(status, "unreachable")
    metrics.GATEWAY_REQUESTS.labels(kind, result).inc()
    log.warning("refused", what=kind, vm=f"{namespace}/{name}", who=who, status=status, reason=message, peer=peer)
    return Refusal(status, reason, message)
