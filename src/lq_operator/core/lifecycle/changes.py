"""What of a spec is not yet true of the running guest, per field, and the one step that makes it so. Pure.

(what runs, what is wished) -> changes. What takes a power cycle and why is the table's matter (fields.py); here the
values decide where the table leaves it open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lq_operator.core.lifecycle.fields import Effect, effect_of
from lq_operator.core.lifecycle.shape import MEMORY_BLOCK_MIB, CdromShape, DiskShape, GuestShape, NicShape
from lq_operator.core.units import format_mib

CLOUD_INIT = "spec.cloudInit"
_WORDS = {True: "true", False: "false"}


@dataclass(frozen=True, slots=True)
class Step:
    """One call to the host. `verb`: detach_disk, attach_disk, set_disk_limits, detach_nic, attach_nic, update_nic,
    set_medium, set_vcpus, set_memory, set_cpu_tuning; `name`: of the device; `force`: whatever the guest thinks of it."""

    verb: str
    name: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One field. `step`: what is to be done now, None where nothing is (another change's step does it, or none can)."""

    path: str
    effect: Effect
    before: str
    after: str
    message: str = ""
    step: Step | None = None


_ORDER = (
    "detach_nic", "detach_disk", "set_memory", "set_vcpus", "set_cpu_tuning", "set_disk_limits", "update_nic", "set_medium",
    "attach_disk", "attach_nic",
)  # fmt: skip
"""Steps in this order: what frees a slot comes first."""


def changes_of(running: GuestShape, wished: GuestShape, *, class_name: str = "") -> tuple[Change, ...]:
    """Everything that differs, by path. `class_name`: the size is that class's and not the spec's own."""
    found = [
        *_cpu(running, wished, class_name),
        *_memory(running, wished, class_name),
        *_switches(running, wished),
        *_disks(running.disks, wished.disks),
        *_cdroms(running.cdroms, wished.cdroms),
        *_nics(running.nics, wished.nics),
        *_record(running, wished),
    ]
    return tuple(sorted(found, key=lambda change: change.path))


def steps_of(changes: Sequence[Change]) -> tuple[Change, ...]:
    """The changes that can be applied now, in the order in which to do it."""
    live = [change for change in changes if change.step is not None and change.effect is Effect.LIVE]
    return tuple(sorted(live, key=lambda change: (_ORDER.index(change.step.verb) if change.step else 0, change.path)))


def sentence_of(changes: Sequence[Change]) -> str:
    """All of it in one sentence for people, '' where nothing is pending."""
    parts = []
    for effect in (Effect.LIVE, Effect.POWER_CYCLE, Effect.MIGRATE, Effect.IMPOSSIBLE):
        some = [f"{c.path} {c.before or 'none'} -> {c.after or 'none'}" for c in changes if c.effect is effect]
        if some:
            more = f" and {len(some) - 6} more" if len(some) > 6 else ""
            parts.append(f"{_HEADS[effect]}: {', '.join(some[:6])}{more}")
    return "; ".join(parts)


_HEADS = {
    Effect.LIVE: "being applied",
    Effect.POWER_CYCLE: "with the next start",
    Effect.MIGRATE: "with the next move",
    Effect.IMPOSSIBLE: "impossible",
}


def _simple(path: str, before: object, after: object, *, message: str = "", step: Step | None = None) -> Change:
    effect = effect_of(path)
    return Change(path, effect, _text(before), _text(after), message, step if effect is Effect.LIVE else None)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return _WORDS[value]
    return "" if value in (0, None) else str(value)


def _cycle(change: Change, message: str) -> Change:
    return replace(change, effect=Effect.POWER_CYCLE, message=message, step=None)


# ---------------------------------------------------------------- size


def _cpu(running: GuestShape, wished: GuestShape, class_name: str) -> Iterator[Change]:
    path = "spec.className" if class_name else "spec.cpu.count"
    same_topology = (running.cores, running.threads) == (wished.cores, wished.threads)
    if running.vcpus != wished.vcpus:
        step = Step("set_vcpus") if path == "spec.cpu.count" else None
        change = _simple(path, running.vcpus, wished.vcpus, step=step)
        if change.effect is not Effect.LIVE:
            yield replace(change, before=f"{running.vcpus} vCPUs", after=f"{wished.vcpus} vCPUs")
        elif not same_topology:
            yield _cycle(change, "other cores or threads: the guest learns them at its start")
        elif wished.vcpus > running.vcpus_max:
            yield _cycle(
                change, f"it was started with room for {running.vcpus_max}: set spec.cpu.maxCount for the next start"
            )
        elif wished.vcpus < running.vcpus:
            yield _cycle(change, "vCPUs are not taken away from a running guest")
        else:
            yield change
    for name, before, after in (
        ("cores", running.cores, wished.cores),
        ("threads", running.threads, wished.threads),
    ):
        if before != after:
            yield _simple(f"spec.cpu.{name}", before, after)
    limit = max(wished.vcpus, wished.vcpus_max)
    if running.vcpus_max != limit and (wished.vcpus_max > wished.vcpus or running.vcpus_max > running.vcpus):
        yield _simple("spec.cpu.maxCount", running.vcpus_max, limit)
    yield from _tuning(running, wished)


