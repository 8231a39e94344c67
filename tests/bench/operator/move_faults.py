"""What is broken while a guest is on its way, one function each, healed again before it returns.

Each returns the guests that may have died of it; every other guest has to live through it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.e2e.datacenter import Datacenter, lq
from tests.e2e.witness import processes_on

from lq_operator.lab.host import LabHost

RUN = "lq-operator-run"
KEEPALIVE_S = 20.0
"""The lab's libvirtd gives a silent peer up after this long (keepalive 5 s, 3 times): holds last from less to more."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One move of `vm`, and where the others of its round are or go: VM -> names of both hosts."""

    dc: Datacenter
    move: str
    vm: str
    spec: Mapping[str, Any]
    source: LabHost
    target: LabHost
    ways: Mapping[str, frozenset[str]]
    chance: random.Random

    def touching(self, host: LabHost) -> set[str]:
        """Guests that are there or may have arrived there."""
        return {vm for vm, hosts in self.ways.items() if host.name in hosts}

    def hold(self, most_s: float) -> None:
        """Leave it broken for a while."""
        time.sleep(self.chance.uniform(1.0, most_s))


def operator_killed(scene: Scene) -> set[str]:
    scene.dc.lab.supervisor.kill(RUN)
    return set()


def operator_stopped(scene: Scene) -> set[str]:
    """SIGSTOP for less or more than its lease lasts."""
    scene.dc.lab.supervisor.pause(RUN)
    scene.hold(25.0)
    scene.dc.lab.supervisor.resume(RUN)
    return set()


def api_server_away(scene: Scene) -> set[str]:
    scene.dc.lab.apiserver_stop()
    scene.hold(10.0)
    scene.dc.lab.apiserver_start()
    return set()


def cancelled(scene: Scene) -> set[str]:
    scene.dc.apply(lq("VirtualMachineMigration", scene.move, dict(scene.spec) | {"cancel": True}))
    return set()


def _daemon(scene: Scene, host: LabHost) -> set[str]:
    host.daemon_kill()
    scene.hold(3.0)
    host.daemon_start()
    return set()


def _qemu(scene: Scene, host: LabHost) -> set[str]:
    name = scene.dc.domain(scene.vm)
    for process in processes_on(host):
        if process.domain == name:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    return {scene.vm}


def _cut(scene: Scene, host: LabHost) -> set[str]:
    host.partition()
    scene.hold(1.5 * KEEPALIVE_S)
    host.heal()
    return set()


def _frozen(scene: Scene, host: LabHost) -> set[str]:
    host.freeze()
    scene.hold(1.5 * KEEPALIVE_S)
    host.thaw()
    return set()


def _power(scene: Scene, host: LabHost) -> set[str]:
    host.kill()
    scene.hold(6.0)
    host.start()
    return scene.touching(host)


Fault = Callable[[Scene], set[str]]
_SIDES: Mapping[str, Callable[[Scene, LabHost], set[str]]] = {
    "libvirtd killed": _daemon,
    "QEMU killed": _qemu,
    "cut off": _cut,
    "frozen": _frozen,
    "power lost": _power,
}


def _of_source(do: Callable[[Scene, LabHost], set[str]]) -> Fault:
    return lambda scene: do(scene, scene.source)


def _of_target(do: Callable[[Scene, LabHost], set[str]]) -> Fault:
    return lambda scene: do(scene, scene.target)


FAULTS: Mapping[str, Fault] = {
    "operator killed": operator_killed,
    "operator stopped": operator_stopped,
    "API server away": api_server_away,
    "cancelled": cancelled,
    **{f"source: {name}": _of_source(do) for name, do in _SIDES.items()},
    **{f"target: {name}": _of_target(do) for name, do in _SIDES.items()},
}
