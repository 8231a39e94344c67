"""The declared metrics: the names dashboards rely on, and nothing without the prefix."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, generate_latest

from lq_operator.telemetry import metrics

PROMISED = {
    "lq_reconcile_duration_seconds": ("controller", "result"),
    "lq_reconcile": ("controller", "result"),
    "lq_queue_depth": ("controller",),
    "lq_queue_age_seconds": ("controller",),
    "lq_host_call_seconds": ("op", "result"),
    "lq_host_connected": ("node",),
    "lq_watch_staleness_seconds": ("kind",),
    "lq_decisions": ("controller", "reason"),
    "lq_rejections": ("reason",),
    "lq_placement_seconds": (),
    "lq_leader": ("name",),
    "lq_api_writes": ("kind", "verb"),
    "lq_vm_starts": ("result",),
    "lq_split_brain": ("node",),
    "lq_image_import_bytes": (),
    "lq_fencings": ("method", "result"),
}


def _declared() -> dict[str, tuple[str, ...]]:
    found = [value for value in vars(metrics).values() if isinstance(value, (Counter, Gauge, Histogram))]
    return {metric._name: tuple(metric._labelnames) for metric in found}


def test_promised_names_and_labels_exist() -> None:
    declared = _declared()
    assert {name: declared.get(name) for name in PROMISED} == PROMISED


def test_ours_have_the_prefix_help_and_no_vm_label() -> None:
    for metric in (v for v in vars(metrics).values() if isinstance(v, (Counter, Gauge, Histogram))):
        assert metric._name.startswith("lq_")
        assert metric._documentation.endswith(".")
        assert not {"vm", "namespace", "uid"} & set(metric._labelnames)


def test_exposition_has_ours_and_the_process() -> None:
    metrics.VM_STARTS.labels("ok").inc()
    text = generate_latest(metrics.REGISTRY).decode()
    assert 'lq_vm_starts_total{result="ok"}' in text
    assert "process_resident_memory_bytes" in text


def test_a_forgotten_node_leaves_no_series() -> None:
    metrics.HOST_CONNECTED.labels("gone").set(0)
    metrics.HOST_CONNECTED.labels("stays").set(1)
    metrics.forget_node("gone")
    metrics.forget_node("never-seen")
    text = generate_latest(metrics.REGISTRY).decode()
    assert 'node="gone"' not in text
    assert 'lq_host_connected{node="stays"} 1.0' in text
