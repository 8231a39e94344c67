"""What only the fakes can do: crash a caller at a chosen call, travel in time, keep the store stale."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.resources.kube_parts import Rack, Widget, widget
from tests.sim.fakes.clock import FakeClock
from tests.sim.fakes.events import FakeEvents
from tests.sim.fakes.resources import Crash, FakeApi, FakeStore, Op

from lq_operator.core.result import Conflict, OutcomeUnknown


def owned(name: str, owner: Widget) -> Widget:
    reference = {
        "apiVersion": owner.api_version,
        "kind": "Widget",
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
    }
    return widget("n", name, ownerReferences=[reference])


async def test_hooks_end_a_call_before_or_after_it_happens() -> None:
    api = FakeApi()
    made = await api.create(widget("n", "w"))

    def crash(op: Op) -> None:
        if op.verb == "apply/status":
            raise Crash

    api.before = crash
    with pytest.raises(Crash):
        await api.apply_status(made, {"node": "h1"}, manager="a")
    assert api.raw(Widget, "n", "w") == api.raw(Widget, "n", "w")
    found = await api.get(Widget, "n", "w")
    assert found is not None
    assert found.status.node is None

    def lose_the_answer(op: Op) -> None:
        if op.write:
            raise OutcomeUnknown("the answer is lost")

    api.before = lambda op: None
    api.after = lose_the_answer
    with pytest.raises(OutcomeUnknown):
        await api.apply_status(made, {"node": "h1"}, manager="a")
    found = await api.get(Widget, "n", "w")
    assert found is not None
    assert found.status.node == "h1"
    assert [op.verb for op in api.writes()] == ["create", "apply/status", "apply/status"]


async def test_the_garbage_collector_follows_owners_down() -> None:
    api = FakeApi()
    top = await api.create(widget("n", "top"))
    middle = await api.create(owned("middle", top))
    await api.create(owned("bottom", middle))
    held = await api.create(owned("held", top))
    await api.json_patch(Widget, "n", "held", [{"op": "add", "path": "/metadata/finalizers", "value": ["x/y"]}])
    assert api.gc() == 0
    api.user_delete(Widget, "n", "top")
    assert api.gc() == 3
    left = await api.list(Widget)
    assert [(w.metadata.name, w.deleting) for w in left] == [("held", True)]
    assert left[0].metadata.uid == held.metadata.uid


async def test_a_restore_brings_back_versions_but_no_uid_twice() -> None:
    api = FakeApi()
    await api.create(widget("n", "a"))
    snapshot = api.snapshot()
    lost = await api.create(widget("n", "b"))
    api.restore(snapshot)
    assert [w.key for w in await api.list(Widget)] == ["n/a"]
    again = await api.create(widget("n", "b"))
    assert again.metadata.resource_version == lost.metadata.resource_version  # handed out again
    assert again.metadata.uid != lost.metadata.uid
    operations = [
        {"op": "test", "path": "/metadata/uid", "value": lost.metadata.uid},
        {"op": "add", "path": "/status/node", "value": "h1"},
    ]
    with pytest.raises(Conflict):
        await api.json_patch(Widget, "n", "b", operations, subresource="status")
    before = await api.kube_system_uid()
    api.wipe()
    assert await api.list(Widget) == []
    assert await api.kube_system_uid() != before


async def test_a_stale_store_shows_the_past_until_it_is_synced() -> None:
    api = FakeApi()
    await api.create(widget("n", "old"))
    store = FakeStore(api, live=False)
    heard: list[str] = []
    store.subscribe(lambda kind, key: heard.append(f"{kind.kind_name} {key}"))
    assert [w.key for w in store.list(Widget)] == ["n/old"]
    await api.create(widget("n", "new"))
    api.user_delete(Widget, "n", "old")
    assert store.get(Widget, "n", "new") is None
    assert store.sync(1) == 1
    assert {w.key for w in store.list(Widget)} == {"n/old", "n/new"}
    assert store.sync() == 1
    assert {w.key for w in store.list(Widget)} == {"n/new"}
    assert heard == ["Widget n/new", "Widget n/old"]
    assert list(store.list(Rack)) == []


async def test_a_store_hears_of_time_travel() -> None:
    api = FakeApi()
    await api.create(widget("n", "a", size=1))
    snapshot = api.snapshot()
    store = FakeStore(api)
    travelled: list[object] = []
    heard: list[str] = []
    store.on_went_back(travelled.append)
    store.subscribe(lambda kind, key: heard.append(key))
    api.user_apply(widget("n", "a", size=2))
    await api.create(widget("n", "b"))
    api.restore(snapshot)
    assert [(w.key, w.spec.size) for w in store.list(Widget)] == [("n/a", 1)]
    assert len(travelled) == 1
    assert heard == ["n/a", "n/b", "n/a", "n/b"]


async def test_what_is_read_is_never_the_stored_document() -> None:
    api = FakeApi()
    await api.create(widget("n", "a", labels={"x": "1"}))
    read = await api.get(Widget, "n", "a")
    assert read is not None
    read.metadata.labels["x"] = "2"
    again = await api.get(Widget, "n", "a")
    assert again is not None
    assert again.metadata.labels == {"x": "1"}


async def test_virtual_time_wakes_sleepers_in_order() -> None:
    clock = FakeClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *delays: float) -> None:
        for delay_s in delays:
            await clock.sleep(delay_s)
            woken.append((name, clock.mono_s()))

    tasks = [asyncio.create_task(sleeper("a", 5, 5)), asyncio.create_task(sleeper("b", 7))]
    await clock.advance(8)
    assert woken == [("a", 5), ("b", 7)]
    assert await clock.run_until(lambda: len(woken) == 3, limit_s=100)
    assert not await clock.run_until(lambda: len(woken) == 4, limit_s=10)
    assert all(task.done() for task in tasks)
    assert FakeClock(7).token() == FakeClock(7).token() != FakeClock(8).token()


def test_events_are_kept_in_order() -> None:
    events = FakeEvents()
    events.emit(widget("n", "a"), "Started", "It runs.")
    events.emit(widget("n", "b"), "Refused", "No.", warning=True)
    assert events.reasons() == ["Started", "Refused"]
    assert events.reasons("n/b") == ["Refused"]
