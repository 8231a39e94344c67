"""Real hosts that hang, vanish, restart or are somebody else: each stays its own problem and heals by itself.

No time is asserted; that the keepalive (and not a call's own, longer deadline) ended a call is told by its words.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.contract.host.pki import foreign_pki
from tests.contract.host.worlds import bare_uri, connected, credentials

from lq_operator.adapters.libvirt.fleet import LibvirtFleet
from lq_operator.adapters.libvirt.settings import LibvirtSettings
from lq_operator.core.model import DomainEvent, DomainPlan, DomainState, Epoch, Identity, NodeName, PoolPlan, VolumePlan
from lq_operator.core.result import OutcomeUnknown, Transient, WorldError
from lq_operator.lab.datacenter import Lab
from lq_operator.lab.host import LabHost
from lq_operator.ports import Host

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

H1, H2 = NodeName("h1"), NodeName("h2")
FAST = LibvirtSettings(open_timeout_s=5, probe_timeout_s=2, backoff_most_s=1)


class Datacenter:
    """Two hosts and a fleet that is connected to both."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.fleet = LibvirtFleet(FAST)
        self.events: list[DomainEvent] = []
        self.fleet.on_event(self.events.append)

    def configure(self, node: NodeName) -> None:
        self.fleet.configure(node, bare_uri(self.lab.host(node)), credentials(self.lab))

    def physical(self, node: NodeName = H1) -> LabHost:
        return self.lab.host(node)

    async def gone(self, node: NodeName = H1) -> str:
        """Wait until the fleet knows; its sentence."""
        async with asyncio.timeout(60):
            while self.fleet.host(node) is not None:  # noqa: ASYNC110 - the port has no event to wait for
                await asyncio.sleep(0.02)
        return self.fleet.why_down(node)


@pytest.fixture
async def dc(own_lab: Lab) -> AsyncIterator[Datacenter]:
    with own_lab.entered():
        made = Datacenter(own_lab)
        for node in (H1, H2):
            made.configure(node)
        try:
            for node in (H1, H2):
                await connected(made.fleet, node)
            yield made
        finally:
            await made.fleet.close()
            await asyncio.to_thread(_mend, own_lab)


def _mend(lab: Lab) -> None:
    for host in lab.hosts:
        host.reset()


@contextlib.asynccontextmanager
async def _busy_neighbour(host: Host) -> AsyncIterator[None]:
    """Calls to another host all the while; none of them may fail or wait for the broken one."""
    stop = asyncio.Event()

    async def ask() -> int:
        count = 0
        while not stop.is_set():
            async with asyncio.timeout(6):  # below the 8 s that the broken host is given
                await host.list_domains()
            count += 1
            await asyncio.sleep(0.01)
        return count

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        stop.set()
        assert await asking > 20


Break = Callable[[LabHost], None]
SILENT: dict[str, tuple[Break, Break]] = {
    "frozen": (lambda host: host.freeze(), lambda host: host.thaw()),
    "partitioned": (lambda host: host.partition(), lambda host: host.heal()),
    "powered-off": (lambda host: host.kill(), lambda host: host.start()),
}


@pytest.fixture(params=list(SILENT))
def silence(request: pytest.FixtureRequest) -> tuple[Break, Break]:
    return SILENT[request.param]


async def _problem(call: Awaitable[object]) -> BaseException | None:
    try:
        async with asyncio.timeout(60):
            await call
    except (WorldError, TimeoutError) as problem:
        return problem
    return None


