"""WatchStore: whatever order lists, events and our own answers arrive in, it ends up with what the server has."""

from __future__ import annotations

import copy
import random
from typing import Any, ClassVar

import pytest
from pydantic import Field

from lq_operator.adapters.kube.client import Listing
from lq_operator.adapters.kube.store import OWED_S, WatchStore, WentBack
from lq_operator.api.base import ApiModel, Resource, Status
from lq_operator.core.result import Rejected


class GadgetSpec(ApiModel):
    """Wish."""

    size: int = Field(ge=1)


class Gadget(Resource):
    """A kind of these tests."""

    kind_name: ClassVar[str] = "Gadget"
    plural: ClassVar[str] = "gadgets"
    spec: GadgetSpec
    status: Status = Status()


class Gizmo(Gadget):
    """Another one."""

    kind_name: ClassVar[str] = "Gizmo"
    plural: ClassVar[str] = "gizmos"


def raw(name: str, version: int, *, uid: str = "", size: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "limiquantix.io/v1alpha1",
        "metadata": {
            "name": name,
            "namespace": "n",
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
            "managedFields": [{"manager": "x"}],
        },
        "spec": {"size": size},
    }


def store_of(*items: dict[str, Any], version: int = 10) -> tuple[WatchStore, list[str], list[WentBack]]:
    store = WatchStore((Gadget, Gizmo))
    changes: list[str] = []
    went_back: list[WentBack] = []
    for kind in (Gadget, Gizmo):
        store.listed(store.begin_list(kind), Listing(list(items) if kind is Gadget else [], str(version)))
    store.subscribe(lambda kind, key: changes.append(key))
    store.on_went_back(went_back.append)
    return store, changes, went_back


def size(store: WatchStore, name: str) -> int | None:
    found = store.get(Gadget, "n", name)
    return found.spec.size if found else None


def test_before_the_first_list_nothing_is_synced() -> None:
    store = WatchStore((Gadget, Gizmo))
    assert not store.synced(Gadget)
    store.watched(Gadget, raw("a", 5))
    assert not store.synced(Gadget)
    store.listed(store.begin_list(Gadget), Listing([raw("a", 5)], "9"))
    assert store.synced(Gadget)
    assert not store.synced()


def test_an_unwatched_kind_is_our_bug() -> None:
    store = WatchStore((Gizmo,))
    with pytest.raises(ValueError, match="Gadget is not watched"):
        store.list(Gadget)


def test_a_late_event_does_not_bring_an_old_state_back() -> None:
    store, changes, _ = store_of(raw("a", 5))
    store.watched(Gadget, raw("a", 12, size=2))
    store.watched(Gadget, raw("a", 11, size=9))
    assert size(store, "a") == 2
    assert changes == ["n/a"]


def test_a_late_event_does_not_bring_a_deleted_object_back() -> None:
    store, changes, _ = store_of(raw("a", 5))
    doubts: list[Any] = []
    store.on_doubt(doubts.append)
    store.watched_deletion(Gadget, raw("a", 12))
    store.watched(Gadget, raw("a", 11))
    store.observe(Gadget, raw("a", 11))
    assert size(store, "a") is None
    assert changes == ["n/a"]
    assert doubts  # a list will settle it


def test_the_deletion_of_a_former_incarnation_leaves_the_new_one() -> None:
    store, _, _ = store_of(raw("a", 5, uid="old"))
    store.watched(Gadget, raw("a", 13, uid="new", size=3))
    store.watched_deletion(Gadget, raw("a", 12, uid="old"))
    assert size(store, "a") == 3


def test_a_list_removes_what_vanished_unseen_but_not_what_came_after_it() -> None:
    store, changes, went_back = store_of(raw("a", 5), raw("b", 6))
    ticket = store.begin_list(Gadget)
    store.watched(Gadget, raw("new", 25))
    store.watched(Gadget, raw("b", 26, size=2))
    store.listed(ticket, Listing([raw("b", 6)], "20"))
    assert {g.metadata.name for g in store.list(Gadget)} == {"b", "new"}
    assert size(store, "b") == 2
    assert not went_back
    assert changes == ["n/new", "n/b", "n/a"]


def test_a_list_does_not_bring_back_what_was_deleted_after_it() -> None:
    store, _, _ = store_of(raw("a", 5))
    ticket = store.begin_list(Gadget)
    store.watched_deletion(Gadget, raw("a", 25))
    store.listed(ticket, Listing([raw("a", 5)], "20"))
    assert size(store, "a") is None


