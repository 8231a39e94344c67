"""VirtualNetwork and AddressClaim: what NICs plug into, and which address is whose."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from lq_operator.api.base import (
    AGE,
    MESSAGE,
    READY,
    REASON,
    AllowedNamespaces,
    ApiModel,
    DnsLabel,
    DnsName,
    LocalRef,
    PrinterColumn,
    Resource,
    SharedRef,
    Status,
    list_map,
)

_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"

Ipv4 = Annotated[str, Field(pattern=rf"^{_OCTET}(\.{_OCTET}){{3}}$", max_length=15)]
"""A dotted IPv4 address in its one spelling: 10.0.0.05 would be a second name for a claimed address."""

Ipv4Cidr = Annotated[str, Field(pattern=rf"^{_OCTET}(\.{_OCTET}){{3}}/(1[6-9]|2[0-9]|30)$", max_length=18)]
"""An IPv4 network, /16 to /30."""


def _number(address: str) -> str:
    """CEL: the address as a number, for comparing."""
    octets = (f"int({address}.split('.')[{index}]) * {256 ** (3 - index)}" for index in range(4))
    return f"({' + '.join(octets)})"


class AddressRange(ApiModel):
    """First and last address, both included."""

    start: Ipv4
    """First address."""
    end: Ipv4
    """Last address."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (f"{_number('self.start')} <= {_number('self.end')}", "dhcpRange.start must not come after dhcpRange.end"),
    )


