"""Every obstacle is named, all at once; whose turn it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lq_operator.core.model import DomainPlan, Epoch, HardwareAbi, HostInventory, HostUUID, Identity, PoolSeen
from lq_operator.core.moving.obstacles import SPARE_BYTES, DiskNeed, MediumNeed, Needs, TargetSeen, obstacles
from lq_operator.core.moving.turns import Way, turn_of

GIB = 1024**3
PLAN = DomainPlan(
    Identity("i", "ns", "a"), "uid", Epoch(1, 1), "hash", "/run/lq/gate", 1, 512, hardware=HardwareAbi("pc-q35-7.2")
)
INVENTORY = HostInventory(
    HostUUID("u2"), "h2", "9.0.0", "QEMU 7.2", "x86_64", "", "", (), (), 4, 4096, (), ("pc-q35-7.2",), "kvm", ("bios",)
)  # fmt: skip
SHARED = DiskNeed("root", "lq-shared", "vol_a", shared=True)
LOCAL = DiskNeed("data", "lq-local", "vol_b", shared=False, bytes_needed=2 * GIB)
NEEDS = Needs(PLAN, (("eth0", "lqnet", False), ("eth1", "br0", True)), (SHARED, LOCAL), "lq-vmstate", ("seed",))
SEEN = TargetSeen(
    "h2",
    INVENTORY,
    "kvm",
    networks=frozenset({"lqnet"}),
    bridges=frozenset({"br0"}),
    pools={name: PoolSeen(name, True, "/x", 9 * GIB, 9 * GIB) for name in ("lq-shared", "lq-local", "lq-vmstate")},
    files={"lq-shared": frozenset({"vol_a"}), "lq-vmstate": frozenset({"seed"})},
    peer_uri="qemu+tls://h2/system",
)


def pools(**changes: PoolSeen | None) -> dict[str, PoolSeen]:
    merged = dict(SEEN.pools) | {f"lq-{name}": pool for name, pool in changes.items()}
    return {name: pool for name, pool in merged.items() if pool is not None}


def test_nothing_in_the_way() -> None:
    assert obstacles(NEEDS, SEEN) == ()


@pytest.mark.parametrize(
    ("medium", "there", "marked", "goes"),
    [
        (MediumNeed("cd", "lq-shared", "img_a", shared=True), True, False, True),
        (MediumNeed("cd", "lq-shared", "img_a", shared=True), False, False, False),
        (MediumNeed("cd", "lq-local", "img_a", shared=False), True, True, True),
        (MediumNeed("cd", "lq-local", "img_a", shared=False), True, False, False),  # being imported
        (MediumNeed("cd", "lq-local", "img_a", shared=False), False, False, False),
        (MediumNeed("cd", "", "/root/by-hand.iso", shared=False), False, False, False),
    ],
)
def test_a_medium_goes_along_where_the_target_has_it(medium: MediumNeed, there: bool, marked: bool, goes: bool) -> None:
    files = {**SEEN.files, medium.pool: SEEN.files.get(medium.pool, frozenset()) | ({medium.file} if there else set())}
    pairs = frozenset({(medium.pool, medium.file)} if marked else ())
    found = obstacles(replace(NEEDS, media=(medium,)), replace(SEEN, files=files, marked=pairs))
    assert [one.what for one in found] == ([] if goes else ["Cdrom"])
    assert all("eject it (take spec.cdroms[cd].medium away)" in one.message for one in found)


@pytest.mark.parametrize(
    ("changes", "what", "word"),
    [
        ({"closed": ("h2 is cordoned",)}, "Host", "cordoned"),
        ({"cpu": "h2 lacks avx2"}, "Cpu", "avx2"),
        ({"source_accel": "tcg"}, "Cpu", "tcg"),
        ({"inventory": replace(INVENTORY, machine_types=("pc-q35-6.2",))}, "Machine", "pc-q35-7.2"),
        ({"inventory": replace(INVENTORY, firmware=())}, "Machine", "bios"),
        ({"networks": frozenset()}, "Network", "eth0"),
        ({"bridges": frozenset()}, "Network", "br0"),
        ({"pools": pools(shared=None)}, "Pool", "lq-shared"),
        ({"pools": pools(local=PoolSeen("lq-local", False, "", 0, 0))}, "Pool", "not active"),
        ({"pools": pools(local=PoolSeen("lq-local", True, "", 9 * GIB, 2 * GIB))}, "Pool", "2048 MiB"),
        ({"files": {"lq-vmstate": frozenset({"seed"})}}, "Disk", "said to be shared"),
        ({"marked": frozenset({("lq-local", "vol_b")})}, "Disk", "complete file"),
        ({"doomed": frozenset({("lq-local", "vol_b")})}, "Disk", "old copy"),
        ({"files": {"lq-shared": frozenset({"vol_a"})}}, "StatePool", "seed"),
        ({"pools": pools(vmstate=None)}, "StatePool", "no active pool"),
        ({"taken": "lq_ns_a"}, "Name", "remove it"),
        ({"peer_uri": ""}, "Peer", "spec.migration.uri"),
    ],
)
def test_each_obstacle_alone(changes: dict[str, object], what: str, word: str) -> None:
    found = obstacles(NEEDS, replace(SEEN, **changes))  # type: ignore[arg-type]
    assert [one.what for one in found] == [what]
    assert word in found[0].message


@pytest.mark.parametrize(("tpm", "emulates", "what"), [(True, False, ["Tpm"]), (True, None, []), (False, False, [])])
def test_a_tpm_needs_swtpm_where_the_host_says_that_it_has_none(
    tpm: bool, emulates: bool | None, what: list[str]
) -> None:
    found = obstacles(replace(NEEDS, tpm=tpm), replace(SEEN, inventory=replace(INVENTORY, emulates_tpm=emulates)))
    assert [one.what for one in found] == what
    assert all("swtpm" in one.message for one in found)


def test_all_at_once_and_each_name_once() -> None:
    bad = replace(
        SEEN, closed=("h2 is cordoned", "h2 is not Ready"), cpu="no", networks=frozenset(), pools={}, peer_uri=""
    )
    found = obstacles(NEEDS, bad)
    assert len({(one.what, one.name) for one in found}) == len(found)
    assert {one.what for one in found} == {"Host", "Cpu", "Network", "Pool", "StatePool", "Peer"}
    assert "cordoned; h2 is not Ready" in next(one.message for one in found if one.what == "Host")


def test_a_state_pool_of_each_host_needs_only_to_be_there() -> None:
    mine = replace(NEEDS, state_shared=False)
    assert obstacles(mine, replace(SEEN, files={"lq-shared": frozenset({"vol_a"})})) == ()


def test_room_is_counted_over_all_copied_disks() -> None:
    two = replace(NEEDS, disks=(LOCAL, replace(LOCAL, disk="more", file="vol_c")))
    tight = PoolSeen("lq-local", True, "", 9 * GIB, 4 * GIB + SPARE_BYTES - 1)
    assert [one.what for one in obstacles(two, replace(SEEN, pools=pools(local=tight)))] == ["Pool"]


# ---------------------------------------------------------------- turns

A, B, C = Way("ns/a", "h1", "h2"), Way("ns/b", "h1", "h3"), Way("ns/c", "h4", "h5")


def test_turns_are_taken_in_order_up_to_the_limits() -> None:
    assert turn_of(A, [], [A, B, C], 1, 8) == ""
    assert (
        turn_of(B, [], [A, B, C], 1, 8)
        == "h1 sends or receives 1 moves (spec.migration.parallelPerHost: 1); 0 wait before it"
    )
    assert turn_of(B, [], [A, B, C], 2, 8) == ""
    assert turn_of(C, [], [A, B, C], 1, 8) == "", "who waits for a busy host holds up nobody who does not need it"
    assert "parallelPerCluster: 2" in turn_of(C, [A, B], [C], 4, 2)


def test_who_is_not_known_to_wait_is_judged_by_what_is_under_way() -> None:
    assert turn_of(C, [A], [], 1, 8) == ""
    assert turn_of(B, [A], [], 1, 8) != ""


def test_the_place_in_the_queue_is_said() -> None:
    late = Way("ns/d", "h1", "h2")
    assert turn_of(late, [A], [B, late], 1, 8).endswith("1 wait before it")
