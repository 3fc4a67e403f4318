"""Names: the host answers DNS queries of a network's guests, at the bridge's own addresses. dnsmasq does it, see dnsmasq.py."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from .. import values
from ..model.declaration import Config, Declared, Network, Option
from ..model.facts import Host
from ..model.guest import Vif
from ..model.objects import HostName
from ..model.resource import Resource
from ..model.service import Service
from . import pool

_TYPES = ("A", "AAAA", "TXT", "SRV", "CNAME")
_TEXT = re.compile(r"[ !#-\[\]-~]{1,255}", re.ASCII)
"""Printable, without quotes and backslashes; a string has at most 255 bytes (RFC 1035, 3.3)."""
_WRITE = 'write NAME TYPE DATA, as "www A 10.9.0.5"'


class Forwarder(NamedTuple):
    """A server that queries are forwarded to: those for `domain`, or all."""

    domain: str
    address: values.IPAddress
    port: int | None


class Record(NamedTuple):
    """A record. Names are complete if they end with a dot, else in the network's domain, which `@` stands for."""

    name: str
    type: str
    data: tuple[str, ...]


def _forwarder(value: object) -> Forwarder:
    domain, equals, server = values.text(value).rpartition("=")
    address, hash_, port = server.partition("#")
    if hash_ and not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError("has no port from 1 to 65535 behind its #; write 192.0.2.53#5353")
    return Forwarder(values.domain(domain) if equals else "", values.address(address), int(port) if port else None)


def _forwarders(value: object) -> tuple[Forwarder, ...]:
    if not isinstance(value, list):
        raise ValueError('must be a list of servers, ["192.0.2.53", "corp.example=10.0.0.53"]')
    return values.each(_forwarder, value)


def _name(text: str) -> str:
    if text != "@":
        values.domain(text)
    return text


def _number(text: str) -> str:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError(f"has {text!r} for a number from 0 to 65535; write NAME SRV PRIORITY WEIGHT PORT TARGET")
    return str(int(text))


def _record(value: object) -> Record:
    name, _, rest = values.text(value).partition(" ")
    type_, _, data = rest.strip().partition(" ")
    type_, data = type_.upper(), data.strip()
    if type_ not in _TYPES or not data:
        raise ValueError(f"is no record of type {', '.join(_TYPES)}; {_WRITE}")
    name, words = _name(name), data.split()
    if type_ == "TXT":
        text = data[1:-1] if len(data) > 1 and data[0] == data[-1] == '"' else data
        if not _TEXT.fullmatch(text):
            raise ValueError('has a text that is not of 1 to 255 printable ASCII characters without " and \\')
        return Record(name, type_, (text,))
    if type_ == "SRV":
        if len(words) != 4:
            raise ValueError("is incomplete; write NAME SRV PRIORITY WEIGHT PORT TARGET, as in a zone file")
        return Record(name, type_, (*map(_number, words[:3]), _name(words[3])))
    if len(words) != 1:
        raise ValueError(f"has more than one value; {_WRITE}")
    if type_ == "CNAME":
        return Record(name, type_, (_name(data),))
    return Record(name, type_, (str(values.address_of(4 if type_ == "A" else 6)(data)),))


