"""Parts of one session that run together and end together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


async def until_one_ends(*parts: Awaitable[None]) -> None:
    """Run them until the first has ended. What it raises is raised here, once the others have ended, too."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await ended(*tasks)


async def ended(*tasks: asyncio.Future[None]) -> None:
    """Cancel and wait: nothing of a session outlives it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
