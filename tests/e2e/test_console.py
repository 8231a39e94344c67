"""Consoles and screens, by the real kubectl in a real terminal, through the API server's proxy and the gateway."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import asyncvnc
import numpy as np
import pytest
from PIL import Image
from tests.e2e.datacenter import PATIENCE_S, Datacenter, vm_manifest
from tests.e2e.terminal import Terminal
from tests.e2e.test_plugin import NOT_DONE, Plugin

VM, ME, READER, NOBODY = "con", "console-me", "console-reader", "console-nobody"
EV_KEY, KEY_Q = 1, 16
CTRL_C, LEAVE = "\x03", "\x1d"

Open = Callable[..., AbstractContextManager[Terminal]]


def _role(name: str, verbs: list[str]) -> dict[str, object]:
    resources = ["virtualmachines/console", "virtualmachines/vnc", "virtualmachines/screenshot"]
    rules = [{"apiGroups": ["limiquantix.io"], "resources": resources, "verbs": verbs}]
    api = "rbac.authorization.k8s.io"
    return {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules}


def grant(dc: Datacenter, who: str, verbs: list[str]) -> None:
    """A ServiceAccount that may do this to consoles in the tests' namespace."""
    dc.kubectl("create", "serviceaccount", who)
    if verbs:
        dc.kubectl("apply", "-f", "-", stdin=json.dumps(_role(who, verbs)))
        dc.kubectl("create", "rolebinding", who, f"--role={who}", f"--serviceaccount={dc.namespace}:{who}")


@pytest.fixture(scope="module")
def plugin(dc: Datacenter) -> Iterator[Plugin]:
    dc.apply(vm_manifest(VM))
    grants = {ME: ["get", "update"], READER: ["get"], NOBODY: []}
    for who, verbs in grants.items():
        grant(dc, who, verbs)
    dc.wait_guest(VM)
    yield Plugin(dc)
    for who in grants:
        dc.kubectl("delete", "serviceaccount,role,rolebinding", who, "--ignore-not-found")
    dc.delete("VirtualMachine", VM)
    dc.wait_gone("VirtualMachine", VM)


@pytest.fixture
def console(plugin: Plugin) -> Open:
    @contextlib.contextmanager
    def open_(who: str, *flags: str) -> Iterator[Terminal]:
        argv = [
            plugin.kubectl,
            "lq",
            "console",
            f"vm/{VM}",
            "-n",
            plugin.dc.namespace,
            "--service-account",
            who,
            *flags,
        ]
        terminal = Terminal(argv, plugin.environ)
        try:
            yield terminal
        finally:
            terminal.close()

    return open_


def answer(terminal: Terminal, number: int) -> None:
    """A command that only a shell in the guest answers so: what is typed does not contain the answer."""
    terminal.type(f"\recho answer-$(({number} + 0))\r")
    terminal.expect(rf"\nanswer-{number}\r")


def test_one_types_two_read_and_a_latecomer_sees_what_was(console: Open) -> None:
    with console(ME) as first:
        first.expect("you type")
        first.expect(rf"the console of vm/{VM} on h\d")
        answer(first, 1)
        with console(READER) as second:
            second.expect("you read only")
            second.expect(r"\nanswer-1\r")  # what was printed before it came
            answer(first, 2)
            second.expect(r"\nanswer-2\r")
            second.type("\recho typed-by-$((1 + 1))\r")
            answer(first, 3)
            second.expect(r"\nanswer-3\r")
            assert "typed-by-2" not in first.screen
            second.type(LEAVE)
            assert second.ended() == 0
        with console(ME) as third:
            third.expect("you read only: .* types")
        with console(ME, "--take") as fourth:
            fourth.expect("you type")
            first.expect("you read only now")
            answer(fourth, 4)
        first.resize(77, 21)
        first.expect("stty cols 77 rows 21")
        first.type(LEAVE)
        assert first.ended() == 0
        assert first.restored()


def test_control_c_is_the_guests(console: Open) -> None:
    with console(ME) as terminal:
        terminal.expect(rf"the console of vm/{VM} on h\d")
        terminal.type("\rsleep 1000\r")
        terminal.expect(r"sleep 1000\r")
        terminal.type(CTRL_C)
        answer(terminal, 5)


def test_scripts_type_and_read(plugin: Plugin) -> None:
    out = plugin.lq("console", f"vm/{VM}", "--service-account", ME, "--linger", "5", stdin="\necho script-$((6 + 0))\n")
    assert "\nscript-6\n" in out


def test_who_may_not_is_refused_and_it_is_logged(plugin: Plugin) -> None:
    log = plugin.dc.lab.supervisor.log("lq-operator-gateway")
    before = len(log.read_text())
    for what in ("console", "screenshot"):
        said = plugin.lq(what, f"vm/{VM}", "--service-account", NOBODY, code=NOT_DONE, stdin="")
        assert f"it needs the verb get on virtualmachines/{what}" in said
        assert "try again" not in said
    assert "does not accept this token" in plugin.lq(
        "console", f"vm/{VM}", "--token", "nonsense", code=NOT_DONE, stdin=""
    )
    lines = [json.loads(line) for line in log.read_text()[before:].splitlines() if '"refused"' in line]
    account = f"system:serviceaccount:{plugin.dc.namespace}:{NOBODY}"
    assert [(line["what"], line["who"], line["status"], line["vm"]) for line in lines] == [
        ("console", account, 403, f"{plugin.dc.namespace}/{VM}"),
        ("screenshot", account, 403, f"{plugin.dc.namespace}/{VM}"),
        ("console", "", 401, f"{plugin.dc.namespace}/{VM}"),
    ]
    # A VM that does not exist is no secret told to those who may not ask.
    refused = plugin.run("lq", "screenshot", "vm/nobodys", "--service-account", NOBODY)
    assert refused.returncode == NOT_DONE


