"""What a kind of part defines. Each kind is a class in a file of its own, and a row of the registry in declared/__init__.py."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import values
from ..errors import ConfigError, one_line
from .declaration import Config, Declared, Option, parse_options
from .facts import Host
from .registry import Row
from .resource import Resource


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
