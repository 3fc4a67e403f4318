"""The base class of kinds of parts, and registries. A kind is a class in its own file, and a row of the registry in declared/."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Generic, NamedTuple, TypeVar

from .. import values
from ..errors import ConfigError, one_line
from .declaration import Config, Declared, Option, parse_options
from .facts import Host
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

    goes_with_guest = False
    """Whether its parts are set up with the guests that they name, and not by themselves."""

    is_of_agent = False
    """Whether its parts are the agent's work alone, and nothing of them is in the kernel."""

    spares_ports = False
    """Whether such a link does its work with those of its ports that exist: a bond."""

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
        try:
            options = parse_options(self.rows(table, where), table, where)
        except ConfigError:
            self._check_dots(name, table, where)
            raise
        part = self.declare(name, options, source)
        part.check()
        return part

    def hint(self, name: str, table: object, source: str) -> Iterable[Declared]:
        """Return what can be read of a table that can't be used, where parts of other kinds depend on it."""
        return ()

    def bridge_in(self, table: object) -> str | None:
        """Return the bridge of the network that a table declares, which can't be used: None if it is not known, "" if it has
        none."""
        return ""

    def _check_dots(self, name: str, table: Mapping[str, object], where: str) -> None:
        """Raise ConfigError for [SECTION.A.B] where the name A.B was meant: TOML takes B for a table in A."""
        inner = [key for key, value in table.items() if isinstance(value, dict)]
        if not inner:
            return
        known = {row.name for _, rows in self.listed() for row in rows}
        for key in inner:
            if key not in known and not difflib.get_close_matches(key, known, 1):
                words, there = [name, key], table[key]
                while isinstance(there, dict) and len(there) == 1 and isinstance(next(iter(there.values())), dict):
                    key, there = next(iter(there.items()))
                    words.append(key)
                quoted = f'[{self.section}."{one_line(".".join(words))}"]'
                raise ConfigError(f"{where}: a name with a dot stands in quotes; write {quoted}")

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
