"""Kubernetes Events for people: implements ports.Events. Repetitions within five minutes are said once.

Never blocks and never fails the caller: what cannot be posted is counted and dropped.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from lq_operator.adapters.kube.transport import KubeTransport
from lq_operator.api.base import Resource
from lq_operator.core.result import WorldError
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

DEDUP_S = 300.0
QUEUE_LENGTH = 1_000
NOTE_LENGTH = 1_024
"""Limit of events.k8s.io/v1 for `note`, in bytes."""

log = get_logger(__name__)


class KubeEvents:
    """Recorder with a bounded queue; run() posts until cancelled."""

    def __init__(
        self,
        transport: KubeTransport,
        *,
        component: str,
        instance: str,
        mono_s: Callable[[], float] = time.monotonic,
        queue_length: int = QUEUE_LENGTH,
    ) -> None:
        self._transport = transport
        self._component = f"limiquantix.io/{component}"
        self._instance = instance[:128]
        self._mono_s = mono_s
        self._said: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(queue_length)
        self.dropped = 0

    def emit(self, about: Resource, reason: str, message: str, *, warning: bool = False) -> None:
        """Say it once per (uid, reason, message) and five minutes. Full queue: dropped."""
        now_s = self._mono_s()
        said = (about.metadata.uid or about.key, reason, message)
        if now_s - self._said.get(said, -DEDUP_S) < DEDUP_S:
            return
        try:
            self._queue.put_nowait(self._compose(about, reason, message, warning))
        except asyncio.QueueFull:
            self.dropped += 1
            return
        self._said[said] = now_s
        self._said.move_to_end(said)
        while self._said and now_s - next(iter(self._said.values())) >= DEDUP_S:
            self._said.popitem(last=False)

    async def run(self) -> None:
        """Post what was emitted, one at a time (the API server's event rate limit is per namespace and source)."""
        while True:
            namespace, body = await self._queue.get()
            try:
                await self._transport.request(
                    "POST",
                    f"/apis/events.k8s.io/v1/namespaces/{namespace}/events",
                    what=f"Event {body['reason']} about {body['regarding']['name']}",
                    body=body,
                )
                metrics.EVENTS_POSTED.labels(type=body["type"]).inc()
            except WorldError as error:
                self.dropped += 1
                log.warning("an Event was not posted", reason=body["reason"], error=str(error))
            finally:
                self._queue.task_done()

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until everything emitted so far was posted or dropped; gives up after timeout_s."""
        try:
            await asyncio.wait_for(self._queue.join(), timeout_s)
        except TimeoutError:
            log.warning("Events are left over", left=self._queue.qsize())

    def _compose(self, about: Resource, reason: str, message: str, warning: bool) -> tuple[str, dict[str, Any]]:
        meta = about.metadata
        namespace = meta.namespace or "default"  # where kubectl looks for Events of cluster-scoped objects
        stamp = datetime.now(UTC)
        digest = hashlib.sha256(f"{meta.uid}/{reason}/{message}/{stamp.isoformat()}".encode()).hexdigest()[:16]
        regarding = {
            "apiVersion": about.api_version,
            "kind": type(about).kind_name,
            "name": meta.name,
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
        } | ({"namespace": meta.namespace} if meta.namespace else {})
        return namespace, {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{meta.name[:200]}.{digest}", "namespace": namespace},
            "eventTime": stamp.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "action": reason,
            "note": message.encode()[:NOTE_LENGTH].decode("utf-8", "ignore"),
            "regarding": regarding,
            "reportingController": self._component,
            "reportingInstance": self._instance,
        }
