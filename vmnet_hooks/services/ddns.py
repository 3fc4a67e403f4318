"""Names of guests at a DNS server: A, AAAA and PTR records, which the agent registers while a guest runs here.

What is to be registered follows from the records and the configuration alone. How it is told to a server: nsupdate.py.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .. import values
from ..model.declaration import Config, Declared, Option, Required, nearest
from ..model.facts import Host
from ..model.kind import Kind
from ..model.owner import Nic
from ..model.resource import Resource
from .dhcp import host_name

PORT = 53
ZONE_LENGTH = 180
"""Characters of a zone's name: with a host name of 63 characters and the label of the mark, a name has 253 at most."""

IN_USE = "the name is in use there, by another guest, host or program; rename the guest, or remove the name there"
"""Why a name is not registered that the server has already."""

_REVERSE = re.compile(r"(\d{1,3}\.){1,4}in-addr\.arpa|([0-9a-f]\.){1,32}ip6\.arpa", re.ASCII)
_PATH = re.compile(r"/[^\x00-\x1f\x7f]{1,1000}", re.ASCII)
_EXAMPLE = "192.0.2.53 or 192.0.2.53#5353"


class Place(NamedTuple):
    """Where a name is registered. `server` is ADDRESS#PORT; names are in lower case, without a final dot."""

    server: str
    zone: str
    name: str


@dataclass(frozen=True)
class Registration:
    """What a name is to have: `records` are pairs of a type (A, AAAA, PTR) and its value. `part` is the id of the table that asks
    for it, `key` the path of the TSIG key, `ttl` in seconds, `guest` the name of the guest."""

    place: Place
    part: str
    key: str
    ttl: int
    guest: str
    records: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return ", ".join(f"{self.place.name} {kind} {value}" for kind, value in self.records)


@dataclass(frozen=True)
class Wanted:
    """What is to be registered, by place; and by the guest's name, why something of it can't be, as (part, problem, remedy)."""

    names: Mapping[Place, Registration] = field(default_factory=dict)
    refused: Sequence[tuple[Nic, str, str, str]] = ()


# --- the table -----------------------------------------------------------------------------------------------------------


def _server(value: object) -> str:
    """Parse ADDRESS or ADDRESS#PORT, as dnsmasq and BIND write them; return it with the port."""
    address, mark, port = values.text(value).partition("#")
    if mark and not (port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= 65535):
        raise ValueError(f"has no port after #; write {_EXAMPLE}")
    try:
        found = values.address(address)
    except ValueError:
        raise ValueError(f"is not the address of a server; write {_EXAMPLE}") from None
    if found.is_unspecified or found.is_multicast:
        raise ValueError(f"is no address of a server; write {_EXAMPLE}")
    return f"{found}#{int(port or PORT)}"


def _zone(value: object) -> str:
    found = values.domain(value).lower()
    if len(found) > ZONE_LENGTH:
        raise ValueError(f"is too long to have guests' names in it; use at most {ZONE_LENGTH} characters")
    return found


def _forward(value: object) -> str:
    found = _zone(value)
    if found.endswith(".arpa"):
        raise ValueError("is a zone of addresses; list it in `reverse`")
    return found


def _reverse(value: object) -> str:
    found = _zone(value)
    if not _REVERSE.fullmatch(found):
        raise ValueError("is no reverse zone; write one as 2.0.192.in-addr.arpa or 8.b.d.0.1.0.0.2.ip6.arpa")
    return found


