"""Every Prometheus metric of the operator, declared once, in one registry of its own.

Labels hold only small closed sets or node names; a VM's name is never a label (ten thousand VMs would be ten
thousand series each), logs and Events carry that.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# A reconcile is a few API calls (ms) up to a start that copies a seed image (a minute).
_WORK_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# A libvirt call answers in a millisecond; the deadline of the slowest is minutes.
_CALL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

RECONCILE_SECONDS = Histogram(
    "lq_reconcile_duration_seconds",
    "Time of one pass over one object, by controller and result (done, waiting, retry, error).",
    ("controller", "result"),
    buckets=_WORK_BUCKETS_S,
    registry=REGISTRY,
)
RECONCILES = Counter(
    "lq_reconcile",
    "Passes over an object, by controller and result.",
    ("controller", "result"),
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge("lq_queue_depth", "Keys that wait for a worker.", ("controller",), registry=REGISTRY)
QUEUE_AGE_SECONDS = Gauge(
    "lq_queue_age_seconds", "How long the oldest due key has waited for a worker.", ("controller",), registry=REGISTRY
)
RETRIES = Counter("lq_retries", "Keys put back with a delay, by reason.", ("controller", "reason"), registry=REGISTRY)
DECISIONS = Counter(
    "lq_decisions",
    "Decisions by controller and reason, actions and waits alike.",
    ("controller", "reason"),
    registry=REGISTRY,
)
REJECTIONS = Counter(
    "lq_rejections", "What users asked for and was refused, by reason.", ("reason",), registry=REGISTRY
)

HOST_CALL_SECONDS = Histogram(
    "lq_host_call_seconds",
    "Time of one libvirt call, by operation and result (ok, transient, timeout, rejected, fenced).",
    ("op", "result"),
    buckets=_CALL_BUCKETS_S,
    registry=REGISTRY,
)
HOST_CONNECTED = Gauge(
    "lq_host_connected", "1 while the host answers, 0 while it is Unknown.", ("node",), registry=REGISTRY
)
HOST_QUEUE_DEPTH = Gauge(
    "lq_host_queue_depth", "Calls that wait for this host's executor.", ("node",), registry=REGISTRY
)
SPLIT_BRAIN = Gauge(
    "lq_split_brain", "Running domains with a stale epoch found on this host.", ("node",), registry=REGISTRY
)
ORPHANS = Gauge("lq_orphans", "Domains of ours on this host that no object names.", ("node",), registry=REGISTRY)
FENCINGS = Counter("lq_fencings", "Fencing attempts, by method and result.", ("method", "result"), registry=REGISTRY)
HOST_FENCED = Counter(
    "lq_fenced_writes", "Our own late writes that a host or the API refused.", ("by",), registry=REGISTRY
)

PLACEMENT_SECONDS = Histogram(
    "lq_placement_seconds", "Time to place one batch of VMs.", buckets=_CALL_BUCKETS_S, registry=REGISTRY
)
PLACEMENT_WAITING = Gauge(
    "lq_placement_waiting", "VMs that fit no host now, by first reason.", ("reason",), registry=REGISTRY
)
HOSTS_CANNOT_FAIL = Gauge(
    "lq_hosts_cannot_fail", "Hosts whose failure would leave a VM without room.", ("cluster",), registry=REGISTRY
)
LARGEST_RESTART_BYTES = Gauge(
    "lq_largest_restart_bytes",
    "Memory of the largest VM that could still start after any tolerated failure; 0 where one cannot be tolerated.",
    ("cluster",),
    registry=REGISTRY,
)
VM_STARTS = Counter("lq_vm_starts", "Guest starts sent to hosts, by result.", ("result",), registry=REGISTRY)
VM_START_SECONDS = Histogram(
    "lq_vm_start_seconds",
    "From the read-back placement to a guest that its host has started.",
    buckets=_WORK_BUCKETS_S,
    registry=REGISTRY,
)
VMS = Gauge("lq_vms", "Virtual machines by power state.", ("power",), registry=REGISTRY)
MIGRATIONS = Counter("lq_migrations", "Migrations that ended, by result.", ("result",), registry=REGISTRY)
MIGRATION_SECONDS = Histogram(
    "lq_migration_seconds",
    "From the first byte to the changeover, as the hosts measured it.",
    buckets=_WORK_BUCKETS_S,
    registry=REGISTRY,
)
MIGRATION_DOWNTIME_SECONDS = Histogram(
    "lq_migration_downtime_seconds",
    "How long a moved guest stood still, as the hosts measured it.",
    buckets=_CALL_BUCKETS_S,
    registry=REGISTRY,
)
RESTARTS_AFTER_LOSS = Counter(
    "lq_restarts_after_loss", "VMs released from a lost host, by kind of evidence.", ("evidence",), registry=REGISTRY
)
IMAGE_IMPORT_BYTES = Counter("lq_image_import_bytes", "Bytes of images written to pools.", registry=REGISTRY)
IMAGE_IMPORTS = Counter("lq_image_imports", "Image imports that ended, by result.", ("result",), registry=REGISTRY)

GATEWAY_SESSIONS = Gauge(
    "lq_gateway_sessions", "Consoles and screens that somebody has open, by kind.", ("kind",), registry=REGISTRY
)
GATEWAY_REQUESTS = Counter(
    "lq_gateway_requests",
    "Requests to the gateway, by kind and result (ok, unauthenticated, denied, unreachable).",
    ("kind", "result"),
    registry=REGISTRY,
)

LEADER = Gauge("lq_leader", "1 while this process holds the lease.", ("name",), registry=REGISTRY)
LEASE_TERM = Gauge("lq_lease_term", "Term of the lease this process holds or held last.", ("name",), registry=REGISTRY)
LEASE_RENEWALS = Counter(
    "lq_lease_renewals", "Renewals of leases, by result (ok, retry, lost).", ("name", "result"), registry=REGISTRY
)
LEASE_RENEW_SECONDS = Histogram(
    "lq_lease_renew_seconds", "Time of one renewal.", ("name",), buckets=_CALL_BUCKETS_S, registry=REGISTRY
)
API_WRITES = Counter(
    "lq_api_writes", "Writes to the Kubernetes API, by kind and verb.", ("kind", "verb"), registry=REGISTRY
)
API_CALL_SECONDS = Histogram(
    "lq_api_call_seconds",
    "Time of one call to the Kubernetes API.",
    ("verb", "result"),
    buckets=_CALL_BUCKETS_S,
    registry=REGISTRY,
)
WATCH_STALENESS_SECONDS = Gauge(
    "lq_watch_staleness_seconds", "Since anything was heard on the watch of this kind.", ("kind",), registry=REGISTRY
)
WATCH_RESTARTS = Counter("lq_watch_restarts", "Restarts of the watching part.", ("cause",), registry=REGISTRY)
EVENTS_POSTED = Counter("lq_events_posted", "Kubernetes Events written, by type.", ("type",), registry=REGISTRY)
BUILD_INFO = Gauge("lq_build_info", "Always 1; the labels say what runs.", ("version", "component"), registry=REGISTRY)

WATCHDOGS = Counter("lq_watchdogs", "Watchdogs of guests that fired, by what QEMU did.", ("action",), registry=REGISTRY)
GUEST_HANGS = Counter(
    "lq_guest_hangs", "Guests that hung by spec.heartbeat, by what they got.", ("action",), registry=REGISTRY
)
MAINTENANCE_VMS = Gauge(
    "lq_maintenance_vms",
    "VMs on a host in maintenance, by what becomes of them (remaining: all of them, moving, blocked). 0 remaining: empty.",
    ("node", "fate"),
    registry=REGISTRY,
)

_PER_NODE = (HOST_CONNECTED, HOST_QUEUE_DEPTH, SPLIT_BRAIN, ORPHANS)


def forget_node(node: str) -> None:
    """Drop every series of a node whose object is gone, so that no alert fires for a host nobody has."""
    for gauge in _PER_NODE:
        # remove() of a series that was never set raises KeyError: nothing to forget.
        try:
            gauge.remove(node)
        except KeyError:
            continue
    forget_maintenance(node)


def forget_maintenance(node: str) -> None:
    """The host is in service, or gone."""
    for fate in ("remaining", "moving", "blocked"):
        try:
            MAINTENANCE_VMS.remove(node, fate)
        except KeyError:
            continue


def forget_cluster(cluster: str) -> None:
    """The same for a cluster."""
    for gauge in (HOSTS_CANNOT_FAIL, LARGEST_RESTART_BYTES):
        try:
            gauge.remove(cluster)
        except KeyError:
            continue
