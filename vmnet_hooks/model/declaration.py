"""The declaration: options, parts of the host, networks, and the configuration that consists of them."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .. import CONFIGURATION
from ..errors import ConfigError, InputError, one_line

if TYPE_CHECKING:
    from .facts import Host
    from .kind import Kind
    from .mode import Mode
    from .resource import Resource

DIRECTORY = CONFIGURATION


class Required:
    """Stands in `Option.default` for an option that must be given."""


@dataclass(frozen=True)
class Option:
    """A key of a table in the configuration. `parse` converts the value from TOML and raises ValueError. `doc` is the text that
    `vmnet-hook options` prints, `example` a value in TOML. If `keys` are given, the value is a table with these keys."""

    name: str
    parse: Callable[[object], Any]
    default: Any
    doc: str
    example: str = ""
    keys: tuple["Option", ...] = ()

    @property
    def required(self) -> bool:
        return self.default is Required


@dataclass(frozen=True)
class Declared:
    """A declared part of the host: a table [SECTION.NAME]. `options` has a value for every option of the kind; `source` is the
    file. `implied_by` is the network that implies the part, where no table declares it."""

    kind: "Kind"
    name: str
    options: Mapping[str, Any]
    source: str
    implied_by: str = field(default="", kw_only=True)

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    @property
    def id(self) -> str:
        """KIND:NAME, the part's ID on the command line and in the records."""
        return f"{self.kind.word}:{self.name}"

    @property
    def label(self) -> str:
        """SECTION.NAME, the part's name in messages about the configuration."""
        return f"{self.kind.section}.{self.name}"

    @property
    def ports(self) -> tuple[str, ...]:
        """The links that are declared as ports of this link."""
        return tuple(self.options.get("ports", ()))

    @property
    def adopts(self) -> str:
        """The port whose addresses and routes this link takes over; "" if there is none."""
        return self.options.get("adopt") or ""

    def error(self, option: str, problem: str) -> ConfigError:
        """Return an error that names file, key and problem. `option` is the option at fault; "" means the part as a whole."""
        name = self.name if _BARE.fullmatch(self.name) else f'"{self.name}"'
        key = f"{self.kind.section}.{name}" + (f".{option}" if option else "")
        return Refusal(f"{self.source}: {key}: {problem}", self, option, problem)

    def check(self) -> None:
        """Raise ConfigError if the options contradict each other."""
        self.kind.check(self)

    def links(self) -> tuple[str, ...]:
        """Return the links whose state `resources` depends on."""
        return self.kind.links(self)

    def stands_on(self) -> tuple[str, ...]:
        """Return the links that must exist before the part is brought up."""
        return self.kind.stands_on(self)

    def resources(self, host: "Host") -> Iterable["Resource"]:
        """Return the kernel objects of the part. Raise ConfigError if the host does not allow it."""
        return self.kind.resources(self, host)

    def node(self) -> str:
        """Return the name of the part's node in `vmnet-hook graph`."""
        return self.kind.node(self)


@dataclass(frozen=True)
class Network(Declared):
    """A declared network. Its mode defines what the kind defines for other parts."""

    mode: "Mode"

    def check(self) -> None:
        self.mode.check(self)

    def links(self) -> tuple[str, ...]:
        return self.mode.links(self)

    def stands_on(self) -> tuple[str, ...]:
        return self.mode.links(self)

    def resources(self, host: "Host") -> Iterable["Resource"]:
        return self.mode.network_resources(self, host)

    def node(self) -> str:
        return self.mode.home(self)


class Refusal(ConfigError):
    """A part is not valid. `option` is the option at fault; "" means the part as a whole. `problem` is the message without file
    and key."""

    def __init__(self, message: str, part: Declared, option: str, problem: str) -> None:
        super().__init__(message)
        self.part, self.option, self.problem = part, option, problem


_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True)
class Config:
    """The configuration: every network by name, every other part by id, and the folder that holds domains.d."""

    networks: Mapping[str, Network]
    directory: str = DIRECTORY
    parts: Mapping[str, Declared] = field(default_factory=dict)

    def plus(self, network: Network, parts: Iterable[Declared]) -> "Config":
        """Return this configuration, extended by a network that no file declares and by the parts that the network implies."""
        implied = {part.id: part for part in parts}
        return replace(self, networks={**self.networks, network.name: network}, parts={**implied, **self.parts})

    @cached_property
    def links(self) -> Mapping[str, Declared]:
        """The declared links by name. If several have the same name, which the configuration refuses, the first."""
        found: dict[str, Declared] = {}
        for part in self.parts.values():
            if part.kind.is_link:
                found.setdefault(part.name, part)
        return found

    @cached_property
    def masters(self) -> Mapping[str, Declared]:
        """The declared links by the names of their ports. If several have the same port, which the configuration refuses, the
        first."""
        found: dict[str, Declared] = {}
        for part in self.parts.values():
            for name in part.ports:
                found.setdefault(name, part)
        return found

    @cached_property
    def nats(self) -> tuple[Declared, ...]:
        """The parts that translate addresses."""
        return tuple(part for part in self.parts.values() if part.kind.translates)

    def part(self, name: str) -> Declared | None:
        """Return the part or the network with this ID; None if it is not declared."""
        network = self.networks.get(name.partition(":")[2])
        return network if network and network.id == name else self.parts.get(name)

    def on_bridge(self, name: str) -> list[Network]:
        """Return the networks whose guests are on the bridge `name`."""
        return [network for network in self.networks.values() if name == network.mode.bridge_of(network)]

    def find(self, name: str) -> list[Declared]:
        """Return the parts with this name or this KIND:NAME. Raise InputError if there is none."""
        everything = {**self.parts, **{network.id: network for network in self.networks.values()}}
        found = [part for part in everything.values() if name in (part.id, part.name)]
        if not found:
            raise InputError(f"{one_line(repr(name))} is not declared in {self.directory}{nearest(name, everything)}")
        return found

    def network(self, name: str, where: str) -> Network:
        """Return the network `name`. Raise ConfigError, for the claim made at `where`, if there is none."""
        if name not in self.networks:
            raise ConfigError(f"{where}: no network {one_line(repr(name))} is declared{nearest(name, self.networks)}")
        return self.networks[name]


def nearest(word: object, known: Iterable[str]) -> str:
    """Return a hint for a misspelt word: the most similar known word, or all known words if none is similar."""
    choices = list(known)
    if close := difflib.get_close_matches(str(word), choices, 1):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(choices)}" if choices else ""


def parse_options(rows: Sequence[Option], table: object, where: str) -> dict[str, Any]:
    """Return a value for every option of `rows`. Raise ConfigError that names `where` (file: key), value and remedy."""
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
