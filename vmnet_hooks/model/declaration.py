"""What the admin declared, as data: options, parts of the host, networks, and the configuration that they make up."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ConfigError, InputError, one_line

DIRECTORY = "/etc/vmnet-hooks"


class Required:
    """Stands for the default of an option that has none."""


@dataclass(frozen=True)
class Option:
    """A key of a network. `parse` raises ValueError. An option with `keys` is a table of options."""

    name: str
    parse: Callable[[object], Any]
    default: Any
    doc: str
    keys: tuple["Option", ...] = ()

    @property
    def required(self) -> bool:
        return self.default is Required


@dataclass(frozen=True)
class Declared:
    """A declared part of the host: a table [SECTION.NAME]. `options` holds every option; `source` is the file."""

    section: str
    name: str
    options: Mapping[str, Any]
    source: str

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    @property
    def id(self) -> str:
        """What the part is called on the command line and in the records."""
        return f"{KINDS[self.section]}:{self.name}"

    def error(self, option: str, problem: str) -> ConfigError:
        name = self.name if _BARE.fullmatch(self.name) else f'"{self.name}"'
        key = f"{self.section}.{name}" + (f".{option}" if option else "")
        return ConfigError(f"{self.source}: {key}: {problem}")


@dataclass(frozen=True)
class Network(Declared):
    """A declared network."""

    mode: str


KINDS = {
    "vlans": "vlan",
    "bonds": "bond",
    "bridges": "bridge",
    "dummies": "dummy",
    "nat": "nat",
    "networks": "network",
}
"""The sections of a configuration, and what one of each is called."""
LINKS = ("vlan", "bond", "bridge", "dummy")
"""The kinds of parts that are links."""
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True)
class Config:
    """Every declared network by name, every other part by id, and the folder that holds domains.d."""

    networks: Mapping[str, Network]
    directory: str = DIRECTORY
    parts: Mapping[str, Declared] = field(default_factory=dict)

    def plus(self, network: Network, parts: Iterable[Declared]) -> "Config":
        """This configuration with a network, and the parts that it implies, that no file declares."""
        implied = {part.id: part for part in parts}
        return replace(self, networks={**self.networks, network.name: network}, parts={**implied, **self.parts})

    def link(self, name: str) -> Declared | None:
        """The declared link of that name."""
        return next((p for kind in LINKS if (p := self.parts.get(f"{kind}:{name}"))), None)

    def find(self, name: str) -> list[Declared]:
        """The parts of that name, or of that KIND:NAME. Raises InputError if there is none."""
        everything = {**self.parts, **{network.id: network for network in self.networks.values()}}
        found = [part for part in everything.values() if name in (part.id, part.name)]
        if not found:
            raise InputError(f"{one_line(repr(name))} is not declared in {self.directory}{nearest(name, everything)}")
        return found

    def network(self, name: str, where: str) -> Network:
        """The network `name`. Raises ConfigError, for the claim made at `where`, if there is none."""
        if name not in self.networks:
            raise ConfigError(f"{where}: no network {one_line(repr(name))} is declared{nearest(name, self.networks)}")
        return self.networks[name]


def nearest(word: object, known: Iterable[str]) -> str:
    """A hint for a misspelt word: the nearest known one, else all of them."""
    choices = list(known)
    if close := difflib.get_close_matches(str(word), choices, 1):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(choices)}" if choices else ""


def parse_options(rows: Sequence[Option], table: object, where: str) -> dict[str, Any]:
    """The values of a table by its option rows. Raises ConfigError that names `where` (file: key), value and remedy."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: must be a table, is {one_line(repr(table))[:80]}")
    known = {row.name: row for row in rows}
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {one_line(repr(key))}{nearest(key, known)}")
    result = {}
    for row in rows:
        key = f"{where}.{row.name}"
        if row.name not in table:
            if row.required:
                raise ConfigError(f"{key}: missing; {row.doc}")
            result[row.name] = row.default
        elif row.keys:
            result[row.name] = row.parse(parse_options(row.keys, table[row.name], key))
        else:
            try:
                result[row.name] = row.parse(table[row.name])
            except ValueError as error:
                raise ConfigError(f"{key}: {one_line(repr(table[row.name]))[:80]} {error}") from None
    return result
