"""A DomainPlan as domain XML: identity and gate, CPU, firmware; devices are in devices.py.

The same plan gives the same text. Addresses and targets of status.hardware are written out, so that a guest
finds its devices where it first saw them; what has none yet is left to libvirt and read back after the start.
"""

from __future__ import annotations

import json

from lxml import etree

from lq_operator.adapters.libvirt.xml.build import Element, dump, node, parse, path, text
from lq_operator.adapters.libvirt.xml.devices import SEED_TARGET, add_devices
from lq_operator.core.lifecycle.shape import memory_headroom_mib
from lq_operator.core.model import DomainPlan
from lq_operator.core.result import Rejected

LQ_DOMAIN = "https://limiquantix.io/domain/1"
GATE_ENTRY = "opt/io.limiquantix/gate"
TCG_CACHE_MIB = 32  # QEMU's default of 1/4 of the host's memory is reserved per guest; 32 saves 20 MB RSS (measured)
TCG_CPU = "qemu64"  # usable on every TCG host
CPU_PERIOD_US = 100_000  # the kernel's default for CFS bandwidth


def domain_xml(plan: DomainPlan) -> str:
    """The whole definition. Rejected names the field that cannot be written or contradicts another."""
    _check(plan)
    root = node(None, "domain", type="kvm" if plan.accel == "kvm" else "qemu")
    node(root, "name", _domain_name(plan))
    node(root, "uuid", plan.identity.domain_uuid)
    _add_metadata(node(root, "metadata"), plan)
    _add_size(root, plan)
    _add_cputune(root, plan)
    if plan.gate_path:
        sysinfo = node(root, "sysinfo", type="fwcfg")
        node(sysinfo, "entry", name=GATE_ENTRY, file=path(plan.gate_path, "gate_path"))
    _add_os(root, plan)
    _add_features(root, plan)
    _add_cpu(root, plan)
    clock = node(root, "clock", offset="utc")
    if _is_x86(plan):
        node(clock, "timer", name="rtc", tickpolicy="catchup")
        node(clock, "timer", name="pit", tickpolicy="delay")
        node(clock, "timer", name="hpet", present="no")
    node(root, "on_poweroff", "destroy")
    node(root, "on_reboot", "restart")
    node(root, "on_crash", "destroy")
    power = node(root, "pm")
    node(power, "suspend-to-mem", enabled="no")
    node(power, "suspend-to-disk", enabled="no")
    add_devices(node(root, "devices"), plan)
    return dump(root)


def with_gate(document: str, plan: DomainPlan) -> str:
    """The XML of a suspend image with gate, metadata and seed of `plan` in place of those it was saved with.

    The seed of the suspended run is gone by now; source files are no part of the guest's ABI. Everything else stays: libvirt refuses a restore that changes the guest's ABI, also one that would add the
    <sysinfo> element (code 67), so an image without a gate cannot get one: Rejected.
    """
    root = parse(document, "suspend image")
    require_gate(root, plan, "the suspend image was saved without a gate and cannot be started under one: discard it")
    seed = root.find(f"devices/disk/target[@dev='{SEED_TARGET}']/../source")
    if seed is not None and plan.seed_path:
        seed.set("file", path(plan.seed_path, "seed_path"))
    mark_as(root, plan)
    return dump(root)


def require_gate(root: Element, plan: DomainPlan, otherwise: str) -> None:
    """Put the gate of `plan` in place of the one that is there; Rejected with that sentence where there is none."""
    entry = _gate_entry(root)
    if plan.gate_path and entry is None:
        raise Rejected(otherwise)
    if entry is not None:
        entry.set("file", path(plan.gate_path, "gate_path"))


def mark_as(root: Element, plan: DomainPlan) -> None:
    """Our metadata of `plan` in place of what is there; other people's stays."""
    metadata = root.find("metadata")
    if metadata is None:
        metadata = node(root, "metadata")
    kept: dict[str, str] = {}
    for old in metadata.findall(f"{{{LQ_DOMAIN}}}vm"):
        # What the guest is made of comes with it: the plan may be of a later spec.
        kept = {name: str(old.get(name)) for name in ("specHash", "record") if old.get(name) is not None}
        metadata.remove(old)
    _add_metadata(metadata, plan)
    mark = metadata.find(f"{{{LQ_DOMAIN}}}vm")
    for name, value in kept.items():
        mark.set(name, value)


