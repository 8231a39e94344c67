"""What a move asks of libvirt, and what libvirt's answers mean."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import libvirt
import pytest

from lq_operator.adapters.libvirt.moves import cancel_move, explain_move, move_flags, move_parameters, observe_progress
from lq_operator.adapters.libvirt.xml.moving import disk_targets, moved_xml, shares_disks
from lq_operator.core.model import CdromPlan, DiskPlan, DomainPlan, Epoch, Identity, MovePlan, NicPlan
from lq_operator.core.result import Conflict, OutcomeUnknown, Rejected, Transient, WorldError

LIVE = (Path(__file__).parents[3] / "golden" / "live" / "guest.xml").read_text(encoding="utf-8")
GUEST = DomainPlan(
    identity=Identity("inst", "shop", "db-0"),
    uid="u",
    epoch=Epoch(12, 7),
    spec_hash="x",
    gate_path="/run/lq/gate",
    vcpus=2,
    memory_mib=64,
    disks=(
        DiskPlan("root", "/srv/there/root", "qcow2"),
        DiskPlan("data", "/srv/there/data", "qcow2", bus="scsi"),
        DiskPlan("cd", "", "raw", bus="sata", device="cdrom"),
    ),
    nics=(NicPlan("eth0", "02:11:22:33:44:55", network="n"),),
    seed_path="/srv/there/seed",
)
RUNNING = dataclasses.replace(GUEST, gate_path="/run/lq/ticket")
PLAN = MovePlan("lq_shop_db-0", "qemu+tls://h2.example/system?pkipath=/etc/lq", "", RUNNING, GUEST)


def plan(**changes: Any) -> MovePlan:
    return dataclasses.replace(PLAN, **changes)


def has(flags: int, name: str) -> bool:
    return bool(flags & getattr(libvirt, f"VIR_MIGRATE_{name}"))


# ---------------------------------------------------------------- what is asked


def test_every_move_goes_live_from_host_to_host_and_stays_defined_on_both() -> None:
    flags = move_flags(LIVE, PLAN)
    assert all(has(flags, name) for name in ("PEER2PEER", "LIVE", "PERSIST_DEST"))
    assert not any(has(flags, name) for name in ("UNDEFINE_SOURCE", "TUNNELLED", "CHANGE_PROTECTION", "OFFLINE"))


def test_libvirts_own_check_of_shared_storage_is_off_only_where_a_disk_stays() -> None:
    assert has(move_flags(LIVE, PLAN), "UNSAFE")
    assert has(move_flags(LIVE, plan(copied_disks=("root",))), "UNSAFE")
    whole = move_flags(LIVE, plan(copied_disks=("root", "data")))
    assert not has(whole, "UNSAFE")
    assert has(whole, "NON_SHARED_DISK")
    assert not has(move_flags(LIVE, PLAN), "NON_SHARED_DISK")
    assert not shares_disks(LIVE, ("root", "data"))  # the seed and an empty drive are only read


@pytest.mark.parametrize(("scheme", "encrypted"), [("qemu+tls", True), ("qemu+tcp", False), ("qemu+ssh", False)])
def test_memory_is_encrypted_where_the_peer_is_asked_over_tls(scheme: str, encrypted: bool) -> None:
    asked = plan(peer_uri=f"{scheme}://h2.example/system")
    assert has(move_flags(LIVE, asked), "TLS") is encrypted
    assert move_parameters(LIVE, asked).get("tls.destination") == ("h2.example" if encrypted else None)


def test_tuning_reaches_libvirt() -> None:
    tuned = plan(bandwidth_mib_s=100, parallel_connections=4, data_address="10.9.0.2")
    assert has(move_flags(LIVE, tuned), "PARALLEL")
    asked = move_parameters(LIVE, tuned)
    assert (asked["bandwidth"], asked["parallel.connections"]) == (100, 4)
    assert asked["migrate_uri"] == "tcp://10.9.0.2"
    assert move_parameters(LIVE, plan(data_address="fd00::2"))["migrate_uri"] == "tcp://[fd00::2]"
    plain = move_parameters(LIVE, PLAN)
    assert plain["migrate_uri"] == "tcp://h2.example"
    assert not {"bandwidth", "parallel.connections", "migrate_disks"} & plain.keys()
    assert has(move_flags(LIVE, PLAN), "AUTO_CONVERGE")
    assert not has(move_flags(LIVE, plan(auto_converge=False)), "AUTO_CONVERGE")


def test_post_copy_and_several_connections_exclude_each_other() -> None:
    both = plan(post_copy=True, parallel_connections=4, bandwidth_mib_s=7)
    assert has(move_flags(LIVE, both), "POSTCOPY")
    assert not has(move_flags(LIVE, both), "PARALLEL")
    asked = move_parameters(LIVE, both)
    assert "parallel.connections" not in asked
    assert (asked["bandwidth"], asked["bandwidth.postcopy"]) == (7, 7)


def test_copied_disks_are_named_as_the_guest_has_them() -> None:
    assert move_parameters(LIVE, plan(copied_disks=("data", "root")))["migrate_disks"] == ["sda", "vda"]
    assert disk_targets(LIVE, ()) == ()
    with pytest.raises(Rejected, match="without disk other"):
        move_parameters(LIVE, plan(copied_disks=("other",)))


def test_what_arrives_needs_the_ticket_and_what_stays_the_gate() -> None:
    asked = move_parameters(LIVE, PLAN)
    assert "/run/lq/ticket" in asked["destination_xml"]
    assert "/run/lq/gate" in asked["persistent_xml"]
    assert "ticket" not in asked["persistent_xml"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"disks": GUEST.disks[:2]}, "disk cd: the guest has it"),
        ({"disks": (*GUEST.disks, DiskPlan("new", "/x", "raw"))}, "disk new: the plan has it"),
        ({"seed_path": ""}, "disk seed: the guest has it"),
        ({"nics": ()}, "interface eth0: the guest has it"),
        ({"gate_path": "../up"}, "gate_path"),
    ],
)
def test_a_plan_of_another_guest_is_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(Rejected, match=match):
        moved_xml(LIVE, dataclasses.replace(RUNNING, **change))


DISC = "<source file='/srv/shared/img_shop_tools_1.raw'/><target dev='sdb' bus='sata'/>"


@pytest.mark.parametrize(
    ("inside", "planned", "match"),
    [
        (DISC, "/srv/shared/img_shop_tools_1.raw", ""),
        (DISC, "", "img_shop_tools_1.raw lies in it now, not nothing"),
        (DISC, "/srv/shared/img_shop_other_1.raw", "not /srv/shared/img_shop_other_1.raw"),
        ("<target dev='sdb' bus='sata'/>", "/srv/shared/img_shop_tools_1.raw", "nothing lies in it now"),
        ("<source/><target dev='sdb' bus='sata'/>", "", ""),
    ],
)
def test_no_other_medium_is_slipped_under_a_guest_on_its_way(inside: str, planned: str, match: str) -> None:
    live = LIVE.replace("ua-disk-cd", "ua-cdrom-cd").replace("<target dev='sdb' bus='sata'/>", inside)
    moved = dataclasses.replace(RUNNING, disks=GUEST.disks[:2], cdroms=(CdromPlan("cd", planned),))
    if not match:
        assert ("img_shop_tools_1.raw" in moved_xml(live, moved)) == bool(planned)
        return
    with pytest.raises(Rejected, match=match):
        moved_xml(live, moved)


def test_a_device_that_is_not_ours_is_named_by_its_target() -> None:
    foreign = LIVE.replace("<alias name='ua-disk-data'/>", "<alias name='scsi0-0-0-0'/>")
    with pytest.raises(Rejected, match="disk"):
        moved_xml(foreign, RUNNING)


# ---------------------------------------------------------------- what is answered


def problem(code: int, text: str) -> libvirt.libvirtError:
    made = libvirt.libvirtError("call failed")
    made.err = (code, 10, text, 2, text, None, None, 2, -1)
    return made


RUNS = (True, "booted")

ANSWERS: list[tuple[int, str, tuple[bool, str], type[WorldError]]] = [
    # codes and words of libvirt 9.0 and QEMU 7.2
    (38, "unable to stat: /run/lq/ticket: No such file or directory", RUNS, Rejected),
    (1, "process exited: can't load /run/lq/ticket: Failed to open file", RUNS, Rejected),
    (9, "domain 'lq_shop_db-0' already exists with uuid 1-2-3", RUNS, Rejected),
    (81, "Unsafe migration: Migration without shared storage is unsafe", RUNS, Rejected),
    (91, "guest CPU doesn't match specification: missing features: avx512f", RUNS, Rejected),
    (67, "Target domain vcpu max 1 does not match source 2", RUNS, Rejected),
    (38, "Cannot read CA certificate '/etc/lq/cacert.pem': No such file or directory", RUNS, Rejected),
    (1, "unable to execute QEMU command 'object-add': Unable to access credentials x: No such file", RUNS, Rejected),
    (38, "unable to connect to server at 'h2:16514': No route to host", RUNS, Transient),
    (38, "unable to connect to server at 'h2:16514': Connection refused", RUNS, Transient),
    (9, "migration out job: unexpectedly failed", RUNS, Transient),
    (9, "Lost connection to destination host", RUNS, Transient),
    (78, "migration out: canceled by client", (True, "migration-canceled"), Transient),
    (68, "Timed out during operation: cannot acquire state change lock", RUNS, Transient),
    (9, "domain is not running", (False, "destroyed"), OutcomeUnknown),
    (9, "operation failed: anything", (False, "gone"), OutcomeUnknown),
    (9, "post-copy failed", (True, "postcopy-failed"), OutcomeUnknown),
    (69, "Migration was successful, but persistence failed", RUNS, OutcomeUnknown),
]


@pytest.mark.parametrize(("code", "text", "now", "meaning"), ANSWERS)
def test_errors_of_a_move(code: int, text: str, now: tuple[bool, str], meaning: type[WorldError]) -> None:
    error = explain_move(problem(code, text), PLAN, now)
    assert type(error) is meaning, error
    assert "h2.example" in str(error)
    assert text.partition(":")[0] in str(error)


class _Domain:
    """A domain with one job."""

    def __init__(self, stats: dict[str, Any], state: tuple[int, int] = (1, 1)) -> None:
        self._stats = stats
        self._state = state
        self.aborted = 0

    def isActive(self) -> bool:
        return True

    def jobStats(self, flags: int) -> dict[str, Any]:
        del flags
        return self._stats

    def state(self, flags: int) -> tuple[int, int]:
        del flags
        return self._state

    def abortJob(self) -> None:
        self.aborted += 1


class _Connection:
    def __init__(self, domain: _Domain) -> None:
        self._domain = domain

    def lookupByName(self, name: str) -> _Domain:
        del name
        return self._domain


OUT = {"type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT}


def test_progress_is_in_bytes_and_milliseconds() -> None:
    domain = _Domain(
        OUT
        | {
            "data_total": 900,
            "data_remaining": 300,
            "data_processed": 700,
            "memory_dirty_rate": 3,
            "memory_page_size": 4096,
            "downtime": 250,
            "time_elapsed": 1500,
            "memory_iteration": 4,
        }
    )
    seen = observe_progress(_Connection(domain), "vm")
    assert seen is not None
    assert (seen.total_bytes, seen.remaining_bytes, seen.transferred_bytes) == (900, 300, 700)
    assert (seen.dirty_bytes_s, seen.expected_downtime_ms, seen.elapsed_ms, seen.iteration) == (12288, 250, 1500, 4)
    assert not seen.post_copy


@pytest.mark.parametrize("operation", ["BACKUP", "SAVE", "DUMP", "SNAPSHOT"])
def test_another_job_is_no_move_and_is_not_aborted(operation: str) -> None:
    domain = _Domain(OUT | {"operation": getattr(libvirt, f"VIR_DOMAIN_JOB_OPERATION_{operation}")})
    assert observe_progress(_Connection(domain), "vm") is None
    cancel_move(_Connection(domain), "vm")
    assert domain.aborted == 0


def test_only_a_move_before_post_copy_is_called_off() -> None:
    going = _Domain(OUT)
    cancel_move(_Connection(going), "vm")
    assert going.aborted == 1
    over_there = _Domain(OUT, (3, 12))
    with pytest.raises(Conflict):
        cancel_move(_Connection(over_there), "vm")
    assert over_there.aborted == 0
