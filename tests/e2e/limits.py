"""Every documented limit of every spec, written down by hand: what the API promises, independent of the models.

`FIELDS` has the limits of single fields, `RULES` those between fields and over time. `test_api_limits.py` sends each
to a real API server, and fails when a model has a limit that is not here, or another one than is said here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Manifest = dict[str, Any]

# ---------------------------------------------------------------- limits of single fields


@dataclass(frozen=True)
class Int:
    """A whole number from `low` to `high`."""

    low: int
    high: int


@dataclass(frozen=True)
class Text:
    """`low` to `high` characters. `good` is accepted; each of `bad` is refused by the pattern (none: no pattern)."""

    low: int
    high: int
    good: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    fill: str | None = "a"
    """Repeated to reach the limits; None: the pattern alone decides the length."""


@dataclass(frozen=True)
class Words:
    """One of these."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Items:
    """A list of at most `high`; `make(i)` is its i-th item."""

    high: int
    make: Callable[[int], Any]


@dataclass(frozen=True)
class Keys:
    """A map of at most `high` keys."""

    high: int


@dataclass(frozen=True)
class Needs:
    """An object that must have these fields."""

    names: tuple[str, ...]


Limit = Int | Text | Words | Items | Keys | Needs

CONTROL = ("a\x00b", "a\x01b", "a\x08b", "a\x0bb", "a\x1b[31mb", "a\x7fb", "a\x9bb", "a\ufffeb", "a\uffffb")
"""What XML 1.0 cannot carry, and what a terminal would obey."""

NAME = Text(1, 253, ("a", "a-b.c", "0a"), ("A", "-a", "a-", "a_b", "a/b", "a b", "é", "a\n", "a\x00", "<a/>", "${a}"))
LABEL = Text(1, 63, ("a", "a-b", "0a"), ("A", "-a", "a-", "a_b", "a.b", "a/b", "a b", "é", "a\n", "a\x00", "<a/>"))
KEY = Text(
    1,
    317,
    ("a", "A_b.c", "example.com/rack"),
    ("-a", "a-", "a b", "/a", "a/", "a/b/c", "Example.com/a", "é", "a\n", "a\x00", "<a>"),
)
VALUE = Text(0, 63, ("", "a", "A_b.c-1"), ("-a", "a-", "a b", "a/b", "é", "a\n", "a\x00", "<a>"))
QUANTITY = Text(
    1,
    20,
    (),
    ("1 Gi", "-1Gi", "1gi", "1GiB", "Gi", "1e3", "1,5Gi", "0x10", "1Gi\n", "NaN", "١Gi", "1Gi\x00"),
    "1",
)
TEXT = Text(0, 1000, ("", 'Jörg\'s <VM> & "more"\n\tline 2, 日本, 🚀'), CONTROL, "é")
IPV4 = Text(
    0,
    15,
    ("10.0.0.5", "255.255.255.255", "0.0.0.0"),
    ("10.0.0", "10.0.0.256", "10.0.0.05", "010.0.0.5", "10.0.0.5/24", "::1", "a.b.c.d", "10.0.0.5 ", "10.0.0.5\n", ""),
    None,
)
CPU_MODEL = ("host-passthrough", "Skylake-Server", "EPYC_v1.2")
WORDLIKE = ("a b", "a/b", "<a>", "a'", 'a"', "a\n", "a\x00", "é", "$(a)")
PATH = Text(
    2,
    200,
    ("/a", "/srv/lq-volumes_1.d"),
    ("a/b", "srv", "/a b", "/a\n", "/a\x00", "/é", "/<a>", "/a'b", "/$a", "/a,b"),
    None,
)


def tuning(path: str) -> dict[str, Limit]:
    """MigrationTuning."""
    return {
        f"{path}.bandwidthMibPerSecond": Int(1, 1048576),
        f"{path}.maxDowntimeMilliseconds": Int(1, 60000),
        f"{path}.parallelConnections": Int(1, 64),
    }


def ref(path: str, name: Text = NAME) -> dict[str, Limit]:
    return {path: Needs(("name",)), f"{path}.name": name}


def shared_ref(path: str) -> dict[str, Limit]:
    return {**ref(path), f"{path}.namespace": LABEL}


def secret(path: str) -> dict[str, Limit]:
    key = Text(1, 253, ("a", "user-data", "A_b.c"), ("a/b", "a b", "é", "a\n", "a\x00", "<a>"))
    return {path: Needs(("name", "key")), f"{path}.name": NAME, f"{path}.key": key}


def selector(path: str) -> dict[str, Limit]:
    expressions = f"{path}.matchExpressions"
    return {
        f"{path}.matchLabels": Keys(16),
        f"{path}.matchLabels{{}}": VALUE,
        expressions: Items(8, lambda i: {"key": f"k{i}", "operator": "Exists"}),
        f"{expressions}[]": Needs(("key", "operator")),
        f"{expressions}[].key": KEY,
        f"{expressions}[].operator": Words(("In", "NotIn", "Exists", "DoesNotExist")),
        f"{expressions}[].values": Items(16, lambda i: f"v{i}"),
        f"{expressions}[].values[]": VALUE,
    }


def allowed(path: str) -> dict[str, Limit]:
    return {f"{path}.from": Words(("Same", "All", "Selector")), **selector(f"{path}.selector")}


def overcommit(path: str) -> dict[str, Limit]:
    return {f"{path}.cpuPercent": Int(100, 3200), f"{path}.memoryPercent": Int(50, 400)}


def affinity(path: str) -> dict[str, Limit]:
    return {
        path: Items(8, lambda i: {"selector": {}}),
        f"{path}[]": Needs(("selector",)),
        **selector(f"{path}[].selector"),
        f"{path}[].topologyKey": KEY,
        f"{path}[].weight": Int(1, 100),
    }


STRATEGY = Words(("Spread", "Pack", "Balanced"))
FORMAT = Words(("qcow2", "raw"))
RECLAIM = Words(("Delete", "Retain"))
ACCESS = Words(("Local", "Shared"))
MACHINE = Text(1, 64, ("q35", "pc-q35-8.2"), WORDLIKE)

