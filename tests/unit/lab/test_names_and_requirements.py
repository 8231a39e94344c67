"""What needs no lab to be true: names, requirements, locks, partitions, snapshots' comparison."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lq_operator.lab import guest, requirements
from lq_operator.lab.errors import LabError
from lq_operator.lab.leftovers import Leftovers
from lq_operator.lab.locks import exclusive
from lq_operator.lab.names import LabNames, lab_parent


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a b", "a" * 23, "ä", "a.b"])
def test_names_that_could_not_be_part_of_other_names_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="lower-case"):
        LabNames.of(name)


def test_everything_is_derived_from_the_name_alone(tmp_path: Path) -> None:
    longest = "a" * 22
    names, again, other = LabNames.of(longest), LabNames.of(longest, tmp_path), LabNames.of("b")
    assert len(names.access_link) <= 15, "the kernel's limit"
    assert (names.netns, names.cgroup, names.access_link) == (again.netns, again.cgroup, again.access_link)
    assert {names.netns, names.cgroup, names.access_link}.isdisjoint({other.netns, other.cgroup, other.access_link})


def test_state_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LQ_LAB_DIR", str(tmp_path))
    assert LabNames.of("x").state_dir == tmp_path / "x"
    monkeypatch.delenv("LQ_LAB_DIR")
    assert lab_parent() == Path("/var/tmp/lq-lab")


def test_every_missing_package_is_in_one_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "virsh").touch(mode=0o755)
    monkeypatch.setattr(requirements, "_SEARCH", str(tmp_path))
    lacking = requirements.missing("tls")
    command = requirements.install_command(lacking)
    assert command.startswith("apt-get install --no-install-recommends ")
    packages = command.split()[3:]
    assert packages == sorted(set(packages))
    assert {"libvirt-daemon", "qemu-system-x86", "mtools", "iproute2"} <= set(packages)
    assert "libvirt-clients" not in packages, "virsh is there"
    assert "openssh-server" not in packages, "only for ssh"
    assert "openssh-server" in requirements.install_command(requirements.missing("ssh"))


def test_one_holder_of_a_lock_and_it_ends_with_its_process() -> None:
    what = f"unit-test {os.getpid()}"
    held, refused = exclusive(what, timeout_s=0), pytest.raises(LabError, match="another lab command holds")
    with held, refused, exclusive(what, timeout_s=0):
        pass
    code = (
        "import os,sys; from lq_operator.lab.locks import exclusive\n"
        f"with exclusive({what!r}, timeout_s=0): print('held', flush=True); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (killed.stdout, killed.returncode) == ("held\n", -9)
    with exclusive(what, timeout_s=0):
        pass


def test_partition_entry_is_what_fdisk_would_write() -> None:
    entry = guest._partition(2048, 40, 0x0E, active=True)
    status, _, kind, _, first, sectors = struct.unpack("<B3sB3sII", entry)
    assert (len(entry), status, kind, first, sectors) == (16, 0x80, 0x0E, 2048, 81920)


def _leftovers(**changed: frozenset[str]) -> Leftovers:
    empty: frozenset[str] = frozenset()
    kinds = ("processes", "namespaces", "mounts", "cgroups", "links", "nft", "loops", "files")
    return Leftovers(**{kind: changed.get(kind, empty) for kind in kinds})


def test_leftovers_name_what_was_added_and_ignore_what_went_away() -> None:
    before = _leftovers(mounts=frozenset({"/a", "/b"}))
    after = _leftovers(mounts=frozenset({"/b", "/c"}), links=frozenset({"veth9"}))
    assert after.added_since(before) == ["mounts: /c", "links: veth9"]
    assert before.added_since(before) == []
