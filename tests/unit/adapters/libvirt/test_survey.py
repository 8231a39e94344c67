"""What a survey reads out of definitions, and that it calls nothing that could write."""

from __future__ import annotations

from typing import Any

import libvirt
import pytest

from lq_operator.adapters.libvirt import survey as module
from lq_operator.adapters.libvirt.survey import read_domain, read_pool, survey

CAPABILITIES = """<capabilities><host><uuid>0a2b</uuid><cpu><arch>x86_64</arch><model>Haswell</model>
  <feature name='avx2'/></cpu><topology><cells num='1'><cell id='0'><memory unit='KiB'>8388608</memory>
  <cpus num='4'/></cell></cells></topology></host><guest><os_type>hvm</os_type><arch name='x86_64'>
  <machine>pc</machine><domain type='qemu'/><domain type='kvm'/></arch></guest></capabilities>"""
DOMAIN = """<domain type='kvm'><name>db</name><memory unit='KiB'>1048576</memory><vcpu current='3'>4</vcpu>
  <memoryBacking><hugepages><page size='1' unit='G'/></hugepages></memoryBacking>
  <cpu mode='custom' match='exact'><model>Haswell</model></cpu><devices>
  <disk type='file' device='disk'><source file='/data/db.qcow2'/></disk>
  <disk type='file' device='cdrom'><source file='/iso/x.iso'/></disk>
  <disk type='network' device='disk'><source protocol='rbd' name='p/i'/></disk>
  <disk type='volume' device='disk'><source pool='fast' volume='v1'/></disk>
  <disk type='block' device='lun'><source dev='/dev/sdz'/></disk>
  <interface type='network'><source network='blue'/></interface>
  <interface type='bridge'><source bridge='br0'/></interface>
  <hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x06' slot='0x02' function='0x0'/></source></hostdev>
  </devices></domain>"""
READS = frozenset(
    [
        "getCapabilities",
        "getInfo",
        "getHostname",
        "getLibVersion",
        "getType",
        "getVersion",
        "compareCPU",
        "baselineCPU",
        "listAllDomains",
        "listAllStoragePools",
        "listAllNetworks",
        "listAllInterfaces",
        "XMLDesc",
        "name",
        "close",
    ]
)


class Recorder:
    """A connection (or a domain) that answers from a table and remembers every name that was called."""

    def __init__(self, answers: dict[str, Any], calls: list[str]) -> None:
        self._answers, self._calls = answers, calls

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self._calls.append(name)
            answer = self._answers[name]
            return answer(*arguments) if callable(answer) else answer

        return call


def connection(calls: list[str], **more: Any) -> Recorder:
    domain = Recorder({"XMLDesc": DOMAIN, "name": "db"}, calls)
    active, inactive = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE, libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE
    answers: dict[str, Any] = {
        "getCapabilities": CAPABILITIES,
        "getInfo": ["x86_64", 8192, 4, 0, 1, 1, 4, 1],
        "getHostname": "h1",
        "getLibVersion": 9000000,
        "getType": "QEMU",
        "getVersion": 7002022,
        "compareCPU": lambda xml, _flags: 2 if "Haswell<" in xml or "Penryn" in xml else 0,
        "baselineCPU": lambda xmls, _flags: "<cpu><model>Haswell</model><feature policy='require' name='avx2'/></cpu>",
        "listAllDomains": lambda flag: {active: [domain], inactive: []}[flag],
        "listAllStoragePools": lambda _flag: [],
        "listAllNetworks": lambda _flag: [],
        "listAllInterfaces": lambda _flag: [],
        "close": 0,
    }
    return Recorder(answers | more, calls)


def test_a_domain_definition() -> None:
    found = read_domain(DOMAIN)
    assert (found.name, found.vcpus, found.memory_mib, found.hugepage_kib) == ("db", 3, 1024, 1048576)
    assert found.disks == ("/data/db.qcow2", "pool fast/v1", "/dev/sdz"), "no CD-ROM, nothing that lies on a network"
    assert found.networks == ("bridge br0", "network blue")
    assert found.passthrough == ("pci 0x0000 0x06 0x02 0x0",)
    assert (found.cpu_mode, found.cpu_model) == ("custom", "Haswell")


def test_pools_are_the_same_storage_when_their_source_is() -> None:
    nfs = "<pool type='netfs'><name>{}</name><source><host name='nas'/><dir path='/v'/></source><target><path>/m</path></target></pool>"
    assert read_pool(nfs.format("a")).source == read_pool(nfs.format("b")).source != ""
    assert read_pool("<pool type='dir'><name>d</name><source/><target><path>/m</path></target></pool>").source == ""


def test_only_read_calls_on_a_read_only_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(module.libvirt, "openReadOnly", lambda _uri: connection(calls))
    monkeypatch.setattr(module.libvirt, "open", lambda *_: pytest.fail("a connection that may write"))
    hosts, down, common = survey(["qemu:///system"])
    assert not down
    assert hosts[0].inventory.usable_cpu_models == ("Haswell", "Penryn")
    assert common is not None
    assert common.lost == {"qemu:///system": ()}
    assert set(calls) <= READS, set(calls) - READS


def test_a_listing_that_fails_is_no_empty_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_flag: int) -> Any:
        raise libvirt.libvirtError("the list was cut off")

    monkeypatch.setattr(module.libvirt, "openReadOnly", lambda _uri: connection([], listAllDomains=broken))
    hosts, down, common = survey(["qemu:///system"])
    assert hosts == []
    assert list(down) == ["qemu:///system"]
    assert common is None


def test_what_is_no_qemu_uri_is_named() -> None:
    _, down, _ = survey(["xen:///system"])
    assert "qemu+tls://" in down["xen:///system"]
