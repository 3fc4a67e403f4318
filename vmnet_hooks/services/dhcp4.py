"""DHCPv4 (RFC 2131, RFC 2132): what a guest's request is answered with.

A guest's address is fixed by declaration, so there are no leases to keep: the same request gets the same answer at any time, on
every node. DHCPDECLINE and DHCPRELEASE change nothing.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from . import packets
from .terms import Terms

CLIENT, SERVER = 68, 67
"""UDP ports."""
DISCOVER, OFFER, REQUEST, ACK, NAK, INFORM = 1, 2, 3, 5, 6, 8

_PAD, _MASK, _ROUTER, _DNS, _HOSTNAME, _DOMAIN, _MTU, _BROADCAST_ADDRESS, _NTP = 0, 1, 3, 6, 12, 15, 26, 28, 42
_ADDRESS, _LEASE, _OVERLOAD, _KIND, _SERVER_ID, _PARAMETERS, _MESSAGE, _MAX_SIZE = 50, 51, 52, 53, 54, 55, 56, 57
_T1, _T2, _CLIENT_ID, _RAPID_COMMIT, _SEARCH, _ROUTES, _END = 58, 59, 61, 80, 119, 121, 255

_TO_SERVER, _TO_CLIENT = 1, 2
_ETHERNET = b"\x01\x06"
"""Hardware type, and length of its addresses."""
_COOKIE = b"\x63\x82\x53\x63"
_SNAME, _FILE, _OPTIONS = slice(44, 108), slice(108, 236), slice(240, None)
_OVERLOADED = {b"\1": (_FILE,), b"\2": (_SNAME,), b"\3": (_FILE, _SNAME)}
"""Fields that hold more options, by the value of option 52; in the order of RFC 2131, 4.1."""
_HEAD = struct.Struct("!B2sx4s2xH4s4s8x6s202x4s")
"""Operation, hardware, transaction, flags, ciaddr, yiaddr, chaddr, cookie: the 240 bytes before the options."""
_BROADCAST_FLAG = 0x8000
_ANY, _BROADCAST = bytes(4), b"\xff" * 4
_MIN_MESSAGE = 300
"""Bytes of a message of BOOTP (RFC 951): some clients drop shorter ones."""
_MIN_SIZE, _OVERHEAD = 576, 28
"""Bytes of the IP datagram that every client accepts (RFC 2131, 2), and of its IPv4 and UDP headers."""
_INFINITE = 0xFFFFFFFF
_MAX_OPTION = 255


class _Request(NamedTuple):
    kind: int
    transaction: bytes
    flags: int
    ciaddr: bytes
    source: bytes
    """Of the IP packet."""
    options: dict[int, bytes]


def answer(frame: bytes, terms: Terms, mac: bytes) -> bytes | None:
    """Return the frame that answers a guest's frame, sent from `mac`; None if no answer is due. Never raises."""
    if terms.address4 is None or terms.server4 is None or frame[6:12] != terms.mac:
        return None
    address, server = terms.address4.packed, terms.server4.packed
    packet = packets.read_udp4(frame, SERVER)
    # A unicast request names by its destination the server that it is for (RFC 2131, 4.3.2, RENEWING): whatever that was when the
    # guest got its address, it is this one now. No other hears the guest.
    if packet is None:
        return None
    request = _read(packet, terms.mac)
    kind = _kind(request, address, server) if request else 0
    if request is None or not kind or (request.kind == DISCOVER and packet.destination not in (_BROADCAST, server)):
        return None
    kept = yours = _ANY
    if request.kind == INFORM:
        kept, to = request.ciaddr, request.ciaddr if any(request.ciaddr) else request.source
        if not 0 < to[0] < 224 or to[0] == 127:
            return None
    elif kind == NAK:
        to = _BROADCAST
    else:
        if request.ciaddr == address and kind == ACK:
            kept = address
        # RFC 2131, 4.1: with this flag, a client that has no address yet takes only what is broadcast.
        deaf = request.flags & _BROADCAST_FLAG and not any(kept)
        yours, to = address, _BROADCAST if deaf else address
    head = _HEAD.pack(_TO_CLIENT, _ETHERNET, request.transaction, request.flags, kept, yours, terms.mac, _COOKIE)
    message = head + _options(request, kind, terms, server)
    macs = (b"\xff" * 6 if to == _BROADCAST else terms.mac) + mac
    return packets.write_udp4(macs, server, to, (SERVER, CLIENT), message.ljust(_MIN_MESSAGE, b"\0"))


