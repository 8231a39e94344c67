"""Simulator runs are quiet and honest: nothing is logged, and a pass that ended by a bug fails the test."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog


@pytest.fixture(autouse=True)
def bugs() -> Iterator[list[BaseException]]:
    """Every exception that a controller logged as a bug."""
    found: list[BaseException] = []

    def collect(_logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        error = event.get("exc_info")
        if method in ("error", "exception") and "a bug ended" in str(event.get("event")):
            found.append(error if isinstance(error, BaseException) else RuntimeError(str(event)))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[collect], cache_logger_on_first_use=False)
    yield found
    structlog.configure(**before)
    if found:
        raise found[0]
