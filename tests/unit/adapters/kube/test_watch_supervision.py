"""The supervisor of kopf: starts it again, gives up only while the API server answers, never outlives stop()."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

import pytest

from lq_operator.adapters.kube import watch as watch_module
from lq_operator.adapters.kube.client import KubeResources, Listing
from lq_operator.adapters.kube.endpoint import Endpoint
from lq_operator.adapters.kube.store import WatchStore
from lq_operator.adapters.kube.watch import KubeWatch
from lq_operator.api.base import Resource
from lq_operator.core.result import Transient


class Gadget(Resource):
    """A kind of these tests."""

    kind_name: ClassVar[str] = "Gadget"
    plural: ClassVar[str] = "gadgets"


class Lists:
    """KubeResources' lists, of an empty cluster that can go away."""

    def __init__(self) -> None:
        self.away = False
        self.lists = 0

    async def list_raw(self, kind: type[Resource]) -> Listing:
        del kind
        self.lists += 1
        if self.away:
            raise Transient("away")
        return Listing([], "10")

    async def current_version(self, kind: type[Resource]) -> str:
        return (await self.list_raw(kind)).resource_version


class Lives:
    """Stands for kopf: each life ends as told."""

    def __init__(self) -> None:
        self.begun = 0
        self.lasting = 0
        self.error: Exception | None = RuntimeError("kopf died")

    async def __call__(self, endpoint: Any, store: Any, loop: Any, stop: Any) -> None:
        self.begun += 1
        if self.error is not None:
            raise self.error
        self.lasting += 1
        while not stop.is_set():  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(0.01)


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch) -> Lives:
    lives = Lives()
    monkeypatch.setattr(watch_module, "_watch", lives)
    monkeypatch.setattr(watch_module, "BACKOFF_CAP_S", 0.01)
    return lives


def watch_over(lists: Lists, fatal: list[str]) -> KubeWatch:
    store = WatchStore((Gadget,))
    return KubeWatch(cast(Endpoint, None), cast(KubeResources, lists), store, on_fatal=fatal.append, failures_allowed=3)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)


async def test_failures_in_a_row_are_fatal(lives: Lives) -> None:
    fatal: list[str] = []
    watch = watch_over(Lists(), fatal)
    await watch.start()
    await until(lambda: fatal)
    assert lives.begun == 4
    assert "kopf died" in fatal[0]
    await watch.stop()


async def test_an_absent_api_server_is_waited_for(lives: Lives) -> None:
    fatal: list[str] = []
    lists = Lists()
    watch = watch_over(lists, fatal)
    await watch.start()
    lists.away = True
    await until(lambda: lives.begun > 10)
    assert not fatal
    lives.error = None
    await until(lambda: lives.lasting)  # before it is back: a life that failed just now would be judged as with it
    lists.away = False
    await watch.stop()
    assert not fatal


async def test_start_waits_for_the_first_list(lives: Lives) -> None:
    lives.error = None
    lists = Lists()
    lists.away = True
    watch = watch_over(lists, [])
    starting = asyncio.create_task(watch.start())
    await until(lambda: lists.lists >= 1)
    assert not starting.done()
    lists.away = False
    await starting
    await watch.stop()


async def test_stop_ends_a_running_watch(lives: Lives) -> None:
    lives.error = None
    watch = watch_over(Lists(), [])
    await watch.start()
    await until(lambda: lives.begun == 1)
    async with asyncio.timeout(5):
        await watch.stop()
    assert watch.restarts == 0


class Slow(Lists):
    """Lists that answer when told to; the server's version can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = asyncio.Event()
        self.answer.set()
        self.version = "10"

    async def list_raw(self, kind: type[Resource]) -> Listing:
        del kind
        self.lists += 1
        await self.answer.wait()
        if self.away:
            raise Transient("away")
        return Listing([], self.version)

    async def current_version(self, kind: type[Resource]) -> str:
        del kind
        return self.version


async def test_a_doubt_that_comes_while_a_list_is_under_way_is_not_settled_by_it(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "HASTY_RELIST_S", 0.05)
    lives.error = None
    lists = Slow()
    watch = watch_over(lists, [])
    await watch.start()
    lists.answer.clear()
    watch.doubt(Gadget)
    await until(lambda: lists.lists == 2)
    watch.doubt(Gadget)
    lists.answer.set()
    await until(lambda: lists.lists == 3)
    await watch.stop()


async def test_a_failed_list_leaves_its_doubt(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "HASTY_RELIST_S", 0.05)
    lives.error = None
    lists = Slow()
    watch = watch_over(lists, [])
    await watch.start()
    lists.away = True
    watch.doubt(Gadget)
    await until(lambda: lists.lists >= 3)
    lists.away = False
    await until(lambda: not watch._doubted)
    await watch.stop()


@pytest.mark.parametrize(("seen_after", "seen_before", "doubted"), [(50, 10, False), (50, 49, True)])
async def test_only_a_version_below_what_was_known_before_it_was_asked_for_is_a_doubt(
    monkeypatch: pytest.MonkeyPatch, seen_after: int, seen_before: int, doubted: bool
) -> None:
    lists = Slow()
    watch = watch_over(lists, [])
    store = watch._store
    store.listed(store.begin_list(Gadget), Listing([], str(seen_before)))
    lists.version = "20"

    async def late(kind: type[Resource]) -> str:
        store.listed(store.begin_list(kind), Listing([], str(seen_after)))  # our own answers go on meanwhile
        return lists.version

    monkeypatch.setattr(lists, "current_version", late)
    await watch._probe()
    assert (Gadget in watch._doubted) is doubted
