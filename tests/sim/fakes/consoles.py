"""Consoles of machines in memory: a serial port whose guest repeats what it is told, a screen of six pixels, keys kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lq_operator.core.result import Conflict, NotFound, Rejected, Transient
from lq_operator.ports import Picture

if TYPE_CHECKING:
    from tests.sim.fakes.machine import Domain, Machine

SCREEN = b"P6\n3 2\n255\n" + bytes((255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9, 0, 0, 0, 255, 255, 255))


class FakeConsole:
    """ports.Console."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._unread = bytearray(b"login: ")
        self._news = asyncio.Event()
        self.over = False

    def print(self, data: bytes) -> None:
        """The guest says something."""
        self._unread += data
        self._news.set()

    def end(self) -> None:
        """The guest stopped, or the connection broke."""
        self.over = True
        self._news.set()

    async def read(self) -> bytes:
        while not self._unread:
            if self.over:
                return b""
            self._news.clear()
            await self._news.wait()
        data, self._unread = bytes(self._unread), bytearray()
        return data

    async def write(self, data: bytes) -> None:
        if self.over:
            raise Transient(f"the console of {self._name} is over")
        self.print(data)

    async def close(self) -> None:
        self.end()


@dataclass
class Consoles:
    """Those of one machine. libvirt lets one in at a time."""

    serial: dict[str, FakeConsole] = field(default_factory=dict)
    pressed: list[tuple[int, ...]] = field(default_factory=list)
    pointed: list[tuple[float, float, dict[str, bool]]] = field(default_factory=list)

    def open(self, machine: Machine, name: str) -> FakeConsole:
        _running(machine, name)
        before = self.serial.get(name)
        if before is not None and not before.over:
            raise Conflict(f"console of {name}: somebody has it open at the host")
        self.serial[name] = FakeConsole(name)
        return self.serial[name]

    def screenshot(self, machine: Machine, name: str) -> Picture:
        domain = _running(machine, name)
        if domain.live is not None and not domain.live.vnc:
            raise Rejected(f"{name} has no screen: set spec.vnc", field="spec.vnc")
        return Picture(SCREEN, "image/x-portable-pixmap")

    def press(self, machine: Machine, name: str, keycodes: Sequence[int]) -> None:
        _running(machine, name)
        if not keycodes or len(keycodes) > 16 or any(not 0 < code < 0x300 for code in keycodes):
            raise Rejected(f"keys {keycodes}")
        self.pressed.append(tuple(keycodes))

    def point(self, machine: Machine, name: str, x: float, y: float, changed: Mapping[str, bool]) -> None:
        _running(machine, name)
        if set(changed) - {"left", "middle", "right", "wheel-up", "wheel-down"}:
            raise Rejected(f"buttons {dict(changed)}")
        self.pointed.append((x, y, dict(changed)))

    def ended(self, name: str) -> None:
        """The domain runs no more."""
        if name in self.serial:
            self.serial[name].end()


def _running(machine: Machine, name: str) -> Domain:
    domain = machine.domains.get(name)
    if domain is None:
        raise NotFound(f"there is no domain {name}")
    if not domain.state.runs:
        raise Conflict(f"domain {name} does not run")
    return domain
