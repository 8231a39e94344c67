"""The XML room: what it refuses, and that reading is the inverse of writing."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from lq_operator.adapters.libvirt.xml.build import parse, size_bytes
from lq_operator.adapters.libvirt.xml.devices import _letters, alias_of, describe_slots, key_of
from lq_operator.adapters.libvirt.xml.domain import domain_xml, with_gate
from lq_operator.adapters.libvirt.xml.network import is_ours, network_xml, same_network
from lq_operator.adapters.libvirt.xml.parse import read_domain, read_hardware
from lq_operator.adapters.libvirt.xml.pool import pool_xml, read_pool
from lq_operator.adapters.libvirt.xml.volume import read_volume, volume_xml
from lq_operator.core.model import (
    DiskPlan,
    DomainPlan,
    DomainState,
    Epoch,
    HardwareAbi,
    Identity,
    NetworkPlan,
    NicPlan,
    PoolPlan,
    VolumePlan,
)
from lq_operator.core.result import Rejected, Transient

PLAN = DomainPlan(
    identity=Identity("inst", "ns", "vm"),
    uid="u",
    epoch=Epoch(1, 2),
    spec_hash="h",
    gate_path="/run/lq/gate-1-aa",
    vcpus=2,
    memory_mib=64,
    accel="tcg",
)
DISK = DiskPlan("root", "/p/root", "qcow2")
NIC = NicPlan("eth0", "02:00:00:00:00:01", network="n")

printable = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"), max_size=40)
names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)


def _changed(**changes: object) -> DomainPlan:
    return dataclasses.replace(PLAN, **changes)  # type: ignore[arg-type]


def _seen(document: str) -> object:
    return read_domain(document, DomainState.SHUTOFF, "unknown", persistent=True)


@given(
    installation=printable.filter(lambda s: s and "/" not in s), uid=printable, spec_hash=printable, n=st.integers(0)
)
def test_identity_survives_the_round_trip(installation: str, uid: str, spec_hash: str, n: int) -> None:
    plan = _changed(identity=Identity(installation, "ns", "vm"), uid=uid, spec_hash=spec_hash, epoch=Epoch(3, n))
    seen = read_domain(domain_xml(plan), DomainState.SHUTOFF, "x", persistent=True)
    assert (seen.identity, seen.uid, seen.spec_hash, seen.epoch) == (plan.identity, uid, spec_hash, Epoch(3, n))
    assert (seen.domain_name, seen.domain_uuid) == (plan.identity.domain_name, plan.identity.domain_uuid)
    assert seen.gate == "gate-1-aa"


def test_claimed_addresses_survive_the_round_trip_and_what_is_no_address_is_left_out() -> None:
    addresses = (("eth0", "10.99.0.5"), ("eth1", "10.98.0.7"))
    document = domain_xml(_changed(addresses=addresses))
    assert read_domain(document, DomainState.SHUTOFF, "x", persistent=True).addresses == addresses
    spoilt = document.replace("eth0=10.99.0.5", "eth0=10.99.0.500 eth2 =")
    assert read_domain(spoilt, DomainState.SHUTOFF, "x", persistent=True).addresses == addresses[1:]
    assert read_domain(domain_xml(PLAN), DomainState.SHUTOFF, "x", persistent=True).addresses == ()


@given(st.text(max_size=20))
def test_any_text_is_carried_or_rejected(text: str) -> None:
    field = ""
    try:
        document = domain_xml(_changed(uid=text))
    except Rejected as refused:
        field = refused.field or "unnamed"
    assert field in ("", "metadata.uid")
    if not field:
        assert read_domain(document, DomainState.SHUTOFF, "x", persistent=True).uid == text


@given(st.sets(names, min_size=1, max_size=8))
def test_aliases_are_read_back_as_the_names_they_were(disk_names: set[str]) -> None:
    for name in disk_names:
        assert key_of(alias_of(f"disk/{name}")) == f"disk/{name}"
    assert len({alias_of(f"disk/{name}") for name in disk_names}) == len(disk_names)


def test_letters_count_as_the_kernel_does() -> None:
    assert [_letters(n) for n in (0, 1, 25, 26, 27, 51, 52, 701, 702)] == [
        "a", "b", "z", "aa", "ab", "az", "ba", "zz", "aaa",
    ]  # fmt: skip


@given(st.lists(st.tuples(names, st.sampled_from(["virtio", "scsi", "sata"])), unique_by=lambda t: t[0], max_size=40))
def test_every_disk_has_its_own_target_and_it_stays(disks: list[tuple[str, str]]) -> None:
    plan = _changed(disks=tuple(DiskPlan(n, f"/p/{n}", "raw", bus=b) for n, b in disks), seed_path="/p/seed")
    first = read_hardware(domain_xml(plan)).targets
    assert len({target for _, target in first}) == len(disks)
    assert "vdz" not in dict(first).values()
    # One more disk in front, one taken away: nobody else moves.
    newcomer = DiskPlan("0-newcomer-0", "/p/x", "raw")
    grown = _changed(disks=(newcomer, *plan.disks[1:]), hardware=HardwareAbi(targets=first))
    second = dict(read_hardware(domain_xml(grown)).targets)
    assert all(second[f"disk/{n}"] == dict(first)[f"disk/{n}"] for n, _ in disks[1:])
    assert second["disk/0-newcomer-0"] not in dict(first).values()


def test_what_the_hardware_says_is_what_is_written() -> None:
    hardware = HardwareAbi(
        machine="pc-q35-7.2",
        cpu_model="Nehalem",
        cpu_features=("-svm", "aes"),
        slots=(
            ("balloon", "0000:05:00.0"),
            ("controller/1", "0000:00:02.0"),
            ("controller/2", "0000:00:02.1"),
            ("controller/3/pcie-to-pci-bridge", "0000:01:00.0"),
            ("disk/root", "0000:02:00.0"),
            ("nic/eth0", "0000:04:00.0"),
        ),
        targets=(("disk/root", "vdf"),),
    )
    plan = _changed(disks=(DISK,), nics=(NIC,), hardware=hardware, hotplug_ports=0, guest_agent=False, rng=False)
    read = read_hardware(domain_xml(plan))
    assert (read.machine, read.cpu_model, read.cpu_features) == ("pc-q35-7.2", "Nehalem", ("-svm", "aes"))
    assert read.targets == hardware.targets
    assert set(hardware.slots) <= set(read.slots)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"vcpus": 0}, "vcpus"),
        ({"memory_mib": 0}, "memory_mib"),
        ({"accel": "xen"}, "accel"),
        ({"firmware": "coreboot"}, "firmware"),
        ({"cores": 3}, "cores"),
        ({"cpu_mode": "best"}, "cpu_mode"),
        ({"accel": "kvm"}, "cpu_model"),
        ({"gate_path": "gate"}, "gate_path"),
        ({"gate_path": "/run/../etc/shadow"}, "gate_path"),
        ({"console_log_path": "/a\nb"}, "console_log_path"),
        ({"identity": Identity("i", "n_s", "vm")}, "namespace"),
        ({"identity": Identity("i", "ns", "a/b")}, "name"),
        ({"identity": Identity("", "ns", "vm")}, "installation"),
        ({"watchdog": "explode"}, "watchdog"),
        ({"disks": (DISK, DISK)}, "disks[root]"),
        ({"disks": (dataclasses.replace(DISK, bus="ide"),)}, "bus"),
        ({"disks": (dataclasses.replace(DISK, format="vmdk"),)}, "disks[root].format"),
        ({"disks": (dataclasses.replace(DISK, device="floppy"),)}, "disks[root].device"),
        ({"disks": (dataclasses.replace(DISK, path=""),)}, "disks[root].path"),
        ({"disks": (dataclasses.replace(DISK, path="rel"),)}, "disks[root].path"),
        ({"disks": (dataclasses.replace(DISK, device="cdrom"),)}, "disks[root].bus"),
        ({"disks": (dataclasses.replace(DISK, serial="a,b=c"),)}, "disks[root].serial"),
        ({"disks": (dataclasses.replace(DISK, serial="x" * 21),)}, "disks[root].serial"),
        ({"disks": (dataclasses.replace(DISK, name="Größe"),)}, "disks[Größe]"),
        ({"disks": (dataclasses.replace(DISK, slot="1:2"),)}, "slot"),
        ({"disks": (DISK, dataclasses.replace(DISK, name="b", target="vda"), dataclasses.replace(DISK, name="c", target="vda"))}, "target"),
        ({"nics": (dataclasses.replace(NIC, mac="01:00:00:00:00:01"),)}, "nics[eth0].mac"),
        ({"nics": (dataclasses.replace(NIC, mac="02:00:00:00:00"),)}, "nics[eth0].mac"),
        ({"nics": (dataclasses.replace(NIC, bridge="br0"),)}, "nics[eth0]"),
        ({"nics": (dataclasses.replace(NIC, network=""),)}, "nics[eth0]"),
    ],
)  # fmt: skip
def test_plans_that_cannot_be_written_are_rejected_with_the_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(Rejected) as caught:
        domain_xml(_changed(**changes))
    assert caught.value.field == field
    assert len(str(caught.value)) > len(field)


@pytest.mark.parametrize("accel", ["tcg", "kvm"])
@pytest.mark.parametrize("mode", ["custom", "host-model", "host-passthrough", "maximum"])
def test_cpu_modes_under_each_accelerator(mode: str, accel: str) -> None:
    cpu = parse(domain_xml(_changed(cpu_mode=mode, cpu_model="Nehalem", accel=accel)), "x").find("cpu")
    written = cpu.get("mode")
    assert written == (mode if accel == "kvm" or mode == "custom" else "maximum")
    assert (cpu.find("model") is not None) == (written == "custom")
    if written == "custom":
        assert cpu.find("model").get("fallback") == "forbid"


def test_vnc_never_listens_on_a_network() -> None:
    root = parse(domain_xml(_changed(vnc=True)), "x")
    assert [e.get("address") for e in root.findall("devices/graphics/listen")] == ["127.0.0.1"]
    assert parse(domain_xml(_changed(vnc=False)), "x").find("devices/graphics") is None


def test_a_crash_and_a_poweroff_end_the_domain() -> None:
    root = parse(domain_xml(PLAN), "x")
    assert [root.findtext(tag) for tag in ("on_poweroff", "on_reboot", "on_crash")] == ["destroy", "restart", "destroy"]


# ---------------------------------------------------------------- suspend images


def test_an_image_gets_the_new_gate_and_nothing_else() -> None:
    document = domain_xml(_changed(disks=(DISK,)))
    newer = _changed(gate_path="/run/lq/gate-9-zz", epoch=Epoch(9, 1), memory_mib=999)
    changed = with_gate(document, newer)
    seen = read_domain(changed, DomainState.SHUTOFF, "saved", persistent=True)
    assert (seen.gate, seen.epoch) == ("gate-9-zz", Epoch(9, 1))
    assert changed.replace("gate-9-zz", "gate-1-aa").replace('"9-1"', '"1-2"') == document


def test_an_image_without_a_gate_cannot_be_started_under_one() -> None:
    with pytest.raises(Rejected, match="without a gate"):
        with_gate(domain_xml(_changed(gate_path="")), PLAN)


def test_suspend_image_gets_the_seed_of_the_new_start() -> None:
    old, new = _changed(seed_path="/state/seed_old.iso"), _changed(seed_path="/state/seed_new.iso")
    changed = with_gate(domain_xml(old), new)
    assert "seed_old" not in changed
    assert changed.count('file="/state/seed_new.iso"') == 1


# ---------------------------------------------------------------- what hosts send


FOREIGN = "<domain><name>{name}</name><uuid>u</uuid>{inside}</domain>"


@pytest.mark.parametrize(
    "inside",
    [
        "",
        "<metadata/>",
        "<metadata><lq:vm xmlns:lq='https://limiquantix.io/domain/2' installation='i' namespace='n' name='v'/></metadata>",
        "<metadata><lq:vm xmlns:lq='https://limiquantix.io/domain/1' namespace='n' name='v'/></metadata>",
        "<lq:vm xmlns:lq='https://limiquantix.io/domain/1' installation='i' namespace='n' name='v'/>",
        "<description>lq:vm</description>",
    ],
)
def test_only_our_metadata_makes_a_domain_ours(inside: str) -> None:
    seen = read_domain(FOREIGN.format(name="lq_ns_vm", inside=inside), DomainState.RUNNING, "x", persistent=True)
    assert (seen.identity, seen.epoch, seen.uid) == (None, None, "")


@pytest.mark.parametrize("epoch", ["", "x", "1", "1-", "-1", "1-2-3", "٣-١x"])
def test_a_damaged_epoch_keeps_the_domain_ours(epoch: str) -> None:
    mark = (
        f"<lq:vm xmlns:lq='https://limiquantix.io/domain/1' installation='i' namespace='n' name='v' epoch='{epoch}'/>"
    )
    seen = read_domain(
        FOREIGN.format(name="x", inside=f"<metadata>{mark}</metadata>"), DomainState.RUNNING, "x", persistent=True
    )
    assert seen.identity == Identity("i", "n", "v")
    assert seen.epoch is None


@pytest.mark.parametrize("document", ["", "nonsense", "<domain>", "<domain></pool>", "<a>&b;</a>"])
def test_nonsense_from_a_host_is_not_knowledge(document: str) -> None:
    with pytest.raises(Transient):
        _seen(document)


def test_entities_of_a_host_are_not_expanded() -> None:
    bomb = "<!DOCTYPE d [<!ENTITY a 'xxxxxxxxxx'><!ENTITY f SYSTEM 'file:///etc/hostname'>]><domain><name>&f;</name></domain>"
    seen = read_domain(bomb, DomainState.RUNNING, "x", persistent=True)
    assert seen.domain_name == ""


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("<s>5</s>", 5),
        ("<s unit='bytes'>5</s>", 5),
        ("<s unit='KiB'>5</s>", 5120),
        ("<s unit='k'>1</s>", 1024),
        ("<s unit='KB'>1</s>", 1000),
        ("<s unit='GiB'>2</s>", 2 << 30),
        ("<s unit='TB'>1</s>", 10**12),
        ("<s unit='EiB'>1</s>", 1 << 60),
        ("<s/>", 0),
    ],
)
def test_sizes_follow_their_units(text: str, size: int) -> None:
    assert size_bytes(etree.fromstring(text)) == size


def test_pool_and_volume_are_read_as_written() -> None:
    assert read_pool(pool_xml(PoolPlan("p & q", "/a b")), active=True).path == "/a b"
    read = read_volume(volume_xml(VolumePlan("<v>", 12345, "raw")))
    assert (read.name, read.capacity_bytes, read.format) == ("<v>", 12345, "raw")
    with pytest.raises(Rejected):
        volume_xml(VolumePlan("v", 1, "vmdk"))
    with pytest.raises(Rejected):
        volume_xml(VolumePlan("v", -1))
    with pytest.raises(Rejected):
        pool_xml(PoolPlan("p", "../x"))


# ---------------------------------------------------------------- networks


NAT = NetworkPlan("n", "nat", gateway="10.0.0.1", prefix=24, dhcp_start="10.0.0.2", dhcp_end="10.0.0.9")


def test_a_network_as_libvirt_completes_it_is_the_same() -> None:
    completed = """<network connections='1'><name>n</name><uuid>x</uuid>
      <metadata><lq:network xmlns:lq="https://limiquantix.io/network/1"/></metadata>
      <forward mode='nat'><nat><port start='1024' end='65535'/></nat></forward>
      <bridge name='virbr0' stp='on' delay='0'/><mac address='52:54:00:00:00:01'/>
      <ip address='10.0.0.1' netmask='255.255.255.0'><dhcp><range start='10.0.0.2' end='10.0.0.9'/></dhcp></ip></network>"""
    assert same_network(completed, NAT)
    assert is_ours(completed)


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "isolated"},
        {"gateway": "10.0.0.2"},
        {"prefix": 25},
        {"dhcp_end": "10.0.0.8"},
        {"dhcp_start": "", "dhcp_end": ""},
        {"domain": "d"},
        {"mtu": 1400},
    ],
)
def test_every_difference_of_a_network_is_one(changes: dict[str, object]) -> None:
    assert not same_network(network_xml(NAT), dataclasses.replace(NAT, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "routed"},
        {"mode": "bridge"},
        {"gateway": "10.0.0.256"},
        {"prefix": 33},
        {"dhcp_end": "10.0.1.1"},
        {"name": "a/b"},
    ],
)
def test_networks_that_cannot_be_are_rejected(changes: dict[str, object]) -> None:
    with pytest.raises(Rejected):
        network_xml(dataclasses.replace(NAT, **changes))  # type: ignore[arg-type]


def test_devices_without_our_alias_are_left_out() -> None:
    devices = etree.fromstring(
        "<devices><disk><alias name='virtio-disk0'/><target dev='vda'/>"
        "<address type='pci' domain='0' bus='1' slot='0' function='0'/></disk>"
        "<controller type='pci' index='0' model='pcie-root'/></devices>"
    )
    assert describe_slots(devices) == ((), ())
