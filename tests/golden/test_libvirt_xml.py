"""What we write to libvirt, held still. LQ_REGENERATE=1 writes the files anew: read the diff before committing it.

Every golden is also checked against libvirt's own RelaxNG schemas where they are installed (libvirt-daemon or
libvirt-clients), because a golden may hold a mistake still, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree

from lq_operator.adapters.libvirt.xml.domain import domain_xml, with_gate
from lq_operator.adapters.libvirt.xml.moving import moved_xml
from lq_operator.adapters.libvirt.xml.network import network_xml
from lq_operator.adapters.libvirt.xml.pool import pool_xml
from lq_operator.adapters.libvirt.xml.shape import read_shape
from lq_operator.adapters.libvirt.xml.volume import volume_xml
from lq_operator.core.lifecycle.shape import shape_of
from lq_operator.core.model import (
    CdromPlan,
    DiskPlan,
    DomainPlan,
    Epoch,
    HardwareAbi,
    Identity,
    NetworkPlan,
    NicPlan,
    PoolPlan,
    VolumePlan,
)

FOLDER = Path(__file__).parent / "libvirt"
SCHEMAS = Path("/usr/share/libvirt/schemas")

SMALLEST = DomainPlan(
    identity=Identity("5f0c1a9e-installation", "shop", "db-0"),
    uid="8e1b3c1e-uid",
    epoch=Epoch(12, 7),
    spec_hash="sha256-abc",
    gate_path="/run/lq/gate-12-9f3a",
    vcpus=1,
    memory_mib=512,
    cpu_model="EPYC-Rome",
    guest_agent=False,
    rng=False,
    hotplug_ports=0,
)


def _with(**changes: object) -> DomainPlan:
    fields = {name: getattr(SMALLEST, name) for name in SMALLEST.__dataclass_fields__}
    return DomainPlan(**{**fields, **changes})  # type: ignore[arg-type]


SERVER = _with(
    vcpus=8,
    sockets=2,
    cores=2,
    threads=2,
    memory_mib=16384,
    cpu_features=("aes", "-svm"),
    cpu_shares=2048,
    cpu_quota_percent=150,
    firmware="uefi-secure",
    nvram_path="/srv/state/shop_db-0.nvram",
    disks=(
        DiskPlan("root", "/srv/pool/root.qcow2", "qcow2", boot_order=1, serial="root-1"),
        DiskPlan("data", "/dev/vg/data", "raw", bus="scsi", discard=False),
        DiskPlan("ro", "/srv/pool/ro.raw", "raw", bus="sata", read_only=True, cache="writeback"),
        DiskPlan("cd", "/srv/pool/install.iso", "raw", bus="sata", device="cdrom", boot_order=2),
        DiskPlan("empty", "", "raw", bus="scsi", device="cdrom"),
    ),
    nics=(
        NicPlan("eth0", "02:11:22:33:44:55", network="lq-default", boot_order=3, mtu=9000),
        NicPlan("storage.1", "02:11:22:33:44:56", bridge="br0", model="e1000e", link_up=False),
    ),
    seed_path="/srv/state/shop_db-0.seed.iso",
    console_log_path="/srv/state/shop_db-0.console.log",
    guest_agent=True,
    vnc=True,
    tpm=True,
    rng=True,
    watchdog="reset",
    hotplug_ports=4,
)

ROOMY = _with(
    vcpus=2,
    vcpus_max=8,
    sockets=1,
    cores=2,
    threads=1,
    memory_mib=1024,
    memory_max_mib=4097,
    disks=(DiskPlan("root", "/srv/pool/root.qcow2", "qcow2", iops=500, bytes_per_second=1048576),),
    record=(("spec.cpu.model", ""), ("spec.interfaces[eth0].addressing", "Claim")),
    hotplug_ports=2,
)

PINNED = _with(
    accel="tcg",
    disks=(
        DiskPlan("new", "/srv/pool/new", "qcow2"),
        DiskPlan("root", "/srv/pool/root", "qcow2"),
        DiskPlan("moved", "/srv/pool/moved", "qcow2", slot="0000:07:00.0", target="vdq"),
    ),
    nics=(NicPlan("eth0", "02:11:22:33:44:55", network="n"),),
    guest_agent=True,
    rng=True,
    hardware=HardwareAbi(
        machine="pc-q35-7.2",
        cpu_model="qemu64",
        cpu_features=("-svm", "x2apic"),
        slots=(
            ("balloon", "0000:05:00.0"),
            ("controller/1", "0000:00:02.0"),
            ("controller/2", "0000:00:02.1"),
            ("controller/3/pcie-to-pci-bridge", "0000:01:00.0"),
            ("controller/4", "0000:00:02.2"),
            ("disk/root", "0000:04:00.0"),
            ("nic/eth0", "0000:02:00.0"),
            ("rng", "0000:06:00.0"),
            ("serial", "0000:08:00.0"),
        ),
        targets=(("disk/root", "vdc"), ("disk/detached", "vda")),
    ),
)

DRIVES = _with(
    disks=(
        DiskPlan("root", "/srv/pool/root.qcow2", "qcow2", boot_order=2),
        DiskPlan("slow", "/srv/p/s", "raw", "sata"),
    ),
    cdroms=(
        CdromPlan("install", "/srv/pool/img_shop_debian_1.raw", boot_order=1),
        CdromPlan("root", "", bus="scsi"),  # its own names: a disk may be called so, too
        CdromPlan("kept", "/srv/pool/vol_shop_tools_1.qcow2", "qcow2"),
    ),
    hardware=HardwareAbi(machine="pc-q35-7.2", targets=(("cdrom/kept", "sda"), ("disk/root", "vda"))),
)

LIVE = (Path(__file__).parent / "live" / "guest.xml").read_text(encoding="utf-8")
"""What libvirt 9.0 says of a running guest (dumpxml --migratable --security-info)."""

MOVED = _with(
    identity=Identity("inst", "shop", "db-0"),
    uid="u",
    gate_path="/run/lq/ticket-1",
    nvram_path="/srv/there/db.nvram",
    disks=(
        DiskPlan("root", "/srv/there/root", "qcow2"),
        DiskPlan("data", "/srv/shared/data.qcow2", "qcow2", bus="scsi"),
        DiskPlan("cd", "", "raw", bus="sata", device="cdrom"),
    ),
    nics=(NicPlan("eth0", "02:11:22:33:44:55", network="net-there"),),
    seed_path="/srv/there/seed.iso",
    console_log_path="/srv/there/console.log",
    addresses=(("eth0", "10.0.0.5"),),
)

CASES: dict[str, tuple[str, Callable[[], str]]] = {
    # name: (schema, text)
    "domain-smallest": ("domain", lambda: domain_xml(SMALLEST)),
    "domain-server": ("domain", lambda: domain_xml(SERVER)),
    "domain-roomy": ("domain", lambda: domain_xml(ROOMY)),
    "domain-drives": ("domain", lambda: domain_xml(DRIVES)),
    "domain-pinned-tcg": ("domain", lambda: domain_xml(PINNED)),
    "domain-tcg-default": ("domain", lambda: domain_xml(_with(accel="tcg", cpu_model=""))),
    "domain-host-model": ("domain", lambda: domain_xml(_with(cpu_mode="host-model"))),
    "domain-passthrough": ("domain", lambda: domain_xml(_with(cpu_mode="host-passthrough"))),
    "domain-i440fx": ("domain", lambda: domain_xml(_with(machine="pc", disks=SERVER.disks[:1]))),
    "domain-arm": ("domain", lambda: domain_xml(_with(arch="aarch64", machine="virt", firmware="uefi", accel="tcg"))),
    "domain-hostile": (
        "domain",
        lambda: domain_xml(
            _with(identity=Identity("<&\"'>]]>", "shop", "db-0"), uid="&amp;<b/>", spec_hash="--> ü\u2028")
        ),
    ),
    "domain-regated": (
        "domain",
        lambda: with_gate(domain_xml(SERVER), _with(gate_path="/run/lq/gate-13-77", epoch=Epoch(13, 1))),
    ),
    "domain-moved": ("domain", lambda: moved_xml(LIVE, MOVED)),
    "network-nat": (
        "network",
        lambda: network_xml(
            NetworkPlan(
                "lq-n",
                "nat",
                gateway="10.1.0.1",
                prefix=24,
                dhcp_start="10.1.0.10",
                dhcp_end="10.1.0.99",
                domain="lab.local",
                mtu=1450,
            )
        ),
    ),
    "network-isolated": ("network", lambda: network_xml(NetworkPlan("lq-i", "isolated"))),
    "network-isolated-v6": (
        "network",
        lambda: network_xml(NetworkPlan("lq-6", "isolated", gateway="fd00::1", prefix=64)),
    ),
    "network-bridge": ("network", lambda: network_xml(NetworkPlan("lq-b", "bridge", bridge_name="br0"))),
    "pool-gate": ("storagepool", lambda: pool_xml(PoolPlan("lq-gate", "/run/lq"))),
    "volume-gate": ("storagevol", lambda: volume_xml(VolumePlan("gate-1-aa", 0, "raw", mode=0o444))),
    "volume-disk": ("storagevol", lambda: volume_xml(VolumePlan("root & <co>", 1 << 34))),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    written = CASES[name][1]()
    file = FOLDER / f"{name}.xml"
    if os.environ.get("LQ_REGENERATE"):
        file.write_text(written, encoding="utf-8")
    assert written == file.read_text(encoding="utf-8")


def test_no_golden_is_left_over() -> None:
    assert {file.stem for file in FOLDER.glob("*.xml")} == set(CASES)


@pytest.fixture(scope="module")
def schema() -> Callable[[str], etree.RelaxNG]:
    if not (SCHEMAS / "domain.rng").exists():
        pytest.skip(f"libvirt's schemas are not in {SCHEMAS} (package libvirt-clients or libvirt-daemon)")
    cache: dict[str, etree.RelaxNG] = {}

    def get(name: str) -> etree.RelaxNG:
        if name not in cache:
            cache[name] = etree.RelaxNG(etree.parse(str(SCHEMAS / f"{name}.rng")))
        return cache[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_goldens_are_lawful_to_libvirt(name: str, schema: Callable[[str], etree.RelaxNG]) -> None:
    relaxng = schema(CASES[name][0])
    assert relaxng.validate(etree.parse(str(FOLDER / f"{name}.xml"))), relaxng.error_log


@pytest.mark.parametrize("plan", [SMALLEST, ROOMY, PINNED], ids=["smallest", "roomy", "pinned"])
def test_what_is_written_is_read_as_the_same_guest(plan: DomainPlan) -> None:
    assert read_shape(domain_xml(plan)) == shape_of(plan)
