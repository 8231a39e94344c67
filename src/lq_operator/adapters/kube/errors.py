"""The API server's failures in the words of core/result. One table; nobody else looks at HTTP codes.

The leading question for a write is whether it may have happened: then it is OutcomeUnknown, never Transient.
"""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from lq_operator.core.result import Conflict, NotFound, OutcomeUnknown, Rejected, Transient, WorldError


class ListExpired(Transient):
    """410: the continue token of a paged list is too old; start the list again."""


class Denied(Transient):
    """401, 403 of RBAC: passes by itself only just after an API server start; a person must ask for rights."""


def error_of_transport(error: BaseException, *, what: str, write: bool) -> WorldError:
    """A call that got no (whole) answer. Refused connections and failed handshakes happened before anything was sent."""
    text = str(error) or type(error).__name__
    unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL)
    if write and not unsent:
        return OutcomeUnknown(f"no answer from the API server to a write of {what} ({text}): it may have happened")
    return Transient(f"the API server did not answer for {what}: {text}")


def _status_of(payload: bytes) -> dict[str, Any]:
    try:
        decoded = json.loads(payload)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) and decoded.get("kind") == "Status" else {}


def error_of_response(code: int, payload: bytes, *, what: str, write: bool, patch: str = "") -> WorldError:
    """Map an HTTP status and its metav1.Status."""
    status = _status_of(payload)
    message = str(status.get("message") or payload[:300].decode("utf-8", "replace")).strip() or f"HTTP {code}"
    if code == 404:
        return _of_not_found(status, what, message)
    if code == 409:
        return Conflict(f"{what}: {message}")
    if code == 410:
        return ListExpired(f"{what}: {message}")
    if code == 422:
        return _of_unprocessable(status, what, message, patch)
    if code == 429:
        return Transient(f"the API server is busy ({what}): {message}")
    if code in (401, 403):
        return _of_denied(code, what, message)
    if code >= 500:
        # Also 503: a load balancer says it after it has passed the request on.
        if write:
            return OutcomeUnknown(f"the API server failed during a write of {what} (HTTP {code}: {message})")
        return Transient(f"the API server failed for {what} (HTTP {code}: {message})")
    return Rejected(f"{what}: the API server refuses this (HTTP {code}): {message}")


def _of_not_found(status: dict[str, Any], what: str, message: str) -> WorldError:
    # A 404 proves absence only when the API server names the object. A kind that is not served (no CRD, or the API
    # server is still loading it after a start) is answered with a plain page, and must not read as "gone".
    if (status.get("details") or {}).get("name"):
        return NotFound(f"{what} does not exist")
    return Transient(f"the API server does not serve the kind of {what}: {message}; are the CRDs installed?")


def _of_denied(code: int, what: str, message: str) -> WorldError:
    if code == 403 and " cannot " not in message:
        return Rejected(f"{what}: forbidden by a policy or quota: {message}")
    # RBAC answers this for seconds after an API server start too, so it is retried; the remedy is in the text.
    return Denied(f"not allowed ({what}): {message}; check the ServiceAccount's token and RBAC rules")


def _of_unprocessable(status: dict[str, Any], what: str, message: str, patch: str) -> WorldError:
    causes = [cause for cause in (status.get("details") or {}).get("causes") or () if isinstance(cause, dict)]
    field = next((str(cause["field"]) for cause in causes if cause.get("field")), None)
    if patch == "application/json-patch+json" and field is None:
        # A failed test, or a path that is not there (any more): the object is not as it was read.
        return Conflict(f"{what} has changed: {message}")
    return Rejected(f"{what}: {message}", field=field)