FIELDS: dict[str, dict[str, Limit]] = {
    "HypervisorCluster": {
        **tuning("spec.migration.tuning"),
        "spec.migration.parallelPerHost": Int(1, 64),
        "spec.migration.parallelPerCluster": Int(1, 1024),
        **allowed("spec.allowedNamespaces"),
        "spec.scheduling.strategy": STRATEGY,
        "spec.scheduling.admission": Words(("Strict", "Warn", "Ignore")),
        "spec.scheduling.hostFailuresTolerated": Int(0, 10),
        **overcommit("spec.overcommit"),
        "spec.statePool.path": PATH,
        "spec.statePool.access": ACCESS,
        "spec.physicalNetworks": Items(64, lambda i: {"name": f"n{i}", "bridge": "br0"}),
        "spec.physicalNetworks[]": Needs(("name", "bridge")),
        "spec.physicalNetworks[].name": LABEL,
        "spec.physicalNetworks[].bridge": Text(1, 15, ("br0", "br-a.100"), ("-a", ".", "..", *WORDLIKE)),
        **allowed("spec.physicalNetworks[].allowedNamespaces"),
        "spec.cpuModel": Text(0, 64, ("", *CPU_MODEL), WORDLIKE),
        "spec.machine": MACHINE,
        "spec.startPolicy": Words(("Complete",)),
        "spec.splitBrainPolicy": Words(("Report", "KillStale")),
        "spec.recovery": Text(0, 63, ("", "2026-03-01 é"), CONTROL, "é"),
    },
    "HypervisorNode": {
        "spec": Needs(("clusterRef", "uri")),
        **ref("spec.clusterRef"),
        "spec.uri": Text(
            12,
            300,
            (
                "qemu+tls://10.0.0.11/system",
                "qemu+ssh://root@h1.example.com:22/system?mode=direct&socket=/run/libvirt/libvirt-sock",
                "qemu+tcp://[fd00::1]:16509/system",
                "test+tcp://127.0.0.1:16509/default",
            ),
            (
                "http://10.0.0.11/system",
                "qemu:///system-",
                "qemu+unix:///system",
                "qemu+tls://10.0.0.11/session",
                "qemu+ssh://h1/system?command=/bin/sh",
                "qemu+ssh://h1/system?mode=direct&netcat=/bin/sh",
                "qemu+ssh://h1/system?%63ommand=/bin/sh",
                "qemu+tls://h1/system?no_verify=1",
                "qemu+tls://h1/system#a",
                "qemu+tls://h1 /system",
                "qemu+tls://h1/system\n",
                "qemu+tls://h1/system\x00",
                "qemu+tls://é/system",
            ),
            None,
        ),
        **ref("spec.credentialsSecretRef"),
        "spec.migration.uri": Text(
            0,
            300,
            ("", "qemu+tls://10.0.0.11/system", "qemu+ssh://root@h1:22/system"),
            ("qemu+ssh://h1/system?command=/bin/sh", "qemu:///system", "qemu+tls://h1/system\n", "qemu+tls://é/system"),
            None,
        ),
        "spec.migration.address": Text(0, 253, ("", "10.9.0.11", "[fd00::1]"), ("a b", "a/b", "é", "a\n", "<a>")),
        "spec.migration.parameters": Text(
            0,
            300,
            ("", "pkipath=/etc/pki/lq", "pkipath=/a&tls_priority=NORMAL"),
            ("command=/bin/sh", "netcat=/bin/sh", "pkipath=/a&command=x", "pkipath", "pkipath=/a\n", "no_verify=1"),
            None,
        ),
        "spec.labels": Keys(32),
        "spec.labels{}": VALUE,
        "spec.taints": Items(32, lambda i: {"key": f"k{i}"}),
        "spec.taints[]": Needs(("key",)),
        "spec.taints[].key": KEY,
        "spec.taints[].value": VALUE,
        "spec.taints[].effect": Words(("NoSchedule", "PreferNoSchedule")),
        "spec.reserved.cpu": Int(0, 1024),
        "spec.reserved.memory": QUANTITY,
        **overcommit("spec.overcommit"),
        "spec.capacity.cpu": Int(1, 4096),
        "spec.capacity.memory": QUANTITY,
        "spec.unreachableAfterSeconds": Int(2, 300),
    },
    "HostAttestation": {
        "spec": Needs(("node", "hostUUID", "boot", "term", "statement", "seen", "attestedBy")),
        "spec.node": NAME,
        "spec.hostUUID": Text(
            0,
            36,
            ("4c4c4544-0042-3510-8053-b4c04f4e3132",),
            ("", "4C4C4544-0042-3510-8053-B4C04F4E3132", "4c4c454400423510", "{4c4c4544-0042-3510-8053-b4c04f4e31}"),
            None,
        ),
        "spec.boot": Text(1, 100, ("b-1",), CONTROL),
        "spec.term": Int(1, 1_000_000_000),
        "spec.statement": Words(("PoweredOff", "Destroyed")),
        "spec.seen": Text(
            10, 1000, ("Both power supplies are out.\n<ok> & é",), tuple(f"{c} padding" for c in CONTROL)
        ),
        "spec.attestedBy": Text(2, 253, ("Jörg <j@example.com>",), CONTROL),
    },
    "StoragePool": {
        "spec": Needs(("clusterRef", "dir")),
        **ref("spec.clusterRef"),
        "spec.dir": Needs(("path",)),
        "spec.dir.path": PATH,
        "spec.access": ACCESS,
        **selector("spec.nodeSelector"),
        **allowed("spec.allowedNamespaces"),
        "spec.defaultFormat": FORMAT,
        "spec.reserve": QUANTITY,
    },
    "Image": {
        "spec": Needs(("source",)),
        "spec.source": Needs(("url", "sha256")),
        "spec.source.url": Text(
            8,
            2000,
            ("https://images.example.com/a.qcow2?x=1&y=%20", "http://10.0.0.1:8080/a", "file:///srv/a.raw"),
            ("ftp://example.com/a", "https:/a/b/c", "https://a b/c", "https://a/\n", "https://a/\x00", "https://é/a"),
            None,
        ),
        "spec.source.sha256": Text(
            0, 64, ("0123456789abcdef" * 4,), ("", "AB" * 32, "a" * 63, "g" * 64, " " * 64), None
        ),
        "spec.source.format": FORMAT,
        **allowed("spec.allowedNamespaces"),
        "spec.maxSize": QUANTITY,
        "spec.os": Text(0, 100, ("", "Debian 12 <é>"), CONTROL, "é"),
        "spec.minMemory": QUANTITY,
    },
    "Volume": {
        "spec": Needs(("size",)),
        "spec.size": QUANTITY,
        "spec.poolRef": NAME,
        **shared_ref("spec.source.imageRef"),
        "spec.format": FORMAT,
        "spec.reclaimPolicy": RECLAIM,
    },
    "VirtualNetwork": {
        "spec": Needs(("type",)),
        **ref("spec.clusterRef"),
        "spec.type": Words(("nat", "isolated", "bridge")),
        "spec.physicalNetwork": LABEL,
        "spec.subnet": Text(
            0,
            18,
            ("10.0.0.0/24", "172.16.0.0/16", "10.0.0.4/30"),
            (
                "10.0.0.0",
                "10.0.0.0/15",
                "10.0.0.0/31",
                "10.0.0.0/024",
                "10.00.0.0/24",
                "fd00::/64",
                "a",
                "",
                "10.0.0.0/24\n",
            ),
            None,
        ),
        "spec.gateway": IPV4,
        "spec.dhcpRange": Needs(("start", "end")),
        "spec.dhcpRange.start": IPV4,
        "spec.dhcpRange.end": IPV4,
        "spec.dns": Items(4, lambda i: f"10.0.0.{i}"),
        "spec.dns[]": IPV4,
        "spec.mtu": Int(576, 9216),
        **allowed("spec.allowedNamespaces"),
    },
    "AddressClaim": {
        "spec": Needs(("networkRef", "address")),
        **ref("spec.networkRef"),
        "spec.address": IPV4,
        **shared_ref("spec.vm"),
        "spec.interface": Text(0, 63, ("", "eth0"), ("Eth0", "eth_0", "eth0.1", "-a", "a b", "a\x00", "<a>")),
        "spec.mac": Text(
            0, 17, ("", "52:54:00:aa:bb:01"), ("52:54:00:AA:BB:01", "525400aabb01", "52-54-00-aa-bb-01", "a"), None
        ),
    },
    "VirtualMachineClass": {
        "spec": Needs(("cpu", "memory")),
        "spec.cpu": Int(1, 256),
        "spec.memory": QUANTITY,
        "spec.description": TEXT,
        **allowed("spec.allowedNamespaces"),
    },
    "VirtualMachine": {
        **ref("spec.clusterRef"),
        "spec.className": NAME,
        "spec.cpu": Needs(("count",)),
        "spec.cpu.count": Int(1, 256),
        "spec.cpu.sockets": Int(1, 256),
        "spec.cpu.cores": Int(1, 256),
        "spec.cpu.threads": Int(1, 8),
        "spec.cpu.model": Text(1, 64, CPU_MODEL, WORDLIKE),
        "spec.cpu.shares": Int(2, 262144),
        "spec.cpu.limitPercent": Int(1, 100),
        "spec.cpu.maxCount": Int(1, 256),
        "spec.memory": Needs(("size",)),
        "spec.memory.size": QUANTITY,
        "spec.memory.maxSize": QUANTITY,
        "spec.firmware": Words(("bios", "uefi", "uefi-secure")),
        "spec.machine": MACHINE,
        "spec.disks": Items(32, lambda i: {"name": f"d{i}", "volumeRef": {"name": f"v{i}"}}),
        "spec.disks[]": Needs(("name",)),
        "spec.disks[].name": LABEL,
        **ref("spec.disks[].volumeRef"),
        "spec.disks[].template": Needs(("size",)),
        "spec.disks[].template.size": QUANTITY,
        "spec.disks[].template.poolRef": NAME,
        **shared_ref("spec.disks[].template.source.imageRef"),
        "spec.disks[].template.format": FORMAT,
        "spec.disks[].template.reclaimPolicy": RECLAIM,
        "spec.disks[].bus": Words(("virtio", "scsi", "sata")),
        "spec.disks[].bootOrder": Int(1, 64),
        "spec.disks[].cache": Words(("none", "writeback", "writethrough")),
        "spec.disks[].limits.iops": Int(10, 10_000_000),
        "spec.disks[].limits.bandwidth": QUANTITY,
        "spec.cdroms": Items(4, lambda i: {"name": f"d{i}"}),
        "spec.cdroms[]": Needs(("name",)),
        "spec.cdroms[].name": LABEL,
        **shared_ref("spec.cdroms[].medium.imageRef"),
        "spec.cdroms[].medium.poolRef": NAME,
        **ref("spec.cdroms[].medium.volumeRef"),
        "spec.cdroms[].bus": Words(("sata", "scsi")),
        "spec.cdroms[].bootOrder": Int(1, 64),
        "spec.interfaces": Items(16, lambda i: {"name": f"e{i}", "networkRef": {"name": "n"}}),
        "spec.interfaces[]": Needs(("name", "networkRef")),
        "spec.interfaces[].name": LABEL,
        **shared_ref("spec.interfaces[].networkRef"),
        "spec.interfaces[].mac": Text(
            0,
            17,
            ("52:54:00:aa:bb:01",),
            (
                "",
                "53:54:00:aa:bb:01",
                "52:54:00:AA:BB:01",
                "52-54-00-aa-bb-01",
                "525400aabb01",
                "52:54:00:aa:bb",
                "ff:ff:ff:ff:ff:ff",
            ),
            None,
        ),
        "spec.interfaces[].addressing": Words(("Dhcp", "Claim", "None")),
        "spec.interfaces[].address": IPV4,
        "spec.interfaces[].model": Words(("virtio", "e1000e")),
        "spec.interfaces[].linkState": Words(("Up", "Down")),
        "spec.interfaces[].bootOrder": Int(1, 64),
        "spec.cloudInit.userData": Text(0, 32768, ("", "#cloud-config\nx: é\t<&>")),
        **secret("spec.cloudInit.userDataSecretRef"),
        **secret("spec.cloudInit.metaDataSecretRef"),
        "spec.cloudInit.networkData": Text(0, 32768, ("", "version: 2")),
        **secret("spec.cloudInit.networkDataSecretRef"),
        "spec.cloudInit.sshAuthorizedKeys": Items(64, lambda i: f"ssh-ed25519 AAAA{i:08}"),
        "spec.cloudInit.sshAuthorizedKeys[]": Text(
            16,
            4096,
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 jörg@example.com",),
            (
                "ssh-ed25519 AAAA\nssh-ed25519 BBBB",
                "ssh-ed25519 AAAA\rBBBB",
                *(f"ssh-ed25519 AAAA {c}" for c in CONTROL),
            ),
        ),
        **secret("spec.cloudInit.sshAuthorizedKeysSecretRef"),
        "spec.cloudInit.hostname": Text(
            1, 63, ("web", "Web-1"), ("-a", "a-", "a.b", "a_b", "a b", "é", "a\n", "a\x00")
        ),
        "spec.watchdog": Words(("reset", "poweroff", "pause")),
        "spec.heartbeat.action": Words(("None", "Reset", "Restart")),
        "spec.heartbeat.afterSeconds": Int(10, 3600),
        "spec.heartbeat.tries": Int(1, 10),
        "spec.powerState": Words(("Running", "Stopped", "Paused", "Suspended")),
        "spec.restartPolicy": Words(("Always", "OnFailure", "Never")),
        "spec.shutdown.gracePeriodSeconds": Int(0, 3600),
        "spec.placement.nodeSelector": Keys(32),
        "spec.placement.nodeSelector{}": VALUE,
        **selector("spec.placement.nodeAffinity"),
        "spec.placement.tolerations": Items(32, lambda i: {"key": f"k{i}", "operator": "Exists"}),
        "spec.placement.tolerations[].key": Text(0, 317, ("a", "example.com/rack"), KEY.bad),
        "spec.placement.tolerations[].operator": Words(("Equal", "Exists")),
        "spec.placement.tolerations[].value": VALUE,
        "spec.placement.tolerations[].effect": Words(("NoSchedule", "PreferNoSchedule", "")),
        **affinity("spec.placement.affinity"),
        **affinity("spec.placement.antiAffinity"),
        "spec.placement.spread": Items(4, lambda i: {"selector": {}}),
        "spec.placement.spread[]": Needs(("selector",)),
        **selector("spec.placement.spread[].selector"),
        "spec.placement.spread[].topologyKey": KEY,
        "spec.placement.spread[].maxSkew": Int(1, 1000),
        "spec.placement.strategy": STRATEGY,
        "spec.availability.priority": Int(0, 100),
        **tuning("spec.migration"),
        "spec.description": TEXT,
    },
    "VirtualMachineOperation": {
        "spec": Needs(("vmRef", "verb")),
        **ref("spec.vmRef"),
        "spec.verb": Words(
            (
                "Start",
                "Stop",
                "Restart",
                "Reset",
                "Pause",
                "Resume",
                "Suspend",
                "SetPassword",
                "AddSshKeys",
                "RemoveSshKeys",
            )
        ),
        "spec.user": Text(
            1, 64, ("root", "a-b.c", "_x", "pc$", "0a"), ("-a", "a b", "a:b", "a/b", "é", "a\n", "a\x00", "$a")
        ),
        **secret("spec.secretRef"),
        "spec.ttlSecondsAfterFinished": Int(0, 2592000),
        "spec.deadlineSeconds": Int(1, 86400),
    },
    "VirtualMachineMigration": {
        "spec": Needs(("vmRef",)),
        **ref("spec.vmRef"),
        "spec.targetNode": NAME,
        **tuning("spec.tuning"),
        "spec.deadlineSeconds": Int(10, 604800),
        "spec.ttlSecondsAfterFinished": Int(0, 2592000),
        "spec.reason": Text(0, 200, ("", "h1 gets <new> memory & é"), CONTROL, "é"),
    },
}

