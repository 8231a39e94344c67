"""Pools and volumes over one connection: plain blocking functions. Host records and gates are such volumes.

Traps kept in one place (measured): never listVolumes(), which misses volumes under concurrent writers;
create(WITH_BUILD), as plain create fails with code 38 when the directory is gone after a boot; refresh says
"asynchronous jobs running" while a volume is made, and is then asked again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import libvirt

from lq_operator.adapters.libvirt.errors import code_of, errno_of, text_of
from lq_operator.adapters.libvirt.xml.pool import pool_type, pool_xml, read_pool
from lq_operator.adapters.libvirt.xml.volume import read_volume, volume_xml
from lq_operator.core.model import PoolPlan, PoolSeen, VolumePlan, VolumeSeen
from lq_operator.core.result import Conflict, Rejected, Transient

REFRESH_PATIENCE_S = 5.0
CHUNK_BYTES = 256 * 1024  # libvirt's own chunk for streams is just under this

_EEXIST, _ENOENT = 17, 2


def _pool(conn: Any, name: str) -> Any:
    return conn.storagePoolLookupByName(name)


def _read(pool: Any) -> PoolSeen:
    return read_pool(pool.XMLDesc(0), active=bool(pool.isActive()))


def list_pools(conn: Any) -> tuple[PoolSeen, ...]:
    """Every pool of the host, active or not."""
    for _ in range(3):
        try:
            return tuple(sorted(map(_read, conn.listAllStoragePools(0)), key=lambda pool: pool.name))
        except libvirt.libvirtError as problem:
            if code_of(problem) != libvirt.VIR_ERR_NO_STORAGE_POOL:  # one was removed under the listing
                raise
    raise Transient("pools came and went through 3 listings: list again")


def ensure_pool(conn: Any, plan: PoolPlan) -> PoolSeen:
    """Defined, active and really there. A pool of that name with another path or type is left alone: Rejected."""
    pool = _defined(conn, plan)
    document = pool.XMLDesc(0)
    found = read_pool(document, active=True)
    if pool_type(document) != "dir" or found.path != plan.path:
        raise Rejected(
            f"pool {plan.name} exists as {pool_type(document)} at {found.path}, wanted dir at {plan.path}: "
            "remove it on the host or choose another name",
            field="path",
        )
    if pool.autostart() != int(plan.autostart):
        pool.setAutostart(int(plan.autostart))
    if pool.isActive():
        _refresh(pool)  # finds out that the directory went away under a live daemon
    if not pool.isActive():
        _activate(pool, plan)
    return _read(pool)


def _defined(conn: Any, plan: PoolPlan) -> Any:
    wanted = pool_xml(plan)
    try:
        return _pool(conn, plan.name)
    except libvirt.libvirtError as problem:
        if code_of(problem) != libvirt.VIR_ERR_NO_STORAGE_POOL:
            raise
    try:
        return conn.storagePoolDefineXML(wanted, 0)
    except libvirt.libvirtError as problem:
        if code_of(problem) != libvirt.VIR_ERR_OPERATION_FAILED:  # 9: somebody defined it a moment ago ...
            raise
        try:
            return _pool(conn, plan.name)
        except libvirt.libvirtError:
            raise problem from None  # ... or its directory belongs to another pool, which is what 9 says then


def _activate(pool: Any, plan: PoolPlan) -> None:
    try:
        pool.create(libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD if plan.build else 0)
    except libvirt.libvirtError as problem:
        if code_of(problem) != libvirt.VIR_ERR_OPERATION_INVALID or not pool.isActive():
            raise


def _refresh(pool: Any) -> None:
    """Look at the directory again. Leaves a pool inactive whose directory is gone (code 38 is then swallowed)."""
    end_s = time.monotonic() + REFRESH_PATIENCE_S
    pause_s = 0.02
    while True:
        try:
            pool.refresh(0)
        except libvirt.libvirtError as problem:
            if not pool.isActive():
                return
            if "asynchronous jobs running" not in text_of(problem):
                raise
            if time.monotonic() > end_s:
                raise Transient(f"pool {pool.name()}: {text_of(problem)}; not refreshed") from problem
        else:
            return
        time.sleep(pause_s)
        pause_s = min(0.5, pause_s * 2)


def remove_pool(conn: Any, name: str) -> None:
    """Stop and undefine; files stay. Absent already is success."""
    try:
        pool = _pool(conn, name)
        if pool.isActive():
            pool.destroy()
        if pool.isPersistent():
            pool.undefine()
    except libvirt.libvirtError as problem:
        if code_of(problem) != libvirt.VIR_ERR_NO_STORAGE_POOL:
            raise


def list_volumes(conn: Any, pool_name: str, *, refresh: bool) -> tuple[VolumeSeen, ...]:
    """All volumes or an error. A pool that is not active is an error, not an empty list."""
    pool = _pool(conn, pool_name)
    if refresh:
        _refresh(pool)
    for _ in range(5):
        seen, vanished = [], set()
        for volume in pool.listAllVolumes(0):
            try:
                seen.append(read_volume(volume.XMLDesc(0)))
            except libvirt.libvirtError as problem:
                if code_of(problem) != libvirt.VIR_ERR_NO_STORAGE_VOL and errno_of(problem) != _ENOENT:
                    raise
                vanished.add(volume.name())
        if not vanished or vanished.isdisjoint(volume.name() for volume in pool.listAllVolumes(0)):
            return tuple(sorted(seen, key=lambda volume: volume.name))
        _refresh(pool)  # a file removed behind libvirt's back stays listed until then
    raise Transient(f"pool {pool_name}: volumes came and went through 5 listings: list again")


def create_volume(conn: Any, pool_name: str, plan: VolumePlan) -> VolumeSeen:
    """Exclusive on this host: libvirt looks into its list (code 90) and at the directory (code 55)."""
    document = volume_xml(plan)
    pool = _pool(conn, pool_name)
    if not pool.isActive():
        raise Transient(f"pool {pool_name} is not active: it must be started before volumes are made")
    source = pool.storageVolLookupByName(plan.clone_of) if plan.clone_of is not None else None
    try:
        volume = pool.createXML(document, 0) if source is None else pool.createXMLFrom(document, source, 0)
    except libvirt.libvirtError as problem:
        if _says_taken(problem):
            raise Conflict(f"pool {pool_name}: volume {plan.name} exists ({text_of(problem)})") from problem
        raise
    if source is not None:
        _fit(volume, plan)
    return read_volume(volume.XMLDesc(0))


def _says_taken(problem: libvirt.libvirtError) -> bool:
    if code_of(problem) in (libvirt.VIR_ERR_STORAGE_VOL_EXIST, libvirt.VIR_ERR_OPERATION_INVALID):
        return True
    # createXMLFrom of libvirt 9 says it as an internal error: "storage volume name 'x' already in use."
    return errno_of(problem) == _EEXIST or "already in use" in text_of(problem)


def _fit(volume: Any, plan: VolumePlan) -> None:
    """A clone comes with the size of its source. One that cannot be brought to its own is removed again."""
    capacity = int(volume.info()[1])
    try:
        if plan.capacity_bytes and capacity > plan.capacity_bytes:
            raise Rejected(
                f"volume {plan.name}: {plan.capacity_bytes} bytes are less than the {capacity} of its source",
                field="capacity",
            )
        if capacity < plan.capacity_bytes:
            volume.resize(plan.capacity_bytes, 0)
    except (libvirt.libvirtError, Rejected):
        volume.delete(0)
        raise


def resize_volume(conn: Any, pool_name: str, name: str, capacity_bytes: int) -> None:
    """Grow. Shrinking would cut the guest's data: Rejected. Of the wished size already is success."""
    volume = _pool(conn, pool_name).storageVolLookupByName(name)
    capacity = int(volume.info()[1])
    if capacity > capacity_bytes:
        raise Rejected(f"volume {name} has {capacity} bytes and cannot shrink to {capacity_bytes}", field="capacity")
    if capacity < capacity_bytes:
        volume.resize(capacity_bytes, 0)


