"""The declaration: options, parts of the host, networks, and the configuration that consists of them."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import CONFIGURATION
from ..errors import ConfigError, InputError, one_line
from ..values import roles

if TYPE_CHECKING:
    from .end import End
    from .facts import Host
    from .guest import Vif
    from .kind import Kind
    from .mode import Mode
    from .resource import Resource

DIRECTORY = CONFIGURATION


class Required:
    """Stands in `Option.default` for an option that must be given."""


@dataclass(frozen=True)
class Option:
    """A key of a table in the configuration. `parse` converts the value from TOML and raises ValueError. `doc` is the text that
    `vmnet-hook options` prints, `example` a value in TOML. If `keys` are given, the value is a table with these keys, or, where
    it is `listed`, a list of such tables, each of which `parse` converts."""

    name: str
    parse: Callable[[object], Any]
    default: Any
    doc: str
    example: str = ""
    keys: tuple["Option", ...] = ()
    listed: bool = False

    @property
    def required(self) -> bool:
        return self.default is Required


ROLES = Option(
    "roles",
    roles,
    (),
    "what guests are besides clients: dhcp-server, router, querier, switch; what only these send is dropped",
    '["router", "querier"]',
)


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


class Broken(NamedTuple):
    """A table [SECTION.NAME] that can't be used, and why; or with all defaults a file, which may have declared anything. `bridge`
    is that of a network: None if it is not known, "" if it has none."""

    error: ConfigError
    name: str = ""
    bridge: str | None = None
    is_network: bool = True
    is_link: bool = True


_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True)
class Config:
    """The configuration: every network by name, every other part by id, and the folder that holds domains.d.

    `forwards` are the parts, by id, that are set up with guests, `ddns` those that are the agent's work. `errors` are its
    mistakes. `broken` are the tables, by id, that can't be used because of them; "" is a file, or what else may declare anything.
    What needs one of them is refused, the rest serves. `hints` are broken parts, as far as they can be read: others depend on
    them.
    """

    networks: Mapping[str, Network]
    directory: str = DIRECTORY
    parts: Mapping[str, Declared] = field(default_factory=dict)
    errors: Sequence[ConfigError] = ()
    broken: Mapping[str, Broken] = field(default_factory=dict)
    hints: Sequence[Declared] = ()
    forwards: Mapping[str, Declared] = field(default_factory=dict)
    ddns: Mapping[str, Declared] = field(default_factory=dict)

    def plus(self, network: Network, parts: Iterable[Declared]) -> "Config":
        """Return this configuration, extended by a network that no file declares and by the parts that the network implies. Raise
        ConfigError if the network stands on a link that can't be used."""
        for broken in self.broken.values():
            if broken.is_link and broken.name in network.links():
                raise broken.error
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

    def vids_on(self, name: str) -> tuple[int, ...]:
        """Return the IDs of the declared VLAN devices on a link."""
        return tuple(part["id"] for part in self.links.values() if part.options.get("parent") == name)

    @cached_property
    def nats(self) -> tuple[Declared, ...]:
        """The parts that translate addresses."""
        return tuple(part for part in self.parts.values() if part.kind.translates)

    def part(self, name: str) -> Declared | None:
        """Return the part or the network with this ID; None if it is not declared."""
        network = self.networks.get(name.partition(":")[2])
        if network and network.id == name:
            return network
        return self.parts.get(name) or self.forwards.get(name) or self.ddns.get(name)

    def on_bridge(self, name: str) -> list[Network]:
        """Return the networks whose guests are on the bridge `name`. Raise ConfigError if it may be that of a broken network."""
        found = self.with_bridge(name)
        for broken in self.broken.values():
            if broken.bridge == name or (broken.bridge is None and not found):
                raise broken.error
        return found

    def with_bridge(self, name: str) -> list[Network]:
        """Return the networks whose guests are on the bridge `name`, without a thought for broken ones."""
        return [network for network in self.networks.values() if name == network.mode.bridge_of(network)]

    @cached_property
    def ends(self) -> "Mapping[str, Sequence[tuple[Network, End]]]":
        """The ends of wires that are NICs, each with its wire, by the guest's name: also of wires that can't be used."""
        found: dict[str, list[tuple[Network, End]]] = {}
        broken = (part for part in self.hints if isinstance(part, Network) and part.id in self.broken)
        for network in (*self.networks.values(), *broken):
            for end in network.mode.ends(network):
                if end.domain:
                    found.setdefault(end.domain, []).append((network, end))
        return found

    def wire_at(self, domain: str, vif: "Vif") -> Network | None:
        """Return the wire that a NIC of a domain is an end of; None if there is none. Raise ConfigError if there are two, or if
        it can't be used."""
        found = [(network, end) for network, end in self.ends.get(domain, ()) if end.is_of(vif)]
        for network, end in found:
            if network.id in self.broken:
                raise self.broken[network.id].error
            if end is not found[0][1]:
                raise network.error("ends", f"{end} is an end of {found[0][0].label} already, as {found[0][1]}; name another NIC")
        return found[0][0] if found else None

    def check_routed(self) -> None:
        """Raise ConfigError if a broken network may be the one of a guest for which no network without a bridge was found."""
        for broken in self.broken.values():
            if broken.is_network and not broken.bridge:
                raise broken.error

    def check_usable(self, part_id: str) -> None:
        """Raise the ConfigError of a part, or of the configuration, because of which the part with this ID can't be used."""
        if found := self.broken.get(part_id):
            raise found.error
        if self.part(part_id) is not None:
            return
        name = part_id.partition(":")[2]
        for broken in self.broken.values():
            # It may be a part that a network implies: its bridge, or what has its name.
            if broken.is_network and (broken.bridge is None or name in (broken.name, broken.bridge)):
                raise broken.error

    def find(self, name: str) -> list[Declared]:
        """Return the parts with this name or this KIND:NAME. Raise InputError if there is none, or one of them can't be used."""
        everything = {**self.parts, **{network.id: network for network in self.networks.values()}}
        found = [part for part in everything.values() if name in (part.id, part.name)]
        for part_id, broken in self.broken.items():
            if name in (part_id, broken.name) or (not found and not part_id):
                raise broken.error
        if not found and any(name in (part.id, part.name) for part in (*self.forwards.values(), *self.ddns.values())):
            raise InputError(f"{one_line(name)} comes with its guest; if that runs already: vmnet-hook repair")
        if not found:
            raise InputError(f"{one_line(repr(name))} is not declared in {self.directory}{nearest(name, everything)}")
        return found

    def network(self, name: str, where: str) -> Network:
        """Return the network `name`. Raise ConfigError, for the claim made at `where`, if there is none."""
        if name not in self.networks:
            for broken in self.broken.values():
                if broken.is_network and broken.name in (name, ""):
                    raise broken.error
            wrong = f"; can't be used: {self.errors[0]}" if self.errors else ""
            hint = nearest(name, self.networks) or f"; declare [networks.{one_line(name)}] in {self.directory}/vmnet.toml"
            raise ConfigError(f"{where}: no network {one_line(repr(name))} is declared{hint}{wrong}")
        return self.networks[name]