def _reverses(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError('must be a list of zones, ["2.0.192.in-addr.arpa"]')
    return tuple(dict.fromkeys(values.each(_reverse, value)))


def _networks(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError('must be a list of networks, ["public"]')
    return tuple(dict.fromkeys(values.each(values.name, value)))


def _key(value: object) -> str:
    if not _PATH.fullmatch(values.text(value)):
        raise ValueError("is not the whole path of a file; write it from / on")
    return str(value)


class Ddns(Kind):
    is_of_agent = True

    options = (
        Option("server", _server, Required, "the address of the primary server, and a port if it is not 53", '"192.0.2.53"'),
        Option("zone", _forward, Required, "the zone that has the guests' names", '"lab.example"'),
        Option(
            "reverse",
            _reverses,
            (),
            "the zones that have their addresses; an address in none of them gets no PTR record",
            '["2.0.192.in-addr.arpa"]',
        ),
        Option("key", _key, Required, "the file of the TSIG key, as tsig-keygen writes it", '"/etc/vmnet-hooks/ddns.key"'),
        Option("networks", _networks, Required, "the networks whose guests are registered", '["public"]'),
        Option("ttl", values.integer(1, 604800), 300, "seconds for which resolvers keep what they were told", "60"),
    )

    def check_together(self, parts: Sequence[Declared], declared: Config) -> None:
        """Raise ConfigError for a network that does not exist, and for two parts of which each would undo the other's names."""
        unknown = {broken.name for broken in declared.broken.values() if broken.is_network}
        for part in parts:
            for name in part["networks"]:
                if name not in declared.networks and not {name, ""} & unknown:
                    raise part.error("networks", f"no network {name} is declared{nearest(name, declared.networks)}")
        for number, part in enumerate(parts):
            for other in parts[:number]:
                if part["server"] == other["server"]:
                    _check_apart(part, other)

    def resources(self, part: Declared, host: Host) -> Iterable[Resource]:
        return ()


def _check_apart(part: Declared, other: Declared) -> None:
    if part["zone"] == other["zone"]:
        raise part.error("zone", f"{part['zone']} at {part['server']} is that of {other.label}, too; make one table of the two")
    both = [zone for zone in part["reverse"] if zone in other["reverse"]]
    if both and (shared := [name for name in part["networks"] if name in other["networks"]]):
        problem = f"{both[0]} has the addresses of network {shared[0]} by {other.label}, too; remove it from one of them"
        raise part.error("reverse", problem)


# --- what is to be registered --------------------------------------------------------------------------------------------


def wanted(parts: Iterable[Declared], nics: Sequence[Nic]) -> Wanted:
    """Return what is to be registered of these NICs: names of guests that run here, oldest first. Of two guests with one name the
    older one has it."""
    names: dict[Place, Registration] = {}
    refused: list[tuple[Nic, str, str, str]] = []
    running = [nic for nic in nics if nic.phase == "active"]
    for part in parts:
        for nic in running:
            if nic.network not in part["networks"] or not (addresses := _single(nic)):
                continue
            if not (label := host_name(nic.domain)):
                refused.append((nic, part.id, "no host name can be made of the guest's name", "rename the guest"))
                continue
            taken = ""
            for registration in _of_nic(part, nic, f"{label}.{part['zone']}", addresses):
                there = names.get(registration.place)
                if there and (there.guest != nic.domain or there.part != part.id):
                    taken = taken or f"{registration.place.name} is that of guest {there.guest}"
                elif there:
                    records = tuple(dict.fromkeys((*there.records, *registration.records)))
                    names[registration.place] = Registration(there.place, part.id, there.key, there.ttl, there.guest, records)
                elif not taken:
                    names[registration.place] = registration
            if taken:
                refused.append((nic, part.id, taken, "rename one of the guests"))
    return Wanted(names, tuple(refused))


def _single(nic: Nic) -> list[values.IPAddress]:
    """Return the addresses of a NIC that a name can have: no subnets, and none that is valid on a link alone."""
    found = [ipaddress.ip_address(text) for text in nic.addresses if "/" not in text]
    return [address for address in found if not (address.is_link_local or address.is_multicast or address.is_unspecified)]


def _of_nic(part: Declared, nic: Nic, name: str, addresses: Sequence[values.IPAddress]) -> Iterator[Registration]:
    def registration(zone: str, at: str, records: Iterable[tuple[str, str]]) -> Registration:
        return Registration(Place(part["server"], zone, at), part.id, part["key"], part["ttl"], nic.domain, tuple(records))

    yield registration(part["zone"], name, [("A" if a.version == 4 else "AAAA", str(a)) for a in addresses])
    for address in addresses:
        at = address.reverse_pointer
        zones = [zone for zone in part["reverse"] if at == zone or at.endswith(f".{zone}")]
        if zones:
            yield registration(max(zones, key=len), at, [("PTR", f"{name}.")])
