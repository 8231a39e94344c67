"""The few Protocols through which controllers reach the world, in our own words.

Adapters implement them for libvirt, Kubernetes and the coordination backends; tests/sim implements them for
the simulator; one contract suite runs on both. Everything raises the errors of core/result only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from lq_operator.api.base import Resource
from lq_operator.core.lifecycle.shape import GuestShape
from lq_operator.core.model import (
    AgentState,
    CommandOutcome,
    DomainEvent,
    DomainPlan,
    DomainSeen,
    GuestFacts,
    HardwareAbi,
    HostInventory,
    HostUUID,
    MovePlan,
    MoveProgress,
    MoveResult,
    NetworkPlan,
    NetworkSeen,
    NodeName,
    PoolPlan,
    PoolSeen,
    VolumePlan,
    VolumeSeen,
)
from lq_operator.core.result import (
    Conflict,
    Fenced,
    NotFound,
    OutcomeUnknown,
    Rejected,
    Transient,
    WorldError,
)

__all__ = [
    "Caller",
    "Clock",
    "Conflict",
    "Console",
    "Coordination",
    "Doorkeeper",
    "Events",
    "Fenced",
    "Fetched",
    "Fetcher",
    "Fleet",
    "Grant",
    "Host",
    "NotFound",
    "OutcomeUnknown",
    "Picture",
    "Rejected",
    "Resources",
    "Store",
    "Transient",
    "WorldError",
]

K = TypeVar("K", bound=Resource)


class Console(Protocol):
    """A guest's serial port, open. Bytes as they come; there is no size of a window and no echo but the guest's."""

    async def read(self) -> bytes:
        """The next bytes, b'' once it is over (the guest stopped, the connection broke, close()). What nobody reads is
        dropped from the front beyond 1 MiB."""
        ...

    async def write(self, data: bytes) -> None:
        """Returns once it is on its way. Transient: it is over, or the host takes nothing."""
        ...

    async def close(self) -> None:
        """Idempotent; bounded, whatever the host does."""
        ...


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a host made it: 'image/png' or 'image/x-portable-pixmap'."""

    content: bytes
    mime: str


