"""The list of kinds: what crdgen writes, what the watches follow."""

from __future__ import annotations

from typing import Final

from lq_operator.api.attestation import HostAttestation
from lq_operator.api.base import Resource
from lq_operator.api.cluster import HypervisorCluster
from lq_operator.api.image import Image
from lq_operator.api.network import AddressClaim, VirtualNetwork
from lq_operator.api.node import HypervisorNode
from lq_operator.api.pool import StoragePool
from lq_operator.api.vm import VirtualMachine
from lq_operator.api.vmclass import VirtualMachineClass
from lq_operator.api.vmmigration import VirtualMachineMigration
from lq_operator.api.vmoperation import VirtualMachineOperation
from lq_operator.api.volume import Volume

KINDS: Final[tuple[type[Resource], ...]] = (
    HypervisorCluster,
    HypervisorNode,
    HostAttestation,
    StoragePool,
    Image,
    Volume,
    VirtualNetwork,
    AddressClaim,
    VirtualMachineClass,
    VirtualMachine,
    VirtualMachineOperation,
    VirtualMachineMigration,
)
