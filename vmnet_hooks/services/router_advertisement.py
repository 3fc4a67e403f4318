"""Router advertisements (RFC 4861, 4.2) for one guest's link, asked for or not."""

import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address

from . import packets
from .terms import Terms

INTERVAL = 600
"""Seconds between unsolicited advertisements, at most (MaxRtrAdvInterval, RFC 4861, 6.2.1). What an advertisement tells of DNS
and routes holds for three intervals (RFC 8106, 5.1; RFC 4191, 2.3)."""
LIFETIME = 3 * INTERVAL
"""Seconds for which the router is one, as by default there."""
SOLICITATION, ADVERTISEMENT = 133, 134
"""Types of ICMPv6 messages."""
ALL_NODES, ALL_ROUTERS = IPv6Address("ff02::1").packed, IPv6Address("ff02::2").packed

_ALL_NODES_MAC = b"\x33\x33\0\0\0\x01"
_UNSPECIFIED = bytes(16)
_HOP_LIMIT = 64
_MANAGED, _OTHER = 0x80, 0x40
"""Flags: addresses, and other configuration, are had by DHCPv6."""
_SOURCE_LLADDR, _PREFIX, _MTU, _ROUTE, _RDNSS, _DNSSL = 1, 3, 5, 24, 25, 31
_ON_LINK, _AUTONOMOUS = 0x80, 0x40
_VALID, _PREFERRED = 86400, 14400
"""Seconds, as radvd has them by default. Those of RFC 4861 (30 and 7 days) would leave a guest for weeks with a prefix that is no
longer declared; those of a DHCP lease, which dnsmasq gives, would make a guest's address go when the agent stands still for an
hour. RFC 4862, 5.5.3 keeps a valid lifetime from being cut below two hours in any case."""
_SLAAC_LENGTH = 64
"""Prefixes of another length form no addresses on Ethernet (RFC 4862, 5.5.3; RFC 2464, 4)."""
_MIN_MTU = 1280
_HEADERS = 40 + 16
"""Bytes of the IPv6 header, and of an advertisement without options."""
_MAX_OPTION = 255
"""Units of 8 bytes."""


def answer(frame: bytes, terms: Terms, mac: bytes) -> bytes | None:
    """Return the advertisement that answers a guest's solicitation, sent from `mac` to the guest's address, or to all nodes if it
    has none yet. None if the frame is not a valid solicitation of the guest, or there is no router. Never raises."""
    if terms.router6 is None or frame[6:12] != terms.mac:
        return None
    packet = packets.read_icmp6(frame)
    router = terms.router6.packed
    if packet is None or packet.destination not in (ALL_ROUTERS, router) or not _is_solicitation(packet, router):
        return None
    if packet.source == _UNSPECIFIED:
        return _frame(terms, mac, router, _ALL_NODES_MAC, ALL_NODES, None)
    return _frame(terms, mac, router, terms.mac, packet.source, None)


def unsolicited(terms: Terms, mac: bytes, lifetime: int | None = None) -> bytes | None:
    """Return an advertisement to all nodes, sent from `mac`; None if there is no router.

    `lifetime` (seconds) replaces the router's. 0 withdraws the router, with the resolvers and routes that it told of; addresses
    and prefixes stay.
    """
    if terms.router6 is None:
        return None
    return _frame(terms, mac, terms.router6.packed, _ALL_NODES_MAC, ALL_NODES, lifetime)


def _is_solicitation(packet: packets.Packet, router: bytes) -> bool:
    """RFC 4861, 6.1.1. No node may send from multicast, the loopback address, or the router's."""
    message, source = packet.payload, packet.source
    if len(message) < 8 or message[0] != SOLICITATION or message[1]:
        return False
    if source[0] == 0xFF or source == router or source == _UNSPECIFIED[1:] + b"\1":
        return False
    at = 8
    while at + 1 < len(message):
        if not message[at + 1] or (message[at] == _SOURCE_LLADDR and source == _UNSPECIFIED):
            return False
        at += 8 * message[at + 1]
    return at == len(message)


def _frame(terms: Terms, mac: bytes, router: bytes, to_mac: bytes, to: bytes, lifetime: int | None) -> bytes:
    flags = _MANAGED if terms.addresses6 else 0
    if terms.dns6 or terms.ntp6 or terms.search or terms.domain:
        flags |= _OTHER
    lasts = LIFETIME if lifetime is None else lifetime
    mac = terms.router_mac or mac
    message = struct.pack("!BBHBBHII", ADVERTISEMENT, 0, 0, _HOP_LIMIT, flags, min(lasts, 0xFFFF), 0, 0)
    told = 0 if lifetime == 0 else 3 * INTERVAL
    return packets.write_icmp6(to_mac + mac, router, to, message + _options(terms, mac, told))


def _options(terms: Terms, mac: bytes, lifetime: int) -> bytes:
    """Return the options, as many as fit into a packet. RFC 4861, 6.2.3 would have the rest in a second advertisement: no network
    has that many resolvers or routes."""
    room = max(_MIN_MTU, terms.mtu) - _HEADERS
    options = b""
    for option in _each(terms, mac, lifetime):
        if len(options) + len(option) <= room:
            options += option
    return options


def _each(terms: Terms, mac: bytes, lifetime: int) -> Iterator[bytes]:
    """Yield the options, the most important first. `lifetime` (seconds) is that of resolvers, search list and routes."""
    yield _option(_SOURCE_LLADDR, mac)
    # Linux refuses less than what IPv6 needs.
    if terms.mtu >= _MIN_MTU:
        yield _option(_MTU, struct.pack("!2xI", terms.mtu))
    for prefix in terms.prefixes6:
        flags = _ON_LINK if terms.on_link6 else 0
        if terms.slaac and prefix.prefixlen == _SLAAC_LENGTH:
            flags |= _AUTONOMOUS
        head = struct.pack("!BBII4x", prefix.prefixlen, flags, _VALID, _PREFERRED)
        yield _option(_PREFIX, head + prefix.network_address.packed)
    yield from _resolvers(terms.dns6, lifetime)
    if names := packets.names(terms.search or (terms.domain,)):
        yield _option(_DNSSL, struct.pack("!2xI", lifetime) + names)
    for route in terms.routes6:
        # RFC 4191, 2.3. Medium preference; no more of the address than its length needs, in units of 8 bytes.
        kept = (route.prefixlen + 63) // 64 * 8
        head = struct.pack("!BBI", route.prefixlen, 0, lifetime)
        yield _option(_ROUTE, head + route.network_address.packed[:kept])


def _resolvers(addresses: Iterable[IPv6Address], lifetime: int) -> Iterator[bytes]:
    packed = b"".join(address.packed for address in addresses)
    if packed:
        yield _option(_RDNSS, struct.pack("!2xI", lifetime) + packed)


def _option(kind: int, value: bytes) -> bytes:
    """Encode an option: b"" if it is longer than one can be. It is padded to units of 8 bytes (RFC 4861, 4.6)."""
    units = (len(value) + 9) // 8
    return (bytes((kind, units)) + value).ljust(8 * units, b"\0") if units <= _MAX_OPTION else b""
