"""The importer's controllers on an API server and a host in memory: every decision, and a crash at every call."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.sim.fakes.clock import FakeClock
from tests.sim.fakes.events import FakeEvents
from tests.sim.fakes.resources import Crash, FakeApi, FakeStore

from lq_operator.api.base import API_VERSION, FINALIZER
from lq_operator.api.image import Image
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.volume import Volume
from lq_operator.controllers.image.imageset import ImageSet, Surroundings
from lq_operator.core.model import HostUUID, NodeName, PoolSeen, VolumePlan, VolumeSeen
from lq_operator.core.result import Conflict, Fenced, NotFound, OutcomeUnknown, Rejected, Transient
from lq_operator.ports import Fetched

GIB = 1024**3
KEY = "team-a/debian"


def qcow2(size: int = 2 * GIB, backing: int = 0) -> bytes:
    head = struct.pack(">IIQIIQI", 0x514649FB, 3, backing, backing and 11, 16, size, 0)
    head += struct.pack(">IQQIIQ", 16, 0x30000, 0x10000, 1, 0, 0) + struct.pack(">QQQII", 0, 0, 0, 4, 104)
    return head.ljust(200_000, b"\0")


CONTENT = qcow2()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = f"img_team-a_debian_{SHA256[:16]}.qcow2"


class Disk:
    """The directory of one pool on one machine; it outlives every process."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.available_bytes = 50 * GIB


class Host:
    """ports.Host as far as the importer uses it. Probes formats as libvirt does."""

    alive = True

    def __init__(self, node: str, disk: Disk, hook: Callable[[str, str], None]) -> None:
        self.node, self.uuid, self.disk, self.hook = NodeName(node), HostUUID(f"uuid-{node}"), disk, hook
        self.calls: list[str] = []

    async def _call(self, verb: str, act: Callable[[], Any]) -> Any:
        self.calls.append(verb)
        await asyncio.sleep(0)
        self.hook("before", verb)
        done = act()
        self.hook("after", verb)
        return done

    def _seen(self, name: str) -> VolumeSeen:
        content = self.disk.files[name]
        if content.startswith(b"QFI\xfb") and len(content) >= 104:
            size = int.from_bytes(content[24:32], "big")
            backing = "/etc/shadow" if any(content[8:20]) else ""
            return VolumeSeen(name, f"/p/{name}", "qcow2", size, len(content), backing)
        return VolumeSeen(name, f"/p/{name}", "raw", len(content), len(content))

    async def list_pools(self) -> tuple[PoolSeen, ...]:
        seen = PoolSeen("lq-local", True, "/p", 100 * GIB, self.disk.available_bytes)
        return tuple(await self._call("list_pools", lambda: (seen,)))

    async def list_volumes(self, pool: str, *, refresh: bool = False) -> tuple[VolumeSeen, ...]:
        assert pool == "lq-local"
        return tuple(
            await self._call("list_volumes", lambda: tuple(self._seen(name) for name in sorted(self.disk.files)))
        )

    async def create_volume(self, pool: str, plan: VolumePlan) -> VolumeSeen:
        def act() -> VolumeSeen:
            if plan.name in self.disk.files:
                raise Conflict(f"{plan.name} exists")
            self.disk.files[plan.name] = b""
            return self._seen(plan.name)

        return await self._call("create_volume", act)  # type: ignore[no-any-return]

    async def upload(self, pool: str, name: str, content: AsyncIterator[bytes]) -> None:
        if name not in self.disk.files:
            raise NotFound(name)
        async for chunk in content:
            await self._call(
                "upload", lambda chunk=chunk: self.disk.files.update({name: self.disk.files[name] + chunk})
            )

    async def delete_volume(self, pool: str, name: str) -> None:
        await self._call("delete_volume", lambda: self.disk.files.pop(name, None))


