"""From kopf's thread to the main loop: everything, in order, with few wake-ups, and nothing after the stop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, ClassVar, cast

import kopf
import pytest

from lq_operator.adapters.kube.handover import AT_ONCE, Handover, register, watch_settings
from lq_operator.adapters.kube.store import WatchStore
from lq_operator.api.base import Resource


class Gadget(Resource):
    """A kind of these tests."""

    kind_name: ClassVar[str] = "Gadget"
    plural: ClassVar[str] = "gadgets"


class Heard:
    """Stands for the store."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.relisted: list[bool] = []

    def watched(self, kind: Any, raw: dict[str, Any], relisted_s: float | None) -> None:
        del kind
        if raw["n"] == "bug":
            raise LookupError("a bug")
        self.events.append(f"{raw['n']}")
        self.relisted.append(relisted_s is not None)

    def watched_deletion(self, kind: Any, raw: dict[str, Any]) -> None:
        del kind
        self.events.append(f"-{raw['n']}")


def event(n: Any, what: str | None = "MODIFIED") -> kopf.RawEvent:
    return cast(kopf.RawEvent, {"type": what, "object": {"n": n}})


def handover_to(heard: Heard, stop: threading.Event | None = None) -> Handover:
    return Handover(cast(WatchStore, heard), asyncio.get_running_loop(), stop or threading.Event())


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0)


async def test_events_from_another_thread_arrive_in_order() -> None:
    heard = Heard()
    handover = handover_to(heard)

    def speak() -> None:
        for n in range(5000):
            handover.put(Gadget, event(n))

    await asyncio.gather(asyncio.to_thread(speak), until(lambda: len(heard.events) == 5000))
    assert heard.events == [str(n) for n in range(5000)]


async def test_many_events_wake_the_loop_once_and_let_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, wakes = Heard(), 0
    loop = asyncio.get_running_loop()
    wake = loop.call_soon_threadsafe

    def counting(*arguments: Any) -> Any:
        nonlocal wakes
        wakes += 1
        return wake(*arguments)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    handover = handover_to(heard)
    for n in range(3 * AT_ONCE):
        handover.put(Gadget, event(n))
    await asyncio.sleep(0)
    assert len(heard.events) == AT_ONCE
    await until(lambda: len(heard.events) == 3 * AT_ONCE)
    assert wakes == 1


async def test_lists_and_deletions_are_told_apart() -> None:
    heard = Heard()
    handover = handover_to(heard)
    handover.put(Gadget, event("a", None))
    handover.put(Gadget, event("b", "ADDED"))
    handover.put(Gadget, event("b", "DELETED"))
    await until(lambda: len(heard.events) == 3)
    assert heard.events == ["a", "b", "-b"]
    assert heard.relisted == [True, False]


async def test_a_stopped_watch_says_nothing_more() -> None:
    heard, stop = Heard(), threading.Event()
    handover = handover_to(heard, stop)
    handover.put(Gadget, event("queued"))
    stop.set()
    handover.put(Gadget, event("late"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert heard.events == []


async def test_a_bug_with_one_event_keeps_none_behind_it() -> None:
    heard, told = Heard(), []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context["exception"]))
    handover = handover_to(heard)
    for n in ("a", "bug", "b"):
        handover.put(Gadget, event(n))
    await until(lambda: heard.events == ["a", "b"])
    assert [type(error) for error in told] == [LookupError]


async def test_the_filter_takes_the_event_and_the_handler_never_runs() -> None:
    heard, registry = Heard(), kopf.OperatorRegistry()
    register(registry, Gadget, handover_to(heard))
    (handler,) = registry._watching.get_all_handlers()
    assert handler.when is not None
    assert handler.when(event=event("a"), body={}, logger=None) is False
    await until(lambda: heard.events == ["a"])


def test_kopf_keeps_nothing_about_objects() -> None:
    settings = watch_settings()
    body = kopf.Body({"metadata": {"annotations": {"kopf.zalando.org/last-handled-configuration": "{}"}}, "spec": {}})
    assert settings.persistence.diffbase_storage.fetch(body=body) is None
    essence = settings.persistence.diffbase_storage.build(body=body)
    assert settings.persistence.progress_storage.clear(essence=essence) == {}
