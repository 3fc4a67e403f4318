"""What a mode of networks defines. Each mode is a class in a file of its own, and a row of the registry in networks/."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .. import values
from ..errors import ConfigError
from .declaration import Config, Network, Option
from .facts import Host
from .guest import Vif
from .registry import Row
from .resource import Resource

Prefixes6 = Sequence[ipaddress.IPv6Network]
Implied = tuple[str, str, Mapping[str, Any]]
"""Section, name and table of a part, as TOML has them."""


class Mode:
    """How the guests of a network are connected. A mode has `options` and `vif_resources`, and of the rest only what differs.

    `name` is what option `mode` of a network calls it.
    """

    options: tuple[Option, ...] = ()

    brings_up_alone = True
    """Whether `vmnet-hook up` sets something up for a network without any guest."""

    shares_addresses = False
    """Whether several guests of a network may have one address, as those that share it by VRRP."""

    routes_plainly = False
    """Whether guests are reached by routes in the main table, which the graph does not draw."""

    def __init__(self, row: Row["Mode"]) -> None:
        self.name = row.name

    # --- reading -----------------------------------------------------------------------------------------------------

    def check(self, network: Network) -> None:
        """Raise ConfigError if the options of one network contradict each other."""

    def check_together(self, networks: Sequence[Network], declared: Config) -> None:
        """Raise ConfigError if `networks`, all that are declared of this mode, contradict each other or the rest."""

    def implied(self, network: Network) -> tuple[Implied, ...]:
        """Return the parts that the network declares by the way; they are made with its first guest."""
        return ()

    def bind(self, vif: Vif, network: Network, where: str) -> Vif:
        """Return the NIC with its addresses checked and completed. Raise InputError, for the claim at `where`, if the network
        can't have it."""
        return vif

    # --- composing ---------------------------------------------------------------------------------------------------

    def links(self, network: Network) -> tuple[str, ...]:
        """Return the links whose state the composition depends on, and which must be there before the network."""
        return ()

    def addressed(self, network: Network) -> tuple[str, ...]:
        """Return those links whose addresses the composition depends on."""
        return ()

    def links6(self, network: Network) -> tuple[str, ...]:
        """Return those links on which the host needs IPv6."""
        return ()

    def network_resources(self, network: Network, host: Host) -> Iterable[Resource]:
        """Return what belongs to the network: it is there from the first guest to the last. Raise ConfigError if the host does
        not allow it."""
        return ()

    def vif_resources(self, vif: Vif, network: Network, host: Host) -> Iterable[Resource]:
        """Return what a guest's NIC needs besides. Raise ConfigError or InputError if the host does not allow it."""
        raise NotImplementedError

    def nothing_below(self, network: Network) -> ConfigError:
        """Return the error for `vmnet-hook up` of a network that does not come up alone, and none of whose links is declared."""
        return network.error("", "stands on nothing that is declared: there is nothing to bring up without a guest")

    # --- when the guest runs -----------------------------------------------------------------------------------------

    def announcements(self, vif: Vif, network: Network) -> Sequence[tuple[str, str]]:
        """Return (link, address) pairs: what the host announces for the guest, and where."""
        return ()

    def attracts(self, resource: Resource, vif: Vif, network: Network) -> bool:
        """Return whether a resource draws the guest's traffic to this host: it is withheld while the guest migrates here."""
        return False

    def untracked(self, vif: Vif, network: Network) -> Sequence[str]:
        """Return the addresses whose tracked connections are out of date once the guest has migrated here."""
        return ()

    def proxied6(self, network: Network, on_link: Callable[[str], Prefixes6]) -> Prefixes6:
        """Return the IPv6 prefixes for whose every address the agent answers on a tap. `on_link` returns the prefixes of the
        host's own on a link."""
        return ()

    # --- what others ask of a network --------------------------------------------------------------------------------

    def bridge_of(self, network: Network) -> str:
        """Return the bridge whose ports belong to the network; "" if there is none."""
        return ""

    def netdev_of(self, network: Network) -> str:
        """Return the link towards which guests are reached by plain routes; "" if there is none."""
        return ""

    def serves(self, network: Network, addresses: values.Subnet) -> bool:
        """Return whether the network has a subnet that these addresses are from."""
        return False

    def is_private(self, network: Network) -> bool:
        """Return whether guests have private addresses, which a front end may make up."""
        return False

    def table_of(self, network: Network) -> int:
        """Return the number of the network's own routing table; 0 if there is none."""
        return 0

    def kept_over_boots(self, network: Network) -> Iterable[Resource]:
        """Return those of the network's resources that a reboot leaves: without a record they wait for the next guest."""
        return ()

    def home(self, network: Network) -> str:
        """Return the node of the graph that guests of the network hang on."""
        return next(iter(self.links(network)), "")

    def label(self, network: Network) -> tuple[str, ...]:
        """Return the lines that the graph shows of the network, on the node of its table."""
        return (f"network {network.name}",)
