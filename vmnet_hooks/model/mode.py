"""The base class of modes of networks. Each mode is a class in its own file, and a row of the registry in networks/."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .. import values
from ..errors import ConfigError
from .declaration import Config, Declared, Network, Option
from .end import End
from .facts import Host
from .guest import Vif
from .kind import Row
from .resource import Resource

Prefixes6 = Sequence[ipaddress.IPv6Network]
Implied = tuple[str, str, Mapping[str, Any]]
"""Section, name and table of a part, as TOML has them."""


class Side(NamedTuple):
    """Where a network meets the host: the links by which the host routes for its guests, apart from their taps; whether it routes
    at their taps; and the links by which their packets leave the host, None if the network names none."""

    links: tuple[str, ...] = ()
    taps: bool = False
    out: tuple[str, ...] | None = None


class Lan(NamedTuple):
    """What a guest is to set up at its own link: the length of the prefix of its address, and its gateway. `gateway` is None if
    there is none, or for IPv6, whose gateway is told by its link-local address on `router`, a link of the host."""

    prefix: int
    gateway: ipaddress.IPv4Address | None = None
    router: str = ""


class Around(NamedTuple):
    """The declared links by name, and the parts that translate addresses."""

    links: Mapping[str, Declared]
    nats: Sequence[Declared]


Own = Callable[[str], Sequence[values.Interface]]
"""Returns the host's own addresses on a link, with the lengths of their prefixes."""


