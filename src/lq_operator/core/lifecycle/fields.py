"""Every field of VirtualMachine.spec and what a change of it does to a guest that runs: one literal table.

The preview (status.changes), `lq-operator explain fields`, docs/reference/fields.md and the warnings of `kubectl apply`
are all made of it. A row covers its field and everything below it; a field without a row fails a test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Effect(StrEnum):
    """What it takes until a change is true of a running guest."""

    LIVE = "Live"
    MIGRATE = "Migrate"
    POWER_CYCLE = "PowerCycle"
    IMPOSSIBLE = "Impossible"
    NOTHING = "Nothing"

    @property
    def phrase(self) -> str:
        """How it goes on after the field's name."""
        return _PHRASES[self]


_PHRASES = {
    Effect.LIVE: "is applied while the VM runs",
    Effect.MIGRATE: "takes effect with the next move to another host",
    Effect.POWER_CYCLE: "takes effect after a power cycle",
    Effect.IMPOSSIBLE: "cannot be changed",
    Effect.NOTHING: "is nothing that the guest has",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One field. `when`: where the value decides, or what else to know. `observed`: where a test sees that it is so.

    `also`: a CEL expression over `new` and `old` (the specs) that is true where a change of a Live field needs a power
    cycle all the same; for items of lists over `n` and `o` (the item in both).
    """

    effect: Effect
    when: str = ""
    observed: str = ""
    also: str = ""


LIVE, MIGRATE, CYCLE = Effect.LIVE, Effect.MIGRATE, Effect.POWER_CYCLE
IMPOSSIBLE, NOTHING = Effect.IMPOSSIBLE, Effect.NOTHING

_SEED = "The seed disk is written at each start; cloud-init itself applies most of it to a new instance only."
_MADE = "Read when the Volume is made; afterwards the Volume's own fields count."
_DEFINITION = "the domain's definition before and after"

FIELDS: dict[str, Row] = {
    "spec.clusterRef": Row(IMPOSSIBLE, "Refused by the API server."),
    "spec.className": Row(CYCLE, "The new class's size; a class brings no room for adding while it runs.", "host: vcpu of the definition"),
    "spec.cpu.count": Row(
        LIVE,
        "More: up to cpu.maxCount of the last start, and the guest has to put them on line. Else after a power cycle.",
        "guest: /sys/devices/system/cpu/online",
        "has(new.cpu) && has(old.cpu) && (new.cpu.count < old.cpu.count || new.cpu.count > (has(old.cpu.maxCount) ? old.cpu.maxCount : old.cpu.count))",
    ),
    "spec.cpu.maxCount": Row(CYCLE, "The guest learns at its start how many there may be.", "host: vcpu of the definition"),
    "spec.cpu.sockets": Row(LIVE, "Together with cpu.count: whole sockets are added.", "guest: /sys/devices/system/cpu/online"),
    "spec.cpu.cores": Row(CYCLE, observed="host: topology of the definition"),
    "spec.cpu.threads": Row(CYCLE, observed="host: topology of the definition"),
    "spec.cpu.model": Row(CYCLE, "Left out later: the recorded one stays.", "guest: /proc/cpuinfo"),
    "spec.cpu.shares": Row(
        LIVE,
        "Taken away: after a power cycle. The host needs the cgroup controller cpu.",
        "host contract in memory: the lab's hosts have no cgroup controllers",
        "has(old.cpu) && has(new.cpu) && has(old.cpu.shares) && !has(new.cpu.shares)",
    ),
    "spec.cpu.limitPercent": Row(
        LIVE,
        "The host needs the cgroup controller cpu.",
        "host contract in memory: the lab's hosts have no cgroup controllers",
    ),
    "spec.memory.size": Row(
        LIVE,
        "Up to the size of the last start by balloon, above it by virtio-mem up to memory.maxSize of the last start; else "
        "after a power cycle. The guest needs the drivers, and has to put added memory on line.",
        "guest: MemTotal of /proc/meminfo",
        "has(new.memory) && has(old.memory) && quantity(new.memory.size).compareTo(quantity(old.memory.size)) > 0 && "
        "quantity(new.memory.size).compareTo(quantity(has(old.memory.maxSize) ? old.memory.maxSize : old.memory.size)) > 0",
    ),
    "spec.memory.maxSize": Row(CYCLE, observed="host: maxMemory of the definition"),
    "spec.firmware": Row(IMPOSSIBLE, "Refused by the API server."),
    "spec.tpm": Row(CYCLE, observed="host: tpm of the definition"),
    "spec.machine": Row(IMPOSSIBLE, "Recorded at the first start; before that it is free.", "status.changes"),
    "spec.disks[].name": Row(
        LIVE,
        "A disk added or taken out: live on virtio and scsi. On sata, and for the disk that boots first: after a power cycle.",
        "guest: /sys/block",
        "n.bus == 'sata'",
    ),
    "spec.disks[].volumeRef": Row(
        CYCLE, "Another volume under the same name. Live: take the disk out, and add one with another name.", "host: the disk's file"
    ),
    "spec.disks[].template.size": Row(LIVE, "It grows; shrinking is impossible.", "guest: size of the block device"),
    "spec.disks[].template.poolRef": Row(NOTHING, _MADE),
    "spec.disks[].template.source": Row(NOTHING, _MADE),
    "spec.disks[].template.format": Row(NOTHING, _MADE),
    "spec.disks[].template.reclaimPolicy": Row(NOTHING, _MADE),
    "spec.disks[].bus": Row(CYCLE, observed="guest: /sys/block"),
    "spec.disks[].bootOrder": Row(CYCLE, observed=_DEFINITION),
    "spec.disks[].cache": Row(CYCLE, observed=_DEFINITION),
    "spec.disks[].readOnly": Row(CYCLE, observed="guest: ro of the block device"),
    "spec.disks[].limits": Row(LIVE, observed="QEMU: query-block"),
    "spec.cdroms[].name": Row(
        CYCLE, "A drive added or taken out. What lies in it changes while the VM runs.", "guest: /sys/block"
    ),
    "spec.cdroms[].medium": Row(
        LIVE,
        "Put in, taken out, exchanged. While the guest has the tray locked it waits, and says so.",
        "guest: the first bytes of /dev/sr0",
    ),
    "spec.cdroms[].bus": Row(CYCLE, observed=_DEFINITION),
    "spec.cdroms[].bootOrder": Row(CYCLE, observed=_DEFINITION),
    "spec.cdroms[].forceEject": Row(NOTHING, "Read when the medium is taken out."),
    "spec.interfaces[].name": Row(LIVE, "An interface added or taken out.", "guest: /sys/class/net"),
    "spec.interfaces[].networkRef": Row(
        LIVE,
        "As if the cable were plugged elsewhere; another MTU needs a power cycle. A claimed address reaches the guest with its next seed.",
        "host: the bridge of the tap",
    ),
    "spec.interfaces[].mac": Row(CYCLE, observed=_DEFINITION),
    "spec.interfaces[].addressing": Row(CYCLE, _SEED, _DEFINITION),
    "spec.interfaces[].address": Row(CYCLE, _SEED, _DEFINITION),
    "spec.interfaces[].model": Row(CYCLE, observed=_DEFINITION),
    "spec.interfaces[].bootOrder": Row(CYCLE, observed=_DEFINITION),
    "spec.interfaces[].linkState": Row(LIVE, observed="guest: carrier of the interface"),
    "spec.cloudInit": Row(CYCLE, _SEED, "guest: the seed disk"),
    "spec.guestAgent": Row(CYCLE, observed="host: channel of the definition"),
    "spec.vnc": Row(CYCLE, observed="host: graphics of the definition"),
    "spec.consoleLog": Row(CYCLE, observed="host: serial of the definition"),
    "spec.watchdog": Row(CYCLE, observed="host: watchdog of the definition"),
    "spec.heartbeat": Row(NOTHING, "Read each time its agent is asked: at once for a VM that runs."),
    "spec.powerState": Row(NOTHING, "It is what starts, stops, pauses and suspends."),
    "spec.restartPolicy": Row(NOTHING, "Read when the guest ends."),
    "spec.shutdown": Row(NOTHING, "Read when it is stopped."),
    "spec.placement.nodeSelector": Row(MIGRATE, "Only where its host does not fit any more.", "status.changes"),
    "spec.placement.nodeAffinity": Row(MIGRATE, "Only where its host does not fit any more.", "status.changes"),
    "spec.placement.tolerations": Row(NOTHING, "Read at the next placement."),
    "spec.placement.affinity": Row(NOTHING, "Read at the next placement."),
    "spec.placement.antiAffinity": Row(NOTHING, "Read at the next placement."),
    "spec.placement.spread": Row(NOTHING, "Read at the next placement."),
    "spec.placement.strategy": Row(NOTHING, "Read at the next placement."),
    "spec.availability": Row(NOTHING, "Read when its host fails."),
    "spec.migration": Row(NOTHING, "Read at the next move."),
    "spec.description": Row(NOTHING, "For people."),
}  # fmt: skip

_INSTANCE = re.compile(r"\[[^\]]*\]|\{[^}]*\}")


def field_of(path: str) -> str:
    """'spec.disks[data].bus' or a leaf of the schema -> the row's key; KeyError where no row covers it."""
    plain = _INSTANCE.sub("[]", path)
    while plain:
        if plain in FIELDS:
            return plain
        plain = plain.removesuffix("[]") if plain.endswith("[]") else plain.rpartition(".")[0]
    raise KeyError(f"{path} has no row in core/lifecycle/fields.py: say what a change of it does to a running VM")


def effect_of(path: str) -> Effect:
    """What the table says of a field, without its refinements."""
    return FIELDS[field_of(path)].effect
