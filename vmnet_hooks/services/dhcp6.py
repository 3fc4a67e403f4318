"""DHCPv6 (RFC 8415): what a guest's message is answered with.

A guest's addresses are fixed by declaration, so there are no bindings to keep, and Release and Decline change nothing. Without
addresses the service is stateless: it offers options, and does not judge addresses of others.
"""

import struct
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from typing import NamedTuple

from . import packets
from .terms import Terms

CLIENT, SERVER = 546, 547
"""UDP ports."""
AGENTS_AND_SERVERS = IPv6Address("ff02::1:2").packed
SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY = 1, 2, 3, 4, 5, 6, 7
RELEASE, DECLINE, INFORMATION_REQUEST = 8, 9, 11

_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_TA, _IA_ADDRESS, _ASKED, _PREFERENCE, _STATUS, _RAPID_COMMIT = 1, 2, 3, 4, 5, 6, 7, 13, 14
_DNS, _SEARCH, _IA_PD, _SNTP, _REFRESH, _NTP = 23, 24, 25, 31, 32, 56
_NTP_ADDRESS = 1
"""The suboption of an NTP server's unicast address (RFC 5908, 4.1)."""
_SUCCESS, _NO_ADDRESSES, _NOT_ON_LINK, _NO_PREFIXES = 0, 2, 4, 6
_FOR_US = {SOLICIT: False, REQUEST: True, CONFIRM: False, RENEW: True, REBIND: False, RELEASE: True, DECLINE: True}
"""Messages of clients that have an identifier, and whether they are for one server, which they name, or for all
(RFC 8415, 16.2 to 16.9). Information-request may have either."""
_IA_HEAD = {_IA_NA: 12, _IA_TA: 4, _IA_PD: 12}
"""Bytes before the options of an identity association (IA): its identifier, and but for temporary addresses two times."""
_IA_ADDRESS_HEAD = 24
_MAX_DUID = 130
"""Bytes (RFC 8415, 11.1)."""
_INFINITE = 0xFFFFFFFF
_MIN_REFRESH = 600
"""Seconds (RFC 8415, 21.23)."""
_MIN_MTU = 1280


class _Association(NamedTuple):
    kind: int
    identifier: bytes
    addresses: tuple[bytes, ...]


class _Message(NamedTuple):
    kind: int
    transaction: bytes
    client: bytes | None
    server: bytes | None
    associations: tuple[_Association, ...]
    asked: tuple[int, ...]
    """Codes of the options that the client asks for."""
    rapid: bool


def answer(frame: bytes, terms: Terms, mac: bytes) -> bytes | None:
    """Return the frame that answers a guest's frame, sent from `mac`; None if no answer is due. Never raises."""
    if frame[6:12] != terms.mac:
        return None
    packet = packets.read_udp6(frame, SERVER)
    # RFC 8415, 18.4: clients send by multicast, since no answer of ours has invited them to do otherwise.
    if packet is None or packet.destination != AGENTS_AND_SERVERS or not packets.is_link_local(packet.source):
        return None
    message = _read(packet.payload)
    if message is None or not _is_valid(message, terms.duid):
        return None
    content = _content(message, terms)
    if content is None:
        return None
    kind, options = content
    client = b"" if message.client is None else _option(_CLIENT_ID, message.client)
    reply = bytes((kind,)) + message.transaction + client + _option(_SERVER_ID, terms.duid) + options
    source = terms.router6.packed if terms.router6 else packets.link_local(mac)
    answering = packets.write_udp6(terms.mac + mac, source, packet.source, (SERVER, CLIENT), reply)
    # A guest can ask for more associations than a frame has room for.
    return answering if len(answering) <= 14 + max(_MIN_MTU, terms.mtu) else None


def _read(data: bytes) -> _Message | None:
    """Read a client's message. Relays' are not read."""
    kind = data[0] if len(data) >= 4 else 0
    if kind not in _FOR_US and kind != INFORMATION_REQUEST:
        return None
    options = _split(data[4:])
    if options is None:
        return None
    single: dict[int, bytes] = {}
    associations = []
    for code, value in options:
        if code in _IA_HEAD:
            association = _association(code, value)
            if association is None:
                return None
            associations.append(association)
        elif code in (_CLIENT_ID, _SERVER_ID, _ASKED):
            if code in single:
                return None
            single[code] = value
        elif code == _RAPID_COMMIT:
            single[code] = value
    asked = single.get(_ASKED, b"")
    if len(asked) % 2:
        return None
    codes = struct.unpack(f"!{len(asked) // 2}H", asked)
    client, server = single.get(_CLIENT_ID), single.get(_SERVER_ID)
    return _Message(kind, data[1:4], client, server, tuple(associations), codes, _RAPID_COMMIT in single)


def _split(data: bytes) -> list[tuple[int, bytes]] | None:
    """Split options into pairs of code and value. Return None if one reaches beyond the data."""
    options = []
    at, end = 0, len(data)
    while at < end:
        value = at + 4
        if value > end:
            return None
        at = value + (data[at + 2] << 8 | data[at + 3])
        if at > end:
            return None
        options.append((data[value - 4] << 8 | data[value - 3], data[value:at]))
    return options


def _association(kind: int, data: bytes) -> _Association | None:
    head = _IA_HEAD[kind]
    options = _split(data[head:])
    if len(data) < head or options is None:
        return None
    addresses = [value for code, value in options if code == _IA_ADDRESS]
    if any(len(value) < _IA_ADDRESS_HEAD for value in addresses):
        return None
    return _Association(kind, data[:4], tuple(value[:16] for value in addresses))


