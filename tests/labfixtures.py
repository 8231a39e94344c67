"""The lab for tests: one control plane and three hosts for the whole run.

`lab` is made once per session. `LQ_TEST_LAB=NAME` uses (and keeps) a lab of that name instead, which saves its start-up
while developing. `lab_inside` additionally moves the test's thread into the fabric, where hosts can be reached.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lq_operator.lab import requirements
from lq_operator.lab.datacenter import Lab, take_down
from lq_operator.lab.errors import LabError
from lq_operator.lab.names import lab_parent

_PREFIX = "pytest-"


def _remove_orphans() -> None:
    """Labs of test runs that were killed: their name ends with the pid of a run that is no more."""
    for folder in lab_parent().glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            take_down(folder.name)


def require_lab(transport: str = "tls") -> None:
    """Skip, with the reason and its remedy, where the machine cannot run a lab; in CI that is a failure."""
    try:
        requirements.check(transport)
    except LabError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def lab_name(suffix: str = "") -> str:
    """A name that no other run uses and that tells which run it belongs to."""
    return f"{_PREFIX}{os.getpid()}{suffix}"


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three hosts over TLS and a control plane; hosts are to be left running, and powered, by every test."""
    require_lab()
    kept = os.environ.get("LQ_TEST_LAB")
    if kept:
        try:
            kept_lab = Lab.load(kept)
        except LabError:
            kept_lab = Lab.create(kept, hosts=3)
        kept_lab.up(print)
        yield kept_lab
        return
    _remove_orphans()
    made = Lab.create(lab_name(), hosts=3)
    try:
        made.up(print)
        yield made
    finally:
        made.down()


@pytest.fixture
def lab_inside(lab: Lab) -> Iterator[Lab]:
    """The lab, with this test's thread inside the fabric: libvirt URIs of hosts can be opened."""
    with lab.entered():
        yield lab
