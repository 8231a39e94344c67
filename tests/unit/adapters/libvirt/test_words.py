"""Our words beside libvirt's own enums and errors, so that a new libvirt-python shows what we do not know."""

from __future__ import annotations

import errno

import libvirt
import pytest

from lq_operator.adapters.libvirt.agent import addresses_of
from lq_operator.adapters.libvirt.errors import TABLE, errno_of, translate
from lq_operator.adapters.libvirt.words import LIFECYCLE, STATES, state_of
from lq_operator.core.model import DomainState
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected, Transient, WorldError


def _enum(prefix: str) -> dict[str, int]:
    return {
        name.removeprefix(prefix).replace("_", "-").lower(): value
        for name, value in vars(libvirt).items()
        if name.startswith(prefix) and not name.endswith("_LAST")
    }


REASONS = {1: "RUNNING", 3: "PAUSED", 5: "SHUTOFF", 6: "CRASHED"}


@pytest.mark.parametrize(("state", "name"), REASONS.items())
def test_reasons_are_libvirts(state: int, name: str) -> None:
    theirs = {value: word for word, value in _enum(f"VIR_DOMAIN_{name}_").items()}
    ours = dict(enumerate(STATES[state][1]))
    assert {value: ours.get(value, "").replace("-", "") for value in theirs} == {
        value: word.replace("-", "") for value, word in theirs.items()
    }


EVENTS = {0: "DEFINED", 1: "UNDEFINED", 2: "STARTED", 3: "SUSPENDED", 4: "RESUMED", 5: "STOPPED", 6: "SHUTDOWN"}


@pytest.mark.parametrize(("event", "name"), EVENTS.items())
def test_lifecycle_words_are_libvirts(event: int, name: str) -> None:
    assert getattr(libvirt, f"VIR_DOMAIN_EVENT_{name}") == event
    theirs = {value: word for word, value in _enum(f"VIR_DOMAIN_EVENT_{name}_").items()}
    ours = dict(enumerate(LIFECYCLE[event][1]))
    assert {value: ours.get(value, "").replace("-", "").replace("ioerror", "ioerror") for value in theirs} == {
        value: word.replace("-", "") for value, word in theirs.items()
    }


def test_what_runs_is_known_to_run() -> None:
    assert state_of(1, 1) == (DomainState.RUNNING, "booted")
    assert state_of(3, 11) == (DomainState.STARTING, "starting-up")
    assert state_of(5, 3) == (DomainState.SHUTOFF, "crashed")
    # What libvirt may add later must not look like a host without a guest.
    assert state_of(99, 0)[0].runs
    assert state_of(5, 99) == (DomainState.SHUTOFF, "unknown-99")
    assert state_of(0, 0)[0].runs


def _problem(code: int, int1: int = 0) -> libvirt.libvirtError:
    problem = libvirt.libvirtError("x")
    problem.err = (code, 0, "text", 2, "", "", "", int1, 0)
    return problem


@pytest.mark.parametrize("code", TABLE)
def test_the_table_is_followed(code: int) -> None:
    found = translate(_problem(code), "what", wrote=True, alive=True)
    assert type(found) is TABLE[code]
    assert str(found) == "what: text"


def test_a_broken_wire_is_never_a_refusal() -> None:
    for code in TABLE:
        assert type(translate(_problem(code), "x", wrote=False, alive=False)) is Transient
        assert type(translate(_problem(code), "x", wrote=True, alive=False)) is OutcomeUnknown


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, Rejected),
        (errno.EACCES, Rejected),
        (errno.EEXIST, Conflict),
        (errno.ENOSPC, Transient),
        (errno.EBUSY, Transient),
        (0, Transient),
    ],
)
def test_system_errors_go_by_errno(number: int, kind: type[WorldError]) -> None:
    found = translate(_problem(libvirt.VIR_ERR_SYSTEM_ERROR, number), "x", wrote=True, alive=True)
    assert type(found) is kind  # a missing file is Rejected and not NotFound: the domain is there


def test_errno_is_read_of_system_errors_only() -> None:
    assert errno_of(_problem(libvirt.VIR_ERR_SYSTEM_ERROR, 2)) == 2
    assert errno_of(_problem(libvirt.VIR_ERR_NO_DOMAIN, 2)) == 0


def test_an_error_without_a_code_may_pass() -> None:
    bare = libvirt.libvirtError("nothing inside")
    bare.err = None
    assert type(translate(bare, "x", wrote=True, alive=True)) is Transient
    assert isinstance(translate(_problem(99999), "x", wrote=True, alive=True), Transient)
    assert issubclass(NotFound, Rejected)


def test_addresses_of_a_guest_that_may_lie() -> None:
    def nic(mac: object, *addresses: object) -> dict[str, object]:
        return {"hwaddr": mac, "addrs": list(addresses)}

    def at(address: object, prefix: object = 24) -> dict[str, object]:
        return {"addr": address, "prefix": prefix, "type": 0}

    seen = addresses_of(
        {
            "lo": nic("00:00:00:00:00:00", at("127.0.0.1", 8), at("::1", 128)),
            "eth0": nic("02:AA:00:00:00:01", at("10.0.0.5"), at("fe80::1", 64), at("fd00::5", 64), at("169.254.1.1")),
            "eth1": nic("02:aa:00:00:00:02"),
            "odd": nic(None, at("10.0.0.6")),
            "mad": nic("02:aa:00:00:00:03", at("<script>"), at("10.0.0.7", 99), at(None), {}, at("10.0.0.8", 32)),
            "none": {"hwaddr": "02:aa:00:00:00:04", "addrs": None},
        }
    )
    assert seen == (
        ("02:aa:00:00:00:01", "10.0.0.5/24"),
        ("02:aa:00:00:00:01", "fd00::5/64"),
        ("02:aa:00:00:00:03", "10.0.0.8/32"),
    )
    flood = {f"e{n}": nic(f"02:00:00:00:00:{n:02x}", *(at(f"10.0.{n}.{i}") for i in range(200))) for n in range(50)}
    assert len(addresses_of(flood)) == 64
