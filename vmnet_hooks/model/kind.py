"""What a kind of part defines, and what a mode of networks. Each is a class in a file of its own, and a row of a registry: the
kinds' is in declared/, the modes' in networks/."""

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
    """A thing of a registry before its file is loaded: its name there, and the module and the class that define it. `word` is
    what one part of a section is called."""

    name: str
    module: str
    cls: str
    word: str = ""

    def load(self) -> T:
        """Import the module and return an object of the class, which is called with this row."""
        made: T = getattr(import_module(self.module), self.cls)(self)
        return made


class Registry(Mapping[str, T]):
    """The things of `rows` by name, in the order of the rows. Looking one up loads its file; asking for names does not."""

    def __init__(self, *rows: Row[T]) -> None:
        self.rows = {row.name: row for row in rows}
        self._made: dict[Row[T], T] = {}

    def __getitem__(self, name: str) -> T:
        row = self.rows[name]
        if row not in self._made:
            # Of two threads that load it at once, both get what the first has stored.
            self._made.setdefault(row, row.load())
        return self._made[row]

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class Kind:
    """A kind of part, declared as [SECTION.NAME]. A kind has `options` and `resources`, and of the rest only what differs.

    `section` is the section of the configuration, and `word` what one part of it is called.
    """

    options: tuple[Option, ...] = ()

    is_link = False
    """Whether its parts are links that we make."""

    takes_guests = False
    """Whether guests' taps can be ports of it, as of a bridge."""

    translates = False
    """Whether it translates addresses: those of option `subnet`, on the way out of option `out`."""

    makes_up_mac = False
    """Whether a link that is given no MAC gets one made from its name, as a kind needs whose links stand on nothing: what the
    kernel would make up is not known before."""

    def __init__(self, row: Row["Kind"]) -> None:
        self.section, self.word = row.name, row.word

    # --- reading -----------------------------------------------------------------------------------------------------

    def rows(self, table: Mapping[str, object], where: str) -> tuple[Option, ...]:
        """Return the options that a table of the section may have. Raise ConfigError, for `where`, if that can't be told."""
        return self.options

    def listed(self) -> Iterable[tuple[str, tuple[Option, ...]]]:
        """Yield all options that `vmnet-hook options` lists, each lot with what their keys begin with."""
        yield f"{self.section}.NAME", self.options

    def parse_name(self, name: str) -> str:
        """Return the name of a part. Raise ValueError if it is not one."""
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
        """Raise ConfigError if `parts`, all that are declared of this kind, contradict each other or the rest."""

    # --- composing ---------------------------------------------------------------------------------------------------

    def links(self, part: Declared) -> tuple[str, ...]:
        """Return the links whose state `resources` depends on."""
        return ()

    def stands_on(self, part: Declared) -> tuple[str, ...]:
        """Return the links that must be there before the part."""
        return self.links(part)

    def resources(self, part: Declared, host: Host) -> Iterable[Resource]:
        """Return what the part is made of in the kernel. Raise ConfigError if the host does not allow it."""
        raise NotImplementedError

    # --- recognising -------------------------------------------------------------------------------------------------

    def makes(self, part: Declared) -> tuple[str, ...]:
        """Return the names of the links that we make for the part."""
        return (part.name,) if self.is_link else ()

    def tables(self, part: Declared) -> tuple[str, ...]:
        """Return the names of the nft tables that are the part's alone."""
        return ()

    def node(self, part: Declared) -> str:
        """Return the name of the node that stands for the part in `vmnet-hook graph`."""
        return part.name


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
