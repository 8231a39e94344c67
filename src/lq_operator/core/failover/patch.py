"""Placement on the wire: camelCase dicts, and the JSON patch that is the only way a placement changes.

The patch tests uid and writeId, so that a late or repeated write is refused by the API server (422, a Conflict).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lq_operator.core.model import BootNonce, Epoch, Evidence, EvidenceKind, HostUUID, NodeName, Phase, Placement


def placement_patch(
    uid: str,
    current: Placement | None,
    new: Placement,
    *,
    resource_version: str = "",
    status_exists: bool = True,
) -> list[dict[str, Any]]:
    """RFC 6902 operations for the status subresource: `current` becomes `new` or nothing happens.

    An absent placement cannot be tested for (RFC 6902 `test` of a missing path is an error, and no other operation
    fails on presence), so there the resourceVersion of the read that showed it absent is tested instead and must be
    given; ValueError otherwise. That is weaker (a restored API server hands them out again), which is why such a
    transition starts nothing: every start is preceded by Commit, which tests a writeId. `status_exists`: whether
    the object that was read had a status at all (only asked where the placement is absent).
    """
    operations: list[dict[str, Any]] = [{"op": "test", "path": "/metadata/uid", "value": uid}]
    value = placement_to_dict(new)
    if current is not None:
        operations.append({"op": "test", "path": "/status/placement/writeId", "value": current.write_id})
        operations.append({"op": "replace", "path": "/status/placement", "value": value})
        return operations
    if not resource_version:
        raise ValueError("an absent placement is guarded by the resourceVersion of the read that showed it absent")
    operations.append({"op": "test", "path": "/metadata/resourceVersion", "value": resource_version})
    if status_exists:
        operations.append({"op": "add", "path": "/status/placement", "value": value})
    else:
        operations.append({"op": "add", "path": "/status", "value": {"placement": value}})
    return operations


def placement_to_dict(placement: Placement) -> dict[str, Any]:
    """As status.placement is written; fields that are not set are left out."""
    fields: dict[str, Any] = {
        "phase": placement.phase.value,
        "writeId": placement.write_id,
        "since": placement.since,
        "node": placement.node,
        "hostUUID": placement.host_uuid,
        "boot": placement.boot,
        "epoch": _epoch_text(placement.epoch),
        "releasedEpoch": _epoch_text(placement.released_epoch),
        "target": placement.target,
        "targetUUID": placement.target_uuid,
        "targetBoot": placement.target_boot,
        "evidence": [_evidence_to_dict(evidence) for evidence in placement.evidence],
        "runEpoch": _epoch_text(placement.run_epoch),
    }
    return {key: value for key, value in fields.items() if value}


def placement_from_dict(data: Mapping[str, Any] | None) -> Placement | None:
    """Inverse; None for an absent placement. ValueError (naming the field) for what we never wrote."""
    if not data:
        return None
    if not data.get("writeId"):
        raise ValueError("status.placement.writeId is empty: the placement was not written by this operator")
    try:
        phase = Phase(data.get("phase", ""))
    except ValueError as error:
        raise ValueError(f"status.placement.phase: {error}") from error
    return Placement(
        phase=phase,
        write_id=data["writeId"],
        since=data.get("since") or "",
        node=NodeName(data["node"]) if data.get("node") else None,
        host_uuid=HostUUID(data["hostUUID"]) if data.get("hostUUID") else None,
        boot=BootNonce(data["boot"]) if data.get("boot") else None,
        epoch=_epoch_of(data.get("epoch"), "epoch"),
        released_epoch=_epoch_of(data.get("releasedEpoch"), "releasedEpoch"),
        target=NodeName(data["target"]) if data.get("target") else None,
        target_uuid=HostUUID(data["targetUUID"]) if data.get("targetUUID") else None,
        target_boot=BootNonce(data["targetBoot"]) if data.get("targetBoot") else None,
        evidence=tuple(_evidence_from_dict(entry) for entry in data.get("evidence") or ()),
        run_epoch=_epoch_of(data.get("runEpoch"), "runEpoch"),
    )


def _evidence_to_dict(evidence: Evidence) -> dict[str, Any]:
    fields = {
        "kind": evidence.kind.value,
        "hostUUID": evidence.host_uuid,
        "epoch": _epoch_text(evidence.epoch),
        "boot": evidence.boot,
        "detail": evidence.detail,
    }
    return {key: value for key, value in fields.items() if value}


def _evidence_from_dict(data: Mapping[str, Any]) -> Evidence:
    try:
        kind = EvidenceKind(data.get("kind", ""))
    except ValueError as error:
        raise ValueError(f"status.placement.evidence[].kind: {error}") from error
    return Evidence(
        kind=kind,
        host_uuid=HostUUID(data["hostUUID"]) if data.get("hostUUID") else None,
        epoch=_epoch_of(data.get("epoch"), "evidence[].epoch"),
        boot=BootNonce(data["boot"]) if data.get("boot") else None,
        detail=data.get("detail") or "",
    )


def _epoch_text(epoch: Epoch | None) -> str | None:
    return None if epoch is None else str(epoch)


def _epoch_of(text: str | None, field: str) -> Epoch | None:
    if not text:
        return None
    try:
        return Epoch.parse(text)
    except ValueError as error:
        raise ValueError(f"status.placement.{field}: {error}") from error
