"""A move that may begin is counted at once: whoever is judged at the next pause sees it under way."""

from __future__ import annotations

from typing import Any, cast

import pytest
from tests.sim.fakes.clock import FakeClock

from lq_operator.api.base import LocalRef, ObjectMeta
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmmigration import VirtualMachineMigration, VirtualMachineMigrationSpec
from lq_operator.controllers.migration.begin import Beginner
from lq_operator.controllers.migration.memory import Moves
from lq_operator.controllers.vm.memory import VmMemory
from lq_operator.core.failover.patch import placement_to_dict
from lq_operator.core.model import Epoch, HostUUID, Identity, NodeName, Phase, Placement
from lq_operator.core.moving.turns import Way
from lq_operator.core.result import Transient

PLACED = Placement(Phase.COMMITTED, "w", "2026-01-01T00:00:00Z", NodeName("h1"), HostUUID("u1"), epoch=Epoch(1, 1))
META = {"namespace": "ns", "uid": "u", "resourceVersion": "1"}


async def test_claimed_before_the_first_pause_and_given_back_when_it_did_not_begin() -> None:
    vm = VirtualMachine.model_validate(
        {"metadata": META | {"name": "vm"}, "spec": {}, "status": {"placement": placement_to_dict(PLACED)}}
    )
    move = VirtualMachineMigration(
        metadata=ObjectMeta.model_validate(META | {"name": "move"}),
        spec=VirtualMachineMigrationSpec(vm_ref=LocalRef(name="vm")),
    )
    moves, seen = Moves(FakeClock(1), lambda _: None), []

    class Away:
        """Every write is the first pause, and fails."""

        def __getattr__(self, _: str) -> Any:
            async def refuse(*_: object, **__: object) -> None:
                seen.append(dict(moves.claims))
                raise Transient("the API server is away")

            return refuse

    class Holds:
        def get(self, *_: object) -> VirtualMachine:
            return vm

    nothing = cast(Any, None)
    beginner = Beginner(cast(Any, Holds()), cast(Any, Away()), *[nothing] * 5, moves, nothing)
    with pytest.raises(Transient):
        await beginner.begin(move, vm, Identity("i", "ns", "vm"), VmMemory(), NodeName("h2"))
    assert seen == [{"ns/vm": Way("ns/move", "h1", "h2")}]
    assert moves.claims == {}
