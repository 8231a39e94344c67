"""Structured logs: one JSON object per line on stderr, for our own lines and for every library's.

Every line carries `component`, `vm`, `node` and `epoch` (null where none applies), so that one filter finds the
whole story of a VM. Refuses to print secrets (see redaction).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TextIO

import structlog

from lq_operator.telemetry.redaction import REDACTED, is_secret_key, redact

_ALWAYS_PRESENT = ("vm", "node", "epoch")
_PLUMBING = ("_record", "_from_structlog")  # structlog's own, taken off again before rendering

# kopf and the client log every event and request below INFO; access lines of probes say nothing anyone needs.
_LIBRARY_LEVELS = {
    "kopf": logging.INFO,
    "kopf.objects": logging.WARNING,  # an info line for every event of every object
    "kubernetes": logging.INFO,
    "kubernetes.client.rest": logging.INFO,
    "aiohttp": logging.INFO,
    "aiohttp.access": logging.WARNING,
    "asyncio": logging.WARNING,
    "grpc": logging.WARNING,
    "urllib3": logging.WARNING,
}

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(level: str, component: str, stream: TextIO | None = None) -> None:
    """Send every log record of the process to `stream` (stderr) as JSON lines.

    `level` is debug, info, warning or error; libraries stay at INFO or above whatever it says. `component` names
    the process (run, scheduler, drs, ha, importer). Calling it again replaces the set-up. Raises ValueError for
    an unknown level.
    """
    number = _LEVELS.get(level.lower())
    if number is None:
        raise ValueError(f"log level {level!r} is unknown; use one of {', '.join(_LEVELS)}")

    def add_component(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("component", component)
        for key in _ALWAYS_PRESENT:
            event.setdefault(key, None)
        return event

    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        # Redacted before it becomes a record: another handler on the root logger must not see secrets either.
        processors=[*shared, redact_event, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Tests and `configure` called twice must take effect on loggers that exist already.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, name_kopf_object, redact_event],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                add_component,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    for name, lowest in _LIBRARY_LEVELS.items():
        library = logging.getLogger(name)
        library.setLevel(max(lowest, number))
        library.propagate = True
        for old in list(library.handlers):
            library.removeHandler(old)
    logging.captureWarnings(True)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry the fields bound by `bound`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def bound(vm: str | None = None, node: str | None = None, epoch: str | None = None, **fields: Any) -> Iterator[None]:
    """Bind fields to every line logged inside, also by libraries and by tasks created inside.

    `vm` is namespace/name, `node` a HypervisorNode's name, `epoch` is written as the placement writes it. A None
    leaves what an outer block has bound.
    """
    known = {"vm": vm, "node": node, "epoch": epoch}
    with structlog.contextvars.bound_contextvars(**{k: v for k, v in known.items() if v is not None}, **fields):
        yield


def flush() -> None:
    """Write out what handlers still hold; for the moment before an exit that runs no clean-up."""
    for handler in logging.getLogger().handlers:
        try:
            handler.flush()
        except (OSError, ValueError):  # a closed pipe must not stop the exit
            continue


def redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: every field through redaction, fields named like secrets replaced whole."""
    return {
        str(key): value
        if key in _PLUMBING
        else REDACTED
        if value is not None and is_secret_key(str(key))
        else redact(value)
        for key, value in event.items()
    }


def name_kopf_object(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: kopf hangs the object it speaks of on the record; put it under our names."""
    record = event.get("_record")
    reference = getattr(record, "k8s_ref", None)
    if isinstance(reference, dict):
        kind, name, namespace = (reference.get(key) for key in ("kind", "name", "namespace"))
        if kind == "VirtualMachine":
            event.setdefault("vm", f"{namespace}/{name}")
        elif kind == "HypervisorNode":
            event.setdefault("node", name)
        else:
            event.setdefault("object", "/".join(str(part) for part in (kind, namespace, name) if part))
    return event