def _tuning(running: GuestShape, wished: GuestShape) -> Iterator[Change]:
    step = Step("set_cpu_tuning")
    if running.cpu_shares != wished.cpu_shares:
        change = _simple("spec.cpu.shares", running.cpu_shares, wished.cpu_shares, step=step)
        yield change if wished.cpu_shares else _cycle(change, "only a start takes a weight away; or set the usual one")
    if running.cpu_quota_percent != wished.cpu_quota_percent:
        yield _simple("spec.cpu.limitPercent", running.cpu_quota_percent, wished.cpu_quota_percent, step=step)


def _memory(running: GuestShape, wished: GuestShape, class_name: str) -> Iterator[Change]:
    path = "spec.className" if class_name else "spec.memory.size"
    if _differs(running.memory_mib, wished.memory_mib):
        if class_name and running.vcpus != wished.vcpus:
            return  # said with the vCPUs: a class is one field
        change = _simple(path, format_mib(running.memory_mib), format_mib(wished.memory_mib), step=Step("set_memory"))
        if change.effect is Effect.LIVE and wished.memory_mib > running.memory_max_mib + 1:
            room = format_mib(running.memory_max_mib)
            change = _cycle(change, f"it was started with room for {room}: set spec.memory.maxSize for the next start")
        yield change
    before, after = _max_size(running), _max_size(wished)
    if _differs(running.memory_max_mib, wished.memory_max_mib) and (before or after):
        yield _simple("spec.memory.maxSize", before and format_mib(before), after and format_mib(after))


def _differs(one_mib: int, other_mib: int) -> bool:
    """virtio-mem gives whole blocks: less than one is no difference."""
    return abs(one_mib - other_mib) >= MEMORY_BLOCK_MIB


def _max_size(shape: GuestShape) -> int:
    return shape.memory_max_mib if _differs(shape.memory_max_mib, shape.boot_memory_mib) else 0


# ---------------------------------------------------------------- devices


def _switches(running: GuestShape, wished: GuestShape) -> Iterator[Change]:
    for path, before, after in (
        ("spec.tpm", running.tpm, wished.tpm),
        ("spec.watchdog", running.watchdog, wished.watchdog),
        ("spec.vnc", running.vnc, wished.vnc),
        ("spec.guestAgent", running.guest_agent, wished.guest_agent),
        ("spec.consoleLog", running.console_log, wished.console_log),
    ):
        if before != after:
            yield _simple(path, before, after)


def _disks(running: Sequence[DiskShape], wished: Sequence[DiskShape]) -> Iterator[Change]:
    before, after = ({disk.name: disk for disk in disks} for disks in (running, wished))
    for name in sorted(before.keys() | after.keys()):
        path, old, new = f"spec.disks[{name}]", before.get(name), after.get(name)
        if old is None and new is not None:
            yield _added(path, new)
        elif new is None and old is not None:
            yield _removed(path, old)
        elif old is not None and new is not None:
            yield from _disk(path, old, new)


def _added(path: str, disk: DiskShape) -> Change:
    change = Change(f"{path}.name", effect_of(path + ".name"), "", disk.name, step=Step("attach_disk", disk.name))
    if disk.bus == "sata":
        return _cycle(change, "the guest sees sata disks at its start only: use bus virtio or scsi")
    if disk.boot_order:
        return _cycle(change, "a disk to boot from is added with the next start")
    return change if disk.path else replace(change, step=None, message="its Volume is not ready yet")


def _removed(path: str, disk: DiskShape) -> Change:
    change = Change(f"{path}.name", effect_of(path + ".name"), disk.name, "", step=Step("detach_disk", disk.name))
    if disk.bus == "sata":
        return _cycle(change, "sata disks cannot be taken out of a running guest")
    if disk.boot_order == 1:
        return _cycle(change, "it is the disk that the guest boots from")
    return change


