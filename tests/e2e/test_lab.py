"""The lab itself, with its real parts: what comes up, what breaks on request, what is left afterwards (nothing)."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.labfixtures import lab_name, require_lab

from lq_operator.lab import leftovers
from lq_operator.lab.cgroups import Cgroup
from lq_operator.lab.datacenter import Lab, LabHost, take_down
from lq_operator.lab.errors import CommandFailedError, LabError
from lq_operator.lab.names import LabNames
from lq_operator.lab.supervisor import ProcessSpec

pytestmark = pytest.mark.lab
CLI = [sys.executable, "-m", "lq_operator.lab"]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)


def cli(*arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)


def reaches(lab: Lab, host: LabHost) -> bool:
    probe = ["timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{host.ip}/16514"]
    return lab.exec(probe).returncode == 0


@pytest.fixture
def scratch_name() -> Iterator[str]:
    require_lab()
    name = lab_name("-s")
    yield name
    take_down(name)


# -- hosts


def test_hosts_are_real_separate_and_reached_over_verified_tls(lab: Lab) -> None:
    names = {host.exec(["hostname"]).stdout.strip() for host in lab.hosts}
    assert names == {"h1", "h2", "h3"}
    for host in lab.hosts:
        assert host.uuid in host.virsh("capabilities")
        by_tls = lab.exec(["virsh", "-c", host.uri, "hostname"])
        assert by_tls.stdout.strip() == host.name, by_tls.stderr
    # Without a client certificate of the lab's authority nobody gets in.
    stranger = lab.exec(["virsh", "-c", f"qemu+tls://{lab.hosts[0].ip}/system?pkipath={lab.state_dir}", "hostname"])
    assert stranger.returncode != 0


def test_only_one_link_to_the_lab_lies_in_the_machines_own_network(lab: Lab) -> None:
    addresses = json.loads(subprocess.run(["ip", "-j", "addr"], capture_output=True, text=True, check=True).stdout)
    mine = [link for link in addresses if link["ifname"] == lab.names.access_link]
    assert leftovers.of_lab(lab.names).links == {lab.names.access_link}
    assert [(info["prefixlen"], info["local"][:11]) for info in mine[0]["addr_info"] if info["family"] == "inet"] == [
        (30, "169.254.78.")
    ]
    # No address or route of the lab's inner networks, and the fabric forwards nothing.
    said = subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True, text=True, check=True).stdout
    assert "10.78." not in said
    assert "10.78." not in json.dumps(addresses)
    assert lab.exec(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "0\n"


def test_shared_folder_is_one_and_libvirts_folder_is_private(lab: Lab) -> None:
    one, two = lab.hosts[0], lab.hosts[1]
    one.exec(["sh", "-c", f"echo seen > {lab.shared_dir}/mark; echo private > /var/lib/libvirt/mark"], check=True)
    assert two.exec(["cat", f"{lab.shared_dir}/mark"]).stdout == "seen\n"
    assert two.exec(["cat", "/var/lib/libvirt/mark"]).returncode != 0
    assert not Path("/var/lib/libvirt/mark").exists()


def test_partition_cuts_only_that_host_and_heals(lab: Lab) -> None:
    cut, other = lab.hosts[0], lab.hosts[1]
    cut.partition()
    try:
        assert cut.partitioned()
        assert not reaches(lab, cut)
        assert reaches(lab, other)
        # The data network and the host itself go on.
        assert other.exec(["ping", "-c1", "-W2", cut.data_ip]).returncode == 0 or _no_ping(other)
    finally:
        cut.heal()
    wait_for(lambda: reaches(lab, cut), "healed host reachable")


def _no_ping(host: LabHost) -> bool:
    return host.exec(["sh", "-c", "command -v ping"]).returncode != 0


def test_frozen_host_still_accepts_tcp_but_answers_nothing(lab: Lab) -> None:
    host = lab.hosts[1]
    host.freeze()
    try:
        assert host.frozen()
        assert reaches(lab, host)
        with pytest.raises(CommandFailedError, match="gave no result"):
            lab.exec(["virsh", "-c", host.uri, "hostname"], timeout_s=3, check=True)
        with pytest.raises(LabError, match="frozen"):
            host.exec(["true"])
    finally:
        host.thaw()
    assert lab.exec(["virsh", "-c", host.uri, "hostname"], check=True).stdout.strip() == host.name


def test_power_loss_keeps_definitions_and_loses_run(lab: Lab) -> None:
    host = lab.hosts[2]
    (lab.shared_dir / "keep.xml").write_text(
        "<domain type='qemu'><name>keep</name><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"
    )
    host.virsh("define", f"{lab.shared_dir}/keep.xml")
    host.virsh("start", "keep")
    host.exec(["touch", "/run/mark"], check=True)
    host.kill()
    assert not host.alive()
    with pytest.raises(LabError, match="powered off"):
        _ = host.pid1
    host.start()
    assert host.virsh("domstate", "keep").strip() == "shut off"
    assert host.exec(["ls", "/run/mark"]).returncode != 0
    host.virsh("undefine", "keep")


def test_libvirtd_dies_alone_and_its_successor_dies_with_the_host(lab: Lab) -> None:
    host = lab.hosts[2]
    (lab.shared_dir / "live.xml").write_text(
        "<domain type='qemu'><name>live</name><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"
    )
    host.virsh("create", f"{lab.shared_dir}/live.xml")
    qemu = host.exec(["pidof", "qemu-system-x86_64"]).stdout
    host.daemon_kill()
    assert host.exec(["pidof", "libvirtd"]).returncode != 0
    host.daemon_start()
    assert host.exec(["pidof", "qemu-system-x86_64"]).stdout == qemu != ""
    assert host.virsh("domstate", "live").strip() == "running"
    # A daemon started from outside must not survive a power loss, nor what it starts.
    host.kill()
    assert not [p for p in leftovers.of_lab(lab.names).processes if f"{host.dir}/" in p]
    host.start()
    assert host.virsh("list", "--all", "--name").split() == []


def test_reset_host_is_empty_and_the_same(lab: Lab) -> None:
    host = lab.hosts[2]
    identity = host.uuid
    (lab.shared_dir / "gone.xml").write_text(
        "<domain type='qemu'><name>gone</name><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"
    )
    host.virsh("define", f"{lab.shared_dir}/gone.xml")
    host.reset()
    assert host.virsh("list", "--all", "--name").split() == []
    assert identity in host.virsh("capabilities")


# -- guest


GUEST_XML = """
<domain type='{kind}'><name>guest</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/><apic/></features><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{seed}'/><target dev='vdb' bus='virtio'/><readonly/></disk>
<interface type='network'><source network='nat'/><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
<serial type='file'><source path='/var/lib/libvirt/guest.console' append='on'/></serial>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>"""
NAT_XML = "<network><name>nat</name><forward mode='nat'/><ip address='192.168.77.1' netmask='255.255.255.0'/></network>"
SEED = {
    "meta-data": "instance-id: i-1\nlocal-hostname: web-1\n",
    "user-data": """#cloud-config
