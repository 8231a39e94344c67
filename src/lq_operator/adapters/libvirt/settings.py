"""Numbers of the libvirt adapter, with where they come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LibvirtSettings:
    """Times in seconds.

    keepalive_interval_s x (keepalive_count + 1) is when a silent host is given up: 2 x 4 = 8 s, measured 7-8 s.
    That is asked of a host's first connection; the others ask every spare_keepalive_interval_s, only to notice
    when they break alone. *_connections: how many calls of each kind a host is asked at once; over SSH, where each
    is a process, one of each (but two short ones). A move has a connection of its own for as long as it takes, opened
    when it begins; move_connections bounds them per host (the most that spec.migration.parallelPerHost may say).
    probe_timeout_s bounds the TCP connect, which the kernel alone would retry for 127 s.
    open_timeout_s bounds TLS, the RPC handshake and the first capabilities (0.7 s while libvirt probes QEMU, more
    on a busy host). Backoff doubles from backoff_first_s to backoff_most_s, each with full jitter.
    """

    keepalive_interval_s: int = 2
    keepalive_count: int = 3
    spare_keepalive_interval_s: int = 10
    short_connections: int = 2
    start_connections: int = 3
    long_connections: int = 2
    agent_connections: int = 1
    move_connections: int = 64
    probe_timeout_s: float = 3.0
    open_timeout_s: float = 20.0
    close_timeout_s: float = 2.0
    backoff_first_s: float = 0.5
    backoff_most_s: float = 30.0
    drivers: tuple[str, ...] = ("qemu",)