def _disk(path: str, old: DiskShape, new: DiskShape) -> Iterator[Change]:
    if old.path != new.path and new.path:
        yield _simple(f"{path}.volumeRef", old.path.rpartition("/")[2], new.path.rpartition("/")[2])
    for name, before, after in (
        ("bus", old.bus, new.bus),
        ("cache", old.cache, new.cache),
        ("readOnly", old.read_only, new.read_only),
        ("bootOrder", old.boot_order, new.boot_order),
    ):
        if before != after:
            yield _simple(f"{path}.{name}", before, after)
    step = Step("set_disk_limits", new.name)
    for name, before, after in (
        ("limits.iops", old.iops, new.iops),
        ("limits.bandwidth", old.bytes_per_second, new.bytes_per_second),
    ):
        if before != after:
            yield _simple(f"{path}.{name}", before, after, step=step)


def _cdroms(running: Sequence[CdromShape], wished: Sequence[CdromShape]) -> Iterator[Change]:
    before, after = ({drive.name: drive for drive in drives} for drives in (running, wished))
    for name in sorted(before.keys() | after.keys()):
        path, old, new = f"spec.cdroms[{name}]", before.get(name), after.get(name)
        if old is None or new is None:
            yield _simple(f"{path}.name", old and name, new and name)
            continue
        for word, was, now in (("bus", old.bus, new.bus), ("bootOrder", old.boot_order, new.boot_order)):
            if was != now:
                yield _simple(f"{path}.{word}", was, now)
        yield from _medium(f"{path}.medium", old, new)


def _medium(path: str, old: CdromShape, new: CdromShape) -> Iterator[Change]:
    """A medium that is not there yet leaves the one before where it is."""
    if new.waits:
        yield Change(path, effect_of(path), _file(old.path), "the medium of spec", new.waits)
    elif old.path != new.path:
        before, after = _file(old.path), _file(new.path)
        if before == after:  # the same image in another pool
            before, after = old.path, new.path
        yield _simple(path, before, after, step=Step("set_medium", new.name, force=new.force))


def _file(path: str) -> str:
    return path.rpartition("/")[2]


def _nics(running: Sequence[NicShape], wished: Sequence[NicShape]) -> Iterator[Change]:
    before, after = ({nic.name: nic for nic in nics} for nics in (running, wished))
    for name in sorted(before.keys() | after.keys()):
        path, old, new = f"spec.interfaces[{name}]", before.get(name), after.get(name)
        live = effect_of(f"{path}.name")
        if old is None:
            yield Change(f"{path}.name", live, "", name, step=Step("attach_nic", name))
        elif new is None:
            yield Change(f"{path}.name", live, name, "", step=Step("detach_nic", name))
        else:
            yield from _nic(path, old, new)


def _nic(path: str, old: NicShape, new: NicShape) -> Iterator[Change]:
    for name, before, after in (
        ("mac", old.mac, new.mac),
        ("model", old.model, new.model),
        ("bootOrder", old.boot_order, new.boot_order),
    ):
        if before != after:
            yield _simple(f"{path}.{name}", before, after)
    step = Step("update_nic", new.name)
    where = (old.network or old.bridge, new.network or new.bridge)
    if (old.network, old.bridge) != (new.network, new.bridge):
        change = _simple(f"{path}.networkRef", *where, step=step)
        if old.mtu != new.mtu:
            yield _cycle(change, f"its MTU changes from {old.mtu or 'the usual'} to {new.mtu or 'the usual'}")
        elif bool(old.network) != bool(new.network):
            yield _cycle(change, "from a network of libvirt to a bridge, or back, only with a start")
        else:
            yield change
    elif old.mtu != new.mtu:
        yield _cycle(_simple(f"{path}.networkRef", f"MTU {old.mtu}", f"MTU {new.mtu}"), "the network's MTU has changed")
    if old.link_up != new.link_up:
        words = {True: "Up", False: "Down"}
        yield _simple(f"{path}.linkState", words[old.link_up], words[new.link_up], step=step)


# ---------------------------------------------------------------- what the devices do not tell


def _record(running: GuestShape, wished: GuestShape) -> Iterator[Change]:
    known, wanted = dict(running.record), dict(wished.record)
    names = {nic.name for nic in running.nics} & {nic.name for nic in wished.nics}
    for path in sorted(known.keys() | wanted.keys()):
        before, after = known.get(path), wanted.get(path, "")
        if path.startswith(f"{CLOUD_INIT}.") and CLOUD_INIT in known:
            before = before or ""
        if before is None or before == after or path == CLOUD_INIT:
            continue
        if path.startswith("spec.interfaces[") and path.partition("[")[2].partition("]")[0] not in names:
            continue
        if path in ("spec.cpu.model", "spec.machine") and not after:
            continue  # the recorded one stays
        message = "recorded at the first start" if path == "spec.machine" else ""
        yield _simple(path, before, after, message=message)