def _read(packet: packets.Packet, mac: bytes) -> _Request | None:
    """Read a message that a client with this MAC sent by itself, not by a relay (giaddr)."""
    message = packet.payload
    if message[:3] != bytes((_TO_SERVER,)) + _ETHERNET or message[24:34] != _ANY + mac or message[236:240] != _COOKIE:
        return None
    options: dict[int, bytes] = {}
    if not _collect(message[_OPTIONS], options):
        return None
    for area in _OVERLOADED.get(options.get(_OVERLOAD, b""), ()):
        if not _collect(message[area], options):
            return None
    kind = options.get(_KIND, b"")
    if len(kind) != 1 or len(options.get(_ADDRESS, _ANY)) != 4:
        return None
    return _Request(kind[0], message[4:8], message[10] << 8 | message[11], message[12:16], packet.source, options)


def _collect(area: bytes, options: dict[int, bytes]) -> bool:
    """Add the options of an area, parts of one option joined (RFC 3396). Return False if one reaches beyond the area."""
    at, end = 0, len(area)
    while at < end:
        code = area[at]
        if code == _PAD:
            at += 1
            continue
        if code == _END:
            break
        value = at + 2
        if value > end:
            return False
        at = value + area[at + 1]
        if at > end:
            return False
        options[code] = options[code] + area[value:at] if code in options else area[value:at]
    return True


def _kind(request: _Request, address: bytes, server: bytes) -> int:
    """Return the kind of the answer: 0 if none is due."""
    if request.kind == DISCOVER:
        return ACK if _RAPID_COMMIT in request.options else OFFER
    if request.kind == INFORM:
        return ACK
    if request.kind != REQUEST or request.options.get(_SERVER_ID, server) != server:
        return 0
    # RFC 2131, 4.3.2: SELECTING and INIT-REBOOT ask by option, RENEWING and REBINDING by ciaddr. A guest has no other address, so
    # a wrong one is refused without the doubt of a server that does not know the client.
    asked = request.options.get(_ADDRESS, request.ciaddr)
    if not any(asked):
        return 0
    return ACK if asked == address else NAK


def _options(request: _Request, kind: int, terms: Terms, server: bytes) -> bytes:
    """Return the options of an answer (RFC 2131, table 3), no more than the client accepts."""
    given = request.options
    wanted = b""
    options = _option(_KIND, bytes((kind,))) + _option(_SERVER_ID, server)
    if kind == NAK:
        options += _option(_MESSAGE, b"not the address of this guest")
    else:
        wanted = given.get(_PARAMETERS, bytes(_VALUES))
        if request.kind == INFORM:
            wanted = wanted.translate(None, bytes((_T1, _T2)))
        else:
            options += _option(_LEASE, _seconds(terms.lease))
        if kind == ACK and request.kind == DISCOVER:
            options += _option(_RAPID_COMMIT, b"")
    size = int.from_bytes(given.get(_MAX_SIZE, b"")[:2], "big")
    room = max(_MIN_SIZE, min(size, terms.mtu)) - _OVERHEAD - _HEAD.size - len(options) - 1
    asked = (wanted, _PARAMETERS in given, room, given.get(_CLIENT_ID, b""))
    # An offer and its acknowledgement differ in what is above.
    if asked not in terms.answered4:
        terms.answered4.clear()
        terms.answered4[asked] = _rest(*asked, terms)
    return options + terms.answered4[asked]


def _rest(codes: bytes, named: bool, room: int, client: bytes, terms: Terms) -> bytes:
    """Return the options that follow those of the answer's own kind, and their end."""
    # RFC 6842: the client's identifier comes back in every answer.
    identity = _option(_CLIENT_ID, client)
    if not 2 < len(identity) <= room:
        identity = b""
    return identity + _wanted(codes, named, terms, room - len(identity)) + bytes((_END,))


