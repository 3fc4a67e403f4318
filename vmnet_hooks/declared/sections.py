"""The registry of what a configuration can declare: each section's module. A new kind of link is one row here."""

from .. import networks
from ..links import bond, bridge, dummy, nat, vlan

SECTIONS = {
    "networks": networks,
    "vlans": vlan,
    "bonds": bond,
    "bridges": bridge,
    "dummies": dummy,
    "nat": nat,
}