class Host(Protocol):
    """One live connection to one host. It dies with the connection: a dead Host raises Transient for ever.

    Whoever acts on a Host acts on exactly the connection on which it observed (protocol.md, "Writes to a host").
    Reads raise Transient when the host does not answer in time; writes that may have happened raise
    OutcomeUnknown; what the host refuses for good raises Rejected; a missing thing raises NotFound.
    """

    @property
    def node(self) -> NodeName: ...
    @property
    def uuid(self) -> HostUUID: ...
    @property
    def alive(self) -> bool:
        """False once the connection is known to be dead. True proves nothing."""
        ...

    async def inventory(self) -> HostInventory: ...

    # domains
    async def list_domains(self) -> tuple[DomainSeen, ...]:
        """Every domain of the host, ours or not, active or not; all or an error."""
        ...

    async def find_domain(self, domain_name: str) -> DomainSeen | None: ...
    async def read_hardware(self, domain_name: str) -> HardwareAbi:
        """The guest ABI that libvirt settled on (expanded machine, CPU, PCI addresses)."""
        ...

    async def define(self, plan: DomainPlan) -> None:
        """Define or redefine; autostart is always switched off."""
        ...

    async def start(self, domain_name: str, *, paused: bool = False) -> None: ...
    async def shutdown(self, domain_name: str, *, mode: str) -> None:
        """Ask the guest to stop: mode 'agent' or 'acpi'. Returns before it has."""
        ...

    async def reboot(self, domain_name: str, *, mode: str) -> None: ...
    async def reset(self, domain_name: str) -> None: ...
    async def destroy(self, domain_name: str) -> None: ...
    async def undefine(self, domain_name: str, *, keep_nvram: bool = True) -> None: ...
    async def pause(self, domain_name: str) -> None: ...
    async def resume(self, domain_name: str) -> None: ...
    async def save(self, domain_name: str, path: str) -> None:
        """Suspend to a file (the state pool), not libvirt's managed save."""
        ...

    async def restore(self, path: str, plan: DomainPlan) -> None:
        """Start from a suspend file with the gate of `plan` in place of the one it was saved with."""
        ...

    async def guest_facts(self, domain_name: str) -> GuestFacts:
        """Asks the agent; Transient when it does not answer (not installed, still booting)."""
        ...

    async def agent_state(self, domain_name: str) -> AgentState:
        """Pings the agent. Silent only where the guest holds the channel open and the ping itself ran out of time;
        whatever else is in the way is Transient. Conflict: the guest does not run (also paused). Rejected: no channel."""
        ...

    async def set_password(self, domain_name: str, user: str, password: str) -> None:
        """Through the agent. Rejected: the guest refuses, for example an unknown user, in its own words. Transient: no
        agent answers. Conflict: it does not run. Repeating it changes nothing; the password is in no error."""
        ...

    async def change_ssh_keys(self, domain_name: str, user: str, keys: Sequence[str], *, add: bool) -> None:
        """Add public keys to the user's authorized_keys, or take them out. As set_password."""
        ...

    async def start_command(self, domain_name: str, argv: Sequence[str], *, stdin: bytes = b"") -> int:
        """Run a program in the guest by its agent; its pid there. Errors as set_password; OutcomeUnknown: it may run."""
        ...

    async def command_outcome(self, domain_name: str, pid: int, *, most_bytes: int) -> CommandOutcome | None:
        """None while it runs. Told once: the agent forgets it then. Output beyond `most_bytes` of each stream is cut.
        Rejected: the agent knows no such command, or the output does not fit into one answer (about 3 MiB)."""
        ...

    # moving
    async def cpu_obstacle(self, plan: DomainPlan) -> str:
        """Asked of the target: '' when it can give the guest this CPU model with these features, else a sentence."""
        ...

    async def move(self, plan: MovePlan) -> MoveResult:
        """Asked of the source: returns once the guest runs on the target and the source's is shut off (still defined).

        Rejected: refused, the guest runs on here. Transient: it broke off and the guest runs on here; when the
        target's very last answer was lost, it may run there, too, unless it arrives paused or a shared disk's lock
        forbids it (docs/adr/0003): ask both hosts after any error.
        Conflict: it does not run here, or is on its way already. OutcomeUnknown: ask both hosts. May take hours; the caller bounds it by `cancel_move`.
        """
        ...

    async def move_progress(self, domain_name: str) -> MoveProgress | None:
        """None while no move is under way."""
        ...

    async def cancel_move(self, domain_name: str) -> None:
        """The guest stays here, unless it is just changing over: what `move` and both hosts say counts.

        Success where no move is under way; Conflict once post-copy has begun. Late it ends a later move: harmless.
        """
        ...

    async def start_post_copy(self, domain_name: str) -> None:
        """Change over now, the rest of the memory follows. Conflict when no move that allows it is under way."""
        ...

    # changes of a running guest: its definition follows. All may be repeated; Conflict when it does not run.
    async def read_shape(self, domain_name: str) -> GuestShape:
        """What the running guest is made of now."""
        ...

    async def set_vcpus(self, domain_name: str, count: int) -> None: ...
    async def set_memory(self, domain_name: str, size_mib: int) -> None:
        """By balloon, and above what it was started with by virtio-mem. Returns once the guest was asked."""
        ...

    async def set_cpu_tuning(self, domain_name: str, *, shares: int, quota_percent: int) -> None:
        """Weight (0 = as it is) and percent of each vCPU (0 = all of it)."""
        ...

    async def attach_disk(self, plan: DomainPlan, disk: str) -> None:
        """Plug in that disk of the plan. Conflict: another file is attached under the name."""
        ...

    async def detach_disk(self, domain_name: str, disk: str) -> None:
        """Ask the guest to let go. It may have it still when this returns: look."""
        ...

    async def set_disk_limits(self, plan: DomainPlan, disk: str) -> None: ...
    async def grow_disk(self, domain_name: str, disk: str, capacity_bytes: int) -> None:
        """File and device, under the running guest. Never smaller."""
        ...

    async def set_medium(self, plan: DomainPlan, drive: str, *, force: bool) -> None:
        """What lies in that CD-ROM drive becomes that of the plan ('' = nothing). Rejected while the guest has the tray
        locked, unless `force`. NotFound: the running guest has no such drive."""
        ...

    async def attach_nic(self, plan: DomainPlan, nic: str) -> None: ...
    async def detach_nic(self, domain_name: str, nic: str) -> None:
        """As detach_disk."""
        ...

    async def update_nic(self, plan: DomainPlan, nic: str) -> None:
        """Network and link of that NIC of the plan; the guest keeps the device."""
        ...

    async def set_marks(self, domain_name: str, *, spec_hash: str, record: tuple[tuple[str, str], ...]) -> None:
        """Write down what the running guest is made of now; identity and epoch stay."""
        ...

    # storage
    async def list_pools(self) -> tuple[PoolSeen, ...]: ...
    async def ensure_pool(self, plan: PoolPlan) -> PoolSeen: ...
    async def remove_pool(self, name: str) -> None:
        """Stop and undefine; files stay."""
        ...

    async def list_volumes(self, pool: str, *, refresh: bool = False) -> tuple[VolumeSeen, ...]: ...
    async def create_volume(self, pool: str, plan: VolumePlan) -> VolumeSeen:
        """Exclusive: Conflict when the name is taken, in libvirt's list or as a file."""
        ...

    async def resize_volume(self, pool: str, name: str, capacity_bytes: int) -> None: ...
    async def delete_volume(self, pool: str, name: str) -> None:
        """Absent already is success."""
        ...

    async def upload(self, pool: str, name: str, content: AsyncIterator[bytes]) -> None:
        """Fill an existing volume from offset 0."""
        ...

    async def download(self, pool: str, name: str, *, length: int) -> bytes:
        """The first `length` bytes of a volume (headers, nonces, console tails)."""
        ...

    # networks
    async def list_networks(self) -> tuple[NetworkSeen, ...]: ...
    async def ensure_network(self, plan: NetworkPlan) -> NetworkSeen: ...
    async def remove_network(self, name: str) -> None: ...
    async def list_bridges(self) -> tuple[str, ...]: ...

    # consoles
    async def open_console(self, domain_name: str) -> Console:
        """The first serial port. Conflict: the guest does not run, or somebody has the console open at the host.
        Rejected: it has no serial port that can be opened."""
        ...

    async def screenshot(self, domain_name: str) -> Picture:
        """What the first screen shows. Conflict: the guest does not run. Rejected: it has no screen."""
        ...

    async def press_keys(self, domain_name: str, keycodes: Sequence[int]) -> None:
        """Press these keys together and let them go: Linux key codes (input-event-codes.h), at most 16."""
        ...

    async def point(self, domain_name: str, x: float, y: float, changed: Mapping[str, bool]) -> None:
        """Move the pointer to (x, y), each 0..1 of the screen; then press (True) or let go (False) the buttons
        'left', 'middle', 'right', 'wheel-up', 'wheel-down'. Rejected: the host does not allow it."""
        ...


