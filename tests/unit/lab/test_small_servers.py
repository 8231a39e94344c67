"""The lab's web server and forwarder on loopback, and its certificates in a real handshake."""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from lq_operator.lab import httpd, tunnel
from lq_operator.lab.pki import Authority, write_secret


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[http.client.HTTPConnection, Path]]:
    www = tmp_path / "www"
    www.mkdir()
    handler = partial(httpd.Handler, directory=str(www), records=tmp_path / "records")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
        yield connection, www
        connection.close()
        server.shutdown()


def get(connection: http.client.HTTPConnection, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request("GET", path)
    response = connection.getresponse()
    return response, response.read()


def test_web_server_serves_slows_down_redirects_and_records(
    web: tuple[http.client.HTTPConnection, Path], tmp_path: Path
) -> None:
    connection, www = web
    (www / "image").write_bytes(b"x" * 5000)
    (www / "away.redirect").write_text("http://169.254.169.254/\n")
    for path in ("/image", "/image?rate_kib=20"):
        response, body = get(connection, path)
        assert (response.status, response.getheader("Content-Length"), body) == (200, "5000", b"x" * 5000)
    response, _ = get(connection, "/away")
    assert (response.status, response.getheader("Location")) == (302, "http://169.254.169.254/")
    assert get(connection, "/absent")[0].status == 404
    assert get(connection, "/../records")[0].status == 404
    for epoch in (1, 2):
        assert get(connection, f"/record?vm=a&epoch={epoch}")[0].status == 204
    lines = [json.loads(line) for line in (tmp_path / "records").read_text().splitlines()]
    assert [(line["vm"], line["epoch"], line["sender"]) for line in lines] == [
        ("a", "1", "127.0.0.1"),
        ("a", "2", "127.0.0.1"),
    ]
    assert lines[0]["time_s"] <= lines[1]["time_s"]


def test_forwarder_passes_both_ways_and_closes_both_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        ours, theirs = socket.socketpair()
        joined = threading.Thread(target=tunnel.forward, args=(theirs, target.getsockname()[:2]), daemon=True)
        joined.start()
        far, _ = target.accept()
        with ours, far:
            ours.sendall(b"ping")
            assert far.recv(10) == b"ping"
            far.sendall(b"pong")
            assert ours.recv(10) == b"pong"
            far.close()
            assert ours.recv(10) == b""
        joined.join(timeout=20)
        assert not joined.is_alive()


def test_forwarder_hangs_up_when_the_target_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()[:2]
    ours, theirs = socket.socketpair()
    with ours:
        tunnel.forward(theirs, address)
        assert ours.recv(10) == b""


def test_leaf_certificates_hold_in_a_strict_mutual_handshake(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    assert Authority(tmp_path, "ca").certificate == authority.certificate, "found again, not made anew"
    for name, pair in (
        ("server", authority.issue("h1", hosts=("127.0.0.1",), server=True)),
        ("client", authority.issue("operator", organization="group")),
        ("stranger", Authority(tmp_path / "other", "ca").issue("operator")),
    ):
        write_secret(tmp_path / f"{name}.pem", pair.certificate + pair.key)
        assert (tmp_path / f"{name}.pem").stat().st_mode & 0o077 == 0

    def handshake(client_name: str) -> str | None:
        server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.crt"))
        server_side.verify_mode = ssl.CERT_REQUIRED
        server_side.verify_flags |= ssl.VERIFY_X509_STRICT
        server_side.load_cert_chain(tmp_path / "server.pem")
        client_side = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        client_side.verify_flags |= ssl.VERIFY_X509_STRICT
        client_side.load_cert_chain(tmp_path / f"{client_name}.pem")
        one, two = socket.socketpair()
        said: list[str] = []

        def serve() -> None:
            try:
                with server_side.wrap_socket(one, server_side=True) as connection:
                    subject = connection.getpeercert() or {}
                    said.append(str(subject["subject"]))
            except ssl.SSLError:
                one.close()

        server = threading.Thread(target=serve)
        server.start()
        try:
            with client_side.wrap_socket(two, server_hostname="127.0.0.1") as connection:
                connection.recv(1)
        except (ssl.SSLError, OSError):
            two.close()
        server.join(timeout=20)
        return said[0] if said else None

    assert "operator" in (handshake("client") or "")
    assert handshake("stranger") is None
