"""What a survey means: reach of disks, ties to a host, the CPU baseline's price, and hosts that are named twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lq_operator.adapters.libvirt.survey import CommonCpu, HostSurvey, SurveyedDomain, SurveyedPool
from lq_operator.cli_tools.check import say
from lq_operator.cli_tools.checkup import Options, Report, examine
from lq_operator.cli_tools.text import mib, table
from lq_operator.core.model import HostInventory, HostUUID
from lq_operator.core.result import Rejected

NFS = SurveyedPool("fast", "netfs", "/mnt/vms", "nas /vms")
LOCAL = SurveyedPool("default", "dir", "/var/lib/libvirt/images", "")


def domain(name: str, mib: int = 1024, **changes: object) -> SurveyedDomain:
    base = SurveyedDomain(name, 1, mib, 0, "", "", (), (), ())
    return replace(base, **changes)  # type: ignore[arg-type]


def host(n: int, *domains: SurveyedDomain, **changes: object) -> HostSurvey:
    models = ("Haswell", "Nehalem") if n == 1 else ("Nehalem",)
    inventory = HostInventory(
        host_uuid=HostUUID(f"uuid-{n}"), hostname=f"h{n}", libvirt_version="9", hypervisor="QEMU", arch="x86_64",
        cpu_model=models[0], cpu_vendor="Intel", cpu_features=(), usable_cpu_models=models, cpus=8, memory_mib=9216,
        numa=(), machine_types=(), accel="kvm", firmware=("bios",),
    )  # fmt: skip
    made = HostSurvey(f"qemu+tls://h{n}/system", inventory, domains, 0, frozenset(), (NFS, LOCAL), "<cpu/>")
    return replace(made, **changes)  # type: ignore[arg-type]


def can_fail(report: Report) -> dict[str, bool]:
    return {line.name: line.verdict.ok for line in report.hosts}


@pytest.mark.parametrize(
    ("disk", "shared", "free"),
    [
        ("/mnt/vms/a.qcow2", (), True),
        ("pool fast/a.qcow2", (), True),
        ("/var/lib/libvirt/images/a.qcow2", (), False),
        ("/var/lib/libvirt/images/a.qcow2", ("/var/lib/libvirt/images",), True),
        ("/var/lib/libvirt/images2/a.qcow2", ("/var/lib/libvirt/images",), False),
        ("/dev/vg/a", (), False),
    ],
)
def test_where_a_disk_can_be_reached(disk: str, shared: tuple[str, ...], free: bool) -> None:
    report = examine([host(1, domain("a", disks=(disk,))), host(2)], None, Options(shared=shared))
    assert can_fail(report)["h1"] is free
    assert any("no other host can take it" in f.why for f in report.findings) is not free


def test_a_pool_of_the_same_name_with_another_source_is_another() -> None:
    other = replace(NFS, source="nas2 /vms")
    disk = domain("a", disks=("/mnt/vms/a.qcow2",))
    assert not can_fail(examine([host(1, disk), host(2, pools=(other,))], None, Options()))["h1"]


def test_ties_by_cpu_model_network_and_device() -> None:
    tied = [
        domain("new-cpu", cpu_mode="custom", cpu_model="Haswell"),
        domain("blue", networks=("network blue",)),
        domain("gpu", passthrough=("pci 06:02.0",)),
        domain("free", cpu_mode="custom", cpu_model="Nehalem"),
    ]
    report = examine([host(1, *tied, networks=frozenset({"network blue"})), host(2)], None, Options())
    assert {f.vm for f in report.findings if "no other host" in f.why} == {"new-cpu", "blue", "gpu"}
    assert can_fail(report) == {"h1": False, "h2": True}


def test_totals_are_no_answer() -> None:
    """8 GiB are free on the others together, and a VM of 6 GiB fits on neither."""
    hosts = [host(1, domain("big", 6144)), host(2, domain("x", 4096)), host(3, domain("y", 4096))]
    report = examine(hosts, None, Options())
    assert can_fail(report) == {"h1": False, "h2": True, "h3": True}
    line = report.hosts[0]
    assert line.verdict.blocker is not None
    assert line.verdict.blocker.name == "big"
    assert "memory" in line.blocker_why
    assert "h1 cannot fail" in say(report, {})


def test_the_price_of_the_baseline() -> None:
    common = CommonCpu("Nehalem", {"qemu+tls://h1/system": ("avx2", "fma"), "qemu+tls://h2/system": ()})
    report = examine([host(1), host(2)], common, Options())
    assert report.baseline.model == "Nehalem"
    assert report.baseline.lost_models == {"h1": ("Haswell",), "h2": ()}
    text = say(report, {})
    assert "h1 gives up 2 features (avx2, fma) and 1 model (Haswell)" in text
    assert "h2 gives up" not in text


def test_badly_placed_vms_come_with_a_better_host() -> None:
    crowded = [domain(f"vm-{n}", 960) for n in range(8)]
    report = examine([host(1, *crowded), host(2)], None, Options())
    assert any(f.remedy == "move it to h2" for f in report.findings)
    assert len(report.findings) <= 20


def test_one_host_under_two_names_is_refused() -> None:
    twin = replace(host(1), uri="qemu+ssh://h1.lan/system")
    with pytest.raises(Rejected, match="same host"):
        examine([host(1), twin], None, Options())


def test_an_unanswered_host_is_said_first() -> None:
    text = say(examine([host(1)], None, Options()), {"qemu+tls://h9/system": "it refuses"})
    assert text.startswith("NOT ANSWERED  qemu+tls://h9/system: it refuses")


def test_tables_and_sizes() -> None:
    assert table(("A", "B"), [("x", "long"), ("yy", "z")]) == "A   B\nx   long\nyy  z"
    assert (mib(512), mib(1536)) == ("512 MiB", "1.5 GiB")
