"""Capabilities of a KVM host and of a TCG host as inventories."""

from __future__ import annotations

import pytest

from lq_operator.adapters.libvirt.xml.capabilities import (
    HostNumbers,
    accelerator,
    host_uuid,
    read_inventory,
    version_text,
)
from lq_operator.core.model import NumaCell
from lq_operator.core.result import Transient

CAPABILITIES = """<capabilities><host><uuid>0B21C4C0-bb95-45c7-87cd-98010b45abb2</uuid>
  <cpu><arch>x86_64</arch><model>kvm64</model><vendor>AMD</vendor><feature name='b'/><feature name='a'/></cpu>
  <topology><cells num='2'>
    <cell id='0'><memory unit='KiB'>2097152</memory><cpus num='4'/></cell>
    <cell id='1'><memory unit='KiB'>1048576</memory><cpus num='2'/></cell></cells></topology></host>
  <guest><os_type>hvm</os_type><arch name='i686'><machine>isapc</machine><domain type='qemu'/></arch></guest>
  <guest><os_type>hvm</os_type><arch name='x86_64'><machine>pc-q35-7.2</machine><machine canonical='pc-q35-7.2'>q35</machine>
    <domain type='qemu'/>{kvm}</arch></guest></capabilities>"""
DOMAIN = """<domainCapabilities><os supported='yes'><enum name='firmware'>{firmware}</enum>
  <loader supported='yes'><enum name='secure'>{secure}</enum></loader></os>
  <cpu><mode name='host-model' supported='{model}'><model>EPYC</model><vendor>AMD</vendor>
    <feature policy='require' name='x'/><feature policy='disable' name='y'/></mode>
  <mode name='custom' supported='yes'><model usable='yes'>Nehalem</model><model usable='no'>Haswell</model>
    <model usable='yes'>486</model></mode></cpu></domainCapabilities>"""
NUMBERS = HostNumbers("h1", 9_000_000, "QEMU", 7_002_022, 6, 3072)


def test_a_host_is_read_whole() -> None:
    found = read_inventory(
        CAPABILITIES.format(kvm="<domain type='kvm'/>"),
        DOMAIN.format(firmware="<value>efi</value>", secure="<value>yes</value><value>no</value>", model="yes"),
        NUMBERS,
    )
    assert found.host_uuid == "0b21c4c0-bb95-45c7-87cd-98010b45abb2"
    assert (found.hostname, found.libvirt_version, found.hypervisor) == ("h1", "9.0.0", "QEMU 7.2.22")
    assert (found.arch, found.accel, found.cpus, found.memory_mib) == ("x86_64", "kvm", 6, 3072)
    assert (found.cpu_model, found.cpu_vendor, found.cpu_features) == ("EPYC", "AMD", ("x",))
    assert found.usable_cpu_models == ("486", "Nehalem")
    assert found.machine_types == ("pc-q35-7.2", "q35")
    assert found.numa == (NumaCell(0, 2048, 4), NumaCell(1, 1024, 2))
    assert found.firmware == ("bios", "uefi", "uefi-secure")


def test_a_host_without_kvm_firmware_or_host_model() -> None:
    found = read_inventory(
        CAPABILITIES.format(kvm=""), DOMAIN.format(firmware="", secure="<value>yes</value>", model="no"), NUMBERS
    )
    assert (found.accel, found.firmware) == ("tcg", ("bios",))
    assert (found.cpu_model, found.cpu_features) == ("kvm64", ("a", "b"))
    assert accelerator(CAPABILITIES.format(kvm="<domain type='kvm'/>"), "i686") == "tcg"  # kvm is x86_64's here


def _tpm(supported: str, *enums: str) -> str:
    return f"<domainCapabilities><devices><tpm supported='{supported}'>{''.join(enums)}</tpm></devices></domainCapabilities>"


SWTPM = "<enum name='backendModel'><value>passthrough</value><value>emulator</value></enum>"
NO_SWTPM = "<enum name='backendModel'><value>passthrough</value></enum>"


@pytest.mark.parametrize(
    ("said", "emulates"),
    [
        ("<domainCapabilities><devices/></domainCapabilities>", None),
        (_tpm("no"), False),
        (_tpm("yes", NO_SWTPM), False),
        (_tpm("yes", SWTPM), True),
        (_tpm("yes", SWTPM, "<enum name='backendVersion'><value>1.2</value><value>2.0</value></enum>"), True),
        (_tpm("yes", SWTPM, "<enum name='backendVersion'><value>1.2</value></enum>"), False),
        (_tpm("yes", NO_SWTPM, "<enum name='backendVersion'><value>2.0</value></enum>"), False),
    ],
)
def test_whether_a_tpm_can_be_emulated(said: str, emulates: bool | None) -> None:
    assert read_inventory(CAPABILITIES.format(kvm=""), said, NUMBERS).emulates_tpm is emulates


def test_a_host_that_does_not_say_who_it_is_is_nobody() -> None:
    with pytest.raises(Transient, match="UUID"):
        host_uuid("<capabilities><host/></capabilities>")


def test_versions() -> None:
    assert [version_text(n) for n in (9_000_000, 10_010_003, 7_002_022)] == ["9.0.0", "10.10.3", "7.2.22"]
