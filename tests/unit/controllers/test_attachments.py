"""Which VM has a Volume: the order between those that name it, and what one process is giving away at the moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from lq_operator.api.vm import VirtualMachine
from lq_operator.controllers.runtime.attachments import Attachments, attached_volumes
from lq_operator.core.result import Conflict
from lq_operator.ports import Store


class Shelf:
    """A Store that shows these VMs."""

    def __init__(self) -> None:
        self.vms: dict[str, VirtualMachine] = {}

    def list(self, kind: type[VirtualMachine]) -> Sequence[VirtualMachine]:
        assert kind is VirtualMachine
        return list(self.vms.values())

    def put(self, name: str, *volumes: str, made: int = 1, phase: str = "", runs_with: tuple[str, ...] = ()) -> None:
        status: dict[str, Any] = {"disks": [{"name": v, "volume": v, "ready": True} for v in runs_with]}
        if phase:
            status["placement"] = {"phase": phase, "writeId": "w", "since": "", "node": "h1", "epoch": "1-1"}
        self.vms[name] = VirtualMachine.model_validate(
            {
                "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": f"2026-01-0{made}"},
                "spec": {"className": "c", "disks": [{"name": v, "volumeRef": {"name": v}} for v in volumes]},
                "status": status,
            }
        )


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def user(shelf: Shelf, volume: str = "x", book: Attachments | None = None) -> str:
    found = (book or Attachments(cast(Store, shelf))).user("ns", volume)
    return found.metadata.name if found else ""


def test_nobody_names_it(shelf: Shelf) -> None:
    shelf.put("a", "y")
    assert user(shelf) == ""


def test_the_order(shelf: Shelf) -> None:
    """Each of these comes before everything that was put before it."""
    shelf.put("young", "x", made=9)
    assert user(shelf) == "young"
    shelf.put("old", "x", made=1)
    assert user(shelf) == "old"
    shelf.put("placed", "x", made=5, phase="Committed")
    assert user(shelf) == "placed"
    shelf.put("runs", "x", made=6, phase="Committed", runs_with=("x",))
    assert user(shelf) == "runs"
    shelf.put("runs", made=6, phase="Moving", runs_with=("x",))
    assert user(shelf) == "runs", "out of its spec, but its guest has it"
    shelf.put("runs", made=6, phase="Released", runs_with=("x",))
    assert user(shelf) == "placed"
    assert attached_volumes(shelf.vms["runs"]) == set()


def test_what_is_being_given_away_is_not_given_twice(shelf: Shelf) -> None:
    """The second asks while the first one's commit is on its way: the Store shows none of it."""
    book = Attachments(cast(Store, shelf))
    shelf.put("young", "x", "y", made=9)
    book.take(shelf.vms["young"])
    shelf.put("old", "x", made=1)
    assert user(shelf, book=book) == "young"
    with pytest.raises(Conflict, match="Volume x belongs to VirtualMachine young"):
        book.take(shelf.vms["old"])
    book.take(shelf.vms["young"])  # its next start
    book.drop("ns", "young")
    book.take(shelf.vms["old"])
    with pytest.raises(Conflict, match="belongs to VirtualMachine old"):
        book.take(shelf.vms["young"])
    assert user(shelf, "y", book) == "young"


def test_a_disk_that_is_out_is_free_after_the_next_start(shelf: Shelf) -> None:
    book = Attachments(cast(Store, shelf))
    shelf.put("a", "x", phase="Committed", runs_with=("x",))
    book.take(shelf.vms["a"])
    shelf.put("a", phase="Committed", runs_with=("x",))
    shelf.put("b", "x", made=1)
    assert user(shelf, book=book) == "a"
    book.take(shelf.vms["a"])
    shelf.put("a", phase="Committed")
    assert user(shelf, book=book) == "b"
