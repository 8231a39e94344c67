"""The importer on real hosts, under the chart's own Deployment and rights: what lies in the pool is judged by the host."""

import hashlib
import json
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.labfixtures import lab_name, require_lab

from lq_operator.lab import manifests
from lq_operator.lab.datacenter import Lab
from lq_operator.lab.release import Release, chart_dir
from lq_operator.lab.supervisor import ProcessSpec

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

OPERATOR = "lq-system"
NAMESPACE = "team-a"
POOLS = {"local": "/var/lib/libvirt/lq-pool-local", "shared": ""}
GIB = 1024**3


@dataclass
class Site:
    """A lab with hosts and pools as `run` would have reported them, and the importer alone running."""

    lab: Lab
    process: ProcessSpec
    files: Path
    made: list[tuple[str, str]] = field(default_factory=list)

    def apply(self, *objects: dict[str, Any]) -> None:
        self.lab.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def set_status(self, kind: str, name: str, status: dict[str, Any], *where: str) -> None:
        patch = json.dumps({"status": status})
        self.lab.kubectl(*where, "patch", kind, name, "--subresource=status", "--type=merge", "-p", patch)

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        text = self.lab.kubectl("-n", NAMESPACE, "get", kind, name, "-o", "json", "--ignore-not-found").stdout
        return dict(json.loads(text)) if text.strip() else None

    def image(self, name: str, url: str, sha256: str, **spec: Any) -> None:
        self.images({name: (url, sha256, spec)})

    def images(self, wanted: dict[str, tuple[str, str, dict[str, Any]]]) -> None:
        """By name: URL, checksum, and the rest of the spec (`format` belongs to the source)."""
        objects = []
        for name, (url, sha256, rest) in wanted.items():
            source = {"url": url, "sha256": sha256, "format": rest.get("format", "qcow2")}
            spec = {"source": source, **{key: value for key, value in rest.items() if key != "format"}}
            objects.append(self.object("Image", name, spec=spec))
        self.apply(*objects)

    def volume(self, name: str, image: str, *, pool: str = "local", node: str = "h1") -> None:
        self.volumes({name: image}, pool=pool, node=node)

    def volumes(self, wanted: dict[str, str], *, pool: str = "local", node: str = "h1") -> None:
        """Volumes of images, as the volume controller leaves them while they wait for those."""
        spec = {"size": "1Gi", "poolRef": pool}
        status = {"phase": "Bound", "pool": pool, "node": node}
        self.apply(
            *(
                self.object("Volume", name, spec={**spec, "source": {"imageRef": {"name": image}}})
                for name, image in wanted.items()
            )
        )
        states = yaml.safe_dump_all([self.object("Volume", name, status=status) for name in wanted])
        self.lab.kubectl("apply", "--server-side", "--subresource=status", "-f", "-", stdin=states)

    def object(self, kind: str, name: str, **content: Any) -> dict[str, Any]:
        if (kind, name) not in self.made:
            self.made.append((kind, name))
        metadata = {"name": name, "namespace": NAMESPACE}
        return {"apiVersion": "limiquantix.io/v1alpha1", "kind": kind, "metadata": metadata, **content}

    def artefact(self, image: str) -> dict[str, Any]:
        found = self.get("image", image)
        artefacts = (found or {}).get("status", {}).get("artefacts", [])
        return dict(artefacts[0]) if artefacts else {}

    def ready(self, image: str) -> dict[str, Any]:
        """The Ready condition."""
        conditions = ((self.get("image", image) or {}).get("status") or {}).get("conditions", [])
        return next((dict(c) for c in conditions if c["type"] == "Ready"), {})

    def until(self, what: str, done: Callable[[], Any], timeout_s: float = 90) -> Any:
        end_s = time.monotonic() + timeout_s
        while not (value := done()):
            if time.monotonic() > end_s:
                log = self.lab.supervisor.log(self.process.name).read_text()[-3000:]
                state = self.lab.kubectl("-n", NAMESPACE, "get", "images", "-o", "yaml").stdout
                pytest.fail(f"not within {timeout_s} s: {what}\n{state[-4000:]}\n{log}")
            time.sleep(0.3)
        return value

    def until_phase(self, image: str, phase: str) -> dict[str, Any]:
        return dict(self.until(f"{image} {phase}", lambda: (a := self.artefact(image)).get("phase") == phase and a))

    def host_files(self, image: str, node: str = "h1", pool: str = "local") -> list[str]:
        """What the host's directory holds of an image, or of all ('')."""
        found = self.lab.host(node).exec(["ls", self.folder(pool)]).stdout.split()
        stem = f"img_{NAMESPACE}_{image}_" if image else "img_"
        return sorted(name for name in found if name.startswith(stem))

    def folder(self, pool: str) -> str:
        return POOLS[pool] or str(self.lab.shared_dir / "lq-pool-shared")

    def checksum(self, file: str, node: str = "h1", pool: str = "local") -> str:
        return self.lab.host(node).exec(["sha256sum", f"{self.folder(pool)}/{file}"]).stdout.split()[0]

    def serve(self, name: str, content: bytes) -> tuple[str, str]:
        """URL and checksum of new bytes on the lab's web server."""
        (Path(self.lab.www_dir) / name).write_bytes(content)
        return f"{self.lab.www_url}/{name}", hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def whole_site() -> Iterator[Site]:
    require_lab()
    kept = os.environ.get("LQ_TEST_LAB_IMAGES")
    made = Lab.load(kept) if kept else Lab.create(lab_name("-images"), hosts=2)
    try:
        made.up(print)
        yield build(made)
    finally:
        if not kept:
            made.down()


