"""Identity: a Pod's ServiceAccount whose token is replaced, and kubeconfigs that cannot be used."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest

from lq_operator.adapters.kube import endpoint as endpoint_module
from lq_operator.adapters.kube.endpoint import TokenFile, from_kubeconfig, in_cluster
from lq_operator.core.result import Rejected, Transient

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def account(folder: Path, token: str = "first") -> Path:
    (folder / "token").write_text(token)
    (folder / "ca.crt").write_text("pem")
    (folder / "namespace").write_text("lq-system")
    return folder


async def test_a_pod_reads_its_token_again_when_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "TOKEN_LOOK_S", 0.0)
    endpoint = in_cluster(POD, account(tmp_path))
    assert (endpoint.server, endpoint.namespace) == ("https://10.0.0.1:443", "lq-system")
    assert await endpoint.authorization() == "Bearer first"
    # As the kubelet does it: another file under the same name.
    (tmp_path / "token.new").write_text("second\n")
    os.replace(tmp_path / "token.new", tmp_path / "token")
    assert await endpoint.authorization() == "Bearer second"
    connection = await endpoint.kopf_connection()
    assert (connection.scheme, connection.token) == ("Bearer", "second")


def test_the_file_is_looked_at_once_a_second(tmp_path: Path) -> None:
    now_s = 100.0
    token = TokenFile(account(tmp_path) / "token", lambda: now_s)
    assert token.read() == "first"
    (tmp_path / "token").write_text("second, and longer")
    now_s += 0.9
    assert token.read() == "first"
    now_s += 0.1
    assert token.read() == "second, and longer"


def test_the_last_good_token_serves_while_the_file_is_away(tmp_path: Path) -> None:
    ticks = count(100.0, 1.0)
    token = TokenFile(account(tmp_path) / "token", lambda: next(ticks))
    assert token.read() == "first"
    (tmp_path / "token").unlink()
    assert token.read() == "first"
    (tmp_path / "token").write_text("")
    assert token.read() == "first"


def test_without_any_token_nothing_is_sent(tmp_path: Path) -> None:
    with pytest.raises(Transient, match="token"):
        TokenFile(tmp_path / "token").read()


def test_an_ipv6_api_server_is_bracketed(tmp_path: Path) -> None:
    endpoint = in_cluster(POD | {"KUBERNETES_SERVICE_HOST": "fd00::1"}, account(tmp_path))
    assert endpoint.server == "https://[fd00::1]:443"


def test_outside_a_pod_the_remedy_is_said(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="kubeconfig"):
        in_cluster({}, tmp_path)
    with pytest.raises(Rejected, match="automountServiceAccountToken"):
        in_cluster(POD, tmp_path)


@pytest.mark.parametrize("content", ["", "nonsense", "{}", "clusters: [}"])
async def test_an_unusable_kubeconfig_is_rejected_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    with pytest.raises(Rejected, match="kubeconfig"):
        await from_kubeconfig(path)
    with pytest.raises(Rejected, match="missing"):
        await from_kubeconfig(tmp_path / "missing")
