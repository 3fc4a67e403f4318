"""What the kernel and the configuration tell a composition about the host. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .declaration import Declared
from .objects import Adoption


@dataclass(frozen=True)
class Link:
    """What the kernel says of a link of interest. `ours`: we made it."""

    index: int
    mtu: int
    address: str
    kind: str
    up: bool = True
    master: str = ""
    ours: bool = False
    vlan_filtering: bool = False


@dataclass(frozen=True)
class Host:
    """What a composition may depend on besides its own input: facts of the kernel's, and what else is declared.

    `ra_links` are links whose default route was learned from a router advertisement; `rp_filter` is
    net.ipv4.conf.all.rp_filter; `router6` says that the host forwarded IPv6 before us; `addresses` are those of links that
    shall be ports, link-local ones left out; `vlans` names the VLAN devices by (parent, ID); `adoptions` say by port what a
    bridge takes over; `machine` tells this host from others; `parts` are the declared links by name, `nats` the NATs,
    `uplinks6` the uplinks of declared networks with IPv6."""

    links: Mapping[str, Link] = field(default_factory=dict)
    ipv6: bool = True
    ra_links: tuple[str, ...] = ()
    rp_filter: int = 0
    router6: bool = False
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    vlans: Mapping[tuple[str, int], str] = field(default_factory=dict)
    adoptions: Mapping[str, Adoption] = field(default_factory=dict)
    machine: str = ""
    parts: Mapping[str, Declared] = field(default_factory=dict)
    nats: tuple[Declared, ...] = ()
    uplinks6: frozenset[str] = frozenset()
