"""What `make demo-down` calls left behind, on a machine where other labs come and go."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from lq_operator.lab import demo, leftovers
from lq_operator.lab.leftovers import Leftovers
from lq_operator.lab.names import LabNames

NOTHING = Leftovers(*(frozenset[str]() for _ in range(8)))


def holding(processes: set[str]) -> Leftovers:
    return Leftovers(frozenset(processes), *(frozenset[str]() for _ in range(7)))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, set[str]]:
    """Processes: 'stays' all the time, 'moments' another one in every look, 'other' of the lab `other`."""
    (tmp_path / "other").mkdir()
    seen: dict[str, set[str]] = {"stays": set(), "moments": set(), "other": set()}
    numbers: Iterator[int] = count()

    def of_machine() -> Leftovers:
        moments = {f"{name} {next(numbers)}" for name in seen["moments"]}
        return holding(seen["stays"] | moments | seen["other"])

    def of_lab(names: LabNames) -> Leftovers:
        return holding(seen["other"] if names.name == "other" else set())

    monkeypatch.setattr(leftovers, "of_machine", of_machine)
    monkeypatch.setattr(leftovers, "of_lab", of_lab)
    monkeypatch.setattr(demo, "lab_parent", lambda: tmp_path)
    monkeypatch.setattr(demo.time, "sleep", lambda _: None)
    return seen


def test_what_stays_is_told(machine: dict[str, set[str]]) -> None:
    machine["stays"] = {"17 qemu"}
    assert demo._added_since(NOTHING) == ["processes: 17 qemu"]
    assert demo._added_since(holding({"17 qemu"})) == []


def test_another_labs_processes_are_not_ours(machine: dict[str, set[str]]) -> None:
    machine["other"] = {"18 qemu of another lab"}
    assert demo._added_since(NOTHING) == []


def test_what_lives_for_a_moment_is_nobodys_leftover(machine: dict[str, set[str]]) -> None:
    machine["moments"] = {"virsh of another lab"}
    assert demo._added_since(NOTHING) == []
    machine["stays"] = {"17 qemu"}
    assert demo._added_since(NOTHING) == ["processes: 17 qemu"]
