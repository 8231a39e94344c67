"""ports.Host, its consoles: what every implementation refuses, and how a console ends."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.host.conftest import Site
from tests.contract.host.worlds import HostWorld

from lq_operator.core.result import Conflict, NotFound, Rejected, Transient

ENTER = 28


async def running(world: HostWorld, site: Site, *, screen: bool = True) -> str:
    """A guest in which only the firmware runs."""
    plan = site.plan(await site.gate(), vnc=screen)
    await world.host.define(plan)
    await world.host.start(plan.identity.domain_name)
    return plan.identity.domain_name


async def test_nothing_of_a_domain_that_is_not_there_or_does_not_run(world: HostWorld, site: Site) -> None:
    plan = site.plan(await site.gate())
    for error in (NotFound, Conflict):
        for ask in (world.host.open_console, world.host.screenshot):
            with pytest.raises(error):
                await ask(plan.identity.domain_name)
        with pytest.raises(error):
            await world.host.press_keys(plan.identity.domain_name, [ENTER])
        await world.host.define(plan)


async def test_one_console_at_a_time_and_closing_frees_it(world: HostWorld, site: Site) -> None:
    name = await running(world, site)
    first = await world.host.open_console(name)
    with pytest.raises(Conflict, match="somebody"):
        await world.host.open_console(name)
    await first.write(b"x")
    await first.close()
    await first.close()
    while await first.read():
        pass
    with pytest.raises(Transient):
        await first.write(b"x")
    async with asyncio.timeout(30):
        while True:  # libvirtd learns of the end a moment later
            try:
                second = await world.host.open_console(name)
                break
            except Conflict:
                await asyncio.sleep(0.05)
    await second.close()


async def test_a_console_ends_with_its_guest(world: HostWorld, site: Site) -> None:
    name = await running(world, site)
    console = await world.host.open_console(name)
    await world.host.destroy(name)
    async with asyncio.timeout(30):
        while await console.read():
            pass
    await console.close()


async def test_a_console_does_not_keep_other_calls_waiting(world: HostWorld, site: Site) -> None:
    name = await running(world, site)
    console = await world.host.open_console(name)
    waiting = asyncio.ensure_future(_all_of(console))
    for _ in range(5):
        assert await world.host.find_domain(name)
    assert not waiting.done()
    await console.close()
    async with asyncio.timeout(30):
        await waiting


async def _all_of(console: object) -> None:
    while await console.read():  # type: ignore[attr-defined]
        pass


async def test_a_picture_says_what_it_is(world: HostWorld, site: Site) -> None:
    picture = await world.host.screenshot(await running(world, site))
    magic = {"image/png": b"\x89PNG\r\n\x1a\n", "image/x-portable-pixmap": b"P6"}[picture.mime]
    assert picture.content.startswith(magic)


async def test_a_guest_without_a_screen_is_no_matter_of_time(world: HostWorld, site: Site) -> None:
    name = await running(world, site, screen=False)
    with pytest.raises(Rejected, match=r"spec\.vnc"):
        await world.host.screenshot(name)


async def test_keys_and_pointer(world: HostWorld, site: Site) -> None:
    name = await running(world, site)
    await world.host.press_keys(name, [ENTER])
    for nonsense in ([], [0], [0x300], [30] * 17):
        with pytest.raises(Rejected):
            await world.host.press_keys(name, nonsense)
    await world.host.point(name, 0.5, 0.5, {})
    await world.host.point(name, 1.0, 0.0, {"left": True})
    await world.host.point(name, 1.0, 0.0, {"left": False})
    with pytest.raises(Rejected, match="sideways"):
        await world.host.point(name, 0, 0, {"sideways": True})
