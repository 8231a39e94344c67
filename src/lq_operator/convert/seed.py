"""cloud-init's NoCloud seed: what a VM's cloudInit says -> the bytes of an ISO 9660 volume labelled cidata.

Pure: secrets come in as values and go out in the bytes only.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pycdlib
import yaml

USER_DATA_LIMIT_BYTES = 512 * 1024
"""Of user-data from a Secret: half of what a Secret can hold; cloud providers allow 16 to 64 KiB."""


EPOCH_KEY = "limiquantix-epoch"
"""In meta-data. Flat, so that a guest without a YAML parser finds it; `ds.meta_data.limiquantix_epoch` for cloud-init."""


@dataclass(frozen=True, slots=True)
class SeedNic:
    """A NIC whose address we know. `cidr` as 10.0.0.5/24."""

    name: str
    mac: str
    cidr: str
    gateway: str = ""
    dns: tuple[str, ...] = ()
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class SeedContent:
    """The three files."""

    meta_data: bytes
    user_data: bytes
    network_config: bytes


def meta_data(
    *, instance_id: str, hostname: str, epoch: str, public_keys: Sequence[str], extra: Mapping[str, Any] | None = None
) -> bytes:
    """meta-data of NoCloud. instance-id, local-hostname and the epoch are ours and win over `extra`.

    The epoch is that of the start which the seed was made for, so that a guest can say under which one it booted.
    """
    document: dict[str, Any] = dict(extra or {})
    document["instance-id"] = instance_id
    document["local-hostname"] = hostname
    document[EPOCH_KEY] = epoch
    if public_keys:
        document["public-keys"] = list(public_keys)
    return yaml.safe_dump(document, default_flow_style=False, sort_keys=True).encode()


def network_config(nics: Sequence[SeedNic], dhcp: Sequence[tuple[str, str]]) -> bytes:
    """network-config version 2 for NICs with a known address, and (name, MAC) of those that use DHCP.

    The '#addr' lines say the same for initramfs guests without a YAML parser.
    """
    ethernets: dict[str, Any] = {}
    comments: list[str] = []
    for nic in nics:
        entry: dict[str, Any] = {"match": {"macaddress": nic.mac}, "addresses": [nic.cidr]}
        if nic.gateway:
            entry["gateway4"] = nic.gateway
        if nic.dns:
            entry["nameservers"] = {"addresses": list(nic.dns)}
        if nic.mtu:
            entry["mtu"] = nic.mtu
        ethernets[nic.name] = entry
        comments.append(f"#addr {nic.mac} {nic.cidr} {nic.gateway}".rstrip())
    for name, mac in dhcp:
        ethernets[name] = {"match": {"macaddress": mac}, "dhcp4": True}
    body = yaml.safe_dump({"version": 2, "ethernets": ethernets}, default_flow_style=False, sort_keys=False)
    return ("\n".join(comments) + "\n" + body if comments else body).encode()


def iso_bytes(content: SeedContent) -> bytes:
    """The seed volume: 60 to 600 KiB (measured 26 ms for a small one)."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    files = (
        ("meta-data", content.meta_data),
        ("user-data", content.user_data),
        ("network-config", content.network_config),
    )
    for name, body in files:
        iso_name = f"/{name.upper().replace('-', '_')}.;1"
        iso.add_fp(io.BytesIO(body), len(body), iso_name, rr_name=name, joliet_path=f"/{name}")
    out = io.BytesIO()
    iso.write_fp(out)
    iso.close()
    return out.getvalue()
