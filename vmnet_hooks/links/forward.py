"""Forwarded ports: what comes for a port of one of the host's own addresses goes to a guest, while that runs here.

The address of the guest is that of its record, so these parts are set up with the guest and go with it. See ruleset.FORWARD.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from .. import values
from ..errors import one_line
from ..model.declaration import Config, Declared, Network, Option, Required
from ..model.facts import Host, Listener
from ..model.guest import Vif
from ..model.kind import Kind
from ..model.objects import LinkAttribute, NftElement
from ..model.resource import Resource
from ..model.ruleset import FORWARD, INET, forwarding

_NAME = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*)):(\d{1,5})(?:-(\d{1,5}))?/(tcp|udp|sctp)", re.ASCII)
_TO = re.compile(r"(.+?)(?:\[([^\[\]]*)\])?(?::(\d{1,5}))?", re.DOTALL)
_EXAMPLE = "198.51.100.2:8080/tcp"


class Endpoint(NamedTuple):
    """What is forwarded: ports from `first` to `last` of an address of the host."""

    address: values.IPAddress
    protocol: str
    first: int
    last: int


class Target(NamedTuple):
    """Where to: a guest, one of its addresses (None: the first of the family), a port (None: the same)."""

    guest: str
    address: values.IPAddress | None
    port: int | None

    def __str__(self) -> str:
        return self.guest + (f"[{self.address}]" if self.address else "") + (f":{self.port}" if self.port else "")


@lru_cache(1024)
def endpoint(name: str) -> Endpoint:
    """Parse the name of a part: ADDRESS:PORT/PROTOCOL or ADDRESS:FIRST-LAST/PROTOCOL, an IPv6 address in brackets. Raise
    ValueError."""
    found = _NAME.fullmatch(name)
    if not found:
        raise ValueError(
            f"is no port to forward; write {_EXAMPLE} (tcp, udp or sctp), 198.51.100.2:9000-9010/udp, or [2001:db8::2]:8080/tcp"
        )
    six, four, first, last, protocol = found.groups()
    address = values.address_of(4 if six is None else 6)(four if six is None else six)
    if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local:
        raise ValueError(f"{address} is no address that others reach; name one of the host's own")
    ports = _port(first), _port(last or first)
    if ports[0] > ports[1]:
        raise ValueError(f"{first}-{last} ends before it begins; write {last}-{first}")
    return Endpoint(address, protocol, *ports)


def _port(text: str) -> int:
    if not 1 <= int(text) <= 65535:
        raise ValueError(f"{text} is no port; they go from 1 to 65535")
    return int(text)


def _target(value: object) -> Target:
    found = _TO.fullmatch(values.text(value))
    if not found or found[1].startswith((":", "[")):
        raise ValueError("names no guest; write GUEST:PORT, as web1:80, or GUEST[ADDRESS]:PORT")
    guest, address, port = found.groups()
    if values.is_address(guest):
        raise ValueError(f"{guest} is an address; name the guest that has it, as web1[{guest}]:{port or 80}")
    return Target(guest, None if address is None else values.address(address), _port(port) if port else None)


def _links(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError('must be a list of interfaces, ["eth0"]')
    return values.each(values.ifname, value)


class Forward(Kind):
    goes_with_guest = True

    options = (
        Option(
            "to",
            _target,
            Required,
            "the guest and its port; without a port, and of a range, the same one; GUEST[ADDRESS]:PORT for one of its addresses",
            '"web1:80"',
        ),
        Option("in", _links, (), "the interfaces that it comes in by; default: the one that has the address", '["eth0"]'),
    )

    def parse_name(self, name: str) -> str:
        endpoint(name)
        return name

    def check(self, part: Declared) -> None:
        end, to = endpoint(part.name), part["to"]
        if to.address and to.address.version != end.address.version:
            raise part.error("to", f"{to.address} is not of the family of {end.address}; correct one of them")
        if to.port and end.first != end.last:
            raise part.error("to", f"a range keeps its ports: remove :{to.port}")

    def check_together(self, parts: Sequence[Declared], declared: Config) -> None:
        """Raise ConfigError if two parts forward the same port."""
        taken: dict[tuple[values.IPAddress, str], list[tuple[int, int, Declared]]] = {}
        for part in parts:
            end = endpoint(part.name)
            others = taken.setdefault((end.address, end.protocol), [])
            for first, last, other in others:
                if first <= end.last and end.first <= last:
                    raise part.error("", f"{_ports(end)} is forwarded by {other.label} already; separate them")
            others.append((end.first, end.last, part))

    def resources(self, part: Declared, host: Host) -> Iterable[Resource]:
        return ()


def _ports(end: Endpoint) -> str:
    return f"port {end.first}" if end.first == end.last else f"one of the ports {end.first}-{end.last}"


# --- composing -------------------------------------------------------------------------------------------------------------


def vif_resources(vif: Vif, network: Network, host: Host) -> Iterator[Resource]:
    """Yield what forwards ports to one NIC. Raise ConfigError if the host itself listens on one of them."""
    found = [(part, address) for part in host.forwards.parts if (address := _address(part, vif, host))]
    if not found or unusable(network, host):
        return
    yield INET
    yield FORWARD
    for part, address in found:
        _check_listeners(part, host.forwards.listeners)
        yield _element(part, address)
        yield from forwarding(values.version(address), host.forwards.ways.get(part.name, ()), host)
    yield from _back(vif, network, host, [address for _, address in found])


def chosen(to: Target, version: int, addresses: Mapping[str, Sequence[str]]) -> str:
    """Return the address of a guest that a port is forwarded to; "" if the guest has none."""
    there = [text for text in addresses.get(to.guest, ()) if "/" not in text and values.version(text) == version]
    if to.address:
        return str(to.address) if str(to.address) in there else ""
    return next(iter(there), "")


def _address(part: Declared, vif: Vif, host: Host) -> str:
    """Return the address of a NIC that a port is forwarded to; "" if that is none of this NIC's."""
    if part["to"].guest != vif.domain:
        return ""
    found = chosen(part["to"], endpoint(part.name).address.version, host.forwards.addresses)
    return found if found in vif.addresses else ""


