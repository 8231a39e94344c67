"""Apply -> Ready -> the guest answers: what a VM's first start leaves on the host and in the guest.

Three guests boot side by side: everything claimed and told by Secrets, DHCP, and a network-config of the user's own.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from tests.e2e.datacenter import Datacenter, Object, condition, diskless, ready, vm_manifest

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBmYxgqEfrR0K3P4Yz2pZ5p0Qm3Yh7m0mNq0s2m4hXxO inline@example"
SECRET_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH0mR9l5G3u8J2y4kWq6m1b9c7d5e3f1a0Z8Y6X4W2V0 secret@example"
USER_DATA = "#cloud-config\nruncmd:\n  - [sh, -c, 'echo from-a-secret > /disk/user-data-ran']\n"
NETWORK_DATA = """version: 2
ethernets:
  lan:
    match: {macaddress: '52:54:00:aa:bb:01'}
    addresses: [10.99.0.77/24]
"""


def _nic(addressing: str, **more: str) -> list[Object]:
    return [{"name": "eth0", "networkRef": {"name": "nat", "namespace": "default"}, "addressing": addressing, **more}]


def _secret(name: str, **data: str) -> Object:
    coded = {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": coded}


@pytest.fixture(scope="module")
def guests(dc: Datacenter) -> Iterator[None]:
    dc.apply(
        _secret("alpha", user_data=USER_DATA, keys=f"{SECRET_KEY}\n"),
        vm_manifest(
            "alpha",
            cloudInit={
                "userDataSecretRef": {"name": "alpha", "key": "user-data"},
                "sshAuthorizedKeys": [KEY],
                "sshAuthorizedKeysSecretRef": {"name": "alpha", "key": "keys"},
            },
        ),
        vm_manifest("beta", interfaces=_nic("Dhcp"), cloudInit={"hostname": "Other-Name"}),
        vm_manifest("gamma", interfaces=_nic("None", mac="52:54:00:aa:bb:01"), cloudInit={"networkData": NETWORK_DATA}),
    )
    for name in ("alpha", "beta", "gamma"):
        dc.wait_guest(name)
    yield
    dc.delete("VirtualMachine", "alpha", "beta", "gamma")
    dc.delete("Secret", "alpha")
    for name in ("alpha", "beta", "gamma"):
        dc.wait_gone("VirtualMachine", name)


@pytest.mark.usefixtures("guests")
class TestGuests:
    def test_host_runs_one_domain_under_the_identity_that_status_tells(self, dc: Datacenter) -> None:
        vm = dc.vm("alpha")
        assert dc.seen("alpha") == {vm["status"]["placement"]["node"]: "running"}
        written = dc.metadata("alpha")
        installation = dc.lab.kubectl("get", "ns", "kube-system", "-o", "jsonpath={.metadata.uid}").stdout
        expected = {
            "installation": installation,
            "namespace": dc.namespace,
            "name": "alpha",
            "uid": vm["metadata"]["uid"],
            "epoch": vm["status"]["placement"]["epoch"],
            "specHash": vm["status"]["effective"]["specHash"],
        }
        assert {key: written[key] for key in expected} == expected
        assert vm["status"]["power"]["epoch"] == written["epoch"]

    def test_definition_requires_the_gate_of_this_term_and_starts_nothing_by_itself(self, dc: Datacenter) -> None:
        host = dc.host_of("alpha")
        entry = dc.xml("alpha", inactive=True).find("sysinfo[@type='fwcfg']/entry[@name='opt/io.limiquantix/gate']")
        assert entry is not None
        gate = entry.get("file")
        assert gate.startswith("/run/lq/gate-")
        assert host.exec(["test", "-e", gate]).returncode == 0
        assert dc.vm("alpha")["status"]["placement"]["boot"] == gate.rpartition("/")[2]
        assert "Autostart:      disable" in host.virsh("dominfo", dc.domain("alpha"))
        assert not [name for name in host.virsh("list", "--all", "--autostart", "--name").split() if name]

    def test_guest_has_name_and_address_that_were_claimed(self, dc: Datacenter) -> None:
        assert dc.agent("alpha", "guest-get-host-name")["host-name"] == "alpha"
        status = dc.vm("alpha")["status"]
        claims = [c for c in dc.lab_claims() if c["spec"]["vm"]["name"] == "alpha"]
        address = claims[0]["spec"]["address"]
        assert [len(claims), claims[0]["spec"]["interface"]] == [1, "eth0"]
        assert _addresses(dc, "alpha") == {address}
        assert status["addresses"] == [address]
        assert status["guest"]["hostname"] == "alpha"
        assert "LQ Lab Guest" in status["guest"]["os"]
        assert f" {claims[0]['spec']['mac']} " in dc.guest("alpha", "ip -o link")

    def test_guest_reaches_its_network(self, dc: Datacenter) -> None:
        dc.guest("alpha", "ping -c 1 -w 5 10.99.0.1")

    def test_user_data_of_a_secret_has_run_and_is_nowhere_else(self, dc: Datacenter) -> None:
        assert dc.guest("alpha", "cat /disk/user-data-ran").strip() == "from-a-secret"
        assert "from-a-secret" not in dc.kubectl("get", "vm", "alpha", "-o", "yaml")
        assert "from-a-secret" not in dc.words(100_000)
        host = dc.host_of("alpha")
        seed = dc.xml("alpha").find("devices/disk/alias[@name='ua-seed']/../source").get("file")
        assert host.exec(["stat", "-c", "%a", seed], check=True).stdout.strip() == "600"

    def test_ssh_keys_inline_and_of_a_secret(self, dc: Datacenter) -> None:
        found = dc.guest("alpha", "cat /root/.ssh/authorized_keys").splitlines()
        assert {line.split()[1] for line in found} >= {KEY.split()[1], SECRET_KEY.split()[1]}

    def test_dhcp_address_is_the_networks_and_is_told(self, dc: Datacenter) -> None:
        (address,) = _addresses(dc, "beta")
        assert 128 <= int(address.rpartition(".")[2]) <= 254
        dc.wait_for("VirtualMachine", "beta", lambda o: o["status"]["addresses"] == [address])
        assert dc.agent("beta", "guest-get-host-name")["host-name"] == "Other-Name"
        assert not [c for c in dc.lab_claims() if c["spec"]["vm"]["name"] == "beta"]

    def test_network_config_of_the_user_is_taken_as_it_is(self, dc: Datacenter) -> None:
        assert _addresses(dc, "gamma") == {"10.99.0.77"}
        assert dc.vm("gamma")["status"]["addresses"] == ["10.99.0.77"]

    def test_serial_console_is_kept(self, dc: Datacenter) -> None:
        log = f"console_{dc.namespace}_alpha.log"
        assert log in dc.files_of("alpha")
        path = dc.xml("alpha").find("devices/serial/log").get("file")
        assert path.endswith(log)
        assert dc.host_of("alpha").exec(["grep", "-c", "GUEST-BOOTED .*host=alpha", path]).stdout.strip() == "1"

    def test_volume_is_a_file_of_the_pool_as_status_says(self, dc: Datacenter) -> None:
        volume = dc.get("Volume", "alpha-root")
        assert volume is not None
        link = volume["status"]["chain"][0]
        disk = dc.xml("alpha").find("devices/disk[@device='disk']")
        assert disk.find("source").get("file") == link["path"]
        assert link["file"] in dc.files("shared")
        size = dc.guest("alpha", "cat /sys/block/vda/size").strip()
        assert int(size) * 512 == 2**30

    def test_nothing_is_left_to_change(self, dc: Datacenter) -> None:
        assert dc.diff("alpha", "beta", "gamma") == ""


def _addresses(dc: Datacenter, vm: str) -> set[str]:
    found = dc.agent(vm, "guest-network-get-interfaces")
    return {
        address["ip-address"]
        for interface in found
        if interface["name"] != "lo"
        for address in interface.get("ip-addresses", [])
        if address["ip-address-type"] == "ipv4"
    }


def test_vm_without_disks_and_without_nics_runs(dc: Datacenter) -> None:
    dc.apply(diskless("bare"))
    vm = dc.wait_state("bare", "Running")
    devices = dc.xml("bare").find("devices")
    assert [devices.findall("disk"), devices.findall("interface")] == [[], []]
    assert vm["status"].get("addresses", []) == []
    dc.delete("VirtualMachine", "bare")
    dc.wait_gone("VirtualMachine", "bare")
    assert dc.seen("bare") == {}
    assert dc.files_of("bare") == set()


def test_missing_secret_is_said_by_name_and_mends_itself(dc: Datacenter) -> None:
    dc.apply(diskless("wants", cloudInit={"userDataSecretRef": {"name": "late", "key": "user-data"}}))
    vm = dc.wait_for("VirtualMachine", "wants", lambda o: "late" in condition(o, "Ready").get("message", ""))
    assert not ready(vm)
    assert "userDataSecretRef" in condition(vm, "Ready")["message"]
    assert dc.seen("wants") in ({}, {vm["status"]["placement"]["node"]: "shut off"})
    dc.apply(_secret("late", user_data=USER_DATA))
    dc.wait_state("wants", "Running")
    assert list(dc.seen("wants").values()) == ["running"]
    dc.delete("VirtualMachine", "wants")
    dc.delete("Secret", "late")
    dc.wait_gone("VirtualMachine", "wants")
