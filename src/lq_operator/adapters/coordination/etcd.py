"""Coordination by etcd v3: opt-in, for fleets that several clusters share.

Keys under one prefix: `leases/<name>` hangs on an etcd lease and vanishes with it; `last/<name>` stays and holds term
and beat; `terms` is the installation's counter. Every write is one transaction that compares what was read. Uses the
stubs of the etcd3 package only; the rhythm of keepalives is the caller's.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio

from lq_operator.adapters.coordination import etcd_stubs
from lq_operator.adapters.coordination.lease import LeaseCoordination, Record, Timing
from lq_operator.core.result import Conflict, Fenced, Rejected, Transient
from lq_operator.ports import Grant

T = TypeVar("T")

_rpc, _stubs = etcd_stubs.load()

_CHANNEL_OPTIONS = (
    # gRPC's own reconnection waits up to two minutes; a lease is over long before.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A new channel must mean a new connection, not the dead one of its predecessor.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
_REFUSED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT)


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """Files of the client's identity; the certificate's common name is the etcd user."""

    ca_file: Path
    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class _Leased:
    """What hangs together for a lease we hold."""

    lease_id: int
    create_revision: int


class EtcdLeases(LeaseCoordination):
    """Leases under `prefix` (include the installation: `/lq/<installation>`), on the first endpoint that answers.

    `endpoints` are URLs, all http or all https; https needs `tls`. Never the API server's own etcd.
    """

    def __init__(
        self,
        endpoints: list[str],
        prefix: str,
        process_name: str,
        timing: Timing | None = None,
        *,
        tls: EtcdTls | None = None,
        **options: Any,
    ) -> None:
        super().__init__(process_name, timing, **options)
        self._targets = [_target(url, tls) for url in endpoints]
        if not self._targets:
            raise ValueError("coordination by etcd needs at least one endpoint")
        if not prefix.startswith("/") or prefix.endswith("/"):
            raise ValueError(f"etcd prefix {prefix!r} must start with a slash and not end with one")
        self._prefix = prefix
        self._tls = tls
        self._closing: set[asyncio.Task[None]] = set()
        self._current = 0
        self._channel: grpc.aio.Channel | None = None
        self._leased: dict[tuple[str, int], _Leased] = {}

    async def close(self) -> None:
        """Close the connection; the object opens a new one when it is used again."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(grace=None)
        await asyncio.gather(*self._closing)

    # -- what the base asks for ------------------------------------------------------------------------------------

    async def _try_acquire(self, name: str, above_term: int) -> Grant | None:
        keys = await self._call(self._read_all(), "reading", name)
        lock = keys.get(self._lock_key(name))
        if lock is not None:
            record = _decode(lock.value)
            self._tell(name, record.holder)
            if record.holder == self.identity:
                self._leased.setdefault((name, record.term), _Leased(lock.lease, lock.create_revision))
            return await self._adopt(name, record)
        terms, last = keys.get(self._terms_key()), keys.get(self._last_key(name))
        term = max([above_term, *(self._stand_of(kv)[0] for kv in keys.values())]) + 1
        before = Record("", 0, 0) if last is None else _decode(last.value)
        beat = before.beat + 1
        sent_mono_s = self._mono_s()  # before the etcd lease exists, hence before its time begins to run
        lease_id = await self._call(self._grant_lease(), "acquiring", name)
        grant = self._new_grant(name, term, (before.term, before.beat), sent_mono_s)
        self._pending[name] = grant
        txn = _rpc.TxnRequest(
            compare=[
                _created_at(self._lock_key(name), 0),
                _modified_at(self._terms_key(), terms.mod_revision if terms is not None else 0),
                _modified_at(self._last_key(name), last.mod_revision if last is not None else 0),
            ],
            success=[
                _put(self._lock_key(name), _encode(Record(self.identity, term, beat)), lease_id),
                _put(self._last_key(name), _encode(Record("", term, beat))),
                _put(self._terms_key(), str(term).encode()),
            ],
        )
        answer = await self._call(self._txn(txn), "acquiring", name)
        if not answer.succeeded:
            await self._call(self._revoke(lease_id), "giving back", name)
            raise Conflict(f"lease {name!r} or the term counter changed under us")
        self._leased[name, term] = _Leased(lease_id, answer.header.revision)
        return grant

    async def _write_renewal(self, grant: Grant) -> Record | None:
        held = self._leased[grant.name, grant.term]
        lock_key = self._lock_key(grant.name)
        if await self._keep_alive(held.lease_id) <= 0:
            raise Fenced(f"lease {grant.name!r}, term {grant.term}: its etcd lease ran out; stop acting")
        now = Record(grant.holder, grant.term, grant.beat + 1)
        txn = _rpc.TxnRequest(
            compare=[
                _created_at(lock_key, held.create_revision),
                _equals(lock_key, _encode(Record(grant.holder, grant.term, grant.beat))),
            ],
            success=[
                _put(lock_key, _encode(now), held.lease_id),
                _put(self._last_key(grant.name), _encode(Record("", now.term, now.beat))),
            ],
            failure=[_get(lock_key)],
        )
        try:
            answer = await self._txn(txn)
        except Conflict as error:  # the etcd lease ended between the two calls
            raise Fenced(f"lease {grant.name!r}, term {grant.term}: {error}; stop acting") from error
        if answer.succeeded:
            return None
        found = answer.responses[0].response_range.kvs
        if not found or found[0].create_revision != held.create_revision:
            raise Fenced(f"lease {grant.name!r}, term {grant.term}: its key is gone or another's; stop acting")
        return _decode(found[0].value)

    async def _write_release(self, grant: Grant) -> None:
        held = self._leased.pop((grant.name, grant.term), None)
        if held is None:
            return
        lock_key = self._lock_key(grant.name)
        delete = _rpc.RequestOp(request_delete_range=_rpc.DeleteRangeRequest(key=lock_key))
        await self._txn(_rpc.TxnRequest(compare=[_created_at(lock_key, held.create_revision)], success=[delete]))
        await self._revoke(held.lease_id)

    async def _read_highest(self) -> tuple[int, int]:
        keys = await self._read_all()
        return max((self._stand_of(kv) for kv in keys.values()), default=(0, 0))

    def _stand_of(self, kv: Any) -> tuple[int, int]:
        """(term, beat) that a key of ours speaks of; (0, 0) for others' keys under the prefix."""
        if kv.key == self._terms_key():
            text = kv.value
            return (int(text), 0) if text.isdigit() and len(text) < 19 else (0, 0)
        if kv.key.startswith((self._lock_key(""), self._last_key(""))):
            record = _decode(kv.value)
            return record.term, record.beat
        return 0, 0

    # -- keys ------------------------------------------------------------------------------------------------------

    def _lock_key(self, name: str) -> bytes:
        return f"{self._prefix}/leases/{name}".encode()

    def _last_key(self, name: str) -> bytes:
        return f"{self._prefix}/last/{name}".encode()

    def _terms_key(self) -> bytes:
        return f"{self._prefix}/terms".encode()

    # -- calls -----------------------------------------------------------------------------------------------------

    async def _read_all(self) -> dict[bytes, Any]:
        start = f"{self._prefix}/".encode()
        request = _rpc.RangeRequest(key=start, range_end=start[:-1] + bytes([start[-1] + 1]))
        answer = await self._do(lambda channel: _stubs.KVStub(channel).Range(request))
        return {kv.key: kv for kv in answer.kvs}

    async def _txn(self, request: Any) -> Any:
        return await self._do(lambda channel: _stubs.KVStub(channel).Txn(request))

    async def _grant_lease(self) -> int:
        request = _rpc.LeaseGrantRequest(TTL=math.ceil(self.timing.ttl_s))
        answer = await self._do(lambda channel: _stubs.LeaseStub(channel).LeaseGrant(request))
        if self.timing.ttl_s > answer.TTL:
            raise Transient(f"etcd grants only {answer.TTL} s of the {self.timing.ttl_s} s asked for")
        return int(answer.ID)

    async def _keep_alive(self, lease_id: int) -> int:
        """Seconds the etcd lease lives from now on; 0 when it is gone (etcd says so by a TTL, not by an error)."""

        async def exchange(channel: grpc.aio.Channel) -> int:
            # Without a leader the member answers from stale knowledge for ever; with this it refuses.
            stream = _stubs.LeaseStub(channel).LeaseKeepAlive(metadata=(("hasleader", "true"),))
            try:
                await stream.write(_rpc.LeaseKeepAliveRequest(ID=lease_id))
                answer = await stream.read()
                if answer is grpc.aio.EOF:
                    raise Transient("etcd closed the keepalive stream without an answer")
                return int(answer.TTL)
            finally:
                stream.cancel()

        return await self._do(exchange)

    async def _revoke(self, lease_id: int) -> None:
        try:
            await self._do(lambda channel: _stubs.LeaseStub(channel).LeaseRevoke(_rpc.LeaseRevokeRequest(ID=lease_id)))
        except Conflict:  # gone already
            return

    async def _do(self, call: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T:
        """One exchange; on trouble or cancellation (a deadline) the next goes to the next endpoint, freshly connected.

        A hung member or a dead connection looks like any slow one; leaving it is the only cure that needs no timer.
        """
        if self._channel is None:
            self._channel = self._connect()
        channel = self._channel
        settled = False
        try:
            answer = await call(channel)
            settled = True
            return answer
        except grpc.aio.AioRpcError as error:
            settled = error.code() in (*_REFUSED, grpc.StatusCode.NOT_FOUND)
            raise self._in_our_words(error) from error
        finally:
            if not settled and self._channel is channel:
                self._channel = None
                self._current = (self._current + 1) % len(self._targets)
                # Not awaited: we may be here because our time is over.
                closing = asyncio.create_task(channel.close(grace=None))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    def _connect(self) -> grpc.aio.Channel:
        target = self._targets[self._current]
        if self._tls is not None:
            return grpc.aio.secure_channel(target, _credentials(self._tls), options=_CHANNEL_OPTIONS)
        return grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)

    def _in_our_words(self, error: grpc.aio.AioRpcError) -> Exception:
        where, code = self._targets[self._current], error.code()
        if code in _REFUSED:
            return Rejected(
                f"etcd at {where} refuses us: {error.details()}; give the user named in the client certificate "
                f"read and write on keys under {self._prefix}/"
            )
        if code is grpc.StatusCode.NOT_FOUND:
            return Conflict(f"etcd at {where}: {error.details()}")
        return Transient(f"etcd at {where}: {code.name}: {error.details()}")


