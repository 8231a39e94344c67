"""The real API server failing under KubeResources: what may have happened is never called Transient."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest
from tests.contract.resources.kube_parts import Proxy, Site, Widget, proxy_before, widget

from lq_operator.adapters.kube.client import KubeResources
from lq_operator.adapters.kube.endpoint import from_kubeconfig
from lq_operator.adapters.kube.events import KubeEvents
from lq_operator.adapters.kube.transport import KubeTransport
from lq_operator.api.base import Resource
from lq_operator.core.result import OutcomeUnknown, Transient


@asynccontextmanager
async def resources_at(
    site: Site, *, port: int | None = None, token: str = "admin-t0ken", timeout_s: float = 15.0
) -> AsyncIterator[KubeResources]:
    endpoint = await from_kubeconfig(site.kubeconfig(port=port, token=token))
    async with KubeTransport(endpoint, timeout_s=timeout_s) as transport:
        yield KubeResources(transport)


class Ghost(Resource):
    """A kind whose CRD is not installed."""

    kind_name: ClassVar[str] = "Ghost"
    plural: ClassVar[str] = "ghosts"


async def test_a_kind_that_is_not_served_is_not_an_absent_object(site: Site, namespace: str) -> None:
    async with resources_at(site) as resources:
        with pytest.raises(Transient, match="CRD"):
            await resources.get(Ghost, namespace, "g")
        with pytest.raises(Transient, match="CRD"):
            await resources.list(Ghost)


async def test_missing_rights_are_said_and_retried(site: Site, namespace: str) -> None:
    async with resources_at(site, token="nobody-t0ken") as resources:
        with pytest.raises(Transient, match="RBAC"):
            await resources.get(Widget, namespace, "w")
    async with resources_at(site, token="no-such-t0ken") as resources:
        with pytest.raises(Transient, match="token"):
            await resources.get(Widget, namespace, "w")


async def test_twelve_hundred_objects_are_listed_in_pages(site: Site, namespace: str) -> None:
    async with resources_at(site) as resources:
        gate = asyncio.Semaphore(32)

        async def make(n: int) -> None:
            async with gate:
                await resources.create(widget(namespace, f"w{n}", size=n % 100 + 1))

        await asyncio.gather(*(make(n) for n in range(1200)))
        names = [w.metadata.name for w in await resources.list(Widget) if w.metadata.namespace == namespace]
    assert sorted(names) == sorted(f"w{n}" for n in range(1200))
    assert len(set(names)) == 1200


async def test_a_stopped_api_server_is_transient_and_comes_back(site: Site, namespace: str) -> None:
    async with resources_at(site) as resources:
        await resources.create(widget(namespace, "w"))
        site.apiserver_stop()
        try:
            with pytest.raises(Transient):
                await resources.get(Widget, namespace, "w")
            with pytest.raises(Transient):
                await resources.list(Widget)
            with pytest.raises(Transient):  # refused before it was sent: it has surely not happened
                await resources.create(widget(namespace, "w2"))
        finally:
            site.apiserver_start()
        assert await resources.get(Widget, namespace, "w") is not None
        assert await resources.get(Widget, namespace, "w2") is None


async def _lose_answers_of(proxy: Proxy, site: Site, namespace: str) -> None:
    async with resources_at(site, port=proxy.port) as resources:
        made = await resources.create(widget(namespace, "w"))
        proxy.swallow_answers = True
        operations = [{"op": "replace", "path": "/spec/size", "value": 9}]
        with pytest.raises(OutcomeUnknown, match="may have happened"):
            await resources.json_patch(Widget, namespace, "w", operations)
        proxy.swallow_answers = False
        proxy.cut()
        after = await resources.get(Widget, namespace, "w")
        assert after is not None
        assert after.spec.size == 9  # it has happened
        proxy.swallow_answers = True
        with pytest.raises(Transient):
            await resources.get(Widget, namespace, "w")
        proxy.swallow_answers = False
        await resources.apply_status(made, {"node": "h1"}, manager="lq-a")


async def test_a_write_whose_answer_is_lost_is_of_unknown_outcome(site: Site, namespace: str) -> None:
    async with proxy_before(site.port) as proxy:
        await _lose_answers_of(proxy, site, namespace)


async def test_a_silent_api_server_ends_with_the_deadline(site: Site, namespace: str) -> None:
    async with proxy_before(site.port) as proxy, resources_at(site, port=proxy.port, timeout_s=1.0) as resources:
        await resources.create(widget(namespace, "w"))
        proxy.mute = True
        with pytest.raises(OutcomeUnknown):
            await resources.create(widget(namespace, "w2"))
        with pytest.raises(Transient):
            await resources.get(Widget, namespace, "w")


async def test_events_reach_the_api_server_once(site: Site, namespace: str) -> None:
    endpoint = await from_kubeconfig(site.kubeconfig())
    async with KubeTransport(endpoint) as transport:
        made = await KubeResources(transport).create(widget(namespace, "w"))
        events = KubeEvents(transport, component="run", instance="pod-1")
        poster = asyncio.create_task(events.run())
        for _ in range(5):
            events.emit(made, "Started", "The guest runs.")
        events.emit(made, "Refused", "ä" * 2000, warning=True)
        await events.flush()
        poster.cancel()
    assert events.dropped == 0
    _, answer = site.ask("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")
    assert sorted((e["reason"], e["type"], e["regarding"]["uid"]) for e in answer["items"]) == [
        ("Refused", "Warning", made.metadata.uid),
        ("Started", "Normal", made.metadata.uid),
    ]


async def test_events_never_fail_the_caller(site: Site, namespace: str) -> None:
    endpoint = await from_kubeconfig(site.kubeconfig(token="nobody-t0ken"))
    async with KubeTransport(endpoint) as transport:
        events = KubeEvents(transport, component="run", instance="pod-1", queue_length=3)
        for n in range(5):
            events.emit(widget(namespace, "w"), "Started", f"message {n}")
        assert events.dropped == 2
        poster = asyncio.create_task(events.run())
        await events.flush()
        assert events.dropped == 5
        assert not poster.done()
        poster.cancel()


async def test_a_hanging_etcd_leaves_writes_of_unknown_outcome(site: Site, namespace: str) -> None:
    async with resources_at(site, timeout_s=40.0) as resources:
        made = await resources.create(widget(namespace, "w"))
        site.etcd_freeze()
        try:
            operations = [{"op": "replace", "path": "/spec/size", "value": 9}]
            outcomes = await asyncio.gather(
                resources.json_patch(Widget, namespace, "w", operations),
                resources.create(widget(namespace, "w2")),
                resources.delete(Widget, namespace, "w", uid=made.metadata.uid),
                resources.get(Widget, namespace, "w"),
                return_exceptions=True,
            )
        finally:
            site.etcd_thaw()
        assert [type(outcome) for outcome in outcomes[:3]] == [OutcomeUnknown] * 3
        assert isinstance(outcomes[3], Transient)