def _is_valid(message: _Message, duid: bytes) -> bool:
    if message.client is not None and not 0 < len(message.client) <= _MAX_DUID:
        return False
    if message.kind == INFORMATION_REQUEST:
        # RFC 8415, 16.12
        return message.server in (None, duid) and not message.associations
    return message.client is not None and message.server == (duid if _FOR_US[message.kind] else None)


def _content(message: _Message, terms: Terms) -> tuple[int, bytes] | None:
    """Return the kind of the answer and its options, but for the identifiers. None if no answer is due."""
    kind = message.kind
    if kind in (RELEASE, DECLINE):
        return REPLY, _status(_SUCCESS)
    if kind == CONFIRM:
        return _confirmation(message, terms)
    if kind == INFORMATION_REQUEST:
        return REPLY, _asked(message, terms)
    if kind == REBIND and not terms.addresses6:
        # The addresses may be another server's.
        return None
    serves = bool(terms.addresses6) and any(ia.kind == _IA_NA for ia in message.associations)
    options = _leases(message, terms) + _asked(message, terms)
    if kind != SOLICIT:
        return REPLY, options
    if not serves:
        return ADVERTISE, options
    # RFC 8415, 18.2.1: a preference of 255 spares the client the wait for other servers.
    return (
        (REPLY, _option(_RAPID_COMMIT, b"") + options) if message.rapid else (ADVERTISE, _option(_PREFERENCE, b"\xff") + options)
    )


def _confirmation(message: _Message, terms: Terms) -> tuple[int, bytes] | None:
    """RFC 8415, 18.3.3: no answer to a message without addresses, and none if we can't judge them."""
    addresses = {address for ia in message.associations for address in ia.addresses}
    if not addresses or not terms.addresses6:
        return None
    return REPLY, _status(_SUCCESS if addresses <= set(_ours(terms)) else _NOT_ON_LINK)


def _leases(message: _Message, terms: Terms) -> bytes:
    """Answer each identity association: the first one of addresses gets all that the guest has."""
    ours = _ours(terms)
    options, first = b"", True
    for ia in message.associations:
        if ia.kind == _IA_NA:
            options += _addresses(message.kind, ia, ours if first else (), terms)
            first = False
        elif ia.kind == _IA_TA:
            options += _option(_IA_TA, ia.identifier + _status(_NO_ADDRESSES))
        else:
            options += _option(_IA_PD, ia.identifier + bytes(8) + _status(_NO_PREFIXES))
    return options


def _addresses(kind: int, ia: _Association, given: tuple[bytes, ...], terms: Terms) -> bytes:
    gone = b""
    if kind in (RENEW, REBIND):
        # RFC 8415, 18.3.4. An address of the guest's is kept alive by another association, if not by this.
        strange = dict.fromkeys(address for address in ia.addresses if address not in _ours(terms))
        gone = b"".join(_option(_IA_ADDRESS, address + bytes(8)) for address in strange)
    if kind == REQUEST and not all(_on_link(address, terms) for address in ia.addresses):
        # RFC 8415, 18.3.2
        return _option(_IA_NA, ia.identifier + bytes(8) + _status(_NOT_ON_LINK))
    if not given:
        return _option(_IA_NA, ia.identifier + bytes(8) + gone + _status(_NO_ADDRESSES))
    # All that the guest has is preferred as long as it is valid; the times to renew at are those of RFC 8415, 21.4.
    lease = min(terms.lease, _INFINITE)
    times = (lease // 2, lease * 4 // 5) if lease < _INFINITE else (_INFINITE, _INFINITE)
    lifetimes = struct.pack("!II", lease, lease)
    leased = b"".join(_option(_IA_ADDRESS, address + lifetimes) for address in given)
    return _option(_IA_NA, ia.identifier + struct.pack("!II", *times) + leased + gone)


def _ours(terms: Terms) -> tuple[bytes, ...]:
    return tuple(address.packed for address in terms.addresses6)


def _on_link(address: bytes, terms: Terms) -> bool:
    return address in _ours(terms) or any(IPv6Address(address) in prefix for prefix in terms.prefixes6)


def _asked(message: _Message, terms: Terms) -> bytes:
    """Return the options that the client asks for, in its order, as far as there is something to tell."""
    codes = [code for code in dict.fromkeys(message.asked) if code in _VALUES]
    if message.kind != INFORMATION_REQUEST and _REFRESH in codes:
        codes.remove(_REFRESH)
    return b"".join(_VALUES[code](terms) for code in codes)


def _servers(code: int, addresses: tuple[IPv6Address, ...]) -> bytes:
    return _option(code, b"".join(address.packed for address in addresses)) if addresses else b""


def _search(terms: Terms) -> bytes:
    names = packets.names(terms.search or (terms.domain,))
    return _option(_SEARCH, names) if names else b""


def _ntp(terms: Terms) -> bytes:
    """RFC 5908, 4: an option holds one server."""
    return b"".join(_option(_NTP, _option(_NTP_ADDRESS, address.packed)) for address in terms.ntp6)


def _refresh(terms: Terms) -> bytes:
    return _option(_REFRESH, struct.pack("!I", min(max(_MIN_REFRESH, terms.lease), _INFINITE)))


_VALUES: Mapping[int, Callable[[Terms], bytes]] = {
    _DNS: lambda terms: _servers(_DNS, terms.dns6),
    _SEARCH: _search,
    _SNTP: lambda terms: _servers(_SNTP, terms.ntp6),
    _REFRESH: _refresh,
    _NTP: _ntp,
}
"""What a client may ask for, encoded; b"" if there is nothing to tell."""


def _status(code: int) -> bytes:
    return _option(_STATUS, struct.pack("!H", code))


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("!HH", code, len(value)) + value
