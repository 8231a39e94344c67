"""Fixtures of the resources contract: the same suite over FakeApi and over a real API server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.contract.resources.kube_parts import Site
from tests.contract.resources.worlds import FakeWorld, RealWorld, World

from lq_operator.adapters.kube.client import KubeResources
from lq_operator.adapters.kube.endpoint import from_kubeconfig
from lq_operator.adapters.kube.transport import KubeTransport
from lq_operator.lab import binaries


def _binary(name: str) -> Path:
    found = binaries.find(name)
    if found is None:
        pytest.skip(f"{name} is neither in KUBEBUILDER_ASSETS nor on PATH nor built (lq_operator.lab.binaries)")
    return found


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), _binary("etcd"), _binary("kube-apiserver"))
    try:
        site.up()
        yield site
    finally:
        site.down()


@pytest.fixture(params=["fake", "real"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    site: Site = request.getfixturevalue("site")
    async with KubeTransport(await from_kubeconfig(site.kubeconfig())) as transport:
        yield RealWorld(site, KubeResources(transport))


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    name = f"t-{uuid.uuid4().hex[:10]}"
    if "world" in request.fixturenames:
        request.getfixturevalue("world").put_namespace(name, {"team": "blue"})
    elif "site" in request.fixturenames:
        request.getfixturevalue("site").ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return name
