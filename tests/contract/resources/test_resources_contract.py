"""ports.Resources as our protocol leans on it, on the fake and on a real API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.contract.resources.kube_parts import Rack, Widget, widget
from tests.contract.resources.worlds import World

from lq_operator.controllers.runtime.conditions import Progress, dump_conditions, set_condition, set_progress
from lq_operator.controllers.runtime.finalizers import ensure_finalizer, remove_finalizer
from lq_operator.controllers.runtime.status import report_status
from lq_operator.core.result import Conflict, NotFound, Rejected

Patch = list[dict[str, Any]]

NOW = "2030-01-01T00:00:00Z"


def conditions(*types: str, status: Any = "True", now: str = NOW) -> list[dict[str, Any]]:
    result: list[Any] = []
    for kind in types:
        result = set_condition(result, kind, status, "Because", "It is so.", generation=1, now=now)
    return dump_conditions(result)


async def create(world: World, namespace: str, name: str = "w", **metadata: Any) -> Widget:
    return await world.resources.create(widget(namespace, name, **metadata))


# ---------------------------------------------------------------- objects


async def test_a_created_object_is_got_and_listed(world: World, namespace: str) -> None:
    made = await create(world, namespace)
    assert made.metadata.uid
    assert made.metadata.generation == 1
    assert made.metadata.resource_version
    got = await world.resources.get(Widget, namespace, "w")
    assert got == made
    assert [w.key for w in await world.resources.list(Widget) if w.metadata.namespace == namespace] == [made.key]


async def test_what_does_not_exist_is_none(world: World, namespace: str) -> None:
    assert await world.resources.get(Widget, namespace, "nothing") is None
    assert await world.resources.read_secret(namespace, "nothing") is None
    assert await world.resources.namespace_labels("no-such-namespace") is None


async def test_a_taken_name_is_a_conflict(world: World, namespace: str) -> None:
    await create(world, namespace)
    with pytest.raises(Conflict, match="w"):
        await create(world, namespace)


async def test_a_cluster_scoped_object_has_no_namespace(world: World, namespace: str) -> None:
    rack = Rack.model_validate({"metadata": {"name": namespace}, "spec": {"size": 3}})
    made = await world.resources.create(rack)
    assert made.key == namespace
    assert await world.resources.get(Rack, None, namespace) == made
    await world.resources.delete(Rack, None, namespace, uid=made.metadata.uid)
    assert await world.resources.get(Rack, None, namespace) is None


async def test_an_invalid_object_is_rejected_naming_the_field(world: World, namespace: str) -> None:
    bad = Widget.model_construct(
        metadata=widget(namespace, "bad").metadata,
        spec=type(widget(namespace, "bad").spec).model_construct(size=500, _fields_set={"size"}),
        _fields_set={"metadata", "spec"},
    )
    with pytest.raises(Rejected) as caught:
        await world.resources.create(bad)
    assert caught.value.field == "spec.size"
    assert not isinstance(caught.value, NotFound)


async def test_delete_takes_only_the_incarnation_that_was_meant(world: World, namespace: str) -> None:
    made = await create(world, namespace)
    with pytest.raises(Conflict):
        await world.resources.delete(Widget, namespace, "w", uid="another-uid")
    assert await world.resources.get(Widget, namespace, "w") is not None
    await world.resources.delete(Widget, namespace, "w", uid=made.metadata.uid)
    assert await world.resources.get(Widget, namespace, "w") is None
    await world.resources.delete(Widget, namespace, "w", uid=made.metadata.uid)  # absent already is success


async def test_secrets_namespaces_and_the_installation(world: World, namespace: str) -> None:
    world.put_secret(namespace, "s", {"user-data": b"\x00\xff#cloud-config"})
    assert await world.resources.read_secret(namespace, "s") == {"user-data": b"\x00\xff#cloud-config"}
    labels = await world.resources.namespace_labels(namespace)
    assert labels is not None
    assert labels["team"] == "blue"
    uid = await world.resources.kube_system_uid()
    assert uid
    assert uid == await world.resources.kube_system_uid()


# ---------------------------------------------------------------- JSON patch


async def test_a_patch_whose_tests_hold_is_done(world: World, namespace: str) -> None:
    made = await create(world, namespace)
    operations: Patch = [
        {"op": "test", "path": "/metadata/uid", "value": made.metadata.uid},
        {"op": "test", "path": "/status/placement", "value": None},
        {"op": "add", "path": "/status/placement", "value": {"writeId": "a", "node": "h1"}},
    ]
    after = await world.resources.json_patch(Widget, namespace, "w", operations, subresource="status")
    assert after.status.placement is not None
    assert after.status.placement.node == "h1"
    assert after.metadata.generation == made.metadata.generation
    assert after.metadata.resource_version != made.metadata.resource_version
    with pytest.raises(Conflict):  # the same again: the placement is no longer absent
        await world.resources.json_patch(Widget, namespace, "w", operations, subresource="status")


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/metadata/uid", "value": "another-uid"},
        {"op": "test", "path": "/status/placement/writeId", "value": "stale"},
        {"op": "replace", "path": "/status/nothing/below", "value": 1},
        {"op": "remove", "path": "/status/weight"},
    ],
)
async def test_a_patch_that_does_not_fit_is_a_conflict_and_changes_nothing(
    world: World, namespace: str, operation: dict[str, Any]
) -> None:
    await create(world, namespace)
    first = [{"op": "add", "path": "/status/placement", "value": {"writeId": "a"}}]
    before = await world.resources.json_patch(Widget, namespace, "w", first, subresource="status")
    operations = [operation, {"op": "add", "path": "/status/node", "value": "h9"}]
    with pytest.raises(Conflict):
        await world.resources.json_patch(Widget, namespace, "w", operations, subresource="status")
    assert await world.resources.get(Widget, namespace, "w") == before


async def test_a_patch_with_an_invalid_result_is_rejected_naming_the_field(world: World, namespace: str) -> None:
    await create(world, namespace)
    operations = [{"op": "add", "path": "/status/weight", "value": 5000}]
    with pytest.raises(Rejected) as caught:
        await world.resources.json_patch(Widget, namespace, "w", operations, subresource="status")
    assert caught.value.field == "status.weight"


async def test_a_patch_of_nothing_is_not_found(world: World, namespace: str) -> None:
    operations = [{"op": "add", "path": "/status/node", "value": "h1"}]
    with pytest.raises(NotFound):
        await world.resources.json_patch(Widget, namespace, "nothing", operations, subresource="status")


async def test_of_two_patches_that_test_the_same_write_id_one_wins(world: World, namespace: str) -> None:
    await create(world, namespace)
    first = [{"op": "add", "path": "/status/placement", "value": {"writeId": "0"}}]
    await world.resources.json_patch(Widget, namespace, "w", first, subresource="status")

    async def move(write_id: str) -> bool:
        operations: Patch = [
            {"op": "test", "path": "/status/placement/writeId", "value": "0"},
            {"op": "replace", "path": "/status/placement", "value": {"writeId": write_id}},
        ]
        try:
            await world.resources.json_patch(Widget, namespace, "w", operations, subresource="status")
        except Conflict:
            return False
        return True

    assert sum(await asyncio.gather(*(move(f"w{n}") for n in range(1, 9)))) == 1


# ---------------------------------------------------------------- status and spec


async def test_status_writes_do_not_reach_spec_and_spec_writes_not_status(world: World, namespace: str) -> None:
    made = await create(world, namespace)
    both: Patch = [
        {"op": "replace", "path": "/spec/size", "value": 7},
        {"op": "add", "path": "/status/node", "value": "h1"},
        {"op": "add", "path": "/metadata/labels", "value": {"a": "b"}},
    ]
    after = await world.resources.json_patch(Widget, namespace, "w", both, subresource="status")
    assert (after.spec.size, after.status.node, after.metadata.labels) == (1, "h1", {})
    assert after.metadata.generation == made.metadata.generation
    both[1] = {"op": "replace", "path": "/status/node", "value": "h2"}
    after = await world.resources.json_patch(Widget, namespace, "w", both)
    assert (after.spec.size, after.status.node, after.metadata.labels) == (7, "h1", {"a": "b"})
    assert after.metadata.generation == made.metadata.generation + 1


async def test_a_person_applies_again_and_status_stays(world: World, namespace: str) -> None:
    world.user_apply(widget(namespace, "w", size=1))
    made = await world.resources.get(Widget, namespace, "w")
    assert made is not None
    await world.resources.apply_status(made, {"node": "h1"}, manager="lq-a")
    world.user_apply(widget(namespace, "w", size=2))
    after = await world.resources.get(Widget, namespace, "w")
    assert after is not None
    assert (after.spec.size, after.status.node, after.metadata.generation) == (2, "h1", 2)


# ---------------------------------------------------------------- server-side apply of status


async def test_two_managers_own_what_they_apply(world: World, namespace: str) -> None:
    made = await create(world, namespace)
    await world.resources.apply_status(
        made,
        {"node": "h1", "weight": 3, "conditions": conditions("Ready"), "parts": [{"name": "a", "size": 1}]},
        manager="lq-a",
    )
    await world.resources.apply_status(
        made,
        {"checkedAt": NOW, "conditions": conditions("Scheduled"), "parts": [{"name": "b", "size": 2}]},
        manager="lq-b",
    )
    # lq-a no longer speaks of weight nor of its part: both go, what lq-b applied stays.
    after = await world.resources.apply_status(made, {"node": "h2", "conditions": conditions("Ready")}, manager="lq-a")
    assert (after.status.node, after.status.weight, after.status.checked_at) == ("h2", None, NOW)
    assert sorted(condition.type for condition in after.status.conditions) == ["Ready", "Scheduled"]
    assert [(part.name, part.size) for part in after.status.parts] == [("b", 2)]
    assert after.metadata.generation == made.metadata.generation


async def test_a_field_of_two_managers_stays_until_both_let_go(world: World, namespace: str) -> None:
    made = await create(world, namespace)
    await world.resources.apply_status(made, {"node": "h1", "weight": 1}, manager="lq-a")
    await world.resources.apply_status(made, {"node": "h2"}, manager="lq-b")
    after = await world.resources.apply_status(made, {"weight": 1}, manager="lq-a")
    assert after.status.node == "h2"
    after = await world.resources.apply_status(made, {"weight": 1}, manager="lq-b")
    assert after.status.node is None


async def test_apply_leaves_a_patched_placement_alone(world: World, namespace: str) -> None:
    made = await create(world, namespace)
    await world.resources.apply_status(made, {"node": "h1"}, manager="lq-vm")
    operations = [{"op": "add", "path": "/status/placement", "value": {"writeId": "a", "node": "h1"}}]
    await world.resources.json_patch(Widget, namespace, "w", operations, subresource="status", manager="lq-vm")
    after = await world.resources.apply_status(made, {"weight": 1}, manager="lq-vm")
    assert after.status.placement is not None
    assert (after.status.placement.write_id, after.status.node) == ("a", None)


async def test_apply_takes_only_the_incarnation_that_was_meant(world: World, namespace: str) -> None:
    old = await create(world, namespace)
    await world.resources.delete(Widget, namespace, "w", uid=old.metadata.uid)
    with pytest.raises((NotFound, Conflict)):
        await world.resources.apply_status(old, {"node": "h1"}, manager="lq-a")
    assert await world.resources.get(Widget, namespace, "w") is None
    new = await create(world, namespace)
    with pytest.raises(Conflict):
        await world.resources.apply_status(old, {"node": "h1"}, manager="lq-a")
    assert await world.resources.get(Widget, namespace, "w") == new


async def test_an_invalid_status_is_rejected_naming_the_field(world: World, namespace: str) -> None:
    made = await create(world, namespace)
    with pytest.raises(Rejected) as caught:
        await world.resources.apply_status(made, {"weight": 5000}, manager="lq-a")
    assert caught.value.field == "status.weight"


async def test_the_same_status_twice_is_one_version(world: World, namespace: str) -> None:
    made = await create(world, namespace)
    first = await world.resources.apply_status(made, {"node": "h1"}, manager="lq-a")
    again = await world.resources.apply_status(made, {"node": "h1"}, manager="lq-a")
    assert again.metadata.resource_version == first.metadata.resource_version


async def test_report_status_writes_only_news(world: World, namespace: str) -> None:
    made = await create(world, namespace)
    progress = set_progress(made.status.conditions, Progress.READY, "Done", "Fine.", generation=1, now=NOW)
    status = {
        "observedGeneration": 1,
        "conditions": dump_conditions(progress),
        "node": "h1",
        "weight": None,
        "checkedAt": NOW,
        "parts": [{"name": "a"}],
    }
    assert await report_status(world.resources, made, status, "lq-a")
    stored = await world.resources.get(Widget, namespace, "w")
    assert stored is not None
    await world.resources.apply_status(stored, {"conditions": conditions("Scheduled")}, manager="lq-b")
    stored = await world.resources.get(Widget, namespace, "w")
    assert stored is not None
    later = set_progress(
        stored.status.conditions, Progress.READY, "Done", "Fine.", generation=1, now="2031-01-01T00:00:00Z"
    )
    status |= {"conditions": [c for c in dump_conditions(later) if c["type"] != "Scheduled"], "checkedAt": "later"}
    assert not await report_status(world.resources, stored, status, "lq-a")
    assert await report_status(world.resources, stored, status | {"node": None}, "lq-a")
    stored = await world.resources.get(Widget, namespace, "w")
    assert stored is not None
    assert stored.status.node is None
    assert not await report_status(world.resources, stored, status | {"node": None}, "lq-a")
    assert stored.status.condition("Scheduled") is not None


# ---------------------------------------------------------------- deletion


async def test_a_finalizer_holds_the_object_until_it_is_taken_away(world: World, namespace: str) -> None:
    made = await create(world, namespace)
    held = await ensure_finalizer(world.resources, made, manager="lq-a")
    world.user_delete(Widget, namespace, "w")
    dying = await world.resources.get(Widget, namespace, "w")
    assert dying is not None
    assert dying.deleting
    assert dying.metadata.uid == held.metadata.uid
    assert dying.metadata.generation == held.metadata.generation + 1
    applied = await world.resources.apply_status(dying, {"node": "h1"}, manager="lq-a")
    assert applied.status.node == "h1"
    with pytest.raises(Conflict):
        await remove_finalizer(world.resources, dying, manager="lq-a")  # it was changed since
    await remove_finalizer(world.resources, applied, manager="lq-a")
    assert await world.resources.get(Widget, namespace, "w") is None
    await remove_finalizer(world.resources, applied, manager="lq-a")  # absent already is success


async def test_no_finalizer_is_put_on_a_dying_object(world: World, namespace: str) -> None:
    await create(world, namespace, finalizers=["example.com/other"])
    world.user_delete(Widget, namespace, "w")
    dying = await world.resources.get(Widget, namespace, "w")
    assert dying is not None
    assert await ensure_finalizer(world.resources, dying, manager="lq-a") == dying


async def test_deleting_twice_changes_nothing(world: World, namespace: str) -> None:
    made = await create(world, namespace, finalizers=["example.com/other"])
    await world.resources.delete(Widget, namespace, "w", uid=made.metadata.uid)
    first = await world.resources.get(Widget, namespace, "w")
    await world.resources.delete(Widget, namespace, "w", uid=made.metadata.uid)
    assert await world.resources.get(Widget, namespace, "w") == first
