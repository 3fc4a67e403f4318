"""The base classes of kinds of parts and of modes of networks. Each is a class in its own file, and a row of a registry: that of
kinds is in declared/, that of modes in networks/."""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Generic, NamedTuple, TypeVar

from .. import values
from ..errors import ConfigError, one_line
from .declaration import Config, Declared, Network, Option, parse_options
from .facts import Host
from .guest import Vif
from .resource import Resource

T = TypeVar("T")


class Row(NamedTuple, Generic[T]):
    """An entry of a registry: its name, and the module and the class that define it. Sections also have a `word`, KIND in the
    KIND:NAME of their parts."""

    name: str
    module: str
    cls: str
    word: str = ""

    def load(self) -> T:
        """Import the module; return an instance of the class, made with this row."""
        made: T = getattr(import_module(self.module), self.cls)(self)
        return made


class Registry(Mapping[str, T]):
    """The objects of `rows` by name, in the order of the rows. A look-up imports the file of the entry; listing names does
    not."""

    def __init__(self, *rows: Row[T]) -> None:
        self.rows = {row.name: row for row in rows}
        self._made: dict[Row[T], T] = {}

    def __getitem__(self, name: str) -> T:
        row = self.rows[name]
        if row not in self._made:
            # If two threads load a row at the same time, both get the object that was stored first.
            self._made.setdefault(row, row.load())
        return self._made[row]

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class Kind:
    """A kind of part, declared as [SECTION.NAME]. A kind defines `options` and `resources`, and overrides other methods as
    needed.

    `section` is the section of the configuration, and `word` the word for one part of it (KIND in KIND:NAME).
    """

    options: tuple[Option, ...] = ()

    is_link = False
    """Whether its parts are links that we make."""

    takes_guests = False
    """Whether taps of guests can be ports of such a link: a bridge."""

    translates = False
    """Whether its parts translate addresses: those of the option `subnet`, on their way out of the link in the option `out`."""

    makes_up_mac = False
    """Whether a link without a declared MAC gets one that is derived from its name. A link without a lower link needs it: the
    kernel would choose a random MAC, which is not known in advance."""

    def __init__(self, row: Row["Kind"]) -> None:
        self.section, self.word = row.name, row.word

    # --- reading -----------------------------------------------------------------------------------------------------

    def rows(self, table: Mapping[str, object], where: str) -> tuple[Option, ...]:
        """Return the options of a table of the section. Raise ConfigError, for `where`, if they can't be determined."""
        return self.options

    def listed(self) -> Iterable[tuple[str, tuple[Option, ...]]]:
        """Yield the options that `vmnet-hook options` lists, in groups with the prefix of their keys."""
        yield f"{self.section}.NAME", self.options

    def parse_name(self, name: str) -> str:
        """Parse the name of a part. Raise ValueError if it is not valid."""
        return values.name(name)

    def declare(self, name: str, options: Mapping[str, Any], source: str) -> Declared:
        """Return the part with these parsed options, which the file `source` declares."""
        return Declared(self, name, options, source)

    def read(self, name: str, table: object, source: str) -> Declared:
        """Return the part that a table of the file `source` declares. Raise ConfigError if the table is not valid."""
        where = f"{source}: {self.section}.{one_line(name)}"
        try:
            self.parse_name(name)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
        if not isinstance(table, dict):
            raise ConfigError(f"{where}: must be a table, is {one_line(repr(table))[:80]}")
        part = self.declare(name, parse_options(self.rows(table, where), table, where), source)
        part.check()
        return part

    def check(self, part: Declared) -> None:
        """Raise ConfigError if the options of one part contradict each other."""

    def check_together(self, parts: Sequence[Declared], declared: Config) -> None:
        """Raise ConfigError if `parts`, all declared parts of this kind, contradict each other or the rest of the
        configuration."""

    # --- composing ---------------------------------------------------------------------------------------------------

    def links(self, part: Declared) -> tuple[str, ...]:
        """Return the links whose state `resources` depends on."""
        return ()

    def stands_on(self, part: Declared) -> tuple[str, ...]:
        """Return the links that must exist before the part is brought up."""
        return self.links(part)

    def resources(self, part: Declared, host: Host) -> Iterable[Resource]:
        """Return the kernel objects of the part. Raise ConfigError if the host does not allow it."""
        raise NotImplementedError

    # --- recognising -------------------------------------------------------------------------------------------------

    def makes(self, part: Declared) -> tuple[str, ...]:
        """Return the names of the links that we make for the part."""
        return (part.name,) if self.is_link else ()

    def tables(self, part: Declared) -> tuple[str, ...]:
        """Return the names of the nft tables that belong to the part alone."""
        return ()

    def node(self, part: Declared) -> str:
        """Return the name of the part's node in `vmnet-hook graph`."""
        return part.name


Prefixes6 = Sequence[ipaddress.IPv6Network]
Implied = tuple[str, str, Mapping[str, Any]]
"""Section, name and table of a part, as TOML has them."""


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

    def bind(self, vif: Vif, network: Network, where: str) -> Vif:
        """Return the NIC with its addresses checked and completed. Raise InputError, for the claim at `where`, if the network
        can't have it."""
        return vif

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

    def network_resources(self, network: Network, host: Host) -> Iterable[Resource]:
        """Return the kernel objects of the network, which exist from its first guest to its last. Raise ConfigError if the host
        does not allow it."""
        return ()

    def vif_resources(self, vif: Vif, network: Network, host: Host) -> Iterable[Resource]:
        """Return the kernel objects of one NIC. Raise ConfigError or InputError if the host does not allow it."""
        raise NotImplementedError

    def nothing_below(self, network: Network) -> ConfigError:
        """Return the error for `vmnet-hook up` of a network that does not come up alone, and none of whose links is
        declared."""
        return network.error("", "stands on nothing that is declared: there is nothing to bring up without a guest")

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

    def proxied6(self, network: Network, on_link: Callable[[str], Prefixes6]) -> Prefixes6:
        """Return the IPv6 prefixes for which the agent answers neighbour solicitations on a tap, whatever the address.
        `on_link` returns the host's own prefixes on a link."""
        return ()

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