FREE_OF_XML = {
    ("VirtualMachine", "spec.cloudInit.userData"): "goes into the seed's file system, never into XML",
    ("VirtualMachine", "spec.cloudInit.networkData"): "goes into the seed's file system, never into XML",
}
"""Text without a pattern, and why control characters do no harm there."""

# ---------------------------------------------------------------- valid manifests to start from

_UUID = "4c4c4544-0042-3510-8053-b4c04f4e3132"
SPECS: dict[str, Manifest] = {
    "HypervisorCluster": {},
    "HypervisorNode": {"clusterRef": {"name": "c"}, "uri": "qemu+tls://10.0.0.11/system"},
    "HostAttestation": {
        "node": "h1",
        "hostUUID": _UUID,
        "boot": "b-1",
        "term": 7,
        "statement": "PoweredOff",
        "seen": "No power at all.",
        "attestedBy": "maria",
    },
    "StoragePool": {"clusterRef": {"name": "c"}, "dir": {"path": "/srv/p"}},
    "Image": {"source": {"url": "https://example.com/a.qcow2", "sha256": "ab" * 32}},
    "Volume": {"size": "10Gi"},
    "VirtualNetwork": {"type": "isolated"},
    "AddressClaim": {"networkRef": {"name": "net"}, "address": "10.0.0.5"},
    "VirtualMachineClass": {"cpu": 1, "memory": "1Gi"},
    "VirtualMachine": {"cpu": {"count": 1}, "memory": {"size": "512Mi"}},
    "VirtualMachineOperation": {"vmRef": {"name": "v"}, "verb": "Start"},
    "VirtualMachineMigration": {"vmRef": {"name": "v"}},
}