class Fleet:
    """Hosts that answer, by node."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.configured: dict[str, tuple[str, dict[str, bytes]]] = {}

    def configure(self, node: NodeName, uri: str, credentials: dict[str, bytes]) -> None:
        self.configured[node] = (uri, credentials)

    def forget(self, node: NodeName) -> None:
        self.configured.pop(node, None)

    def host(self, node: NodeName) -> Host | None:
        return self.hosts.get(node)

    def why_down(self, node: NodeName) -> str:
        return "" if node in self.hosts else f"{node} does not answer"


class Source:
    """ports.Fetcher: content, or the error to raise. `gate` holds the download after its head."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.error: Exception | None = None
        self.fetched = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.length: int | None = None

    @asynccontextmanager
    async def fetch(self, url: str) -> AsyncIterator[Fetched]:
        self.fetched += 1
        if self.error is not None:
            raise self.error

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(self.content), 70_000):
                if start:
                    await self.gate.wait()
                yield self.content[start : start + 70_000]

        yield Fetched(self.length if self.length is not None else len(self.content), chunks())


class Tenure:
    """A term that is held, until it is lost."""

    lost = False

    async def renew(self) -> None:
        if self.lost:
            raise Fenced("the lease is another's")


class World:
    """One API server, its clock, machines h1 and h2; `process()` is a fresh importer."""

    def __init__(self, access: str = "Local") -> None:
        self.clock = FakeClock()
        self.api = FakeApi(self.clock)
        self.store = FakeStore(self.api)
        self.source = Source()
        self.tenure = Tenure()
        self.events = FakeEvents()
        self.fleet = Fleet()
        self.hook: Callable[[str, str], None] = lambda when, verb: None
        shared = Disk()
        self.disks = {node: shared if access == "Shared" else Disk() for node in ("h1", "h2")}
        for node in self.disks:
            self.answers(node)
            self.put(HypervisorNode, node, {"clusterRef": {"name": "c"}, "uri": f"qemu+tcp://{node}/system"})
            self.status(HypervisorNode, None, node, {"hostUUID": f"uuid-{node}"})
        self.put(StoragePool, "local", {"clusterRef": {"name": "c"}, "dir": {"path": "/p"}, "access": access})
        ready = [{"node": node, "ready": True, "capacityBytes": 100 * GIB} for node in self.disks]
        self.status(StoragePool, None, "local", {"nodes": ready})
        self.image()

    def answers(self, node: str) -> None:
        self.fleet.hosts[node] = Host(node, self.disks[node], lambda when, verb: self.hook(when, verb))

    def put(self, kind: Any, name: str, spec: dict[str, Any], namespace: str | None = None) -> None:
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        raw = {"apiVersion": API_VERSION, "kind": kind.kind_name, "metadata": metadata, "spec": spec}
        self.api.user_apply(kind.model_validate(raw))

    def status(self, kind: Any, namespace: str | None, name: str, status: dict[str, Any]) -> None:
        obj = self.store.get(kind, namespace, name)
        asyncio.get_running_loop()
        coroutine = self.api.apply_status(obj, status, manager="test")
        with pytest.raises(StopIteration):
            coroutine.send(None)

    def image(self, sha256: str = SHA256, **spec: Any) -> None:
        source = {"url": "https://example.com/debian.qcow2", "sha256": sha256, "format": "qcow2"}
        self.put(Image, "debian", {"source": source, **spec}, "team-a")

    def volume(self, name: str = "v", node: str = "h1", phase: str = "Bound") -> None:
        spec = {"size": "10Gi", "poolRef": "local", "source": {"imageRef": {"name": "debian"}}}
        self.put(Volume, name, spec, "team-a")
        self.status(Volume, "team-a", name, {"phase": phase, "pool": "local", "node": node})

    def process(self) -> ImageSet:
        world = Surroundings(
            self.store,
            self.api,
            self.fleet,
            self.source,
            self.events,
            self.clock,
            "lq-system",  # type: ignore[arg-type]
        )
        return ImageSet(world, self.tenure)  # type: ignore[arg-type]

    @property
    def seen(self) -> Image:
        found = self.store.get(Image, "team-a", "debian")
        assert found is not None
        return found

    @property
    def phases(self) -> list[str]:
        return [artefact.phase for artefact in self.seen.status.artefacts]

    def reason(self) -> str:
        ready = self.seen.status.condition("Ready")
        assert ready is not None
        return f"{ready.status} {ready.reason}"

    def message(self) -> str:
        ready = self.seen.status.condition("Ready")
        assert ready is not None
        return ready.message


