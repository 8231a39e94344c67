"""The gateway's one port: HTTPS, and WebSockets on /namespaces/NS/virtualmachines/NAME/{console,vnc}; /screenshot is a GET,
/exec a POST.

Console frames: binary is the serial line, both ways; text is JSON about the session ({"type": "state"|"role"|"lost"|"note",
"state": ..., "message": ...} to the client, {"type": "resize", "columns": .., "rows": ..} from it).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import cast, get_args

from aiohttp import WSMsgType, web

from lq_operator.controllers.gateway.access import EXEC, READ, Door, Pass, Refusal
from lq_operator.controllers.gateway.commands import MOST_BODY_BYTES, carry_out, order_of
from lq_operator.controllers.gateway.consoles import Hub, Hubs, Mode, Reader
from lq_operator.controllers.gateway.guests import Guests
from lq_operator.controllers.gateway.rfb import Stream, Viewer, goodbye
from lq_operator.controllers.gateway.screens import Screens
from lq_operator.controllers.gateway.tasks import ended, until_one_ends
from lq_operator.controllers.gateway.wire import (
    CONSOLE_PROTOCOL,
    GOING_AWAY,
    MODE,
    POLICY_VIOLATION,
    REASON,
    VNC_PROTOCOL,
)
from lq_operator.core.result import Conflict, NotFound, Rejected, WorldError
from lq_operator.ports import Clock, Events
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

HEARTBEAT_S = 20.0
"""A client that is gone without a word is noticed after this and half of it again."""
MOST_FRAME_BYTES = 64 << 10
MOST_SESSIONS = 500
PICTURE_TYPE = "image/png"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _TakenAway(Exception):  # ends a session whose right is gone
    pass


@dataclass(frozen=True, slots=True)
class About:
    """Which VM, and what of it: console, vnc or screenshot."""

    namespace: str
    name: str
    kind: str


class Gateway:
    """`serve()` until cancelled."""

    def __init__(
        self,
        door: Door,
        guests: Guests,
        events: Events,
        clock: Clock,
        *,
        history_bytes: int,
        recheck_s: float,
        screens: Screens,
    ) -> None:
        self._door = door
        self._guests = guests
        self._events = events
        self._clock = clock
        self._recheck_s = recheck_s
        self._hubs = Hubs(guests, clock, history_bytes)
        self._screens = screens
        self._sessions = 0

    async def serve(self, host: str, port: int, tls: ssl.SSLContext) -> None:
        """Listen on the port, for ever."""
        app = web.Application(middlewares=[_refusals], client_max_size=MOST_BODY_BYTES)
        vm = "/namespaces/{namespace}/virtualmachines/{name}"
        app.router.add_get(f"{vm}/console", self._console)
        app.router.add_get(f"{vm}/screenshot", self._screenshot)
        app.router.add_get(f"{vm}/vnc", self._vnc)
        app.router.add_post(f"{vm}/exec", self._exec)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        forgetting = asyncio.get_running_loop().create_task(self._guests.forget_idle())
        try:
            await web.TCPSite(runner, host or None, port, ssl_context=tls).start()
            log.info("listening", port=port)
            await forgetting
        finally:
            await ended(forgetting)
            await self._hubs.close()
            await runner.cleanup()

    # ------------------------------------------------------------ the door

    async def _enter(
        self, request: web.Request, kind: str, *, wants_to_write: bool, needs: str = READ
    ) -> tuple[About, Pass]:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        about = About(namespace, name, kind)
        if not _NAME.fullmatch(namespace) or not _NAME.fullmatch(name):
            raise Refusal(404, "NotFound", "namespace and name must be names")
        peer = request.remote or ""
        ticket = await self._door.let_in(
            request.headers, kind, namespace, name, wants_to_write=wants_to_write, peer=peer, needs=needs
        )
        # Only now: who may not see a VM learns nothing of which there are.
        self._guests.vm(namespace, name)
        if self._sessions >= MOST_SESSIONS:
            raise Refusal(503, "TooManyRequests", f"{MOST_SESSIONS} sessions are open: try again later")
        metrics.GATEWAY_REQUESTS.labels(kind, "ok").inc()
        log.info("let in", what=kind, vm=f"{namespace}/{name}", who=ticket.caller.name, writes=ticket.writes, peer=peer)
        return about, ticket

    async def _session(self, about: About, ticket: Pass, socket: web.WebSocketResponse, *work: Awaitable[None]) -> None:
        """Until one part ends: the client went, the guest's side is over, or the right was taken."""
        with self._counted(about.kind):
            try:
                await until_one_ends(*work, self._judge(about, ticket))
            except ConnectionError:
                pass  # the client went while something was on its way to it
            except _TakenAway as taken:  # nobody receives any more, who would take the closing for the client's
                await socket.close(code=POLICY_VIOLATION, message=str(taken).encode()[:120])
            finally:
                who = ticket.caller.name
                log.info("left", what=about.kind, vm=f"{about.namespace}/{about.name}", who=who)

    @contextlib.contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        self._sessions += 1
        metrics.GATEWAY_SESSIONS.labels(kind).inc()
        try:
            yield
        finally:
            self._sessions -= 1
            metrics.GATEWAY_SESSIONS.labels(kind).dec()

    async def _judge(self, about: About, ticket: Pass) -> None:
        while True:
            await self._clock.sleep(self._recheck_s)
            why = await self._door.still_open(ticket, about.kind, about.namespace, about.name)
            if why:
                vm = f"{about.namespace}/{about.name}"
                log.warning("ended", what=about.kind, vm=vm, who=ticket.caller.name, reason=why)
                raise _TakenAway(why)

    # ------------------------------------------------------------ console

    async def _console(self, request: web.Request) -> web.StreamResponse:
        mode = _mode(request)
        if mode not in get_args(Mode):
            raise Refusal(400, "BadRequest", f"mode must be one of {', '.join(get_args(Mode))}")
        about, ticket = await self._enter(request, "console", wants_to_write=mode != "read")
        socket = web.WebSocketResponse(
            protocols=(CONSOLE_PROTOCOL,), heartbeat=HEARTBEAT_S, max_msg_size=MOST_FRAME_BYTES
        )
        await socket.prepare(request)
        reader = Reader(ticket.caller.name, cast("Mode", mode) if ticket.writes else "read")
        async with self._hubs.joined(about.namespace, about.name, reader) as hub:
            await self._session(about, ticket, socket, _outward(reader, socket), _inward(hub, reader, socket))
        return socket

    # ------------------------------------------------------------ screen

    async def _screenshot(self, request: web.Request) -> web.StreamResponse:
        about, _ = await self._enter(request, "screenshot", wants_to_write=False)
        async with self._guests.running(about.namespace, about.name) as guest:
            picture = await self._screens.png(guest)
        return web.Response(body=picture, content_type=PICTURE_TYPE, headers={"Cache-Control": "no-store"})

    # ------------------------------------------------------------ commands

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        """Who asked for what is logged and an Event of the VM, also when it is refused; of the command its first word."""
        try:
            about, ticket = await self._enter(request, "exec", wants_to_write=False, needs=EXEC)
        except Refusal as refusal:
            if refusal.status == 403:
                await self._audit_refusal(request, refusal)
            raise
        order = order_of(await request.read())
        vm, who = self._guests.vm(about.namespace, about.name), ticket.caller.name
        log.info("exec", vm=vm.key, who=who, command=order.shown, peer=request.remote or "")
        with self._counted(about.kind):
            async with self._guests.running(about.namespace, about.name) as guest:
                self._events.emit(vm, "Exec", f"{who} runs {order.shown} in the guest")
                answer = await carry_out(guest, order, self._clock)
        log.info("exec ended", vm=vm.key, who=who, command=order.shown, exit_code=answer["exitCode"])
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def _audit_refusal(self, request: web.Request, refusal: Refusal) -> None:
        try:
            shown = order_of(await request.read()).shown
        except (Refusal, web.HTTPException):
            shown = "something that is no command"
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        log.warning("exec refused", vm=f"{namespace}/{name}", command=shown, reason=refusal.message)
        with contextlib.suppress(NotFound):
            vm = self._guests.vm(namespace, name)
            self._events.emit(vm, "ExecRefused", f"{shown}: {refusal.message}"[:1000], warning=True)

    async def _vnc(self, request: web.Request) -> web.StreamResponse:
        about, ticket = await self._enter(request, "vnc", wants_to_write=_mode(request) != "read")
        async with self._guests.running(about.namespace, about.name) as guest:
            # Before the WebSocket begins: a guest without a screen is refused in words.
            await guest.host.screenshot(guest.domain_name)
            if request.query.get("check"):
                return web.json_response({"node": guest.node, "writes": ticket.writes})
            socket = web.WebSocketResponse(
                protocols=(VNC_PROTOCOL,), heartbeat=HEARTBEAT_S, max_msg_size=MOST_FRAME_BYTES
            )
            await socket.prepare(request)
            with self._screens.watched(guest) as screen:
                stream = Stream(_frames(socket))
                viewer = Viewer(
                    guest,
                    screen,
                    about.name,
                    stream,
                    socket.send_bytes,
                    writes=ticket.writes,
                    pointer=self._screens.pointer,
                )
                try:
                    await self._session(about, ticket, socket, viewer.run())
                except WorldError as error:
                    await socket.close(code=GOING_AWAY, message=goodbye(error))
        return socket