def _wanted(codes: bytes, asked: bool, terms: Terms, room: int) -> bytes:
    """Return those of the options that the client wants that fit into `room` bytes, the most important ones, in the order of
    `codes`. `asked` tells whether the client named them."""
    chosen: dict[int, bytes] = {}
    for code, value in _VALUES.items():
        # RFC 3442: a client that asks for routes gets no router beside them.
        if code not in codes or (code == _ROUTER and asked and _ROUTES in chosen):
            continue
        option = _option(code, value(terms))
        if 2 < len(option) <= room:
            chosen[code] = option
            room -= len(option)
    # RFC 2132, 9.8: in the client's order; but 3.3: the mask precedes the router.
    mask = chosen.pop(_MASK, b"") if _ROUTER in chosen and codes.find(_ROUTER) < codes.find(_MASK) else b""
    return mask + b"".join(chosen[code] for code in dict.fromkeys(codes) if code in chosen)


def _option(code: int, value: bytes) -> bytes:
    """Encode an option, a long one in parts (RFC 3396)."""
    if len(value) <= _MAX_OPTION:
        return bytes((code, len(value))) + value
    parts = (value[at : at + _MAX_OPTION] for at in range(0, len(value), _MAX_OPTION))
    return b"".join(bytes((code, len(part))) + part for part in parts)


def _seconds(number: int) -> bytes:
    return struct.pack("!I", min(number, _INFINITE))


def _part_of_lease(eighths: int) -> Callable[[Terms], bytes]:
    # What never ends is never renewed.
    return lambda terms: _seconds(terms.lease * eighths // 8) if terms.lease < _INFINITE else b""


def _addresses(addresses: Iterable[IPv4Address]) -> bytes:
    return b"".join(address.packed for address in addresses)


def _text(text: str) -> bytes:
    return text.encode() if text.isascii() else b""


def _mask_bits(terms: Terms) -> int:
    return _INFINITE << (32 - terms.prefix4) & _INFINITE


def _broadcast_address(terms: Terms) -> bytes:
    """Return the address of all hosts of the prefix: none if it has one or two addresses (RFC 3021)."""
    if terms.address4 is None or terms.prefix4 > 30:
        return b""
    return struct.pack("!I", int(terms.address4) | ~_mask_bits(terms) & _INFINITE)


def _search(terms: Terms) -> bytes:
    """Return the domain search list (RFC 3397), compressed (RFC 1035, 4.1.4)."""
    data = b""
    known: dict[str, int] = {}
    for text in terms.search:
        if not packets.name(text):
            continue
        rest = text.removesuffix(".")
        while rest and rest not in known:
            # A pointer has 14 bits.
            if len(data) < 1 << 14:
                known[rest] = len(data)
            label, _, rest = rest.partition(".")
            data += bytes((len(label),)) + label.encode()
        data += struct.pack("!H", 0xC000 | known[rest]) if rest else b"\0"
    return data


def _routes(terms: Terms) -> bytes:
    """Return the classless static routes (RFC 3442), the default route among them. A next hop outside the leased prefix is made
    reachable first, by a route to it alone on the link itself (next hop 0.0.0.0)."""
    prefix, own = _mask_bits(terms), int(terms.address4 or 0)
    default = [(0, _ANY, terms.gateway4)] if terms.gateway4 else []
    others = [(net.prefixlen, net.network_address.packed, hop) for net, hop in terms.routes4]
    routes = [*default, *others]
    far = dict.fromkeys(hop.packed for _, _, hop in routes if (int(hop) ^ own) & prefix and int(hop))
    on_link = b"".join(_route(32, hop, _ANY) for hop in far)
    return on_link + b"".join(_route(length, net, hop.packed) for length, net, hop in routes)


def _route(length: int, network: bytes, next_hop: bytes) -> bytes:
    return bytes((length,)) + network[: (length + 7) // 8] + next_hop


_VALUES: Mapping[int, Callable[[Terms], bytes]] = {
    _MASK: lambda terms: struct.pack("!I", _mask_bits(terms)),
    _ROUTES: _routes,
    _ROUTER: lambda terms: terms.gateway4.packed if terms.gateway4 else b"",
    _DNS: lambda terms: _addresses(terms.dns4),
    _MTU: lambda terms: struct.pack("!H", min(terms.mtu, 0xFFFF)),
    _DOMAIN: lambda terms: _text(terms.domain),
    _HOSTNAME: lambda terms: _text(terms.hostname),
    _T1: _part_of_lease(4),
    _T2: _part_of_lease(7),
    _SEARCH: _search,
    _NTP: lambda terms: _addresses(terms.ntp4),
    _BROADCAST_ADDRESS: _broadcast_address,
}
"""What a client may ask for, the most important first. An empty value is left out."""
