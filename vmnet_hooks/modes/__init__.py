"""The registry of modes. A mode is a module with

OPTIONS              rows of its keys
check(network)       cross-key checks of one network; raises ConfigError
check_together(networks)  checks across all networks of the mode
bridge_of(network)   the bridge whose ports belong to the network, or ""
links(network)       links whose state the composition needs
bind(vif, network, where)  the vif with its addresses checked and completed; raises InputError
network_resources(network, host), vif_resources(vif, network, host)   pure composition
announcements(vif, network)   (link, address) pairs
"""

from . import bridged, routed

MODES = {"routed": routed, "bridged": bridged}
