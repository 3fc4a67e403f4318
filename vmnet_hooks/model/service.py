"""The base class of services: what a network offers its guests besides a link. Each is a class in its own file, and a row of the
registry in services/."""

from collections.abc import Iterable

from .declaration import Config, Network, Option
from .facts import Host
from .guest import Vif
from .kind import Row
from .resource import Resource


class Service:
    """A service. It defines `option`, a key of every network, and overrides the methods as needed.

    `name` is that of the option. A network has no value for it, or None, if it does not offer the service.
    """

    option: Option

    def __init__(self, row: Row["Service"]) -> None:
        self.name = row.name

    def check(self, network: Network, declared: Config) -> None:
        """Raise ConfigError if a network that offers the service can't."""

    def bind(self, vif: Vif, network: Network, where: str) -> None:
        """Raise InputError, for the claim at `where`, if a bound NIC can't be on a network that offers the service."""

    def has_server(self, network: Network) -> bool:
        """Return whether a server of the network's own offers the service, so that it shall be up even without a guest."""
        return False

    def network_resources(self, network: Network, host: Host) -> Iterable[Resource]:
        """Return the kernel objects that the service adds to those of the network. Raise ConfigError if the host does not allow
        it."""
        return ()

    def vif_resources(self, vif: Vif, network: Network, host: Host) -> Iterable[Resource]:
        """Return the kernel objects of one NIC on a network that offers the service."""
        return ()
