"""The kinds of kernel objects that we set up, as data; KINDS is their registry. Pure: nothing here reads or changes the kernel.

A resource has a `key`, its identity in the kernel, and renders itself as the iproute2, nft or sysctl command that an
admin would type. `covers(have)` tells whether what the kernel holds is good enough.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ..resource import Resource
from .address import Address, HostName, Neighbour, ProxyNeighbour
from .bridge import Adoption, FdbEntry, PortVlans
from .link import Device, LinkAttribute
from .nft import NftElement, NftTable, is_nft_key, port_table, table_of
from .route import Route, Rule, TableName
from .sysctl import FORWARDING_GATE, Sysctl

__all__ = [
    "Address",
    "Adoption",
    "Device",
    "FORWARDING_GATE",
    "FdbEntry",
    "HostName",
    "KINDS",
    "Kind",
    "LinkAttribute",
    "Neighbour",
    "NftElement",
    "NftTable",
    "PortVlans",
    "ProxyNeighbour",
    "Route",
    "Rule",
    "Sysctl",
    "TableName",
    "is_nft_key",
    "port_table",
    "table_of",
]


class Kind(NamedTuple):
    """A row of the registry: a class of resources, and the module that holds its kernel edge (see kernel/objects). The module is
    named, not imported: most calls need few of them."""

    resource: type[Resource]
    edge: str


_EDGES = "vmnet_hooks.kernel.objects"
KINDS: Mapping[str, Kind] = {
    row.resource.kind: row
    for row in (
        Kind(NftTable, f"{_EDGES}.nft"),
        Kind(NftElement, f"{_EDGES}.nft"),
        Kind(Device, f"{_EDGES}.device"),
        Kind(Sysctl, f"{_EDGES}.sysctl"),
        Kind(LinkAttribute, f"{_EDGES}.link_attribute"),
        Kind(FdbEntry, f"{_EDGES}.bridge_port"),
        Kind(PortVlans, f"{_EDGES}.bridge_port"),
        Kind(Adoption, f"{_EDGES}.adoption"),
        Kind(Address, f"{_EDGES}.address"),
        Kind(Neighbour, f"{_EDGES}.neighbour"),
        Kind(ProxyNeighbour, f"{_EDGES}.neighbour"),
        Kind(TableName, f"{_EDGES}.names"),
        Kind(HostName, f"{_EDGES}.names"),
        Kind(Route, f"{_EDGES}.route"),
        Kind(Rule, f"{_EDGES}.route"),
    )
}
"""By `kind`, the name that the records use."""