class Mode:
    """How the guests of a network are connected. A mode defines `options` and `vif_resources`, and overrides other methods as
    needed.

    `name` is the value of the option `mode` of a network.
    """

    options: tuple[Option, ...] = ()

    brings_up_alone = True
    """Whether `vmnet-hook up` brings up a network that has no guest."""

    shares_addresses = False
    """Whether several guests of a network may have the same address, for example one that they share by VRRP."""

    routes_plainly = False
    """Whether guests are reached by host routes in the main table. The graph does not draw that table."""

    def __init__(self, row: Row["Mode"]) -> None:
        self.name = row.name

    # --- reading -----------------------------------------------------------------------------------------------------

    def check(self, network: Network) -> None:
        """Raise ConfigError if the options of one network contradict each other."""

    def check_together(self, networks: Sequence[Network], declared: Config) -> None:
        """Raise ConfigError if `networks`, all declared networks of this mode, contradict each other or the rest."""

    def implied(self, network: Network) -> tuple[Implied, ...]:
        """Return the parts that the network implies. They are made with its first guest."""
        return ()

    def ends(self, network: Network) -> Sequence[End]:
        """Return the ends of a wire: the network's guests are those, and nothing else claims a NIC for it."""
        return ()

    def bind(self, vif: Vif, network: Network, where: str) -> Vif:
        """Return the NIC with its addresses checked and completed. Raise InputError, for the claim at `where`, if the network
        can't have it."""
        return vif

    def reserved(self, vif: Vif, network: Network, links: Mapping[str, Declared]) -> Mapping[str, str]:
        """Return the addresses that a bound NIC can't have because of `links`, the declared links by name, and whose each is."""
        return {}

    def completed(self, name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options of the network with this name, completed by those that follow from them."""
        return options

    def starts_with_host(self, network: Network) -> bool:
        """Return whether `vmnet-hook up` without names brings up the network, if networks of its mode come up alone."""
        return True

    def is_isolated(self, network: Network) -> bool:
        """Return whether guests are to tell nothing outside the host."""
        return False

    def exclusive(self, network: Network) -> Sequence[values.Subnet]:
        """Return subnets that no other link of the host may have."""
        return ()

    # --- composing ---------------------------------------------------------------------------------------------------

    def links(self, network: Network) -> tuple[str, ...]:
        """Return the links whose state the composition depends on. They must exist before the network is brought up."""
        return ()

    def addressed(self, network: Network) -> tuple[str, ...]:
        """Return those links whose addresses the composition depends on."""
        return ()

    def links6(self, network: Network) -> tuple[str, ...]:
        """Return those links on which the host needs IPv6."""
        return ()

    def senders(self, network: Network) -> tuple[str, ...]:
        """Return those links on which the network sets the sender of the host's ARP requests."""
        return ()

    def is_filtered(self, vif: Vif, network: Network) -> bool:
        """Return whether what the guest sends is held to its own MAC, and to its addresses if it has any."""
        return vif.filter

    def follows_leases(self, network: Network) -> bool:
        """Return whether what a guest may send depends on what it has leased."""
        return False

    def network_resources(self, network: Network, host: Host) -> Iterable[Resource]:
        """Return the kernel objects of the network, which exist from its first guest to its last. Raise ConfigError if the host
        does not allow it."""
        return ()

    def vif_resources(self, vif: Vif, network: Network, host: Host) -> Iterable[Resource]:
        """Return the kernel objects of one NIC. Raise ConfigError or InputError if the host does not allow it."""
        raise NotImplementedError

    def admits(self, network: Network, ends: Iterable[str]) -> Iterable[Resource]:
        """Return what lets connections in from these ends of ways: names of links in quotes, numbers of groups."""
        return ()

    def side(self, network: Network, host: Host) -> Side:
        """Return where the network meets the host, as far as the host routes for its guests."""
        return Side()

    def nothing_below(self, network: Network) -> ConfigError:
        """Return the error for `vmnet-hook up` of a network that does not come up alone, and none of whose links is
        declared."""
        return network.error("", "stands on nothing that is declared: there is nothing to bring up without a guest")

    def subnets(self, network: Network, links: Mapping[str, Declared]) -> Sequence[values.Subnet]:
        """Return the guests' subnets, as far as they are declared; `links` are the declared links by name."""
        return ()

    def serves_others(self, network: Network) -> bool:
        """Return whether the network serves others than guests of this host, so that it shall be up even without a guest."""
        return False

    def way_in(self, network: Network) -> str:
        """Return the link on which packets for routed guests arrive; "" if guests are not routed."""
        return ""

    def beyond(self, network: Network) -> Sequence[values.IPAddress]:
        """Return addresses of others on that link, where its own addresses do not tell its subnet."""
        return ()

    # --- when the guest runs -----------------------------------------------------------------------------------------

    def announcements(self, vif: Vif, network: Network) -> Sequence[tuple[str, str]]:
        """Return (link, address) pairs: the addresses that the host announces for the guest, and the links to announce them
        on."""
        return ()

    def attracts(self, resource: Resource, vif: Vif, network: Network) -> bool:
        """Return whether a resource attracts the guest's traffic to this host. Such a resource is withheld until a guest that
        migrates here runs here."""
        return False

    def untracked(self, vif: Vif, network: Network) -> Sequence[str]:
        """Return the addresses whose conntrack entries are stale once the guest has migrated here."""
        return ()

    def answers(self, address: str, network: Network) -> Iterable[Resource]:
        """Return what sends packets with ANSWER_MARK from a guest's address by the host's own routes, where others do not."""
        return ()

    def proxied6(self, network: Network, on_link: Callable[[str], Prefixes6]) -> Prefixes6:
        """Return the IPv6 prefixes for which the agent answers neighbour solicitations on a tap, whatever the address.
        `on_link` returns the host's own prefixes on a link."""
        return ()

    def lan(self, vif: Vif, address: values.IPAddress, network: Network, around: Around, own: Own) -> Lan | None:
        """Return what the guest is to set up for one of its addresses; None if the declaration does not tell."""
        return None

    # --- what others ask of a network --------------------------------------------------------------------------------

    def bridge_of(self, network: Network) -> str:
        """Return the bridge whose ports belong to the network; "" if none."""
        return ""

    def netdev_of(self, network: Network) -> str:
        """Return the link to the outside of a network with plain host routes; "" if none."""
        return ""

    def serves(self, network: Network, addresses: values.Subnet) -> bool:
        """Return whether the network has a subnet that contains these addresses."""
        return False

    def is_private(self, network: Network) -> bool:
        """Return whether guests have private addresses, which a front end may assign."""
        return False

    def table_of(self, network: Network) -> int:
        """Return the number of the network's own routing table; 0 if none."""
        return 0

    def kept_over_boots(self, network: Network) -> Iterable[Resource]:
        """Return the network's resources that survive a reboot (files in /etc). They have no record until the next guest."""
        return ()

    def home(self, network: Network) -> str:
        """Return the node of the graph that guests of the network are joined to."""
        return next(iter(self.links(network)), "")

    def label(self, network: Network) -> tuple[str, ...]:
        """Return the lines about the network that the graph shows on the node of its routing table."""
        return (f"network {network.name}",)
