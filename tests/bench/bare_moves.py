"""One guest to and fro between two hosts: Host.move beside a bare `virsh migrate`, interleaved in one run.

The guest is the lab's, 192 MiB on a shared disk, idle and then writing memory all the time. Wall time is taken around the
call; total and downtime are libvirt's own figures of the finished job. Both ways encrypt (TLS) and auto-converge.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from tests.bench.report import percentile, show
from tests.contract.host.worlds import bare_uri, connected, credentials

from lq_operator.adapters.libvirt.fleet import LibvirtFleet
from lq_operator.core.model import DiskPlan, DomainPlan, Epoch, Identity, MovePlan, NodeName, PoolPlan, VolumePlan
from lq_operator.core.result import Transient
from lq_operator.lab.datacenter import Lab
from lq_operator.ports import Host

ROUNDS = 3
GATES = PoolPlan("lq-bench-gates", "/run/lq-bench")
WRITER = "while :; do dd if=/dev/urandom of=/tmp/dirt bs=64k count=256 conv=notrunc; done"


class Shuttle:
    """The guest, and where it is."""

    def __init__(self, lab: Lab, hosts: dict[str, Host]) -> None:
        self.lab, self.hosts = lab, hosts
        self.at, self.turn = "h1", 0
        disk = lab.shared_dir / "bench-moves.qcow2"
        shutil.copy(lab.www_dir / "guest.qcow2", disk)
        os.chmod(disk, 0o666)
        self.guest = DomainPlan(
            identity=Identity("bench", "bench", "mover"),
            uid="bench",
            epoch=Epoch(1, 1),
            spec_hash="x",
            gate_path=f"{GATES.path}/gate-1-aa",
            vcpus=1,
            memory_mib=192,
            accel=lab.accel,
            cpu_mode="maximum" if lab.accel == "tcg" else "host-model",
            disks=(DiskPlan("root", str(disk), "qcow2"),),
            hotplug_ports=1,
        )

    @property
    def name(self) -> str:
        return self.guest.identity.domain_name

    @property
    def other(self) -> str:
        return "h2" if self.at == "h1" else "h1"

    def peer(self) -> str:
        return self.lab.host(self.at).peer_uri(self.lab.host(self.other))

    async def start(self) -> None:
        """It runs and its agent answers."""
        for host in self.hosts.values():
            await host.ensure_pool(GATES)
            for name in {"gate-1-aa", "ticket-kept"} - {
                v.name for v in await host.list_volumes(GATES.name, refresh=True)
            }:
                await host.create_volume(GATES.name, VolumePlan(name, 0, "raw", mode=0o444))
            if await host.find_domain(self.name) is not None:  # of a run that was ended
                await host.destroy(self.name)
                await host.undefine(self.name)
        await self.hosts["h1"].define(self.guest)
        await self.hosts["h1"].start(self.name)
        await self.answers()

    async def answers(self) -> None:
        async with asyncio.timeout(180):
            while True:
                try:
                    await self.hosts[self.at].guest_facts(self.name)
                    return
                except Transient:
                    await asyncio.sleep(0.5)

    async def write_memory(self) -> None:
        """From now on the guest writes 16 MiB over and over."""
        ask = json.dumps({"execute": "guest-exec", "arguments": {"path": "/bin/sh", "arg": ["-c", WRITER]}})
        await asyncio.to_thread(self.lab.host(self.at).virsh, "qemu-agent-command", self.name, ask)
        await asyncio.sleep(5)

    async def ours(self) -> dict[str, float]:
        """One Host.move, ticket included."""
        began_s = time.monotonic()
        # The run needs a file that stays: `virsh migrate` asks the other host for the one that the guest came in with.
        ticket = f"ticket-{uuid.uuid4().hex[:8]}"
        await self.hosts[self.other].create_volume(GATES.name, VolumePlan(ticket, 0, "raw", mode=0o444))
        running = replace(self.guest, gate_path=f"{GATES.path}/ticket-kept")
        result = await self.hosts[self.at].move(MovePlan(self.name, self.peer(), "", running, self.guest))
        took_s = time.monotonic() - began_s
        await self.hosts[self.other].delete_volume(GATES.name, ticket)
        sizes = {"downtime_s": result.downtime_ms / 1000, "mib": result.transferred_bytes / 2**20}
        return {"wall_s": took_s, "total_s": result.total_ms / 1000, **sizes}

    async def bare(self) -> dict[str, float]:
        """One `virsh migrate` on the host, and what virsh says of the finished job (libvirt tells it once)."""
        address, host = self.lab.host(self.other).ip, self.lab.host(self.at)
        words = f"--live --p2p --persistent --unsafe --auto-converge --tls --tls-destination {address}"
        command = f"virsh migrate {words} --migrateuri tcp://{address} {self.name} '{self.peer()}'"
        script = f"s=$(date +%s%N); {command} >&2 || exit 1; e=$(date +%s%N); echo $((e - s))"
        done = await asyncio.to_thread(host.exec, ["sh", "-c", script], check=True, timeout_s=600)
        said = await asyncio.to_thread(host.virsh, "domjobinfo", self.name, "--completed", "--rawstats")
        stats = dict(line.partition(": ")[::2] for line in said.splitlines() if ": " in line)
        sizes = {"downtime_s": int(stats["downtime"]) / 1000, "mib": int(stats["data_processed"]) / 2**20}
        return {"wall_s": int(done.stdout.split()[-1]) / 1e9, "total_s": int(stats["time_elapsed"]) / 1000, **sizes}

    async def measure(self, way: str) -> dict[str, float]:
        """One move by that way; the guest is on the other host afterwards."""
        figures = await (self.ours() if way == "Host.move" else self.bare())
        left = self.at
        self.at = self.other
        await self.hosts[left].undefine(self.name)
        return figures


async def _rounds(shuttle: Shuttle, load: str) -> list[dict[str, object]]:
    taken: dict[str, list[dict[str, float]]] = {"virsh migrate": [], "Host.move": []}
    for turn in range(2 * ROUNDS):
        # Pairs of both ways, and each way in both directions.
        way = list(taken)[(turn + turn // 2) % 2]
        taken[way].append(await shuttle.measure(way))
    await shuttle.answers()
    rows: list[dict[str, object]] = []
    bare_p50 = percentile([one["wall_s"] for one in taken["virsh migrate"]], 0.5)
    for way, all_of in taken.items():
        column: Callable[[str], list[float]] = lambda name, all_of=all_of: [one[name] for one in all_of]  # type: ignore[misc]  # noqa: E731
        rows.append(
            {
                "guest": load,
                "way": way,
                "n": len(all_of),
                "wall_p50_s": percentile(column("wall_s"), 0.5),
                "wall_max_s": max(column("wall_s")),
                "total_p50_s": percentile(column("total_s"), 0.5),
                "downtime_p50_s": percentile(column("downtime_s"), 0.5),
                "downtime_max_s": max(column("downtime_s")),
                "sent_p50_mib": percentile(column("mib"), 0.5),
                "ratio_wall_p50": percentile(column("wall_s"), 0.5) / bare_p50,
            }
        )
    return rows


async def _run(lab: Lab) -> None:
    with lab.entered():
        fleet = LibvirtFleet()
        hosts: dict[str, Host] = {}
        for host in lab.hosts[:2]:
            fleet.configure(NodeName(host.name), bare_uri(host), credentials(lab))
            hosts[host.name] = await connected(fleet, NodeName(host.name))
        try:
            shuttle = Shuttle(lab, hosts)
            await shuttle.start()
            rows = await _rounds(shuttle, "idle")
            await shuttle.write_memory()
            rows += await _rounds(shuttle, "writes 16 MiB over and over")
            show("live moves", rows)
            await hosts[shuttle.at].destroy(shuttle.name)
            await hosts[shuttle.at].undefine(shuttle.name)
        finally:
            await fleet.close()


def main() -> None:
    """LQ_TEST_LAB=NAME uses and keeps that lab (two hosts, TLS)."""
    kept = os.environ.get("LQ_TEST_LAB")
    if kept:
        asyncio.run(_run(Lab.load(kept)))
        return
    lab = Lab.create(f"bench-{os.getpid()}", hosts=2, controlplane=False)
    try:
        lab.up(print)
        asyncio.run(_run(lab))
    finally:
        lab.down()


if __name__ == "__main__":
    main()
