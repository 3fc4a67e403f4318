"""Reading what the admin declares: /etc/vmnet-hooks/vmnet.toml, conf.d/*.toml and domains.d/DOMAIN.toml.

An `Option` row sits beside the mode, or the kind of link, that uses it; this file knows how to read and check rows, not
what they mean.
"""

import os
import tomllib
from collections.abc import Container, Iterable, Iterator
from typing import Any

from .. import RUN, values
from ..errors import ConfigError, Unread, one_line
from ..model.declaration import DIRECTORY, Broken, Config, Declared, Network, Option, Refusal, Required, nearest, parse_options
from ..model.guest import Claim
from ..model.kind import Kind
from . import SECTIONS, implied

RUNTIME = f"{RUN}/conf.d"
"""Where a command (Xen's network-bridge) declares parts, until it takes them back or the host boots: read beside conf.d."""
MAX_BYTES = 4 << 20


def claims(declared: Config, domain: str) -> list[Claim]:
    """Return what domains.d/DOMAIN.toml claims; nothing if there is no such file. Raise ConfigError."""
    if not domain or "/" in domain or "\0" in domain or domain.startswith(".") or len(domain.encode()) > 200:
        return []
    path = f"{declared.directory}/domains.d/{domain}.toml"
    return _claims(path) if os.path.exists(path) else []


def claimants(declared: Config) -> list[str]:
    """Return the names of the domains that have a file in domains.d. Raise ConfigError if the folder can't be read."""
    return [os.path.basename(path).removesuffix(".toml") for path in toml_files(f"{declared.directory}/domains.d")]


def claims_by_tap(declared: Config, ifname: str) -> tuple[str, Claim] | None:
    """Return the domain and the claim that domains.d makes for a tap's name. Raise ConfigError if two domains claim it, or if
    only a file that can't be used may."""
    found, wrong = [], []
    for path in toml_files(f"{declared.directory}/domains.d"):
        domain = os.path.basename(path).removesuffix(".toml")
        try:
            found += [(domain, claim) for claim in _claims(path) if claim.ifname == ifname]
        except ConfigError as error:
            # Another guest's, where one claims the tap.
            wrong.append(error)
    if wrong and not found:
        raise wrong[0]
    if len(found) > 1:
        raise ConfigError(f"{found[1][1].source}: ifname {ifname} is also claimed in {found[0][1].source}; remove one")
    return found[0] if found else None