def _element(part: Declared, address: str) -> NftElement:
    end, version = endpoint(part.name), values.version(address)
    if end.first != end.last:
        return NftElement("inet", f"ranges{version}", (str(end.address), end.protocol, f"{end.first}-{end.last}"), address)
    key = (str(end.address), end.protocol, str(end.first))
    return NftElement("inet", f"forward{version}", key, f"{address} . {part['to'].port or end.first}")


def _back(vif: Vif, network: Network, host: Host, addresses: Sequence[str]) -> Iterator[Resource]:
    """Yield what makes the answers of a guest come by the host, and go on from there."""
    tap, bridge = f'"{vif.ifname}"', network.mode.bridge_of(network)
    if not bridge:
        # Of a guest at its own tap, only its own connections to itself have no way back.
        yield NftElement("inet", "hairpins", (tap, tap))
        if rules := [rule for address in addresses for rule in network.mode.answers(address, network)]:
            yield NftElement("inet", "elsewhere", (tap,))
            yield from rules
        return
    # A shared gateway has a link of its own, by which packets of guests come in.
    ways = dict.fromkeys((bridge, *network.mode.side(network, host).links))
    for name in ways:
        yield NftElement("inet", "hairpins", (f'"{name}"', f'"{bridge}"'))
    yield NftElement("inet", "bridges", (f'"{bridge}"',))
    for version in sorted(set(map(values.version, addresses))):
        yield from forwarding(version, tuple(ways), host)
    if host.forwards.bridged:
        # The kernel then bridges what a guest sends to itself, and a port gets back nothing that came from it.
        yield LinkAttribute(vif.ifname, "hairpin", "on")


def unusable(network: Network, host: Host) -> str:
    """Return why no port can be forwarded to guests of a network, with the remedy; "" if it can. Of a bridge that the admin made,
    it is not known whether the host routes for it."""
    name = network.mode.bridge_of(network)
    part = host.parts.get(name) if name else None
    if part is None or network.mode.side(network, host).links:
        return ""
    from .bridge import not_routed  # Few ports are forwarded to such guests.

    return not_routed(part)


def _check_listeners(part: Declared, listeners: Iterable[Listener]) -> None:
    end = endpoint(part.name)
    for listener in listeners:
        is_here = listener.version == end.address.version and listener.address in ("", str(end.address))
        if is_here and listener.protocol == end.protocol and end.first <= listener.port <= end.last:
            where = f"{listener.address or 'all addresses'}, port {listener.port}/{listener.protocol}"
            raise part.error("", f"the host itself listens there ({where}); stop that program, or forward another port")


def shown(element: NftElement) -> str:
    """Return a forwarded port as the admin reads it."""
    address, protocol, port = element.parts
    to = element.value.replace(" . ", ":") if ":" not in element.value else _bracketed(element.value)
    return one_line(f"{f'[{address}]' if ':' in address else address}:{port}/{protocol} -> {to}")


def _bracketed(value: str) -> str:
    address, _, port = value.partition(" . ")
    return f"[{ipaddress.ip_address(address)}]" + (f":{port}" if port else "")