ssh_authorized_keys:
  - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ someone@example
runcmd:
  - echo plain > /run/plain
  - [sh, -c, "echo flow, list > /run/flow"]
  - 'echo "it''s quoted" > /run/quoted'
  - |
    for i in 1 2; do
      echo block$i >> /run/block
    done
""",
    "network-config": """version: 2
ethernets:
  nic0:
    match:
      macaddress: 52:54:00:00:00:01
    addresses:
    - 192.168.77.5/24
    nameservers:
      addresses: [192.168.77.1]
    routes:
    - to: default
      via: 192.168.77.1
""",
}


def write_seed(path: Path) -> None:
    import io

    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, text in SEED.items():
        body = text.encode()
        iso_name = f"/{name.upper().replace('-', '_')}.;1"
        iso.add_fp(io.BytesIO(body), len(body), iso_name, rr_name=name, joliet_path=f"/{name}")
    iso.write(str(path))
    iso.close()


class Guest:
    def __init__(self, host: LabHost, name: str = "guest") -> None:
        self.host, self.name = host, name

    def agent(self, command: str, **arguments: object) -> dict[str, object] | None:
        request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        done = self.host.exec(["virsh", "-q", "-c", "qemu:///system", "qemu-agent-command", self.name, request])
        return json.loads(done.stdout)["return"] if done.returncode == 0 else None

    def wait(self) -> None:
        wait_for(lambda: self.agent("guest-ping") is not None, "agent answers")

    def sh(self, script: str) -> str:
        answer = self.agent("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})
        assert answer is not None
        done: dict[str, object] = {}

        def ended() -> bool:
            nonlocal done
            done = self.agent("guest-exec-status", pid=answer["pid"]) or {}
            return bool(done.get("exited"))

        wait_for(ended, script)
        return base64.b64decode(str(done.get("out-data", ""))).decode()


def test_guest_boots_from_its_disk_reads_its_seed_and_keeps_its_data(lab: Lab) -> None:
    host, guest = lab.hosts[0], Guest(lab.hosts[0])
    host.reset()
    disk, seed = "/var/lib/libvirt/guest.qcow2", lab.shared_dir / "seed.iso"
    write_seed(seed)
    host.exec(["curl", "-sf", "-o", disk, lab.image_url], check=True)
    assert host.exec(["sha256sum", disk]).stdout.split()[0] == lab.image_sha256
    host.exec(["qemu-img", "resize", "-q", disk, "1G"], check=True)
    for name, xml in (
        ("nat.xml", NAT_XML),
        ("guest.xml", GUEST_XML.format(kind="kvm" if lab.accel == "kvm" else "qemu", disk=disk, seed=seed)),
    ):
        (lab.shared_dir / name).write_text(xml)
    host.virsh("net-create", f"{lab.shared_dir}/nat.xml")
    host.virsh("define", f"{lab.shared_dir}/guest.xml")
    host.virsh("start", "guest")
    guest.wait()
    wait_for(lambda: guest.sh("cat /run/block") == "block1\nblock2\n", "user-data has run")
    assert guest.sh("cat /run/plain /run/flow /run/quoted") == "plain\nflow, list\nit's quoted\n"
    assert "AAAAC3NzaC1lZDI1NTE5AAAAIJ" in guest.sh("cat /root/.ssh/authorized_keys")
    assert guest.agent("guest-get-host-name") == {"host-name": "web-1"}
    assert (guest.agent("guest-get-osinfo") or {})["name"] == "LQ Lab Guest"
    assert "inet 192.168.77.5/24" in guest.sh("ip -4 addr")
    assert "default via 192.168.77.1" in guest.sh("ip route")
    assert guest.sh("cat /etc/resolv.conf") == "nameserver 192.168.77.1\n"

    # Its network leads to the fabric, where it leaves a record of itself.
    guest.sh("printf 'GET /record?vm=guest&epoch=1 HTTP/1.0\\r\\n\\r\\n' | nc -w 5 10.78.0.1 8080")
    wait_for(lambda: lab.records_file.exists(), "record arrived")
    record = json.loads(lab.records_file.read_text().splitlines()[-1])
    assert (record["vm"], record["epoch"], record["sender"]) == ("guest", "1", host.ip)

    # The disk is the one it booted from, and what is written there stays: by agent, by power button, by power loss.
    assert guest.sh("cat /disk/boots; echo kept > /disk/mine; sync") == "1\n"
    for boots, stop in ((2, "--mode=agent"), (3, "--mode=acpi"), (4, None)):
        if stop:
            host.virsh("shutdown", "guest", stop)
            wait_for(lambda: host.virsh("domstate", "guest").strip() == "shut off", f"shutdown {stop}")
        else:
            host.virsh("destroy", "guest")
        host.virsh("start", "guest")
        guest.wait()
        assert guest.sh("cat /disk/boots /disk/mine") == f"{boots}\nkept\n"
    host.reset()


def test_guest_migrates_between_hosts_over_tls_without_a_reboot(lab: Lab) -> None:
    source, target = lab.hosts[0], lab.hosts[1]
    disk = lab.shared_dir / "moves.qcow2"
    source.exec(["curl", "-sf", "-o", str(disk), lab.image_url], check=True)
    xml = GUEST_XML.format(kind="kvm" if lab.accel == "kvm" else "qemu", disk=disk, seed="")
    lines = [line for line in xml.splitlines() if "vdb" not in line and "<interface" not in line]
    (lab.shared_dir / "moves.xml").write_text("\n".join(lines).replace("<name>guest", "<name>moves"))
    source.virsh("create", f"{lab.shared_dir}/moves.xml")
    Guest(source, "moves").wait()
    boot = Guest(source, "moves").sh("cat /proc/sys/kernel/random/boot_id; echo here > /disk/mine")
    flags = ["--live", "--p2p", "--tls", "--unsafe"]  # a folder is no shared storage to libvirt 9
    move = ["virsh", "-c", source.uri, "migrate", *flags, "moves", source.peer_uri(target)]
    lab.exec(move, timeout_s=120, check=True)
    try:
        assert source.virsh("list", "--name").split() == []
        moved = Guest(target, "moves")
        moved.wait()
        assert moved.sh("cat /proc/sys/kernel/random/boot_id") == boot
        assert moved.sh("cat /disk/mine") == "here\n"
    finally:
        target.virsh("destroy", "moves")
        disk.unlink()


# -- control plane


def test_api_server_authenticates_authorizes_and_audits(lab: Lab, tmp_path: Path) -> None:
    assert "ok" in lab.kubectl("get", "--raw", "/readyz").stdout
    nobody = tmp_path / "nobody"
    lab.control_plane.write_kubeconfig(nobody, "nobody", None, lab.fabric.access_address() or "")
    refused = lab.kubectl(f"--kubeconfig={nobody}", "get", "secrets", check=False)
    assert 'User "nobody" cannot list resource "secrets"' in refused.stderr
    token = lab.kubectl("create", "token", "default").stdout.strip()
    as_account = lab.kubectl("auth", "whoami", "-o", "name", f"--token={token}", f"--kubeconfig={nobody}", check=False)
    assert as_account.returncode == 0, as_account.stderr
    assert '"username":"nobody"' in lab.control_plane.audit_log.read_text()


def test_owner_references_are_collected_and_namespaces_end(lab: Lab) -> None:
    lab.kubectl("create", "namespace", "ends")
    lab.kubectl("-n", "ends", "create", "configmap", "owner")
    uid = lab.kubectl("-n", "ends", "get", "cm", "owner", "-o", "jsonpath={.metadata.uid}").stdout
    owned = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "owned",
            "namespace": "ends",
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}],
        },
    }
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(owned))
    lab.kubectl("-n", "ends", "delete", "cm", "owner")
    lab.kubectl("-n", "ends", "wait", "--for=delete", "cm/owned", "--timeout=60s")
    lab.kubectl("delete", "namespace", "ends", "--timeout=60s")
    assert lab.kubectl("get", "namespace", "ends", check=False).returncode != 0


def test_api_server_and_etcd_come_back_with_everything(lab: Lab) -> None:
    lab.kubectl("create", "configmap", "survivor", "--from-literal=a=1")
    lab.apiserver_stop()
    assert lab.kubectl("get", "cm", check=False).returncode != 0
    lab.apiserver_start()
    assert lab.kubectl("get", "cm", "survivor", "-o", "jsonpath={.data.a}").stdout == "1"
    lab.etcd_kill()
    assert not lab.control_plane.running("etcd")
    lab.etcd_start()
    wait_for(lambda: lab.kubectl("get", "cm", "survivor", check=False).returncode == 0, "etcd's data is back")
    lab.kubectl("delete", "cm", "survivor")


def test_etcd_snapshot_is_taken_live_and_restoring_it_goes_back_in_time(lab: Lab, tmp_path: Path) -> None:
    lab.kubectl("create", "configmap", "time", "--from-literal=now=before")
    lab.etcd_snapshot(tmp_path / "snapshot")
    lab.kubectl("create", "configmap", "later")
    lab.kubectl("delete", "configmap", "time")
    lab.etcd_restore(tmp_path / "snapshot")
    assert lab.kubectl("get", "cm", "time", "-o", "jsonpath={.data.now}").stdout == "before"
    assert lab.kubectl("get", "cm", "later", check=False).returncode != 0
    lab.kubectl("delete", "cm", "time")
    with pytest.raises(LabError, match="is no snapshot"):
        lab.etcd_restore(tmp_path)


# -- supervised processes

COUNTING = "import os,sys,time\nprint('start', os.getpid(), open('/etc/lq-operator/config').read(), flush=True)\n"


def test_supervised_process_sees_its_mounts_and_the_fabric_and_is_started_again(lab: Lab) -> None:
    supervisor = lab.supervisor
    program = COUNTING + "import socket; socket.create_connection(('10.78.0.11', 16514)); time.sleep(600)"
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    spec = ProcessSpec(
        "counter",
        [sys.executable, "-c", program],
        mounts={"/etc/lq-operator": {"config": "one"}, account: {"token": "secret"}},
    )
    supervisor.start(spec)
    try:
        first = supervisor.status("counter").pid
        wait_for(lambda: "one" in supervisor.log("counter").read_text(), "first start")
        supervisor.write_file("counter", "/etc/lq-operator", "config", "two")
        supervisor.kill("counter")
        wait_for(lambda: "two" in supervisor.log("counter").read_text(), "second start")
        status = supervisor.status("counter")
        assert (status.restarts, status.last_exit) == (1, -signal.SIGKILL)
        assert status.pid != first
        supervisor.pause("counter")
        assert supervisor.status("counter").paused
        supervisor.resume("counter")
        assert not supervisor.status("counter").paused
        supervisor.stop("counter")
        assert supervisor.status("counter").state == "stopped"
        assert not Cgroup(f"{lab.names.cgroup}/processes/counter").populated()
        supervisor.restart("counter")
        assert supervisor.status("counter").state == "running"
    finally:
        supervisor.remove("counter")
    assert not Path("/etc/lq-operator").exists()
    assert not Path(account).exists()


def test_a_process_that_keeps_failing_is_tried_again_and_again(lab: Lab) -> None:
    lab.supervisor.start(ProcessSpec("failing", ["sh", "-c", "echo tried; exit 3"]))
    try:
        wait_for(lambda: lab.supervisor.status("failing").restarts >= 3, "three restarts")
        assert lab.supervisor.status("failing").last_exit == 3
        assert lab.supervisor.log("failing").read_text().count("tried") >= 3
    finally:
        lab.supervisor.remove("failing")


# -- by name, and without a trace


def test_two_labs_side_by_side_with_the_same_inner_addresses(lab: Lab, scratch_name: str) -> None:
    before = leftovers.of_machine()
    created = cli("up", "--name", scratch_name, "--hosts", "1")
    assert created.returncode == 0, created.stderr
    other = Lab.load(scratch_name)
    assert other.hosts[0].ip == lab.hosts[0].ip
    assert other.hosts[0].uuid != lab.hosts[0].uuid
    assert other.hosts[0].uuid in other.exec(["virsh", "-c", other.hosts[0].uri, "capabilities"]).stdout
    other.kubectl("create", "configmap", "mine")
    assert lab.kubectl("get", "cm", "mine", check=False).returncode != 0
    with pytest.raises(LabError, match="exists"):
        Lab.create(scratch_name)
    # Started again it only says what runs; killed parts come back.
    other.hosts[0].kill()
    assert cli("up", "--name", scratch_name).returncode == 0
    assert other.hosts[0].alive()
    assert cli("up", "--name", scratch_name, "--hosts", "2").returncode == 1
    down = cli("down", "--name", scratch_name)
    assert down.returncode == 0, down.stderr
    assert list(leftovers.of_lab(LabNames.of(scratch_name))) == []
    mine = [line for line in leftovers.of_machine().added_since(before) if scratch_name in line]
    assert mine == []
    assert lab.hosts[0].alive()
    assert "ok" in lab.kubectl("get", "--raw", "/readyz").stdout


def test_up_goes_on_where_a_killed_up_stopped(scratch_name: str) -> None:
    up = subprocess.Popen([*CLI, "up", "--name", scratch_name, "--hosts", "2"], stdout=subprocess.DEVNULL)
    wait_for(lambda: Cgroup(f"lq-lab-{scratch_name}/h1").populated(), "the first host has begun to start")
    up.kill()
    up.wait()
    again = cli("up", "--name", scratch_name)
    assert again.returncode == 0, again.stderr
    made = Lab.load(scratch_name)
    for host in made.hosts:
        assert made.exec(["virsh", "-c", host.uri, "hostname"]).stdout.strip() == host.name
    assert "ok" in made.kubectl("get", "--raw", "/readyz").stdout


@pytest.mark.parametrize("delay_s", [0.3, 0.7, 1.2, 2.5])
def test_down_finds_everything_after_up_was_killed_halfway(scratch_name: str, delay_s: float) -> None:
    up = subprocess.Popen(
        [*CLI, "up", "--name", scratch_name, "--hosts", "3"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(delay_s)
    up.send_signal(signal.SIGKILL)
    up.wait()
    down = cli("down", "--name", scratch_name)
    assert down.returncode == 0, down.stderr
    assert list(leftovers.of_lab(LabNames.of(scratch_name))) == []
    # And once more: nothing there is no error.
    assert cli("down", "--name", scratch_name).returncode == 0


def test_machine_with_cgroup_v2_only(scratch_name: str) -> None:
    """In a mount namespace that shows what a current systemd distribution mounts: one hierarchy, version 2."""
    script = """
umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && ! grep -q 'cgroup .*cgroup ' /proc/mounts &&
"$@" up --no-controlplane --hosts 1 --transport tcp && "$@" host h1 freeze && "$@" status && "$@" host h1 thaw &&
"$@" daemon h1 kill && "$@" daemon h1 start && "$@" exec h1 -- virsh -c qemu:///system list && "$@" down
"""
    lab_command = f'exec {sys.executable} -m lq_operator.lab "$1" --name {scratch_name} "${{@:2}}"'
    unshared = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script]
    done = subprocess.run(
        [*unshared, "x", "bash", "-c", lab_command, "lab"], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "frozen" in done.stdout
    assert list(leftovers.of_lab(LabNames.of(scratch_name))) == []


def test_down_works_on_frozen_and_dead_hosts_and_supervised_processes(scratch_name: str) -> None:
    made = Lab.create(scratch_name, hosts=2, controlplane=False, transport="tcp")
    made.up()
    made.supervisor.start(ProcessSpec("sleeper", ["sleep", "600"]))
    made.supervisor.pause("sleeper")
    made.hosts[0].freeze()
    made.hosts[1].kill()
    assert list(leftovers.of_lab(made.names)) != []
    made.down()
    assert list(leftovers.of_lab(made.names)) == []


def test_hosts_over_ssh(scratch_name: str) -> None:
    require_lab("ssh")
    made = Lab.create(scratch_name, hosts=1, controlplane=False, transport="ssh")
    made.up()
    host = made.hosts[0]
    answer = made.exec(["virsh", "-c", host.uri, "hostname"], timeout_s=30)
    assert answer.stdout.strip() == "h1", answer.stderr
    host.daemon_kill()
    host.daemon_start()
    assert made.exec(["virsh", "-c", host.uri, "hostname"], timeout_s=30).stdout.strip() == "h1"


def test_hosts_join_a_cluster_that_lies_elsewhere(lab: Lab, scratch_name: str) -> None:
    made = Lab.create(scratch_name, hosts=1, existing_kubeconfig=lab.kubeconfig)
    made.up()
    assert not Cgroup(f"{made.names.cgroup}/kube-apiserver").exists()
    lab.kubectl("create", "configmap", "theirs")
    assert made.kubectl("get", "cm", "theirs", "-o", "name").stdout.strip() == "configmap/theirs"
    inside = made.exec(["kubectl", f"--kubeconfig={made.kubeconfig}", "get", "cm", "theirs", "-o", "name"])
    assert inside.stdout.strip() == "configmap/theirs", inside.stderr
    lab.kubectl("delete", "configmap", "theirs")


def test_commands_say_what_is_wrong() -> None:
    absent = cli("status", "--name", "nosuchlab")
    assert absent.returncode == 1
    assert "no lab 'nosuchlab'" in absent.stderr
    assert "use 1 to 22 lower-case letters" in cli("down", "--name", "../etc").stderr
    assert "hosts: 0 asked for" in cli("up", "--name", lab_name("-z"), "--hosts", "0").stderr


def test_missing_packages_are_named_with_the_command(tmp_path: Path) -> None:
    only_python = {**os.environ, "PATH": str(tmp_path), "LQ_LAB_DIR": str(tmp_path)}
    done = subprocess.run(
        [*CLI, "up", "--name", lab_name("-m"), "--accel", "tcg"],
        env=only_python, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "apt-get install --no-install-recommends" in done.stderr
    assert "qemu-system-x86" in done.stderr