def test_a_right_that_is_taken_away_ends_the_session(plugin: Plugin, console: Open) -> None:
    with console(READER) as terminal:
        terminal.expect(rf"the console of vm/{VM} on h\d")
        plugin.dc.kubectl("delete", "rolebinding", READER)
        assert terminal.ended() == NOT_DONE
        assert "taken away" in terminal.screen
        assert terminal.restored()


def test_libvirtd_dies_and_the_console_comes_back(plugin: Plugin, console: Open) -> None:
    host = plugin.dc.host_of(VM)
    boot = plugin.dc.boot_id(VM)
    with console(ME) as terminal:
        terminal.expect("the console of vm")
        answer(terminal, 7)
        at = len(terminal.screen)
        host.daemon_kill()
        at = terminal.expect(r"\[[^\]]*(ended|does not answer|refuses)[^\]]*\]", after=at)
        host.daemon_start()
        host.wait_up()
        terminal.expect("the console of vm", after=at)
        answer(terminal, 8)
    assert plugin.dc.boot_id(VM) == boot


def test_the_gateway_dies_and_the_console_comes_back(plugin: Plugin, console: Open) -> None:
    with console(ME) as terminal:
        at = terminal.expect("the console of vm")
        plugin.dc.lab.supervisor.kill("lq-operator-gateway")
        at = terminal.expect("connected again", after=at)
        terminal.expect("the console of vm", after=at)
        answer(terminal, 9)


def test_screenshot_is_a_picture(plugin: Plugin) -> None:
    done = plugin.run("lq", "screenshot", f"vm/{VM}", "--service-account", ME, "-f", "-", binary=True)
    assert done.returncode == 0, done.stderr
    picture = Image.open(io.BytesIO(done.stdout))
    assert picture.format == "PNG"
    assert picture.width >= 640
    assert picture.height >= 400
    colours = picture.convert("RGB").getcolors(1 << 24)
    assert len(colours) > 1


async def test_a_vnc_viewer_sees_the_screen_and_presses_keys(plugin: Plugin) -> None:
    dc = plugin.dc
    for device in dc.guest(VM, "ls /dev/input").split():
        dc.guest(VM, f"setsid cat /dev/input/{device} > /run/keys-{device} 2>&1 < /dev/null &")
    argv = [plugin.kubectl, "lq", "vnc", f"vm/{VM}", "-n", dc.namespace, "--service-account", ME, "-o", "json"]
    bridge = await asyncio.create_subprocess_exec(*argv, env=plugin.environ, stdout=asyncio.subprocess.PIPE)
    try:
        assert bridge.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            said = json.loads(await bridge.stdout.readuntil(b"}"))
            async with asyncvnc.connect(said["host"], said["port"]) as viewer:
                seen = await viewer.screenshot()
                viewer.keyboard.press("q")
                viewer.mouse.move(100, 100)
                await viewer.drain()
                while not _pressed(dc, KEY_Q):  # noqa: ASYNC110 - a guest has no event to wait for
                    await asyncio.sleep(0.2)
    finally:
        bridge.kill()
        await bridge.wait()
    assert seen.shape[0] >= 400
    assert seen.shape[1] >= 640
    assert len(np.unique(seen[:, :, :3].reshape(-1, 3), axis=0)) > 1


def _pressed(dc: Datacenter, code: int) -> bool:
    """An input device of the guest has told its kernel so: struct input_event, EV_KEY, value 1."""
    raw = base64.b64decode(dc.guest(VM, "cat /run/keys-* | base64"))
    events = [struct.unpack("<qqHHi", raw[at : at + 24]) for at in range(0, len(raw) - 23, 24)]
    return (EV_KEY, code, 1) in [event[2:] for event in events]


def test_nobody_sees_a_screen_without_the_right(plugin: Plugin) -> None:
    said = plugin.lq("vnc", f"vm/{VM}", "--service-account", NOBODY, code=NOT_DONE)
    assert "it needs the verb get on virtualmachines/vnc" in said


def test_the_guest_starts_anew_and_the_console_follows(plugin: Plugin, console: Open) -> None:
    with console(ME) as terminal:
        at = terminal.expect("the console of vm")
        plugin.lq("restart", f"vm/{VM}", "--force")
        at = terminal.expect("the console ended", after=at)
        at = terminal.expect("the console of vm", after=at)
        terminal.expect(rf"GUEST-BOOTED .* host={VM}", after=at)
    plugin.dc.wait_guest(VM)
    log = plugin.dc.xml(VM).find("devices/serial/log").get("file")
    assert "answer-9" in plugin.dc.host_of(VM).exec(["cat", log], check=True).stdout  # the log holds both starts