def _gate_entry(root: Element) -> Element | None:
    return root.find(f"sysinfo[@type='fwcfg']/entry[@name='{GATE_ENTRY}']")


def read_gate(root: Element) -> str:
    """The name (not the path) of the gate a definition requires, '' where none."""
    entry = _gate_entry(root)
    return "" if entry is None else str(entry.get("file") or "").rpartition("/")[2]


def _check(plan: DomainPlan) -> None:
    if plan.vcpus < 1:
        raise Rejected(f"vcpus is {plan.vcpus}; at least 1", field="vcpus")
    if plan.memory_mib < 1:
        raise Rejected(f"memory_mib is {plan.memory_mib}; at least 1", field="memory_mib")
    if plan.accel not in ("kvm", "tcg"):
        raise Rejected(f"accel {plan.accel!r} is not kvm or tcg", field="accel")
    if plan.firmware not in ("bios", "uefi", "uefi-secure"):
        raise Rejected(f"firmware {plan.firmware!r} is not bios, uefi or uefi-secure", field="firmware")
    if plan.cores and max(1, plan.sockets) * plan.cores * max(1, plan.threads) != plan.vcpus:
        raise Rejected(
            f"{max(1, plan.sockets)} sockets x {plan.cores} cores x {max(1, plan.threads)} threads "
            f"do not make {plan.vcpus} vcpus",
            field="cores",
        )
    if plan.cores and _vcpus_max(plan) % (plan.cores * max(1, plan.threads)):
        raise Rejected(
            f"vcpus_max {plan.vcpus_max} is no multiple of {plan.cores} cores x {max(1, plan.threads)} threads",
            field="vcpus_max",
        )


def _domain_name(plan: DomainPlan) -> str:
    who = plan.identity
    for field, value in (("namespace", who.namespace), ("name", who.name), ("installation", who.installation)):
        if not value or "/" in value or ("_" in value and field != "installation"):
            raise Rejected(f"identity.{field}: {value!r} must not be empty nor hold '/' or '_'", field=field)
        text(value, f"identity.{field}")
    return who.domain_name


def _add_metadata(metadata: Element, plan: DomainPlan) -> None:
    made = etree.SubElement(metadata, f"{{{LQ_DOMAIN}}}vm", nsmap={"lq": LQ_DOMAIN})
    values = {
        "installation": plan.identity.installation,
        "namespace": plan.identity.namespace,
        "name": plan.identity.name,
        "uid": plan.uid,
        "epoch": str(plan.epoch),
        "specHash": plan.spec_hash,
    }
    if plan.addresses:
        values["addresses"] = " ".join(f"{interface}={address}" for interface, address in plan.addresses)
    if plan.record:
        values["record"] = json.dumps(dict(plan.record), separators=(",", ":"), sort_keys=True)
    for name, value in values.items():
        made.set(name, text(value, f"metadata.{name}"))


def _is_x86(plan: DomainPlan) -> bool:
    return plan.arch in ("x86_64", "i686")


def _add_size(root: Element, plan: DomainPlan) -> None:
    """Memory and vCPUs, with what can be added while it runs."""
    headroom_mib = memory_headroom_mib(plan.memory_mib, plan.memory_max_mib)
    if headroom_mib:
        node(root, "maxMemory", str(plan.memory_mib + headroom_mib), slots="1", unit="MiB")
    node(root, "memory", str(plan.memory_mib + headroom_mib), unit="MiB")  # libvirt counts the virtio-mem device in
    if headroom_mib:
        node(root, "currentMemory", str(plan.memory_mib), unit="MiB")
    limit = _vcpus_max(plan)
    node(root, "vcpu", str(limit), placement="static", current=str(plan.vcpus) if limit > plan.vcpus else None)


def _vcpus_max(plan: DomainPlan) -> int:
    return max(plan.vcpus, plan.vcpus_max)


