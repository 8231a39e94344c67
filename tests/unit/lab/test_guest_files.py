"""The guest's two small readers, with the machine's awk and, where the guest was built, with the guest's own."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lq_operator.lab.guest import _DATA
from lq_operator.lab.names import cache_dir

_BUSYBOX = cache_dir() / "guest" / "packages" / "bb" / "bin" / "busybox"
_UNBUILT = pytest.mark.skipif(not _BUSYBOX.exists(), reason="the guest has not been built here yet")
_AWKS = [pytest.param(["awk"], id="awk"), pytest.param([str(_BUSYBOX), "awk"], id="busybox", marks=_UNBUILT)]


def read(awk: list[str], script: str, text: str) -> list[str]:
    assert shutil.which(awk[0])
    argv = [*awk, "-f", str(Path(_DATA, script))]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


NETPLAN = {
    "sorted block style, as yaml.safe_dump writes it": (
        """version: 2
ethernets:
  nic0:
    addresses:
    - 192.168.77.5/24
    match:
      macaddress: 52:54:00:00:00:01
    mtu: 1450
    nameservers:
      addresses:
      - 192.168.77.1
    gateway4: 192.168.77.1
""",
        [
            "dns 192.168.77.1",
            "addr 52:54:00:00:00:01 192.168.77.5/24",
            "gw 52:54:00:00:00:01 192.168.77.1",
            "mtu 52:54:00:00:00:01 1450",
        ],
    ),
    "below network, flow lists, upper-case address, three NICs": (
        """network:
  version: 2
  ethernets:
    nic0:
      match: {macaddress: "52:54:00:AA:00:01"}
      set-name: eth0
      addresses: ["10.0.0.5/24", 10.0.0.6/24]
      nameservers:
        search: [a.b]
        addresses: [1.1.1.1, 8.8.8.8]
      gateway4: 10.0.0.1
    nic1:
      dhcp4: true
      match:
        macaddress: "52:54:00:aa:00:02"
    eth2:
      addresses:
        - 10.2.0.5/24
      routes:
        - {to: default, via: 10.2.0.1}
""",
        [
            "dns 1.1.1.1",
            "dns 8.8.8.8",
            "addr 52:54:00:aa:00:01 10.0.0.5/24",
            "addr 52:54:00:aa:00:01 10.0.0.6/24",
            "gw 52:54:00:aa:00:01 10.0.0.1",
            "dhcp 52:54:00:aa:00:02",
            "addr eth2 10.2.0.5/24",
            "gw eth2 10.2.0.1",
        ],
    ),
    "routes in both orders, only the default one is taken": (
        """version: 2
ethernets:
  eth0:
    addresses: [10.0.0.5/24]
    routes:
    - to: 10.9.0.0/16
      via: 10.0.0.9
    - via: 10.0.0.1
      to: 0.0.0.0/0
""",
        ["addr eth0 10.0.0.5/24", "gw eth0 10.0.0.1"],
    ),
    "nothing of ours": ("version: 2\nbridges:\n  br0:\n    addresses: [1.2.3.4/8]\n", []),
}


@pytest.mark.parametrize("awk", _AWKS)
@pytest.mark.parametrize("case", NETPLAN)
def test_netplan(awk: list[str], case: str) -> None:
    text, expected = NETPLAN[case]
    assert read(awk, "guest-netplan.awk", text) == expected


USER_DATA = """#cloud-config
packages:
  - notacommand
runcmd:
  - echo plain > /run/a
  - [sh, -c, "echo a, b"]
  - ["echo", 'it''s', "say \\"x\\""]
  - 'echo ''q'''
  - |
    for i in 1 2; do
      echo $i
    done
  - echo after
final_message: done
other:
  - nothing
"""


@pytest.mark.parametrize("awk", _AWKS)
def test_runcmd(awk: list[str]) -> None:
    lines = read(awk, "guest-runcmd.awk", USER_DATA)
    assert lines == [
        "echo plain > /run/a",
        " 'sh' '-c' 'echo a, b'",
        " 'echo' 'it'\\''s' 'say \"x\"'",
        "echo 'q'",
        "for i in 1 2; do",
        "  echo $i",
        "done",
        "echo after",
    ]
