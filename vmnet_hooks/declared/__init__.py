"""What the admin wrote: the registry of what a configuration can declare. A kind is one file, and one row here."""

from collections.abc import Iterator

from ..model.declaration import Declared, Network, parse_options
from ..model.kind import Kind, Registry, Row

SECTIONS: Registry[Kind] = Registry(
    Row("networks", "vmnet_hooks.networks", "Networks", "network"),
    Row("vlans", "vmnet_hooks.links.vlan", "Vlan", "vlan"),
    Row("bonds", "vmnet_hooks.links.bond", "Bond", "bond"),
    Row("bridges", "vmnet_hooks.links.bridge", "Bridge", "bridge"),
    Row("dummies", "vmnet_hooks.links.dummy", "Dummy", "dummy"),
    Row("nat", "vmnet_hooks.links.nat", "Translation", "nat"),
    Row("wires", "vmnet_hooks.networks.wire", "Wires", "wire"),
    Row("forward", "vmnet_hooks.links.forward", "Forward", "forward"),
    Row("ddns", "vmnet_hooks.services.ddns", "Ddns", "ddns"),
)


def implied(network: Network) -> Iterator[Declared]:
    """Yield the parts that a network implies."""
    for section, name, table in network.mode.implied(network):
        kind = SECTIONS[section]
        options = parse_options(kind.options, table, f"{network.source}: {network.label}")
        yield Declared(kind, name, options, network.source, implied_by=network.name)
