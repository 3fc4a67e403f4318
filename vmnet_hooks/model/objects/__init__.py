"""The kinds of kernel objects that we set up, as data; KINDS is their registry. Pure: nothing here reads or changes the kernel.

A resource has a `key`, its identity in the kernel, and renders itself as the iproute2, nft or sysctl command that an
admin would type. `covers(have)` tells whether what the kernel holds is good enough.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple

from ..resource import Resource
from .address import Address, HostName, Neighbour, ProxyNeighbour
from .link import Device, Ifb, LinkAttribute
from .nft import NftChain, NftElement, NftTable, is_nft_key, port_table, shared_set, shares_table, table_of
from .route import Route, Rule, TableName
from .sysctl import FORWARDING_GATE, Sysctl

__all__ = [
    "Address",
    "Device",
    "FORWARDING_GATE",
    "HostName",
    "Ifb",
    "KINDS",
    "Kind",
    "LinkAttribute",
    "Neighbour",
    "NftChain",
    "NftElement",
    "NftTable",
    "ProxyNeighbour",
    "Route",
    "Rule",
    "Sysctl",
    "TableName",
    "is_nft_key",
    "port_table",
    "shared_set",
    "shares_table",
    "table_of",
]


class Kind(NamedTuple):
    """A row of the registry: the kind's name, which the records use, the module and the class of its resources, and the module of
    its kernel edge (see kernel/objects). Modules are named, not imported: most calls need few of them."""

    name: str
    module: str
    cls: str
    edge: str

    @property
    def resource(self) -> type[Resource]:
        """The class of its resources."""
        found: type[Resource] = getattr(import_module(self.module), self.cls)
        return found


_MODEL, _EDGES = "vmnet_hooks.model.objects", "vmnet_hooks.kernel.objects"
KINDS: Mapping[str, Kind] = {
    row.name: row
    for row in (
        Kind("nft-table", f"{_MODEL}.nft", "NftTable", f"{_EDGES}.nft"),
        Kind("nft-element", f"{_MODEL}.nft", "NftElement", f"{_EDGES}.nft"),
        Kind("nft-chain", f"{_MODEL}.nft", "NftChain", f"{_EDGES}.nft"),
        Kind("ifb", f"{_MODEL}.link", "Ifb", f"{_EDGES}.ifb"),
        Kind("device", f"{_MODEL}.link", "Device", f"{_EDGES}.device"),
        Kind("sysctl", f"{_MODEL}.sysctl", "Sysctl", f"{_EDGES}.sysctl"),
        Kind("link", f"{_MODEL}.link", "LinkAttribute", f"{_EDGES}.link_attribute"),
        Kind("fdb", f"{_MODEL}.bridge", "FdbEntry", f"{_EDGES}.bridge_port"),
        Kind("vlans", f"{_MODEL}.bridge", "PortVlans", f"{_EDGES}.bridge_port"),
        Kind("port-mac", f"{_MODEL}.bridge", "PortMac", f"{_EDGES}.port_mac"),
        Kind("adoption", f"{_MODEL}.bridge", "Adoption", f"{_EDGES}.adoption"),
        Kind("address", f"{_MODEL}.address", "Address", f"{_EDGES}.address"),
        Kind("neigh", f"{_MODEL}.address", "Neighbour", f"{_EDGES}.neighbour"),
        Kind("proxy", f"{_MODEL}.address", "ProxyNeighbour", f"{_EDGES}.neighbour"),
        Kind("table-name", f"{_MODEL}.route", "TableName", f"{_EDGES}.names"),
        Kind("host-name", f"{_MODEL}.address", "HostName", f"{_EDGES}.names"),
        Kind("route", f"{_MODEL}.route", "Route", f"{_EDGES}.route"),
        Kind("rule", f"{_MODEL}.route", "Rule", f"{_EDGES}.route"),
        Kind("dnsmasq", f"{_MODEL}.dnsmasq", "Dnsmasq", f"{_EDGES}.dnsmasq"),
    )
}
"""By name. Those of bridges and of servers are in bridge.py and dnsmasq.py alone, which few calls load; of the rest, the classes
are here too."""
