"""What a guest was started with and its devices do not tell: kept in the domain's metadata, as spec path -> value.

Nothing that may be a secret is written down: of texts a digest, of references their names.
"""

from __future__ import annotations

import hashlib

from lq_operator.api.base import SecretKeyRef
from lq_operator.api.vm import CloudInit, VirtualMachine
from lq_operator.core.lifecycle.changes import CLOUD_INIT


def spec_record(vm: VirtualMachine) -> tuple[tuple[str, str], ...]:
    """Sorted by path. Of cloudInit only what is set; that it is known at all is an entry of its own."""
    spec = vm.spec
    found = {
        "spec.cpu.model": (spec.cpu.model or "") if spec.cpu else "",
        "spec.machine": spec.machine or "",
        CLOUD_INIT: "set" if spec.cloud_init else "",
        **{f"{CLOUD_INIT}.{name}": value for name, value in _seed(spec.cloud_init or CloudInit()).items() if value},
    }
    for interface in spec.interfaces:
        found[f"spec.interfaces[{interface.name}].addressing"] = interface.addressing
        found[f"spec.interfaces[{interface.name}].address"] = interface.address or ""
    return tuple(sorted(found.items()))


def _seed(seed: CloudInit) -> dict[str, str]:
    return {
        "userData": _digest(seed.user_data),
        "userDataSecretRef": _ref(seed.user_data_secret_ref),
        "metaDataSecretRef": _ref(seed.meta_data_secret_ref),
        "networkData": _digest(seed.network_data),
        "networkDataSecretRef": _ref(seed.network_data_secret_ref),
        "sshAuthorizedKeys": _digest("\n".join(seed.ssh_authorized_keys)),
        "sshAuthorizedKeysSecretRef": _ref(seed.ssh_authorized_keys_secret_ref),
        "hostname": seed.hostname or "",
    }


def _digest(text: str | None) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}" if text else ""


def _ref(ref: SecretKeyRef | None) -> str:
    return f"{ref.name}/{ref.key}" if ref else ""
