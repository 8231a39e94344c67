"""Coordination by coordination.k8s.io/v1 Lease objects: the default backend.

One Lease `lq-<name>` per leased thing and one, `lq-terms`, for the installation's term counter. The renewTime in a
Lease is for people; takeover is judged by how long this process has seen a Lease unchanged. Never writes without a
tested precondition.
"""

from __future__ import annotations

import datetime
import math
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException, CoordinationV1Api

from lq_operator.adapters.coordination.lease import LeaseCoordination, Record, Timing
from lq_operator.core.result import Conflict, Fenced, Rejected, Transient
from lq_operator.ports import Grant
from lq_operator.telemetry import metrics

T = TypeVar("T")

TERM = "limiquantix.io/term"
BEAT = "limiquantix.io/beat"
LABEL = "limiquantix.io/coordination"
TERMS_OBJECT = "lq-terms"
_JSON_PATCH = "application/json-patch+json"
_TERM_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class _Seen:
    """One Lease as read."""

    name: str
    record: Record
    uid: str
    resource_version: str
    ttl_s: float
    stamp: str
    annotations: dict[str, str]
    labels: dict[str, str]

    @property
    def fingerprint(self) -> tuple[str, Record, str]:
        """Changes with every renewal. Not the resourceVersion: a label set by somebody is no sign of life."""
        return self.uid, self.record, self.stamp


