"""One import: from the URL into one pool of one host, checked on the way, marked at the end.

A crash at any line is harmless: a file without its ready mark is nobody's, and the next import deletes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from lq_operator.api.image import Image, ImageArtefact
from lq_operator.api.pool import StoragePool
from lq_operator.controllers.runtime.tenure import Tenure
from lq_operator.core.model import VolumePlan, VolumeSeen
from lq_operator.core.result import Conflict, NotFound, Rejected, Transient, WorldError
from lq_operator.core.storage.importing import Space, Target, check_fits, check_length, judge_files, percent
from lq_operator.core.storage.names import artefact_file, host_pool_name, ready_mark
from lq_operator.core.storage.qcow2 import HEAD_BYTES, Header, check_header
from lq_operator.core.units import parse_bytes
from lq_operator.ports import Clock, Fetched, Fetcher, Host
from lq_operator.telemetry import metrics
from lq_operator.telemetry.logging import get_logger

log = get_logger(__name__)

SETTLE_S = 3600.0
"""libvirt does not look at a pool again while a volume is copied in it. What was uploaded is not thrown away for that."""
SETTLE_STEP_S = 2.0
CLEAN_UP_S = 10.0
"""For deleting what a failed import left; otherwise the next one does it."""


@dataclass(frozen=True, slots=True)
class Importer:
    """Does imports. `tenure` proves before the mark is set that nobody else imports."""

    fetcher: Fetcher
    tenure: Tenure
    clock: Clock

    async def run(
        self, image: Image, target: Target, host: Host, pool: StoragePool, on_percent: Callable[[int], None]
    ) -> ImageArtefact:
        """The finished artefact, taken up or downloaded. Rejected: only a change helps; other WorldErrors may pass."""
        work = _Work(self, image, target, host, pool, on_percent)
        if pool.spec.access == "Shared":
            names = await host.list_volumes(work.host_pool, refresh=True)
        else:
            names = await _listed(host, work.host_pool)
        found = judge_files(work.file, {seen.name for seen in names})
        if found.ready:
            seen = next(seen for seen in names if seen.name == work.file)
            log.info("artefact taken up", file=work.file, node=host.node)
            return work.artefact(seen, seen.allocation_bytes)
        for name in found.rubbish:
            await host.delete_volume(work.host_pool, name)
        return await work.download()


async def _listed(host: Host, pool: str) -> tuple[VolumeSeen, ...]:
    """A local pool's list is true without a refresh, which a copy in progress would refuse."""
    try:
        return await host.list_volumes(pool, refresh=True)
    except Transient:
        return await host.list_volumes(pool)


