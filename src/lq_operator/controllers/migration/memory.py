"""What this process remembers of a VM that is moved: its own call to the source host. Losing it costs a question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from lq_operator.core.model import MovePlan, MoveProgress
from lq_operator.core.moving.turns import Way
from lq_operator.core.moving.world import JobEnd
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected, Transient
from lq_operator.ports import Clock, Host
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)


@dataclass(slots=True)
class MoveMemory:
    """`task`: the call in flight. `asked`: it was called off. `told_s`: when progress was last written (monotonic)."""

    task: asyncio.Task[None] | None = None
    end: JobEnd | None = None
    asked: bool = False
    told_s: float = -1e9
    progress: MoveProgress | None = None


@dataclass(slots=True)
class Moves:
    """By VM key (namespace/name). `wake(key)` is called when a call has ended."""

    clock: Clock
    wake: Callable[[str], None]
    _by_key: dict[str, MoveMemory] = field(default_factory=dict)
    claims: dict[str, Way] = field(default_factory=dict)

    def of(self, key: str) -> MoveMemory:
        """The memory of that VM's move."""
        return self._by_key.setdefault(key, MoveMemory())

    def forget(self, key: str) -> None:
        """The move has ended."""
        memory = self._by_key.pop(key, None)
        if memory is not None and memory.task is not None:
            memory.task.cancel()
        self.claims.pop(key, None)

    def send(self, key: str, source: Host, target: Host, plan: MovePlan) -> None:
        """Begin the transfer; it may take hours, so nobody waits for it."""
        memory = self.of(key)
        memory.end, memory.asked, memory.progress = None, False, None
        memory.task = asyncio.ensure_future(self._call(key, memory, source, target, plan))
        memory.task.add_done_callback(lambda task: self._ended(key, task))

    async def _call(self, key: str, memory: MoveMemory, source: Host, target: Host, plan: MovePlan) -> None:
        try:
            memory.end = JobEnd(await source.move(plan))
            if plan.arrive_paused:
                await _resume(key, target, plan.domain_name)
        except Rejected as error:
            memory.end = JobEnd(None, str(error), refused=True)
        except (Transient, OutcomeUnknown, Conflict, NotFound) as error:
            memory.end = JobEnd(None, str(error))
        log.info("the transfer has ended", vm=key, reason=memory.end.message[:300])

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            log.error("a bug ended the transfer's call", vm=key, exc_info=error)
        self.wake(key)

    async def close(self) -> None:
        """The term is over: calls are forgotten; what they began goes on between the hosts."""
        tasks = [memory.task for memory in self._by_key.values() if memory.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _resume(key: str, target: Host, domain_name: str) -> None:
    """The source's QEMU has ended: this is the only copy. Late, it meets that copy or nothing that could be resumed."""
    try:
        await target.resume(domain_name)
    except (Transient, OutcomeUnknown, Conflict, NotFound, Rejected) as error:
        # Whoever has the VM once the move is settled finds a guest that stands still and should run.
        log.warning("a guest that arrived could not be resumed at once", vm=key, reason=str(error)[:300])
