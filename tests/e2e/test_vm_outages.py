"""What fails above QEMU is nobody's outage: operator, libvirtd, API server and etcd die while two guests run.

After each the guests are asked whether they still are in the same boot, status is right, and nothing is to be applied.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.e2e.datacenter import Datacenter, condition, ready, vm_manifest

NAMES = ("steady-1", "steady-2")
OPERATOR = ("lq-operator-run", "lq-operator-scheduler", "lq-operator-importer")


@pytest.fixture(scope="module")
def boots(dc: Datacenter) -> Iterator[dict[str, str]]:
    """VM -> boot_id of its guest."""
    apart = {"antiAffinity": [{"selector": {"matchLabels": {"app": "steady"}}}]}
    manifests = [vm_manifest(name, placement=apart, shutdown={"gracePeriodSeconds": 0}) for name in NAMES]
    for manifest in manifests:
        manifest["metadata"]["labels"] = {"app": "steady"}
    dc.apply(*manifests)
    for name in NAMES:
        dc.wait_guest(name)
    yield {name: dc.boot_id(name) for name in NAMES}
    dc.delete("VirtualMachine", *NAMES)
    for name in NAMES:
        dc.wait_gone("VirtualMachine", name)


def _state(dc: Datacenter) -> dict[str, tuple[object, ...]]:
    return {name: (dc.qemu_pid(name), dc.metadata(name)["epoch"], dc.seen(name)) for name in NAMES}


def _assert_nobody_noticed(dc: Datacenter, boots: dict[str, str], before: dict[str, tuple[object, ...]]) -> None:
    for host in dc.lab.hosts:
        dc.wait_for("HypervisorNode", host.name, lambda o: condition(o, "Ready").get("status") == "True")
    for name in NAMES:
        dc.wait_for("VirtualMachine", name, lambda o: ready(o) and o["status"]["power"]["state"] == "Running")
        assert dc.boot_id(name) == boots[name]
    assert _state(dc) == before
    assert dc.diff(*NAMES) == ""
    # It works again, too: something that is asked now is done.
    assert dc.do(NAMES[0], "Pause")["phase"] == "Succeeded"
    assert list(dc.seen(NAMES[0]).values()) == ["paused"]
    assert dc.do(NAMES[0], "Resume")["phase"] == "Succeeded"


def test_hosts_are_two(dc: Datacenter, boots: dict[str, str]) -> None:
    assert len({dc.host_of(name).name for name in boots}) == 2


def test_operator_is_killed(dc: Datacenter, boots: dict[str, str]) -> None:
    before = _state(dc)
    for process in OPERATOR:
        dc.lab.supervisor.kill(process)
    _assert_nobody_noticed(dc, boots, before)


def test_libvirtd_is_killed_and_comes_back(dc: Datacenter, boots: dict[str, str]) -> None:
    before = _state(dc)
    host = dc.host_of(NAMES[0])
    host.daemon_kill()
    dc.wait_for("HypervisorNode", host.name, lambda o: condition(o, "Ready").get("status") != "True")
    vm = dc.wait_for("VirtualMachine", NAMES[0], lambda o: condition(o, "Ready").get("status") == "Unknown")
    assert vm["status"]["placement"]["phase"] == "Committed"
    host.daemon_start()
    _assert_nobody_noticed(dc, boots, before)


def test_api_server_is_away_for_half_a_minute(dc: Datacenter, boots: dict[str, str]) -> None:
    before = _state(dc)
    dc.lab.apiserver_stop()
    try:
        time.sleep(30)
    finally:
        dc.lab.apiserver_start()
    _assert_nobody_noticed(dc, boots, before)


def test_etcd_is_killed_and_comes_back(dc: Datacenter, boots: dict[str, str]) -> None:
    before = _state(dc)
    dc.lab.etcd_kill()
    time.sleep(3)
    dc.lab.etcd_start()
    _assert_nobody_noticed(dc, boots, before)