class KubernetesLeases(LeaseCoordination):
    """Leases in `namespace`, which must exist; needs get, list, create and patch on leases there.

    `client` should be one of its own: in a shared connection pool a renewal waits behind everybody's lists.
    """

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        process_name: str,
        timing: Timing | None = None,
        **options: Any,
    ) -> None:
        super().__init__(process_name, timing, **options)
        self._api = CoordinationV1Api(client)
        self._namespace = namespace
        self._first_seen: dict[str, tuple[tuple[str, Record, str], float]] = {}
        self._uids: dict[tuple[str, int], str] = {}

    async def _try_acquire(self, name: str, above_term: int) -> Grant | None:
        leases = await self._call(self._list(), "reading", name)
        seen = leases.get(_object_name(name))
        if seen is None:  # not there, or somebody took our label off
            seen = await self._call(self._get(_object_name(name)), "reading", name)
        if seen is not None and not self._may_take(name, seen):
            self._tell(name, seen.record.holder)
            return await self._adopt(name, seen.record)
        floor = max([above_term, *(other.record.term for other in leases.values())])
        term = await self._take_term(leases.get(TERMS_OBJECT), floor)
        found = (0, 0) if seen is None else (seen.record.term, seen.record.beat)
        grant = self._new_grant(name, term, found, self._mono_s())
        self._pending[name] = grant
        written = await self._call(self._take(grant, seen), "acquiring", name)
        self._uids[name, term] = written.uid
        self._first_seen.pop(name, None)
        return grant

    def _may_take(self, name: str, seen: _Seen) -> bool:
        """Nobody's, or unchanged for its whole time while we watched; counted from after the first reading."""
        now = self._mono_s()
        if not seen.record.holder:
            return True
        known = self._first_seen.get(name)
        if known is None or known[0] != seen.fingerprint:
            self._first_seen[name] = (seen.fingerprint, now)
            return False
        # The holder may have been started with a longer time than ours.
        return now - known[1] > max(seen.ttl_s, self.timing.ttl_s)

    async def _take(self, grant: Grant, seen: _Seen | None) -> _Seen:
        annotations = {**(seen.annotations if seen else {}), TERM: str(grant.term), BEAT: str(grant.beat)}
        spec = self._spec(grant.holder)
        if seen is None:
            return await self._create(_object_name(grant.name), annotations, spec)
        return await self._patch(
            _object_name(grant.name),
            [
                *_unchanged(seen),
                *_metadata(seen, annotations),
                {"op": "add", "path": "/spec", "value": spec},
            ],
        )

    async def _take_term(self, counter: _Seen | None, floor: int) -> int:
        """The next term of the installation, written down before anybody acts under it. A term may be wasted."""
        for _ in range(_TERM_ATTEMPTS):
            term = max(floor, counter.record.term if counter else 0) + 1
            try:
                await self._call(self._write_term(counter, term), "counting the term of", TERMS_OBJECT)
                return term
            except Conflict:
                counter = await self._call(self._get(TERMS_OBJECT), "reading", TERMS_OBJECT)
        raise Transient(f"the term counter {TERMS_OBJECT!r} changed under us {_TERM_ATTEMPTS} times in a row")

    async def _write_term(self, counter: _Seen | None, term: int) -> None:
        if counter is None:
            await self._create(TERMS_OBJECT, {TERM: str(term)}, {})
            return
        change = _metadata(counter, {**counter.annotations, TERM: str(term)})
        await self._patch(TERMS_OBJECT, [*_unchanged(counter), *change])

    async def _write_renewal(self, grant: Grant) -> Record | None:
        name = _object_name(grant.name)
        # By value, not by resourceVersion: a restored API server hands the same numbers out again.
        tests = [*_of_holder(grant, self._uid_of(grant)), _test(f"/metadata/annotations/{_pointer(BEAT)}", grant.beat)]
        change = [
            {"op": "replace", "path": f"/metadata/annotations/{_pointer(BEAT)}", "value": str(grant.beat + 1)},
            {"op": "add", "path": "/spec/renewTime", "value": _now()},
        ]
        try:
            await self._patch(name, [*tests, *change])
        except Conflict:
            seen = await self._get(name)
            if seen is None or seen.uid != self._uid_of(grant):
                raise Fenced(f"lease {grant.name!r}, term {grant.term}: its object was deleted; stop acting") from None
            return seen.record
        except Rejected as error:
            # Permissions and tokens change under a running process; the grant's own time decides when it is over.
            raise Transient(str(error)) from error
        return None

    async def _write_release(self, grant: Grant) -> None:
        uid = self._uids.pop((grant.name, grant.term), None)
        if uid is None:
            return
        change = {"op": "replace", "path": "/spec/holderIdentity", "value": ""}
        try:
            await self._patch(_object_name(grant.name), [*_of_holder(grant, uid), change])
        except Conflict:  # no longer ours
            return

    async def _read_highest(self) -> tuple[int, int]:
        leases = await self._list()
        return max(((seen.record.term, seen.record.beat) for seen in leases.values()), default=(0, 0))

    async def _adopt(self, name: str, record: Record) -> Grant | None:
        pending = self._pending.get(name)
        if pending is not None and record.is_of(pending) and (name, record.term) not in self._uids:
            seen = await self._call(self._get(_object_name(name)), "reading", name)
            if seen is None or not seen.record.is_of(pending):
                return None
            self._uids[name, record.term] = seen.uid
        return await super()._adopt(name, record)

    # -- the API ---------------------------------------------------------------------------------------------------

    def _uid_of(self, grant: Grant) -> str:
        return self._uids[grant.name, grant.term]

    def _spec(self, holder: str) -> dict[str, Any]:
        now = _now()
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": math.ceil(self.timing.ttl_s),
            "acquireTime": now,
            "renewTime": now,
        }

    async def _list(self) -> dict[str, _Seen]:
        answer = await self._do(
            "list", lambda: self._api.list_namespaced_lease(self._namespace, label_selector=f"{LABEL}=lease")
        )
        found = [_seen(item) for item in answer.items]
        return {seen.name: seen for seen in found}

    async def _get(self, name: str) -> _Seen | None:
        try:
            return _seen(await self._do("get", lambda: self._api.read_namespaced_lease(name, self._namespace)))
        except Conflict:  # 404
            return None

    async def _create(self, name: str, annotations: dict[str, str], spec: dict[str, Any]) -> _Seen:
        body: Any = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "labels": {LABEL: "lease"}, "annotations": annotations},
            "spec": spec,
        }
        return _seen(await self._do("create", lambda: self._api.create_namespaced_lease(self._namespace, body)))

    async def _patch(self, name: str, operations: list[dict[str, Any]]) -> _Seen:
        body: Any = operations
        return _seen(
            await self._do(
                "patch",
                lambda: self._api.patch_namespaced_lease(name, self._namespace, body, _content_type=_JSON_PATCH),
            )
        )

    async def _do(self, verb: str, request: Callable[[], Awaitable[T]]) -> T:
        """One request, its errors in our words. Conflict stands for 404, 409 and a failed test (422) alike."""
        if verb in ("create", "patch"):
            metrics.API_WRITES.labels("Lease", verb).inc()
        try:
            return await request()
        except ApiException as error:
            raise _in_our_words(verb, self._namespace, error) from error
        except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
            raise Transient(f"API server cannot be reached to {verb} leases: {error}") from error


