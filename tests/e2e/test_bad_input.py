"""Bad input of every kind that only the hosts or other objects can show: a clear condition, and nothing half-done.

What the API server alone can refuse (limits, names, immutable fields, hostile characters) is in test_api_limits.py; what is
wrong with images is in test_images.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.datacenter import NAMESPACE, Datacenter, Object, condition, diskless, lq, reason, vm_manifest

from lq_operator.lab import manifests

pytestmark = pytest.mark.lab

NIC = {"name": "eth0", "networkRef": {"name": "nat", "namespace": "default"}}


@pytest.fixture(autouse=True)
def _clean(dc: Datacenter) -> Iterator[None]:
    yield
    dc.kubectl("delete", "vm,volumes", "--all", "--timeout=100s")


def message(obj: Object) -> str:
    return str(condition(obj, "Ready").get("message", ""))


def stalls(dc: Datacenter, vm: Object, why: str, *words: str) -> None:
    """The VM says why it does not start, in words a person can act on; no host has anything of it."""
    name = vm["metadata"]["name"]
    dc.apply(vm)
    found = dc.wait_for("VirtualMachine", name, lambda o: reason(o) == why)
    for word in words:
        assert word in message(found), message(found)
    assert dc.seen(name) == {}
    assert dc.files_of(name) == set()


@pytest.mark.parametrize(
    ("spec", "why", "words"),
    [
        ({"className": "huge"}, "ClassNotFound", ("spec.className", "huge")),
        ({"interfaces": [{"name": "eth0", "networkRef": {"name": "nowhere"}}]}, "NetworkNotFound", ("eth0", "nowhere")),
        (
            {"disks": [{"name": "root", "volumeRef": {"name": "missing"}}]},
            "VolumeNotFound",
            ("spec.disks[root]", "missing"),
        ),
        ({"clusterRef": {"name": "other"}}, "ClusterNotFound", ("spec.clusterRef", "other")),
        ({"interfaces": [NIC | {"addressing": "Claim", "address": "10.98.0.1"}]}, "NoAddress", ("eth0", "10.98.0.1")),
        ({"interfaces": [NIC | {"addressing": "Claim", "address": "10.99.0.200"}]}, "NoAddress", ("DHCP range",)),
    ],
)
def test_a_reference_that_leads_nowhere(dc: Datacenter, spec: dict[str, Any], why: str, words: tuple[str, ...]) -> None:
    stalls(dc, diskless("lost-ref", **spec), why, *words)


def test_a_fixed_reference_is_noticed_without_a_restart(dc: Datacenter) -> None:
    stalls(dc, diskless("late-class", className="late"), "ClassNotFound")
    dc.lab.kubectl("apply", "-f", "-", stdin=manifests.dump([manifests.vm_class("late", 1, "256Mi")]))
    dc.wait_state("late-class", "Running")
    dc.lab.kubectl("delete", "vmclass", "late")


def test_no_host_fits_and_it_says_what_would_help(dc: Datacenter) -> None:
    vm = diskless("giant")
    del vm["spec"]["className"]
    vm["spec"] |= {"cpu": {"count": 200}, "memory": {"size": "512Gi"}}
    dc.apply(vm)
    found = dc.wait_for("VirtualMachine", "giant", lambda o: condition(o, "Scheduled").get("reason") == "NoHostFits")
    verdicts = found["status"]["scheduling"]["verdicts"]
    assert {v["node"] for v in verdicts} == {"h1", "h2", "h3"}
    assert all(not v["fits"] and v["message"] for v in verdicts)
    assert dc.seen("giant") == {}


def test_a_volume_larger_than_its_pool(dc: Datacenter) -> None:
    dc.apply(diskless("wide", disks=[{"name": "root", "template": {"size": "60Ti", "poolRef": "local"}}]))
    found = dc.wait_for("VirtualMachine", "wide", lambda o: reason(o) == "VolumeFailed")
    assert "more than pool local has" in message(found)
    assert not any("wide" in name for name in dc.files("local"))


def test_an_unknown_pool(dc: Datacenter) -> None:
    dc.apply(diskless("poolless", disks=[{"name": "root", "template": {"size": "1Gi", "poolRef": "nirvana"}}]))
    found = dc.wait_for("Volume", "poolless-root", lambda o: bool(o))
    assert found["spec"]["poolRef"] == "nirvana"
    waiting = dc.wait_for("VirtualMachine", "poolless", lambda o: "nirvana" in message(o))
    assert reason(waiting) == "PoolNotFound"
    assert dc.seen("poolless") == {}


def test_two_vms_may_not_have_the_same_mac(dc: Datacenter) -> None:
    nic = NIC | {"mac": "02:aa:00:00:00:01"}
    dc.apply(diskless("mac-a", interfaces=[nic]))
    dc.wait_state("mac-a", "Running")
    stalls(dc, diskless("mac-b", interfaces=[nic]), "DuplicateMAC", "02:aa:00:00:00:01", "mac-a")


def test_two_vms_may_not_have_the_same_address(dc: Datacenter) -> None:
    nic = NIC | {"addressing": "Claim", "address": "10.99.0.77"}
    dc.apply(diskless("addr-a", interfaces=[nic]))
    dc.wait_state("addr-a", "Running")
    stalls(dc, diskless("addr-b", interfaces=[nic]), "AddressTaken", "10.99.0.77")


def test_a_volume_has_one_vm_and_is_not_deleted_under_it(dc: Datacenter) -> None:
    dc.apply(lq("Volume", "shared-disk", {"size": "1Gi", "poolRef": "shared"}))
    disks = [{"name": "root", "volumeRef": {"name": "shared-disk"}}]
    dc.apply(diskless("first", disks=disks))
    dc.wait_state("first", "Running")
    stalls(dc, diskless("second", disks=disks), "VolumeInUse", "shared-disk", "first")
    dc.delete("Volume", "shared-disk")
    found = dc.wait_for("Volume", "shared-disk", lambda o: reason(o) == "InUse")
    assert "first" in message(found)
    assert any("shared-disk" in name for name in dc.files("shared"))
    dc.delete("VirtualMachine", "second", "first", wait=True)
    dc.wait_gone("Volume", "shared-disk")
    assert not any("shared-disk" in name for name in dc.files("shared"))


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (None, ("there is no Secret",)),
        ({"other": b"x"}, ("has no key user-data",)),
        ({"user-data": b"#" * (600 * 1024)}, ("512 KiB",)),
    ],
)
def test_user_data_that_cannot_be_used(dc: Datacenter, secret: dict[str, bytes] | None, words: tuple[str, ...]) -> None:
    dc.kubectl("delete", "secret", "seed", "--ignore-not-found")
    if secret is not None:
        data = {key: base64.b64encode(value).decode() for key, value in secret.items()}
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "seed", "namespace": NAMESPACE},
            "data": data,
        }
        dc.kubectl("create", "-f", "-", stdin=json.dumps(body))
    dc.apply(diskless("seeded", cloudInit={"userDataSecretRef": {"name": "seed", "key": "user-data"}}))
    found = dc.wait_for("VirtualMachine", "seeded", lambda o: "spec.cloudInit.userDataSecretRef" in message(o))
    for word in words:
        assert word in message(found)
    assert all(state == "shut off" for state in dc.seen("seeded").values())


def test_an_operation_on_nothing(dc: Datacenter) -> None:
    outcome = dc.do("nobody", "Start")
    assert outcome["phase"] == "Failed"
    assert "there is no VirtualMachine" in outcome["message"]


# ---------------------------------------------------------------- hosts


def node(dc: Datacenter, name: str, **spec: Any) -> Object:
    body = dict(manifests.node(dc.lab, "h1"))
    return body | {"metadata": {"name": name}, "spec": body["spec"] | spec}


@pytest.mark.parametrize(
    ("name", "spec", "why", "words"),
    [
        ("twin", {}, "DuplicateHost", ("already registered as h1",)),
        ("web-server", {"uri": "qemu+tls://10.78.0.1:8080/system"}, "HostUnreachable", ()),
        ("no-answer", {"uri": "qemu+tls://10.78.0.99/system"}, "HostUnreachable", ()),
        (
            "no-secret",
            {"credentialsSecretRef": {"name": "nothing"}},
            "SecretNotFound",
            ("spec.credentialsSecretRef", "nothing"),
        ),
        ("wrong-cluster", {"clusterRef": {"name": "nowhere"}}, "ClusterNotFound", ("spec.clusterRef", "nowhere")),
    ],
)
def test_a_host_that_is_not_what_it_should_be(
    dc: Datacenter, name: str, spec: dict[str, Any], why: str, words: tuple[str, ...]
) -> None:
    """Each says what is wrong; the other hosts go on. A node that never was ours is deleted without further ado."""
    try:
        dc.lab.kubectl("apply", "-f", "-", stdin=manifests.dump([node(dc, name, **spec)]))
        found = dc.wait_for("HypervisorNode", name, lambda o: reason(o) == why)
        assert message(found)
        for word in words:
            assert word in message(found), message(found)
    finally:
        dc.lab.kubectl("delete", "hvn", name, "--timeout=60s")
    dc.wait_for("HypervisorNode", "h1", lambda o: condition(o, "Ready").get("status") == "True")


def test_another_machine_behind_a_known_uri(dc: Datacenter) -> None:
    """The node keeps its UUID; what answers under it is refused, and is no evidence for anything."""
    dc.apply(vm := diskless("pinned", placement={"nodeSelector": {"limiquantix.io/host": "h3"}}))
    dc.wait_state("pinned", "Running")
    uri = manifests.node(dc.lab, "h3")["spec"]["uri"]
    try:
        # h3's own object is asked to look at a host that nobody else has: h2 is registered, so it is a twin as well.
        dc.lab.kubectl(
            "patch",
            "hvn",
            "h3",
            "--type=merge",
            "-p",
            json.dumps({"spec": {"uri": manifests.node(dc.lab, "h2")["spec"]["uri"]}}),
        )
        found = dc.wait_for("HypervisorNode", "h3", lambda o: reason(o) in ("OtherHost", "DuplicateHost"))
        assert condition(found, "Claimed")["status"] == "False"
        waiting = dc.wait_for("VirtualMachine", "pinned", lambda o: condition(o, "Ready").get("status") == "Unknown")
        assert waiting["status"]["placement"]["node"] == "h3"
        assert dc.seen("pinned") == {"h3": "running"}
    finally:
        dc.lab.kubectl("patch", "hvn", "h3", "--type=merge", "-p", json.dumps({"spec": {"uri": uri}}))
    dc.wait_state(vm["metadata"]["name"], "Running")


def test_the_wrong_authority(dc: Datacenter) -> None:
    """A host whose certificate our CA did not sign is not talked to, and the reason names the remedy."""
    other = dc.lab.control_plane.pki / "ca.crt"
    good = manifests.credentials(dc.lab, "lq-system")
    bad = dict(good) | {"metadata": {"name": "wrong-ca", "namespace": "lq-system"}}
    bad["data"] = dict(good["data"]) | {"ca.crt": base64.b64encode(other.read_bytes()).decode()}
    try:
        body = [bad, node(dc, "stranger", credentialsSecretRef={"name": "wrong-ca"})]
        dc.lab.kubectl("apply", "-f", "-", stdin=manifests.dump(body))
        found = dc.wait_for("HypervisorNode", "stranger", lambda o: reason(o) == "HostUnreachable")
        assert "certificate" in message(found).lower()
    finally:
        dc.lab.kubectl("delete", "hvn", "stranger", "--timeout=60s")
        dc.lab.kubectl("-n", "lq-system", "delete", "secret", "wrong-ca")


def test_booting_still_works_after_all_that(dc: Datacenter) -> None:
    dc.apply(vm_manifest("survivor"))
    dc.wait_guest("survivor")
    assert dc.guest("survivor", "hostname").strip() == "survivor"