class _Work:
    """The words of one import, and its steps in order."""

    def __init__(
        self,
        by: Importer,
        image: Image,
        target: Target,
        host: Host,
        pool: StoragePool,
        on_percent: Callable[[int], None],
    ) -> None:
        source = image.spec.source
        self._by, self._host, self._target, self._pool, self._on_percent = by, host, target, pool, on_percent
        self._source = source
        self._most_bytes = parse_bytes(image.spec.max_size)
        self.host_pool = host_pool_name(target.pool)
        self.file = artefact_file(image.metadata.namespace or "", image.metadata.name, source.sha256, source.format)
        self._digest = hashlib.sha256()
        self._stored_bytes = 0

    async def download(self) -> ImageArtefact:
        """Fetch, judge the head, store, compare, mark."""
        async with self._by.fetcher.fetch(self._source.url) as fetched:
            check_length(fetched.length_bytes, self._most_bytes)
            head = await _head(fetched)
            header = check_header(head, self._source.format, fetched.length_bytes)
            check_fits(fetched.length_bytes, header.virtual_size_bytes, self._most_bytes, await self._space())
            try:
                return await self._store(fetched, head, header)
            except BaseException:
                await self._discard()
                raise

    async def _space(self) -> Space:
        for seen in await self._host.list_pools():
            if seen.name == self.host_pool:
                reserve = parse_bytes(self._pool.spec.reserve)
                return Space(self._target.pool, seen.capacity_bytes, seen.available_bytes, reserve)
        raise Transient(f"pool {self._target.pool} is not set up on {self._host.node} yet")

    async def _store(self, fetched: Fetched, head: bytes, header: Header) -> ImageArtefact:
        # Raw while it is filled: libvirt sizes the file by the bytes that come, and looks at the format afterwards.
        await self._host.create_volume(self.host_pool, VolumePlan(self.file, fetched.length_bytes, "raw"))
        await self._host.upload(self.host_pool, self.file, self._counted(fetched, head))
        if self._stored_bytes != fetched.length_bytes:
            raise Transient(f"the download ended after {self._stored_bytes} of {fetched.length_bytes} bytes")
        digest = self._digest.hexdigest()
        if digest != self._source.sha256:
            raise Rejected(
                f"spec.source.sha256: the bytes behind the URL have checksum {digest}: correct it, or the URL",
                field="spec.source.sha256",
            )
        seen = await self._settled(header)
        await self._by.tenure.renew()
        with contextlib.suppress(Conflict):
            await self._host.create_volume(self.host_pool, VolumePlan(ready_mark(self.file), 0, format="raw"))
        log.info("image imported", file=self.file, node=self._host.node, bytes=self._stored_bytes)
        return self.artefact(seen, self._stored_bytes)

    async def _counted(self, fetched: Fetched, head: bytes) -> AsyncIterator[bytes]:
        """The whole content, hashed and counted, never more than was announced."""
        yield self._count(head, fetched.length_bytes)
        async for chunk in fetched.chunks:
            yield self._count(chunk, fetched.length_bytes)

    def _count(self, chunk: bytes, length_bytes: int) -> bytes:
        self._stored_bytes += len(chunk)
        if self._stored_bytes > length_bytes:
            raise Transient(f"the server sends more than the {length_bytes} bytes that it announced")
        self._digest.update(chunk)
        metrics.IMAGE_IMPORT_BYTES.inc(len(chunk))
        self._on_percent(percent(self._stored_bytes, length_bytes))
        return chunk

    async def _settled(self, header: Header) -> VolumeSeen:
        """What the host makes of the file: the second opinion on its format, size and independence."""
        give_up_s = self._by.clock.mono_s() + SETTLE_S
        while True:
            try:
                listed = await self._host.list_volumes(self.host_pool, refresh=True)
            except Transient:
                if not self._host.alive or self._by.clock.mono_s() > give_up_s:
                    raise
                await self._by.clock.sleep(SETTLE_STEP_S)
                continue
            seen = next((volume for volume in listed if volume.name == self.file), None)
            if seen is None:
                raise NotFound(f"{self.file} vanished from pool {self._target.pool} on {self._host.node}")
            self._check_opinion(seen, header)
            return seen

    def _check_opinion(self, seen: VolumeSeen, header: Header) -> None:
        # libvirt calls a raw disk with an ISO 9660 file system 'iso' and copies it as raw (measured with 9.0).
        formats = ("raw", "iso") if header.format == "raw" else (header.format,)
        wrong_size = header.format == "qcow2" and seen.capacity_bytes != header.virtual_size_bytes
        if seen.format not in formats or seen.backing_path or wrong_size:
            raise Rejected(
                f"spec.source: the image is refused: {self._host.node} sees format {seen.format}, "
                f"{seen.capacity_bytes} bytes, {'a' if seen.backing_path else 'no'} backing file",
                field="spec.source",
            )

    def artefact(self, seen: VolumeSeen, size_bytes: int) -> ImageArtefact:
        """As it is told in status."""
        return ImageArtefact(
            pool=self._target.pool,
            node=self._target.node,
            phase="Ready",
            file=self.file,
            size_bytes=size_bytes,
            virtual_size_bytes=seen.capacity_bytes,
            progress_percent=100,
        )

    async def _discard(self) -> None:
        """Try to leave nothing. What cannot be deleted now has no mark, so it is deleted before the next import."""
        with contextlib.suppress(WorldError, TimeoutError):
            async with asyncio.timeout(CLEAN_UP_S):
                await self._host.delete_volume(self.host_pool, self.file)


async def _head(fetched: Fetched) -> bytes:
    """The first HEAD_BYTES or a little more; all, where there is less."""
    head = bytearray()
    while len(head) < HEAD_BYTES:
        chunk = await anext(fetched.chunks, None)
        if chunk is None:
            break
        head += chunk
    return bytes(head)
