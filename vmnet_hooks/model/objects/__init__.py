"""The kinds of kernel objects that we set up, as data; KINDS is their registry. Pure: nothing here reads or changes the kernel.

A resource has a `key`, its identity in the kernel, and renders itself as the iproute2, nft or sysctl command that an
admin would type. `covers(have)` tells whether what the kernel holds is good enough.
"""

from ..resource import Resource
from .address import Address
from .adoption import Adoption
from .bridge_port import FdbEntry, PortVlans
from .device import Device
from .link_attribute import LinkAttribute
from .names import HostName, TableName
from .neighbour import Neighbour, ProxyNeighbour
from .nft import NftElement, NftTable, table_key, table_of
from .route import Route
from .rule import Rule
from .sysctl import FORWARDING_GATE, Sysctl

__all__ = [
    "Address",
    "Adoption",
    "Device",
    "FORWARDING_GATE",
    "FdbEntry",
    "HostName",
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
    "table_key",
    "table_of",
]

CLASSES: tuple[type[Resource], ...] = (
    NftTable,
    NftElement,
    Device,
    Sysctl,
    LinkAttribute,
    FdbEntry,
    PortVlans,
    Adoption,
    Address,
    Neighbour,
    ProxyNeighbour,
    TableName,
    HostName,
    Route,
    Rule,
)
KINDS = {cls.kind: cls for cls in CLASSES}