async def test_a_silent_host_ends_its_calls_and_only_its_calls(dc: Datacenter, silence: tuple[Break, Break]) -> None:
    first, second = await connected(dc.fleet, H1), await connected(dc.fleet, H2)
    await first.ensure_pool(PoolPlan("lq-state", "/var/lib/libvirt/lq-state"))
    async with _busy_neighbour(second):
        await asyncio.to_thread(silence[0], dc.physical())
        reads = [asyncio.create_task(_problem(first.list_domains())) for _ in range(FAST.short_connections - 1)]
        write = asyncio.create_task(_problem(first.create_volume("lq-state", VolumePlan("note", 0, "raw"))))
        await asyncio.sleep(0)
        queued = [asyncio.create_task(_problem(first.delete_volume("lq-state", f"n{n}"))) for n in range(40)]
        answers = await asyncio.gather(*reads)
        assert all(isinstance(answer, Transient) for answer in answers), answers
        assert all("keepalive" in str(answer) or "connection" in str(answer) for answer in answers), answers
        assert isinstance(await write, OutcomeUnknown)
        ended = await asyncio.gather(*queued)
        assert {type(answer) for answer in ended} == {OutcomeUnknown, Transient}  # sent, or never sent
        assert (
            sum(isinstance(answer, OutcomeUnknown) for answer in ended)
            <= FAST.short_connections + FAST.start_connections
        )
        assert await dc.gone()
        assert not first.alive
        assert isinstance(await _problem(first.list_domains()), Transient)
    assert second.alive
    await asyncio.to_thread(silence[1], dc.physical())
    again = await connected(dc.fleet, H1)
    assert again is not first
    assert again.uuid == first.uuid
    assert await again.list_domains() == ()
    assert isinstance(await _problem(first.list_domains()), Transient)  # it never comes back to life
    told = [event.kind for event in dc.events if event.node == H1 and not event.domain_name]
    assert told == ["connected", "closed", "connected"]


async def test_threads_of_a_silent_host_are_few_and_end(dc: Datacenter) -> None:
    host = await connected(dc.fleet, H1)
    await asyncio.to_thread(dc.physical().freeze)
    calls = [asyncio.create_task(_problem(host.list_domains())) for _ in range(200)]
    await asyncio.sleep(0.5)

    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("libvirt-h1-short")]

    assert len(threads()) == FAST.short_connections
    assert all(isinstance(answer, Transient) for answer in await asyncio.gather(*calls))
    await dc.gone()
    async with asyncio.timeout(30):
        while threads():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await asyncio.to_thread(dc.physical().thaw)


async def test_a_daemon_that_is_killed_is_found_again_with_its_guests(dc: Datacenter) -> None:
    host = await connected(dc.fleet, H1)
    plan = DomainPlan(
        Identity("i", "ns", "vm"), "u", Epoch(1, 1), "h", "", 1, 32, accel="tcg", guest_agent=False, rng=False
    )
    await host.define(plan)
    await host.start(plan.identity.domain_name, paused=True)
    await asyncio.to_thread(dc.physical().daemon_kill)
    assert "refuses connections" in await _until_why(dc.fleet, H1, "refuses")
    assert isinstance(await _problem(host.list_domains()), Transient)
    await asyncio.to_thread(dc.physical().daemon_start)
    again = await connected(dc.fleet, H1)
    (seen,) = await again.list_domains()
    assert (seen.identity, seen.state) == (plan.identity, DomainState.PAUSED)
    await again.destroy(seen.domain_name)
    assert (H1, "stopped:destroyed") in [(e.node, e.detail) for e in await _events(dc, "stopped")]


async def _events(dc: Datacenter, word: str) -> list[DomainEvent]:
    async with asyncio.timeout(30):
        while not any(e.detail.startswith(word) for e in dc.events):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return dc.events


async def _until_why(fleet: LibvirtFleet, node: NodeName, part: str) -> str:
    try:
        async with asyncio.timeout(60):
            while part not in fleet.why_down(node):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"why_down never says {part!r}, but: {fleet.why_down(node)!r}")
    return fleet.why_down(node)


