"""Domain XML as a host sends it -> DomainSeen and HardwareAbi."""

from __future__ import annotations

import ipaddress

from lq_operator.adapters.libvirt.xml.build import parse
from lq_operator.adapters.libvirt.xml.devices import describe_slots
from lq_operator.adapters.libvirt.xml.domain import LQ_DOMAIN, read_gate
from lq_operator.core.model import DomainSeen, DomainState, Epoch, HardwareAbi, Identity


def read_domain(document: str, state: DomainState, state_reason: str, *, persistent: bool) -> DomainSeen:
    """One domain from its inactive XML. Ours by its metadata alone: a name proves nothing.

    Metadata whose epoch does not parse still makes it ours (epoch None): a guest must not become invisible
    to its owner because somebody edited one attribute.
    """
    root = parse(document, "domain")
    mark = root.find(f"metadata/{{{LQ_DOMAIN}}}vm")
    identity = epoch = None
    uid = spec_hash = ""
    addresses: tuple[tuple[str, str], ...] = ()
    if mark is not None:
        installation, namespace, name = (mark.get(key) or "" for key in ("installation", "namespace", "name"))
        if installation and namespace and name:
            identity = Identity(installation, namespace, name)
            uid, spec_hash = mark.get("uid") or "", mark.get("specHash") or ""
            epoch = _epoch(mark.get("epoch") or "")
            addresses = _addresses(mark.get("addresses") or "")
    return DomainSeen(
        domain_name=root.findtext("name") or "",
        domain_uuid=root.findtext("uuid") or "",
        state=state,
        state_reason=state_reason,
        persistent=persistent,
        identity=identity,
        uid=uid,
        epoch=epoch,
        spec_hash=spec_hash,
        gate=read_gate(root),
        addresses=addresses,
    )


def _addresses(value: str) -> tuple[tuple[str, str], ...]:
    """'eth0=10.0.0.5 eth1=10.1.0.5'; what is no IPv4 address is left out, whoever wrote it."""
    pairs = (word.partition("=") for word in value.split())
    return tuple((interface, address) for interface, _, address in pairs if _is_address(address))


def _is_address(value: str) -> bool:
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        return False
    return True


def _epoch(value: str) -> Epoch | None:
    try:
        return Epoch.parse(value)
    except ValueError:
        return None


def read_hardware(document: str) -> HardwareAbi:
    """The guest ABI of a domain that libvirt has completed.

    A CPU feature that must be off is written '-name'; the model is '' for modes without one (maximum,
    host-passthrough), which cannot be pinned.
    """
    root = parse(document, "domain")
    machine = root.find("os/type")
    cpu = root.find("cpu")
    model, features = "", []
    if cpu is not None and cpu.get("mode") == "custom":
        model = cpu.findtext("model") or ""
        for feature in cpu.findall("feature"):
            sign = "-" if feature.get("policy") in ("disable", "forbid") else ""
            features.append(f"{sign}{feature.get('name')}")
    devices = root.find("devices")
    slots, targets = describe_slots(devices) if devices is not None else ((), ())
    return HardwareAbi(
        machine=(machine.get("machine") or "") if machine is not None else "",
        cpu_model=model,
        cpu_features=tuple(sorted(features)),
        slots=slots,
        targets=targets,
    )