SEEDS: dict[str, Any] = {
    "physicalNetworks[]": {"name": "n", "bridge": "br0"},
    "taints[]": {"key": "k"},
    "matchExpressions[]": {"key": "k", "operator": "In", "values": ["v"]},
    "disks[]": {"name": "d"},
    "cdroms[]": {"name": "c"},
    "template": {"size": "10Gi"},
    "interfaces[]": {"name": "e", "networkRef": {"name": "n"}},
    "affinity[]": {"selector": {}},
    "antiAffinity[]": {"selector": {}},
    "spread[]": {"selector": {}},
    "tolerations[]": {"key": "k"},
    "dhcpRange": {"start": "10.0.0.10", "end": "10.0.0.20"},
    "source": {},
    "imageRef": {"name": "i"},
    "vm": {"name": "v"},
    "networkRef": {"name": "n"},
    "volumeRef": {"name": "v"},
    **{
        f"{name}SecretRef": {"name": "s", "key": "k"}
        for name in ("userData", "metaData", "networkData", "sshAuthorizedKeys")
    },
    "credentialsSecretRef": {"name": "s"},
    "clusterRef": {"name": "c"},
}
"""What an object made on the way to a field needs besides that field."""


def base(kind: str) -> Manifest:
    """A valid manifest of the kind."""
    name = "net-10-0-0-5" if kind == "AddressClaim" else "thing"
    return {
        "apiVersion": "limiquantix.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": copy.deepcopy(SPECS[kind]),
    }


