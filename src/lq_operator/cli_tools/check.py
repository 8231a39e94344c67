"""`lq-operator check URI...`: which host can fail today, without Kubernetes and without a write to any host."""

from __future__ import annotations

import argparse

from lq_operator.adapters.libvirt.survey import survey
from lq_operator.cli_tools.checkup import Options, Report, examine
from lq_operator.cli_tools.quiet import libraries_to_stderr
from lq_operator.cli_tools.text import mib, table, to_json
from lq_operator.core.result import Rejected

ALL_CAN_FAIL, SOME_CANNOT, SOME_UNKNOWN = 0, 1, 2
"""Exit codes, for scripts."""


def run(arguments: argparse.Namespace) -> int:
    """Ask, think, print."""
    uris = list(dict.fromkeys(arguments.uri))
    if arguments.cpu_overcommit <= 0 or arguments.reserve_mib < 0:
        raise Rejected("--cpu-overcommit must be above 0 and --reserve-mib at least 0")
    options = Options(arguments.cpu_overcommit, arguments.reserve_mib, tuple(arguments.shared))
    with libraries_to_stderr():
        hosts, down, common = survey(uris)
        report = examine(hosts, common, options)
    if arguments.output == "json":
        print(to_json({"report": report, "did_not_answer": down}))
    else:
        print(say(report, down))
    if down:
        return SOME_UNKNOWN
    return ALL_CAN_FAIL if report.all_can_fail else SOME_CANNOT


def say(report: Report, down: dict[str, str]) -> str:
    """The report for a terminal."""
    parts = []
    for uri, why in down.items():
        parts.append(f"NOT ANSWERED  {uri}: {why}\n              Nothing is known of it; what follows leaves it out.")
    if not report.hosts:
        return "\n".join([*parts, "No host answered."])
    running, off = sum(host.vms for host in report.hosts), sum(host.off for host in report.hosts)
    parts.append(f"{len(report.hosts)} hosts, {running} running VMs ({off} more are defined and off)\n")
    parts.append(_host_table(report))
    parts.append(_baseline_text(report))
    parts.append(_findings_text(report))
    return "\n".join(parts)


def _host_table(report: Report) -> str:
    rows = [
        (
            host.name,
            host.vms,
            f"{host.used_vcpus} of {host.capacity_vcpus}",
            f"{mib(host.used_mib)} of {mib(host.memory_mib)}",
            f"yes; a VM of up to {mib(host.largest_mib)} could still start" if host.verdict.ok else "NO",
        )
        for host in report.hosts
    ]
    text = table(("HOST", "VMS", "VCPUS", "MEMORY", "CAN FAIL TODAY"), rows)
    for host in report.hosts:
        if not host.verdict.ok:
            text += f"\n\n{host.verdict.sentence}\n  {host.verdict.blocker.name if host.verdict.blocker else ''}: {host.blocker_why}"
    return text + "\n"


def _baseline_text(report: Report) -> str:
    baseline = report.baseline
    lines = [f"CPU baseline: {baseline.model or 'none, these hosts have no common CPU model'}"]
    for host, models in baseline.lost_models.items():
        lost = (baseline.lost_features or {}).get(host, ())
        if models or lost:
            lines.append(
                f"  {host} gives up {_listed('feature', lost)}{' and ' if lost and models else ''}{_listed('model', models)}"
            )
    if len(lines) == 1 and baseline.model:
        lines.append("  it costs nothing: the hosts' CPUs are equal")
    if baseline.lost_features is None:
        lines.append("  libvirt finds no common feature set, so the features are not compared")
    return "\n".join(lines) + "\n"


def _listed(what: str, names: tuple[str, ...], most: int = 8) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({', '.join(names[:most])}{more})"


def _findings_text(report: Report) -> str:
    if not report.findings:
        return "Nothing is badly placed."
    lines = ["Badly placed:"]
    for finding in report.findings:
        about = f"{finding.vm} on {finding.host}" if finding.vm else finding.host
        lines.append(f"  {about}: {finding.why}\n    -> {finding.remedy}")
    return "\n".join(lines)
