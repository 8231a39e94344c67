"""Files of a VM in the state pool: found by name, never another VM's."""

from __future__ import annotations

from lq_operator.controllers.runtime import statefiles as s
from lq_operator.core.model import Epoch, Identity

WEB, WEB1 = Identity("i", "ns", "web"), Identity("i", "ns", "web-1")
E = Epoch(3, 4)
ALL = [
    s.seed_file(WEB, E),
    s.suspend_file(WEB, E),
    s.resumed_mark(WEB, Epoch(3, 3)),
    s.console_file(WEB),
    s.nvram_file(WEB),
]


def test_every_file_of_a_vm_is_found_and_no_other() -> None:
    others = [
        s.seed_file(WEB1, E),
        s.console_file(WEB1),
        s.console_file(Identity("i", "n", "web")),
        "member_h1_x",
        "nonce_1",
    ]
    assert s.files_of(WEB, ALL + others) == sorted(ALL)
    assert s.files_of(WEB, ALL + others, "seed") == [s.seed_file(WEB, E)]


def test_a_suspend_image_that_was_used_counts_no_more() -> None:
    assert s.suspended_epochs(WEB, ALL) == [E]
    assert s.suspended_epochs(WEB, [*ALL, s.resumed_mark(WEB, E)]) == []
    assert s.suspended_epochs(WEB1, ALL) == []