def test_an_echo_of_what_is_known_is_silent() -> None:
    store, changes, _ = store_of(raw("a", 5))
    store.observe(Gadget, raw("a", 11, size=2))
    store.watched(Gadget, raw("a", 11, size=2))
    store.listed(store.begin_list(Gadget), Listing([raw("a", 11, size=2)], "15"))
    assert changes == ["n/a"]


def test_an_older_list_version_is_a_server_that_went_back() -> None:
    store, _, went_back = store_of(raw("a", 5), raw("b", 9, size=9))
    store.watched(Gadget, raw("c", 30))
    store.watched_deletion(Gadget, raw("a", 31))
    assert store.highest_version == 31
    store.listed(store.begin_list(Gadget), Listing([raw("a", 5), raw("b", 4, size=4)], "12"))
    assert went_back == [WentBack("Gadget", 31, 12)]
    assert size(store, "a") == 1  # its deletion is of the other history
    assert size(store, "b") == 4
    assert size(store, "c") is None
    store.watched(Gadget, raw("b", 13, size=5))  # versions of the new history order again
    assert size(store, "b") == 5


def test_a_server_that_went_back_with_a_bumped_revision_is_noticed_by_its_objects() -> None:
    store, _, went_back = store_of(raw("a", 5))
    store.watched(Gadget, raw("a", 30, size=2))
    store.listed(store.begin_list(Gadget), Listing([raw("a", 5)], "1000000"))
    assert [w.listed_version for w in went_back] == [5]
    assert size(store, "a") == 1


def test_the_other_kinds_forget_the_other_history_too() -> None:
    store, _, went_back = store_of(raw("a", 5))
    store.watched(Gizmo, raw("z", 40, size=4))
    store.listed(store.begin_list(Gadget), Listing([raw("a", 5)], "12"))
    store.listed(store.begin_list(Gizmo), Listing([raw("z", 8, size=8)], "12"))
    found = store.get(Gizmo, "n", "z")
    assert found is not None
    assert found.spec.size == 8
    assert len(went_back) == 1


def test_what_arrives_during_the_list_that_shows_the_going_back_is_kept() -> None:
    store, _, went_back = store_of(raw("a", 5), raw("c", 6))
    store.watched(Gadget, raw("b", 30))
    ticket = store.begin_list(Gadget)
    store.watched(Gadget, raw("c", 31, size=2))
    store.watched(Gadget, raw("new", 32))
    store.listed(ticket, Listing([raw("a", 5), raw("c", 6)], "12"))
    assert went_back
    assert {g.metadata.name: g.spec.size for g in store.list(Gadget)} == {"a": 1, "c": 2, "new": 1}
    # Had they been stragglers of the old history, the next list finds that out by their versions.
    store.listed(store.begin_list(Gadget), Listing([raw("a", 5), raw("c", 6)], "14"))
    assert {g.metadata.name: g.spec.size for g in store.list(Gadget)} == {"a": 1, "c": 1}


def test_an_unreadable_object_is_not_absent() -> None:
    store, _, _ = store_of(raw("a", 5, size=3), raw("never", 6, size=0))
    with pytest.raises(Rejected) as caught:
        store.get(Gadget, "n", "never")
    assert caught.value.field == "spec.size"
    store.watched(Gadget, raw("a", 12, size=-1))
    with pytest.raises(Rejected):
        store.get(Gadget, "n", "a")
    assert [g.spec.size for g in store.list(Gadget)] == [3]  # as it was last read
    assert [broken.key for broken in store.broken(Gadget)] == ["n/a", "n/never"]
    store.watched(Gadget, raw("a", 13, size=4))
    assert size(store, "a") == 4
    assert [broken.key for broken in store.broken(Gadget)] == ["n/never"]


def test_what_only_lists_show_is_owed_by_the_watch() -> None:
    store, _, _ = store_of(raw("a", 5))
    store.watched(Gadget, raw("a", 5))
    assert store.undelivered(Gadget) == 0
    store.listed(store.begin_list(Gadget), Listing([raw("a", 20, size=2), raw("b", 21)], "25"))
    assert store.undelivered(Gadget) == 2
    store.watched(Gadget, raw("a", 12))  # an older state pays nothing
    assert store.undelivered(Gadget) == 2
    store.watched(Gadget, raw("a", 20, size=2))
    store.watched_deletion(Gadget, raw("b", 26))
    assert store.undelivered(Gadget) == 0