def _mode(request: web.Request) -> str:
    """From the query for those who come directly and cannot set headers."""
    return request.headers.get(MODE) or request.query.get("mode") or "write"


async def _frames(socket: web.WebSocketResponse) -> AsyncIterator[bytes]:
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            yield message.data


async def _outward(reader: Reader, socket: web.WebSocketResponse) -> None:
    while True:
        said = await reader.next()
        if said.data:
            await socket.send_bytes(said.data)
        if said.state:
            kind = said.state if said.state in ("role", "lost") else "state"
            await socket.send_str(json.dumps({"type": kind, "state": said.state, "message": said.message}))


async def _inward(hub: Hub, reader: Reader, socket: web.WebSocketResponse) -> None:
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            await hub.type(reader, message.data)
        elif message.type is WSMsgType.TEXT:
            note = _resized(message.data)
            if note:
                await socket.send_str(json.dumps({"type": "note", "state": "", "message": note}))


def _resized(text: str) -> str:
    """What there is to say to a client whose window has changed."""
    try:
        asked = json.loads(text)
        columns, rows = int(asked["columns"]), int(asked["rows"])
        if asked.get("type") == "resize" and 0 < columns < 10_000 and 0 < rows < 10_000:
            return f"a serial line has no size; tell the guest: stty cols {columns} rows {rows}"
    except (ValueError, TypeError, KeyError):
        pass
    return "that was not understood; text frames are JSON: {type: resize, columns, rows}"


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return _status(refusal.status, refusal.reason, refusal.message)
    except NotFound as error:
        return _status(404, "NotFound", str(error))
    except Conflict as error:
        return _status(409, "Conflict", str(error))
    except Rejected as error:
        return _status(422, "Invalid", str(error))
    except WorldError as error:
        return _status(503, "Unavailable", str(error))


def _status(code: int, reason: str, message: str) -> web.Response:
    """As the API server words failures."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
    header = " ".join(message.split())[:400].encode("ascii", "replace").decode()
    headers = {REASON: header}
    if code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response(body, status=code, headers=headers)
