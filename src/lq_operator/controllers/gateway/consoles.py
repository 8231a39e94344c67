"""One serial console for many readers: what the guest prints goes to all, what one of them types goes to the guest.

A Hub lives while somebody reads it. It opens the port again whenever the guest, libvirtd or the wire was away, and
tells its readers so; it never asks the guest for anything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from lq_operator.controllers.gateway.guests import Guests
from lq_operator.controllers.gateway.tasks import ended
from lq_operator.core.result import Conflict, NotFound, WorldError
from lq_operator.ports import Clock, Console

RETRY_S = 1.0
"""Between two attempts to open a console: a guest that was started is there within a second or two."""
LINGER_S = 10.0
"""A hub without readers stays open so long: whoever reconnects misses nothing."""
MOST_WAITING_BYTES = 1 << 20
"""Of one reader that is slower than the guest prints; older bytes are dropped and that is said."""

Mode = Literal["read", "write", "share", "take"]


@dataclass(frozen=True, slots=True)
class Said:
    """Bytes of the guest, or (data empty) a sentence of ours."""

    data: bytes = b""
    state: str = ""
    message: str = ""


@dataclass(eq=False)
class Reader:
    """One session. `writes`: what it types reaches the guest."""

    who: str
    mode: Mode
    writes: bool = False
    _waiting: deque[Said] = field(default_factory=deque)
    _bytes: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, said: Said) -> None:
        """Never waits: a slow reader loses its oldest bytes, not the others' time."""
        self._waiting.append(said)
        self._bytes += len(said.data)
        dropped = 0
        while self._bytes > MOST_WAITING_BYTES:
            old = self._waiting.popleft()
            self._bytes -= len(old.data)
            dropped += len(old.data)
        if dropped:
            self._waiting.appendleft(
                Said(state="lost", message=f"{dropped} bytes were dropped: this reader is too slow")
            )
        self._news.set()

    async def next(self) -> Said:
        """Bytes that wait are joined."""
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        first = self._waiting.popleft()
        self._bytes -= len(first.data)
        parts = [first.data]
        while first.data and self._waiting and self._waiting[0].data:
            more = self._waiting.popleft().data
            self._bytes -= len(more)
            parts.append(more)
        return Said(b"".join(parts), first.state, first.message)


class Hub:
    """The console of one VM."""

    def __init__(self, namespace: str, name: str, guests: Guests, clock: Clock, history_bytes: int) -> None:
        self._namespace = namespace
        self._name = name
        self._guests = guests
        self._clock = clock
        self._history_bytes = history_bytes
        self._history = bytearray()
        self.readers: list[Reader] = []
        self._state = Said(state="waiting", message="looking for the guest")
        self._console: Console | None = None

    # ------------------------------------------------------------ readers

    def join(self, reader: Reader) -> None:
        """Give it what was printed lately and the state of things; decide whether it may type."""
        self.readers.append(reader)
        if self._history:
            reader.put(Said(bytes(self._history)))
        self._seat(reader)
        reader.put(self._state)

    def leave(self, reader: Reader) -> None:
        """Idempotent."""
        if reader in self.readers:
            self.readers.remove(reader)

    def _seat(self, reader: Reader) -> None:
        """One writer, unless all who write have agreed to share."""
        writers = [one for one in self.readers if one.writes and one is not reader]
        if reader.mode == "read":
            reader.put(Said(state="role", message="you read only"))
            return
        if reader.mode == "take":
            for one in writers:
                one.writes = False
                one.put(Said(state="role", message=f"{reader.who} took the keyboard; you read only now"))
            writers = []
        if writers and not (reader.mode == "share" and all(one.mode == "share" for one in writers)):
            names = ", ".join(sorted({one.who for one in writers}))
            reader.put(
                Said(state="role", message=f"you read only: {names} types (take it over, or share when both ask to)")
            )
            return
        reader.writes = True
        together = f" together with {', '.join(sorted(one.who for one in writers))}" if writers else ""
        reader.put(Said(state="role", message=f"you type{together}"))

    async def type(self, reader: Reader, data: bytes) -> None:
        """What is typed while nobody is there to hear it is lost, and that is said."""
        if not reader.writes:
            return
        if self._console is None:
            reader.put(Said(state="lost", message="nothing was typed: the console is not open"))
            return
        try:
            await self._console.write(data)
        except WorldError as error:
            reader.put(Said(state="lost", message=f"nothing was typed: {error}"))

    # ------------------------------------------------------------ the guest

    async def run(self) -> None:
        """For ever; cancel it."""
        while True:
            try:
                await self._once()
            except NotFound as error:
                self._tell("gone", str(error))
            except Conflict as error:
                self._tell("waiting", str(error))
            except WorldError as error:
                self._tell("unreachable", str(error))
            await self._clock.sleep(RETRY_S)

    async def _once(self) -> None:
        async with self._guests.running(self._namespace, self._name) as guest:
            console = await guest.host.open_console(guest.domain_name)
            self._console = console
            self._tell("open", f"the console of vm/{self._name} on {guest.node}")
            try:
                while data := await console.read():
                    self._printed(data)
            finally:
                self._console = None
                await console.close()
        self._tell("waiting", "the console ended: the guest stopped, or its host went away")

    def _printed(self, data: bytes) -> None:
        self._history += data
        if len(self._history) > self._history_bytes:
            del self._history[: len(self._history) - self._history_bytes]
        said = Said(data)
        for reader in self.readers:
            reader.put(said)

    def _tell(self, state: str, message: str) -> None:
        said = Said(state=state, message=message)
        if said == self._state:
            return
        self._state = said
        for reader in self.readers:
            reader.put(said)


class Hubs:
    """One Hub per VM that somebody looks at."""

    def __init__(self, guests: Guests, clock: Clock, history_bytes: int) -> None:
        self._guests = guests
        self._clock = clock
        self._history_bytes = history_bytes
        self._open: dict[tuple[str, str], tuple[Hub, asyncio.Task[None]]] = {}

    @asynccontextmanager
    async def joined(self, namespace: str, name: str, reader: Reader) -> AsyncIterator[Hub]:
        """While inside, the reader hears the console."""
        hub = self._hub(namespace, name)
        hub.join(reader)
        try:
            yield hub
        finally:
            hub.leave(reader)

    def _hub(self, namespace: str, name: str) -> Hub:
        known = self._open.get((namespace, name))
        if known is not None and not known[1].done():
            return known[0]
        hub = Hub(namespace, name, self._guests, self._clock, self._history_bytes)
        self._open[namespace, name] = (hub, asyncio.get_running_loop().create_task(self._keep(hub, (namespace, name))))
        return hub

    async def _keep(self, hub: Hub, key: tuple[str, str]) -> None:
        running = asyncio.get_running_loop().create_task(hub.run())
        try:
            empty_s = 0.0
            while empty_s < LINGER_S:
                await self._clock.sleep(RETRY_S)
                empty_s = 0.0 if hub.readers else empty_s + RETRY_S
                if running.done():
                    running.result()
            del self._open[key]  # before anything is awaited: the next reader gets a new hub
        finally:
            await ended(running)

    async def close(self) -> None:
        """End every console."""
        await ended(*(task for _, task in self._open.values()))
        self._open.clear()