def build(made: Lab) -> Site:
    release = Release(made, namespace=OPERATOR)
    files = Path(made.state_dir) / "files"
    files.mkdir(exist_ok=True)
    values = {"importer": {"allowedPrivateNetworks": ["10.78.0.0/24"], "fileUrlDirectories": [str(files)]}}
    arguments = ("upgrade", "--install", release.name, str(chart_dir()), "--create-namespace", "--values", "-")
    release.helm(*arguments, stdin=yaml.safe_dump(values))
    made.kubectl("create", "namespace", NAMESPACE, check=False)
    process = next(p for p in release.processes() if "importer" in p.spec.argv)
    site = Site(made, release._launchable(process), files)
    register(site)
    made.supervisor.start(site.process)
    return site


def register(site: Site) -> None:
    """Nodes and pools, with the status that `run` would give them."""
    lab = site.lab
    everything = [manifests.cluster(lab), manifests.credentials(lab, OPERATOR)]
    everything += [manifests.node(lab, host.name) for host in lab.hosts]
    everything += [manifests.pool(pool, site.folder(pool), "Shared" if pool == "shared" else "Local") for pool in POOLS]
    site.apply(*map(dict, everything))
    for host in lab.hosts:
        site.set_status("hypervisornode", host.name, {"hostUUID": str(host.uuid)})
        for pool in POOLS:
            host.virsh("pool-define-as", f"lq-{pool}", "dir", "--target", site.folder(pool), check=False)
            host.virsh("pool-build", f"lq-{pool}", check=False)
            host.virsh("pool-start", f"lq-{pool}", check=False)
    for pool in POOLS:
        nodes = [{"node": host.name, "ready": True, "capacityBytes": 100 * GIB} for host in lab.hosts]
        site.set_status("storagepool", pool, {"nodes": nodes})


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    """Every test's objects go at its end, and with them their files."""
    yield whole_site
    lab = whole_site.lab
    names = [f"{kind.lower()}/{name}" for kind, name in reversed(whole_site.made)]  # volumes first
    lab.kubectl("-n", NAMESPACE, "delete", "--ignore-not-found", "--wait=false", *names)
    listing = ("-n", NAMESPACE, "get", "images", "-o", "name")
    whole_site.until("images are gone", lambda: not lab.kubectl(*listing).stdout.strip())
    whole_site.made.clear()
    for host in whole_site.lab.hosts:
        for pool in POOLS:
            left = host.exec(["ls", whole_site.folder(pool)]).stdout.split()
            assert not [name for name in left if name.startswith("img_")], (host.name, pool)


