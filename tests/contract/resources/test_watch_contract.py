"""KubeWatch on a real API server: what is in etcd is in the store, whatever is cut, restarted or sent back in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.contract.resources.kube_parts import Proxy, Rack, Site, Widget, proxy_before, spoiler_before, until, widget

from lq_operator.adapters.kube.client import KubeResources
from lq_operator.adapters.kube.endpoint import from_kubeconfig
from lq_operator.adapters.kube.store import WatchStore, WentBack
from lq_operator.adapters.kube.transport import KubeTransport
from lq_operator.adapters.kube.watch import KubeWatch


@dataclass
class Watched:
    """A running watch and what it has said."""

    store: WatchStore
    resources: KubeResources
    watch: KubeWatch
    changes: list[str] = field(default_factory=list)
    went_back: list[WentBack] = field(default_factory=list)
    fatal: list[str] = field(default_factory=list)

    def size(self, namespace: str, name: str) -> int | None:
        found = self.store.get(Widget, namespace, name)
        return found.spec.size if found else None

    def names(self, namespace: str) -> set[str]:
        return {w.metadata.name for w in self.store.list(Widget) if w.metadata.namespace == namespace}


@asynccontextmanager
async def watching(
    site: Site,
    *,
    port: int | None = None,
    kubeconfig: Path | None = None,
    relist_s: float = 3600.0,
    deaf_s: float = 15.0,
) -> AsyncIterator[Watched]:
    endpoint = await from_kubeconfig(kubeconfig or site.kubeconfig(port=port))
    async with KubeTransport(endpoint) as transport:
        resources = KubeResources(transport)
        store = WatchStore((Widget, Rack))
        fatal: list[str] = []
        watch = KubeWatch(
            endpoint, resources, store, on_fatal=fatal.append, relist_s=relist_s, probe_s=1.0, deaf_s=deaf_s
        )
        watched = Watched(store, resources, watch, fatal=fatal)
        store.subscribe(lambda kind, key: watched.changes.append(f"{kind.kind_name} {key}"))
        store.on_went_back(watched.went_back.append)
        await watch.start()
        try:
            yield watched
        finally:
            await watch.stop()


def edit(site: Site, namespace: str, name: str, size: int) -> None:
    status, answer = site.ask(
        "PATCH",
        f"/apis/limiquantix.io/v1alpha1/namespaces/{namespace}/widgets/{name}",
        {"spec": {"size": size}},
        "application/merge-patch+json",
    )
    assert status == 200, answer


def make(site: Site, namespace: str, name: str, size: int = 1) -> None:
    body = {
        "apiVersion": "limiquantix.io/v1alpha1",
        "kind": "Widget",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"size": size},
    }
    status, answer = site.ask("POST", f"/apis/limiquantix.io/v1alpha1/namespaces/{namespace}/widgets", body)
    assert status == 201, answer


def remove(site: Site, namespace: str, name: str) -> None:
    assert site.ask("DELETE", f"/apis/limiquantix.io/v1alpha1/namespaces/{namespace}/widgets/{name}")[0] == 200


async def alive(watched: Watched, site: Site, namespace: str, name: str = "alive") -> None:
    """The watch, not a list, delivers: the checking list of these tests comes once an hour."""
    make(site, namespace, name)
    await until(lambda: watched.fatal or watched.size(namespace, name) == 1)
    assert not watched.fatal


async def test_what_exists_at_start_is_there_and_changes_follow(site: Site, namespace: str) -> None:
    make(site, namespace, "old", 3)
    async with watching(site) as watched:
        assert watched.store.synced(Widget, Rack)
        assert watched.size(namespace, "old") == 3
        await alive(watched, site, namespace)
        edit(site, namespace, "old", 4)
        await until(lambda: watched.size(namespace, "old") == 4)
        remove(site, namespace, "old")
        await until(lambda: watched.size(namespace, "old") is None)
        assert f"Widget {namespace}/old" in watched.changes
        assert watched.watch.restarts == 0


async def test_own_writes_are_in_the_store_at_once_and_echoes_are_silent(site: Site, namespace: str) -> None:
    async with watching(site) as watched:
        await alive(watched, site, namespace)
        watched.resources.observe_results(watched.store.observe)
        made = await watched.resources.create(widget(namespace, "mine", size=5))
        assert watched.store.get(Widget, namespace, "mine") == made
        await alive(watched, site, namespace, "later")  # by now the echo has come
        assert watched.changes.count(f"Widget {namespace}/mine") == 1


async def test_the_api_server_restarts_under_the_watch(site: Site, namespace: str) -> None:
    async with watching(site) as watched:
        await alive(watched, site, namespace)
        site.apiserver_stop()
        await asyncio.sleep(3)
        site.apiserver_start()
        await alive(watched, site, namespace, "after")
        assert not watched.fatal
        assert not watched.went_back


async def _cut_between_changes(proxy: Proxy, site: Site, namespace: str) -> None:
    async with watching(site, port=proxy.port) as watched:
        await alive(watched, site, namespace)
        make(site, namespace, "doomed")
        await until(lambda: watched.size(namespace, "doomed") == 1)
        proxy.refuse = True
        proxy.cut()
        remove(site, namespace, "doomed")  # nobody will be told of this one
        edit(site, namespace, "alive", 7)
        await asyncio.sleep(1)
        proxy.refuse = False
        await until(lambda: watched.size(namespace, "alive") == 7)
        await until(lambda: watched.size(namespace, "doomed") is None)
        await alive(watched, site, namespace, "after")
        assert not watched.fatal


async def test_a_cut_stream_loses_nothing(site: Site, namespace: str) -> None:
    async with proxy_before(site.port) as proxy:
        await _cut_between_changes(proxy, site, namespace)


async def test_a_history_that_was_compacted_away_is_listed_again(site: Site, namespace: str) -> None:
    async with proxy_before(site.port) as proxy, watching(site, port=proxy.port) as watched:
        await alive(watched, site, namespace)
        proxy.refuse = True
        proxy.cut()
        # More changes than the API server's watch cache keeps (100 by default for a kind this small), then a restart
        # which empties the cache: the version that the watch asks for is "too old", HTTP 410.
        for n in range(1, 60):
            edit(site, namespace, "alive", n)
        remove(site, namespace, "alive")
        site.compact()
        site.apiserver_stop()
        site.apiserver_start()
        proxy.refuse = False
        await until(lambda: watched.size(namespace, "alive") is None)
        await alive(watched, site, namespace, "after")
        assert not watched.fatal


async def test_a_muted_watch_is_found_out_and_started_anew(site: Site, namespace: str) -> None:
    async with proxy_before(site.port) as proxy, watching(site, port=proxy.port, relist_s=2.0, deaf_s=3.0) as watched:
        await alive(watched, site, namespace)
        proxy.mute_open_connections()  # they stay open and say nothing; new ones work
        make(site, namespace, "unheard")
        await until(lambda: watched.size(namespace, "unheard") == 1)  # the list shows it
        await until(lambda: watched.watch.restarts >= 1)
        await until(lambda: watched.store.undelivered(Widget) == 0)


async def test_a_restored_etcd_is_noticed_and_believed(site: Site, namespace: str, tmp_path: Path) -> None:
    make(site, namespace, "kept", 1)
    make(site, namespace, "lost-later", 1)
    site.backup(tmp_path / "backup")
    async with watching(site) as watched:
        await alive(watched, site, namespace, "unknown-to-the-backup")
        for size in range(2, 10):
            edit(site, namespace, "kept", size)
        remove(site, namespace, "lost-later")
        await until(lambda: watched.size(namespace, "kept") == 9 and watched.size(namespace, "lost-later") is None)
        site.restore(tmp_path / "backup")
        await until(lambda: bool(watched.went_back))
        await until(lambda: watched.size(namespace, "kept") == 1)
        await until(lambda: watched.names(namespace) == {"kept", "lost-later"})
        edit(site, namespace, "kept", 50)
        await until(lambda: watched.size(namespace, "kept") == 50)
        await alive(watched, site, namespace, "after")
        assert watched.went_back[0].listed_version < watched.went_back[0].seen_version
        assert not watched.fatal


async def test_two_thousand_objects_are_synced_and_delivered(site: Site, namespace: str) -> None:
    endpoint = await from_kubeconfig(site.kubeconfig())
    async with KubeTransport(endpoint) as transport:
        resources = KubeResources(transport)
        gate = asyncio.Semaphore(32)

        async def create(n: int) -> None:
            async with gate:
                await resources.create(widget(namespace, f"w{n}"))

        await asyncio.gather(*(create(n) for n in range(2000)))
    spent_s = time.process_time()
    async with watching(site) as watched:
        assert len(watched.names(namespace)) == 2000
        await until(lambda: watched.store.undelivered(Widget) == 0)
        spent_s = time.process_time() - spent_s
        assert len(watched.changes) == len(set(watched.changes))  # each of them said once, not by list and watch both
        # CPU, not wall clock: kopf.index needs 8.9 s for as many, plain events about 1 s.
        assert spent_s < 6.0


async def test_a_watch_that_may_not_list_is_not_synced(site: Site) -> None:
    endpoint = await from_kubeconfig(site.kubeconfig(token="nobody-t0ken"))
    async with KubeTransport(endpoint) as transport:
        store = WatchStore((Widget,))
        watch = KubeWatch(endpoint, KubeResources(transport), store, on_fatal=lambda why: None)
        starting = asyncio.create_task(watch.start())
        await asyncio.sleep(1.0)
        assert not starting.done()
        assert not store.synced(Widget)
        starting.cancel()
        await watch.stop()


@pytest.mark.parametrize(
    "fault",
    [
        "error-event-500",
        "error-event-410",
        "half-a-line",
        "no-json",
        "closed-at-once",
        "410",
        "401",
        "403",
        "500",
        "404",
    ],
)
async def test_a_spoiled_watch_loses_nothing(site: Site, namespace: str, fault: str) -> None:
    make(site, namespace, "old", 1)
    async with spoiler_before(site) as (spoiler, kubeconfig):
        spoiler.faults = [fault]
        async with watching(site, kubeconfig=kubeconfig) as watched:
            await until(lambda: spoiler.spoiled == [fault])
            edit(site, namespace, "old", 2)
            await until(lambda: watched.size(namespace, "old") == 2)
            await until(lambda: spoiler.watches >= 3)  # two kinds, and the spoiled one again
            await alive(watched, site, namespace)
            await until(lambda: watched.store.undelivered(Widget) == 0)
            assert not watched.fatal
            assert not watched.went_back