async def settle(process: ImageSet, key: str = KEY, passes: int = 8) -> None:
    """Passes until nothing runs any more."""
    for _ in range(passes):
        await process.images.pass_once(key)
        for _ in range(400):
            await asyncio.sleep(0)


@pytest.fixture
async def world() -> World:
    return World()


async def test_an_image_that_nobody_needs_is_ready_and_untouched(world: World) -> None:
    await settle(world.process())
    assert world.reason() == "True NotNeededYet"
    assert world.source.fetched == 0
    assert world.seen.metadata.finalizers == []


async def test_imported_where_a_volume_waits(world: World) -> None:
    world.volume()
    await settle(world.process())
    assert world.reason() == "True Ready"
    (artefact,) = world.seen.status.artefacts
    assert (artefact.file, artefact.virtual_size_bytes, artefact.size_bytes) == (FILE, 2 * GIB, len(CONTENT))
    assert world.disks["h1"].files == {FILE: CONTENT, f"{FILE}.ready": b""}
    assert world.disks["h2"].files == {}
    assert world.seen.metadata.finalizers == [FINALIZER]
    assert world.events.reasons(KEY) == ["Imported"]


async def test_a_finished_image_costs_no_more_writes(world: World) -> None:
    world.volume()
    process = world.process()
    await settle(process)
    writes = len([op for op in world.api.ops if op.write])
    await settle(process)
    assert len([op for op in world.api.ops if op.write]) == writes


async def test_two_hosts_import_side_by_side_a_shared_pool_once() -> None:
    local, shared = World(), World("Shared")
    for world in (local, shared):
        world.volume("v1", "h1")
        world.volume("v2", "h2")
        await settle(world.process())
    assert [(a.node, a.phase) for a in local.seen.status.artefacts] == [("h1", "Ready"), ("h2", "Ready")]
    assert [(a.node, a.phase) for a in shared.seen.status.artefacts] == [("", "Ready")]
    assert shared.source.fetched == 1


@pytest.mark.parametrize("phase", ["Pending", "Ready", "Lost", "Failed"])
async def test_only_bound_volumes_want_anything(world: World, phase: str) -> None:
    world.volume(phase=phase)
    await settle(world.process())
    assert world.source.fetched == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.image(sha256="0" * 64), f"spec.source.sha256: the bytes behind the URL have checksum {SHA256}"),
        (lambda w: setattr(w.source, "content", qcow2(backing=200)), "backing file"),
        (lambda w: setattr(w.source, "content", qcow2(101 * GIB)), "spec.maxSize: the disk in the image has 101Gi"),
        (lambda w: setattr(w.source, "length", 65 * GIB), "spec.maxSize: the download has 65Gi"),
        (lambda w: setattr(w.source, "error", Rejected("spec.source.url: 404")), "404"),
        (lambda w: setattr(w.source, "content", b"<html>"), "HTML page"),
    ],
)
async def test_what_only_a_person_can_mend_fails_at_once_and_leaves_nothing(
    change: Callable[[World], None], words: str
) -> None:
    world = World()
    change(world)  # before a Volume makes anything of it
    world.volume()
    process = world.process()
    await settle(process)
    assert world.phases == ["Failed"]
    assert world.reason() == "False ImportFailed"
    assert words in world.message()
    assert world.disks["h1"].files == {}
    assert world.source.fetched == 1
    assert world.events.reasons(KEY) == ["ImportFailed"]

    world.clock.skip(590)
    await settle(process)
    assert world.source.fetched == 1, "not before retryAfter"
    world.clock.skip(20)
    await settle(process)
    assert world.source.fetched == 2


async def test_a_failure_survives_a_restart_and_a_changed_spec_tries_again(world: World) -> None:
    world.image(maxSize="1Gi")
    world.volume()
    await settle(world.process())
    assert world.phases == ["Failed"]
    restarted = world.process()
    await settle(restarted)
    assert (world.phases, world.source.fetched) == (["Failed"], 1)
    world.image(maxSize="4Gi")
    await settle(restarted)
    assert world.phases == ["Ready"]


