"""Restart policies and how a run ended."""

from __future__ import annotations

import pytest

from lq_operator.core.lifecycle.baseline import best_common_model
from lq_operator.core.lifecycle.power import BACKOFF_S, Ending, RestartPolicy, after_end, ending_of
from lq_operator.core.model import DomainSeen, DomainState


@pytest.mark.parametrize(
    ("state", "reason", "ending"),
    [
        (DomainState.SHUTOFF, "shutdown", Ending.BY_GUEST),
        (DomainState.SHUTOFF, "crashed", Ending.FAILED),
        (DomainState.SHUTOFF, "failed", Ending.FAILED),
        (DomainState.SHUTOFF, "destroyed", Ending.FAILED),
        (DomainState.SHUTOFF, "unknown", Ending.UNKNOWN),
        (DomainState.CRASHED, "panicked", Ending.FAILED),
        (DomainState.RUNNING, "booted", Ending.NONE),
    ],
)
def test_ending(state: DomainState, reason: str, ending: Ending) -> None:
    assert ending_of(DomainSeen("lq_a_b", "u", state, reason, True)) is ending


@pytest.mark.parametrize(
    ("policy", "ending", "again"),
    [
        (RestartPolicy.ALWAYS, Ending.BY_GUEST, True),
        (RestartPolicy.ALWAYS, Ending.FAILED, True),
        (RestartPolicy.ON_FAILURE, Ending.BY_GUEST, False),
        (RestartPolicy.ON_FAILURE, Ending.FAILED, True),
        (RestartPolicy.ON_FAILURE, Ending.UNKNOWN, True),
        (RestartPolicy.NEVER, Ending.FAILED, False),
        (RestartPolicy.NEVER, Ending.BY_GUEST, False),
    ],
)
def test_policy(policy: RestartPolicy, ending: Ending, again: bool) -> None:
    assert after_end(policy, ending, 0).again is again


def test_waits_grow_and_end_at_five_minutes() -> None:
    waits = [after_end(RestartPolicy.ALWAYS, Ending.FAILED, n).wait_s for n in range(20)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.0, BACKOFF_S[-1])


def test_baseline_is_the_newest_model_all_hosts_have() -> None:
    assert best_common_model([("kvm", ["Haswell", "Broadwell"]), ("kvm", ["Haswell", "Westmere"])]) == "Haswell"
    assert best_common_model([("kvm", ["EPYC"]), ("kvm", ["Haswell"])]) == ""
    assert best_common_model([("kvm", ["EPYC"]), ("tcg", ["EPYC"])]) == "qemu64"
    assert best_common_model([]) == ""
