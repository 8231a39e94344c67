"""Random walks: users, hosts, processes and the API server do anything at any time; then the faults stop.

The judge raises at the moment something runs twice. When the faults have stopped, every VM must reach its declaration.
A failure prints its seed; `WALK_SEED=n pytest tests/sim/test_walks.py` repeats it alone.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable

import pytest
from tests.sim.fakes.calls import Call
from tests.sim.fakes.hosts import Line
from tests.sim.scenarios import attest_what_is_off
from tests.sim.world import NS, SimWorld

from lq_operator.api.vm import VirtualMachine
from lq_operator.core.result import OutcomeUnknown, Transient

CHUNKS = 4
WALKS_IN_A_CHUNK = 50
STEPS = 14
VMS = ("vm", "vm2")


class Walk:
    """One run of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = SimWorld(seed, access=self.random.choice(("Shared", "Local")))
        self.world.leases_in_api = self.random.random() < 0.7
        self.hosts = self.random.choice((2, 3))
        self.snapshots: list[object] = []
        self.wished: dict[str, str] = {}
        self.faults = 0
        self.done: list[str] = []

    async def run(self) -> None:
        """Faults, then calm, then the end must be right."""
        world = self.world
        world.found(self.hosts)
        world.operator()
        world.planner()
        await world.until(lambda: world.hosts_ready(self.hosts), "hosts ready")
        for _ in range(STEPS):
            step = self.random.choice(self._steps())
            self.done.append(f"t={world.clock.mono_s():.0f} {getattr(step, '__name__', step)}")
            await step()
            await world.run(self.random.choice((0.0, 0.0, 0.2, 1.0, 3.0, 12.0)))
        await self._calm()
        await world.until(self._settled, "every VM as declared", limit_s=1200)
        await world.run(30)
        assert self._settled(), "it did not last"
        await world.close()

    def _steps(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            *[self.wish] * 5,
            *[self.crash] * 2,
            self.pause,
            self.lose_answers,
            self.silence,
            self.silence,
            self.bring_back,
            self.bring_back,
            self.reboot,
            self.restart_daemon,
            self.attest,
            self.attest,
            self.snapshot,
            self.restore,
            self.wipe,
            self.api_outage,
            self.guest_ends,
            self.delete,
            self.operate,
        ]

    # ------------------------------------------------------------ users

    async def wish(self) -> None:
        name = self.random.choice(VMS)
        self.wished[name] = self.random.choice(("Running", "Running", "Running", "Stopped", "Suspended"))
        self._apply(name)

    def _apply(self, name: str) -> None:
        raw = self.world.raw(VirtualMachine, NS, name)
        if "deletionTimestamp" not in raw.get("metadata", {}):
            self.world.vm(name, powerState=self.wished[name])

    async def delete(self) -> None:
        name = self.random.choice(VMS)
        self.wished.pop(name, None)
        if self.world.raw(VirtualMachine, NS, name):
            self.world.delete(name=name)

    async def operate(self) -> None:
        name = self.random.choice(VMS)
        if self.world.raw(VirtualMachine, NS, name):
            self.world.operation(self.random.choice(("Restart", "Stop", "Start", "Suspend", "Reset")), name)

    async def attest(self) -> None:
        attest_what_is_off(self.world)

    # ------------------------------------------------------------ processes

    async def crash(self) -> None:
        process = self.random.choice(self.world.processes)
        await process.crash()
        self._again()

    def _again(self) -> None:
        alive = {type(p).__name__ for p in self.world.processes if not p.tracer.paused}
        if "Operator" not in alive:
            self.world.operator()
        if "Planner" not in alive:
            self.world.planner()

    async def pause(self) -> None:
        """Stopped at any of its next calls, long enough to lose the lease; another takes over; then it goes on."""
        process = self.random.choice(self.world.processes)
        process.tracer.pause_at = len(process.tracer.calls) + self.random.randrange(1, 30)
        await self.world.run(self.random.choice((1.0, 5.0)))
        process.pause()
        await self.world.run(17)
        self._again()
        await self.world.run(self.random.choice((1.0, 5.0, 15.0)))
        await process.late_deeds()

    async def lose_answers(self) -> None:
        """For a while, answers (and calls) get lost."""
        process, dice = self.random.choice(self.world.processes), self.random

        def before(call: Call) -> None:
            if call.room != "lease" and dice.random() < 0.1:
                raise (OutcomeUnknown if call.write else Transient)("lost on the way there")

        def after(call: Call) -> None:
            if call.room != "lease" and dice.random() < 0.1:
                raise (OutcomeUnknown if call.write else Transient)("lost on the way back")

        quiet = process.tracer.before
        process.tracer.before, process.tracer.after = before, after
        await self.world.run(3)
        process.tracer.before = process.tracer.after = quiet

    # ------------------------------------------------------------ hosts

    def _hosts(self, *lines: Line) -> list[str]:
        return [name for name, line in self.world.datacenter.lines.items() if line in lines]

    async def silence(self) -> None:
        if len(up := self._hosts(Line.UP)) > 1:
            self.world.silence(self.random.choice(up), self.random.choice((Line.CUT, Line.FROZEN, Line.OFF)))

    async def bring_back(self) -> None:
        if silent := self._hosts(Line.CUT, Line.FROZEN, Line.OFF):
            self.world.datacenter.restore(self.random.choice(silent))

    async def reboot(self) -> None:
        if up := self._hosts(Line.UP):
            self.world.datacenter.reboot(self.random.choice(up))

    async def restart_daemon(self) -> None:
        if up := self._hosts(Line.UP):
            self.world.datacenter.restart_daemon(self.random.choice(up))

    async def guest_ends(self) -> None:
        machine = self.world.datacenter.machines[self.random.choice(list(self.world.datacenter.machines))]
        if machine.domains and self.world.datacenter.lines[machine.name] is not Line.FROZEN:
            machine.end(self.random.choice(list(machine.domains)), self.random.choice(("shutdown", "crashed")))

    # ------------------------------------------------------------ the API server

    async def snapshot(self) -> None:
        self.snapshots.append(self.world.snapshot())

    async def restore(self) -> None:
        if self.snapshots and self.faults < 1:
            self.faults += 1
            self.world.restore(self.random.choice(self.snapshots))  # type: ignore[arg-type]
            self._reapply()

    async def wipe(self) -> None:
        """etcd is lost and everything in Git is applied again, in any order."""
        if self.faults < 1:
            self.faults += 1
            self.world.wipe()
            self._reapply()

    def _reapply(self) -> None:
        acts: list[Callable[[], None]] = [lambda: self.world.manifests(self.hosts)]
        acts += [lambda name=name: self._apply(name) for name in self.wished]  # type: ignore[misc]
        self.random.shuffle(acts)
        for act in acts:
            act()

    async def api_outage(self) -> None:
        self.world.api_up = False
        self.world.leases.up = not self.world.leases_in_api
        await self.world.run(self.random.choice((2.0, 10.0, 30.0)))
        self.world.api_up = self.world.leases.up = True

    # ------------------------------------------------------------ the end

    async def _calm(self) -> None:
        for name in self._hosts(Line.CUT, Line.FROZEN, Line.OFF):
            self.world.datacenter.restore(name)
        self._again()
        await self.world.run(20)

    def _settled(self) -> bool:
        self.world.api.gc()
        for name in VMS:
            raw = self.world.raw(VirtualMachine, NS, name)
            if name not in self.wished:
                if raw and "deletionTimestamp" not in raw["metadata"]:
                    self.world.delete(name=name)  # a restore brought it back
                if raw:
                    return False
                continue
            self._apply(name)
            if not self._as_wished(name):
                return False
        return True

    def _as_wished(self, name: str) -> bool:
        match self.wished[name]:
            case "Running":
                return self.world.running(name)
            case "Stopped":
                return self.world.stopped(name)
            case _:
                rests = self.world.power(name) in ("Suspended", "Stopped")
                return rests and not self.world.runs_on(name) and self.world.ready(name) == "True"


def _seeds(chunk: int) -> list[int]:
    wanted = os.environ.get("WALK_SEED")
    if wanted:
        return [int(wanted)] if chunk == 0 else []
    return list(range(chunk * WALKS_IN_A_CHUNK, (chunk + 1) * WALKS_IN_A_CHUNK))


@pytest.mark.parametrize("chunk", range(CHUNKS))
async def test_nothing_runs_twice_and_everything_settles(chunk: int) -> None:
    for seed in _seeds(chunk):
        walk = Walk(seed)
        try:
            await walk.run()
        except AssertionError as problem:
            steps = "\n".join(walk.done)
            pytest.fail(f"WALK_SEED={seed}\n{steps}\n{problem}\n{walk.world.story()}", pytrace=False)