async def test_a_volume_that_was_told_of_the_failure_still_waits(world: World) -> None:
    world.source.error = Rejected("spec.source.url: 404")
    world.volume()
    process = world.process()
    await settle(process)
    failed = {"type": "Ready", "status": "False", "reason": "ImageFailed", "lastTransitionTime": "2030-01-01T00:00:00Z"}
    world.status(Volume, "team-a", "v", {"phase": "Failed", "pool": "local", "node": "h1", "conditions": [failed]})
    world.source.error = None
    world.clock.skip(601)
    await settle(process)
    assert world.phases == ["Ready"]


@pytest.mark.parametrize("error", [Transient("503"), OutcomeUnknown("cut off"), NotFound("no such pool")])
async def test_what_may_pass_is_tried_again_with_growing_pauses(world: World, error: Exception) -> None:
    world.source.error = error
    world.volume()
    process = world.process()
    await settle(process)
    assert world.phases == ["Importing"]
    assert world.reason() == "False ImportWaits"
    assert "tried again by itself" in world.message()
    tries = world.source.fetched
    for _ in range(5):
        world.clock.skip(200)
        await settle(process)
    assert world.source.fetched == tries + 5
    world.source.error = None
    world.clock.skip(200)
    await settle(process)
    assert world.reason() == "True Ready"


async def test_a_full_pool_may_become_empty(world: World) -> None:
    world.disks["h1"].available_bytes = 1000
    world.volume()
    process = world.process()
    await settle(process)
    assert "make room" in world.message()
    world.disks["h1"].available_bytes = GIB
    world.clock.skip(10)
    await settle(process)
    assert world.phases == ["Ready"]


@pytest.mark.parametrize("length", [len(CONTENT) - 1, len(CONTENT) + 1])
async def test_a_server_that_lies_about_the_length_may_have_been_changed_meanwhile(world: World, length: int) -> None:
    world.source.length = length
    world.volume()
    await settle(world.process())
    assert world.phases == ["Importing"]
    assert world.disks["h1"].files == {}


async def test_waits_for_its_host_and_says_so(world: World) -> None:
    del world.fleet.hosts["h1"]
    world.volume()
    process = world.process()
    await settle(process)
    assert "waits for h1: h1 does not answer" in world.message()
    world.answers("h1")
    await settle(process)
    assert world.phases == ["Ready"]


async def test_another_host_behind_the_nodes_address_gets_nothing(world: World) -> None:
    world.fleet.hosts["h1"].uuid = HostUUID("somebody else")
    world.volume()
    await settle(world.process())
    assert world.phases == ["Importing"]
    assert world.fleet.hosts["h1"].calls == []


async def test_whoever_lost_the_lease_sets_no_mark(world: World) -> None:
    world.volume()
    process = world.process()
    world.tenure.lost = True
    with pytest.raises(Fenced):
        await settle(process)
    assert f"{FILE}.ready" not in world.disks["h1"].files


async def test_the_last_volume_goes_and_the_import_with_it(world: World) -> None:
    world.volume()
    world.source.gate.clear()
    process = world.process()
    await settle(process)
    assert world.phases == ["Importing"]
    assert FILE in world.disks["h1"].files
    world.api.user_delete(Volume, "team-a", "v")
    await settle(process)
    assert world.reason() == "True NotNeededYet"
    assert world.disks["h1"].files == {}


async def test_a_lost_file_is_noticed_and_an_unseen_host_proves_nothing(world: World) -> None:
    world.volume()
    await settle(world.process())
    world.disks["h1"].files.pop(FILE)
    host = world.fleet.hosts.pop("h1")
    process = world.process()
    await settle(process)
    assert world.phases == ["Ready"]
    world.fleet.hosts["h1"] = host
    await settle(process)
    assert world.phases == ["Ready"]
    assert world.source.fetched == 2
    assert "ArtefactLost" in world.events.reasons(KEY)


# ------------------------------------------------------------ crash at every line


