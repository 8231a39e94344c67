"""screenshot vm/NAME: what the guest's screen shows, as a PNG file."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from lq_operator.api.vm import VirtualMachine
from lq_operator.cli_tools.lq.cluster import connect
from lq_operator.cli_tools.lq.gateway import fetch, find_door
from lq_operator.cli_tools.lq.names import vm_name
from lq_operator.cli_tools.text import to_json
from lq_operator.core.result import Rejected


async def run(arguments: Namespace) -> int:
    """Written to --file, by default NAME.png; '-' is standard output."""
    async with connect(arguments) as cluster:
        vm = await cluster.find(VirtualMachine, vm_name(arguments.vm))
        door = await find_door(cluster, arguments)
        picture = await fetch(door, door.of(cluster.namespace, vm.metadata.name, "screenshot"))
    if arguments.file == "-":
        sys.stdout.buffer.write(picture)
        return 0
    file = Path(arguments.file or f"{vm.metadata.name}.png")
    _write(file, picture)
    if arguments.output == "json":
        print(to_json({"vm": vm.metadata.name, "file": str(file), "bytes": len(picture)}))
    else:
        print(f"{file}")
    return 0


def _write(file: Path, picture: bytes) -> None:
    try:
        file.write_bytes(picture)
    except OSError as error:
        raise Rejected(f"--file {file}: {error}") from error
