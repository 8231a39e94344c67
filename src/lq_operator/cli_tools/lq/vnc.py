"""vnc vm/NAME: a port on this machine that leads to the guest's screen, for any VNC viewer, until ^C.

Listens on the loopback address only: whoever can connect there is let in as you.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
from argparse import Namespace

import aiohttp

from lq_operator.api.vm import VirtualMachine
from lq_operator.cli_tools.lq.cluster import connect
from lq_operator.cli_tools.lq.gateway import Door, fetch, find_door, web_socket
from lq_operator.cli_tools.lq.names import vm_name
from lq_operator.cli_tools.text import to_json
from lq_operator.controllers.gateway.tasks import until_one_ends
from lq_operator.controllers.gateway.wire import VNC_PROTOCOL
from lq_operator.core.result import Rejected, WorldError

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 64 << 10


async def run(arguments: Namespace) -> int:
    """0 when the viewer ended; without --viewer it goes on until it is interrupted."""
    async with connect(arguments) as cluster:
        vm = await cluster.find(VirtualMachine, vm_name(arguments.vm))
        door = await find_door(cluster, arguments)
        name = vm.metadata.name
        # Asked before a port is opened: what would be refused is refused here, in words.
        await fetch(door, door.of(cluster.namespace, name, "vnc", mode="read", check="1"))
        url = door.of(cluster.namespace, name, "vnc")
    mode = "read" if arguments.read_only else "write"

    async def bridge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _bridge(door, url, mode, reader, writer)
        except WorldError as error:
            print(f"kubectl lq: {error}", file=sys.stderr, flush=True)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    try:
        server = await asyncio.start_server(bridge, LOOPBACK, arguments.port or 0)
    except OSError as error:
        raise Rejected(f"--port {arguments.port}: {error}") from error
    async with server:
        port = server.sockets[0].getsockname()[1]
        if arguments.output == "json":
            print(to_json({"vm": name, "host": LOOPBACK, "port": port}), flush=True)
        else:
            print(f"vm/{name}: {LOOPBACK}::{port} (connect a VNC viewer there; ^C ends it)", flush=True)
        if arguments.viewer:
            return await _view(arguments.viewer, port)
        await server.serve_forever()
    return 0


async def _view(command: str, port: int) -> int:
    words = [word.replace("{port}", str(port)) for word in shlex.split(command)]
    if not words:
        raise Rejected("--viewer: name a program")
    if "{port}" not in command:
        words.append(f"{LOOPBACK}::{port}")
    try:
        viewer = await asyncio.create_subprocess_exec(*words)
    except OSError as error:
        raise Rejected(f"--viewer {words[0]}: {error}") from error
    return await viewer.wait()


async def _bridge(door: Door, url: str, mode: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async with web_socket(door, url, VNC_PROTOCOL, mode) as socket:

        async def outward() -> None:
            while data := await reader.read(CHUNK_BYTES):
                await socket.send_bytes(data)

        async def inward() -> None:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    writer.write(message.data)
                    await writer.drain()

        with contextlib.suppress(ConnectionError):  # one of the two went while something was on its way to it
            await until_one_ends(outward(), inward())