async def test_a_hung_open_is_freed_and_tried_again(dc: Datacenter) -> None:
    dc.fleet.forget(H1)
    await asyncio.to_thread(dc.physical().freeze)  # its kernel still takes TCP connections
    dc.configure(H1)
    async with _busy_neighbour(await connected(dc.fleet, H2)):
        assert "does not answer as libvirtd" in await _until_why(dc.fleet, H1, "does not answer as")
        async with asyncio.timeout(30):  # the thread of the attempt was freed although the host is still frozen
            while any(t.name == "libvirt-h1-open" for t in threading.enumerate()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await asyncio.to_thread(dc.physical().thaw)
    assert await (await connected(dc.fleet, H1)).list_domains() == ()


async def test_closing_does_not_wait_for_a_frozen_host(dc: Datacenter) -> None:
    host = await connected(dc.fleet, H1)
    await asyncio.to_thread(dc.physical().freeze)
    hanging = asyncio.create_task(_problem(host.list_domains()))
    await asyncio.sleep(0.1)
    await dc.fleet.close()
    assert isinstance(await hanging, Transient)
    assert dc.fleet.host(H1) is None
    assert dc.fleet.host(H2) is None
    await asyncio.to_thread(dc.physical().thaw)


_EXITS = """
import asyncio, sys
from pathlib import Path
from lq_operator.adapters.libvirt.fleet import LibvirtFleet

async def main():
    fleet = LibvirtFleet()
    names = {"ca.crt": "cacert.pem", "tls.crt": "clientcert.pem", "tls.key": "clientkey.pem"}
    fleet.configure("h1", sys.argv[1], {key: (Path(sys.argv[2]) / name).read_bytes() for key, name in names.items()})
    while fleet.host("h1") is None:
        await asyncio.sleep(0.02)
    print("connected", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    call = asyncio.create_task(fleet.host("h1").list_domains())
    await asyncio.sleep(0.2)
    if sys.argv[3] == "close":
        await fleet.close()
    call.cancel()

asyncio.run(main())
print("left main", flush=True)
"""


@pytest.mark.parametrize("how", ["close", "forget-to-close"])
async def test_a_process_ends_while_a_host_is_frozen(dc: Datacenter, how: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *dc.lab.enter_argv,
        sys.executable,
        "-c",
        _EXITS,
        bare_uri(dc.physical()),
        str(dc.lab.client_pki),
        how,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"connected\n"
            await asyncio.to_thread(dc.physical().freeze)
            process.stdin.write(b"\n")
            assert await process.stdout.readline() == b"left main\n"
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.to_thread(dc.physical().thaw)


async def test_an_upload_ends_with_its_host_though_the_source_is_slow(dc: Datacenter) -> None:
    host = await connected(dc.fleet, H1)
    await host.ensure_pool(PoolPlan("lq-up", "/var/lib/libvirt/lq-up"))
    await host.create_volume("lq-up", VolumePlan("v", 1 << 20, "raw"))
    started = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        started.set()
        await asyncio.Event().wait()

    uploading = asyncio.create_task(_problem(host.upload("lq-up", "v", slow())))
    await started.wait()
    await asyncio.to_thread(dc.physical().freeze)
    assert isinstance(await uploading, OutcomeUnknown)
    await asyncio.to_thread(dc.physical().thaw)


# ---------------------------------------------------------------- who is not a host of ours


@pytest.fixture
async def alone(own_lab: Lab) -> AsyncIterator[LibvirtFleet]:
    """A fleet without hosts, inside the fabric."""
    with own_lab.entered():
        fleet = LibvirtFleet(FAST)
        yield fleet
        await fleet.close()


async def test_a_foreign_ca_is_named(alone: LibvirtFleet, own_lab: Lab) -> None:
    alone.configure(H1, bare_uri(own_lab.host("h1")), foreign_pki())
    assert "ca.crt" in await _until_why(alone, H1, "not signed by")


async def test_a_client_certificate_that_the_host_does_not_know(alone: LibvirtFleet, own_lab: Lab) -> None:
    right, wrong = credentials(own_lab), foreign_pki()
    # Consistent at our end (both CAs are trusted here), so that it is the host who refuses.
    alone.configure(H1, bare_uri(own_lab.host("h1")), {**wrong, "ca.crt": right["ca.crt"] + wrong["ca.crt"]})
    assert "tls.crt" in await _until_why(alone, H1, "refuses our certificate")
    assert alone.host(H1) is None


async def test_credentials_that_are_no_certificates(alone: LibvirtFleet, own_lab: Lab) -> None:
    for broken in ("ca.crt", "tls.crt", "tls.key"):
        node = NodeName(broken.replace(".", "-"))
        alone.configure(node, bare_uri(own_lab.host("h1")), {**credentials(own_lab), broken: b"scribble"})
        said = await _until_why(alone, node, "credentials Secret")
        assert "lq-host-" not in said  # a path of this process helps nobody


Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


async def _mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(100):
        pass
    writer.close()


async def _rude(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize(
    ("server", "scheme", "says"),
    [
        (_http, "qemu+tcp", "not libvirtd"),
        (_http, "qemu+tls", "does not speak TLS"),
        (_mute, "qemu+tcp", "does not answer as libvirtd"),
        (_mute, "qemu+tls", "does not answer as libvirtd"),
        (_rude, "qemu+tcp", "hung up"),
        (_rude, "qemu+tls", "TLS"),
    ],
)
async def test_a_port_that_is_not_libvirtd(
    alone: LibvirtFleet, own_lab: Lab, server: Server, scheme: str, says: str
) -> None:
    listening = await asyncio.start_server(server, "10.78.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        alone.configure(H1, f"{scheme}://10.78.0.1:{port}/system", credentials(own_lab))
        await _until_why(alone, H1, says)
    finally:
        alone.forget(H1)
        listening.close()


async def test_nobody_there_is_told_apart(alone: LibvirtFleet, own_lab: Lab) -> None:
    for name, where, says in (
        ("refused", "10.78.0.1:1", "refuses connections"),
        ("absent", "10.78.0.200:1", "10.78.0.200 port 1"),
        ("nameless", "no-such-host.invalid", "does not resolve"),
    ):
        node = NodeName(name)
        alone.configure(node, f"qemu+tls://{where}/system", credentials(own_lab))
        await _until_why(alone, node, says)
        assert alone.host(node) is None


# ---------------------------------------------------------------- configuration


def _secret_dirs() -> set[Path]:
    return set(Path(os.environ.get("TMPDIR", "/tmp")).glob("lq-host-*"))


async def test_the_same_words_change_nothing_other_words_reconnect(dc: Datacenter) -> None:
    host = await connected(dc.fleet, H1)
    dc.configure(H1)
    assert dc.fleet.host(H1) is host
    uri = bare_uri(dc.physical())
    dc.fleet.configure(H1, uri, {**credentials(dc.lab), "unused": b"new"})
    again = await connected(dc.fleet, H1)
    assert again is not host
    async with asyncio.timeout(30):
        while host.alive:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert again.alive
    await again.list_domains()


async def test_credentials_are_private_files_and_vanish(alone: LibvirtFleet, own_lab: Lab) -> None:
    before = _secret_dirs()
    alone.configure(H1, bare_uri(own_lab.host("h1")), credentials(own_lab))
    await connected(alone, H1)
    (made,) = _secret_dirs() - before
    assert made.stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o177 for path in made.iterdir()} == {0}
    alone.forget(H1)
    assert alone.host(H1) is None
    await alone.close()
    assert not (_secret_dirs() - before)


@pytest.fixture(params=["tcp", "ssh"])
def other_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    from tests.labfixtures import lab_name, require_lab

    require_lab(request.param)
    made = Lab.create(lab_name(f"-{request.param}"), hosts=1, controlplane=False, transport=request.param)
    try:
        made.up(print)
        yield made
    finally:
        made.down()


async def test_other_transports_connect_hang_and_come_back(other_lab: Lab) -> None:
    secret: dict[str, bytes] = {}
    if other_lab.host("h1").uri.startswith("qemu+ssh"):
        pki = other_lab.ssh_pki
        secret = {
            "ssh-privatekey": (pki / "id_ed25519").read_bytes(),
            "known_hosts": (pki / "known_hosts").read_bytes(),
        }
    with other_lab.entered():
        fleet = LibvirtFleet(FAST)
        uri = bare_uri(other_lab.host("h1"))
        fleet.configure(H1, uri, secret)
        host = await connected(fleet, H1)
        assert await host.list_domains() == ()
        await asyncio.to_thread(other_lab.host("h1").freeze)
        answer = await _problem(host.list_domains())
        assert isinstance(answer, Transient)
        await _until_why(fleet, H1, "h")
        if secret:
            fleet.configure(NodeName("stranger"), uri, {**secret, "known_hosts": b"10.78.0.99 ssh-ed25519 AAAA"})
            fleet.configure(NodeName("hung"), uri, secret)
            assert await _until_why(fleet, NodeName("hung"), "10.78.0.11")
        await asyncio.to_thread(other_lab.host("h1").thaw)
        await (await connected(fleet, H1)).list_domains()
        if secret:
            assert "known_hosts" in await _until_why(fleet, NodeName("stranger"), "known_hosts")
        await fleet.close()