class History:
    """A server with a history; watch events and list answers reach the store late and out of order."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.version = 10
        self.objects: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.uids = 0
        self.saved: tuple[int, dict[str, dict[str, Any]]] | None = None

    def write(self) -> None:
        name = f"g{self.rng.randrange(4)}"
        self.version += 1
        known = self.objects.get(name)
        if known is None:
            self.uids += 1
            self.objects[name] = raw(name, self.version, uid=f"u{self.uids}", size=self.version)
            self.events.append(("ADDED", self.objects[name]))
        elif self.rng.random() < 0.4:
            gone = copy.deepcopy(self.objects.pop(name))
            gone["metadata"]["resourceVersion"] = str(self.version)
            self.events.append(("DELETED", gone))
        else:
            self.objects[name] = raw(name, self.version, uid=known["metadata"]["uid"], size=self.version)
            self.events.append(("MODIFIED", self.objects[name]))

    def listing(self) -> Listing:
        return Listing([copy.deepcopy(item) for item in self.objects.values()], str(self.version))

    def deliver(self, store: WatchStore) -> None:
        """One pending event; of one object in order, between objects in any order (kopf has a worker per uid)."""
        uids = sorted({event["metadata"]["uid"] for _, event in self.events})
        uid = self.rng.choice(uids)
        index = next(i for i, (_, event) in enumerate(self.events) if event["metadata"]["uid"] == uid)
        kind, event = self.events.pop(index)
        event = copy.deepcopy(event)
        store.watched_deletion(Gadget, event) if kind == "DELETED" else store.watched(Gadget, event)


@pytest.mark.parametrize("seed", range(300))
def test_any_order_ends_with_the_truth(seed: int) -> None:
    rng = random.Random(seed)
    history = History(rng)
    store = WatchStore((Gadget,))
    store.listed(store.begin_list(Gadget), history.listing())
    answers: list[tuple[Any, Listing]] = []
    cut = False
    for _ in range(80):
        match rng.randrange(6):
            case 0 | 1:
                history.write()
            case 2 | 3 if history.events:
                history.deliver(store)
            case 4 if not answers:
                answers.append((store.begin_list(Gadget), history.listing()))
            case 5 if answers:
                store.listed(*answers.pop())
            case 5 if history.events and rng.random() < 0.2:
                history.events.clear()  # the connection was cut, and the history compacted
                cut = True
    if answers:
        store.listed(*answers.pop())
    while history.events and (not cut or rng.random() < 0.9):
        history.deliver(store)
    if cut:  # otherwise the events alone must have led to the truth, whatever late lists said between them
        store.listed(store.begin_list(Gadget), history.listing())
    truth = {name: int(item["metadata"]["resourceVersion"]) for name, item in history.objects.items()}
    assert {g.metadata.name: int(g.metadata.resource_version) for g in store.list(Gadget)} == truth
    while history.events:  # stragglers change nothing
        history.deliver(store)
    assert {g.metadata.name: int(g.metadata.resource_version) for g in store.list(Gadget)} == truth


@pytest.mark.parametrize("seed", range(300))
def test_any_order_with_a_restore_ends_with_the_truth(seed: int) -> None:
    rng = random.Random(seed)
    history = History(rng)
    store = WatchStore((Gadget,))
    went_back: list[WentBack] = []
    store.on_went_back(went_back.append)
    store.listed(store.begin_list(Gadget), history.listing())
    for _ in range(rng.randrange(30)):
        history.write()
    saved = copy.deepcopy((history.version, history.objects))
    for _ in range(1 + rng.randrange(30)):
        history.write()
    while history.events and rng.random() < 0.95:
        history.deliver(store)
    seen = max([int(g.metadata.resource_version) for g in store.list(Gadget)], default=0)
    history.version, history.objects = saved
    if rng.random() < 0.5:
        history.events.clear()
    for _ in range(rng.randrange(5)):
        history.write()
        if history.events and rng.random() < 0.5:
            history.deliver(store)
    # Two lists: stragglers of the old history may arrive between a list's sending and its answer.
    ticket, listing = store.begin_list(Gadget), history.listing()
    while history.events and rng.random() < 0.7:
        history.deliver(store)
    store.listed(ticket, listing)
    history.events.clear()
    store.listed(store.begin_list(Gadget), history.listing())
    truth = {name: int(item["metadata"]["resourceVersion"]) for name, item in history.objects.items()}
    assert {g.metadata.name: int(g.metadata.resource_version) for g in store.list(Gadget)} == truth
    if seen > history.version:
        assert went_back


class Ticks:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def answered() -> tuple[WatchStore, Ticks, list[Any], list[WentBack]]:
    """A store that has our own answer for `a` (version 20), which the watch has not delivered."""
    ticks, doubts, went_back = Ticks(), [], []
    store = WatchStore((Gadget, Gizmo), mono_s=ticks)
    for kind in (Gadget, Gizmo):
        store.listed(store.begin_list(kind), Listing([raw("a", 5)] if kind is Gadget else [], "10"))
    store.on_doubt(doubts.append)
    store.on_went_back(went_back.append)
    store.observe(Gadget, raw("a", 20, size=2))
    return store, ticks, doubts, went_back


def test_an_event_that_our_own_answer_has_overtaken_is_no_doubt() -> None:
    store, _, doubts, _ = answered()
    store.watched(Gadget, raw("a", 12, size=9))
    store.watched(Gadget, raw("a", 19, size=9))
    assert not doubts
    assert size(store, "a") == 2
    store.watched(Gadget, raw("a", 20, size=2))
    store.doubt_debts()
    assert not doubts


def test_once_the_watch_has_delivered_our_answer_an_older_event_is_a_doubt() -> None:
    store, _, doubts, _ = answered()
    store.watched(Gadget, raw("a", 20, size=2))
    store.watched(Gadget, raw("a", 12, size=9))
    assert doubts == [Gadget]


def test_an_older_event_of_another_incarnation_or_object_is_a_doubt() -> None:
    store, _, doubts, _ = answered()
    store.watched(Gadget, raw("a", 12, uid="other"))
    assert doubts == [Gadget]
    store.watched(Gadget, raw("b", 15))
    store.watched(Gadget, raw("b", 14))
    assert doubts == [Gadget, Gadget]


def test_an_answer_that_is_older_than_what_is_known_is_a_doubt() -> None:
    store, _, doubts, _ = answered()
    store.observe(Gadget, raw("a", 15))  # a restored server answered our write
    assert doubts == [Gadget]


def test_an_answer_that_the_watch_never_delivers_becomes_a_doubt() -> None:
    store, ticks, doubts, _ = answered()
    ticks.now_s += OWED_S - 0.1
    store.doubt_debts()
    assert not doubts
    ticks.now_s += 0.2
    store.watched(Gadget, raw("a", 12))  # too late to be on its way
    assert doubts == [Gadget]
    store.doubt_debts()
    assert doubts == [Gadget, Gadget]
    store.listed(store.begin_list(Gadget), Listing([raw("a", 20, size=2)], "25"))  # a list is as good as the watch
    store.doubt_debts()
    assert doubts == [Gadget, Gadget]


def test_a_list_from_before_our_answer_pays_no_debt() -> None:
    store, ticks, doubts, _ = answered()
    ticket = store.begin_list(Gadget)
    store.observe(Gadget, raw("a", 30, size=3))
    store.listed(ticket, Listing([raw("a", 20, size=2)], "25"))
    ticks.now_s += OWED_S
    store.doubt_debts()
    assert doubts == [Gadget]


def test_a_restored_server_whose_versions_catch_up_is_noticed_by_the_debt() -> None:
    """Events of the new history look like late ones of the old; the answer of the old one never comes."""
    store, ticks, doubts, went_back = answered()
    for version in range(11, 20):
        store.watched(Gadget, raw("a", version, size=version))
    assert not doubts
    ticks.now_s += OWED_S
    store.doubt_debts()
    assert doubts == [Gadget]
    store.listed(store.begin_list(Gadget), Listing([raw("a", 19, size=19)], "40"))
    assert went_back
    assert size(store, "a") == 19
    doubts.clear()
    store.doubt_debts()
    assert not doubts


def test_the_watchs_own_list_is_doubted_unless_one_of_ours_was_sent_after_it() -> None:
    store, ticks, doubts, _ = answered()
    store.watched(Gadget, raw("b", 21), relisted_s=ticks.now_s)
    assert doubts == [Gadget]
    ticks.now_s += 1.0
    ticket = store.begin_list(Gadget)
    store.watched(Gadget, raw("c", 22), relisted_s=ticks.now_s + 0.5)  # while ours is under way
    store.listed(ticket, Listing([raw("a", 20), raw("b", 21), raw("c", 22)], "25"))
    assert len(doubts) == 2
    store.watched(Gadget, raw("b", 21), relisted_s=1000.0)  # taken up late
    assert len(doubts) == 2
    store.watched(Gadget, raw("c", 22), relisted_s=ticks.now_s + 0.5)
    assert len(doubts) == 3


def test_an_answer_that_was_read_already_is_not_read_again() -> None:
    store, _, _ = store_of(raw("a", 5))
    parsed = Gadget.model_validate(raw("a", 12, size=7))
    store.observe(Gadget, raw("a", 12, size=7), parsed)
    assert store.get(Gadget, "n", "a") is parsed
