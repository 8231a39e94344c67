"""N+1 at placement: a VM goes to a host only if every single host may still fail afterwards.

Keeps a witness per host and the room each witness uses elsewhere, so that one placement re-examines only the failures
whose witness it disturbs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lq_operator.core.failover.admission import Admission, FailureVerdict
from lq_operator.core.placement.engine import PlacementEngine
from lq_operator.core.placement.types import Shape, VmKey


class FailoverGuard:
    """A guard for `PlacementEngine.guard`: '' = the VM may go there, else the sentence that refuses.

    Only what the placement breaks is refused: a host that could not fail before does not stop everything.
    """

    def __init__(self, engine: PlacementEngine, protects: Callable[[VmKey, Shape], bool] | None = None) -> None:
        self.engine = engine
        self.admission = Admission(engine, protects)
        self._verdicts: dict[str, FailureVerdict] = {}
        self._used = np.zeros((2, 0, 0), np.int64)  # [vCPU or memory, failed row, row that takes VMs]
        self._by_name = np.zeros((0, 0), np.bool_)  # [failed row, row that takes VMs]: takes more than vCPU and memory
        self._position = -1
        self._facts_position = -1

    def __call__(self, identity: VmKey, shape: Shape, host: str) -> str:
        """Judge one placement."""
        self._catch_up()
        state = self.engine.state
        row = state.rows[host]
        mvcpus = shape.vcpus * (int(state.overcommit[row]) if shape.dedicated_cpus else 1000)
        memory = 0 if shape.hugepage_kib else shape.memory_mib
        disturbed = (self._used[0, :, row] + mvcpus > state.free_mvcpus[row]) & (self._used[0, :, row] > 0)
        disturbed |= (self._used[1, :, row] + memory > state.free_memory[row]) & (self._used[1, :, row] > 0)
        # Devices, hugepages, NUMA cells and anti-affinity are not in the table: with them every failure is looked at.
        plain = not (_takes_by_name(shape) or shape.anti_affinity or state.groups.held_order)
        rows = [row, *np.flatnonzero(disturbed).tolist()] if plain else sorted(state.rows.values())
        for failed in dict.fromkeys(rows):
            name = state.names[failed]
            if name and self._verdicts[name].ok:
                verdict = self.admission.can_fail_with(name, identity, shape, host)
                if not verdict.ok and self._could_fail(failed):
                    return f"would leave no room for a failure: {verdict.sentence}"
        return ""

    def _could_fail(self, row: int) -> bool:
        """Asked anew: anti-affinity may have broken a witness since, which the table does not show."""
        self._renew(row)
        return self._verdicts[self.engine.state.names[row]].ok

    def _catch_up(self) -> None:
        state = self.engine.state
        if self._position == state.load_log.position and self._facts_position == state.facts_log.position:
            return
        touched = state.load_log.since(self._position)
        renewed = state.facts_log.since(self._facts_position)
        facts_changed = renewed is None or len(renewed) > 0
        self._position, self._facts_position = state.load_log.position, state.facts_log.position
        if touched is None or facts_changed or self._used.shape[1] != len(state.alive):
            self._used = np.zeros((2, len(state.alive), len(state.alive)), np.int64)
            self._by_name = np.zeros(self._used.shape[1:], np.bool_)
            self._verdicts = {}
            stale = set(state.rows.values())
        else:
            stale = set(touched.tolist())
            for row in list(stale):
                over = (self._used[0, :, row] > state.free_mvcpus[row]) & (self._used[0, :, row] > 0)
                over |= (self._used[1, :, row] > state.free_memory[row]) & (self._used[1, :, row] > 0)
                over |= self._by_name[:, row]
                stale.update(np.flatnonzero(over).tolist())
            # Room was freed somewhere: hosts that could not fail may now be able to.
            stale.update(state.rows[name] for name, verdict in self._verdicts.items() if not verdict.ok)
        for row in sorted(stale):
            self._renew(row)

    def _renew(self, row: int) -> None:
        state = self.engine.state
        name = state.names[row]
        self._used[:, row, :] = 0
        self._by_name[row, :] = False
        if not name:
            return
        verdict = self._verdicts[name] = self.admission.can_fail((name,))
        occupants = state.occupants.get(name, {})
        for identity, target in verdict.witness:
            shape, at = occupants[identity].shape, state.rows[target]
            self._used[0, row, at] += shape.vcpus * (int(state.overcommit[at]) if shape.dedicated_cpus else 1000)
            self._used[1, row, at] += 0 if shape.hugepage_kib else shape.memory_mib
            self._by_name[row, at] |= _takes_by_name(shape)


def _takes_by_name(shape: Shape) -> bool:
    return bool(shape.devices or shape.hugepage_kib or shape.bound_cells)
