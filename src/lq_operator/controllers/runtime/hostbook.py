"""The hosts this process owns in this term: the connection, my gate, the last complete listing, the record.

Memory only, rebuilt by taking over; the node controller fills it, every host-facing controller reads it. An entry
is void as soon as its connection is dead or my gate was missed: then nothing it said counts any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lq_operator.controllers.runtime.tenure import Tenure
from lq_operator.core.failover.facts import HostView, Sighting
from lq_operator.core.failover.inventory import Listed
from lq_operator.core.failover.record import HostRecord, decode_record
from lq_operator.core.model import (
    BootNonce,
    DomainSeen,
    Epoch,
    HostInventory,
    HostUUID,
    Identity,
    NodeName,
    PoolPlan,
    VolumePlan,
)
from lq_operator.core.result import Conflict, Transient
from lq_operator.ports import Fleet, Host

RECORD_POOL = "lq-state"
GATE_POOL = "lq-gate"
GATE_DIR = "/run/lq"
RECORD_PLAN = PoolPlan(name=RECORD_POOL, path="/var/lib/libvirt/lq-state")
GATE_PLAN = PoolPlan(name=GATE_POOL, path=GATE_DIR, autostart=False)


@dataclass(slots=True)
class OwnedHost:
    """One host, taken over. `domains` by libvirt name; `names` are the files of its record, `found` what that said
    before we noted anything in this takeover."""

    node: NodeName
    host: Host
    boot: BootNonce
    term: int
    inventory: HostInventory
    names: set[str]
    found: HostRecord
    domains: dict[str, DomainSeen] = field(default_factory=dict)
    listed_at: int = 0
    gate_held: bool = True
    state_dir: str = ""
    silent: bool = False
    tidied: bool = False
    _decoded: HostRecord | None = None

    @property
    def uuid(self) -> HostUUID:
        """Who it is."""
        return self.host.uuid

    @property
    def gate_path(self) -> str:
        """What every start on this host requires to exist."""
        return f"{GATE_DIR}/{self.boot}"

    @property
    def record(self) -> HostRecord:
        """What it remembers. Decoded once per change: every look at a VM reads it."""
        if self._decoded is None:
            self._decoded = decode_record(self.names)
        return self._decoded

    def remember(self, fact: str) -> None:
        """The record has this fact now."""
        self.names.add(fact)
        self._decoded = None

    def forget(self, fact: str) -> None:
        """The record has not this fact any more."""
        self.names.discard(fact)
        self._decoded = None


class HostBook:
    """Use `owned(node)`; None means: this host cannot be seen or may not be touched now."""

    def __init__(self, fleet: Fleet, tenure: Tenure, installation: str) -> None:
        self.fleet = fleet
        self.tenure = tenure
        self.installation = installation
        self._hosts: dict[NodeName, OwnedHost] = {}
        self._off: set[BootNonce] = set()
        self._gates: dict[NodeName, set[str]] = {}
        self._listings = 0
        self.version = 0
        self._changed: list[Callable[[Identity], None]] = []
        self._owned: list[Callable[[NodeName], None]] = []

    def on_change(self, callback: Callable[[Identity], None]) -> None:
        """Called when a listing shows another state of one of our domains than before."""
        self._changed.append(callback)

    def on_owned(self, callback: Callable[[NodeName], None]) -> None:
        """Called when a host has been taken over, and when it is lost."""
        self._owned.append(callback)

    def owned(self, node: NodeName | None) -> OwnedHost | None:
        """The host, while its connection lives and my gate was there at the last look."""
        if node is None:
            return None
        entry = self._hosts.get(node)
        if entry is None or not entry.host.alive or not entry.gate_held or self.fleet.host(node) is not entry.host:
            return None
        return entry

    def still_owned(self, node: NodeName | None) -> OwnedHost:
        """The same for a host that was observed: Transient when the connection was lost since."""
        entry = self.owned(node)
        if entry is None:
            raise Transient(f"{node}: the connection was lost since it was observed")
        return entry

    def all(self) -> list[OwnedHost]:
        """Every owned host, by node name."""
        return [entry for node in sorted(self._hosts) if (entry := self.owned(node)) is not None]

    def put(self, entry: OwnedHost) -> None:
        """Taken over and listed."""
        before = self._hosts.get(entry.node)
        self._hosts[entry.node] = entry
        self.version += 1
        known = before.domains if before else {}
        if before is not None and before.silent:
            # A domain that is just as it was is news: while the host was away its VM may have been placed elsewhere.
            self._tell(known, {})
            known = {}
        self._tell(known, entry.domains)
        for callback in self._owned:
            callback(entry.node)

    def lost(self, node: NodeName) -> None:
        """It cannot be seen any more: its VMs are told. What it showed last is kept and still forbids starts elsewhere."""
        entry = self._hosts.get(node)
        if entry is not None and not entry.silent:
            entry.silent = True
            self.version += 1
            self._tell(entry.domains, {})
            for callback in self._owned:
                callback(node)

    def drop(self, node: NodeName) -> None:
        """It left the cluster, with evidence: nothing it showed counts any more."""
        self.lost(node)
        self._hosts.pop(node, None)

    def surely_off(self, boots: set[BootNonce]) -> None:
        """The boots that are over by evidence valid now: what was seen under them runs no more."""
        if boots != self._off:
            self._off = boots
            self.version += 1

    async def relist(self, entry: OwnedHost) -> None:
        """List the domains completely, then the gates: mine must still be there, or the entry is void.

        Raises Transient when the host does not answer or the gate is gone (rebooted, or I was deposed: the node
        controller finds out which by taking over again).
        """
        seen = await entry.host.list_domains()
        await self.check_gate(entry)
        self._listings += 1
        before, entry.domains = entry.domains, {domain.domain_name: domain for domain in seen}
        entry.listed_at = self._listings
        self._tell(before, entry.domains)

    async def refresh(self, entry: OwnedHost, domain_name: str) -> None:
        """Look at one domain again, because the host said that something happened to it."""
        domain = await entry.host.find_domain(domain_name)
        before = dict(entry.domains)
        if domain is None:
            entry.domains.pop(domain_name, None)
        else:
            entry.domains[domain_name] = domain
        self._tell(before, entry.domains)

    async def check_gate(self, entry: OwnedHost) -> None:
        """My gate is still there. Otherwise everything I knew about running domains is void: Transient."""
        if entry.boot in {gate.name for gate in await entry.host.list_volumes(GATE_POOL)}:
            return
        entry.gate_held = False
        self.version += 1
        raise Transient(f"{entry.node}: my gate is gone, the host has rebooted or was taken over by another process")

    async def note(self, entry: OwnedHost, fact: str) -> None:
        """Add one fact to the host's record; there already is success."""
        if fact in entry.names:
            return
        with contextlib.suppress(Conflict):
            await entry.host.create_volume(RECORD_POOL, VolumePlan(name=fact, capacity_bytes=0, format="raw"))
        entry.remember(fact)
        self.version += 1

    async def forget_facts(self, entry: OwnedHost, facts: Iterable[str]) -> None:
        """Delete facts that others supersede."""
        for fact in facts:
            await entry.host.delete_volume(RECORD_POOL, fact)
            entry.forget(fact)

    def sighting(self, entry: OwnedHost, identity: Identity) -> Sighting | None:
        """Its domain on this host."""
        domain = entry.domains.get(identity.domain_name)
        if domain is None or domain.identity != identity:
            return None
        return Sighting(entry.node, entry.uuid, entry.boot, domain.state.runs, domain.epoch)

    def domains_of(self, identity: Identity) -> list[tuple[OwnedHost, DomainSeen]]:
        """Its domains on the hosts that are owned now, each with where it was seen."""
        found = ((entry, entry.domains.get(identity.domain_name)) for entry in self.all())
        return [(entry, domain) for entry, domain in found if domain is not None and domain.identity == identity]

    def addresses(self) -> dict[str, tuple[Identity, str]]:
        """Address -> (who, interface), as every domain of ours that was listed in this term tells it."""
        return {
            address: (domain.identity, interface)
            for entry in self._hosts.values()
            for domain in entry.domains.values()
            if domain.identity is not None and domain.identity.installation == self.installation
            for interface, address in domain.addresses
        }

    def sightings(self, identity: Identity) -> tuple[Sighting, ...]:
        """Its domains on every host that was listed in this term, as last seen; hosts surely off have none."""
        found = (self.sighting(entry, identity) for entry in self._counting())
        return tuple(sighting for sighting in found if sighting is not None)

    def _counting(self) -> list[OwnedHost]:
        """Every host listed in this term, also those that are silent since, except where their boot is surely over."""
        return [
            entry
            for node, entry in sorted(self._hosts.items())
            if entry.boot not in self._off or self.owned(node) is not None
        ]

    def departures(self, identity: Identity) -> tuple[Epoch, ...]:
        """Departure notes about it in every record that was read in this term."""
        key = (identity.namespace, identity.name)
        notes = (entry.record.departures.get(key) for entry in self._hosts.values())
        return tuple(note for note in notes if note is not None)

    def view(self, entry: OwnedHost, identity: Identity) -> HostView:
        """What this host shows about one identity, as evidence."""
        return HostView(
            node=entry.node,
            host_uuid=entry.uuid,
            boot=entry.boot,
            term=entry.term,
            gate_held=entry.gate_held,
            sighting=self.sighting(entry, identity),
            departed=entry.record.departures.get((identity.namespace, identity.name)),
            listed_at=entry.listed_at,
        )

    def views(self, identity: Identity) -> tuple[HostView, ...]:
        """The owned hosts that have a domain of it."""
        views = (self.view(entry, identity) for entry in self.all())
        return tuple(view for view in views if view.sighting is not None)

    def listed(self) -> list[Listed]:
        """For judging the inventory: a host that went silent after its listing has still been listed."""
        return [Listed(entry.uuid, entry.term, entry.record) for entry in self._hosts.values()]

    def former_gates(self, node: NodeName) -> set[str]:
        """Gates that this process has made on this host: its own, and not those of a rival of the same term."""
        return self._gates.setdefault(node, set())

    def remember_gate(self, node: NodeName, gate: str) -> None:
        """Before it is created, so that it is ours also when the answer was lost."""
        self.former_gates(node).add(gate)

    def next_listing(self) -> int:
        """Orders a listing that the caller makes itself (a takeover)."""
        self._listings += 1
        return self._listings

    def _tell(self, before: dict[str, DomainSeen], after: dict[str, DomainSeen]) -> None:
        for name in before.keys() | after.keys():
            if before.get(name) == after.get(name):
                continue
            domain = after.get(name) or before[name]
            if domain.identity is not None and domain.identity.installation == self.installation:
                for callback in self._changed:
                    callback(domain.identity)