def test_an_image_is_imported_where_a_volume_waits_for_it(site: Site) -> None:
    sha256 = site.lab.image_sha256
    site.image("guest", site.lab.image_url, sha256)
    site.until("Ready while nobody needs it", lambda: site.ready("guest").get("reason") == "NotNeededYet")
    assert site.host_files("guest") == []

    site.volume("v1", "guest")
    artefact = site.until_phase("guest", "Ready")
    file = artefact["file"]
    assert (artefact["pool"], artefact["node"]) == ("local", "h1")
    assert site.host_files("guest") == sorted([file, f"{file}.ready"])
    assert site.host_files("guest", "h2") == []
    assert site.checksum(file) == sha256
    host = site.lab.host("h1")
    described = json.loads(host.exec(["qemu-img", "info", "--output=json", f"{site.folder('local')}/{file}"]).stdout)
    assert described["format"] == "qcow2"
    assert described["virtual-size"] == artefact["virtualSizeBytes"]
    assert artefact["sizeBytes"] == Path(site.lab.www_dir, "guest.qcow2").stat().st_size
    assert site.ready("guest")["status"] == "True"
    assert site.get("image", "guest")["status"]["progress"] == "100%"  # type: ignore[index]

    clone = "<volume><name>vol_clone.raw</name><capacity>2147483648</capacity><target><format type='raw'/></target></volume>"
    host.exec(["sh", "-c", f'echo "{clone}" > /run/clone.xml'], check=True)
    try:
        host.virsh("vol-create-from", "lq-local", "/run/clone.xml", file, "--inputpool", "lq-local")
        compared = host.exec(
            ["qemu-img", "compare", f"{site.folder('local')}/{file}", f"{site.folder('local')}/vol_clone.raw"]
        )
        assert "identical" in compared.stdout, compared
    finally:
        host.virsh("vol-delete", "vol_clone.raw", "--pool", "lq-local", check=False)


def test_a_shared_pool_gets_one_artefact_and_a_local_one_one_for_each_host(site: Site) -> None:
    site.image("many", site.lab.image_url, site.lab.image_sha256)
    site.volume("s1", "many", pool="shared", node="h1")
    site.volume("s2", "many", pool="shared", node="h2")
    site.volume("l1", "many", node="h1")
    site.volume("l2", "many", node="h2")

    def artefacts() -> list[dict[str, Any]]:
        return list((site.get("image", "many") or {}).get("status", {}).get("artefacts", []))

    site.until("three are ready", lambda: [a["phase"] for a in artefacts()] == ["Ready"] * 3)
    assert [(a["pool"], a.get("node", "")) for a in artefacts()] == [("local", "h1"), ("local", "h2"), ("shared", "")]
    assert len(site.host_files("many", "h2", "shared")) == 2


def test_killed_in_the_middle_it_begins_again(site: Site) -> None:
    site.image("slow", f"{site.lab.image_url}?rate_kib=3000", site.lab.image_sha256)
    site.volume("v", "slow")
    site.until("some progress", lambda: site.artefact("slow").get("progressPercent", 0) > 0)
    assert [name.endswith(".ready") for name in site.host_files("slow")] == [False]
    before = site.lab.supervisor.status(site.process.name).restarts
    site.lab.supervisor.kill(site.process.name)
    site.until("restarted", lambda: site.lab.supervisor.status(site.process.name).restarts > before)
    artefact = site.until_phase("slow", "Ready")
    assert site.checksum(artefact["file"]) == site.lab.image_sha256


def test_a_rebuilt_api_server_takes_up_what_is_there_without_reading_the_url(site: Site) -> None:
    site.image("kept", site.lab.image_url, site.lab.image_sha256)
    site.volume("v", "kept")
    file = site.until_phase("kept", "Ready")["file"]
    stamp = site.lab.host("h1").exec(["stat", "-c", "%Y %i", f"{site.folder('local')}/{file}"]).stdout
    site.lab.supervisor.stop(site.process.name)
    finalizers = json.dumps({"metadata": {"finalizers": []}})
    site.lab.kubectl("-n", NAMESPACE, "patch", "image", "kept", "--type=merge", "-p", finalizers)
    site.lab.kubectl("-n", NAMESPACE, "delete", "image", "kept")
    site.lab.supervisor.start(site.process)
    site.image("kept", f"{site.lab.www_url}/no-longer-there", site.lab.image_sha256)
    assert site.until_phase("kept", "Ready")["file"] == file
    assert site.lab.host("h1").exec(["stat", "-c", "%Y %i", f"{site.folder('local')}/{file}"]).stdout == stamp


