"""The registry of what a configuration can declare: each section's module. A new kind of link is one row here."""

from . import modes
from .hostnet import bond, bridge, dummy, nat, vlan

SECTIONS = {
    "networks": modes,
    "vlans": vlan,
    "bonds": bond,
    "bridges": bridge,
    "dummies": dummy,
    "nat": nat,
}