def put(manifest: Manifest, path: str, value: Any) -> str:
    """Set the field (making what lies on the way) and return its path as the API server writes it."""
    here: Any = manifest
    concrete = ""
    names = path.split(".")
    for index, name in enumerate(names):
        last = index == len(names) - 1
        plain = name.removesuffix("[]").removesuffix("{}")
        concrete = f"{concrete}.{plain}" if concrete else plain
        if name.endswith("[]"):
            items = here.setdefault(plain, []) or here[plain]
            if last:
                items[:] = [value]
            elif not items:
                items.append(copy.deepcopy(SEEDS.get(name, {})))
            here, concrete = items[0], f"{concrete}[0]"
        elif name.endswith("{}"):
            here[plain], concrete = {"k": value}, f"{concrete}.k"
        elif last:
            here[plain] = value
        else:
            here = here.setdefault(plain, copy.deepcopy(SEEDS.get(name, {})))
    return concrete


# ---------------------------------------------------------------- limits between fields and over time


@dataclass(frozen=True)
class Rule:
    """`change` (path -> value; `...` removes) makes a valid manifest break the rule with that message.

    `before` is applied first; with `stored` the manifest before the change is created for real and the change is an
    update. `allowed` are changes that look alike and are accepted.
    """

    kind: str
    message: str
    change: dict[str, Any]
    before: dict[str, Any] = field(default_factory=dict)
    stored: bool = False
    allowed: tuple[dict[str, Any], ...] = ()


def edit(manifest: Manifest, changes: dict[str, Any]) -> Manifest:
    """A copy with the changes; keys are paths without list marks, or metadata.name."""
    result = copy.deepcopy(manifest)
    for path, value in changes.items():
        *parents, last = path.split(".")
        here = result
        for name in parents:
            here = here.setdefault(name, {})
        if value is ...:
            here.pop(last, None)
        else:
            here[last] = copy.deepcopy(value)
    return result


SELECTOR_RULES = (
    "every key must be a label key of at most 317 characters, for example example.com/rack",
    "values are required for In and NotIn, and not allowed for Exists and DoesNotExist",
)
"""Rules of selectors: sent for every selector that FIELDS names."""

ALLOWED_RULES = ("selector is required when from is Selector", "selector is for from: Selector only")
"""Rules of allowedNamespaces: sent for every one that FIELDS names."""

_TOO_LONG_64 = {"metadata.name": "a" * 64}
_DISK = {"name": "a", "volumeRef": {"name": "v"}}
_DRIVE = {"name": "c", "medium": {"volumeRef": {"name": "v"}}}
_NIC = {"name": "e", "networkRef": {"name": "n"}}
_NAT = {"spec.type": "nat", "spec.subnet": "10.0.0.0/24"}
_CLASS = {"spec.className": "small", "spec.cpu": ..., "spec.memory": ...}


def _name_limit(kind: str, length: int) -> Rule:
    return Rule(
        kind,
        f"metadata.name may have at most {length} characters",
        {"metadata.name": "a" * (length + 1)},
        allowed=({"metadata.name": "a" * length},),
    )


def _size(
    kind: str, path: str, message: str, low: str, high: str, too_low: tuple[str, ...], too_high: tuple[str, ...]
) -> list[Rule]:
    """A quantity's range: both ends are accepted, one step beyond is not."""
    changes = [({path: value}) for value in (*too_low, *too_high)]
    fine = ({path: low}, {path: high})
    return [Rule(kind, message, change, allowed=fine) for change in changes]


VM_SIZE = (
    ("255Mi", "268435455", "0", "268435455999m"),
    ("1025Gi", "1099511627777", "2Ti", "99999999999999999999", "1Pi"),
)
DISK_SIZE = ("1023Mi", "1073741823", "0", "1G"), ("65Ti", "70368744177665", "1Pi", "99999999999999999999")