def test_a_lost_file_is_imported_again_when_somebody_needs_it(site: Site) -> None:
    site.image("lost", site.lab.image_url, site.lab.image_sha256)
    site.volume("v", "lost")
    file = site.until_phase("lost", "Ready")["file"]
    site.lab.supervisor.stop(site.process.name)
    site.lab.host("h1").exec(["rm", f"{site.folder('local')}/{file}"], check=True)
    site.lab.supervisor.start(site.process)
    site.until("there again", lambda: len(site.host_files("lost")) == 2)
    site.until_phase("lost", "Ready")
    assert site.checksum(file) == site.lab.image_sha256


def test_an_import_that_nobody_waits_for_any_more_ends_and_leaves_nothing(site: Site) -> None:
    site.image("given-up", f"{site.lab.image_url}?rate_kib=500", site.lab.image_sha256)
    site.volume("v", "given-up")
    site.until("it runs", lambda: site.host_files("given-up"))
    site.lab.kubectl("-n", NAMESPACE, "delete", "volume", "v")
    site.until("nothing left", lambda: not site.host_files("given-up"))
    site.until("Ready again", lambda: site.ready("given-up").get("reason") == "NotNeededYet")


def test_a_frozen_host_delays_its_import_and_no_other(site: Site) -> None:
    site.image("frozen", f"{site.lab.image_url}?rate_kib=3000", site.lab.image_sha256)
    site.volume("v1", "frozen", node="h1")
    site.until("it runs", lambda: site.artefact("frozen").get("progressPercent", 0) > 0)
    host = site.lab.host("h1")
    host.freeze()
    try:
        site.until("it says so", lambda: site.ready("frozen").get("reason") == "ImportWaits")
        site.image("other", site.lab.image_url, site.lab.image_sha256)
        site.volume("v2", "other", node="h2")
        site.until_phase("other", "Ready")
    finally:
        host.thaw()
    file = site.until_phase("frozen", "Ready")["file"]
    assert site.checksum(file) == site.lab.image_sha256


def test_a_copy_that_runs_in_the_pool_spoils_no_import(site: Site) -> None:
    """libvirt refuses to look at a pool again while a volume is copied in it."""
    host, folder = site.lab.host("h1"), site.folder("local")
    xml = "<volume><name>vol_copy.qcow2</name><capacity>0</capacity><target><format type='qcow2'/></target></volume>"
    host.exec(
        ["sh", "-c", f'head -c 300M /dev/urandom > {folder}/vol_source.raw; echo "{xml}" > /run/copy.xml'], check=True
    )
    host.virsh("pool-refresh", "lq-local")
    # Waits inside the host: on a quick disk the copy is over before a second command would have entered it. It waits for
    # the file too: a volume in libvirt's list without one has libvirt asked to look again, which this copy refuses.
    halt = f"until pid=$(pgrep -x qemu-img) && [ -e {folder}/vol_copy.qcow2 ]; do :; done; kill -STOP $pid && echo $pid"
    halter = subprocess.Popen(host.enter_argv(["timeout", "60", "sh", "-c", halt]), stdout=subprocess.PIPE, text=True)
    copy = subprocess.Popen(
        host.enter_argv(
            ["virsh", "vol-create-from", "lq-local", "/run/copy.xml", "vol_source.raw", "--inputpool", "lq-local"]
        )
    )
    pid = ""
    try:
        pid = halter.communicate(timeout=60)[0].strip()
        assert pid, "the copy was over before it could be halted"
        site.image("beside", site.lab.image_url, site.lab.image_sha256)
        site.volume("v", "beside")
        site.until("everything is there but the mark", lambda: host_size(site, "beside") == guest_size(site))
        time.sleep(8)  # longer than the adapter waits for a refresh
        assert [name.endswith(".ready") for name in site.host_files("beside")] == [False]
        stamp = host.exec(["stat", "-c", "%i %Y", f"{folder}/{site.host_files('beside')[0]}"]).stdout
        host.exec(["kill", "-CONT", pid], check=True)
        assert copy.wait(60) == 0
        file = site.until_phase("beside", "Ready")["file"]
        assert host.exec(["stat", "-c", "%i %Y", f"{folder}/{file}"]).stdout == stamp, "nothing was stored twice"
    finally:
        if pid:
            host.exec(["kill", "-CONT", pid])
        copy.wait(60)
        host.exec(["rm", "-f", f"{folder}/vol_source.raw", f"{folder}/vol_copy.qcow2"])
        host.virsh("pool-refresh", "lq-local", check=False)


