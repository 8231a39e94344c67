"""The log set-up end to end: real loggers in, JSON lines out."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pydantic
import pytest
import structlog

from lq_operator.telemetry import logging as lq_logging
from lq_operator.telemetry.redaction import MAX_TEXT_CHARS, REDACTED, is_secret_key, redact_text

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    stream = io.StringIO()
    lq_logging.configure("debug", "run", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], root.level = before[0], before[1]
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_every_line_has_component_vm_node_epoch(lines: Lines) -> None:
    log = lq_logging.get_logger("lq.test")
    log.info("outside")
    with lq_logging.bound(vm="team-a/web", node="h1"):
        log.info("in", attempt=2)
        with lq_logging.bound(epoch="7.1"):
            logging.getLogger("some.library").warning("foreign %s", "line")
    outside, inside, foreign = lines()
    assert (outside["component"], outside["vm"], outside["node"], outside["epoch"]) == ("run", None, None, None)
    assert (inside["vm"], inside["node"], inside["epoch"], inside["attempt"]) == ("team-a/web", "h1", None, 2)
    assert (foreign["vm"], foreign["epoch"], foreign["event"], foreign["level"]) == (
        "team-a/web",
        "7.1",
        "foreign line",
        "warning",
    )
    assert foreign["logger"] == "some.library"
    assert foreign["timestamp"].endswith("Z")


async def test_bound_fields_follow_tasks_and_do_not_leak(lines: Lines) -> None:
    log = lq_logging.get_logger("lq.test")

    async def work(vm: str) -> None:
        with lq_logging.bound(vm=vm):
            await asyncio.sleep(0)
            log.info("work", expected=vm)

    await asyncio.gather(*(work(f"ns/{n}") for n in range(20)))
    assert len(lines()) == 20
    assert all(line["vm"] == line["expected"] for line in lines())


def test_kopf_and_kubernetes_are_routed_at_info(lines: Lines) -> None:
    for name in ("kopf.reactor", "kubernetes.client.rest"):
        logging.getLogger(name).debug("quiet")
        logging.getLogger(name).info("heard")
    logging.getLogger("kopf.objects").info("one for every event")
    logging.getLogger("kopf.objects").error("Throttling for 1 seconds")
    assert [(line["logger"], line["event"]) for line in lines()] == [
        ("kopf.reactor", "heard"),
        ("kubernetes.client.rest", "heard"),
        ("kopf.objects", "Throttling for 1 seconds"),
    ]


def test_kopf_objects_are_named_our_way(lines: Lines) -> None:
    kopf = logging.getLogger("kopf.objects")
    kopf.warning("a", extra={"k8s_ref": {"kind": "VirtualMachine", "name": "web", "namespace": "team-a"}})
    kopf.warning("b", extra={"k8s_ref": {"kind": "HypervisorNode", "name": "h1", "namespace": None}})
    kopf.warning("c", extra={"k8s_ref": {"kind": "StoragePool", "name": "p", "namespace": None}})
    a, b, c = lines()
    assert (a["vm"], b["node"], c["object"]) == ("team-a/web", "h1", "StoragePool/p")


def test_level_is_obeyed_and_unknown_level_is_refused(lines: Lines) -> None:
    stream = io.StringIO()
    lq_logging.configure("warning", "drs", stream)
    lq_logging.get_logger("x").info("no")
    logging.getLogger("kopf").info("no")
    lq_logging.get_logger("x").warning("yes")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes"]
    assert lines() == []
    with pytest.raises(ValueError, match=r"'loud'.*debug, info, warning, error"):
        lq_logging.configure("loud", "drs")


@pytest.mark.parametrize(
    "key",
    [
        "user_data",
        "userData",
        "USER-DATA",
        "password",
        "db_password",
        "token",
        "bearerToken",
        "secret",
        "client_secret",
        "private_key",
        "privateKey",
        "Authorization",
        "api_key",
        "credentials",
        "passphrase",
    ],
)
def test_secret_keys_are_redacted_at_every_depth(lines: Lines, key: str) -> None:
    value = "hunter2-zq"
    lq_logging.get_logger("x").info("m", **{key: value})
    lq_logging.get_logger("x").info("m", spec={"cloudInit": [{key: {"inner": value}}]})
    for line in lines():
        assert value not in json.dumps(line)
        assert REDACTED in json.dumps(line)


def test_names_of_secrets_stay_readable(lines: Lines) -> None:
    lq_logging.get_logger("x").info("m", secret_name="web-seed", passwordRef={"name": "n", "password": "hunter2-zq"})
    (line,) = lines()
    assert line["secret_name"] == "web-seed"
    assert line["passwordRef"] == {"name": "n", "password": REDACTED}
    assert not is_secret_key("node")


@dataclasses.dataclass(frozen=True, slots=True)
class _Seed:
    hostname: str
    user_data: str


class _Spec(pydantic.BaseModel):
    name: str
    password: str


class _Opaque:
    def __repr__(self) -> str:
        return "Opaque(password='hunter2-zq', n=3)"


class _Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_objects_are_opened_rather_than_printed(lines: Lines) -> None:
    lq_logging.get_logger("x").info(
        "m",
        seed=_Seed("web", "hunter2-zq"),
        spec=_Spec(name="n", password="hunter2-zq"),
        opaque=_Opaque(),
        broken=_Broken(),
        raw=b"token=hunter2-zq",
        keys={("a", 1): {1, 2}},
    )
    (line,) = lines()
    assert "hunter2-zq" not in json.dumps(line)
    assert line["seed"] == {"hostname": "web", "user_data": REDACTED}
    assert line["spec"]["name"] == "n"
    assert "n=3" in line["opaque"]
    assert "repr failed" in line["broken"]


def test_exceptions_are_scrubbed_and_complete(lines: Lines) -> None:
    try:
        raise ValueError("cannot reach https://bob:hunter2-zq@host/x with password: 'hunter2-zq', node h1")
    except ValueError:
        logging.getLogger("lib").exception("failed")
    (line,) = lines()
    assert "hunter2-zq" not in json.dumps(line)
    assert "ValueError" in line["exception"]
    assert "node h1" in line["exception"]
    assert "https://bob:" in line["exception"]


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefgh12345678zq",
        "got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0zq.c2lnbmF0dXJlenE for it",
        '{"user_data": "#cloud-config\\nzq \\" zq"}',
        "{'userData': 'zq', 'n': 1}",
        "vendor-data=zq",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIzq\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIIzq cut off",
        "db_password=zq",
    ],
)
def test_texts_lose_secrets(text: str) -> None:
    assert "zq" not in redact_text(text)


def test_harmless_texts_are_untouched() -> None:
    for text in ("domain web started on h1", "term 7 beat 12", "the password was refused", "qemu+tls://h1/system"):
        assert redact_text(text) == text


def test_long_and_hostile_texts(lines: Lines) -> None:
    lq_logging.get_logger("x").info('a\n{"forged": 1}', xml="x" * 1_000_000, odd="\ud800")
    (line,) = lines()
    assert line["event"].startswith("a\n")
    assert len(line["xml"]) < MAX_TEXT_CHARS + 100
    assert "1000000 characters" in line["xml"]


def test_a_secret_at_the_cut_is_not_half_shown() -> None:
    text = "x" * (MAX_TEXT_CHARS - 20) + " password='" + "zq" * MAX_TEXT_CHARS
    assert "zq" not in redact_text(text)


def test_flush_before_a_hard_exit() -> None:
    code = (
        "import os; from lq_operator.telemetry import logging as l; l.configure('info', 'run');"
        "l.get_logger('x').info('last words'); l.flush(); os._exit(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert json.loads(done.stderr)["event"] == "last words"