def _in_our_words(verb: str, namespace: str, error: ApiException) -> Exception:
    status = error.status or 0
    if verb == "create" and status == 404:
        return Transient(f"namespace {namespace!r} does not exist; create it or name another one for the leases")
    if verb == "create" and status == 422:
        return Rejected(f"the API server finds our Lease invalid in namespace {namespace!r}: {error.body}")
    if status in (404, 409, 422):
        return Conflict(f"{verb} of a lease in namespace {namespace!r}: HTTP {status}")
    if status in (401, 403):
        return Rejected(
            f"the API server refuses to let this process {verb} leases in namespace {namespace!r} (HTTP {status}); "
            "its Role needs get, list, create and patch on leases.coordination.k8s.io"
        )
    return Transient(f"{verb} of a lease in namespace {namespace!r}: HTTP {status} {error.reason}")


def _object_name(name: str) -> str:
    return f"lq-{name}"


def _pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _test(path: str, value: object) -> dict[str, Any]:
    return {"op": "test", "path": path, "value": str(value)}


def _unchanged(seen: _Seen) -> list[dict[str, Any]]:
    return [_test("/metadata/uid", seen.uid), _test("/metadata/resourceVersion", seen.resource_version)]


def _metadata(seen: _Seen, annotations: dict[str, str]) -> list[dict[str, Any]]:
    """Whole maps, others' keys included: "add" of one key fails where the map is absent. Only beside `_unchanged`."""
    return [
        {"op": "add", "path": "/metadata/annotations", "value": annotations},
        {"op": "add", "path": "/metadata/labels", "value": {**seen.labels, LABEL: "lease"}},
    ]


def _of_holder(grant: Grant, uid: str) -> list[dict[str, Any]]:
    return [
        _test("/metadata/uid", uid),
        _test("/spec/holderIdentity", grant.holder),
        _test(f"/metadata/annotations/{_pointer(TERM)}", grant.term),
    ]


def _seen(lease: Any) -> _Seen:
    annotations = dict(lease.metadata.annotations or {})
    spec = lease.spec
    return _Seen(
        name=lease.metadata.name,
        record=Record(
            holder=(spec.holder_identity or "") if spec else "",
            term=_number(annotations.get(TERM)),
            beat=_number(annotations.get(BEAT)),
        ),
        uid=lease.metadata.uid,
        resource_version=lease.metadata.resource_version,
        ttl_s=float((spec.lease_duration_seconds or 0) if spec else 0),
        stamp=str(spec.renew_time) if spec else "",
        annotations=annotations,
        labels=dict(lease.metadata.labels or {}),
    )


def _number(text: str | None) -> int:
    """An annotation edited by hand must not stop the elector: it counts as none, and above it there is the counter."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else 0


def _now() -> str:
    """Wall clock, for people who read the Lease; nothing is judged by it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