def guest_size(site: Site) -> int:
    return Path(site.lab.www_dir, "guest.qcow2").stat().st_size


def host_size(site: Site, image: str) -> int:
    """Bytes of the image's file that are on the disk (a file that is being filled is sparse), rounded to the length."""
    files = site.host_files(image)
    if not files:
        return 0
    blocks, length = (
        site.lab.host("h1").exec(["stat", "-c", "%b %s", f"{site.folder('local')}/{files[0]}"]).stdout.split()
    )
    return min(int(blocks) * 512, int(length))


def qcow2(tmp_path: Path, *options: str, size: str = "64M") -> bytes:
    path = tmp_path / "made.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size], check=True)
    return path.read_bytes()


Case = Callable[[Site, Path], tuple[str, str, dict[str, Any]]]


def backing_file(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
    return *site.serve("b.qcow2", qcow2(tmp_path, "-u", "-b", "/etc/shadow", "-F", "raw")), {}


def data_file(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
    content = bytearray(qcow2(tmp_path))
    content[72:80] = struct.pack(">Q", 4)
    return *site.serve("d.qcow2", bytes(content)), {}


def hidden_qcow2(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
    content = qcow2(tmp_path, "-u", "-b", "/etc/shadow", "-F", "raw")
    return *site.serve("hidden.raw", content), {"format": "raw"}


def unpublished(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
    return f"{site.lab.www_url}/nowhere.qcow2", "0" * 64, {}


def wrong_checksum(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
    return site.lab.image_url, "0" * 64, {}


def larger_than_pool(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
    return *site.serve("huge.qcow2", qcow2(tmp_path, size="60T")), {"maxSize": "64Ti"}


def larger_than_allowed(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
    return site.lab.image_url, site.lab.image_sha256, {"maxSize": "10Mi"}


def redirect(target: str) -> Case:
    def case(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
        name = f"moved-{hashlib.sha256(target.encode()).hexdigest()[:8]}"
        (Path(site.lab.www_dir) / f"{name}.redirect").write_text(target)
        return f"{site.lab.www_url}/{name}", site.lab.image_sha256, {}

    return case


def internal(url: str) -> Case:
    return lambda site, tmp_path: (url, site.lab.image_sha256, {})


def file_elsewhere(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
    return "file:///etc/passwd", "0" * 64, {"format": "raw"}


def file_link(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
    link = site.files / "link"
    link.unlink(missing_ok=True)
    link.symlink_to("/etc/passwd")
    return f"file://{link}", "0" * 64, {"format": "raw"}


def file_dots(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
    return f"file://{site.files}/%2e%2e/kubeconfig", "0" * 64, {"format": "raw"}


def a_page(site: Site, tmp_path: Path) -> tuple[str, str, dict[str, Any]]:
    return *site.serve("page.qcow2", b"<!DOCTYPE html><title>Not found</title>" * 100), {}


BAD: list[tuple[Case, str]] = [
    (backing_file, "backing file"),
    (data_file, "external file"),
    (hidden_qcow2, "looks like a qcow2 image"),
    (unpublished, "404"),
    (wrong_checksum, "spec.source.sha256"),
    (larger_than_pool, "larger pool"),
    (larger_than_allowed, "spec.maxSize"),
    (redirect("http://127.0.0.1:8080/guest.qcow2"), "loopback"),
    (redirect("http://169.254.169.254/latest/meta-data/"), "link-local"),
    (redirect("http://[::ffff:10.78.1.11]/x"), "private"),
    (redirect("file:///etc/passwd"), "only http and https"),
    (internal("http://10.78.1.1:8080/guest.qcow2"), "private"),
    (internal("http://2130706433/guest.qcow2"), "usual IP address"),
    (internal("http://user:secret@10.78.0.1:8080/guest.qcow2"), "user or password"),
    (file_elsewhere, "fileUrlDirectories"),
    (file_link, "fileUrlDirectories"),
    (file_dots, "fileUrlDirectories"),
    (a_page, "HTML page"),
]
"""What is refused, and words of the reason."""


def test_bad_images_are_refused_with_the_reason_and_nothing_stays(site: Site, tmp_path: Path) -> None:
    """All at once: each is judged by itself, and the test takes no longer than the slowest."""
    expected = {f"bad-{number}": words for number, (_, words) in enumerate(BAD)}
    site.images({f"bad-{number}": case(site, tmp_path) for number, (case, _) in enumerate(BAD)})
    site.volumes({f"v-{name}": name for name in expected})

    def artefacts() -> dict[str, dict[str, Any]]:
        listing = json.loads(site.lab.kubectl("-n", NAMESPACE, "get", "images", "-o", "json").stdout)
        found = {
            item["metadata"]["name"]: (item.get("status") or {}).get("artefacts") or [] for item in listing["items"]
        }
        return {name: found[name][0] for name in expected if found.get(name)}

    site.until("every one has failed", lambda: [a["phase"] for a in artefacts().values()] == ["Failed"] * len(BAD))
    for name, artefact in artefacts().items():
        assert expected[name] in artefact["message"], (name, artefact)
        assert artefact["retryAfter"]
    assert site.host_files("") == []
    ready = site.ready("bad-0")
    assert (ready["status"], ready["reason"]) == ("False", "ImportFailed")
    assert artefacts()["bad-0"]["message"] in ready["message"]


def test_an_unknown_host_is_named(site: Site) -> None:
    """Without a name server in the fabric the answer is "could not be looked up", which may pass."""
    site.image("nohost", "https://images.invalid/x.qcow2", "0" * 64)
    site.volume("v", "nohost")
    site.until("it says so", lambda: "images.invalid" in site.ready("nohost").get("message", ""))
    assert site.host_files("nohost") == []


def test_a_file_of_the_administrators_directory_is_imported(site: Site) -> None:
    content = Path(site.lab.www_dir, "guest.qcow2").read_bytes()
    (site.files / "guest.qcow2").write_bytes(content)
    site.image("from-file", f"file://{site.files}/guest.qcow2", hashlib.sha256(content).hexdigest())
    site.volume("v", "from-file")
    file = site.until_phase("from-file", "Ready")["file"]
    assert site.checksum(file) == hashlib.sha256(content).hexdigest()


def test_a_raw_disk_is_imported_as_it_is(site: Site) -> None:
    content = os.urandom(3 * 1024**2 + 512)
    url, sha256 = site.serve("disk.raw", b"\xeb\x63\x90" + content)
    site.image("raw", url, sha256, format="raw")
    site.volume("v", "raw")
    artefact = site.until_phase("raw", "Ready")
    assert artefact["virtualSizeBytes"] == artefact["sizeBytes"] == len(content) + 3
    assert site.checksum(artefact["file"]) == sha256


def test_a_server_that_is_away_is_asked_again(site: Site) -> None:
    site.image("later", f"{site.lab.www_url.replace(':8080', ':8099')}/x.qcow2", site.lab.image_sha256)
    site.volume("v", "later")
    message = site.until("it says so", lambda: site.artefact("later").get("message"))
    assert "does not answer" in message
    assert "tried again by itself" in message
    assert site.artefact("later")["phase"] == "Importing"
