"""What the kernel and the records tell a drawing about the host. Plain data."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LinkDetails:
    """A link. `kind` is the kernel's word for it, "" for a NIC. `parent` is what a VLAN or macvlan stands on; `mode` is the
    bond's or macvlan's. What only ports have: `port_state` (of a bridge: IEEE 802.1D; of a bond: active or backup),
    `untagged` and `tagged` VIDs (of a VLAN-aware bridge)."""

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


@dataclass(frozen=True)
class Table:
    """A routing table that holds routes or rules of ours. `routes` are (destination, gateway, link); those to one address
    lead to guests."""

    number: int
    rules: tuple[str, ...] = ()
    routes: tuple[tuple[str, str, str], ...] = ()

    @property
    def name(self) -> str:
        return f"table {self.number}"


@dataclass(frozen=True)
class Nat:
    """Source NAT of a subnet out of a link; `source` is "" where it masquerades."""

    subnet: str
    out: str
    source: str = ""

    @property
    def name(self) -> str:
        return f"nat {self.subnet} {self.out}"


@dataclass(frozen=True)
class Facts:
    """The host as it is now; and `absent`, the links that we made and that are gone."""

    links: Sequence[LinkDetails] = ()
    tables: Sequence[Table] = ()
    nats: Sequence[Nat] = ()
    absent: Sequence[LinkDetails] = ()


@dataclass(frozen=True)
class Difference:
    """Where the host differs from the declaration: `owner` is who is concerned, `what` starts with the resource's key."""

    owner: str
    what: str
