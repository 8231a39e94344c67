"""The cloud-init seed of one start: secrets are read here, at the start, and go nowhere but into the ISO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from lq_operator.api.base import SecretKeyRef
from lq_operator.api.vm import CloudInit, VirtualMachine
from lq_operator.controllers.vm.prepare import Prepared
from lq_operator.convert.seed import USER_DATA_LIMIT_BYTES, SeedContent, iso_bytes, meta_data, network_config
from lq_operator.core.model import Epoch
from lq_operator.core.result import Rejected
from lq_operator.ports import Resources


class SeedRefused(Rejected):
    """What the user gave for the seed is missing or not what it should be; no host was asked."""


async def build_seed(vm: VirtualMachine, epoch: Epoch, prepared: Prepared, resources: Resources) -> bytes | None:
    """The ISO, or None where neither cloudInit nor a claimed address asks for one.

    Raises SeedRefused naming the field for a Secret or key that is missing, too large or not what it should be.
    """
    cloud = vm.spec.cloud_init
    if cloud is None and not prepared.seed_nics:
        return None
    cloud = cloud or CloudInit()
    reader = _SecretReader(resources, vm.metadata.namespace or "")
    keys = list(cloud.ssh_authorized_keys)
    if cloud.ssh_authorized_keys_secret_ref:
        text = await reader.read(cloud.ssh_authorized_keys_secret_ref, "spec.cloudInit.sshAuthorizedKeysSecretRef")
        keys += [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    extra = await _extra_meta_data(cloud, reader)
    meta = meta_data(
        # A new incarnation is a new instance to cloud-init; a restart is not.
        instance_id=vm.metadata.uid,
        hostname=cloud.hostname or vm.metadata.name,
        epoch=str(epoch),
        public_keys=keys,
        extra=extra,
    )
    return iso_bytes(SeedContent(meta, await _user_data(cloud, reader), await _network(cloud, reader, prepared)))


async def _extra_meta_data(cloud: CloudInit, reader: _SecretReader) -> Mapping[str, Any]:
    field = "spec.cloudInit.metaDataSecretRef"
    if cloud.meta_data_secret_ref is None:
        return {}
    try:
        document = yaml.safe_load(await reader.read(cloud.meta_data_secret_ref, field))
    except yaml.YAMLError:
        raise SeedRefused(f"{field}: the value is not YAML", field=field) from None
    if not isinstance(document, dict):
        raise SeedRefused(f"{field}: the value must be a YAML mapping", field=field)
    return document


async def _user_data(cloud: CloudInit, reader: _SecretReader) -> bytes:
    if cloud.user_data_secret_ref is not None:
        return await reader.read(cloud.user_data_secret_ref, "spec.cloudInit.userDataSecretRef")
    return (cloud.user_data or "#cloud-config\n").encode()


async def _network(cloud: CloudInit, reader: _SecretReader, prepared: Prepared) -> bytes:
    if cloud.network_data_secret_ref is not None:
        return await reader.read(cloud.network_data_secret_ref, "spec.cloudInit.networkDataSecretRef")
    if cloud.network_data is not None:
        return cloud.network_data.encode()
    return network_config(prepared.seed_nics, prepared.dhcp_nics)


class _SecretReader:
    """Reads one key of a Secret of the VM's namespace."""

    def __init__(self, resources: Resources, namespace: str) -> None:
        self._resources = resources
        self._namespace = namespace

    async def read(self, ref: SecretKeyRef, field: str) -> bytes:
        data = await self._resources.read_secret(self._namespace, ref.name)
        if data is None:
            raise SeedRefused(f"{field}: there is no Secret {self._namespace}/{ref.name}", field=field)
        if ref.key not in data:
            raise SeedRefused(f"{field}: Secret {ref.name} has no key {ref.key}", field=field)
        value = data[ref.key]
        if len(value) > USER_DATA_LIMIT_BYTES:
            limit_kib = USER_DATA_LIMIT_BYTES // 1024
            raise SeedRefused(
                f"{field}: {len(value)} bytes are more than the {limit_kib} KiB that a seed may hold", field=field
            )
        return value
