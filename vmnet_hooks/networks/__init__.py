"""The registry of modes. A mode is a module with

OPTIONS              rows of its keys
check(network)       cross-key checks of one network; raises ConfigError
check_together(networks)  checks across all networks of the mode
bridge_of(network)   the bridge whose ports belong to the network, or ""
implied(network)     parts that the network declares by the way, made with its first guest
links(network)       links whose state the composition needs
bind(vif, network, where)  the vif with its addresses checked and completed; raises InputError
network_resources(network, host)   what belongs to the network: there from its first guest to its last
vif_resources(vif, network, host)  what a guest's NIC needs besides
announcements(vif, network)   (link, address) pairs
attracts(resource, vif, network)   whether a resource draws the guest's traffic to this host
untracked(vif, network)   addresses whose tracked connections are out of date when the guest comes in by live migration
proxied6(network, on_link)    IPv6 prefixes for whose every address the agent answers on a tap; on_link(ifname) are the host's
"""

from collections.abc import Iterable

from .. import values
from ..model.declaration import Config, Declared, Network
from . import bridged, hostroute, routed

MODES = {"routed": routed, "bridged": bridged, "hostroute": hostroute}
parse_name = values.name


def implied(network: Network) -> Iterable[Declared]:
    """The parts that a network declares by the way."""
    return MODES[network.mode].implied(network)


def check_together(declared: Config) -> None:
    """Raises ConfigError for networks that do not go together."""
    for mode, module in MODES.items():
        module.check_together([network for network in declared.networks.values() if network.mode == mode], declared)
