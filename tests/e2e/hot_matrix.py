"""Row of core/lifecycle/fields.py -> the test that sees it on real parts: file::function, below tests/.

A literal list, held against the table by tests/unit/core/lifecycle/test_observed.py: a row without a line fails there.
"""

_HOT = "e2e/test_hot_change.py::"
_SIZE = f"{_HOT}test_size_grows_in_the_running_guest"
_DISKS = f"{_HOT}test_disks_come_grow_and_go"
_NICS = f"{_HOT}test_interfaces_come_are_plugged_elsewhere_and_go"
_CYCLE = f"{_HOT}test_the_rest_waits_for_a_power_cycle_and_is_there_after_one"
_LAST = f"{_HOT}test_a_class_and_a_guest_without_agent_come_with_a_power_cycle"
_MOVE = f"{_HOT}test_what_only_a_move_or_nothing_brings_is_said"
_REFUSED = "e2e/test_api_limits.py::test_rule_refuses"
_CGROUPS = "contract/host/test_host_hotplug.py::test_cpu_time_is_weighed_and_limited_where_the_host_can"

OBSERVED: dict[str, str] = {
    "spec.clusterRef": _REFUSED,
    "spec.className": _LAST,
    "spec.cpu.count": _SIZE,
    "spec.cpu.maxCount": _CYCLE,
    "spec.cpu.sockets": _CYCLE,
    "spec.cpu.cores": _CYCLE,
    "spec.cpu.threads": _CYCLE,
    "spec.cpu.model": _CYCLE,
    "spec.cpu.shares": _CGROUPS,
    "spec.cpu.limitPercent": _CGROUPS,
    "spec.memory.size": _SIZE,
    "spec.memory.maxSize": _CYCLE,
    "spec.firmware": _REFUSED,
    "spec.tpm": _CYCLE,
    "spec.machine": _MOVE,
    "spec.disks[].name": _DISKS,
    "spec.disks[].volumeRef": _CYCLE,
    "spec.disks[].template.size": _DISKS,
    "spec.disks[].bus": _CYCLE,
    "spec.disks[].bootOrder": _CYCLE,
    "spec.disks[].cache": _CYCLE,
    "spec.disks[].readOnly": _CYCLE,
    "spec.disks[].limits": _DISKS,
    "spec.cdroms[].name": _CYCLE,
    "spec.cdroms[].medium": f"{_HOT}test_a_medium_comes_is_exchanged_and_goes",
    "spec.cdroms[].bus": _CYCLE,
    "spec.cdroms[].bootOrder": _CYCLE,
    "spec.interfaces[].name": _NICS,
    "spec.interfaces[].networkRef": _NICS,
    "spec.interfaces[].mac": _CYCLE,
    "spec.interfaces[].addressing": _CYCLE,
    "spec.interfaces[].address": _CYCLE,
    "spec.interfaces[].model": _CYCLE,
    "spec.interfaces[].bootOrder": _CYCLE,
    "spec.interfaces[].linkState": _NICS,
    "spec.cloudInit": _CYCLE,
    "spec.guestAgent": _LAST,
    "spec.vnc": _CYCLE,
    "spec.consoleLog": _CYCLE,
    "spec.watchdog": _CYCLE,
    "spec.placement.nodeSelector": _MOVE,
    "spec.placement.nodeAffinity": _MOVE,
}