class Fleet(Protocol):
    """Every host this process may talk to: keeps connections alive, reconnects, hands events over."""

    def configure(self, node: NodeName, uri: str, credentials: Mapping[str, bytes]) -> None:
        """Start (or change) keeping a connection. Returns at once. `credentials`: a Secret's data
        (ca.crt, tls.crt, tls.key for TLS; ssh-privatekey, known_hosts for SSH; empty for TCP)."""
        ...

    def forget(self, node: NodeName) -> None:
        """Close and stop reconnecting."""
        ...

    def host(self, node: NodeName) -> Host | None:
        """The live connection, or None while there is none."""
        ...

    def why_down(self, node: NodeName) -> str:
        """A sentence: why there is no connection ('' while connected)."""
        ...

    def on_event(self, callback: Callable[[DomainEvent], None]) -> None:
        """Called on the main loop for every event, also 'connected' and 'closed' of each node."""
        ...

    async def close(self) -> None: ...


class Store(Protocol):
    """What the watches have shown so far, parsed. Reading it costs nothing and may be stale."""

    def get(self, kind: type[K], namespace: str | None, name: str) -> K | None: ...
    def list(self, kind: type[K]) -> Sequence[K]: ...
    def broken(self, kind: type[Resource]) -> Sequence[object]:
        """Objects that exist but cannot be read. Whoever concludes from absence must look here too."""
        ...

    def synced(self, *kinds: type[Resource]) -> bool:
        """True once every object that existed at start has been seen, for each of the kinds."""
        ...


