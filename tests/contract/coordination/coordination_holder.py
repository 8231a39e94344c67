"""A process that holds a lease, to be paused, killed and hung from outside. Speaks JSON lines on stdout.

Modes: `manual` acquires, then renews once for every line on stdin; `lead` runs under leadership.hold with the real
exit; `hang` does so and then blocks its event loop.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.contract.coordination.coordination_parts import Site, opened

from lq_operator.adapters.coordination.leadership import Leadership, hold
from lq_operator.adapters.coordination.lease import Timing
from lq_operator.core.result import Fenced, Transient
from lq_operator.telemetry.logging import configure


def say(**content: Any) -> None:
    print(json.dumps({"at": time.monotonic(), **content}), flush=True)


async def manual(site: Site, name: str) -> None:
    async with opened(site, "manual") as coordination:
        grant = await coordination.acquire(name)
        say(term=grant.term, beat=grant.beat, expires=grant.expires_mono_s)
        while await asyncio.to_thread(sys.stdin.readline):
            try:
                grant = await coordination.renew(grant)
                say(beat=grant.beat)
            except Fenced as error:
                say(fenced=str(error))
            except Transient as error:
                say(transient=str(error))


async def lead(site: Site, name: str, hang: bool) -> None:
    async def main(leadership: Leadership) -> None:
        say(term=leadership.grant.term)
        while True:
            await asyncio.sleep(0.05)
            if hang and leadership.grant.beat > 2:
                say(hanging=True)
                time.sleep(600)  # noqa: ASYNC251 - the point

    async with opened(site, "lead") as coordination:
        await hold(coordination, name, main, timing=Timing(site.ttl_s))


if __name__ == "__main__":
    configure("info", "holder")
    the_site, the_name, mode = Site(**json.loads(sys.argv[1])), sys.argv[2], sys.argv[3]
    asyncio.run(manual(the_site, the_name) if mode == "manual" else lead(the_site, the_name, mode == "hang"))