RULES: list[Rule] = [
    *(_name_limit(kind, 63) for kind in ("HypervisorNode", "StoragePool", "Image", "VirtualNetwork")),
    _name_limit("Volume", 127),
    *(
        Rule("VirtualMachine", "metadata.name must be a DNS label of at most 63 characters", {"metadata.name": name}, allowed=({"metadata.name": "a" * 63},))
        for name in ("a" * 64, "a.b")
    ),
    *(
        Rule("AddressClaim", "metadata.name must be NETWORK-A-B-C-D", change)
        for change in ({"metadata.name": "net-10-0-0-6"}, {"metadata.name": "other"}, {"spec.address": "10.0.0.6"})
    ),
    # clusters, nodes, pools
    Rule("HypervisorCluster", "statePool.path must not contain '..'", {"spec.statePool": {"path": "/srv/../etc"}}),
    Rule(
        "HypervisorNode",
        "spec.clusterRef is immutable; decommission the node and register it again",
        {"spec.clusterRef": {"name": "other"}},
        stored=True,
        allowed=({"spec.uri": "qemu+tls://10.0.0.12/system"}, {"spec.unschedulable": True}),
    ),
    *_size("HypervisorNode", "spec.reserved", "reserved.memory must be at most 64Ti", {"memory": "0"}, {"memory": "64Ti"}, (), ({"memory": "65Ti"},)),  # type: ignore[arg-type]
    *_size(
        "HypervisorNode", "spec.capacity", "capacity.memory must be from 256Mi to 64Ti",
        {"memory": "256Mi"}, {"memory": "64Ti"}, ({"memory": "255Mi"},), ({"memory": "65Ti"},),  # type: ignore[arg-type]
    ),
    Rule("HostAttestation", "a HostAttestation is immutable; write a new one", {"spec.seen": "I changed my mind."}, stored=True, allowed=({"metadata.labels": {"a": "b"}},)),
    Rule("StoragePool", "dir.path must not contain '..'", {"spec.dir": {"path": "/srv/../etc"}}),
    Rule("StoragePool", "spec.clusterRef is immutable", {"spec.clusterRef": {"name": "other"}}, stored=True),
    Rule("StoragePool", "spec.dir is immutable; volumes live there", {"spec.dir": {"path": "/srv/other"}}, stored=True),
    Rule("StoragePool", "spec.access is immutable", {"spec.access": "Shared"}, stored=True, allowed=({"spec.reserve": "1Gi"}, {"spec.access": "Local"})),
    # images, volumes
    *(
        Rule("Image", "spec.source is immutable; volumes were made of it. Write a new Image", {"spec.source": source}, stored=True)
        for source in (
            {"url": "https://example.com/b.qcow2", "sha256": "ab" * 32},
            {"url": "https://example.com/a.qcow2", "sha256": "cd" * 32},
            {"url": "https://example.com/a.qcow2", "sha256": "ab" * 32, "format": "raw"},
        )
    ),
    *_size("Image", "spec.maxSize", "spec.maxSize must be from 1Mi to 64Ti", "1Mi", "64Ti", ("0", "1023Ki"), ("65Ti",)),
    *_size("Image", "spec.minMemory", "spec.minMemory must be at most 1Ti", "0", "1Ti", (), ("1025Gi",)),
    *_size("Volume", "spec.size", "spec.size must be from 1Gi to 64Ti", "1Gi", "64Ti", *DISK_SIZE),
    *(
        Rule("Volume", "spec.size may only grow", {"spec.size": size}, stored=True, allowed=({"spec.size": "11Gi"}, {"spec.size": "10240Mi"}))
        for size in ("9Gi", "10G", "10239Mi")
    ),
    Rule("Volume", "spec.poolRef is immutable", {"spec.poolRef": "other"}, {"spec.poolRef": "p"}, stored=True),
    Rule("Volume", "spec.poolRef is immutable", {"spec.poolRef": ...}, {"spec.poolRef": "p"}, stored=True),
    Rule("Volume", "spec.poolRef is immutable", {"spec.poolRef": "p"}, stored=True),
    Rule("Volume", "spec.source is immutable", {"spec.source": {"imageRef": {"name": "i"}}}, stored=True, allowed=({"spec.source": {}},)),
    Rule("Volume", "spec.source is immutable", {"spec.source": ...}, {"spec.source": {"imageRef": {"name": "i"}}}, stored=True),
    Rule("Volume", "spec.format is immutable", {"spec.format": "raw"}, {"spec.format": "qcow2"}, stored=True),
    Rule("Volume", "spec.format is immutable", {"spec.format": "raw"}, stored=True),
    # networks
    Rule("VirtualNetwork", "spec.physicalNetwork is required when type is bridge", {"spec.type": "bridge"}, allowed=({"spec.type": "bridge", "spec.physicalNetwork": "p"},)),
    Rule("VirtualNetwork", "spec.physicalNetwork is for type bridge only", {"spec.physicalNetwork": "p"}),
    Rule("VirtualNetwork", "spec.subnet is required when type is nat", {"spec.type": "nat"}, allowed=(_NAT,)),
    Rule("VirtualNetwork", "spec.subnet is required with dhcpRange", {"spec.dhcpRange": {"start": "10.0.0.2", "end": "10.0.0.3"}}),
    Rule(
        "VirtualNetwork",
        "spec.dhcpRange is not for type bridge",
        {"spec.type": "bridge", "spec.physicalNetwork": "p", "spec.subnet": "10.0.0.0/24", "spec.dhcpRange": {"start": "10.0.0.2", "end": "10.0.0.3"}},
    ),
    Rule("VirtualNetwork", "spec.type is immutable", _NAT, {"spec.subnet": "10.0.0.0/24"}, stored=True),
    Rule("VirtualNetwork", "spec.physicalNetwork is immutable", {"spec.physicalNetwork": "q"}, {"spec.type": "bridge", "spec.physicalNetwork": "p"}, stored=True),
    Rule("VirtualNetwork", "spec.subnet is immutable", {"spec.subnet": "10.0.1.0/24"}, {"spec.subnet": "10.0.0.0/24"}, stored=True),
    Rule("VirtualNetwork", "spec.subnet is immutable", {"spec.subnet": "10.0.1.0/24"}, stored=True, allowed=({"spec.mtu": 1400},)),
    Rule("VirtualNetwork", "spec.subnet is immutable", {"spec.subnet": ...}, {"spec.subnet": "10.0.0.0/24"}, stored=True),
    Rule("VirtualNetwork", "spec.clusterRef is immutable", {"spec.clusterRef": {"name": "other"}}, {"spec.clusterRef": {"name": "c"}}, stored=True),
    Rule("VirtualNetwork", "spec.subnet must be the network's own address", {"spec.subnet": "10.0.0.5/24"}, allowed=({"spec.subnet": "10.0.0.4/30"},)),
    Rule("VirtualNetwork", "spec.gateway must lie in spec.subnet", {"spec.gateway": "10.0.1.1"}, _NAT, allowed=({"spec.gateway": "10.0.0.254"},)),
    *(
        Rule("VirtualNetwork", "spec.dhcpRange must lie in spec.subnet", {"spec.dhcpRange": {"start": start, "end": end}}, _NAT)
        for start, end in (("9.255.255.255", "10.0.0.9"), ("10.0.0.2", "10.0.1.1"))
    ),
    *(
        Rule(
            "VirtualNetwork", "dhcpRange.start must not come after dhcpRange.end", {"spec.dhcpRange": {"start": start, "end": end}},
            {"spec.subnet": "10.0.0.0/16"}, allowed=({"spec.dhcpRange": {"start": "10.0.0.200", "end": "10.0.1.2"}}, {"spec.dhcpRange": {"start": "10.0.0.9", "end": "10.0.0.9"}}),
        )
        for start, end in (("10.0.0.10", "10.0.0.9"), ("10.0.1.2", "10.0.0.200"))
    ),
    Rule("AddressClaim", "networkRef and address are immutable", {"spec.address": "10.0.0.6"}, stored=True, allowed=({"spec.retain": True}, {"spec.vm": {"name": "v"}})),
    # VMs
    *_size("VirtualMachineClass", "spec.memory", "spec.memory must be from 256Mi to 1Ti", "256Mi", "1Ti", *VM_SIZE),
    *(
        Rule("VirtualMachine", "either spec.className, or both spec.cpu and spec.memory", change, allowed=(_CLASS,))
        for change in ({"spec.className": "small"}, {"spec.cpu": ...}, {"spec.memory": ...}, {"spec": {}}, {"spec.className": "small", "spec.cpu": ...})
    ),
    Rule("VirtualMachine", "spec.clusterRef is immutable", {"spec.clusterRef": {"name": "other"}}, {"spec.clusterRef": {"name": "c"}}, stored=True),
    Rule("VirtualMachine", "spec.clusterRef is immutable", {"spec.clusterRef": {"name": "other"}}, stored=True),
    Rule("VirtualMachine", "spec.clusterRef is immutable", {"spec.clusterRef": ...}, {"spec.clusterRef": {"name": "c"}}, stored=True),
    Rule("VirtualMachine", "spec.firmware is immutable", {"spec.firmware": "uefi"}, stored=True, allowed=({"spec.firmware": "bios"}, {"spec.tpm": True})),
    Rule("VirtualMachine", "spec.heartbeat listens to the guest agent: spec.guestAgent must be true", {"spec.heartbeat": {}, "spec.guestAgent": False}, allowed=({"spec.heartbeat": {}}, {"spec.guestAgent": False})),
    Rule("VirtualMachine", "spec.heartbeat.action Restart starts by spec.restartPolicy: it must not be Never", {"spec.heartbeat": {"action": "Restart"}, "spec.restartPolicy": "Never"}, allowed=({"spec.heartbeat": {"action": "Restart"}, "spec.restartPolicy": "OnFailure"}, {"spec.heartbeat": {"action": "Reset"}, "spec.restartPolicy": "Never"})),
    *_size("VirtualMachine", "spec.memory", "memory.size must be from 256Mi to 1Ti", {"size": "256Mi"}, {"size": "1Ti"}, *((tuple({"size": size} for size in sizes)) for sizes in VM_SIZE)),  # type: ignore[arg-type]
    *_size(
        "VirtualMachine", "spec.disks", "disks[].template.size must be from 1Gi to 64Ti",
        [{"name": "a", "template": {"size": "1Gi"}}], [{"name": "a", "template": {"size": "64Ti"}}],  # type: ignore[arg-type]
        *((tuple([{"name": "a", "template": {"size": size}}] for size in sizes)) for sizes in DISK_SIZE),  # type: ignore[arg-type]
    ),
    *(
        Rule("VirtualMachine", "cpu.sockets, cpu.cores and cpu.threads go together: set all or none", {"spec.cpu": {"count": 4, **topology}})
        for topology in ({"sockets": 4}, {"cores": 4}, {"sockets": 2, "cores": 2}, {"threads": 4})
    ),
    Rule(
        "VirtualMachine",
        "cpu.sockets x cpu.cores x cpu.threads must equal cpu.count",
        {"spec.cpu": {"count": 4, "sockets": 2, "cores": 2, "threads": 2}},
        allowed=({"spec.cpu": {"count": 8, "sockets": 2, "cores": 2, "threads": 2}},),
    ),
    Rule("VirtualMachine", "cpu.maxCount must be at least cpu.count", {"spec.cpu": {"count": 4, "maxCount": 3}}, allowed=({"spec.cpu": {"count": 4, "maxCount": 4}},)),
    Rule(
        "VirtualMachine",
        "cpu.maxCount must be a multiple of cpu.cores x cpu.threads: whole sockets are added",
        {"spec.cpu": {"count": 4, "sockets": 2, "cores": 2, "threads": 1, "maxCount": 5}},
        allowed=({"spec.cpu": {"count": 4, "sockets": 2, "cores": 2, "threads": 1, "maxCount": 6}}, {"spec.cpu": {"count": 4, "maxCount": 5}}),
    ),
    *(
        Rule("VirtualMachine", "memory.maxSize must be from memory.size to 1Ti", {"spec.memory": {"size": "1Gi", "maxSize": limit}}, allowed=({"spec.memory": {"size": "1Gi", "maxSize": "1Gi"}}, {"spec.memory": {"size": "1Gi", "maxSize": "1Ti"}}))
        for limit in ("1023Mi", "1025Gi")
    ),
    *(
        Rule("VirtualMachine", "disks[].limits.bandwidth must be from 64Ki to 1Ti", {"spec.disks": [{**_DISK, "limits": {"bandwidth": limit}}]}, allowed=({"spec.disks": [{**_DISK, "limits": {"bandwidth": "64Ki"}}]}, {"spec.disks": [{**_DISK, "limits": {"bandwidth": "1Ti"}}]}))
        for limit in ("63Ki", "1025Gi")
    ),
    *(
        Rule("VirtualMachine", "each disk has either volumeRef or template", {"spec.disks": [disk]}, allowed=({"spec.disks": []},))
        for disk in ({"name": "a"}, {**_DISK, "template": {"size": "10Gi"}})
    ),
    Rule(
        "VirtualMachine",
        "interfaces[].address is for addressing Claim only",
        {"spec.interfaces": [{**_NIC, "address": "10.0.0.5"}]},
        allowed=({"spec.interfaces": [{**_NIC, "address": "10.0.0.5", "addressing": "Claim"}]}, {"spec.interfaces": []}),
    ),
    *(
        Rule("VirtualMachine", f"cloudInit.{name} and cloudInit.{name}SecretRef exclude each other", {"spec.cloudInit": {name: "a", f"{name}SecretRef": {"name": "s", "key": "k"}}})
        for name in ("userData", "networkData")
    ),
    Rule("VirtualMachine", "disks[].bootOrder: each number may be used once", {"spec.disks": [{"name": n, "volumeRef": {"name": n}, "bootOrder": 1} for n in "ab"]}),
    Rule("VirtualMachine", "interfaces[].bootOrder: each number may be used once", {"spec.interfaces": [{**_NIC, "name": n, "bootOrder": 1} for n in "ab"]}),
    Rule(
        "VirtualMachine",
        "bootOrder: disks and interfaces count together, each number may be used once",
        {"spec.disks": [{**_DISK, "bootOrder": 2}], "spec.interfaces": [{**_NIC, "bootOrder": 2}]},
        allowed=({"spec.disks": [{**_DISK, "bootOrder": 2}], "spec.interfaces": [{**_NIC, "bootOrder": 1}]},),
    ),
    *(
        Rule("VirtualMachine", "a medium is either imageRef or volumeRef", {"spec.cdroms": [{"name": "c", "medium": medium}]}, allowed=({"spec.cdroms": [_DRIVE]}, {"spec.cdroms": [{"name": "c"}]}))
        for medium in ({}, {"imageRef": {"name": "i"}, "volumeRef": {"name": "v"}})
    ),
    Rule(
        "VirtualMachine",
        "medium.poolRef is for imageRef only: a Volume has its pool already",
        {"spec.cdroms": [{"name": "c", "medium": {"volumeRef": {"name": "v"}, "poolRef": "p"}}]},
        allowed=({"spec.cdroms": [{"name": "c", "medium": {"imageRef": {"name": "i"}, "poolRef": "p"}}]},),
    ),
    Rule("VirtualMachine", "cdroms[].bootOrder: each number may be used once", {"spec.cdroms": [{"name": n, "bootOrder": 1} for n in "ab"]}),
    *(
        Rule(
            "VirtualMachine",
            "bootOrder: CD-ROM drives count together with disks and interfaces, each number may be used once",
            {"spec.cdroms": [{"name": "c", "bootOrder": 2}], **other},
            allowed=({"spec.cdroms": [{"name": "c", "bootOrder": 1}], **other},),
        )
        for other in ({"spec.disks": [{**_DISK, "bootOrder": 2}]}, {"spec.interfaces": [{**_NIC, "bootOrder": 2}]})
    ),
    *(
        Rule(
            "VirtualMachine",
            "cdroms[].medium.volumeRef: each volume may be used once, as a medium or as a disk",
            change,
            allowed=({"spec.disks": [_DISK], "spec.cdroms": [{"name": "c", "medium": {"volumeRef": {"name": "w"}}}]},),
        )
        for change in ({"spec.cdroms": [_DRIVE], "spec.disks": [_DISK]}, {"spec.cdroms": [_DRIVE, {**_DRIVE, "name": "b"}]})
    ),
    Rule("VirtualMachine", "interfaces[].mac: each address may be used once", {"spec.interfaces": [{**_NIC, "name": n, "mac": "52:54:00:aa:bb:01"} for n in "ab"]}),
    Rule("VirtualMachine", "disks[].volumeRef: each volume may be used once", {"spec.disks": [_DISK, {**_DISK, "name": "b"}]}),
    Rule("VirtualMachine", "tolerations[].key is required with operator Equal", {"spec.placement": {"tolerations": [{"value": "v"}]}}, allowed=({"spec.placement": {"tolerations": [{"operator": "Exists"}]}},)),
    Rule("VirtualMachine", "tolerations[].value is for operator Equal only", {"spec.placement": {"tolerations": [{"key": "k", "operator": "Exists", "value": "v"}]}}),
    *(
        Rule("VirtualMachineOperation", "a VirtualMachineOperation is immutable; write a new one", change, stored=True)
        for change in ({"spec.verb": "Stop"}, {"spec.force": True}, {"spec.vmRef": {"name": "w"}}, {"spec.ttlSecondsAfterFinished": 1})
    ),
    *(
        Rule("VirtualMachineOperation", "SetPassword, AddSshKeys and RemoveSshKeys need spec.user and spec.secretRef, other verbs take neither", change, allowed=tuple({"spec.verb": verb, "spec.user": "root", "spec.secretRef": {"name": "s", "key": "k"}} for verb in ("SetPassword", "AddSshKeys", "RemoveSshKeys")))
        for change in ({"spec.verb": "SetPassword"}, {"spec.verb": "AddSshKeys", "spec.user": "root"}, {"spec.verb": "RemoveSshKeys", "spec.secretRef": {"name": "s", "key": "k"}}, {"spec.user": "root"}, {"spec.verb": "Stop", "spec.user": "root", "spec.secretRef": {"name": "s", "key": "k"}})
    ),
    *(
        Rule("VirtualMachineMigration", "spec.vmRef and spec.targetNode are immutable; cancel this move and write a new one", change, stored=True)
        for change in ({"spec.targetNode": "h2"}, {"spec.vmRef": {"name": "w"}})
    ),
    Rule("VirtualMachineMigration", "spec.cancel cannot be taken back; write a new VirtualMachineMigration", {"spec.cancel": False}, before={"spec.cancel": True}, stored=True),
]  # fmt: skip

DUPLICATES: list[tuple[str, str, list[Any]]] = [
    ("VirtualMachine", "spec.disks", [_DISK, {**_DISK, "volumeRef": {"name": "w"}}]),
    ("VirtualMachine", "spec.cdroms", [_DRIVE, {"name": "c"}]),
    ("VirtualMachine", "spec.interfaces", [_NIC, _NIC]),
    ("HypervisorCluster", "spec.physicalNetworks", [{"name": "n", "bridge": "a"}, {"name": "n", "bridge": "b"}]),
    ("HypervisorNode", "spec.taints", [{"key": "k", "value": "a"}, {"key": "k", "value": "b", "effect": "NoSchedule"}]),
]
"""Lists whose items have names: the same name twice is refused."""