class Resources(Protocol):
    """The API server, asked directly. Raises NotFound, Conflict (409, 422 of a failed test), Transient, Rejected.

    Objects that do not parse raise Rejected naming the field; lists skip none silently.
    """

    async def get(self, kind: type[K], namespace: str | None, name: str) -> K | None: ...
    async def list(self, kind: type[K]) -> Sequence[K]: ...
    async def create(self, obj: K) -> K:
        """Conflict when the name is taken."""
        ...

    async def delete(self, kind: type[Resource], namespace: str | None, name: str, *, uid: str) -> None:
        """With a uid precondition; absent already is success."""
        ...

    async def json_patch(
        self,
        kind: type[K],
        namespace: str | None,
        name: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        subresource: str | None = None,
        manager: str = "lq-operator",
    ) -> K:
        """RFC 6902 with its tests; a failed test is a Conflict."""
        ...

    async def apply_status(self, obj: K, status: Mapping[str, Any], *, manager: str) -> K:
        """Server-side apply of the status fields this manager owns (forced), with obj's uid as precondition."""
        ...

    async def read_secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None: ...
    async def namespace_labels(self, namespace: str) -> Mapping[str, str] | None: ...
    async def kube_system_uid(self) -> str: ...


class Events(Protocol):
    """Kubernetes Events, deduplicated; never blocks, never fails the caller."""

    def emit(self, about: Resource, reason: str, message: str, *, warning: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """A source that is open: its length in bytes, and its bytes in order. `chunks` raises Transient when it breaks off."""

    length_bytes: int
    chunks: AsyncIterator[bytes]


class Fetcher(Protocol):
    """Reads images from URLs, only from where users may send us."""

    def fetch(self, url: str) -> AbstractAsyncContextManager[Fetched]:
        """Rejected (field spec.source.url): refused or not there, repeating is pointless. Transient: may pass."""
        ...


@dataclass(frozen=True, slots=True)
class Grant:
    """Leadership held now. `expires_mono_s` is on the monotonic clock, counted from before the renewing call was sent.

    `found`: (term, beat) that this lease showed in the write that acquired it, (0, 0) where there was none. No host may
    remember more than that, or the store went back.
    """

    name: str
    holder: str
    term: int
    beat: int
    expires_mono_s: float
    found: tuple[int, int] = (0, 0)


class Coordination(Protocol):
    """Leases with a term. One counter for the installation, whatever is leased (protocol.md, Identity)."""

    async def acquire(self, name: str, above_term: int = 0) -> Grant:
        """Wait until held; the term is above `above_term` and above every term the backend has given out."""
        ...

    async def renew(self, grant: Grant) -> Grant:
        """Raises Fenced when it was lost or cannot be proved to be held."""
        ...

    async def release(self, grant: Grant) -> None: ...
    async def highest_term(self) -> tuple[int, int]:
        """(term, beat) of the highest term the backend knows; (0, 0) when it knows none."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whom the API server knows by a token."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Doorkeeper(Protocol):
    """Who a token belongs to, and what that one may do, as the API server says now. Nothing is remembered."""

    async def authenticate(self, token: str) -> Caller | None:
        """None when the API server does not accept it."""
        ...

    async def allowed(self, caller: Caller, verb: str, subresource: str, namespace: str, name: str) -> tuple[bool, str]:
        """May the caller do this to virtualmachines/SUBRESOURCE of that name? With the API server's reason."""
        ...


class Clock(Protocol):
    """Time and randomness, so that the simulator owns both."""

    def mono_s(self) -> float: ...
    def now_rfc3339(self) -> str: ...
    def token(self) -> str:
        """128 random bits as hex: write ids, gate suffixes."""
        ...

    async def sleep(self, seconds: float) -> None: ...