def _add_cputune(root: Element, plan: DomainPlan) -> None:
    if not plan.cpu_shares and not plan.cpu_quota_percent:
        return
    tune = node(root, "cputune")
    if plan.cpu_shares:
        node(tune, "shares", str(plan.cpu_shares))
    if plan.cpu_quota_percent:
        node(tune, "period", str(CPU_PERIOD_US))
        node(tune, "quota", str(CPU_PERIOD_US * plan.cpu_quota_percent // 100))  # libvirt's quota is per vCPU


def _add_os(root: Element, plan: DomainPlan) -> None:
    uefi = plan.firmware != "bios"
    os = node(root, "os", firmware="efi" if uefi else None)
    node(os, "type", "hvm", arch=plan.arch, machine=plan.hardware.machine or plan.machine)
    if uefi:
        secure = "yes" if plan.firmware == "uefi-secure" else "no"
        firmware = node(os, "firmware")
        node(firmware, "feature", enabled=secure, name="secure-boot")
        if secure == "yes":
            node(firmware, "feature", enabled="yes", name="enrolled-keys")
        if plan.nvram_path:
            node(os, "nvram", path(plan.nvram_path, "nvram_path"))


def _add_features(root: Element, plan: DomainPlan) -> None:
    features = node(root, "features")
    node(features, "acpi")
    if _is_x86(plan):
        node(features, "apic")
        node(features, "vmport", state="off")
        if plan.firmware == "uefi-secure":
            node(features, "smm", state="on")
    if plan.accel == "tcg":
        node(node(features, "tcg"), "tb-cache", str(TCG_CACHE_MIB), unit="MiB")


def _add_cpu(root: Element, plan: DomainPlan) -> None:
    mode, model, features = _cpu(plan)
    if mode == "custom":
        # TCG cannot be compared with the host's CPU; under KVM a model the host lacks must be refused, not trimmed.
        cpu = node(root, "cpu", mode=mode, match="exact", check="none" if plan.accel == "tcg" else "partial")
        node(cpu, "model", model, fallback="forbid")
    else:
        cpu = node(root, "cpu", mode=mode, check="partial" if mode == "host-model" else "none")
    if plan.cores:
        node(
            cpu,
            "topology",
            sockets=str(_vcpus_max(plan) // (plan.cores * max(1, plan.threads))),
            dies="1",
            cores=str(plan.cores),
            threads=str(max(1, plan.threads)),
        )
    if memory_headroom_mib(plan.memory_mib, plan.memory_max_mib):
        numa = node(cpu, "numa")  # memory devices need a NUMA node to belong to
        node(numa, "cell", id="0", cpus=f"0-{_vcpus_max(plan) - 1}", memory=str(plan.memory_mib), unit="MiB")
    for feature in features:
        policy = "disable" if feature.startswith("-") else "require"
        node(cpu, "feature", policy=policy, name=feature.removeprefix("-"))


def cpu_xml(plan: DomainPlan) -> str:
    """The guest's CPU alone, for a comparison with a host's; '' where it names no model (any host will do)."""
    if _cpu(plan)[0] != "custom":
        return ""
    root = node(None, "domain")
    _add_cpu(root, plan)
    return dump(root.find("cpu"))


def _cpu(plan: DomainPlan) -> tuple[str, str, tuple[str, ...]]:
    """(mode, model, features): what the guest saw first, else the wish, made possible where TCG cannot follow it."""
    if plan.hardware.cpu_model:
        return "custom", plan.hardware.cpu_model, plan.hardware.cpu_features
    mode, model = plan.cpu_mode, plan.cpu_model
    if mode not in ("custom", "host-model", "host-passthrough", "maximum"):
        raise Rejected(f"cpu_mode {mode!r} is not custom, host-model, host-passthrough or maximum", field="cpu_mode")
    if mode == "custom":
        if not model and plan.accel == "kvm":
            raise Rejected("cpu_mode custom needs cpu_model: set the cluster's CPU baseline", field="cpu_model")
        return mode, model or TCG_CPU, plan.cpu_features
    if plan.accel == "tcg":
        mode = "maximum"  # host-passthrough needs KVM; host-model under TCG asks for features that TCG lacks
    return mode, "", plan.cpu_features
