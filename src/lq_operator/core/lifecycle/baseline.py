"""The best named CPU model that every host of a cluster can give. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

PREFERRED = (
    "SapphireRapids",
    "Icelake-Server",
    "Cascadelake-Server",
    "Skylake-Server-IBRS",
    "Skylake-Server",
    "Broadwell-IBRS",
    "Broadwell",
    "Haswell-IBRS",
    "Haswell",
    "IvyBridge-IBRS",
    "IvyBridge",
    "SandyBridge-IBRS",
    "SandyBridge",
    "Westmere-IBRS",
    "Westmere",
    "EPYC-Milan",
    "EPYC-Rome",
    "EPYC-IBPB",
    "EPYC",
    "Opteron_G5",
    "Opteron_G4",
    "Opteron_G3",
    "Nehalem-IBRS",
    "Nehalem",
    "Penryn",
    "Conroe",
    "kvm64",
    "qemu64",
)
"""Newest first, as libvirt names them (src/cpu_map); a model of one vendor is never usable on the other's hosts."""


def best_common_model(hosts: Sequence[tuple[str, Collection[str]]]) -> str:
    """(accelerator, usable models) of every host -> the model, '' where none of the known ones is common.

    Emulation can give almost any model slowly; there qemu64 is the honest choice.
    """
    if any(accel != "kvm" for accel, _ in hosts):
        return "qemu64"
    common = set.intersection(*(set(models) for _, models in hosts)) if hosts else set()
    return next((model for model in PREFERRED if model in common), "")
