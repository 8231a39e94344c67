"""Does QEMU itself lose writes of an emulated guest that it moves? No libvirt, no operator: QEMU to QEMU over a socket.

The guest fills a file, copies it and compares both, for ever; a difference, or a kernel that complains, is a write that the
target never got. LQ_EMULATED_MOVES=N (default 40) live moves, then a quarter as many with the guest stopped first, in
which nothing is written meanwhile: the control. LQ_EMULATED_LOAD=N busy processes compete (default: twice the CPUs).
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.bench.report import show

from lq_operator.lab import guest

COUNT = int(os.environ.get("LQ_EMULATED_MOVES", "40"))
LOAD = int(os.environ.get("LQ_EMULATED_LOAD", str(2 * (os.cpu_count() or 1))))
MIB_S = 32
"""So slow that the guest writes while its memory goes over, as it does over a real network."""
BAD = re.compile(r"LOST-WRITE|Kernel panic|general protection|Oops|BUG:|segfault|Call Trace|Segmentation")
INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /bin /proc /dev /run
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /run
exec >/dev/ttyS0 2>&1
n=0
while :; do
  n=$((n+1))
  dd if=/dev/urandom of=/run/a bs=64k count=8 2>/dev/null
  cp /run/a /run/b
  cmp /run/a /run/b || echo "LOST-WRITE $n"
  echo "alive $n"
done
"""


def _initrd(base: Path, target: Path) -> None:
    """The lab's guest with another first program (a second cpio archive, as the kernel allows)."""
    name, body = b"stress\0", INIT.encode()
    entries = b""
    for entry, mode, data in ((name, 0o100755, body), (b"TRAILER!!!\0", 0, b"")):
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(entry), 0)
        entries += b"070701" + b"".join(b"%08x" % field for field in fields) + entry
        entries += b"\0" * (-len(entries) % 4) + data
        entries += b"\0" * (-len(entries) % 4)
    target.write_bytes(base.read_bytes() + gzip.compress(entries))


class Qemu:
    """One QEMU and its monitor."""

    def __init__(self, folder: Path, n: int, image: guest.GuestImage, *, incoming: bool) -> None:
        self.wire, self.console = folder / f"{n}.wire", folder / f"{n}.console"
        monitor = folder / f"{n}.qmp"
        argv = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "192", "-display", "none"]
        argv += ["-nodefaults", "-kernel", str(image.kernel), "-initrd", str(folder / "initrd")]
        argv += ["-append", "console=ttyS0 no_timer_check rdinit=/stress", "-serial", f"file:{self.console}"]
        argv += ["-qmp", f"unix:{monitor},server=on,wait=off"]
        argv += ["-incoming", f"unix:{self.wire}"] if incoming else []
        self.process = subprocess.Popen(argv)
        self._socket = _connected(monitor)
        self._lines = self._socket.makefile("r")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """The answer; events are passed over."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            said = json.loads(self._lines.readline())
            if "return" in said or "error" in said:
                assert "return" in said, said
                return said["return"]

    def said(self) -> str:
        """Its console so far."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def lives(self, beyond: int, limit_s: float = 90.0) -> bool:
        """It has gone round `beyond` times more."""
        deadline_s, first = time.monotonic() + limit_s, self.said().count("alive")
        while time.monotonic() < deadline_s and not BAD.search(self.said()):
            if self.said().count("alive") >= first + beyond:
                return True
            time.sleep(0.1)
        return False

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


def _connected(path: Path) -> socket.socket:
    deadline_s = time.monotonic() + 60
    while True:
        try:
            found = socket.socket(socket.AF_UNIX)
            found.connect(str(path))
            return found
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def _move(source: Qemu, target: Qemu, *, live: bool) -> dict[str, Any]:
    source.ask("migrate-set-parameters", **{"max-bandwidth": MIB_S << 20, "downtime-limit": 300})
    if not live:
        source.ask("stop")
    source.ask("migrate", uri=f"unix:{target.wire}")
    while True:
        info: dict[str, Any] = source.ask("query-migrate")
        if info.get("status") in ("completed", "failed"):
            assert info["status"] == "completed", info
            break
        time.sleep(0.02)
    if not live:
        target.ask("cont")
    return info


def _series(folder: Path, image: guest.GuestImage, count: int, *, live: bool) -> dict[str, object]:
    """One guest handed on and on; after a failure a new one."""
    bad: list[str] = []
    passes: list[int] = []
    here: Qemu | None = None
    with ExitStack() as ends:
        for n in range(count):
            if here is None:
                here = Qemu(folder, 10_000 * live + 100 * n, image, incoming=False)
                ends.callback(here.end)
                assert here.lives(3, 300.0), here.said()[-500:]
            there = Qemu(folder, 10_000 * live + 100 * n + 1, image, incoming=True)
            ends.callback(there.end)
            passes.append(int(_move(here, there, live=live)["ram"]["dirty-sync-count"]))
            here.end()
            here = there
            if not here.lives(5):
                bad.append(f"move {n}: {here.said()[-300:]!r}")
                print(bad[-1], flush=True)
                here.end()
                here = None
            if n % 10 == 9:
                print(f"{n + 1} of {count} {'live' if live else 'stopped'} moves: {len(bad)} failed", flush=True)
    kind = "live" if live else "guest stopped first"
    return {"moves": count, "kind": kind, "guests that lost writes": len(bad), "passes": max(passes)}


def _burn() -> None:
    while True:
        pass


@contextmanager
def _competition() -> Iterator[None]:
    busy = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(LOAD)]
    for one in busy:
        one.start()
    try:
        yield
    finally:
        for one in busy:
            one.kill()


def main() -> int:
    """Figures only: what QEMU does is not ours to assert."""
    image = guest.ensure(print)
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="lq-emulated-") as scratch, _competition():
        folder = Path(scratch)
        _initrd(image.initrd, folder / "initrd")
        rows = [_series(folder, image, n, live=live) for n, live in ((COUNT, True), (max(1, COUNT // 4), False))]
    show(version.splitlines()[0], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
