"""What the kernel and the configuration tell a composition about the host. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .declaration import Declared

if TYPE_CHECKING:
    from .objects.bridge import Adoption


@dataclass(frozen=True)
class Link:
    """What the kernel knows of a link."""

    index: int
    """The ifindex."""

    mtu: int
    """Bytes."""

    address: str
    """The MAC address, in lower case."""

    kind: str
    """IFLA_INFO_KIND; "" for a NIC."""

    up: bool = True
    """Whether the link is set up (IFF_UP), with a carrier or without."""

    master: str = ""
    """The bridge or bond whose port it is; "" if there is none."""

    ours: bool = False
    """Whether its ifalias shows that we made it."""

    vlan_filtering: bool = False
    """Whether it is a VLAN-aware bridge."""

    @property
    def takes_guests(self) -> bool:
        """Whether guests' taps can be ports of it."""
        return self.kind == "bridge"


@dataclass(frozen=True)
class Host:
    """What a composition depends on besides its own input: facts from the kernel, and what else is declared."""

    links: Mapping[str, Link] = field(default_factory=dict)
    """The links that were asked for, by name; those that do not exist are left out."""

    ipv6: bool = True
    """Whether the kernel has IPv6 (ipv6.disable=0)."""

    ra_links: tuple[str, ...] = ()
    """Links whose default route was learned from a router advertisement."""

    rp_filter: int = 0
    """net.ipv4.conf.all.rp_filter."""

    router6: bool = False
    """Whether the host forwarded IPv6 before we switched it on."""

    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The addresses with prefix lengths, by link: of links that shall be ports, and of those that a mode asks for. Link-local
    ones are left out."""

    vlans: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """The names of the VLAN devices, by parent and VLAN ID."""

    adoptions: Mapping[str, "Adoption"] = field(default_factory=dict)
    """What a bridge takes over, by the port that it is taken from."""

    machine: str = ""
    """What tells this host from others: the machine ID."""

    parts: Mapping[str, Declared] = field(default_factory=dict)
    """The declared links, by name: those that were asked for, and all below them."""

    nats: tuple[Declared, ...] = ()
    """The declared parts that translate addresses."""

    uplinks6: frozenset[str] = frozenset()
    """The links on which declared networks need IPv6."""
