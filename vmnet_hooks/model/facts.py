"""Facts about the host that a composition depends on, from the kernel and the configuration. Plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .declaration import Declared, Network

if TYPE_CHECKING:
    from .objects.bridge import Adoption


@dataclass(frozen=True)
class Link:
    """A link as the kernel reports it."""

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
    """The bridge or bond that the link is a port of; "" if none."""

    ours: bool = False
    """Whether the link has our ifalias, so that we made it."""

    vlan_filtering: bool = False
    """Whether the link is a VLAN-aware bridge."""

    name: str = ""
    """The link's name. It differs from the requested one if that is an alternative name (altname)."""

    @property
    def takes_guests(self) -> bool:
        """Whether taps of guests can be ports of the link."""
        return self.kind == "bridge"


class DefaultRoute(NamedTuple):
    """A default route of the main table. `version` is the IP version; `gateway` is "" for a route without one."""

    link: str
    gateway: str
    version: int


class WayTo(NamedTuple):
    """A route of the main table: its destination, and the link that it leads to."""

    destination: str
    link: str


class Listener(NamedTuple):
    """A socket of the host's that takes what comes for a port, of an IP version; `address` is "" for all of the host's."""

    protocol: str
    version: int
    address: str
    port: int


class Tap(NamedTuple):
    """A link of a guest at a wire, with its number."""

    domain: str
    mac: str
    ifname: str
    number: int


class Server(NamedTuple):
    """What the server of a network depends on: whether systemd runs it, and what keeps it from starting, with the remedy; "" if
    nothing does."""

    unit: bool = False
    obstacle: str = ""
    leased: Mapping[str, tuple[str, ...]] = {}
    """The addresses of IPv4 that it has leased, by the guest's MAC: of a network whose guests are held to them."""


class Forwards(NamedTuple):
    """Forwarded ports of guests that are composed, and what they depend on."""

    parts: tuple[Declared, ...] = ()

    addresses: Mapping[str, Sequence[str]] = {}
    """The guests' addresses, by the guest's name, in the order of the names of their links."""

    ways: Mapping[str, tuple[str, ...]] = {}
    """The links on which packets arrive, as far as they exist, by the name of the part."""

    listeners: frozenset[Listener] = frozenset()

    bridged: bool = False
    """Whether the kernel hands bridged packets to the chains of IP (br_netfilter)."""


@dataclass(frozen=True)
class Host:
    """The host: facts from the kernel, and the declarations besides the one that is composed."""

    links: Mapping[str, Link] = field(default_factory=dict)
    """The requested links that exist, by name."""

    ipv6: bool = True
    """Whether the kernel has IPv6 (ipv6.disable=0)."""

    ra_links: tuple[str, ...] = ()
    """Links whose default route was learned from a router advertisement."""

    rp_filter: int = 0
    """net.ipv4.conf.all.rp_filter."""

    router6: bool = False
    """Whether the host forwarded IPv6 before we switched it on."""

    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The addresses with prefix lengths, by link, without link-local ones: of future ports, and of the links that a mode asks
    for."""

    vlans: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """The names of the VLAN devices, by parent and VLAN ID."""

    vids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The IDs of the declared VLAN devices, by parent."""

    adoptions: Mapping[str, "Adoption"] = field(default_factory=dict)
    """What a bridge takes over, or has taken over, by port: also of ports that it does not adopt any more."""

    adopters: Mapping[str, str] = field(default_factory=dict)
    """The links that take over what a port has, by port."""

    surveyed: bool = False
    """Whether `adoptions` has what ports have now. If not, it has only what was taken over already."""

    machine: str = ""
    """The machine ID, which identifies this host."""

    parts: Mapping[str, Declared] = field(default_factory=dict)
    """The requested declared links and all links below them, by name."""

    networks: Mapping[str, Network] = field(default_factory=dict)
    """The declared networks, by name."""

    nats: tuple[Declared, ...] = ()
    """The declared parts that translate addresses."""

    shared_uplinks: frozenset[str] = frozenset()
    """The links on which ARP requests have several senders: of several declared networks, or of one and the host itself."""

    uplinks6: frozenset[str] = frozenset()
    """The links on which declared networks need IPv6."""

    ifb: bool = True
    """Whether the kernel has ifb, on which checksums are finished."""

    fdb_limit: bool = True
    """Whether the kernel limits the MACs that a bridge learns."""

    forwards: Forwards = Forwards()
    """The ports that are forwarded to the guests that are composed."""

    wired: Mapping[str, Sequence[Tap]] = field(default_factory=dict)
    """The links of guests that are at wires now, by the wire's name."""

    servers: Mapping[str, Server] = field(default_factory=dict)
    """What the servers of networks depend on, by the network's name."""

    bare6: frozenset[str] = frozenset()
    """The links to the outside to which the kernel gives no link-local IPv6 address, and that have none but what we gave."""