def delete_volume(conn: Any, pool_name: str, name: str) -> None:
    """Absent already is success: absent in the directory, not only in libvirt's list of it."""
    pool = _pool(conn, pool_name)
    for refreshed in (False, True):
        try:
            pool.storageVolLookupByName(name).delete(0)
        except libvirt.libvirtError as problem:
            if code_of(problem) != libvirt.VIR_ERR_NO_STORAGE_VOL and errno_of(problem) != _ENOENT:
                raise
            if refreshed:
                return
            _refresh(pool)
            if not pool.isActive():
                raise Transient(f"pool {pool_name} is not active: whether {name} is there is not known") from problem
        else:
            return


def upload(conn: Any, pool_name: str, name: str, chunks: Iterator[bytes], still_wanted: Callable[[], bool]) -> None:
    """Write the chunks from offset 0 through a blocking stream. Ends with a refresh, so that sizes are true.

    While another volume of the pool is being copied libvirt refuses the refresh: that spoils no upload, and whoever needs
    the sizes lists with refresh=True.
    """
    pool = _pool(conn, pool_name)
    volume = pool.storageVolLookupByName(name)
    stream = conn.newStream(0)
    volume.upload(stream, 0, 0, 0)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                if not still_wanted():
                    raise Transient(f"upload to {name} was given up")
                view = view[stream.send(bytes(view[:CHUNK_BYTES])) :]
    except BaseException:
        stream.abort()
        raise
    stream.finish()
    with contextlib.suppress(Transient):
        _refresh(pool)


def download(conn: Any, pool_name: str, name: str, length: int) -> bytes:
    """At most `length` bytes from offset 0; fewer where the file ends."""
    if length <= 0:
        return b""
    volume = _pool(conn, pool_name).storageVolLookupByName(name)
    stream = conn.newStream(0)
    volume.download(stream, 0, length, 0)
    parts: list[bytes] = []
    missing = length
    try:
        while missing and (part := stream.recv(min(missing, CHUNK_BYTES))):
            parts.append(part)
            missing -= len(part)
    except BaseException:
        stream.abort()
        raise
    if missing:
        stream.finish()
    else:
        stream.abort()  # the rest is not wanted; finish() would complain about it
    return b"".join(parts)
