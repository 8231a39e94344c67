"""A TCP forwarder out of the fabric, a process of its own: for a cluster that lies outside the lab.

A socket stays in the network namespace it was made in. So this process makes its listener inside the fabric and connects
from the machine's own namespace: no routes, no address translation, nothing for `down` to undo.
"""

import argparse
import socket
import threading

from lq_operator.lab.netns import entered


def listener_in(netns: str, host: str, port: int) -> socket.socket:
    """A listening socket of that named namespace."""
    with entered(netns):
        return socket.create_server((host, port), backlog=128)


def forward(client: socket.socket, target: tuple[str, int]) -> None:
    """Join the client to a new connection; returns when both directions have ended."""
    with client:
        try:
            server = socket.create_connection(target, timeout=10)
        except OSError:
            return
        with server:
            server.settimeout(None)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # One side is gone: the other must notice, or the pair would stay for ever.
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def main() -> None:
    """Forward until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--netns", required=True)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    options = parser.parse_args()
    host, port = options.listen.rsplit(":", 1)
    to_host, to_port = options.to.rsplit(":", 1)
    server = listener_in(options.netns, host, int(port))
    while True:
        client, _ = server.accept()
        threading.Thread(target=forward, args=(client, (to_host.strip("[]"), int(to_port))), daemon=True).start()


if __name__ == "__main__":
    main()
