"""VirtualMachineClass: a named size."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from lq_operator.api.base import (
    AGE,
    AllowedNamespaces,
    ApiModel,
    PrinterColumn,
    Quantity,
    Resource,
    Scope,
    Status,
    UserText,
)


class VirtualMachineClassSpec(ApiModel):
    """A named size; copied into a VM when it is created, so that editing it resizes nobody silently."""

    cpu: Annotated[int, Field(ge=1, le=256)]
    """vCPUs."""
    memory: Quantity
    """256Mi to 1Ti."""
    description: UserText = ""
    """For people."""
    allowed_namespaces: AllowedNamespaces = AllowedNamespaces.model_validate({"from": "All"})
    """Whose VMs may use it."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "quantity(self.memory).compareTo(quantity('256Mi')) >= 0 && quantity(self.memory).compareTo(quantity('1Ti')) <= 0",
            "spec.memory must be from 256Mi to 1Ti",
        ),
    )


class VirtualMachineClassStatus(Status):
    """Nothing to observe yet."""


class VirtualMachineClass(Resource):
    """A named size for VMs."""

    kind_name: ClassVar[str] = "VirtualMachineClass"
    plural: ClassVar[str] = "virtualmachineclasses"
    short_names: ClassVar[tuple[str, ...]] = ("vmclass",)
    scope: ClassVar[Scope] = Scope.CLUSTER
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        PrinterColumn(name="CPU", path=".spec.cpu", type="integer"),
        PrinterColumn(name="Memory", path=".spec.memory"),
        AGE,
    )

    spec: VirtualMachineClassSpec
    status: VirtualMachineClassStatus = VirtualMachineClassStatus()