def _target(url: str, tls: EtcdTls | None) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.path.strip("/"):
        raise ValueError(f"etcd endpoint {url!r} must look like https://host:2379")
    if (parts.scheme == "https") != (tls is not None):
        raise ValueError(f"etcd endpoint {url!r}: https needs the client's certificate, key and CA, http takes none")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or 2379}"


def _credentials(tls: EtcdTls) -> grpc.ChannelCredentials:
    """Read again for every connection, so that rotated certificates are picked up."""
    return grpc.ssl_channel_credentials(
        root_certificates=tls.ca_file.read_bytes(),
        private_key=tls.key_file.read_bytes(),
        certificate_chain=tls.cert_file.read_bytes(),
    )


def _encode(record: Record) -> bytes:
    """Always the same bytes for the same record: transactions compare them."""
    return json.dumps({"beat": record.beat, "holder": record.holder, "term": record.term}).encode()


def _decode(value: bytes) -> Record:
    """A value written by hand counts as a holder nobody knows: never taken, never taken for us."""
    try:
        content = json.loads(value)
        return Record(str(content["holder"]), int(content["term"]), int(content["beat"]))
    except (ValueError, KeyError, TypeError):
        return Record("unreadable", 0, 0)


def _put(key: bytes, value: bytes, lease_id: int = 0) -> Any:
    return _rpc.RequestOp(request_put=_rpc.PutRequest(key=key, value=value, lease=lease_id))


def _get(key: bytes) -> Any:
    return _rpc.RequestOp(request_range=_rpc.RangeRequest(key=key))


def _created_at(key: bytes, revision: int) -> Any:
    """True when the key was created at this revision; 0 means that it does not exist."""
    return _rpc.Compare(result=_rpc.Compare.EQUAL, target=_rpc.Compare.CREATE, key=key, create_revision=revision)


def _modified_at(key: bytes, revision: int) -> Any:
    return _rpc.Compare(result=_rpc.Compare.EQUAL, target=_rpc.Compare.MOD, key=key, mod_revision=revision)


def _equals(key: bytes, value: bytes) -> Any:
    return _rpc.Compare(result=_rpc.Compare.EQUAL, target=_rpc.Compare.VALUE, key=key, value=value)
