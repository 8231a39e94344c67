"""The table of API server failures: what may have happened, what is absent, what needs a person."""

from __future__ import annotations

import json

import aiohttp
import pytest

from lq_operator.adapters.kube.errors import Denied, ListExpired, error_of_response, error_of_transport
from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected, Transient, WorldError


def status(message: str = "", **details: object) -> bytes:
    return json.dumps({"kind": "Status", "message": message, "details": details}).encode()


@pytest.mark.parametrize(
    ("code", "payload", "write", "patch", "expected"),
    [
        (404, status("gone", name="w"), False, "", NotFound),
        (404, b"404 page not found", False, "", Transient),  # the kind is not served: no proof of absence
        (404, status("the server could not find the requested resource"), True, "", Transient),
        (409, status("exists"), True, "", Conflict),
        (410, status("continue token expired"), False, "", ListExpired),
        (422, status("test failed"), True, "application/json-patch+json", Conflict),
        (422, status("bad", causes=[{"field": "spec.size"}]), True, "application/json-patch+json", Rejected),
        (422, status("bad", causes=[{"field": "spec.size"}]), True, "application/json", Rejected),
        (429, status("slow down"), True, "", Transient),
        (400, status("no"), True, "", Rejected),
        (401, status("Unauthorized"), False, "", Denied),
        (403, status('vms is forbidden: User "x" cannot get resource'), False, "", Denied),
        (403, status("exceeded quota: q"), True, "", Rejected),
        (500, b"etcdserver: request timed out", True, "", OutcomeUnknown),
        (503, b"upstream connect error", True, "", OutcomeUnknown),
        (504, b"", True, "", OutcomeUnknown),
        (503, b"", False, "", Transient),
    ],
)
def test_codes(code: int, payload: bytes, write: bool, patch: str, expected: type[WorldError]) -> None:
    error = error_of_response(code, payload, what="Widget n/w", write=write, patch=patch)
    assert type(error) is expected
    assert "Widget n/w" in str(error)


def test_the_field_of_a_validation_error_is_named() -> None:
    payload = status("bad", causes=[{"reason": "x"}, {"field": "spec.cpu.cores"}])
    error = error_of_response(422, payload, what="w", write=True)
    assert isinstance(error, Rejected)
    assert error.field == "spec.cpu.cores"


@pytest.mark.parametrize(
    ("error", "write_becomes"),
    [
        (aiohttp.ServerDisconnectedError(), OutcomeUnknown),
        (aiohttp.ClientOSError(104, "reset"), OutcomeUnknown),
        (aiohttp.ClientPayloadError(), OutcomeUnknown),
        (TimeoutError(), OutcomeUnknown),
        (aiohttp.ConnectionTimeoutError(), Transient),  # nothing was sent
    ],
)
def test_transport(error: Exception, write_becomes: type[WorldError]) -> None:
    assert type(error_of_transport(error, what="w", write=True)) is write_becomes
    assert type(error_of_transport(error, what="w", write=False)) is Transient
