"""URIs and Secrets: what is taken, what is refused and by which name, and what lies on disk meanwhile."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from lq_operator.adapters.libvirt.endpoint import Access, parse_endpoint
from lq_operator.core.result import Rejected

TLS = {"ca.crt": b"ca", "tls.crt": b"crt", "tls.key": b"key"}
SSH = {"ssh-privatekey": b"private", "known_hosts": b"h ssh-ed25519 AAAA"}


@pytest.mark.parametrize(
    ("uri", "transport", "host", "port"),
    [
        ("qemu+tls://h1.example.org/system", "tls", "h1.example.org", 16514),
        ("qemu+tcp://10.0.0.1/system", "tcp", "10.0.0.1", 16509),
        ("qemu+tcp://[fd00::1]:1234/system", "tcp", "fd00::1", 1234),
        ("qemu+ssh://root@h1:2222/system?socket=/run/x", "ssh", "h1", 2222),
        ("qemu+ssh://h1/system?mode=direct", "ssh", "h1", 22),
    ],
)
def test_lawful_uris(uri: str, transport: str, host: str, port: int) -> None:
    found = parse_endpoint(uri)
    assert (found.transport, found.host, found.port) == (transport, host, port)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "h1",
        "qemu:///system",
        "qemu+unix:///system",
        "xen+tls://h1/system",
        "test+tcp://h1/default",
        "qemu+tls://h1/session",
        "qemu+tls://h1",
        "qemu+tls:///system",
        "qemu+tls://h1:99999/system",
        "qemu+tls://u:secret@h1/system",
        "qemu+ssh://-oProxyCommand=x/system",
        "qemu+ssh://-l@h1/system",
        "qemu+tls://h1/system?no_verify=1",
        "qemu+tls://h1/system?pkipath=/etc",
        "qemu+ssh://h1/system?command=/bin/sh",
        "qemu+ssh://h1/system?netcat=evil",
        "qemu+ssh://h1/system?keyfile=/root/.ssh/id",
        "qemu+ssh://h1/system?no_tty=1&Command=x",
    ],
)
def test_uris_that_are_refused(uri: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_endpoint(uri)
    assert caught.value.field == "spec.uri"
    assert "secret" not in str(caught.value)


def test_tls_credentials_are_private_and_go_away() -> None:
    access = Access(parse_endpoint("qemu+tls://h1/system"), TLS, 3)
    folder = access.directory
    assert folder is not None
    assert access.uri.startswith("qemu+tls://h1:16514/system?pkipath=")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        "cacert.pem": b"ca\n",
        "clientcert.pem": b"crt\n",
        "clientkey.pem": b"key\n",
    }
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    access.close()
    access.close()
    assert not folder.exists()


def test_ssh_knows_one_host_and_asks_nobody() -> None:
    access = Access(parse_endpoint("qemu+ssh://root@[fd00::1]/system"), SSH, 3.7)
    folder = access.directory
    assert folder is not None
    try:
        assert access.uri.startswith("qemu+ssh://root@[fd00::1]:22/system?command=")
        assert (folder / "ssh").stat().st_mode & 0o777 == 0o700
        words = shlex.split((folder / "ssh").read_text().splitlines()[1])
        assert words[:2] == ["exec", "ssh"]
        for option in (
            "StrictHostKeyChecking=yes",
            "BatchMode=yes",
            "ConnectTimeout=3",
            f"UserKnownHostsFile={folder}/known_hosts",
        ):
            assert option in words
        assert words[-1] == "$@"
        assert (folder / "id").stat().st_mode & 0o777 == 0o600
    finally:
        access.close()


@pytest.mark.parametrize(("uri", "whole"), [("qemu+tls://h/system", TLS), ("qemu+ssh://h/system", SSH)])
def test_what_the_secret_lacks_is_named(
    uri: str, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for key in whole:
        with pytest.raises(Rejected, match=key) as caught:
            Access(parse_endpoint(uri), {**whole, key: b""}, 3)
        assert caught.value.field == "spec.credentialsSecretRef"
    assert list(tmp_path.iterdir()) == []


def test_tcp_needs_and_writes_nothing() -> None:
    access = Access(parse_endpoint("qemu+tcp://h/system"), {}, 3)
    assert (access.uri, access.directory) == ("qemu+tcp://h:16509/system", None)