def crash_at(world: World, number: int, when: str) -> list[str]:
    """Die before or after the n-th call to the host or write to the API server."""
    calls: list[str] = []

    def hook(now: str, verb: str) -> None:
        if now == "before":
            calls.append(verb)
        if len(calls) > number or (now == when and len(calls) == number):
            raise Crash(verb)  # and for ever: a dead process cleans nothing up

    world.hook = hook
    world.api.before = lambda op: hook("before", op.verb) if op.write else None
    world.api.after = lambda op: hook("after", op.verb)
    return calls


def bury(world: World) -> None:
    """What still runs of the dead process reaches no host any more; the next one has connections of its own."""

    def dead(now: str, verb: str) -> None:
        raise Crash(verb)

    for node, host in list(world.fleet.hosts.items()):
        host.hook = dead
        world.answers(node)
    world.hook = lambda now, verb: None
    world.api.before = world.api.after = lambda op: None


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_call_is_harmless(when: str) -> None:
    number, crashed = 0, True
    while crashed:
        number += 1
        world = World()
        world.volume()
        crash_at(world, number, when)
        process = world.process()
        crashed = False
        try:
            await settle(process)
        except Crash:
            crashed = True
        bury(world)
        await settle(world.process())
        assert world.reason() == "True Ready", number
        assert world.disks["h1"].files == {FILE: CONTENT, f"{FILE}.ready": b""}, number
    assert number > 11, "the loop must have seen every call of an import"


@pytest.mark.parametrize("present", ["file", "mark", "both"])
async def test_what_was_there_before(world: World, present: str) -> None:
    files = world.disks["h1"].files
    if present in ("file", "both"):
        files[FILE] = CONTENT if present == "both" else CONTENT[:1000]
    if present in ("mark", "both"):
        files[f"{FILE}.ready"] = b""
    files["vol_team-a_v_12345678.qcow2"] = b"somebody's"
    world.volume()
    await settle(world.process())
    assert world.phases == ["Ready"]
    assert files == {FILE: CONTENT, f"{FILE}.ready": b"", "vol_team-a_v_12345678.qcow2": b"somebody's"}
    assert world.source.fetched == (0 if present == "both" else 1)


# ------------------------------------------------------------ the end


async def imported(world: World) -> ImageSet:
    world.volume()
    process = world.process()
    await settle(process)
    assert world.phases == ["Ready"]
    return process


async def test_deletion_waits_for_volumes_that_are_being_made(world: World) -> None:
    process = await imported(world)
    world.api.user_delete(Image, "team-a", "debian")
    await settle(process)
    assert world.reason() == "False InUse"
    assert "team-a/v" in world.message()
    assert FILE in world.disks["h1"].files
    world.status(Volume, "team-a", "v", {"phase": "Ready", "pool": "local", "node": "h1"})
    await settle(process)
    assert world.store.get(Image, "team-a", "debian") is None
    assert world.disks["h1"].files == {}


def drive(world: World, spec: bool, **status: Any) -> None:
    """VM a of team-a with the image in its drive, by spec, or by status alone."""
    medium = {"medium": {"imageRef": {"name": "debian"}}} if spec else {}
    size = {"cpu": {"count": 1}, "memory": {"size": "512Mi"}}
    world.put(VirtualMachine, "a", {**size, "cdroms": [{"name": "cd", **medium}]}, "team-a")
    world.status(VirtualMachine, "team-a", "a", {"cdroms": [{"name": "cd", **status}]})