class VirtualNetworkSpec(ApiModel):
    """What kind of network, its addresses, who may use it."""

    cluster_ref: LocalRef | None = None
    """Left out: the only cluster that admits the namespace."""
    type: Literal["nat", "isolated", "bridge"]
    """nat: each host gives its guests a way out. isolated: guests of one host only. bridge: a bridge that the cluster opened."""
    physical_network: Annotated[
        DnsLabel | None, Field(description="For bridge: name in HypervisorCluster.spec.physicalNetworks.")
    ] = None
    subnet: Ipv4Cidr | None = None
    """Addresses of the network. Needed for nat, DHCP and claims."""
    gateway: Ipv4 | None = None
    """Left out on nat and isolated: the first address of the subnet, which the host takes. On bridge: told to guests."""
    dhcp_range: AddressRange | None = None
    """nat and isolated: hosts give these out by DHCP. Claims never come from this range."""
    dns: Annotated[list[Ipv4], Field(max_length=4)] = Field(default_factory=list)
    """Told to guests that have a claimed address."""
    mtu: Annotated[int | None, Field(ge=576, le=9216)] = None
    """Left out: the host's default (1500)."""
    allowed_namespaces: AllowedNamespaces = AllowedNamespaces()
    """Who besides its own namespace may plug VMs into it."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        ("self.type != 'bridge' || has(self.physicalNetwork)", "spec.physicalNetwork is required when type is bridge"),
        ("self.type == 'bridge' || !has(self.physicalNetwork)", "spec.physicalNetwork is for type bridge only"),
        ("self.type != 'nat' || has(self.subnet)", "spec.subnet is required when type is nat"),
        ("!has(self.dhcpRange) || has(self.subnet)", "spec.subnet is required with dhcpRange"),
        (
            "self.type != 'bridge' || !has(self.dhcpRange)",
            "spec.dhcpRange is not for type bridge: another server gives addresses there",
        ),
        ("self.type == oldSelf.type", "spec.type is immutable"),
        (
            "has(self.physicalNetwork) == has(oldSelf.physicalNetwork) && (!has(self.physicalNetwork) || self.physicalNetwork == oldSelf.physicalNetwork)",
            "spec.physicalNetwork is immutable; write a new VirtualNetwork",
        ),
        (
            "has(self.clusterRef) == has(oldSelf.clusterRef) && (!has(self.clusterRef) || self.clusterRef == oldSelf.clusterRef)",
            "spec.clusterRef is immutable",
        ),
        (
            "!has(self.subnet) || cidr(self.subnet) == cidr(self.subnet).masked()",
            "spec.subnet must be the network's own address, for example 10.0.0.0/24",
        ),
        (
            "has(self.subnet) == has(oldSelf.subnet) && (!has(self.subnet) || self.subnet == oldSelf.subnet)",
            "spec.subnet is immutable",
        ),
        (
            "!has(self.gateway) || !has(self.subnet) || cidr(self.subnet).containsIP(self.gateway)",
            "spec.gateway must lie in spec.subnet",
        ),
        (
            "!has(self.dhcpRange) || !has(self.subnet) || (cidr(self.subnet).containsIP(self.dhcpRange.start) && cidr(self.subnet).containsIP(self.dhcpRange.end))",
            "spec.dhcpRange must lie in spec.subnet",
        ),
    )


class NetworkNode(ApiModel):
    """The network on one host."""

    node: DnsName
    ready: bool = False
    message: Annotated[str, Field(max_length=1000)] = ""


class VirtualNetworkStatus(Status):
    """The network on each host."""

    nodes: Annotated[list[NetworkNode], Field(max_length=1000, json_schema_extra=list_map("node"))] = Field(
        default_factory=list
    )
    libvirt_name: Annotated[str, Field(max_length=140)] = ""
    bridge: Annotated[str, Field(max_length=15)] = ""


class VirtualNetwork(Resource):
    """What NICs plug into."""

    kind_name: ClassVar[str] = "VirtualNetwork"
    plural: ClassVar[str] = "virtualnetworks"
    short_names: ClassVar[tuple[str, ...]] = ("vnet",)
    selectable: ClassVar[tuple[str, ...]] = (".spec.type", ".spec.physicalNetwork")
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        READY,
        PrinterColumn(name="Type", path=".spec.type"),
        PrinterColumn(name="Subnet", path=".spec.subnet"),
        REASON,
        AGE,
        MESSAGE,
    )
    name_rule: ClassVar[tuple[str, str] | None] = (
        "self.metadata.name.size() <= 63",
        "metadata.name may have at most 63 characters",
    )

    spec: VirtualNetworkSpec
    status: VirtualNetworkStatus = VirtualNetworkStatus()


class AddressClaimSpec(ApiModel):
    """One address of one network. The name is network + address, so that creating it is the uniqueness check."""

    network_ref: LocalRef
    """VirtualNetwork of this namespace. Immutable."""
    address: Ipv4
    """The address. Immutable."""
    vm: SharedRef | None = None
    """The VM that has it. Left out: reserved by a person."""
    interface: Annotated[str, Field(max_length=63, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$")] = ""
    """The VM's interface that has it."""
    mac: Annotated[str, Field(max_length=17, pattern=r"^([0-9a-f]{2}(:[0-9a-f]{2}){5})?$")] = ""
    """MAC address of that interface, in lower case."""
    retain: bool = False
    """Kept when the VM is deleted."""

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "self.networkRef == oldSelf.networkRef && self.address == oldSelf.address",
            "networkRef and address are immutable",
        ),
    )


class AddressClaimStatus(Status):
    """Whether it holds."""


class AddressClaim(Resource):
    """One address of one network, in the network's namespace."""

    kind_name: ClassVar[str] = "AddressClaim"
    plural: ClassVar[str] = "addressclaims"
    short_names: ClassVar[tuple[str, ...]] = ("claim",)
    selectable: ClassVar[tuple[str, ...]] = (".spec.networkRef.name", ".spec.vm.name", ".spec.address")
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        PrinterColumn(name="Network", path=".spec.networkRef.name"),
        PrinterColumn(name="Address", path=".spec.address"),
        PrinterColumn(name="VM", path=".spec.vm.name"),
        PrinterColumn(name="Retain", path=".spec.retain", type="boolean"),
        AGE,
    )

    cel: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "self.metadata.name == self.spec.networkRef.name + '-' + self.spec.address.replace('.', '-')",
            "metadata.name must be NETWORK-A-B-C-D, for example web-10-0-0-5: the name is what keeps an address unique",
        ),
    )

    spec: AddressClaimSpec
    status: AddressClaimStatus = AddressClaimStatus()


def claim_name(network: str, address: str) -> str:
    """The name of the claim of this address."""
    return f"{network}-{address.replace('.', '-')}"
