"""The host as `graph` and `import` see it: links with their details, routing tables, NAT. Plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LinkDetails:
    """A link. `kind` is IFLA_INFO_KIND, "" for a NIC. `parent` is the lower link of a VLAN or macvlan; `mode` that of a bond or
    macvlan. Ports only: `port_state` (on a bridge that of IEEE 802.1D, on a bond active or backup), and on a VLAN-aware bridge
    the `untagged` VID and the `tagged` VIDs."""

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
    """Return the name of a routing table's node in the graph."""
    return f"table {number}"


@dataclass(frozen=True)
class Table:
    """A routing table with our routes or rules. `routes` are (destination, gateway, link); a route to a single address is one
    to a guest."""

    number: int
    rules: tuple[str, ...] = ()
    routes: tuple[tuple[str, str, str], ...] = ()

    @property
    def name(self) -> str:
        return table_name(self.number)


@dataclass(frozen=True)
class Nat:
    """Source NAT of a subnet on a link to the outside. `source` is the new source address; "" means masquerading."""

    subnet: str
    out: str
    source: str = ""

    @property
    def name(self) -> str:
        return f"nat {self.subnet} {self.out}"


@dataclass(frozen=True)
class Facts:
    """The present state of the host. `absent` are links that we made and that do not exist any more; `forwards` the ports
    that are forwarded, as text, and `names` what is registered at DNS servers, by the address of the guest; `servers` what is
    served on a link, as text, by the link's name."""

    links: Sequence[LinkDetails] = ()
    tables: Sequence[Table] = ()
    nats: Sequence[Nat] = ()
    absent: Sequence[LinkDetails] = ()
    forwards: Mapping[str, Sequence[str]] = field(default_factory=dict)
    servers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
