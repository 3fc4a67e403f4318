"""The host as a drawing, or an import, shows it: links with their details, routing tables, NAT. Plain data."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LinkDetails:
    """A link. `kind` is the kernel's name of its kind, "" for a NIC. `parent` is the link that a VLAN or macvlan is on; `mode` is
    that of a bond or macvlan. Ports only: `port_state` (of a bridge: IEEE 802.1D; of a bond: active or backup), and the
    `untagged` and `tagged` VIDs of a VLAN-aware bridge."""

    name: str
    index: int = 0
    kind: str = ""
    up: bool = True
    carrier: bool = True
    mtu: int = 1500
    mac: str = ""
    master: str = ""
    parent: str = ""
    addresses: tuple[str, ...] = ()
    alias: str = ""
    mode: str = ""
    vid: int = 0
    protocol: str = ""
    stp: bool = False
    vlan_aware: bool = False
    port_state: str = ""
    isolated: bool = False
    untagged: int = 0
    tagged: str = ""

    @property
    def state(self) -> str:
        return "down" if not self.up else "up" if self.carrier else "no carrier"


def table_name(number: int) -> str:
    """The name of the node of a routing table."""
    return f"table {number}"


@dataclass(frozen=True)
class Table:
    """A routing table with routes or rules of ours. `routes` are (destination, gateway, link). A route to a single address leads
    to a guest."""

    number: int
    rules: tuple[str, ...] = ()
    routes: tuple[tuple[str, str, str], ...] = ()

    @property
    def name(self) -> str:
        return table_name(self.number)


@dataclass(frozen=True)
class Nat:
    """Source NAT of a subnet on a link to the outside. `source` is the address; "" means masquerading."""

    subnet: str
    out: str
    source: str = ""

    @property
    def name(self) -> str:
        return f"nat {self.subnet} {self.out}"


@dataclass(frozen=True)
class Facts:
    """The host as it is now. `absent` are links that we made and that have gone."""

    links: Sequence[LinkDetails] = ()
    tables: Sequence[Table] = ()
    nats: Sequence[Nat] = ()
    absent: Sequence[LinkDetails] = ()