def nearest(word: object, known: Iterable[str]) -> str:
    """Return a hint for a misspelt word: the most similar known word, or all known words if none is similar."""
    choices = list(known)
    if close := difflib.get_close_matches(str(word), choices, 1):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(choices)}" if choices else ""


def parse_options(rows: Sequence[Option], table: object, where: str) -> dict[str, Any]:
    """Return a value for every option of `rows`. Raise ConfigError that names `where` (file: key), value and remedy; it has the
    other mistakes, too."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: must be a table, is {one_line(repr(table))[:80]}")
    known = {row.name: row for row in rows}
    wrong = [ConfigError(f"{where}: unknown key {one_line(repr(key))}{nearest(key, known)}") for key in table if key not in known]
    result = {}
    for row in rows:
        key = f"{where}.{row.name}"
        try:
            if row.name not in table:
                if row.required:
                    raise ConfigError(f"{key}: missing; give {row.doc}")
                result[row.name] = row.default
            elif row.keys:
                result[row.name] = _tables(row, table[row.name], key)
            else:
                result[row.name] = row.parse(table[row.name])
        except ConfigError as error:
            wrong += [error, *error.more]
        except ValueError as error:
            wrong.append(ConfigError(f"{key}: {one_line(repr(table[row.name]))[:80]} {error}"))
    if wrong:
        wrong[0].more = tuple(wrong[1:])
        raise wrong[0]
    return result


def _tables(row: Option, value: object, key: str) -> Any:
    """Return the value of an option whose value is a table, or a list of tables. Raise ConfigError."""
    if not row.listed:
        return row.parse(parse_options(row.keys, value, key))
    if not isinstance(value, list):
        raise ConfigError(f"{key}: {one_line(repr(value))[:80]} must be a list of tables, as {row.example}")
    found, wrong = [], []
    for number, item in enumerate(value, 1):
        where = f"{key}[{number}]"
        try:
            found.append(row.parse(parse_options(row.keys, item, where)))
        except ConfigError as error:
            wrong += [error, *error.more]
        except ValueError as error:
            wrong.append(ConfigError(f"{where}: {error}"))
    if wrong:
        wrong[0].more = tuple(wrong[1:])
        raise wrong[0]
    return tuple(found)