def _records(value: object) -> tuple[Record, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of records; {_WRITE}")
    return values.each(_record, value)


OPTION = Option(
    "dns",
    lambda value: value,
    None,
    "bridged: the host answers its guests' DNS queries, and knows the guests' names",
    '{ domain = "lan.example" }',
    (
        Option("domain", values.domain, "", "the domain of the guests' names; default: dhcp.domain", '"lan.example"'),
        Option("local", values.boolean, True, "forward no query for names in the domain, or addresses in the subnets", "false"),
        Option(
            "forwarders",
            _forwarders,
            None,
            "servers for all other names, or for one domain; []: none; default: those of the host, /etc/resolv.conf",
            '["192.0.2.53", "192.0.2.54#5353", "corp.example=10.0.0.53"]',
        ),
        Option(
            "records",
            _records,
            (),
            "more names, as in a zone file: A, AAAA, TXT, SRV, CNAME",
            '["www A 10.9.0.5", "@ TXT v=spf1 -all", "_sip._udp SRV 10 5 5060 pbx", "mail CNAME www"]',
        ),
    ),
)


def domain_of(network: Network) -> str:
    """Return the domain of the names of a network's guests; "" if there is none."""
    dns, dhcp = network.options.get("dns") or {}, network.options.get("dhcp") or {}
    return str(dns.get("domain") or dhcp.get("domain") or "")


class Dns(Service):
    option = OPTION

    def check(self, network: Network, declared: Config) -> None:
        pool.server_bridge(network, declared, self.name)
        offer = network.options[self.name]
        names = [name for record in offer["records"] for name in (record.name, *_targets(record))]
        if "@" in names and not domain_of(network):
            raise network.error("dns.records", "@ stands for the domain, and there is none; give domain")
        seen: dict[str, str] = {}
        for record in offer["records"]:
            other = seen.setdefault(complete(record.name, network), record.type)
            if "CNAME" in (other, record.type) and (other != record.type or _count(network, record) > 1):
                # RFC 1034, 3.6.2
                raise network.error("dns.records", f"{record.name} is an alias (CNAME), which has no other records; remove one")

    def has_server(self, network: Network) -> bool:
        return True

    def network_resources(self, network: Network, host: Host) -> Iterator[Resource]:
        from .dnsmasq import server  # Only what is set up needs it.

        yield server(network, host, self.name)

    def vif_resources(self, vif: Vif, network: Network, host: Host) -> Iterator[Resource]:
        """Yield the name of a guest with declared addresses. dnsmasq knows those of others by their leases."""
        from .dhcp import host_name  # That module needs this one.

        addresses = tuple(address for address in vif.addresses if "/" not in address)
        if addresses and (name := host_name(vif.domain)):
            yield HostName(vif.ifname, name, addresses, network.name)


def _targets(record: Record) -> tuple[str, ...]:
    return record.data[-1:] if record.type in ("SRV", "CNAME") else ()


def _count(network: Network, record: Record) -> int:
    name = complete(record.name, network)
    return sum(complete(other.name, network) == name for other in network.options["dns"]["records"])


def complete(name: str, network: Network) -> str:
    """Return a name of a record without a final dot, and with the domain if it had none."""
    domain = domain_of(network)
    if name == "@":
        return domain.lower()
    if name.endswith("."):
        return name[:-1].lower()
    return f"{name}.{domain}".lower() if domain else name.lower()


def is_offered(network: Network) -> bool:
    return network.options.get(OPTION.name) is not None


def settings(network: Network, part: Declared) -> Iterator[str]:
    """Yield the lines of the configuration of dnsmasq for names; `part` is the bridge."""
    if not is_offered(network):
        yield "port=0"
        return
    offer, domain = network.options[OPTION.name], domain_of(network)
    # A name without a domain is of no use to others.
    yield "domain-needed"
    yield "expand-hosts"
    if offer["local"]:
        if domain:
            yield f"local=/{domain}/"
        for address in part["addresses"]:
            yield f"rev-server={address.network}"
    forwarders = offer["forwarders"]
    if forwarders is None:
        # A name that is asked for tells as much as a packet.
        is_alone = network.mode.is_isolated(network)
    else:
        is_alone = not forwarders or any(not forwarder.domain for forwarder in forwarders)
    if is_alone:
        yield "no-resolv"
    for forwarder in forwarders or ():
        where = f"/{forwarder.domain}/" if forwarder.domain else ""
        yield f"server={where}{forwarder.address}" + (f"#{forwarder.port}" if forwarder.port else "")
    for record in offer["records"]:
        yield _line(record, network)


def _line(record: Record, network: Network) -> str:
    name, data = complete(record.name, network), record.data
    if record.type == "TXT":
        return f'txt-record={name},"{data[0]}"'
    if record.type == "SRV":
        priority, weight, port, target = data
        return f"srv-host={name},{complete(target, network)},{port},{priority},{weight}"
    if record.type == "CNAME":
        return f"cname={name},{complete(data[0], network)}"
    return f"host-record={name},{data[0]}"
