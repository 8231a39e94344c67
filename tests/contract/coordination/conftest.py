"""Fixtures of the coordination contract: one etcd and one API server per run, a fresh space per test."""

from __future__ import annotations

import dataclasses
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tests.contract.coordination.coordination_parts import Site, api_server, create_space, etcd_server

from lq_operator.lab import binaries


def _binary(name: str) -> Path:
    found = binaries.find(name)
    if found is None:
        pytest.skip(f"{name} is neither in KUBEBUILDER_ASSETS nor on PATH nor built (lq_operator.lab.binaries)")
    return found


@pytest.fixture(scope="session")
def etcd_binary() -> Path:
    return _binary("etcd")


@pytest.fixture(scope="session")
def etcd_url(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with etcd_server(etcd_binary, tmp_path_factory.mktemp("etcd")) as url:
        yield url


@pytest.fixture(scope="session")
def api_url(etcd_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with api_server(_binary("kube-apiserver"), tmp_path_factory.mktemp("apiserver"), etcd_url) as url:
        yield url


@pytest.fixture(params=["kubernetes", "etcd"])
def site(request: pytest.FixtureRequest) -> Site:
    """An installation nobody has used, on each backend in turn."""
    word = uuid.uuid4().hex[:12]
    if request.param == "kubernetes":
        site = Site("kubernetes", request.getfixturevalue("api_url"), f"lq-{word}")
    else:
        site = Site("etcd", request.getfixturevalue("etcd_url"), f"/lq/{word}")
    create_space(site)
    return site


@pytest.fixture
def kube_site(api_url: str) -> Site:
    site = Site("kubernetes", api_url, f"lq-{uuid.uuid4().hex[:12]}")
    create_space(site)
    return dataclasses.replace(site)