async def test_imported_where_a_drive_wants_it_and_kept_while_one_has_it(world: World) -> None:
    process = world.process()
    drive(world, True, image=KEY)  # the VM is on no host yet
    await settle(process)
    assert world.phases == []
    drive(world, True, image=KEY, pool="local", node="h2")
    await settle(process)
    assert world.phases == ["Ready"]
    assert FILE in world.disks["h2"].files
    assert FILE not in world.disks["h1"].files
    world.api.user_delete(Image, "team-a", "debian")
    for wished, status in ((True, {}), (False, {"inserted": KEY})):  # named only, or still in the guest's drive
        drive(world, wished, **status)
        await settle(process)
        assert world.reason() == "False InUse"
        assert "VirtualMachine team-a/a: take it out of spec.cdroms" in world.message()
        assert FILE in world.disks["h2"].files
    drive(world, False, inserted="debian")  # a Volume of that name
    readable, world.store.broken = world.store.broken, lambda kind: ("team-a/odd",)  # type: ignore[method-assign]
    await settle(process)
    assert "cannot be read" in world.message()
    world.store.broken = readable  # type: ignore[method-assign]
    world.store.unsynced.add("VirtualMachine")
    await settle(process)
    assert "not listed yet" in world.message()
    world.store.unsynced.clear()
    await settle(process)
    assert world.store.get(Image, "team-a", "debian") is None
    assert world.disks["h2"].files == {}


async def test_deletion_finds_files_that_status_does_not_know(world: World) -> None:
    process = await imported(world)
    world.api.user_delete(Volume, "team-a", "v")
    world.disks["h2"].files.update({FILE: b"x", "img_team-a_debian-12_0123.qcow2": b"another image's"})
    world.api.user_delete(Image, "team-a", "debian")
    await settle(process)
    assert world.store.get(Image, "team-a", "debian") is None
    assert world.disks["h2"].files == {"img_team-a_debian-12_0123.qcow2": b"another image's"}


async def test_deletion_of_a_running_import_ends_it(world: World) -> None:
    world.volume()
    world.source.gate.clear()
    process = world.process()
    await settle(process)
    world.api.user_delete(Image, "team-a", "debian")
    await settle(process)
    assert world.store.get(Image, "team-a", "debian") is None
    assert world.disks["h1"].files == {}


async def test_a_host_that_is_away_delays_deletion_but_not_for_ever(world: World) -> None:
    process = await imported(world)
    world.api.user_delete(Volume, "team-a", "v")
    del world.fleet.hosts["h1"]
    world.api.user_delete(Image, "team-a", "debian")
    await settle(process)
    assert world.reason() == "False DeletingArtefacts"
    assert "h1 does not answer" in world.message()
    world.clock.skip(301)
    await settle(process)
    assert world.store.get(Image, "team-a", "debian") is None
    left = world.events.emitted[-1]
    assert (left.reason, left.warning) == ("LeftBehind", True)
    assert "on h1" in left.message


async def test_a_node_that_was_taken_out_delays_nothing(world: World) -> None:
    process = await imported(world)
    world.api.user_delete(Volume, "team-a", "v")
    del world.fleet.hosts["h1"]
    world.api.user_delete(HypervisorNode, None, "h1")
    world.api.user_delete(Image, "team-a", "debian")
    await settle(process)
    assert world.store.get(Image, "team-a", "debian") is None


# ------------------------------------------------------------ connections


async def test_hosts_are_connected_with_the_secret_that_the_node_names(world: World) -> None:
    world.put(
        HypervisorNode,
        "h3",
        {"clusterRef": {"name": "c"}, "uri": "qemu+tls://h3/system", "credentialsSecretRef": {"name": "keys"}},
    )
    process = world.process()
    await process.links.pass_once("h3")
    assert "h3" not in world.fleet.configured
    world.api.put_secret("lq-system", "keys", {"ca.crt": b"x"})
    await process.links.pass_once("h3")
    assert world.fleet.configured["h3"] == ("qemu+tls://h3/system", {"ca.crt": b"x"})
    world.api.user_delete(HypervisorNode, None, "h3")
    await process.links.pass_once("h3")
    assert "h3" not in world.fleet.configured


async def test_progress_is_told_every_two_seconds_at_most(world: World) -> None:
    told: list[int] = []
    process = world.process()
    process.jobs._wake = lambda key: told.append(process.jobs.slot(key, target).percent)
    from lq_operator.core.storage.importing import Target

    target = Target("local", "h1")

    async def run(on_percent: Callable[[int], None]) -> Any:
        for value in range(100):
            world.clock.skip(0.1)
            on_percent(value)

    process.jobs.start(KEY, target, run)
    for _ in range(10):
        await asyncio.sleep(0)
    assert 4 <= len(told) <= 6
    assert told == sorted(told)