def toml_files(directory: str) -> list[str]:
    """Return the *.toml files of a folder in byte order; none if there is no folder. Raise ConfigError if it can't be read."""
    try:
        names = sorted(n for n in os.listdir(directory) if n.endswith(".toml") and not n.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unread(f"{directory}: {error.strerror}; check its permissions") from None
    return [os.path.join(directory, name) for name in names]


def read_toml(path: str) -> dict[str, Any]:
    """Return a TOML file, parsed. Raise Unread."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise Unread(f"{path}: larger than {MAX_BYTES >> 20} MiB; is it the right file?")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise Unread(f"{path}: {error.strerror}; check that it is a file that root can read") from None
    except UnicodeDecodeError as error:
        raise Unread(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except ValueError as error:
        # TOMLDecodeError, and what int() raises for a number with thousands of digits.
        raise Unread(f"{path}: not TOML: {one_line(error)}") from None
    except RecursionError:
        raise Unread(f"{path}: nested too deeply to be read as TOML") from None


def load(directory: str | None = None) -> Config:
    """Read and check a whole configuration, by default the host's. No file at all is an empty one. Raise ConfigError for the
    first mistake."""
    found = survey(directory)
    if found.errors:
        raise found.errors[0]
    return found


def usable(directory: str | None = None, older: Config | None = None) -> Config:
    """Read a configuration as `survey` does. Raise ConfigError if one of the files can't be read at all."""
    found = survey(directory, older)
    if "" in found.broken:
        raise found.broken[""].error
    return found


def survey(directory: str | None = None, older: Config | None = None) -> Config:
    """Read what is right of a configuration, by default the host's, and every mistake. Where a table can't be used, that of the
    configuration `older` stands."""
    directory = directory or DIRECTORY
    reading = _Reading()
    try:
        for path in _paths(directory):
            reading.read(path)
    except Unread as error:
        reading.unread(error)
    for part_id in list(reading.broken) if older else ():
        if older and (part := older.part(part_id)):
            reading.found[part_id] = part
            del reading.broken[part_id]
    return reading.assembled(directory)


def _paths(directory: str) -> Iterator[str]:
    if os.path.exists(f"{directory}/vmnet.toml"):
        yield f"{directory}/vmnet.toml"
    yield from toml_files(f"{directory}/conf.d")
    if directory == DIRECTORY and os.access(RUNTIME, os.R_OK | os.X_OK):
        yield from toml_files(RUNTIME)


class _Reading:
    """What was read: the parts that are right so far, by id, and as Config has them, mistakes, broken tables and hints."""

    def __init__(self) -> None:
        self.found: dict[str, Declared] = {}
        self.errors: list[ConfigError] = []
        self.broken: dict[str, Broken] = {}
        self.hints: list[Declared] = []

    def read(self, path: str) -> None:
        """Read a file."""
        try:
            document = read_toml(path)
        except Unread as error:
            self.unread(error)
            return
        for section, tables in document.items():
            if section in SECTIONS and isinstance(tables, dict):
                for name, table in tables.items():
                    self._table(SECTIONS[section], name, table, path)
                continue
            wrong = f"{section}: must be tables, [{section}.NAME]"
            if section not in SECTIONS:
                wrong = f"unknown key {one_line(repr(section))}{nearest(section, SECTIONS)}"
            self.errors.append(ConfigError(f"{path}: {wrong}"))
            for name, table in tables.items() if isinstance(tables, dict) else [("", tables)]:
                # Whatever it was meant to be: it may be a network.
                bridge = SECTIONS["networks"].bridge_in(table)
                self.broken[f"{section}:{name}"] = Broken(self.errors[-1], name, bridge)

    def unread(self, error: Unread) -> None:
        """Note a file that can't be read."""
        self.errors.append(error)
        self.broken.setdefault("", Broken(error))

    def _table(self, kind: Kind, name: str, table: object, path: str) -> None:
        part_id = f"{kind.word}:{name}"
        try:
            part = kind.read(name, table, path)
            if part_id in self.found or part_id in self.broken:
                # Which of the two is meant can't be told.
                first = self.found.pop(part_id, None)
                raise part.error("", f"already declared in {first.source if first else 'another file'}; remove one")
            self.found[part_id] = part
        except ConfigError as error:
            self.errors += [error, *error.more]
            self.broken[part_id] = Broken(error, name, kind.bridge_in(table), kind.word == "network", kind.is_link)
            self.hints += kind.hint(name, table, path)

    def assembled(self, directory: str) -> Config:
        """Return the configuration: without the parts that contradict others, and without what stands on those that are
        broken."""
        while True:
            self._drop_dependents()
            networks = {part.name: part for part in self.found.values() if isinstance(part, Network)}
            rest = {key: part for key, part in self.found.items() if not isinstance(part, Network)}
            parts = {key: part for key, part in rest.items() if not (part.kind.goes_with_guest or part.kind.is_of_agent)}
            forwards = {key: part for key, part in rest.items() if part.kind.goes_with_guest}
            ddns = {key: part for key, part in rest.items() if part.kind.is_of_agent}
            for network in networks.values():
                for part in implied(network):
                    parts.setdefault(part.id, part)
            declared = Config(networks, directory, parts, tuple(self.errors), self.broken, tuple(self.hints), forwards, ddns)
            try:
                _check_names(part for part in self.found.values() if isinstance(part, Network))
                check_together(declared)
            except Refusal as error:
                self.errors.append(error)
                part = self.found[error.part.id if error.part.id in self.found else f"network:{error.part.implied_by}"]
                self.hints.append(part)
                self._drop(part, error)
            else:
                return declared

    def _drop_dependents(self) -> None:
        links = {item.name: item.error for item in self.broken.values() if item.is_link and item.name}
        while links and (standing := [(part, name) for part in self.found.values() if (name := _first(part, links))]):
            for part, name in standing:
                self._drop(part, links[name])
                if part.kind.is_link:
                    links[part.name] = links[name]

    def _drop(self, part: Declared, error: ConfigError) -> None:
        bridge = part.mode.bridge_of(part) if isinstance(part, Network) else ""
        self.broken[part.id] = Broken(error, part.name, bridge, part.kind.word == "network", part.kind.is_link)
        del self.found[part.id]


def _first(part: Declared, links: Container[str]) -> str:
    """The first of the links that a part stands on, of these; "" if none."""
    return next((name for name in (*part.stands_on(), *part.links()) if name in links), "")


def _check_names(networks: Iterable[Network]) -> None:
    """Raise ConfigError if a wire has the name of a network: records know both by their names."""
    seen: dict[str, Network] = {}
    for part in sorted(networks, key=lambda part: bool(part.mode.ends(part))):
        if (other := seen.setdefault(part.name, part)) is not part:
            raise part.error("", f"has the name of {other.label}; rename one of the two")


def check_together(declared: Config) -> None:
    """Raise ConfigError if parts that are right by themselves contradict each other."""
    by_section: dict[str, list[Declared]] = {}
    for part in (*declared.networks.values(), *declared.parts.values(), *declared.forwards.values(), *declared.ddns.values()):
        by_section.setdefault(part.kind.section, []).append(part)
    for parts in by_section.values():
        parts[0].kind.check_together(parts, declared)


def _addresses(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError('must be a list of addresses, ["192.0.2.10"]')
    return values.each(values.address_or_prefix, value)


INTERFACE_OPTIONS = (
    Option("network", values.name, Required, "the network that this NIC is on", '"public"'),
    Option(
        "mac",
        values.mac,
        "",
        "the NIC's MAC address; may be left out if `ifname` is given and the front end tells the MAC",
        '"52:54:00:12:34:56"',
    ),
    Option("ifname", values.ifname, "", "the tap's name; plain QEMU's ifup and ifdown know nothing else", '"tap0"'),
    Option(
        "ips",
        _addresses,
        (),
        "the guest's addresses, IPv4 and IPv6; modes bridged and hostroute: subnets too, 192.0.2.0/28",
        '["192.0.2.10", "2001:db8::10"]',
    ),
    Option(
        "filter",
        values.boolean,
        True,
        "let only the guest's own MAC and addresses out of the tap (bridged networks: see antispoof)",
        "false",
    ),
    Option("vlan", values.integer(1, 4094), None, "VLAN-aware bridges: the NIC's untagged VLAN, instead of the network's", "100"),
    Option(
        "tagged",
        values.vids,
        None,
        "VLAN-aware bridges: the VLANs that the NIC gets tagged, instead of the network's",
        '[10, "20-30"]',
    ),
    Option(
        "roles",
        values.roles,
        None,
        "what the guest is besides a client, instead of the network's: dhcp-server, router, querier, switch",
        '["router", "querier"]',
    ),
)
"""The keys of an `[[interfaces]]` table in domains.d/DOMAIN.toml."""


def _claims(path: str) -> list[Claim]:
    document = read_toml(path)
    for key in document:
        if key != "interfaces":
            raise ConfigError(f"{path}: unknown key {one_line(repr(key))}{nearest(key, ['interfaces'])}")
    tables = document.get("interfaces", [])
    if not isinstance(tables, list):
        raise ConfigError(f"{path}: interfaces: must be a list of tables, [[interfaces]]")
    claims: list[Claim] = []
    wrong: list[ConfigError] = []
    for number, table in enumerate(tables, 1):
        where = f"{path}: interfaces[{number}]"
        try:
            row = parse_options(INTERFACE_OPTIONS, table, where)
            if not row["mac"] and not row["ifname"]:
                raise ConfigError(f"{where}: names neither a mac nor an ifname; add one")
        except ConfigError as error:
            wrong += [error, *error.more]
            continue
        trunk = (row["vlan"], row["tagged"], row["roles"])
        claims.append(Claim(row["network"], row["mac"], row["ifname"], row["ips"], row["filter"], where, *trunk))
    if wrong:
        wrong[0].more = tuple(wrong[1:])
        raise wrong[0]
    return claims
